//! Comments in a database that all instances share.
//!
//! Lives here: every SQL statement. Does not: opening the database (`weft-store`), rules about values (`comment`), gRPC (`service`).
//! Each call is one statement: it is done whole, or not at all.
//! The SQL is what SQLite and PostgreSQL both know, so that the second needs no second set of statements.

use sqlx::any::AnyRow;
use sqlx::{FromRow, Row, query};
use weft_store::{Database, Error, Id, Micros, OpenError, Page, Place, Tables};

use crate::comment::{Comment, ForeignId, Text};

const TABLES: Tables =
    Tables { name: "comments", migrations: &[(1, "comments", include_str!("../migrations/0001_comments.sql"))] };

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
    pub(crate) database: Database,
}

impl Store {
    /// Opens the database and brings its tables up to date.
    ///
    /// # Errors
    /// The database cannot be opened, or its tables are not what this version can work with.
    pub async fn open(place: &Place) -> Result<Self, OpenError> {
        Ok(Store { database: Database::open(place, &TABLES).await? })
    }

    /// Adds a comment and returns it.
    pub(crate) async fn insert(&self, post: &ForeignId, author: &ForeignId, text: &Text) -> Result<Comment, Error> {
        let (id, create_time) = (Id::new(), Micros::now());
        let (post, author, text) = (post.as_str(), author.as_str(), text.as_str());
        self.database.write(query(sql::INSERT).bind(id).bind(post).bind(author).bind(text).bind(create_time)).await?;
        let (post, author, text) = (post.to_owned(), author.to_owned(), text.to_owned());
        Ok(Comment { id, post, author, text, create_time })
    }

    /// Returns a page of the comments on a post by time of creation, and one more if another page follows.
    pub(crate) async fn page_on(&self, post: &str, page: Page) -> Result<Vec<Comment>, Error> {
        self.database.all(page.of(sql::PAGE_ON).bind(post)).await
    }

    pub(crate) async fn delete(&self, post: &str, id: Id) -> Result<(), Error> {
        self.database.write(query(sql::DELETE).bind(id).bind(post)).await
    }
}

impl FromRow<'_, AnyRow> for Comment {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Comment {
            id: row.try_get("id")?,
            post: row.try_get("post_id")?,
            author: row.try_get("author_id")?,
            text: row.try_get("text")?,
            create_time: row.try_get("create_time")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_embedded_migrations_are_the_files() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let files: BTreeMap<String, String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|file| file.unwrap())
            .map(|file| (file.file_name().into_string().unwrap(), std::fs::read_to_string(file.path()).unwrap()))
            .collect();
        let embedded =
            TABLES.migrations.iter().map(|(version, name, text)| (format!("{version:04}_{name}.sql"), (*text).into()));
        assert_eq!(files, embedded.collect());
    }

    mod each_statement {
        use weft_testkit::database::Rows;

        use super::*;

        async fn can_be_prepared(rows: Rows) {
            let store = Store::open(&place(&rows)).await.unwrap();
            for statement in sql::ALL {
                store.database.check(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
            }
        }

        fn place(rows: &Rows) -> weft_store::Place {
            weft_store::Place::named(rows.dir(), rows.url()).unwrap()
        }

        weft_testkit::on_each_engine!(can_be_prepared);
    }
}
