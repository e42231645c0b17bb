//! Edge policies, compiled: what a call of each method meets before it becomes a call of the mesh.
//!
//! Lives here: which policy speaks of which method. Does not: what a kind does (`edge::cors`, …; `routes::rules` for `http`), following the mesh
//! (`routes::keeper`).
//! A policy of the service that owns a method comes before one of the service `gateway`, kind by kind; of several, the first by name counts. Rate limits
//! add up instead: those of the service, then the gateway's.
//! Invariants: made once a version, beside the calls; a route that no policy speaks of has no plan, and its calls pay nothing. What a policy has
//! learnt (counts, keys of issuers, known tokens) outlives a version for as long as it says the same.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use weft_model::{ApiKey, Edge, GATEWAY, Methods, Policy, PolicyName, RateLimit, ServiceName, Snapshot};
use weft_transcode::Codec;

use crate::edge::{
    api_keys::ApiKeys,
    authentication::{Authentication, Caller, Parts},
    cache::{Cached, Caching, Nature, Rules, Writes},
    cors::Cors,
    headers::Headers,
    issuers::Issuers,
    limits::Limits,
    metrics::Refusals,
    rate_limit::{Counts, Limit},
    shared::SharedCounts,
    transcoding,
};
use crate::routes::rules::{FileRule, Said};

/// The edge policies as they were told, by service. Equal ones need no new table.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Told(BTreeMap<ServiceName, Vec<Arc<Policy>>>);

impl Told {
    /// Those of a mesh.
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        Self::from_policies(all(snapshot).cloned())
    }

    /// Those of an edge kind among these, which come ordered by name. Keys are no part of routes: [`Compiler::keys`] follows them.
    pub(crate) fn from_policies(policies: impl IntoIterator<Item = Arc<Policy>>) -> Self {
        let mut told: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for policy in policies {
            if policy.kind.edge().is_some_and(|it| it.api_key().is_none()) {
                told.entry(policy.service.clone()).or_default().push(policy);
            }
        }
        Self(told)
    }
}

/// What calls of one method meet; something.
#[derive(Debug)]
pub(crate) struct EdgePlan {
    pub(crate) cors: Option<Arc<Cors>>,
    pub(crate) caller: Option<Caller>,
    /// A call needs room in each.
    pub(crate) limits: Box<[Limit]>,
    /// What becomes of headers.
    pub(crate) headers: Option<Arc<Headers>>,
    /// How large and how slow calls may be.
    pub(crate) limits_of_size: Option<Arc<Limits>>,
    /// How JSON is read and printed; none: as all calls have it.
    codec: Option<Arc<Codec>>,
    /// What answers are kept, and may be given again.
    pub(crate) cache: Option<Cached>,
    /// What a call may make untrue of the answers that are kept of its service.
    pub(crate) writes: Option<Writes>,
}

impl EdgePlan {
    /// How the JSON of a call is read and printed, where that of others is as `usual` does.
    pub(crate) fn codec<'c>(plan: Option<&'c Self>, usual: &'c Codec) -> &'c Codec {
        plan.and_then(|it| it.codec.as_deref()).unwrap_or(usual)
    }
}

