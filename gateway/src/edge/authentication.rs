//! Authentication: who calls, by the token or key that a call shows, and whether that caller may.
//!
//! Lives here: an authentication policy compiled, and what of it is about one method. Does not: the token's checks (`edge::jwt`), getting keys of issuers (`edge::issuers`),
//! which API keys there are (`edge::api_keys`), order and shape of refusals (`edge::guard`, `protocol`).
//! Invariants: what the policy writes as metadata cannot be said by a caller; a credential goes on only where the policy says so; none is logged.
//! A token that is shown again costs a hash in place of a signature's check.

use std::{sync::Arc, time::SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use prometheus_client::metrics::counter::Counter;
use serde_json::Value;
use weft_model::{Action, Authentication as Policy, ClaimMatch, Jwt, Methods, PolicyName, ServiceName};
use weft_transcode::openapi::Security;

use crate::{
    edge::{
        api_keys::ApiKeys,
        guard::{By, Refusal},
        issuers::IssuerKeys,
        jwt::{
            Claims, Token, TokenError, check_times,
            verified::{self, Known, Verified},
        },
        metrics::Refusals,
        names,
    },
    tls::peer::Peer,
};

/// Who calls.
#[derive(Debug, Clone)]
pub(crate) enum Client {
    /// Not known, and let in all the same.
    Nobody,
    /// Known by a name that is its only one.
    Known(Arc<str>),
}

/// A caller's name, which is its only one, and what is said of it.
type Who = (Arc<str>, Arc<Claims>);

/// Who may call one method.
#[derive(Debug)]
pub(crate) struct Caller {
    by: Arc<Authentication>,
    service: ServiceName,
    /// Those about this method; none: who is known may.
    rules: Option<Box<[Arc<Rule>]>>,
}

/// One policy, ready to judge calls.
#[derive(Debug)]
pub(crate) struct Authentication {
    policy: PolicyName,
    issuers: Box<[(Jwt, Arc<IssuerKeys>)]>,
    /// Tokens that were checked before.
    verified: Verified,
    api_keys: Option<(HeaderName, ApiKeys)>,
    certificates: bool,
    anonymous: bool,
    to_metadata: Box<[Written]>,
    /// Headers with credentials that stay here, and what would become one of the same name.
    kept_back: Box<[HeaderName]>,
    rules: Box<[(Methods, Arc<Rule>)]>,
    challenge: HeaderValue,
    refusals: Refusals,
    clock: fn() -> SystemTime,
}

/// A claim and the metadata that it becomes.
#[derive(Debug)]
struct Written {
    claim: Arc<str>,
    name: HeaderName,
    /// The same as clients of REST may name it.
    alias: HeaderName,
}

#[derive(Debug)]
struct Rule {
    name: Arc<str>,
    action: Action,
    claims: Box<[ClaimMatch]>,
    refusals: Counter,
}

/// What is needed to compile policies.
pub(crate) struct Parts<'p> {
    pub(crate) api_keys: &'p ApiKeys,
    pub(crate) refusals: &'p Refusals,
    pub(crate) clock: fn() -> SystemTime,
}

impl Caller {
    /// What of a policy is about a method of `service`.
    pub(crate) fn new(by: &Arc<Authentication>, service: &ServiceName, grpc_path: &str) -> Self {
        let rules = by.rules.iter().filter(|(methods, _)| methods.include(grpc_path)).map(|(_, rule)| Arc::clone(rule));
        let rules = (!by.rules.is_empty()).then(|| rules.collect());
        Self { by: Arc::clone(by), service: service.clone(), rules }
    }

    /// What a call has to show, for whoever reads the description of the API.
    pub(crate) fn security(&self) -> Security {
        Security {
            bearer: !self.by.issuers.is_empty(),
            api_key: self.by.api_keys.as_ref().map(|(name, _)| name.as_str().to_owned()),
            certificate: self.by.certificates,
            anonymous: self.by.anonymous,
        }
    }

    /// Finds out who calls and whether that caller may; changes the head as the policy says.
    pub(crate) async fn admit(&self, headers: &mut HeaderMap, peer: Option<&Peer>) -> Result<Client, Refusal> {
        let known = match self.by.token(headers).await? {
            Some(known) => Some(known),
            None => self.by.api_key(headers, &self.service)?.or_else(|| self.by.certificate(peer)),
        };
        let (client, claims) = match known {
            Some((client, claims)) => (Client::Known(client), claims),
            None if self.by.anonymous => (Client::Nobody, Arc::default()),
            None => return Err(self.by.unknown("no-credential", "the call shows no credential that counts", None)),
        };
        if let Some(rules) = &self.rules {
            self.by.may(&client, &claims, rules)?;
        }
        self.by.change(headers, &claims);
        Ok(client)
    }
}

