//! What a text says, whatever its format, with the line of each part.
//!
//! Lives here: the tree, finding a part by its path. Does not: syntax (`text`), meaning (`schema`).

/// A part of a document.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// Counted from 1.
    pub(crate) line: usize,
    pub(crate) value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Nothing,
    Flag(bool),
    Text(String),
    /// Where the format tells it from text; as it was written.
    Number(String),
    /// Of a sort that no policy has; named for people.
    Other(&'static str),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// Of the key; the value may begin further down.
    pub(crate) line: usize,
    pub(crate) value: Node,
}

impl Value {
    /// The sort, for people.
    pub(crate) fn sort(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Flag(_) => "true or false",
            Self::Text(_) => "text",
            Self::Number(_) => "a number",
            Self::Other(sort) => sort,
            Self::List(_) => "a list",
            Self::Map(_) => "a table",
        }
    }
}

impl Node {
    /// Returns the line of what a path like `access.rules[0].name` leads to, or of the last part that is there.
    pub(crate) fn line_of(&self, path: &str) -> usize {
        match &self.value {
            Value::Map(entries) => {
                let leads = |it: &&Entry| path.strip_prefix(it.key.as_str()).is_some_and(ends_a_key);
                let longest = entries.iter().filter(leads).max_by_key(|it| it.key.len());
                longest.map_or(self.line, |it| {
                    let rest = path[it.key.len()..].trim_start_matches('.');
                    if rest.is_empty() { it.line } else { it.value.line_of(rest) }
                })
            }
            Value::List(items) => {
                let found = path.strip_prefix('[').and_then(|it| it.split_once(']'));
                let found = found.and_then(|(index, rest)| Some((items.get(index.parse::<usize>().ok()?)?, rest)));
                found.map_or(self.line, |(item, rest)| item.line_of(rest.trim_start_matches('.')))
            }
            Value::Nothing | Value::Flag(_) | Value::Text(_) | Value::Number(_) | Value::Other(_) => self.line,
        }
    }
}

fn ends_a_key(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(['.', '['])
}
