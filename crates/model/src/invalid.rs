//! The one error of parsing into this crate's types: which field, and what is wrong with it.
//!
//! Lives here: the field path and how it grows outwards. Does not: gRPC status mapping (each RPC surface has its own function).

use std::fmt;

/// A value that is not valid, with the path of the field that holds it, for example `instance.endpoint.address`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    field: String,
    problem: String,
}

impl Invalid {
    /// Names a problem of `field`; an empty field means the value itself.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// Returns the same problem one level further out: `address` within `endpoint` is `endpoint.address`, `[1]` within `rules` is `rules[1]`.
    pub fn within(mut self, outer: &str) -> Self {
        self.field = match self.field.as_bytes().first() {
            None => outer.to_owned(),
            Some(b'[') => format!("{outer}{}", self.field),
            Some(_) => format!("{outer}.{}", self.field),
        };
        self
    }

    /// Path of the field, dots between levels; empty for the value itself.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong, and what would be right.
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.problem) } else { write!(f, "{}: {}", self.field, self.problem) }
    }
}

impl std::error::Error for Invalid {}
