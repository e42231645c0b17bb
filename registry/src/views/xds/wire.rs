//! xDS on the wire: requests in, responses with their resources as the bytes they are.
//!
//! Lives here: the two forms of ADS, nonces and versions as text. Does not: streams (`service`), what is answered (`session`), sending (`views::body`).
//! The responses have the field numbers of envoy.service.discovery.v3. Their resources follow all other fields, since these we have encoded already.

use std::{fmt::Debug, marker::PhantomData, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
    },
    google::rpc,
};
use prost::Message;
use tonic::Status;
use weft_model::Version;

use super::{
    Kind, Resource,
    session::{Ask, Name, Protocol, Request, Response},
};
use crate::views::body::{Part, Pieces};

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

/// A resource as a part of a response of this form.
#[derive(Debug)]
pub(super) struct Told<F> {
    name: Name,
    resource: Arc<Resource>,
    form: PhantomData<fn() -> F>,
}

impl<F: Form> Part for Told<F> {
    fn head(&self, out: &mut BytesMut) {
        F::head(&self.name, &self.resource, out);
    }

    fn bytes(&self) -> &Bytes {
        &self.resource.bytes
    }
}

/// A response as it is sent.
pub(super) fn pieces<F: Form>(mut response: Response) -> Result<Pieces<Told<F>>, Status> {
    let resources = std::mem::take(&mut response.resources).into_iter();
    let told = resources.map(|(name, resource)| Told { name, resource, form: PhantomData });
    Pieces::of(|out| F::envelope(&response, out), told.collect())
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

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::{
        config::cluster::v3::Cluster,
        service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse},
    };
    use prost::Name as _;

    use super::*;
    use crate::views::body::sent;

    fn cluster(name: &str, size: usize) -> (Name, Arc<Resource>) {
        let cluster = Cluster { name: name.into(), alt_stat_name: "x".repeat(size), ..Cluster::default() };
        (name.into(), Arc::new(Resource::of(&cluster)))
    }

    fn response(resources: Vec<(Name, Arc<Resource>)>) -> Response {
        let removed = vec!["posts".into()];
        let (version, gone) = (Version(7 << 32 | 42), vec![]);
        Response { kind: Kind::Cluster, nonce: 31, version, resources, removed, gone, fresh: true }
    }

    #[test]
    fn what_we_write_is_what_others_read() {
        let resources = || vec![cluster("users", 10), cluster("big", 70_000), cluster("posts", 20)];
        let (_, message) = sent(pieces::<Whole>(response(resources())).unwrap());
        let whole = DiscoveryResponse::decode(message).unwrap();
        assert_eq!((whole.version_info.as_str(), whole.nonce.as_str()), ("7.42", "1f"));
        assert_eq!(whole.type_url, Cluster::type_url());
        let names = whole.resources.iter().map(|it| Cluster::decode(it.value.as_ref()).unwrap().name);
        assert_eq!(names.collect::<Vec<_>>(), ["users", "big", "posts"]);

        let (_, message) = sent(pieces::<Delta>(response(resources())).unwrap());
        let delta = DeltaDiscoveryResponse::decode(message).unwrap();
        assert_eq!((delta.system_version_info.as_str(), delta.nonce.as_str()), ("7.42", "1f"));
        assert_eq!((delta.type_url, delta.removed_resources.as_slice()), (Cluster::type_url(), &["posts".into()][..]));
        for (resource, name) in delta.resources.iter().zip(["users", "big", "posts"]) {
            assert_eq!((resource.name.as_str(), parse_version(&resource.version).is_some()), (name, true));
            let any = resource.resource.as_ref().unwrap();
            assert_eq!(any.type_url, Cluster::type_url());
            assert_eq!(Cluster::decode(any.value.as_ref()).unwrap().name, name);
        }
        assert_eq!(delta.resources.len(), 3);
    }

    #[test]
    fn an_answer_without_resources_is_one() {
        let (pieces, message) = sent(pieces::<Whole>(response(vec![])).unwrap());
        assert_eq!((pieces.len(), DiscoveryResponse::decode(message).unwrap().resources.len()), (1, 0));
    }
}
