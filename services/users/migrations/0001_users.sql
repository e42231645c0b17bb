-- Users. Only what SQLite and PostgreSQL both know; times are microseconds since 1970, UTC.
CREATE TABLE users (
    id          TEXT   NOT NULL PRIMARY KEY, -- UUID version 7, lower case with hyphens: sorts by time of creation
    name        TEXT   NOT NULL,
    email       TEXT   NOT NULL,             -- as it was given
    email_key   TEXT   NOT NULL UNIQUE,      -- in lower case: one user an address, however it is written
    create_time BIGINT NOT NULL,
    update_time BIGINT NOT NULL
);
