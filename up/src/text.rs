//! Log lines and errors as people read them.
//!
//! Lives here: turning one JSON line of ours into text, and an error with what caused it. Does not: finding lines, printing them.

use std::{collections::BTreeSet, error::Error};

use serde_json::{Map, Value};
use tonic::{Code, Status};

/// `12:00:01.250 WARN  the watch is lost; opening another  error="…"` for a JSON log line; any other line as it is.
pub fn for_people(line: &str) -> String {
    let Ok(Value::Object(mut fields)) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
    let (Some(time), Some(level)) = (take(&mut fields, "timestamp"), take(&mut fields, "level")) else {
        return line.to_owned();
    };
    let message = take(&mut fields, "message").unwrap_or_default();
    fields.remove("target");
    let mut text = format!("{} {level:<5} {message}", time_of_day(&time));
    for (name, value) in fields {
        text.push_str(&match value {
            Value::String(value) if !value.contains([' ', '"']) => format!("  {name}={value}"),
            value => format!("  {name}={value}"),
        });
    }
    text
}

/// An error and its causes, each once. Of a status its message: its Display adds codes and structures that mean nothing to a person.
#[must_use]
pub fn in_words(error: &(dyn Error + 'static)) -> String {
    let plainly = |it: &(dyn Error + 'static)| {
        let boxed = || it.downcast_ref::<Box<Status>>().map(|status| &**status);
        let status = it.downcast_ref::<Status>().or_else(boxed);
        status.map_or_else(|| it.to_string(), |status| status.message().to_owned())
    };
    let mut words = plainly(error);
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_words = plainly(cause);
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        next = cause.source();
    }
    words
}

/// What a status says to a person: its message, and what lies below a connection that was not had.
#[must_use]
pub fn status_in_words(status: &Status) -> String {
    match (status.code(), status.source()) {
        (Code::Unavailable | Code::Unknown | Code::Cancelled, Some(source)) => in_words(source),
        (code, _) if status.message().is_empty() => format!("{code:?}"),
        _ => status.message().to_owned(),
    }
}

/// Not the id of a trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no trace id: give its 32 hexadecimal digits, as a log line has them in trace_id and traceparent between its first dashes"
)]
pub struct BadTraceId(String);

/// Reads the id of a trace as log lines have it.
///
/// # Errors
/// [`BadTraceId`], which says what one looks like.
pub fn trace_id(text: &str) -> Result<String, BadTraceId> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let valid = digits && text.bytes().any(|byte| byte != b'0');
    if valid { Ok(text.to_ascii_lowercase()) } else { Err(BadTraceId(text.to_owned())) }
}

/// When a JSON line of ours was written, as it says; text of one length, which sorts as time does.
pub(crate) fn timestamp(line: &str) -> Option<String> {
    let fields: Map<String, Value> = serde_json::from_str(line).ok()?;
    Some(fields.get("timestamp")?.as_str()?.to_owned())
}

/// The lines that tell why something failed: what is no log line of ours, and what is a warning or worse; each text once, where it was
/// last.
pub(crate) fn telling<'a>(lines: impl DoubleEndedIterator<Item = &'a str>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut told: Vec<_> = lines.rev().filter_map(telling_line).filter(|(_, key)| seen.insert(key.clone())).collect();
    told.reverse();
    told.into_iter().map(|(text, _)| text).collect()
}

/// The line for people, and the part of it that does not change from time to time.
fn telling_line(line: &str) -> Option<(String, String)> {
    let fields: Map<String, Value> = serde_json::from_str(line).unwrap_or_default();
    match fields.get("level").and_then(Value::as_str) {
        Some("WARN" | "ERROR") => {
            let message = fields.get("message").map(ToString::to_string).unwrap_or_default();
            Some((for_people(line), message))
        }
        Some(_) => None,
        None if line.trim().is_empty() => None,
        None => Some((line.to_owned(), line.to_owned())),
    }
}

fn take(fields: &mut Map<String, Value>, name: &str) -> Option<String> {
    match fields.shift_remove(name)? {
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

/// `12:00:01.250` of `2026-11-20T12:00:01.250731Z`, in UTC as it was written.
fn time_of_day(timestamp: &str) -> &str {
    timestamp.split_once('T').and_then(|(_, time)| time.get(..12)).unwrap_or(timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_line_becomes_time_level_message_and_fields_in_their_order() {
        let line = r#"{"timestamp":"2026-11-20T12:00:01.250731Z","level":"WARN","message":"lost","role":"sidecar","error":"no route","n":3,"target":"x"}"#;
        assert_eq!(for_people(line), r#"12:00:01.250 WARN  lost  role=sidecar  error="no route"  n=3"#);
    }

    #[test]
    fn a_trace_id_is_32_digits_and_anything_else_is_told_so() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace_id(&id.to_ascii_uppercase()).as_deref(), Ok(id));
        for bad in
            ["", "4bf9", "00000000000000000000000000000000", "4bf92f3577b34da6a3ce929d0e0e473g", &format!("{id}0")]
        {
            assert!(trace_id(bad).unwrap_err().to_string().contains("32 hexadecimal digits"), "{bad:?}");
        }
    }

    #[test]
    fn only_what_tells_of_a_failure_is_shown_and_each_text_once() {
        let log = |second: u32, level: &str, message: &str| {
            format!(r#"{{"timestamp":"2026-11-20T12:00:0{second}.000000Z","level":"{level}","message":"{message}"}}"#)
        };
        let lines = [
            log(1, "INFO", "the app runs"),
            "no database".to_owned(),
            log(2, "ERROR", "the app ended"),
            "no database".to_owned(),
            String::new(),
            log(3, "ERROR", "the app ended"),
        ];
        let told = telling(lines.iter().map(String::as_str));
        assert_eq!(told, ["no database", "12:00:03.000 ERROR the app ended"]);
    }

    #[test]
    fn what_an_app_writes_stays_as_it_is() {
        for line in ["plain text", r#"{"message":"no level"}"#, "[1]", ""] {
            assert_eq!(for_people(line), line);
        }
    }
}
