//! Policies: what the mesh does to the calls of a service, beyond carrying them.
//!
//! Lives here: names, kinds, the grammar of what rules are about, bounds. Does not: judging a call (`weft-traffic`), storing (registry),
//! documents as people write them (`weft-policy`).
//! Invariants: rules of one policy have different names; a rule is about some callers; nothing here exceeds its bound.

mod edge;
mod route;
mod upstream;

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

pub use edge::{
    ApiKey, Authentication, Cache, ClaimMatch, ClaimRule, ClaimToMetadata, Cors, Edge, FieldName, GATEWAY,
    HeaderChange, HeaderRule, Headers, HttpBinding, HttpKind, HttpMethod, HttpRule, HttpRules, JsonOutput, Jwt,
    KeyDigest, KeySource, LimitRule, Limits, Methods, Origin, Per, RateLimit, Selector, StreamFormat, Transcoding,
};
pub use route::{
    CallMatch, Fault, HeaderMatch, HeaderValue, Part, PathPattern, RetryOn, RetryRule, Route, RouteRule, Split, Target,
};
pub use upstream::{FailurePercentage, Outliers, SuccessRate, Upstream};

use crate::{Invalid, ServiceName, SpiffeId, Version, name::is_label};

/// Rules of one access policy at most.
const MAX_RULES: usize = 128;
/// Entries of each list of a rule at most.
const MAX_ENTRIES: usize = 256;

/// Name of a policy, or of a rule within one: 1 to 63 of a-z, 0-9 and inner `-`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName(Arc<str>);

impl PolicyName {
    /// Rule that refusals name when no rule allowed the call; no rule has this name.
    pub fn default_rule() -> Self {
        Self("default".into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, shared.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl FromStr for PolicyName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if is_label(text) {
            Ok(Self(text.into()))
        } else {
            Err(Invalid::new("", format!("{text:?} is no name: 1 to 63 of a-z, 0-9 and inner '-'")))
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One policy of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its name, the only one of the mesh.
    pub name: PolicyName,
    /// Service it belongs to.
    pub service: ServiceName,
    /// Version of the catalog at which it last changed; 0 before the registry has it.
    pub version: Version,
    /// What it says.
    pub kind: PolicyKind,
}

impl Policy {
    /// Whether both say the same, at whatever version.
    pub fn same_content(&self, other: &Self) -> bool {
        self.name == other.name && self.service == other.service && self.kind == other.kind
    }
}

/// What a policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyKind {
    /// Who may call which methods.
    Access(Access),
    /// Whether callers may go to plaintext endpoints.
    PlaintextUpstream(PlaintextUpstream),
    /// Where calls go, for how long, and how often they are tried.
    Route(Route),
    /// What callers bear from the instances.
    Upstream(Upstream),
    /// What gateways do with calls from outside.
    Edge(Edge),
}

impl PolicyKind {
    /// What gateways do by it; none: it is not about them.
    pub const fn edge(&self) -> Option<&Edge> {
        match self {
            Self::Edge(edge) => Some(edge),
            Self::Access(_) | Self::PlaintextUpstream(_) | Self::Route(_) | Self::Upstream(_) => None,
        }
    }
}

/// Whether callers with an identity may go to endpoints of a service that speak plaintext. Without a policy they may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PlaintextUpstream {
    /// They may.
    Allow,
    /// They may not, whatever other policies say.
    Refuse,
}

/// Rules about who may call which methods: a call needs a rule that allows it and none that denies it. The order decides nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    rules: Vec<Rule>,
}

impl Access {
    /// Allows nothing: what stands in for an access policy that cannot be read.
    pub const CLOSED: Self = Self { rules: Vec::new() };

    /// Accepts at most 128 rules with names of their own.
    pub fn new(rules: Vec<Rule>) -> Result<Self, Invalid> {
        if rules.len() > MAX_RULES {
            return Err(Invalid::new("rules", format!("has {} rules, at most {MAX_RULES} are allowed", rules.len())));
        }
        let mut names = BTreeSet::new();
        for (index, rule) in rules.iter().enumerate() {
            if rule.name == PolicyName::default_rule() {
                let problem = "\"default\" stands for what no rule allows; choose another name";
                return Err(Invalid::new(format!("rules[{index}].name"), problem));
            }
            if !names.insert(&rule.name) {
                return Err(Invalid::new(
                    format!("rules[{index}].name"),
                    format!("a second rule named {:?}", rule.name.as_str()),
                ));
            }
        }
        Ok(Self { rules })
    }

    /// The rules, as they were written.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

/// What a rule does to the calls it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Action {
    /// Lets them pass.
    #[default]
    Allow,
    /// Refuses them, whatever other rules allow.
    Deny,
}

/// Says of some callers and some methods whether they may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    name: PolicyName,
    action: Action,
    from: Callers,
    methods: Vec<MethodPattern>,
}

impl Rule {
    /// Puts a rule together; no methods means every method, at most 256.
    pub fn new(name: PolicyName, action: Action, from: Callers, methods: Vec<MethodPattern>) -> Result<Self, Invalid> {
        few("methods", methods.len())?;
        Ok(Self { name, action, from, methods })
    }

