//! xDS on the wire: requests in, responses with their resources as the bytes they are.
//!
//! Lives here: the two forms of ADS, nonces and versions as text. Does not: streams (`service`), what is answered (`session`), sending (`body`).
//! The responses have the field numbers of envoy.service.discovery.v3. Their resources follow all other fields, since these we have encoded already.

use std::fmt::Debug;

use bytes::{BufMut, BytesMut};
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
    Kind, Resource,
    session::{Ask, Protocol, Request, Response},
};

/// Longest text of a NACK that is read, in bytes.
const LONGEST_ERROR: usize = 2_048;

/// A form of ADS.
pub(super) trait Form: Debug + Send + Sync + 'static {
    type Request: Message + Default + Send + 'static;
    const PROTOCOL: Protocol;

    /// Takes a request apart; only the first of a stream has a node.
    fn parse(request: Self::Request) -> Incoming;
    /// Writes a response without its resources.
    fn envelope(response: &Response, out: &mut BytesMut);
    /// Writes what comes before the bytes of a resource.
    fn head(name: &str, resource: &Resource, out: &mut BytesMut);
}

/// Field 2, of bytes or a message: resources in a response, and the resource in a `Resource`.
const RESOURCE: u8 = 2 << 3 | 2;

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

/// `DiscoveryResponse` or `DeltaDiscoveryResponse`: they differ in what we write apart.
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
    /// By delta only.
    #[prost(string, repeated, tag = "6")]
    removed: Vec<String>,
}

impl Envelope {
    fn of(it: &Response) -> Self {
        let type_url = it.kind.type_url().to_owned();
        Self { version: version(it.version), type_url, nonce: nonce(it.nonce), removed: Vec::new() }
    }

    fn write(&self, out: &mut BytesMut) {
        self.encode(out).expect("a growing buffer has room");
    }
}

/// `Resource`, without the resource.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "3")]
    name: String,
}

/// Begins a field of this length.
fn begin(length: usize, out: &mut BytesMut) {
    out.put_u8(RESOURCE);
    prost::encode_length_delimiter(length, out).expect("a growing buffer has room");
}

impl Form for Whole {
    type Request = DiscoveryRequest;
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

    fn envelope(response: &Response, out: &mut BytesMut) {
        Envelope::of(response).write(out);
    }

    fn head(_: &str, resource: &Resource, out: &mut BytesMut) {
        begin(resource.bytes.len(), out);
    }
}

impl Form for Delta {
    type Request = DeltaDiscoveryRequest;
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

    fn envelope(response: &Response, out: &mut BytesMut) {
        let removed = response.removed.iter().map(|name| name.as_ref().to_owned()).collect();
        Envelope { removed, ..Envelope::of(response) }.write(out);
    }

    fn head(name: &str, resource: &Resource, out: &mut BytesMut) {
        let named = Named { version: resource_version(resource.version), name: name.to_owned() };
        let bytes = resource.bytes.len();
        let rest = 1 + prost::length_delimiter_len(bytes) + bytes;
        begin(named.encoded_len() + rest, out);
        named.encode(out).expect("a growing buffer has room");
        begin(bytes, out);
    }
}

fn text(status: rpc::Status) -> String {
    let mut text = if status.message.is_empty() { format!("code {}", status.code) } else { status.message };
    text.truncate(text.floor_char_boundary(LONGEST_ERROR));
    text
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
