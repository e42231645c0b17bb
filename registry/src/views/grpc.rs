//! weft.discovery.v1 over gRPC: the stream around a watch, lists, clients, descriptors.
//!
//! Lives here: requests in, statuses out, the task of each stream. Does not: what to tell (`watch`).
//! A stream's task reads requests (acks above all) also while its reader is slow: one message waits in the channel, what changes meanwhile is
//! merged into the next. The tasks belong to the tracker of the server, which waits for them.

use std::{collections::BTreeMap, net::SocketAddr};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use weft_model::{Digest, Invalid, ServiceName, Version};
use weft_proto::{
    service_update_full,
    weft::discovery::v1::{
        Claim, ClaimsRequest, ClaimsResponse, Client, ClientsRequest, DescriptorsRequest, DescriptorsResponse,
        ListRequest, ListResponse, RefusedSet, WatchRequest, WatchResponse, claim, discovery_server,
    },
};
use weft_runtime::Shutdown;

use crate::{
    access::{Access, Sight},
    catalog::{self, Catalog, Published},
    schema::DescriptorSet,
    server::CallerAddr,
    sources::status,
    views::{
        watch::{Topic, Watcher, Watches},
        xds::Xds,
    },
};

/// Longest name of a watcher, in bytes: it is kept and told to whoever drains.
const LONGEST_NAME: usize = 256;
/// Topics of one watch. A sidecar has one for each service its app has called of late.
const MOST_TOPICS: usize = 10_000;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Discovery {
    pub(crate) catalog: Catalog,
    pub(crate) watches: Watches,
    pub(crate) xds: Xds,
    pub(crate) streams: TaskTracker,
    pub(crate) shutdown: Shutdown,
}

