//! Documents on their way out: what `parse` reads back as the same policies.
//!
//! Lives here: the shape, short where defaults say the same. Does not: syntax (whoever serialises it). Versions are the registry's and not
//! part of a document.

mod edge;
mod route;

use serde::Serialize;
use weft_model::{self as model, Action, PlaintextUpstream, PolicyKind};

use self::route::{Route, Upstream};

/// Policies as one document.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Document {
    policies: Vec<Policy>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
struct Policy {
    name: String,
    service: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    access: Option<Access>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext_upstream: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<Route>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<Upstream>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cors: Option<edge::Cors>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authentication: Option<edge::Authentication>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limit: Option<edge::RateLimit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<edge::ApiKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<edge::Cache>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<edge::Limits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<edge::Headers>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<edge::Http>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transcoding: Option<edge::Transcoding>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Access {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Rule {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
    from: Callers,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Callers {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    identities: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    services: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    namespaces: Vec<String>,
    #[serde(skip_serializing_if = "is_false")]
    anonymous: bool,
    #[serde(skip_serializing_if = "is_false")]
    authenticated: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands references")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Document {
    /// Returns the document of these policies, in their order.
    pub fn new<'p>(policies: impl IntoIterator<Item = &'p model::Policy>) -> Self {
        Self { policies: policies.into_iter().map(Policy::new).collect() }
    }
}

impl Policy {
    fn new(it: &model::Policy) -> Self {
        let named = Self { name: it.name.to_string(), service: it.service.to_string(), ..Self::default() };
        match &it.kind {
            PolicyKind::Access(it) => {
                Self { access: Some(Access { rules: it.rules().iter().map(Rule::new).collect() }), ..named }
            }
            PolicyKind::PlaintextUpstream(PlaintextUpstream::Allow) => {
                Self { plaintext_upstream: Some("allow"), ..named }
            }
            PolicyKind::PlaintextUpstream(PlaintextUpstream::Refuse) => {
                Self { plaintext_upstream: Some("refuse"), ..named }
            }
            PolicyKind::Route(it) => Self { route: Some(Route::new(it)), ..named },
            PolicyKind::Upstream(it) => Self { upstream: Some(Upstream::new(it)), ..named },
            PolicyKind::Edge(model::Edge::Cors(it)) => Self { cors: Some(edge::Cors::new(it)), ..named },
            PolicyKind::Edge(model::Edge::Authentication(it)) => {
                Self { authentication: Some(edge::Authentication::new(it)), ..named }
            }
            PolicyKind::Edge(model::Edge::RateLimit(it)) => {
                Self { rate_limit: Some(edge::RateLimit::new(it)), ..named }
            }
            PolicyKind::Edge(model::Edge::ApiKey(it)) => Self { api_key: Some(edge::ApiKey::new(it)), ..named },
            PolicyKind::Edge(model::Edge::Cache(it)) => Self { cache: Some(edge::Cache::new(it)), ..named },
            PolicyKind::Edge(model::Edge::Limits(it)) => Self { limits: Some(edge::Limits::new(it)), ..named },
            PolicyKind::Edge(model::Edge::Headers(it)) => Self { headers: Some(edge::Headers::new(it)), ..named },
            PolicyKind::Edge(model::Edge::Http(it)) => Self { http: Some(edge::Http::new(it)), ..named },
            PolicyKind::Edge(model::Edge::Transcoding(it)) => {
                Self { transcoding: Some(edge::Transcoding::new(it)), ..named }
            }
        }
    }
}

impl Rule {
    fn new(it: &model::Rule) -> Self {
        let texts = |it: &mut dyn Iterator<Item = String>| it.collect();
        let from = it.from();
        Self {
            name: it.name().to_string(),
            action: match it.action() {
                Action::Allow => None,
                Action::Deny => Some("deny"),
            },
            from: Callers {
                identities: texts(&mut from.identities.iter().map(ToString::to_string)),
                services: texts(&mut from.services.iter().map(ToString::to_string)),
                namespaces: texts(&mut from.namespaces.iter().map(ToString::to_string)),
                anonymous: from.anonymous,
                authenticated: from.authenticated,
            },
            methods: texts(&mut it.methods().iter().map(ToString::to_string)),
        }
    }
}
