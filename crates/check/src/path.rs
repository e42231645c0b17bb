//! The path of a call: one probe for each instance, from the gateway through its sidecar to its app, and the traces it leaves.
//!
//! Lives here: sending probes, finding out what a lost one says, counters before and after. Does not: status (`services`).
//! A probe is a `grpc.health.v1` check with metadata `weft-probe: service/instance`: the gateway passes it on to that instance by the same stack,
//! connection and sidecar as any call; an app without a health service answers UNIMPLEMENTED, which proves the way as well.
//! An instance may leave between the list and its probe, so a lost one counts only if the registry still lists it as serving.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Request, metadata::MetadataValue, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use weft_discovery::Registries;
use weft_proto::weft::{
    discovery::v1::ListResponse,
    model::v1::{Instance, Status},
};

use crate::{
    ask, gateway, ids, registry,
    report::Outcome,
    services::{self, Sidecar},
    target::{Mesh, Place},
};

/// Time a probe has, as its `grpc-timeout` says; the sidecar's own check of its app has less.
const PROBE: Duration = Duration::from_millis(2_500);
/// Beyond it, for the answer to arrive.
const SLACK: Duration = Duration::from_millis(500);
/// Probes under way at once.
const AT_ONCE: usize = 32;
/// Time counters have to show what has ended; they are written when the last byte of an answer was taken.
const COUNTED: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

const METHOD: &str = "grpc.health.v1.Health/Check";

/// What the groups before have found.
pub(crate) struct Ground<'a> {
    pub(crate) mesh: &'a Mesh,
    pub(crate) registries: &'a Registries,
    pub(crate) list: &'a ListResponse,
    pub(crate) sidecars: &'a BTreeMap<String, Sidecar>,
    pub(crate) gateway: Channel,
}

/// How a probe ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Probed {
    /// The app answered.
    Reached { says: String, trace: Trace },
    /// The sidecar refused it by a rule: the way is there, the gateway may not call the app.
    NotAllowed { rule: String },
    /// The app answered that it does not serve.
    NotServing,
    /// No answer in time.
    Silence,
    /// No answer.
    Lost { why: String },
}

/// Whether the gateway names our trace in its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trace {
    Ours,
    Another,
    Untold,
}

pub(crate) async fn check(ground: Ground<'_>) -> Vec<Outcome> {
    let targets: Vec<Instance> = targets(&ground);
    if targets.is_empty() {
        return vec![ids::PROBE.skipped("", "no instance takes calls")];
    }
    let before = gateway_count(ground.mesh).await;
    let first = probe_all(&ground, targets.clone()).await;
    let (lost, mut ended): (Vec<_>, Vec<_>) = first.into_iter().partition(|(_, probed)| is_lost(probed));
    let mut outcomes = Vec::new();
    if !lost.is_empty() {
        let (again, explained) = look_again(&ground, lost).await;
        outcomes.extend(explained);
        ended.extend(probe_all(&ground, again).await);
    }
    for (instance, probed) in &ended {
        outcomes.push(judge(&ground, instance, probed));
    }
    let reached: Vec<&Instance> =
        ended.iter().filter(|(_, probed)| matches!(probed, Probed::Reached { .. })).map(|(it, _)| it).collect();
    let (gateway, sidecars) =
        tokio::join!(counted_by_gateway(ground.mesh, before, reached.len()), counted_by_sidecars(&ground, &reached));
    outcomes.extend(gateway);
    outcomes.extend(sidecars);
    outcomes.extend(trace(&ended));
    outcomes
}

/// Instances that should answer: serving, with a sidecar before them, which speaks HTTP/2.
fn targets(ground: &Ground<'_>) -> Vec<Instance> {
    let all = ground.list.services.iter().flat_map(registry::instances);
    all.filter(|it| it.status() == Status::Serving && ground.sidecars.contains_key(&it.id)).cloned().collect()
}

async fn probe_all(ground: &Ground<'_>, instances: Vec<Instance>) -> Vec<(Instance, Probed)> {
    let (mut probes, room) = (JoinSet::new(), Arc::new(Semaphore::new(AT_ONCE)));
    for instance in instances {
        let (gateway, room) = (ground.gateway.clone(), room.clone());
        probes.spawn(async move {
            let _room = room.acquire_owned().await; // never closed
            let probed = probe(gateway, &instance).await;
            (instance, probed)
        });
    }
    probes.join_all().await
}

