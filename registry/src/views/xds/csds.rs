//! envoy.service.status.v3.ClientStatusDiscoveryService: the same, as xDS tools ask for it.
//!
//! Lives here: matchers, statuses, bounds of an answer. Does not: what a client has (`clients`).
//! Source: gRFC A40, envoy/service/status/v3/csds.proto. Nodes are matched by id: exactly, by prefix, suffix or a part of it.

use envoy_types::pb::{
    envoy::{
        admin::v3::{ClientResourceStatus, UpdateFailureState},
        config::core::v3::{Node, node::UserAgentVersionType},
        service::status::v3::{
            ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus, client_config::GenericXdsConfig,
            client_status_discovery_service_server,
        },
        r#type::matcher::v3::{NodeMatcher, StringMatcher, string_matcher::MatchPattern},
    },
    google::protobuf::Any,
};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use weft_model::Invalid;
use weft_proto::weft::discovery::v1::subscription::resource::State as Standing;
use weft_runtime::Shutdown;

use super::{Xds, clients::Held, hub::Peer, wire};
use crate::{
    access::{Access, Sight},
    sources::status,
};

/// Largest answer, in bytes of resources: the protocol has one message for all clients.
const LARGEST: usize = 16 << 20;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Csds {
    pub(crate) xds: Xds,
    pub(crate) streams: TaskTracker,
    pub(crate) shutdown: Shutdown,
}

#[tonic::async_trait]
impl client_status_discovery_service_server::ClientStatusDiscoveryService for Csds {
    type StreamClientStatusStream = ReceiverStream<Result<ClientStatusResponse, Status>>;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Self::StreamClientStatusStream>, Status> {
        let sight = Access::of(&request).to_clients()?;
        let (out, answers) = mpsc::channel(1);
        let (csds, mut requests) = (self.clone(), request.into_inner());
        self.streams.spawn(async move {
            loop {
                let request = tokio::select! {
                    request = requests.message() => request,
                    () = out.closed() => return,
                    () = csds.shutdown.draining() => Err(Status::unavailable("the registry is leaving")),
                };
                let answer = match request {
                    Ok(Some(request)) => csds.answer(&request, &sight),
                    Ok(None) => return,
                    Err(status) => Err(status),
                };
                let last = answer.is_err();
                if out.send(answer).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        let sight = Access::of(&request).to_clients()?;
        self.answer(request.get_ref(), &sight).map(Response::new)
    }
}

impl Csds {
    fn answer(&self, request: &ClientStatusRequest, sight: &Sight) -> Result<ClientStatusResponse, Status> {
        check(&request.node_matchers).map_err(|e| status::invalid(&e))?;
        let (mut config, mut size) = (Vec::new(), 0);
        for (node, id) in self.xds.clients("", sight) {
            if !request.node_matchers.is_empty() && !request.node_matchers.iter().any(|it| matches(it, &node)) {
                continue;
            }
            let Some((peer, held)) = self.xds.held(id) else { continue };
            let contents = !request.exclude_resource_contents;
            let resources = held.iter().map(|it| it.name.len() + it.now.as_ref().map_or(0, |now| now.bytes.len()));
            size += if contents { resources.sum::<usize>() } else { held.len() * 64 };
            if size > LARGEST {
                let cure = "too much for one answer; set exclude_resource_contents, or name fewer nodes";
                return Err(Status::resource_exhausted(cure));
            }
            let generic_xds_configs = held.iter().map(|it| generic(it, contents)).collect();
            config.push(ClientConfig { node: Some(to_node(&peer)), generic_xds_configs, ..ClientConfig::default() });
        }
        Ok(ClientStatusResponse { config })
    }
}

fn check(matchers: &[NodeMatcher]) -> Result<(), Invalid> {
    for (index, matcher) in matchers.iter().enumerate() {
        let at = |field: &str| format!("node_matchers[{index}].{field}");
        if !matcher.node_metadatas.is_empty() {
            return Err(Invalid::new(at("node_metadatas"), "is not kept here; match by node_id"));
        }
        let pattern = matcher.node_id.as_ref().and_then(|it| it.match_pattern.as_ref());
        if matches!(pattern, Some(MatchPattern::SafeRegex(_) | MatchPattern::Custom(_))) {
            return Err(Invalid::new(at("node_id"), "may be exact, prefix, suffix or contains"));
        }
    }
    Ok(())
}

fn matches(matcher: &NodeMatcher, node: &str) -> bool {
    let Some(StringMatcher { ignore_case, match_pattern: Some(pattern) }) = &matcher.node_id else { return true };
    let fold = |text: &str| if *ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
    match pattern {
        MatchPattern::Exact(it) => fold(node) == fold(it),
        MatchPattern::Prefix(it) => fold(node).starts_with(&fold(it)),
        MatchPattern::Suffix(it) => fold(node).ends_with(&fold(it)),
        MatchPattern::Contains(it) => fold(node).contains(&fold(it)),
        MatchPattern::SafeRegex(_) | MatchPattern::Custom(_) => false, // refused above
    }
}

fn to_node(peer: &Peer) -> Node {
    let (name, version) = peer.agent.rsplit_once(' ').unwrap_or((&peer.agent, ""));
    Node {
        id: peer.node.clone(),
        cluster: peer.cluster.clone(),
        user_agent_name: name.to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(version.to_owned())),
        ..Node::default()
    }
}

fn generic(it: &Held, contents: bool) -> GenericXdsConfig {
    let (config_status, client_status) = match it.standing {
        Standing::Acknowledged => (ConfigStatus::Synced, ClientResourceStatus::Acked),
        Standing::Rejected => (ConfigStatus::Error, ClientResourceStatus::Nacked),
        Standing::Missing => (ConfigStatus::NotSent, ClientResourceStatus::DoesNotExist),
        Standing::Waiting | Standing::Unspecified => (ConfigStatus::Stale, ClientResourceStatus::Requested),
    };
    let error = it.rejection.as_ref().filter(|_| it.standing == Standing::Rejected);
    GenericXdsConfig {
        type_url: it.kind.type_url().to_owned(),
        name: it.name.to_string(),
        version_info: it.now.as_ref().map(|now| wire::resource_version(now.version)).unwrap_or_default(),
        xds_config: it.now.as_ref().filter(|_| contents).and_then(|now| Any::decode(now.bytes.as_ref()).ok()),
        config_status: config_status.into(),
        client_status: client_status.into(),
        error_state: error.map(|(version, details)| UpdateFailureState {
            details: details.to_string(),
            version_info: wire::version(*version),
            ..UpdateFailureState::default()
        }),
        ..GenericXdsConfig::default()
    }
}
