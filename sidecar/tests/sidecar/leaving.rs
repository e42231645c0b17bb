//! The order of leaving.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use weft_proto::weft::discovery::v1::{WatchRequest, discovery_client::DiscoveryClient};
use weft_proto::weft::model::v1::Status;
use weft_proto::weft::testkit::v1::EchoRequest;
use weft_sidecar::{Config, DrainLimits};
use weft_testkit::{echo, wait};

use crate::fixture::{Fixture, LIMIT, Running, says, soon, under_way};

/// Another one than the usual.
const NOTICE: Duration = Duration::from_secs(2);

fn hasty(config: Config) -> Config {
    Config { drain: DrainLimits { notice: NOTICE, ..DrainLimits::default() }, ..config }
}

#[tokio::test]
async fn leaving_waits_for_watchers_then_calls_then_the_app_and_deregisters_last() {
    let fixture = Fixture::with_registry().await;
    let mut sidecar = fixture.start(hasty(fixture.echo("echo"))).await;
    fixture.listed_as(&sidecar, Status::Serving).await;
    // A watcher that never acknowledges holds the drain for exactly its bound.
    let mut client = DiscoveryClient::connect(fixture.registry_url()).await.unwrap();
    let watch = WatchRequest { watcher: "mute".into(), subscribe: vec!["echo".into()], ..Default::default() };
    let (_hold, requests) = tokio::sync::mpsc::channel(1);
    _hold.send(watch).await.unwrap();
    let mut watching = client.watch(tokio_stream::wrappers::ReceiverStream::new(requests)).await.unwrap().into_inner();
    soon("the first state", watching.message()).await.unwrap().unwrap();

    let client = sidecar.inbound();
    let call = EchoRequest { delay_ms: 10_000, ..says("slow") };
    let slow = async { client.clone().unary(call).await.map(|answer| answer.into_inner().text) };
    let leave = async {
        under_way(client.clone()).await;
        sidecar.shutdown.drain();
        let drained = Instant::now();
        fixture.listed_as(&sidecar, Status::Draining).await;
        sidecar.inbound().unary(says("late")).await.expect("it goes on accepting while callers may not have heard");
        wait::until("the listener to close", LIMIT, || async {
            TcpStream::connect(sidecar.addresses.inbound).await.is_err().then_some(())
        })
        .await;
        let bound = drained.elapsed();
        assert!((NOTICE..DrainLimits::default().notice).contains(&bound), "{bound:?}");
        assert!(!sidecar.app_was_asked_to_end(), "a call is in flight");
    };
    let (answer, ()) = tokio::join!(slow, leave);
    assert_eq!(answer.unwrap(), "slow", "a call in flight finishes");
    sidecar.ended().await.unwrap();
    assert!(sidecar.app_was_asked_to_end());
    assert_eq!(fixture.listed().await, []);
}

#[tokio::test]
async fn a_watcher_that_acknowledges_costs_a_round_trip_and_not_the_notice() {
    let fixture = Fixture::with_registry().await;
    let mut sidecar = fixture.start(fixture.echo("echo")).await;
    sidecar.ready().await;
    let caller = fixture.start(fixture.echo("caller")).await;
    caller.ready().await;
    fixture.listed_as(&caller, Status::Serving).await;
    soon("an answer", caller.outbound("echo").unary(says("x"))).await.unwrap();
    let begun = Instant::now();
    let drained = weft_testkit::http::send(sidecar.addresses.admin, http::Method::POST, "/drain", "").await.unwrap();
    assert!(begun.elapsed() < DrainLimits::default().notice, "{:?}", begun.elapsed());
    assert!(drained.body.contains("acknowledged by sidecar/caller-1"), "{}", drained.body);
    sidecar.ended().await.unwrap();
    assert_eq!(fixture.listed().await.len(), 1, "only the caller is left");
}

/// A sidecar beside an echo app that the test runs; the app ends with the second value.
async fn beside_an_app(fixture: &Fixture) -> (Running, JoinSet<anyhow::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let mut app = JoinSet::new();
    app.spawn(echo::serve(listener, String::new(), std::future::pending()));
    (fixture.start(Config { app: at, ..fixture.config("echo", &[]) }).await, app)
}

async fn drain(sidecar: &Running) -> String {
    let drained = weft_testkit::http::send(sidecar.addresses.admin, http::Method::GET, "/drain", "").await.unwrap();
    assert_eq!(drained.status, http::StatusCode::OK, "{drained:?}");
    drained.body
}

#[tokio::test]
async fn drained_beside_an_app_of_somebody_else_it_carries_that_ones_calls_until_it_is_told_to_end() {
    let fixture = Fixture::with_registry().await;
    let other = fixture.start(fixture.echo("other")).await;
    fixture.listed_as(&other, Status::Serving).await;
    let (mut sidecar, _app) = beside_an_app(&fixture).await;
    fixture.listed_as(&sidecar, Status::Serving).await;

    let told = drain(&sidecar).await;
    wait::until("the listener to close", LIMIT, || async {
        TcpStream::connect(sidecar.addresses.inbound).await.is_err().then_some(())
    })
    .await;
    assert_eq!(drain(&sidecar).await, told, "a second hook is answered like the first");
    soon("an answer", sidecar.outbound("other").unary(says("a last word"))).await.unwrap();
    sidecar.shutdown.drain();
    let begun = Instant::now();
    sidecar.ended().await.unwrap();
    assert!(begun.elapsed() < DrainLimits::default().app, "nothing is left to wait for: {:?}", begun.elapsed());
    assert_eq!(fixture.listed().await.len(), 1, "only the other one is left");
}

#[tokio::test]
async fn drained_beside_an_app_that_vanishes_it_ends_by_itself() {
    let fixture = Fixture::with_registry().await;
    let (mut sidecar, mut app) = beside_an_app(&fixture).await;
    fixture.listed_as(&sidecar, Status::Serving).await;
    drain(&sidecar).await;
    app.shutdown().await;
    sidecar.ended().await.unwrap();
    assert_eq!(fixture.listed().await, []);
}

#[tokio::test]
async fn a_second_word_cuts_every_wait_short() {
    let fixture = Fixture::fixed();
    let mut sidecar = fixture.start(fixture.echo("echo")).await;
    sidecar.ready().await;
    let client = sidecar.inbound();
    let call = async { client.clone().unary(EchoRequest { delay_ms: 60_000, ..says("slow") }).await };
    let leave = async {
        under_way(client.clone()).await;
        sidecar.shutdown.drain();
        sidecar.shutdown.abort();
        let begun = Instant::now();
        assert!(sidecar.ended().await.is_err());
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    };
    let (answer, ()) = tokio::join!(call, leave);
    assert!(answer.is_err());
}

#[tokio::test]
async fn an_app_that_ends_by_its_own_word_ends_its_sidecar() {
    let fixture = Fixture::with_registry().await;
    let mut sidecar = fixture.start(fixture.config("echo", &["true"])).await;
    sidecar.ended().await.unwrap();
    assert_eq!(fixture.listed().await, []);
}
