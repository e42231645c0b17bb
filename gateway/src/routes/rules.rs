//! HTTP rules beside annotations: which rule a method has, and the bindings that come of it.
//!
//! Lives here: who comes first of those who say a rule, what becomes of each set, what is wrong with a rule. Does not: what a rule may say
//! (`weft-model`), binding it (`weft-transcode`), whose a path is in the table (`routes`).
//! A rule of the gateway's own file comes first, then one of a policy of the service, then one of a policy of gateways as a whole, by names of policies.
//! Invariants: a rule is about a method of the service that has its gRPC name, whoever says it; what a rule adds never takes a path that an
//! annotation of another service claims, whether or not that is called by it now.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use weft_model::{Edge, HttpRule, HttpRules, Policy, PolicyName};
use weft_transcode::{MethodPlan, Schema, plan::Origin};

use crate::routes::Entry;

/// A rule of the gateway's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRule {
    /// Where it stands, `gateway.toml:12`.
    pub at: Arc<str>,
    /// What it says.
    pub rule: HttpRule,
}

/// Who says a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// The gateway's file, at this place.
    File(Arc<str>),
    /// A policy of the method's own service.
    Own(PolicyName),
    /// A policy of gateways as a whole.
    Whole(PolicyName),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(at) => write!(f, "{at}"),
            Self::Own(name) | Self::Whole(name) => write!(f, "policy {name}"),
        }
    }
}

impl Source {
    /// Of two that want one path, the lower has it.
    pub(crate) fn rank(&self) -> (u8, &str) {
        match self {
            Self::File(_) => (0, ""), // then by the names of methods, as those of one policy
            Self::Own(name) => (1, name.as_str()),
            Self::Whole(name) => (2, name.as_str()),
        }
    }
}

/// What is wrong with a rule or an annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Whether the gateway's own file says it.
    pub(crate) of_file: bool,
    pub(crate) text: String,
}

impl Problem {
    pub(crate) fn of(source: &Source, text: impl fmt::Display) -> Self {
        Self { of_file: matches!(source, Source::File(_)), text: format!("{source}: {text}") }
    }

    /// One of what services say of themselves.
    pub(crate) fn of_descriptors(text: String) -> Self {
        Self { of_file: false, text }
    }
}

/// The rules that may be about methods of one service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said<'r> {
    pub(crate) file: &'r [FileRule],
    /// By name.
    pub(crate) own: &'r [Arc<Policy>],
    /// By name.
    pub(crate) whole: &'r [Arc<Policy>],
}

impl<'r> Said<'r> {
    fn each(self) -> impl Iterator<Item = (Source, &'r HttpRule)> {
        let of = |policies: &'r [Arc<Policy>], source: fn(PolicyName) -> Source| {
            policies.iter().flat_map(move |policy| {
                let rules = policy.kind.edge().and_then(Edge::http).map_or(&[][..], HttpRules::rules);
                rules.iter().map(move |rule| (source(policy.name.clone()), rule))
            })
        };
        let file = self.file.iter().map(|it| (Source::File(Arc::clone(&it.at)), &it.rule));
        file.chain(of(self.own, Source::Own)).chain(of(self.whole, Source::Whole))
    }
}

/// The sets of all entries with the rules that are about them.
#[derive(Debug, Default)]
pub(crate) struct Ruled<'r> {
    /// Of each entry, as its sets are ordered.
    schemas: Vec<Vec<Schema>>,
    /// Who says the rule of a method.
    sources: HashMap<&'r str, Source>,
    pub(crate) problems: Vec<Problem>,
}

impl<'r> Ruled<'r> {
    /// Puts rules in the place of annotations.
    pub(crate) fn of(entries: &[Entry], said: impl Fn(&Entry) -> Said<'r>, everywhere: Said<'r>) -> Self {
        let mut ruled = Self::default();
        let mut met: HashSet<&str> = HashSet::new();
        for entry in entries {
            let rules = ruled.choose(entry, said(entry), &mut met);
            let schemas = entry.sets.iter().enumerate().map(|(at, set)| {
                if rules.is_empty() {
                    return set.schema().clone();
                }
                // What no set declares is told once.
                let unknown = |rule: &HttpRule| entry.sets.iter().all(|it| !it.schema().declares(&rule.selector));
                let meant = |rule: &&&HttpRule| set.schema().declares(&rule.selector) || (at == 0 && unknown(rule));
                set.ruled(&rules.iter().filter(meant).copied().collect::<Vec<_>>())
            });
            let schemas: Vec<Schema> = schemas.collect();
            for problem in schemas.iter().flat_map(|it| it.problems()) {
                let told = match ruled.sources.get(problem.method.as_str()) {
                    Some(source) if problem.origin == Origin::Rule => Problem::of(source, problem),
                    _ => Problem::of_descriptors(format!("{}: {problem}", entry.name)),
                };
                if !ruled.problems.contains(&told) {
                    ruled.problems.push(told);
                }
            }
            ruled.schemas.push(schemas);
        }
        for (source, rule) in everywhere.each().filter(|(_, it)| !met.contains(it.selector.grpc_service())) {
            let service = rule.selector.grpc_service();
            let text = format!("{}: no service declares the gRPC service {service}", rule.selector);
            ruled.problems.push(Problem::of(&source, text));
        }
        ruled
    }

    /// The rules that count for a service, each with its own method.
    fn choose(&mut self, entry: &Entry, said: Said<'r>, met: &mut HashSet<&'r str>) -> Vec<&'r HttpRule> {
        let mut chosen: Vec<&HttpRule> = Vec::new();
        for (source, rule) in said.each() {
            let selector = rule.selector.as_str();
            let services = &entry.info.grpc_services;
            if !services.iter().any(|it| it.name == rule.selector.grpc_service()) {
                if let Source::Own(_) = source
                    && !services.is_empty()
                {
                    let names: Vec<&str> = services.iter().map(|it| it.name.as_str()).collect();
                    let text = format!(
                        "{selector}: {} has no gRPC service {}; it has {}",
                        entry.name,
                        rule.selector.grpc_service(),
                        names.join(", ")
                    );
                    self.problems.push(Problem::of(&source, text));
                }
                continue;
            }
            met.insert(rule.selector.grpc_service());
            match self.sources.get(selector).cloned() {
                None => {
                    self.sources.insert(selector, source);
                    chosen.push(rule);
                }
                Some(Source::Own(_)) if matches!(source, Source::Whole(_)) => {} // as with every edge kind
                Some(first) => {
                    let text = format!("{selector}: the rule of {first} comes first; this one is left out");
                    self.problems.push(Problem::of(&source, text));
                }
            }
        }
        chosen
    }

    /// What becomes of the sets of an entry.
    pub(crate) fn schemas(&self, entry: usize) -> &[Schema] {
        &self.schemas[entry]
    }

    /// Who says a binding; none: an annotation.
    pub(crate) fn source(&self, plan: &MethodPlan) -> Option<&Source> {
        self.said_of(plan.method().full_name(), plan.origin())
    }

    /// Who says a binding of a method that has this origin.
    pub(crate) fn said_of(&self, method: &str, origin: Origin) -> Option<&Source> {
        match origin {
            Origin::Rule => self.sources.get(method),
            Origin::Plain | Origin::Annotation => None,
        }
    }

    /// Whether any rule counts.
    pub(crate) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }
}
