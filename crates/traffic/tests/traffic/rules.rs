//! Route rules of a service: what a caller sees of a split, a timeout and a retry, and whose rules count.
//!
//! Lives here: the behaviours. Does not: matching (unit tests beside it).

use std::{sync::Arc, time::Duration};

use weft_model::{
    CallMatch, Policy, PolicyKind, RetryOn, RetryRule, Route, RouteRule, ServiceName, ServiceSnapshot, Snapshot, Split,
    Status, Target, Version,
};
use weft_traffic::{
    Body, CallOptions, Code, Error, Metrics, Outbound, OutboundConfig, Pool, PoolConfig, ToApp, Tracing, Worlds,
};

use crate::{
    mesh::{GET, POST, info, read, request, users},
    routing::instance,
    upstream::{Call, Upstream},
};

fn canary() -> ServiceName {
    "canary".parse().unwrap()
}

fn any_call() -> RouteRule {
    RouteRule {
        name: "r".parse().unwrap(),
        matches: CallMatch::default(),
        to: None,
        timeout: None,
        retry: None,
        fault: None,
    }
}

fn to(shares: &[(&str, u32)]) -> Option<Split> {
    let target = |(service, weight): &(&str, u32)| Target { service: service.parse().unwrap(), weight: *weight };
    Some(Split::new(shares.iter().map(target).collect()).unwrap())
}

fn service(name: ServiceName, number: u8, server: &Upstream, rule: Option<RouteRule>) -> Arc<ServiceSnapshot> {
    let mut service = ServiceSnapshot::empty(name.clone(), Version(1));
    let instance = instance(number, server.address, Status::Serving);
    service.instances.insert(instance.id, Arc::new(instance));
    service.info = Arc::new(info());
    service.policies = rule
        .map(|rule| {
            let kind = PolicyKind::Route(Route::new(vec![rule]).unwrap());
            Arc::new(Policy { name: "p".parse().unwrap(), service: name, version: Version(1), kind })
        })
        .into_iter()
        .collect();
    Arc::new(service)
}

fn snapshot(services: impl IntoIterator<Item = Arc<ServiceSnapshot>>) -> Snapshot {
    let mut snapshot = Snapshot { version: Version(1), ..Snapshot::default() };
    for service in services {
        snapshot.directory.insert(service.name.clone(), service.info.clone());
        snapshot.services.insert(service.name.clone(), service);
    }
    snapshot
}

fn outbound(worlds: &Worlds) -> Outbound {
    let pool = Pool::new(PoolConfig::default(), Metrics::default());
    Outbound::new(OutboundConfig::default(), worlds.clone(), pool)
}

async fn code(outbound: &Outbound, path: &str) -> Code {
    read(outbound.call(request(path, Body::full("x"))).await.unwrap()).await.code
}

#[tokio::test]
async fn calls_go_where_the_rules_of_the_service_they_name_send_them() {
    let (usual, other) = (Upstream::start(Call::echo).await, Upstream::start(Call::echo).await);
    let (worlds, _interests) = Worlds::new(Metrics::default());
    let split = RouteRule { to: to(&[("users", 1), ("canary", 1)]), ..any_call() };
    // the canary's own rules, which would send everything back, are not asked
    let back = RouteRule { to: to(&[("users", 1)]), ..any_call() };
    worlds.apply(&snapshot([service(users(), 1, &usual, Some(split)), service(canary(), 2, &other, Some(back))]));
    let outbound = outbound(&worlds);
    for _ in 0..200 {
        assert_eq!(code(&outbound, GET).await, Code::Ok);
    }
    let (usual, other) = (usual.calls(), other.calls());
    assert_eq!(usual + other, 200);
    assert!((60..=140).contains(&other), "{other} of 200 at the canary");
}

