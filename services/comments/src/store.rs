//! Comments in a database file that several processes share.
//!
//! Lives here: every SQL statement. Does not: opening the file (`weft-store`), rules about values (`comment`), gRPC (`service`).
//! Each call is one statement and so one transaction.
//! The SQL is what SQLite and PostgreSQL both know, so that the second needs no second set of statements.

use std::path::Path;

use sqlx::Row;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use weft_store::{Error, Id, Micros, Migration, OpenError, Page};

use crate::comment::{Comment, ForeignId, Text};

/// As in `migrations/`.
const MIGRATIONS: &[Migration] = &[(1, "comments", include_str!("../migrations/0001_comments.sql"))];

/// Every statement, named in one place so that a test can prepare them all.
mod sql {
    pub(super) const INSERT: &str =
        "INSERT INTO comments (id, post_id, author_id, text, create_time) VALUES ($1, $2, $3, $4, $5)";
    pub(super) const PAGE_ON: &str = "SELECT id, post_id, author_id, text, create_time FROM comments \
                                      WHERE post_id = $3 AND id > $1 ORDER BY id LIMIT $2";
    pub(super) const DELETE: &str = "DELETE FROM comments WHERE id = $1 AND post_id = $2";
    #[cfg(test)]
    pub(super) const ALL: [&str; 3] = [INSERT, PAGE_ON, DELETE];
}

/// The comments; clones share connections.
#[derive(Debug, Clone)]
pub struct Store {
    pool: SqlitePool,
}

impl Store {
    /// Opens `comments.db` in `dir`, creates it if it is not there, and brings its tables up to date.
    ///
    /// # Errors
    /// The file cannot be opened, or its tables are not what this version can work with.
    pub async fn open(dir: &Path) -> Result<Self, OpenError> {
        Ok(Store { pool: weft_store::open(dir, "comments", MIGRATIONS).await? })
    }

    /// Adds a comment and returns it.
    pub(crate) async fn insert(&self, post: &ForeignId, author: &ForeignId, text: &Text) -> Result<Comment, Error> {
        let (id, create_time) = (Id::new(), Micros::now());
        let (post, author, text) = (post.as_str(), author.as_str(), text.as_str());
        let insert = sqlx::query(sql::INSERT).bind(id.to_string()).bind(post).bind(author).bind(text);
        insert.bind(create_time.0).execute(&self.pool).await?;
        let (post, author, text) = (post.to_owned(), author.to_owned(), text.to_owned());
        Ok(Comment { id, post, author, text, create_time })
    }

    /// Returns a page of the comments on a post by time of creation, and one more if another page follows.
    pub(crate) async fn page_on(&self, post: &str, page: Page) -> Result<Vec<Comment>, Error> {
        let query = sqlx::query(sql::PAGE_ON).bind(page.above()).bind(page.limit()).bind(post);
        query.fetch_all(&self.pool).await?.iter().map(read).collect()
    }

    pub(crate) async fn delete(&self, post: &str, id: Id) -> Result<(), Error> {
        match sqlx::query(sql::DELETE).bind(id.to_string()).bind(post).execute(&self.pool).await?.rows_affected() {
            0 => Err(Error::NotFound),
            _ => Ok(()),
        }
    }
}

fn read(row: &SqliteRow) -> Result<Comment, Error> {
    Ok(Comment {
        id: row.try_get("id")?,
        post: row.try_get("post_id")?,
        author: row.try_get("author_id")?,
        text: row.try_get("text")?,
        create_time: Micros(row.try_get("create_time")?),
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
