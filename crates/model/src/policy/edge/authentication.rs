//! Authentication policies: who calls, by what a call shows, and whether that caller may.
//!
//! Lives here: whose tokens count, what of their claims goes on, rules about claims, bounds. Does not: checking a token, fetching keys (the gateway's
//! `edge::authentication`), the keys of API clients (`api_key`).
//! Invariants: some credential is taken; rules have names of their own; `http://` leads no further than this machine.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use super::{Methods, names::Owned};
use crate::{Action, Invalid, PolicyName};

/// Issuers, audiences, claims that go on, of one policy at most, each.
const MOST: usize = 16;
/// Rules of one policy at most.
const MAX_RULES: usize = 64;
/// Longest text of any kind.
const LONGEST: usize = 512;
/// Longest that clocks may be apart.
const MAX_LEEWAY: Duration = Duration::from_secs(300);

/// Who calls, and whether they may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentication {
    /// Which methods of the service it is about.
    pub methods: Methods,
    /// Whose tokens count; none: nobody's.
    pub jwt: Vec<Jwt>,
    /// Header that carries an API key, in lower case; none: no such key counts.
    pub api_key_header: Option<Arc<str>>,
    /// Whether certificates of clients count that the gateway's TLS takes.
    pub certificates: bool,
    /// Whether who shows nothing is let in, as nobody. What is shown and does not count is refused in any case.
    pub anonymous: bool,
    /// Claims that go on to the service as metadata; what the caller itself says under these names does not.
    pub to_metadata: Vec<ClaimToMetadata>,
    /// Whether credentials go on to the service.
    pub forward: bool,
    /// Who of those that are known may; none: each.
    pub rules: Vec<ClaimRule>,
}

impl Authentication {
    /// Where an API key is looked for, unless the policy says.
    pub const API_KEY_HEADER: &str = "x-api-key";

    /// Lets nobody in: what stands in for a policy that cannot be read.
    pub fn closed() -> Self {
        Self {
            methods: Methods::default(),
            jwt: Vec::new(),
            api_key_header: None,
            certificates: false,
            anonymous: false,
            to_metadata: Vec::new(),
            forward: false,
            rules: Vec::new(),
        }
    }

    /// Accepts what somebody can satisfy, in bounds.
    pub fn checked(self) -> Result<Self, Invalid> {
        let somebody = self.anonymous || self.certificates || self.api_key_header.is_some();
        if self.jwt.is_empty() && !somebody {
            return Err(Invalid::new("", "lets nobody in; give jwt, api_keys, certificates or anonymous = true"));
        }
        few("jwt", self.jwt.len(), MOST)?;
        few("to_metadata", self.to_metadata.len(), MOST)?;
        few("rules", self.rules.len(), MAX_RULES)?;
        let mut issuers = BTreeSet::new();
        for (index, it) in self.jwt.iter().enumerate() {
            if !issuers.insert(&it.issuer) {
                return Err(Invalid::new(format!("jwt[{index}].issuer"), format!("a second time {:?}", it.issuer)));
            }
        }
        if let Some(name) = &self.api_key_header {
            own_header(name).map_err(|e| e.within("api_keys.header"))?;
        }
        let mut names = BTreeSet::new();
        for (index, it) in self.to_metadata.iter().enumerate() {
            if !names.insert(&it.metadata) {
                let problem = format!("a second claim for {:?}", it.metadata);
                return Err(Invalid::new(format!("to_metadata[{index}].metadata"), problem));
            }
        }
        let mut names = BTreeSet::new();
        for (index, it) in self.rules.iter().enumerate() {
            let problem = if it.name == PolicyName::default_rule() {
                "\"default\" stands for what no rule allows; choose another name".to_owned()
            } else if !names.insert(&it.name) {
                format!("a second rule named {:?}", it.name.as_str())
            } else {
                continue;
            };
            return Err(Invalid::new(format!("rules[{index}].name"), problem));
        }
        Ok(self)
    }
}

fn few(field: &str, count: usize, most: usize) -> Result<(), Invalid> {
    if count <= most {
        return Ok(());
    }
    Err(Invalid::new(field, format!("has {count} entries, at most {most} are allowed")))
}

fn text(field: &str, text: &str) -> Result<(), Invalid> {
    if text.is_empty() || text.len() > LONGEST {
        return Err(Invalid::new(field, format!("has {} bytes; 1 to {LONGEST} are allowed", text.len())));
    }
    Ok(())
}

