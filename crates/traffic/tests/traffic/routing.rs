//! Services that are known but not there: which calls wait, which fail at once.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Request;
use weft_model::{
    Epoch, Instance, InstanceId, Locality, ServiceName, ServiceSnapshot, Snapshot, Status, Version, Weight,
};
use weft_traffic::{Body, CallOptions, Code, Error, Metrics, Outbound, OutboundConfig, Pool, PoolConfig, Worlds};

use crate::{
    mesh::{GET, endpoint, info, nobody, read, request, users},
    upstream::{Call, Upstream},
};

/// What a call waits for that waits: who is told at once waits for less, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(5);

fn outbound(worlds: &Worlds) -> Outbound {
    let pool = Pool::new(PoolConfig::default(), Metrics::default());
    Outbound::new(OutboundConfig::default(), worlds.clone(), pool)
}

fn directory_only() -> Snapshot {
    let mut snapshot = Snapshot { version: Version(1), ..Snapshot::default() };
    snapshot.directory.insert(users(), Arc::new(info()));
    snapshot
}

fn with_instance(server: &Upstream, status: Status, version: u64) -> Snapshot {
    with_instances([(1, server.address, status)], version)
}

/// An instance each, by its number.
fn with_instances<const N: usize>(instances: [(u8, SocketAddr, Status); N], version: u64) -> Snapshot {
    let mut snapshot = directory_only();
    snapshot.version = Version(version);
    let mut service = ServiceSnapshot::empty(users(), Version(version));
    service.instances.extend(instances.map(|(number, address, status)| {
        let instance = instance(number, address, status);
        (instance.id, Arc::new(instance))
    }));
    service.info = Arc::new(info());
    snapshot.services.insert(users(), Arc::new(service));
    snapshot
}

pub(crate) fn instance(number: u8, address: SocketAddr, status: Status) -> Instance {
    Instance {
        id: InstanceId::from_bytes([number; 16]),
        service: users(),
        epoch: Epoch(1),
        endpoint: endpoint(address),
        status,
        reason: String::new(),
        locality: Locality::default(),
        weight: Weight::ONE,
        metadata: Default::default(),
        descriptors: None,
        check: None,
    }
}

#[tokio::test]
async fn a_call_to_a_service_nobody_subscribed_asks_for_it_and_waits() {
    let server = Upstream::start(Call::echo).await;
    let (worlds, mut interests) = Worlds::new(Metrics::default());
    worlds.apply(&directory_only());
    let outbound = outbound(&worlds);
    let call = outbound.call(request(GET, Body::full("x")));
    let subscribe = async {
        assert_eq!(interests.next().await, Some(users()));
        worlds.apply(&with_instance(&server, Status::Serving, 2));
    };
    let (response, ()) = tokio::join!(call, subscribe);
    assert_eq!(read(response.unwrap()).await.code, Code::Ok);
}

