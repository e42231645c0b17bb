//! Faults that show only in what processes say of themselves and of each other: a store that takes nothing, leases that cannot be told from a
//! broken network, a certificate that nobody renews, another version, policies that name nobody. Inventory: check.
//!
//! Lives here: these faults, injected into real processes or put between them. Does not: what breaks calls (`check`).

use std::net::SocketAddr;

use http::Method;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tonic::Code;
use weft_discovery::{Credential, join};
use weft_identity::{Callers, Identity};
use weft_model::metadata;
use weft_proto::weft::{
    model::v1::{Instance, Transport, transport},
    policy::v1::{self as policy, policies_client::PoliciesClient, policy::Kind},
    registry::v1::{RegisterRequest, registry_client::RegistryClient},
};
use weft_testkit::{
    http::send,
    mesh::{App, Mesh, Options},
    secure, wait,
};

use super::{Checked, Named, SOON};
use crate::ALONE;

/// An id that no process gave itself.
const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const HOUR_MS: u32 = 3_600_000;

/// Checks until exactly these ids show.
async fn comes_to_show<const N: usize>(named: &Named, ids: [&str; N]) -> Checked {
    let checked = wait::until(&format!("{ids:?} to show"), SOON, || async {
        let checked = named.check().await;
        (checked.ids() == ids.into()).then_some(checked)
    })
    .await;
    checked.shows(ids);
    checked
}

/// An instance of echo at this address, like one of the mesh but for its sidecar: it has none.
async fn echo_at(mesh: &Mesh, at: SocketAddr, identity: &Identity) -> Instance {
    let mut instance = mesh.instances().await.remove(0);
    (instance.id, instance.service, instance.epoch) = (ID.into(), "echo".into(), 0);
    instance.descriptor_digest = Vec::new().into();
    instance.metadata = [(metadata::SLOT.to_owned(), "echo-9".to_owned())].into();
    let endpoint = instance.endpoint.as_mut().expect("an instance has an endpoint");
    endpoint.address = at.to_string();
    let mtls = transport::Mtls { identity: identity.id().to_string() };
    endpoint.transport = Some(Transport { kind: Some(transport::Kind::Mtls(mtls)) });
    instance
}

async fn register(mesh: &Mesh, instance: Instance) -> Result<(), tonic::Status> {
    let request = RegisterRequest { instance: Some(instance), ttl_ms: HOUR_MS };
    RegistryClient::new(mesh.registry_channel()).register(request).await.map(drop)
}

#[tokio::test]
async fn a_store_that_takes_nothing_any_more_is_named_until_the_registry_is_started_again() {
    let _shared = ALONE.read().await;
    let test = "a_store_that_takes_nothing_any_more_is_named_until_the_registry_is_started_again";
    // Without this the kernel would end the process at its first write, in place of refusing that.
    let options = Options { registry_shell: "trap '' XFSZ".to_owned(), ..Options::default() };
    let Some(mut mesh) = Mesh::start_as(test, &[App::Users], options).await else { return };
    let named = Named::of(&mut mesh).await;
    named.check().await.shows([]);

    let pid = mesh.registry.as_ref().expect("it runs").pid();
    let full = Rlimit { current: Some(1), ..getrlimit(Resource::Fsize) };
    prlimit(Pid::from_raw(pid.cast_signed()), Resource::Fsize, full).unwrap();
    let refused = register(&mesh, echo_at(&mesh, mesh.gateway_at(), mesh.identity()).await).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    named.check().await.shows(["WEFT0204"]);

    mesh.kill_registry();
    mesh.start_registry().await;
    mesh.all_serving().await;
    comes_to_show(&Named::of(&mut mesh).await, []).await;
}

/// A way to somewhere that can be cut: connections end, and no more come through.
struct Wire {
    at: SocketAddr,
    cut: watch::Sender<bool>,
    _carrying: JoinSet<()>,
}

impl Wire {
    async fn to(there: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, (cut, seen)) = (listener.local_addr().unwrap(), watch::channel(false));
        let mut carrying = JoinSet::new();
        carrying.spawn(async move {
            let mut streams = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                if !*seen.borrow() {
                    streams.spawn(carry(stream, there, seen.clone()));
                }
            }
        });
        Self { at, cut, _carrying: carrying }
    }
}

async fn carry(mut near: TcpStream, there: SocketAddr, mut cut: watch::Receiver<bool>) {
    let Ok(mut far) = TcpStream::connect(there).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => {}
        _ = cut.wait_for(|cut| *cut) => {}
    }
}

#[tokio::test]
async fn instances_that_fall_silent_together_are_doubt_in_the_network_and_no_fault_of_theirs() {
    let _shared = ALONE.read().await;
    let test = "instances_that_fall_silent_together_are_doubt_in_the_network_and_no_fault_of_theirs";
    let Some(mut mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let wire = Wire::to(mesh.registry_at()).await;
    let registry = format!("https://{}", wire.at);
    for _ in 0..3 {
        mesh.add_with(App::Users, &["--registry", &registry]);
    }
    mesh.all_serving().await;
    let named = Named::of(&mut mesh).await;
    named.check().await.shows([]);
    wire.cut.send_replace(true);
    let checked = comes_to_show(&named, ["WEFT0205"]).await;
    assert!(checked.detail("WEFT0205").contains("users"), "{:#}", checked.report);
    assert_eq!(checked.well("WEFT0601"), 4, "they are reached all the same: {:#}", checked.report);
    wire.cut.send_replace(false);
    comes_to_show(&named, []).await;
}

/// Takes connections as this identity, and nothing else.
async fn shown(identity: &Identity) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, acceptor) = (listener.local_addr().unwrap(), TlsAcceptor::from(identity.server_config(Callers::MustShow)));
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(acceptor.accept(stream).await); // whoever looks has seen it
        }
    });
    (at, serving)
}

