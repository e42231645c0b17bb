//! A stream of YAML documents, cut without touching a byte.
//!
//! Lives here: where a document begins and ends, and how a changed one is written. Does not: what a document means.
//! A line that begins with `---` cannot lie inside a document: whatever YAML lets stand there is indented or quoted.

use serde_json::Value;

/// One document: the marker line that opens it, comments at its head, the rest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Document<'a> {
    marker: &'a str,
    head: &'a str,
    body: &'a str,
}

/// Cuts a stream; the parts together are the stream.
pub(super) fn split(stream: &str) -> Vec<Document<'_>> {
    let mut starts = vec![0];
    let mut at = 0;
    for line in stream.split_inclusive('\n') {
        if at > 0 && is_marker(line) {
            starts.push(at);
        }
        at += line.len();
    }
    starts.push(stream.len());
    starts.windows(2).map(|ends| Document::new(&stream[ends[0]..ends[1]])).collect()
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

impl<'a> Document<'a> {
    fn new(text: &'a str) -> Self {
        let first = text.split_inclusive('\n').next().unwrap_or_default();
        // Content after the marker, on its line, stays with the body.
        let plain = is_marker(first) && first[3..].trim_start().chars().next().is_none_or(|it| it == '#');
        let (marker, rest) = text.split_at(if plain { first.len() } else { 0 });
        let comments = rest.split_inclusive('\n').take_while(|line| line.trim().is_empty() || line.starts_with('#'));
        let (head, body) = rest.split_at(comments.map(str::len).sum());
        Self { marker, head, body }
    }

    /// The document's value; null if it holds nothing.
    pub(super) fn parse(&self) -> Result<Value, String> {
        if self.body.trim().is_empty() {
            return Ok(Value::Null);
        }
        // Kubernetes reads `0400` as octal, as YAML 1.1 does.
        let options = serde_saphyr::options! { legacy_octal_numbers: true };
        serde_saphyr::from_str_with_options(self.body, options).map_err(|error| error.without_snippet().to_string())
    }

    /// The document as it was.
    pub(super) fn text(&self) -> String {
        [self.marker, self.head, self.body].concat()
    }

    /// The document with another value, its marker and the comments at its head kept.
    pub(super) fn written(&self, value: &Value) -> String {
        let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
        let body = serde_saphyr::to_string_with_options(value, options).expect("JSON's values can be written as YAML");
        [self.marker, self.head, body.trim_end(), "\n"].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_stream_are_the_stream() {
        for (stream, count) in [
            ("", 1),
            ("a: 1\n", 1),
            ("---\na: 1\n---\nb: 2\n", 2),
            ("# head\n---\n# more\na: 1\n...\n---\n", 3),
            ("a: |\n  ---\n  text\n--- # next\nb: 2", 2),
            ("--- {a: 1}\r\n---\r\nb: 2\r\n", 2),
        ] {
            let documents = split(stream);
            assert_eq!(documents.iter().map(Document::text).collect::<String>(), stream);
            assert_eq!(documents.len(), count, "{stream:?}");
            assert!(documents.iter().all(|it| it.parse().is_ok()), "{stream:?}");
        }
    }

    #[test]
    fn a_changed_document_keeps_marker_head_values_and_types() {
        let text =
            "---\n# about\na: \"8080\"\nb: 0400\nc: \"yes\"\nd: |\n  two\n  lines\ne: 1.5\nf: \"\"\ng: null\nh: 'on'\n";
        let documents = split(text);
        let value = documents[0].parse().unwrap();
        assert_eq!(value["b"], 0o400);
        let again = documents[0].written(&value);
        assert!(
            again.starts_with("---\n# about\na: \"8080\"\n") || again.starts_with("---\n# about\na: '8080'\n"),
            "{again}"
        );
        assert_eq!(split(&again)[0].parse().unwrap(), value);
        // What YAML 1.1, as Kubernetes reads it, would take for something else stands in quotes.
        for quoted in ["c: \"yes\"", "h: \"on\""] {
            assert!(again.replace('\'', "\"").contains(quoted), "{again}");
        }
    }
}
