//! Why a call on rows did not do what was asked, and what a caller of the service is told.
//!
//! Lives here: what every service tells apart. Does not: rules of one table (its service's own error holds this one).

use tonic::Status;

/// Why a call on a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No row has this id.
    #[error("nothing has this id")]
    NotFound,
    /// Others kept the database busy for too long; the same call may succeed later.
    #[error("the database is busy")]
    Busy(#[source] sqlx::Error),
    /// The database failed; the caller can do nothing about it.
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
}

impl Error {
    /// Returns what a caller is told who asked for a `thing`: NOT_FOUND, UNAVAILABLE, or INTERNAL. What the database says stays here,
    /// in the log.
    pub fn status(self, thing: &str) -> Status {
        match self {
            Error::NotFound => Status::not_found(format!("no such {thing}")),
            Error::Busy(_) => Status::unavailable(self.to_string()),
            Error::Database(_) => weft::status::internal(self),
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::RowNotFound => Error::NotFound,
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

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn every_error_has_its_status_and_no_sql_gets_out() {
        let table = "no such table: users".to_owned();
        let cases = [
            (Error::NotFound, Code::NotFound),
            (Error::Busy(sqlx::Error::PoolTimedOut), Code::Unavailable),
            (Error::Database(sqlx::Error::Protocol(table)), Code::Internal),
        ];
        for (error, code) in cases {
            let status = error.status("user");
            assert_eq!(status.code(), code);
            assert!(!status.message().contains("table"), "{status}");
        }
    }

    #[test]
    fn busy_is_told_by_the_low_byte() {
        assert!(is_busy("5") && is_busy("261") && is_busy("517"));
        assert!(!is_busy("1") && !is_busy("2067") && !is_busy("23505x"));
    }
}
