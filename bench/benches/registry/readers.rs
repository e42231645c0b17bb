//! Whoever follows the population: each has a connection of its own and looks at some services, or at all.
//!
//! Lives here: following in stages, latencies, the comparison at the end. Does not: how changes are heard ([`Reader`]'s makers).
//! A change counts as acknowledged when its reader has applied it and handed the acknowledgement to its stream.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{
    tally::{Change, FastMap, FastSet, Latencies},
    writers::Counts,
};

/// Longest time from the end of the churn to when a reader has what the catalog has: a change that was lost does not come by waiting.
const CATCHING_UP: Duration = Duration::from_secs(120);

/// All services, as a reader asks for them.
pub(crate) const ALL: &str = "*";

/// By service, the numbers of its instances.
pub(crate) type State = FastMap<String, FastSet<u64>>;

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
    fn state(&self) -> &State;
}

/// Whether latencies count, and whether the run is over.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// Not yet.
    Filling,
    /// Latencies count.
    Measuring,
    /// They do, and nothing changes any more: end with this state.
    Ending(Arc<State>),
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
    /// Each ends when its state is the catalog's.
    pub(crate) tasks: JoinSet<anyhow::Result<()>>,
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
                let followed = async {
                    let reader = R::open(to, name.clone(), services.clone()).await?;
                    follow(reader, &services, &seen, &counts, stage).await
                };
                followed.await.with_context(|| format!("{name} of {what}"))
            });
        }
        Self { what, count, seen, tasks }
    }
}

async fn follow<R: Reader>(
    mut reader: R,
    services: &[String],
    seen: &Seen,
    counts: &Counts,
    mut stage: watch::Receiver<Stage>,
) -> anyhow::Result<()> {
    let (mut ready, mut latencies) = (false, Vec::new());
    let goal = loop {
        if !ready && reader.is_ready() {
            ready = true;
            seen.ready.fetch_add(1, Ordering::Relaxed);
        }
        let now = stage.borrow_and_update().clone();
        let counted = match now {
            Stage::Filling => false,
            Stage::Measuring => true,
            Stage::Ending(catalog) => break catalog,
        };
        tokio::select! {
            changes = reader.next() => {
                let changes = changes?;
                reader.acknowledge().await?;
                seen.messages.fetch_add(1, Ordering::Relaxed);
                if counted {
                    latencies.extend(changes.into_iter().filter_map(|change| counts.asked.since(change)));
                }
            }
            changed = stage.changed() => changed?,
        }
    };
    let mut open = Open::new(services, &goal);
    let until = Instant::now() + CATCHING_UP;
    while !open.is_settled(reader.state()) {
        let Ok(changes) = timeout_at(until, reader.next()).await else {
            anyhow::bail!("after {} s without a change: {}", CATCHING_UP.as_secs(), open.describe(reader.state()));
        };
        let changes = changes?;
        reader.acknowledge().await?;
        latencies.extend(changes.into_iter().filter_map(|change| counts.asked.since(change)));
    }
    seen.latencies.extend(latencies);
    Ok(())
}

/// What of a reader's state is not the catalog's yet.
struct Open<'a> {
    goal: &'a State,
    /// The reader has to have these and no others.
    all: bool,
    services: Vec<&'a str>,
}

impl<'a> Open<'a> {
    fn new(services: &'a [String], goal: &'a State) -> Self {
        let all = services == [ALL];
        let of_goal = goal.keys().filter(|_| all);
        let named = services.iter().filter(|_| !all);
        Self { goal, all, services: of_goal.chain(named).map(String::as_str).collect() }
    }

    /// What equals the goal once stays so: nothing changes any more, and no number comes twice.
    fn is_settled(&mut self, state: &State) -> bool {
        self.services.retain(|service| state.get(*service) != self.goal.get(*service));
        self.services.is_empty() && (!self.all || state.len() == self.goal.len())
    }

    fn describe(&self, state: &State) -> String {
        let nobody = FastSet::default();
        let Some(service) = self.services.first() else {
            return format!("{} services instead of {}", state.len(), self.goal.len());
        };
        let (has, wanted) = (state.get(*service).unwrap_or(&nobody), self.goal.get(*service).unwrap_or(&nobody));
        let (lacks, keeps) = (wanted.difference(has).count(), has.difference(wanted).count());
        format!(
            "{} services differ; {service} lacks {lacks} instances and keeps {keeps} that left",
            self.services.len()
        )
    }
}
