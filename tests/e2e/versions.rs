//! Descriptors that live: two versions of a service side by side, and a service that claims what belongs to another. Inventory: discovery.
//!
//! Lives here: what callers see of both, by REST, native gRPC and through a sidecar. Does not: the rules of claims (registry), of endpoints
//! per method (`weft-traffic`).

use std::{net::SocketAddr, time::Duration};

use http::{Method, StatusCode, Uri};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Request, client::Grpc, transport::Channel};
use weft_proto::weft::model::v1::Status;
use weft_testkit::{
    foreign,
    http::send,
    load::{self, Begun, Report},
    mesh::{App, Mesh},
    wait,
};

use crate::{
    ALONE,
    reliability::{RATE, four_reads_to_one_write, span_and},
};

const SOON: Duration = Duration::from_secs(30);
/// Calls of the new method while versions change, over each way in, at least.
const CALLS: usize = 1_000;

#[derive(Clone, PartialEq, prost::Message)]
struct CountPostsResponse {
    #[prost(int64, tag = "1")]
    count: i64,
}

/// Calls the method that only the next version of posts has.
async fn count(channel: Channel) -> Result<i64, tonic::Status> {
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| tonic::Status::unknown(error.to_string()))?;
    let path = http::uri::PathAndQuery::from_static("/shop.posts.v1.Posts/CountPosts");
    let codec = tonic_prost::ProstCodec::<(), CountPostsResponse>::default();
    Ok(client.unary(Request::new(()), path, codec).await?.into_inner().count)
}

/// A channel to posts through a sidecar's outbound.
fn through(outbound: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{outbound}")).unwrap();
    endpoint.origin(Uri::from_static("http://posts")).timeout(Duration::from_secs(10)).connect_lazy()
}

/// What became of calls.
struct Calls {
    way: &'static str,
    made: usize,
    failed: Vec<String>,
}

