//! Why a call on rows did not do what was asked, and what a caller of the service is told.
//!
//! Lives here: what every service tells apart. Does not: rules of one table (its service's own error holds this one).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use sqlx::migrate::MigrateError;
use tonic::Status;

use crate::postgres::is_away;

/// Why a database cannot be used, and which.
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
    /// It cannot be opened: no such server, no right to use it, or no database at all.
    #[error("opening {place}")]
    Open {
        /// The file or the server.
        place: String,
        /// What the driver says.
        source: sqlx::Error,
    },
    /// The tables are not what this version can work with.
    #[error("migrating {place}")]
    Migrate {
        /// The file or the server.
        place: String,
        /// What was in the way.
        source: MigrateError,
    },
}

/// Why a call on a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No row has this id.
    #[error("nothing has this id")]
    NotFound,
    /// Another row has a value that only one may have.
    #[error("another one has this already")]
    Taken,
    /// The database server cannot be reached now. Why is in the log and said by health.
    #[error("the database cannot be reached")]
    Away,
    /// Others kept the database busy for too long; the same call may succeed later.
    #[error("the database is busy")]
    Busy(#[source] Arc<sqlx::Error>),
    /// The database failed; the caller can do nothing about it.
    #[error("the database failed")]
    Database(#[source] Arc<sqlx::Error>),
}

impl Error {
    /// Returns what a caller is told who asked for a `thing`: NOT_FOUND, ALREADY_EXISTS, UNAVAILABLE, or INTERNAL. What the database says
    /// stays here, in the log.
    pub fn status(self, thing: &str) -> Status {
        match self {
            Error::NotFound => Status::not_found(format!("no such {thing}")),
            Error::Taken => Status::already_exists(format!("there is such a {thing} already")),
            Error::Away | Error::Busy(_) => Status::unavailable(self.to_string()),
            Error::Database(_) => weft::status::internal(self),
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Arc::new(error).into()
    }
}

/// An error that several calls share: that of their common transaction.
impl From<Arc<sqlx::Error>> for Error {
    fn from(error: Arc<sqlx::Error>) -> Self {
        match &*error {
            sqlx::Error::RowNotFound => Error::NotFound,
            sqlx::Error::Database(it) if it.is_unique_violation() => Error::Taken,
            sqlx::Error::Database(it) if it.code().is_some_and(|code| is_busy(&code)) => Error::Busy(error),
            sqlx::Error::Database(it) if it.code().as_deref() == Some(NOT_TEXT) => Error::NotFound,
            sqlx::Error::PoolTimedOut => Error::Busy(error),
            it if is_away(it) => Error::Away,
            _ => Error::Database(error),
        }
    }
}

/// PostgreSQL keeps no NUL in a text and refuses one that it is asked for; SQLite just has no such row. Values to be kept are read before.
const NOT_TEXT: &str = "22021";

/// Whether the same statement may succeed later. SQLite: SQLITE_BUSY is 5, and its extended codes carry it in the low byte
/// (sqlite.org/rescode.html). PostgreSQL: states of five characters (appendix "Error Codes"), here serialization failure, deadlock, lock
/// not available, too many connections, query cancelled.
pub(crate) fn is_busy(code: &str) -> bool {
    match code.len() {
        5 => ["40001", "40P01", "55P03", "53300", "57014"].contains(&code),
        _ => code.parse::<u32>().is_ok_and(|code| code & 0xff == 5),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn every_error_has_its_status_and_no_sql_gets_out() {
        let table = "no such table: users".to_owned();
        let cases = [
            (Error::NotFound, Code::NotFound),
            (Error::Taken, Code::AlreadyExists),
            (Error::Away, Code::Unavailable),
            (sqlx::Error::Io(io::ErrorKind::BrokenPipe.into()).into(), Code::Unavailable),
            (sqlx::Error::PoolTimedOut.into(), Code::Unavailable),
            (sqlx::Error::Protocol(table).into(), Code::Internal),
        ];
        for (error, code) in cases {
            let status = error.status("user");
            assert_eq!(status.code(), code);
            assert!(!status.message().contains("table"), "{status}");
        }
    }

    #[test]
    fn busy_is_told_by_the_code_of_each_engine() {
        assert!(is_busy("5") && is_busy("261") && is_busy("517") && is_busy("40001") && is_busy("53300"));
        assert!(!is_busy("1") && !is_busy("2067") && !is_busy("23505") && !is_busy("22021"));
        assert!(!is_busy("53253"), "a state of PostgreSQL has no low byte");
    }
}
