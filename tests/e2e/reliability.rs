//! What callers see when things die: 200 calls a second, open loop, GET : POST 4 : 1. Inventory: supervisor, health-checks, discovery.
//!
//! Lives here: processes killed with SIGKILL by hand, registry outages. Does not: `weft up` and its commands (`up`).
//! The load seeds users first and reads them back by id, so that a GET that finds nothing is a failure too.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use http::{Method, StatusCode};
use serde_json::json;
use tokio::{task::JoinSet, time::Instant};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use weft_proto::{
    shop::users::v1::{ListUsersRequest, users_client::UsersClient},
    weft::{
        discovery::v1::{WatchRequest, discovery_client::DiscoveryClient, service_update::Body},
        model::v1::{Instance, Status},
    },
};
use weft_testkit::{
    http::send,
    load::{self, Call, Report},
    mesh::{App, Mesh},
    process, wait,
};

use crate::ALONE;

pub(crate) const RATE: u32 = 200;
const SPAN: Duration = Duration::from_secs(20);
/// When a load ends beside changes that `enough` tells the end of: not before the time in which something left over from them would show.
pub(crate) async fn span_and(enough: CancellationToken) {
    tokio::time::sleep(SPAN).await;
    enough.cancelled().await;
}

/// For what takes moments, on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// Calls at once that surely meet every data thread of a gateway, of which there is one a core.
const AT_ONCE: usize = 32;

/// Creates users to read, and returns what makes the n-th call: every fifth creates another.
pub(crate) async fn four_reads_to_one_write(gateway: SocketAddr) -> impl FnMut(usize) -> Call + Send + 'static {
    let mut paths = Vec::new();
    for n in 0..10 {
        let body = json!({"name": "Reader", "email": format!("reader-{n}@example.com")}).to_string();
        let created = send(gateway, Method::POST, "/api/users", &body).await.expect("the gateway answers");
        assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
        paths.push(format!("/api/users/{}", created.json()["id"].as_str().expect("an id")));
    }
    move |n| {
        if n % 5 == 4 {
            let body = json!({"name": "Writer", "email": format!("writer-{n}@example.com")}).to_string();
            return Call { method: Method::POST, path: "/api/users".to_owned(), body: Some(body) };
        }
        Call { method: Method::GET, path: paths[n % paths.len()].clone(), body: None }
    }
}

/// Starts the load in the background.
async fn under_load(mesh: &Mesh, span: Duration) -> JoinSet<Report> {
    let call = four_reads_to_one_write(mesh.gateway_at()).await;
    let mut load = JoinSet::new();
    load.spawn(load::run(mesh.gateway_at(), RATE, span, call));
    load
}

async fn report(mut load: JoinSet<Report>, what: &str) -> Report {
    let report = load.join_next().await.expect("one task").expect("the load does not panic");
    println!("{what}: {report}");
    report
}

/// The time within which calls could be lost: from just before a process is killed until nobody sends it a call any more.
struct Death {
    from: Instant,
    to: Instant,
}

impl Death {
    /// Kills, and returns when every data thread of the gateway has been told by the kernel.
    async fn of(mesh: &Mesh, pid: u32) -> Self {
        let from = Instant::now();
        process::kill(pid);
        process::gone(pid, SOON).await;
        // Connections at the same time are spread over the data threads, and a thread that answers one has heard all that came before.
        let mut calls = JoinSet::new();
        for _ in 0..AT_ONCE {
            let gateway = mesh.gateway_at();
            calls.spawn(async move { send(gateway, Method::GET, "/api/users", "").await });
        }
        for answer in calls.join_all().await {
            let answer = answer.expect("the gateway answers");
            assert_eq!(answer.status, StatusCode::OK, "a read fails: {answer:?}");
        }
        Self { from, to: Instant::now() }
    }

    /// No GET may fail, and of the POSTs only what was under way: one of those whose instance dies cannot be sent again, and says so.
    fn cost_only_writes_under_way(&self, report: &Report) {
        let reads = report.failed_with(&Method::GET);
        assert!(reads.is_empty(), "a read failed: {reads:?}");
        let writes = report.outcomes.iter().filter(|it| it.call.method == Method::POST);
        let under_way = writes.filter(|write| write.under_way(self.from, self.to)).count();
        let failed = report.failed_with(&Method::POST);
        println!("writes under way: {under_way}, failed: {}, within {:?}", failed.len(), self.to - self.from);
        for write in failed {
            assert!(write.under_way(self.from, self.to), "a write failed that was not under way: {write:?}");
            let status = write.answer.as_ref().map(|(status, _)| *status);
            assert_eq!(status, Ok(StatusCode::SERVICE_UNAVAILABLE), "a lost write is UNAVAILABLE: {write:?}");
        }
    }
}

/// Waits until an instance answers calls at its own endpoint.
async fn answers(mesh: &Mesh, instance: &Instance) -> Option<()> {
    UsersClient::new(mesh.instance_channel(instance)?).list_users(ListUsersRequest::default()).await.ok().map(|_| ())
}

