//! Tokens that Kubernetes projects into pods: asking the API server whose they are.
//!
//! Lives here: the TokenReview call, its answer as an identity, a short memory of answers. Does not: which tokens are sent here, statuses (`grpc`).
//! A service account `users` in the namespace `shop` is `spiffe://<trust domain>/ns/shop/svc/users`. The namespace of the mesh itself stays closed:
//! whoever may create service accounts in a Kubernetes namespace of that name must not become registry or operator by it.
//! Bounds: a token of at most 8 KiB; 16 questions at a time, further callers are told to come back; an answer within 3 s, of at most 1 MiB; 4,096 answers are remembered for 10 s, so a revoked account may join for that much longer.
//! Source: Kubernetes API, authentication.k8s.io/v1 TokenReview; who calls needs the cluster role `system:auth-delegator`.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;
use weft_identity::{name::SYSTEM_NAMESPACE, token::MAX};
use weft_model::ServiceName;

const LIMIT: Duration = Duration::from_secs(3);
const LARGEST: usize = 1 << 20;
/// Questions under way: anybody may show a token, and the API server is not ours to burden.
const AT_ONCE: usize = 16;
const REMEMBERED: Duration = Duration::from_secs(10);
const MEMORY: usize = 4_096;
const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// How the API server is asked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Audience a token must be for.
    pub audience: String,
    /// The API server, `https://host[:port]`.
    pub api: Uri,
    /// PEM file of the authority behind it.
    pub ca: PathBuf,
    /// File of the token we are known by there; read for every call, since it is replaced.
    pub token: PathBuf,
}

/// Why a token is not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ReviewError {
    /// No token is that long.
    #[error("the token is longer than 8 KiB")]
    TooLong,
    /// The API server does not know it: altered, expired, or its pod is gone.
    #[error("the Kubernetes API server does not vouch for the token: {reason}")]
    Unauthenticated {
        /// In its words.
        reason: String,
    },
    /// It is for somebody else.
    #[error("the token is not for the audience {ours}")]
    OtherAudience {
        /// What it should be for.
        ours: String,
    },
    /// It is no pod's.
    #[error("{user} is no service account that can be a service of the mesh: {problem}")]
    NoService {
        /// Whose token it is.
        user: String,
        /// Why that will not do.
        problem: String,
    },
    /// There is no answer; trying later may succeed.
    #[error("the Kubernetes API server cannot be asked: {problem}")]
    OutOfReach {
        /// What went wrong.
        problem: String,
    },
}

impl ReviewError {
    /// Name of the rule, for status, metrics and logs; none where nobody refused.
    pub(crate) fn rule(&self) -> Option<&'static str> {
        match self {
            Self::TooLong => Some("token_malformed"),
            Self::Unauthenticated { .. } => Some("token_unauthenticated"),
            Self::OtherAudience { .. } => Some("token_other_audience"),
            Self::NoService { .. } => Some("token_no_service"),
            Self::OutOfReach { .. } => None,
        }
    }
}

/// The API server as it is asked. Clones share their memory.
#[derive(Debug, Clone)]
pub(crate) struct Reviewer {
    shared: Arc<Shared>,
}

/// What the API server said of a token, and when.
type Remembered = (Instant, Result<ServiceName, ReviewError>);

#[derive(Debug)]
struct Shared {
    settings: Settings,
    tls: Arc<ClientConfig>,
    /// By SHA-256 of the token, so that the memory holds none. Held for a look or an insertion.
    known: Mutex<HashMap<[u8; 32], Remembered>>,
    asking: Semaphore,
}

impl Reviewer {
    /// Fails if the authority's file cannot be read. Blocks.
    pub(crate) fn new(settings: Settings) -> io::Result<Self> {
        let tls = Arc::new(tls(&settings.ca)?);
        Ok(Self {
            shared: Arc::new(Shared { settings, tls, known: Mutex::default(), asking: Semaphore::new(AT_ONCE) }),
        })
    }

    /// Returns the service whose pods hold this token.
    pub(crate) async fn review(&self, token: &str) -> Result<ServiceName, ReviewError> {
        if token.len() > MAX {
            return Err(ReviewError::TooLong);
        }
        let digest = digest(token);
        if let Some(known) = self.remembered(&digest) {
            return known;
        }
        let out_of_reach = |problem: String| ReviewError::OutOfReach { problem };
        let asking = self.shared.asking.try_acquire();
        let _asking = asking.map_err(|_| out_of_reach(format!("{AT_ONCE} tokens are under review; come back")))?;
        let asked = timeout(LIMIT, self.ask(token)).await;
        let status = asked.map_err(|_| out_of_reach(format!("no answer within {LIMIT:?}")))?.map_err(out_of_reach)?;
        let judged = self.judge(status);
        self.remember(digest, &judged);
        judged
    }

