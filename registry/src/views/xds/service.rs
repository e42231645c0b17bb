//! envoy.service.discovery.v3.AggregatedDiscoveryService: the task around each stream.
//!
//! Lives here: requests in, responses out, statuses, who is at the other end. Does not: the stream itself (`views::stream`), what is told (`session`, `hub`).
//! A stream's task reads requests also while its client does not read: one response waits in the channel, what changes meanwhile is merged
//! into the next. Who may come in is the gate's matter (`server::gate`): who has an identity, or anybody where the registry speaks plaintext.
//! Which service a node is decides whose policies its servers enforce and what names without a namespace mean: that is the service of the
//! stream's identity, behind a relay the sidecar's, and not what the node says.

use std::{convert::Infallible, pin::pin, task, time::Duration};

use envoy_types::pb::envoy::{
    config::core::v3::{Node, node::UserAgentVersionType},
    service::discovery::v3::aggregated_discovery_service_server::SERVICE_NAME,
};
use http_body::Body as HttpBody;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming, body::Body, server::NamedService};
use weft_identity::name;
use weft_model::ServiceName;
use weft_runtime::Shutdown;

use super::{
    Kind, Profile, Xds,
    hub::{Peer, Refused},
    session::Response,
    wire::{self, Delta, Form, Incoming, Whole},
};
use crate::{
    server::Caller,
    sources::status,
    views::stream::{self, Out},
};

/// How long a stream may be open before it asks for something.
const FIRST: Duration = Duration::from_secs(30);
/// Least time from an answer of endpoints to the next answer (the `pace` may have more), unless the client is to be told of new ones: what changes meanwhile goes with it. Each
/// answer has all endpoints of a service, which is work for both ends.
const REST: Duration = Duration::from_millis(100);
/// Longest part of a node that we keep, in bytes.
const LONGEST: usize = 256;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Ads {
    pub(crate) xds: Xds,
    pub(crate) streams: TaskTracker,
    pub(crate) shutdown: Shutdown,
}

impl NamedService for Ads {
    const NAME: &'static str = SERVICE_NAME;
}

impl<B> tower::Service<http::Request<B>> for Ads
where
    B: HttpBody + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let ads = self.clone();
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        let response = match method {
            "StreamAggregatedResources" => serve_form::<Whole, B>(ads, request),
            "DeltaAggregatedResources" => serve_form::<Delta, B>(ads, request),
            _ => Status::unimplemented("ADS has no such method").into_http(),
        };
        std::future::ready(Ok(response))
    }
}

fn serve_form<F: Form, B>(ads: Ads, request: http::Request<B>) -> http::Response<Body>
where
    B: HttpBody + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let Ads { xds, streams, shutdown } = ads;
    let caller = request.extensions().get::<Caller>();
    let (peer, speaker) = (peer(caller), Speaker::of(caller));
    stream::open(
        request,
        &streams,
        |it: Box<Response>| wire::pieces::<F>(*it),
        move |requests, out| async move { serve::<F>(&xds, peer, speaker, requests, &out, &shutdown).await },
    )
}

