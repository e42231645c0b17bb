//! Log lines as people read them.
//!
//! Lives here: turning one JSON line of ours into text. Does not: finding lines, printing them.

use serde_json::{Map, Value};

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
    fn what_an_app_writes_stays_as_it_is() {
        for line in ["plain text", r#"{"message":"no level"}"#, "[1]", ""] {
            assert_eq!(for_people(line), line);
        }
    }
}
