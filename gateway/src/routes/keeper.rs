//! Keeps the route table in step with the mesh: one task that fetches descriptor sets, links them, and publishes a new table, then who serves.
//!
//! Lives here: which sets give a service its routes and in which order, when table and health board change. Does not: the table itself (`routes`), endpoints (`weft-traffic`).
//! All sets that instances of a service carry are routed, since two versions of it may stand side by side; the newest one of an instance that takes
//! calls comes first.
//! Invariants: this task is the table's only writer; a set that does not link never replaces one that did; routes stay while a service is listed,
//! with or without instances, and go when it is listed no more; a service is told to serve only once it has routes. The first table waits until every set it needs was fetched or failed once.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use indexmap::IndexMap;
use tokio::{
    sync::watch,
    task::{self, JoinError, JoinSet},
};
use weft_discovery::{BadDescriptors, DescriptorSet};
use weft_model::{Digest, ServiceInfo, ServiceName, ServiceSnapshot, Snapshot};
use weft_runtime::{Shutdown, admin::Readiness};
use weft_transcode::SchemaError;

use crate::{
    edge::{
        metrics::Meters,
        policies::{Compiler, Told},
    },
    protocol::{chain, health::Board},
    routes::{Entry, Table, sets::LinkedSet},
};

/// Pause before a set that could not be fetched is asked for again.
const RETRY: Duration = Duration::from_secs(1);

/// Where the table of the process is published.
pub(crate) type Published = Arc<ArcSwapOption<Table>>;

/// Gets a descriptor set from wherever the services come from.
pub(crate) type Fetch = Arc<
    dyn Fn(ServiceName, Digest) -> Pin<Box<dyn Future<Output = Result<DescriptorSet, BadDescriptors>> + Send>>
        + Send
        + Sync,
>;

/// The task's state.
pub(crate) struct Keeper {
    published: Published,
    board: watch::Sender<Arc<Board>>,
    snapshot: Arc<Snapshot>,
    readiness: Readiness,
    meters: Meters,
    edge: Compiler,
    fetch: Fetch,
    work: JoinSet<Step>,
    /// The set that each task of `work` is about; a service has one at a time.
    underway: HashMap<task::Id, (ServiceName, Digest)>,
    /// In the order in which this gateway met them: under a registry that knows nothing of claims, who came first keeps a template that two declare.
    services: IndexMap<ServiceName, Kept>,
    built: Option<Inputs>,
    told: HashSet<String>,
}

/// A service, and which sets give it its routes.
struct Kept {
    info: Arc<ServiceInfo>,
    /// Those its instances carry, in the order they are preferred, without the refused.
    wanted: Vec<Digest>,
    refused: HashSet<Digest>,
    /// Could not be had yet: not waited for any more, and asked for again.
    late: HashSet<Digest>,
    linked: Vec<Arc<LinkedSet>>,
    /// What is routed: the wanted ones as far as they linked, or what was routed before, while none of them did.
    sets: Vec<Arc<LinkedSet>>,
}

/// What a table was made from; the same inputs need no new table.
type Inputs = (Vec<(ServiceName, Arc<ServiceInfo>, Vec<Digest>)>, Told);

/// What a task has done for a set.
enum Step {
    Fetched(Result<DescriptorSet, BadDescriptors>),
    Linked(Result<LinkedSet, SchemaError>),
}

/// Why a set is not asked for again: the same would come of it.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Link(#[from] SchemaError),
    #[error("fetching or linking it failed")]
    Panicked(#[from] JoinError),
}

enum Event {
    Snapshot(Arc<Snapshot>),
    Done(Result<(task::Id, Step), JoinError>),
    Stop,
}

impl Keeper {
    pub(crate) fn new(
        published: Published,
        board: watch::Sender<Arc<Board>>,
        readiness: Readiness,
        meters: Meters,
        edge: Compiler,
        fetch: Fetch,
    ) -> Self {
        Self {
            published,
            board,
            snapshot: Arc::default(),
            readiness,
            meters,
            edge,
            fetch,
            work: JoinSet::new(),
            underway: HashMap::new(),
            services: IndexMap::new(),
            built: None,
            told: HashSet::new(),
        }
    }