impl Authentication {
    /// Compiles a policy whose issuers have these keys.
    pub(crate) fn new(
        policy: &PolicyName,
        it: &Policy,
        issuers: Box<[(Jwt, Arc<IssuerKeys>)]>,
        parts: &Parts<'_>,
    ) -> Self {
        let header = |name: &str| HeaderName::try_from(name).expect("the policy was checked: it names headers");
        let alias = |name: &str| names::prefixed(name).expect("the policy was checked: it names headers");
        let written = it.to_metadata.iter().map(|it| Written {
            claim: Arc::clone(it.claim()),
            name: header(it.metadata()),
            alias: alias(it.metadata()),
        });
        let rules = it.rules.iter().map(|rule| {
            let compiled = Rule {
                name: rule.name.shared(),
                action: rule.action,
                claims: rule.claims.clone().into(),
                refusals: parts.refusals.of(policy, rule.name.as_str()),
            };
            (rule.methods.clone(), Arc::new(compiled))
        });
        let api_keys = it.api_key_header.as_deref().map(|name| (header(name), parts.api_keys.clone()));
        let authorization = (!it.jwt.is_empty()).then_some(header::AUTHORIZATION);
        let shown: Vec<HeaderName> =
            authorization.into_iter().chain(api_keys.iter().map(|(name, _)| name.clone())).collect();
        let aliases = shown.iter().map(|name| alias(name.as_str()));
        let kept_back = aliases.chain(shown.iter().filter(|_| !it.forward).cloned()).collect();
        let scheme = if it.jwt.is_empty() && it.api_key_header.is_some() { "ApiKey" } else { "Bearer" };
        Self {
            policy: policy.clone(),
            issuers,
            verified: Verified::default(),
            api_keys,
            certificates: it.certificates,
            anonymous: it.anonymous,
            to_metadata: written.collect(),
            kept_back,
            rules: rules.collect(),
            challenge: HeaderValue::try_from(format!("{scheme} realm=\"weft\"")).expect("constants are valid"),
            refusals: parts.refusals.clone(),
            clock: parts.clock,
        }
    }

