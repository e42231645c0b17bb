//! What the gRPC clients of all four families demand of a resource before they use it, as one list of checks.
//!
//! Lives here: the rules, each with the field it is about. Does not: making resources.
//! Sources: the validators of grpc-go, grpc-java, grpc-node and C-core; and what grpcio and grpc-js-xds were seen to refuse, or to accept and ignore,
//! with one field removed at a time.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::super::messages::{
    self, Any, Cluster, ClusterLoadAssignment, HttpConnectionManager, Listener, RouteConfiguration, RouteSpecifier,
    cluster, core, endpoint, hcm, listener, route, tls,
};

/// What is wrong; nothing if a client takes it.
pub(crate) type Verdict = Result<(), String>;

macro_rules! rule {
    ($holds:expr, $($says:tt)*) => {
        if !$holds { return Err(format!($($says)*)); }
    };
}

/// What the client's bootstrap says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bootstrap {
    pub(crate) providers: BTreeSet<String>,
}

fn unpack<M: Message + prost::Name + Default>(it: Option<&Any>, field: &str) -> Result<M, String> {
    let it = it.ok_or_else(|| format!("{field} is not set"))?;
    rule!(it.type_url == M::type_url(), "{field} is a {}", it.type_url);
    M::decode(it.value.as_slice()).map_err(|error| format!("{field}: {error}"))
}

/// A listener that a channel asked for by this name.
pub(crate) fn channel_listener(it: &Listener, asked: &str) -> Verdict {
    rule!(it.name == asked, "name is {:?}, not {asked:?}", it.name);
    rule!(it.address.is_none(), "address is set beside api_listener");
    let api = it.api_listener.as_ref().and_then(|it| it.api_listener.as_ref());
    let manager: HttpConnectionManager = unpack(api, "api_listener.api_listener")?;
    filters(&manager)?;
    match manager.route_specifier.as_ref() {
        Some(RouteSpecifier::RouteConfig(routes)) => route_configuration(routes, &routes.name),
        Some(RouteSpecifier::Rds(rds)) => {
            rule!(!rds.route_config_name.is_empty(), "rds.route_config_name is empty");
            config_source(rds.config_source.as_ref(), "rds.config_source")
        }
        Some(RouteSpecifier::ScopedRoutes(_)) | None => Err("route_config and rds are both not set".into()),
    }
}

fn filters(it: &HttpConnectionManager) -> Verdict {
    rule!(!it.http_filters.is_empty(), "http_filters is empty");
    rule!(it.xff_num_trusted_hops == 0, "xff_num_trusted_hops is not 0");
    rule!(it.original_ip_detection_extensions.is_empty(), "original_ip_detection_extensions is not empty");
    let names: BTreeSet<&str> = it.http_filters.iter().map(|it| it.name.as_str()).collect();
    rule!(names.len() == it.http_filters.len(), "names of http_filters are not unique");
    for (index, filter) in it.http_filters.iter().enumerate() {
        let Some(hcm::http_filter::ConfigType::TypedConfig(config)) = &filter.config_type else {
            return Err(format!("http_filters[{index}].typed_config is not set"));
        };
        let known = ["router.v3.Router", "fault.v3.HTTPFault", "rbac.v3.RBAC"];
        let known = known.iter().any(|it| config.type_url.ends_with(&format!("envoy.extensions.filters.http.{it}")));
        rule!(known || filter.is_optional, "http_filters[{index}] is an unknown filter: {}", config.type_url);
        let last = index + 1 == it.http_filters.len();
        rule!(
            config.type_url.ends_with(".Router") == last,
            "the router is not the last of http_filters, and only there"
        );
    }
    Ok(())
}

fn config_source(it: Option<&core::ConfigSource>, field: &str) -> Verdict {
    use core::config_source::ConfigSourceSpecifier::{Ads, Self_};
    match it.and_then(|it| it.config_source_specifier.as_ref()) {
        Some(Ads(_) | Self_(_)) => Ok(()),
        Some(_) | None => Err(format!("{field} is neither ads nor self")),
    }
}

/// Routes that were asked for by this name, for a client.
pub(crate) fn route_configuration(it: &RouteConfiguration, asked: &str) -> Verdict {
    rule!(it.name == asked, "name is {:?}, not {asked:?}", it.name);
    rule!(!it.virtual_hosts.is_empty(), "virtual_hosts is empty");
    let mut domains = BTreeSet::new();
    for host in &it.virtual_hosts {
        rule!(!host.domains.is_empty(), "domains of {:?} is empty", host.name);
        for domain in &host.domains {
            let inner = domain.trim_start_matches('*').trim_end_matches('*');
            rule!(
                !inner.contains('*') && domain.matches('*').count() <= 1,
                "domain {domain:?} has a * in its middle, or two"
            );
            rule!(domains.insert(domain), "domain {domain:?} is there twice");
        }
        for (index, route) in host.routes.iter().enumerate() {
            one_route(route).map_err(|wrong| format!("routes[{index}] of {:?}: {wrong}", host.name))?;
        }
    }
    Ok(())
}

