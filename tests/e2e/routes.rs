//! Where the calls to a service go: over its instances without a policy, and by route policies, which gateway and sidecar obey as clients of xDS do.
//! Inventory: gw-lb. Issue: step 3, "what has to work", xDS.
//!
//! Lives here: what a caller of each sees. Does not: stock clients (`xds`), the rules one by one (weft-traffic).

use std::{collections::BTreeMap, time::Duration};

use tokio::task::JoinSet;
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use weft_proto::weft::{
    policy::v1 as policy,
    testkit::v1::{EchoRequest, echo_client::EchoClient},
};
use weft_testkit::mesh::{App, Mesh};

use crate::{ALONE, xds};

const LIMIT: Duration = Duration::from_secs(30);

/// Calls echo; who answered, by service.
async fn calls(
    channel: &Channel,
    of: &BTreeMap<String, String>,
    count: usize,
    canary: bool,
) -> BTreeMap<String, usize> {
    let mut echo = EchoClient::new(channel.clone());
    let mut answered = BTreeMap::new();
    for _ in 0..count {
        let mut request = Request::new(EchoRequest::default());
        if canary {
            request.metadata_mut().insert("x-canary", "yes".parse().unwrap());
        }
        let said = echo.unary(request).await.expect("no call fails").into_inner();
        *answered.entry(of[&said.instance].clone()).or_default() += 1;
    }
    answered
}

async fn one(channel: &Channel, request: EchoRequest) -> Result<(), Status> {
    EchoClient::new(channel.clone()).unary(request).await.map(drop)
}

/// Asks again until there is something.
async fn until<T>(what: &str, mut asked: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        if let Some(found) = asked().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "timed out waiting for {what}");
    }
}

/// Callers at a time.
const CALLERS: usize = 50;
/// An instance that stands still for a moment takes fewer calls, which the next round does not show.
const ROUNDS: usize = 4;

#[tokio::test]
async fn a_thousand_calls_are_spread_over_three_instances() {
    let test = "a_thousand_calls_are_spread_over_three_instances";
    let _shared = ALONE.read().await;
    let Some(mesh) = Mesh::start(test, &[App::Echo, App::Echo, App::Echo]).await else { return };
    let mut uneven = Vec::new();
    for _ in 0..ROUNDS {
        let spread = spread_of_a_thousand(mesh.gateway_channel()).await;
        println!("a thousand calls over three instances: {spread:?}");
        assert_eq!((spread.len(), spread.values().sum::<usize>()), (3, 1000), "{spread:?}");
        if spread.values().all(|calls| (200..=500).contains(calls)) {
            return;
        }
        uneven.push(spread);
    }
    panic!("one does much more than the others: {uneven:?}");
}

/// Makes a thousand calls, as many callers at a time as there are; who answered how many.
async fn spread_of_a_thousand(channel: Channel) -> BTreeMap<String, usize> {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let mut echo = EchoClient::new(channel.clone());
        callers.spawn(async move {
            let mut answered = Vec::new();
            for _ in 0..1000 / CALLERS {
                let slow = EchoRequest { delay_ms: 20, ..EchoRequest::default() };
                answered.push(echo.unary(slow).await.expect("no call fails").into_inner().instance);
            }
            answered
        });
    }
    let mut spread = BTreeMap::<_, usize>::new();
    while let Some(answered) = callers.join_next().await {
        for instance in answered.unwrap() {
            *spread.entry(instance).or_default() += 1;
        }
    }
    spread
}

#[tokio::test]
async fn gateway_and_sidecar_obey_route_policies() {
    let test = "gateway_and_sidecar_obey_route_policies";
    let _shared = ALONE.read().await;
    let Some(mut mesh) = Mesh::start(test, &[App::Users, App::Echo]).await else { return };
    let token = mesh.token_for("canary").await;
    mesh.add_with(App::Echo, &["--service", "canary", "--token-file", &token.to_string_lossy()]);
    mesh.all_serving().await;
    let of = xds::services(&mesh).await;
    let outbound = mesh.members[0].sidecar.address("outbound").await;
    let beside = Endpoint::from_shared(format!("http://{outbound}")).unwrap().origin("http://echo".parse().unwrap());
    let ways = [("gateway", mesh.gateway_channel()), ("sidecar", beside.timeout(LIMIT).connect_lazy())];
    for (way, channel) in &ways {
        assert_eq!(calls(channel, &of, 10, false).await["echo.default"], 10, "{way} without a policy");
    }

    xds::apply(&mesh, vec![xds::canary_policy()]).await;
    for (way, channel) in &ways {
        until(&format!("{way} to send calls to the canary"), async || {
            calls(channel, &of, 20, false).await.contains_key("canary.default").then_some(())
        })
        .await;
        let split = calls(channel, &of, 500, false).await;
        assert!((20..=90).contains(&split["canary.default"]), "{way}: {split:?}");
        assert_eq!(calls(channel, &of, 10, true).await["canary.default"], 10, "{way} with the header");
    }

    xds::apply(&mesh, vec![xds::rule(policy::RouteRule { timeout_ms: 300, ..policy::RouteRule::default() })]).await;
    for (way, channel) in &ways {
        let slow = EchoRequest { delay_ms: 20_000, ..EchoRequest::default() };
        until(&format!("{way} to end calls"), async || {
            one(channel, slow.clone()).await.err().filter(|it| it.code() == Code::DeadlineExceeded)
        })
        .await;
    }

    let retry = policy::RetryRule { on: vec!["resource-exhausted".into()], retries: 3, ..policy::RetryRule::default() };
    xds::apply(&mesh, vec![xds::rule(policy::RouteRule { retry: Some(retry), ..policy::RouteRule::default() })]).await;
    for (way, channel) in &ways {
        let fails = |fail_with| EchoRequest { fail_with, ..EchoRequest::default() };
        until(&format!("{way} to try four times"), async || {
            let before = xds::inbound_calls(&mesh).await;
            assert_eq!(one(channel, fails(8)).await.unwrap_err().code(), Code::ResourceExhausted);
            (xds::inbound_calls(&mesh).await - before == 4).then_some(())
        })
        .await;
        let before = xds::inbound_calls(&mesh).await;
        assert_eq!(one(channel, fails(13)).await.unwrap_err().code(), Code::Internal);
        assert_eq!(xds::inbound_calls(&mesh).await - before, 1, "{way}: another status is not tried again");
    }
}
