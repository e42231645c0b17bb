//! The server behind all peers: gRPC over HTTP/2 that sends messages back as the bytes they are.
//!
//! Lives here: `Echo` and `Repeat`. Does not: anything of their content but the number that Repeat reads; its time counts for nobody.

use std::{convert::Infallible, net::SocketAddr};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, task::JoinSet};

/// A message with gRPC's prefix.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0); // not compressed
    frame.put_u32(u32::try_from(message.len()).expect("a message has less than 4 GiB"));
    frame.put_slice(message);
    frame.freeze()
}

/// Serves on a thread of its own until the process ends.
pub(crate) fn start() -> anyhow::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let at = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("app".into()).spawn(move || runtime.block_on(serve(listener)))?;
    Ok(at)
}

async fn serve(listener: std::net::TcpListener) {
    let listener = TcpListener::from_std(listener).expect("the runtime takes sockets");
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true); // only speed is at stake
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.initial_stream_window_size(4 << 20).initial_connection_window_size(16 << 20);
        connections.spawn(async move { drop(http.serve_connection(TokioIo::new(stream), service_fn(answer)).await) });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, hyper::Error> {
    let many = request.uri().path().ends_with("/Repeat");
    let message = request.into_body().collect().await?.to_bytes();
    let times = if many { repeat(&message) } else { 1 };
    let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))]);
    let frames = (0..times).map(move |_| Frame::data(message.clone())).chain([Frame::trailers(trailers)]);
    let body = StreamBody::new(tokio_stream::iter(frames.map(Ok)));
    let mut response = Response::new(BodyExt::boxed(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

/// The first field of a framed Shape, which is sent with that field first: Envoy keeps the order of JSON.
fn repeat(mut message: &[u8]) -> u64 {
    message.advance(5);
    assert_eq!(message.get_u8(), 1 << 3, "Repeat is asked with the number of times");
    prost::decode_length_delimiter(message).map_or(0, |it| it as u64) // a varint like any other
}
