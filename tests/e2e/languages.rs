//! Services and clients in five languages, four of them with no weft in them, behind sidecars of `weft up`, as `cargo xtask clients` made them and
//! `clients/weft.toml` starts them. Inventory: polyglot. Issue: step 3, "it must show", 5.
//!
//! Lives here: the mesh of that file, the clients and their three ways into it. Does not: the ring under a magnifier and under load (`ring`), how libraries
//! are fetched (xtask), each library's own behaviour (`xds`).

mod ring;

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Output,
};

use tokio::process::Command;
use weft_testkit::{outside, up::Up};

use crate::ALONE;

/// The order in which a pass goes around. Those but Rust have a client, too.
const RING: [&str; 5] = ["go", "java", "node", "python", "rust"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Starts the mesh of `clients/weft.toml`, on any free ports and with programs that are already built; services of the ring have `scale` instances. None
/// if a language is missing; the test named then skips loudly.
async fn mesh(test: &str, scale: usize, env: &[(&str, &str)]) -> Option<Up> {
    let file = fs::read_to_string(repository().join("clients/weft.toml")).unwrap();
    let languages = RING[..4].iter().map(|it| outside::need(outside::clients(it), test, &format!("clients in {it}")));
    let made = languages.collect::<Option<Vec<_>>>()?[0].parent().unwrap().to_owned();
    outside::need_from_setup(outside::program("node"), test, "Node.js")?;
    outside::need_from_setup(outside::program("java"), test, "Java")?;
    Up::start(test, ["ring", "users"], env, |[ring, users], dir| {
        symlink(repository().join("clients/python"), dir.join("python")).unwrap();
        let (_, services) = file.split_once("[services.").expect("it has services");
        let services = format!("[services.{services}").replace("../target/clients", &made.display().to_string());
        let services = replaced(&services, "package = \"weft-ring\"", &format!("command = [{ring:?}]"));
        let services = replaced(&services, "package = \"weft-users\"", &format!("command = [{users:?}]"));
        RING.iter().fold(services, |services, language| {
            let table = format!("[services.{language}]\n");
            replaced(&services, &table, &format!("{table}scale = {scale}\n"))
        })
    })
    .await
}

fn replaced(text: &str, once: &str, by: &str) -> String {
    assert_eq!(text.matches(once).count(), 1, "{once} in clients/weft.toml");
    text.replace(once, by)
}

/// A client's program and first arguments, as README.md has them.
fn client(language: &str) -> Command {
    let made = outside::clients(language).expect("asked for before");
    let (program, first) = match language {
        "python" => (made.join("run"), repository().join("clients/python/client.py").display().to_string()),
        "node" => ("node".into(), made.join("client.js").display().to_string()),
        "java" => (made.join("run"), "Client".to_owned()),
        _ => return Command::new(made.join("bin/client")),
    };
    let mut command = Command::new(program);
    command.arg(first);
    command
}

/// Runs a client to its end, and returns what it printed.
async fn told(language: &str, env: &[(&str, String)], args: &[&str]) -> String {
    let run = client(language).args(args).envs(env.iter().map(|(key, value)| (key, value))).kill_on_drop(true).output();
    let Output { status, stdout, stderr } = run.await.expect("it starts");
    let said = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{language} {args:?}: {said}{}", String::from_utf8_lossy(&stderr));
    said
}

/// Writes the file by which a library of gRPC finds the mesh, as a person would.
async fn bootstrap(up: &Up, language: &str, server: SocketAddr) -> String {
    let out = up.dir().join(format!("{language}.json")).display().to_string();
    up.run(&["bootstrap", "--lang", language, "--server", &format!("http://{server}"), "--out", &out]).await;
    out
}

/// Asserts that these services had the pass in this order, all in one trace.
fn assert_round(said: &str, wanted: &[&str]) {
    let hops: Vec<Vec<&str>> = said.lines().map(|line| line.splitn(4, ' ').collect()).collect();
    assert_eq!(hops.iter().map(|hop| hop[0]).collect::<Vec<_>>(), wanted, "{said}");
    let traces: BTreeSet<_> = hops.iter().map(|hop| hop[2]).collect();
    assert!(traces.len() == 1 && traces.first().unwrap().len() == 32, "one trace: {said}");
}

/// The ring, begun at one of its services.
fn round_from(first: usize) -> [&'static str; 5] {
    std::array::from_fn(|n| RING[(first + n) % RING.len()])
}

#[tokio::test]
async fn clients_in_four_languages_come_in_by_gateway_by_sidecar_and_by_xds() {
    let test = "clients_in_four_languages_come_in_by_gateway_by_sidecar_and_by_xds";
    let _shared = ALONE.read().await;
    let Some(up) = mesh(test, 1, &[]).await else { return };
    let gateway = format!("gateway={}", up.address("gateway", "http").await);
    // The sidecar beside a client is that of any instance here.
    let outbound = up.address("users-1", "outbound").await;
    for (first, language) in RING[..4].iter().enumerate() {
        let env = [
            ("WEFT_OUTBOUND", format!("http://{outbound}")),
            ("GRPC_XDS_BOOTSTRAP", bootstrap(&up, language, outbound).await),
        ];
        for way in [gateway.as_str(), "sidecar", "xds"] {
            assert!(!told(language, &env, &[way, "users"]).await.trim().is_empty(), "the id of a user");
            let route = round_from(first);
            let said = told(language, &env, &[way, "ring", &route.join(",")]).await;
            if way == "xds" {
                // Nobody but the library stands before the first service, and this client begins no trace.
                assert_eq!(said.lines().map(|it| it.split(' ').next().unwrap()).collect::<Vec<_>>(), route, "{said}");
            } else {
                assert_round(&said, &route);
            }
        }
    }
}
