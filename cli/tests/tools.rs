//! Commands as a shell meets them: streams, files, words on stderr, exit codes, Ctrl-C.
//!
//! Lives here: the program's edge. Does not: what is added to a manifest, what counts as healthy (`weft-sidecar`), what a command is for.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use weft_testkit::{process::Process, wait};

const SOON: Duration = Duration::from_secs(30);

const POD: &str = "kind: Pod\nmetadata: { name: a }\nspec: { serviceAccountName: a, containers: [{ name: a, ports: [{ containerPort: 9000 }] }] }\n";

fn weft(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    let piped = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("weft starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("weft reads its input");
    drop(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().expect("weft ends");
    let text = |bytes| String::from_utf8(bytes).expect("weft writes text");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn inject_reads_a_stream_writes_one_and_tells_a_person_what_it_did() {
    let (code, out, said) = weft(&["inject", "-f", "-", "--image", "weft:test"], POD);
    assert_eq!(code, Some(0), "{said}");
    assert!(out.contains("image: weft:test") && out.contains("--app=127.0.0.1:9000"), "{out}");
    assert!(said.contains("Pod a") && said.contains("9000"), "{said}");
    let (_, again, _) = weft(&["inject", "-f", "-", "--image", "weft:test"], &out);
    assert_eq!(again, out);
}

#[test]
fn inject_writes_the_file_it_has_read_only_when_all_of_it_is_good() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("shop.yaml");
    let path = file.to_str().unwrap();
    let bad = format!(
        "{POD}---\nkind: Pod\nmetadata: {{ name: b }}\nspec: {{ serviceAccountName: b, containers: [{{ name: b }}] }}\n"
    );
    fs::write(&file, &bad).unwrap();
    let (code, _, said) = weft(&["inject", "-f", path, "-o", path], "");
    assert_eq!(code, Some(2), "{said}");
    for word in [path, "Pod b", "spec.containers[0].ports", "weft.dev/app-port"] {
        assert!(said.contains(word), "{said}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), bad);

    fs::write(&file, POD).unwrap();
    assert_eq!(weft(&["inject", "-f", path, "-o", path], "").0, Some(0));
    assert!(fs::read_to_string(&file).unwrap().contains("name: weft"));
}

#[test]
fn probe_says_by_its_exit_code_whether_somebody_takes_calls() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    assert_eq!(weft(&["probe", &at, "--health", "tcp"], "").0, Some(0));
    drop(listener);
    let (code, _, said) = weft(&["probe", &at, "--health", "tcp", "--timeout", "1"], "");
    assert_eq!(code, Some(1));
    assert!(said.contains(&at) && said.contains("nothing listens"), "{said}");
    assert_eq!(weft(&["probe", "here"], "").0, Some(2));
}

/// Runs a command that waits for ever, and sends it Ctrl-C once it is ready for that; returns its exit code and what it said.
async fn interrupted(arguments: &[&str], dir: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(arguments).current_dir(dir);
    let mut process = Process::spawn("weft", command).expect("weft starts");
    let status = format!("/proc/{}/status", process.pid());
    let catches = || async {
        // Bit 1 of the caught signals is SIGINT: proc(5).
        let status = fs::read_to_string(&status).ok()?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?.trim();
        (u64::from_str_radix(caught, 16).ok()? & 2 != 0).then_some(())
    };
    wait::until("weft to listen for signals", SOON, catches).await;
    process.signal(Signal::INT);
    let code = process.end(SOON).await.code();
    (code, process.log())
}

#[tokio::test]
async fn a_command_that_is_interrupted_has_failed_unless_it_goes_on_until_then() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("weft.toml"), "").unwrap();
    fs::create_dir(dir.path().join(".weft")).unwrap();
    // Nobody answers there: connections wait in the queue of the kernel.
    let _up = UnixListener::bind(dir.path().join(".weft/up.sock")).unwrap();
    let registry = TcpListener::bind("127.0.0.1:0").unwrap();
    let registry = format!("http://{}", registry.local_addr().unwrap());
    for undone in [&["ps"][..], &["logs"], &["scale", "users=2"], &["get", "policies", "--registry", &registry]] {
        let (code, said) = interrupted(undone, dir.path()).await;
        assert_eq!(code, Some(1), "{undone:?}: {said}");
        assert!(said.contains("interrupted"), "{undone:?}: {said}");
    }
    let (code, said) = interrupted(&["check", "--registry", &registry], dir.path()).await;
    assert_eq!(code, Some(1), "nothing was found to be well: {said}");
    assert_eq!(interrupted(&["logs", "-f"], dir.path()).await, (Some(0), String::new()));
}

#[tokio::test]
async fn a_registry_that_hangs_does_not_keep_a_command_from_the_others() {
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args([
        "registry",
        "--insecure",
        "--listen",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--log-format",
        "json",
    ]);
    let mut registry = Process::spawn("registry", {
        command.arg("--data").arg(dir.path());
        command
    })
    .unwrap();
    let (hung, good) = (hung.local_addr().unwrap(), registry.address("grpc").await);
    for _ in 0..4 {
        // Which of them is asked first is left to chance.
        let (code, out, said) = weft(&["get", "policies", "--registry", &format!("http://{hung},http://{good}")], "");
        assert_eq!(code, Some(0), "{said}");
        assert!(out.contains("NAME"), "{out}");
    }
}
