//! Routes that come and go with a service, while others carry load. Inventory: discovery, gateway, gw-routing.
//!
//! Lives here: what a caller of each sees by REST and gRPC, at a gateway that was there and at one that comes later. Does not: two versions of
//! one service (`versions`), route policies (`routes`), whose a name is (registry).

use std::{net::SocketAddr, time::Duration};

use http::{Method, StatusCode};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use weft_proto::weft::testkit::v1::{EchoRequest, echo_client::EchoClient};
use weft_testkit::{
    http::{Answer, send},
    load::{self, Report},
    mesh::{self, App, Mesh},
    wait,
};

use crate::{
    ALONE,
    reliability::{RATE, four_reads_to_one_write},
    versions::{leave, weft},
};

const SOON: Duration = Duration::from_secs(30);
/// Calls of the services that stay, at least.
const CALLS: usize = 1_000;
/// How often the service comes and goes.
const TIMES: usize = 16;

async fn echo(gateway: SocketAddr) -> Answer {
    send(gateway, Method::POST, "/echo", r#"{"text": "a"}"#).await.expect("the gateway answers")
}

/// What a native call is told; OK if it is answered.
async fn native(gateway: SocketAddr) -> tonic::Status {
    let mut client = EchoClient::new(mesh::channel(gateway));
    client.unary(EchoRequest::default()).await.err().unwrap_or_else(|| tonic::Status::ok(""))
}

/// Waits for a status by REST; until then nothing is said but what is `meanwhile`.
async fn until(gateway: SocketAddr, status: StatusCode, meanwhile: StatusCode) {
    wait::until(&format!("/echo to say {status}"), SOON, || async {
        let answer = echo(gateway).await;
        assert!([status, meanwhile].contains(&answer.status), "{answer:?}");
        (answer.status == status).then_some(())
    })
    .await;
}

/// A claimed route without instances says so, and who it is that is not there.
async fn nobody_is_there(gateway: SocketAddr) {
    let answer = echo(gateway).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    assert_eq!(answer.json()["code"], 14, "{answer:?}");
    assert!(answer.body.contains("echo"), "the cause is named: {answer:?}");
    let status = native(gateway).await;
    assert!(status.code() == Code::Unavailable && status.message().contains("echo"), "{status:?}");
}

#[tokio::test]
async fn routes_come_and_go_with_a_service_and_cost_the_others_no_call() {
    let _alone = ALONE.write().await;
    let test = "routes_come_and_go_with_a_service_and_cost_the_others_no_call";
    if weft_testkit::outside::need_binaries(&["weft-echo"], test).is_none() {
        return;
    }
    let Some(mut mesh) = Mesh::start(test, &[App::Users, App::Users]).await else { return };
    let gateway = mesh.gateway_at();
    assert_eq!(echo(gateway).await.status, StatusCode::NOT_FOUND, "nobody has claimed it");
    assert_eq!(native(gateway).await.code(), Code::Unimplemented);
    let enough = CancellationToken::new();
    let call = four_reads_to_one_write(gateway).await;
    let mut loads: JoinSet<Report> = JoinSet::new();
    loads.spawn(load::run_until(gateway, RATE, enough.clone().cancelled_owned(), call));

    let mut before = StatusCode::NOT_FOUND;
    for _ in 0..TIMES {
        let slot = mesh.add(App::Echo).slot.clone();
        until(gateway, StatusCode::OK, before).await;
        assert_eq!(native(gateway).await.code(), Code::Ok);
        leave(&mut mesh, &slot).await;
        until(gateway, StatusCode::SERVICE_UNAVAILABLE, StatusCode::OK).await;
        nobody_is_there(gateway).await;
        before = StatusCode::SERVICE_UNAVAILABLE;
    }
    let mut later = mesh.add_gateway();
    let at = later.address("http").await;
    wait::until("the later gateway to have its routes", SOON, || async {
        (send(at, Method::GET, "/api/users", "").await.ok()?.status == StatusCode::OK).then_some(())
    })
    .await;
    nobody_is_there(at).await;
    weft(&mesh, &["claims", "release", "weft.testkit.v1.Echo"]).await;
    until(gateway, StatusCode::NOT_FOUND, StatusCode::SERVICE_UNAVAILABLE).await;
    wait::until("native calls to know of no such service", SOON, || async {
        (native(gateway).await.code() == Code::Unimplemented).then_some(())
    })
    .await;

    enough.cancel();
    let report = loads.join_next().await.expect("one task").expect("the load does not panic");
    println!("routes come and go {TIMES} times: {report}");
    report.lost_none();
    assert!(report.outcomes.len() >= CALLS, "{report}");
}
