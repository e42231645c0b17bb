//! Cluster: how calls to one service are spread and protected.
//!
//! Lives here: the message. Does not: endpoints (`endpoints`), TLS contexts (`tls`).
//! `lb_policy` is ROUND_ROBIN for everybody: C-core and Node refuse LEAST_REQUEST there. What a client should really do is said by the list of
//! `load_balancing_policy`, of which it takes the first that it knows: localities by weight, endpoints within one in turn; without the outer policy
//! gRPC ignores weights. Envoy refuses that outer policy around round robin, and heeds weights of localities and endpoints if round robin says so; it
//! speaks HTTP/2 to endpoints only if told so.

use std::collections::{BTreeMap, HashMap};

use weft_model::{PolicyKind, ServiceName, ServiceSnapshot, Upstream};

use super::{
    messages::{
        Any, CircuitBreakers, Cluster, LbPolicy, LoadBalancingPolicy, OutlierDetection, RoundRobin,
        TypedExtensionConfig, WrrLocality, ads, any,
        cluster::{
            self,
            circuit_breakers::{Thresholds, thresholds::RetryBudget},
        },
        core, http_options, labelled, lb_common, number, time, types,
    },
    reach::Reach,
    tls::{self, Certificates},
};
use crate::views::xds::profile::Family;

/// No bound, also for clients whose numbers have a sign.
const UNBOUNDED: u32 = i32::MAX as u32;
/// Calls of a service that Envoy may try again at once, as a share of those in flight; as our own proxies' budget.
const RETRIES_PERCENT: f64 = 20.0;
/// And as many in any case.
const RETRIES_AT_LEAST: u32 = 100;
/// Envoy's wait for a connection; gRPC has its own.
const CONNECT: std::time::Duration = std::time::Duration::from_secs(1);

/// Returns the cluster of a service, encoded.
pub(super) fn cluster(
    name: &str,
    service: &ServiceSnapshot,
    family: Family,
    reach: &Reach,
    certificates: Option<&Certificates>,
) -> Vec<u8> {
    let transport_socket = match (reach, certificates) {
        (Reach::Mtls(expected), Some(certificates)) => Some(tls::upstream(certificates, expected)),
        (Reach::Mtls(_) | Reach::Plaintext, _) => None,
    };
    let cluster = Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Eds.into(),
        )),
        eds_cluster_config: Some(cluster::cluster::EdsClusterConfig {
            eds_config: ads(),
            service_name: reach.endpoints_of(&service.name),
        }),
        lb_policy: cluster::cluster::LbPolicy::RoundRobin.into(),
        load_balancing_policy: Some(balancing()),
        circuit_breakers: Some(bounds(policies(service).find_map(|it| it.max_requests), family)),
        outlier_detection: policies(service).find_map(|it| it.outliers.as_ref()).map(outliers),
        transport_socket,
        ..Cluster::default()
    };
    let cluster = match family {
        Family::Grpc => cluster,
        Family::Envoy => for_envoy(cluster),
    };
    labelled(&cluster, &labels(&service.name))
}

/// The upstream policies of a service, by name.
fn policies(service: &ServiceSnapshot) -> impl Iterator<Item = &Upstream> {
    service.policies.iter().filter_map(|it| match &it.kind {
        PolicyKind::Upstream(it) => Some(it),
        PolicyKind::Access(_) | PolicyKind::PlaintextUpstream(_) | PolicyKind::Route(_) | PolicyKind::Edge(_) => None,
    })
}

