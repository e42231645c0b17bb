//! Edge policies in a whole mesh: from `weft apply` and `weft keys` to what two gateways do, live. Inventory: gw-auth, gw-rate-limit,
//! gw-cache, api-keys, express-gateway.
//!
//! Lives here: that a policy and a key reach gateways, and leave them again in time. Does not: what each kind does (the gateway's own tests).

use std::{
    net::SocketAddr,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use serde_json::json;
use tokio::process::Command;
use weft_testkit::{
    http::{Answer, send_with},
    issuer::{Issuer, Key},
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

/// Waits until the gateway's log says this: lines are written beside the calls, and read from a pipe.
async fn logged(mesh: &Mesh, text: &str) {
    wait::until(&format!("the gateway to log {text}"), SOON, || async { mesh.gateway.said(text).then_some(()) }).await;
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
    let no_policy = weft(&mesh, &["delete", "policies", "billing"], "").await;
    let said = String::from_utf8_lossy(&no_policy.stderr).into_owned();
    assert!(
        !no_policy.status.success() && said.contains("`weft keys revoke billing`"),
        "a key is ended as one: {said}"
    );
    until_status(gateways[0], &shown, StatusCode::OK).await;

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
    logged(&mesh, "\"rule\":\"key-unknown\"").await;
    assert!(!mesh.gateway.said(&key), "the log names the rule and no key");

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

/// A policy of each kind about a method of its own, so that none is in another's way.
fn of_each_kind(issuer: &str) -> String {
    let of = |method: &str| format!("methods: [shop.users.v1.Users/{method}]");
    let (list, create) = (of("ListUsers"), of("CreateUser"));
    let kinds = [
        ("kept", format!("cache: {{ {list}, ttl: 1h }}")),
        ("served", format!("headers: {{ {list}, response: [{{ name: x-served-by, set: weft }}] }}")),
        ("small", format!("limits: {{ {create}, max_request_bytes: 300 }}")),
        (
            "few",
            format!(
                "rate_limit: {{ rules: [{{ name: one, per: [address], calls: 1, every: 1h, {} }}] }}",
                of("DeleteUser")
            ),
        ),
        (
            "callers",
            format!("authentication: {{ {}, jwt: [{{ issuer: '{issuer}', audiences: [shop] }}] }}", of("UpdateUser")),
        ),
    ];
    kinds.map(|(name, says)| format!("name: {name}\nservice: users\n{says}\n")).join("---\n")
}

#[tokio::test]
async fn a_policy_of_each_kind_is_seen_at_the_port_and_gone_when_it_is_deleted() {
    let _shared = ALONE.read().await;
    let test = "a_policy_of_each_kind_is_seen_at_the_port_and_gone_when_it_is_deleted";
    let Some(mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let key = Key::p256("one");
    let issuer = Issuer::start(&[&key]).await;
    let gateway = mesh.gateway_at();
    let call = async |method: Method, path: &str, headers: &[(&str, &str)], body: &str| {
        send_with(gateway, method, path, headers, body).await.expect("a gateway answers")
    };
    let until = async |what: &str, method: Method, path: &str, body: &str, seen: fn(&Answer) -> bool| {
        let asked = || async { Some(call(method.clone(), path, &[], body).await).filter(seen) };
        wait::until(what, SOON, asked).await
    };
    let (list, nobody) = ("/api/users", "/api/users/nobody");
    let served = |it: &Answer| it.headers.contains_key("x-served-by");
    assert!(!served(&get(gateway, &[]).await));
    told(&mesh, &APPLY, &of_each_kind(&issuer.url())).await;

    until("headers", Method::GET, list, "", served).await;
    until("the cache", Method::GET, list, "", |it| said(it, "cache-status").starts_with("weft; hit")).await;
    let ada = "{\"name\": \"Ada\", \"email\": \"ada@shop.example\"}";
    assert_eq!(call(Method::POST, list, &[], ada).await.status, StatusCode::CREATED);
    let after = get(gateway, &[]).await;
    assert!(said(&after, "cache-status").starts_with("weft; fwd=miss") && after.body.contains("Ada"), "{after:?}");
    let long = format!("{{\"name\": \"{}\"}}", "x".repeat(400));
    until("limits", Method::POST, list, &long, |it| it.status == StatusCode::PAYLOAD_TOO_LARGE).await;
    let few =
        until("the rate limit", Method::DELETE, nobody, "", |it| it.status == StatusCode::TOO_MANY_REQUESTS).await;
    assert!(few.headers.contains_key("retry-after"), "{few:?}");
    until("authentication", Method::PATCH, nobody, "{}", |it| it.status == StatusCode::UNAUTHORIZED).await;
    let wall = weft_runtime::clock::wall().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let token = key.sign(&json!({"iss": issuer.url(), "aud": "shop", "sub": "ada", "exp": wall + 600}));
    let bearer = format!("Bearer {token}");
    let shown = || async {
        let answer = call(Method::PATCH, nobody, &[("authorization", &bearer)], "{}").await;
        // Until the issuer's keys are there it is a 503.
        (answer.status != StatusCode::SERVICE_UNAVAILABLE).then_some(answer)
    };
    let shown = wait::until("the issuer's keys", SOON, shown).await;
    assert_eq!(shown.status, StatusCode::NOT_FOUND, "let in, and there is no such user: {shown:?}");

    for name in ["kept", "served", "small", "few", "callers"] {
        told(&mesh, &["delete", "policies", name], "").await;
    }
    until("no headers", Method::GET, list, "", |it| !it.headers.contains_key("x-served-by")).await;
    until("no cache", Method::GET, list, "", |it| !it.headers.contains_key("cache-status")).await;
    until("no limits", Method::POST, list, &long, |it| it.status != StatusCode::PAYLOAD_TOO_LARGE).await;
    until("no rate limit", Method::DELETE, nobody, "", |it| it.status == StatusCode::NOT_FOUND).await;
    until("no authentication", Method::PATCH, nobody, "{}", |it| it.status == StatusCode::NOT_FOUND).await;
    logged(&mesh, "\"caller\":\"127.0.0.1\"").await; // the access log says where calls come from
}

fn said<'a>(answer: &'a Answer, header: &str) -> &'a str {
    answer.headers.get(header).and_then(|it| it.to_str().ok()).unwrap_or_default()
}

#[tokio::test]
async fn rules_of_a_policy_bind_methods_live_and_go_with_it() {
    let _shared = ALONE.read().await;
    let test = "rules_of_a_policy_bind_methods_live_and_go_with_it";
    let Some(mesh) = Mesh::start(test, &[App::Users, App::Posts]).await else { return };
    mesh.all_serving().await;
    let gateway = mesh.gateway_at();
    let ask = async |path: &str| send_with(gateway, Method::GET, path, &[], "").await.expect("a gateway answers");
    let until = async |path: &str, status: StatusCode| {
        let what = format!("{path} to answer {status}");
        wait::until(&what, SOON, || async { (ask(path).await.status == status).then_some(()) }).await;
    };
    until("/api/users", StatusCode::OK).await;
    until("/api/posts", StatusCode::OK).await;
    assert_eq!(ask("/people").await.status, StatusCode::NOT_FOUND);
    let rule = |path: &str| {
        format!(
            "name: paths\nservice: users\nhttp:\n  rules:\n    - selector: shop.users.v1.Users.ListUsers\n      get: {path}\n"
        )
    };
    told(&mesh, &APPLY, &rule("/people")).await;
    until("/people", StatusCode::OK).await;
    let replaced = ask("/api/users").await;
    assert_eq!(replaced.status, StatusCode::METHOD_NOT_ALLOWED, "the annotation is stood in for: {replaced:?}");
    let document = ask("/openapi.json").await.json();
    assert_eq!(document["paths"]["/people"]["get"]["operationId"], "shop.users.v1.Users.ListUsers");
    assert!(document["paths"]["/api/users"]["get"].is_null());

    let wrong = weft(&mesh, &APPLY, &rule("people/{id")).await;
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(!wrong.status.success() && said.contains("stdin:6: http.rules[0].get"), "{said}");

    // What posts claims is not users' by a rule, and whoever applies it is told.
    let taken = weft(&mesh, &APPLY, &rule("/api/posts")).await;
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    let doubt = "policy paths: rule shop.users.v1.Users.ListUsers: GET /api/posts belongs to posts.default";
    assert!(taken.status.success() && said.contains(doubt), "{said}");
    until("/people", StatusCode::NOT_FOUND).await;
    assert!(ask("/api/posts").await.json()["users"].is_null(), "posts answers as before");
    logged(&mesh, "policy paths: GET /api/posts belongs to posts").await; // it says what it leaves out

    told(&mesh, &APPLY, &rule("/people")).await;
    until("/people", StatusCode::OK).await;
    told(&mesh, &["delete", "policies", "paths"], "").await;
    until("/people", StatusCode::NOT_FOUND).await;
    until("/api/users", StatusCode::OK).await;
}
