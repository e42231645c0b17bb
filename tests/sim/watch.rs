//! The watch under churn: 200 watchers that lag, leave and return, while the catalog changes 100,000 times.
//!
//! Lives here: the world (a catalog, its watches, a driver, watchers) and what must hold. Does not: reading a watch (`client`).
//! Real: the catalog task, the hub, deltas and their merging, the wire encoding. Left out: sockets and disk.
//! What must hold: versions never fall, also over a reconnect; after each message the watcher's state is the snapshot of the version it
//! names, for every subscribed service; no message tells what did not change; a service that did not change wakes nobody; all converge.

mod client;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IteratorRandom};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use weft_model::{
    Endpoint, Epoch, Instance, InstanceId, LeaseTtl, Locality, Protocol, ServiceName, ServiceSnapshot, Snapshot,
    Status, Transport, Version, Weight,
};
use weft_proto::weft::discovery::v1::{WatchResponse, service_update::Body};
use weft_registry::{
    catalog::{Catalog, Health, Word},
    views::watch::{Topic, Watches},
};
use weft_runtime::Metrics;

use crate::{Seeds, each_seed};
use client::Client;

const SERVICES: usize = 40;
/// Instances of a service, on average, at most.
const MOST_INSTANCES: usize = 8;
/// Services that are registered once and never touched again.
const QUIET: usize = 3;
/// Longer than a watcher rests after a message.
const RESTED: Duration = Duration::from_millis(300);

/// Breaks a message on its way; says whether it did.
type Tamper = fn(&mut WatchResponse) -> bool;

/// What to simulate.
#[derive(Clone)]
struct Plan {
    seed: u64,
    watchers: usize,
    changes: usize,
    tamper: Tamper,
}

/// What happened.
#[derive(Debug, Default)]
struct Report {
    versions: u64,
    messages: u64,
    deltas: u64,
    removals: u64,
    reconnects: u64,
    wakeups: u64,
    idle: u64,
}

#[test]
fn two_hundred_watchers_follow_a_hundred_thousand_changes() {
    each_seed(Seeds::One, |seed| {
        let report = simulate(Plan { seed, watchers: 200, changes: 100_000, tamper: |_| false })?;
        println!("{report:?}");
        assert!(report.versions > 1_000 && report.deltas > 1_000 && report.removals > 1_000, "{report:?}");
        assert!(report.reconnects > 100, "{report:?}");
        Ok(())
    });
}

#[test]
fn short_runs_hold_for_many_seeds() {
    each_seed(Seeds::Usually(10), |seed| {
        simulate(Plan { seed, watchers: 40, changes: 2_000, tamper: |_| false }).map(drop)
    });
}

#[test]
fn a_run_can_be_replayed_from_its_seed() {
    let run = || format!("{:?}", simulate(Plan { seed: 7, watchers: 40, changes: 2_000, tamper: |_| false }).unwrap());
    assert_eq!(run(), run());
}

#[test]
fn a_broken_message_is_noticed() {
    let tampers: [(&str, Tamper); 6] = [
        ("an upsert is lost", |m| deltas(m).any(|d| d.upserted.pop().is_some())),
        ("a removal is lost", |m| deltas(m).any(|d| d.removed.pop().is_some())),
        ("an instance is older than it was", |m| {
            deltas(m).flat_map(|d| d.upserted.iter_mut()).take(1).map(|i| i.epoch -= 1).count() > 0
        }),
        ("a base is wrong", |m| m.services.iter_mut().filter(|s| s.base > 0).take(1).map(|s| s.base -= 1).count() > 0),
        ("a service is forgotten", |m| m.services.len() > 1 && m.services.pop().is_some()),
        ("a version falls", |m| deltas(m).next().is_some() && std::mem::replace(&mut m.version, 1) > 1),
    ];
    for (what, tamper) in tampers {
        let found = simulate(Plan { seed: 11, watchers: 40, changes: 2_000, tamper });
        assert!(found.is_err(), "{what}, and nobody noticed");
    }
}

fn deltas(message: &mut WatchResponse) -> impl Iterator<Item = &mut weft_proto::weft::discovery::v1::Delta> {
    message.services.iter_mut().filter_map(|s| match &mut s.body {
        Some(Body::Delta(delta)) => Some(delta),
        Some(Body::Full(_)) | None => None,
    })
}

fn simulate(plan: Plan) -> Result<Report, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|e| e.to_string())?;
    runtime.block_on(run(plan))
}