#[tokio::test]
async fn a_call_to_a_service_whose_only_app_restarts_waits_for_it() {
    let server = Upstream::start(Call::echo).await;
    let (worlds, _interests) = Worlds::new(Metrics::default());
    worlds.apply(&with_instance(&server, Status::Crashed, 1));
    let outbound = outbound(&worlds);
    let call = outbound.call(request(GET, Body::full("x")));
    let restart = async {
        tokio::task::yield_now().await;
        worlds.apply(&with_instance(&server, Status::Serving, 2));
    };
    let (response, ()) = tokio::join!(call, restart);
    assert_eq!(read(response.unwrap()).await.code, Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn an_outage_costs_patience_once_and_later_calls_are_told_at_once() {
    let (worlds, _interests) = Worlds::new(Metrics::default());
    let says = |status, version| {
        worlds.apply(&with_instances([(1, "127.0.0.1:1".parse().unwrap(), status)], version));
    };
    let outbound = outbound(&worlds);
    let waited = || async {
        let began = tokio::time::Instant::now();
        let error = outbound.call(request(GET, Body::full("x"))).await.unwrap_err();
        assert!(matches!(error, Error::NoEndpoint { .. }), "{error:?}");
        began.elapsed().as_secs()
    };
    says(Status::NotServing, 1);
    assert_eq!((waited().await, waited().await), (5, 0));
    says(Status::Crashed, 2);
    assert_eq!(waited().await, 0, "it is the same outage, whatever its instances say");
    says(Status::Serving, 3);
    says(Status::NotServing, 4);
    assert_eq!((waited().await, waited().await), (5, 0), "and this is another");
}

#[tokio::test]
async fn a_deadline_ends_the_wait() {
    let (worlds, _interests) = Worlds::new(Metrics::default());
    worlds.apply(&directory_only());
    let options = CallOptions { timeout: Some(Duration::from_millis(50)), ..CallOptions::default() };
    let began = Instant::now();
    let error = outbound(&worlds).call_with(request(GET, Body::full("x")), options).await.unwrap_err();
    assert!(matches!(error, Error::Deadline));
    assert!(began.elapsed() < PATIENCE);
}

#[tokio::test]
async fn what_cannot_be_is_said_at_once() {
    let (worlds, _interests) = Worlds::new(Metrics::default());
    let mut snapshot = directory_only();
    snapshot.services.insert(users(), Arc::new(ServiceSnapshot::empty(users(), Version(1))));
    worlds.apply(&snapshot);
    let outbound = outbound(&worlds);
    let call = |uri: &str| outbound.call(Request::post(uri).body(Body::empty()).unwrap());
    let began = Instant::now();
    let unclaimed = call("http://127.0.0.1:1/nobody.v1.Claims/This").await.unwrap_err();
    assert!(matches!(unclaimed, Error::NoRoute { .. }));
    assert_eq!(unclaimed.grpc_code(), Code::Unimplemented);
    let unknown = call("http://orders/nobody.v1.Claims/This").await.unwrap_err();
    assert!(matches!(unknown, Error::UnknownService { .. }));
    let empty = call(&format!("http://users{GET}")).await.unwrap_err();
    assert!(matches!(empty, Error::NoEndpoint { .. }), "the registry says that there is none");
    assert_eq!((unknown.grpc_code(), empty.grpc_code()), (Code::Unavailable, Code::Unavailable));
    assert!(began.elapsed() < PATIENCE);
}

#[tokio::test]
async fn a_service_named_by_the_caller_is_called_whatever_the_head_says() {
    let server = Upstream::start(Call::echo).await;
    let (worlds, _interests) = Worlds::new(Metrics::default());
    worlds.apply(&with_instance(&server, Status::Serving, 1));
    let service: Option<ServiceName> = Some(users());
    let request = Request::post("/nobody.v1.Claims/This").body(Body::full("x")).unwrap();
    let options = CallOptions { service, ..CallOptions::default() };
    let response = outbound(&worlds).call_with(request, options).await.unwrap();
    assert_eq!(read(response).await.code, Code::Ok);
    assert_eq!(server.head(0).uri.to_string(), "http://users/nobody.v1.Claims/This");
}

#[tokio::test]
async fn a_call_for_one_instance_reaches_that_one_or_fails_at_once() {
    let (first, second) = (Upstream::start(Call::echo).await, Upstream::start(Call::echo).await);
    let (worlds, _interests) = Worlds::new(Metrics::default());
    let serving = Status::Serving;
    worlds
        .apply(&with_instances([(1, first.address, serving), (2, second.address, serving), (3, nobody(), serving)], 1));
    let outbound = outbound(&worlds);
    let call = |number: u8| {
        let instance = Some(InstanceId::from_bytes([number; 16]));
        outbound.call_with(request(GET, Body::full("x")), CallOptions { instance, ..CallOptions::default() })
    };
    for _ in 0..10 {
        assert_eq!(read(call(2).await.unwrap()).await.code, Code::Ok);
    }
    let calls = |server: &Upstream| server.seen.calls.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!((calls(&first), calls(&second)), (0, 10));
    let began = Instant::now();
    assert!(matches!(call(3).await.unwrap_err(), Error::Connect { .. }), "no other answers in its place");
    assert!(matches!(call(4).await.unwrap_err(), Error::NoEndpoint { .. }));
    assert!(began.elapsed() < PATIENCE);
}
