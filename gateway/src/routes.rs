//! The live table: what a request's path means, and whose service answers it.
//!
//! Lives here: the table as one immutable value, and which of a service's sets binds a method. Does not: making it anew when services change
//! (`routes::keeper`), rules in the place of annotations (`routes::rules`), linking descriptors (`routes::sets`), reading the request (`protocol`),
//! whose a name is (the registry's claims).
//! Invariants: a table never changes once it is published; a request loads it once and keeps it to its end; what the registry refused a
//! service is not routed to it; a method's plain binding, by its gRPC path, is no template of another service, and no path that an annotation
//! claims is a rule's of another service.

pub(crate) mod keeper;
pub(crate) mod rules;
pub(crate) mod sets;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use http::Uri;
use weft_model::{ServiceInfo, ServiceName};
use weft_transcode::{
    Codec, RouteTable, Schema,
    plan::{MethodPlan, Origin},
    routes::{Lookup, RouteProblem},
    schema::Idempotency,
    template::Segment,
};

use crate::{
    docs::Kept,
    edge::{
        cache::Nature,
        cors::Cors,
        metrics::{Meters, MethodMeters, RouteMeter},
        policies::{EdgePlan, Scopes},
    },
    routes::{
        rules::{Problem, Ruled, Source},
        sets::LinkedSet,
    },
};

/// What the gateway knows of one service.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: ServiceName,
    pub(crate) info: Arc<ServiceInfo>,
    /// The descriptor sets its instances carry, as far as they link, the one that binds first first.
    pub(crate) sets: Vec<Arc<LinkedSet>>,
}

/// One version of all routes.
#[derive(Debug)]
pub(crate) struct Table {
    entries: Vec<Entry>,
    rest: RouteTable<ServiceName>,
    /// By address of the plan: plans live as long as the table that names them.
    targets: HashMap<usize, Target>,
    native: HashMap<String, Native>,
    edge: Scopes,
    /// By gRPC path.
    natures: HashMap<String, Nature>,
    problems: Vec<Problem>,
    /// Whom native calls go to that nothing claims: the upstream of static mode.
    rest_of_native: Option<ServiceName>,
    /// Made when first asked for.
    documents: Kept,
}

/// What every call of a REST binding has in common.
#[derive(Debug)]
struct Target {
    uri: Uri,
    meter: Arc<RouteMeter>,
    edge: Option<Arc<EdgePlan>>,
}

/// A gRPC service as native calls see it.
#[derive(Debug)]
struct Native {
    service: ServiceName,
    methods: HashMap<String, NativeMethod>,
}

#[derive(Debug)]
struct NativeMethod {
    meters: Arc<MethodMeters>,
    edge: Option<Arc<EdgePlan>>,
}

/// A native call that somebody answers.
pub(crate) struct NativeFound<'t> {
    pub(crate) service: &'t ServiceName,
    /// None for a method that its service does not declare.
    pub(crate) meters: Option<&'t Arc<MethodMeters>>,
    /// What it meets at the edge.
    pub(crate) edge: Option<Arc<EdgePlan>>,
}

/// A method as gRPC-Web and Connect call it.
pub(crate) struct Rpc {
    pub(crate) service: ServiceName,
    /// Where the gRPC call goes, as in `Found`.
    pub(crate) uri: Uri,
    /// What is known of the method; none where only its service is.
    pub(crate) plan: Option<Arc<MethodPlan>>,
    pub(crate) meters: Option<Arc<MethodMeters>>,
    /// What it meets at the edge.
    pub(crate) edge: Option<Arc<EdgePlan>>,
    /// Whether the gateway answers it itself.
    pub(crate) own: bool,
}

/// A REST request that matched.
pub(crate) struct Found {
    pub(crate) plan: Arc<MethodPlan>,
    pub(crate) service: ServiceName,
    /// Where the gRPC call goes: the service as authority, the method as path.
    pub(crate) uri: Uri,
    pub(crate) variables: weft_transcode::routes::PathVariables,
    pub(crate) meter: Arc<RouteMeter>,
    /// What it meets at the edge.
    pub(crate) edge: Option<Arc<EdgePlan>>,
}

/// What a REST path leads to.
pub(crate) enum Rest {
    Found(Found),
    MethodNotAllowed(Vec<String>),
    NotFound,
}

impl Found {
    /// How its JSON is read and printed, where that of others is as `usual` does.
    pub(crate) fn codec<'c>(&'c self, usual: &'c Codec) -> &'c Codec {
        EdgePlan::codec(self.edge.as_deref(), usual)
    }

