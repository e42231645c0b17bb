//! A PostgreSQL database, which may come after the process and go away under it.
//!
//! Lives here: the pool, who migrates, and whether the server is there. Does not: statements (`database`).
//! ```text
//! away ──connected, migrated──► there ──no answer to a ping──► away      asked again after 0.2 s, then ever later, up to every 2 s
//! ```
//! Migrating has a connection of its own, since the server's lock on it belongs to the connection: it ends with it, whatever happens.

use std::io;
use std::time::Duration;

use sqlx::any::AnyPoolOptions;
use sqlx::{AnyConnection, AnyPool, ConnectOptions, Connection};
use tokio::time::{sleep, timeout};
use weft::Readiness;

use crate::database::Tables;
use crate::error::OpenError;
use crate::place::Server;

/// Connections a process; PostgreSQL's default allows 100 in all.
const CONNECTIONS: u32 = 8;
/// How long a call waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(5);
/// How long opening a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a start waits for another instance that migrates.
const MIGRATION_LIMIT: Duration = Duration::from_secs(60);
/// Time between two pings, and how long one may take.
const PING_EVERY: Duration = Duration::from_millis(500);
const PING: Duration = Duration::from_secs(2);
/// Pause between two attempts to connect: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// Connects when first used.
pub(crate) fn pool(server: &Server) -> AnyPool {
    let pool = AnyPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(ACQUIRE);
    pool.connect_lazy_with(server.options.clone())
}

/// Knows whether the server is there, and brings the tables up to date when it comes.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    server: Server,
    tables: Tables,
    there: Readiness,
}

impl Keeper {
    pub(crate) fn new(server: Server, tables: Tables) -> Self {
        let there = Readiness::starting(&format!("{server} was not asked yet"));
        Keeper { server, tables, there }
    }

    pub(crate) fn there(&self) -> &Readiness {
        &self.there
    }

    /// Connects and migrates, if the server is there.
    ///
    /// # Errors
    /// The tables are not what this version can work with.
    pub(crate) async fn try_once(&self) -> Result<(), OpenError> {
        match self.connect().await {
            Ok(connection) => {
                drop(connection.close().await); // it has done its work
                self.there.ready();
                Ok(())
            }
            Err(OpenError::Open { source, .. }) => {
                self.away(&source);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps asking, for as long as it is polled.
    ///
    /// # Errors
    /// The tables are not what this version can work with.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut pause = PAUSE.0;
        loop {
            match self.connect().await {
                Ok(connection) => {
                    pause = PAUSE.0;
                    self.there.ready();
                    self.away(&pinged(connection).await);
                }
                Err(OpenError::Open { source, .. }) => self.away(&source),
                Err(error) => return Err(error.into()),
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    fn away(&self, cause: &sqlx::Error) {
        self.there.not_ready(format!("{} cannot be reached: {}", self.server, in_words(cause)));
    }

    /// Returns a connection to a database whose tables are up to date.
    async fn connect(&self) -> Result<AnyConnection, OpenError> {
        let open = |source| OpenError::Open { place: self.server.to_string(), source };
        let connected = timeout(CONNECT, self.server.options.connect()).await;
        let mut connection = connected.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(open)?;
        let mut migrator = self.tables.migrator();
        // Services may share a database, as long as their tables have other names.
        migrator.dangerous_set_table_name(format!("_{}_migrations", self.tables.name));
        match timeout(MIGRATION_LIMIT, migrator.run_direct(None, &mut connection, false)).await {
            Ok(Ok(())) => Ok(connection),
            Ok(Err(sqlx::migrate::MigrateError::Execute(source))) if is_away(&source) => Err(open(source)),
            Ok(Err(source)) => Err(OpenError::Migrate { place: self.server.to_string(), source }),
            Err(_) => Err(open(sqlx::Error::PoolTimedOut)),
        }
    }
}

/// Whether the server went away, so that the same again may succeed.
pub(crate) fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => true,
        // SQLSTATE class 57P: the server shuts down, crashed, or is starting.
        sqlx::Error::Database(it) => it.code().is_some_and(|code| code.starts_with("57P")),
        _ => false,
    }
}

/// Pings until there is no answer; returns why.
async fn pinged(mut connection: AnyConnection) -> sqlx::Error {
    loop {
        sleep(PING_EVERY).await;
        match timeout(PING, connection.ping()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(_) => return sqlx::Error::PoolTimedOut,
        }
    }
}

/// What an operator is told. The driver has no error of its own for a server that does not answer.
fn in_words(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::PoolTimedOut => "no answer in time".to_owned(),
        sqlx::Error::Io(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
        sqlx::Error::Io(cause) => cause.to_string(),
        other => other.to_string(),
    }
}
