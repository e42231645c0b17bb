//! Metrics of calls: how many ended how, and how long they took.
//!
//! Lives here: names, labels and the handles that count without looking a label up. Does not: deciding when a call has ended (`edge::observe`).
//! Labels are bounded: routes and methods come from descriptors, never from a request; statuses from the two code tables.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use weft_model::PolicyName;
use weft_runtime::Metrics;
use weft_transcode::plan::MethodPlan;

use crate::protocol::health;

/// Upper bounds in seconds: OTel's advice for `rpc.server.call.duration`.
const BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Label values of `status` for REST, in the order of their slots; anything else is `other`.
const HTTP: [u16; 23] =
    [200, 201, 202, 204, 304, 400, 401, 403, 404, 405, 408, 409, 412, 413, 414, 415, 429, 431, 499, 500, 501, 503, 504];
/// Label values of `status` for gRPC, gRPC-Web and Connect: the codes in order (google/rpc/code.proto).
const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// Label values of `protocol`.
const GRPC_WEB: &str = "grpc_web";
const CONNECT: &str = "connect";
/// Label value of `route` where none matched.
const UNMATCHED: &str = "unmatched";
/// Label value of `route` of the questions that browsers ask before a call.
const PREFLIGHT: &str = "preflight";
/// One for each label of the longer table, and the last for `other`.
const SLOTS: usize = HTTP.len() + 1;

/// How a call ended, as its protocol says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Http(u16),
    Grpc(i32),
}

impl Status {
    fn slot(self) -> usize {
        match self {
            Self::Http(code) => HTTP.iter().position(|known| *known == code).unwrap_or(SLOTS - 1),
            Self::Grpc(code) => usize::try_from(code).ok().filter(|code| *code < GRPC.len()).unwrap_or(SLOTS - 1),
        }
    }

