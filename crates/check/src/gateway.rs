//! The gateway: does it answer, has it routes, and what its policies rest on.
//!
//! Lives here: both checks, asked on its main port as callers would, and what its admin port tells beside: its metrics, and how what it needs from outside
//! of the mesh is. Does not: calls through it (`path`).
//! It is asked as `--gateway` says; without a scheme in plaintext, and by TLS where that is not understood: its own file may say so, or what stands before it.

use serde::Deserialize;
use tonic::transport::Channel;
use weft_up::unverified::{self, Scheme, Unheard};

use crate::{ask, clocks::Told, ids, machine, report::Outcome, target::Mesh};

const WHO: &str = "gateway";

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) outcomes: Vec<Outcome>,
    /// A connection to one that takes calls.
    pub(crate) ready: Option<Channel>,
    pub(crate) told: Vec<Told>,
}

pub(crate) async fn check(mesh: &Mesh) -> Found {
    let mut found = Found::default();
    let Some(place) = &mesh.gateway else {
        found.outcomes.push(ids::GATEWAY.skipped("", "no --gateway was given"));
        return found;
    };
    let admin = async {
        match &mesh.gateway_admin {
            Some(place) => {
                tokio::join!(ask::get(place, "/readyz"), ask::get(place, "/metrics"), ask::get(place, "/outside"))
            }
            None => (Err(String::new()), Err(String::new()), Err(String::new())),
        }
    };
    let said = unverified::ask(&place.host, place.port, mesh.gateway_scheme, "");
    let (said, (ready, metrics, outside)) = tokio::join!(said, admin);
    let scheme = match &said {
        Ok(gateway) => gateway.scheme,
        Err(Unheard::CertificateWanted) => Scheme::Https,
        Err(Unheard::Failed { scheme, .. }) => *scheme,
    };
    let address = format!("{scheme}://{place}");
    match said {
        Ok(gateway) => {
            found.outcomes.push(ids::GATEWAY.ok(address, ""));
            if gateway.serves {
                found.outcomes.push(ids::GATEWAY_READY.ok("", ""));
                found.ready = Some(gateway.channel);
            } else {
                let why = ready.as_ref().map_or("it says that it does not serve", |it| it.text.as_str());
                found.outcomes.push(ids::GATEWAY_READY.failed("", why));
            }
        }
        Err(Unheard::CertificateWanted) => {
            let detail = "it lets in only clients that show a certificate, and there is none to show";
            found.outcomes.push(ids::GATEWAY.skipped(address, detail));
        }
        Err(Unheard::Failed { why, .. }) => {
            let taken = machine::stranger(mesh, WHO, place);
            let why = weft_discovery::misspoken(&address).await.map_or(why, str::to_owned);
            let failed = || ids::GATEWAY.failed(address, mesh.told(WHO).unwrap_or(why));
            found.outcomes.push(taken.unwrap_or_else(failed));
            return found;
        }
    }
    if let Ok(outside) = outside {
        found.outcomes.extend(without(&outside.text));
    }
    let version = metrics.ok().and_then(|it| ask::version(&it.text).map(str::to_owned));
    found.told.push(Told { who: WHO.to_owned(), ahead: ready.ok().and_then(|it| it.ahead), version });
    found
}

/// Something outside of the mesh that the gateway follows, as its `/outside` says it.
#[derive(Deserialize)]
struct Part {
    kind: String,
    name: String,
    state: String,
    #[serde(default)]
    problem: String,
}

/// One outcome for each that is not as it should be, one a kind that is well. An older gateway has no such page; what a newer one says beside is left out.
fn without(page: &str) -> Vec<Outcome> {
    let parts: Vec<Part> = serde_json::from_str(page).unwrap_or_default();
    let mut outcomes = Vec::new();
    for (kind, id) in [("issuer", &ids::ISSUERS), ("redis", &ids::COUNTS)] {
        let of_kind: Vec<_> = parts.iter().filter(|it| it.kind == kind).collect();
        let before = outcomes.len();
        outcomes.extend(of_kind.iter().filter_map(|it| match it.state.as_str() {
            "failing" => Some(id.failed(&it.name, &it.problem)),
            "without" => Some(id.warning(&it.name, &it.problem)),
            "unknown" => Some(id.skipped(&it.name, "the gateway asks just now")),
            _ => None,
        }));
        if outcomes.len() == before && !of_kind.is_empty() {
            let names: Vec<_> = of_kind.iter().map(|it| it.name.as_str()).collect();
            outcomes.push(id.ok(names.join(", "), ""));
        }
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Status;

    #[test]
    fn what_the_gateway_misses_outside_of_the_mesh_is_told_by_what_it_does_to_calls() {
        let said = |page: &str| -> Vec<_> {
            without(page).into_iter().map(|it| (it.id, it.status, it.subject, it.detail)).collect()
        };
        let issuer =
            |state: &str| format!(r#"[{{"kind":"issuer","name":"https://id","state":"{state}","problem":"gone"}}]"#);
        let of = |state: &str| said(&issuer(state)).remove(0);
        let (id, gone) = (|| "https://id".to_owned(), || "gone".to_owned());
        assert_eq!(of("failing"), ("WEFT0503", Status::Failed, id(), gone()));
        assert_eq!(of("without"), ("WEFT0503", Status::Warning, id(), gone()));
        assert_eq!(of("unknown").1, Status::Skipped);
        assert_eq!(of("well"), ("WEFT0503", Status::Ok, id(), String::new()));
        let redis = said(r#"[{"kind":"redis","name":"redis://h:6379/0","state":"without","problem":"refused"}]"#);
        assert_eq!(redis, [("WEFT0504", Status::Warning, "redis://h:6379/0".to_owned(), "refused".to_owned())]);
        for nothing in
            ["[]", "try /healthz, /readyz, /metrics or /drain", r#"[{"kind":"other","name":"x","state":"failing"}]"#]
        {
            assert_eq!(said(nothing), []);
        }
    }
}
