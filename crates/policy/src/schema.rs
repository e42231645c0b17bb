//! The schema of policy documents: from a tree to policies, with the path of what is wrong.
//!
//! Lives here: keys, which of them go together, what an unknown one may have meant. Does not: syntax and lines (`text`), rules about values (`weft-model`).

mod edge;
mod route;

use std::str::FromStr;

use weft_model::{
    Access, Action, Callers, Edge, HttpRule, Invalid, MethodPattern, PlaintextUpstream, Policy, PolicyKind, Rule,
    Version,
};

use crate::tree::{Entry, Node, Value};

const POLICIES: &str = "policies";
const HTTP: &str = "http";
const KINDS: [&str; 13] = [
    "access",
    "plaintext_upstream",
    "route",
    "upstream",
    "cors",
    "authentication",
    "rate_limit",
    "api_key",
    "cache",
    "limits",
    "headers",
    HTTP,
    "transcoding",
];
/// Reads a document: one policy, or a list of them; each with its path in the document. An empty one has none.
pub(crate) fn policies(document: &Node) -> Result<Vec<(String, Policy)>, Invalid> {
    match &document.value {
        Value::Nothing => Ok(Vec::new()),
        Value::Map(entries) if entries.is_empty() => Ok(Vec::new()),
        Value::List(items) => listed("", items),
        Value::Map(entries) if entries.iter().any(|it| it.key == POLICIES) => {
            fields(document, &[POLICIES])?;
            policies_among(document)
        }
        Value::Map(_) => Ok(vec![(String::new(), policy(document)?)]),
        other => Err(Invalid::new("", format!("expected a policy, found {}", other.sort()))),
    }
}

/// Reads the policies of a document that also says other things, which are left alone.
pub(crate) fn policies_among(document: &Node) -> Result<Vec<(String, Policy)>, Invalid> {
    let Value::Map(entries) = &document.value else { return Ok(Vec::new()) };
    let Some(entry) = entries.iter().find(|it| it.key == POLICIES) else { return Ok(Vec::new()) };
    listed(POLICIES, list(&entry.value).map_err(|e| e.within(POLICIES))?)
}

/// Reads the HTTP rules of a document that also says other things, which are left alone.
pub(crate) fn http_among(document: &Node) -> Result<Vec<(String, HttpRule)>, Invalid> {
    let Value::Map(entries) = &document.value else { return Ok(Vec::new()) };
    let Some(node) = find(entries, HTTP) else { return Ok(Vec::new()) };
    let nodes = list(node).map_err(|e| e.within(HTTP))?;
    let place = |index| format!("{HTTP}[{index}]");
    let read = |(index, node)| edge::http_rule(node).map_err(|e| e.within(&place(index)));
    let rules = nodes.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    HttpRule::all_differ(&rules).map_err(|e| e.within(HTTP))?;
    Ok(rules.into_iter().enumerate().map(|(index, rule)| (place(index), rule)).collect())
}

fn listed(path: &str, items: &[Node]) -> Result<Vec<(String, Policy)>, Invalid> {
    let read = |(index, item)| {
        let place = format!("{path}[{index}]");
        policy(item).map(|it| (place.clone(), it)).map_err(|e| e.within(&place))
    };
    items.iter().enumerate().map(read).collect()
}

fn policy(node: &Node) -> Result<Policy, Invalid> {
    let known: Vec<&str> = ["name", "service"].into_iter().chain(KINDS).collect();
    let entries = fields(node, &known)?;
    let mut kinds = KINDS.into_iter().filter_map(|key| find(entries, key).map(|node| (key, node)));
    let Some((key, node)) = kinds.next() else {
        return Err(Invalid::new("", format!("says nothing: give one of {}", KINDS.join(", "))));
    };
    if let Some((second, _)) = kinds.next() {
        return Err(Invalid::new(second, "a policy is of one kind: write a second one for this"));
    }
    let kind = kind(key, node).map_err(|e| e.within(key))?;
    let (name, service) = (required(entries, "name")?, required(entries, "service")?);
    Ok(Policy { name: parsed("name", name)?, service: parsed("service", service)?, version: Version::default(), kind })
}

fn kind(key: &str, node: &Node) -> Result<PolicyKind, Invalid> {
    Ok(match key {
        "access" => PolicyKind::Access(access(node)?),
        "plaintext_upstream" => PolicyKind::PlaintextUpstream(plaintext_upstream(node)?),
        "route" => PolicyKind::Route(route::route(node)?),
        "upstream" => PolicyKind::Upstream(route::upstream(node)?),
        "cors" => PolicyKind::Edge(Edge::Cors(edge::cors(node)?)),
        "authentication" => PolicyKind::Edge(Edge::Authentication(edge::authentication(node)?)),
        "rate_limit" => PolicyKind::Edge(Edge::RateLimit(edge::rate_limit(node)?)),
        "api_key" => PolicyKind::Edge(Edge::ApiKey(edge::api_key(node)?)),
        "cache" => PolicyKind::Edge(Edge::Cache(edge::cache(node)?)),
        "limits" => PolicyKind::Edge(Edge::Limits(edge::limits(node)?)),
        "headers" => PolicyKind::Edge(Edge::Headers(edge::headers(node)?)),
        HTTP => PolicyKind::Edge(Edge::Http(edge::http(node)?)),
        _ => PolicyKind::Edge(Edge::Transcoding(edge::transcoding(node)?)),
    })
}

fn plaintext_upstream(node: &Node) -> Result<PlaintextUpstream, Invalid> {
    match text(node)? {
        "allow" => Ok(PlaintextUpstream::Allow),
        "refuse" => Ok(PlaintextUpstream::Refuse),
        other => Err(one_of(other, &["allow", "refuse"])),
    }
}

