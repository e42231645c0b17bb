//! The table from HTTP method and path to the method to call.
//!
//! Lives here: building the table from many schemas, looking up a raw path, saying what is wrong with the set of
//! routes. Does not: decoding what a variable matched (`bind`), walking segments (`trie`).
//! Invariants: at the leftmost segment where two templates differ, a literal beats `*` and `*` beats `**`, among the
//! bindings of the request's HTTP method (behind a `**` the longer rest beats the shorter); what was added first keeps
//! a service name or a template; the path is matched undecoded; a trailing `:word` is a verb only if some template of
//! the table declares it, and then it is never part of a value; a slash after it makes it data.

mod trie;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::plan::{MethodPlan, Origin};
use crate::schema::Schema;
use trie::{Claim, Trie};

/// Routes of many services. `T` says whose a route is; the table only hands it back.
#[derive(Debug)]
pub struct RouteTable<T> {
    routes: Vec<Route>,
    owners: Vec<T>,
    trie: Trie,
    verbs: HashSet<String>,
    /// Index of the plain binding by `/package.Service/Method`.
    methods: HashMap<String, usize>,
    /// Index of the owner by service name.
    services: HashMap<String, usize>,
    problems: Vec<RouteProblem<T>>,
}

#[derive(Debug)]
struct Route {
    plan: Arc<MethodPlan>,
    owner: usize,
}

/// Collects schemas for a `RouteTable`. Order matters: the first to claim a name or a template keeps it.
#[derive(Debug)]
pub struct RouteTableBuilder<T> {
    table: RouteTable<T>,
}

/// What a path leads to.
#[derive(Debug, Clone)]
pub enum Lookup<T> {
    /// Call this.
    Found(Match<T>),
    /// The path exists for other methods, named here in alphabetical order: 405 with `Allow`.
    MethodNotAllowed {
        /// Values for the `Allow` header.
        allow: Vec<String>,
    },
    /// No template matches: 404.
    NotFound,
}

/// A matched route.
#[derive(Debug, Clone)]
pub struct Match<T> {
    /// What to call and how to bind it.
    pub plan: Arc<MethodPlan>,
    /// What the schema was added with.
    pub owner: T,
    /// What the template's variables matched.
    pub variables: PathVariables,
}

/// Raw values of a template's variables, undecoded, in the order of the template.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PathVariables(pub(crate) Vec<String>);

/// Something about the set of routes that an operator should know; the table works without what it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteProblem<T> {
    /// A second schema brings a service name that is taken; none of its methods are routed.
    Service {
        /// Full name of the service.
        service: String,
        /// Whose it stays.
        kept: T,
        /// Who else claimed it.
        refused: T,
    },
    /// A binding matches exactly the paths of an earlier one of the same HTTP method; the later one is left out.
    Binding {
        /// HTTP method.
        http_method: String,
        /// Template of the later binding.
        template: String,
        /// Who says the later binding.
        origin: Origin,
        /// Full name of the method that keeps the paths.
        kept_method: String,
        /// Whose that is.
        kept: T,
        /// Full name of the method that lost.
        refused_method: String,
        /// Whose that is.
        refused: T,
    },
}

impl<T: Clone> RouteTable<T> {
    /// Returns a builder with nothing in it.
    pub fn builder() -> RouteTableBuilder<T> {
        RouteTableBuilder {
            table: Self {
                routes: Vec::new(),
                owners: Vec::new(),
                trie: Trie::new(),
                verbs: HashSet::new(),
                methods: HashMap::new(),
                services: HashMap::new(),
                problems: Vec::new(),
            },
        }
    }

    /// Returns what `path` leads to for an HTTP method (upper case). `path` is as on the wire, undecoded, without the
    /// query string.
    pub fn lookup(&self, http_method: &str, path: &str) -> Lookup<T> {
        let Some(segments) = Segments::of(path, &self.verbs) else { return Lookup::NotFound };
        let mut allow = BTreeSet::new();
        let found = self.trie.find(&segments.parts, |claims| {
            allow.extend(
                claims.iter().filter(|it| it.verb.as_deref() == segments.verb).map(|it| it.http_method.as_str()),
            );
            pick(claims, segments.verb, http_method)
        });
        match found {
            Some(route) => Lookup::Found(self.matched(&self.routes[route], path, &segments)),
            None if allow.is_empty() => Lookup::NotFound,
            None => Lookup::MethodNotAllowed { allow: allow.into_iter().map(str::to_owned).collect() },
        }
    }

    fn matched(&self, route: &Route, path: &str, segments: &Segments<'_>) -> Match<T> {
        let template = route.plan.template();
        // A `**` matched as many segments as the request has more than the template has others; all else is one to one.
        let double = template.segments().iter().position(|it| *it == crate::template::Segment::DoubleStar);
        let shift = |at: usize| match double {
            Some(double) if at > double => at + segments.parts.len() - template.segments().len(),
            _ => at,
        };
        let variables = template.variables().iter();
        let raw = variables.map(|it| segments.slice(path, shift(it.span.start), shift(it.span.end)).to_owned());
        Match {
            plan: Arc::clone(&route.plan),
            owner: self.owners[route.owner].clone(),
            variables: PathVariables(raw.collect()),
        }
    }

    /// Returns the method at `/package.Service/Method` and its owner, for native gRPC, gRPC-Web and Connect.
    pub fn method(&self, grpc_path: &str) -> Option<(&Arc<MethodPlan>, &T)> {
        self.methods.get(grpc_path).map(|at| self.entry(&self.routes[*at]))
    }

    /// Returns the owner of a gRPC service name.
    pub fn service(&self, full_name: &str) -> Option<&T> {
        self.services.get(full_name).map(|at| &self.owners[*at])
    }