    /// Whether the path is the template, word for word.
    pub(crate) fn is_literal(&self) -> bool {
        self.plan.template().segments().iter().all(|it| matches!(it, Segment::Literal(_)))
    }
}

impl Table {
    /// Builds a table. Of two entries that may both have a template, the earlier keeps it: a registry that knows of claims leaves none.
    pub(crate) fn build(entries: Vec<Entry>, edge: Scopes, meters: &Meters) -> Self {
        Self::build_with(entries, None, edge, meters)
    }

    /// Builds the table of static mode: one service that gets whatever is called.
    pub(crate) fn of_upstream(entry: Entry, edge: Scopes, meters: &Meters) -> Self {
        let upstream = entry.name.clone();
        Self::build_with(vec![entry], Some(upstream), edge, meters)
    }

    fn build_with(entries: Vec<Entry>, rest_of_native: Option<ServiceName>, edge: Scopes, meters: &Meters) -> Self {
        let (rest, problems) = routed(&entries, &edge);
        let natures = natures(rest.plans().map(|(plan, _)| &**plan));
        let of = |path: &str| nature(&natures, path);
        let target = |plan: &Arc<MethodPlan>, owner: &ServiceName| {
            let path = plan.method().grpc_path();
            (key(plan), Target::new(plan, owner, edge.plan(owner, path, of(path)), meters))
        };
        let targets = rest.plans().map(|(plan, owner)| target(plan, owner)).collect();
        let native = entries.iter().flat_map(|entry| {
            native(entry, |path| NativeMethod {
                meters: Arc::new(MethodMeters::new(meters.native(path))),
                edge: edge.plan(&entry.name, path, of(path)),
            })
        });
        let native = native.collect();
        Self { entries, rest, targets, native, edge, natures, problems, rest_of_native, documents: Kept::default() }
    }

    /// Resolves a REST request; `path` undecoded, without query.
    pub(crate) fn rest(&self, http_method: &str, path: &str) -> Rest {
        match self.rest.lookup(http_method, path) {
            Lookup::Found(found) => {
                let target = &self.targets[&key(&found.plan)];
                Rest::Found(Found {
                    plan: found.plan,
                    service: found.owner,
                    uri: target.uri.clone(),
                    variables: found.variables,
                    meter: Arc::clone(&target.meter),
                    edge: target.edge.clone(),
                })
            }
            Lookup::MethodNotAllowed { allow } => Rest::MethodNotAllowed(allow),
            Lookup::NotFound => Rest::NotFound,
        }
    }

    /// Resolves the path of a call by gRPC-Web or Connect, `/package.Service/Method`.
    pub(crate) fn rpc(&self, path: &str) -> Option<Rpc> {
        let NativeFound { service, meters, edge } = self.native(path)?;
        let (service, meters) = (service.clone(), meters.cloned());
        match self.rest.method(path) {
            Some((plan, owner)) if *owner == service => {
                let uri = self.targets[&key(plan)].uri.clone();
                Some(Rpc { service, uri, plan: Some(Arc::clone(plan)), meters, edge, own: false })
            }
            _ => {
                let uri = format!("http://{}{path}", service.full()).parse().ok()?;
                Some(Rpc { service, uri, plan: None, meters, edge, own: false })
            }
        }
    }

    /// Whether a path is that of a method whose types are known.
    pub(crate) fn has_method(&self, path: &str) -> bool {
        self.rest.method(path).is_some()
    }

