//! Identities from the real registry over TLS: joining, every refusal, renewal, rotation of certificates and root under calls, revocation.
//!
//! Lives here: what a process gets for its token and keeps. Does not: the rules of tokens and roots (the registry's `ca`), of peers (`weft-identity`).

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use weft_discovery::{
    IdentityError, IdentityTask, LeaseState, Leases, Registries, RegistryUrls, Topic, Watch, WatchConfig, enter, join,
};
use weft_identity::token::Token;
use weft_identity::{Callers, Clock, Identity, KeyRequest, Refusal, Trust, bootstrap_config};
use weft_model::{LeaseTtl, ServiceName, Status as ServiceStatus};
use weft_proto::weft::registry::v1 as pb;
use weft_proto::weft::registry::v1::identity_client::IdentityClient;
use weft_proto::weft::registry::v1::registry_client::RegistryClient;
use weft_registry::ca::{Ca, Revoke, Settings};
use weft_registry::{Config, Registry};
use weft_runtime::{Context, Env, Shutdown};

use crate::fake::soon;
use crate::leases::instance;

const WITHIN: Duration = Duration::from_secs(10);
pub(crate) const LONG: Duration = Duration::from_secs(3_600);
/// A life of certificates that is seen to its end, half of which a machine may stand still.
const SHORT: Duration = Duration::from_secs(5);

/// A registry of its own, and what belongs to it.
pub(crate) struct Mesh {
    pub(crate) dir: TempDir,
    pub(crate) at: SocketAddr,
    pub(crate) ca: Ca,
    context: Context,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

pub(crate) fn clock() -> Clock {
    Arc::new(weft_runtime::clock::wall)
}

fn settings(dir: &Path, life: Duration, advertise: Vec<String>) -> Settings {
    Settings { dir: dir.join("ca"), trust_domain: "weft.local".parse().unwrap(), life, advertise, kubernetes: None }
}

impl Mesh {
    pub(crate) async fn new(life: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let identity = Some(settings(dir.path(), life, vec![]));
        let config = Config {
            listen: anywhere,
            http: anywhere,
            dns: anywhere,
            dns_ttl: Duration::ZERO,
            data: dir.path().to_owned(),
            identity,
        };
        let context = Context::for_test("registry", Env::default());
        let registry = Registry::bind(config, &context).await.unwrap();
        let (at, ca) = (registry.grpc_addr().unwrap(), registry.ca().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { registry.run(Shutdown::new()).await.unwrap() });
        Self { dir, at, ca, context, stop: CancellationToken::new(), tasks }
    }

    fn url(&self) -> String {
        format!("https://{}", self.at)
    }

    pub(crate) fn token(&self, service: &str) -> Token {
        self.ca.create_token(Some(&name(service)), None).unwrap().0.parse().unwrap()
    }

    pub(crate) async fn join(&mut self, service: &str) -> Identity {
        let (task, identity) = joined(self.token(service), None).await.unwrap();
        self.tasks.spawn(task.run(self.stop.clone()));
        identity
    }

    /// A client of the authority that shows no certificate.
    pub(crate) fn anonymous(&self) -> IdentityClient<Channel> {
        let registry = self.ca.domain().service(&name("registry.weft"));
        let config = bootstrap_config(self.token("users").pin(), &registry, &clock());
        IdentityClient::new(channel(self.at, move || config.clone()))
    }

    fn known(&self, identity: &Identity) -> IdentityClient<Channel> {
        let (registry, identity) = (self.ca.domain().service(&name("registry.weft")), identity.clone());
        IdentityClient::new(channel(self.at, move || identity.client_config(&registry)))
    }

