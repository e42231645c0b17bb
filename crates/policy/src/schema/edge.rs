//! The schema of edge policies.
//!
//! Lives here: keys and what their values may be. Does not: bounds (`weft-model`), other kinds (`schema`, `schema::route`).

use std::{sync::Arc, time::Duration};

use weft_model::{
    ApiKey, Authentication, Cache, ClaimMatch, ClaimRule, ClaimToMetadata, Cors, FieldName, HeaderChange, HeaderRule,
    Headers, HttpBinding, HttpKind, HttpRule, HttpRules, Invalid, JsonOutput, Jwt, KeySource, LimitRule, Limits,
    Methods, Per, RateLimit, Rule, StreamFormat, Transcoding,
};

use super::{
    action, each, fields, find, flag, list, one_of, parsed, required,
    route::{count, time, within},
    text, written,
};
use crate::{
    tree::{Entry, Node, Value},
    units,
};

pub(super) fn cors(node: &Node) -> Result<Cors, Invalid> {
    let known = ["methods", "origins", "http_methods", "headers", "expose", "credentials", "max_age"];
    let entries = fields(node, &known)?;
    let cors = Cors {
        methods: methods(entries)?,
        origins: each(entries, "origins")?,
        http_methods: each(entries, "http_methods")?,
        headers: names(entries, "headers")?,
        expose: names(entries, "expose")?,
        credentials: within(entries, "credentials", flag)?.unwrap_or_default(),
        max_age: time(entries, "max_age")?.unwrap_or(Cors::DEFAULT_MAX_AGE),
    };
    cors.checked()
}

pub(super) fn authentication(node: &Node) -> Result<Authentication, Invalid> {
    let known =
        ["methods", "jwt", "api_keys", "certificates", "anonymous", "to_metadata", "forward_credentials", "rules"];
    let entries = fields(node, &known)?;
    let authentication = Authentication {
        methods: methods(entries)?,
        jwt: items(entries, "jwt", |_, node| jwt(node))?,
        api_key_header: within(entries, "api_keys", api_keys)?.flatten(),
        certificates: within(entries, "certificates", flag)?.unwrap_or_default(),
        anonymous: within(entries, "anonymous", flag)?.unwrap_or_default(),
        to_metadata: items(entries, "to_metadata", |_, node| to_metadata(node))?,
        forward: within(entries, "forward_credentials", flag)?.unwrap_or_default(),
        rules: items(entries, "rules", claim_rule)?,
    };
    authentication.checked()
}

/// `true` for keys in the usual header, or a table that names another.
fn api_keys(node: &Node) -> Result<Option<Arc<str>>, Invalid> {
    let usual = || -> Arc<str> { Authentication::API_KEY_HEADER.into() };
    if let Value::Flag(on) = node.value {
        return Ok(on.then(usual));
    }
    let entries = fields(node, &["header"])?;
    let header = within(entries, "header", |node| Ok(text(node)?.to_ascii_lowercase().into()))?;
    Ok(Some(header.unwrap_or_else(usual)))
}

fn jwt(node: &Node) -> Result<Jwt, Invalid> {
    let entries = fields(node, &["issuer", "audiences", "jwks_uri", "leeway"])?;
    let issuer = text(required(entries, "issuer")?).map_err(|e| e.within("issuer"))?;
    let keys = within(entries, "jwks_uri", |node| Ok(KeySource::Url(text(node)?.into())))?;
    let leeway = time(entries, "leeway")?.unwrap_or(Jwt::DEFAULT_LEEWAY);
    Jwt::new(issuer, texts(entries, "audiences")?, keys.unwrap_or(KeySource::Discovered), leeway)
}

fn to_metadata(node: &Node) -> Result<ClaimToMetadata, Invalid> {
    let entries = fields(node, &["claim", "metadata"])?;
    let word = |key: &str| text(required(entries, key)?).map_err(|e| e.within(key));
    ClaimToMetadata::new(word("claim")?, &word("metadata")?.to_ascii_lowercase())
}

