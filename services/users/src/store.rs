//! Users in a database that all instances share.
//!
//! Lives here: every SQL statement. Does not: opening the database (`weft-store`), rules about values (`user`), gRPC (`service`).
//! Each call is one statement: it is done whole, or not at all.
//! The SQL is what SQLite and PostgreSQL both know, so that the second needs no second set of statements.

use sqlx::any::AnyRow;
use sqlx::{FromRow, Row, query, query_as};
use weft_store::{Database, Error, Id, Micros, OpenError, Page, Place, Tables};

use crate::user::{Email, Name, User};

const TABLES: Tables =
    Tables { name: "users", migrations: &[(1, "users", include_str!("../migrations/0001_users.sql"))] };

/// Every statement, named in one place so that a test can prepare them all.
mod sql {
    pub(super) const INSERT: &str = "INSERT INTO users (id, name, email, email_key, create_time, update_time) \
                                     VALUES ($1, $2, $3, $4, $5, $5)";
    pub(super) const GET: &str = "SELECT id, name, email, create_time, update_time FROM users WHERE id = $1";
    pub(super) const PAGE: &str = "SELECT id, name, email, create_time, update_time FROM users \
                                   WHERE id > $1 ORDER BY id LIMIT $2";
    pub(super) const UPDATE: &str = "UPDATE users SET name = COALESCE($2, name), email = COALESCE($3, email), \
                                     email_key = COALESCE($4, email_key), update_time = $5 \
                                     WHERE id = $1 RETURNING id, name, email, create_time, update_time";
    pub(super) const DELETE: &str = "DELETE FROM users WHERE id = $1";
    #[cfg(test)]
    pub(super) const ALL: [&str; 5] = [INSERT, GET, PAGE, UPDATE, DELETE];
}

/// What an update changes; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Changes {
    pub(crate) name: Option<Name>,
    pub(crate) email: Option<Email>,
}

/// The users; clones share connections.
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

    /// Adds a user and returns it; [`Error::Taken`] if another one has the address.
    pub(crate) async fn insert(&self, name: &Name, email: &Email) -> Result<User, Error> {
        let (id, now) = (Id::new(), Micros::now());
        let insert = query(sql::INSERT).bind(id).bind(name.as_str()).bind(email.as_str()).bind(email.key()).bind(now);
        self.database.write(insert).await?;
        let (name, email) = (name.as_str().to_owned(), email.as_str().to_owned());
        Ok(User { id, name, email, create_time: now, update_time: now })
    }

    pub(crate) async fn get(&self, id: Id) -> Result<User, Error> {
        self.database.one(query_as(sql::GET).bind(id)).await
    }

    /// Returns the users of a page by time of creation, and one more if another page follows.
    pub(crate) async fn page(&self, page: Page) -> Result<Vec<User>, Error> {
        self.database.all(page.of(sql::PAGE)).await
    }

    /// Changes a user and returns it as it is now; [`Error::Taken`] if another one has the address.
    pub(crate) async fn update(&self, id: Id, changes: &Changes) -> Result<User, Error> {
        let (name, email) = (changes.name.as_ref().map(Name::as_str), changes.email.as_ref());
        let update = query_as(sql::UPDATE).bind(id).bind(name).bind(email.map(Email::as_str));
        self.database.write_one(update.bind(email.map(Email::key)).bind(Micros::now())).await
    }

    pub(crate) async fn delete(&self, id: Id) -> Result<(), Error> {
        self.database.write(query(sql::DELETE).bind(id)).await
    }
}

impl FromRow<'_, AnyRow> for User {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(User {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            email: row.try_get("email")?,
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
