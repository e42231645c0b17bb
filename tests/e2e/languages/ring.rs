//! Five services in five languages that call each other in a ring through their sidecars: one trace, mutual TLS between any two, and nobody who dies costs a call.
//!
//! Lives here: what is promised of the ring. Does not: the mesh (`languages`).

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Uri, uri::PathAndQuery};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, client::Grpc, codegen::Service, transport::Channel};
use tonic_prost::ProstCodec;
use weft_proto::shop::ring::v1::{Hop, PassRequest, PassResponse};
use weft_testkit::{
    collector::{Collector, tree},
    mesh, process,
    up::Up,
    wait,
};

use super::{RING, mesh as start, round_from};
use crate::ALONE;

/// For what takes moments, on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// A call's time: it is to outlast whatever a busy machine puts in its way, since what is looked for is calls that are lost.
const DEADLINE: Duration = Duration::from_secs(30);
/// Rounds begun a second, open loop: each when it is due, whatever became of those before. A round is five calls, one after the other, so that these are the 200
/// calls a second of every promise about a `kill -9`. Two cores have little room for more, with five runtimes, ten sidecars and a gateway of a debug build on them:
/// with builds beside, a round took half a second to one in the middle at this rate, and nine in ten of 120 a second ran out of time, killed or not.
const RATE: u32 = 40;
/// Connections to the gateway that rounds take in turn.
const CONNECTIONS: usize = 4;
/// A call that takes so long hangs in a process that was stopped.
const HANGS: Duration = Duration::from_millis(300);

/// Hands the pass to the first of the route.
async fn pass<C>(channel: C, route: &[&str]) -> Result<Vec<Hop>, Status>
where
    C: Service<http::Request<tonic::body::Body>, Response = http::Response<tonic::body::Body>>,
    C::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut letters = route[0].chars();
    let name: String = letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect();
    let method: PathAndQuery = format!("/shop.ring.v1.{name}/Pass").parse().expect("a method is a path");
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(error.into().to_string()))?;
    let mut request = Request::new(PassRequest { route: route[1..].iter().map(|it| (*it).to_owned()).collect() });
    request.set_timeout(DEADLINE);
    let answer: PassResponse = client.unary(request, method, ProstCodec::default()).await?.into_inner();
    Ok(answer.hops)
}

/// The same as the app of the sidecar whose outbound this is.
async fn pass_as(outbound: SocketAddr, route: &[&str]) -> Result<Vec<Hop>, Status> {
    let outbound: Uri = format!("http://{outbound}").parse().expect("an address is a valid authority");
    pass(weft::Channel::new(Some(outbound), route[0]), route).await
}

fn assert_round(hops: &[Hop], route: &[&str]) {
    assert_eq!(hops.iter().map(|it| it.service.as_str()).collect::<Vec<_>>(), route, "{hops:?}");
}

/// No service but the one in Rust makes spans: a sidecar stands for the others.
const ROUND: &str = "\
gateway SERVER shop.ring.v1.Go/Pass
  gateway CLIENT shop.ring.v1.Go/Pass
    go-sidecar SERVER shop.ring.v1.Go/Pass
      go-sidecar CLIENT shop.ring.v1.Java/Pass
        java-sidecar SERVER shop.ring.v1.Java/Pass
          java-sidecar CLIENT shop.ring.v1.Node/Pass
            node-sidecar SERVER shop.ring.v1.Node/Pass
              node-sidecar CLIENT shop.ring.v1.Python/Pass
                python-sidecar SERVER shop.ring.v1.Python/Pass
                  python-sidecar CLIENT shop.ring.v1.Rust/Pass
                    rust-sidecar SERVER shop.ring.v1.Rust/Pass
                      rust SERVER shop.ring.v1.Rust/Pass
                        rust CLIENT shop.ring.v1.Go/Pass
                          rust-sidecar CLIENT shop.ring.v1.Go/Pass
                            go-sidecar SERVER shop.ring.v1.Go/Pass
";