fn access(node: &Node) -> Result<Access, Invalid> {
    let entries = fields(node, &["rules"])?;
    let rules = list(required(entries, "rules")?).map_err(|e| e.within("rules"))?;
    let read = |(index, node)| rule(index, node).map_err(|e| e.within(&format!("rules[{index}]")));
    Access::new(rules.iter().enumerate().map(read).collect::<Result<_, _>>()?)
}

fn rule(index: usize, node: &Node) -> Result<Rule, Invalid> {
    let entries = fields(node, &["name", "action", "from", "methods"])?;
    let name = find(entries, "name").map_or_else(|| Ok(Rule::name_of_place(index)), |it| parsed("name", it))?;
    let action = find(entries, "action").map(action).transpose().map_err(|e| e.within("action"))?;
    let from = required(entries, "from")?;
    let from = callers(from).map_err(|e| e.within("from"))?;
    let methods: Vec<MethodPattern> = each(entries, "methods")?;
    if methods.is_empty() && find(entries, "methods").is_some() {
        return Err(Invalid::new("methods", "is empty, which would mean every method; leave it out to mean that"));
    }
    Rule::new(name, action.unwrap_or_default(), from, methods)
}

fn action(node: &Node) -> Result<Action, Invalid> {
    match text(node)? {
        "allow" => Ok(Action::Allow),
        "deny" => Ok(Action::Deny),
        other => Err(one_of(other, &["allow", "deny"])),
    }
}

fn callers(node: &Node) -> Result<Callers, Invalid> {
    let entries = fields(node, &["identities", "services", "namespaces", "anonymous", "authenticated"])?;
    let flag = |key: &str| find(entries, key).map_or(Ok(false), |it| flag(it).map_err(|e| e.within(key)));
    let callers = Callers {
        identities: each(entries, "identities")?,
        services: each(entries, "services")?,
        namespaces: each(entries, "namespaces")?,
        anonymous: flag("anonymous")?,
        authenticated: flag("authenticated")?,
    };
    callers.checked()
}

/// The entries of a table with no other keys than these.
fn fields<'n>(node: &'n Node, known: &[&str]) -> Result<&'n [Entry], Invalid> {
    let Value::Map(entries) = &node.value else {
        return Err(Invalid::new("", format!("expected a table of {}, found {}", known.join(", "), node.value.sort())));
    };
    match entries.iter().find(|it| !known.contains(&it.key.as_str())) {
        None => Ok(entries),
        Some(unknown) => {
            let problem = match meant(&unknown.key, known) {
                Some(meant) => format!("unknown key; did you mean {meant}?"),
                None => format!("unknown key; known here: {}", known.join(", ")),
            };
            Err(Invalid::new(unknown.key.clone(), problem))
        }
    }
}

fn find<'n>(entries: &'n [Entry], key: &str) -> Option<&'n Node> {
    entries.iter().find(|it| it.key == key).map(|it| &it.value)
}

fn required<'n>(entries: &'n [Entry], key: &str) -> Result<&'n Node, Invalid> {
    find(entries, key).ok_or_else(|| Invalid::new(key, "is required"))
}

fn text(node: &Node) -> Result<&str, Invalid> {
    match &node.value {
        Value::Text(text) => Ok(text),
        other => Err(Invalid::new("", format!("expected text, found {}", other.sort()))),
    }
}

/// Text, or a number as it was written.
fn written(node: &Node) -> Result<&str, Invalid> {
    match &node.value {
        Value::Text(text) | Value::Number(text) => Ok(text),
        other => Err(Invalid::new("", format!("expected text or a number, found {}", other.sort()))),
    }
}

fn number(node: &Node) -> Result<u32, Invalid> {
    let text = match &node.value {
        Value::Text(text) | Value::Number(text) => text,
        other => return Err(Invalid::new("", format!("expected a number, found {}", other.sort()))),
    };
    text.parse().map_err(|_| Invalid::new("", format!("{text:?} is no whole number, 0 to 4294967295")))
}

fn flag(node: &Node) -> Result<bool, Invalid> {
    match &node.value {
        Value::Flag(flag) => Ok(*flag),
        other => Err(Invalid::new("", format!("expected true or false, found {}", other.sort()))),
    }
}

fn list(node: &Node) -> Result<&[Node], Invalid> {
    match &node.value {
        Value::List(items) => Ok(items),
        other => Err(Invalid::new("", format!("expected a list, found {}", other.sort()))),
    }
}

fn parsed<T: FromStr<Err = Invalid>>(field: &str, node: &Node) -> Result<T, Invalid> {
    text(node).and_then(str::parse).map_err(|e| e.within(field))
}

/// The values of a list that may be left out.
fn each<T: FromStr<Err = Invalid>, C: FromIterator<T> + Default>(entries: &[Entry], key: &str) -> Result<C, Invalid> {
    let Some(node) = find(entries, key) else { return Ok(C::default()) };
    let items = list(node).map_err(|e| e.within(key))?;
    items.iter().enumerate().map(|(index, item)| parsed(&format!("{key}[{index}]"), item)).collect()
}

fn one_of(found: &str, known: &[&str]) -> Invalid {
    let cure = match meant(found, known) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("expected {}", known.join(" or ")),
    };
    Invalid::new("", format!("{found:?} is not known; {cure}"))
}

/// The known word that was probably meant: at most a third of it is wrong, two letters swapped count as one.
fn meant<'k>(found: &str, known: &[&'k str]) -> Option<&'k str> {
    let distance = |word: &&str| strsim::osa_distance(found, word);
    let near = |word: &&&str| distance(word) <= word.len().max(found.len()).div_ceil(3);
    known.iter().filter(near).min_by_key(|word| distance(word)).copied()
}
