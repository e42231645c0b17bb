//! A Kubernetes API server as the authority meets it: TLS with an authority of its own, and answers in the words of a real one.
//!
//! Lives here: the server, and answers to a TokenReview as a real one gave them (`kubernetes/README.md`). Does not: judging them (the registry's `ca`).

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// The token is good: of the service account `users` in the namespace `shop`, for the audience `weft`.
pub const AUTHENTICATED: &str = include_str!("kubernetes/authenticated.json");
/// The token has expired.
pub const EXPIRED: &str = include_str!("kubernetes/expired.json");
/// The token is for another audience.
pub const WRONG_AUDIENCE: &str = include_str!("kubernetes/wrong_audience.json");
/// The token says something else than was signed.
pub const ALTERED: &str = include_str!("kubernetes/altered.json");
/// The token's service account is gone.
pub const ACCOUNT_DELETED: &str = include_str!("kubernetes/account_deleted.json");
/// The token's pod is gone.
pub const POD_DELETED: &str = include_str!("kubernetes/pod_deleted.json");
/// The token is none.
pub const NOT_A_TOKEN: &str = include_str!("kubernetes/not_a_token.json");
/// Who asks may not; with status 403.
pub const FORBIDDEN: &str = include_str!("kubernetes/forbidden.json");
/// Who asks is not known; with status 401.
pub const UNAUTHORIZED: &str = include_str!("kubernetes/unauthorized.json");

/// Returns the token that a recorded answer is about.
pub fn token(answer: &str) -> String {
    let answer: Value = serde_json::from_str(answer).expect("an answer is JSON");
    answer["spec"]["token"].as_str().expect("an answer repeats what was asked").to_owned()
}

/// What a request said.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Method and path.
    pub line: String,
    /// The header `authorization`.
    pub authorization: String,
    /// The body.
    pub body: Value,
}

#[derive(Debug, Default)]
struct Script {
    status: StatusCode,
    body: String,
    heard: Vec<Heard>,
}

/// The server; it ends with this value.
#[derive(Debug)]
pub struct ApiServer {
    dir: TempDir,
    at: SocketAddr,
    script: Arc<Mutex<Script>>,
    _serving: JoinSet<()>,
}

impl ApiServer {
    /// Starts a server on a free port that answers 200 and nothing else until it is told what to say.
    pub async fn start() -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let acceptor = TlsAcceptor::from(Arc::new(config(&dir)));
        std::fs::write(dir.path().join("token"), "registrys-own\n").expect("the directory is ours");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let at = listener.local_addr().expect("a bound listener has an address");
        let script = Arc::new(Mutex::new(Script::default()));
        let (plan, mut serving) = (Arc::clone(&script), JoinSet::new());
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(acceptor.clone(), stream, Arc::clone(&plan)));
            }
        });
        Self { dir, at, script, _serving: serving }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("https://{}", self.at)
    }

    /// PEM file of the authority behind it.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// File of a token that callers show.
    pub fn token(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    /// Says what it answers from now on.
    pub fn says(&self, status: u16, body: &str) {
        let mut script = self.script();
        script.status = StatusCode::from_u16(status).expect("a status of HTTP");
        body.clone_into(&mut script.body);
    }

    /// Everything it was asked.
    pub fn heard(&self) -> Vec<Heard> {
        self.script().heard.clone()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn config(dir: &TempDir) -> ServerConfig {
    let (authority, key) = (KeyPair::generate(), KeyPair::generate());
    let (authority, key) = (authority.expect("there is randomness"), key.expect("there is randomness"));
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&authority).expect("the parameters are good");
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    let leaf = leaf.signed_by(&key, &Issuer::new(params, authority)).expect("the parameters are good");
    let pem = weft_identity::pem::certificates([root.der()]);
    std::fs::write(dir.path().join("ca.crt"), pem).expect("the directory is ours");
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .expect("key and certificate belong together")
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, script: Arc<Mutex<Script>>) {
    let Ok(stream) = acceptor.accept(stream).await else { return }; // a caller that does not trust us
    let service = service_fn(|request| answer(Arc::clone(&script), request));
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

async fn answer(script: Arc<Mutex<Script>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let line = format!("{} {}", request.method(), request.uri());
    let authorization = request.headers().get(header::AUTHORIZATION).and_then(|it| it.to_str().ok());
    let authorization = authorization.unwrap_or_default().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
    script.heard.push(Heard { line, authorization, body: serde_json::from_slice(&body).unwrap_or_default() });
    let mut response = Response::new(Full::from(script.body.clone()));
    *response.status_mut() = script.status;
    Ok(response)
}
