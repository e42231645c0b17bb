//! Edge policies on their way out.
//!
//! Lives here: the shape, short where defaults say the same. Does not: other kinds (`document`, `document::route`).

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use weft_model::{self as model, Action, HeaderChange, Per, StreamFormat};

use super::is_false;
use crate::units;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Cors {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
    origins: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    http_methods: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    expose: Vec<String>,
    #[serde(skip_serializing_if = "is_false")]
    credentials: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_age: Option<String>,
}

impl Cors {
    pub(super) fn new(it: &model::Cors) -> Self {
        Self {
            methods: texts(it.methods.patterns()),
            origins: texts(&it.origins),
            http_methods: it.http_methods.iter().map(|it| it.as_str().to_owned()).collect(),
            headers: texts(&it.headers),
            expose: texts(&it.expose),
            credentials: it.credentials,
            max_age: (it.max_age != model::Cors::DEFAULT_MAX_AGE).then(|| units::time_text(it.max_age)),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Authentication {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    jwt: Vec<Jwt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_keys: Option<ApiKeys>,
    #[serde(skip_serializing_if = "is_false")]
    certificates: bool,
    #[serde(skip_serializing_if = "is_false")]
    anonymous: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    to_metadata: Vec<ToMetadata>,
    #[serde(skip_serializing_if = "is_false")]
    forward_credentials: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rules: Vec<ClaimRule>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Jwt {
    issuer: String,
    audiences: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwks_uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leeway: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ApiKeys {
    header: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ToMetadata {
    claim: String,
    metadata: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ClaimRule {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    claims: Vec<Claim>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Claim {
    claim: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    any_of: Vec<String>,
}

impl Authentication {
    pub(super) fn new(it: &model::Authentication) -> Self {
        let to_metadata = |it: &model::ClaimToMetadata| ToMetadata {
            claim: it.claim().to_string(),
            metadata: it.metadata().to_string(),
        };
        Self {
            methods: texts(it.methods.patterns()),
            jwt: it.jwt.iter().map(Jwt::new).collect(),
            api_keys: it.api_key_header.as_ref().map(|header| ApiKeys { header: header.to_string() }),
            certificates: it.certificates,
            anonymous: it.anonymous,
            to_metadata: it.to_metadata.iter().map(to_metadata).collect(),
            forward_credentials: it.forward,
            rules: it.rules.iter().map(ClaimRule::new).collect(),
        }
    }
}

impl Jwt {
    fn new(it: &model::Jwt) -> Self {
        Self {
            issuer: it.issuer().to_string(),
            audiences: texts(it.audiences()),
            jwks_uri: match it.keys() {
                model::KeySource::Url(url) => Some(url.to_string()),
                model::KeySource::Discovered => None,
            },
            leeway: (it.leeway() != model::Jwt::DEFAULT_LEEWAY).then(|| units::time_text(it.leeway())),
        }
    }
}

impl ClaimRule {
    fn new(it: &model::ClaimRule) -> Self {
        let claim = |it: &model::ClaimMatch| Claim { claim: it.claim().to_string(), any_of: texts(it.any_of()) };
        Self {
            name: it.name.to_string(),
            action: match it.action {
                Action::Allow => None,
                Action::Deny => Some("deny"),
            },
            claims: it.claims.iter().map(claim).collect(),
            methods: texts(it.methods.patterns()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct RateLimit {
    rules: Vec<LimitRule>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct LimitRule {
    name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    per: Vec<&'static str>,
    calls: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    every: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    burst: Option<u32>,
}

impl RateLimit {
    pub(super) fn new(it: &model::RateLimit) -> Self {
        Self { rules: it.rules().iter().map(LimitRule::new).collect() }
    }
}

impl LimitRule {
    fn new(it: &model::LimitRule) -> Self {
        let per = |it: &Per| match it {
            Per::Client => "client",
            Per::Address => "address",
            Per::Method => "method",
        };
        Self {
            name: it.name.to_string(),
            methods: texts(it.methods.patterns()),
            per: it.per.iter().map(per).collect(),
            calls: it.calls,
            every: (it.every != Duration::from_secs(1)).then(|| units::time_text(it.every)),
            burst: (it.burst != it.calls).then_some(it.burst),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ApiKey {
    sha256: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    claims: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
}

impl ApiKey {
    pub(super) fn new(it: &model::ApiKey) -> Self {
        Self {
            sha256: it.digest.to_string(),
            claims: it.claims.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            expires: it.expires.map(units::moment_text),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Cache {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    per_caller: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u32>,
    #[serde(skip_serializing_if = "is_false")]
    off: bool,
}

impl Cache {
    pub(super) fn new(it: &model::Cache) -> Self {
        Self {
            methods: texts(it.methods.patterns()),
            ttl: (!it.ttl.is_zero()).then(|| units::time_text(it.ttl)),
            per_caller: it.per_caller,
            epoch: (it.epoch != 0).then_some(it.epoch),
            off: it.off,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Limits {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_request_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_header_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_uri_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_depth: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_elements: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_timeout: Option<String>,
}

impl Limits {
    pub(super) fn new(it: &model::Limits) -> Self {
        Self {
            methods: texts(it.methods.patterns()),
            max_request_bytes: it.max_request_bytes,
            max_header_bytes: it.max_header_bytes,
            max_uri_bytes: it.max_uri_bytes,
            max_depth: it.max_depth,
            max_elements: it.max_elements,
            timeout: it.timeout.map(units::time_text),
            body_timeout: it.body_timeout.map(units::time_text),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Transcoding {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    infer_update_mask: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_format: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    json_output: Option<JsonOutput>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct JsonOutput {
    #[serde(skip_serializing_if = "Option::is_none")]
    emit_defaults: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preserve_proto_names: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enums_as_ints: Option<bool>,
}

impl Transcoding {
    pub(super) fn new(it: &model::Transcoding) -> Self {
        let model::JsonOutput { emit_defaults, preserve_proto_names, enums_as_ints } = it.json_output;
        let output = JsonOutput { emit_defaults, preserve_proto_names, enums_as_ints };
        Self {
            methods: texts(it.methods.patterns()),
            infer_update_mask: it.infer_update_mask,
            stream_format: it.stream_format.map(|it| match it {
                StreamFormat::JsonArray => "json_array",
                StreamFormat::Ndjson => "ndjson",
                StreamFormat::Sse => "sse",
            }),
            json_output: (it.json_output != model::JsonOutput::default()).then_some(output),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Headers {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    request: Vec<HeaderRule>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    response: Vec<HeaderRule>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
struct HeaderRule {
    name: String,
    #[serde(skip_serializing_if = "is_false")]
    remove: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rename: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    append: Option<String>,
}

impl Headers {
    pub(super) fn new(it: &model::Headers) -> Self {
        Self {
            methods: texts(it.methods.patterns()),
            request: it.request.iter().map(HeaderRule::new).collect(),
            response: it.response.iter().map(HeaderRule::new).collect(),
        }
    }
}

impl HeaderRule {
    fn new(it: &model::HeaderRule) -> Self {
        let named = Self { name: it.name().to_owned(), ..Self::default() };
        match it.change() {
            HeaderChange::Remove => Self { remove: true, ..named },
            HeaderChange::Rename(to) => Self { rename: Some(to.to_string()), ..named },
            HeaderChange::Set(value) => Self { set: Some(value.to_string()), ..named },
            HeaderChange::Append(value) => Self { append: Some(value.to_string()), ..named },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Http {
    rules: Vec<HttpRule>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
struct HttpRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    get: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    put: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    post: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delete: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom: Option<Custom>,
    #[serde(skip_serializing_if = "String::is_empty")]
    body: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    response_body: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    additional_bindings: Vec<HttpRule>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Custom {
    kind: String,
    path: String,
}

impl Http {
    pub(super) fn new(it: &model::HttpRules) -> Self {
        let rule = |it: &model::HttpRule| HttpRule {
            selector: Some(it.selector.to_string()),
            additional_bindings: it.additional.iter().map(HttpRule::binding).collect(),
            ..HttpRule::binding(&it.binding)
        };
        Self { rules: it.rules().iter().map(rule).collect() }
    }
}

impl HttpRule {
    fn binding(it: &model::HttpBinding) -> Self {
        let path = it.template.to_string();
        let (body, response_body) = (it.body.as_str().to_owned(), it.response_body.as_str().to_owned());
        let said = Self { body, response_body, ..Self::default() };
        match it.kind.field() {
            Some("get") => Self { get: Some(path), ..said },
            Some("put") => Self { put: Some(path), ..said },
            Some("post") => Self { post: Some(path), ..said },
            Some("delete") => Self { delete: Some(path), ..said },
            Some("patch") => Self { patch: Some(path), ..said },
            Some(_) | None => Self { custom: Some(Custom { kind: it.kind.as_str().to_owned(), path }), ..said },
        }
    }
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}