fn claim_rule(index: usize, node: &Node) -> Result<ClaimRule, Invalid> {
    let entries = fields(node, &["name", "action", "claims", "methods"])?;
    let rule = ClaimRule {
        name: find(entries, "name").map_or_else(|| Ok(Rule::name_of_place(index)), |it| parsed("name", it))?,
        action: within(entries, "action", action)?.unwrap_or_default(),
        claims: items(entries, "claims", |_, node| claim_match(node))?,
        methods: methods(entries)?,
    };
    rule.checked()
}

fn claim_match(node: &Node) -> Result<ClaimMatch, Invalid> {
    let entries = fields(node, &["claim", "any_of", "is"])?;
    let claim = text(required(entries, "claim")?).map_err(|e| e.within("claim"))?;
    let one = within(entries, "is", |node| Ok(Arc::from(written(node)?)))?;
    match (one, find(entries, "any_of")) {
        (Some(_), Some(_)) => Err(Invalid::new("is", "give only one of is, any_of")),
        (Some(one), None) => ClaimMatch::new(claim, vec![one]),
        (None, _) => ClaimMatch::new(claim, texts(entries, "any_of")?),
    }
}

pub(super) fn rate_limit(node: &Node) -> Result<RateLimit, Invalid> {
    let entries = fields(node, &["rules"])?;
    required(entries, "rules")?;
    RateLimit::new(items(entries, "rules", limit_rule)?)
}

fn limit_rule(index: usize, node: &Node) -> Result<LimitRule, Invalid> {
    let entries = fields(node, &["name", "methods", "per", "calls", "every", "burst"])?;
    required(entries, "calls")?;
    let calls = count(entries, "calls")?.unwrap_or_default();
    let rule = LimitRule {
        name: find(entries, "name").map_or_else(|| Ok(Rule::name_of_place(index)), |it| parsed("name", it))?,
        methods: methods(entries)?,
        per: items(entries, "per", |_, node| per(node))?.into_iter().collect(),
        calls,
        every: time(entries, "every")?.unwrap_or(Duration::from_secs(1)),
        burst: count(entries, "burst")?.unwrap_or(calls),
    };
    rule.checked()
}

fn per(node: &Node) -> Result<Per, Invalid> {
    match text(node)? {
        "client" => Ok(Per::Client),
        "address" => Ok(Per::Address),
        "method" => Ok(Per::Method),
        other => Err(one_of(other, &["client", "address", "method"])),
    }
}

pub(super) fn api_key(node: &Node) -> Result<ApiKey, Invalid> {
    let entries = fields(node, &["sha256", "claims", "expires"])?;
    let claims = match find(entries, "claims").map(|it| &it.value) {
        None => Ok(Vec::new()),
        Some(Value::Map(claims)) => {
            let claim = |it: &Entry| -> Result<(Arc<str>, Arc<str>), Invalid> {
                let value = written(&it.value).map_err(|e| e.within(&it.key))?;
                Ok((it.key.as_str().into(), value.into()))
            };
            claims.iter().map(claim).collect::<Result<Vec<_>, Invalid>>()
        }
        Some(other) => Err(Invalid::new("", format!("expected a table, found {}", other.sort()))),
    };
    let key = ApiKey {
        digest: parsed("sha256", required(entries, "sha256")?)?,
        claims: claims.map_err(|e| e.within("claims"))?.into_iter().collect(),
        expires: within(entries, "expires", |node| units::moment(text(node)?))?,
    };
    key.checked()
}

pub(super) fn cache(node: &Node) -> Result<Cache, Invalid> {
    let entries = fields(node, &["methods", "ttl", "per_caller", "epoch", "off"])?;
    let cache = Cache {
        methods: methods(entries)?,
        ttl: time(entries, "ttl")?.unwrap_or_default(),
        per_caller: within(entries, "per_caller", flag)?.unwrap_or_default(),
        epoch: count(entries, "epoch")?.unwrap_or_default(),
        off: within(entries, "off", flag)?.unwrap_or_default(),
    };
    cache.checked()
}

