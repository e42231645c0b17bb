//! weft.discovery.v1 over gRPC: clients, claims, descriptors; `watch` has the stream around a watch, `list` the answer that is as large.
//!
//! Lives here: requests in, statuses out. Does not: what to tell (`views::watch`).
//! The tasks of streams belong to the tracker of the server, which waits for them.

mod list;
mod watch;

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use weft_model::{Digest, Invalid, ServiceName};
use weft_proto::weft::discovery::v1::{
    Claim, ClaimsRequest, ClaimsResponse, Client, ClientsRequest, DescriptorsRequest, DescriptorsResponse, ListRequest,
    ListResponse, RefusedSet, WatchRequest, WatchResponse, claim, discovery_server,
};
use weft_runtime::Shutdown;

use crate::{
    access::{Access, Sight},
    catalog::{self, Catalog, Published},
    schema::DescriptorSet,
    sources::status,
    views::{watch::Watches, xds::Xds},
};

pub(crate) use watch::Served;

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
    type WatchStream = tokio_stream::Empty<Result<WatchResponse, Status>>;
    type ClientsStream = ReceiverStream<Result<Client, Status>>;

    async fn watch(&self, _: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::internal("a watch never comes here: `Served` stands in front"))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Err(Status::internal("a list never comes here: `Served` stands in front"))
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