    /// Returns the name of a rule that was given none: its place, counted from 1.
    pub fn name_of_place(index: usize) -> PolicyName {
        PolicyName(format!("rule-{}", index + 1).into())
    }

    /// Its name within the policy.
    pub fn name(&self) -> &PolicyName {
        &self.name
    }

    /// What it does.
    pub fn action(&self) -> Action {
        self.action
    }

    /// Whom it is about.
    pub fn from(&self) -> &Callers {
        &self.from
    }

    /// Which methods it is about; none means every one.
    pub fn methods(&self) -> &[MethodPattern] {
        &self.methods
    }
}

/// Some callers: the union of what is named here, which is something.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Callers {
    /// Identities.
    pub identities: BTreeSet<SpiffeId>,
    /// Services; each stands for the identity of its instances.
    pub services: BTreeSet<ServiceName>,
    /// Namespaces; each stands for the identities of all services in it.
    pub namespaces: BTreeSet<Namespace>,
    /// Callers without an identity.
    pub anonymous: bool,
    /// Every caller with an identity.
    pub authenticated: bool,
}

impl Callers {
    /// Accepts what names somebody, with at most 256 entries of each sort.
    pub fn checked(self) -> Result<Self, Invalid> {
        few("identities", self.identities.len())?;
        few("services", self.services.len())?;
        few("namespaces", self.namespaces.len())?;
        if self == Self::default() {
            let cure = "names nobody; give identities, services, namespaces, anonymous = true or authenticated = true";
            return Err(Invalid::new("", cure));
        }
        Ok(self)
    }
}

fn few(field: &str, count: usize) -> Result<(), Invalid> {
    if count <= MAX_ENTRIES {
        Ok(())
    } else {
        Err(Invalid::new(field, format!("has {count} entries, at most {MAX_ENTRIES} are allowed")))
    }
}

/// A namespace of services, a DNS label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// The namespace as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Namespace {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if is_label(text) {
            Ok(Self(text.into()))
        } else {
            Err(Invalid::new("", format!("{text:?} is no namespace: 1 to 63 of a-z, 0-9 and inner '-'")))
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Methods of a gRPC service: one, `pkg.Service/Method`, or all, `pkg.Service/*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MethodPattern {
    text: Arc<str>,
    slash: usize,
}

impl MethodPattern {
    /// The gRPC service, `pkg.Service`.
    pub fn grpc_service(&self) -> &str {
        &self.text[..self.slash]
    }

    /// The method; none means all of the service.
    pub fn method(&self) -> Option<&str> {
        match &self.text[self.slash + 1..] {
            "*" => None,
            method => Some(method),
        }
    }
}

impl FromStr for MethodPattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong =
            |why: &str| Err(Invalid::new("", format!("{text:?} {why}; write pkg.Service/Method or pkg.Service/*")));
        if text.starts_with('/') {
            return wrong("starts with a slash");
        }
        let Some((service, method)) = text.split_once('/') else { return wrong("has no slash") };
        if text.len() > 512 {
            return wrong("is longer than 512 bytes");
        }
        if !service.split('.').all(is_identifier) {
            return wrong("does not begin with the full name of a gRPC service");
        }
        if method != "*" && !is_identifier(method) {
            return wrong("does not end with the name of a method");
        }
        Ok(Self { text: text.into(), slash: service.len() })
    }
}

/// An identifier of protobuf.
fn is_identifier(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && text.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

impl fmt::Display for MethodPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str) -> Rule {
        let from = Callers { authenticated: true, ..Callers::default() };
        Rule::new(name.parse().unwrap(), Action::Allow, from, vec![]).unwrap()
    }

    #[test]
    fn methods_are_one_of_a_service_or_all() {
        let one: MethodPattern = "shop.users.v1.Users/GetUser".parse().unwrap();
        assert_eq!((one.grpc_service(), one.method()), ("shop.users.v1.Users", Some("GetUser")));
        let all: MethodPattern = "Users/*".parse().unwrap();
        assert_eq!((all.grpc_service(), all.method()), ("Users", None));
        for bad in ["", "/a.B/C", "a.B", "*", "*/C", "a.*/C", "a..B/C", "a.B/", "a.B/C*", "a.B/C/D", "1a/B", "a.B/ü"] {
            let error = bad.parse::<MethodPattern>().unwrap_err();
            assert!(error.problem().contains("pkg.Service/Method"), "{bad}: {error}");
        }
    }

    #[test]
    fn rules_of_a_policy_have_names_of_their_own() {
        assert!(Access::new(vec![rule("a"), rule("b")]).is_ok());
        assert_eq!(Access::new(vec![rule("a"), rule("a")]).unwrap_err().field(), "rules[1].name");
        assert_eq!(Access::new(vec![rule("default")]).unwrap_err().field(), "rules[0].name");
        assert_eq!(Access::new((0..129).map(|n| rule(&format!("r{n}"))).collect()).unwrap_err().field(), "rules");
    }

    #[test]
    fn a_rule_is_about_somebody_and_about_few_enough() {
        assert!(Callers::default().checked().is_err());
        let many = (0..257).map(|n| format!("s{n}").parse().unwrap()).collect();
        let many = Callers { services: many, ..Callers::default() };
        assert_eq!(many.checked().unwrap_err().field(), "services");
    }
}