fn one_route(it: &messages::Route) -> Verdict {
    use route::{route::Action, route_action::ClusterSpecifier, route_match::PathSpecifier};
    let matches = it.r#match.as_ref().ok_or("match is not set")?;
    match matches.path_specifier.as_ref().ok_or("match has no path specifier")? {
        PathSpecifier::Prefix(path) => {
            rule!(path.is_empty() || path.starts_with('/'), "prefix {path:?} matches nothing")
        }
        PathSpecifier::Path(path) => {
            rule!(path.starts_with('/') && path.matches('/').count() == 2, "path {path:?} matches nothing");
        }
        PathSpecifier::SafeRegex(regex) => rule!(!regex.regex.is_empty(), "safe_regex is empty"),
        other => return Err(format!("match.{other:?} is not known to gRPC")),
    }
    rule!(matches.query_parameters.is_empty(), "query_parameters are set: clients skip the route");
    for header in &matches.headers {
        rule!(
            !header.name.is_empty() && !header.name.starts_with(':'),
            "header {:?} is none of the call's metadata",
            header.name
        );
        rule!(!header.name.ends_with("-bin"), "header {:?} is binary: it never matches", header.name);
        rule!(header.header_match_specifier.is_some(), "header {:?} has no matcher", header.name);
    }
    let action = match it.action.as_ref().ok_or("action is not set")? {
        Action::Route(action) => action,
        Action::NonForwardingAction(_) => return Ok(()),
        other => return Err(format!("action {other:?} is refused by Node")),
    };
    match action.cluster_specifier.as_ref().ok_or("cluster_specifier is not set")? {
        ClusterSpecifier::Cluster(name) => rule!(!name.is_empty(), "cluster is empty"),
        ClusterSpecifier::WeightedClusters(split) => {
            let weights = split.clusters.iter().map(|it| u64::from(it.weight.map_or(0, |it| it.value)));
            rule!(
                (1..=u64::from(u32::MAX)).contains(&weights.clone().sum()),
                "weights of weighted_clusters add up to 0, or past 32 bits"
            );
            rule!(split.clusters.iter().all(|it| !it.name.is_empty()), "a name of weighted_clusters is empty");
        }
        other => return Err(format!("cluster specifier {other:?} is refused by Node")),
    }
    if let Some(retry) = &action.retry_policy {
        rule!(retry.num_retries.is_none_or(|it| it.value >= 1), "retry_policy.num_retries is 0");
        if let Some(back_off) = &retry.retry_back_off {
            let nanos = |it: &Option<envoy_types::pb::google::protobuf::Duration>| {
                it.as_ref().map(|it| i128::from(it.seconds) * 1_000_000_000 + i128::from(it.nanos))
            };
            let base = nanos(&back_off.base_interval).ok_or("retry_back_off.base_interval is not set")?;
            rule!(base > 0, "retry_back_off.base_interval is 0");
            rule!(
                nanos(&back_off.max_interval).is_none_or(|it| it >= base),
                "retry_back_off.max_interval is below the base"
            );
        }
    }
    Ok(())
}

/// A cluster that was asked for by this name.
pub(crate) fn cluster_of(it: &Cluster, asked: &str, bootstrap: &Bootstrap) -> Verdict {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
    rule!(it.name == asked, "name is {:?}, not {asked:?}", it.name);
    rule!(
        it.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        "type is not EDS: {:?}",
        it.cluster_discovery_type
    );
    let eds = it.eds_cluster_config.as_ref().ok_or("eds_cluster_config is not set")?;
    config_source(eds.eds_config.as_ref(), "eds_config")?;
    rule!(it.lb_policy() == LbPolicy::RoundRobin, "lb_policy is {:?}", it.lb_policy());
    rule!(it.transport_socket_matches.is_empty(), "transport_socket_matches is not empty");
    rule!(it.lrs_server.is_none(), "lrs_server is set and we are none");
    if let Some(list) = &it.load_balancing_policy {
        balancing(list)?;
    }
    if let Some(outliers) = &it.outlier_detection {
        let percents = [
            outliers.max_ejection_percent,
            outliers.enforcing_success_rate,
            outliers.failure_percentage_threshold,
            outliers.enforcing_failure_percentage,
        ];
        rule!(percents.iter().flatten().all(|it| it.value <= 100), "a percentage of outlier_detection is above 100");
    }
    for threshold in it.circuit_breakers.iter().flat_map(|it| &it.thresholds) {
        rule!(threshold.priority == 0, "a threshold is not of the default priority");
    }
    it.transport_socket.as_ref().map_or(Ok(()), |socket| upstream_tls(socket, bootstrap))
}

