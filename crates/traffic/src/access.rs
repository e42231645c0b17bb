//! Access: whether a caller may call a method, as the access policies of a service say.
//!
//! Lives here: rules compiled for lookup, the decision, and what is counted and logged of a refusal. Does not: who the caller is (its listener proves that),
//! which service is guarded (`world`), the status a caller sees (`error`, sidecar).
//! A decision takes one or two hash lookups by method and one or two by caller for each rule that is about the method; a call that is let in allocates nothing.
//! Denying rules are looked at first, so that the order of rules and policies decides nothing but which of several refusing rules is named.
//! A path that is no gRPC method's (an escape, a third segment) may mean any method to an app: it meets every denying rule of its caller, and is let in only
//! by a rule about all methods.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tracing::field::display;
use weft_identity::name::service_of;
use weft_model::{self as model, Action, Caller, Policy, PolicyKind, PolicyName, Rule};

use crate::{Metrics, metrics::Counter, ticks::Ticks, trace::TraceContext};

/// Refusals by one rule are logged at most this often; those in between are told as a number.
const LOG_EVERY_MS: u64 = 1_000;
/// Characters of a path that are told; no method of a sane name has more.
const LONGEST_TOLD: usize = 256;

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// Policy that refuses it.
    pub policy: PolicyName,
    /// Rule of it; `default` where no rule allows the call.
    pub rule: PolicyName,
    /// Who called.
    pub caller: Caller,
    /// What was called: `pkg.Service/Method`, or whatever else the path was.
    pub method: String,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, rule, caller, method } = self;
        // By its name where it has one: a gateway hands this on to whoever called it, who knows nothing of identities.
        match caller {
            Caller::Identity(id) if let Some(service) = service_of(id) => write!(f, "{service}")?,
            Caller::Identity(_) | Caller::Anonymous => write!(f, "{caller}")?,
        }
        write!(f, " may not call {method}: policy {policy}, rule {rule}")
    }
}

/// What stands between a listener and its app.
#[derive(Debug, Clone, Default)]
pub(crate) enum Gate {
    /// The service has no access policy: whoever the listener lets in.
    #[default]
    Open,
    /// Whether it has one is not known yet.
    Unknown,
    /// It has.
    Rules(Arc<Rules>),
}

/// The access policies of one service, compiled.
#[derive(Debug)]
pub(crate) struct Rules {
    built_from: Vec<Arc<Policy>>,
    /// Denying ones first.
    rules: Box<[Compiled]>,
    /// By path, `/pkg.Service/Method`: rules about that method, as places in `rules`.
    methods: HashMap<Box<str>, Box<[usize]>>,
    /// By gRPC service: rules about every method of it.
    services: HashMap<Box<str>, Box<[usize]>>,
    /// Rules about every method of all services.
    rest: Box<[usize]>,
    /// Rules that a path meets which is no method's.
    odd: Box<[usize]>,
    default: Arc<Ground>,
}

#[derive(Debug)]
struct Compiled {
    action: Action,
    from: From,
    ground: Arc<Ground>,
}

/// Callers, for lookup by what an identity looks like.
#[derive(Debug)]
struct From {
    identities: HashSet<Box<str>>,
    /// `ns/<namespace>/svc/<service>`, the path of a service's identity. The trust domain is the process's own: its listener lets no other in.
    services: HashSet<Box<str>>,
    namespaces: HashSet<Box<str>>,
    anonymous: bool,
    authenticated: bool,
}

/// What a refusal is told by.
#[derive(Debug)]
pub(crate) struct Ground {
    policy: PolicyName,
    rule: PolicyName,
    refusals: Counter,
    log_at_ms: AtomicU64,
    not_logged: AtomicU64,
}

impl Gate {
    /// Returns the gate for these policies of the guarded service. What did not change is `self`.
    pub(crate) fn next(&self, policies: &[Arc<Policy>], metrics: &Metrics) -> Self {
        let access: Vec<_> = policies.iter().filter(|it| matches!(it.kind, PolicyKind::Access(_))).cloned().collect();
        let before = match self {
            Self::Rules(rules) if rules.built_from == access => return self.clone(),
            Self::Rules(rules) => Some(rules),
            Self::Open | Self::Unknown => None,
        };
        let next = match access.first() {
            None => Self::Open,
            Some(first) => {
                Self::Rules(Arc::new(Rules::build(first.name.clone(), access, before.map(AsRef::as_ref), metrics)))
            }
        };
        for stale in before.into_iter().flat_map(|before| before.grounds()) {
            if !matches!(&next, Self::Rules(next) if next.grounds().any(|it| Arc::ptr_eq(it, stale))) {
                metrics.forget_refusals(&stale.policy, &stale.rule);
            }
        }
        next
    }
}

