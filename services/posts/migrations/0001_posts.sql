-- Posts. Only what SQLite and PostgreSQL both know; times are microseconds since 1970, UTC.
CREATE TABLE posts (
    id          TEXT   NOT NULL PRIMARY KEY, -- UUID version 7, lower case with hyphens: sorts by time of creation
    author_id   TEXT   NOT NULL,             -- an id of users, who may be gone by now
    title       TEXT   NOT NULL,
    body        TEXT   NOT NULL,
    create_time BIGINT NOT NULL,
    update_time BIGINT NOT NULL
);
CREATE INDEX posts_by_author ON posts (author_id, id);
