//! Users in a database file that several processes share.
//!
//! Lives here: every SQL statement. Does not: opening the file (`weft-store`), rules about values (`user`), gRPC (`service`).
//! Each call is one statement and so one transaction.
//! The SQL is what SQLite and PostgreSQL both know, so that the second needs no second set of statements.

use std::path::Path;

use sqlx::Row;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use weft_store::{Id, Micros, Migration, OpenError, Page};

use crate::user::{Email, Name, User};

/// As in `migrations/`.
const MIGRATIONS: &[Migration] = &[(1, "users", include_str!("../migrations/0001_users.sql"))];

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

/// Why a call on the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Another user has this e-mail address.
    #[error("another user has this e-mail address")]
    EmailTaken,
    /// Whatever may happen to any row.
    #[error(transparent)]
    Store(#[from] weft_store::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            // The id is ours and new, so the address is what is taken.
            sqlx::Error::Database(it) if it.is_unique_violation() => Error::EmailTaken,
            _ => Error::Store(error.into()),
        }
    }
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
    pool: SqlitePool,
}

impl Store {
    /// Opens `users.db` in `dir`, creates it if it is not there, and brings its tables up to date.
    ///
    /// # Errors
    /// The file cannot be opened, or its tables are not what this version can work with.
    pub async fn open(dir: &Path) -> Result<Self, OpenError> {
        Ok(Store { pool: weft_store::open(dir, "users", MIGRATIONS).await? })
    }

    /// Adds a user and returns it.
    pub(crate) async fn insert(&self, name: &Name, email: &Email) -> Result<User, Error> {
        let (id, now) = (Id::new(), Micros::now());
        let insert = sqlx::query(sql::INSERT).bind(id.to_string()).bind(name.as_str());
        insert.bind(email.as_str()).bind(email.key()).bind(now.0).execute(&self.pool).await?;
        let (name, email) = (name.as_str().to_owned(), email.as_str().to_owned());
        Ok(User { id, name, email, create_time: now, update_time: now })
    }

    pub(crate) async fn get(&self, id: Id) -> Result<User, Error> {
        read(&sqlx::query(sql::GET).bind(id.to_string()).fetch_one(&self.pool).await?)
    }

    /// Returns the users of a page by time of creation, and one more if another page follows.
    pub(crate) async fn page(&self, page: Page) -> Result<Vec<User>, Error> {
        let rows = sqlx::query(sql::PAGE).bind(page.above()).bind(page.limit()).fetch_all(&self.pool).await?;
        rows.iter().map(read).collect()
    }

    /// Changes a user and returns it as it is now.
    pub(crate) async fn update(&self, id: Id, changes: &Changes) -> Result<User, Error> {
        let (name, email) = (changes.name.as_ref().map(Name::as_str), changes.email.as_ref());
        let update = sqlx::query(sql::UPDATE).bind(id.to_string()).bind(name);
        let update = update.bind(email.map(Email::as_str)).bind(email.map(Email::key)).bind(Micros::now().0);
        read(&update.fetch_one(&self.pool).await?)
    }

    pub(crate) async fn delete(&self, id: Id) -> Result<(), Error> {
        match sqlx::query(sql::DELETE).bind(id.to_string()).execute(&self.pool).await?.rows_affected() {
            0 => Err(weft_store::Error::NotFound.into()),
            _ => Ok(()),
        }
    }
}

fn read(row: &SqliteRow) -> Result<User, Error> {
    Ok(User {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        email: row.try_get("email")?,
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
