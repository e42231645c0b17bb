//! `weft up` as a person uses it: real processes in a directory of their own, on free ports.
//!
//! Lives here: start, look, change, stop, and what remains afterwards. Does not: calls through the mesh (`tests/e2e`).
//! Every test checks the absence, too: when `weft up` has ended, however it did, none of the processes it started runs.

#![expect(clippy::unwrap_used, reason = "a test fails where something is missing")]

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use weft_testkit::{
    outside,
    process::{self, Process},
    wait,
};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(60);
/// How long a start that fails may take: it builds, and tries again and again.
const FAILED: Duration = Duration::from_secs(180);
/// How long an end may take. A drain is proven in milliseconds; these are the bounds of the slowest machine.
const END: Duration = Duration::from_secs(60);

/// A `weft up` in a directory of its own.
struct Up {
    dir: TempDir,
    process: Process,
}

/// A row of `weft ps -o json`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    name: String,
    state: String,
    pid: u32,
    app: u32,
    restarts: u32,
}

fn weft(dir: &Path, args: &[&str]) -> Output {
    Command::new(WEFT).args(args).current_dir(dir).output().expect("weft can be started")
}

fn start_in(dir: TempDir, toml: &str) -> Up {
    std::fs::write(dir.path().join("weft.toml"), toml).unwrap();
    let mut command = Command::new(WEFT);
    // A target directory of its own: what runs the tests may be building in the one it uses.
    command.arg("up").current_dir(dir.path()).env("CARGO_TARGET_DIR", dir.path().join("target"));
    Up { process: Process::spawn("weft up", command).unwrap(), dir }
}

fn start(services: &str) -> Up {
    let ports = "[registry]\nlisten = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n[gateway]\nlisten = \"127.0.0.1:0\"\n";
    start_in(TempDir::new().unwrap(), &format!("{ports}{services}"))
}

/// A mesh with `scale` instances of the echo service; none if its binary is missing, which was said loudly then.
async fn with_echo(test: &str, scale: u32) -> Option<Up> {
    let echo = outside::need_binaries(&["weft-echo"], test)?.swap_remove(0);
    let mut up = start(&format!("[services.echo]\ncommand = [{:?}]\nscale = {scale}\n", echo.to_str().unwrap()));
    up.ready().await;
    Some(up)
}

impl Up {
    async fn ready(&mut self) {
        let process = &mut self.process;
        wait::until("weft up to be ready", START, || {
            let ended = process.ended();
            assert!(ended.is_none(), "weft up ended with {ended:?}:\n{}", process.log());
            let ready = process.said("ready after");
            async move { ready.then_some(()) }
        })
        .await;
    }

    fn weft(&self, args: &[&str]) -> Output {
        weft(self.dir.path(), args)
    }

    fn ps(&self) -> Vec<Row> {
        let output = self.weft(&["ps", "-o", "json"]);
        assert!(output.status.success(), "{output:?}");
        let all: Value = serde_json::from_slice(&output.stdout).unwrap();
        let number = |row: &Value, key: &str| u32::try_from(row[key].as_u64().unwrap()).unwrap();
        let row = |row: &Value| Row {
            name: row["name"].as_str().unwrap().to_owned(),
            state: row["state"].as_str().unwrap().to_owned(),
            pid: number(row, "pid"),
            app: number(row, "app_pid"),
            restarts: number(row, "restarts"),
        };
        all["processes"].as_array().unwrap().iter().map(row).collect()
    }

    fn instances(&self) -> Vec<Row> {
        self.ps().into_iter().filter(|row| row.name.starts_with("echo-")).collect()
    }

    /// Waits until the instances are as `wanted`, with a process and an app each, all serving.
    async fn serving(&self, what: &str, wanted: impl Fn(&[Row]) -> bool) -> Vec<Row> {
        wait::until(what, START, || async {
            let rows = self.instances();
            let serving = rows.iter().all(|row| row.state == "serving" && row.pid > 0 && row.app > 0);
            (serving && wanted(&rows)).then_some(rows)
        })
        .await
    }