/// What the transport says in these words, or means something to the gateway.
const OWNED: Owned = Owned {
    names: &[
        "authorization",
        "connection",
        "content-type",
        "cookie",
        "host",
        "te",
        "traceparent",
        "user-agent",
        "x-request-id",
    ],
    beginnings: &["grpc-", "connect-", "x-forwarded-", "access-control-", "content-", "if-", "weft-"],
};

/// Accepts a header that nobody owns, and that holds text.
fn own_header(name: &str) -> Result<(), Invalid> {
    if name.ends_with("-bin") {
        return Err(Invalid::new("", format!("{name:?} is binary, which text must not be")));
    }
    OWNED.leave(name, "; choose another, like x-user")
}

/// Tokens of one issuer that count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwt {
    issuer: Arc<str>,
    audiences: Vec<Arc<str>>,
    keys: KeySource,
    leeway: Duration,
}

/// Where an issuer tells its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// At this URL, as a JWK set.
    Url(Arc<str>),
    /// Where its OpenID configuration says, `<issuer>/.well-known/openid-configuration`.
    Discovered,
}

impl Jwt {
    /// How far clocks may be apart, unless the policy says.
    pub const DEFAULT_LEEWAY: Duration = Duration::from_secs(30);

    /// Accepts an issuer with 1 to 16 audiences, any of which a token must be for.
    pub fn new(issuer: &str, audiences: Vec<Arc<str>>, keys: KeySource, leeway: Duration) -> Result<Self, Invalid> {
        text("issuer", issuer)?;
        if audiences.is_empty() {
            return Err(Invalid::new("audiences", "is required: a token for somebody else must not count here"));
        }
        few("audiences", audiences.len(), MOST)?;
        for (index, audience) in audiences.iter().enumerate() {
            text(&format!("audiences[{index}]"), audience)?;
        }
        match &keys {
            KeySource::Url(url) => secure_url(url).map_err(|e| e.within("jwks_uri"))?,
            KeySource::Discovered => secure_url(issuer).map_err(|e| {
                Invalid::new(
                    "jwks_uri",
                    format!("is required unless the issuer is a URL that leads to one: {}", e.problem()),
                )
            })?,
        }
        if leeway > MAX_LEEWAY {
            return Err(Invalid::new("leeway", format!("{leeway:?} is longer than 5 minutes")));
        }
        Ok(Self { issuer: issuer.into(), audiences, keys, leeway })
    }

    /// What `iss` must be.
    pub fn issuer(&self) -> &Arc<str> {
        &self.issuer
    }

    /// One of what `aud` must hold.
    pub fn audiences(&self) -> &[Arc<str>] {
        &self.audiences
    }

    /// Where its keys are.
    pub fn keys(&self) -> &KeySource {
        &self.keys
    }

    /// How far clocks may be apart.
    pub fn leeway(&self) -> Duration {
        self.leeway
    }
}

/// `https://…`, or `http://` to this machine: who can change a key set on its way can sign what he likes.
fn secure_url(url: &str) -> Result<(), Invalid> {
    let wrong = |why: &str| Err(Invalid::new("", format!("{url:?} {why}")));
    text("", url)?;
    if !url.bytes().all(|b| b.is_ascii_graphic()) || url.contains(['#', '"', '<', '>', '\\', '{', '}']) {
        return wrong("is no URL");
    }
    let host = |rest: &str| -> String {
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let name = match authority.strip_prefix('[') {
            Some(address) => address.split(']').next().unwrap_or_default(),
            None => authority.split(':').next().unwrap_or_default(),
        };
        name.to_owned()
    };
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let Some(rest) = rest else { return wrong("does not begin with https://") };
    let host = host(rest);
    if host.is_empty() || rest.split('/').next().unwrap_or_default().contains('@') {
        return wrong("has no host, or more than a host");
    }
    let local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|it| it.is_loopback());
    if url.starts_with("http://") && !local {
        return wrong("is http:// to another machine, where keys could be changed on their way; write https://");
    }
    Ok(())
}

/// A claim that goes on as metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimToMetadata {
    claim: Arc<str>,
    metadata: Arc<str>,
}

impl ClaimToMetadata {
    /// Accepts a claim (with dots into objects) and a name of metadata in lower case.
    pub fn new(claim: &str, metadata: &str) -> Result<Self, Invalid> {
        text("claim", claim)?;
        own_header(metadata).map_err(|e| e.within("metadata"))?;
        Ok(Self { claim: claim.into(), metadata: metadata.into() })
    }

    /// Which claim.
    pub fn claim(&self) -> &Arc<str> {
        &self.claim
    }

    /// As what it goes on.
    pub fn metadata(&self) -> &Arc<str> {
        &self.metadata
    }
}

