//! The registry: does it answer, as it was addressed, is it ready, does it keep what it is told.
//!
//! Lives here: those checks and the list that the groups after it read. Does not: what the list says of services (`services`).

use std::{sync::Arc, time::Duration};

use weft_discovery::{CallError, Credential, CredentialError, Registries, join};
use weft_proto::weft::discovery::v1::{ClaimsResponse, ListResponse};
use weft_runtime::clock;

use crate::{
    ask::{self, Answer, Spoken},
    clocks::Told,
    ids, machine,
    report::Outcome,
    target::{Mesh, Place},
};

/// Time the registry has to list everything.
pub(crate) const LIST: Duration = Duration::from_secs(3);
/// Time it has to say who we are.
const JOIN: Duration = Duration::from_secs(2);
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
    pub(crate) list: ListResponse,
    pub(crate) claims: ClaimsResponse,
}

pub(crate) async fn check(mesh: &Mesh) -> Found {
    let registries = match registries(mesh).await {
        Ok(registries) => registries,
        Err(refused) => return Found { outcomes: vec![refused], ..Found::default() },
    };
    let admin = async {
        match &mesh.registry_admin {
            Some(place) => tokio::join!(ask::get(place, "/readyz"), ask::get(place, "/metrics")),
            None => (Err("nobody said where".to_owned()), Err("nobody said where".to_owned())),
        }
    };
    let knows = async { tokio::try_join!(registries.list(LIST), registries.claims(LIST)) };
    let (knows, (ready, metrics)) = tokio::join!(knows, admin);
    let mut found = Found::default();
    match knows {
        Ok((list, claims)) => {
            let count: usize = list.services.iter().map(|service| instances(service).len()).sum();
            let detail = format!("{} services, {count} instances", list.services.len());
            found.outcomes.push(ids::REGISTRY.ok(mesh.registries.to_string(), detail));
            found.outcomes.push(ids::REGISTRY_TLS.ok("", ""));
            found.outcomes.extend(expiry(&list.notices));
            found.known = Some(Known { registries, list, claims });
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

/// The registries as whoever the token makes us. Without one, and where nobody answers, as nobody: the first question then tells what is wrong.
async fn registries(mesh: &Mesh) -> Result<Registries, Outcome> {
    let url = || mesh.registries.to_string();
    let secure = mesh.registries.iter().all(|url| url.starts_with("https://"));
    let Some(file) = mesh.token.as_ref().filter(|_| secure) else { return Ok(Registries::new(&mesh.registries)) };
    let credential = match Credential::read(file, Some(&mesh.registries)) {
        Ok(credential) => credential,
        Err(CredentialError::Unreadable { .. }) => return Ok(Registries::new(&mesh.registries)), // no registry ever ran here
        Err(error) => return Err(ids::REGISTRY_TLS.failed(url(), ask::in_words(&error))),
    };
    match join(credential, None, Arc::new(clock::wall), JOIN).await {
        Ok((_, identity)) => Ok(Registries::secured(&mesh.registries, &identity)),
        Err(error) if error.rule().is_some() => Err(ids::REGISTRY_TLS.failed(url(), ask::in_words(&error))),
        Err(_) => Ok(Registries::new(&mesh.registries)),
    }
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
async fn no_answer(mesh: &Mesh, error: &CallError) -> Outcome {
    let url = mesh.registries.to_string();
    let first = url.split(',').next().unwrap_or_default();
    if let Ok(place) = first.parse::<Place>() {
        match ask::spoken(&place).await {
            Spoken::Tls if first.starts_with("http://") => {
                return ids::REGISTRY_TLS.failed(url, "it speaks TLS, and was addressed in plaintext");
            }
            Spoken::Plaintext if first.starts_with("https://") => {
                return ids::REGISTRY_TLS.failed(url, "it speaks plaintext, and was addressed with TLS");
            }
            Spoken::Tls | Spoken::Plaintext | Spoken::Something | Spoken::Nothing => {}
        }
        if let Some(taken) = machine::stranger(WHO, &place) {
            return taken;
        }
    }
    let why = mesh.told(WHO).unwrap_or_else(|| ask::in_words(error));
    ids::REGISTRY.failed(url, why)
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
