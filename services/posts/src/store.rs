//! Posts in a database file that several processes share.
//!
//! Lives here: every SQL statement. Does not: opening the file (`weft-store`), rules about values (`post`), gRPC (`service`).
//! Each call is one statement and so one transaction.
//! The SQL is what SQLite and PostgreSQL both know, so that the second needs no second set of statements.

use std::path::Path;

use sqlx::Row;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use weft_store::{Error, Id, Micros, Migration, OpenError, Page};

use crate::post::{AuthorId, Body, Post, Title};

/// As in `migrations/`.
const MIGRATIONS: &[Migration] = &[(1, "posts", include_str!("../migrations/0001_posts.sql"))];

/// Every statement, named in one place so that a test can prepare them all.
mod sql {
    pub(super) const INSERT: &str = "INSERT INTO posts (id, author_id, title, body, create_time, update_time) \
                                     VALUES ($1, $2, $3, $4, $5, $5)";
    pub(super) const GET: &str = "SELECT id, author_id, title, body, create_time, update_time FROM posts WHERE id = $1";
    pub(super) const PAGE: &str = "SELECT id, author_id, title, body, create_time, update_time FROM posts \
                                   WHERE id > $1 ORDER BY id LIMIT $2";
    pub(super) const PAGE_BY: &str = "SELECT id, author_id, title, body, create_time, update_time FROM posts \
                                      WHERE author_id = $3 AND id > $1 ORDER BY id LIMIT $2";
    pub(super) const UPDATE: &str = "UPDATE posts SET title = COALESCE($2, title), body = COALESCE($3, body), \
                                     update_time = $4 WHERE id = $1 \
                                     RETURNING id, author_id, title, body, create_time, update_time";
    pub(super) const DELETE: &str = "DELETE FROM posts WHERE id = $1";
    #[cfg(test)]
    pub(super) const ALL: [&str; 6] = [INSERT, GET, PAGE, PAGE_BY, UPDATE, DELETE];
}

/// What an update changes; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Changes {
    pub(crate) title: Option<Title>,
    pub(crate) body: Option<Body>,
}

/// The posts; clones share connections.
#[derive(Debug, Clone)]
pub struct Store {
    pool: SqlitePool,
}

impl Store {
    /// Opens `posts.db` in `dir`, creates it if it is not there, and brings its tables up to date.
    ///
    /// # Errors
    /// The file cannot be opened, or its tables are not what this version can work with.
    pub async fn open(dir: &Path) -> Result<Self, OpenError> {
        Ok(Store { pool: weft_store::open(dir, "posts", MIGRATIONS).await? })
    }

    /// Adds a post and returns it.
    pub(crate) async fn insert(&self, author: &AuthorId, title: &Title, body: &Body) -> Result<Post, Error> {
        let (id, now) = (Id::new(), Micros::now());
        let (author, title, body) = (author.as_str(), title.as_str(), body.as_str());
        let insert = sqlx::query(sql::INSERT).bind(id.to_string()).bind(author).bind(title).bind(body).bind(now.0);
        insert.execute(&self.pool).await?;
        let (author, title, body) = (author.to_owned(), title.to_owned(), body.to_owned());
        Ok(Post { id, author, title, body, create_time: now, update_time: now })
    }

    pub(crate) async fn get(&self, id: Id) -> Result<Post, Error> {
        read(&sqlx::query(sql::GET).bind(id.to_string()).fetch_one(&self.pool).await?)
    }

    /// Returns the posts of a page by time of creation, and one more if another page follows.
    pub(crate) async fn page(&self, page: Page) -> Result<Vec<Post>, Error> {
        let rows = sqlx::query(sql::PAGE).bind(page.above()).bind(page.limit()).fetch_all(&self.pool).await?;
        rows.iter().map(read).collect()
    }

    /// The same, of one author's posts.
    pub(crate) async fn page_by(&self, author: &str, page: Page) -> Result<Vec<Post>, Error> {
        let query = sqlx::query(sql::PAGE_BY).bind(page.above()).bind(page.limit()).bind(author);
        query.fetch_all(&self.pool).await?.iter().map(read).collect()
    }

    /// Changes a post and returns it as it is now.
    pub(crate) async fn update(&self, id: Id, changes: &Changes) -> Result<Post, Error> {
        let (title, body) = (changes.title.as_ref().map(Title::as_str), changes.body.as_ref().map(Body::as_str));
        let update = sqlx::query(sql::UPDATE).bind(id.to_string()).bind(title).bind(body).bind(Micros::now().0);
        read(&update.fetch_one(&self.pool).await?)
    }

    pub(crate) async fn delete(&self, id: Id) -> Result<(), Error> {
        match sqlx::query(sql::DELETE).bind(id.to_string()).execute(&self.pool).await?.rows_affected() {
            0 => Err(Error::NotFound),
            _ => Ok(()),
        }
    }
}

fn read(row: &SqliteRow) -> Result<Post, Error> {
    Ok(Post {
        id: row.try_get("id")?,
        author: row.try_get("author_id")?,
        title: row.try_get("title")?,
        body: row.try_get("body")?,
        create_time: Micros(row.try_get("create_time")?),
        update_time: Micros(row.try_get("update_time")?),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sqlx::{Executor, SqlSafeStr};

    use super::*;

    #[tokio::test]
    async fn every_statement_can_be_prepared() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        for statement in sql::ALL {
            store.pool.prepare(statement.into_sql_str()).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
    }

    #[test]
    fn the_embedded_migrations_are_the_files() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let files: BTreeMap<String, String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|file| file.unwrap())
            .map(|file| (file.file_name().into_string().unwrap(), std::fs::read_to_string(file.path()).unwrap()))
            .collect();
        let embedded =
            MIGRATIONS.iter().map(|(version, name, text)| (format!("{version:04}_{name}.sql"), (*text).into()));
        assert_eq!(files, embedded.collect());
    }
}