fn all(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Policy>> {
    snapshot.services.iter().flat_map(|(_, service)| service.policies.iter())
}

/// The policies of all services, compiled.
#[derive(Debug, Default)]
pub(crate) struct Scopes {
    gateway: Scope,
    services: HashMap<ServiceName, Scope>,
    /// HTTP rules of the gateway's file.
    rules: Arc<[FileRule]>,
}

/// The policies of one service, by name.
#[derive(Debug, Default)]
struct Scope {
    cors: Vec<(Methods, Arc<Cors>)>,
    authentication: Vec<(Methods, Arc<Authentication>)>,
    limits: Vec<(Methods, Arc<Counts>)>,
    cache: Vec<(Methods, Arc<Rules>)>,
    limits_of_size: Vec<(Methods, Arc<Limits>)>,
    headers: Vec<(Methods, Arc<Headers>)>,
    http: Vec<Arc<Policy>>,
    transcoding: Vec<(Methods, Arc<Codec>)>,
}

impl Scopes {
    /// What calls of a method of `service` meet; `grpc_path` is `/pkg.Service/Method`.
    pub(crate) fn plan(&self, service: &ServiceName, grpc_path: &str, nature: Nature) -> Option<Arc<EdgePlan>> {
        let scopes = || self.services.get(service).into_iter().chain([&self.gateway]); // the own one first
        let cors = scopes().find_map(|it| first(&it.cors, grpc_path)).cloned();
        let caller = scopes().find_map(|it| first(&it.authentication, grpc_path));
        let caller = caller.map(|it| Caller::new(it, service, grpc_path));
        let limits = scopes().flat_map(|it| &it.limits).filter(|(methods, _)| methods.include(grpc_path));
        let limits: Box<[Limit]> = limits.map(|(_, counts)| Limit::new(counts, grpc_path)).collect();
        let codec = scopes().find_map(|it| first(&it.transcoding, grpc_path)).cloned();
        let printed = codec.as_ref().map(|it| it.settings().json_output);
        let cache = scopes().find_map(|it| first(&it.cache, grpc_path));
        let cache = cache.and_then(|it| Cached::new(it, service, printed));
        let nature = Nature { reads: nature.reads || cache.as_ref().is_some_and(Cached::are_reads), ..nature };
        let writes = scopes().flat_map(|it| &it.cache).next().and_then(|(_, rules)| rules.writes(service, nature));
        let limits_of_size = scopes().find_map(|it| first(&it.limits_of_size, grpc_path)).cloned();
        let limited = !limits.is_empty() || limits_of_size.is_some();
        let headers = scopes().find_map(|it| first(&it.headers, grpc_path)).cloned();
        let kept = cache.is_some() || writes.is_some();
        let written = headers.is_some() || codec.is_some();
        let nothing = cors.is_none() && caller.is_none() && !limited && !written && !kept;
        (!nothing).then(|| Arc::new(EdgePlan { cors, caller, limits, headers, limits_of_size, codec, cache, writes }))
    }

    /// The HTTP rules that may be about methods of a service.
    pub(crate) fn said(&self, service: &ServiceName) -> Said<'_> {
        Said { own: self.services.get(service).map_or(&[], |it| &it.http), ..self.said_of_all() }
    }

    /// Those that may be about any method.
    pub(crate) fn said_of_all(&self) -> Said<'_> {
        Said { file: &self.rules, own: &[], whole: &self.gateway.http }
    }

    /// Which pages may read that nothing answers here: those that may call the gateway as a whole.
    pub(crate) fn cors_of_unmatched(&self) -> Option<&Arc<Cors>> {
        first(&self.gateway.cors, "")
    }
}

/// Makes scopes, and keeps what outlives them.
#[derive(Debug)]
pub(crate) struct Compiler {
    issuers: Issuers,
    api_keys: ApiKeys,
    /// The keys as they were last told.
    told_keys: Vec<Arc<Policy>>,
    /// By policy and rule.
    counts: HashMap<(PolicyName, PolicyName), Arc<Counts>>,
    /// Cache policies as they were told last: what was kept by one is good while it says the same.
    caches: HashMap<PolicyName, (weft_model::Cache, Arc<Rules>)>,
    /// Authentication policies as they were told last: which tokens one knows is good while it says the same.
    authentication: HashMap<PolicyName, (weft_model::Authentication, Arc<Authentication>)>,
    caching: Arc<Caching>,
    refusals: Refusals,
    clock: fn() -> SystemTime,
    /// Where limits are counted together with other gateways.
    shared: Option<SharedCounts>,
    /// HTTP rules of the gateway's file.
    rules: Arc<[FileRule]>,
    /// How JSON is read and printed where no policy speaks.
    codec: Codec,
}

impl Compiler {
    pub(crate) fn new(
        issuers: Issuers,
        refusals: Refusals,
        clock: fn() -> SystemTime,
        shared: Option<SharedCounts>,
        caching: Arc<Caching>,
        codec: Codec,
    ) -> Self {
        Self {
            issuers,
            api_keys: ApiKeys::default(),
            told_keys: Vec::new(),
            counts: HashMap::new(),
            caches: HashMap::new(),
            authentication: HashMap::new(),
            caching,
            refusals,
            clock,
            shared,
            rules: Arc::default(),
            codec,
        }
    }