/// The list must have something for a client that knows nothing but round robin.
fn balancing(list: &messages::LoadBalancingPolicy) -> Verdict {
    let urls: Vec<&str> = list
        .policies
        .iter()
        .filter_map(|it| it.typed_extension_config.as_ref()?.typed_config.as_ref())
        .map(|it| it.type_url.rsplit('/').next().unwrap_or_default())
        .collect();
    rule!(urls.len() == list.policies.len(), "an entry of load_balancing_policy has no typed_config");
    rule!(
        urls.last() == Some(&"envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin"),
        "load_balancing_policy does not end with round robin: {urls:?}"
    );
    Ok(())
}

fn upstream_tls(socket: &messages::TransportSocket, bootstrap: &Bootstrap) -> Verdict {
    rule!(socket.name == "envoy.transport_sockets.tls", "transport_socket.name is {:?}", socket.name);
    let Some(core::transport_socket::ConfigType::TypedConfig(config)) = &socket.config_type else {
        return Err("transport_socket.typed_config is not set".into());
    };
    let context: tls::UpstreamTlsContext = unpack(Some(config), "transport_socket.typed_config")?;
    let common = context.common_tls_context.ok_or("common_tls_context is not set")?;
    let names = common_tls(&common, bootstrap)?;
    rule!(names > 0, "no name is expected of the peer");
    Ok(())
}

/// Returns how many names a peer may have.
fn common_tls(it: &tls::CommonTlsContext, bootstrap: &Bootstrap) -> Result<usize, String> {
    use tls::common_tls_context::ValidationContextType::ValidationContext;
    rule!(it.tls_params.is_none(), "tls_params is set");
    rule!(it.custom_handshaker.is_none(), "custom_handshaker is set");
    rule!(it.tls_certificates.is_empty(), "tls_certificates is set");
    rule!(it.tls_certificate_sds_secret_configs.is_empty(), "tls_certificate_sds_secret_configs is set");
    let declared = |name: &str| bootstrap.providers.contains(name);
    let own = it.tls_certificate_provider_instance.as_ref().ok_or("tls_certificate_provider_instance is not set")?;
    rule!(declared(&own.instance_name), "certificate provider {:?} is not in the bootstrap", own.instance_name);
    let Some(ValidationContext(validation)) = &it.validation_context_type else {
        return Err(format!("validation context is {:?}", it.validation_context_type));
    };
    let roots = validation.ca_certificate_provider_instance.as_ref();
    let roots = roots.ok_or("ca_certificate_provider_instance is not set")?;
    rule!(declared(&roots.instance_name), "certificate provider {:?} is not in the bootstrap", roots.instance_name);
    rule!(validation.verify_certificate_spki.is_empty(), "verify_certificate_spki is set");
    rule!(validation.verify_certificate_hash.is_empty(), "verify_certificate_hash is set");
    rule!(validation.require_signed_certificate_timestamp.is_none(), "require_signed_certificate_timestamp is set");
    rule!(validation.crl.is_none() && validation.custom_validator_config.is_none(), "crl or custom_validator is set");
    #[expect(deprecated, reason = "the only list of names that gRPC clients read")]
    Ok(validation.match_subject_alt_names.len())
}