    /// Who the bearer token says; none if the call shows none, or none would count.
    async fn token(&self, headers: &HeaderMap) -> Result<Option<Who>, Refusal> {
        let mut shown = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), false) = (shown.next(), self.issuers.is_empty()) else { return Ok(None) };
        if shown.next().is_some() {
            return Err(self.bad_token(TokenError::Malformed));
        }
        let bearer = value.to_str().ok().and_then(|value| value.split_once(' '));
        let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
        let text = bearer.ok_or_else(|| self.bad_token(TokenError::Malformed))?;
        let name = verified::name(text);
        if let Some(known) = name.as_ref().and_then(|it| self.known(it)) {
            return Ok(Some((known.client, known.claims)));
        }
        let token = Token::read(text).map_err(|e| self.bad_token(e))?;
        let issuer = token.issuer().unwrap_or_default();
        let Some(at) = self.issuers.iter().position(|(jwt, _)| **jwt.issuer() == *issuer) else {
            return Err(self.bad_token(TokenError::Issuer));
        };
        let (jwt, keys) = &self.issuers[at];
        let keys = keys.with(token.key_id()).await.map_err(|error| {
            // No rule refuses the call, but whose wish it is that keys are asked for helps whoever looks into it.
            Refusal::unavailable(format!("{error}: policy {}", self.policy))
        })?;
        let claims = Arc::new(token.verify(&keys, jwt, (self.clock)()).map_err(|e| self.bad_token(e))?);
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        let client: Arc<str> = format!("jwt {} {subject}", jwt.issuer()).into();
        if let Some(name) = name {
            let (client, claims, keys) = (Arc::clone(&client), Arc::clone(&claims), Arc::downgrade(&keys));
            self.verified.put(name, Known { issuer: at, client, claims, keys });
        }
        Ok(Some((client, claims)))
    }

    /// Who shows a token that was checked before and still counts.
    fn known(&self, name: &verified::Name) -> Option<Known> {
        let known = self.verified.get(name)?;
        let (jwt, keys) = &self.issuers[known.issuer];
        let counts = keys.are_current(&known.keys) && check_times(&known.claims, jwt, (self.clock)()).is_ok();
        counts.then_some(known)
    }

    /// Who the API key belongs to; none if the call shows none, or none would count.
    fn api_key(&self, headers: &HeaderMap, service: &ServiceName) -> Result<Option<Who>, Refusal> {
        let Some((name, keys)) = &self.api_keys else { return Ok(None) };
        let Some(shown) = headers.get(name) else { return Ok(None) };
        match keys.find(shown.as_bytes(), service, (self.clock)()) {
            Ok(key) => Ok(Some((Arc::clone(&key.client), Arc::clone(&key.claims)))),
            Err(why) => Err(self.unknown(why.rule(), &why.to_string(), None)),
        }
    }

    /// Whom the certificate names that the connection was opened with; none if there is none, or none would count.
    fn certificate(&self, peer: Option<&Peer>) -> Option<Who> {
        let shown = peer.filter(|_| self.certificates)?.certificate.as_ref()?;
        Some((Arc::clone(&shown.client), Arc::clone(&shown.claims)))
    }

    fn may(&self, client: &Client, claims: &Claims, rules: &[Arc<Rule>]) -> Result<(), Refusal> {
        let meets = |rule: &&Arc<Rule>| rule.claims.iter().all(|it| holds(claims, it));
        let who = match client {
            Client::Nobody => "an anonymous caller",
            Client::Known(_) => "this caller", // who that is, is in its credential; a log or a screen need not repeat it
        };
        let by = |rule: Arc<str>| By { policy: self.policy.clone(), rule };
        if let Some(denied) = rules.iter().filter(|it| it.action == Action::Deny).find(meets) {
            denied.refusals.inc();
            return Err(Refusal::forbidden(by(Arc::clone(&denied.name)), who));
        }
        if rules.iter().filter(|it| it.action == Action::Allow).any(|rule| meets(&rule)) {
            return Ok(());
        }
        self.refusals.of(&self.policy, "default").inc();
        Err(Refusal::forbidden(by("default".into()), who))
    }

    fn change(&self, headers: &mut HeaderMap, claims: &Claims) {
        for name in &self.kept_back {
            headers.remove(name);
        }
        for it in &self.to_metadata {
            headers.remove(&it.name);
            headers.remove(&it.alias);
            let value = claim(claims, &it.claim).and_then(text).and_then(|text| HeaderValue::try_from(text).ok());
            if let Some(value) = value {
                headers.insert(it.name.clone(), value);
            }
        }
    }

    fn bad_token(&self, error: TokenError) -> Refusal {
        let description = format!("Bearer realm=\"weft\", error=\"invalid_token\", error_description=\"{error}\"");
        let challenge = HeaderValue::try_from(description).ok(); // RFC 6750, section 3
        self.unknown(error.rule(), &error.to_string(), challenge)
    }

    fn unknown(&self, rule: &'static str, why: &str, challenge: Option<HeaderValue>) -> Refusal {
        self.refusals.of(&self.policy, rule).inc();
        let by = By { policy: self.policy.clone(), rule: rule.into() };
        Refusal::unauthenticated(by, why, challenge.unwrap_or_else(|| self.challenge.clone()))
    }
}

/// A claim by its name, or by a path of dots into objects.
fn claim<'c>(claims: &'c Claims, name: &str) -> Option<&'c Value> {
    if let Some(whole) = claims.get(name) {
        return Some(whole); // names like `https://example.com/roles` have dots of their own
    }
    let mut parts = name.split('.');
    let first = claims.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.as_object()?.get(part))
}

/// A claim as text: lists and objects as JSON.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Some(value.to_string()),
    }
}

