//! Who may what at the real registry over TLS: every method that must not be anybody's, asked by nobody, by a service and by an operator.
//!
//! Lives here: the tables. Does not: what the methods do (the registry's own tests), the rules of tokens (its `ca`).

use tonic::{Code, Status, transport::Channel};
use weft_identity::{Identity, KeyRequest, bootstrap_config};
use weft_model::{Check, CheckKind, Instance};
use weft_proto::weft::{
    discovery::v1::{self as discovery, discovery_client::DiscoveryClient},
    model::v1 as model,
    policy::v1::{self as policy, policies_client::PoliciesClient},
    registry::v1::{self as pb, identity_client::IdentityClient, registry_client::RegistryClient},
};

use crate::identity::{LONG, Mesh, channel, clock, joined, name, rule};
use crate::leases::instance;

/// Everybody who may call a registry.
struct Callers {
    nobody: Channel,
    service: Channel,
    operator: Channel,
}

impl Callers {
    /// The service is `posts`.
    async fn of(mesh: &mut Mesh) -> Self {
        let registry = mesh.ca.domain().service(&name("registry.weft"));
        let known = |identity: Identity, at| {
            let registry = registry.clone();
            channel(at, move || identity.client_config(&registry))
        };
        let config = bootstrap_config(mesh.token("x").pin(), &registry, &clock());
        let token = std::fs::read_to_string(mesh.dir.path().join("ca/operator.token")).unwrap();
        let (_task, operator) = joined(token.parse().unwrap(), None).await.unwrap();
        let posts = mesh.join("posts").await;
        Self {
            nobody: channel(mesh.at, move || config.clone()),
            service: known(posts, mesh.at),
            operator: known(operator, mesh.at),
        }
    }
}

fn refused<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>, code: Code, by: &str) {
    let status = answer.expect_err(what);
    assert_eq!((status.code(), rule(&status).as_str()), (code, by), "{what}: {status}");
}

/// Asks `$call` as nobody and as a service, and demands that both are refused.
macro_rules! an_operators {
    ($callers:expr, $($client:ident . $method:ident ( $request:expr )),* $(,)?) => {$({
        let what = stringify!($method);
        let asked = $client::new($callers.nobody.clone()).$method($request).await;
        refused(what, asked, Code::Unauthenticated, "NO_CERTIFICATE");
        let asked = $client::new($callers.service.clone()).$method($request).await;
        let status = asked.expect_err(what);
        assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status}");
        assert!(["NOT_AN_OPERATOR", "SERVICE_NOT_ALLOWED"].contains(&rule(&status).as_str()), "{what}: {status}");
    })*};
}

/// Asks `$call` as nobody and as a service, and demands that only the service may.
macro_rules! a_members {
    ($callers:expr, $($client:ident . $method:ident ( $request:expr )),* $(,)?) => {$({
        let what = stringify!($method);
        let asked = $client::new($callers.nobody.clone()).$method($request).await;
        refused(what, asked, Code::Unauthenticated, "NO_CERTIFICATE");
        let asked = $client::new($callers.service.clone()).$method($request).await;
        assert!(
            !asked.as_ref().is_err_and(|it| matches!(it.code(), Code::Unauthenticated | Code::PermissionDenied)),
            "{what}: {asked:?}"
        );
    })*};
}

