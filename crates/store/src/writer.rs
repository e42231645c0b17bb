//! Writes to a database file: one at a time, in the order they came, those that wait together in one transaction.
//!
//! Lives here: the queue, the task that empties it, when a transaction is given up. Does not: reads, which never wait for a write.
//! SQLite has no queue for writers. Who finds the file taken asks again after pauses that grow to 0.1 s, so whoever comes at the right moment goes first
//! and others wait for seconds; and each write alone waits for the disk. On a busy machine writes then come faster than the disk takes
//! them, and fail although nothing is wrong. Here one connection of each process writes and asks often, and what has come meanwhile shares
//! one wait for the disk. An answer is given after the commit. A statement that fails leaves the others of its transaction as they are
//! (sqlite.org/lang_conflict.html, ABORT); what ends a transaction by itself is an error of all that are in it.

use std::sync::Arc;
use std::time::Duration;

use sqlx::any::{AnyArguments, AnyConnectOptions, AnyPoolOptions, AnyRow};
use sqlx::{Any, AnyConnection, AnyPool, Execute, Executor, SqlStr, Transaction, query_with};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Error;
use crate::error::is_busy;

/// Statements that wait for the task; more wait in their calls, as long as these may.
const QUEUE: usize = 256;
/// Statements in one transaction: a bound on how long other processes wait for it.
const TOGETHER: usize = 64;
/// Pause before the file is asked for again.
const PAUSE: Duration = Duration::from_millis(2);
/// How long a process goes on while it has something to write, and how long it then leaves the file to others: longer than their pauses.
const TURN: Duration = Duration::from_millis(50);
const GAP: Duration = Duration::from_millis(6);

/// A statement that waits to be run.
struct Job {
    sql: SqlStr,
    arguments: AnyArguments,
    wants: Wants,
    answer: oneshot::Sender<Result<Done, Error>>,
}

#[derive(Clone, Copy)]
pub(crate) enum Wants {
    /// How many rows it touched.
    Count,
    /// The row it returns.
    Row,
}

/// What a statement did.
pub(crate) enum Done {
    /// It touched this many rows.
    Count(u64),
    /// It returned this one.
    Row(AnyRow),
}

/// The one who writes to a file in this process; clones are the same. The last one to go ends the task.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    jobs: mpsc::Sender<Job>,
    _task: Arc<JoinSet<()>>,
}

impl Writer {
    /// Connects. A transaction waits for those of other processes for at most `limit`.
    pub(crate) async fn start(options: AnyConnectOptions, limit: Duration) -> Result<Self, sqlx::Error> {
        let pool = AnyPoolOptions::new().max_connections(1).test_before_acquire(false).acquire_timeout(limit);
        let pool = pool.after_connect(|connection, _| Box::pin(never_wait(connection))).connect_with(options).await?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let mut task = JoinSet::new();
        task.spawn(run(pool, limit, queue));
        Ok(Self { jobs, _task: Arc::new(task) })
    }

    /// Runs a statement; it is in the file when this returns. Given up before its turn, it is not run.
    pub(crate) async fn run<'q>(&self, mut statement: impl Execute<'q, Any>, wants: Wants) -> Result<Done, Error> {
        let arguments = statement.take_arguments().map_err(sqlx::Error::Encode)?.unwrap_or_default();
        let (answer, answered) = oneshot::channel();
        let job = Job { sql: statement.sql(), arguments, wants, answer };
        let gone = |_| sqlx::Error::PoolClosed;
        self.jobs.send(job).await.map_err(|_| sqlx::Error::PoolClosed)?;
        answered.await.map_err(gone)?
    }
}

/// Pauses are ours: see the file's header.
async fn never_wait(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    connection.execute("PRAGMA busy_timeout = 0").await.map(drop)
}

