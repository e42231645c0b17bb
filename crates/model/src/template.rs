//! The path template grammar of google/api/http.proto.
//!
//! Lives here: parsing and printing a template, for descriptors, policies and files alike. Does not: matching a path, or knowing whether a
//! variable's field exists (`weft-transcode`).
//!
//! ```text
//! Template = "/" [ Segments ] [ Verb ] ;        Segments = Segment { "/" Segment } ;
//! Segment  = "*" | "**" | LITERAL | Variable ;  Variable = "{" FieldPath [ "=" Segments ] "}" ;
//! FieldPath = IDENT { "." IDENT } ;             Verb = ":" LITERAL ;
//! ```
//!
//! Source: google/api/http.proto; differs: `/` alone is a template, and segments may follow a `**` (at most one in a
//! template), as in Envoy and grpc-gateway. A LITERAL is a run of RFC 3986 path characters, percent escapes included,
//! without `*`; the last colon of a template starts its verb.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// A parsed template: flat segments, and the variables that span them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    segments: Vec<Segment>,
    variables: Vec<Variable>,
    verb: Option<String>,
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
    /// The segments of the template that are its pattern; never empty.
    pub span: Range<usize>,
}

/// Why a template does not parse, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
    /// What was expected or is not allowed.
    pub reason: String,
    /// Character position in the template, from 1.
    pub column: usize,
}

impl Template {
    /// Returns the template of one path; its segments are taken as they are.
    pub fn literal(segments: impl IntoIterator<Item = String>) -> Self {
        let segments = segments.into_iter().map(Segment::Literal).collect();
        Self { segments, variables: Vec::new(), verb: None }
    }

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

    /// Returns the name under which the paths of this template are claimed for an HTTP method: `GET /api/users/*`. Templates that match the
    /// same paths have the same name, whatever their variables are called.
    pub fn claim(&self, http_method: &str) -> String {
        let plain = Self { variables: Vec::new(), ..self.clone() };
        format!("{http_method} {plain}")
    }

    /// Returns whether a variable can hold more than one segment.
    pub fn is_multi_segment(&self, variable: &Variable) -> bool {
        variable.span.len() > 1 || self.segments[variable.span.start] == Segment::DoubleStar
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at column {}", self.reason, self.column)
    }
}

impl std::error::Error for TemplateError {}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let mut parser = Parser {
            chars: text.chars().collect(),
            at: 0,
            template: Self { segments: vec![], variables: vec![], verb: None },
        };
        parser.template()?;
        Ok(parser.template)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.segments.is_empty() {
            write!(f, "/")?;
        }
        let mut at = 0;
        while at < self.segments.len() {
            let Some(variable) = self.variables.iter().find(|it| it.span.start == at) else {
                write!(f, "/{}", self.segments[at])?;
                at += 1;
                continue;
            };
            let pattern =
                self.segments[variable.span.clone()].iter().map(Segment::to_string).collect::<Vec<_>>().join("/");
            match pattern.as_str() {
                "*" => write!(f, "/{{{}}}", variable.field_path.join("."))?,
                _ => write!(f, "/{{{}={pattern}}}", variable.field_path.join("."))?,
            }
            at = variable.span.end;
        }
        match &self.verb {
            Some(verb) => write!(f, ":{verb}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(text) => f.write_str(text),
            Self::Star => f.write_str("*"),
            Self::DoubleStar => f.write_str("**"),
        }
    }
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    template: Template,
}

impl Parser {
    fn template(&mut self) -> Result<(), TemplateError> {
        self.expect('/')?;
        if self.at == self.chars.len() {
            return Ok(());
        }
        loop {
            self.segment()?;
            match self.peek() {
                None => return Ok(()),
                Some('/') => self.at += 1,
                Some(':') => return self.verb(),
                Some(other) => return self.fail(format!("expected '/', ':' or the end, found {other:?}")),
            }
        }
    }

    fn segment(&mut self) -> Result<(), TemplateError> {
        match self.peek() {
            Some('{') => self.variable(),
            _ => self.plain_segment(Place::Path),
        }
    }

    fn plain_segment(&mut self, place: Place) -> Result<(), TemplateError> {
        let segment = match self.peek() {
            Some('*') => self.stars()?,
            Some('{') => return self.fail("a variable inside a variable is not allowed"),
            _ => Segment::Literal(self.literal(place)?),
        };
        self.template.segments.push(segment);
        Ok(())
    }

