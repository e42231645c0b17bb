//! Metrics of the registry: `weft_registry_*`.
//!
//! Lives here: names and handles, one struct a room. Does not: serving them (`weft-runtime`). Labels are closed sets, never names of services.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicI64, AtomicU64},
    time::Duration,
};

use imbl::{OrdMap, ordmap::DiffItem};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use weft_model::{Instance, RemovalReason, Snapshot, Status};
use weft_runtime::Metrics;

use crate::{
    catalog::{Verdict, state::State},
    leases::Doubt,
    views::xds::{Kind, Protocol},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

type Outcomes = Family<OutcomeLabel, Counter>;

/// What the catalog counts.
#[derive(Debug, Clone)]
pub(crate) struct CatalogMetrics {
    instances: Family<StatusLabel, Gauge>,
    services: Gauge,
    descriptor_sets: Gauge,
    version: Gauge<u64, AtomicU64>,
    registrations: Counter,
    removals: Outcomes,
    beats: Outcomes,
    commits: Outcomes,
    commit_seconds: Histogram,
    store_failing: Gauge,
    claims_refused: Counter,
    frozen: Gauge<i64, AtomicI64>,
    suspended: Gauge,
}

impl CatalogMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let it = Self {
            instances: Family::default(),
            services: Gauge::default(),
            descriptor_sets: Gauge::default(),
            version: Gauge::default(),
            registrations: Counter::default(),
            removals: Family::default(),
            beats: Family::default(),
            commits: Family::default(),
            commit_seconds: Histogram::new([0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0]),
            store_failing: Gauge::default(),
            claims_refused: Counter::default(),
            frozen: Gauge::default(),
            suspended: Gauge::default(),
        };
        metrics.register(|r| {
            r.register("weft_registry_instances", "Listed instances by status", it.instances.clone());
            r.register("weft_registry_services", "Listed services, empty ones included", it.services.clone());
            r.register("weft_registry_descriptor_sets", "Stored descriptor sets", it.descriptor_sets.clone());
            r.register("weft_registry_catalog_version", "Version of the catalog", it.version.clone());
            r.register("weft_registry_registrations", "Leases granted", it.registrations.clone());
            r.register("weft_registry_removals", "Instances that left, by reason", it.removals.clone());
            r.register("weft_registry_beats", "Beats by verdict", it.beats.clone());
            r.register("weft_registry_commits", "Commits of the store by outcome", it.commits.clone());
            r.register("weft_registry_commit_seconds", "Time a commit took", it.commit_seconds.clone());
            r.register("weft_registry_store_failing", "1 while the last commit has failed", it.store_failing.clone());
            r.register("weft_registry_claims_refused", "Claims of names that others own", it.claims_refused.clone());
            r.register("weft_registry_expiry_frozen", "1 while no lease expires", it.frozen.clone());
            r.register("weft_registry_expiry_suspended", "Services whose expiry is suspended", it.suspended.clone());
        });
        it
    }

    /// Follows the catalog from the snapshot that was counted last: a cost of what changed, however many instances there are.
    pub(crate) fn state(&self, counted: &Snapshot, state: &State) {
        let mut moved: BTreeMap<&'static str, i64> = STATUSES.into_iter().map(|s| (status(s), 0)).collect();
        let mut count = |instance: &Instance, by: i64| *moved.entry(status(instance.status)).or_default() += by;
        for service in counted.services.diff(&state.snapshot.services) {
            let none = OrdMap::new();
            let (old, new) = match &service {
                DiffItem::Add(_, new) => (&none, &new.instances),
                DiffItem::Update { old: (_, old), new: (_, new) } => (&old.instances, &new.instances),
                DiffItem::Remove(_, old) => (&old.instances, &none),
            };
            for instance in old.diff(new) {
                match instance {
                    DiffItem::Add(_, new) => count(new, 1),
                    DiffItem::Update { old: (_, old), new: (_, new) } => {
                        count(old, -1);
                        count(new, 1);
                    }
                    DiffItem::Remove(_, old) => count(old, -1),
                }
            }
        }
        for (status, by) in moved {
            self.instances.get_or_create(&StatusLabel { status }).inc_by(by);
        }
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.services.set(count(state.snapshot.services.len()));
        self.descriptor_sets.set(count(state.sets.len()));
        self.version.set(state.snapshot.version.0);
    }

    pub(crate) fn registered(&self) {
        self.registrations.inc();
    }

    pub(crate) fn removed(&self, why: RemovalReason) {
        let outcome = match why {
            RemovalReason::Deregistered => "deregistered",
            RemovalReason::Drained => "drained",
            RemovalReason::Forced => "forced",
            RemovalReason::Expired => "expired",
        };
        self.removals.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts the verdicts of one message.
    pub(crate) fn beats(&self, verdicts: &[Verdict]) {
        let outcomes = [
            (Verdict::Renewed, "renewed"),
            (Verdict::Unknown, "unknown"),
            (Verdict::Fenced, "fenced"),
            (Verdict::Revoked, "revoked"),
        ];
        for (verdict, outcome) in outcomes {
            let count = verdicts.iter().filter(|it| **it == verdict).count() as u64;
            if count > 0 {
                self.beats.get_or_create(&OutcomeLabel { outcome }).inc_by(count);
            }
        }
    }

    pub(crate) fn commit(&self, took: Duration, good: bool) {
        self.commits.get_or_create(&OutcomeLabel { outcome: if good { "ok" } else { "failed" } }).inc();
        self.commit_seconds.observe(took.as_secs_f64());
        self.store_failing.set((!good).into());
    }

    pub(crate) fn claim_refused(&self) {
        self.claims_refused.inc();
    }

    pub(crate) fn doubt(&self, doubt: &Doubt) {
        self.frozen.set(doubt.frozen.is_some().into());
        self.suspended.set(i64::try_from(doubt.suspended.len()).unwrap_or(i64::MAX));
    }
}