async fn run(pool: AnyPool, limit: Duration, mut queue: mpsc::Receiver<Job>) {
    let mut jobs = Vec::with_capacity(TOGETHER);
    let mut turn = Instant::now() + TURN;
    loop {
        let idle = queue.is_empty();
        if !idle && Instant::now() >= turn {
            sleep(GAP).await;
            turn = Instant::now() + TURN;
        }
        if queue.recv_many(&mut jobs, TOGETHER).await == 0 {
            return;
        }
        if idle {
            turn = Instant::now() + TURN;
        }
        let (mut answers, mut outcomes) = (Vec::with_capacity(jobs.len()), Vec::with_capacity(jobs.len()));
        match transact(&pool, limit, &mut jobs, &mut answers, &mut outcomes).await {
            Ok(()) => answers.into_iter().zip(outcomes).for_each(|(answer, outcome)| drop(answer.send(outcome))),
            Err(error) => {
                let error = Arc::new(error);
                let all = answers.into_iter().chain(jobs.drain(..).map(|job| job.answer));
                all.for_each(|answer| drop(answer.send(Err(Arc::clone(&error).into()))));
            }
        }
    }
}

/// Runs the jobs in one transaction. With an error, none of them has done anything; those not yet run are left.
async fn transact(
    pool: &AnyPool,
    limit: Duration,
    jobs: &mut Vec<Job>,
    answers: &mut Vec<oneshot::Sender<Result<Done, Error>>>,
    outcomes: &mut Vec<Result<Done, Error>>,
) -> Result<(), sqlx::Error> {
    let mut transaction = begin(pool, limit).await?;
    for Job { sql, arguments, wants, answer } in jobs.drain(..) {
        if answer.is_closed() {
            continue; // whoever asked has given up
        }
        answers.push(answer);
        let query = query_with(sql, arguments);
        let outcome = match wants {
            Wants::Count => query.execute(&mut *transaction).await.map(|done| Done::Count(done.rows_affected())),
            Wants::Row => query.fetch_one(&mut *transaction).await.map(Done::Row),
        };
        outcomes.push(match outcome {
            Err(error) if ends_transaction(&error) => return Err(error),
            outcome => outcome.map_err(Error::from),
        });
    }
    transaction.commit().await
}

/// Begins a transaction that may write, as soon as no other process has one.
async fn begin(pool: &AnyPool, limit: Duration) -> Result<Transaction<'static, Any>, sqlx::Error> {
    let deadline = Instant::now() + limit;
    loop {
        match pool.begin_with("BEGIN IMMEDIATE").await {
            Err(sqlx::Error::Database(error))
                if error.code().is_some_and(|code| is_busy(&code)) && Instant::now() < deadline =>
            {
                sleep(PAUSE).await;
            }
            begun => return begun,
        }
    }
}

