//! A service's database, whichever engine keeps it: opened with its tables up to date, and statements run on it.
//!
//! Lives here: what both engines share. Does not: how each is opened (`sqlite`, `postgres`), what is in it (a service's `store`).
//! Statements are text that both engines know, with `$1` for values. What was answered is what every instance reads next. Rows are read by
//! sqlx's `Any` driver; values are TEXT and BIGINT, which both engines give back as they got them. An order by id is the same under every
//! collation, since ids are digits and lower-case letters at fixed places.

use sqlx::any::{AnyArguments, AnyRow};
use sqlx::migrate::{MigrationType, Migrator};
use sqlx::query::{Query, QueryAs};
use sqlx::{Any, AnyPool, Executor, FromRow, SqlSafeStr};
use weft::{Readiness, Services};

use crate::error::{Error, OpenError};
use crate::place::Place;
use crate::postgres::Keeper;
use crate::writer::{Done, Wants, Writer};
use crate::{postgres, sqlite};

/// Version, name and text of a migration, which is `migrations/<version, four digits>_<name>.sql` of its service.
pub type Migration = (i64, &'static str, &'static str);

/// The tables of a service.
#[derive(Debug, Clone, Copy)]
pub struct Tables {
    /// Of the service; names the file.
    pub name: &'static str,
    /// All of them, oldest first.
    pub migrations: &'static [Migration],
}

impl Tables {
    pub(crate) fn migrator(&self) -> Migrator {
        let migrations = self.migrations.iter().map(|(version, name, text)| {
            let text = text.into_sql_str();
            sqlx::migrate::Migration::new(*version, (*name).into(), MigrationType::Simple, text, false)
        });
        let mut migrator = Migrator::with_migrations(migrations.collect());
        // While instances are replaced one by one, an older one may start again beside the tables of a newer one.
        migrator.set_ignore_missing(true);
        migrator
    }
}

/// A service's database; clones share connections.
#[derive(Debug, Clone)]
pub struct Database {
    pool: AnyPool,
    /// Who writes to a file; a server takes writes from every connection.
    writer: Option<Writer>,
    there: Readiness,
    /// None for a file, which is there while the process is.
    keeper: Option<Keeper>,
}

impl Database {
    /// Opens the database and brings its tables up to date. Instances that start together wait for one another, for at most a minute.
    ///
    /// A server that cannot be reached is no error: it is asked again, once [`attend`](Self::attend) has put somebody in charge of that, and
    /// until it is there every call fails with [`Error::Away`].
    ///
    /// # Errors
    /// The file cannot be opened, or the tables are not what this version can work with.
    pub async fn open(place: &Place, tables: &Tables) -> Result<Self, OpenError> {
        sqlx::any::install_default_drivers();
        match place {
            Place::Directory(dir) => {
                let (pool, writer) = sqlite::open(dir, tables).await?;
                let there = Readiness::starting("");
                there.ready();
                Ok(Database { pool, writer: Some(writer), there, keeper: None })
            }
            Place::Postgres(server) => {
                let keeper = Keeper::new(server.clone(), *tables);
                keeper.try_once().await?;
                let there = keeper.there().clone();
                Ok(Database { pool: postgres::pool(server), writer: None, there, keeper: Some(keeper) })
            }
        }
    }

    /// Puts these services in charge of the database: they look after a server as long as they are served, and their health says
    /// NOT_SERVING while it is away.
    #[must_use]
    pub fn attend(&self, services: Services) -> Services {
        match self.keeper.clone() {
            Some(keeper) => services.need(self.there.clone(), keeper.run()),
            None => services,
        }
    }

    /// Runs a statement that writes.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it touched no row.
    pub async fn write(&self, statement: Query<'_, Any, AnyArguments>) -> Result<(), Error> {
        let touched = match &self.writer {
            None => self.while_there(statement.execute(&self.pool)).await?.rows_affected(),
            Some(writer) => match writer.run(statement, Wants::Count).await? {
                Done::Count(touched) => touched,
                Done::Row(_) => 1,
            },
        };
        match touched {
            0 => Err(Error::NotFound),
            _ => Ok(()),
        }
    }