/// Calls to the service at once: as many as a policy says, else as many as come, like those of our own proxies. Said in any case: who hears nothing stops
/// at 1,024 (gRFC A32, and Envoy, too), where an operator has said nothing and a call by way of a sidecar would pass; and Envoy tries 3 calls again at a
/// time, fewer than an instance carries that is killed.
fn bounds(requests: Option<u32>, family: Family) -> CircuitBreakers {
    let max_requests = number(requests.unwrap_or(UNBOUNDED));
    let threshold = match family {
        Family::Grpc => Thresholds { max_requests, ..Thresholds::default() },
        Family::Envoy => Thresholds {
            max_requests,
            max_connections: number(UNBOUNDED),
            max_pending_requests: number(UNBOUNDED),
            retry_budget: Some(RetryBudget {
                budget_percent: Some(types::Percent { value: RETRIES_PERCENT }),
                min_retry_concurrency: number(RETRIES_AT_LEAST),
                ..RetryBudget::default()
            }),
            ..Thresholds::default()
        },
    };
    CircuitBreakers { thresholds: vec![threshold], ..CircuitBreakers::default() }
}

/// A rule that is off is said to be: success rates are judged unless `enforcing_success_rate` is 0, and what gRPC does not know is switched off for Envoy.
fn outliers(it: &weft_model::Outliers) -> OutlierDetection {
    let (rate, failures) = (it.success_rate, it.failure_percentage);
    OutlierDetection {
        interval: time(it.interval),
        base_ejection_time: time(it.base_ejection),
        max_ejection_time: time(it.max_ejection),
        max_ejection_percent: number(it.max_ejection_percent),
        enforcing_consecutive_5xx: number(0),
        enforcing_consecutive_gateway_failure: number(0),
        enforcing_success_rate: number(if rate.is_some() { 100 } else { 0 }),
        success_rate_stdev_factor: rate.and_then(|it| number(it.stdev_thousandths)),
        success_rate_minimum_hosts: rate.and_then(|it| number(it.min_hosts)),
        success_rate_request_volume: rate.and_then(|it| number(it.min_calls)),
        enforcing_failure_percentage: number(if failures.is_some() { 100 } else { 0 }),
        failure_percentage_threshold: failures.and_then(|it| number(it.threshold)),
        failure_percentage_minimum_hosts: failures.and_then(|it| number(it.min_hosts)),
        failure_percentage_request_volume: failures.and_then(|it| number(it.min_calls)),
        ..OutlierDetection::default()
    }
}

fn labels(service: &ServiceName) -> BTreeMap<String, String> {
    let labels = [("service_name", service.name()), ("service_namespace", service.namespace())];
    labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn balancing() -> LoadBalancingPolicy {
    let in_turn = || extension("envoy.load_balancing_policies.round_robin", any(&RoundRobin::default()));
    let within = LoadBalancingPolicy { policies: vec![in_turn()] };
    let by_locality = any(&WrrLocality { endpoint_picking_policy: Some(within) });
    LoadBalancingPolicy {
        policies: vec![extension("envoy.load_balancing_policies.wrr_locality", by_locality), in_turn()],
    }
}

fn balancing_of_envoy() -> LoadBalancingPolicy {
    use lb_common::{LocalityLbConfig, locality_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig};
    let by_weight = LocalityWeightedLbConfig(lb_common::locality_lb_config::LocalityWeightedLbConfig {});
    let by_locality = Some(LocalityLbConfig { locality_config_specifier: Some(by_weight) });
    let in_turn = any(&RoundRobin { locality_lb_config: by_locality, ..RoundRobin::default() });
    LoadBalancingPolicy { policies: vec![extension("envoy.load_balancing_policies.round_robin", in_turn)] }
}

fn extension(name: &str, typed_config: Any) -> LbPolicy {
    let typed_config = Some(typed_config);
    LbPolicy { typed_extension_config: Some(TypedExtensionConfig { name: name.to_owned(), typed_config }) }
}

fn for_envoy(cluster: Cluster) -> Cluster {
    use http_options::http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
    };
    let h2 = ProtocolConfig::Http2ProtocolOptions(core::Http2ProtocolOptions::default());
    let options = http_options::HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(h2),
        })),
        ..http_options::HttpProtocolOptions::default()
    };
    let key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned();
    Cluster {
        connect_timeout: time(CONNECT),
        typed_extension_protocol_options: HashMap::from([(key, any(&options))]),
        load_balancing_policy: Some(balancing_of_envoy()),
        ..cluster
    }
}
