//! Conversions of edge policies.
//!
//! Lives here: into the model with the field path of what is wrong, `From` back. Does not: other kinds (`policy`, `policy::route`).

use std::time::Duration;

use model::Invalid;
use weft_model as model;

use super::{action, action_to_wire, each, rule_name};
use crate::weft::policy::v1 as pb;

pub(super) fn cors(it: pb::Cors) -> Result<model::PolicyKind, Invalid> {
    let cors = model::Cors {
        methods: methods(&it.methods)?,
        origins: each("origins", &it.origins)?,
        http_methods: each("http_methods", &it.http_methods)?,
        headers: it.headers.into_iter().map(Into::into).collect(),
        expose: it.expose.into_iter().map(Into::into).collect(),
        credentials: it.credentials,
        max_age: time(it.max_age_ms).unwrap_or(model::Cors::DEFAULT_MAX_AGE),
    };
    Ok(model::PolicyKind::Edge(model::Edge::Cors(cors.checked()?)))
}

pub(super) fn authentication(it: pb::Authentication) -> Result<model::PolicyKind, Invalid> {
    let header = it.api_keys.map(|it| match it.header.as_str() {
        "" => model::Authentication::API_KEY_HEADER.into(),
        header => header.into(),
    });
    let authentication = model::Authentication {
        methods: methods(&it.methods)?,
        jwt: indexed("jwt", it.jwt, |_, it| jwt(it))?,
        api_key_header: header,
        certificates: it.certificates,
        anonymous: it.anonymous,
        to_metadata: indexed("to_metadata", it.to_metadata, |_, it| {
            model::ClaimToMetadata::new(&it.claim, &it.metadata)
        })?,
        forward: it.forward_credentials,
        rules: indexed("rules", it.rules, claim_rule)?,
    };
    Ok(model::PolicyKind::Edge(model::Edge::Authentication(authentication.checked()?)))
}

fn jwt(it: pb::Jwt) -> Result<model::Jwt, Invalid> {
    let keys = match it.jwks_uri.as_str() {
        "" => model::KeySource::Discovered,
        url => model::KeySource::Url(url.into()),
    };
    let leeway = it.leeway_ms.map_or(model::Jwt::DEFAULT_LEEWAY, |ms| Duration::from_millis(ms.into()));
    model::Jwt::new(&it.issuer, it.audiences.into_iter().map(Into::into).collect(), keys, leeway)
}

fn claim_rule(index: usize, it: pb::ClaimRule) -> Result<model::ClaimRule, Invalid> {
    let rule = model::ClaimRule {
        name: rule_name(index, &it.name)?,
        action: action(it.action)?,
        claims: indexed("claims", it.claims, |_, it| {
            model::ClaimMatch::new(&it.claim, it.any_of.into_iter().map(Into::into).collect())
        })?,
        methods: methods(&it.methods)?,
    };
    rule.checked()
}

pub(super) fn rate_limit(it: pb::RateLimit) -> Result<model::PolicyKind, Invalid> {
    let limit = model::RateLimit::new(indexed("rules", it.rules, limit_rule)?)?;
    Ok(model::PolicyKind::Edge(model::Edge::RateLimit(limit)))
}

fn limit_rule(index: usize, it: pb::LimitRule) -> Result<model::LimitRule, Invalid> {
    let per = |_: usize, it: i32| match pb::limit_rule::Per::try_from(it) {
        Ok(pb::limit_rule::Per::Client) => Ok(model::Per::Client),
        Ok(pb::limit_rule::Per::Address) => Ok(model::Per::Address),
        Ok(pb::limit_rule::Per::Method) => Ok(model::Per::Method),
        Ok(pb::limit_rule::Per::Unspecified) | Err(_) => Err(Invalid::new("", format!("{it} is not known here"))),
    };
    let rule = model::LimitRule {
        name: rule_name(index, &it.name)?,
        methods: methods(&it.methods)?,
        per: indexed("per", it.per, per)?.into_iter().collect(),
        calls: it.calls,
        every: time(it.every_ms).unwrap_or(Duration::from_secs(1)),
        burst: if it.burst == 0 { it.calls } else { it.burst },
    };
    rule.checked()
}

