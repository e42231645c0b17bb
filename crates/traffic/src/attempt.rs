//! One attempt: a request on a connection to one endpoint, and how it can fail before response headers.
//!
//! Lives here: getting a stream, sending, telling failures apart by what the peer can have seen. Does not: choosing the endpoint (`cluster`), trying again (`retry`).
//! Source: contracts/dataplane.md, section 4, "what a leaving peer does to calls".

use std::sync::Arc;

use http::{Request, Response};
use tokio::time::Instant;

use crate::{
    Code, Pool,
    answer::Answer,
    cluster::Cluster,
    endpoint::Endpoint,
    error::{code_of_break, h2_error},
    flight::Flight,
    outcome::Outcome,
    pool::ConnectError,
    replay::SendBody,
    ticks::Clock,
};

/// Why an attempt got no response headers, by what its endpoint can have seen of it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing was sent: no connection. The request comes back.
    Connect(Box<Request<SendBody>>, Arc<ConnectError>),
    /// Nothing was sent: the connection was going away. The request comes back.
    HandedBack(Box<Request<SendBody>>, hyper::Error),
    /// Sent, and proven not to be processed: GOAWAY with a lower last id.
    WentAway(hyper::Error),
    /// Sent, and proven not to be processed: REFUSED_STREAM.
    Refused(hyper::Error),
    /// The stream or connection broke; the application may have seen the call.
    Broken(hyper::Error),
}

impl Failure {
    /// How the attempt ended, for telemetry.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Connect(..) | Self::HandedBack(..) | Self::WentAway(_) | Self::Refused(_) => Code::Unavailable,
            Self::Broken(error) => code_of_break(error),
        }
    }
}

/// Sends attempts over one thread's connections.
pub(crate) struct Sender {
    pool: Pool,
    clock: Clock,
}

impl Sender {
    pub(crate) fn new(pool: Pool, clock: Clock) -> Self {
        Self { pool, clock }
    }

    /// Sends a request to an endpoint. Dropping the future resets the stream and counts the time that passed.
    pub(crate) async fn send(
        &self,
        endpoint: &Arc<Endpoint>,
        cluster: &Arc<Cluster>,
        request: Request<SendBody>,
        deadline: Option<Instant>,
    ) -> Result<Response<Answer>, Failure> {
        let mut flight = Flight::begin(endpoint, cluster, self.clock, deadline);
        let stream = match self.pool.stream(endpoint).await {
            Ok(stream) => flight.on(stream),
            Err(error) => {
                flight.unreachable();
                return Err(Failure::Connect(Box::new(request), error));
            }
        };
        let mut failed = match stream.send(request).await {
            Ok(response) => return Ok(Answer::of(response, flight)),
            Err(failed) => failed,
        };
        if let Some(request) = failed.take_message() {
            stream.retire();
            flight.unprocessed();
            return Err(Failure::HandedBack(Box::new(request), failed.into_error()));
        }
        let error = failed.into_error();
        match seen(&error) {
            Seen::WentAway => {
                stream.retire();
                flight.unprocessed();
                Err(Failure::WentAway(error))
            }
            Seen::Refused => {
                flight.unreachable();
                Err(Failure::Refused(error))
            }
            Seen::ConnectionLost => {
                stream.retire();
                flight.settle(Outcome::BROKEN);
                flight.unreachable();
                Err(Failure::Broken(error))
            }
            Seen::StreamLost => {
                flight.settle(Outcome::BROKEN);
                Err(Failure::Broken(error))
            }
        }
    }
}

enum Seen {
    WentAway,
    Refused,
    ConnectionLost,
    StreamLost,
}

fn seen(error: &hyper::Error) -> Seen {
    if error.is_user() {
        // hyper let go of a request that waited for room on a connection, when GOAWAY came: its head may have left, its body did not.
        return Seen::WentAway;
    }
    let Some(h2) = h2_error(error) else { return Seen::ConnectionLost };
    let refused = h2.reason() == Some(h2::Reason::REFUSED_STREAM);
    match () {
        // h2 gives a remote GOAWAY's error only to streams above its last id; those below stay open, or break with the connection.
        () if h2.is_go_away() && h2.is_remote() => Seen::WentAway,
        () if h2.is_reset() && h2.is_remote() && refused => Seen::Refused,
        () if h2.is_reset() => Seen::StreamLost,
        () => Seen::ConnectionLost,
    }
}
