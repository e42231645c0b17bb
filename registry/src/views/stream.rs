//! A call whose client and registry both speak as they please, as the services of views have it.
//!
//! Lives here: its requests as messages, opening a stream, the task that it has. Does not: what is said (`grpc`, `xds::service`), how answers go out (`body`).
//! By hand, since generated servers make a message of its own for each reader, encode it, and copy it.

use http_body::Body as HttpBody;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming, body::Body, codec::BufferSettings};
use tonic_prost::ProstDecoder;

use super::body::{self, Part, Pieces};

/// Bytes of a request that are made room for before it comes; longer ones cost what they need.
const REQUEST: usize = 1 << 10;

/// Where a stream is answered: one message waits there. In a box, since a channel has room for 32 of whatever it carries.
pub(super) type Out<A> = mpsc::Sender<Result<Box<A>, Status>>;

/// Returns what a client sends.
pub(super) fn requests<Q, B>(request: http::Request<B>) -> Result<Streaming<Q>, Status>
where
    Q: prost::Message + Default + 'static,
    B: HttpBody + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let encoding = request.headers().get("grpc-encoding");
    if encoding.is_some_and(|it| it != "identity") {
        return Err(Status::unimplemented("compressed requests are not taken here"));
    }
    let decoder = ProstDecoder::<Q>::new(BufferSettings::new(REQUEST, REQUEST));
    Ok(Streaming::new_request(decoder, request.into_body(), None, None))
}

/// Opens a stream that `serve` serves, in a task of `streams`; an error ends it with a status. Each answer is taken apart by `of`.
pub(super) fn open<Q, A, P, B, F>(
    request: http::Request<B>,
    streams: &TaskTracker,
    of: fn(Box<A>) -> Result<Pieces<P>, Status>,
    serve: impl FnOnce(Streaming<Q>, Out<A>) -> F,
) -> http::Response<Body>
where
    Q: prost::Message + Default + 'static,
    A: Send + 'static,
    P: Part + Send + Unpin + 'static,
    B: HttpBody + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let requests = match requests(request) {
        Ok(requests) => requests,
        Err(status) => return status.into_http(),
    };
    let (out, answers) = mpsc::channel(1);
    let served = serve(requests, out.clone());
    streams.spawn(async move {
        if let Err(end) = served.await {
            drop(out.send(Err(end)).await); // whoever has gone needs no reason
        }
    });
    body::answers(answers, of)
}