/// Whether claims hold what a rule wants.
fn holds(claims: &Claims, wanted: &ClaimMatch) -> bool {
    let Some(value) = claim(claims, wanted.claim()).filter(|it| !it.is_null()) else { return false };
    if wanted.any_of().is_empty() {
        return true;
    }
    let is = |text: &str| wanted.any_of().iter().any(|it| **it == *text);
    match value {
        Value::Array(items) => items.iter().filter_map(text).any(|it| is(&it)),
        // A list of words in one text (RFC 8693, section 4.2; `scp` is Microsoft's).
        Value::String(words) if matches!(&**wanted.claim(), "scope" | "scp") => words.split(' ').any(is),
        value => text(value).is_some_and(|it| is(&it)),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        time::Duration,
    };

    use serde_json::json;
    use weft_testkit::issuer::Key;

    use super::*;
    use crate::edge::jwt::KeySet;

    fn claims(value: Value) -> Claims {
        match value {
            Value::Object(it) => it,
            other => panic!("{other} is no object"),
        }
    }

    /// A policy that takes tokens of one issuer, and that issuer's keys.
    fn taking_tokens(clock: fn() -> SystemTime) -> (Authentication, Arc<IssuerKeys>) {
        let source = weft_model::KeySource::Url("https://issuer.example/keys".into());
        let jwt = Jwt::new("https://issuer.example", vec!["shop".into()], source, Duration::ZERO).unwrap();
        let (mut issuers, _) = crate::edge::issuers::issuers(Default::default());
        let keys = issuers.of(&jwt);
        let (api_keys, refusals) = (ApiKeys::default(), Refusals::new(&weft_runtime::Metrics::default()));
        let parts = Parts { api_keys: &api_keys, refusals: &refusals, clock };
        let policy = Policy { jwt: vec![jwt.clone()], ..Policy::closed() };
        let of_jwt = Box::new([(jwt, Arc::clone(&keys))]);
        (Authentication::new(&"callers".parse().unwrap(), &policy, of_jwt, &parts), keys)
    }

    fn set(keys: &[&Key]) -> KeySet {
        let keys: Vec<Value> = keys.iter().map(|it| it.jwk()).collect();
        KeySet::read(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
    }

    fn shows(token: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
    }

    #[tokio::test]
    async fn a_token_is_checked_once_for_as_long_as_its_key_counts_and_it_does() {
        static SECONDS: AtomicU64 = AtomicU64::new(1_000);
        let clock = || SystemTime::UNIX_EPOCH + Duration::from_secs(SECONDS.load(Ordering::SeqCst));
        let (by, keys) = taking_tokens(clock);
        let (one, two) = (Key::p256("one"), Key::p256("two"));
        let token = one.sign(&json!({"iss": "https://issuer.example", "aud": "shop", "sub": "ada", "exp": 2_000}));
        let who = async || by.token(&shows(&token)).await.map(|it| it.unwrap().0.to_string()).map_err(|e| e.message);
        let name = verified::name(&token).unwrap();
        keys.told(set(&[&one]));
        assert_eq!(who().await.unwrap(), "jwt https://issuer.example ada");
        assert!(by.known(&name).is_some());
        keys.told(set(&[&one]));
        assert!(by.known(&name).is_some(), "the same keys, fetched again");
        // What is known is not checked: whatever bears its name passes.
        by.verified.put(verified::name("nonsense").unwrap(), by.verified.get(&name).unwrap());
        assert!(by.token(&shows("nonsense")).await.unwrap().is_some());

        keys.told(set(&[&one, &two]));
        assert!(
            by.known(&name).is_none() && by.token(&shows("nonsense")).await.is_err(),
            "other keys: all are checked anew"
        );
        assert!(who().await.is_ok() && by.known(&name).is_some());
        keys.told(set(&[&two]));
        assert!(who().await.unwrap_err().contains("token-unknown-key"), "its key was taken back");
        keys.told(set(&[&one]));
        assert!(who().await.is_ok());
        SECONDS.store(2_000, Ordering::SeqCst);
        assert!(who().await.unwrap_err().contains("token-expired"), "known or not");
    }

    #[test]
    fn claims_are_found_by_name_or_path_and_match_as_what_they_are() {
        let it = claims(json!({
            "sub": "ada", "realm_access": {"roles": ["admin", "dev"]}, "https://x.example/plan": "gold", "scope": "read write",
            "n": 7, "yes": true, "nothing": null, "note": "read write",
        }));
        let hit = |name: &str, values: &[&str]| {
            holds(&it, &ClaimMatch::new(name, values.iter().map(|it| Arc::from(*it)).collect()).unwrap())
        };
        assert!(hit("sub", &["eve", "ada"]) && hit("sub", &[]) && !hit("sub", &["ad"]));
        assert!(hit("realm_access.roles", &["dev"]) && !hit("realm_access.roles", &["adm"]));
        assert!(hit("https://x.example/plan", &["gold"]));
        assert!(hit("scope", &["write"]) && !hit("note", &["write"]));
        assert!(hit("n", &["7"]) && hit("yes", &["true"]));
        assert!(!hit("nothing", &[]) && !hit("gone", &[]) && !hit("sub.x", &[]) && !hit("realm_access.gone", &[]));
    }
}