    /// Runs a statement that writes one row and returns it (`RETURNING`).
    ///
    /// # Errors
    /// [`Error::NotFound`] if it touched no row.
    pub async fn write_one<T>(&self, statement: QueryAs<'_, Any, T, AnyArguments>) -> Result<T, Error>
    where
        T: for<'r> FromRow<'r, AnyRow> + Send + Unpin,
    {
        let Some(writer) = &self.writer else { return self.one(statement).await };
        match writer.run(statement, Wants::Row).await? {
            Done::Row(row) => Ok(T::from_row(&row)?),
            Done::Count(_) => Err(Error::NotFound),
        }
    }

    /// Returns the row of a statement.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it gives none.
    pub async fn one<T>(&self, statement: QueryAs<'_, Any, T, AnyArguments>) -> Result<T, Error>
    where
        T: for<'r> FromRow<'r, AnyRow> + Send + Unpin,
    {
        self.while_there(statement.fetch_one(&self.pool)).await
    }

    /// Returns the rows of a statement.
    ///
    /// # Errors
    /// Those that any statement may meet.
    pub async fn all<T>(&self, statement: QueryAs<'_, Any, T, AnyArguments>) -> Result<Vec<T>, Error>
    where
        T: for<'r> FromRow<'r, AnyRow> + Send + Unpin,
    {
        match self.while_there(statement.fetch_all(&self.pool)).await {
            Err(Error::NotFound) => Ok(Vec::new()), // asked for what no row can have
            rows => rows,
        }
    }

    /// Lets the engine read a statement without running it. For tests: a statement of a service that is misspelt should not wait for its
    /// first caller.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn check(&self, statement: &'static str) -> Result<(), Error> {
        self.while_there(self.pool.prepare(statement.into_sql_str())).await.map(drop)
    }

    /// No statement starts on a database that is away, and none goes on waiting for one that goes away: its caller learns it at once.
    async fn while_there<T>(&self, statement: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
        tokio::select! {
            biased; // one that has its answer keeps it
            answer = async { if self.there.load().is_ok() { statement.await } else { std::future::pending().await } } => Ok(answer?),
            _ = self.there.until_not_ready() => Err(Error::Away),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use weft_testkit::database::Rows;

    use super::*;
    use crate::{Id, Micros};

    const THINGS: Migration =
        (1, "things", "CREATE TABLE things (id TEXT NOT NULL PRIMARY KEY, at BIGINT NOT NULL, name TEXT UNIQUE);");

    async fn open_with(
        rows: &Rows,
        name: &'static str,
        migrations: &'static [Migration],
    ) -> Result<Database, OpenError> {
        Database::open(&Place::named(rows.dir(), rows.url()).unwrap(), &Tables { name, migrations }).await
    }

    async fn open(rows: &Rows) -> Database {
        open_with(rows, "things", &[THINGS]).await.unwrap()
    }

    async fn add(database: &Database, id: Id, at: Micros, name: Option<&str>) -> Result<(), Error> {
        let insert = sqlx::query("INSERT INTO things (id, at, name) VALUES ($1, $2, $3)");
        database.write(insert.bind(id).bind(at).bind(name.map(str::to_owned))).await
    }

    async fn all(database: &Database) -> Vec<(Id, Micros, Option<String>)> {
        database.all(sqlx::query_as("SELECT id, at, name FROM things ORDER BY id")).await.unwrap()
    }

    weft_testkit::on_each_engine!(
        what_is_written_is_read_back_as_it_was_in_the_order_of_ids,
        what_may_be_there_once_is_taken_and_nothing_is_there_is_said,
        instances_that_open_together_migrate_once,
        an_older_version_starts_beside_newer_tables,
        a_migration_that_was_changed_after_it_ran_is_refused,
    );

    async fn what_is_written_is_read_back_as_it_was_in_the_order_of_ids(rows: Rows) {
        let database = open(&rows).await;
        let names = [Some("Ädä 🦀 \u{1}\n'\"\\"), Some(""), None];
        let times = [0, 1, -1, 1_764_000_000_123_456, i64::MAX, i64::MIN];
        let mut written = Vec::new();
        for number in 0..60 {
            let (id, at) = (Id::new(), Micros(times[number % times.len()]));
            let name = names.get(number).copied().flatten();
            add(&database, id, at, name).await.unwrap();
            written.push((id, at, name.map(str::to_owned)));
        }
        assert_eq!(all(&database).await, written);
        let above = sqlx::query_as("SELECT id, at, name FROM things WHERE id > $1 ORDER BY id LIMIT $2");
        let page: Vec<(Id, Micros, Option<String>)> = database.all(above.bind(written[9].0).bind(5i64)).await.unwrap();
        assert_eq!(page, written[10..15]);
        assert_eq!(all(&open(&rows).await).await, written, "a second start finds everything done");
    }

    async fn what_may_be_there_once_is_taken_and_nothing_is_there_is_said(rows: Rows) {
        let database = open(&rows).await;
        add(&database, Id::new(), Micros(0), Some("one")).await.unwrap();
        assert!(matches!(add(&database, Id::new(), Micros(0), Some("one")).await, Err(Error::Taken)));
        for name in ["another", "\0", "'"] {
            let delete = sqlx::query("DELETE FROM things WHERE name = $1").bind(name);
            assert!(matches!(database.write(delete).await, Err(Error::NotFound)), "{name:?}");
            let get = sqlx::query_as::<_, (Id,)>("SELECT id FROM things WHERE name = $1").bind(name);
            assert!(matches!(database.one(get).await, Err(Error::NotFound)), "{name:?}");
            let list = sqlx::query_as::<_, (Id,)>("SELECT id FROM things WHERE name = $1").bind(name);
            assert!(database.all(list).await.unwrap().is_empty(), "{name:?}");
        }
        assert!(matches!(database.check("SELECT nothing FROM nowhere").await, Err(Error::Database(_))));
    }

    async fn instances_that_open_together_migrate_once(rows: Rows) {
        let rows = std::sync::Arc::new(rows);
        let mut opening = JoinSet::new();
        for _ in 0..8 {
            let rows = rows.clone();
            opening.spawn(async move { open(&rows).await });
        }
        for database in opening.join_all().await {
            add(&database, Id::new(), Micros(0), None).await.unwrap();
        }
        assert_eq!(all(&open(&rows).await).await.len(), 8);
        open_with(&rows, "more", &[(1, "more", "CREATE TABLE more (id TEXT NOT NULL PRIMARY KEY);")]).await.unwrap();
    }

    async fn an_older_version_starts_beside_newer_tables(rows: Rows) {
        const NEWER: &[Migration] = &[THINGS, (2, "more", "CREATE TABLE more (id TEXT NOT NULL PRIMARY KEY);")];
        open_with(&rows, "things", NEWER).await.unwrap();
        open(&rows).await;
    }

    async fn a_migration_that_was_changed_after_it_ran_is_refused(rows: Rows) {
        const CHANGED: &[Migration] = &[(1, "things", "CREATE TABLE things (id TEXT NOT NULL);")];
        open(&rows).await;
        assert!(matches!(open_with(&rows, "things", CHANGED).await, Err(OpenError::Migrate { .. })));
    }
}
