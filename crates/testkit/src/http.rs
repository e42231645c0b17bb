//! One HTTP/1.1 call on a connection of its own, as curl makes it.
//!
//! Lives here: sending and reading whole. Does not: load (`load`), gRPC (tonic clients).

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
    timeout(LIMIT, send_patiently(target, method, path, body)).await?
}

async fn send_patiently(target: SocketAddr, method: Method, path: &str, body: &str) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect(target).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", target.to_string());
    let request = match body {
        "" => request,
        _ => request.header("content-type", "application/json"),
    };
    let response = sender.send_request(request.body(Full::<Bytes>::from(body.to_owned()))?).await?;
    let (head, body) = response.into_parts();
    let body = String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned();
    Ok(Answer { status: head.status, headers: head.headers, body })
}