#[tokio::test]
async fn a_call_that_has_come_to_an_instance_stays_there() {
    let (app, other) = (Upstream::start(Call::echo).await, Upstream::start(Call::echo).await);
    let (worlds, _interests) = Worlds::new(Metrics::default());
    let away = RouteRule { to: to(&[("canary", 1)]), ..any_call() };
    worlds.apply(&snapshot([service(users(), 1, &app, Some(away)), service(canary(), 2, &other, None)]));
    let pool = Pool::new(PoolConfig::default(), Metrics::default());
    let to_app = ToApp::new(users(), app.address, worlds, Tracing::default(), pool);
    let answered = to_app.call_with(request(GET, Body::full("x")), CallOptions::default()).await.unwrap();
    assert_eq!(read(answered).await.code, Code::Ok);
    assert_eq!((app.calls(), other.calls()), (1, 0), "rules are for who calls");
}

#[tokio::test]
async fn a_service_that_nobody_subscribed_is_asked_for_when_a_rule_sends_a_call_there() {
    let (usual, other) = (Upstream::start(Call::echo).await, Upstream::start(Call::echo).await);
    let (worlds, mut interests) = Worlds::new(Metrics::default());
    let all = RouteRule { to: to(&[("canary", 1)]), ..any_call() };
    let (users, canary) = (service(users(), 1, &usual, Some(all)), service(canary(), 2, &other, None));
    let mut directory = Snapshot { version: Version(1), ..Snapshot::default() };
    for it in [&users, &canary] {
        directory.directory.insert(it.name.clone(), it.info.clone());
    }
    worlds.apply(&directory);
    let outbound = outbound(&worlds);
    let subscribe = async {
        assert_eq!(interests.next().await, Some(users.name.clone()));
        worlds.apply(&Snapshot { directory: directory.directory.clone(), ..snapshot([users.clone()]) });
        assert_eq!(interests.next().await, Some(canary.name.clone()));
        worlds.apply(&Snapshot { version: Version(3), ..snapshot([users.clone(), canary.clone()]) });
    };
    let (code, ()) = tokio::join!(code(&outbound, POST), subscribe);
    assert_eq!(code, Code::Ok);
    assert_eq!((usual.calls(), other.calls()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_sends_calls_to_nobody_costs_no_wait_once_every_service_is_known() {
    let (worlds, _interests) = Worlds::new(Metrics::default());
    let server = Upstream::start(Call::echo).await;
    let rule = RouteRule { to: to(&[("canary", 1)]), ..any_call() };
    let known = snapshot([service(users(), 1, &server, Some(rule))]);
    let outbound = outbound(&worlds);
    let waited = || async {
        let began = tokio::time::Instant::now();
        let error = outbound.call(request(GET, Body::full("x"))).await.unwrap_err();
        assert!(matches!(&error, Error::NoEndpoint { service } if *service == canary()), "{error:?}");
        began.elapsed().as_secs()
    };
    worlds.apply(&known);
    assert_eq!(waited().await, 5, "its endpoints may be on their way");
    worlds.apply(&Snapshot { complete: true, ..known });
    assert_eq!(waited().await, 0);
}

/// Takes a call and says nothing.
async fn never(call: Call) {
    let _held = call;
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_rules_timeout_ends_a_call_that_has_no_deadline() {
    let server = Upstream::start(never).await;
    let (worlds, _interests) = Worlds::new(Metrics::default());
    let rule = RouteRule { timeout: Some(Duration::from_millis(50)), ..any_call() };
    worlds.apply(&snapshot([service(users(), 1, &server, Some(rule))]));
    let error = outbound(&worlds).call(request(POST, Body::full("x"))).await.unwrap_err();
    assert!(matches!(error, Error::Deadline), "{error:?}");
}

#[tokio::test]
async fn a_rules_timeout_ends_an_answer_whose_caller_would_wait_longer() {
    let server = Upstream::start(|mut call: Call| async move {
        let stream = call.headers().unwrap();
        call.stall_on(stream).await;
    })
    .await;
    let (worlds, _interests) = Worlds::new(Metrics::default());
    let rule = RouteRule { timeout: Some(Duration::from_millis(50)), ..any_call() };
    worlds.apply(&snapshot([service(users(), 1, &server, Some(rule))]));
    let options = CallOptions { timeout: Some(Duration::from_secs(60)), ..CallOptions::default() };
    let answered = outbound(&worlds).call_with(request(POST, Body::full("x")), options).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(30), read(answered)).await.expect("the rule's timeout ends it");
    assert_eq!(read.code, Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_rules_timeout_counts_while_nobody_is_there_to_take_the_call() {
    let server = Upstream::start(Call::echo).await;
    let (worlds, _interests) = Worlds::new(Metrics::default());
    let timeout = Some(Duration::from_millis(50));
    let rule = RouteRule { to: to(&[("canary", 1)]), timeout, ..any_call() };
    let mut nobody = ServiceSnapshot::clone(&service(canary(), 2, &server, None));
    let starting = instance(2, server.address, Status::Starting);
    nobody.instances.insert(starting.id, Arc::new(starting));
    worlds.apply(&snapshot([service(users(), 1, &server, Some(rule)), Arc::new(nobody)]));
    let error = outbound(&worlds).call(request(POST, Body::full("x"))).await.unwrap_err();
    assert!(matches!(error, Error::Deadline), "{error:?}");
    assert_eq!(server.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_rules_send_every_call_elsewhere_is_in_use() {
    let (usual, other) = (Upstream::start(Call::echo).await, Upstream::start(Call::echo).await);
    let (worlds, _interests) = Worlds::new(Metrics::default());
    let away = RouteRule { to: to(&[("canary", 1)]), ..any_call() };
    worlds.apply(&snapshot([service(users(), 1, &usual, Some(away)), service(canary(), 2, &other, None)]));
    let idle = Duration::from_secs(600);
    tokio::time::advance(idle).await;
    assert_eq!(worlds.unused_for(idle).len(), 2);
    tokio::time::resume(); // a clock that jumps whenever a socket has nothing yet would be over every limit
    assert_eq!(code(&outbound(&worlds), GET).await, Code::Ok);
    assert_eq!(worlds.unused_for(idle), [], "the call named one and went to the other");
}

#[tokio::test]
async fn a_rules_retry_takes_the_place_of_what_the_method_allows() {
    let with = async |retries, path: &str| {
        let server = Upstream::start(|call: Call| async move { call.trailers_only("8", &[]) }).await;
        let (worlds, _interests) = Worlds::new(Metrics::default());
        let brief = Some(Duration::from_millis(1));
        let on = [RetryOn::ResourceExhausted].into();
        let retry = Some(RetryRule::new(on, retries, brief, brief).unwrap());
        worlds.apply(&snapshot([service(users(), 1, &server, Some(RouteRule { retry, ..any_call() }))]));
        assert_eq!(code(&outbound(&worlds), path).await, Code::ResourceExhausted);
        server.calls()
    };
    assert_eq!(with(3, POST).await, 4);
    assert_eq!(with(0, GET).await, 1);
    let unavailable = Upstream::start(|call: Call| async move { call.trailers_only("14", &[]) }).await;
    let other = Upstream::start(Call::echo).await;
    let (worlds, _interests) = Worlds::new(Metrics::default());
    let retry = Some(RetryRule::new([RetryOn::Internal].into(), 3, None, None).unwrap());
    let mut both = ServiceSnapshot::clone(&service(users(), 1, &unavailable, Some(RouteRule { retry, ..any_call() })));
    both.instances.extend(service(users(), 2, &other, None).instances.clone());
    worlds.apply(&snapshot([Arc::new(both)]));
    let outbound = outbound(&worlds);
    let mut codes = Vec::new();
    while unavailable.calls() == 0 {
        codes.push(code(&outbound, GET).await);
    }
    assert_eq!(codes.last(), Some(&Code::Unavailable), "a status that the rule does not name is final");
}
