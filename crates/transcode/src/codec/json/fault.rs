//! What is wrong with a document, and where.
//!
//! Lives here: faults with their way to the value, places in a text. Does not: finding them (`json`, `decode`).

use crate::bind::BindError;

/// What is wrong with a document, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault(Box<Inner>);

/// Boxed, since every value that is read returns room for it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Inner {
    /// Byte offset in the document.
    at: usize,
    reason: String,
    /// Whose bound it is that the document is beyond, and the cure; none: it is wrong by itself.
    bound: Option<String>,
    /// Steps from the value at fault outwards.
    steps: Vec<String>,
}

pub(crate) type Read<T> = Result<T, Fault>;

impl Fault {
    pub(crate) fn new(at: usize, reason: impl Into<String>) -> Self {
        Self(Box::new(Inner { at, reason: reason.into(), bound: None, steps: Vec::new() }))
    }

    /// Says that a document is beyond a bound: how, then whose that is and the cure.
    pub(crate) fn beyond(at: usize, (reason, bound): (String, String)) -> Self {
        Self(Box::new(Inner { at, reason, bound: Some(bound), steps: Vec::new() }))
    }

    /// Says that the value at fault lies in a member.
    pub(crate) fn within(mut self, member: &str) -> Self {
        self.0.steps.push(format!(".{member}"));
        self
    }

    /// Says that the value at fault lies in an array's element.
    pub(crate) fn within_element(mut self, index: usize) -> Self {
        self.0.steps.push(format!("[{index}]"));
        self
    }

    /// Says that the value at fault lies under a map's key.
    pub(crate) fn within_entry(mut self, key: &str) -> Self {
        self.0.steps.push(format!("[{key:?}]"));
        self
    }

    /// Returns what is wrong, of a value that stands alone.
    pub(crate) fn into_reason(self) -> String {
        self.0.reason
    }

    /// Returns the client's error: field path where known, then what is wrong, then line and column in `document`,
    /// which starts at `origin` of the body.
    pub(crate) fn into_error(self, document: &[u8], origin: Position) -> BindError {
        let Inner { at, reason, bound, steps } = *self.0;
        let position = origin.after(&document[..at.min(document.len())]);
        let whose = bound.as_ref().map(|it| format!(": {it}")).unwrap_or_default();
        let description = format!("{reason} at line {} column {}{whose}", position.line, position.column);
        let path: String = steps.iter().rev().map(String::as_str).collect();
        match path.strip_prefix('.').unwrap_or(&path) {
            "" if bound.is_some() => BindError::field("body", description),
            "" => BindError::invalid(format!("malformed request body: {description}")),
            path => BindError::field(path, description),
        }
    }
}

/// A place in a text, both counted from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Position {
    pub(crate) const START: Self = Self { line: 1, column: 1 };

    /// Returns the position after some text.
    pub(crate) fn after(self, text: &[u8]) -> Self {
        text.iter().fold(self, |at, byte| match byte {
            b'\n' => Self { line: at.line + 1, column: 1 },
            // Bytes that continue a UTF-8 character take no column.
            byte if byte & 0xC0 == 0x80 => at,
            _ => Self { column: at.column + 1, ..at },
        })
    }
}