/// Serves one stream until its client or the registry leaves. An error ends it with a status.
async fn serve<F: Form>(
    xds: &Xds,
    peer: Peer,
    speaker: Speaker,
    mut requests: Streaming<F::Request>,
    out: &Out<Response>,
    shutdown: &Shutdown,
) -> Result<(), Status> {
    let first = tokio::select! {
        first = timeout(FIRST, requests.message()) => first.map_err(|_| Status::deadline_exceeded("nothing was asked for"))??,
        () = shutdown.draining() => return Err(leaving()),
    };
    let Some(first) = first.map(F::parse) else { return Ok(()) };
    let node = first.node.unwrap_or_default();
    let stream = xds.open(F::PROTOCOL, introduced(peer, &node), speaker.is(Profile::of(&node))).map_err(refused)?;
    drop(node);
    if let Some(request) = first.request {
        stream.request(request).await.map_err(refused)?;
    }
    let mut rest_until = Instant::now();
    let (mut gone, mut draining) = (pin!(out.closed()), pin!(shutdown.draining())); // once: what all streams wait for has one lock
    loop {
        let (due, wake_at) = stream.next();
        let resting = due && Instant::now() < rest_until;
        let (due, wake_at) = if resting { (false, Some(rest_until)) } else { (due, wake_at) };
        let again = async {
            match wake_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            request = requests.message() => match request?.map(F::parse) {
                Some(Incoming { request: Some(request), .. }) => if stream.request(request).await.map_err(refused)? {
                    rest_until = Instant::now(); // it waits for something that it does not have
                },
                Some(Incoming { request: None, .. }) => {}
                None => return Ok(()),
            },
            // Cancel-safe: the permit is given back, the marks stay.
            permit = out.reserve(), if due => match permit {
                Ok(permit) => if let Some(response) = stream.respond() {
                    if response.kind == Kind::Endpoint && !response.fresh {
                        let now = Instant::now();
                        rest_until = now + xds.pace().rest(REST, now);
                    }
                    permit.send(Ok(Box::new(response)));
                },
                Err(_) => return Ok(()),
            },
            () = stream.woken(), if !due => {}
            () = pin!(again), if !due => if resting {
                xds.pace().turn(rest_until, Instant::now());
            },
            () = &mut gone => return Ok(()),
            () = &mut draining => return Err(leaving()),
        }
    }
}

/// Who a connection proved to be.
fn peer(caller: Option<&Caller>) -> Peer {
    let (transport, identity) = match caller {
        None => ("plaintext", String::new()),
        Some(Caller::Anonymous) => ("tls", String::new()),
        Some(Caller::Known(peer)) => ("mtls", peer.id().to_string()),
    };
    Peer { transport, identity, ..Peer::default() }
}

/// For whom a connection may speak.
#[derive(Debug)]
enum Speaker {
    /// For whomever it says: there are no identities here, or it is an operator.
    Anybody,
    /// For this service, whatever it says.
    Service(ServiceName),
    /// For no service.
    Nobody,
}

impl Speaker {
    fn of(caller: Option<&Caller>) -> Self {
        match caller {
            None => Self::Anybody,
            Some(Caller::Anonymous) => Self::Nobody,
            Some(Caller::Known(peer)) => match name::service_of(peer.id()) {
                Some(service) if service == name::operator() => Self::Anybody,
                Some(service) => Self::Service(service),
                None => Self::Nobody,
            },
        }
    }

    /// What a node is, of what it says.
    fn is(self, said: Profile) -> Profile {
        match self {
            Self::Anybody => said,
            Self::Service(service) => said.of_service(Some(service)),
            Self::Nobody => said.of_service(None),
        }
    }
}

/// And who it says it is.
fn introduced(peer: Peer, node: &Node) -> Peer {
    let version = match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => {
            let version = build.version.unwrap_or_default();
            format!("{}.{}.{}", version.major_number, version.minor_number, version.patch)
        }
        None => String::new(),
    };
    let agent = format!("{} {version}", node.user_agent_name);
    Peer { node: short(&node.id), cluster: short(&node.cluster), agent: short(agent.trim()), ..peer }
}

fn short(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST)].to_owned()
}

fn refused(why: Refused) -> Status {
    match why {
        Refused::Invalid(invalid) => status::invalid(&invalid),
        Refused::Full(_) | Refused::Share(_) => Status::resource_exhausted(why.to_string()),
    }
}

fn leaving() -> Status {
    Status::unavailable("the registry is leaving; keep what you have and come back")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_the_service_of_its_identity_and_not_what_it_says() {
        let said = || Profile::of(&Node { cluster: "posts.eu".into(), ..Node::default() });
        let is = |speaker: Speaker| {
            let profile = speaker.is(said());
            (profile.service.map(|it| it.to_string()), profile.home)
        };
        let posts = (Some("posts.eu".to_owned()), Some("eu".to_owned()));
        assert_eq!(is(Speaker::Anybody), posts);
        let users = |full: &str| Speaker::Service(full.parse().unwrap());
        assert_eq!(is(users("users")), (Some("users".to_owned()), None));
        assert_eq!(is(users("users.shop")), (Some("users.shop".to_owned()), Some("shop".to_owned())));
        assert_eq!(is(Speaker::Nobody), (None, None));
    }
}