const STATUSES: [Status; 5] =
    [Status::Starting, Status::Serving, Status::NotServing, Status::Draining, Status::Crashed];

pub(crate) fn status(it: Status) -> &'static str {
    match it {
        Status::Starting => "starting",
        Status::Serving => "serving",
        Status::NotServing => "not_serving",
        Status::Draining => "draining",
        Status::Crashed => "crashed",
    }
}

/// What watches count.
#[derive(Debug, Clone, Default)]
pub(crate) struct WatchMetrics {
    pub(crate) watchers: Gauge,
    pub(crate) wakeups: Counter,
    pub(crate) idle_wakeups: Counter,
    pub(crate) updates: Counter,
    pub(crate) acks: Counter,
}

impl WatchMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let it = Self::default();
        metrics.register(|r| {
            r.register("weft_registry_watchers", "Open watches", it.watchers.clone());
            r.register("weft_registry_wakeups", "Times a watcher was woken by a change", it.wakeups.clone());
            let idle = "Wake-ups after which nothing had to be sent";
            r.register("weft_registry_idle_wakeups", idle, it.idle_wakeups.clone());
            r.register("weft_registry_updates", "Messages sent to watchers", it.updates.clone());
            r.register("weft_registry_acks", "Acknowledgements by watchers", it.acks.clone());
        });
        it
    }
}

/// What drains count.
#[derive(Debug, Clone, Default)]
pub(crate) struct DrainMetrics {
    drains: Outcomes,
}