    fn judge(&self, status: ReviewStatus) -> Result<ServiceName, ReviewError> {
        let ours = &self.shared.settings.audience;
        if !status.authenticated {
            let reason = if status.error.is_empty() { "no reason given".to_owned() } else { status.error };
            return Err(ReviewError::Unauthenticated { reason });
        }
        if !status.audiences.contains(ours) {
            return Err(ReviewError::OtherAudience { ours: ours.clone() });
        }
        let user = status.user.username;
        let account = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        let no_service = |problem: String| ReviewError::NoService { user: user.clone(), problem };
        let (namespace, name) = account.ok_or_else(|| no_service("it is no service account".into()))?;
        if namespace == SYSTEM_NAMESPACE {
            return Err(no_service(format!("the namespace {namespace} is the mesh's own; use another")));
        }
        format!("{name}.{namespace}").parse().map_err(|e: weft_model::Invalid| no_service(e.to_string()))
    }

    async fn ask(&self, token: &str) -> Result<ReviewStatus, String> {
        let Settings { api, audience, token: own, .. } = &self.shared.settings;
        let authority = api.authority().ok_or("its address has no host")?;
        let (host, port) = (authority.host().trim_matches(['[', ']']).to_owned(), authority.port_u16().unwrap_or(443));
        let own = tokio::fs::read_to_string(own).await.map_err(|e| format!("our own token {}: {e}", own.display()))?;
        let spec = ReviewSpec { token, audiences: [audience] };
        let review = Review { api_version: "authentication.k8s.io/v1", kind: "TokenReview", spec };
        let body = serde_json::to_vec(&review).map_err(|e| e.to_string())?;
        let mut bearer = http::HeaderValue::try_from(format!("Bearer {}", own.trim())).map_err(|e| e.to_string())?;
        bearer.set_sensitive(true);
        let request = http::Request::builder()
            .method(Method::POST)
            .uri(PATH)
            .header(header::HOST, authority.as_str())
            .header(header::AUTHORIZATION, bearer)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::<Bytes>::from(body))
            .map_err(|e| e.to_string())?;

        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|e| format!("{authority}: {e}"))?;
        let name = ServerName::try_from(host).map_err(|e| e.to_string())?;
        let stream = TlsConnector::from(Arc::clone(&self.shared.tls)).connect(name, stream).await;
        let stream = stream.map_err(|e| format!("{authority}: {e}"))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), LARGEST).collect().await.map_err(|e| e.to_string())?;
            Ok::<_, String>((status, body.to_bytes()))
        };
        let mut answer = std::pin::pin!(answer);
        let (status, body) = tokio::select! {
            answer = &mut answer => answer?,
            ended = connection => match ended {
                Err(error) => return Err(error.to_string()),
                Ok(()) => answer.await?, // a server may close with its answer, which then waits to be taken
            },
        };
        match status {
            StatusCode::OK | StatusCode::CREATED => {
                let reviewed: Reviewed = serde_json::from_slice(&body).map_err(|e| format!("its answer: {e}"))?;
                Ok(reviewed.status)
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(format!(
                "it answers {status} to the registry itself; bind the registry's service account to system:auth-delegator"
            )),
            other => Err(format!("it answers {other}")),
        }
    }

    fn remembered(&self, digest: &[u8; 32]) -> Option<Result<ServiceName, ReviewError>> {
        let known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(digest).filter(|(at, _)| at.elapsed() < REMEMBERED).map(|(_, answer)| answer.clone())
    }

    fn remember(&self, digest: [u8; 32], answer: &Result<ServiceName, ReviewError>) {
        let mut known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MEMORY {
            known.retain(|_, (at, _)| at.elapsed() < REMEMBERED);
        }
        if known.len() < MEMORY {
            known.insert(digest, (Instant::now(), answer.clone()));
        }
    }
}

fn digest(token: &str) -> [u8; 32] {
    let digest = ::ring::digest::digest(&::ring::digest::SHA256, token.as_bytes());
    digest.as_ref().try_into().expect("a SHA-256 has 32 bytes")
}

fn tls(ca: &Path) -> io::Result<ClientConfig> {
    let named = |problem: String| io::Error::other(format!("{}: {problem}", ca.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|e| named(e.to_string()))? {
        roots.add(certificate.map_err(|e| named(e.to_string()))?).map_err(|e| named(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(named("holds no certificate".into()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Review<'r> {
    api_version: &'static str,
    kind: &'static str,
    spec: ReviewSpec<'r>,
}

#[derive(Serialize)]
struct ReviewSpec<'r> {
    token: &'r str,
    audiences: [&'r str; 1],
}

/// The API server adds fields in time: what is not known is not looked at.
#[derive(Deserialize)]
struct Reviewed {
    status: ReviewStatus,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ReviewStatus {
    authenticated: bool,
    user: User,
    audiences: Vec<String>,
    error: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct User {
    username: String,
}

#[cfg(test)]
mod tests;
