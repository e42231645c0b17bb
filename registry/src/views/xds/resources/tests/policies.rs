//! Policies field by field: each number that an operator gives stands in the field that clients read for it, and in no other.
//!
//! Lives here: one policy, and the whole message it comes to. Does not: which routes there are (`cases`), what clients do (`tests/e2e/xds`).

use std::{sync::Arc, time::Duration};

use weft_model::{
    CallMatch, FailurePercentage, Fault, HeaderMatch, HeaderValue, Outliers, Part, Policy, PolicyKind, RetryOn,
    RetryRule, Route, RouteRule, ServiceSnapshot, Split, SuccessRate, Target, Upstream, Version,
};

use super::{
    super::messages::{
        Cluster, OutlierDetection, RouteAction, RouteConfiguration, cluster, fault, fault_common, matcher, number,
        route, time, types,
    },
    any_mesh::world_of,
    cases::{envoy, get, nobody, users},
};
use crate::views::xds::{Kind, Profile};

fn with(kinds: impl IntoIterator<Item = PolicyKind>) -> ServiceSnapshot {
    let service = users([]);
    let policy = |(index, kind)| {
        let name = format!("p{index}").parse().unwrap();
        Arc::new(Policy { name, service: service.name.clone(), version: Version(1), kind })
    };
    ServiceSnapshot { policies: kinds.into_iter().enumerate().map(policy).collect(), ..service.clone() }
}

fn cluster(profile: &Profile, upstreams: impl IntoIterator<Item = Upstream>) -> Cluster {
    let kinds = upstreams.into_iter().map(|it| PolicyKind::Upstream(it.checked().unwrap()));
    get(&world_of([with(kinds)]), profile, Kind::Cluster, "users.default")
}

fn at_most(requests: u32) -> Upstream {
    Upstream { max_requests: Some(requests), outliers: None }
}

fn leaving_out(it: Outliers) -> Upstream {
    Upstream { max_requests: None, outliers: Some(it.checked().unwrap()) }
}

fn seconds(it: u64) -> Duration {
    Duration::from_secs(it)
}

const RATE: SuccessRate = SuccessRate { stdev_thousandths: 1_701, min_hosts: 3, min_calls: 71 };
const FAILURES: FailurePercentage = FailurePercentage { threshold: 42, min_hosts: 2, min_calls: 17 };

fn outliers(success_rate: Option<SuccessRate>, failure_percentage: Option<FailurePercentage>) -> Outliers {
    let (interval, base_ejection, max_ejection) = (Duration::from_millis(1_500), seconds(7), seconds(77));
    Outliers { interval, base_ejection, max_ejection, max_ejection_percent: 33, success_rate, failure_percentage }
}

#[test]
fn an_instance_is_left_out_by_the_rules_that_are_given_and_by_no_other() {
    let frame = OutlierDetection {
        interval: time(Duration::from_millis(1_500)),
        base_ejection_time: time(seconds(7)),
        max_ejection_time: time(seconds(77)),
        max_ejection_percent: number(33),
        enforcing_consecutive_5xx: number(0),
        enforcing_consecutive_gateway_failure: number(0),
        enforcing_success_rate: number(0),
        enforcing_failure_percentage: number(0),
        ..OutlierDetection::default()
    };
    let rate = |it| OutlierDetection {
        enforcing_success_rate: number(100),
        success_rate_stdev_factor: number(1_701),
        success_rate_minimum_hosts: number(3),
        success_rate_request_volume: number(71),
        ..it
    };
    let failures = |it| OutlierDetection {
        enforcing_failure_percentage: number(100),
        failure_percentage_threshold: number(42),
        failure_percentage_minimum_hosts: number(2),
        failure_percentage_request_volume: number(17),
        ..it
    };
    for profile in [nobody(), envoy()] {
        let told = |it: Outliers| cluster(&profile, [leaving_out(it)]).outlier_detection;
        assert_eq!(told(outliers(Some(RATE), None)), Some(rate(frame.clone())));
        assert_eq!(told(outliers(None, Some(FAILURES))), Some(failures(frame.clone())));
        assert_eq!(told(outliers(Some(RATE), Some(FAILURES))), Some(rate(failures(frame.clone()))));
        assert_eq!(
            cluster(&profile, [at_most(7)]).outlier_detection,
            None,
            "a client that hears nothing leaves out nobody"
        );
    }
}

