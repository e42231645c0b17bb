//! A database file that several processes share, opened with its tables up to date.
//!
//! Lives here: how the file is opened, who migrates. Does not: what is in it.
//! With the write-ahead log readers never wait and writers wait for one another (at most 5 s); what was answered is what every instance
//! reads next. SQLite's default durability stays on.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};
use tokio::time::{Instant, sleep};

/// How long a statement waits for another process's write, and a call for a free connection.
const BUSY: Duration = Duration::from_secs(5);
/// How long a start waits for another instance that migrates.
const MIGRATION_LIMIT: Duration = Duration::from_secs(60);
/// Connections a process; each is a thread of SQLite's.
const CONNECTIONS: u32 = 4;

/// Version, name and text of a migration, which is `migrations/<version, four digits>_<name>.sql` of its service.
pub type Migration = (i64, &'static str, &'static str);

/// Why a database cannot be used. The path says which.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The right to migrate was not to be had: the directory is not writable, or another process held it for a minute.
    #[error("waiting for {path}")]
    Alone {
        /// The lock file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file cannot be opened, or is no database.
    #[error("opening {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: sqlx::Error,
    },
    /// The tables are not what this version can work with.
    #[error("migrating {path}")]
    Migrate {
        /// The file.
        path: PathBuf,
        /// What was in the way.
        source: MigrateError,
    },
}

/// Opens `<name>.db` in `dir`, creates it if it is not there, and brings its tables up to date. Processes that start together wait for
/// one another, for at most a minute.
///
/// # Errors
/// The file cannot be opened, or its tables are not what this version can work with.
pub async fn open(dir: &Path, name: &str, migrations: &'static [Migration]) -> Result<SqlitePool, OpenError> {
    // Also around the first connection: the switch to the write-ahead log wants the file for itself.
    let alone = Alone::wait(dir.join(format!("{name}.db.lock"))).await?;
    let path = dir.join(format!("{name}.db"));
    let pool = match connect(&path).await {
        Ok(pool) => pool,
        Err(source) => return Err(OpenError::Open { path, source }),
    };
    migrator(migrations).run(&pool).await.map_err(|source| OpenError::Migrate { path, source })?;
    drop(alone);
    Ok(pool)
}

async fn connect(path: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(BUSY);
    SqlitePoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(BUSY).connect_with(options).await
}

fn migrator(migrations: &'static [Migration]) -> Migrator {
    let migrations = migrations.iter().map(|(version, name, text)| {
        let text = text.into_sql_str();
        sqlx::migrate::Migration::new(*version, (*name).into(), MigrationType::Simple, text, false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    // While instances are replaced one by one, an older one may start again beside the tables of a newer one.
    migrator.set_ignore_missing(true);
    migrator
}

/// The right to migrate, among the processes of this machine; the system takes it back from one that dies. SQLite's own locks do
/// not serve: sqlx reads what was applied outside of the transaction that applies, so two would apply the same.
struct Alone {
    _held: File,
}

impl Alone {
    async fn wait(path: PathBuf) -> Result<Self, OpenError> {
        let file = match File::options().create(true).truncate(false).write(true).open(&path) {
            Ok(file) => file,
            Err(source) => return Err(OpenError::Alone { path, source }),
        };
        let deadline = Instant::now() + MIGRATION_LIMIT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Alone { _held: file }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(Duration::from_millis(20)).await,
                Err(error) => return Err(OpenError::Alone { path, source: error.into() }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Row;

    use super::*;
    use crate::Error;

    const TABLES: &[Migration] = &[(1, "things", "CREATE TABLE things (id TEXT NOT NULL PRIMARY KEY);")];

    async fn add(pool: &SqlitePool, id: &str) -> Result<(), Error> {
        sqlx::query("INSERT INTO things (id) VALUES ($1)").bind(id).execute(pool).await?;
        Ok(())
    }

    async fn count(pool: &SqlitePool) -> i64 {
        sqlx::query("SELECT COUNT(*) FROM things").fetch_one(pool).await.unwrap().get(0)
    }

    #[tokio::test]
    async fn a_second_start_finds_everything_done() {
        let dir = tempfile::tempdir().unwrap();
        add(&open(dir.path(), "things", TABLES).await.unwrap(), "a").await.unwrap();
        let again = open(dir.path(), "things", TABLES).await.unwrap();
        assert_eq!(count(&again).await, 1);
        let mode: String = sqlx::query("PRAGMA journal_mode").fetch_one(&again).await.unwrap().get(0);
        assert_eq!(mode, "wal");
    }

    #[tokio::test]
    async fn an_older_version_starts_beside_newer_tables() {
        const NEWER: &[Migration] = &[TABLES[0], (2, "more", "CREATE TABLE more (id TEXT NOT NULL PRIMARY KEY);")];
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), "things", NEWER).await.unwrap();
        open(dir.path(), "things", TABLES).await.unwrap();
    }

    #[tokio::test]
    async fn a_migration_that_was_changed_after_it_ran_is_refused() {
        const CHANGED: &[Migration] = &[(1, "things", "CREATE TABLE things (id TEXT NOT NULL);")];
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), "things", TABLES).await.unwrap();
        assert!(matches!(open(dir.path(), "things", CHANGED).await, Err(OpenError::Migrate { .. })));
    }

    #[tokio::test]
    async fn a_writer_that_holds_the_file_for_too_long_makes_it_busy() {
        let dir = tempfile::tempdir().unwrap();
        let pool = open(dir.path(), "things", TABLES).await.unwrap();
        let options = SqliteConnectOptions::new().filename(dir.path().join("things.db")).busy_timeout(Duration::ZERO);
        let impatient = SqlitePool::connect_lazy_with(options);
        let _writing = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
        assert!(matches!(add(&impatient, "a").await, Err(Error::Busy(_))));
        assert_eq!(count(&impatient).await, 0, "readers do not wait");
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_and_a_directory_that_is_not_there_are_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("things.db"), "no database, but long enough to look like one".repeat(99))
            .unwrap();
        let error = open(dir.path(), "things", TABLES).await.unwrap_err();
        assert!(matches!(&error, OpenError::Open { path, .. } if path.ends_with("things.db")), "{error:?}");
        let error = open(&dir.path().join("nowhere"), "things", TABLES).await.unwrap_err();
        assert!(matches!(error, OpenError::Alone { .. }), "{error:?}");
    }
}
