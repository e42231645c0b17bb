//! The stream around a watch.
//!
//! Lives here: requests in, messages out as the bytes that all watchers share. Does not: the stream itself (`views::stream`), what to tell (`views::watch`).
//! A stream's task reads requests (acks above all) also while its reader is slow: one message waits in the channel, what changes meanwhile is
//! merged into the next.

use std::{convert::Infallible, net::SocketAddr, pin::pin, task};

use futures_util::{FutureExt, future::BoxFuture};
use http_body::Body as HttpBody;
use tokio::sync::mpsc;
use tonic::{Status, Streaming, body::Body, server::NamedService};
use weft_model::{Invalid, Version};
use weft_proto::weft::discovery::v1::{WatchRequest, discovery_server::DiscoveryServer};
use weft_runtime::Shutdown;

use super::{Discovery, list};
use crate::{
    server::CallerAddr,
    sources::status,
    views::{
        stream::{self, Out},
        watch::{Message, Topic, Watcher, Watches},
    },
};

/// Longest name of a watcher, in bytes: it is kept and told to whoever drains.
const LONGEST_NAME: usize = 256;
/// Topics of one watch. A sidecar has one for each service its app has called of late.
const MOST_TOPICS: usize = 10_000;
/// The method that is served here.
const WATCH: &str = "/weft.discovery.v1.Discovery/Watch";

/// weft.discovery.v1 with its watches.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    discovery: Discovery,
    others: DiscoveryServer<Discovery>,
}

impl Served {
    pub(crate) fn new(discovery: Discovery) -> Self {
        Self { others: DiscoveryServer::new(discovery.clone()), discovery }
    }
}

impl NamedService for Served {
    const NAME: &'static str = DiscoveryServer::<Discovery>::NAME;
}

impl<B> tower::Service<http::Request<B>> for Served
where
    B: HttpBody + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        tower::Service::<http::Request<B>>::poll_ready(&mut self.others, cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        match request.uri().path() {
            WATCH => std::future::ready(Ok(watch(&self.discovery, request))).boxed(),
            list::METHOD => list::answer(self.discovery.clone(), request).map(Ok).boxed(),
            _ => self.others.call(request),
        }
    }
}

fn watch<B>(discovery: &Discovery, request: http::Request<B>) -> http::Response<Body>
where
    B: HttpBody + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let (watches, shutdown) = (discovery.watches.clone(), discovery.shutdown.clone());
    let from = request.extensions().get().copied();
    stream::open(
        request,
        &discovery.streams,
        |it: Box<Message>| it.pieces(),
        move |requests, out| async move { serve(&watches, from, requests, &out, &shutdown).await },
    )
}

/// Where a watcher tells of itself.
fn admin(told: &str, from: Option<CallerAddr>) -> Result<Option<SocketAddr>, Invalid> {
    if told.is_empty() {
        return Ok(None);
    }
    let at: Option<SocketAddr> = told.parse().ok().filter(|at: &SocketAddr| at.port() != 0);
    let mut at = at.ok_or_else(|| Invalid::new("admin", format!("{told:?} is no IP and port, like 10.0.0.7:8160")))?;
    if at.ip().is_unspecified() {
        let Some(CallerAddr(from)) = from else { return Ok(None) };
        at.set_ip(from.ip().to_canonical());
    }
    Ok(Some(at))
}

enum Event {
    Request(Result<Option<WatchRequest>, Status>),
    Room(Result<(), mpsc::error::SendError<()>>),
    Leaving,
}

/// Serves one stream until its reader or the registry leaves. An error ends it with a status.
async fn serve(
    watches: &Watches,
    from: Option<CallerAddr>,
    mut requests: Streaming<WatchRequest>,
    out: &Out<Message>,
    shutdown: &Shutdown,
) -> Result<(), Status> {
    let first = tokio::select! {
        first = requests.message() => first?,
        () = shutdown.draining() => return Err(leaving()),
    };
    let Some(first) = first else { return Ok(()) };
    if first.watcher.is_empty() {
        let missing = Invalid::new("watcher", "the first message names the watcher");
        return Err(status::invalid(&missing));
    }
    if first.watcher.len() > LONGEST_NAME {
        let long = weft_model::Invalid::new("watcher", format!("is longer than {LONGEST_NAME} bytes"));
        return Err(status::invalid(&long));
    }
    let mut watcher = watches.open(&first.watcher);
    if let Some(admin) = admin(&first.admin, from).map_err(|e| status::invalid(&e))? {
        watcher.tells_at(&first.watcher, admin);
    }
    obey(&mut watcher, first)?;
    let mut half_closed = false;
    let (mut gone, mut draining) = (pin!(out.closed()), pin!(shutdown.draining())); // once: what all streams wait for has one lock
    loop {
        let event = tokio::select! {
            request = requests.message(), if !half_closed => Event::Request(request),
            room = room(&watcher, out) => Event::Room(room),
            () = &mut gone => return Ok(()),
            () = &mut draining => Event::Leaving,
        };
        match event {
            Event::Request(request) => match request? {
                Some(request) => obey(&mut watcher, request)?,
                None => {
                    half_closed = true; // a reader that only listens, such as grpcurl
                    watcher.acks_no_more();
                }
            },
            Event::Room(Ok(())) => {
                if let Some(update) = watcher.take() {
                    out.try_send(Ok(Box::new(update.message))).map_err(|_| Status::internal("the channel had room"))?;
                }
            }
            Event::Room(Err(_)) => return Ok(()),
            Event::Leaving => return Err(leaving()),
        }
    }
}

/// Waits for something to tell and for room to tell it. Cancel-safe: the permit is given back, the mark stays.
async fn room(watcher: &Watcher, out: &Out<Message>) -> Result<(), mpsc::error::SendError<()>> {
    watcher.ready().await;
    out.reserve().await.map(drop)
}

fn obey(watcher: &mut Watcher, request: WatchRequest) -> Result<(), Status> {
    let (subscribe, unsubscribe) =
        (topics("subscribe", &request.subscribe)?, topics("unsubscribe", &request.unsubscribe)?);
    if request.ack > 0 {
        watcher.ack(Version(request.ack));
    }
    if !unsubscribe.is_empty() {
        watcher.unsubscribe(unsubscribe);
    }
    if !subscribe.is_empty() && watcher.subscribe(subscribe) > MOST_TOPICS {
        return Err(Status::resource_exhausted(format!(
            "a watch subscribes to {MOST_TOPICS} topics at most; `*` is one"
        )));
    }
    Ok(())
}

fn topics(field: &str, names: &[String]) -> Result<Vec<Topic>, Status> {
    let parse = |(index, name): (usize, &String)| {
        name.parse().map_err(|e: weft_model::Invalid| status::invalid(&e.within(&format!("{field}[{index}]"))))
    };
    names.iter().enumerate().map(parse).collect()
}

fn leaving() -> Status {
    Status::unavailable("the registry is leaving; keep the last good state and come back")
}