    /// Resolves a native gRPC call by its path, `/package.Service/Method`. A method that its service does not declare has no meter,
    /// and what it meets at the edge is found out here: no declaration, no way around a policy.
    pub(crate) fn native(&self, path: &str) -> Option<NativeFound<'_>> {
        let (service, method) = path.strip_prefix('/').and_then(|path| path.split_once('/')).unwrap_or_default();
        let native = self.native.get(service);
        let service = native.map(|it| &it.service).or(self.rest_of_native.as_ref())?;
        Some(match native.and_then(|it| it.methods.get(method)) {
            Some(it) => NativeFound { service, meters: Some(&it.meters), edge: it.edge.clone() },
            None => {
                NativeFound { service, meters: None, edge: self.edge.plan(service, path, nature(&self.natures, path)) }
            }
        })
    }

    /// Which pages may read that nothing answers here.
    pub(crate) fn cors_of_unmatched(&self) -> Option<&Arc<Cors>> {
        self.edge.cors_of_unmatched()
    }

    /// Returns the services in the order of their claims.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns what is served, in the order of the claims, and how its JSON is read and printed where that of others is as `usual` does.
    pub(crate) fn plans<'t>(&'t self, usual: &'t Codec) -> impl Iterator<Item = (&'t Arc<MethodPlan>, &'t Codec)> {
        let codec = |plan| EdgePlan::codec(self.targets[&key(plan)].edge.as_deref(), usual);
        self.rest.plans().map(move |(plan, _)| (plan, codec(plan)))
    }

    /// Returns where its description is kept.
    pub(crate) fn documents(&self) -> &Kept {
        &self.documents
    }

    /// Returns what had to be left out, one line each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let refused = self.entries.iter().flat_map(|entry| entry.info.refused.iter().map(move |it| (entry, it)));
        let refused = refused.map(|(entry, it)| match it.method.as_str() {
            "" => format!("{} belongs to {}; that of {} is not routed", it.name, it.holder, entry.name),
            method => format!("{} belongs to {}; that of {method} of {} is not routed", it.name, it.holder, entry.name),
        });
        self.problems.iter().map(|it| it.text.clone()).chain(refused).collect()
    }

    /// Returns what had to be left out of the rules of the gateway's own file.
    pub(crate) fn mistakes_of_file(&self) -> impl Iterator<Item = &str> {
        self.problems.iter().filter(|it| it.of_file).map(|it| it.text.as_str())
    }

    /// Returns how many REST bindings are served.
    pub(crate) fn len(&self) -> usize {
        self.targets.len()
    }
}

/// Routes what the entries say of themselves, then what rules add, and tells what is left out.
fn routed(entries: &[Entry], edge: &Scopes) -> (RouteTable<ServiceName>, Vec<Problem>) {
    let ruled = Ruled::of(entries, |entry| edge.said(&entry.name), edge.said_of_all());
    let bound = entries.iter().enumerate().map(|(at, entry)| (entry, entry.plans(ruled.schemas(at).iter())));
    let bound: Vec<(&Entry, Vec<&Arc<MethodPlan>>)> = bound.collect();
    let mut builder = RouteTable::builder();
    for origin in [Origin::Plain, Origin::Annotation] {
        for (entry, plans) in &bound {
            let plans = plans.iter().copied().filter(|plan| plan.origin() == origin);
            builder = builder.add_plans(plans, entry.name.clone());
        }
    }
    let mut problems = Vec::new();
    if !ruled.is_empty() {
        let claims = claims(entries);
        let plans = bound.iter().flat_map(|(entry, plans)| plans.iter().map(move |plan| (*entry, *plan)));
        let mut rules: Vec<(&Source, &Entry, &Arc<MethodPlan>)> =
            plans.filter_map(|(entry, plan)| Some((ruled.source(plan)?, entry, plan))).collect();
        // Every gateway meets services in an order of its own.
        rules.sort_by(|a, b| (a.0.rank(), a.2.method().full_name()).cmp(&(b.0.rank(), b.2.method().full_name())));
        for (source, entry, plan) in rules {
            match claimed_by_another(plan, &entry.name, &claims) {
                Some((claim, holder)) => {
                    let method = plan.method().full_name();
                    let text = format!("{claim} belongs to {holder}; that of {method} of {} is not routed", entry.name);
                    problems.push(Problem::of(source, format!("{text}: give it another path")));
                }
                None => builder = builder.add_plans([plan], entry.name.clone()),
            }
        }
    }
    let table = builder.build();
    problems.extend(table.problems().iter().map(|problem| described(problem, &ruled)));
    problems.extend(ruled.problems);
    (table, problems)
}

/// A claim of another service that calls of this rule would be taken from: on its path, by its method of HTTP, by any, or by GET where HEAD is asked for.
fn claimed_by_another<'c>(
    plan: &MethodPlan,
    own: &ServiceName,
    claims: &'c HashMap<String, &'c ServiceName>,
) -> Option<(&'c String, &'c ServiceName)> {
    let claim = plan.claim();
    let (method, path) = claim.split_once(' ')?;
    if claims.get(&claim).is_some_and(|holder| *holder == own) {
        return None;
    }
    let of_another = |claim: &str| claims.get_key_value(claim).filter(|(_, holder)| **holder != own);
    let met = match method {
        "*" => {
            let of_path = |it: &str| it.split_once(' ').is_some_and(|(_, it)| it == path);
            let others = claims.iter().filter(|(it, holder)| **holder != own && of_path(it));
            others.min_by_key(|(it, _)| *it) // of several always the same one, so that it is told once
        }
        "HEAD" => of_another(&claim).or_else(|| of_another(&format!("GET {path}"))),
        _ => of_another(&claim),
    };
    met.or_else(|| of_another(&format!("* {path}"))).map(|(claim, holder)| (claim, *holder))
}