    /// Runs until the snapshots end or `shutdown` aborts.
    pub(crate) async fn run(mut self, mut snapshots: watch::Receiver<Arc<Snapshot>>, shutdown: Shutdown) {
        loop {
            let event = tokio::select! {
                () = shutdown.aborting() => Event::Stop,
                changed = snapshots.changed() => match changed {
                    Ok(()) => Event::Snapshot(Arc::clone(&snapshots.borrow_and_update())),
                    Err(_) => Event::Stop,
                },
                Some(done) = self.work.join_next_with_id() => Event::Done(done),
            };
            match event {
                Event::Snapshot(snapshot) => {
                    self.edge.keys_of(&snapshot);
                    self.list(&snapshot);
                    self.snapshot = snapshot;
                }
                Event::Done(done) => self.done(done),
                Event::Stop => return,
            }
            self.request_missing();
            self.publish();
            self.board.send_replace(Arc::new(Board::of(&self.snapshot, |name| self.routes(name))));
        }
    }

    /// Takes over which services there are and which sets they carry.
    fn list(&mut self, snapshot: &Snapshot) {
        let listed = listed(snapshot);
        self.services.retain(|name, _| listed.contains_key(name));
        for (name, info) in listed {
            let preferred = preferred(&info, snapshot.services.get(name).map(Arc::as_ref));
            let kept = self.services.entry(name.clone()).or_insert_with(|| Kept::new(Arc::clone(&info)));
            kept.info = info;
            kept.choose(preferred);
        }
    }

    fn done(&mut self, done: Result<(task::Id, Step), JoinError>) {
        let (id, step) = match done {
            Ok((id, step)) => (id, Ok(step)),
            Err(panicked) => (panicked.id(), Err(panicked)),
        };
        let (service, digest) = self.underway.remove(&id).expect("every task is noted where it is spawned");
        let Some(kept) = self.services.get_mut(&service) else { return };
        match step {
            Ok(Step::Fetched(Ok(set))) => self.link(service, digest, set),
            Ok(Step::Fetched(Err(error))) => {
                tracing::warn!(%service, %digest, error = chain(&error), "descriptor set not available yet");
                kept.late.insert(digest);
            }
            Ok(Step::Linked(Ok(set))) => kept.take(set),
            Ok(Step::Linked(Err(error))) => self.refuse(&service, digest, &error.into()),
            Err(panicked) => self.refuse(&service, digest, &panicked.into()),
        }
    }

    fn refuse(&mut self, service: &ServiceName, digest: Digest, why: &Refusal) {
        tracing::error!(%service, %digest, error = chain(why), "descriptor set refused; the routes before it stay");
        self.meters.sets_refused.inc();
        if let Some(kept) = self.services.get_mut(service) {
            kept.refuse(digest);
        }
    }

    /// Asks for the sets that are wanted, neither at hand nor on their way.
    fn request_missing(&mut self) {
        for (name, kept) in &self.services {
            let Some(digest) = kept.missing() else { continue };
            if self.underway.values().any(|(busy, _)| busy == name) {
                continue;
            }
            let get = (self.fetch)(name.clone(), digest);
            let task = self.work.spawn(async move {
                let set = get.await;
                if set.is_err() {
                    tokio::time::sleep(RETRY).await;
                }
                Step::Fetched(set)
            });
            self.underway.insert(task.id(), (name.clone(), digest));
        }
    }

    /// Links off the runtime: a large API takes tens of milliseconds.
    fn link(&mut self, service: ServiceName, digest: Digest, set: DescriptorSet) {
        let task = self.work.spawn_blocking(move || Step::Linked(LinkedSet::link(&set)));
        self.underway.insert(task.id(), (service, digest));
    }

    fn publish(&mut self) {
        let first = self.built.is_none();
        if first && self.services.values().any(Kept::awaits_its_first_sets) {
            return;
        }
        let services = self.services.iter().map(|(name, kept)| kept.input(name)).collect();
        let inputs: Inputs = (services, Told::of(&self.snapshot));
        if self.built.as_ref() == Some(&inputs) {
            return;
        }
        let entries = self.services.iter().map(|(name, kept)| kept.entry(name)).collect();
        let table = Table::build(entries, self.edge.compile(&inputs.1), &self.meters);
        self.meters.routes.set(i64::try_from(table.len()).unwrap_or(i64::MAX));
        tracing::info!(services = table.entries().len(), rest_routes = table.len(), "route table published");
        self.tell(table.problems());
        self.published.store(Some(Arc::new(table)));
        self.built = Some(inputs);
        if first {
            self.readiness.ready();
        }
    }

