//! JSON values as YAML.
//!
//! Lives here: block style for what has members, and JSON's own form for all strings, so that no reader takes one for something else
//! (`no`, `1.10`, `2XX`). Does not: reading YAML.
//! Source: YAML 1.2.2, of which JSON's scalars are a part; its escapes, too, but for characters that YAML counts as not printable.

use std::fmt::Write;

use serde_json::{Map, Value};

/// Words that readers of YAML 1.1 do not take for strings.
const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"];

/// Returns the value as a YAML document.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    block(&mut out, value, 0);
    out
}

fn block(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(members) if !members.is_empty() => mapping(out, members, indent),
        Value::Array(items) if !items.is_empty() => sequence(out, items, indent),
        other => {
            scalar(out, other);
            out.push('\n');
        }
    }
}

fn mapping(out: &mut String, members: &Map<String, Value>, indent: usize) {
    for (at, (name, value)) in members.iter().enumerate() {
        if at > 0 {
            pad(out, indent);
        }
        key(out, name);
        match is_block(value) {
            true => {
                out.push_str(":\n");
                pad(out, indent + 2);
                block(out, value, indent + 2);
            }
            false => {
                out.push_str(": ");
                block(out, value, indent);
            }
        }
    }
}

fn sequence(out: &mut String, items: &[Value], indent: usize) {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            pad(out, indent);
        }
        out.push_str("- ");
        block(out, item, indent + 2);
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(members) => !members.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn key(out: &mut String, name: &str) {
    let mut chars = name.chars();
    let plain = chars.next().is_some_and(|it| it.is_ascii_alphabetic())
        && chars.all(|it| it.is_ascii_alphanumeric() || matches!(it, '_' | '-' | '.'))
        && !WORDS.iter().any(|it| it.eq_ignore_ascii_case(name));
    if plain { out.push_str(name) } else { string(out, name) }
}

fn scalar(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => string(out, text),
        Value::Number(it) => out.push_str(&number(&it.to_string())),
        other => out.push_str(&other.to_string()), // words, and `{}` and `[]`
    }
}

/// A number as readers of YAML 1.1 take one, too: with a point before an exponent, and a sign in it.
fn number(text: &str) -> String {
    let Some((mantissa, exponent)) = text.split_once('e') else { return text.to_owned() };
    let point = if mantissa.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with(['+', '-']) { "" } else { "+" };
    format!("{mantissa}{point}e{sign}{exponent}")
}

fn string(out: &mut String, text: &str) {
    for it in Value::from(text).to_string().chars() {
        match it {
            '\u{7f}'..='\u{9f}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' | '\u{2028}' | '\u{2029}' => {
                // Writing to a string has no way to fail.
                let _ = write!(out, "\\u{:04x}", u32::from(it));
            }
            other => out.push(other),
        }
    }
}