    /// Every process of the mesh, also what an app has started.
    fn pids(&self) -> BTreeSet<u32> {
        let mut pids: Vec<u32> = self.ps().into_iter().map(|row| row.pid).filter(|pid| *pid > 0).collect();
        let mut next = 0;
        while let Some(pid) = pids.get(next) {
            pids.extend(process::children(*pid));
            next += 1;
        }
        pids.into_iter().collect()
    }

    /// Waits for the end of `weft up` and checks that nothing of `pids` is left.
    async fn ended(mut self, code: i32, pids: BTreeSet<u32>) -> String {
        let status = self.process.end(END).await;
        assert_eq!(status.code(), Some(code), "{}", self.process.log());
        let log = self.process.log();
        let was_killed = log.contains("\nkilled\n");
        for pid in pids {
            if was_killed {
                process::gone(pid, END).await; // the kernel takes its time with who is nobody's child any more
            }
            assert!(!process::runs(pid), "process {pid} is left:\n{log}");
        }
        let left = |name| self.dir.path().join(".weft").join(name);
        assert!(!left("up.sock").exists(), "up.sock is left");
        // What was killed has not told the registry, which is the next one's to do; no process is left in any case.
        let run = std::fs::read_to_string(left("run.json")).unwrap_or_else(|_| "{\"processes\":[]}".to_owned());
        let run: Value = serde_json::from_str(&run).unwrap();
        assert_eq!(run["processes"], serde_json::json!([]));
        let listed = run["instances"].as_array().into_iter().flatten().map(|it| it["name"].as_str().unwrap());
        let killed = was_killed.then_some("echo-1");
        assert_eq!(listed.collect::<Vec<_>>(), Vec::from_iter(killed), "{run}");
        log
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn names(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| row.name.as_str()).collect()
}

#[tokio::test]
async fn a_mesh_starts_in_order_and_ctrl_c_stops_it_without_leaving_a_process() {
    let Some(up) = with_echo("a_mesh_starts_in_order_and_ctrl_c_stops_it_without_leaving_a_process", 2).await else {
        return;
    };
    let rows = up.ps();
    assert_eq!(names(&rows), ["registry", "echo-1", "echo-2", "gateway"]);
    assert!(rows.iter().all(|row| row.state == "serving"), "{rows:?}");
    let pids = up.pids();
    let mode = std::fs::metadata(up.dir.path().join(".weft/up.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the control socket is for this user only");
    assert_eq!(pids.len(), 6, "a role each, a sidecar and an app each: {rows:?}");
    up.process.signal(Signal::INT);
    let log = up.ended(0, pids).await;
    let place = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text:?} is not in\n{log}"));
    let lines = ["weft up: registry, gateway, 2 × echo", "ready on http://", "ready after", "call it", "break it"];
    for line in lines.iter().filter(|line| **line != "call it") {
        place(line);
    }
    assert!(place("2 instances serve") < place("ready on http://"), "{log}");
    let stops = log.rmatch_indices("  stopped ").count();
    assert_eq!(stops, 3, "gateway, echo, registry: {log}");
}

#[tokio::test]
async fn a_kill_of_weft_up_takes_everything_along_and_the_next_start_finds_nothing_of_it() {
    let Some(mut up) =
        with_echo("a_kill_of_weft_up_takes_everything_along_and_the_next_start_finds_nothing_of_it", 1).await
    else {
        return;
    };
    let pids = up.pids();
    assert_eq!(pids.len(), 4);
    up.process.kill();
    for pid in pids {
        process::gone(pid, END).await;
    }
    let Up { dir, process } = up;
    drop(process);
    let toml = std::fs::read_to_string(dir.path().join("weft.toml")).unwrap();
    let mut up = start_in(dir, &toml);
    up.ready().await;
    // The registry has kept its list, and what is dead on it is not called by anybody.
    assert!(up.process.log().contains("what an earlier `weft up` left there: echo-1"), "{}", up.process.log());
    let check = up.weft(&["check"]);
    assert!(check.status.success(), "{}", text(&check.stdout));
    let pids = up.pids();
    up.process.signal(Signal::TERM);
    up.ended(0, pids).await;
}

#[tokio::test]
async fn scale_restart_and_stop_do_what_they_say() {
    let Some(up) = with_echo("scale_restart_and_stop_do_what_they_say", 1).await else { return };
    let mut seen = up.pids();
    let first = up.instances();

    let output = up.weft(&["scale", "echo=3"]);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty() && text(&output.stderr).contains("echo-3 serves after"), "{output:?}");
    let three = up.serving("three instances", |rows| names(rows) == ["echo-1", "echo-2", "echo-3"]).await;
    assert_eq!(three[0], first[0], "the first is still the same process");
    seen.extend(up.pids());

