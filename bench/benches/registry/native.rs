//! Watchers that speak weft.discovery.v1: what a sidecar's or a gateway's watch costs the registry.
//!
//! Lives here: subscribing, applying, acknowledging, the final state. Does not: what a real client does with it (`weft-discovery`).
//! A change counts as acknowledged when its watcher has applied it and handed the acknowledgement to its stream.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;
use weft_proto::weft::{
    discovery::v1::{
        ServiceUpdate, WatchRequest, WatchResponse, discovery_client::DiscoveryClient, service_update::Body,
    },
    model::v1::Instance,
};

use crate::{
    connect,
    population::{Population, SENT},
    tally::{Departures, Latencies},
};

/// A watcher that hears nothing for this long after the churn has ended is up to date.
const QUIET: Duration = Duration::from_secs(3);

/// By service, by id: the epoch.
pub(crate) type State = HashMap<String, HashMap<u128, u64>>;

/// What watchers share.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Change → acknowledged.
    pub(crate) latencies: Latencies,
    /// Watchers that have their first whole answer.
    pub(crate) ready: AtomicU64,
    /// Messages received.
    pub(crate) messages: AtomicU64,
}

/// Whether latencies count, and whether the run is over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Stage {
    /// Not yet.
    Filling,
    /// Latencies count.
    Measuring,
    /// Return the state once it is quiet.
    Ending,
}

/// Starts watchers, each with the services it looks at; `*` is all of them.
pub(crate) fn start(
    registry: SocketAddr,
    population: Population,
    watched: Vec<Vec<String>>,
    seen: &Arc<Seen>,
    departures: &Arc<crate::registrants::Counts>,
    stage: &watch::Receiver<Stage>,
) -> JoinSet<anyhow::Result<(Vec<String>, State)>> {
    let mut all = JoinSet::new();
    for (number, services) in watched.into_iter().enumerate() {
        let (seen, counts, stage) = (seen.clone(), departures.clone(), stage.clone());
        all.spawn(async move {
            let name = format!("bench-{number}");
            let state = watch(registry, population, &name, &services, &seen, &counts.departures, stage).await;
            Ok((services, state.with_context(|| format!("watcher {name}"))?))
        });
    }
    all
}

async fn watch(
    registry: SocketAddr,
    population: Population,
    name: &str,
    services: &[String],
    seen: &Seen,
    departures: &Departures,
    mut stage: watch::Receiver<Stage>,
) -> anyhow::Result<State> {
    let mut client = DiscoveryClient::new(connect(registry).await?).max_decoding_message_size(usize::MAX);
    let (requests, outgoing) = mpsc::channel(16);
    requests
        .send(WatchRequest { watcher: name.to_owned(), subscribe: services.to_vec(), ..WatchRequest::default() })
        .await?;
    let mut stream = client.watch(ReceiverStream::new(outgoing)).await?.into_inner();
    let mut state = State::new();
    let mut ready = false;
    let mut latencies = Vec::new();
    loop {
        let now = *stage.borrow_and_update();
        let message = if now == Stage::Ending {
            match timeout(QUIET, stream.message()).await {
                Ok(message) => message?,
                Err(_) => break,
            }
        } else {
            tokio::select! {
                message = stream.message() => message?,
                changed = stage.changed() => { changed?; continue }
            }
        };
        let message = message.context("the registry ended a watch")?;
        seen.messages.fetch_add(1, Ordering::Relaxed);
        let version = message.version;
        let complete = message.complete;
        let sent = apply(&mut state, message, departures)?;
        requests.send(WatchRequest { ack: version, ..WatchRequest::default() }).await?;
        if now == Stage::Measuring {
            let now = population.now();
            latencies.extend(sent.into_iter().map(|sent| now.saturating_sub(sent)));
        }
        if !ready && (complete || services.iter().all(|it| state.contains_key(it))) {
            ready = true;
            seen.ready.fetch_add(1, Ordering::Relaxed);
        }
    }
    seen.latencies.extend(latencies);
    Ok(state)
}

/// Applies a message; returns when the changes in its deltas were asked for.
fn apply(state: &mut State, message: WatchResponse, departures: &Departures) -> anyhow::Result<Vec<u64>> {
    let mut sent = Vec::new();
    for ServiceUpdate { name, body, .. } in message.services {
        match body.context("an update has a body")? {
            Body::Full(full) => {
                let instances = full.instances.iter().map(key).collect::<anyhow::Result<_>>()?;
                state.insert(name, instances);
            }
            Body::Delta(delta) => {
                let known = state.get_mut(&name).with_context(|| format!("a delta before the set of {name}"))?;
                for removed in &delta.removed {
                    let id = Uuid::parse_str(&removed.id)?.as_u128();
                    ensure!(known.remove(&id).is_some(), "{name}: {} was removed but never sent", removed.id);
                    sent.extend(departures.when(id));
                }
                for instance in &delta.upserted {
                    let (id, epoch) = key(instance)?;
                    known.insert(id, epoch);
                    sent.extend(asked_at(instance));
                }
            }
        }
    }
    Ok(sent)
}

/// When an instance was asked for, if the bench did.
pub(crate) fn asked_at(instance: &Instance) -> Option<u64> {
    instance.metadata.get(SENT)?.parse().ok()
}

fn key(instance: &Instance) -> anyhow::Result<(u128, u64)> {
    Ok((Uuid::parse_str(&instance.id)?.as_u128(), instance.epoch))
}

/// What the catalog itself says.
pub(crate) async fn catalog(registry: SocketAddr) -> anyhow::Result<State> {
    let mut client = DiscoveryClient::new(connect(registry).await?).max_decoding_message_size(usize::MAX);
    let answer = client.list(weft_proto::weft::discovery::v1::ListRequest::default()).await?.into_inner();
    let mut state = State::new();
    apply(&mut state, WatchResponse { services: answer.services, ..WatchResponse::default() }, &Departures::default())?;
    Ok(state)
}
