//! Stock clients of xDS: a stream of ADS, by state of the world, as gRPC's libraries have it.
//!
//! Lives here: subscribing listeners, clusters and endpoints, applying, acknowledging. Does not: what a client does with them.
//! Only endpoints change with the population; a message has all of a service, so what changed is what differs from the one before. Of an
//! assignment a reader decodes the addresses and no more: the generator shares the machine with what it measures.

use std::{collections::HashMap, net::SocketAddr, str};

use anyhow::Context;
use bytes::Bytes;
use envoy_types::pb::envoy::{
    config::{cluster::v3::Cluster, core::v3::Node, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener},
    service::discovery::v3::{
        DiscoveryRequest, DiscoveryResponse, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use prost::{Message, Name};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    connect,
    population::number_at,
    readers::{Reader, State},
    tally::{Change, FastSet},
};

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    requests: mpsc::Sender<DiscoveryRequest>,
    answers: Streaming<DiscoveryResponse>,
    services: Vec<String>,
    /// What is to be acknowledged.
    last: DiscoveryResponse,
    /// How many resources of the other kinds the last message had.
    others: HashMap<String, usize>,
    state: State,
}

fn request(type_url: String, services: &[String]) -> DiscoveryRequest {
    DiscoveryRequest { type_url, resource_names: services.to_vec(), ..DiscoveryRequest::default() }
}

impl Reader for Stream {
    async fn open(to: SocketAddr, name: String, services: Vec<String>) -> anyhow::Result<Self> {
        let (requests, outgoing) = mpsc::channel(16);
        let node = Node { id: name, user_agent_name: "gRPC bench".to_owned(), ..Node::default() };
        requests.send(DiscoveryRequest { node: Some(node), ..request(Listener::type_url(), &services) }).await?;
        requests.send(request(Cluster::type_url(), &services)).await?;
        requests.send(request(ClusterLoadAssignment::type_url(), &services)).await?;
        let mut client =
            AggregatedDiscoveryServiceClient::new(connect(to).await?).max_decoding_message_size(usize::MAX);
        let answers = client.stream_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
        let last = DiscoveryResponse::default();
        Ok(Self { requests, answers, services, last, others: HashMap::new(), state: State::default() })
    }

    async fn next(&mut self) -> anyhow::Result<Vec<Change>> {
        self.last = self.answers.message().await?.context("the registry ended an ADS stream")?;
        let resources = std::mem::take(&mut self.last.resources);
        if self.last.type_url != ClusterLoadAssignment::type_url() {
            self.others.insert(self.last.type_url.clone(), resources.len());
            return Ok(Vec::new());
        }
        let mut changes = Vec::new();
        for resource in resources {
            let assignment = Assignment::decode(Bytes::from(resource.value))?;
            let now = numbers(&assignment)?;
            if let Some(before) = self.state.get(&assignment.cluster_name) {
                changes.extend(before.difference(&now).map(|number| Change::Goes(*number)));
                changes.extend(now.difference(before).map(|number| Change::Comes(*number)));
            }
            self.state.insert(assignment.cluster_name, now);
        }
        Ok(changes)
    }

    async fn acknowledge(&mut self) -> anyhow::Result<()> {
        let DiscoveryResponse { type_url, version_info, nonce, .. } = std::mem::take(&mut self.last);
        let ack = DiscoveryRequest { version_info, response_nonce: nonce, ..request(type_url, &self.services) };
        self.requests.send(ack).await?;
        Ok(())
    }

    fn is_ready(&self) -> bool {
        let all = |count: usize| count == self.services.len();
        all(self.state.len()) && self.others.len() == 2 && self.others.values().copied().all(all)
    }

    fn state(&self) -> &State {
        &self.state
    }
}

/// What a bench reads of a ClusterLoadAssignment.
#[derive(Clone, PartialEq, Message)]
struct Assignment {
    #[prost(string, tag = "1")]
    cluster_name: String,
    #[prost(message, repeated, tag = "2")]
    endpoints: Vec<Place>,
}

/// Of a LocalityLbEndpoints.
#[derive(Clone, PartialEq, Message)]
struct Place {
    #[prost(message, repeated, tag = "2")]
    lb_endpoints: Vec<LbEndpoint>,
}

/// Of an LbEndpoint.
#[derive(Clone, PartialEq, Message)]
struct LbEndpoint {
    #[prost(message, optional, tag = "1")]
    endpoint: Option<Endpoint>,
}

/// Of an Endpoint.
#[derive(Clone, PartialEq, Message)]
struct Endpoint {
    #[prost(message, optional, tag = "1")]
    address: Option<Address>,
}

/// Of an Address.
#[derive(Clone, PartialEq, Message)]
struct Address {
    #[prost(message, optional, tag = "1")]
    socket: Option<Socket>,
}

/// Of a SocketAddress.
#[derive(Clone, PartialEq, Message)]
struct Socket {
    /// A piece of the message, not a copy.
    #[prost(bytes = "bytes", tag = "2")]
    ip: Bytes,
    #[prost(uint32, tag = "3")]
    port: u32,
}

fn numbers(assignment: &Assignment) -> anyhow::Result<FastSet<u64>> {
    let endpoints = assignment.endpoints.iter().flat_map(|it| &it.lb_endpoints);
    endpoints.map(|it| number(it).with_context(|| format!("{}: {it:?}", assignment.cluster_name))).collect()
}

fn number(endpoint: &LbEndpoint) -> anyhow::Result<u64> {
    let socket = endpoint.endpoint.as_ref().and_then(|it| it.address.as_ref()).and_then(|it| it.socket.as_ref());
    let Socket { ip, port } = socket.context("an endpoint without an address")?;
    number_at(SocketAddr::new(str::from_utf8(ip)?.parse()?, u16::try_from(*port)?)).context("nobody of this population")
}