impl DrainMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let it = Self::default();
        metrics.register(|r| r.register("weft_registry_drains", "Drains by outcome", it.drains.clone()));
        it
    }

    pub(crate) fn drained(&self, acknowledged: bool) {
        let outcome = if acknowledged { "acknowledged" } else { "timed_out" };
        self.drains.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ProtocolLabel {
    protocol: &'static str,
}

impl From<Protocol> for ProtocolLabel {
    fn from(it: Protocol) -> Self {
        let protocol = match it {
            Protocol::StateOfTheWorld => "sotw",
            Protocol::Delta => "delta",
        };
        Self { protocol }
    }
}

/// What xDS streams count.
#[derive(Debug, Clone)]
pub(crate) struct XdsMetrics {
    pub(crate) streams: Family<ProtocolLabel, Gauge>,
    pub(crate) resources: Gauge,
    pub(crate) builds: Counter,
    pub(crate) wakeups: Counter,
    pub(crate) stale: Counter,
    pushes: Family<KindLabel, Counter>,
    acks: Family<KindLabel, Counter>,
    rejections: Family<KindLabel, Counter>,
    change_to_ack: Histogram,
}

impl XdsMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let buckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        let it = Self {
            streams: Family::default(),
            resources: Gauge::default(),
            builds: Counter::default(),
            wakeups: Counter::default(),
            stale: Counter::default(),
            pushes: Family::default(),
            acks: Family::default(),
            rejections: Family::default(),
            change_to_ack: Histogram::new(buckets),
        };
        for kind in Kind::ALL {
            // Nobody has to guess whether none was rejected or none is counted.
            drop(it.rejections.get_or_create(&KindLabel { kind: kind.name() }));
        }
        metrics.register(|r| {
            r.register("weft_registry_xds_streams", "Open ADS streams by protocol", it.streams.clone());
            r.register("weft_registry_xds_resources", "Resources that some stream subscribes", it.resources.clone());
            r.register("weft_registry_xds_builds", "Resources built after a change", it.builds.clone());
            r.register("weft_registry_xds_wakeups", "Streams woken by a change", it.wakeups.clone());
            r.register("weft_registry_xds_pushes", "Responses sent, by kind", it.pushes.clone());
            r.register("weft_registry_xds_acks", "Responses that clients applied, by kind", it.acks.clone());
            r.register(
                "weft_registry_xds_rejections",
                "Responses that clients rejected (NACK), by kind",
                it.rejections.clone(),
            );
            r.register("weft_registry_xds_stale_requests", "Requests with an old nonce, ignored", it.stale.clone());
            let seconds = "Time from a change of the catalog to a client's word that it acts on it";
            r.register("weft_registry_xds_change_to_ack_seconds", seconds, it.change_to_ack.clone());
        });
        it
    }

    pub(crate) fn pushed(&self, kind: Kind) {
        self.pushes.get_or_create(&KindLabel { kind: kind.name() }).inc();
    }

    pub(crate) fn acked(&self, kind: Kind, since_change: Option<Duration>) {
        self.acks.get_or_create(&KindLabel { kind: kind.name() }).inc();
        if let Some(took) = since_change {
            self.change_to_ack.observe(took.as_secs_f64());
        }
    }

    pub(crate) fn rejected(&self, kind: Kind) {
        self.rejections.get_or_create(&KindLabel { kind: kind.name() }).inc();
    }
}

/// What checks count.
#[derive(Debug, Clone, Default)]
pub(crate) struct CheckMetrics {
    pub(crate) running: Gauge,
    pub(crate) waiting: Gauge,
    results: Outcomes,
}

impl CheckMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let it = Self::default();
        metrics.register(|r| {
            r.register("weft_registry_checks", "Instances under check", it.running.clone());
            let waiting = "Instances that wait for room among the checks";
            r.register("weft_registry_checks_waiting", waiting, it.waiting.clone());
            r.register("weft_registry_check_results", "Results of checks", it.results.clone());
        });
        it
    }

    pub(crate) fn result(&self, good: bool) {
        self.results.get_or_create(&OutcomeLabel { outcome: if good { "passed" } else { "failed" } }).inc();
    }
}

/// What the authority counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct IdentityMetrics {
    issued: Outcomes,
    refusals: Outcomes,
}

impl IdentityMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let it = Self::default();
        metrics.register(|r| {
            r.register(
                "weft_registry_certificates",
                "Certificates issued, by how they were asked for",
                it.issued.clone(),
            );
            let refusals = "Callers, tokens and requests refused, by rule";
            r.register("weft_registry_identity_refusals", refusals, it.refusals.clone());
        });
        it
    }

    pub(crate) fn issued(&self, outcome: &'static str) {
        self.issued.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// `rule` is one of the closed sets of `Refusal::rule`, `TokenError::rule` and the few of `ca::grpc`.
    pub(crate) fn refused(&self, rule: &'static str) {
        self.refusals.get_or_create(&OutcomeLabel { outcome: rule }).inc();
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueryLabels {
    kind: &'static str,
    rcode: &'static str,
}

/// What the DNS view counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct DnsMetrics {
    queries: Family<QueryLabels, Counter>,
    pub(crate) truncated: Counter,
    pub(crate) turned_away: Counter,
}

impl DnsMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let it = Self::default();
        metrics.register(|r| {
            let queries = "DNS messages by type of question and response code; `dropped` were no queries";
            r.register("weft_registry_dns_queries", queries, it.queries.clone());
            r.register("weft_registry_dns_truncated", "DNS answers that did not fit", it.truncated.clone());
            let away = "DNS connections closed because there were too many";
            r.register("weft_registry_dns_connections_refused", away, it.turned_away.clone());
        });
        it
    }

    /// Type and code are of the closed sets of `views::dns::wire`.
    pub(crate) fn answered(&self, as_what: Option<(&'static str, &'static str)>) {
        let (kind, rcode) = as_what.unwrap_or(("none", "dropped"));
        self.queries.get_or_create(&QueryLabels { kind, rcode }).inc();
    }
}