async fn run(plan: Plan) -> Result<Report, String> {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let metrics = Metrics::default();
    let (catalog, task) = Catalog::in_memory(&metrics);
    let watches = Watches::new(&catalog, &metrics);
    let mut parts = JoinSet::new();
    parts.spawn(task.run(CancellationToken::new()));
    parts.spawn(watches.clone().run(catalog.follow()));
    for n in 0..QUIET {
        let it = instance(&mut rng, &quiet(n));
        catalog.register(it, ttl()).await.expect("memory takes every write");
    }
    let (stop, seen) = (CancellationToken::new(), Arc::new(Mutex::new(BTreeMap::new())));
    let mut watchers: JoinSet<Result<Report, String>> = JoinSet::new();
    for n in 0..plan.watchers {
        let watcher = Watching {
            name: format!("watcher-{n}"),
            rng: StdRng::seed_from_u64(rng.random()),
            watches: watches.clone(),
            catalog: catalog.clone(),
            stop: stop.clone(),
            seen: seen.clone(),
            tamper: plan.tamper,
            report: Report::default(),
            version: Version(0),
        };
        watchers.spawn(watcher.run());
    }
    let first = catalog.snapshot().version.0;
    tokio::select! {
        () = drive(&catalog, &mut rng, plan.changes) => {}
        Some(ended) = watchers.join_next() => return Err(ended.expect("no panic").expect_err("only a fault ends a watcher early")),
    }
    sleep(Duration::from_millis(100)).await; // the last version reaches the hub
    stop.cancel();
    let mut report = Report { versions: catalog.snapshot().version.0 - first, ..Report::default() };
    while let Some(ended) = watchers.join_next().await {
        let one = ended.expect("no panic")?;
        report.messages += one.messages;
        report.deltas += one.deltas;
        report.removals += one.removals;
        report.reconnects += one.reconnects;
        report.idle += one.idle;
    }
    report.wakeups = watches.wakeups();
    // A wake-up is followed by a take; a take that was not woken by a change answered a subscription.
    if report.wakeups > report.messages + report.idle {
        return Err(format!("more wake-ups than reasons: {report:?}"));
    }
    Ok(report)
}

fn quiet(n: usize) -> ServiceName {
    format!("quiet-{n}").parse().expect("a name")
}

fn busy(n: usize) -> ServiceName {
    format!("busy-{n}").parse().expect("a name")
}

/// Longer than any run: what leaves here leaves by word, so that the driver knows who is there.
fn ttl() -> LeaseTtl {
    LeaseTtl::new(Duration::from_secs(3600)).expect("an hour is allowed")
}

fn instance(rng: &mut StdRng, service: &ServiceName) -> Instance {
    let address =
        std::net::SocketAddr::from((rng.random::<[u8; 4]>().map(|b| b.max(1)), rng.random_range(1..u16::MAX)));
    Instance {
        id: InstanceId::from_bytes(rng.random()),
        service: service.clone(),
        epoch: Epoch(0),
        endpoint: Endpoint { address, transport: Transport::Plaintext, protocol: Protocol::H2 },
        status: Status::Starting,
        reason: String::new(),
        locality: Locality::new("", ["", "a", "b"][rng.random_range(0..3)], ""),
        weight: Weight::new(rng.random_range(1..10)).expect("in range"),
        metadata: [("slot".to_owned(), rng.random_range(0..100).to_string())].into(),
        descriptors: None,
        check: None,
    }
}

/// Makes changes, some at one moment, some apart.
async fn drive(catalog: &Catalog, rng: &mut StdRng, changes: usize) {
    let mut alive: BTreeMap<InstanceId, Instance> = BTreeMap::new();
    let mut made = 0;
    while made < changes {
        let together = rng.random_range(1..40).min(changes - made);
        made += together;
        let mut group = Vec::with_capacity(together);
        // One change an instance and moment: their order would be up to the scheduler otherwise.
        let mut used = BTreeSet::new();
        for _ in 0..together {
            group.push(change(catalog, rng, &alive, &mut used));
        }
        for done in futures_join(group).await {
            match done {
                Done::Registered(it) => drop(alive.insert(it.id, *it)),
                Done::Gone(id) => drop(alive.remove(&id)),
                Done::Changed => {}
            }
        }
        if rng.random_bool(0.3) {
            sleep(Duration::from_millis(rng.random_range(0..30))).await;
        }
    }
}

enum Done {
    Registered(Box<Instance>),
    Gone(InstanceId),
    Changed,
}

type Changing = std::pin::Pin<Box<dyn Future<Output = Done>>>;