#[tokio::test]
async fn a_pass_around_five_languages_is_one_trace_and_each_hop_proves_who_it_is() {
    let test = "a_pass_around_five_languages_is_one_trace_and_each_hop_proves_who_it_is";
    let _shared = ALONE.read().await;
    let collector = Collector::start().await;
    let endpoint = collector.endpoint();
    let Some(up) = start(test, 1, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]).await else { return };

    let route = ["go", "java", "node", "python", "rust", "go"];
    let hops = pass(mesh::channel(up.address("gateway", "http").await), &route).await.unwrap();
    assert_round(&hops, &route);
    let trace = hops[0].trace_id.clone();
    assert!(hops.iter().all(|it| it.trace_id == trace && it.trace_id.len() == 32), "{hops:?}");
    let spans = wait::until("the whole trace", SOON, || async {
        let spans = collector.trace(&trace);
        (spans.len() >= ROUND.lines().count()).then_some(spans)
    })
    .await;
    assert_eq!(tree(&spans), ROUND);
    assert!(spans.iter().all(|it| !it.error), "{spans:?}");

    only_the_one_before(&up).await;
}

/// Lets each service be called by the one before it in the ring and by nobody else. Who calls is what the certificate of a sidecar says, so that a hop is
/// allowed by mutual TLS or not at all: over plaintext, which these sidecars take from this machine, the caller is anonymous.
async fn only_the_one_before(up: &Up) {
    let mut outbounds = Vec::new();
    for (at, service) in RING.iter().enumerate() {
        outbounds.push(up.address(&format!("{service}-1"), "outbound").await);
        let before = before_of(at);
        let rule = format!("{{ name: the-one-before, from: {{ services: [{before}] }} }}");
        let policy = format!("name: {service}-callers\nservice: {service}\naccess:\n  rules:\n    - {rule}\n");
        let file = up.dir().join(format!("{service}.yaml"));
        std::fs::write(&file, policy).unwrap();
        up.run(&["apply", "-f", &file.display().to_string()]).await;
    }
    let refused = |answer: Result<Vec<Hop>, Status>| answer.is_err_and(|it| it.code() == Code::PermissionDenied);
    for (service, itself) in RING.iter().zip(&outbounds) {
        wait::until(&format!("{service} to refuse itself"), SOON, || async {
            refused(pass_as(*itself, &[service]).await).then_some(())
        })
        .await;
    }
    for (at, service) in RING.iter().enumerate() {
        let inbound = mesh::channel(up.address(&format!("{service}-1"), "inbound").await);
        assert!(refused(pass(inbound, &[service]).await), "{service} refuses a caller without a certificate");
        let (before, round) = (outbounds[(at + RING.len() - 1) % RING.len()], round_from(at));
        assert_round(&pass_as(before, &round).await.unwrap(), &round);
        let back = [*service, before_of(at)];
        assert!(refused(pass_as(before, &back).await), "nobody calls the one before: {back:?}");
    }
}

fn before_of(at: usize) -> &'static str {
    RING[(at + RING.len() - 1) % RING.len()]
}

/// A round that failed.
#[derive(Debug)]
#[expect(dead_code, reason = "shown")]
struct Failed {
    route: [&'static str; 5],
    began: Duration,
    took: Duration,
    answer: Result<Vec<Hop>, Status>,
}

/// Rounds under way: when each began.
#[derive(Default)]
struct UnderWay(Mutex<BTreeMap<usize, Instant>>);

impl UnderWay {
    fn set(&self, round: usize, began: Option<Instant>) {
        let mut rounds = self.0.lock().unwrap();
        match began {
            Some(began) => rounds.insert(round, began),
            None => rounds.remove(&round),
        };
    }