    /// Whether the published table has what there is to route of a service: nothing of it is awaited any more.
    fn routes(&self, service: &ServiceName) -> bool {
        let kept = self.services.get(service);
        self.built.is_some() && kept.is_some_and(|kept| !kept.sets.is_empty() || kept.wanted.is_empty())
    }

    /// Logs each problem once for as long as it lasts.
    fn tell(&mut self, problems: Vec<String>) {
        for problem in problems.iter().filter(|problem| !self.told.contains(*problem)) {
            tracing::warn!(problem, "route left out");
        }
        self.told = problems.into_iter().collect();
    }
}

impl Kept {
    fn new(info: Arc<ServiceInfo>) -> Self {
        let (refused, late) = (HashSet::new(), HashSet::new());
        Self { info, wanted: Vec::new(), refused, late, linked: Vec::new(), sets: Vec::new() }
    }

    /// Takes the sets that were not refused; none carried keeps those at hand.
    fn choose(&mut self, preferred: Vec<Digest>) {
        self.linked.retain(|set| preferred.contains(&set.digest()));
        self.refused.retain(|digest| preferred.contains(digest));
        self.late.retain(|digest| preferred.contains(digest));
        let wanted: Vec<Digest> = preferred.into_iter().filter(|digest| !self.refused.contains(digest)).collect();
        if !wanted.is_empty() {
            self.wanted = wanted;
            self.switch();
        }
    }

    /// Takes a set that was fetched and linked, and uses it if it is still wanted.
    fn take(&mut self, set: LinkedSet) {
        self.late.remove(&set.digest());
        self.linked.push(Arc::new(set));
        self.switch();
    }

    fn refuse(&mut self, digest: Digest) {
        self.refused.insert(digest);
        self.wanted.retain(|wanted| *wanted != digest);
        self.switch();
    }

    fn switch(&mut self) {
        let linked = |digest: &Digest| {
            self.linked.iter().chain(&self.sets).find(|set| set.digest() == *digest).cloned() // those routed may have been unlisted
        };
        let sets: Vec<_> = self.wanted.iter().filter_map(linked).collect();
        if !sets.is_empty() {
            self.sets = sets;
        }
    }

    /// The first wanted set that is not at hand; one that could not be had before comes after the others.
    fn missing(&self) -> Option<Digest> {
        let missing = |digest: &&Digest| !self.linked.iter().chain(&self.sets).any(|set| set.digest() == **digest);
        let missing = || self.wanted.iter().filter(missing);
        missing().find(|digest| !self.late.contains(*digest)).or_else(|| missing().next()).copied()
    }

    fn awaits_its_first_sets(&self) -> bool {
        self.missing().is_some_and(|digest| !self.late.contains(&digest))
    }

    fn entry(&self, name: &ServiceName) -> Entry {
        Entry { name: name.clone(), info: Arc::clone(&self.info), sets: self.sets.clone() }
    }

    fn input(&self, name: &ServiceName) -> (ServiceName, Arc<ServiceInfo>, Vec<Digest>) {
        (name.clone(), Arc::clone(&self.info), self.sets.iter().map(|set| set.digest()).collect())
    }
}

/// All services with their facts: the directory, or before it came what the subscribed services say themselves.
fn listed(snapshot: &Snapshot) -> BTreeMap<&ServiceName, Arc<ServiceInfo>> {
    if snapshot.directory.is_empty() {
        snapshot.services.iter().map(|(name, service)| (name, Arc::clone(&service.info))).collect()
    } else {
        snapshot.directory.iter().map(|(name, info)| (name, Arc::clone(info))).collect()
    }
}

/// Sets in the order they are preferred: the newest that an instance taking calls carries, then the newest of all.
fn preferred(info: &ServiceInfo, service: Option<&ServiceSnapshot>) -> Vec<Digest> {
    let carried: HashSet<Digest> = service
        .into_iter()
        .flat_map(|service| service.instances.values())
        .filter(|instance| instance.status.takes_calls())
        .filter_map(|instance| instance.descriptors)
        .collect();
    let (mut ready, rest): (Vec<_>, Vec<_>) = info.descriptors.iter().partition(|digest| carried.contains(*digest));
    ready.extend(rest);
    ready
}
