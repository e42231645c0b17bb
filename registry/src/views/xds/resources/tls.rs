//! TLS contexts: what of the mesh's identities a client of xDS can be told.
//!
//! Lives here: contexts for both sides of a connection, by certificate provider (gRPC) and by files (Envoy). Does not: who gets one (`reach`, `profile`).
//! Certificates never travel by xDS: a client has them in files that `weft identity --out` keeps fresh. gRPC clients name them by an instance of a
//! certificate provider in their bootstrap, and refuse every other way; Envoy reads a file for each secret beside them, which
//! `weft bootstrap --lang envoy` writes.
//! The peer must show one of the expected identities as its URI; names of hosts play no part.

use std::collections::BTreeSet;

use weft_model::SpiffeId;

use super::messages::{ConfigSource, TransportSocket, any, core, exactly, tls, yes};
use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};

/// Where a client has its certificates.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Certificates {
    /// An instance of a certificate provider that its bootstrap declares.
    Provider(String),
    /// A directory that holds a file for each secret (Envoy).
    Files(String),
}

/// Names of the secrets, and of their files with `.json` behind.
const IDENTITY: &str = "weft_identity";
const ROOTS: &str = "weft_roots";

/// How a client connects to one of these identities.
pub(super) fn upstream(certificates: &Certificates, expected: &BTreeSet<SpiffeId>) -> TransportSocket {
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(common(certificates, Some(expected))),
        ..tls::UpstreamTlsContext::default()
    };
    socket(&context)
}

/// How a gRPC server takes connections: only from the mesh.
pub(super) fn downstream(certificates: &Certificates) -> TransportSocket {
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(common(certificates, None)),
        require_client_certificate: yes(),
        ..tls::DownstreamTlsContext::default()
    };
    socket(&context)
}

fn socket<T: prost::Message + prost::Name>(context: &T) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(context))),
    }
}

fn common(certificates: &Certificates, expected: Option<&BTreeSet<SpiffeId>>) -> tls::CommonTlsContext {
    match certificates {
        Certificates::Provider(name) => by_provider(name, expected),
        Certificates::Files(directory) => by_files(directory, expected),
    }
}

fn by_provider(name: &str, expected: Option<&BTreeSet<SpiffeId>>) -> tls::CommonTlsContext {
    let instance =
        || Some(tls::CertificateProviderPluginInstance { instance_name: name.to_owned(), ..Default::default() });
    #[expect(deprecated, reason = "the only list of names that gRPC clients read")]
    let validation = tls::CertificateValidationContext {
        ca_certificate_provider_instance: instance(),
        match_subject_alt_names: expected.into_iter().flatten().map(|id| exactly(id.as_str())).collect(),
        ..tls::CertificateValidationContext::default()
    };
    tls::CommonTlsContext {
        tls_certificate_provider_instance: instance(),
        validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
        ..tls::CommonTlsContext::default()
    }
}

fn by_files(directory: &str, expected: Option<&BTreeSet<SpiffeId>>) -> tls::CommonTlsContext {
    let secret = |name: &str| tls::SdsSecretConfig { name: name.to_owned(), sds_config: Some(file(directory, name)) };
    let name = |id: &SpiffeId| tls::SubjectAltNameMatcher {
        san_type: tls::subject_alt_name_matcher::SanType::Uri.into(),
        matcher: Some(exactly(id.as_str())),
        ..tls::SubjectAltNameMatcher::default()
    };
    let validation = CombinedCertificateValidationContext {
        default_validation_context: Some(tls::CertificateValidationContext {
            match_typed_subject_alt_names: expected.into_iter().flatten().map(name).collect(),
            ..tls::CertificateValidationContext::default()
        }),
        validation_context_sds_secret_config: Some(secret(ROOTS)),
        ..CombinedCertificateValidationContext::default()
    };
    tls::CommonTlsContext {
        alpn_protocols: vec!["h2".to_owned()],
        tls_certificate_sds_secret_configs: vec![secret(IDENTITY)],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13.into(),
            tls_maximum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13.into(),
            ..tls::TlsParameters::default()
        }),
        ..tls::CommonTlsContext::default()
    }
}

fn file(directory: &str, secret: &str) -> ConfigSource {
    let source = core::PathConfigSource { path: format!("{directory}/{secret}.json"), ..Default::default() };
    ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::PathConfigSource(source)),
        ..ConfigSource::default()
    }
}