#[tonic::async_trait]
impl discovery_server::Discovery for Discovery {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;
    type ClientsStream = ReceiverStream<Result<Client, Status>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let (out, stream) = mpsc::channel(1);
        let (watches, shutdown) = (self.watches.clone(), self.shutdown.clone());
        let from = request.extensions().get().copied();
        let requests = request.into_inner();
        self.streams.spawn(async move {
            if let Err(end) = serve(&watches, from, requests, &out, &shutdown).await {
                drop(out.send(Err(end)).await); // a reader that has gone needs no reason
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let published = self.catalog.published();
        let wanted = match request.into_inner().service.as_str() {
            "" => None,
            name => Some(name.parse::<ServiceName>().map_err(|e| status::invalid(&e.within("service")))?),
        };
        let services = published.snapshot.services.iter();
        let services = services.filter(|(name, _)| wanted.as_ref().is_none_or(|w| w == *name));
        Ok(Response::new(ListResponse {
            version: published.snapshot.version.0,
            services: services.map(|(_, service)| service_update_full(service)).collect(),
            notices: published.notices.to_vec(),
        }))
    }

    async fn claims(&self, _: Request<ClaimsRequest>) -> Result<Response<ClaimsResponse>, Status> {
        let published = self.catalog.published();
        let refused_sets = published.refused_sets.iter().map(|(id, it)| RefusedSet {
            service: it.service.full().to_owned(),
            instance: id.to_string(),
            problem: it.problem.clone(),
            at_ms: catalog::millis(it.at),
        });
        Ok(Response::new(ClaimsResponse {
            version: published.snapshot.version.0,
            claims: claims(&published),
            refused_sets: refused_sets.collect(),
        }))
    }

    async fn clients(&self, request: Request<ClientsRequest>) -> Result<Response<Self::ClientsStream>, Status> {
        let sight = Access::of(&request).to_clients()?;
        let ClientsRequest { name, resources } = request.into_inner();
        let (out, stream) = mpsc::channel(16);
        let (watches, xds, shutdown) = (self.watches.clone(), self.xds.clone(), self.shutdown.clone());
        self.streams.spawn(async move {
            // Watchers are known by a name that they choose.
            let watchers = if sight == Sight::All { watches.clients(&name) } else { Vec::new() };
            let mut watchers = watchers.into_iter().peekable();
            for (node, id) in xds.clients(&name, &sight) {
                let earlier =
                    std::iter::from_fn(|| watchers.next_if(|watcher| watcher.name <= node)).collect::<Vec<_>>();
                for client in earlier.into_iter().chain(xds.client(id, resources)) {
                    if !sent(&out, client, &shutdown).await {
                        return;
                    }
                }
            }
            for client in watchers {
                if !sent(&out, client, &shutdown).await {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn descriptors(&self, request: Request<DescriptorsRequest>) -> Result<Response<DescriptorsResponse>, Status> {
        let request = request.into_inner();
        let name: ServiceName = request.service.parse().map_err(|e| status::invalid(&Invalid::within(e, "service")))?;
        let wanted = match request.digest.as_ref() {
            [] => None,
            bytes => Some(status::digest(bytes, "digest")?),
        };
        let published = self.catalog.published();
        let set = find(&published, &name, wanted)
            .ok_or_else(|| Status::not_found(format!("{name} has no such descriptor set")))?;
        Ok(Response::new(DescriptorsResponse {
            digest: set.digest.0.to_vec().into(),
            files: set.files.clone(),
            services: set.served.iter().cloned().collect(),
        }))
    }
}

/// Returns a certain set that an instance of the service carries, or the newest of a serving one, or the newest of any.
fn find<'a>(published: &'a Published, name: &ServiceName, wanted: Option<Digest>) -> Option<&'a DescriptorSet> {
    let service = published.snapshot.services.get(name)?;
    let newest_first = &service.info.descriptors;
    let digest = match wanted {
        Some(digest) => newest_first.iter().find(|d| **d == digest),
        None => {
            let serving =
                |d: &&Digest| service.instances.values().any(|i| i.status.takes_calls() && i.descriptors == Some(**d));
            newest_first.iter().find(serving).or_else(|| newest_first.first())
        }
    }?;
    published.sets.get(digest).map(AsRef::as_ref)
}

fn claims(published: &Published) -> Vec<Claim> {
    let services = &published.snapshot.services;
    let mut refused: BTreeMap<&str, Vec<claim::Refused>> = BTreeMap::new();
    for (claimant, it) in services.iter().flat_map(|(name, it)| it.info.refused.iter().map(move |it| (name, it))) {
        let told = claim::Refused { claimant: claimant.full().to_owned(), method: it.method.clone() };
        refused.entry(&it.name).or_default().push(told);
    }
    let claim = |(name, it): (&String, &catalog::Claim)| Claim {
        name: name.clone(),
        holder: it.holder.full().to_owned(),
        placed: it.placed,
        holder_present: services.get(&it.holder).is_some_and(|service| !service.instances.is_empty()),
        refused: refused.remove(name.as_str()).unwrap_or_default(),
    };
    published.claims.iter().map(claim).collect()
}

/// Whether somebody still listens.
async fn sent(out: &mpsc::Sender<Result<Client, Status>>, client: Client, shutdown: &Shutdown) -> bool {
    tokio::select! {
        sent = out.send(Ok(client)) => sent.is_ok(),
        () = shutdown.draining() => false,
    }
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
    out: &mpsc::Sender<Result<WatchResponse, Status>>,
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
    loop {
        let event = tokio::select! {
            request = requests.message(), if !half_closed => Event::Request(request),
            room = room(&watcher, out) => Event::Room(room),
            () = out.closed() => return Ok(()),
            () = shutdown.draining() => Event::Leaving,
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
                    out.try_send(Ok(update.response)).map_err(|_| Status::internal("the channel had room"))?;
                }
            }
            Event::Room(Err(_)) => return Ok(()),
            Event::Leaving => return Err(leaving()),
        }
    }
}

/// Waits for something to tell and for room to tell it. Cancel-safe: the permit is given back, the mark stays.
async fn room(
    watcher: &Watcher,
    out: &mpsc::Sender<Result<WatchResponse, Status>>,
) -> Result<(), mpsc::error::SendError<()>> {
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
