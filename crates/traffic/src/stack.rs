//! The outbound stack.
use std::time::Duration;

use http::{Request, Response};
use tokio::time::Instant;
use weft_model::ServiceName;

use crate::{Body, Error, Pool, Root, Worlds};

/// What the stack does with calls. The default fits proxies and SDK.
#[derive(Debug, Clone)]
pub struct OutboundConfig {
    /// How traces begin that no caller began. Default: ratio 0.01.
    pub root: Root,
    /// Longest wait for an endpoint of a service that is known but not (yet) there, or that cannot be reached. Default 5 s.
    pub patience: Duration,
    /// Calls in flight per `Outbound` and its clones before new ones get RESOURCE_EXHAUSTED. Default 65,536.
    pub max_in_flight: usize,
}

impl Default for OutboundConfig {
    fn default() -> Self {
        Self { root: Root::default(), patience: Duration::from_secs(5), max_in_flight: 65_536 }
    }
}

/// What a caller knows of one call besides its head.
#[derive(Debug, Clone)]
pub struct CallOptions {
    /// When HEADERS was complete; the deadline counts from here. Default: now.
    pub received: Instant,
    /// A limit besides the caller's `grpc-timeout`, as REST routes have; the shorter wins. Default: none.
    pub timeout: Option<Duration>,
    /// Service to call whatever `:authority` and path say. Default: route by them.
    pub service: Option<ServiceName>,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self { received: Instant::now(), timeout: None, service: None }
    }
}

/// Calls services of the mesh: route → deadline → retry → balance → connection. Cheap to clone; clones share limits and connections.
#[derive(Clone)]
pub struct Outbound {
    _worlds: Worlds,
}

impl Outbound {
    /// Builds the stack over a process's worlds and a thread's pool.
    pub fn new(config: OutboundConfig, worlds: Worlds, pool: Pool) -> Self {
        let _ = (config, pool);
        Self { _worlds: worlds }
    }

    /// Sends a call and returns upstream's answer, whatever its status; an error means that there is none. Dropping the future, or later the answer's body,
    /// resets the upstream stream.
    ///
    /// The request's URI needs a path; the authority may be in the URI or in `host`. An answer that breaks off after its headers ends, for gRPC, with trailers that say so.
    pub async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        self.call_with(request, CallOptions::default()).await
    }

    /// As [`Outbound::call`], with what the caller knows besides the head.
    pub async fn call_with(&self, request: Request<Body>, options: CallOptions) -> Result<Response<Body>, Error> {
        let _ = options;
        Err(Error::NoRoute { path: request.uri().path().to_owned() })
    }
}
