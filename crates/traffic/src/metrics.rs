//! Metrics of the stack: RPC histograms under their OTel names, and counts of retries, ejections and connects.
//!
//! Lives here: the families, and handles resolved once per method, service or pool. Does not: when something is counted.
//! Labels are bounded: methods and services of the directory (others are `_OTHER`), the 17 codes, rules of the policies in force. No label is formatted per request.
//! prometheus-client's histogram takes a mutex per observation; ours is atomics.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric, family::Family, gauge::Gauge},
    registry::Registry,
};
use weft_model::PolicyName;

use crate::Code;

pub(crate) use prometheus_client::metrics::counter::Counter;

/// Label of a method that no directory knows, as OTel names it.
pub(crate) const OTHER: &str = "_OTHER";

/// Handles on the stack's metrics of one process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Families>);

#[derive(Debug, Default)]
struct Families {
    client: Family<Call, Seconds>,
    server: Family<Call, Seconds>,
    retries: Family<Retry, Counter>,
    ejections: Family<Service, Counter>,
    connects: Family<Connect, Counter>,
    refusals: Family<Rule, Counter>,
    connections: Gauge,
    denials: Family<Denial, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Denial {
    policy: Arc<str>,
    rule: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    rpc_system_name: &'static str,
    rpc_method: Arc<str>,
    rpc_response_status_code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Retry {
    service: Arc<str>,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Service {
    service: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rule {
    rule: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Connect {
    outcome: &'static str,
}

impl Metrics {
    /// Registers the RPC histograms under their OTel names and the rest as `weft_<role>_…`. Once per process: outbound and inbound share the handles.
    pub fn register(registry: &mut Registry, role: &str) -> Self {
        let it = Self::default();
        let Families { client, server, retries, ejections, connects, refusals, connections, denials } = &*it.0;
        let own = |noun: &str| format!("weft_{role}_{noun}");
        registry.register(
            "rpc_client_call_duration_seconds",
            "Calls sent upstream, from request headers to the end of the answer, retries included",
            client.clone(),
        );
        registry.register(
            "rpc_server_call_duration_seconds",
            "Calls passed to the app, from request headers to the end of the answer",
            server.clone(),
        );
        registry.register(
            own("retries"),
            "Attempts beyond the first: unprocessed (no app has seen the call), failed, or over_budget (not made)",
            retries.clone(),
        );
        registry.register(own("ejections"), "Endpoints taken out of balancing for failing", ejections.clone());
        registry.register(
            own("connects"),
            "Upstream connections tried, by outcome: opened or failed",
            connects.clone(),
        );
        registry.register(
            own("upstream_refusals"),
            "Upstream connections that were not opened, or were cut, because of who is on the other end, by rule; by_peer: it refused us",
            refusals.clone(),
        );
        registry.register(own("upstream_connections"), "Upstream connections open now", connections.clone());
        registry.register(
            own("policy_refusals"),
            "Calls to the app that an access policy refused, by policy and rule; the rule is default where none allowed the call",
            denials.clone(),
        );
        it
    }

    pub(crate) fn refusals(&self, policy: &PolicyName, rule: &PolicyName) -> Counter {
        self.0.denials.get_or_create_owned(&Denial { policy: policy.shared(), rule: rule.shared() })
    }

    /// A rule has gone: so does its count, or labels would pile up over the years.
    pub(crate) fn forget_refusals(&self, policy: &PolicyName, rule: &PolicyName) {
        self.0.denials.remove(&Denial { policy: policy.shared(), rule: rule.shared() });
    }

    pub(crate) fn client(&self, method: Arc<str>) -> CallMetrics {
        CallMetrics::new(self.0.client.clone(), method)
    }

    pub(crate) fn server(&self, method: Arc<str>) -> CallMetrics {
        CallMetrics::new(self.0.server.clone(), method)
    }

    pub(crate) fn cluster(&self, service: &str) -> ClusterMetrics {
        let service: Arc<str> = service.into();
        let retries = |reason| self.0.retries.get_or_create_owned(&Retry { service: service.clone(), reason });
        ClusterMetrics {
            unprocessed: retries("unprocessed"),
            failed: retries("failed"),
            over_budget: retries("over_budget"),
            ejections: self.0.ejections.get_or_create_owned(&Service { service: service.clone() }),
        }
    }

    pub(crate) fn pool(&self) -> PoolMetrics {
        let connects = |outcome| self.0.connects.get_or_create_owned(&Connect { outcome });
        PoolMetrics {
            opened: connects("opened"),
            failed: connects("failed"),
            refusals: self.0.refusals.clone(),
            connections: self.0.connections.clone(),
        }
    }
}

/// Duration histograms of one method, one per code, resolved at the code's first use.
pub(crate) struct CallMetrics {
    family: Family<Call, Seconds>,
    method: Arc<str>,
    by_code: [OnceLock<Seconds>; Code::COUNT],
}

impl CallMetrics {
    fn new(family: Family<Call, Seconds>, method: Arc<str>) -> Self {
        Self { family, method, by_code: Default::default() }
    }

    pub(crate) fn record(&self, code: Code, took: Duration) {
        let resolve = || {
            self.family.get_or_create_owned(&Call {
                rpc_system_name: "grpc",
                rpc_method: self.method.clone(),
                rpc_response_status_code: code.as_str(),
            })
        };
        self.by_code[usize::from(code.number())].get_or_init(resolve).observe(took);
    }
}

impl fmt::Debug for CallMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallMetrics").field("method", &self.method).finish_non_exhaustive()
    }
}

/// Counters of one cluster.
#[derive(Debug)]
pub(crate) struct ClusterMetrics {
    pub(crate) unprocessed: Counter,
    pub(crate) failed: Counter,
    pub(crate) over_budget: Counter,
    pub(crate) ejections: Counter,
}

/// Counters of one pool.
#[derive(Debug, Clone)]
pub(crate) struct PoolMetrics {
    pub(crate) opened: Counter,
    pub(crate) failed: Counter,
    refusals: Family<Rule, Counter>,
    pub(crate) connections: Gauge,
}

impl PoolMetrics {
    /// Counts a connection that a rule forbids; the rules are a closed set.
    pub(crate) fn refused(&self, rule: &'static str) {
        self.refusals.get_or_create(&Rule { rule }).inc();
    }
}

/// Upper bounds in seconds: OTel's advice for RPC durations, with two below for the inside of a mesh.
const BOUNDS: [f64; 16] =
    [0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, f64::INFINITY];

/// A histogram of durations in atomics. A scrape may see a count before its sum; the next one sees both.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seconds(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    counts: [AtomicU64; BOUNDS.len()],
    sum_nanos: AtomicU64,
}

impl Seconds {
    fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len() - 1);
        self.0.counts[bucket].fetch_add(1, Relaxed);
        self.0.sum_nanos.fetch_add(took.as_nanos() as u64, Relaxed);
    }
}

