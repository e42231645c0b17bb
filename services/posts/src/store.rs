//! Posts in a database that all instances share.
//!
//! Lives here: every SQL statement. Does not: opening the database (`weft-store`), rules about values (`post`), gRPC (`service`).
//! Each call is one statement: it is done whole, or not at all.
//! The SQL is what SQLite and PostgreSQL both know, so that the second needs no second set of statements.

use sqlx::any::AnyRow;
use sqlx::{FromRow, Row, query, query_as};
use weft_store::{Database, Error, Id, Micros, OpenError, Page, Place, Tables};

use crate::post::{AuthorId, Body, Post, Title};

const TABLES: Tables =
    Tables { name: "posts", migrations: &[(1, "posts", include_str!("../migrations/0001_posts.sql"))] };

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
    database: Database,
}

impl Store {
    /// Opens the database and brings its tables up to date.
    ///
    /// # Errors
    /// The database cannot be opened, or its tables are not what this version can work with.
    pub async fn open(place: &Place) -> Result<Self, OpenError> {
        Ok(Store { database: Database::open(place, &TABLES).await? })
    }

    /// Returns the database, which the services that stand on it attend.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Adds a post and returns it.
    pub(crate) async fn insert(&self, author: &AuthorId, title: &Title, body: &Body) -> Result<Post, Error> {
        let (id, now) = (Id::new(), Micros::now());
        let (author, title, body) = (author.as_str(), title.as_str(), body.as_str());
        self.database.write(query(sql::INSERT).bind(id).bind(author).bind(title).bind(body).bind(now)).await?;
        let (author, title, body) = (author.to_owned(), title.to_owned(), body.to_owned());
        Ok(Post { id, author, title, body, create_time: now, update_time: now })
    }

    pub(crate) async fn get(&self, id: Id) -> Result<Post, Error> {
        self.database.one(query_as(sql::GET).bind(id)).await
    }

    /// Returns the posts of a page by time of creation, and one more if another page follows.
    pub(crate) async fn page(&self, page: Page) -> Result<Vec<Post>, Error> {
        self.database.all(page.of(sql::PAGE)).await
    }

    /// The same, of one author's posts.
    pub(crate) async fn page_by(&self, author: &str, page: Page) -> Result<Vec<Post>, Error> {
        self.database.all(page.of(sql::PAGE_BY).bind(author)).await
    }

    /// Changes a post and returns it as it is now.
    pub(crate) async fn update(&self, id: Id, changes: &Changes) -> Result<Post, Error> {
        let (title, body) = (changes.title.as_ref().map(Title::as_str), changes.body.as_ref().map(Body::as_str));
        self.database.write_one(query_as(sql::UPDATE).bind(id).bind(title).bind(body).bind(Micros::now())).await
    }

    pub(crate) async fn delete(&self, id: Id) -> Result<(), Error> {
        self.database.write(query(sql::DELETE).bind(id)).await
    }
}

impl FromRow<'_, AnyRow> for Post {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Post {
            id: row.try_get("id")?,
            author: row.try_get("author_id")?,
            title: row.try_get("title")?,
            body: row.try_get("body")?,
            create_time: row.try_get("create_time")?,
            update_time: row.try_get("update_time")?,
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