#[tokio::test]
async fn killing_an_app_fails_no_read_and_its_sidecar_brings_it_back() {
    let _alone = ALONE.write().await;
    let test = "killing_an_app_fails_no_read_and_its_sidecar_brings_it_back";
    let Some(mesh) = Mesh::start(test, &[App::Users, App::Users]).await else { return };
    let victim = mesh.members[0].slot.clone();
    let app = app_of(mesh.members[0].sidecar.pid());

    let load = under_load(&mesh, SPAN).await;
    tokio::time::sleep(SPAN / 4).await;
    let death = Death::of(&mesh, app).await;
    let back = wait::until("the killed app to serve again", SOON, || async {
        let instance = mesh.instances().await.into_iter().find(|i| i.metadata.get("slot") == Some(&victim))?;
        let is_new = app_of_or_none(mesh.members[0].sidecar.pid()).is_some_and(|pid| pid != app);
        (is_new && instance.status() == Status::Serving).then_some(())?;
        answers(&mesh, &instance).await?;
        Some(death.from.elapsed())
    })
    .await;
    println!("from kill -9 of the app to its first answer: {back:?}");
    death.cost_only_writes_under_way(&report(load, "kill -9 of an app").await);
}

#[tokio::test]
async fn killing_a_sidecar_takes_its_app_along_and_fails_no_read() {
    let _alone = ALONE.write().await;
    let test = "killing_a_sidecar_takes_its_app_along_and_fails_no_read";
    let Some(mut mesh) = Mesh::start(test, &[App::Users, App::Users]).await else { return };
    let app = app_of(mesh.members[0].sidecar.pid());

    let load = under_load(&mesh, SPAN).await;
    tokio::time::sleep(SPAN / 4).await;
    let death = Death::of(&mesh, mesh.members[0].sidecar.pid()).await;
    process::gone(app, SOON).await;
    let slot = mesh.add(App::Users).slot.clone();
    let back = wait::until("a new instance to answer", SOON, || async {
        let instance = mesh.instances().await.into_iter().find(|i| i.metadata.get("slot") == Some(&slot))?;
        answers(&mesh, &instance).await?;
        Some(death.from.elapsed())
    })
    .await;
    println!("from kill -9 of the sidecar to the first answer of the instance in its place: {back:?}");
    death.cost_only_writes_under_way(&report(load, "kill -9 of a sidecar").await);
}

#[tokio::test]
async fn a_registry_killed_for_ten_seconds_fails_no_call_and_forgets_nothing() {
    let _alone = ALONE.write().await;
    let test = "a_registry_killed_for_ten_seconds_fails_no_call_and_forgets_nothing";
    let Some(mut mesh) = Mesh::start(test, &[App::Users, App::Users]).await else { return };
    let before = mesh.list().await.expect("the registry answers");
    let listed = listed(&mesh.instances().await);

    let load = under_load(&mesh, SPAN + Duration::from_secs(5)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    mesh.kill_registry();
    tokio::time::sleep(Duration::from_secs(10)).await;
    mesh.start_registry().await;

    // A watcher of the first hour after the restart: no message may carry fewer endpoints than there were.
    let mut watch = DiscoveryClient::new(mesh.registry_channel());
    let subscribe =
        WatchRequest { watcher: test.to_owned(), subscribe: vec!["users".to_owned()], ..WatchRequest::default() };
    let requests = tokio_stream::once(subscribe).chain(tokio_stream::pending());
    let mut updates = watch.watch(requests).await.expect("the registry watches").into_inner();
    let mut seen: BTreeMap<String, bool> = BTreeMap::new();
    let end = tokio::time::Instant::now() + Duration::from_secs(10);
    let mut messages = 0;
    while let Ok(Some(update)) = tokio::time::timeout_at(end, updates.next()).await {
        let update = update.expect("the watch goes on");
        messages += 1;
        assert!(update.version > before.version, "{} after {}", update.version, before.version);
        for service in update.services {
            match service.body.expect("a body") {
                Body::Full(full) => seen = full.instances.iter().map(|i| (i.id.clone(), takes_calls(i))).collect(),
                Body::Delta(delta) => {
                    seen.extend(delta.upserted.iter().map(|i| (i.id.clone(), takes_calls(i))));
                    seen.retain(|id, _| delta.removed.iter().all(|gone| gone.id != *id));
                }
            }
        }
        assert_eq!(
            seen.values().filter(|serving| **serving).count(),
            listed.len(),
            "fewer endpoints than before: {seen:?}"
        );
    }
    assert!(messages > 0, "the watch gave its first answer");

    let after = mesh.list().await.expect("the registry answers");
    assert_eq!(self::listed(&mesh.instances().await), listed, "the same ids and addresses");
    assert!(after.version > before.version);
    let report = report(load, "registry down for 10 s").await;
    assert!(report.failed().is_empty(), "{report}");
}

fn takes_calls(instance: &Instance) -> bool {
    instance.status() == Status::Serving
}

/// Ids and addresses of instances.
fn listed(instances: &[Instance]) -> BTreeMap<String, String> {
    let address = |i: &Instance| i.endpoint.as_ref().map(|e| e.address.clone()).unwrap_or_default();
    instances.iter().map(|i| (i.id.clone(), address(i))).collect()
}

fn app_of(sidecar: u32) -> u32 {
    app_of_or_none(sidecar).expect("the sidecar has an app")
}

fn app_of_or_none(sidecar: u32) -> Option<u32> {
    process::children(sidecar).into_iter().find(|pid| process::runs(*pid))
}