    fn label(self) -> String {
        match self {
            Self::Http(code) if HTTP.contains(&code) => code.to_string(),
            Self::Http(_) => "other".to_owned(),
            Self::Grpc(code) => {
                let name = usize::try_from(code).ok().and_then(|code| GRPC.get(code));
                name.map_or("other", |name| name).to_owned()
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    protocol: &'static str,
    method: String,
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    protocol: &'static str,
    method: String,
    route: String,
    status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    policy: String,
    rule: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookupLabels {
    method: String,
    route: String,
    result: &'static str,
}

/// What came of looking answers up in the cache.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lookups(Family<LookupLabels, Counter>);

impl Lookups {
    /// Returns the counter of a result of a route.
    pub(crate) fn of(&self, method: &str, route: &str, result: &'static str) -> Counter {
        self.0.get_or_create(&LookupLabels { method: method.to_owned(), route: route.to_owned(), result }).clone()
    }
}

/// Calls that edge policies refused. Labels are names of policies and of rules, an operator's or ours, never a caller's words.
#[derive(Debug, Clone)]
pub(crate) struct Refusals(Family<RefusalLabels, Counter>);

impl Refusals {
    /// Registers the metric.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let refusals = Family::default();
        metrics.register(|registry| {
            let help = "Calls from outside that a rule of an edge policy refused";
            registry.register("weft_gateway_policy_refusals", help, refusals.clone());
        });
        Self(refusals)
    }

    /// Returns the counter of a rule.
    pub(crate) fn of(&self, policy: &PolicyName, rule: &str) -> Counter {
        self.0.get_or_create(&RefusalLabels { policy: policy.to_string(), rule: rule.to_owned() }).clone()
    }
}

type Durations = Family<RouteLabels, Histogram, fn() -> Histogram>;

/// All metrics of the gateway.
#[derive(Debug, Clone)]
pub(crate) struct Meters {
    calls: Family<CallLabels, Counter>,
    durations: Durations,
    /// Access-log lines that were not written because the log could not keep up.
    pub(crate) lines_lost: Counter,
    /// Limited calls that were counted here, although limits are shared.
    pub(crate) counted_alone: Counter,
    /// What came of looking answers up in the cache.
    pub(crate) lookups: Lookups,
    /// What the cache holds, in bytes.
    pub(crate) cache_bytes: Gauge,
    /// REST bindings in the table.
    pub(crate) routes: Gauge,
    /// Descriptor sets refused.
    pub(crate) sets_refused: Counter,
    unmatched_rest: Arc<RouteMeter>,
    unmatched_grpc: Arc<RouteMeter>,
    unmatched_grpc_web: Arc<RouteMeter>,
    unmatched_connect: Arc<RouteMeter>,
    probes: Arc<RouteMeter>,
    preflights: Arc<RouteMeter>,
}

impl Meters {
    /// Registers the metrics.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let calls = Family::default();
        let durations: Durations = Family::new_with_constructor(|| Histogram::new(BUCKETS));
        let unmatched = |protocol| meter(&calls, &durations, protocol, "other", UNMATCHED);
        let meters = Self {
            unmatched_rest: unmatched("rest"),
            unmatched_grpc: unmatched("grpc"),
            unmatched_grpc_web: unmatched(GRPC_WEB),
            unmatched_connect: unmatched(CONNECT),
            probes: meter(&calls, &durations, "grpc", "POST", health::CHECK),
            preflights: meter(&calls, &durations, "rest", "OPTIONS", PREFLIGHT),
            calls: calls.clone(),
            durations: durations.clone(),
            lines_lost: Counter::default(),
            counted_alone: Counter::default(),
            lookups: Lookups::default(),
            cache_bytes: Gauge::default(),
            routes: Gauge::default(),
            sets_refused: Counter::default(),
        };
        metrics.register(|registry| {
            registry.register("weft_gateway_calls", "Calls that ended, by how they ended", calls);
            registry.register(
                "weft_gateway_call_duration_seconds",
                "Time from the end of the request's head to the end of the answer",
                durations,
            );
            registry.register(
                "weft_gateway_access_lines_lost",
                "Access-log lines dropped because the log could not keep up",
                meters.lines_lost.clone(),
            );
            registry.register(
                "weft_gateway_rate_limits_alone",
                "Limited calls that the gateway counted by itself, since Redis did not answer in time",
                meters.counted_alone.clone(),
            );
            registry.register(
                "weft_gateway_cache_lookups",
                "Calls that a cache policy is about, by what was there for them",
                meters.lookups.0.clone(),
            );
            registry.register("weft_gateway_cache_bytes", "Memory of kept answers", meters.cache_bytes.clone());
            registry.register("weft_gateway_routes", "REST bindings in the route table", meters.routes.clone());
            registry.register(
                "weft_gateway_descriptor_sets_refused",
                "Descriptor sets that did not link",
                meters.sets_refused.clone(),
            );
        });
        meters
    }

    /// Returns the meter of a REST binding.
    pub(crate) fn rest(&self, plan: &MethodPlan) -> Arc<RouteMeter> {
        meter(&self.calls, &self.durations, "rest", plan.http_method(), &plan.template().to_string())
    }

    /// Returns the meter of a method called natively.
    pub(crate) fn native(&self, grpc_path: &str) -> Arc<RouteMeter> {
        meter(&self.calls, &self.durations, "grpc", "POST", grpc_path)
    }

    /// Returns the meter of REST requests that no route matches.
    pub(crate) fn unmatched_rest(&self) -> Arc<RouteMeter> {
        Arc::clone(&self.unmatched_rest)
    }

    /// Returns the meter of gRPC calls to methods nobody declares.
    pub(crate) fn unmatched_grpc(&self) -> Arc<RouteMeter> {
        Arc::clone(&self.unmatched_grpc)
    }

    /// Returns the meter of gRPC-Web calls to methods nobody declares.
    pub(crate) fn unmatched_grpc_web(&self) -> Arc<RouteMeter> {
        Arc::clone(&self.unmatched_grpc_web)
    }

    /// Returns the meter of Connect calls to methods nobody declares.
    pub(crate) fn unmatched_connect(&self) -> Arc<RouteMeter> {
        Arc::clone(&self.unmatched_connect)
    }

    /// Returns the meter of health checks that are passed on to an app.
    pub(crate) fn probes(&self) -> Arc<RouteMeter> {
        Arc::clone(&self.probes)
    }

    /// Returns the meter of browsers' questions, whatever they ask about.
    pub(crate) fn preflights(&self) -> Arc<RouteMeter> {
        Arc::clone(&self.preflights)
    }
}

fn meter(
    calls: &Family<CallLabels, Counter>,
    durations: &Durations,
    protocol: &'static str,
    method: &str,
    route: &str,
) -> Arc<RouteMeter> {
    Arc::new(RouteMeter {
        labels: RouteLabels { protocol, method: method.to_owned(), route: route.to_owned() },
        calls: calls.clone(),
        durations: durations.clone(),
        ended: Default::default(),
        duration: OnceLock::new(),
    })
}

/// The meters of one method, one for each RPC protocol. Those of the rarer protocols are made when they are first wanted.
#[derive(Debug)]
pub(crate) struct MethodMeters {
    pub(crate) grpc: Arc<RouteMeter>,
    grpc_web: OnceLock<Arc<RouteMeter>>,
    connect: OnceLock<Arc<RouteMeter>>,
}

impl MethodMeters {
    pub(crate) fn new(grpc: Arc<RouteMeter>) -> Self {
        Self { grpc, grpc_web: OnceLock::new(), connect: OnceLock::new() }
    }

    pub(crate) fn grpc_web(&self) -> &Arc<RouteMeter> {
        self.grpc_web.get_or_init(|| self.grpc.of_protocol(GRPC_WEB))
    }

    pub(crate) fn connect(&self) -> &Arc<RouteMeter> {
        self.connect.get_or_init(|| self.grpc.of_protocol(CONNECT))
    }
}

/// Counts the calls of one route; every handle is looked up once, at its first use, so that a route nobody calls has no series.
#[derive(Debug)]
pub(crate) struct RouteMeter {
    labels: RouteLabels,
    calls: Family<CallLabels, Counter>,
    durations: Durations,
    ended: [OnceLock<Counter>; SLOTS],
    duration: OnceLock<Histogram>,
}

impl RouteMeter {
    /// Counts a call that ended.
    pub(crate) fn ended(&self, status: Status, took: Duration) {
        self.ended[status.slot()].get_or_init(|| self.counter(status)).inc();
        let duration = self.duration.get_or_init(|| self.durations.get_or_create(&self.labels).clone());
        duration.observe(took.as_secs_f64());
    }

    /// The same route in another protocol.
    fn of_protocol(&self, protocol: &'static str) -> Arc<Self> {
        meter(&self.calls, &self.durations, protocol, &self.labels.method, &self.labels.route)
    }

    /// The protocol as metrics and access log name it.
    pub(crate) fn protocol(&self) -> &'static str {
        self.labels.protocol
    }

    /// The route as metrics and access log name it.
    pub(crate) fn route(&self) -> &str {
        &self.labels.route
    }

    /// The route, if one matched.
    pub(crate) fn known_route(&self) -> Option<&str> {
        Some(self.route()).filter(|route| *route != UNMATCHED)
    }

    fn counter(&self, status: Status) -> Counter {
        let RouteLabels { protocol, method, route } = self.labels.clone();
        self.calls.get_or_create(&CallLabels { protocol, method, route, status: status.label() }).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_route_and_status_and_no_status_makes_a_new_label() {
        let metrics = Metrics::default();
        let meter = Meters::new(&metrics).native("/a.B/C");
        for status in [Status::Grpc(0), Status::Grpc(0), Status::Grpc(5), Status::Grpc(77), Status::Grpc(-1)] {
            meter.ended(status, Duration::from_millis(3));
        }
        let text = metrics.encode();
        let has = |line: &str| assert!(text.contains(line), "{line} in\n{text}");
        has(r#"weft_gateway_calls_total{protocol="grpc",method="POST",route="/a.B/C",status="OK"} 2"#);
        has(r#"weft_gateway_calls_total{protocol="grpc",method="POST",route="/a.B/C",status="NOT_FOUND"} 1"#);
        has(r#"weft_gateway_calls_total{protocol="grpc",method="POST",route="/a.B/C",status="other"} 2"#);
        has(r#"weft_gateway_call_duration_seconds_count{protocol="grpc",method="POST",route="/a.B/C"} 5"#);
        assert_eq!(Status::Http(418).label(), "other");
    }
}