    pub(crate) fn counted(&self, rule: &str) -> bool {
        let line = format!("weft_registry_identity_refusals_total{{outcome=\"{rule}\"}}");
        self.context.metrics().encode().contains(&line)
    }
}

pub(crate) fn name(service: &str) -> ServiceName {
    service.parse().unwrap()
}

pub(crate) fn channel(at: SocketAddr, config: impl Fn() -> Arc<rustls::ClientConfig> + Send + 'static) -> Channel {
    let connect = tower::service_fn(move |_: Uri| {
        let connector = TlsConnector::from(config());
        async move {
            let stream = connector.connect(server_name(), TcpStream::connect(at).await?).await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    Endpoint::from_static("http://registry").connect_with_connector_lazy(connect)
}

fn server_name() -> ServerName<'static> {
    ServerName::try_from("mesh.invalid").unwrap()
}

pub(crate) async fn joined(
    token: Token,
    service: Option<ServiceName>,
) -> Result<(IdentityTask, Identity), IdentityError> {
    soon("joining", join(token.try_into().unwrap(), service, clock(), WITHIN)).await
}

pub(crate) fn rule(status: &Status) -> String {
    status.get_details_error_info().expect("a refusal names its rule").reason
}

/// The rule by which the registry refused a token.
async fn refused(token: Token, service: Option<ServiceName>) -> String {
    match joined(token, service).await {
        Err(IdentityError::Refused(status)) => rule(&status),
        other => panic!("{other:?}"),
    }
}

/// Waits for a state that another task brings about.
async fn until(what: &str, mut state: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !state().await {
            tokio::time::sleep(Duration::from_millis(10)).await; // between two looks, not instead of one
        }
    })
    .await;
}

#[tokio::test]
async fn a_token_gives_an_identity_that_the_registry_knows() {
    let mut mesh = Mesh::new(LONG).await;
    let users = mesh.join("users").await;
    assert_eq!(users.id(), mesh.ca.domain().service(&name("users")));
    assert_eq!(users.trust().bundle(), mesh.ca.trusted().bundle);

    let urls: RegistryUrls = mesh.url().parse().unwrap();
    let registries = Registries::secured(&urls, &users);
    let config = WatchConfig { watcher: "test/1".into(), admin: None, topics: vec![Topic::All], last_good: None };
    let (task, mut watch) = Watch::new(registries, config);
    mesh.tasks.spawn(task.run(mesh.stop.clone()));
    soon("a snapshot over mutual TLS", watch.next()).await.unwrap();
}

#[tokio::test]
async fn the_authority_is_healthy_over_tls_and_refuses_plaintext() {
    let mut mesh = Mesh::new(LONG).await;
    let mut plain = IdentityClient::connect(format!("http://{}", mesh.at)).await.unwrap();
    let sent = plain.bundle(pb::BundleRequest {}).await;
    let refused = sent.unwrap_err();
    let by_the_client = std::error::Error::source(&refused).is_some(); // a status that was answered has no cause
    assert!(by_the_client, "the connection ends: nothing is answered in plaintext: {refused:?}");
    let users = mesh.join("users").await;
    let mut bundle = mesh.known(&users).bundle(pb::BundleRequest {}).await.unwrap().into_inner();
    assert_eq!(bundle.message().await.unwrap().unwrap().trust_domain, "weft.local");
}

#[tokio::test]
async fn every_bad_token_is_refused_by_its_rule_and_counted() {
    let mesh = Mesh::new(LONG).await;
    let good = mesh.token("users");
    assert_eq!(refused(good.clone(), Some(name("posts"))).await, "TOKEN_OTHER_SERVICE");

    let (cut, _) = good.text().rsplit_once('.').unwrap();
    let altered = format!("{cut}.{}", "A".repeat(86));
    assert_eq!(refused(altered.parse().unwrap(), None).await, "TOKEN_ALTERED");

    let (short, _) = mesh.ca.create_token(Some(&name("users")), Some(Duration::from_secs(1))).unwrap();
    until("the token to run out", async || mesh.ca.check_token(&short).is_err()).await;
    assert_eq!(refused(short.parse().unwrap(), None).await, "TOKEN_EXPIRED");

    mesh.ca.revoke_token(good.id()).unwrap();
    assert_eq!(refused(good, None).await, "TOKEN_REVOKED");

    for rule in ["token_other_service", "token_altered", "token_expired", "token_revoked"] {
        assert!(mesh.counted(rule), "{rule}");
    }
}

#[tokio::test]
async fn a_registry_with_another_root_than_the_tokens_is_an_impostor_and_never_sees_it() {
    let mesh = Mesh::new(LONG).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Ca::open(&settings(elsewhere.path(), LONG, vec![mesh.url()]), clock()).unwrap();
    let (token, _) = other.create_token(Some(&name("users")), None).unwrap();
    match joined(token.parse().unwrap(), None).await {
        Err(IdentityError::Impostor { url, source: Refusal::WrongRoot { pin } }) => {
            assert_eq!(url, mesh.url());
            assert_eq!(pin, token.parse::<Token>().unwrap().pin());
        }
        other => panic!("{other:?}"),
    }
    assert!(!mesh.context.metrics().encode().contains("outcome=\"token_"), "it was told no token");
}

#[tokio::test]
async fn a_registry_that_is_away_is_waited_for_and_then_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap(); // accepts and says nothing
    let dir = tempfile::tempdir().unwrap();
    let url = format!("https://{}", taken.local_addr().unwrap());
    let ca = Ca::open(&settings(dir.path(), LONG, vec![url]), clock()).unwrap();
    let (token, _) = ca.create_token(Some(&name("users")), None).unwrap();
    let failed =
        join(token.parse::<Token>().unwrap().try_into().unwrap(), None, clock(), Duration::from_millis(300)).await;
    assert!(matches!(failed, Err(IdentityError::OutOfReach { .. })), "{failed:?}");
}