    fn stars(&mut self) -> Result<Segment, TemplateError> {
        self.at += 1;
        if self.peek() != Some('*') {
            return Ok(Segment::Star);
        }
        if self.template.segments.contains(&Segment::DoubleStar) {
            self.at -= 1;
            return self.fail("a template may have one '**' only");
        }
        self.at += 1;
        Ok(Segment::DoubleStar)
    }

    fn variable(&mut self) -> Result<(), TemplateError> {
        self.expect('{')?;
        let mut field_path = vec![self.identifier()?];
        while self.peek() == Some('.') {
            self.at += 1;
            field_path.push(self.identifier()?);
        }
        let start = self.template.segments.len();
        match self.peek() {
            Some('=') => {
                self.at += 1;
                self.plain_segment(Place::Variable)?;
                while self.peek() == Some('/') {
                    self.at += 1;
                    self.plain_segment(Place::Variable)?;
                }
            }
            _ => self.template.segments.push(Segment::Star),
        }
        self.expect('}')?;
        self.template.variables.push(Variable { field_path, span: start..self.template.segments.len() });
        Ok(())
    }

    fn identifier(&mut self) -> Result<String, TemplateError> {
        let start = self.at;
        while self
            .peek()
            .is_some_and(|it| it == '_' || it.is_ascii_alphabetic() || (self.at > start && it.is_ascii_digit()))
        {
            self.at += 1;
        }
        if self.at == start {
            return self.fail("expected a field name");
        }
        Ok(self.chars[start..self.at].iter().collect())
    }

    fn verb(&mut self) -> Result<(), TemplateError> {
        self.expect(':')?;
        let verb = self.literal(Place::Verb)?;
        if let Some(other) = self.peek() {
            return self.fail(format!("expected the end after the verb, found {other:?}"));
        }
        self.template.verb = Some(verb);
        Ok(())
    }

    /// Reads a literal. In the path, a colon in the last segment starts the verb (the last one does), elsewhere it is a
    /// character like others.
    fn literal(&mut self, place: Place) -> Result<String, TemplateError> {
        let start = self.at;
        let rest = &self.chars[start..];
        let verb_at = match place {
            Place::Path if !rest.contains(&'/') => rest.iter().rposition(|it| *it == ':').map(|it| start + it),
            Place::Path | Place::Variable | Place::Verb => None,
        };
        while let Some(it) = self.peek() {
            let escape = self.chars.get(self.at + 1..self.at + 3);
            match it {
                '%' if escape.is_some_and(|it| it.iter().all(char::is_ascii_hexdigit)) => self.at += 3,
                '%' => return self.fail("a '%' must be followed by two hexadecimal digits"),
                ':' if place == Place::Verb => return self.fail("a verb cannot contain ':'"),
                ':' if verb_at == Some(self.at) => break,
                _ if is_path_character(it) => self.at += 1,
                '/' | '}' => break,
                '*' | '{' => return self.fail(format!("{it:?} must be a segment of its own")),
                _ => return self.fail(format!("{it:?} must be percent-encoded")),
            }
        }
        if self.at == start {
            return self.fail(match place {
                Place::Verb => "expected a verb",
                Place::Path | Place::Variable => "expected a segment",
            });
        }
        Ok(self.chars[start..self.at].iter().collect())
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn expect(&mut self, wanted: char) -> Result<(), TemplateError> {
        if self.peek() != Some(wanted) {
            let found = self.peek().map_or("the end".to_owned(), |it| format!("{it:?}"));
            return self.fail(format!("expected {wanted:?}, found {found}"));
        }
        self.at += 1;
        Ok(())
    }

    fn fail<R>(&self, reason: impl Into<String>) -> Result<R, TemplateError> {
        Err(TemplateError { reason: reason.into(), column: self.at + 1 })
    }
}

/// Where a literal stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Path,
    Variable,
    Verb,
}

/// `pchar` of RFC 3986, 3.3, without `*` (a wildcard here) and `%` (checked by the caller).
fn is_path_character(it: char) -> bool {
    it.is_ascii_alphanumeric() || "-._~!$&'()+,;=:@".contains(it)
}

#[cfg(test)]
mod tests;