/// Says of callers with some claims, and some methods, whether they may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRule {
    /// Its name within the policy.
    pub name: PolicyName,
    /// What it does.
    pub action: Action,
    /// Claims that a caller has, all of these; none: every caller.
    pub claims: Vec<ClaimMatch>,
    /// Which methods it is about.
    pub methods: Methods,
}

impl ClaimRule {
    /// Accepts at most 16 claims.
    pub fn checked(self) -> Result<Self, Invalid> {
        few("claims", self.claims.len(), MOST)?;
        Ok(self)
    }
}

/// A claim, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimMatch {
    claim: Arc<str>,
    any_of: Vec<Arc<str>>,
}

impl ClaimMatch {
    /// Accepts a claim (with dots into objects) and at most 16 values, one of which it must be or hold; none: it must be there.
    pub fn new(claim: &str, any_of: Vec<Arc<str>>) -> Result<Self, Invalid> {
        text("claim", claim)?;
        few("any_of", any_of.len(), MOST)?;
        for (index, value) in any_of.iter().enumerate() {
            text(&format!("any_of[{index}]"), value)?;
        }
        Ok(Self { claim: claim.into(), any_of })
    }

    /// Which claim.
    pub fn claim(&self) -> &Arc<str> {
        &self.claim
    }

    /// One of what it must be or hold; none: anything.
    pub fn any_of(&self) -> &[Arc<str>] {
        &self.any_of
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(keys: KeySource) -> Result<Jwt, Invalid> {
        Jwt::new("https://issuer.example", vec!["shop".into()], keys, Jwt::DEFAULT_LEEWAY)
    }

    fn field<T: std::fmt::Debug>(it: Result<T, Invalid>) -> String {
        it.unwrap_err().field().to_owned()
    }

    #[test]
    fn keys_come_safely_or_not_at_all() {
        let url = |url: &str| jwt(KeySource::Url(url.into()));
        for good in
            ["https://issuer.example/jwks?v=1", "http://127.0.0.1:8000/keys", "http://[::1]/k", "http://localhost/k"]
        {
            assert!(url(good).is_ok(), "{good}");
        }
        for bad in [
            "http://issuer.example/jwks",
            "ftp://a/b",
            "https://",
            "https:///x",
            "issuer.example",
            "",
            "https://user@issuer.example/",
            "http://127.0.0.1@evil.example/",
            "http://127.0.0.1.evil.example/",
            "https://a b/",
        ] {
            assert_eq!(field(url(bad)), "jwks_uri", "{bad}");
        }
        assert!(jwt(KeySource::Discovered).is_ok());
        assert_eq!(field(Jwt::new("shop", vec!["a".into()], KeySource::Discovered, Duration::ZERO)), "jwks_uri");
        assert_eq!(field(Jwt::new("shop", vec![], KeySource::Url("https://a/k".into()), Duration::ZERO)), "audiences");
        assert_eq!(
            field(Jwt::new("https://a", vec!["a".into()], KeySource::Discovered, Duration::from_secs(301))),
            "leeway"
        );
    }

    #[test]
    fn a_policy_takes_some_credential_and_says_nothing_twice() {
        let closed = Authentication::closed;
        assert!(closed().checked().is_err());
        assert!(Authentication { anonymous: true, ..closed() }.checked().is_ok());
        let keyed = || Authentication { api_key_header: Some("x-api-key".into()), ..closed() };
        assert!(keyed().checked().is_ok());
        let twice = vec![jwt(KeySource::Discovered).unwrap(); 2];
        assert_eq!(field(Authentication { jwt: twice, ..keyed() }.checked()), "jwt[1].issuer");
        let claims =
            vec![ClaimToMetadata::new("sub", "x-user").unwrap(), ClaimToMetadata::new("iss", "x-user").unwrap()];
        assert_eq!(field(Authentication { to_metadata: claims, ..keyed() }.checked()), "to_metadata[1].metadata");
        let rule = |name: &str| ClaimRule {
            name: name.parse().unwrap(),
            action: Action::Allow,
            claims: vec![],
            methods: Methods::default(),
        };
        assert_eq!(field(Authentication { rules: vec![rule("a"), rule("a")], ..keyed() }.checked()), "rules[1].name");
        assert_eq!(field(Authentication { rules: vec![rule("default")], ..keyed() }.checked()), "rules[0].name");
        for taken in ["authorization", "grpc-timeout", "X-User", "x-bin", "x-forwarded-for", "te", ""] {
            assert_eq!(field(ClaimToMetadata::new("sub", taken)), "metadata", "{taken}");
        }
    }
}