pub(super) fn api_key(it: pb::ApiKey) -> Result<model::PolicyKind, Invalid> {
    let digest = <[u8; 32]>::try_from(&it.sha256[..]);
    let key = model::ApiKey {
        digest: model::KeyDigest(digest.map_err(|_| Invalid::new("sha256", "is no SHA-256: it has 32 bytes"))?),
        claims: it.claims.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        expires: (it.expires_ms > 0).then_some(it.expires_ms),
    };
    Ok(model::PolicyKind::Edge(model::Edge::ApiKey(key.checked()?)))
}

pub(super) fn cache(it: pb::Cache) -> Result<model::PolicyKind, Invalid> {
    let cache = model::Cache {
        methods: methods(&it.methods)?,
        ttl: time(it.ttl_ms).unwrap_or_default(),
        per_caller: it.per_caller,
        epoch: it.epoch,
        off: it.off,
    };
    Ok(model::PolicyKind::Edge(model::Edge::Cache(cache.checked()?)))
}

pub(super) fn limits(it: pb::Limits) -> Result<model::PolicyKind, Invalid> {
    let count = |it: u32| (it > 0).then_some(it);
    let limits = model::Limits {
        methods: methods(&it.methods)?,
        max_request_bytes: count(it.max_request_bytes),
        max_header_bytes: count(it.max_header_bytes),
        max_uri_bytes: count(it.max_uri_bytes),
        max_depth: count(it.max_depth),
        max_elements: count(it.max_elements),
        timeout: time(it.timeout_ms),
        body_timeout: time(it.body_timeout_ms),
    };
    Ok(model::PolicyKind::Edge(model::Edge::Limits(limits.checked()?)))
}

pub(super) fn headers(it: pb::Headers) -> Result<model::PolicyKind, Invalid> {
    let headers = model::Headers {
        methods: methods(&it.methods)?,
        request: indexed("request", it.request, |_, it| header_rule(it))?,
        response: indexed("response", it.response, |_, it| header_rule(it))?,
    };
    Ok(model::PolicyKind::Edge(model::Edge::Headers(headers.checked()?)))
}

pub(super) fn transcoding(it: pb::Transcoding) -> Result<model::PolicyKind, Invalid> {
    let stream_format = match pb::transcoding::StreamFormat::try_from(it.stream_format) {
        Ok(pb::transcoding::StreamFormat::Unspecified) => None,
        Ok(pb::transcoding::StreamFormat::JsonArray) => Some(model::StreamFormat::JsonArray),
        Ok(pb::transcoding::StreamFormat::Ndjson) => Some(model::StreamFormat::Ndjson),
        Ok(pb::transcoding::StreamFormat::Sse) => Some(model::StreamFormat::Sse),
        Err(_) => return Err(Invalid::new("stream_format", format!("{} is not known here", it.stream_format))),
    };
    let output = it.json_output.unwrap_or_default();
    let transcoding = model::Transcoding {
        methods: methods(&it.methods)?,
        infer_update_mask: it.infer_update_mask,
        stream_format,
        json_output: model::JsonOutput {
            emit_defaults: output.emit_defaults,
            preserve_proto_names: output.preserve_proto_names,
            enums_as_ints: output.enums_as_ints,
        },
    };
    Ok(model::PolicyKind::Edge(model::Edge::Transcoding(transcoding.checked()?)))
}

fn header_rule(it: pb::HeaderRule) -> Result<model::HeaderRule, Invalid> {
    let change = match it.change {
        Some(pb::header_rule::Change::Remove(true)) => model::HeaderChange::Remove,
        Some(pb::header_rule::Change::Remove(false)) => return Err(Invalid::new("remove", "must be true")),
        Some(pb::header_rule::Change::Rename(to)) => model::HeaderChange::Rename(to.into()),
        Some(pb::header_rule::Change::Set(value)) => model::HeaderChange::Set(value.into()),
        Some(pb::header_rule::Change::Append(value)) => model::HeaderChange::Append(value.into()),
        None => return Err(Invalid::new("change", "set one of remove, rename, set, append")),
    };
    model::HeaderRule::new(&it.name, change)
}

fn header_rule_to_wire(it: &model::HeaderRule) -> pb::HeaderRule {
    let change = match it.change() {
        model::HeaderChange::Remove => pb::header_rule::Change::Remove(true),
        model::HeaderChange::Rename(to) => pb::header_rule::Change::Rename(to.to_string()),
        model::HeaderChange::Set(value) => pb::header_rule::Change::Set(value.to_string()),
        model::HeaderChange::Append(value) => pb::header_rule::Change::Append(value.to_string()),
    };
    pb::HeaderRule { name: it.name().to_owned(), change: Some(change) }
}

