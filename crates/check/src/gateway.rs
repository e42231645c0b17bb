//! The gateway: does it answer, and has it routes.
//!
//! Lives here: both checks, asked on its main port as callers would, and what its admin port tells beside. Does not: calls through it (`path`).
//! It is asked in plaintext, and by TLS where that is not understood: its own file may say so, or what stands before it.

use std::{error::Error as _, time::Duration};

use tokio::time::timeout;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tower::service_fn;

use crate::{
    ask,
    clocks::Told,
    ids, machine,
    report::Outcome,
    target::{Mesh, Place},
    tls,
};

/// Time the gateway has for an answer of its own.
const ANSWER: Duration = Duration::from_secs(3);
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
    let (said, (ready, metrics)) = tokio::join!(reach(place), admin);
    let address = match said {
        Ok((Scheme::Https, ..)) | Err(No::CertificateWanted) => format!("https://{place}"),
        Ok((Scheme::Http, ..)) | Err(No::Answer(_)) => format!("http://{place}"),
    };
    match said {
        Ok((_, channel, serves)) => {
            found.outcomes.push(ids::GATEWAY.ok(address, ""));
            if serves {
                found.outcomes.push(ids::GATEWAY_READY.ok("", ""));
                found.ready = Some(channel);
            } else {
                let why = ready.as_ref().map_or("it says that it does not serve", |it| it.text.as_str());
                found.outcomes.push(ids::GATEWAY_READY.failed("", why));
            }
        }
        Err(No::CertificateWanted) => {
            let detail = "it lets in only clients that show a certificate, and there is none to show";
            found.outcomes.push(ids::GATEWAY.skipped(address, detail));
        }
        Err(No::Answer(why)) => {
            let taken = machine::stranger(mesh, WHO, place);
            let failed = || ids::GATEWAY.failed(address, mesh.told(WHO).unwrap_or(why));
            found.outcomes.push(taken.unwrap_or_else(failed));
            return found;
        }
    }
    let version = metrics.ok().and_then(|it| ask::version(&it.text).map(str::to_owned));
    found.told.push(Told { who: WHO.to_owned(), ahead: ready.ok().and_then(|it| it.ahead), version });
    found
}

/// How the gateway is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

/// Why the gateway did not say how it is.
enum No {
    /// It speaks TLS, with those only who show a certificate.
    CertificateWanted,
    /// It did not answer; this is why.
    Answer(String),
}

/// Asks in plaintext; then, if there was an answer that is no HTTP/2 or none at all, by TLS. Returns the way that it understands, and whether it serves.
async fn reach(place: &Place) -> Result<(Scheme, Channel, bool), No> {
    let asked = async {
        let plaintext = endpoint(place).connect_lazy();
        let unheard = match serves(&plaintext).await {
            Ok(serves) => return Ok((Scheme::Http, plaintext, serves)),
            Err(status) => status,
        };
        let client = tls::Client::new();
        let tls = secured(place, client.clone());
        match serves(&tls).await {
            Ok(serves) => Ok((Scheme::Https, tls, serves)),
            Err(_) if client.was_asked() => Err(No::CertificateWanted), // its alert may be lost with the connection
            Err(_) => Err(No::Answer(words(&unheard))),                 // it is not TLS that is missing
        }
    };
    timeout(ANSWER, asked).await.unwrap_or_else(|_| Err(No::Answer(format!("no answer within {ANSWER:?}"))))
}

/// Where a channel connects to when it is used; plain, since what is TLS is a connector's.
fn endpoint(place: &Place) -> Endpoint {
    let endpoint = Channel::from_shared(format!("http://{place}")).expect("a place makes a URL");
    endpoint.connect_timeout(ANSWER).tcp_nodelay(true)
}

/// Returns a channel by TLS.
fn secured(place: &Place, client: tls::Client) -> Channel {
    let origin = Uri::try_from(format!("https://{place}")).expect("a place makes a URL");
    let endpoint = endpoint(place).origin(origin);
    let place = place.clone();
    endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| client.clone().connect(place.clone())))
}

/// Asks the gateway for its own health: whether it has routes and does not leave.
async fn serves(channel: &Channel) -> Result<bool, Status> {
    let answer = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await?;
    Ok(answer.into_inner().status() == ServingStatus::Serving)
}

/// What a status says to a person: its message, and what lies below a connection that was not had.
pub(crate) fn words(status: &Status) -> String {
    match (status.code(), status.source()) {
        (Code::Unavailable | Code::Unknown | Code::Cancelled, Some(source)) => ask::in_words(source),
        (code, _) if status.message().is_empty() => format!("{code:?}"),
        _ => status.message().to_owned(),
    }
}
