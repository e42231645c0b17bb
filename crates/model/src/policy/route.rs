//! Route policies: where calls to a service go, for how long, and how often they are tried.
//!
//! Lives here: rules, what they match and do, their bounds. Does not: matching a call (`weft-traffic`), clients of xDS (the registry's view).
//! The first rule that matches decides; rules of several policies of a service come one after the other, by the names of the policies. A call that
//! no rule matches goes to the service as without a policy.
//! Invariants: a split adds up to something; a retry is for some status; nothing here exceeds its bound.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc, time::Duration};

use super::{MethodPattern, PolicyName, few};
use crate::{Invalid, ServiceName};

/// Rules of one route policy at most.
const MAX_RULES: usize = 64;
/// Services that one rule splits calls over, at most.
const MAX_TARGETS: usize = 16;
/// Longest text of a match, in bytes.
const MAX_TEXT: usize = 512;
/// Longest time of any kind.
const MAX_TIME: Duration = Duration::from_secs(24 * 3600);

/// Rules about where calls go. The first that matches decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Route {
    rules: Vec<RouteRule>,
}

impl Route {
    /// Accepts 1 to 64 rules with names of their own.
    pub fn new(rules: Vec<RouteRule>) -> Result<Self, Invalid> {
        if rules.is_empty() {
            return Err(Invalid::new("rules", "has no rule; delete the policy to mean that"));
        }
        if rules.len() > MAX_RULES {
            return Err(Invalid::new("rules", format!("has {} rules, at most {MAX_RULES} are allowed", rules.len())));
        }
        let mut names = BTreeSet::new();
        for (index, rule) in rules.iter().enumerate() {
            if !names.insert(&rule.name) {
                let problem = format!("a second rule named {:?}", rule.name.as_str());
                return Err(Invalid::new(format!("rules[{index}].name"), problem));
            }
        }
        Ok(Self { rules })
    }

    /// The rules, in their order.
    pub fn rules(&self) -> &[RouteRule] {
        &self.rules
    }
}

/// What becomes of the calls that it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRule {
    /// Its name within the policy.
    pub name: PolicyName,
    /// Which calls it is about.
    pub matches: CallMatch,
    /// Where they go; none: to the service itself.
    pub to: Option<Split>,
    /// How long a call may take, streams included; the caller's deadline counts if it is sooner. None: as long as the caller says.
    pub timeout: Option<Duration>,
    /// How often it is tried; none: as without a policy.
    pub retry: Option<RetryRule>,
    /// What is made to go wrong, by clients of xDS; none: nothing.
    pub fault: Option<Fault>,
}

impl RouteRule {
    /// Accepts what does something, in bounds.
    pub fn checked(self) -> Result<Self, Invalid> {
        if self.to.is_none() && self.timeout.is_none() && self.retry.is_none() && self.fault.is_none() {
            return Err(Invalid::new("", "does nothing; give to, timeout, retry or fault"));
        }
        if let Some(timeout) = self.timeout {
            positive("timeout", timeout)?;
        }
        Ok(self)
    }
}

fn positive(field: &str, time: Duration) -> Result<(), Invalid> {
    if time.is_zero() || time > MAX_TIME {
        return Err(Invalid::new(field, format!("{time:?} is outside 1 ms to 24 h")));
    }
    Ok(())
}

/// Which calls a rule is about: any of the methods and paths, and all of the headers. Without methods and paths it is about every one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallMatch {
    methods: Vec<MethodPattern>,
    paths: Vec<PathPattern>,
    headers: Vec<HeaderMatch>,
}

impl CallMatch {
    /// Accepts at most 256 of each.
    pub fn new(
        methods: Vec<MethodPattern>,
        paths: Vec<PathPattern>,
        headers: Vec<HeaderMatch>,
    ) -> Result<Self, Invalid> {
        few("methods", methods.len())?;
        few("paths", paths.len())?;
        few("headers", headers.len())?;
        Ok(Self { methods, paths, headers })
    }

    /// Methods, each of which is enough.
    pub fn methods(&self) -> &[MethodPattern] {
        &self.methods
    }

    /// Paths, each of which is enough.
    pub fn paths(&self) -> &[PathPattern] {
        &self.paths
    }

    /// Headers, all of which must be so.
    pub fn headers(&self) -> &[HeaderMatch] {
        &self.headers
    }