    fn some_hangs(&self) -> bool {
        self.0.lock().unwrap().values().any(|began| began.elapsed() > HANGS)
    }
}

/// Passes around, begun at each language in turn, until `stop`. Returns how long each took, and what failed.
async fn rounds(
    gateway: SocketAddr,
    under_way: Arc<UnderWay>,
    stop: CancellationToken,
) -> (Vec<Duration>, Vec<Failed>) {
    let connections: [Channel; CONNECTIONS] = std::array::from_fn(|_| mesh::channel(gateway));
    let (start, mut all) = (Instant::now(), JoinSet::new());
    let (mut took, mut failed) = (Vec::new(), Vec::new());
    let mut ended = |(time, failure): (Duration, Option<Failed>)| {
        took.push(time);
        failed.extend(failure);
    };
    for round in 0.. {
        let due = start + Duration::from_secs_f64(round as f64 / f64::from(RATE));
        tokio::select! {
            biased; // a load that is behind its schedule stops, too
            () = stop.cancelled() => break,
            () = sleep_until(due) => {}
        }
        let (channel, under_way) = (connections[round % CONNECTIONS].clone(), under_way.clone());
        all.spawn(async move {
            let (route, began) = (round_from(round % RING.len()), Instant::now());
            under_way.set(round, Some(began));
            let answer = pass(channel, &route).await;
            under_way.set(round, None);
            let took = due.elapsed();
            let whole = answer.as_ref().is_ok_and(|hops| hops.iter().map(|it| it.service.as_str()).eq(route));
            (took, (!whole).then(|| Failed { route, began: began - start, took, answer }))
        });
        while let Some(round) = all.try_join_next() {
            ended(round.expect("a round does not panic"));
        }
    }
    all.join_all().await.into_iter().for_each(&mut ended);
    (took, failed)
}

/// The app that a sidecar runs now.
fn app_of(sidecar: u32) -> Option<u32> {
    process::children(sidecar).into_iter().find(|pid| process::runs(*pid))
}

async fn sidecar_of(up: &Up, name: &str) -> u32 {
    up.row(name).await["pid"].as_u64().and_then(|it| it.try_into().ok()).expect("it runs")
}

/// Kills a process of an instance while calls are in it, and waits until the instance answers again, by another app.
async fn kill(up: &Up, name: &str, pid: u32, under_way: &UnderWay) {
    let before = app_of(sidecar_of(up, name).await);
    let process = Pid::from_raw(pid.cast_signed()).expect("a process id is above zero");
    kill_process(process, Signal::STOP).expect("it runs");
    wait::until(&format!("a call to hang in {name}"), SOON, || async { under_way.some_hangs().then_some(()) }).await;
    process::kill(pid);
    process::gone(pid, SOON).await;
    let (service, _) = name.split_once('-').expect("a slot has a number");
    wait::until(&format!("{name} to answer again"), SOON, || async {
        let row = up.row(name).await;
        let app = app_of(row["pid"].as_u64()?.try_into().ok()?)?;
        let inbound = row["addresses"]["inbound"].as_str()?.parse().ok()?;
        (Some(app) != before).then_some(())?;
        pass(mesh::channel(inbound), &[service]).await.ok().map(|_| ())
    })
    .await;
}

#[tokio::test]
async fn kill_9_of_any_language_under_load_fails_no_call() {
    let test = "kill_9_of_any_language_under_load_fails_no_call";
    let _alone = ALONE.write().await;
    let Some(up) = start(test, 2, &[]).await else { return };
    let gateway = up.address("gateway", "http").await;
    let (stop, under_way) = (CancellationToken::new(), Arc::new(UnderWay::default()));
    let mut load = JoinSet::new();
    load.spawn(rounds(gateway, under_way.clone(), stop.clone()));
    for service in RING {
        let name = format!("{service}-1");
        let app = app_of(sidecar_of(&up, &name).await).expect("it has an app");
        kill(&up, &name, app, &under_way).await;
    }
    // The instance whose app was killed has long been back: it takes the calls of the one whose sidecar goes.
    for service in RING {
        let name = format!("{service}-2");
        kill(&up, &name, sidecar_of(&up, &name).await, &under_way).await;
    }
    stop.cancel();
    let (mut took, failed) = load.join_next().await.expect("one load").expect("the load does not panic");
    took.sort();
    let quantile = |share: usize| took[(took.len() - 1) * share / 100];
    println!(
        "kill -9 of an app and of a sidecar of each language: {} rounds of five calls, {RATE} a second, {} failed, p50 {:?}, p99 {:?}, max {:?}",
        took.len(),
        failed.len(),
        quantile(50),
        quantile(99),
        quantile(100)
    );
    assert!(failed.is_empty(), "{} of {} failed: {:#?}", failed.len(), took.len(), &failed[..failed.len().min(10)]);
}