/// Whose the paths are that annotations name, whether they are called by them now or not.
fn claims(entries: &[Entry]) -> HashMap<String, &ServiceName> {
    let mut claims = HashMap::new();
    for entry in entries {
        claims.extend(entry.info.refused.iter().map(|it| (it.name.clone(), &it.holder)));
    }
    for entry in entries {
        let plans = entry.plans(entry.sets.iter().map(|set| set.schema()));
        for plan in plans.into_iter().filter(|plan| plan.origin() == Origin::Annotation) {
            claims.entry(plan.claim()).or_insert(&entry.name);
        }
    }
    claims
}

impl Entry {
    /// The bindings of the service: each method as the first of its sets that declares it says, less what belongs to others. `schemas` are those sets, with
    /// rules or without.
    fn plans<'s>(&self, schemas: impl Iterator<Item = &'s Schema>) -> Vec<&'s Arc<MethodPlan>> {
        let owned: HashSet<&str> = self.info.grpc_services.iter().map(|grpc| grpc.name.as_str()).collect();
        let refused: HashSet<&str> = self.info.refused.iter().map(|it| it.name.as_str()).collect();
        let mut bound: HashMap<&str, usize> = HashMap::new();
        let mut plans = Vec::new();
        for (at, schema) in schemas.enumerate() {
            for plan in schema.plans().iter().filter(|plan| owned.contains(plan.method().service())) {
                let first = *bound.entry(plan.method().full_name()).or_insert(at);
                let is_claimed = plan.origin() == Origin::Annotation && !refused.is_empty();
                let may = first == at && !(is_claimed && refused.contains(plan.claim().as_str()));
                plans.extend(may.then_some(plan));
            }
        }
        plans
    }
}

impl Target {
    fn new(plan: &MethodPlan, owner: &ServiceName, edge: Option<Arc<EdgePlan>>, meters: &Meters) -> Self {
        let uri = format!("http://{}{}", owner.full(), plan.method().grpc_path());
        let uri = uri.parse().expect("service names and descriptor names make a URI");
        Self { uri, meter: meters.rest(plan), edge }
    }
}

fn key(plan: &Arc<MethodPlan>) -> usize {
    Arc::as_ptr(plan).addr()
}

/// What is known of methods, by their gRPC paths. One that a GET calls is as safe as that says (RFC 9110, 9.2.1).
fn natures<'p>(plans: impl Iterator<Item = &'p MethodPlan>) -> HashMap<String, Nature> {
    let mut natures: HashMap<String, Nature> = HashMap::new();
    for plan in plans {
        let method = plan.method();
        let nature = natures.entry(method.grpc_path().to_owned()).or_default();
        nature.reads |= method.idempotency() == Idempotency::NoSideEffects || plan.http_method() == "GET";
        nature.unary = !method.streaming().client() && !method.streaming().server();
    }
    natures
}

fn nature(natures: &HashMap<String, Nature>, path: &str) -> Nature {
    natures.get(path).copied().unwrap_or_default()
}

fn native<'a>(
    entry: &'a Entry,
    found: impl Fn(&str) -> NativeMethod + 'a,
) -> impl Iterator<Item = (String, Native)> + 'a {
    entry.info.grpc_services.iter().map(move |service| {
        let method = |name: &String| (name.clone(), found(&format!("/{}/{name}", service.name)));
        let methods = service.methods.iter().map(|it| method(&it.name)).collect();
        (service.name.clone(), Native { service: entry.name.clone(), methods })
    })
}

fn described(problem: &RouteProblem<ServiceName>, ruled: &Ruled<'_>) -> Problem {
    match problem {
        RouteProblem::Service { service, kept, refused } => Problem::of_descriptors(format!(
            "gRPC service {service} belongs to {kept}; that of {refused} is not routed"
        )),
        RouteProblem::Binding { http_method, template, origin, kept_method, kept, refused_method, refused } => {
            let text = format!(
                "{http_method} {template} belongs to {kept_method} of {kept}; that of {refused_method} of {refused} is not routed"
            );
            match ruled.said_of(refused_method, *origin) {
                Some(source) => Problem::of(source, format!("{text}: give it another path")),
                None => Problem::of_descriptors(text),
            }
        }
    }
}

#[cfg(test)]
mod tests;
