//! Edge policies on their way out.
//!
//! Lives here: the shape, short where defaults say the same. Does not: other kinds (`document`, `document::route`).

use serde::Serialize;
use weft_model as model;

use super::is_false;
use crate::units;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Cors {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
    origins: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    http_methods: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    expose: Vec<String>,
    #[serde(skip_serializing_if = "is_false")]
    credentials: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_age: Option<String>,
}

impl Cors {
    pub(super) fn new(it: &model::Cors) -> Self {
        Self {
            methods: texts(it.methods.patterns()),
            origins: texts(&it.origins),
            http_methods: it.http_methods.iter().map(|it| it.as_str().to_owned()).collect(),
            headers: texts(&it.headers),
            expose: texts(&it.expose),
            credentials: it.credentials,
            max_age: (it.max_age != model::Cors::DEFAULT_MAX_AGE).then(|| units::time_text(it.max_age)),
        }
    }
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}