    let output = up.weft(&["restart", "echo-2"]);
    assert!(output.status.success(), "{output:?}");
    let after = up.serving("a new echo-2", |rows| rows.len() == 3).await;
    let pid =
        |rows: &[Row], name: &str| rows.iter().find(|row| row.name == name).map(|row| (row.pid, row.app)).unwrap();
    assert_ne!(pid(&after, "echo-2"), pid(&three, "echo-2"));
    assert_eq!(pid(&after, "echo-1"), pid(&three, "echo-1"));
    seen.extend(up.pids());

    let output = up.weft(&["scale", "echo=1"]);
    assert!(output.status.success(), "{output:?}");
    up.serving("one instance", |rows| names(rows) == ["echo-1"]).await;
    let output = up.weft(&["restart", "echo"]);
    assert!(output.status.success(), "{output:?}");
    let last = up.serving("a new echo-1", |rows| rows.len() == 1).await;
    assert_ne!(last[0].pid, first[0].pid);
    seen.extend(up.pids());

    let output = up.weft(&["stop", "echo"]);
    assert!(output.status.success(), "{output:?}");
    assert!(up.instances().is_empty());
    let output = up.weft(&["restart", "echo"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("echo has no instance to restart"), "{output:?}");
    let output = up.weft(&["restart", "gateway"]);
    assert!(output.status.success(), "{output:?}");
    seen.extend(up.pids());
    let output = up.weft(&["stop"]);
    assert!(output.status.success(), "{output:?}");
    up.ended(0, seen).await;
}

#[tokio::test]
async fn a_restart_takes_up_what_the_file_says_by_then() {
    let Some(up) = with_echo("a_restart_takes_up_what_the_file_says_by_then", 1).await else { return };
    let mut seen = up.pids();
    let first = up.instances();
    let file = up.dir.path().join("weft.toml");
    let toml = std::fs::read_to_string(&file).unwrap();
    let rewrite = |more: &str| std::fs::write(&file, format!("{toml}{more}\n")).unwrap();
    let told = |row: &Row, file: &str| text(&std::fs::read(format!("/proc/{}/{file}", row.pid)).unwrap());

    rewrite("weight = 0");
    let output = up.weft(&["restart", "echo"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("[services.echo] weight: 0 is outside 1 to 65535"), "{output:?}");
    assert_eq!(up.instances(), first, "nothing follows from a file that cannot be used");

    rewrite("weight = 3\nenv = { SAID = \"by then\" }");
    let output = up.weft(&["scale", "echo=2"]);
    assert!(output.status.success() && text(&output.stderr).contains("weft.toml says now"), "{output:?}");
    let two = up.serving("a second instance", |rows| names(rows) == ["echo-1", "echo-2"]).await;
    assert_eq!(two[0], first[0]);
    assert!(told(&two[1], "environ").contains("SAID=by then") && !told(&two[0], "environ").contains("SAID="));
    seen.extend(up.pids());
    let output = up.weft(&["restart", "echo-1"]);
    assert!(output.status.success() && !text(&output.stderr).contains("says now"), "it was said: {output:?}");
    let both = up.serving("a new echo-1", |rows| rows.len() == 2).await;
    let new = both.iter().find(|row| row.name == "echo-1").map(|row| told(row, "cmdline")).unwrap();
    assert!(new.contains("--weight\u{0}3\u{0}"), "{new}");
    seen.extend(up.pids());

    std::fs::write(&file, toml.replacen("[gateway]\nlisten = \"127.0.0.1:0\"", "[gateway]", 1)).unwrap();
    let output = up.weft(&["restart", "gateway"]);
    assert!(text(&output.stderr).contains("says otherwise of [gateway] now"), "{output:?}");
    rewrite("weight = 0");
    let output = up.weft(&["restart", "gateway"]);
    assert!(output.status.success() && text(&output.stderr).contains("gateway starts as it was"), "{output:?}");
    seen.extend(up.pids());
    up.process.signal(Signal::INT);
    up.ended(0, seen).await;
}

#[tokio::test]
async fn a_killed_sidecar_takes_its_app_along_and_a_killed_app_does_not_take_its_sidecar() {
    let test = "a_killed_sidecar_takes_its_app_along_and_a_killed_app_does_not_take_its_sidecar";
    let Some(up) = with_echo(test, 1).await else { return };
    let before = up.instances().swap_remove(0);
    process::kill(before.pid);
    process::gone(before.app, END).await;
    let after = up.serving("a new sidecar", |rows| rows.len() == 1 && rows[0].pid != before.pid).await.swap_remove(0);
    assert_ne!(after.app, before.app);
    process::kill(after.app);
    let last = up.serving("a new app", |rows| rows.len() == 1 && rows[0].app != after.app).await.swap_remove(0);
    assert_eq!((last.pid, last.restarts), (after.pid, 2), "one of the sidecar, one of the app");
    let pids = up.pids();
    up.process.signal(Signal::INT);
    let log = up.ended(0, pids).await;
    assert!(log.contains("echo-1 crashed: signal 9 (SIGKILL)"), "{log}");
}

#[tokio::test]
async fn logs_come_by_name_with_the_past_and_the_future() {
    let Some(up) = with_echo("logs_come_by_name_with_the_past_and_the_future", 1).await else { return };
    let output = up.weft(&["logs", "gateway", "--tail", "5"]);
    assert!(output.status.success(), "{output:?}");
    let lines = text(&output.stdout);
    assert!(lines.lines().count() > 0 && lines.lines().all(|line| line.starts_with("gateway    | ")), "{lines}");
    let output = up.weft(&["logs", "nobody"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("there are: echo-1, gateway, registry"), "{output:?}");
    let mut follow = Command::new(WEFT);
    follow.args(["logs", "-f", "--tail", "0", "echo"]).current_dir(up.dir.path());
    let mut follow = Process::spawn("weft logs -f", follow).unwrap();
    let scaled = up.weft(&["scale", "echo=2"]);
    assert!(scaled.status.success(), "{scaled:?}");
    // Who follows late has missed the lines of the start: another start has others.
    wait::until("a line of the new instance", START, || async {
        if follow.said("echo-2     | ") {
            return Some(());
        }
        let again = up.weft(&["restart", "echo-2"]);
        assert!(again.status.success(), "{again:?}");
        None
    })
    .await;
    let pids = up.pids();
    up.process.signal(Signal::INT);
    up.ended(0, pids).await;
    assert!(follow.end(END).await.success(), "it ends with the mesh");
}

#[tokio::test]
async fn a_service_that_cannot_start_shows_why_and_nothing_stays() {
    let mut up = start("[services.broken]\ncommand = [\"sh\", \"-c\", \"echo there is no database >&2; exit 3\"]\n");
    let status = up.process.end(FAILED).await;
    let log = up.process.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("there is no database"), "{log}");
    assert!(log.contains("hint: an app listens on 127.0.0.1:$PORT"), "{log}");
    assert!(log.contains("registry   stopped"), "{log}");
}

#[tokio::test]
async fn a_second_ctrl_c_kills_what_does_not_want_to_leave() {
    let test = "a_second_ctrl_c_kills_what_does_not_want_to_leave";
    let Some(echo) = outside::need_binaries(&["weft-echo"], test) else { return };
    let stubborn = format!("trap '' TERM; {} & while :; do sleep 1; done", echo[0].display());
    let mut up = start(&format!("[services.echo]\ncommand = [\"sh\", \"-c\", {stubborn:?}]\n"));
    up.ready().await;
    let pids = up.pids();
    up.process.signal(Signal::INT);
    let process = &up.process;
    wait::until("the stop to begin", END, || async { process.said("gateway    stopped").then_some(()) }).await;
    up.process.signal(Signal::INT);
    let log = up.ended(0, pids).await;
    assert!(log.contains("killed") && !log.contains("echo       stopped"), "{log}");
}

#[tokio::test]
async fn what_is_listed_without_a_process_behind_it_leaves_with_its_slot() {
    let test = "what_is_listed_without_a_process_behind_it_leaves_with_its_slot";
    let Some(echo) = outside::need_binaries(&["weft-echo"], test) else { return };
    let dir = TempDir::new().unwrap();
    let ran = dir.path().join("ran").display().to_string();
    let once = format!("test -e {ran} && exit 3; touch {ran}; exec {}", echo[0].display());
    let mut up = start(&format!("[services.echo]\ncommand = [\"sh\", \"-c\", {once:?}]\n"));
    up.ready().await;
    // The registry keeps the last of a service, and its new sidecar has no app that ever serves.
    process::kill(up.instances()[0].pid);
    wait::until("the new sidecar to see its app fail", START, || async {
        up.instances().iter().any(|row| row.restarts > 0 && row.state != "serving").then_some(())
    })
    .await;
    let check = up.weft(&["check"]);
    assert_eq!(check.status.code(), Some(1), "{}", text(&check.stdout));
    let output = up.weft(&["scale", "echo=0"]);
    assert!(output.status.success(), "{output:?}");
    let check = up.weft(&["check"]);
    assert!(check.status.success(), "{}", text(&check.stdout));
    let pids = up.pids();
    up.process.signal(Signal::INT);
    up.ended(0, pids).await;
}

#[tokio::test]
async fn a_package_is_built_and_run_and_a_compile_error_is_shown() {
    let dir = TempDir::new().unwrap();
    let write = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
    std::fs::create_dir(dir.path().join("src")).unwrap();
    write("Cargo.toml", "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n");
    write("src/main.rs", "fn main() { panic!(\"built and run\") }\n");
    let toml = "[registry]\nlisten = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n[gateway]\nlisten = \"127.0.0.1:0\"\n\
                [services.hello]\npackage = \"hello\"\n";
    let mut up = start_in(dir, toml);
    assert_eq!(up.process.end(FAILED).await.code(), Some(1));
    let Up { dir, process } = up;
    assert!(process.said("  build      hello") && process.said("built and run"), "{}", process.log());

    std::fs::write(dir.path().join("src/main.rs"), "fn main() { nothing_of_that_name() }\n").unwrap();
    let mut up = start_in(dir, toml);
    let status = up.process.end(FAILED).await;
    let log = up.process.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("cannot find function `nothing_of_that_name`") && log.contains("src/main.rs:1"), "{log}");
}

#[tokio::test]
async fn one_mesh_runs_beside_one_file_and_the_second_says_how_to_stop_the_first() {
    let mut up = start("");
    up.ready().await;
    let pids = up.pids();
    let second = up.weft(&["up"]);
    assert_eq!(second.status.code(), Some(1));
    let said = text(&second.stderr);
    assert!(said.contains(&format!("a mesh runs here already (weft up, pid {})", up.process.pid())), "{said}");
    assert!(said.contains("weft stop`"), "{said}");
    assert!(up.weft(&["stop"]).status.success());
    up.ended(0, pids).await;
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_owner_and_the_key_to_change() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let dir = TempDir::new().unwrap();
    let mut up = start_in(
        dir,
        &format!("[registry]\nlisten = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n[gateway]\nlisten = \"{addr}\"\n"),
    );
    let status = up.process.end(FAILED).await;
    let log = up.process.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("[gateway] listen of") && log.contains(&format!("{addr} is taken by")), "{log}");
    assert!(log.contains(&format!("(pid {})", std::process::id())), "{log}");
}

