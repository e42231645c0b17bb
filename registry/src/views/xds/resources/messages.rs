//! The messages of xDS under short names, and the few values that resources of all kinds are made of.
//!
//! Lives here: names, wrapping, encoding. Does not: what a resource says.
//! Bytes are compared to tell whether a resource changed, so equal messages must have equal bytes: a map of these messages is a `HashMap`, whose
//! order is chance. None gets more than one entry; the one that must have two (`labels`) is encoded from an ordered map.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use envoy_types::pb::google::protobuf;
use prost::{
    Message, Name,
    encoding::{self, WireType},
};

pub(super) use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{
                self as cluster, CircuitBreakers, Cluster, LoadBalancingPolicy, OutlierDetection,
                load_balancing_policy::Policy as LbPolicy,
            },
            core::v3::{self as core, ConfigSource, TransportSocket, TypedExtensionConfig},
            endpoint::v3::ClusterLoadAssignment,
            listener::v3::{self as listener, Listener},
            route::v3::{self as route, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost},
        },
        extensions::{
            filters::{
                common::fault::v3 as fault_common,
                http::{fault::v3 as fault, rbac::v3 as rbac_filter, router::v3::Router},
                network::http_connection_manager::v3::{
                    self as hcm, HttpConnectionManager, HttpFilter, http_connection_manager::RouteSpecifier,
                },
            },
            load_balancing_policies::{
                common::v3 as lb_common, round_robin::v3::RoundRobin, wrr_locality::v3::WrrLocality,
            },
            retry::host::previous_hosts::v3::PreviousHostsPredicate as PreviousHosts,
            transport_sockets::tls::v3 as tls,
            upstreams::http::v3 as http_options,
        },
        r#type::{matcher::v3 as matcher, v3 as types},
    },
    google::protobuf::{Any, BoolValue, UInt32Value},
};

#[cfg(test)]
pub(super) use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;

pub(super) fn any<T: Message + Name>(message: &T) -> Any {
    Any { type_url: T::type_url(), value: message.encode_to_vec() }
}

pub(super) fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(super) fn yes() -> Option<BoolValue> {
    Some(BoolValue { value: true })
}

pub(super) fn time(it: Duration) -> Option<protobuf::Duration> {
    let seconds = i64::try_from(it.as_secs()).unwrap_or(i64::MAX);
    Some(protobuf::Duration { seconds, nanos: it.subsec_nanos().cast_signed() })
}

/// "On this very stream, in version 3".
pub(super) fn ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(Default::default())),
        ..ConfigSource::default()
    })
}

pub(super) fn address(at: SocketAddr) -> Option<core::Address> {
    Some(core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: at.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(at.port().into())),
            ..core::SocketAddress::default()
        })),
    })
}

pub(super) fn http_filter<T: Message + Name>(name: &str, config: &T) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any(config))),
        ..HttpFilter::default()
    }
}

/// The filter that every list of them ends with.
pub(super) fn router() -> HttpFilter {
    http_filter("envoy.filters.http.router", &Router::default())
}

pub(super) fn exactly(text: &str) -> matcher::StringMatcher {
    let exact = matcher::string_matcher::MatchPattern::Exact(text.to_owned());
    matcher::StringMatcher { match_pattern: Some(exact), ignore_case: false }
}

/// Encodes a cluster with labels for its clients' metrics (gRFC A89), in an order that is always the same.
pub(super) fn labelled(cluster: &Cluster, labels: &BTreeMap<String, String>) -> Vec<u8> {
    const METADATA: u32 = 25; // of `Cluster`
    // map<string, Metadata>, then map<string, Value> of a Struct: a map's entry is a message of key and value
    let entry = |key: &str, value: &[u8]| nested(1, &[text(1, key), nested(2, value)].concat());
    let fields: Vec<u8> = labels.iter().flat_map(|(key, value)| entry(key, &text(3, value))).collect();
    let metadata = entry("com.google.csm.telemetry_labels", &fields);
    let mut bytes = cluster.encode_to_vec();
    bytes.extend(nested(METADATA, &metadata)); // a field that follows is as good as one in its place
    bytes
}

fn text(tag: u32, it: &str) -> Vec<u8> {
    nested(tag, it.as_bytes())
}

/// A field that holds a message, or as good as one.
fn nested(tag: u32, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 8);
    field(&mut out, tag, message);
    out
}

/// Writes a field that holds an encoded message.
pub(super) fn field(out: &mut Vec<u8>, tag: u32, message: &[u8]) {
    encoding::encode_key(tag, WireType::LengthDelimited, out);
    encoding::encode_varint(message.len() as u64, out);
    out.extend_from_slice(message);
}

/// Writes a text as messages do: an empty one is left out.
pub(super) fn text_field(out: &mut Vec<u8>, tag: u32, text: &str) {
    if !text.is_empty() {
        field(out, tag, text.as_bytes());
    }
}

/// Writes a number, 0 too.
pub(super) fn varint_field(out: &mut Vec<u8>, tag: u32, value: u64) {
    encoding::encode_key(tag, WireType::Varint, out);
    encoding::encode_varint(value, out);
}

/// Writes a UInt32Value.
pub(super) fn number_field(out: &mut Vec<u8>, tag: u32, value: u32) {
    encoding::encode_key(tag, WireType::LengthDelimited, out);
    UInt32Value { value }.encode_length_delimited(out).expect("a growing buffer has room");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_as_metadata_of_the_cluster() {
        let labels = [("service_name", "users"), ("service_namespace", "default")];
        let labels: BTreeMap<_, _> = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let cluster = Cluster { name: "users.default".into(), ..Cluster::default() };
        let bytes = labelled(&cluster, &labels);
        let read = Cluster::decode(bytes.as_slice()).unwrap();
        assert_eq!(read.name, "users.default");
        let found = &read.metadata.unwrap().filter_metadata["com.google.csm.telemetry_labels"].fields;
        let texts: BTreeMap<_, _> = found
            .iter()
            .map(|(key, value)| match &value.kind {
                Some(protobuf::value::Kind::StringValue(text)) => (key.clone(), text.clone()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(texts, labels);
    }
}