fn change(
    catalog: &Catalog,
    rng: &mut StdRng,
    alive: &BTreeMap<InstanceId, Instance>,
    used: &mut BTreeSet<InstanceId>,
) -> Changing {
    let service = busy(rng.random_range(0..SERVICES));
    let catalog = catalog.clone();
    let known = alive.values().filter(|i| !used.contains(&i.id)).choose(rng).cloned();
    let full = alive.len() >= SERVICES * MOST_INSTANCES;
    let Some(known) = known.filter(|_| full || rng.random_bool(0.65)) else {
        return register(catalog, instance(rng, &service));
    };
    used.insert(known.id);
    let (id, owner) = (known.id, Word::Owner(known.epoch));
    let word = if rng.random_bool(0.1) { Word::Operator } else { owner };
    match rng.random_range(0..10) {
        0..3 => Box::pin(async move {
            catalog.deregister(id, word).await.expect("memory takes every write");
            Done::Gone(id)
        }),
        3 => Box::pin(async move {
            catalog.drain(id, word).await.expect("it is there");
            Done::Changed
        }),
        4 => register(catalog, Instance { weight: Weight::new(rng.random_range(1..10)).expect("in range"), ..known }),
        _ => {
            let status =
                [Status::Serving, Status::NotServing, Status::Starting, Status::Crashed][rng.random_range(0..4)];
            let health = Health::new(status, ["", "why"][rng.random_range(0..2)]);
            Box::pin(async move {
                catalog.set_status(id, word, health).await.expect("it is there");
                Done::Changed
            })
        }
    }
}

fn register(catalog: Catalog, it: Instance) -> Changing {
    Box::pin(async move {
        let epoch = catalog.register(it.clone(), ttl()).await.expect("addresses are random").epoch;
        Done::Registered(Box::new(Instance { epoch, ..it }))
    })
}

