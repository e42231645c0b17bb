//! Texts: from TOML, YAML or JSON to policies.
//!
//! Lives here: the formats' syntax, and where in a text a problem is. Does not: what a document may say (`schema`).
//! JSON is read as what it is, and then by the YAML parser, which knows lines. YAML's aliases are refused: a policy is short enough to say it twice, and a
//! text then never means more than it shows.

use std::{fmt, path::Path, str::FromStr};

use granit_parser::{Event, Parser, ScalarStyle, Span};
use serde::de::IgnoredAny;
use weft_model::{HttpRule, Invalid, Policy};

use crate::{
    schema,
    tree::{Entry, Node, Value},
};

/// How deep a document may nest; a policy needs 7.
const DEPTH: usize = 32;

/// A syntax of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// TOML.
    Toml,
    /// YAML 1.2, several documents or one.
    Yaml,
    /// JSON, one value.
    Json,
}

impl Format {
    /// Returns the format of a file's name, by its extension: toml, yaml, yml, json. None for others.
    pub fn of(path: &Path) -> Option<Self> {
        path.extension()?.to_str()?.parse().ok()
    }
}

/// No format of policies.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no format of policies: expected toml, yaml or json")]
pub struct UnknownFormat(String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        match text.to_ascii_lowercase().as_str() {
            "toml" => Ok(Self::Toml),
            "yaml" | "yml" => Ok(Self::Yaml),
            "json" => Ok(Self::Json),
            _ => Err(UnknownFormat(text.to_owned())),
        }
    }
}

/// What is wrong with a text, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Counted from 1.
    pub line: usize,
    /// Path of the field within its document, `access.rules[0].methods[1]`; empty for the document itself, or where it is no document at all.
    pub field: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, field, problem } = self;
        if field.is_empty() {
            write!(f, "line {line}: {problem}")
        } else {
            write!(f, "line {line}: {field}: {problem}")
        }
    }
}

impl std::error::Error for Wrong {}

impl Wrong {
    pub(crate) fn at(line: usize, problem: impl fmt::Display) -> Self {
        Self { line, field: String::new(), problem: problem.to_string() }
    }

    fn within(document: &Node, invalid: &Invalid) -> Self {
        let (field, problem) = (invalid.field().to_owned(), invalid.problem().to_owned());
        Self { line: document.line_of(&field), field, problem }
    }
}

/// Reads the policies of a text, each with the line it begins at. A text without any is none.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(text: &str, format: Format) -> Result<Vec<(usize, Policy)>, Wrong> {
    let documents = match format {
        Format::Toml => vec![toml(text)?],
        Format::Yaml => yaml(text)?,
        Format::Json => {
            let syntax = serde_json::from_str::<IgnoredAny>(text);
            syntax.map_err(|error| Wrong::at(error.line(), format!("this is no JSON: {error}")))?;
            yaml(text)?
        }
    };
    let mut policies = Vec::new();
    for document in &documents {
        let read = schema::policies(document).map_err(|invalid| Wrong::within(document, &invalid))?;
        policies.extend(read.into_iter().map(|(path, policy)| (document.line_of(&path), policy)));
    }
    Ok(policies)
}

/// Reads the `[[policies]]` of a TOML text that also holds other tables, which are left alone.
///
/// # Errors
/// The first thing that is wrong with the policies, or that the text is no TOML.
pub fn parse_among(text: &str) -> Result<Vec<(usize, Policy)>, Wrong> {
    let document = toml(text)?;
    let read = schema::policies_among(&document).map_err(|invalid| Wrong::within(&document, &invalid))?;
    Ok(read.into_iter().map(|(path, policy)| (document.line_of(&path), policy)).collect())
}