#[test]
fn a_weft_up_that_is_stopped_is_told_as_such() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("weft.toml"), "").unwrap();
    std::fs::create_dir(dir.path().join(".weft")).unwrap();
    // To who asks it is a socket that takes connections and says nothing: so does the kernel for a process that is stopped.
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join(".weft/up.sock")).unwrap();
    let output = weft(dir.path(), &["ps"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("does not answer within 5s: it is stopped (Ctrl-Z"), "{output:?}");
}

#[test]
fn wrong_use_ends_with_code_2_and_a_missing_mesh_with_1() {
    let dir = TempDir::new().unwrap();
    let code = |args: &[&str]| weft(dir.path(), args).status.code();
    assert_eq!(code(&["ps"]), Some(1), "no weft.toml");
    std::fs::write(dir.path().join("weft.toml"), "[services.users]\npackag = \"x\"\n").unwrap();
    let output = weft(dir.path(), &["up"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("weft.toml:2: [services.users]: there is no key packag"), "{output:?}");
    std::fs::write(dir.path().join("weft.toml"), "").unwrap();
    let output = weft(dir.path(), &["ps"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty() && text(&output.stderr).contains("no mesh runs beside"), "{output:?}");
    let (elsewhere, file) = (TempDir::new().unwrap(), dir.path().join("weft.toml"));
    for args in [["get", "policies"], ["token", "list"], ["claims", "--output=json"]] {
        let args = [&args[..], &["--file", file.to_str().unwrap()]].concat();
        let output = weft(elsewhere.path(), &args);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = text(&output.stderr);
        assert!(said.starts_with("weft: no mesh runs beside") && said.ends_with("start it with `weft up`\n"), "{said}");
    }
    std::fs::write(&file, "[gateway]\nconfig = \"gateway.toml\"\n").unwrap();
    std::fs::write(dir.path().join("gateway.toml"), "[limits]\nmax = 1\n").unwrap();
    let output = weft(dir.path(), &["up"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("gateway.toml:2: [limits]: there is no key max"), "{output:?}");
    let tls = "[tls]\ncertificates = [{ chain = \"shop.pem\", key = \"shop.key\" }]\n";
    std::fs::write(dir.path().join("gateway.toml"), tls).unwrap();
    let output = weft(dir.path(), &["up"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(!dir.path().join(".weft").exists(), "nothing was started");
    let told = text(&output.stderr);
    assert!(told.contains("[tls] certificates[0].chain") && told.contains("shop.pem"), "{output:?}");
    assert!(told.contains("give the path of a file in PEM"), "{output:?}");
    let checked = text(&weft(dir.path(), &["check"]).stdout);
    assert!(checked.contains("WEFT0110") && checked.contains("[tls] certificates[0].chain"), "{checked}");
    assert_eq!(code(&["scale", "users"]), Some(2));
    assert_eq!(code(&["dance"]), Some(2));
    assert_eq!(code(&["--help"]), Some(0));
}