/// Whether SQLite may have rolled back by itself: SQLITE_BUSY 5, NOMEM 7, INTERRUPT 9, IOERR 10, FULL 13 (sqlite.org/lang_transaction.html,
/// section 3; extended codes carry these in the low byte). Also if it is not SQLite who speaks: the connection may be gone.
fn ends_transaction(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().and_then(|code| code.parse::<u32>().ok());
            code.is_none_or(|code| [5, 7, 9, 10, 13].contains(&(code & 0xff)))
        }
        sqlx::Error::RowNotFound | sqlx::Error::Encode(_) | sqlx::Error::Decode(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
    use sqlx::{query, query_as};
    use tempfile::TempDir;

    use super::*;
    use crate::{Database, Place, Tables};

    const TABLES: Tables =
        Tables { name: "things", migrations: &[(1, "things", "CREATE TABLE things (name TEXT NOT NULL UNIQUE);")] };

    async fn open(dir: &TempDir) -> Database {
        Database::open(&Place::Directory(dir.path().to_owned()), &TABLES).await.unwrap()
    }

    /// Another process's connection.
    fn other(dir: &TempDir) -> SqlitePool {
        SqlitePool::connect_lazy_with(SqliteConnectOptions::new().filename(dir.path().join("things.db")))
    }

    async fn writer(dir: &TempDir, limit: Duration) -> Writer {
        let file = Path::new(dir.path()).join("things.db");
        Writer::start(format!("sqlite://{}?mode=rw", file.display()).parse().unwrap(), limit).await.unwrap()
    }

    async fn add(writer: &Writer, name: &str) -> Result<u64, Error> {
        match writer.run(query("INSERT INTO things (name) VALUES ($1)").bind(name.to_owned()), Wants::Count).await? {
            Done::Count(touched) => Ok(touched),
            Done::Row(_) => unreachable!("a count was asked for"),
        }
    }

    async fn names(database: &Database) -> Vec<String> {
        let names = database.all::<(String,)>(query_as("SELECT name FROM things ORDER BY rowid")).await.unwrap();
        names.into_iter().map(|(name,)| name).collect()
    }

    #[tokio::test]
    async fn a_transaction_of_another_process_that_lasts_too_long_makes_the_file_busy() {
        let dir = tempfile::tempdir().unwrap();
        let database = open(&dir).await;
        let writer = writer(&dir, Duration::from_secs(2)).await; // for which the pool, too, waits for its connection
        let writing = other(&dir).begin_with("BEGIN IMMEDIATE").await.unwrap();
        let (first, second) = tokio::join!(add(&writer, "a"), add(&writer, "b"));
        assert!(matches!((first, second), (Err(Error::Busy(_)), Err(Error::Busy(_)))));
        assert!(names(&database).await.is_empty(), "readers do not wait");
        writing.rollback().await.unwrap();
        assert_eq!(add(&writer, "c").await.unwrap(), 1);
        assert_eq!(names(&database).await, ["c"]);
    }

    #[tokio::test]
    async fn what_waits_is_committed_together_in_its_order_and_what_fails_fails_alone() {
        let dir = tempfile::tempdir().unwrap();
        let database = open(&dir).await;
        let writer = writer(&dir, Duration::from_secs(60)).await;
        let writing = other(&dir).begin_with("BEGIN IMMEDIATE").await.unwrap();
        let all = async {
            let strange = writer.run(query("INSERT INTO nowhere VALUES (1)"), Wants::Count);
            let nothing = writer.run(query("DELETE FROM things WHERE name = 'z' RETURNING name"), Wants::Row);
            tokio::join!(add(&writer, "b"), add(&writer, "b"), strange, nothing, add(&writer, "a"))
        };
        let release = async {
            // All five are asked for by now: they were polled first.
            assert!(names(&database).await.is_empty());
            writing.rollback().await.unwrap();
        };
        let ((first, second, strange, nothing, last), ()) = tokio::join!(all, release);
        assert_eq!((first.unwrap(), last.unwrap()), (1, 1));
        assert!(matches!(second, Err(Error::Taken)));
        assert!(matches!(strange, Err(Error::Database(_))));
        assert!(matches!(nothing, Err(Error::NotFound)));
        assert_eq!(names(&database).await, ["b", "a"]);
    }

    #[tokio::test]
    async fn who_gives_up_before_its_turn_has_written_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let database = open(&dir).await;
        let writer = writer(&dir, Duration::from_secs(60)).await;
        let writing = other(&dir).begin_with("BEGIN IMMEDIATE").await.unwrap();
        {
            let mut given_up = std::pin::pin!(add(&writer, "a"));
            assert!(futures_util::poll!(given_up.as_mut()).is_pending());
        }
        let (_, written) = tokio::join!(writing.rollback(), add(&writer, "b"));
        written.unwrap();
        assert_eq!(names(&database).await, ["b"]);
    }

    /// Two processes that have much to write, and a third that has the file nearly always: with SQLite's own pauses, most writes find it taken
    /// whenever they ask.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn writes_find_the_gap_that_another_process_leaves() {
        const EACH: usize = 200;
        let dir = tempfile::tempdir().unwrap();
        let databases = [open(&dir).await, open(&dir).await];
        let mut greedy = JoinSet::new();
        let file = other(&dir);
        greedy.spawn(async move {
            loop {
                let taken = file.begin_with("BEGIN IMMEDIATE").await.unwrap();
                sleep(Duration::from_millis(150)).await; // a slow disk
                taken.rollback().await.unwrap();
                sleep(2 * PAUSE).await;
            }
        });
        let mut calls = JoinSet::new();
        for number in 0..2 * EACH {
            let database = databases[number % 2].clone();
            calls.spawn(async move {
                let insert = query("INSERT INTO things (name) VALUES ($1)").bind(number.to_string());
                database.write(insert).await
            });
        }
        for written in calls.join_all().await {
            written.unwrap();
        }
        assert_eq!(names(&databases[0]).await.len(), 2 * EACH);
    }
}
