//! `weft token` and `weft identity` as a person and a script use them: tokens, certificates as files, a new root.
//!
//! Lives here: what the commands print and write. Does not: the encoding of files (`weft-identity`), who is refused (`refusals`).

use std::{os::unix::fs::PermissionsExt, process::Command, time::Duration};

use rustix::process::Signal;
use weft_testkit::{
    mesh::{App, Mesh, Options},
    process::Process,
    wait,
};

use super::{leaf, weft};
use crate::ALONE;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn files_are_replaced_before_their_certificate_runs_out_until_ctrl_c() {
    let _shared = ALONE.read().await;
    let test = "files_are_replaced_before_their_certificate_runs_out_until_ctrl_c";
    let options = Options { registry: vec!["--certificate-life".into(), "4".into()], ..Options::default() };
    let Some(mesh) = Mesh::start_as(test, &[], options).await else { return };
    let mut command = Command::new(mesh.weft());
    command.args(["identity", "--service", "posts", "--out", "certs", "--token-file"]).arg(mesh.token_file("posts"));
    let mut keeper = Process::spawn("weft identity", {
        command.current_dir(mesh.dir());
        command
    })
    .unwrap();
    let dir = mesh.dir().join("certs");
    wait::until("the files", SOON, || async { dir.join("bundle.pem").exists().then_some(()) }).await;
    let first = leaf(&dir);
    assert_eq!(first.id.as_str(), "spiffe://weft.local/ns/default/svc/posts");
    assert_eq!(std::fs::metadata(dir.join("key.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    wait::until("a fresh certificate", SOON, || async { (leaf(&dir).serial != first.serial).then_some(()) }).await;
    keeper.signal(Signal::INT);
    assert!(keeper.end(SOON).await.success(), "{}", keeper.log());
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked_by_command() {
    let _shared = ALONE.read().await;
    let test = "tokens_are_made_listed_and_revoked_by_command";
    let Some(mesh) = Mesh::start(test, &[App::Echo]).await else { return };
    let operator = mesh.operator_token();
    let operator = ["--token-file", operator.to_str().unwrap()];
    let run = async |args: &[&str]| weft(&mesh, &[args, &operator].concat()).await;

    let text = run(&["token", "create", "--service", "web", "--life", "2h"]).await;
    assert_eq!(text.trim().split('.').count(), 3, "one string and nothing else: {text}");
    let said = run(&["token", "create", "--service", "web", "--out", "web.token"]).await;
    assert!(said.contains("web.token") && !said.contains("eyJ"), "the string is in the file alone: {said}");
    assert!(!said.contains("is gone"), "there was no such file: {said}");
    let said = run(&["token", "create", "--service", "web", "--out", "web.token"]).await;
    assert!(said.contains("what was in that file is gone"), "{said}");
    assert_eq!(std::fs::metadata(mesh.dir().join("web.token")).unwrap().permissions().mode() & 0o777, 0o600);

    let tokens = async || -> Vec<serde_json::Value> {
        serde_json::from_str(&run(&["token", "list", "-o", "json"]).await).unwrap()
    };
    let web = |it: &&serde_json::Value| it["identity"].as_str().unwrap().ends_with("/svc/web");
    let listed = tokens().await;
    let ids: Vec<&str> = listed.iter().filter(web).map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 3, "{listed:?}");
    run(&["token", "revoke", ids[0]]).await;
    let revoked = |it: &&serde_json::Value| it["id"] == ids[0] && !it["revoked_s"].is_null();
    assert!(tokens().await.iter().any(|it| revoked(&it)));
    let table = run(&["token", "list"]).await;
    let ago =
        table.split("revoked ").nth(1).and_then(|it| it.split_once("s ago")).and_then(|(it, _)| it.parse::<u64>().ok());
    assert!(ago.is_some(), "it says how long ago: {table}");

    let shown = run(&["identity", "-o", "json"]).await;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["identity"], "spiffe://weft.local/ns/weft/svc/operator");
    assert_eq!(shown["roots"].as_array().unwrap().len(), 1, "{shown}");
    let root = run(&["identity", "rotate-root", "--notice", "1h"]).await;
    let shown: serde_json::Value = serde_json::from_str(&run(&["identity", "-o", "json"]).await).unwrap();
    assert!(root.contains(shown["roots"][1].as_str().unwrap()), "{root} in {shown}");

    let mut refused = Command::new(mesh.weft());
    refused.args(["token", "list", "--token-file"]).arg(mesh.token_file("echo"));
    let output = refused.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not_an_operator"), "{output:?}");
}