/// Polls all of them together and keeps their order.
async fn futures_join(mut futures: Vec<Changing>) -> Vec<Done> {
    let mut done: Vec<Option<Done>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in futures.iter_mut().zip(&mut done).filter(|(_, done)| done.is_none()) {
            if let std::task::Poll::Ready(it) = future.as_mut().poll(cx) {
                *done = Some(it);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

/// One watcher with its habits.
struct Watching {
    name: String,
    rng: StdRng,
    watches: Watches,
    catalog: Catalog,
    stop: CancellationToken,
    /// The snapshot of each version, as the first watcher that passed it saw it.
    seen: Arc<Mutex<BTreeMap<Version, Arc<Snapshot>>>>,
    tamper: Tamper,
    report: Report,
    /// Highest version seen, over all connections.
    version: Version,
}

impl Watching {
    async fn run(mut self) -> Result<Report, String> {
        let lag = [5, 200, 1_000, 3_000, 10_000]
            [[0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4][self.rng.random_range(0..16)]];
        let only_quiet = self.rng.random_bool(0.1);
        while !self.stop.is_cancelled() {
            self.connection(lag, only_quiet).await.map_err(|problem| format!("{}: {problem}", self.name))?;
            self.report.reconnects += 1;
            sleep(self.up_to(1_000)).await;
        }
        Ok(self.report)
    }

    fn up_to(&mut self, ms: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(0..=ms))
    }

    fn topics(&mut self, only_quiet: bool) -> BTreeSet<Topic> {
        if only_quiet {
            return [Topic::Service(quiet(self.rng.random_range(0..QUIET)))].into();
        }
        let mut topics = BTreeSet::new();
        match self.rng.random_range(0..60) {
            0 => drop(topics.insert(Topic::All)),
            1..8 => drop(topics.insert(Topic::Directory)),
            _ => {}
        }
        for _ in 0..self.rng.random_range(1..4) {
            topics.insert(Topic::Service(busy(self.rng.random_range(0..SERVICES + 2)))); // two of them never exist
        }
        topics
    }

    /// One connection: until it is lost, or the end.
    async fn connection(&mut self, lag: u64, only_quiet: bool) -> Result<(), String> {
        let mut watcher = self.watches.open(&self.name);
        let mut topics = self.topics(only_quiet);
        watcher.subscribe(topics.clone());
        let mut client = Client::default();
        let mut verified = Verified::default();
        loop {
            let stop = self.stop.clone();
            tokio::select! {
                biased;
                () = watcher.ready() => {}
                // One that rests after a message has yet to tell what changed since.
                () = stop.cancelled() => if timeout(RESTED, watcher.ready()).await.is_err() {
                    return self.converged(&client, &topics);
                },
            }
            sleep(self.up_to(lag)).await;
            let Some(update) = watcher.take() else {
                if only_quiet {
                    return Err("woken, and nothing of what it subscribed ever changed".to_owned());
                }
                self.report.idle += 1; // a change that was taken back while it waited
                continue;
            };
            let mut message = update.response();
            (self.tamper)(&mut message);
            self.count(&message);
            let version = Version(message.version);
            if version < self.version {
                return Err(format!("version fell from {} to {version}", self.version));
            }
            self.version = version;
            self.one_truth(&update.snapshot)?;
            let touched = client.apply(message)?;
            verified.check(&client, &topics, &touched, &update.snapshot)?;
            if self.rng.random_bool(0.8) {
                watcher.ack(version);
            }
            if only_quiet {
                continue; // stays, so that a wake-up without a reason would be seen
            }
            if self.rng.random_bool(0.03) {
                return Ok(());
            }
            if self.rng.random_bool(0.05) {
                let dropped: BTreeSet<Topic> = topics.iter().filter(|_| self.rng.random_bool(0.5)).cloned().collect();
                topics.retain(|topic| !dropped.contains(topic));
                watcher.unsubscribe(dropped);
                // `*` covers what is listed; an unlisted service was told by its name only.
                let covered = |name: &ServiceName| {
                    topics.contains(&Topic::Service(name.clone()))
                        || topics.contains(&Topic::All) && update.snapshot.services.contains_key(name)
                };
                client.keep_only(covered, topics.contains(&Topic::Directory));
                verified.keep_only(covered);
                let added = self.topics(false);
                topics.extend(added.iter().cloned());
                watcher.subscribe(added);
            }
        }
    }

    fn count(&mut self, message: &WatchResponse) {
        self.report.messages += 1;
        for service in &message.services {
            if let Some(Body::Delta(delta)) = &service.body {
                self.report.deltas += 1;
                self.report.removals += delta.removed.len() as u64;
            }
        }
    }

    /// A version is one snapshot, whoever passes it.
    fn one_truth(&self, snapshot: &Arc<Snapshot>) -> Result<(), String> {
        let mut seen = self.seen.lock().map_err(|e| e.to_string())?;
        let first = seen.entry(snapshot.version).or_insert_with(|| snapshot.clone());
        if Arc::ptr_eq(first, snapshot) || **first == **snapshot {
            Ok(())
        } else {
            Err(format!("two snapshots of version {}", snapshot.version))
        }
    }

    /// At the end nothing is marked, so what the watcher holds is what there is.
    fn converged(&self, client: &Client, topics: &BTreeSet<Topic>) -> Result<(), String> {
        let snapshot = self.catalog.snapshot();
        let all: BTreeSet<ServiceName> = subscribed(topics, &snapshot).collect();
        Verified::default().check(client, topics, &all, &snapshot)
    }
}

fn wants(topics: &BTreeSet<Topic>, name: &ServiceName) -> bool {
    topics.contains(&Topic::All) || topics.contains(&Topic::Service(name.clone()))
}

fn subscribed<'a>(topics: &'a BTreeSet<Topic>, snapshot: &'a Snapshot) -> impl Iterator<Item = ServiceName> + 'a {
    let named = topics.iter().filter_map(|topic| match topic {
        Topic::Service(name) => Some(name.clone()),
        Topic::All | Topic::Directory => None,
    });
    let all = snapshot.services.keys().filter(|_| topics.contains(&Topic::All)).cloned();
    named.chain(all)
}

/// What was compared already, so that only what moved on either side is compared again.
#[derive(Default)]
struct Verified(BTreeMap<ServiceName, Arc<ServiceSnapshot>>);

impl Verified {
    fn keep_only(&mut self, wanted: impl Fn(&ServiceName) -> bool) {
        self.0.retain(|name, _| wanted(name));
    }

    fn check(
        &mut self,
        client: &Client,
        topics: &BTreeSet<Topic>,
        touched: &BTreeSet<ServiceName>,
        snapshot: &Snapshot,
    ) -> Result<(), String> {
        let wanted: BTreeSet<ServiceName> = subscribed(topics, snapshot).collect();
        for name in &wanted {
            let truth = snapshot.services.get(name);
            let same = truth.is_some_and(|t| self.0.get(name).is_some_and(|v| Arc::ptr_eq(v, t)));
            if same && !touched.contains(name) {
                continue;
            }
            client.holds(name, truth).map_err(|e| format!("at version {}: {name}: {e}", snapshot.version))?;
            if let Some(truth) = truth {
                self.0.insert(name.clone(), truth.clone());
            }
        }
        if let Some(stranger) = client.services().find(|name| !wants(topics, name)) {
            return Err(format!("{stranger} was not subscribed"));
        }
        client.knows_directory(topics.contains(&Topic::Directory).then_some(&snapshot.directory))
    }
}