#[test]
fn calls_at_once_are_bounded_by_the_first_policy_that_says_so_and_else_by_none() {
    let bounds = |profile: &Profile, upstreams: Vec<Upstream>| -> cluster::circuit_breakers::Thresholds {
        let mut all = cluster(profile, upstreams).circuit_breakers.unwrap().thresholds;
        assert_eq!(all.len(), 1);
        all.remove(0)
    };
    let said = || vec![leaving_out(outliers(Some(RATE), None)), at_most(7), at_most(8)];
    let only = |max_requests| cluster::circuit_breakers::Thresholds { max_requests, ..Default::default() };
    assert_eq!(bounds(&nobody(), said()), only(number(7)));
    let silent = || vec![leaving_out(outliers(Some(RATE), None))];
    for nothing in [vec![], silent()] {
        let told = bounds(&nobody(), nothing);
        assert_eq!(told, only(number(i32::MAX as u32)), "a client that is told nothing stops at 1,024");
    }
    for (upstreams, max) in [(said(), 7), (vec![], i32::MAX as u32), (silent(), i32::MAX as u32)] {
        let it = bounds(&envoy(), upstreams);
        assert_eq!(it.max_requests, number(max));
        let unbounded = number(i32::MAX as u32);
        assert_eq!((it.max_connections, it.max_pending_requests), (unbounded, unbounded), "its own bounds are off");
    }
}

/// The first route of users, made of this rule.
fn first(profile: &Profile, rule: RouteRule) -> route::Route {
    let route = Route::new(vec![rule.checked().unwrap()]).unwrap();
    let world = world_of([with([PolicyKind::Route(route)])]);
    let name = if *profile == envoy() { "weft/outbound" } else { "users" };
    let mut it: RouteConfiguration = get(&world, profile, Kind::Route, name);
    it.virtual_hosts[0].routes.remove(0)
}

fn action(profile: &Profile, rule: RouteRule) -> RouteAction {
    let Some(route::route::Action::Route(action)) = first(profile, rule).action else { panic!("it forwards") };
    action
}

fn rule() -> RouteRule {
    let itself = Target { service: "users".parse().unwrap(), weight: 1 };
    let (name, to) = ("r".parse().unwrap(), Some(Split::new(vec![itself]).unwrap()));
    RouteRule { name, matches: CallMatch::default(), to, timeout: None, retry: None, fault: None }
}

fn millionths(it: u32) -> Option<types::FractionalPercent> {
    let denominator = types::fractional_percent::DenominatorType::Million.into();
    Some(types::FractionalPercent { numerator: it, denominator })
}

#[test]
fn a_fault_happens_to_its_own_part_of_the_calls() {
    let part = |it| Part::of_a_million(it).unwrap();
    let told = |delay, abort| {
        let route = first(&nobody(), RouteRule { fault: Some(Fault { delay, abort }), ..rule() });
        let config = &route.typed_per_filter_config["envoy.filters.http.fault"];
        assert_eq!(config.type_url, <fault::HttpFault as prost::Name>::type_url());
        <fault::HttpFault as prost::Message>::decode(config.value.as_slice()).unwrap()
    };
    let wait = fault_common::fault_delay::FaultDelaySecifier::FixedDelay(time(Duration::from_millis(2_500)).unwrap());
    let delay = Some(fault_common::FaultDelay { percentage: millionths(12_345), fault_delay_secifier: Some(wait) });
    let abort = Some(fault::FaultAbort {
        percentage: millionths(678_901),
        error_type: Some(fault::fault_abort::ErrorType::GrpcStatus(9)),
        ..fault::FaultAbort::default()
    });
    let (waits, ends) = (Some((Duration::from_millis(2_500), part(12_345))), Some((9, part(678_901))));
    let only = fault::HttpFault::default();
    assert_eq!(told(waits, None), fault::HttpFault { delay, ..only.clone() });
    assert_eq!(told(None, ends), fault::HttpFault { abort: abort.clone(), ..only.clone() });
    assert_eq!(told(waits, ends), fault::HttpFault { delay, abort, ..only });
}

