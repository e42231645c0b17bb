//! A gateway whose registry does not answer yet: what it says meanwhile, and how it goes on.
//!
//! Lives here: from bound ports to an identity, or to the end without one. Does not: how an identity is asked for (`weft-discovery`), calls through a
//! mesh with identities (`tests/e2e`).

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use weft_discovery::Credential;
use weft_gateway::{Error, Source};
use weft_identity::token::Token;
use weft_proto::weft::testkit::v1::{EchoRequest, echo_client::EchoClient};
use weft_registry::{
    Registry,
    ca::{Ca, Settings},
};
use weft_runtime::{Context, Env, Shutdown};
use weft_testkit::wait::until;

use crate::support::{Running, channel, send, start_gateway};

/// Far below the minute in which a gateway joins: who is held up by that fails.
const SOON: Duration = Duration::from_secs(20);

/// A registry's place: its data and its port, held by a listener that takes connections and says nothing.
struct Place {
    dir: TempDir,
    at: SocketAddr,
    deaf: Option<std::net::TcpListener>,
    tasks: JoinSet<()>,
}

impl Place {
    fn held() -> Self {
        let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (at, dir) = (deaf.local_addr().unwrap(), TempDir::new().unwrap());
        Self { dir, at, deaf: Some(deaf), tasks: JoinSet::new() }
    }

    fn settings(&self, dir: &Path) -> Settings {
        Settings {
            dir: dir.join("ca"),
            trust_domain: "weft.local".parse().unwrap(),
            life: Duration::from_secs(3_600),
            advertise: vec![format!("https://{}", self.at)],
            kubernetes: None,
        }
    }

    /// A token of the authority in `dir`, for this place.
    fn credential(&self, dir: &Path) -> Credential {
        let ca = Ca::open(&self.settings(dir), Arc::new(weft_runtime::clock::wall)).unwrap();
        let (token, _) = ca.create_token(Some(&"gateway".parse().unwrap()), None).unwrap();
        token.parse::<Token>().unwrap().try_into().unwrap()
    }

    async fn start_registry(&mut self) {
        drop(self.deaf.take());
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let config = weft_registry::Config {
            listen: self.at.into(),
            http: anywhere,
            dns: anywhere,
            dns_ttl: Duration::ZERO,
            data: self.dir.path().to_owned(),
            identity: Some(self.settings(self.dir.path())),
        };
        let context = Context::for_test("registry", Env::default());
        let registry = Registry::bind(config, &context).await.unwrap();
        self.tasks.spawn(async move { registry.run(Shutdown::new()).await.unwrap() });
    }
}

async fn start(credential: Credential) -> Running {
    start_gateway("127.0.0.1:1".into(), |config| {
        config.source = Source::Registry(credential.registries().clone());
        config.credential = Some(credential);
    })
    .await
}

/// One HTTP/1.1 connection.
struct Kept {
    sender: http1::SendRequest<Full<Bytes>>,
    _driver: JoinSet<hyper::Result<()>>,
}

impl Kept {
    async fn to(at: SocketAddr) -> Self {
        let stream = TcpStream::connect(at).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        Self { sender, _driver: JoinSet::from_iter([connection]) }
    }

    async fn get(&mut self, path: &str) -> (StatusCode, serde_json::Value) {
        let request = Request::get(path).header("host", "a").body(Full::default()).unwrap();
        self.sender.ready().await.expect("the connection goes on");
        let answer = timeout(SOON, self.sender.send_request(request)).await.expect("an answer at once").unwrap();
        let status = answer.status();
        (status, serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap())
    }
}

async fn call(echo: &mut EchoClient<Channel>) -> Status {
    timeout(SOON, echo.unary(EchoRequest::default())).await.expect("an answer at once").expect_err("there is no echo")
}

async fn ready(gateway: &Running) -> (StatusCode, String) {
    let answer = send(gateway.admin, "GET", "/readyz", &[], "").await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn a_gateway_answers_before_it_has_an_identity_and_its_connections_go_on_when_it_has() {
    let mut place = Place::held();
    let gateway = start(place.credential(place.dir.path())).await;
    let mut rest = Kept::to(gateway.addr).await;
    let native = channel(&gateway).await;
    let (mut echo, mut health) = (EchoClient::new(native.clone()), HealthClient::new(native));

    for path in ["/healthz", "/metrics"] {
        assert_eq!(send(gateway.admin, "GET", path, &[], "").await.status, 200, "{path}");
    }
    let (status, first) = ready(&gateway).await;
    assert_eq!(status, 503);
    assert!(first.starts_with("not ready: joining the mesh: "), "{first}");
    let why = until("the reason", SOON, || async {
        let (_, why) = ready(&gateway).await;
        why.contains("no registry answers yet").then_some(why)
    })
    .await;
    assert!(why.starts_with("not ready: joining the mesh: no registry answers yet"), "{why}");
    let (status, problem) = rest.get("/api/users").await;
    assert_eq!((status, problem["code"].as_i64()), (StatusCode::SERVICE_UNAVAILABLE, Some(14)), "{problem}");
    assert!(problem["message"].as_str().unwrap().contains("joining the mesh"), "{problem}");
    let refused = call(&mut echo).await;
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("joining the mesh"), "{refused}");
    let itself = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(itself.status(), ServingStatus::NotServing);

    place.start_registry().await;
    until("the gateway to be ready", SOON, || async { (ready(&gateway).await.0 == 200).then_some(()) }).await;
    assert_eq!(rest.get("/api/users").await.0, 404, "an empty mesh has no routes");
    assert_eq!(call(&mut echo).await.code(), Code::Unimplemented);
    let itself = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(itself.status(), ServingStatus::Serving);
    let metrics = send(gateway.admin, "GET", "/metrics", &[], "").await.body;
    assert!(metrics.contains("weft_gateway_certificate_expires_seconds"), "{metrics}");
}

#[tokio::test]
async fn a_gateway_that_is_refused_ends_with_the_rule() {
    let mut place = Place::held();
    let other = TempDir::new().unwrap();
    let mut gateway = start(place.credential(other.path())).await;
    place.start_registry().await;
    let ended = timeout(SOON, gateway.gateway.join_next()).await.expect("a refusal is final").unwrap().unwrap();
    let Err(Error::Join(refused)) = ended else { panic!("{ended:?}") };
    assert_eq!(refused.rule().as_deref(), Some("wrong_root"), "{refused}");
}

#[tokio::test]
async fn a_gateway_that_is_told_to_leave_before_it_has_joined_leaves_in_order() {
    let place = Place::held();
    let mut gateway = start(place.credential(place.dir.path())).await;
    let mut rest = Kept::to(gateway.addr).await;
    assert_eq!(rest.get("/api/users").await.0, 503);
    gateway.shutdown.drain();
    timeout(SOON, gateway.gateway.join_next()).await.expect("it leaves").unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(gateway.addr).await.is_err(), "nothing listens any more");
}
