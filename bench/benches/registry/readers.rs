//! Whoever follows the population: each has a connection of its own and looks at some services, or at all.
//!
//! Lives here: following in stages, latencies, the final state. Does not: how changes are heard ([`Reader`]'s makers).
//! A change counts as acknowledged when its reader has applied it and handed the acknowledgement to its stream.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use tokio::{sync::watch, task::JoinSet, time::sleep};

use crate::{
    tally::{Change, Latencies},
    writers::Counts,
};

/// A reader that hears nothing for this long after the churn has ended is up to date.
const QUIET: Duration = Duration::from_secs(3);

/// All services, as a reader asks for them.
pub(crate) const ALL: &str = "*";

/// By service, the numbers of its instances.
pub(crate) type State = HashMap<String, HashSet<u64>>;

/// How changes are heard.
pub(crate) trait Reader: Sized + Send + 'static {
    /// Begins with these services, or with [`ALL`].
    fn open(to: SocketAddr, name: String, services: Vec<String>) -> impl Future<Output = anyhow::Result<Self>> + Send;
    /// Waits for a message and applies it; returns the changes in it, none for what is the first word on a service. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = anyhow::Result<Vec<Change>>> + Send;
    /// Tells that the last message was applied.
    fn acknowledge(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send;
    /// Whether there was a first word on everything.
    fn is_ready(&self) -> bool;
    fn state(self) -> State;
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

/// What the readers of a group share.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Change → acknowledged.
    pub(crate) latencies: Latencies,
    /// Readers that have their first whole answer.
    pub(crate) ready: AtomicU64,
    /// Messages received.
    pub(crate) messages: AtomicU64,
}

/// Readers of one kind.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) what: &'static str,
    pub(crate) count: usize,
    pub(crate) seen: Arc<Seen>,
    /// Each returns what it looked at and what it has in the end.
    pub(crate) tasks: JoinSet<anyhow::Result<(Vec<String>, State)>>,
}

impl Group {
    /// Starts readers, each with the services it looks at.
    pub(crate) fn start<R: Reader>(
        what: &'static str,
        to: SocketAddr,
        watched: Vec<Vec<String>>,
        counts: &Arc<Counts>,
        stage: &watch::Receiver<Stage>,
    ) -> Self {
        let (count, seen, mut tasks) = (watched.len(), Arc::new(Seen::default()), JoinSet::new());
        for (number, services) in watched.into_iter().enumerate() {
            let (seen, counts, stage) = (seen.clone(), counts.clone(), stage.clone());
            tasks.spawn(async move {
                let name = format!("bench-{number}");
                let state = async {
                    let reader = R::open(to, name.clone(), services.clone()).await?;
                    follow(reader, &seen, &counts, stage).await
                };
                let state = state.await.with_context(|| format!("{name} of {what}"))?;
                Ok((services, state))
            });
        }
        Self { what, count, seen, tasks }
    }
}

async fn follow<R: Reader>(
    mut reader: R,
    seen: &Seen,
    counts: &Counts,
    mut stage: watch::Receiver<Stage>,
) -> anyhow::Result<State> {
    let (mut ready, mut latencies) = (false, Vec::new());
    loop {
        if !ready && reader.is_ready() {
            ready = true;
            seen.ready.fetch_add(1, Ordering::Relaxed);
        }
        let now = *stage.borrow_and_update();
        let changes = tokio::select! {
            changes = reader.next() => changes?,
            changed = stage.changed() => {
                changed?;
                continue;
            }
            () = sleep(QUIET), if now == Stage::Ending => break,
        };
        reader.acknowledge().await?;
        seen.messages.fetch_add(1, Ordering::Relaxed);
        if now == Stage::Measuring {
            latencies.extend(changes.into_iter().filter_map(|change| counts.asked.since(change)));
        }
    }
    seen.latencies.extend(latencies);
    Ok(reader.state())
}