#[test]
fn a_call_is_tried_again_on_what_is_named_after_the_waits_that_are_given() {
    let on = [RetryOn::Unavailable, RetryOn::Cancelled].into();
    let (back_off, max) = (Duration::from_millis(30), Duration::from_millis(400));
    let retry = Some(RetryRule::new(on, 3, Some(back_off), Some(max)).unwrap());
    let told = |profile: &Profile| action(profile, RouteRule { retry: retry.clone(), ..rule() }).retry_policy.unwrap();
    let waits = route::retry_policy::RetryBackOff { base_interval: time(back_off), max_interval: time(max) };
    let wanted = route::RetryPolicy {
        retry_on: "cancelled,unavailable".into(),
        num_retries: number(3),
        retry_back_off: Some(waits),
        ..route::RetryPolicy::default()
    };
    assert_eq!(told(&nobody()), wanted);
    let it = told(&envoy());
    assert_eq!(it.retry_on, "cancelled,unavailable,connect-failure,refused-stream,reset");
    assert_eq!((it.num_retries, it.retry_back_off), (wanted.num_retries, wanted.retry_back_off));
}

#[test]
fn a_call_ends_at_the_limit_of_its_rule_or_of_its_caller() {
    let limit = |max_stream_duration, grpc_timeout_header_max| {
        Some(route::route_action::MaxStreamDuration {
            max_stream_duration,
            grpc_timeout_header_max,
            ..route::route_action::MaxStreamDuration::default()
        })
    };
    let told = |profile: &Profile, timeout| {
        let it = action(profile, RouteRule { timeout, ..rule() });
        (it.timeout, it.max_stream_duration)
    };
    let (some, never) = (Duration::from_millis(1_250), || time(Duration::ZERO));
    let wanted = || limit(time(some), time(some));
    assert_eq!(told(&nobody(), Some(some)), (None, wanted()));
    assert_eq!(told(&nobody(), None), (None, None));
    assert_eq!(told(&envoy(), Some(some)), (never(), wanted()), "its own limit of 15 s is off");
    assert_eq!(told(&envoy(), None), (never(), limit(None, never())), "as long as the caller says");
}

#[test]
fn a_header_is_matched_as_the_rule_says() {
    use matcher::string_matcher::MatchPattern::{Exact, Prefix, Suffix};
    use route::header_matcher::HeaderMatchSpecifier::{PresentMatch, StringMatch};
    let text = |it| StringMatch(matcher::StringMatcher { match_pattern: Some(it), ignore_case: false });
    let rows = [
        (HeaderValue::Exact("a".into()), text(Exact("a".into()))),
        (HeaderValue::Prefix("b".into()), text(Prefix("b".into()))),
        (HeaderValue::Suffix("c".into()), text(Suffix("c".into()))),
        (HeaderValue::Present(true), PresentMatch(true)),
        (HeaderValue::Present(false), PresentMatch(false)),
    ];
    for (value, wanted) in rows {
        let headers = vec![HeaderMatch::new("x-one", value).unwrap()];
        let matches = CallMatch::new(vec![], vec![], headers).unwrap();
        let route = first(&nobody(), RouteRule { matches, ..rule() });
        let wanted = route::HeaderMatcher {
            name: "x-one".into(),
            header_match_specifier: Some(wanted),
            ..route::HeaderMatcher::default()
        };
        assert_eq!(route.r#match.unwrap().headers, [wanted]);
    }
}