    /// Returns every routed binding with its owner, in the order added.
    pub fn plans(&self) -> impl Iterator<Item = (&Arc<MethodPlan>, &T)> {
        self.routes.iter().map(|it| self.entry(it))
    }

    /// Returns what was left out while building, with reasons.
    pub fn problems(&self) -> &[RouteProblem<T>] {
        &self.problems
    }

    fn entry<'t>(&'t self, route: &'t Route) -> (&'t Arc<MethodPlan>, &'t T) {
        (&route.plan, &self.owners[route.owner])
    }

    fn add_plans<'p>(&mut self, plans: impl IntoIterator<Item = &'p Arc<MethodPlan>>, owner: T) {
        let owner_at = self.owners.len();
        self.owners.push(owner);
        for plan in plans {
            self.services.entry(plan.method().service().to_owned()).or_insert(owner_at);
            self.claim(plan, owner_at);
        }
    }

    fn add(&mut self, schema: &Schema, wanted: impl Fn(&str) -> bool, owner: T) {
        let owner_at = self.owners.len();
        self.owners.push(owner);
        let mut refused: HashSet<&str> = HashSet::new();
        for plan in schema.plans() {
            let service = plan.method().service();
            if !wanted(service) || service.starts_with("grpc.") || refused.contains(service) {
                continue;
            }
            let holder = *self.services.entry(service.to_owned()).or_insert(owner_at);
            if holder != owner_at {
                refused.insert(service);
                self.problems.push(RouteProblem::Service {
                    service: service.to_owned(),
                    kept: self.owners[holder].clone(),
                    refused: self.owners[owner_at].clone(),
                });
                continue;
            }
            self.claim(plan, owner_at);
        }
    }

    fn claim(&mut self, plan: &Arc<MethodPlan>, owner: usize) {
        let template = plan.template();
        let route = self.routes.len();
        let claim =
            Claim { verb: template.verb().map(str::to_owned), http_method: plan.http_method().to_owned(), route };
        if let Err(holder) = self.trie.claim(template.segments(), claim) {
            let holder = &self.routes[holder];
            self.problems.push(RouteProblem::Binding {
                http_method: plan.http_method().to_owned(),
                template: template.to_string(),
                origin: plan.origin(),
                kept_method: holder.plan.method().full_name().to_owned(),
                kept: self.owners[holder.owner].clone(),
                refused_method: plan.method().full_name().to_owned(),
                refused: self.owners[owner].clone(),
            });
            return;
        }
        // A schema lists a method's plain binding first.
        self.methods.entry(plan.method().grpc_path().to_owned()).or_insert(route);
        self.verbs.extend(template.verb().map(str::to_owned));
        self.routes.push(Route { plan: Arc::clone(plan), owner });
    }
}

impl<T: Clone> RouteTableBuilder<T> {
    /// Adds all services of a schema for `owner`. `grpc.*` services (health, reflection) are never routed.
    #[must_use]
    pub fn add(mut self, schema: &Schema, owner: T) -> Self {
        self.table.add(schema, |_| true, owner);
        self
    }

    /// Adds one service of a schema, by full name; nothing if the schema lacks it.
    #[must_use]
    pub fn add_service(mut self, schema: &Schema, service: &str, owner: T) -> Self {
        self.table.add(schema, |it| it == service, owner);
        self
    }

    /// Adds bindings whose names are the owner's already: who may claim them was decided elsewhere. A template that is taken stays with the
    /// binding that was added first.
    #[must_use]
    pub fn add_plans<'p>(mut self, plans: impl IntoIterator<Item = &'p Arc<MethodPlan>>, owner: T) -> Self {
        self.table.add_plans(plans, owner);
        self
    }

    /// Returns the table.
    pub fn build(self) -> RouteTable<T> {
        self.table
    }
}

/// Returns the claim for an HTTP method, one that names it before one for any.
fn pick(claims: &[Claim], verb: Option<&str>, http_method: &str) -> Option<usize> {
    let of = |wanted: &str| {
        claims.iter().find(|it| it.verb.as_deref() == verb && it.http_method == wanted).map(|it| it.route)
    };
    of(http_method).or_else(|| of("*"))
}

/// A path taken apart: where its segments lie, and its verb.
struct Segments<'p> {
    parts: Vec<&'p str>,
    /// Byte offset of each segment in the path.
    starts: Vec<usize>,
    verb: Option<&'p str>,
}

impl<'p> Segments<'p> {
    /// Returns none for a path that no template can match, such as `*`.
    fn of(path: &'p str, verbs: &HashSet<String>) -> Option<Self> {
        let mut it = Self { parts: Vec::new(), starts: Vec::new(), verb: None };
        let mut at = 1;
        for part in path.strip_prefix('/')?.split('/') {
            it.parts.push(part);
            it.starts.push(at);
            at += part.len() + 1;
        }
        if let Some(last) = it.parts.last_mut()
            && let Some((head, word)) = last.rsplit_once(':')
            && verbs.contains(word)
        {
            (*last, it.verb) = (head, Some(word));
        }
        it.drop_empty_end();
        Some(it)
    }

    fn drop_empty_end(&mut self) {
        while self.parts.last().is_some_and(|it| it.is_empty()) {
            self.parts.pop();
        }
    }

    /// Returns the part of the path from one segment to before another, separators between them included.
    fn slice(&self, path: &'p str, from: usize, to: usize) -> &'p str {
        if from >= to {
            return "";
        }
        let last = to - 1;
        &path[self.starts[from]..self.starts[last] + self.parts[last].len()]
    }
}

#[cfg(test)]
mod tests;