impl EncodeMetric for Seconds {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        let buckets: Vec<(f64, u64)> =
            BOUNDS.iter().zip(&self.0.counts).map(|(bound, count)| (*bound, count.load(Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.0.sum_nanos.load(Relaxed) as f64 / 1e9;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Seconds {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_appear_under_their_otel_names_with_bounded_labels() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry, "gateway");
        let calls = metrics.client("shop.users.v1.Users/GetUser".into());
        calls.record(Code::Ok, Duration::from_millis(2));
        calls.record(Code::Ok, Duration::from_secs(60));
        metrics.cluster("users").unprocessed.inc();
        metrics.pool().opened.inc();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"rpc_client_call_duration_seconds_count{rpc_system_name="grpc",rpc_method="shop.users.v1.Users/GetUser",rpc_response_status_code="OK"} 2"#,
            r#"rpc_client_call_duration_seconds_bucket{le="0.005",rpc_system_name="grpc",rpc_method="shop.users.v1.Users/GetUser",rpc_response_status_code="OK"} 1"#,
            r#"weft_gateway_retries_total{service="users",reason="unprocessed"} 1"#,
            r#"weft_gateway_connects_total{outcome="opened"} 1"#,
            "weft_gateway_upstream_connections 0",
        ] {
            assert!(text.contains(line), "{line}\nnot in\n{text}");
        }
    }
}