/// Makes calls one after another, a little apart: as many as wanted, and then until `enough`.
async fn keep_calling<F>(way: &'static str, enough: CancellationToken, mut call: impl FnMut() -> F) -> Calls
where
    F: Future<Output = Result<(), String>>,
{
    let mut calls = Calls { way, made: 0, failed: Vec::new() };
    let mut due = tokio::time::interval(Duration::from_millis(5));
    while calls.made < CALLS || !enough.is_cancelled() {
        due.tick().await;
        calls.failed.extend(call().await.err());
        calls.made += 1;
    }
    calls
}

async fn get(gateway: SocketAddr, path: &str) -> Result<(), String> {
    let answer = send(gateway, Method::GET, path, "").await.map_err(|error| format!("{error:#}"))?;
    if answer.status == StatusCode::OK { Ok(()) } else { Err(format!("{answer:?}")) }
}

async fn native(channel: Channel) -> Result<(), String> {
    count(channel).await.map(drop).map_err(|status| format!("{:?}: {status}", status.code()))
}

async fn serving(mesh: &Mesh, slot: &str) {
    wait::until(&format!("{slot} to serve"), SOON, || async {
        let instance =
            mesh.instances().await.into_iter().find(|it| it.metadata.get("slot").is_some_and(|at| at == slot))?;
        (instance.status() == Status::Serving).then_some(())
    })
    .await;
}

/// Lets an instance leave as an orderly stop does, and waits for its end.
pub(crate) async fn leave(mesh: &mut Mesh, slot: &str) {
    let member = mesh.members.iter_mut().find(|member| member.slot == slot).expect("there is such an instance");
    member.sidecar.signal(Signal::TERM);
    member.sidecar.end(Duration::from_secs(60)).await;
    mesh.members.retain(|member| member.slot != slot);
}

#[tokio::test]
async fn a_method_that_only_the_new_version_has_is_never_unimplemented_during_a_rolling_restart() {
    let _alone = ALONE.write().await;
    let test = "a_method_that_only_the_new_version_has_is_never_unimplemented_during_a_rolling_restart";
    let apps = [App::Users, App::Posts, App::Posts];
    if weft_testkit::outside::need_binaries(&["examples/posts-next"], test).is_none() {
        return;
    }
    let Some(mut mesh) = Mesh::start(test, &apps).await else { return };
    let gateway = mesh.gateway_at();
    let ada =
        send(gateway, Method::POST, "/api/users", r#"{"name": "Ada", "email": "ada@example.com"}"#).await.unwrap();
    let post = json!({"authorId": ada.json()["id"], "title": "Notes"}).to_string();
    let post = send(gateway, Method::POST, "/api/posts", &post).await.unwrap();
    assert_eq!(post.status, StatusCode::CREATED, "{post:?}");
    assert_eq!(send(gateway, Method::GET, "/api/posts:count", "").await.unwrap().status, StatusCode::NOT_FOUND);
    let old: Vec<String> = mesh.members[1..].iter().map(|member| member.slot.clone()).collect();

    let first = mesh.add(App::PostsNext).slot.clone();
    serving(&mesh, &first).await;
    let outbound = mesh.members[0].sidecar.address("outbound").await;
    let (direct, aside) = (mesh.gateway_channel(), through(outbound));
    // From the moment on at which the new version is known, which each way in learns for itself, there is no way back.
    wait::until("the new method to be known everywhere", SOON, || async {
        get(gateway, "/api/posts:count").await.ok()?;
        native(direct.clone()).await.ok()?;
        native(aside.clone()).await.ok()
    })
    .await;

    let path = format!("/api/posts/{}", post.json()["id"].as_str().unwrap());
    let enough = CancellationToken::new();
    let mut calls: JoinSet<Calls> = JoinSet::new();
    calls.spawn(keep_calling("REST", enough.clone(), move || get(gateway, "/api/posts:count")));
    calls.spawn(keep_calling("gRPC by the gateway", enough.clone(), move || native(direct.clone())));
    calls.spawn(keep_calling("gRPC by a sidecar", enough.clone(), move || native(aside.clone())));
    calls.spawn(keep_calling("REST, of a method that both have", enough.clone(), move || {
        let path = path.clone();
        async move { get(gateway, &path).await }
    }));

    leave(&mut mesh, &old[0]).await;
    let second = mesh.add(App::PostsNext).slot.clone();
    serving(&mesh, &second).await;
    leave(&mut mesh, &first).await; // the one new instance there was, as a second release right behind the first would have it
    let third = mesh.add(App::PostsNext).slot.clone();
    serving(&mesh, &third).await;
    leave(&mut mesh, &old[1]).await;
    enough.cancel();

    for Calls { way, made, failed } in calls.join_all().await {
        let unimplemented = failed.iter().filter(|it| it.starts_with("Unimplemented") || it.contains("501")).count();
        println!(
            "two versions side by side, {way}: {made} calls, {} failed, {unimplemented} UNIMPLEMENTED",
            failed.len()
        );
        assert!(failed.is_empty(), "{way}: {failed:?}");
        assert!(made >= CALLS, "{way}: {made}");
    }
}

/// Runs a command as an operator would, and returns what it printed.
pub(crate) async fn weft(mesh: &Mesh, args: &[&str]) -> String {
    let program = weft_testkit::outside::binary("weft").expect("the mesh runs by it");
    let output = tokio::process::Command::new(program)
        .args(args)
        .arg("--token-file")
        .arg(mesh.operator_token())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "weft {args:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

async fn claim(mesh: &Mesh, name: &str) -> Value {
    let all: Value = serde_json::from_str(&weft(mesh, &["claims", "-o", "json"]).await).unwrap();
    let claims = all["claims"].as_array().unwrap();
    claims.iter().find(|claim| claim["name"] == name).unwrap_or_else(|| panic!("{name} in {all}")).clone()
}

async fn answered_by(gateway: SocketAddr, path: &str, instance: &str) -> Option<()> {
    let answer = send(gateway, Method::GET, path, "").await.ok()?;
    (answer.status == StatusCode::OK && answer.json()["instance"] == instance).then_some(())
}

#[tokio::test]
async fn a_foreign_service_that_claims_what_users_have_is_refused_by_name_and_nothing_else_changes() {
    let _alone = ALONE.write().await;
    let test = "a_foreign_service_that_claims_what_users_have_is_refused_by_name_and_nothing_else_changes";
    if weft_testkit::outside::need_binaries(&["weft-foreign"], test).is_none() {
        return;
    }
    let Some(mut mesh) = Mesh::start(test, &[App::Users, App::Users]).await else { return };
    let gateway = mesh.gateway_at();
    let begun = Begun::default();
    let call = begun.counting(four_reads_to_one_write(gateway).await);
    let (enough, mut load) = (CancellationToken::new(), JoinSet::<Report>::new());
    load.spawn(load::run_until(gateway, RATE, span_and(enough.clone()), call));

    mesh.add(App::Foreign);
    for path in ["/foreign/own/a", "/foreign/claimed/a"] {
        let what = format!("{path} to be answered by the foreign service");
        wait::until(&what, SOON, || answered_by(gateway, path, foreign::INSTANCE)).await;
    }
    let (name, template) = ("shop.users.v1.Users", "GET /api/users/*");
    let refused = |method: &str| json!([{"claimant": "foreign.default", "method": method}]);
    let whole = claim(&mesh, name).await;
    assert_eq!((&whole["holder"], &whole["refused"]), (&json!("users.default"), &refused("")), "{whole}");
    let one = claim(&mesh, template).await;
    let method = "weft.testkit.v1.Foreign/Claimed";
    assert_eq!((&one["holder"], &one["refused"]), (&json!("users.default"), &refused(method)), "{one}");
    let registry = mesh.registry.as_ref().unwrap();
    for claim in [name, template] {
        let told = |line: &&str| line.contains("claim refused") && line.contains(claim) && line.contains("foreign");
        let count = |log: &str| log.lines().filter(told).count();
        let logged = || async { (count(&registry.log()) > 0).then_some(()) };
        wait::until(&format!("the refusal of {claim} to be logged"), SOON, logged).await;
        assert_eq!(count(&registry.log()), 1, "{claim} is refused once, by name: {}", registry.log());
    }
    begun.more(100, SOON).await;
    enough.cancel();
    let report = load.join_next().await.unwrap().unwrap();
    println!("a foreign service claims names of users: {report}");
    report.lost_none();

    // Until an operator decides otherwise, and for as long as that.
    assert!(weft(&mesh, &["claims", "move", "GET /api/users/{id}", "--to", "foreign"]).await.contains(template));
    let moved = || answered_by(gateway, "/api/users/a", foreign::INSTANCE);
    wait::until("the template to have moved", SOON, moved).await;
    mesh.kill_registry();
    mesh.start_registry().await;
    assert_eq!(claim(&mesh, template).await["placed"], true, "an operator's word survives");
    moved().await.expect("a registry that restarts changes nothing");
    weft(&mesh, &["claims", "move", template, "--to", "users"]).await;
    wait::until("the template to be back", SOON, || async {
        let answer = send(gateway, Method::GET, "/api/users/a", "").await.ok()?;
        (answer.status == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
}
