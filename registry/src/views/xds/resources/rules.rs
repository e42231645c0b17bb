//! One route: what a rule of a route policy, or none, comes to.
//!
//! Lives here: matches, actions, what is repeated. Does not: the order of routes (`routes`).
//! Methods that declare themselves repeatable are tried again when an instance is gone, as our own proxies do; no other call is, unless a policy says
//! so. A rule without a retry of its own is therefore preceded by a route for each repeatable method that it covers, up to a bound.
//! gRPC heeds `max_stream_duration` and ignores `timeout`; Envoy ends calls after 15 s unless told otherwise.

use std::{collections::HashMap, time::Duration};

use weft_model::{self as model, CallMatch, HeaderValue, PathPattern, RouteRule, ServiceName, ServiceSnapshot, Split};

use super::{
    messages::{
        Any, PreviousHosts, Route, RouteAction, RouteMatch, any, fault, fault_common, http_filter, matcher, number,
        route, time, types,
    },
    routes,
};
use crate::views::xds::{profile::Family, resources::messages::HttpFilter};

/// Repeatable methods of a service that get routes of their own; those beyond are not repeated.
const REPEATABLE: usize = 256;
/// How often a repeatable call is tried beyond the first time.
const RETRIES: u32 = 2;
/// How often Envoy chooses anew when it meets an instance that the call has tried.
const CHOICES: i64 = 5;
/// Name of the filter that makes calls go wrong; routes refer to it.
const FAULT: &str = "envoy.filters.http.fault";

/// All routes of a service for paths that begin with `prefix`.
pub(super) fn within(prefix: &str, service: &ServiceSnapshot, family: Family) -> Vec<Route> {
    let repeatable = repeatable(service);
    let under = |path: &str| path.starts_with(prefix) || prefix.starts_with(path);
    let of_rule = |rule: &RouteRule| {
        let narrowed = |pattern| match pattern {
            PathPattern::Exact(path) if path.starts_with(prefix) => Some(PathPattern::Exact(path)),
            PathPattern::Prefix(path) if path.starts_with(prefix) => Some(PathPattern::Prefix(path)),
            PathPattern::Prefix(path) if under(&path) => Some(PathPattern::Prefix(prefix.into())),
            PathPattern::Exact(_) | PathPattern::Prefix(_) => None,
        };
        let patterns: Vec<_> = match rule.matches.patterns().next() {
            None => vec![PathPattern::Prefix(prefix.into())],
            Some(_) => rule.matches.patterns().filter_map(narrowed).collect(),
        };
        let rule = Rule { matches: Some(&rule.matches), rule: Some(rule), service: &service.name, family };
        patterns.into_iter().flat_map(|it| rule.routes(&it, &repeatable)).collect::<Vec<_>>()
    };
    let else_ = Rule { matches: None, rule: None, service: &service.name, family };
    let mut routes: Vec<Route> = routes::policies(service).flat_map(of_rule).collect();
    routes.extend(else_.routes(&PathPattern::Prefix(prefix.into()), &repeatable));
    routes
}

/// Filters that the routes of a service refer to.
pub(super) fn filters(service: &ServiceSnapshot) -> Vec<HttpFilter> {
    let faulty = routes::policies(service).any(|rule| rule.fault.is_some());
    if faulty { all_filters() } else { Vec::new() }
}

/// Filters that routes may refer to.
pub(super) fn all_filters() -> Vec<HttpFilter> {
    vec![http_filter(FAULT, &fault::HttpFault::default())]
}

/// Paths of the methods that may run twice.
fn repeatable(service: &ServiceSnapshot) -> Vec<String> {
    let methods = service.info.grpc_services.iter().flat_map(|grpc| {
        grpc.methods.iter().filter(|it| it.idempotent).map(move |it| format!("/{}/{}", grpc.name, it.name))
    });
    methods.take(REPEATABLE).collect()
}

struct Rule<'a> {
    matches: Option<&'a CallMatch>,
    rule: Option<&'a RouteRule>,
    service: &'a ServiceName,
    family: Family,
}