#[tokio::test]
async fn a_caller_without_a_certificate_renews_nothing() {
    let mesh = Mesh::new(LONG).await;
    let csr = KeyRequest::generate().unwrap().csr().to_vec().into();
    let status = mesh.anonymous().renew(pb::RenewRequest { csr }).await.unwrap_err();
    assert_eq!((status.code(), rule(&status).as_str()), (Code::Unauthenticated, "NO_CERTIFICATE"));
    assert!(mesh.counted("no_certificate"));
}

#[tokio::test]
async fn a_request_that_is_none_names_its_field() {
    let mesh = Mesh::new(LONG).await;
    let request = pb::SignRequest { csr: vec![1].into(), token: mesh.token("users").text().into(), service: "".into() };
    let status = mesh.anonymous().sign(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "csr");
}

#[tokio::test]
async fn an_operators_calls_are_an_operators_alone() {
    let mut mesh = Mesh::new(LONG).await;
    let users = mesh.join("users").await;
    let list = || Request::new(pb::ListTokensRequest {});
    let bearer = |token: &str| {
        let mut request = list();
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    };
    let status = mesh.anonymous().list_tokens(list()).await.unwrap_err();
    assert_eq!((status.code(), rule(&status).as_str()), (Code::Unauthenticated, "NO_CERTIFICATE"));
    let status = mesh.known(&users).list_tokens(list()).await.unwrap_err();
    assert_eq!((status.code(), rule(&status).as_str()), (Code::PermissionDenied, "NOT_AN_OPERATOR"));
    let status = mesh.anonymous().list_tokens(bearer(mesh.token("users").text())).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "a service's token is not an operator's");

    let operator = std::fs::read_to_string(mesh.dir.path().join("ca/operator.token")).unwrap();
    let operator = operator.trim().to_owned();
    let tokens = mesh.anonymous().list_tokens(bearer(&operator)).await.unwrap().into_inner().tokens;
    assert!(tokens.iter().any(|it| it.identity.ends_with("/ns/weft/svc/operator")), "{tokens:?}");

    // As an operator with a certificate: make, list, revoke; what was revoked leads nowhere.
    let (_task, by_certificate) = joined(operator.parse().unwrap(), None).await.unwrap();
    let mut client = mesh.known(&by_certificate);
    let request = pb::CreateTokenRequest { service: "posts".into(), ..Default::default() };
    let made = client.create_token(request).await.unwrap().into_inner();
    joined(made.token.parse().unwrap(), Some(name("posts"))).await.unwrap();
    client.revoke_token(pb::RevokeTokenRequest { id: made.listed.unwrap().id }).await.unwrap();
    assert_eq!(refused(made.token.parse().unwrap(), None).await, "TOKEN_REVOKED");
    let status = client.revoke_token(pb::RevokeTokenRequest { id: "nobody".into() }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    for (service, operator) in [("", false), ("posts", true), ("registry.weft", false), ("No", false)] {
        let request = pb::CreateTokenRequest { service: service.into(), operator, life_ms: 0 };
        let status = client.create_token(request).await.unwrap_err();
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "service", "{service:?}");
    }
    let status = client.revoke(pb::RevokeRequest::default()).await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "what");

    let rotated = client.rotate_root(pb::RotateRootRequest { notice_ms: 60_000 }).await.unwrap().into_inner();
    let bundle = mesh.ca.trusted().bundle;
    assert_eq!(rotated.root, weft_identity::RootPin::of(&bundle.roots()[1]).as_bytes().to_vec());
    until("the new root to arrive", async || users.trust().bundle() == bundle).await;
}