    /// The paths that the methods and paths come to; none: every one.
    pub fn patterns(&self) -> impl Iterator<Item = PathPattern> {
        let methods = self.methods.iter().map(|it| match it.method() {
            Some(method) => PathPattern::Exact(format!("/{}/{method}", it.grpc_service()).into()),
            None => PathPattern::Prefix(format!("/{}/", it.grpc_service()).into()),
        });
        methods.chain(self.paths.iter().cloned())
    }
}

/// A path of HTTP: one, `/pkg.Service/Method`, or all that begin so, `/pkg.*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathPattern {
    /// This one.
    Exact(Arc<str>),
    /// All that begin with it.
    Prefix(Arc<str>),
}

impl PathPattern {
    /// Whether a path is one of them.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(it) => **it == *path,
            Self::Prefix(it) => path.starts_with(&**it),
        }
    }
}

impl FromStr for PathPattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong =
            |why: &str| Err(Invalid::new("", format!("{text:?} {why}; write /path, or /path* for all that begin so")));
        let (path, all) = text.strip_suffix('*').map_or((text, false), |path| (path, true));
        if !path.starts_with('/') {
            return wrong("does not start with a slash");
        }
        if path.len() > MAX_TEXT {
            return wrong("is longer than 512 bytes");
        }
        if !path.bytes().all(|b| b.is_ascii_graphic() && !b"*?#".contains(&b)) {
            return wrong("has a character that no path has");
        }
        Ok(if all { Self::Prefix(path.into()) } else { Self::Exact(path.into()) })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(path) => write!(f, "{path}*"),
        }
    }
}

/// A header, and how its value must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    name: Arc<str>,
    value: HeaderValue,
}

/// How the value of a header must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderValue {
    /// This.
    Exact(Arc<str>),
    /// Something that begins with it.
    Prefix(Arc<str>),
    /// Something that ends with it.
    Suffix(Arc<str>),
    /// Anything, or with `false` not there at all.
    Present(bool),
}

impl HeaderMatch {
    /// Accepts a name in lower case that all data planes see: no pseudo-header, none of gRPC's own, none that is binary.
    pub fn new(name: &str, value: HeaderValue) -> Result<Self, Invalid> {
        let token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        let wrong = |why: &str| Err(Invalid::new("name", format!("{name:?} {why}")));
        if name.is_empty() || name.len() > MAX_TEXT || !name.bytes().all(token) {
            return wrong("is no name of a header in lower case");
        }
        if name.ends_with("-bin") {
            return wrong("is binary, and no client matches that");
        }
        if name.starts_with("grpc-") || ["te", "host", "content-type", "user-agent"].contains(&name) {
            return wrong("belongs to the transport, which not every client shows to its routes");
        }
        let (field, text) = match &value {
            HeaderValue::Exact(text) => ("exact", text),
            HeaderValue::Prefix(text) => ("prefix", text),
            HeaderValue::Suffix(text) => ("suffix", text),
            HeaderValue::Present(_) => return Ok(Self { name: name.into(), value }),
        };
        if text.is_empty() || text.len() > MAX_TEXT || !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
            return Err(Invalid::new(field, format!("{text:?} is no value: 1 to 512 visible characters of ASCII")));
        }
        Ok(Self { name: name.into(), value })
    }

    /// Its name, in lower case.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How its value must be.
    pub fn value(&self) -> &HeaderValue {
        &self.value
    }
}

/// Services that share calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    targets: Vec<Target>,
}

/// A service and its share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The service.
    pub service: ServiceName,
    /// Its share of the sum of all shares; 0 gets nothing.
    pub weight: u32,
}

impl Split {
    /// Accepts, as the field `to` of a rule, 1 to 16 different services whose shares add up to something, each at most 1,000,000.
    pub fn new(targets: Vec<Target>) -> Result<Self, Invalid> {
        if targets.is_empty() || targets.len() > MAX_TARGETS {
            return Err(Invalid::new("to", format!("has {} services, 1 to {MAX_TARGETS} are allowed", targets.len())));
        }
        let mut services = BTreeSet::new();
        for (index, target) in targets.iter().enumerate() {
            if !services.insert(&target.service) {
                return Err(Invalid::new(format!("to[{index}].service"), format!("{} is there twice", target.service)));
            }
            if target.weight > 1_000_000 {
                return Err(Invalid::new(format!("to[{index}].weight"), format!("{} is above 1000000", target.weight)));
            }
        }
        if targets.iter().all(|it| it.weight == 0) {
            return Err(Invalid::new("to", "all weights are 0: no service would get a call"));
        }
        Ok(Self { targets })
    }

