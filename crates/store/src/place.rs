//! Where a service keeps its rows: a file in its directory, or a PostgreSQL server named by `DATABASE_URL`.
//!
//! Lives here: reading `DATABASE_URL`, and refusing one that cannot be meant. Does not: opening anything (`sqlite`, `postgres`).
//! Invariant: nothing here shows a URL or a part of one that may be a secret; servers are named by host, port and database.

use std::fmt;
use std::path::{Path, PathBuf};

use sqlx::any::AnyConnectOptions;
use sqlx::postgres::PgConnectOptions;
use weft::{App, Usage};

/// Parameters of a URL that the driver knows. It would log others with their values, and a value may be a mistyped password.
const PARAMETERS: [&str; 18] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

/// Where the rows of a service are.
#[derive(Debug, Clone)]
pub enum Place {
    /// In a SQLite file in this directory, which the service's instances on one machine may share.
    Directory(PathBuf),
    /// In a PostgreSQL database, which instances on any machine share.
    Postgres(Server),
}

impl Place {
    /// Reads the place of a service: `DATABASE_URL` if it is set, otherwise the directory for its data.
    ///
    /// # Errors
    /// [`Usage`] if `DATABASE_URL` cannot be used; the system's if the directory cannot be made.
    pub fn of(app: &App) -> anyhow::Result<Self> {
        match app.database_url() {
            Some(url) => Ok(Place::Postgres(Server::parse(url)?)),
            None => Ok(Place::Directory(app.data_dir()?)),
        }
    }

    /// Returns the place that a URL names, or this directory without one.
    ///
    /// # Errors
    /// As [`Server::parse`].
    pub fn named(dir: &Path, url: Option<&str>) -> Result<Self, Usage> {
        match url {
            Some(url) => Ok(Place::Postgres(Server::parse(url)?)),
            None => Ok(Place::Directory(dir.to_owned())),
        }
    }
}

/// A PostgreSQL database. Its `Display` is safe to log.
#[derive(Clone)]
pub struct Server {
    pub(crate) options: AnyConnectOptions,
    name: String,
}

impl Server {
    /// Reads a URL like `postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full`, in the form that libpq has.
    ///
    /// # Errors
    /// [`Usage`] that says what is wrong and what would be right, without the URL.
    pub fn parse(url: &str) -> Result<Self, Usage> {
        let options: AnyConnectOptions = url.parse().map_err(|_| wrong("is no URL"))?;
        let parsed = &options.database_url;
        if !["postgres", "postgresql"].contains(&parsed.scheme()) {
            return Err(wrong("does not begin with postgres://"));
        }
        let known = |name: &str| PARAMETERS.contains(&name) || name.starts_with("options[");
        if let Some((name, _)) = parsed.query_pairs().find(|(name, _)| !known(name)) {
            return Err(wrong(&format!("has a parameter {name:?}, which is not known")));
        }
        let server: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| match error {
            sqlx::Error::Configuration(cause) => wrong(&format!("has a parameter that cannot be read: {cause}")),
            _ => wrong("cannot be read"),
        })?;
        let database = server.get_database().unwrap_or(server.get_username());
        let name = match server.get_socket() {
            Some(socket) => format!("postgres in {}, database {database}", socket.display()),
            None => format!("postgres://{}:{}/{database}", server.get_host(), server.get_port()),
        };
        Ok(Server { options, name })
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({self})")
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn wrong(what: &str) -> Usage {
    Usage::new(format!(
        "DATABASE_URL {what}; expected postgres://USER:PASSWORD@HOST:PORT/DATABASE, or nothing to use a file in WEFT_DATA"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        Server::parse(url).map_or_else(|usage| usage.to_string(), |server| panic!("{server} was taken"))
    }

    #[test]
    fn a_server_is_named_without_what_may_be_secret() {
        let server = Server::parse("postgres://ann:s3cret@db.example:6432/shop?sslmode=verify-full").unwrap();
        assert_eq!(server.to_string(), "postgres://db.example:6432/shop");
        let server = Server::parse("postgresql://ann:s3cret@%2Fvar%2Frun%2Fpg/shop?password=other").unwrap();
        assert_eq!(server.to_string(), "postgres in /var/run/pg, database shop");
    }

    #[test]
    fn a_url_that_cannot_be_meant_is_refused_with_the_cure_and_without_its_secrets() {
        for (url, says) in [
            ("s3cret", "is no URL"),
            ("mysql://ann:s3cret@db/shop", "postgres://"),
            ("sqlite://s3cret.db", "postgres://"),
            ("postgres://ann:s3cret@db:port/shop", "is no URL"),
            ("postgres://ann@db/shop?passwrod=s3cret", "\"passwrod\""),
            ("postgres://ann:s3cret@db/shop?sslmode=none", "ssl_mode"),
            ("postgres://ann:s3cret@db/shop?port=none", "cannot be read"),
        ] {
            let refusal = refusal(url);
            assert!(refusal.contains("DATABASE_URL") && refusal.contains(says), "{url}: {refusal}");
            assert!(refusal.contains("WEFT_DATA") && !refusal.contains("s3cret"), "{url}: {refusal}");
        }
    }
}