impl Rule<'_> {
    fn routes(&self, pattern: &PathPattern, repeatable: &[String]) -> Vec<Route> {
        let own = self.rule.and_then(|it| it.retry.as_ref());
        if let Some(own) = own {
            return vec![self.route(pattern, retry(own, self.family))];
        }
        let again = |path: &&String| pattern.matches(path);
        let again = repeatable
            .iter()
            .filter(again)
            .map(|path| self.route(&PathPattern::Exact(path.as_str().into()), Some(repeat(self.family))));
        let rest = self.route(pattern, never_sent(self.family));
        let covered = matches!(pattern, PathPattern::Exact(path) if repeatable.iter().any(|it| **it == **path));
        again.chain((!covered).then_some(rest)).collect()
    }

    fn route(&self, pattern: &PathPattern, retry_policy: Option<route::RetryPolicy>) -> Route {
        let specifier = match pattern {
            PathPattern::Exact(path) => route::route_match::PathSpecifier::Path(path.to_string()),
            PathPattern::Prefix(path) => route::route_match::PathSpecifier::Prefix(path.to_string()),
        };
        let headers = self.matches.map(|it| it.headers().iter().map(header).collect()).unwrap_or_default();
        let action = RouteAction {
            cluster_specifier: Some(self.cluster()),
            retry_policy,
            ..with_timeout(self.rule.and_then(|it| it.timeout), self.family)
        };
        Route {
            r#match: Some(RouteMatch { path_specifier: Some(specifier), headers, ..RouteMatch::default() }),
            action: Some(route::route::Action::Route(action)),
            typed_per_filter_config: self.faults(),
            ..Route::default()
        }
    }

    fn cluster(&self) -> route::route_action::ClusterSpecifier {
        use route::route_action::ClusterSpecifier::{Cluster, WeightedClusters};
        let share = |it: &model::Target| route::weighted_cluster::ClusterWeight {
            name: it.service.full().to_owned(),
            weight: number(it.weight),
            ..route::weighted_cluster::ClusterWeight::default()
        };
        match self.rule.and_then(|it| it.to.as_ref()).map(Split::targets) {
            None => Cluster(self.service.full().to_owned()),
            Some([only]) => Cluster(only.service.full().to_owned()),
            Some(many) => WeightedClusters(route::WeightedCluster {
                clusters: many.iter().filter(|it| it.weight > 0).map(share).collect(),
                ..route::WeightedCluster::default()
            }),
        }
    }

    fn faults(&self) -> HashMap<String, Any> {
        let Some(wanted) = self.rule.and_then(|it| it.fault.as_ref()) else { return HashMap::new() };
        let config = fault::HttpFault {
            delay: wanted.delay.map(|(wait, part)| fault_common::FaultDelay {
                percentage: percentage(part),
                fault_delay_secifier: time(wait).map(fault_common::fault_delay::FaultDelaySecifier::FixedDelay),
            }),
            abort: wanted.abort.map(|(code, part)| fault::FaultAbort {
                percentage: percentage(part),
                error_type: Some(fault::fault_abort::ErrorType::GrpcStatus(code)),
                ..fault::FaultAbort::default()
            }),
            ..fault::HttpFault::default()
        };
        HashMap::from([(FAULT.to_owned(), any(&config))])
    }
}

fn percentage(part: model::Part) -> Option<types::FractionalPercent> {
    let denominator = types::fractional_percent::DenominatorType::Million.into();
    Some(types::FractionalPercent { numerator: part.millionths(), denominator })
}