    /// The services, in their order.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }
}

/// A status on which a call may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RetryOn {
    /// CANCELLED.
    Cancelled,
    /// DEADLINE_EXCEEDED, as an instance said it; the call's own deadline is final.
    DeadlineExceeded,
    /// INTERNAL.
    Internal,
    /// RESOURCE_EXHAUSTED.
    ResourceExhausted,
    /// UNAVAILABLE.
    Unavailable,
}

impl RetryOn {
    /// All, in the order of their names.
    pub const ALL: [Self; 5] =
        [Self::Cancelled, Self::DeadlineExceeded, Self::Internal, Self::ResourceExhausted, Self::Unavailable];

    /// As policies and xDS write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::Internal => "internal",
            Self::ResourceExhausted => "resource-exhausted",
            Self::Unavailable => "unavailable",
        }
    }
}

impl FromStr for RetryOn {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|it| it.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            Invalid::new("", format!("{text:?} is no status to try again on; known: {known}"))
        })
    }
}

/// How often a call is tried. It may run twice: whoever writes this says that it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryRule {
    on: BTreeSet<RetryOn>,
    retries: u32,
    back_off: Duration,
    max_back_off: Duration,
}

impl RetryRule {
    /// Tries beyond the first when none are named.
    pub const DEFAULT_RETRIES: u32 = 1;
    /// First wait when none is named (gRFC A44).
    pub const DEFAULT_BACK_OFF: Duration = Duration::from_millis(25);

    /// Accepts 0 to 4 retries (0: it is not tried again whatever it is), a first wait of 1 ms to 24 h; the longest wait is ten times the first unless said otherwise.
    pub fn new(
        on: BTreeSet<RetryOn>,
        retries: u32,
        back_off: Option<Duration>,
        max_back_off: Option<Duration>,
    ) -> Result<Self, Invalid> {
        if retries > 4 {
            return Err(Invalid::new("retries", format!("{retries} is outside 0 to 4")));
        }
        if on.is_empty() && retries > 0 {
            return Err(Invalid::new(
                "on",
                "names no status; give some of cancelled, deadline-exceeded, internal, resource-exhausted, unavailable",
            ));
        }
        let first = back_off.unwrap_or(Self::DEFAULT_BACK_OFF);
        positive("back_off", first)?;
        let longest = max_back_off.unwrap_or_else(|| (first * 10).min(MAX_TIME));
        positive("max_back_off", longest)?;
        if longest < first {
            return Err(Invalid::new("max_back_off", format!("{longest:?} is below back_off, {first:?}")));
        }
        Ok(Self { on, retries, back_off: first, max_back_off: longest })
    }

    /// On which status.
    pub fn on(&self) -> &BTreeSet<RetryOn> {
        &self.on
    }

    /// Tries beyond the first at most.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// The first wait; each further one is twice as long, up to the longest, less a random part.
    pub fn back_off(&self) -> Duration {
        self.back_off
    }

    /// The longest wait.
    pub fn max_back_off(&self) -> Duration {
        self.max_back_off
    }
}

/// A part of calls, in steps of a ten-thousandth of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part(u32);

impl Part {
    /// Accepts millionths, 1 to 1,000,000.
    pub fn of_a_million(millionths: u32) -> Result<Self, Invalid> {
        if (1..=1_000_000).contains(&millionths) {
            Ok(Self(millionths))
        } else {
            Err(Invalid::new("", format!("{millionths} millionths are outside 1 to 1000000")))
        }
    }

    /// How many of a million calls.
    pub const fn millionths(self) -> u32 {
        self.0
    }
}

/// What is made to go wrong, to see what comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Calls of this part wait so long before they are sent.
    pub delay: Option<(Duration, Part)>,
    /// Calls of this part end with this status of gRPC (1 to 16) instead of being sent.
    pub abort: Option<(u32, Part)>,
}

impl Fault {
    /// Accepts what does something, in bounds.
    pub fn checked(self) -> Result<Self, Invalid> {
        if self.delay.is_none() && self.abort.is_none() {
            return Err(Invalid::new("", "does nothing; give delay or abort"));
        }
        if let Some((time, _)) = self.delay {
            positive("delay.time", time)?;
        }
        match self.abort {
            Some((code, _)) if !(1..=16).contains(&code) => {
                Err(Invalid::new("abort.status", format!("{code} is no status of an error: 1 to 16")))
            }
            Some(_) | None => Ok(self),
        }
    }
}