    /// Puts the HTTP rules of the gateway's file beside the policies.
    pub(crate) fn with_rules(self, rules: Vec<FileRule>) -> Self {
        Self { rules: rules.into(), ..self }
    }

    pub(crate) fn compile(&mut self, told: &Told) -> Scopes {
        // Those of policies that are gone stay behind.
        let before = Before {
            counts: std::mem::take(&mut self.counts),
            caches: std::mem::take(&mut self.caches),
            authentication: std::mem::take(&mut self.authentication),
        };
        let mut services: HashMap<ServiceName, Scope> =
            told.0.iter().map(|(name, policies)| (name.clone(), self.scope(policies, &before))).collect();
        let gateway: ServiceName = GATEWAY.parse().expect("a constant that is a name");
        Scopes { gateway: services.remove(&gateway).unwrap_or_default(), services, rules: Arc::clone(&self.rules) }
    }

    /// Takes over which API keys count. They are in force when this returns, for calls on open connections, too.
    pub(crate) fn keys<'p>(&mut self, policies: impl Iterator<Item = &'p Arc<Policy>>) {
        fn key(policy: &Policy) -> Option<&ApiKey> {
            policy.kind.edge().and_then(Edge::api_key)
        }
        let told: Vec<Arc<Policy>> = policies.filter(|it| key(it).is_some()).cloned().collect();
        if told == self.told_keys {
            return;
        }
        let keys = told.iter().filter_map(|policy| Some((&**policy, key(policy)?)));
        self.api_keys.replace(keys);
        self.told_keys = told;
    }

    /// As [`Compiler::keys`], of a mesh.
    pub(crate) fn keys_of(&mut self, snapshot: &Snapshot) {
        self.keys(all(snapshot));
    }

    fn scope(&mut self, policies: &[Arc<Policy>], before: &Before) -> Scope {
        let mut scope = Scope::default();
        for (policy, edge) in policies.iter().filter_map(|it| Some((it, it.kind.edge()?))) {
            match edge {
                Edge::Cors(it) => {
                    scope.cors.push((it.methods.clone(), Arc::new(Cors::new(policy.name.clone(), it))));
                }
                Edge::Authentication(it) => {
                    scope.authentication.push((it.methods.clone(), self.authentication(&policy.name, it, before)));
                }
                Edge::RateLimit(it) => scope.limits.extend(self.limits(&policy.name, it, before)),
                Edge::Headers(it) => scope.headers.push((it.methods.clone(), Arc::new(Headers::new(it)))),
                Edge::Transcoding(it) => {
                    let codec = Arc::new(transcoding::codec(&self.codec, it));
                    scope.transcoding.push((it.methods.clone(), codec));
                }
                Edge::Limits(it) => {
                    let limits = Arc::new(Limits::new(&policy.name, it, &self.refusals));
                    scope.limits_of_size.push((it.methods.clone(), limits));
                }
                Edge::Cache(it) => scope.cache.push((it.methods.clone(), self.rules(&policy.name, it, before))),
                Edge::Http(_) => scope.http.push(Arc::clone(policy)),
                Edge::ApiKey(_) => {} // calls meet it through authentication
            }
        }
        scope
    }

    fn rules(&mut self, policy: &PolicyName, it: &weft_model::Cache, before: &Before) -> Arc<Rules> {
        let known = before.caches.get(policy).filter(|(known, _)| known == it).map(|(_, rules)| Arc::clone(rules));
        let rules = known.unwrap_or_else(|| Arc::new(Rules::new(&self.caching, it)));
        self.caches.insert(policy.clone(), (it.clone(), Arc::clone(&rules)));
        rules
    }

    fn authentication(
        &mut self,
        policy: &PolicyName,
        it: &weft_model::Authentication,
        before: &Before,
    ) -> Arc<Authentication> {
        let known =
            before.authentication.get(policy).filter(|(known, _)| known == it).map(|(_, made)| Arc::clone(made));
        let made = known.unwrap_or_else(|| {
            let issuers = it.jwt.iter().map(|jwt| (jwt.clone(), self.issuers.of(jwt))).collect();
            let parts = Parts { api_keys: &self.api_keys, refusals: &self.refusals, clock: self.clock };
            Arc::new(Authentication::new(policy, it, issuers, &parts))
        });
        self.authentication.insert(policy.clone(), (it.clone(), Arc::clone(&made)));
        made
    }

    fn limits(&mut self, policy: &PolicyName, it: &RateLimit, before: &Before) -> Vec<(Methods, Arc<Counts>)> {
        if it.rules().is_empty() {
            let refusals = self.refusals.of(policy, PolicyName::default_rule().as_str());
            return vec![(Methods::default(), Arc::new(Counts::closed(policy, refusals)))];
        }
        let mut counts = Vec::with_capacity(it.rules().len());
        for rule in it.rules() {
            let key = (policy.clone(), rule.name.clone());
            let known = before.counts.get(&key).filter(|it| it.are_of(rule)).cloned();
            let made = || {
                let refusals = self.refusals.of(policy, rule.name.as_str());
                Arc::new(Counts::new(policy, rule.clone(), refusals, self.shared.clone()))
            };
            let of_rule = known.unwrap_or_else(made);
            self.counts.insert(key, Arc::clone(&of_rule));
            counts.push((rule.methods.clone(), of_rule));
        }
        counts
    }
}