async fn probe(gateway: Channel, instance: &Instance) -> Probed {
    let trace = format!("{:032x}", rand::random_range(1..u128::MAX));
    let traceparent = format!("00-{trace}-{:016x}-01", rand::random_range(1..u64::MAX));
    let mut request = Request::new(HealthCheckRequest::default());
    request.set_timeout(PROBE);
    for (key, text) in [("weft-probe", format!("{}/{}", instance.service, instance.id)), ("traceparent", traceparent)] {
        let value = MetadataValue::try_from(text).expect("names, ids and digits are ASCII");
        request.metadata_mut().insert(key, value);
    }
    let told = |metadata: &tonic::metadata::MetadataMap| match metadata.get("x-request-id").map(|it| it.to_str()) {
        Some(Ok(id)) if id == trace => Trace::Ours,
        Some(_) => Trace::Another,
        None => Trace::Untold,
    };
    match timeout(PROBE + SLACK, HealthClient::new(gateway).check(request)).await {
        Err(_) => Probed::Silence,
        Ok(Ok(answer)) => match answer.get_ref().status() {
            ServingStatus::Serving => Probed::Reached { says: String::new(), trace: told(answer.metadata()) },
            ServingStatus::NotServing | ServingStatus::Unknown | ServingStatus::ServiceUnknown => Probed::NotServing,
        },
        Ok(Err(status)) => match status.code() {
            Code::Unimplemented => {
                Probed::Reached { says: "it has no health service".to_owned(), trace: told(status.metadata()) }
            }
            Code::PermissionDenied | Code::Unauthenticated => Probed::NotAllowed { rule: status.message().to_owned() },
            Code::DeadlineExceeded | Code::Cancelled => Probed::Silence, // the second is how tonic ends a call of ours that took too long
            code => Probed::Lost { why: format!("{code:?}: {}", gateway::words(&status)) },
        },
    }
}

fn is_lost(probed: &Probed) -> bool {
    match probed {
        Probed::Reached { .. } | Probed::NotAllowed { .. } => false,
        Probed::NotServing | Probed::Silence | Probed::Lost { .. } => true,
    }
}

/// Finds out which of the instances whose probe was lost should still answer: they are probed once more. The rest is explained.
async fn look_again(ground: &Ground<'_>, lost: Vec<(Instance, Probed)>) -> (Vec<Instance>, Vec<Outcome>) {
    let now = ground.registries.list(registry::LIST).await.unwrap_or_default();
    let now: BTreeMap<&str, &Instance> =
        now.services.iter().flat_map(registry::instances).map(|it| (it.id.as_str(), it)).collect();
    let (mut again, mut outcomes) = (Vec::new(), Vec::new());
    for (instance, probed) in lost {
        let name = services::name(&instance);
        match now.get(instance.id.as_str()) {
            None => outcomes.push(ids::PROBE.skipped(name, "it left meanwhile")),
            Some(it) if it.status() != Status::Serving => {
                outcomes.push(services::judge(it)); // in place of the word from before
            }
            Some(_) if answers(ground, &instance).await.is_err() => outcomes.push(judge(ground, &instance, &probed)),
            Some(it) => again.push((*it).clone()),
        }
    }
    (again, outcomes)
}

/// Whether the sidecar answers at its admin address: what was found before, or a second try.
async fn answers(ground: &Ground<'_>, instance: &Instance) -> Result<(), String> {
    match ground.sidecars.get(&instance.id) {
        Some(Sidecar { metrics: Ok(_), .. }) | None => Ok(()),
        Some(Sidecar { place, metrics: Err(_) }) => ask::get(place, "/healthz").await.map(drop),
    }
}

fn judge(ground: &Ground<'_>, instance: &Instance, probed: &Probed) -> Outcome {
    let name = services::name(instance);
    let deaf = match ground.sidecars.get(&instance.id) {
        Some(Sidecar { place, metrics: Err(why) }) => Some(format!("{place}: {why}")),
        Some(Sidecar { metrics: Ok(_), .. }) | None => None,
    };
    match (probed, deaf) {
        (Probed::Reached { says, .. }, _) => ids::PROBE.ok(name, says),
        (Probed::NotAllowed { rule }, _) => ids::PROBE.ok(name, format!("as far as its sidecar, which says: {rule}")),
        (Probed::NotServing, _) => ids::APP.failed(name, "the app says that it does not serve"),
        (Probed::Silence | Probed::Lost { .. }, Some(deaf)) => ids::SIDECAR.failed(name, deaf),
        (Probed::Silence, None) => {
            ids::APP.failed(name, format!("no answer to a health check through its sidecar within {PROBE:?}"))
        }
        (Probed::Lost { why }, None) => ids::PROBE.failed(name, why),
    }
}

