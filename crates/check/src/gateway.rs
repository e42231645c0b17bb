//! The gateway: does it answer, and has it routes.
//!
//! Lives here: both checks, asked on its main port as callers would, and what its admin port tells beside. Does not: calls through it (`path`).
//! It is asked as `--gateway` says; without a scheme in plaintext, and by TLS where that is not understood: its own file may say so, or what stands before it.

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
            Some(place) => tokio::join!(ask::get(place, "/readyz"), ask::get(place, "/metrics")),
            None => (Err(String::new()), Err(String::new())),
        }
    };
    let said = unverified::ask(&place.host, place.port, mesh.gateway_scheme, "");
    let (said, (ready, metrics)) = tokio::join!(said, admin);
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
    let version = metrics.ok().and_then(|it| ask::version(&it.text).map(str::to_owned));
    found.told.push(Told { who: WHO.to_owned(), ahead: ready.ok().and_then(|it| it.ahead), version });
    found
}