/// What outlives a version, as the version before left it.
struct Before {
    counts: HashMap<(PolicyName, PolicyName), Arc<Counts>>,
    caches: HashMap<PolicyName, (weft_model::Cache, Arc<Rules>)>,
    authentication: HashMap<PolicyName, (weft_model::Authentication, Arc<Authentication>)>,
}

fn first<'s, T>(scope: &'s [(Methods, Arc<T>)], grpc_path: &str) -> Option<&'s Arc<T>> {
    scope.iter().find(|(methods, _)| methods.include(grpc_path)).map(|(_, it)| it)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        collections::BTreeSet,
        time::{Duration, Instant},
    };

    use weft_model::{Cors as CorsPolicy, LimitRule, PlaintextUpstream, PolicyKind, Version};
    use weft_runtime::Metrics;

    use super::*;
    use crate::edge::{cache::Clocks, metrics::Meters};

    pub(crate) fn compiler() -> Compiler {
        let (issuers, _) = crate::edge::issuers::issuers(Default::default());
        let metrics = Metrics::default();
        let clocks = Clocks { ages: Instant::now, wall: || SystemTime::UNIX_EPOCH };
        let caching = Caching::new(1 << 20, &Meters::new(&metrics), clocks);
        Compiler::new(issuers, Refusals::new(&metrics), || SystemTime::UNIX_EPOCH, None, caching, Codec::default())
    }

    fn policy(name: &str, service: &str, kind: PolicyKind) -> Arc<Policy> {
        let (name, service) = (name.parse().unwrap(), service.parse().unwrap());
        Arc::new(Policy { name, service, version: Version(1), kind })
    }

    fn cors(name: &str, service: &str, methods: &[&str]) -> Arc<Policy> {
        let methods = Methods::new(methods.iter().map(|it| it.parse().unwrap()).collect()).unwrap();
        let origins = vec![format!("https://{name}.example").parse().unwrap()];
        policy(name, service, PolicyKind::Edge(Edge::Cors(CorsPolicy { methods, origins, ..CorsPolicy::closed() })))
    }

    /// The one origin that may call a method, as its first part.
    fn may(scopes: &Scopes, service: &str, path: &str) -> Option<String> {
        let plan = scopes.plan(&service.parse().unwrap(), path, Nature::default())?;
        let mut headers = http::HeaderMap::new();
        for name in ["a", "b", "whole"] {
            headers.insert("origin", format!("https://{name}.example").parse().unwrap());
            let mut told = http::HeaderMap::new();
            plan.cors.as_ref().unwrap().grant(&headers).write(&mut told);
            if told.contains_key("access-control-allow-origin") {
                return Some(name.to_owned());
            }
        }
        None
    }

    #[test]
    fn a_services_own_policy_comes_before_the_gateways_and_the_first_by_name_counts() {
        let told = Told::from_policies([
            cors("a", "users", &["u.Users/Get"]),
            cors("b", "users", &["u.Users/*"]),
            cors("whole", "gateway", &[]),
            policy("p", "posts", PolicyKind::PlaintextUpstream(PlaintextUpstream::Allow)),
        ]);
        let scopes = compiler().compile(&told);
        assert_eq!(may(&scopes, "users", "/u.Users/Get").as_deref(), Some("a"));
        assert_eq!(may(&scopes, "users", "/u.Users/Put").as_deref(), Some("b"));
        assert_eq!(may(&scopes, "users", "/u.Admin/Stop").as_deref(), Some("whole"));
        assert_eq!(may(&scopes, "posts", "/p.Posts/Get").as_deref(), Some("whole"));
        assert!(scopes.cors_of_unmatched().is_some());
    }

    #[test]
    fn without_a_policy_there_is_no_plan() {
        let scopes = compiler().compile(&Told::from_policies([cors("a", "users", &["u.Users/Get"])]));
        assert!(scopes.plan(&"users".parse().unwrap(), "/u.Users/Put", Nature::default()).is_none());
        assert!(scopes.plan(&"posts".parse().unwrap(), "/u.Users/Get", Nature::default()).is_none());
        assert!(scopes.cors_of_unmatched().is_none());
        let other =
            Told::from_policies([policy("p", "posts", PolicyKind::PlaintextUpstream(PlaintextUpstream::Allow))]);
        assert_eq!(other, Told::default());
    }

    #[test]
    fn known_tokens_outlive_a_version_for_as_long_as_their_policy_says_the_same() {
        let callers = |audience: &str| {
            let yaml = format!(
                "{{name: callers, service: users, authentication: {{jwt: [{{issuer: 'https://a.example', audiences: [{audience}]}}]}}}}"
            );
            weft_policy::parse(&yaml, weft_policy::Format::Yaml).unwrap().into_iter().map(|(_, it)| Arc::new(it))
        };
        let mut compiler = compiler();
        let mut compiled = |policies: Vec<Arc<Policy>>| {
            let scopes = compiler.compile(&Told::from_policies(policies));
            Arc::clone(&scopes.services[&"users".parse::<ServiceName>().unwrap()].authentication[0].1)
        };
        let first = compiled(callers("shop").collect());
        let again = compiled(callers("shop").chain([cors("a", "posts", &[])]).collect());
        assert!(Arc::ptr_eq(&first, &again), "something else has a new version");
        let other = compiled(callers("bank").collect());
        assert!(!Arc::ptr_eq(&first, &other), "what was checked for one audience says nothing of another");
        assert!(!Arc::ptr_eq(&first, &compiled(callers("shop").collect())), "what was gone begins anew");
    }

    fn limit(name: &str, service: &str, calls: u32) -> Arc<Policy> {
        let rule = LimitRule {
            name: "all".parse().unwrap(),
            methods: Methods::default(),
            per: BTreeSet::new(),
            calls,
            every: Duration::from_secs(3_600),
            burst: calls,
        };
        policy(name, service, PolicyKind::Edge(Edge::RateLimit(RateLimit::new(vec![rule]).unwrap())))
    }

    /// How many calls of a method pass.
    fn pass(scopes: &Scopes, service: &str) -> usize {
        let Some(plan) = scopes.plan(&service.parse().unwrap(), "/a.B/C", Nature::default()) else { return usize::MAX };
        let (nobody, address) = (crate::edge::authentication::Client::Nobody, "10.0.0.1".parse().unwrap());
        let passes = |_: &usize| plan.limits.iter().all(|it| it.take_here(&nobody, address).is_ok());
        (0..100).take_while(passes).count()
    }

    #[test]
    fn limits_of_service_and_gateway_add_up_and_outlive_a_version() {
        let mut compiler = compiler();
        let both = Told::from_policies([limit("own", "users", 3), limit("whole", "gateway", 5)]);
        assert_eq!(pass(&compiler.compile(&both), "users"), 3);
        let again = compiler.compile(&both);
        assert_eq!(pass(&again, "users"), 0, "a new version of something else gives nobody new calls");
        assert_eq!(pass(&again, "posts"), 2, "the gateway's own counted those of users");
        let other = Told::from_policies([limit("own", "users", 4)]);
        assert_eq!(pass(&compiler.compile(&other), "users"), 4, "a rule that says something else begins anew");
        let unread = policy("later", "users", PolicyKind::Edge(Edge::RateLimit(RateLimit::closed())));
        assert_eq!(pass(&compiler.compile(&Told::from_policies([unread])), "users"), 0);
    }
}
