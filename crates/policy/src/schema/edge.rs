//! The schema of edge policies.
//!
//! Lives here: keys and what their values may be. Does not: bounds (`weft-model`), other kinds (`schema`, `schema::route`).

use std::sync::Arc;

use weft_model::{Cors, Invalid, Methods};

use super::{
    each, fields, find, flag, list,
    route::{time, within},
    text,
};
use crate::tree::{Entry, Node};

pub(super) fn cors(node: &Node) -> Result<Cors, Invalid> {
    let known = ["methods", "origins", "http_methods", "headers", "expose", "credentials", "max_age"];
    let entries = fields(node, &known)?;
    let cors = Cors {
        methods: methods(entries)?,
        origins: each(entries, "origins")?,
        http_methods: each(entries, "http_methods")?,
        headers: names(entries, "headers")?,
        expose: names(entries, "expose")?,
        credentials: within(entries, "credentials", flag)?.unwrap_or_default(),
        max_age: time(entries, "max_age")?.unwrap_or(Cors::DEFAULT_MAX_AGE),
    };
    cors.checked()
}

/// Which methods a policy is about; a list that is there names some.
fn methods(entries: &[Entry]) -> Result<Methods, Invalid> {
    let methods: Vec<_> = each(entries, "methods")?;
    if methods.is_empty() && find(entries, "methods").is_some() {
        return Err(Invalid::new("methods", "is empty, which would mean every method; leave it out to mean that"));
    }
    Methods::new(methods)
}

/// Names of headers, which people may write as they like.
fn names(entries: &[Entry], key: &str) -> Result<Vec<Arc<str>>, Invalid> {
    let Some(node) = find(entries, key) else { return Ok(Vec::new()) };
    let items = list(node).map_err(|e| e.within(key))?;
    let name = |(index, item)| {
        let name = text(item).map_err(|e| e.within(&format!("{key}[{index}]")))?;
        Ok(name.to_ascii_lowercase().into())
    };
    items.iter().enumerate().map(name).collect()
}
