//! A database file that the processes of one machine share.
//!
//! Lives here: how the file is opened, and who migrates. Does not: statements (`database`), how writers wait for one another (`writer`).
//! With the write-ahead log readers never wait. SQLite's default durability stays on.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{AnyPool, ConnectOptions, Connection};
use tokio::time::{Instant, sleep};

use crate::database::Tables;
use crate::error::OpenError;
use crate::writer::Writer;

/// How long a read waits for a free connection, and a transaction for those of other processes.
const BUSY: Duration = Duration::from_secs(10);
/// How long a start waits for another instance that migrates.
const MIGRATION_LIMIT: Duration = Duration::from_secs(60);
/// Connections of a process that read; each is a thread of SQLite's.
const CONNECTIONS: u32 = 4;

/// Opens `<name>.db` in `dir`, creates it if it is not there, and brings its tables up to date.
pub(crate) async fn open(dir: &Path, tables: &Tables) -> Result<(AnyPool, Writer), OpenError> {
    // Also around the first connection: the switch to the write-ahead log wants the file for itself.
    let alone = Alone::wait(dir.join(format!("{}.db.lock", tables.name))).await?;
    let path = dir.join(format!("{}.db", tables.name));
    let failed = |source| OpenError::Open { place: path.display().to_string(), source };
    let options = set_up(&path).await.map_err(failed)?;
    let pool = pool(options.clone()).await.map_err(failed)?;
    let migrated = tables.migrator().run(&pool).await;
    migrated.map_err(|source| OpenError::Migrate { place: path.display().to_string(), source })?;
    drop(alone);
    Ok((pool, Writer::start(options, BUSY).await.map_err(failed)?))
}

/// Makes the file if it is not there and switches it to the write-ahead log, which it remembers. Returns how to open it from then on.
async fn set_up(path: &Path) -> Result<AnyConnectOptions, sqlx::Error> {
    // A URL resolves dots and stands for an absolute path only.
    let path = match path.parent().map(Path::canonicalize).transpose().map_err(sqlx::Error::Io)? {
        Some(dir) => dir.join(path.file_name().unwrap_or_default()),
        None => path.to_owned(),
    };
    let options = SqliteConnectOptions::new().filename(&path).journal_mode(SqliteJournalMode::Wal);
    options.create_if_missing(true).connect().await?.close().await?;
    let path = path.to_str().ok_or_else(|| sqlx::Error::Configuration("the path is not UTF-8".into()))?;
    let path = percent_encoding::utf8_percent_encode(path, percent_encoding::NON_ALPHANUMERIC).to_string();
    format!("sqlite://{}?mode=rw", path.replace("%2F", "/")).parse()
}

async fn pool(options: AnyConnectOptions) -> Result<AnyPool, sqlx::Error> {
    AnyPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(BUSY).connect_with(options).await
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
    use sqlx::sqlite::SqlitePool;

    use super::*;
    use crate::{Database, Error, Migration, Place};

    const TABLES: &[Migration] = &[(1, "things", "CREATE TABLE things (id TEXT NOT NULL PRIMARY KEY);")];

    async fn open(dir: &Path, migrations: &'static [Migration]) -> Result<Database, OpenError> {
        Database::open(&Place::Directory(dir.to_owned()), &Tables { name: "things", migrations }).await
    }

    async fn add(database: &Database, id: &str) -> Result<(), Error> {
        database.write(sqlx::query("INSERT INTO things (id) VALUES ($1)").bind(id.to_owned())).await
    }

    async fn count(database: &Database) -> i64 {
        database.one::<(i64,)>(sqlx::query_as("SELECT COUNT(*) FROM things")).await.unwrap().0
    }

    #[tokio::test]
    async fn the_file_has_a_write_ahead_log() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), TABLES).await.unwrap();
        let file = SqlitePool::connect_lazy_with(SqliteConnectOptions::new().filename(dir.path().join("things.db")));
        let mode: String = sqlx::query("PRAGMA journal_mode").fetch_one(&file).await.unwrap().get(0);
        assert_eq!(mode, "wal");
    }

    #[tokio::test]
    async fn a_directory_may_have_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("50% off? #1 ä");
        std::fs::create_dir(&odd).unwrap();
        add(&open(&odd.join("..").join("50% off? #1 ä"), TABLES).await.unwrap(), "a").await.unwrap();
        assert!(odd.join("things.db").is_file());
        assert_eq!(count(&open(&odd, TABLES).await.unwrap()).await, 1);
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_and_a_directory_that_is_not_there_are_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("things.db"), "no database, but long enough to look like one".repeat(99))
            .unwrap();
        let error = open(dir.path(), TABLES).await.unwrap_err();
        assert!(matches!(&error, OpenError::Open { place, .. } if place.ends_with("things.db")), "{error:?}");
        let error = open(&dir.path().join("nowhere"), TABLES).await.unwrap_err();
        assert!(matches!(error, OpenError::Alone { .. }), "{error:?}");
    }
}
