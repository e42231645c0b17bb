//! xDS on the wire: requests in, responses with their resources as the bytes they are.
//!
//! Lives here: the two forms of ADS, nonces and versions as text. Does not: streams (`service`), what is answered (`session`).
//! The responses have the field numbers of envoy.service.discovery.v3, and `bytes` where that has messages we have encoded already.

use std::fmt::Debug;

use bytes::Bytes;
use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
    },
    google::rpc,
};
use prost::Message;
use weft_model::Version;

use super::{
    Kind,
    session::{Ask, Protocol, Request, Response},
};

/// A form of ADS.
pub(super) trait Form: Debug + Send + Sync + 'static {
    type Request: Message + Default + Send + 'static;
    type Response: Message + Send + 'static;
    const PROTOCOL: Protocol;

    /// Takes a request apart; only the first of a stream has a node.
    fn parse(request: Self::Request) -> Incoming;
    fn response(response: Response) -> Self::Response;
}

/// A request as it came.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) node: Option<Node>,
    /// None: of a kind that we do not serve.
    pub(super) request: Option<Request>,
}

/// State of the world.
#[derive(Debug)]
pub(super) struct Whole;

/// Delta.
#[derive(Debug)]
pub(super) struct Delta;

/// `DiscoveryResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WholeResponse {
    #[prost(string, tag = "1")]
    pub(super) version_info: String,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(super) resources: Vec<Bytes>,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    #[prost(string, tag = "5")]
    pub(super) nonce: String,
}

/// `DeltaDiscoveryResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct DeltaResponse {
    #[prost(string, tag = "1")]
    pub(super) system_version_info: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) resources: Vec<NamedResource>,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    #[prost(string, tag = "5")]
    pub(super) nonce: String,
    #[prost(string, repeated, tag = "6")]
    pub(super) removed_resources: Vec<String>,
}

/// `Resource`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct NamedResource {
    #[prost(string, tag = "1")]
    pub(super) version: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) resource: Bytes,
    #[prost(string, tag = "3")]
    pub(super) name: String,
}

impl Form for Whole {
    type Request = DiscoveryRequest;
    type Response = WholeResponse;
    const PROTOCOL: Protocol = Protocol::StateOfTheWorld;

    fn parse(it: DiscoveryRequest) -> Incoming {
        let request = Kind::of_type_url(&it.type_url).map(|kind| Request {
            kind,
            nonce: it.response_nonce,
            error: it.error_detail.map(text),
            ask: Ask::Names { names: it.resource_names, version_info: it.version_info },
        });
        Incoming { node: it.node, request }
    }

    fn response(it: Response) -> WholeResponse {
        WholeResponse {
            version_info: version(it.version),
            resources: it.resources.into_iter().map(|(_, resource)| resource.bytes.clone()).collect(),
            type_url: it.kind.type_url().to_owned(),
            nonce: nonce(it.nonce),
        }
    }
}

impl Form for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaResponse;
    const PROTOCOL: Protocol = Protocol::Delta;

    fn parse(it: DeltaDiscoveryRequest) -> Incoming {
        let request = Kind::of_type_url(&it.type_url).map(|kind| Request {
            kind,
            nonce: it.response_nonce,
            error: it.error_detail.map(text),
            ask: Ask::Change {
                subscribe: it.resource_names_subscribe,
                unsubscribe: it.resource_names_unsubscribe,
                initial: it.initial_resource_versions.into_iter().collect(),
            },
        });
        Incoming { node: it.node, request }
    }

    fn response(it: Response) -> DeltaResponse {
        let resource = |(name, resource): (super::session::Name, std::sync::Arc<super::Resource>)| NamedResource {
            version: resource_version(resource.version),
            resource: resource.bytes.clone(),
            name: name.as_ref().to_owned(),
        };
        DeltaResponse {
            system_version_info: version(it.version),
            resources: it.resources.into_iter().map(resource).collect(),
            type_url: it.kind.type_url().to_owned(),
            nonce: nonce(it.nonce),
            removed_resources: it.removed.iter().map(|name| name.as_ref().to_owned()).collect(),
        }
    }
}

fn text(status: rpc::Status) -> String {
    if status.message.is_empty() { format!("code {}", status.code) } else { status.message }
}

/// A version of the catalog, `7.42`.
pub(super) fn version(it: Version) -> String {
    it.to_string()
}

/// A nonce; unique on its stream.
pub(super) fn nonce(it: u64) -> String {
    format!("{it:x}")
}

/// A version of one resource.
pub(super) fn resource_version(it: u64) -> String {
    format!("{it:016x}")
}

/// Reads what [`resource_version`] made. None: it is of somebody else's making.
pub(super) fn parse_version(text: &str) -> Option<u64> {
    if text.len() == 16 { u64::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use envoy_types::pb::envoy::{
        config::cluster::v3::Cluster,
        service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse},
    };
    use prost::Name;

    use super::*;
    use crate::views::xds::Resource;

    fn response() -> Response {
        let cluster = Cluster { name: "users".into(), ..Cluster::default() };
        Response {
            kind: Kind::Cluster,
            nonce: 31,
            version: Version(7 << 32 | 42),
            resources: vec![("users".into(), Arc::new(Resource::of(&cluster)))],
            removed: vec!["posts".into()],
            gone: vec![],
        }
    }

    #[test]
    fn what_we_write_is_what_others_read() {
        let bytes = Whole::response(response()).encode_to_vec();
        let whole = DiscoveryResponse::decode(bytes.as_slice()).unwrap();
        assert_eq!((whole.version_info.as_str(), whole.nonce.as_str()), ("7.42", "1f"));
        assert_eq!(whole.type_url, Cluster::type_url());
        assert_eq!(Cluster::decode(whole.resources[0].value.as_ref()).unwrap().name, "users");

        let bytes = Delta::response(response()).encode_to_vec();
        let delta = DeltaDiscoveryResponse::decode(bytes.as_slice()).unwrap();
        assert_eq!((delta.system_version_info.as_str(), delta.nonce.as_str()), ("7.42", "1f"));
        assert_eq!(delta.removed_resources, ["posts"]);
        let resource = &delta.resources[0];
        assert_eq!((resource.name.as_str(), parse_version(&resource.version).is_some()), ("users", true));
        let any = resource.resource.as_ref().unwrap();
        assert_eq!(any.type_url, Cluster::type_url());
        assert_eq!(Cluster::decode(any.value.as_ref()).unwrap().name, "users");
    }
}
