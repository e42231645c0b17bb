-- Comments. Only what SQLite and PostgreSQL both know; times are microseconds since 1970, UTC.
CREATE TABLE comments (
    id          TEXT   NOT NULL PRIMARY KEY, -- UUID version 7, lower case with hyphens: sorts by time of creation
    post_id     TEXT   NOT NULL,             -- an id of posts, which may be gone by now
    author_id   TEXT   NOT NULL,             -- an id of users, who may be gone by now
    text        TEXT   NOT NULL,
    create_time BIGINT NOT NULL
);
CREATE INDEX comments_by_post ON comments (post_id, id);
