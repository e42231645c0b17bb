//! A resource as it goes to clients: serialised once, shared by every stream that is told of it.
//!
//! Lives here: bytes, their version, what they rest on. Does not: what is in them (`resources`).
//! Invariant: equal bytes have equal versions, also after a restart and in another registry, and nobody is told of equal bytes twice. So a
//! message must not have a protobuf map with more than one entry: prost writes these in a random order.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::{Message, Name};
use weft_model::ServiceName;

/// What came of building one resource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Built {
    /// The resource. None: there is none by this name, for now; whoever asked is told as soon as there is.
    pub(crate) resource: Option<Resource>,
    /// Services, listed or not, whose change may change the outcome. It is built anew when one of them changes, and not otherwise.
    pub(crate) depends_on: BTreeSet<ServiceName>,
    /// It rests on the list of services as well: built anew when one comes or goes, or its facts or policies change.
    pub(crate) depends_on_list: bool,
    /// Somebody who is not listed yet might make another of it: while the registry warms up, who has one from earlier had better keep that.
    pub(crate) is_guess: bool,
    /// There is none for now, and who has one had better keep it.
    pub(crate) is_in_doubt: bool,
}

/// One resource for one profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    /// An encoded `google.protobuf.Any`.
    pub(crate) bytes: Bytes,
    /// Of the bytes: what delta calls the version of a resource.
    pub(crate) version: u64,
    /// What nodes of this profile do not get, for people.
    pub(crate) left_out: Vec<LeftOut>,
}

/// Endpoints that a resource does not list although they serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// How many.
    pub(crate) endpoints: usize,
    /// Why, with the cure: "speak mTLS, and node.metadata declares no certificate provider".
    pub(crate) why: &'static str,
}

/// `google.protobuf.Any`, with its value left as it is.
#[derive(Clone, PartialEq, Message)]
struct RawAny {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

impl Resource {
    /// Serialises a message.
    pub(crate) fn of<M: Message + Name>(message: &M) -> Self {
        Self::encoded(M::type_url(), message.encode_to_vec())
    }

    /// Wraps a message of a type that is serialised already.
    pub(crate) fn encoded(type_url: String, value: Vec<u8>) -> Self {
        let bytes = Bytes::from(RawAny { type_url, value: value.into() }.encode_to_vec());
        let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let first = digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
        Self { bytes, version: u64::from_be_bytes(*first), left_out: Vec::new() }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use envoy_types::pb::{envoy::config::cluster::v3::Cluster, google::protobuf::Any};

    use super::*;
    use crate::views::xds::Kind;

    /// A resource of a kind with some content.
    pub(in crate::views::xds) fn resource(kind: Kind, content: &str) -> Resource {
        Resource::of(&Cluster { name: format!("{}/{content}", kind.name()), ..Cluster::default() })
    }

    #[test]
    fn bytes_are_an_any_and_the_version_is_theirs() {
        let cluster = |name: &str| Cluster { name: name.into(), ..Cluster::default() };
        let one = Resource::of(&cluster("users"));
        let any = Any::decode(one.bytes.as_ref()).unwrap();
        assert_eq!(any.type_url, "type.googleapis.com/envoy.config.cluster.v3.Cluster");
        assert_eq!(Cluster::decode(any.value.as_ref()).unwrap(), cluster("users"));
        assert_eq!(one, Resource::of(&cluster("users")));
        assert_ne!(one.version, Resource::of(&cluster("posts")).version);
    }
}