/// Reads the items of a list, with their place in what is wrong.
pub(super) fn indexed<T, U>(
    field: &str,
    items: Vec<T>,
    read: impl Fn(usize, T) -> Result<U, Invalid>,
) -> Result<Vec<U>, Invalid> {
    let read = |(index, item)| read(index, item).map_err(|e| e.within(&format!("{field}[{index}]")));
    items.into_iter().enumerate().map(read).collect()
}

fn methods(texts: &[String]) -> Result<model::Methods, Invalid> {
    model::Methods::new(each("methods", texts)?)
}

/// 0 is none.
fn time(ms: u32) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms.into()))
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

impl From<&model::Edge> for pb::policy::Kind {
    fn from(it: &model::Edge) -> Self {
        match it {
            model::Edge::Cors(it) => Self::Cors(pb::Cors {
                methods: texts(it.methods.patterns()),
                origins: texts(&it.origins),
                http_methods: it.http_methods.iter().map(|it| it.as_str().to_owned()).collect(),
                headers: texts(&it.headers),
                expose: texts(&it.expose),
                credentials: it.credentials,
                max_age_ms: millis(it.max_age),
            }),
            model::Edge::Authentication(it) => Self::Authentication(it.into()),
            model::Edge::RateLimit(it) => {
                Self::RateLimit(pb::RateLimit { rules: it.rules().iter().map(Into::into).collect() })
            }
            model::Edge::ApiKey(it) => Self::ApiKey(pb::ApiKey {
                sha256: it.digest.0.to_vec().into(),
                claims: it.claims.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
                expires_ms: it.expires.unwrap_or_default(),
            }),
            model::Edge::Headers(it) => Self::Headers(pb::Headers {
                methods: texts(it.methods.patterns()),
                request: it.request.iter().map(header_rule_to_wire).collect(),
                response: it.response.iter().map(header_rule_to_wire).collect(),
            }),
            model::Edge::Http(it) => Self::Http(it.into()),
            model::Edge::Limits(it) => Self::Limits(pb::Limits {
                methods: texts(it.methods.patterns()),
                max_request_bytes: it.max_request_bytes.unwrap_or_default(),
                max_header_bytes: it.max_header_bytes.unwrap_or_default(),
                max_uri_bytes: it.max_uri_bytes.unwrap_or_default(),
                max_depth: it.max_depth.unwrap_or_default(),
                max_elements: it.max_elements.unwrap_or_default(),
                timeout_ms: it.timeout.map_or(0, millis),
                body_timeout_ms: it.body_timeout.map_or(0, millis),
            }),
            model::Edge::Transcoding(it) => Self::Transcoding(it.into()),
            model::Edge::Cache(it) => Self::Cache(pb::Cache {
                methods: texts(it.methods.patterns()),
                ttl_ms: millis(it.ttl),
                per_caller: it.per_caller,
                epoch: it.epoch,
                off: it.off,
            }),
        }
    }
}

impl From<&model::Transcoding> for pb::Transcoding {
    fn from(it: &model::Transcoding) -> Self {
        let stream_format = match it.stream_format {
            None => pb::transcoding::StreamFormat::Unspecified,
            Some(model::StreamFormat::JsonArray) => pb::transcoding::StreamFormat::JsonArray,
            Some(model::StreamFormat::Ndjson) => pb::transcoding::StreamFormat::Ndjson,
            Some(model::StreamFormat::Sse) => pb::transcoding::StreamFormat::Sse,
        };
        let model::JsonOutput { emit_defaults, preserve_proto_names, enums_as_ints } = it.json_output;
        let output = pb::transcoding::JsonOutput { emit_defaults, preserve_proto_names, enums_as_ints };
        Self {
            methods: texts(it.methods.patterns()),
            infer_update_mask: it.infer_update_mask,
            stream_format: stream_format.into(),
            json_output: (it.json_output != model::JsonOutput::default()).then_some(output),
        }
    }
}

impl From<&model::Authentication> for pb::Authentication {
    fn from(it: &model::Authentication) -> Self {
        let to_metadata = |it: &model::ClaimToMetadata| pb::ClaimToMetadata {
            claim: it.claim().to_string(),
            metadata: it.metadata().to_string(),
        };
        Self {
            methods: texts(it.methods.patterns()),
            jwt: it.jwt.iter().map(Into::into).collect(),
            api_keys: it
                .api_key_header
                .as_ref()
                .map(|header| pb::authentication::ApiKeys { header: header.to_string() }),
            certificates: it.certificates,
            anonymous: it.anonymous,
            to_metadata: it.to_metadata.iter().map(to_metadata).collect(),
            forward_credentials: it.forward,
            rules: it.rules.iter().map(Into::into).collect(),
        }
    }
}

