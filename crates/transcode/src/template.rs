//! The path template grammar of google/api/http.proto.
//!
//! Lives here: parsing and printing a template. Does not: matching (`routes`), or knowing whether a variable's field exists (`plan`).
//! Grammar:
//!
//!     Template = "/" [ Segments ] [ Verb ] ;      Segments = Segment { "/" Segment } ;
//!     Segment  = "*" | "**" | LITERAL | Variable ; Variable = "{" FieldPath [ "=" Segments ] "}" ;
//!     FieldPath = IDENT { "." IDENT } ;            Verb = ":" LITERAL ;

use std::fmt;
use std::str::FromStr;

/// A parsed template: flat segments, and the variables that span them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub(crate) segments: Vec<Segment>,
    pub(crate) variables: Vec<Variable>,
    pub(crate) verb: Option<String>,
}

/// One segment of a template, variables dissolved.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// Matches itself, byte for byte, undecoded.
    Literal(String),
    /// `*`: exactly one segment.
    Star,
    /// `**`: zero or more segments.
    DoubleStar,
}

/// A variable: the field it fills and the segments it spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Names from the request message down to the field.
    pub field_path: Vec<String>,
    /// Index of its first segment.
    pub start: usize,
    /// Index after its last segment.
    pub end: usize,
}

/// Why a template does not parse, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at column {column}")]
pub struct TemplateError {
    /// What was expected or is not allowed.
    pub reason: String,
    /// Character position in the template, from 1.
    pub column: usize,
}

impl Template {
    /// Returns the segments with variables dissolved.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Returns the variables in the order of the template.
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }

    /// Returns the verb without its colon.
    pub fn verb(&self) -> Option<&str> {
        self.verb.as_deref()
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let _ = text;
        todo!()
    }
}

impl fmt::Display for Template {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}
