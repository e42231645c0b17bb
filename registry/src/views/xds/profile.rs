//! Profiles: what of a node decides about the bytes it gets. Nodes of one profile share them.
//!
//! Lives here: reading a `Node`. Does not: what follows from it (`resources`).
//! Our own keys in `node.metadata`, which `weft bootstrap` writes; all of them optional:
//! ```json
//! {"weft": {"certificate_providers": ["weft"], "trust_domain": "weft.local", "listen": "127.0.0.1:10000", "secrets": "/run/identity"}}
//! ```
//! `certificate_providers`: names that the node's bootstrap declares; TLS is sent only to nodes that declare one, and then by the first.
//! `trust_domain`: that of its certificate. `listen`: where an Envoy shall listen for its app. `secrets`: directory of an Envoy's files of secrets. `node.cluster` names the service that a node is, where its connection proves nothing (`service`).
//! Bounds: parts longer than a limit are read as absent, so that no node makes others pay for its metadata.

use std::{collections::BTreeSet, net::SocketAddr};

use envoy_types::pb::{
    envoy::config::core::v3::Node,
    google::protobuf::{Value, value::Kind as Json},
};
use weft_model::{DEFAULT_NAMESPACE, Locality, ServiceName};

use super::Kind;

/// Longest part of a node that we read, in bytes.
const LONGEST: usize = 256;
/// Most certificate providers of a node.
const PROVIDERS: usize = 16;

/// How names of server-side listeners begin (gRFC A36); the rest is the address the server listens on.
pub(crate) const SERVER_LISTENER: &str = "grpc/server?xds.resource.listening_address=";

/// Who reads the resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) enum Family {
    /// A gRPC library: only the profile that all of them accept (contracts/discovery.md, 6.4).
    #[default]
    Grpc,
    /// Envoy.
    Envoy,
}

/// What of a node decides about the bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Profile {
    pub(crate) family: Family,
    /// Certificate providers of its bootstrap.
    pub(crate) providers: BTreeSet<String>,
    /// Where it is.
    pub(crate) locality: Locality,
    /// The service that it is, if it is one.
    pub(crate) service: Option<ServiceName>,
    /// Namespace of that, unless it is the default one: a name without a namespace means a service of it first.
    pub(crate) home: Option<String>,
    /// Where it shall listen, if it is an Envoy.
    pub(crate) listen: Option<SocketAddr>,
    /// Trust domain of its certificate.
    pub(crate) trust_domain: Option<String>,
    /// Directory that has its certificates as a file of secrets, if it is an Envoy.
    pub(crate) secrets: Option<String>,
}

impl Profile {
    /// Reads a node.
    pub(crate) fn of(node: &Node) -> Self {
        let weft = |key: &str| node.metadata.as_ref()?.fields.get("weft").and_then(|it| field(it, key));
        let locality = node.locality.clone().unwrap_or_default();
        Self {
            family: if node.user_agent_name == "envoy" { Family::Envoy } else { Family::Grpc },
            providers: weft("certificate_providers").map(texts).unwrap_or_default(),
            locality: Locality::new(short(locality.region), short(locality.zone), short(locality.sub_zone)),
            service: None,
            home: None,
            listen: weft("listen").and_then(text).and_then(|it| it.parse().ok()),
            trust_domain: weft("trust_domain").and_then(short_text),
            secrets: weft("secrets").and_then(short_text),
        }
        .of_service(node.cluster.parse().ok())
    }

    /// The same of a node that is this service.
    pub(crate) fn of_service(self, service: Option<ServiceName>) -> Self {
        let home = service.as_ref().map(ServiceName::namespace).filter(|it| *it != DEFAULT_NAMESPACE);
        let home = home.map(str::to_owned);
        Self { service, home, ..self }
    }

