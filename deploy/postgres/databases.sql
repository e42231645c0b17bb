-- Own databases: no service can read another's tables.
CREATE DATABASE users;
CREATE DATABASE posts;
CREATE DATABASE comments;
