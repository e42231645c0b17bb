//! The bootstrap file of an Envoy, and the two files that tell it where its certificates are.
//!
//! Lives here: their content, as JSON, which is YAML. Does not: where it comes from (`bootstrap`).
//! Certificates come from files by a source of secrets, since Envoy reads a rotated file only so; one file a secret, since Envoy takes no other. The names of
//! the secrets are those that the registry's clusters refer to, and those of the files are made of them.

use std::net::SocketAddr;

use serde_json::{Value, json};
use weft_identity::{TrustDomain, name, pem};

use super::{Identity, PROVIDER, Server, Wanted};

/// Names of the secrets; the registry's clusters refer to them.
const IDENTITY: &str = "weft_identity";
const ROOTS: &str = "weft_roots";
/// The cluster that the control plane is reached by.
const CONTROL: &str = "weft_control";

pub(super) fn file(wanted: &Wanted, listen: SocketAddr, admin: SocketAddr, delta: bool) -> Value {
    let mut metadata = json!({ "listen": listen.to_string() });
    if let Some(identity) = &wanted.identity {
        metadata["certificate_providers"] = json!([PROVIDER]);
        metadata["trust_domain"] = json!(identity.id.trust_domain());
        metadata["secrets"] = json!(identity.dir);
    }
    let ads = json!({ "resource_api_version": "V3", "ads": {} });
    json!({
        "node": wanted.node(metadata),
        "admin": { "address": address(admin) },
        "dynamic_resources": {
            "ads_config": {
                "api_type": if delta { "DELTA_GRPC" } else { "GRPC" },
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{ "envoy_grpc": { "cluster_name": CONTROL } }],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {
            "clusters": wanted.servers.iter().map(|it| control(it, wanted.identity.as_ref())).collect::<Vec<_>>(),
        },
    })
}

fn control(server: &Server, identity: Option<&Identity>) -> Value {
    let (host, port) = server.at.rsplit_once(':').unwrap_or((&server.at, ""));
    let port: u16 = port.parse().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut cluster = json!({
        "name": CONTROL,
        "type": if host.parse::<std::net::IpAddr>().is_ok() { "STATIC" } else { "STRICT_DNS" },
        "connect_timeout": "2s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {
                    "http2_protocol_options": { "connection_keepalive": { "interval": "10s", "timeout": "5s" } },
                },
            },
        },
        "load_assignment": {
            "cluster_name": CONTROL,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": {
                "socket_address": { "address": host, "port_value": port },
            } } }] }],
        },
    });
    if let Some(identity) = identity.filter(|_| server.tls) {
        cluster["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": context(identity),
            },
        });
    }
    cluster
}

/// Mutual TLS to a registry of the mesh, and nobody else.
fn context(identity: &Identity) -> Value {
    let secret = |name: &str| {
        json!({ "name": name, "sds_config": {
            "resource_api_version": "V3",
            "path_config_source": { "path": secret_file(identity, name) },
        } })
    };
    let registry = TrustDomain::of(&identity.id).service(&name::registry());
    json!({
        "alpn_protocols": ["h2"],
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificate_sds_secret_configs": [secret(IDENTITY)],
        "combined_validation_context": {
            "default_validation_context": {
                "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": registry.as_str() } }],
            },
            "validation_context_sds_secret_config": secret(ROOTS),
        },
    })
}

fn secret_file(identity: &Identity, name: &str) -> String {
    identity.file(&format!("{name}.json"))
}

/// The files of the secrets, beside the certificates, and their content.
pub(super) fn secrets(identity: &Identity) -> [(String, Value); 2] {
    const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    let file = |name: &str| json!({ "filename": identity.file(name) });
    let watched = json!({ "path": identity.dir });
    let own =
        json!({ "certificate_chain": file(pem::CHAIN), "private_key": file(pem::KEY), "watched_directory": watched });
    let roots = json!({ "trusted_ca": file(pem::BUNDLE), "watched_directory": watched });
    [(IDENTITY, "tls_certificate", own), (ROOTS, "validation_context", roots)].map(|(name, kind, secret)| {
        let only = json!({ "@type": SECRET, "name": name, kind: secret });
        (secret_file(identity, name), json!({ "resources": [only] }))
    })
}

fn address(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } })
}
