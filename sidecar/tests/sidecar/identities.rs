//! Sidecars with identities: how they are listed, how they call each other, what others are told.
//!
//! Lives here: the role as a whole. Does not: each rule of the door (unit tests of `server`), joining by token.

use tonic::Code;
use weft_model::{Instance, Transport};
use weft_proto::weft::{model::v1::Status, testkit::v1::EchoRequest};
use weft_sidecar::{Config, Plaintext};
use weft_testkit::wait;

use crate::fixture::{Authority, Fixture, LIMIT, says, soon};

#[tokio::test]
async fn sidecars_with_identities_are_listed_as_mtls_and_call_each_other_so() {
    let (fixture, authority) = (Fixture::with_registry().await, Authority::new());
    let who = authority.identity("echo");
    let callee = fixture.start(Config { identity: Some(who.clone()), ..fixture.echo("echo") }).await;
    let listed = Instance::try_from(fixture.listed_as(&callee, Status::Serving).await).unwrap();
    assert_eq!(listed.endpoint.transport, Transport::Mtls { identity: who.id() });

    let caller = Config { identity: Some(authority.identity("caller")), ..fixture.echo("caller") };
    let caller = fixture.start(caller).await;
    let answer = soon("an answer", caller.outbound("echo").unary(says("x"))).await.unwrap().into_inner();
    assert_eq!(answer.instance, callee.id.to_string());
    let many = EchoRequest { count: 5, padding: 100_000, ..says("many") };
    let mut answers = caller.outbound("echo").server_stream(many).await.unwrap().into_inner();
    for turn in 0..5 {
        assert!(soon("an answer", answers.message()).await.unwrap().is_some(), "{turn}");
    }
    assert_eq!(callee.metric("weft_sidecar_inbound_refusals_total").await, "");
}

#[tokio::test]
async fn who_has_no_identity_is_refused_on_both_ways_and_told_so() {
    let (fixture, authority) = (Fixture::with_registry().await, Authority::new());
    let callee = fixture.start(Config { identity: Some(authority.identity("echo")), ..fixture.echo("echo") }).await;
    fixture.listed_as(&callee, Status::Serving).await;

    let refused = callee.inbound().unary(says("x")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("rule plaintext"), "{}", refused.message());
    assert_eq!(callee.metric("weft_sidecar_inbound_refusals_total").await, "{rule=\"plaintext\"} 1");

    let caller = fixture.start(fixture.echo("caller")).await;
    caller.ready().await;
    let failed = soon("an answer", caller.outbound("echo").unary(says("x"))).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable);
    assert!(failed.message().contains("this process has no identity"), "{}", failed.message());
    assert!(caller.metric("weft_sidecar_upstream_refusals_total").await.starts_with("{rule=\"no_identity\"}"));
}

#[tokio::test]
async fn plaintext_from_this_machine_comes_in_where_it_may() {
    let (fixture, authority) = (Fixture::fixed(), Authority::new());
    let config = Config {
        identity: Some(authority.identity("echo")),
        plaintext: Some(Plaintext::Loopback),
        ..fixture.echo("echo")
    };
    let sidecar = fixture.start(config).await;
    sidecar.ready().await;
    wait::until("an answer", LIMIT, || async { sidecar.inbound().unary(says("x")).await.ok() }).await;
}

#[tokio::test]
async fn a_sidecar_that_could_let_nobody_in_does_not_start() {
    let fixture = Fixture::fixed();
    let config = Config { plaintext: Some(Plaintext::Refuse), ..fixture.echo("echo") };
    let context = weft_runtime::Context::for_test("sidecar", weft_runtime::Env::default());
    let Err(error) = weft_sidecar::Sidecar::bind(config, &context) else { panic!("it starts") };
    assert!(error.to_string().contains("--plaintext refuse needs an identity"), "{error}");
}
