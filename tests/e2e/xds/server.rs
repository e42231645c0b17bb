//! Stock gRPC servers with xDS credentials: they take connections of the mesh alone, and enforce their access policies themselves (gRFC A36, A41).
//!
//! Lives here: what their callers must see. Does not: the servers (`go/serve.go`, `server.py`), how policies become RBAC (the registry's own tests).

use std::{net::SocketAddr, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_proto::weft::{
    model::v1::{Endpoint, Instance, Status, Transport, transport},
    policy::v1 as policy,
    registry::v1::{RegisterRequest, registry_client::RegistryClient},
};
use weft_runtime::listen::ListenAddr;
use weft_testkit::{mesh::Mesh, secure};

use super::{
    apply, fails_with, no_failure,
    stock::{self, Client, Lang, Server, Told},
    until_told,
};
use crate::ALONE;

/// What the server answers as.
const NAME: &str = "01900000-0000-7000-8000-00000000a036";

/// Lists the server, as an operator may.
async fn register(mesh: &Mesh, at: SocketAddr) {
    let identity = mesh.identity().trust().domain().service(&"vault".parse().unwrap()).to_string();
    let transport = Transport { kind: Some(transport::Kind::Mtls(transport::Mtls { identity })) };
    let endpoint = Endpoint { address: at.to_string(), transport: Some(transport), protocol: 0 };
    let mut instance =
        Instance { id: NAME.into(), service: "vault".into(), endpoint: Some(endpoint), ..Instance::default() };
    instance.set_status(Status::Serving);
    let request = RegisterRequest { instance: Some(instance), ttl_ms: 600_000 };
    RegistryClient::new(mesh.registry_channel()).register(request).await.expect("the operator may");
}

/// A rule of an access policy.
fn rule(action: policy::rule::Action, from: policy::Callers, methods: &[&str]) -> policy::Rule {
    let methods = methods.iter().map(|it| (*it).to_owned()).collect();
    policy::Rule { action: action.into(), from: Some(from), methods, ..policy::Rule::default() }
}

fn access(rules: Vec<policy::Rule>) -> Vec<policy::Policy> {
    let kind = Some(policy::policy::Kind::Access(policy::Access { rules }));
    vec![policy::Policy { name: "vault-access".into(), service: "vault".into(), version: 0, kind }]
}

fn services(names: &[&str]) -> policy::Callers {
    policy::Callers { services: names.iter().map(|it| (*it).to_owned()).collect(), ..policy::Callers::default() }
}

/// Calls until they come out so.
async fn until(client: &mut Client, what: &str, is: impl Fn(&Told) -> bool) {
    until_told(client, what, (5, ""), is).await;
}

fn all_pass(told: &Told) -> bool {
    told.failed.is_empty() && told.answered.keys().eq([NAME])
}

fn all_refused(told: &Told) -> bool {
    told.answered.is_empty() && fails_with(told, "PermissionDenied")
}

async fn takes_the_mesh_alone_and_enforces_access_policies(lang: Lang, test: &str) {
    use policy::rule::Action::{Allow, Deny};

    if !stock::there(lang, test) {
        return;
    }
    let _shared = ALONE.read().await;
    let Some(mut mesh) = Mesh::start(test, &[]).await else { return };
    let certificates = stock::identity(&mesh, "vault").await;
    let at = ListenAddr::loopback(0).lasting().get(); // no other test is given it before the server takes it
    let _server = Server::start(lang, &mesh, "vault", &certificates, at, NAME).await;
    register(&mesh, at).await;

    let web = stock::identity(&mesh, "web").await;
    let mut client = Client::start(lang, &mut mesh, "xds:///vault", Some(&web)).await;
    until(&mut client, "calls without a policy", all_pass).await;

    apply(&mesh, access(vec![rule(Allow, services(&["posts"]), &[])])).await;
    until(&mut client, "a refusal, since the policy names another service", all_refused).await;

    apply(&mesh, access(vec![rule(Allow, services(&["web"]), &["weft.testkit.v1.Echo/ServerStream"])])).await;
    until(&mut client, "a refusal, since the policy names another method", all_refused).await;

    apply(&mesh, access(vec![rule(Allow, services(&["posts", "web"]), &["weft.testkit.v1.Echo/Unary"])])).await;
    until(&mut client, "calls of a service and method allowed", all_pass).await;

    let everyone = policy::Callers { authenticated: true, ..policy::Callers::default() };
    let denied = rule(Deny, services(&["web"]), &["weft.testkit.v1.Echo/*"]);
    apply(&mesh, access(vec![rule(Allow, everyone, &[]), denied])).await;
    until(&mut client, "a refusal, since denying wins", all_refused).await;

    let namespace = policy::Callers { namespaces: vec!["default".into()], ..policy::Callers::default() };
    apply(&mesh, access(vec![rule(Allow, namespace, &[])])).await;
    until(&mut client, "calls of a namespace allowed", all_pass).await;

    apply(&mesh, access(Vec::new())).await;
    until(&mut client, "a refusal, since no rule allows anything", all_refused).await;

    let identity = mesh.identity().trust().domain().service(&"web".parse().unwrap()).to_string();
    let exactly = policy::Callers { identities: vec![identity], ..policy::Callers::default() };
    apply(&mesh, access(vec![rule(Allow, exactly, &[])])).await;
    until(&mut client, "calls of an identity allowed", all_pass).await;
    no_failure(&client.calls(100, "").await);
    assert_eq!(super::rejections(&mut mesh).await, 0, "neither rejects what it is told");

    assert!(!lets_in(at).await, "without a certificate nobody gets as far as HTTP/2");
}

#[tokio::test]
async fn a_go_server_takes_the_mesh_alone_and_enforces_access_policies() {
    let test = "a_go_server_takes_the_mesh_alone_and_enforces_access_policies";
    takes_the_mesh_alone_and_enforces_access_policies(Lang::Go, test).await;
}

#[tokio::test]
async fn a_python_server_takes_the_mesh_alone_and_enforces_access_policies() {
    let test = "a_python_server_takes_the_mesh_alone_and_enforces_access_policies";
    takes_the_mesh_alone_and_enforces_access_policies(Lang::Python, test).await;
}

/// Whether a stranger without a certificate is answered on a connection: the first frame of a server is its SETTINGS.
async fn lets_in(at: SocketAddr) -> bool {
    let talk = async {
        let mut connection = secure::connect_as(secure::stranger(None), at).await.ok()?;
        connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.ok()?;
        let mut frame = [0; 9];
        connection.read_exact(&mut frame).await.ok()
    };
    tokio::time::timeout(Duration::from_secs(10), talk).await.expect("the server says something or closes").is_some()
}
