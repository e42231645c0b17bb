//! The gateway: does it answer, and has it routes.
//!
//! Lives here: both checks, asked on its main port as callers would, and what its admin port tells beside. Does not: calls through it (`path`).

use std::time::Duration;

use tokio::time::timeout;
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    ask,
    clocks::Told,
    ids, machine,
    report::Outcome,
    target::{Mesh, Place},
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
    let channel = channel(place);
    let (said, (ready, metrics)) = tokio::join!(serves(&channel), admin);
    let address = format!("http://{place}");
    match said {
        Ok(serves) => {
            found.outcomes.push(ids::GATEWAY.ok(address, ""));
            if serves {
                found.outcomes.push(ids::GATEWAY_READY.ok("", ""));
                found.ready = Some(channel);
            } else {
                let why = ready.as_ref().map_or("it says that it does not serve", |it| it.text.as_str());
                found.outcomes.push(ids::GATEWAY_READY.failed("", why));
            }
        }
        Err(why) => {
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

/// Returns a plaintext channel that connects when it is used.
fn channel(place: &Place) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{place}")).expect("a place makes a URL");
    endpoint.connect_timeout(ANSWER).tcp_nodelay(true).connect_lazy()
}

/// Asks the gateway for its own health: whether it has routes and does not leave.
async fn serves(channel: &Channel) -> Result<bool, String> {
    let mut client = HealthClient::new(channel.clone());
    match timeout(ANSWER, client.check(HealthCheckRequest::default())).await {
        Ok(Ok(answer)) => Ok(answer.into_inner().status() == ServingStatus::Serving),
        Ok(Err(status)) => Err(words(&status)),
        Err(_) => Err(format!("no answer within {ANSWER:?}")),
    }
}

/// What a status says to a person: its message, and what lies below a connection that was not had.
pub(crate) fn words(status: &Status) -> String {
    use std::error::Error as _;
    match (status.code(), status.source()) {
        (Code::Unavailable | Code::Unknown | Code::Cancelled, Some(source)) => ask::in_words(source),
        (code, _) if status.message().is_empty() => format!("{code:?}"),
        _ => status.message().to_owned(),
    }
}