fn trace(ended: &[(Instance, Probed)]) -> Option<Outcome> {
    let told = ended.iter().filter_map(|(instance, probed)| match probed {
        Probed::Reached { trace, .. } => Some((instance, *trace)),
        Probed::NotAllowed { .. } | Probed::NotServing | Probed::Silence | Probed::Lost { .. } => None,
    });
    let told: Vec<_> = told.filter(|(_, trace)| *trace != Trace::Untold).collect();
    let (first, _) = told.first()?;
    Some(match told.iter().find(|(_, trace)| *trace == Trace::Another) {
        Some((instance, _)) => ids::TRACE.failed(services::name(instance), "the answer names another trace"),
        None => ids::TRACE.ok("", format!("{} and {} more", services::name(first), told.len() - 1)),
    })
}

/// Probes that a gateway has counted; none if it does not tell.
async fn gateway_count(mesh: &Mesh) -> Option<f64> {
    let answer = ask::get(mesh.gateway_admin.as_ref()?, "/metrics").await.ok()?;
    Some(probes_of_gateway(&answer.text))
}

fn probes_of_gateway(exposition: &str) -> f64 {
    let route = format!("/{METHOD}");
    ask::sum(exposition, "weft_gateway_calls_total", &[("protocol", "grpc"), ("route", &route)]).unwrap_or_default()
}

fn probes_of_sidecar(exposition: &str) -> f64 {
    ask::sum(exposition, "rpc_server_call_duration_seconds_count", &[("rpc_method", METHOD)]).unwrap_or_default()
}

async fn counted_by_gateway(mesh: &Mesh, before: Option<f64>, probes: usize) -> Option<Outcome> {
    let place = mesh.gateway_admin.as_ref().filter(|_| probes > 0)?;
    let Some(before) = before else {
        return Some(ids::GATEWAY_COUNTS.skipped("", "its admin address cannot be reached from here"));
    };
    // Elsewhere several gateways may share one address, each with a share of the probes.
    let wanted = before + if place.is_here() { probes as f64 } else { 1.0 };
    Some(match rises(place, wanted, probes_of_gateway).await {
        Ok(()) => ids::GATEWAY_COUNTS.ok("", format!("{probes} probes")),
        Err(seen) => {
            let detail = format!("{place}/metrics counts {:.0} of {probes} probes", seen - before);
            ids::GATEWAY_COUNTS.failed("", detail)
        }
    })
}

async fn counted_by_sidecars(ground: &Ground<'_>, reached: &[&Instance]) -> Vec<Outcome> {
    let mut looks = JoinSet::new();
    let mut outcomes = Vec::new();
    for instance in reached {
        let name = services::name(instance);
        match ground.sidecars.get(&instance.id).cloned() {
            Some(Sidecar { place, metrics: Ok(before) }) => drop(looks.spawn(async move {
                match rises(&place, probes_of_sidecar(&before) + 1.0, probes_of_sidecar).await {
                    Ok(()) => ids::SIDECAR_COUNTS.ok(name, ""),
                    Err(_) => ids::SIDECAR_COUNTS.failed(name, format!("{place}/metrics does not count the probe")),
                }
            })),
            Some(Sidecar { place, metrics: Err(why) }) => {
                outcomes.push(ids::SIDECAR_COUNTS.skipped(name, format!("{place} cannot be reached from here: {why}")));
            }
            None => {}
        }
    }
    outcomes.extend(looks.join_all().await);
    outcomes
}

/// Waits until a count has risen; the error is what was seen last.
async fn rises(place: &Place, wanted: f64, count: fn(&str) -> f64) -> Result<(), f64> {
    let (end, mut seen) = (Instant::now() + COUNTED, 0.0);
    loop {
        if let Ok(answer) = ask::get(place, "/metrics").await {
            seen = count(&answer.text);
        }
        match (seen >= wanted, Instant::now() < end) {
            (true, _) => return Ok(()),
            (false, true) => sleep(LOOK_AGAIN).await,
            (false, false) => return Err(seen),
        }
    }
}
