//! Policies of the app's service at the inbound: applied at the registry, in force at the next call, kept over the registry's absence.
//!
//! Callers here are anonymous; what each identity may is told by `weft-traffic`'s tests, whole meshes of identities by `tests/e2e`.

use tonic::Code;
use tonic_types::StatusExt;
use weft_proto::weft::model::v1::Status;
use weft_proto::weft::policy::v1::{
    Access, ApplyRequest, Callers, Policy, Rule, policies_client::PoliciesClient, policy::Kind,
};
use weft_testkit::wait;

use crate::fixture::{Fixture, LIMIT, Running, says};

/// Applies the one policy of `echo`, which lets anonymous callers use these methods.
async fn allow(fixture: &Fixture, methods: &[&str]) {
    let from = Some(Callers { anonymous: true, ..Default::default() });
    let methods = methods.iter().map(|it| it.to_string()).collect();
    let rule = Rule { name: "callers".into(), from, methods, ..Default::default() };
    let kind = Some(Kind::Access(Access { rules: vec![rule] }));
    let policy = Policy { name: "echo-callers".into(), service: "echo".into(), version: 0, kind };
    let request = ApplyRequest { policies: vec![policy], ..Default::default() };
    PoliciesClient::connect(fixture.registry_url()).await.unwrap().apply(request).await.unwrap();
}

async fn code(sidecar: &Running) -> Code {
    sidecar.inbound().unary(says("x")).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

async fn until(sidecar: &Running, wanted: Code) {
    let ask = || async { (code(sidecar).await == wanted).then_some(()) };
    wait::until(&format!("calls to end with {wanted:?}"), LIMIT, ask).await;
}

#[tokio::test]
async fn a_policy_is_in_force_at_the_next_call_of_a_connection_that_is_open() {
    let fixture = Fixture::with_registry().await;
    let sidecar = fixture.start(fixture.echo("echo")).await;
    fixture.listed_as(&sidecar, Status::Serving).await;
    let mut client = sidecar.inbound();
    client.unary(says("x")).await.unwrap();

    allow(&fixture, &["weft.testkit.v1.Echo/ServerStream"]).await;
    until(&sidecar, Code::PermissionDenied).await;
    let refused = client.unary(says("x")).await.unwrap_err();
    let told = "anonymous may not call weft.testkit.v1.Echo/Unary: policy echo-callers, rule default";
    assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, told));
    let info = refused.get_details_error_info().unwrap();
    assert_eq!((info.metadata["policy"].as_str(), info.metadata["rule"].as_str()), ("echo-callers", "default"));
    client.server_stream(says("x")).await.unwrap();
    let metrics = weft_testkit::http::send(sidecar.addresses.admin, http::Method::GET, "/metrics", "").await.unwrap();
    let metrics = metrics.body;
    let counted = r#"weft_sidecar_policy_refusals_total{policy="echo-callers",rule="default"} "#;
    assert!(metrics.lines().any(|it| it.starts_with(counted) && !it.ends_with(" 0")), "{metrics}");

    allow(&fixture, &["weft.testkit.v1.Echo/*"]).await;
    until(&sidecar, Code::Ok).await;
    client.unary(says("x")).await.unwrap();
}

#[tokio::test]
async fn a_sidecar_that_starts_while_the_registry_is_away_enforces_what_an_earlier_one_knew() {
    let mut fixture = Fixture::with_registry().await;
    let mut first = fixture.start(fixture.echo("echo")).await;
    fixture.listed_as(&first, Status::Serving).await;
    allow(&fixture, &["weft.testkit.v1.Echo/ServerStream"]).await;
    until(&first, Code::PermissionDenied).await;
    first.shutdown.drain();
    first.ended().await.unwrap();

    fixture.stop_registry().await;
    let second = fixture.start(fixture.echo("echo")).await;
    // It does not accept before it knows its rules; then the app may not be there yet, and is, and no call gets through but by the rules.
    let refused = wait::until("the policy's word", LIMIT, || async {
        match second.inbound().unary(says("x")).await {
            Ok(answer) => panic!("let in without a rule: {answer:?}"),
            Err(status) if status.code() == Code::PermissionDenied => Some(status),
            Err(_) => None,
        }
    })
    .await;
    assert!(refused.message().contains("echo-callers"), "{refused}");
}
