//! A call of somebody else, carried to a registry as it is.
//!
//! Lives here: finding a registry that answers, handing the call over. Does not: reading it, who it is from (`weft-sidecar`).
//! A stream that breaks ends at its caller, who comes back and is carried to a registry that answers then: only the caller can say what it
//! already has.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::time::timeout;
use tonic::{Status, body::Body, transport::Channel};
use tower::{Service, ServiceExt};
use weft_proto::weft::discovery::v1::{ListRequest, discovery_client::DiscoveryClient};

use crate::registries::{CallError, Registries};

/// A service that nobody is: to list it is the shortest word that a registry can be asked for.
const NOBODY: &str = "nobody.weft";

impl Registries {
    /// Carries a call to a registry that answers, found `within` this time, and returns its answer, begun within as much again; neither body is read here.
    ///
    /// # Errors
    /// None answers, or the one that did broke off before it had taken the call. The call is lost then.
    pub async fn relay<B>(&self, call: Request<B>, within: Duration) -> Result<Response<Body>, CallError>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        // The call's body can be sent once only, so whether somebody is there is asked before.
        let found = |channel: Channel| async move {
            DiscoveryClient::new(channel).list(ListRequest { service: NOBODY.to_owned() }).await
        };
        self.call(within, found).await?;
        let (url, link) = self.current();
        let mut channel = link.channel;
        let answer = async { channel.ready().await?.call(call.map(Body::new)).await };
        let lost = match timeout(within, answer).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Status::from_error(Box::new(error)),
            Err(_elapsed) => Status::deadline_exceeded("it took the call and did not begin an answer"),
        };
        self.give_up_on(url);
        Err(CallError::OutOfReach { within, source: Some(Box::new(lost)) })
    }
}
