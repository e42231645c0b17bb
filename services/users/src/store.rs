//! Users in a database file that several processes share.
//!
//! Lives here: opening with migrations, every SQL statement. Does not: rules about values (`user`), gRPC (`service`).
//! Each call is one statement and so one transaction: with the write-ahead log readers never wait, writers wait for one another (at
//! most 5 s), and what was answered is what every instance reads next. SQLite's default durability stays on.
//! The SQL is what SQLite and PostgreSQL both know, so that the second needs no second set of statements.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{Row, SqlSafeStr};
use tokio::time::{Instant, sleep};

use crate::user::{Email, Id, Micros, Name, User};

/// How long a statement waits for another process's write, and a call for a free connection.
const BUSY: Duration = Duration::from_secs(5);
/// How long a start waits for another instance that migrates.
const MIGRATION_LIMIT: Duration = Duration::from_secs(60);
/// Connections a process; each is a thread of SQLite's.
const CONNECTIONS: u32 = 4;

/// Version and text of each migration, as in `migrations/`.
const MIGRATIONS: [(i64, &str, &str); 1] = [(1, "users", include_str!("../migrations/0001_users.sql"))];

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
    /// No user has this id.
    #[error("no such user")]
    NotFound,
    /// Another user has this e-mail address.
    #[error("another user has this e-mail address")]
    EmailTaken,
    /// Others kept the database busy for too long; the same call may succeed later.
    #[error("the database is busy")]
    Busy(#[source] sqlx::Error),
    /// The database failed; the caller can do nothing about it.
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::RowNotFound => Error::NotFound,
            // The id is ours and new, so the address is what is taken.
            sqlx::Error::Database(it) if it.is_unique_violation() => Error::EmailTaken,
            sqlx::Error::Database(it) if it.code().is_some_and(|code| is_busy(&code)) => Error::Busy(error),
            sqlx::Error::PoolTimedOut => Error::Busy(error),
            _ => Error::Database(error),
        }
    }
}

/// SQLITE_BUSY is 5; its extended codes carry it in the low byte. Source: sqlite.org/rescode.html.
fn is_busy(code: &str) -> bool {
    code.parse::<u32>().is_ok_and(|code| code & 0xff == 5)
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
    /// Opens `users.db` in `dir`, creates it if it is not there, and brings its tables up to date. Instances that start together
    /// wait for one another, for at most a minute.
    ///
    /// # Errors
    /// The file cannot be opened, or its tables are not what this version can work with.
    pub async fn open(dir: &Path) -> anyhow::Result<Self> {
        // Also around the first connection: the switch to the write-ahead log wants the file for itself.
        let alone = Alone::wait(&dir.join("users.db.lock")).await?;
        let path = dir.join("users.db");
        let pool = connect(&path).await.with_context(|| format!("opening {}", path.display()))?;
        migrator().run(&pool).await.with_context(|| format!("migrating {}", path.display()))?;
        drop(alone);
        Ok(Store { pool })
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

    /// Returns up to `limit` users by time of creation, from the first after `after`.
    pub(crate) async fn page(&self, after: Option<Id>, limit: u32) -> Result<Vec<User>, Error> {
        let after = after.map(|id| id.to_string()).unwrap_or_default(); // sorts before every id
        let rows = sqlx::query(sql::PAGE).bind(after).bind(i64::from(limit)).fetch_all(&self.pool).await?;
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
            0 => Err(Error::NotFound),
            _ => Ok(()),
        }
    }
}

async fn connect(path: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(BUSY);
    SqlitePoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(BUSY).connect_with(options).await
}

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.map(|(version, name, text)| {
        Migration::new(version, name.into(), MigrationType::Simple, text.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(migrations.into());
    // While instances are replaced one by one, an older one may start again beside the tables of a newer one.
    migrator.set_ignore_missing(true);
    migrator
}

fn read(row: &SqliteRow) -> Result<User, Error> {
    let id: &str = row.try_get("id")?;
    let id = Id::parse(id).ok_or_else(|| Error::Database(sqlx::Error::Decode(format!("{id:?} is no id").into())))?;
    let (create_time, update_time) = (Micros(row.try_get("create_time")?), Micros(row.try_get("update_time")?));
    Ok(User { id, name: row.try_get("name")?, email: row.try_get("email")?, create_time, update_time })
}

/// The right to migrate, among the processes of this machine; the system takes it back from one that dies. SQLite's own locks do
/// not serve: sqlx reads what was applied outside of the transaction that applies, so two would apply the same.
struct Alone {
    _held: File,
}

impl Alone {
    async fn wait(path: &Path) -> anyhow::Result<Self> {
        let open = File::options().create(true).truncate(false).write(true).open(path);
        let file = open.with_context(|| format!("opening {}", path.display()))?;
        let deadline = Instant::now() + MIGRATION_LIMIT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Alone { _held: file }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(Duration::from_millis(20)).await,
                Err(error) => return Err(error).with_context(|| format!("waiting for {}", path.display())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sqlx::Executor;

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
        let embedded = MIGRATIONS.map(|(version, name, text)| (format!("{version:04}_{name}.sql"), text.to_owned()));
        assert_eq!(files, BTreeMap::from(embedded));
        assert_eq!(migrator().iter().count(), files.len());
    }

    #[tokio::test]
    async fn a_second_start_finds_everything_done() {
        let dir = tempfile::tempdir().unwrap();
        let (name, email) = (Name::parse("Ada").unwrap(), Email::parse("ada@example.com").unwrap());
        let user = Store::open(dir.path()).await.unwrap().insert(&name, &email).await.unwrap();
        let again = Store::open(dir.path()).await.unwrap();
        assert_eq!(again.get(user.id).await.unwrap(), user);
        let mode: String = sqlx::query("PRAGMA journal_mode").fetch_one(&again.pool).await.unwrap().get(0);
        assert_eq!(mode, "wal");
    }

    #[tokio::test]
    async fn an_older_version_starts_beside_newer_tables() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                     VALUES (999, 'newer', TRUE, x'00', 0)";
        sqlx::query(newer).execute(&store.pool).await.unwrap();
        Store::open(dir.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_writer_that_holds_the_file_for_too_long_makes_it_busy() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let options = SqliteConnectOptions::new().filename(dir.path().join("users.db")).busy_timeout(Duration::ZERO);
        let impatient = Store { pool: SqlitePool::connect_lazy_with(options) };
        let _writing = store.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
        let (name, email) = (Name::parse("Ada").unwrap(), Email::parse("ada@example.com").unwrap());
        assert!(matches!(impatient.insert(&name, &email).await, Err(Error::Busy(_))));
        assert!(matches!(impatient.get(Id::new()).await, Err(Error::NotFound)), "readers do not wait");
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("users.db"), "no database at all, but long enough to look like one".repeat(99))
            .unwrap();
        let error = format!("{:#}", Store::open(dir.path()).await.unwrap_err());
        assert!(error.contains("users.db"), "{error}");
    }
}
