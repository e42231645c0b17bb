//! A private PostgreSQL server of a test: made in a directory of its own, reached on a free port, gone with the test.
//!
//! Lives here: making, starting and stopping a cluster, databases in it. Does not: any statement (the tested code speaks to it).
//! The server refuses to run as root, so root lends it the user `postgres`. It sorts text as a language does (ICU, en-US) and asks for a
//! password, as servers in use do. A shell stands beside it and ends it when our end of a pipe closes, which happens however we end.

use std::{
    fs,
    io::Write,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tempfile::TempDir;
use weft_runtime::listen::ListenAddr;

use crate::outside;

/// The password of every test's server; whoever logs it has logged a secret.
pub const PASSWORD: &str = "s3cret-of-the-tests";

const USER: &str = "weft";
/// How long a server may take to start, on a busy machine.
const START: Duration = Duration::from_secs(60);
/// Ports tried, each free a moment before.
const TRIES: usize = 5;

/// Runs the server, ends it when stdin closes, and then removes a directory if one is given.
const BESIDE: &str = r#"exec 3<&0
"$1/postgres" -D "$2/data" -p "$3" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=300 \
    -c shared_buffers=16MB -c fsync=off -c full_page_writes=off -c autovacuum=off </dev/null >"$2/log" 2>&1 &
server=$!
(cat <&3 >/dev/null; kill -QUIT $server) &
wait $server
test -z "$4" || rm -rf "$4""#;

/// A server and its data.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    dir: TempDir,
    port: u16,
    server: Option<Child>,
    databases: AtomicUsize,
}

impl Postgres {
    /// Makes and starts a server. None if PostgreSQL is missing; the test named then skips loudly.
    pub fn start(test: &str) -> Option<Self> {
        let programs = outside::postgres(test)?;
        let dir = TempDir::new().expect("a temporary directory can be made");
        fs::write(dir.path().join("password"), PASSWORD).expect("the temporary directory can be written");
        if let Some((user, group)) = lent() {
            for path in [dir.path(), &dir.path().join("password")] {
                chown(path, Some(user), Some(group)).expect("root may give files away");
            }
        }
        let mut postgres = Self { programs, dir, port: 0, server: None, databases: AtomicUsize::new(0) };
        let mut initdb = postgres.command("initdb");
        initdb.arg("--pgdata").arg(postgres.dir.path().join("data"));
        initdb.arg("--pwfile").arg(postgres.dir.path().join("password"));
        initdb.args(["--username", USER, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"]);
        initdb.args(["--locale-provider", "icu", "--icu-locale", "en-US", "--no-sync", "--no-instructions"]);
        succeed(initdb);
        postgres.run(None);
        Some(postgres)
    }

    /// Makes an empty database and returns its URL.
    pub fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut createdb = self.command("createdb");
        createdb.args(["--host", "127.0.0.1", "--port", &self.port.to_string(), "--username", USER, &name]);
        createdb.env("PGPASSWORD", PASSWORD);
        succeed(createdb);
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{name}", self.port)
    }

    /// Stops the server at once, as a crash would. Its data stay.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            drop(server.stdin.take());
            drop(server.wait()); // an error means it was waited for before
        }
    }

    /// Starts the server again where it was.
    pub fn start_again(&mut self) {
        self.stop();
        assert!(self.try_port(self.port, None), "the server does not start again:\n{}", self.log());
    }

    /// Starts on a port that is free, and remains there.
    fn run(&mut self, remove: Option<&Path>) {
        for _ in 0..TRIES {
            let port = ListenAddr::loopback(0).lasting().get().port();
            if self.try_port(port, remove) {
                self.port = port;
                return;
            }
        }
        panic!("the server does not start:\n{}", self.log());
    }

    /// Starts and waits until it accepts; false if it ended instead.
    fn try_port(&mut self, port: u16, remove: Option<&Path>) -> bool {
        let mut beside = as_lent(Command::new("sh"));
        beside.args(["-c", BESIDE, "postgres"]).arg(&self.programs).arg(self.dir.path()).arg(port.to_string());
        beside.arg(remove.unwrap_or(Path::new(""))).current_dir("/").process_group(0);
        let mut server = beside.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("there is a shell");
        let began = Instant::now();
        while server.try_wait().expect("a child of ours can be waited for").is_none() {
            if self.accepts() {
                self.server = Some(server);
                return true;
            }
            if began.elapsed() > START {
                drop(server.kill());
                drop(server.wait());
                panic!("the server did not start within {START:?}:\n{}", self.log());
            }
            #[expect(clippy::disallowed_methods, reason = "waits for a process, outside of any runtime")]
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(server.wait()); // it has ended: this takes no time
        false
    }

    /// The server writes its state into a file: line 8 of `postmaster.pid`.
    fn accepts(&self) -> bool {
        let state = fs::read_to_string(self.dir.path().join("data/postmaster.pid")).unwrap_or_default();
        state.lines().nth(7).is_some_and(|line| line.trim() == "ready")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = as_lent(Command::new(self.programs.join(program)));
        command.current_dir("/").stdin(Stdio::null());
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("--- log of the PostgreSQL server ---\n{}", self.log());
        }
    }
}

/// Returns the URL of a new database on the one server that the tests of this binary share. None if PostgreSQL is missing; the test
/// named then skips loudly.
pub fn database(test: &str) -> Option<String> {
    static SHARED: OnceLock<Option<Postgres>> = OnceLock::new();
    outside::postgres(test)?; // each test says by itself that it skips
    let shared = SHARED.get_or_init(|| {
        let mut postgres = Postgres::start(test)?;
        // A static is never dropped: the shell beside the server clears up.
        postgres.stop();
        let dir = postgres.dir.path().to_owned();
        postgres.dir.disable_cleanup(true);
        postgres.run(Some(&dir));
        Some(postgres)
    });
    shared.as_ref().map(Postgres::database)
}

/// The user and group that root lends to the server; none for anybody else, who runs it as himself.
fn lent() -> Option<(u32, u32)> {
    const NOBODY: (u32, u32) = (65_534, 65_534);
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let postgres = users.lines().find_map(|line| {
        let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    Some(postgres.unwrap_or(NOBODY))
}

fn as_lent(mut command: Command) -> Command {
    if let Some((user, group)) = lent() {
        command.uid(user).gid(group); // and no further groups: the standard library sees to that
    }
    command
}

fn succeed(mut command: Command) {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    if !status.success() {
        let mut said = std::io::stderr().lock();
        drop(said.write_all(&stdout).and_then(|()| said.write_all(&stderr)));
        panic!("{command:?} ended with {status}");
    }
}