impl From<&model::Jwt> for pb::Jwt {
    fn from(it: &model::Jwt) -> Self {
        let jwks_uri = match it.keys() {
            model::KeySource::Url(url) => url.to_string(),
            model::KeySource::Discovered => String::new(),
        };
        let (issuer, leeway_ms) = (it.issuer().to_string(), Some(millis(it.leeway())));
        Self { issuer, audiences: texts(it.audiences()), jwks_uri, leeway_ms }
    }
}

impl From<&model::ClaimRule> for pb::ClaimRule {
    fn from(it: &model::ClaimRule) -> Self {
        let claim =
            |it: &model::ClaimMatch| pb::ClaimMatch { claim: it.claim().to_string(), any_of: texts(it.any_of()) };
        Self {
            name: it.name.to_string(),
            action: action_to_wire(it.action).into(),
            claims: it.claims.iter().map(claim).collect(),
            methods: texts(it.methods.patterns()),
        }
    }
}

impl From<&model::LimitRule> for pb::LimitRule {
    fn from(it: &model::LimitRule) -> Self {
        let per = |it: &model::Per| -> i32 {
            match it {
                model::Per::Client => pb::limit_rule::Per::Client.into(),
                model::Per::Address => pb::limit_rule::Per::Address.into(),
                model::Per::Method => pb::limit_rule::Per::Method.into(),
            }
        };
        Self {
            name: it.name.to_string(),
            methods: texts(it.methods.patterns()),
            per: it.per.iter().map(per).collect(),
            calls: it.calls,
            every_ms: millis(it.every),
            burst: it.burst,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(kind: pb::policy::Kind) -> pb::Policy {
        pb::Policy { name: "edge".into(), service: "gateway.default".into(), version: 7, kind: Some(kind) }
    }

    fn cors() -> pb::Cors {
        pb::Cors {
            methods: vec!["a.B/*".into()],
            origins: vec!["https://a.example".into(), "https://*.b.example".into()],
            http_methods: vec!["GET".into()],
            headers: vec!["x-tenant".into()],
            expose: vec!["etag".into()],
            credentials: true,
            max_age_ms: 60_000,
        }
    }

    fn authentication() -> pb::Authentication {
        pb::Authentication {
            methods: vec!["a.B/C".into()],
            jwt: vec![pb::Jwt {
                issuer: "https://issuer.example".into(),
                audiences: vec!["shop".into()],
                jwks_uri: "https://issuer.example/keys".into(),
                leeway_ms: Some(0),
            }],
            api_keys: Some(pb::authentication::ApiKeys { header: "x-key".into() }),
            certificates: true,
            anonymous: true,
            to_metadata: vec![pb::ClaimToMetadata { claim: "sub".into(), metadata: "x-user".into() }],
            forward_credentials: true,
            rules: vec![pb::ClaimRule {
                name: "admins".into(),
                action: pb::rule::Action::Deny.into(),
                claims: vec![pb::ClaimMatch { claim: "roles".into(), any_of: vec!["admin".into()] }],
                methods: vec!["a.B/*".into()],
            }],
        }
    }

    fn rate_limit() -> pb::RateLimit {
        let rule = pb::LimitRule {
            name: "each".into(),
            methods: vec!["a.B/*".into()],
            per: vec![pb::limit_rule::Per::Client.into(), pb::limit_rule::Per::Method.into()],
            calls: 10,
            every_ms: 60_000,
            burst: 5,
        };
        pb::RateLimit { rules: vec![rule] }
    }

    fn headers() -> pb::Headers {
        let rule = |name: &str, change| pb::HeaderRule { name: name.into(), change: Some(change) };
        pb::Headers {
            methods: vec!["a.B/C".into()],
            request: vec![
                rule("x-a", pb::header_rule::Change::Remove(true)),
                rule("x-b", pb::header_rule::Change::Rename("x-c".into())),
            ],
            response: vec![
                rule("x-d", pb::header_rule::Change::Set("1".into())),
                rule("x-e", pb::header_rule::Change::Append("2".into())),
            ],
        }
    }

    fn transcoding(stream_format: pb::transcoding::StreamFormat) -> pb::Transcoding {
        let json_output = pb::transcoding::JsonOutput {
            emit_defaults: Some(true),
            preserve_proto_names: Some(false),
            enums_as_ints: None,
        };
        pb::Transcoding {
            methods: vec!["a.B/C".into()],
            infer_update_mask: Some(true),
            stream_format: stream_format.into(),
            json_output: Some(json_output),
        }
    }

    fn limits() -> pb::Limits {
        pb::Limits {
            methods: vec!["a.B/C".into()],
            max_request_bytes: 1,
            max_header_bytes: 2,
            max_uri_bytes: 3,
            max_depth: 4,
            timeout_ms: 5,
            body_timeout_ms: 6,
            max_elements: 7,
        }
    }

    fn cache() -> pb::Cache {
        pb::Cache { methods: vec!["a.B/C".into()], ttl_ms: 30_000, per_caller: true, epoch: 2, off: false }
    }

    #[test]
    fn defaults_of_the_wire_are_the_documents() {
        let read = |kind| match model::Policy::try_from(policy(kind)).unwrap().kind {
            model::PolicyKind::Edge(it) => it,
            other => panic!("{other:?}"),
        };
        let short = pb::Authentication {
            jwt: vec![pb::Jwt {
                issuer: "https://a.example".into(),
                audiences: vec!["b".into()],
                ..pb::Jwt::default()
            }],
            api_keys: Some(pb::authentication::ApiKeys::default()),
            ..pb::Authentication::default()
        };
        let model::Edge::Authentication(it) = read(pb::policy::Kind::Authentication(short)) else { panic!() };
        assert_eq!(it.api_key_header.as_deref(), Some("x-api-key"));
        assert_eq!((it.jwt[0].keys(), it.jwt[0].leeway()), (&model::KeySource::Discovered, Duration::from_secs(30)));
        let short = pb::LimitRule { calls: 7, ..pb::LimitRule::default() };
        let model::Edge::RateLimit(it) = read(pb::policy::Kind::RateLimit(pb::RateLimit { rules: vec![short] })) else {
            panic!()
        };
        let rule = &it.rules()[0];
        assert_eq!((rule.name.as_str(), rule.burst, rule.every), ("rule-1", 7, Duration::from_secs(1)));
    }

    #[test]
    fn what_is_wrong_with_callers_and_limits_is_named_by_its_path() {
        let of = |kind| model::Policy::try_from(policy(kind)).unwrap_err().field().to_owned();
        let broken = |breaking: fn(&mut pb::Authentication)| {
            let mut it = authentication();
            breaking(&mut it);
            of(pb::policy::Kind::Authentication(it))
        };
        assert_eq!(broken(|it| it.jwt[0].audiences.clear()), "authentication.jwt[0].audiences");
        assert_eq!(broken(|it| it.jwt[0].jwks_uri = "http://a.example/".into()), "authentication.jwt[0].jwks_uri");
        assert_eq!(broken(|it| it.to_metadata[0].metadata = "te".into()), "authentication.to_metadata[0].metadata");
        assert_eq!(broken(|it| it.rules[0].action = 9), "authentication.rules[0].action");
        assert_eq!(broken(|it| it.rules[0].claims[0].claim.clear()), "authentication.rules[0].claims[0].claim");
        let limited = |breaking: fn(&mut pb::LimitRule)| {
            let mut it = rate_limit();
            breaking(&mut it.rules[0]);
            of(pb::policy::Kind::RateLimit(it))
        };
        assert_eq!(limited(|it| it.calls = 0), "rate_limit.rules[0].calls");
        assert_eq!(limited(|it| it.per[1] = 9), "rate_limit.rules[0].per[1]");
        assert_eq!(of(pb::policy::Kind::ApiKey(pb::ApiKey::default())), "api_key.sha256");
        assert_eq!(of(pb::policy::Kind::Cache(pb::Cache { off: true, ..cache() })), "cache.off");
        assert_eq!(of(pb::policy::Kind::Limits(pb::Limits { max_depth: 101, ..limits() })), "limits.max_depth");
        let mut wrong = headers();
        wrong.response[1].change = Some(pb::header_rule::Change::Remove(false));
        assert_eq!(of(pb::policy::Kind::Headers(wrong)), "headers.response[1].remove");
        let transcoding = transcoding(pb::transcoding::StreamFormat::Unspecified);
        let later = pb::Transcoding { stream_format: 9, ..transcoding.clone() };
        assert_eq!(of(pb::policy::Kind::Transcoding(later)), "transcoding.stream_format");
        let wrong = pb::Transcoding { methods: vec!["B".into()], ..transcoding };
        assert_eq!(of(pb::policy::Kind::Transcoding(wrong)), "transcoding.methods[0]");
        assert_eq!(of(pb::policy::Kind::Transcoding(pb::Transcoding::default())), "transcoding");
    }

    #[test]
    fn edge_policies_survive_the_way_through_the_model() {
        let digest = pb::ApiKey {
            sha256: vec![7; 32].into(),
            claims: [("plan".to_owned(), "gold".to_owned())].into(),
            expires_ms: 5,
        };
        for kind in [
            pb::policy::Kind::Cors(cors()),
            pb::policy::Kind::Authentication(authentication()),
            pb::policy::Kind::RateLimit(rate_limit()),
            pb::policy::Kind::ApiKey(digest),
            pb::policy::Kind::Cache(cache()),
            pb::policy::Kind::Limits(limits()),
            pb::policy::Kind::Headers(headers()),
            pb::policy::Kind::Transcoding(transcoding(pb::transcoding::StreamFormat::Sse)),
            pb::policy::Kind::Transcoding(transcoding(pb::transcoding::StreamFormat::Ndjson)),
            pb::policy::Kind::Transcoding(transcoding(pb::transcoding::StreamFormat::JsonArray)),
            pb::policy::Kind::Transcoding(pb::Transcoding {
                infer_update_mask: Some(false),
                ..pb::Transcoding::default()
            }),
            pb::policy::Kind::Cache(pb::Cache { off: true, ..pb::Cache::default() }),
        ] {
            let model = model::Policy::try_from(policy(kind.clone())).unwrap();
            assert_eq!(pb::Policy::from(&model), policy(kind));
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let broken = |breaking: fn(&mut pb::Cors)| {
            let mut it = cors();
            breaking(&mut it);
            model::Policy::try_from(policy(pb::policy::Kind::Cors(it))).unwrap_err().field().to_owned()
        };
        assert_eq!(broken(|it| it.origins[1] = "b.example".into()), "cors.origins[1]");
        assert_eq!(broken(|it| it.origins.clear()), "cors.origins");
        assert_eq!(broken(|it| it.origins.push("*".into())), "cors.origins");
        assert_eq!(broken(|it| it.http_methods[0] = "get".into()), "cors.http_methods[0]");
        assert_eq!(broken(|it| it.headers[0] = "X".into()), "cors.headers[0]");
        assert_eq!(broken(|it| it.methods[0] = "B".into()), "cors.methods[0]");
    }

    #[test]
    fn what_a_later_registry_says_lets_nobody_in() {
        let later = pb::Cors { origins: vec!["regex:.*".into()], ..cors() };
        let said =
            crate::weft::discovery::v1::ServicePolicies { policies: vec![policy(pb::policy::Kind::Cors(later))] };
        let (read, problems) = super::super::stored_policies(&"gateway".parse().unwrap(), said);
        assert_eq!(read[0].kind, model::PolicyKind::Edge(model::Edge::Cors(model::Cors::closed())));
        assert_eq!(problems.len(), 1);

        let unread = [
            pb::policy::Kind::Authentication(pb::Authentication::default()),
            pb::policy::Kind::RateLimit(pb::RateLimit::default()),
            pb::policy::Kind::ApiKey(pb::ApiKey::default()),
            pb::policy::Kind::Cache(pb::Cache { off: true, ..cache() }),
            pb::policy::Kind::Limits(pb::Limits::default()),
            pb::policy::Kind::Transcoding(pb::Transcoding { stream_format: 9, ..pb::Transcoding::default() }),
        ];
        let policies = unread.into_iter().map(policy).collect();
        let said = crate::weft::discovery::v1::ServicePolicies { policies };
        let (read, problems) = super::super::stored_policies(&"gateway".parse().unwrap(), said);
        let kinds: Vec<_> = read.into_iter().map(|it| it.kind).collect();
        let closed = [
            model::PolicyKind::Edge(model::Edge::Authentication(model::Authentication::closed())),
            model::PolicyKind::Edge(model::Edge::RateLimit(model::RateLimit::closed())),
            model::PolicyKind::Edge(model::Edge::Cache(model::Cache::closed())),
            model::PolicyKind::Edge(model::Edge::Limits(model::Limits::closed())),
        ];
        assert_eq!((kinds.as_slice(), problems.len()), (closed.as_slice(), 6));
    }
}
