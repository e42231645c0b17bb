//! The echo service: the four kinds of call, failures and delays on demand.
//!
//! Lives here: the implementation of `weft.testkit.v1.Echo` and its server. Does not: registration; a sidecar stands beside it.

use std::{pin::Pin, time::Duration};

use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Response, Status, Streaming, metadata::MetadataMap, server::NamedService,
    transport::server::TcpIncoming,
};
use weft_proto::{
    descriptors,
    weft::testkit::v1::{
        EchoRequest, EchoResponse,
        echo_server::{self, EchoServer},
    },
};
use weft_reflection::{Health, Reflection};

/// Messages of a stream that wait for a slow reader.
const QUEUE: usize = 16;

/// Says back what it hears.
#[derive(Debug, Clone, Default)]
pub struct Echo {
    /// What answers carry as `instance`.
    pub instance: String,
}

type Answers = Pin<Box<dyn Stream<Item = Result<EchoResponse, Status>> + Send>>;

impl Echo {
    async fn answer(&self, request: EchoRequest, metadata: &MetadataMap) -> Result<EchoResponse, Status> {
        tokio::time::sleep(Duration::from_millis(request.delay_ms.into())).await;
        if request.fail_with != 0 {
            return Err(Status::new(
                Code::from(request.fail_with.cast_signed()),
                format!("asked to fail: {}", request.text),
            ));
        }
        let padding = usize::try_from(request.padding).unwrap_or_default();
        Ok(EchoResponse {
            text: request.text,
            instance: self.instance.clone(),
            metadata: heard(metadata),
            deadline_ms: deadline(metadata),
            padding: vec![b'x'; padding].into(),
        })
    }
}

fn heard(metadata: &MetadataMap) -> std::collections::BTreeMap<String, String> {
    let pairs = metadata.as_ref().iter().filter(|(name, _)| *name != "user-agent");
    pairs.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
}

/// Milliseconds of a `grpc-timeout` (gRPC over HTTP/2, "Timeout"); 0 without one.
fn deadline(metadata: &MetadataMap) -> u32 {
    let Some(text) = metadata.get("grpc-timeout").and_then(|v| v.to_str().ok()) else { return 0 };
    let Some((number, unit)) = text.split_at_checked(text.len().saturating_sub(1)) else { return 0 };
    let number: f64 = number.parse().unwrap_or_default();
    let ms = match unit {
        "H" => number * 3_600_000.0,
        "M" => number * 60_000.0,
        "S" => number * 1000.0,
        "m" => number,
        "u" => number / 1000.0,
        _ => number / 1_000_000.0,
    };
    ms as u32
}

#[tonic::async_trait]
impl echo_server::Echo for Echo {
    async fn unary(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.answer(request, &metadata).await.map(Response::new)
    }

    type ServerStreamStream = Answers;

    async fn server_stream(&self, request: Request<EchoRequest>) -> Result<Response<Answers>, Status> {
        let (metadata, _, request) = request.into_parts();
        let (echo, count) = (self.clone(), request.count);
        let numbers = tokio_stream::iter(0..count);
        Ok(Response::new(Box::pin(numbers.then(move |_| {
            let (echo, request, metadata) = (echo.clone(), request.clone(), metadata.clone());
            async move { echo.answer(request, &metadata).await }
        }))))
    }

    async fn client_stream(&self, request: Request<Streaming<EchoRequest>>) -> Result<Response<EchoResponse>, Status> {
        let (metadata, _, mut stream) = request.into_parts();
        let mut texts = Vec::new();
        while let Some(request) = stream.message().await? {
            texts.push(request.text);
        }
        let joined = EchoRequest { text: texts.join(","), ..EchoRequest::default() };
        self.answer(joined, &metadata).await.map(Response::new)
    }

    type BidiStream = Answers;

    async fn bidi(&self, request: Request<Streaming<EchoRequest>>) -> Result<Response<Answers>, Status> {
        let (metadata, _, stream) = request.into_parts();
        let echo = self.clone();
        Ok(Response::new(Box::pin(stream.then(move |request| {
            let (echo, metadata) = (echo.clone(), metadata.clone());
            async move { echo.answer(request?, &metadata).await }
        }))))
    }
}

/// Serves Echo with health and reflection (v1 and v1alpha) until `ended`.
pub async fn serve(listener: TcpListener, instance: String, ended: impl Future<Output = ()>) -> anyhow::Result<()> {
    serve_shown(listener, instance, true, ended).await
}

/// The same, with reflection only if it is `shown` what is served.
pub async fn serve_shown(
    listener: TcpListener,
    instance: String,
    shown: bool,
    ended: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let leaving = CancellationToken::new();
    let names = [EchoServer::<Echo>::NAME];
    let reflection = Reflection::new(&[descriptors::TESTKIT], &names, leaving.clone())?;
    let health = Health::new(&names, leaving.clone());
    let ended = async move {
        ended.await;
        leaving.cancel();
    };
    tonic::transport::Server::builder()
        .add_service(health.server())
        .add_optional_service(shown.then(|| reflection.v1()))
        .add_optional_service(shown.then(|| reflection.v1alpha()))
        .add_service(EchoServer::new(Echo { instance }))
        // without TCP_NODELAY an answer's trailers wait 40 ms for the caller's delayed acknowledgement
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), ended)
        .await?;
    Ok(())
}

/// Returns a request stream that is fed by hand, for ping-pong over a bidirectional call.
pub fn feed() -> (mpsc::Sender<EchoRequest>, ReceiverStream<EchoRequest>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (sender, ReceiverStream::new(receiver))
}