#[tokio::test]
async fn a_certificate_that_is_not_renewed_is_named_before_it_runs_out() {
    let _shared = ALONE.read().await;
    let test = "a_certificate_that_is_not_renewed_is_named_before_it_runs_out";
    // Others renew at 15 s; from 22 s on an old one should be gone.
    let options = Options { registry: ["--certificate-life", "30"].map(str::to_owned).into(), ..Options::default() };
    let Some(mut mesh) = Mesh::start_as(test, &[App::Users], options).await else { return };
    let credential = Credential::read(&mesh.token_file("echo"), None).unwrap();
    let (never_run, identity) = join(credential, None, secure::clock(), SOON).await.unwrap();
    drop(never_run); // what would renew it
    let (at, _serving) = shown(&identity).await;
    register(&mesh, echo_at(&mesh, at, &identity).await).await.unwrap();

    let named = Named::of(&mut mesh).await;
    let checked = named.check().await;
    checked.shows([]);
    assert_eq!(
        checked.well("WEFT0305"),
        3,
        "short lives are no fault of two instances and the registry: {:#}",
        checked.report
    );
    let checked = comes_to_show(&named, ["WEFT0305"]).await;
    assert_eq!(checked.subject("WEFT0305"), "echo-9");
    assert!(checked.detail("WEFT0305").ends_with(" s left"), "{:#}", checked.report);
}

/// Answers what `there` answers, but for the version that it tells.
async fn older(there: SocketAddr) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut answers = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            answers.spawn(answer_older(stream, there));
        }
    });
    (at, serving)
}

async fn answer_older(stream: TcpStream, there: SocketAddr) {
    let (mut stream, mut head) = (BufReader::new(stream), String::new());
    while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).await.is_ok_and(|read| read > 0) {}
    let path = head.split(' ').nth(1).unwrap_or("/");
    let Ok(answer) = send(there, Method::GET, path, "").await else { return };
    let own = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    let body = answer.body.replace(&own, "version=\"0.0.9\"");
    let head = format!("HTTP/1.1 {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.status, body.len());
    drop(stream.write_all((head + &body).as_bytes()).await); // who asked may have left
}

#[tokio::test]
async fn a_process_of_another_version_is_named() {
    let _shared = ALONE.read().await;
    let test = "a_process_of_another_version_is_named";
    let Some(mut mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let named = Named::of(&mut mesh).await;
    let (at, _serving) = older(mesh.gateway.address("admin").await).await;
    let checked = named.with("--gateway-admin", at.to_string()).check().await;
    checked.shows(["WEFT0109"]);
    assert_eq!((checked.subject("WEFT0109"), checked.code), ("gateway", Some(0)), "{:#}", checked.report);
    assert!(checked.detail("WEFT0109").starts_with("is 0.0.9, "), "{:#}", checked.report);
}

/// Says of a service that these services may call these methods, and that everybody may call everything.
async fn apply(mesh: &Mesh, name: &str, service: &str, callers: &[&str], methods: &[&str]) {
    let words = |of: &[&str]| of.iter().map(|it| (*it).to_owned()).collect();
    let named = policy::Callers { services: words(callers), ..Default::default() };
    let all = policy::Callers { authenticated: true, ..Default::default() };
    let rules = vec![
        policy::Rule { name: "some".into(), from: Some(named), methods: words(methods), ..Default::default() },
        policy::Rule { name: "all".into(), from: Some(all), ..Default::default() },
    ];
    let kind = Some(Kind::Access(policy::Access { rules }));
    let policy = policy::Policy { name: name.into(), service: service.into(), kind, ..Default::default() };
    let request = policy::ApplyRequest { policies: vec![policy], ..Default::default() };
    PoliciesClient::new(mesh.registry_channel()).apply(request).await.unwrap();
}

#[tokio::test]
async fn a_policy_about_what_nobody_has_is_named_and_one_about_what_is_there_is_not() {
    let _shared = ALONE.read().await;
    let test = "a_policy_about_what_nobody_has_is_named_and_one_about_what_is_there_is_not";
    let Some(mut mesh) = Mesh::start(test, &[App::Users, App::Posts]).await else { return };
    let named = Named::of(&mut mesh).await;
    let methods = ["shop.users.v1.Users/GetUser", "shop.users.v1.Users/*", "grpc.health.v1.Health/Check"];
    apply(&mesh, "right", "users", &["gateway", "posts"], &methods).await;
    let checked = named.check().await;
    checked.shows([]);
    assert_eq!(checked.well("WEFT0409"), 1, "{:#}", checked.report);

    apply(&mesh, "method", "users", &["posts"], &["shop.users.v1.Users/GetUsers"]).await;
    let checked = named.check().await;
    checked.shows(["WEFT0409"]);
    let rule = "rule some: users.default has no method shop.users.v1.Users/GetUsers";
    assert_eq!((checked.subject("WEFT0409"), checked.detail("WEFT0409")), ("method", rule));

    apply(&mesh, "method", "users", &["psots"], &[]).await;
    let checked = named.check().await;
    checked.shows(["WEFT0409"]);
    let rule = "rule some: the caller psots.default is nobody's; is posts.default meant?";
    assert_eq!(checked.detail("WEFT0409"), rule);

    apply(&mesh, "method", "user", &["posts"], &[]).await;
    let checked = named.check().await;
    checked.shows(["WEFT0409"]);
    let service = "its service user.default is nobody's; is users.default meant?";
    assert_eq!((checked.detail("WEFT0409"), checked.code), (service, Some(0)), "{:#}", checked.report);
}
