//! The bootstrap file of gRPC libraries: one form that all four families read.
//!
//! Lives here: its content. Does not: where it comes from (`bootstrap`).
//! grpc-js-xds demands `node.id` and `node.locality`. TLS is only sent to nodes that declare a certificate provider here, since each client refuses a
//! cluster that names one which its own file does not have. Resources that vanish are kept (`ignore_resource_deletion`): none of ours means to.

use serde_json::{Value, json};
use weft_identity::pem;

use super::{Identity, PROVIDER, Server, Wanted};

/// How often files of certificates are looked at: often enough for lives of an hour.
const REFRESH: &str = "60s";

pub(super) fn file(wanted: &Wanted) -> Value {
    let identity = wanted.identity.as_ref();
    let servers: Vec<Value> = wanted.servers.iter().map(|it| server(it, identity)).collect();
    let mut file = json!({
        "xds_servers": servers,
        "node": wanted.node(identity.map_or_else(|| json!({}), metadata)),
        "server_listener_resource_name_template": "grpc/server?xds.resource.listening_address=%s",
    });
    if let Some(identity) = identity {
        file["certificate_providers"] =
            json!({ PROVIDER: { "plugin_name": "file_watcher", "config": files(identity) } });
    }
    file
}

fn server(it: &Server, identity: Option<&Identity>) -> Value {
    let creds = match identity.filter(|_| it.tls) {
        Some(identity) => json!({ "type": "tls", "config": files(identity) }),
        None => json!({ "type": "insecure" }),
    };
    json!({
        "server_uri": it.at,
        "channel_creds": [creds],
        "server_features": ["xds_v3", "ignore_resource_deletion"],
    })
}

fn files(identity: &Identity) -> Value {
    json!({
        "certificate_file": identity.file(pem::CHAIN),
        "private_key_file": identity.file(pem::KEY),
        "ca_certificate_file": identity.file(pem::BUNDLE),
        "refresh_interval": REFRESH,
    })
}

fn metadata(identity: &Identity) -> Value {
    json!({ "certificate_providers": [PROVIDER], "trust_domain": identity.id.trust_domain() })
}