#[tokio::test]
async fn an_identity_writes_its_own_service_only_and_an_operator_any() {
    let mut mesh = Mesh::new(LONG).await;
    let (users, posts) = (mesh.join("users").await, mesh.join("posts").await);
    let writer = |identity: &Identity| {
        let (registry, identity) = (mesh.ca.domain().service(&name("registry.weft")), identity.clone());
        RegistryClient::new(channel(mesh.at, move || identity.client_config(&registry)))
    };
    let (mut users, mut posts) = (writer(&users), writer(&posts));
    let config = bootstrap_config(mesh.token("x").pin(), &mesh.ca.domain().service(&name("registry.weft")), &clock());
    let mut nobody = RegistryClient::new(channel(mesh.at, move || config.clone()));
    let instance = || pb::RegisterRequest { instance: Some((&instance()).into()), ttl_ms: 0 }; // of users
    let denied = |status: Status| (status.code(), rule(&status));

    let status = nobody.register(instance()).await.unwrap_err();
    assert_eq!(denied(status), (Code::Unauthenticated, "NO_CERTIFICATE".into()));
    let status = nobody.put_descriptors(pb::PutDescriptorsRequest::default()).await.unwrap_err();
    assert_eq!(denied(status), (Code::Unauthenticated, "NO_CERTIFICATE".into()));
    let status = posts.register(instance()).await.unwrap_err();
    assert_eq!(denied(status), (Code::PermissionDenied, "SERVICE_NOT_ALLOWED".into()));
    assert!(mesh.counted("service_not_allowed"));

    let lease = users.register(instance()).await.unwrap().into_inner().lease.unwrap();
    let (id, epoch) = (lease.instance_id, lease.epoch);
    let beat = pb::Beat { id: id.clone(), epoch, ..Default::default() };
    let beats = pb::KeepAliveRequest { beats: vec![beat] };
    let mut answers = posts.keep_alive(tokio_stream::once(beats.clone())).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::PermissionDenied);
    let mut answers = users.keep_alive(tokio_stream::once(beats)).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());

    let leave = |epoch| pb::DeregisterRequest { id: id.clone(), epoch };
    let down = pb::SetStatusRequest { id: id.clone(), epoch, ..Default::default() };
    let drain = pb::DrainRequest { id: id.clone(), epoch, at_most_ms: 1 };
    assert_eq!(posts.set_status(down).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(posts.drain(drain).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(posts.deregister(leave(epoch)).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(users.deregister(leave(0)).await.unwrap_err().code(), Code::PermissionDenied, "an operator's word");

    let token = std::fs::read_to_string(mesh.dir.path().join("ca/operator.token")).unwrap();
    let (_task, operator) = joined(token.parse().unwrap(), None).await.unwrap();
    writer(&operator).deregister(leave(0)).await.unwrap();
}

/// One TLS call of the mesh: `client` dials `server`, one byte comes back.
async fn call(server: &Identity, client: &Identity) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let serving = async {
        let (stream, _) = listener.accept().await?;
        let mut stream = TlsAcceptor::from(server.server_config(Callers::MustShow)).accept(stream).await?;
        server.accepted(stream.get_ref().1).map_err(io::Error::other)?;
        stream.write_all(b"!").await?;
        stream.shutdown().await?;
        drop(stream.read(&mut [0; 1]).await);
        Ok::<_, io::Error>(())
    };
    let calling = async {
        let connector = TlsConnector::from(client.client_config(&server.id()));
        let mut stream = connector.connect(server_name(), TcpStream::connect(at).await?).await?;
        client.connected(stream.get_ref().1).map_err(io::Error::other)?;
        stream.read_exact(&mut [0; 1]).await?;
        Ok::<_, io::Error>(())
    };
    let (served, called) = tokio::join!(serving, calling);
    served.and(called).map_err(|e| e.to_string())
}

#[tokio::test]
async fn certificates_of_a_few_seconds_and_a_new_root_under_calls_cost_no_call() {
    let mut mesh = Mesh::new(SHORT).await;
    let (users, posts) = (mesh.join("users").await, mesh.join("posts").await);
    let old = mesh.ca.trusted().bundle;
    let (mut calls, mut failed) = (0, Vec::new());
    let (started, mut rotated) = (Instant::now(), false);
    while users.rotations() < 5 || posts.rotations() < 5 || users.trust().bundle().roots().contains(&old.roots()[0]) {
        if !rotated && started.elapsed() > Duration::from_secs(1) {
            mesh.ca.rotate(None).unwrap();
            rotated = true;
        }
        for (server, client) in [(&users, &posts), (&posts, &users)] {
            calls += 1;
            if let Err(error) = call(server, client).await {
                failed.push(error);
            }
        }
        assert!(
            started.elapsed() < Duration::from_secs(120),
            "{} and {} rotations",
            users.rotations(),
            posts.rotations()
        );
    }
    assert!(failed.is_empty(), "{} of {calls}: {:?}", failed.len(), failed[0]);
    assert!(calls > 50, "{calls}");
    mesh.stop.cancel();
}

#[tokio::test]
async fn a_watch_and_a_lease_live_on_through_certificates_of_a_few_seconds() {
    let mut mesh = Mesh::new(SHORT).await;
    let users = mesh.join("users").await;
    let registries = Registries::secured(&mesh.url().parse().unwrap(), &users);
    let config = WatchConfig { watcher: "test/1".into(), admin: None, topics: vec![Topic::All], last_good: None };
    let (task, mut watch) = Watch::new(registries.clone(), config);
    mesh.tasks.spawn(task.run(mesh.stop.clone()));
    let (task, leases) = Leases::new(registries, LeaseTtl::new(Duration::from_secs(30)).unwrap());
    mesh.tasks.spawn(task.run(mesh.stop.clone()));
    let mut lease = leases.hold(instance());
    let held = soon("the lease", lease.changed()).await.unwrap();
    assert!(matches!(held, LeaseState::Held { .. }), "{held:?}");

    let mut turn = 0;
    while users.rotations() < 5 {
        turn += 1;
        let reason = format!("turn {turn}");
        lease.report(ServiceStatus::NotServing, &reason);
        soon(&reason, async {
            loop {
                let update = watch.next().await.unwrap();
                watch.ack(update.version);
                let service = update.snapshot.services.get(&name("users"));
                if service.is_some_and(|it| it.instances.values().any(|instance| instance.reason == reason)) {
                    break;
                }
            }
        })
        .await;
        assert_eq!(lease.state(), held, "the same lease all the time");
        tokio::time::sleep(Duration::from_millis(20)).await; // between two changes
    }
    assert!(turn > 20, "{turn} changes");
    mesh.stop.cancel();
}

#[tokio::test]
async fn a_revoked_service_is_thrown_out_at_once_and_cannot_renew() {
    let mut mesh = Mesh::new(LONG).await;
    let (users, posts) = (mesh.join("users").await, mesh.join("posts").await);
    call(&users, &posts).await.unwrap();
    let mut connected = mesh.known(&posts);
    let mut stream = connected.bundle(pb::BundleRequest {}).await.unwrap().into_inner();
    stream.message().await.unwrap();

    // With a token that is still good it would come back with a new certificate at once.
    for token in mesh.ca.list_tokens().into_iter().filter(|token| token.identity == posts.id()) {
        mesh.ca.revoke_token(&token.id).unwrap();
    }
    mesh.ca.revoke(&Revoke::Identity(posts.id())).unwrap();
    let ended = soon("the connection to end", async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {} // the news of its own revocation may come first
                ended => break ended,
            }
        }
    });
    ended.await.unwrap_err();
    assert!(mesh.counted("revoked"));

    let covered = |trust: &Trust| trust.revocations().identities.contains_key(&posts.id());
    until("users to hear of it", async || covered(users.trust())).await;
    assert!(call(&users, &posts).await.is_err());
    let csr = KeyRequest::generate().unwrap().csr().to_vec().into();
    mesh.known(&posts).renew(pb::RenewRequest { csr }).await.unwrap_err();
}