pub(super) fn limits(node: &Node) -> Result<Limits, Invalid> {
    let known = [
        "methods",
        "max_request_bytes",
        "max_header_bytes",
        "max_uri_bytes",
        "max_depth",
        "max_elements",
        "timeout",
        "body_timeout",
    ];
    let entries = fields(node, &known)?;
    let limits = Limits {
        methods: methods(entries)?,
        max_request_bytes: count(entries, "max_request_bytes")?,
        max_header_bytes: count(entries, "max_header_bytes")?,
        max_uri_bytes: count(entries, "max_uri_bytes")?,
        max_depth: count(entries, "max_depth")?,
        max_elements: count(entries, "max_elements")?,
        timeout: time(entries, "timeout")?,
        body_timeout: time(entries, "body_timeout")?,
    };
    limits.checked()
}

pub(super) fn headers(node: &Node) -> Result<Headers, Invalid> {
    let entries = fields(node, &["methods", "request", "response"])?;
    let headers = Headers {
        methods: methods(entries)?,
        request: items(entries, "request", |_, node| header_rule(node))?,
        response: items(entries, "response", |_, node| header_rule(node))?,
    };
    headers.checked()
}

pub(super) fn transcoding(node: &Node) -> Result<Transcoding, Invalid> {
    let entries = fields(node, &["methods", "infer_update_mask", "stream_format", "json_output"])?;
    let transcoding = Transcoding {
        methods: methods(entries)?,
        infer_update_mask: within(entries, "infer_update_mask", flag)?,
        stream_format: within(entries, "stream_format", stream_format)?,
        json_output: within(entries, "json_output", json_output)?.unwrap_or_default(),
    };
    transcoding.checked()
}

fn stream_format(node: &Node) -> Result<StreamFormat, Invalid> {
    match text(node)? {
        "json_array" => Ok(StreamFormat::JsonArray),
        "ndjson" => Ok(StreamFormat::Ndjson),
        "sse" => Ok(StreamFormat::Sse),
        other => Err(one_of(other, &["json_array", "ndjson", "sse"])),
    }
}

fn json_output(node: &Node) -> Result<JsonOutput, Invalid> {
    let entries = fields(node, &["emit_defaults", "preserve_proto_names", "enums_as_ints"])?;
    Ok(JsonOutput {
        emit_defaults: within(entries, "emit_defaults", flag)?,
        preserve_proto_names: within(entries, "preserve_proto_names", flag)?,
        enums_as_ints: within(entries, "enums_as_ints", flag)?,
    })
}

fn header_rule(node: &Node) -> Result<HeaderRule, Invalid> {
    const CHANGES: [&str; 4] = ["remove", "rename", "set", "append"];
    let entries = fields(node, &["name", "remove", "rename", "set", "append"])?;
    let name = text(required(entries, "name")?).map_err(|e| e.within("name"))?.to_ascii_lowercase();
    let mut said = CHANGES.into_iter().filter_map(|key| find(entries, key).map(|node| (key, node)));
    let Some((key, node)) = said.next() else {
        return Err(Invalid::new("", format!("says nothing: give one of {}", CHANGES.join(", "))));
    };
    if let Some((second, _)) = said.next() {
        return Err(Invalid::new(second, "a rule does one thing: write a second one for this"));
    }
    let change = match key {
        "remove" => match flag(node) {
            Ok(true) => Ok(HeaderChange::Remove),
            Ok(false) => Err(Invalid::new("", "must be true; leave the rule out to leave the header alone")),
            Err(error) => Err(error),
        },
        "rename" => text(node).map(|it| HeaderChange::Rename(it.to_ascii_lowercase().into())),
        "set" => written(node).map(|it| HeaderChange::Set(it.into())),
        _ => written(node).map(|it| HeaderChange::Append(it.into())),
    };
    HeaderRule::new(&name, change.map_err(|e| e.within(key))?)
}