/// Reads the `[[http]]` of a TOML text that also holds other tables, which are left alone; each with the line it begins at.
///
/// # Errors
/// The first thing that is wrong with the rules, or that the text is no TOML.
pub fn parse_http_among(text: &str) -> Result<Vec<(usize, HttpRule)>, Wrong> {
    let document = toml(text)?;
    let read = schema::http_among(&document).map_err(|invalid| Wrong::within(&document, &invalid))?;
    Ok(read.into_iter().map(|(path, rule)| (document.line_of(&path), rule)).collect())
}

fn toml(text: &str) -> Result<Node, Wrong> {
    let line = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
    let table = toml::de::DeTable::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        Wrong::at(line(offset), format!("this is no TOML: {}", error.message().trim_end()))
    })?;
    Ok(from_toml(1, &toml::de::DeValue::Table(table.into_inner()), &line))
}

fn from_toml(at: usize, value: &toml::de::DeValue<'_>, line: &dyn Fn(usize) -> usize) -> Node {
    use toml::de::DeValue;
    let value = match value {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Integer(number) => Value::Number(number.as_str().replace('_', "")),
        DeValue::Float(number) => Value::Number(number.as_str().replace('_', "")),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => {
            Value::List(items.iter().map(|it| from_toml(line(it.span().start), it.get_ref(), line)).collect())
        }
        DeValue::Table(table) => {
            let entry = |(key, value): (&toml::Spanned<toml::de::DeString<'_>>, &toml::Spanned<DeValue<'_>>)| Entry {
                key: key.get_ref().clone().into_owned(),
                line: line(key.span().start),
                value: from_toml(line(value.span().start), value.get_ref(), line),
            };
            Value::Map(table.iter().map(entry).collect())
        }
    };
    Node { line: at, value }
}

fn yaml(text: &str) -> Result<Vec<Node>, Wrong> {
    let mut reader = Yaml { events: Parser::new_from_str(text) };
    let mut documents = Vec::new();
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(documents),
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
            event => documents.push(reader.node(event, &span, DEPTH)?),
        }
    }
}

struct Yaml<'t> {
    events: Parser<'t, granit_parser::StrInput<'t>>,
}

impl<'t> Yaml<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), Wrong> {
        match self.events.next() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(Wrong::at(error.marker().line(), format!("this is no YAML: {}", error.info()))),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'t>, span: &Span, depth: usize) -> Result<Node, Wrong> {
        let line = span.start.line();
        if depth == 0 {
            return Err(Wrong::at(line, format!("nested deeper than {DEPTH} levels")));
        }
        let value = match event {
            Event::Scalar(text, style, ..) => scalar(&text, style),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break Value::List(items),
                        (event, span) => items.push(self.node(event, &span, depth - 1)?),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut entries: Vec<Entry> = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::MappingEnd) {
                        break Value::Map(entries);
                    }
                    let key = self.node(event, &span, depth - 1)?;
                    let (event, span) = self.next()?;
                    let value = self.node(event, &span, depth - 1)?;
                    let Value::Text(text) = key.value else {
                        return Err(Wrong::at(key.line, format!("a key is text, not {}", key.value.sort())));
                    };
                    if let Some(first) = entries.iter().find(|it| it.key == text) {
                        return Err(Wrong::at(key.line, format!("{text:?} was given on line {} already", first.line)));
                    }
                    entries.push(Entry { key: text, line: key.line, value });
                }
            }
            Event::Alias(_) => return Err(Wrong::at(line, "aliases are not read; write it out")),
            _ => return Err(Wrong::at(line, "this is no YAML that a policy could be written in")),
        };
        Ok(Node { line, value })
    }
}

/// YAML's core schema, as far as policies go: numbers stay the text they are.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    match (style, text) {
        (ScalarStyle::Plain, "" | "~" | "null" | "Null" | "NULL") => Value::Nothing,
        (ScalarStyle::Plain, "true" | "True" | "TRUE") => Value::Flag(true),
        (ScalarStyle::Plain, "false" | "False" | "FALSE") => Value::Flag(false),
        _ => Value::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests;