#[tokio::test]
async fn what_is_an_operators_is_refused_to_nobody_and_to_services() {
    let mut mesh = Mesh::new(LONG).await;
    let callers = Callers::of(&mut mesh).await;
    let (roots, tokens) = (mesh.ca.trusted(), mesh.ca.list_tokens().len());
    let of_posts = policy::Policy { name: "posts".into(), service: "posts".into(), ..Default::default() };
    an_operators!(
        callers,
        PoliciesClient.apply(policy::ApplyRequest { policies: vec![of_posts.clone()], ..Default::default() }),
        PoliciesClient.delete(policy::DeleteRequest { name: "posts".into(), ..Default::default() }),
        PoliciesClient.get(policy::GetRequest { name: "posts".into() }),
        PoliciesClient.list(policy::ListRequest::default()),
        RegistryClient.move_claim(pb::MoveClaimRequest { name: "a.B".into(), to: "posts".into() }),
        RegistryClient.release_claim(pb::ReleaseClaimRequest { name: "a.B".into() }),
        IdentityClient.create_token(pb::CreateTokenRequest { service: "posts".into(), ..Default::default() }),
        IdentityClient.list_tokens(pb::ListTokensRequest {}),
        IdentityClient.revoke_token(pb::RevokeTokenRequest { id: mesh.ca.list_tokens()[0].id.clone() }),
        IdentityClient.revoke(pb::RevokeRequest {
            what: Some(pb::revoke_request::What::Identity(mesh.ca.domain().service(&name("posts")).to_string())),
        }),
        IdentityClient.rotate_root(pb::RotateRootRequest::default()),
    );
    assert_eq!(mesh.ca.trusted(), roots);
    assert!(mesh.ca.list_tokens().len() == tokens && mesh.ca.list_tokens().iter().all(|it| it.revoked.is_none()));

    let mut operator = PoliciesClient::new(callers.operator.clone());
    assert!(operator.list(policy::ListRequest::default()).await.unwrap().into_inner().policies.is_empty());
    IdentityClient::new(callers.operator).list_tokens(pb::ListTokensRequest {}).await.unwrap();
}

#[tokio::test]
async fn what_members_read_and_write_is_refused_to_nobody() {
    let mut mesh = Mesh::new(LONG).await;
    let callers = Callers::of(&mut mesh).await;
    let csr = || KeyRequest::generate().unwrap().csr().to_vec().into();
    let watch = || tokio_stream::once(discovery::WatchRequest { watcher: "us".into(), ..Default::default() });
    a_members!(
        callers,
        DiscoveryClient.watch(watch()),
        DiscoveryClient.list(discovery::ListRequest::default()),
        DiscoveryClient.claims(discovery::ClaimsRequest {}),
        DiscoveryClient.descriptors(discovery::DescriptorsRequest { service: "posts".into(), ..Default::default() }),
        RegistryClient.missing_descriptors(pb::MissingDescriptorsRequest::default()),
        RegistryClient.put_descriptors(pb::PutDescriptorsRequest::default()),
        RegistryClient.keep_alive(tokio_stream::once(pb::KeepAliveRequest::default())),
        IdentityClient.renew(pb::RenewRequest { csr: csr() }),
        IdentityClient.bundle(pb::BundleRequest {}),
    );
    let health = tonic_health::pb::HealthCheckRequest::default();
    tonic_health::pb::health_client::HealthClient::new(callers.nobody).check(health).await.unwrap();
}

#[tokio::test]
async fn a_service_speaks_for_itself_only_and_does_not_send_the_registry_to_check() {
    let mut mesh = Mesh::new(LONG).await;
    let callers = Callers::of(&mut mesh).await;
    let mut posts = RegistryClient::new(callers.service);
    let of = |service: &str, kind: Option<CheckKind>| {
        let check =
            kind.map(|kind| Check { kind, interval: LONG, timeout: LONG, unhealthy_after: 3, healthy_after: 1 });
        let instance: model::Instance =
            (&Instance { service: name(service), check: check.map(Box::new), ..instance() }).into();
        pb::RegisterRequest { instance: Some(instance), ttl_ms: 0 }
    };
    let put = pb::PutDescriptorsRequest {
        instance: instance().id.to_string(),
        service: "users".into(),
        ..Default::default()
    };
    refused("users' set", posts.put_descriptors(put).await, Code::PermissionDenied, "SERVICE_NOT_ALLOWED");
    refused("users", posts.register(of("users", None)).await, Code::PermissionDenied, "SERVICE_NOT_ALLOWED");

    let elsewhere = Some("127.0.0.1:9".parse().unwrap());
    let http = |address| CheckKind::Http { path: "/drain".into(), address };
    let grpc = CheckKind::Grpc { service: String::new(), address: elsewhere };
    for kind in [http(elsewhere), http(None), grpc, CheckKind::Tcp { address: elsewhere }] {
        let what = format!("{kind:?}");
        let asked = posts.register(of("posts", Some(kind))).await;
        refused(&what, asked, Code::PermissionDenied, "CHECK_NOT_ALLOWED");
    }
    posts.register(of("posts", Some(CheckKind::Ttl { ttl: LONG }))).await.unwrap();
    let mut operator = RegistryClient::new(callers.operator);
    operator.register(of("posts", Some(http(elsewhere)))).await.unwrap();
}