pub(super) fn http(node: &Node) -> Result<HttpRules, Invalid> {
    let entries = fields(node, &["rules"])?;
    required(entries, "rules")?;
    HttpRules::new(items(entries, "rules", |_, node| http_rule(node))?)
}

pub(super) fn http_rule(node: &Node) -> Result<HttpRule, Invalid> {
    let known: Vec<&str> = ["selector"].into_iter().chain(BINDING).chain(["additional_bindings"]).collect();
    let entries = fields(node, &known)?;
    let selector = parsed("selector", required(entries, "selector")?)?;
    let additional = items(entries, "additional_bindings", |_, node| binding(fields(node, &BINDING)?))?;
    HttpRule::new(selector, binding(entries)?, additional)
}

/// Where a rule says a method of HTTP and a path.
const PATTERNS: [&str; 6] = ["get", "put", "post", "delete", "patch", "custom"];
const BINDING: [&str; 8] = ["get", "put", "post", "delete", "patch", "custom", "body", "response_body"];

fn binding(entries: &[Entry]) -> Result<HttpBinding, Invalid> {
    let mut said = PATTERNS.into_iter().filter_map(|key| find(entries, key).map(|node| (key, node)));
    let Some((key, node)) = said.next() else {
        return Err(Invalid::new("", format!("names no path: give one of {}", PATTERNS.join(", "))));
    };
    if let Some((second, _)) = said.next() {
        return Err(Invalid::new(second, "a binding has one path: put this one under additional_bindings"));
    }
    let (kind, template) = match HttpKind::of_field(key) {
        Some(kind) => (kind, text(node).and_then(HttpBinding::template).map_err(|e| e.within(key))?),
        None => custom(node).map_err(|e| e.within(key))?,
    };
    let field = |key: &str| -> Result<FieldName, Invalid> {
        Ok(within(entries, key, |node| text(node)?.parse())?.unwrap_or_default())
    };
    Ok(HttpBinding { kind, template, body: field("body")?, response_body: field("response_body")? })
}

fn custom(node: &Node) -> Result<(HttpKind, weft_model::template::Template), Invalid> {
    let entries = fields(node, &["kind", "path"])?;
    let path = text(required(entries, "path")?).and_then(HttpBinding::template).map_err(|e| e.within("path"))?;
    Ok((parsed("kind", required(entries, "kind")?)?, path))
}

/// Reads the items of a list that may be left out.
fn items<T>(
    entries: &[Entry],
    key: &str,
    read: impl Fn(usize, &Node) -> Result<T, Invalid>,
) -> Result<Vec<T>, Invalid> {
    let Some(node) = find(entries, key) else { return Ok(Vec::new()) };
    let items = list(node).map_err(|e| e.within(key))?;
    let read = |(index, item)| read(index, item).map_err(|e| e.within(&format!("{key}[{index}]")));
    items.iter().enumerate().map(read).collect()
}

/// Texts, or numbers as they were written.
fn texts(entries: &[Entry], key: &str) -> Result<Vec<Arc<str>>, Invalid> {
    items(entries, key, |_, node| Ok(written(node)?.into()))
}

/// Which methods a policy is about; a list that is there names some.
fn methods(entries: &[Entry]) -> Result<Methods, Invalid> {
    let methods: Vec<_> = each(entries, "methods")?;
    if methods.is_empty() && find(entries, "methods").is_some() {
        return Err(Invalid::new("methods", "is empty, which would mean every method; leave it out to mean that"));
    }
    Methods::new(methods)
}

/// Names of headers, which people may write as they like.
fn names(entries: &[Entry], key: &str) -> Result<Vec<Arc<str>>, Invalid> {
    let Some(node) = find(entries, key) else { return Ok(Vec::new()) };
    let items = list(node).map_err(|e| e.within(key))?;
    let name = |(index, item)| {
        let name = text(item).map_err(|e| e.within(&format!("{key}[{index}]")))?;
        Ok(name.to_ascii_lowercase().into())
    };
    items.iter().enumerate().map(name).collect()
}
