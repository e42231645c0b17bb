//! The path of a call: one probe for each instance, from the gateway through its sidecar to its app, and the traces it leaves.
//!
//! Lives here: sending probes, finding out what a lost one says, counters before and after. Does not: status (`services`).
//! A probe is a `grpc.health.v1` check with metadata `weft-probe: service/instance`: the gateway passes it on to that instance by the same stack,
//! connection and sidecar as any call; an app without a health service answers UNIMPLEMENTED, which proves the way as well.
//! An instance may leave between the list and its probe, so a lost one counts only if the registry still lists it as serving.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Code, Request, metadata::MetadataValue, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use weft_discovery::Registries;
use weft_proto::weft::{
    discovery::v1::ListResponse,
    model::v1::{Instance, Status},
};
use weft_up::text::status_in_words;

use crate::{
    ask, crowd, ids, policies, registry,
    report::Outcome,
    services::{self, Sidecar},
    target::{Mesh, Place},
    text::counted,
};

/// Time a probe has, as its `grpc-timeout` says; the sidecar's own check of its app has less.
const PROBE: Duration = Duration::from_millis(2_500);
/// Beyond it, for the answer to arrive.
const SLACK: Duration = Duration::from_millis(500);
/// Time counters have to show what has ended; they are written when the last byte of an answer was taken.
const COUNTED: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

const METHOD: &str = "grpc.health.v1.Health/Check";
/// What is said of a check that the end of the run came before.
pub(crate) const NO_TIME: &str = "the run was over before it could be looked at";

/// What the groups before have found.
pub(crate) struct Ground<'a> {
    pub(crate) mesh: &'a Mesh,
    pub(crate) registries: &'a Registries,
    pub(crate) list: &'a ListResponse,
    pub(crate) sidecars: &'a BTreeMap<String, Sidecar>,
    pub(crate) gateway: Channel,
    /// End of the run.
    pub(crate) end: Instant,
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
    /// Nobody was asked: the run is over.
    NoTime,
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
    let before = gateway_count(&ground).await;
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
        tokio::join!(counted_by_gateway(&ground, before, reached.len()), counted_by_sidecars(&ground, &reached));
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
    let probed = crowd::ask(instances, ground.end, |instance| probe(ground.gateway.clone(), instance)).await;
    probed.into_iter().map(|(instance, probed)| (instance, probed.unwrap_or(Probed::NoTime))).collect()
}

async fn probe(gateway: Channel, instance: Instance) -> Probed {
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
            code => Probed::Lost { why: format!("{code:?}: {}", status_in_words(&status)) },
        },
    }
}

fn is_lost(probed: &Probed) -> bool {
    match probed {
        Probed::Reached { .. } | Probed::NotAllowed { .. } | Probed::NoTime => false,
        Probed::NotServing | Probed::Silence | Probed::Lost { .. } => true,
    }
}

/// Finds out which of the instances whose probe was lost should still answer: they are probed once more. The rest is explained.
async fn look_again(ground: &Ground<'_>, lost: Vec<(Instance, Probed)>) -> (Vec<Instance>, Vec<Outcome>) {
    let now = timeout_at(ground.end, ground.registries.list(registry::LIST)).await;
    let Ok(Ok(now)) = now else {
        // Nobody says that any of them left.
        return (Vec::new(), lost.iter().map(|(instance, probed)| judge(ground, instance, probed)).collect());
    };
    let now: BTreeMap<&str, &Instance> =
        now.services.iter().flat_map(registry::instances).map(|it| (it.id.as_str(), it)).collect();
    let (mut there, mut again, mut outcomes) = (Vec::new(), Vec::new(), Vec::new());
    for (instance, probed) in lost {
        match now.get(instance.id.as_str()) {
            None => outcomes.push(ids::PROBE.skipped(services::name(&instance), "it left meanwhile")),
            Some(it) if it.status() != Status::Serving => {
                outcomes.push(services::judge(it)); // in place of the word from before
            }
            Some(_) => there.push((instance, probed)),
        }
    }
    let deaf = |instance: &Instance| match ground.sidecars.get(&instance.id) {
        Some(Sidecar { place, metrics: Err(_) }) => Some(place.clone()),
        Some(Sidecar { metrics: Ok(_), .. }) | None => None,
    };
    let question = |(instance, _): (Instance, Probed)| answers(deaf(&instance));
    for ((instance, probed), answers) in crowd::ask(there, ground.end, question).await {
        match answers {
            Some(true) => again.push(instance),
            Some(false) | None => outcomes.push(judge(ground, &instance, &probed)),
        }
    }
    (again, outcomes)
}

/// Asks a sidecar that did not answer at its admin address once more; the others have answered.
async fn answers(deaf: Option<Place>) -> bool {
    match deaf {
        None => true,
        Some(place) => ask::get(&place, "/healthz").await.is_ok(),
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
        (Probed::NotAllowed { rule }, _) if gateway_is_shut_out(ground, instance) => {
            ids::PROBE.warning(name, format!("every call through the gateway is refused: {rule}"))
        }
        (Probed::NotAllowed { rule }, _) => ids::PROBE.ok(name, format!("as far as its sidecar, which says: {rule}")),
        (Probed::NotServing, _) => ids::APP.failed(name, "the app says that it does not serve"),
        (Probed::Silence | Probed::Lost { .. }, Some(deaf)) => ids::SIDECAR.failed(name, deaf),
        (Probed::Silence, None) => {
            ids::APP.failed(name, format!("no answer to a health check through its sidecar within {PROBE:?}"))
        }
        (Probed::Lost { why }, None) => ids::PROBE.failed(name, why),
        (Probed::NoTime, _) => ids::PROBE.skipped(name, NO_TIME),
    }
}