/// A set of endpoints that was asked for by this name. Also what clients accept in silence and then ignore is wrong.
pub(crate) fn endpoints_of(it: &ClusterLoadAssignment, asked: &str) -> Verdict {
    rule!(it.cluster_name == asked, "cluster_name is {:?}, not {asked:?}", it.cluster_name);
    let (mut places, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    let mut weights: BTreeMap<u32, u64> = BTreeMap::new();
    for (index, locality) in it.endpoints.iter().enumerate() {
        let at = locality.locality.as_ref().ok_or_else(|| format!("endpoints[{index}].locality is not set"))?;
        let key = (at.region.as_str(), at.zone.as_str(), at.sub_zone.as_str(), locality.priority);
        rule!(places.insert(key), "{key:?} is there twice");
        let weight = locality.load_balancing_weight.map_or(0, |it| it.value);
        rule!(weight >= 1, "endpoints[{index}].load_balancing_weight is 0: the locality is ignored in silence");
        *weights.entry(locality.priority).or_default() += u64::from(weight);
        rule!(!locality.lb_endpoints.is_empty(), "endpoints[{index}] has no endpoint");
        let mut sum = 0;
        for endpoint in &locality.lb_endpoints {
            let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host)) = &endpoint.host_identifier else {
                return Err(format!("an endpoint of endpoints[{index}] is not set"));
            };
            let Some(core::address::Address::SocketAddress(socket)) =
                host.address.as_ref().and_then(|it| it.address.as_ref())
            else {
                return Err(format!("an address of endpoints[{index}] is no socket_address"));
            };
            rule!(socket.address.parse::<std::net::IpAddr>().is_ok(), "{:?} is no IP literal", socket.address);
            let Some(core::socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else {
                return Err(format!("{} has no port_value", socket.address));
            };
            rule!(addresses.insert((socket.address.clone(), port)), "{}:{port} is there twice", socket.address);
            rule!(
                endpoint.load_balancing_weight.is_none_or(|it| it.value >= 1),
                "weight of {}:{port} is 0",
                socket.address
            );
            sum += u64::from(endpoint.load_balancing_weight.map_or(1, |it| it.value));
            let health = endpoint.health_status();
            let used = matches!(health, core::HealthStatus::Healthy | core::HealthStatus::Unknown);
            rule!(used, "{}:{port} is {health:?}: no client uses it", socket.address);
        }
        rule!(sum <= u64::from(u32::MAX), "weights of endpoints[{index}] add up past 32 bits");
    }
    let contiguous = weights.keys().copied().eq(0..weights.len() as u32);
    rule!(contiguous, "priorities have a gap: {:?}", weights.keys());
    rule!(weights.values().all(|it| *it <= u64::from(u32::MAX)), "weights of a priority add up past 32 bits");
    Ok(())
}

/// A listener that a gRPC server asked for by this name.
pub(crate) fn server_listener(it: &Listener, asked: &str, at: &str, bootstrap: &Bootstrap) -> Verdict {
    rule!(it.name == asked, "name is {:?}, not {asked:?}", it.name);
    rule!(it.api_listener.is_none(), "api_listener is set");
    rule!(it.listener_filters.is_empty(), "listener_filters is set");
    rule!(it.use_original_dst.is_none(), "use_original_dst is set");
    rule!(matches!(it.traffic_direction, 0 | 1), "traffic_direction is neither INBOUND nor unspecified");
    let Some(core::address::Address::SocketAddress(socket)) = it.address.as_ref().and_then(|it| it.address.as_ref())
    else {
        return Err("address is no socket_address".into());
    };
    let Some(core::socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else {
        return Err("address has no port_value".into());
    };
    let said: std::net::SocketAddr = at.parse().map_err(|_| "the test's address is none")?;
    rule!(
        socket.address == said.ip().to_string() && port == u32::from(said.port()),
        "address is not the one listened on"
    );
    rule!(it.filter_chains.is_empty(), "filter chains beside the default one need matches that differ");
    filter_chain(it.default_filter_chain.as_ref().ok_or("default_filter_chain is not set")?, bootstrap)
}

fn filter_chain(it: &listener::FilterChain, bootstrap: &Bootstrap) -> Verdict {
    let [filter] = it.filters.as_slice() else { return Err("a filter chain has other than one filter".into()) };
    let Some(listener::filter::ConfigType::TypedConfig(config)) = &filter.config_type else {
        return Err("a filter has no typed_config".into());
    };
    let manager: HttpConnectionManager = unpack(Some(config), "filter.typed_config")?;
    filters(&manager)?;
    let Some(RouteSpecifier::RouteConfig(routes)) = &manager.route_specifier else {
        return Err("routes are not inline".into());
    };
    route_configuration(routes, &routes.name)?;
    let actions = routes.virtual_hosts.iter().flat_map(|it| &it.routes).map(|it| &it.action);
    let only = actions.into_iter().all(|it| matches!(it, Some(route::route::Action::NonForwardingAction(_))));
    rule!(only, "a route of a server forwards");
    let Some(socket) = &it.transport_socket else { return Ok(()) };
    let Some(core::transport_socket::ConfigType::TypedConfig(config)) = &socket.config_type else {
        return Err("transport_socket.typed_config is not set".into());
    };
    let context: tls::DownstreamTlsContext = unpack(Some(config), "transport_socket.typed_config")?;
    rule!(context.require_sni.is_none(), "require_sni is set");
    rule!(context.ocsp_staple_policy == 0, "ocsp_staple_policy is not LENIENT");
    let names = common_tls(&context.common_tls_context.ok_or("common_tls_context is not set")?, bootstrap)?;
    rule!(names == 0, "a server expects certain names");
    Ok(())
}
