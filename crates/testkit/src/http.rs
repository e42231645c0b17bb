//! One HTTP/1.1 call on a connection of its own, as curl makes it.
//!
//! Lives here: sending and reading whole, a count out of `/metrics`. Does not: load (`load`), gRPC (tonic clients).

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

/// A call that has not answered by then has failed: a test must not hang.
const LIMIT: Duration = Duration::from_secs(30);

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body as text.
    pub body: String,
}

impl Answer {
    /// The body as JSON. Panics with the answer if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// Makes one call with a JSON body (none for an empty one). Fails if it has no answer after 30 s.
pub async fn send(target: SocketAddr, method: Method, path: &str, body: &str) -> anyhow::Result<Answer> {
    send_with(target, method, path, &[], body).await
}

/// The same with further headers, of which `content-type` says that the body is something else.
pub async fn send_with(
    target: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> anyhow::Result<Answer> {
    let request = Request::builder().method(method).uri(path).header("host", target.to_string());
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let typed = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    let request = match body {
        "" => request,
        _ if typed => request,
        _ => request.header("content-type", "application/json"),
    };
    let request = request.body(Full::<Bytes>::from(body.to_owned()))?;
    timeout(LIMIT, send_patiently(target, request)).await?
}

/// What an admin server counts in one series, `name_total{label="value"}` as it writes it; none if there is no answer or no such series.
pub async fn count(admin: SocketAddr, series: &str) -> Option<u64> {
    let metrics = send(admin, Method::GET, "/metrics", "").await.ok()?.body;
    let mut counts = metrics.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    counts.find_map(|count| count.trim().parse().ok())
}

async fn send_patiently(target: SocketAddr, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect(target).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let response = sender.send_request(request).await?;
    let (head, body) = response.into_parts();
    let body = String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned();
    Ok(Answer { status: head.status, headers: head.headers, body })
}
