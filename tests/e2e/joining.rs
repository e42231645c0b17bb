//! Processes that start while the registry is away, or is not the one that their token names any more. Inventory: discovery, rotation.
//!
//! Lives here: gateway and sidecar before and after they have an identity, with the real binaries. Does not: every answer meanwhile (component tests of the
//! two), refusals (`identity::refusals`).

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use http::Method;
use tonic::Code;
use weft_model::SpiffeId;
use weft_proto::weft::{
    model::v1::Status,
    testkit::v1::{EchoRequest, echo_client::EchoClient},
};
use weft_testkit::{
    http::send,
    mesh::{App, Mesh, Options, channel},
    secure, wait,
};

use crate::ALONE;

const SOON: Duration = Duration::from_secs(30);

/// Status and body of an answer of admin, or of `POST /echo`.
async fn asked(at: SocketAddr, method: Method, path: &str) -> (u16, String) {
    let body = if method == Method::POST { "{}" } else { "" };
    let answer = send(at, method, path, body).await.expect("an answer at once");
    (answer.status.as_u16(), answer.body)
}

async fn echoes(gateway: SocketAddr) {
    let path = "/echo";
    wait::until("the gateway to reach echo", SOON, || async {
        let (status, body) = asked(gateway, Method::POST, path).await;
        assert!(matches!(status, 200 | 404 | 503), "{status} {body}"); // 404 while another has the first table
        (status == 200).then_some(())
    })
    .await;
}

fn echo(mesh: &Mesh) -> SpiffeId {
    mesh.identity().trust().domain().service(&"echo".parse().unwrap())
}

/// Waits until an echo instance has on disk what it starts with while no registry answers: who it is, and the last world it knew.
async fn kept(mesh: &Mesh, slot: &str) {
    let file = |what: &str| mesh.dir().join(format!("echo/.weft-{slot}.{what}"));
    let files: [PathBuf; 2] = ["identity", "last-good"].map(file);
    wait::until("what is kept", SOON, || async { files.iter().all(|it| it.exists()).then_some(()) }).await;
}

/// Waits until the registry lists the instance in this slot, at this address, as serving.
async fn serves(mesh: &Mesh, slot: &str, at: SocketAddr) {
    wait::until(&format!("{slot} to serve"), SOON, || async {
        let instances = mesh.instances().await;
        let here = |it: &weft_proto::weft::model::v1::Instance| {
            it.metadata.get("slot").is_some_and(|it| it == slot)
                && it.status() == Status::Serving
                && it.endpoint.as_ref().is_some_and(|it| it.address == at.to_string())
        };
        instances.iter().any(here).then_some(())
    })
    .await;
}

/// Waits until the first sidecar's log says this.
async fn says(mesh: &Mesh, text: &str) {
    let said = || async { mesh.members[0].sidecar.said(text).then_some(()) };
    wait::until(&format!("the sidecar to log {text:?}"), SOON, said).await;
}

#[tokio::test]
async fn who_starts_while_the_registry_is_away_says_so_and_serves_when_it_is_back() {
    let _shared = ALONE.read().await;
    let test = "who_starts_while_the_registry_is_away_says_so_and_serves_when_it_is_back";
    let Some(mut mesh) = Mesh::start(test, &[App::Echo]).await else { return };
    mesh.kill_registry();
    let mut gateway = mesh.add_gateway();
    let (http, admin) = (gateway.address("http").await, gateway.address("admin").await);
    let data = mesh.dir().join("fresh");
    let member = mesh.add_with(App::Echo, &["--data", data.to_str().unwrap()]);
    let (slot, inbound) = (member.slot.clone(), member.sidecar.address("inbound").await);
    for admin in [admin, member.sidecar.address("admin").await] {
        assert_eq!(asked(admin, Method::GET, "/healthz").await.0, 200);
        let (status, why) = asked(admin, Method::GET, "/readyz").await;
        assert!(status == 503 && why.starts_with("not ready: joining the mesh: "), "{status} {why}");
    }
    let (status, why) = asked(http, Method::POST, "/echo").await;
    assert!(status == 503 && why.contains("joining the mesh"), "{status} {why}");
    let refused = EchoClient::new(channel(http)).unary(EchoRequest::default()).await.unwrap_err();
    assert!(refused.code() == Code::Unavailable && refused.message().contains("joining the mesh"), "{refused:?}");

    mesh.start_registry().await;
    echoes(http).await;
    serves(&mesh, &slot, inbound).await;
    mesh.all_serving().await;
}

#[tokio::test]
async fn a_sidecar_killed_while_the_registry_is_away_comes_back_as_who_it_was() {
    let _shared = ALONE.read().await;
    let test = "a_sidecar_killed_while_the_registry_is_away_comes_back_as_who_it_was";
    let Some(mut mesh) = Mesh::start(test, &[App::Echo]).await else { return };
    let slot = mesh.members[0].slot.clone();
    kept(&mesh, &slot).await;
    mesh.kill_registry();
    mesh.members.remove(0).sidecar.kill();

    let member = mesh.add_with(App::Echo, &["--slot", &slot]);
    let inbound = member.sidecar.address("inbound").await;
    let mut client = EchoClient::new(secure::channel(inbound, mesh.identity(), &echo(&mesh)));
    wait::until("the pair to answer without a registry", SOON, || {
        let mut client = client.clone();
        async move { client.unary(EchoRequest::default()).await.ok() }
    })
    .await;
    assert!(mesh.list().await.is_err(), "the registry is away");
    says(&mesh, "this is the identity from before").await;

    mesh.start_registry().await;
    serves(&mesh, &slot, inbound).await;
    client.unary(EchoRequest::default()).await.expect("it goes on");
    echoes(mesh.gateway_at()).await;
}

#[tokio::test]
async fn a_sidecar_killed_after_its_tokens_root_has_left_comes_back_as_who_it_was() {
    let _shared = ALONE.read().await;
    let test = "a_sidecar_killed_after_its_tokens_root_has_left_comes_back_as_who_it_was";
    // What is left of a certificate, half of it at least, has to do for a start on a busy machine.
    let options = Options { registry: ["--certificate-life", "12"].map(str::to_owned).into(), ..Options::default() };
    let Some(mut mesh) = Mesh::start_as(test, &[App::Echo], options).await else { return };
    let slot = mesh.members[0].slot.clone();
    mesh.operator().rotate_root(None).await.unwrap();
    // Half a life until the new root signs, one for the last certificate of the old one, one for clocks.
    wait::until("the old root to leave", 4 * SOON, || async {
        let (bundle, _) = mesh.operator().fresh().trusted().await.ok()?;
        (bundle.roots().len() == 1).then_some(())
    })
    .await;

    mesh.members.remove(0).sidecar.kill();
    let member = mesh.add_with(App::Echo, &["--slot", &slot]); // its token leads to the root that has left
    let inbound = member.sidecar.address("inbound").await;
    serves(&mesh, &slot, inbound).await;
    says(&mesh, "wrong_root").await;
    echoes(mesh.gateway_at()).await;
}