#[tokio::test]
async fn a_registry_that_restarts_is_the_same_authority() {
    let mut mesh = Mesh::new(LONG).await;
    let users = mesh.join("users").await;
    let again = Ca::open(&settings(mesh.dir.path(), LONG, vec![mesh.url()]), clock()).unwrap();
    let (svid, csr) = (users.svid(), KeyRequest::generate().unwrap());
    let issued = again.sign(csr.csr(), &users.id()).unwrap();
    users.trust().admit(&issued.chain).unwrap();
    assert!(svid.leaf().serial != issued.leaf.serial);
}

#[tokio::test]
async fn a_process_starts_with_the_identity_it_kept_while_no_registry_that_its_token_names_answers() {
    let mut mesh = Mesh::new(LONG).await;
    let (dir, other, token) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), mesh.token("users"));
    let file = dir.path().join("identity");
    let (there, away) = (Duration::from_secs(10), Duration::from_secs(2)); // how long a registry is waited for
    let start = async |token: Token, clock: Clock, within: Duration| {
        let told = Mutex::new(String::new());
        let waits = |why: &str| *told.lock().unwrap() = why.to_owned();
        let entered = enter(token.try_into().unwrap(), None, clock, within, Some(file.clone()), waits);
        (soon("an answer", entered).await, told.into_inner().unwrap())
    };
    let (task, users) = start(token.clone(), clock(), there).await.0.unwrap();
    mesh.tasks.spawn(task.run(mesh.stop.clone()));
    until("the identity to be kept", async || file.exists()).await;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let kept = std::fs::read(&file).unwrap();
    mesh.ca.revoke(&Revoke::Identity(mesh.ca.domain().service(&name("posts")))).unwrap();
    until("news of the trust to be kept", async || std::fs::read(&file).unwrap() != kept).await;

    // A token that leads to a root which this registry does not show; without the file, it is refused.
    let left = Ca::open(&settings(other.path(), LONG, vec![mesh.url()]), clock()).unwrap();
    let (outdated, _) = left.create_token(Some(&name("users")), None).unwrap();
    let (_, again) = start(outdated.parse().unwrap(), clock(), there).await.0.unwrap();
    assert_eq!(again.svid().leaf(), users.svid().leaf());

    mesh.tasks.shutdown().await; // the registry is gone
    let (_, again) = start(token.clone(), clock(), away).await.0.unwrap();
    assert_eq!(again.svid().leaf(), users.svid().leaf());
    assert_eq!((again.trust().bundle(), again.trust().revocations().identities.len()), (users.trust().bundle(), 1));
    call(&again, &users).await.unwrap();

    let nobody = |(started, told): (Result<(IdentityTask, Identity), IdentityError>, String)| {
        assert!(matches!(started, Err(IdentityError::OutOfReach { .. })), "{started:?}");
        assert!(told.starts_with("no registry answers yet: "), "{told:?}");
    };
    nobody(start(mesh.token("posts"), clock(), away).await); // not whom the file names
    nobody(start(token.clone(), Arc::new(|| weft_runtime::clock::wall() + 2 * LONG), away).await); // expired
    std::fs::write(&file, "no identity").unwrap();
    nobody(start(token, clock(), away).await);
}