/// Whether the policies of an instance's service let the gateway call nothing.
fn gateway_is_shut_out(ground: &Ground<'_>, instance: &Instance) -> bool {
    let service = ground.list.services.iter().find(|it| registry::instances(it).iter().any(|it| it.id == instance.id));
    service.is_some_and(policies::shut_the_gateway_out)
}

fn trace(ended: &[(Instance, Probed)]) -> Option<Outcome> {
    let told = ended.iter().filter_map(|(instance, probed)| match probed {
        Probed::Reached { trace, .. } => Some((instance, *trace)),
        Probed::NotAllowed { .. } | Probed::NotServing | Probed::Silence | Probed::Lost { .. } | Probed::NoTime => None,
    });
    let told: Vec<_> = told.collect();
    let (first, _) = told.first()?;
    let not_ours = told.iter().find_map(|(instance, trace)| match trace {
        Trace::Ours => None,
        Trace::Another => Some(ids::TRACE.failed(services::name(instance), "the answer names another trace")),
        Trace::Untold => Some(ids::TRACE.failed(services::name(instance), "the answer names no trace")),
    });
    Some(not_ours.unwrap_or_else(|| {
        let first = services::name(first);
        let all = if told.len() == 1 { first } else { format!("{first} and {} more", told.len() - 1) };
        ids::TRACE.ok("", all)
    }))
}

/// Probes that a gateway has counted; none if it does not tell.
async fn gateway_count(ground: &Ground<'_>) -> Option<f64> {
    let answer = ask::get(ground.mesh.gateway_admin.as_ref()?, "/metrics");
    Some(probes_of_gateway(&timeout_at(ground.end, answer).await.ok()?.ok()?.text))
}

fn probes_of_gateway(exposition: &str) -> f64 {
    let route = format!("/{METHOD}");
    ask::sum(exposition, "weft_gateway_calls_total", &[("protocol", "grpc"), ("route", &route)]).unwrap_or_default()
}

fn probes_of_sidecar(exposition: &str) -> f64 {
    ask::sum(exposition, "rpc_server_call_duration_seconds_count", &[("rpc_method", METHOD)]).unwrap_or_default()
}

async fn counted_by_gateway(ground: &Ground<'_>, before: Option<f64>, probes: usize) -> Option<Outcome> {
    let place = ground.mesh.gateway_admin.as_ref().filter(|_| probes > 0)?;
    let Some(before) = before else {
        return Some(ids::GATEWAY_COUNTS.skipped("", "its admin address cannot be reached from here"));
    };
    // Elsewhere several gateways may share one address, each with a share of the probes.
    let wanted = before + if place.is_here() { probes as f64 } else { 1.0 };
    Some(match timeout_at(ground.end, rises(place, wanted, probes_of_gateway)).await {
        Err(_) => ids::GATEWAY_COUNTS.skipped("", NO_TIME),
        Ok(Ok(())) => ids::GATEWAY_COUNTS.ok("", counted(probes, "probe", "probes")),
        Ok(Err(seen)) => {
            let detail =
                format!("{place}/metrics counts {:.0} of {}", seen - before, counted(probes, "probe", "probes"));
            ids::GATEWAY_COUNTS.failed("", detail)
        }
    })
}

async fn counted_by_sidecars(ground: &Ground<'_>, reached: &[&Instance]) -> Vec<Outcome> {
    let mut looks = Vec::new();
    let mut outcomes = Vec::new();
    for instance in reached {
        let name = services::name(instance);
        match ground.sidecars.get(&instance.id) {
            Some(Sidecar { place, metrics: Ok(before) }) => {
                looks.push((name, place.clone(), probes_of_sidecar(before) + 1.0));
            }
            Some(Sidecar { place, metrics: Err(why) }) => {
                outcomes.push(ids::SIDECAR_COUNTS.skipped(name, format!("{place} cannot be reached from here: {why}")));
            }
            None => {}
        }
    }
    let question =
        |(_, place, wanted): (String, Place, f64)| async move { rises(&place, wanted, probes_of_sidecar).await };
    for ((name, place, _), seen) in crowd::ask(looks, ground.end, question).await {
        outcomes.push(match seen {
            Some(Ok(())) => ids::SIDECAR_COUNTS.ok(name, ""),
            Some(Err(_)) => ids::SIDECAR_COUNTS.failed(name, format!("{place}/metrics does not count the probe")),
            None => ids::SIDECAR_COUNTS.skipped(name, NO_TIME),
        });
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report;

    fn traced(traces: &[Trace]) -> Option<(report::Status, String)> {
        let reached = |trace: &Trace| (Instance::default(), Probed::Reached { says: String::new(), trace: *trace });
        let ended: Vec<_> = traces.iter().map(reached).chain([(Instance::default(), Probed::Silence)]).collect();
        trace(&ended).map(|it| (it.status, it.detail))
    }

    #[test]
    fn a_trace_that_is_another_or_is_not_named_did_not_go_on() {
        let failed = |detail: &str| Some((report::Status::Failed, detail.to_owned()));
        assert_eq!(traced(&[]), None);
        assert_eq!(traced(&[Trace::Ours, Trace::Ours]).map(|it| it.0), Some(report::Status::Ok));
        assert_eq!(traced(&[Trace::Ours, Trace::Another]), failed("the answer names another trace"));
        assert_eq!(traced(&[Trace::Ours, Trace::Untold]), failed("the answer names no trace"));
    }
}