fn header(it: &model::HeaderMatch) -> route::HeaderMatcher {
    use matcher::string_matcher::MatchPattern;
    use route::header_matcher::HeaderMatchSpecifier::{PresentMatch, StringMatch};
    let text = |pattern| StringMatch(matcher::StringMatcher { match_pattern: Some(pattern), ignore_case: false });
    let specifier = match it.value() {
        HeaderValue::Exact(value) => text(MatchPattern::Exact(value.to_string())),
        HeaderValue::Prefix(value) => text(MatchPattern::Prefix(value.to_string())),
        HeaderValue::Suffix(value) => text(MatchPattern::Suffix(value.to_string())),
        HeaderValue::Present(flag) => PresentMatch(*flag),
    };
    route::HeaderMatcher {
        name: it.name().to_owned(),
        header_match_specifier: Some(specifier),
        ..route::HeaderMatcher::default()
    }
}

/// What a policy asks for; none if it asks for no second try.
fn retry(rule: &model::RetryRule, family: Family) -> Option<route::RetryPolicy> {
    if rule.retries() == 0 {
        return never_sent(family);
    }
    let mut on: Vec<&str> = rule.on().iter().map(|it| it.as_str()).collect();
    if family == Family::Envoy {
        // Envoy knows a broken connection from a status. What no instance has seen is sent again whatever a rule names, as everywhere; a call that broke off
        // is UNAVAILABLE to everybody else.
        on.extend(["connect-failure", "refused-stream"]);
        if rule.on().contains(&model::RetryOn::Unavailable) {
            on.push("reset");
        }
    }
    let back_off = route::retry_policy::RetryBackOff {
        base_interval: time(rule.back_off()),
        max_interval: time(rule.max_back_off()),
    };
    Some(route::RetryPolicy {
        retry_on: on.join(","),
        num_retries: number(rule.retries()),
        retry_back_off: Some(back_off),
        ..elsewhere(family)
    })
}

/// A second try goes to another instance, which gRPC clients see to by themselves.
fn elsewhere(family: Family) -> route::RetryPolicy {
    let not_again = |name: &str| route::retry_policy::RetryHostPredicate {
        name: name.to_owned(),
        config_type: Some(route::retry_policy::retry_host_predicate::ConfigType::TypedConfig(any(&PreviousHosts {}))),
    };
    match family {
        Family::Grpc => route::RetryPolicy::default(),
        Family::Envoy => route::RetryPolicy {
            retry_host_predicate: vec![not_again("envoy.retry_host_predicates.previous_hosts")],
            host_selection_retry_max_attempts: CHOICES,
            ..route::RetryPolicy::default()
        },
    }
}

/// A repeatable call goes elsewhere when an instance cannot answer.
fn repeat(family: Family) -> route::RetryPolicy {
    let on = match family {
        Family::Grpc => "unavailable",
        Family::Envoy => "unavailable,connect-failure,refused-stream,reset",
    };
    route::RetryPolicy { retry_on: on.to_owned(), num_retries: number(RETRIES), ..elsewhere(family) }
}

/// What no instance has seen is sent again whatever it is. gRPC clients do that by themselves.
fn never_sent(family: Family) -> Option<route::RetryPolicy> {
    let retry_on = "connect-failure,refused-stream".to_owned();
    (family == Family::Envoy).then(|| route::RetryPolicy {
        retry_on,
        num_retries: number(RETRIES),
        ..elsewhere(family)
    })
}

/// An action that ends after this time, or with the caller's deadline if that is sooner.
fn with_timeout(timeout: Option<Duration>, family: Family) -> RouteAction {
    let limit = |it| route::route_action::MaxStreamDuration {
        max_stream_duration: time(it),
        grpc_timeout_header_max: time(it),
        ..route::route_action::MaxStreamDuration::default()
    };
    match (family, timeout) {
        (Family::Grpc, timeout) => RouteAction { max_stream_duration: timeout.map(limit), ..RouteAction::default() },
        (Family::Envoy, timeout) => {
            let callers = route::route_action::MaxStreamDuration {
                grpc_timeout_header_max: time(Duration::ZERO), // as long as the caller says
                ..route::route_action::MaxStreamDuration::default()
            };
            let limit = timeout.map_or(callers, limit);
            RouteAction { timeout: time(Duration::ZERO), max_stream_duration: Some(limit), ..RouteAction::default() }
        }
    }
}
