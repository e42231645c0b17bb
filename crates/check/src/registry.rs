//! The registry: does it answer, as it was addressed, is it ready, does it keep what it is told.
//!
//! Lives here: those checks and the list that the groups after it read. Does not: what the list says of services (`services`).

use std::{error::Error, time::Duration};

use weft_discovery::Registries;
use weft_identity::Identity;
use weft_proto::weft::discovery::v1::{ClaimsResponse, ListResponse};
use weft_up::text::in_words;

use crate::{
    ask::{self, Answer},
    clocks::Told,
    identity, ids, machine,
    report::Outcome,
    target::{Mesh, Place},
    text::counted,
};

/// Time the registry has to list everything.
pub(crate) const LIST: Duration = Duration::from_secs(3);
const WHO: &str = "registry";

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) outcomes: Vec<Outcome>,
    /// None if it does not answer.
    pub(crate) known: Option<Known>,
    pub(crate) told: Vec<Told>,
}

/// What the registry knows, and how to ask it again.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) registries: Registries,
    /// As whom it was asked; none in plaintext.
    pub(crate) identity: Option<Identity>,
    pub(crate) list: ListResponse,
    pub(crate) claims: ClaimsResponse,
}

pub(crate) async fn check(mesh: &Mesh) -> Found {
    let mut found = Found::default();
    let Some(way) = identity::enter(mesh, &mut found.outcomes).await else { return found };
    let registries = way.registries;
    let admin = async {
        match &mesh.registry_admin {
            Some(place) => tokio::join!(ask::get(place, "/readyz"), ask::get(place, "/metrics")),
            None => (Err("nobody said where".to_owned()), Err("nobody said where".to_owned())),
        }
    };
    let knows = async { tokio::try_join!(registries.list(LIST), registries.claims(LIST)) };
    let (knows, (ready, metrics)) = tokio::join!(knows, admin);
    match knows {
        Ok((list, claims)) => {
            let count: usize = list.services.iter().map(|service| instances(service).len()).sum();
            let services = counted(list.services.len(), "service", "services");
            let detail = format!("{services}, {}", counted(count, "instance", "instances"));
            found.outcomes.push(ids::REGISTRY.ok(mesh.registries.to_string(), detail));
            found.outcomes.push(ids::REGISTRY_TLS.ok("", ""));
            found.outcomes.extend(expiry(&list.notices));
            found.known = Some(Known { registries, identity: way.identity, list, claims });
        }
        Err(error) => {
            found.outcomes.push(no_answer(mesh, &error).await);
            return found;
        }
    }
    found.outcomes.push(readiness(&ready));
    found.outcomes.extend(metrics.as_ref().ok().map(|answer| store(&answer.text)));
    let version = metrics.as_ref().ok().and_then(|it| ask::version(&it.text)).map(str::to_owned);
    found.told.push(Told { who: WHO.to_owned(), ahead: ready.ok().and_then(|it| it.ahead), version });
    found
}

/// All instances of a service of a list.
pub(crate) fn instances(
    service: &weft_proto::weft::discovery::v1::ServiceUpdate,
) -> &[weft_proto::weft::model::v1::Instance] {
    use weft_proto::weft::discovery::v1::service_update::Body;
    match &service.body {
        Some(Body::Full(full)) => &full.instances,
        Some(Body::Delta(_)) | None => &[], // a list is made of full sets
    }
}

/// Finds out why: another process on its port, TLS where plaintext was expected or the other way, or nobody.
pub(crate) async fn no_answer(mesh: &Mesh, error: &(dyn Error + 'static)) -> Outcome {
    if let Some(misspoken) = misspoken(mesh).await {
        return misspoken;
    }
    let url = mesh.registries.to_string();
    let place: Option<Place> = mesh.registries.iter().next().and_then(|url| url.parse().ok());
    if let Some(taken) = place.and_then(|place| machine::stranger(mesh, WHO, &place)) {
        return taken;
    }
    let why = mesh.told(WHO).unwrap_or_else(|| in_words(error));
    ids::REGISTRY.failed(url, why)
}

/// Says so if the registry speaks TLS and was addressed in plaintext, or the other way.
pub(crate) async fn misspoken(mesh: &Mesh) -> Option<Outcome> {
    let url = mesh.registries.iter().next()?;
    Some(ids::REGISTRY_TLS.failed(url, weft_discovery::misspoken(url).await?))
}

fn readiness(ready: &Result<Answer, String>) -> Outcome {
    match ready {
        Ok(answer) if answer.good => ids::REGISTRY_READY.ok("", ""),
        Ok(answer) => ids::REGISTRY_READY.failed("", &answer.text),
        Err(why) => ids::REGISTRY_READY.skipped("", format!("its admin address cannot be reached from here: {why}")),
    }
}

fn store(metrics: &str) -> Outcome {
    match ask::sum(metrics, "weft_registry_store_failing", &[]) {
        Some(0.0) => ids::STORE.ok("", ""),
        Some(_) => ids::STORE.failed("", "the last commit failed; its log says why"),
        None => ids::STORE.skipped("", "it does not say"),
    }
}

/// A freeze is what every start begins with, and says so; a suspension is news.
fn expiry(notices: &[String]) -> Vec<Outcome> {
    let (frozen, suspended): (Vec<_>, Vec<_>) = notices.iter().partition(|notice| notice.contains("is frozen"));
    match suspended.is_empty() {
        true => vec![ids::EXPIRY.ok("", frozen.first().map_or("", |it| it.as_str()))],
        false => suspended.into_iter().map(|notice| ids::EXPIRY.warning("", notice)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Status;

    #[test]
    fn a_freeze_is_told_and_a_suspension_is_a_warning() {
        let statuses = |notices: &[&str]| -> Vec<Status> {
            let notices: Vec<_> = notices.iter().map(|it| (*it).to_owned()).collect();
            expiry(&notices).iter().map(|it| it.status).collect()
        };
        assert_eq!(statuses(&[]), [Status::Ok]);
        assert_eq!(statuses(&["expiry of all leases is frozen: just started"]), [Status::Ok]);
        assert_eq!(statuses(&["expiry of users is suspended: 3 of 4 silent"]), [Status::Warning]);
    }

    #[test]
    fn the_store_is_judged_by_its_last_commit() {
        assert_eq!(store("weft_registry_store_failing 0\n").status, Status::Ok);
        assert_eq!(store("weft_registry_store_failing 1\n").status, Status::Failed);
        assert_eq!(store("").status, Status::Skipped);
    }
}