impl Rules {
    fn build(first: PolicyName, built_from: Vec<Arc<Policy>>, before: Option<&Self>, metrics: &Metrics) -> Self {
        let known: BTreeMap<_, _> =
            before.into_iter().flat_map(Self::grounds).map(|it| ((&it.policy, &it.rule), it)).collect();
        let ground = |policy: &PolicyName, rule: &PolicyName| match known.get(&(policy, rule)) {
            Some(ground) => Arc::clone(ground),
            None => Arc::new(Ground::new(policy, rule, metrics)),
        };
        let mut written: Vec<(&PolicyName, &Rule)> = Vec::new();
        for policy in &built_from {
            if let PolicyKind::Access(access) = &policy.kind {
                written.extend(access.rules().iter().map(|rule| (&policy.name, rule)));
            }
        }
        written.sort_by_key(|(_, rule)| rule.action() != Action::Deny); // stable: policies by name, rules as written
        let places = |about: &dyn Fn(&Rule) -> bool| -> Box<[usize]> {
            written.iter().enumerate().filter(|(_, (_, rule))| about(rule)).map(|(place, _)| place).collect()
        };
        let of_all = |rule: &Rule| rule.methods().is_empty();
        let of_service = |rule: &Rule, service: &str| {
            of_all(rule) || rule.methods().iter().any(|m| m.grpc_service() == service && m.method().is_none())
        };
        let mut services = HashMap::new();
        let mut methods = HashMap::new();
        for pattern in written.iter().flat_map(|(_, rule)| rule.methods()).collect::<BTreeSet<_>>() {
            let service = pattern.grpc_service();
            services.entry(service.into()).or_insert_with(|| places(&|rule| of_service(rule, service)));
            if pattern.method().is_some() {
                let about = |rule: &Rule| of_service(rule, service) || rule.methods().contains(pattern);
                methods.insert(format!("/{pattern}").into(), places(&about));
            }
        }
        Self {
            rest: places(&of_all),
            odd: places(&|rule| of_all(rule) || rule.action() == Action::Deny),
            services,
            methods,
            default: ground(&first, &PolicyName::default_rule()),
            rules: written.iter().map(|(policy, rule)| Compiled::new(rule, ground(policy, rule.name()))).collect(),
            built_from,
        }
    }

    fn grounds(&self) -> impl Iterator<Item = &Arc<Ground>> {
        self.rules.iter().map(|it| &it.ground).chain([&self.default])
    }

    /// Says whether `caller` may call `path`; on a refusal, by what.
    pub(crate) fn judge(&self, caller: &Caller, path: &str) -> Result<(), &Ground> {
        for rule in self.about(path).iter().map(|place| &self.rules[*place]) {
            if rule.from.has(caller) {
                return match rule.action {
                    Action::Allow => Ok(()),
                    Action::Deny => Err(&rule.ground),
                };
            }
        }
        Err(&self.default)
    }

    fn about(&self, path: &str) -> &[usize] {
        if let Some(places) = self.methods.get(path) {
            return places;
        }
        match grpc_service(path) {
            Some(service) => self.services.get(service).unwrap_or(&self.rest),
            None => &self.odd,
        }
    }
}

/// `pkg.Service` of a path that is exactly `/pkg.Service/Method`.
fn grpc_service(path: &str) -> Option<&str> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let fits = !method.is_empty() && method.bytes().all(plain) && service.bytes().all(|b| plain(b) || b == b'.');
    fits.then_some(service)
}

impl Compiled {
    fn new(rule: &Rule, ground: Arc<Ground>) -> Self {
        Self { action: rule.action(), from: From::new(rule.from()), ground }
    }
}

impl From {
    fn new(it: &model::Callers) -> Self {
        let path = |service: &model::ServiceName| format!("ns/{}/svc/{}", service.namespace(), service.name()).into();
        Self {
            identities: it.identities.iter().map(|it| it.as_str().into()).collect(),
            services: it.services.iter().map(path).collect(),
            namespaces: it.namespaces.iter().map(|it| it.as_str().into()).collect(),
            anonymous: it.anonymous,
            authenticated: it.authenticated,
        }
    }

    fn has(&self, caller: &Caller) -> bool {
        let id = match caller {
            Caller::Anonymous => return self.anonymous,
            Caller::Identity(id) => id,
        };
        self.authenticated
            || self.services.contains(id.path())
            || self.identities.contains(id.as_str())
            || namespace(id.path()).is_some_and(|it| self.namespaces.contains(it))
    }
}

/// `<namespace>` of `ns/<namespace>/svc/<service>`.
fn namespace(path: &str) -> Option<&str> {
    let (namespace, service) = path.strip_prefix("ns/")?.split_once("/svc/")?;
    (!namespace.contains('/') && !service.contains('/')).then_some(namespace)
}

impl Ground {
    fn new(policy: &PolicyName, rule: &PolicyName, metrics: &Metrics) -> Self {
        Self {
            policy: policy.clone(),
            rule: rule.clone(),
            refusals: metrics.refusals(policy, rule),
            log_at_ms: AtomicU64::new(0),
            not_logged: AtomicU64::new(0),
        }
    }

    /// Counts a refusal, logs it unless this rule's last was logged a moment ago, and returns what the caller is told. `trace` is the one
    /// that the caller named; where it named none, one begins only below here.
    pub(crate) fn refuse(&self, caller: &Caller, path: &str, trace: Option<TraceContext>, now: Ticks) -> Denied {
        self.refusals.inc();
        let method = path.strip_prefix('/').unwrap_or(path).chars().take(LONGEST_TOLD).collect();
        let denied = Denied { policy: self.policy.clone(), rule: self.rule.clone(), caller: caller.clone(), method };
        if self.may_log(now) {
            let not_logged = self.not_logged.swap(0, Relaxed);
            let Denied { policy, rule, caller, method } = &denied;
            let trace_id = trace.map(|it| display(format!("{:032x}", it.trace_id())));
            tracing::warn!(%policy, %rule, %caller, method, trace_id, not_logged, "call refused");
        } else {
            self.not_logged.fetch_add(1, Relaxed);
        }
        denied
    }

    fn may_log(&self, now: Ticks) -> bool {
        let (now, at) = (now.millis(), self.log_at_ms.load(Relaxed));
        now >= at && self.log_at_ms.compare_exchange(at, now + LOG_EVERY_MS, Relaxed, Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests;
