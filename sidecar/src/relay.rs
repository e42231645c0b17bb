//! The relay: xDS of the registry for the app, on loopback and without TLS for the app to configure.
//!
//! Lives here: which calls are relayed, the way between data thread and control runtime. Does not: reading them, finding a registry
//! (`weft-discovery`).
//! The app's ADS stream goes to the registry as it is, under the identity of this sidecar; the registry tells by the stream's node who asks.
//! When a registry goes, the app's stream ends with UNAVAILABLE and its client comes back, with what it has; it is carried to a registry that
//! is there.

use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use weft_discovery::Registries;
use weft_traffic::Body;

/// What is relayed: methods of this service.
const ADS: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/";
/// Streams on their way to a registry at once; more are told to come back.
const OPENING: usize = 64;
/// How long a registry is looked for before the app's client is told to come back.
const FIND: Duration = Duration::from_secs(10);

struct Asked {
    call: Request<Incoming>,
    answer: oneshot::Sender<Response<Body>>,
}

/// The way in, for the data thread. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Relay {
    to: Option<mpsc::Sender<Asked>>,
}

/// The part that talks to registries, on the control runtime: connections to them live there.
#[derive(Debug)]
pub(crate) struct RelayTask {
    registries: Registries,
    inbox: mpsc::Receiver<Asked>,
}

impl Relay {
    pub(crate) fn new(registries: Registries) -> (Self, RelayTask) {
        let (to, inbox) = mpsc::channel(OPENING);
        (Self { to: Some(to) }, RelayTask { registries, inbox })
    }

    /// Without a registry there is nobody to relay to.
    pub(crate) const fn none() -> Self {
        Self { to: None }
    }

    pub(crate) fn takes(&self, call: &Request<Incoming>) -> bool {
        call.uri().path().starts_with(ADS)
    }

    pub(crate) async fn call(self, call: Request<Incoming>) -> Response<Body> {
        let Some(to) = self.to else {
            return refusal(Status::unimplemented(
                "this sidecar knows services from a file and has no registry to ask",
            ));
        };
        let (answer, answered) = oneshot::channel();
        if to.try_send(Asked { call, answer }).is_err() {
            return refusal(Status::unavailable("too many streams open at once; come back"));
        }
        answered.await.unwrap_or_else(|_| refusal(Status::unavailable("the sidecar is leaving")))
    }
}

impl RelayTask {
    /// Opens streams until `stop`; those that are open live on with their connections.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut opening = JoinSet::new();
        loop {
            tokio::select! {
                asked = self.inbox.recv(), if opening.len() < OPENING => match asked {
                    Some(asked) => drop(opening.spawn(open(self.registries.clone(), asked))),
                    None => return,
                },
                Some(ended) = opening.join_next() => drop(ended), // a panic costs one stream and was reported by its hook
                () = stop.cancelled() => return,
            }
        }
    }
}

async fn open(registries: Registries, Asked { call, mut answer }: Asked) {
    let opened = tokio::select! {
        opened = registries.relay(call, FIND) => opened,
        () = answer.closed() => return,
    };
    let response = match opened {
        Ok(response) => response.map(Body::boxed),
        Err(error) => {
            tracing::debug!(%error, "xDS cannot be relayed");
            refusal(Status::unavailable(format!("{error}; come back")))
        }
    };
    drop(answer.send(response)); // the app's client has gone
}

fn refusal(status: Status) -> Response<Body> {
    status.into_http::<tonic::body::Body>().map(Body::boxed)
}