    /// The part of it that decides about resources of this kind and name, so that nodes that differ in other parts share these.
    pub(crate) fn relevant(&self, kind: Kind, name: &str) -> Self {
        let server_side = name.starts_with(SERVER_LISTENER);
        let secured = kind == Kind::Cluster || server_side;
        let by_name = kind == Kind::Route || kind == Kind::Listener && self.family == Family::Grpc && !server_side;
        Self {
            family: self.family,
            providers: if secured { self.providers.clone() } else { BTreeSet::new() },
            locality: if kind == Kind::Endpoint { self.locality.clone() } else { Locality::default() },
            service: if server_side { self.service.clone() } else { None },
            home: self.home.clone().filter(|_| by_name),
            listen: if kind == Kind::Listener { self.listen } else { None },
            trust_domain: self.trust_domain.clone().filter(|_| secured),
            secrets: self.secrets.clone().filter(|_| secured),
        }
    }
}

fn field<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value.kind.as_ref()? {
        Json::StructValue(it) => it.fields.get(key),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value.kind.as_ref()? {
        Json::StringValue(it) => Some(it),
        _ => None,
    }
}

fn texts(value: &Value) -> BTreeSet<String> {
    match value.kind.as_ref() {
        Some(Json::ListValue(list)) => {
            let names = list.values.iter().filter_map(text).filter(|it| it.len() <= LONGEST);
            names.take(PROVIDERS).map(str::to_owned).collect()
        }
        _ => BTreeSet::new(),
    }
}

fn short_text(value: &Value) -> Option<String> {
    text(value).filter(|it| !it.is_empty() && it.len() <= LONGEST).map(str::to_owned)
}

fn short(text: String) -> String {
    if text.len() <= LONGEST { text } else { String::new() }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::{
        envoy::config::core::v3::Locality as Place,
        google::protobuf::{ListValue, Struct},
    };

    use super::*;

    fn value(kind: Json) -> Value {
        Value { kind: Some(kind) }
    }

    fn object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Struct {
        Struct { fields: fields.into_iter().map(|(key, it)| (key.to_owned(), it)).collect() }
    }

    fn node() -> Node {
        let string = |it: &str| value(Json::StringValue(it.into()));
        let providers = ListValue { values: vec![string("weft"), value(Json::BoolValue(true)), string("other")] };
        let weft = object([
            ("certificate_providers", value(Json::ListValue(providers))),
            ("listen", string("127.0.0.1:10000")),
            ("trust_domain", string("weft.local")),
            ("secrets", string("/run/identity")),
        ]);
        Node {
            id: "one".into(),
            cluster: "users".into(),
            locality: Some(Place { region: "r".into(), zone: "z".into(), sub_zone: "x".repeat(LONGEST + 1) }),
            metadata: Some(object([("weft", value(Json::StructValue(weft)))])),
            user_agent_name: "envoy".into(),
            ..Node::default()
        }
    }

    #[test]
    fn a_node_is_read_as_far_as_it_makes_sense() {
        let profile = Profile::of(&node());
        let expected = Profile {
            family: Family::Envoy,
            providers: ["weft", "other"].map(str::to_owned).into(),
            locality: Locality::new("r", "z", ""),
            service: Some("users".parse().unwrap()),
            home: None,
            listen: Some("127.0.0.1:10000".parse().unwrap()),
            trust_domain: Some("weft.local".into()),
            secrets: Some("/run/identity".into()),
        };
        assert_eq!(profile, expected);
        assert_eq!(Profile::of(&Node::default()), Profile::default());
        let odd = Node { cluster: "Not A Service".into(), ..Node::default() };
        assert_eq!(Profile::of(&odd), Profile::default());
    }

    #[test]
    fn nodes_of_different_services_and_places_share_what_does_not_depend_on_these() {
        let (here, there) = (Profile::of(&node()), Profile { locality: Locality::default(), ..Profile::of(&node()) });
        let there = Profile { service: Some("posts".parse().unwrap()), ..there };
        for kind in [Kind::Cluster, Kind::Listener, Kind::Route] {
            assert_eq!(here.relevant(kind, "users"), there.relevant(kind, "users"));
        }
        assert_ne!(here.relevant(Kind::Endpoint, "users"), there.relevant(Kind::Endpoint, "users"));
        let listener = format!("{SERVER_LISTENER}0.0.0.0:1");
        assert_ne!(here.relevant(Kind::Listener, &listener), there.relevant(Kind::Listener, &listener));
    }
}
