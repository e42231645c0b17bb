//! What a refused caller is told, in the protocol it speaks.
//!
//! Lives here: an answer for HTTP/2 and one for HTTP/1.1. Does not: who is refused (`door`), closing so that it arrives (`weft_runtime::linger`).
//! A caller of gRPC gets a status, since it takes a closed connection for an outage and calls again; a person with curl gets a line.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use weft_runtime::linger::{self, lingering};
use weft_traffic::{Body, Code, Dialect};

/// Start of the HTTP/2 preface that no request of HTTP/1.1 shares.
const HTTP2: &[u8] = b"PRI * HTTP/2.0";
/// Time a caller has to make the call that is answered, and to close after it.
const TELL: Duration = Duration::from_secs(1);

/// Answers `why` to a caller of either version of HTTP and closes; to others it just closes.
pub(super) async fn tell(mut stream: TcpStream, why: &str) {
    let mut start = [0; HTTP2.len()];
    let Ok(length) = stream.peek(&mut start).await else { return };
    let start = &start[..length];
    let told = async {
        if HTTP2.starts_with(start) && start.len() >= b"PRI".len() {
            answer_http2(stream, why).await;
        } else if start.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\r' | b'\n')) {
            drop(stream.write_all(http1(why).as_bytes()).await);
            linger::close(stream).await;
        }
    };
    drop(timeout(TELL, told).await);
}

/// Answers the first calls with a status, then says GOAWAY.
async fn answer_http2(stream: TcpStream, why: &str) {
    let answered = Notify::new();
    let service = service_fn(|request: Request<Incoming>| {
        answered.notify_one();
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Code::Unauthenticated.write(why, headers);
        std::future::ready(Ok::<_, Infallible>(Dialect::of(request.headers()).put(response, why)))
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    let (stream, remains) = lingering(stream);
    {
        let mut served = pin!(http.max_concurrent_streams(8).serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            _ = served.as_mut() => return,
            () = answered.notified() => served.as_mut().graceful_shutdown(),
        }
        drop(served.await);
    }
    remains.close().await;
}

fn http1(why: &str) -> String {
    let body = format!("{why}\n");
    format!(
        "HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
