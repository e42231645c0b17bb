//! Edge policies in a whole mesh: from `weft apply` and `weft keys` to what two gateways do, live.
//!
//! Lives here: that a policy and a key reach gateways, and leave them again in time. Does not: what each kind does (the gateway's own tests).

use std::{
    net::SocketAddr,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use tokio::process::Command;
use weft_testkit::{
    http::{Answer, send_with},
    mesh::{App, Mesh},
    outside, wait,
};

use crate::ALONE;

const SOON: Duration = Duration::from_secs(30);

/// Runs a command of `weft` as the operator, with this on its standard input.
async fn weft(mesh: &Mesh, args: &[&str], input: &str) -> Output {
    use tokio::io::AsyncWriteExt;
    let program = outside::binary("weft").expect("checked at the start of the mesh");
    let mut command = Command::new(program);
    command.args(args).arg("--token-file").arg(mesh.operator_token());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().expect("weft starts");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).await.expect("weft reads its input");
    tokio::time::timeout(SOON, child.wait_with_output()).await.expect("weft ends").expect("weft can be waited for")
}

/// The same, and it succeeds; returns what it says.
async fn told(mesh: &Mesh, args: &[&str], input: &str) -> String {
    let output = weft(mesh, args, input).await;
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("weft says text").trim().to_owned()
}

async fn get(gateway: SocketAddr, headers: &[(&str, &str)]) -> Answer {
    send_with(gateway, Method::GET, "/api/users", headers, "").await.expect("a gateway answers")
}

async fn until_status(gateway: SocketAddr, headers: &[(&str, &str)], status: StatusCode) {
    let what = format!("{gateway} to answer {status}");
    wait::until(&what, SOON, || async { (get(gateway, headers).await.status == status).then_some(()) }).await;
}

const APPLY: [&str; 5] = ["apply", "-f", "-", "--format", "yaml"];

#[tokio::test]
async fn a_key_counts_at_every_gateway_until_it_is_revoked_and_then_at_none() {
    let _shared = ALONE.read().await;
    let test = "a_key_counts_at_every_gateway_until_it_is_revoked_and_then_at_none";
    let Some(mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let mut second = mesh.add_gateway();
    let gateways = [mesh.gateway_at(), second.address("http").await];
    for gateway in gateways {
        until_status(gateway, &[], StatusCode::OK).await;
    }
    let policy = "name: callers\nservice: gateway\nauthentication: { api_keys: true }\n";
    told(&mesh, &APPLY, policy).await;
    for gateway in gateways {
        until_status(gateway, &[], StatusCode::UNAUTHORIZED).await;
    }
    let key = told(&mesh, &["keys", "create", "billing", "--claim", "plan=gold"], "").await;
    assert!(key.starts_with("weft_"), "{key}");
    let shown = [("x-api-key", key.as_str())];
    for gateway in gateways {
        until_status(gateway, &shown, StatusCode::OK).await;
    }
    let listed = told(&mesh, &["keys", "list", "-o", "json"], "").await;
    assert!(listed.contains("\"billing\"") && listed.contains("\"gold\"") && !listed.contains(&key), "{listed}");
    let again = weft(&mesh, &["keys", "create", "billing"], "").await;
    assert!(!again.status.success() && again.stdout.is_empty(), "a name is given once: {again:?}");
    let no_key = weft(&mesh, &["keys", "revoke", "callers"], "").await;
    assert!(!no_key.status.success(), "a policy is no key: {no_key:?}");

    // From the moment that the operator has the answer.
    assert_eq!(told(&mesh, &["keys", "revoke", "billing"], "").await, "key billing revoked");
    let revoked = Instant::now();
    for gateway in gateways {
        until_status(gateway, &shown, StatusCode::UNAUTHORIZED).await;
    }
    println!("a revoked key was refused by two gateways after {:?}", revoked.elapsed());
    let refused = get(gateways[1], &shown).await;
    let message = refused.json()["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("policy callers, rule key-unknown"), "{refused:?}");
    let log = mesh.gateway.log();
    assert!(log.contains("\"rule\":\"key-unknown\"") && !log.contains(&key), "the log names the rule and no key");

    told(&mesh, &["delete", "policies", "callers"], "").await;
    for gateway in gateways {
        until_status(gateway, &[], StatusCode::OK).await;
    }
}

#[tokio::test]
async fn a_services_own_policy_stands_in_for_the_gateways_live() {
    let _shared = ALONE.read().await;
    let test = "a_services_own_policy_stands_in_for_the_gateways_live";
    let Some(mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let gateway = mesh.gateway_at();
    let cors = |name: &str, service: &str, origin: &str| {
        format!("name: {name}\nservice: {service}\ncors: {{ origins: ['{origin}'] }}\n")
    };
    let allowed = async |origin: &str| {
        let answer = get(gateway, &[("origin", origin)]).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.headers.get("access-control-allow-origin").is_some_and(|it| it.as_bytes() == origin.as_bytes())
    };
    let until = async |what: &str, origin: &str, may: bool| {
        wait::until(what, SOON, || async { (allowed(origin).await == may).then_some(()) }).await;
    };
    let (one, two) = ("https://one.example", "https://two.example");
    assert!(!allowed(one).await, "without a policy a page is told nothing");
    told(&mesh, &APPLY, &cors("whole", "gateway", one)).await;
    until("the gateway's policy to count", one, true).await;
    told(&mesh, &APPLY, &cors("own", "users", two)).await;
    until("the service's own policy to count", two, true).await;
    assert!(!allowed(one).await, "it stands in for the gateway's");
    told(&mesh, &["delete", "policies", "own"], "").await;
    until("the gateway's policy to count again", one, true).await;
    let wrong = weft(&mesh, &APPLY, &cors("wrong", "users", "two.example")).await;
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(said.contains("stdin:3: cors.origins[0]"), "{said}");
}
