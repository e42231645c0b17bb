//! A mistake in a TOML file, told in the words of whoever wrote the file: the line, the key, what was expected and what to write.
//!
//! Lives here: finding the key of a place, and the words for what `serde` and `toml` say in those of Rust. Does not: reading files or their schemas (each role's
//! `config`).
//! What is not known here is told as it was said, so a change of their words costs clarity and nothing else; the tests hold today's.

use std::ops::Range;

/// A line, counted from 1, and what is wrong there. The file's name is for whoever read it to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The line, counted from 1.
    pub line: usize,
    /// The key, what is wrong with it, and what would be right.
    pub problem: String,
}

impl Mistake {
    /// What a parser said of the bytes `at` of a file.
    pub fn said(text: &str, at: Option<Range<usize>>, message: &str) -> Self {
        let at = at.unwrap_or_default();
        let place = Place::of(text, at.start);
        let message = message.replace('\n', " ");
        let problem = place.unknown_key(&message).unwrap_or_else(|| place.with(&plainly(&message, place.key)));
        Self { line: place.line, problem }
    }

    /// What a check found at the bytes `at` of a file, in words of its own.
    pub fn found(text: &str, at: Range<usize>, problem: &str) -> Self {
        let place = Place::of(text, at.start);
        Self { line: place.line, problem: place.with(problem) }
    }
}

/// Where something stands in a file.
struct Place<'t> {
    line: usize,
    /// The last heading above, `[limits]`.
    heading: Option<&'t str>,
    /// The key whose value it is, or that it is.
    key: Option<&'t str>,
}

impl<'t> Place<'t> {
    fn of(text: &'t str, at: usize) -> Self {
        let before = &text.as_bytes()[..at.min(text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count();
        let mut place = Self { line: line + 1, heading: None, key: None };
        let mut inside = Inside::default();
        for line in text.lines().take(line + 1) {
            if inside.nothing() {
                match heading(line) {
                    Some(heading) => (place.heading, place.key) = (Some(heading), None),
                    None => place.key = key(line).or(place.key),
                }
            }
            inside.read(line);
        }
        place
    }

    fn with(&self, problem: &str) -> String {
        let place = [self.heading, self.key].into_iter().flatten().collect::<Vec<_>>().join(" ");
        if place.is_empty() { problem.to_owned() } else { format!("{place}: {problem}") }
    }

    /// A key that is none names the table that it stands in, and what may stand there.
    fn unknown_key(&self, message: &str) -> Option<String> {
        let (unknown, expected) = message.strip_prefix("unknown field `")?.split_once('`')?;
        let known: Vec<_> = expected.split('`').skip(1).step_by(2).collect();
        let known = match &known[..] {
            [] => "nothing may stand here".to_owned(),
            [one] => format!("only {one} may stand here"),
            [all @ .., last] => format!("there are {} and {last}", all.join(", ")),
        };
        let problem = format!("there is no key {unknown}; {known}");
        let is_it = |key: &str| key.split('.').any(|part| part.trim().trim_matches(['"', '\'']) == unknown);
        let heading = self.heading.filter(|it| it.trim_matches(['[', ']']) != unknown);
        // Of a key that is not the line's own the table is an inline one, the value of that.
        let key = self.key.filter(|key| !is_it(key));
        Some(Self { line: self.line, heading, key }.with(&problem))
    }
}

/// What the beginning of a line is inside of: lists and inline tables that are open, and a text of many lines.
#[derive(Debug, Default)]
struct Inside {
    open: usize,
    text: Option<&'static str>,
}

impl Inside {
    fn nothing(&self) -> bool {
        self.open == 0 && self.text.is_none()
    }

    fn read(&mut self, line: &str) {
        let mut rest = line.chars();
        while let Some(next) = rest.as_str().chars().next() {
            let quotes = ["\"\"\"", "'''", "\"", "'"];
            let quote = match self.text {
                Some(open) => Some(open).filter(|it| rest.as_str().starts_with(it)),
                None => quotes.into_iter().find(|it| rest.as_str().starts_with(it)),
            };
            if let Some(quote) = quote {
                self.text = if self.text.is_some() { None } else { Some(quote) };
                rest = rest.as_str()[quote.len()..].chars();
                continue;
            }
            rest.next();
            match (self.text, next) {
                (Some(quote), '\\') if quote.starts_with('"') => drop(rest.next()),
                (None, '#') => break,
                (None, '[' | '{') => self.open += 1,
                (None, ']' | '}') => self.open = self.open.saturating_sub(1),
                _ => {}
            }
        }
        self.text = self.text.filter(|quote| quote.len() > 1); // a short one ends with its line
    }
}

/// `[limits]` of a line that is a heading, if it is inside of nothing.
fn heading(line: &str) -> Option<&str> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let name = line.trim_start_matches('[').trim_end_matches(']');
    let bare = |c: char| c.is_alphanumeric() || "._-\"' ".contains(c);
    (line.starts_with('[') && !name.is_empty() && name.chars().all(bare)).then_some(line)
}

/// The key of a line that begins with one.
fn key(line: &str) -> Option<&str> {
    let key = line.split_once('=')?.0.trim();
    let bare = |c: char| c.is_alphanumeric() || "._-\"'".contains(c);
    (!key.is_empty() && key.chars().all(bare)).then_some(key)
}

/// A message in the words of whoever wrote the file.
fn plainly(message: &str, key: Option<&str>) -> String {
    if let Some((found, expected)) = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .and_then(|rest| rest.rsplit_once(", expected "))
    {
        let write = instead(found, expected)
            .map(|value| key.map_or_else(|| format!("; write {value}"), |key| format!("; write {key} = {value}")));
        return format!("expected {}, found {}{}", kind(expected), value(found), write.unwrap_or_default());
    }
    if let Some((unknown, expected)) = message.strip_prefix("unknown variant `").and_then(|it| it.split_once('`')) {
        let known: Vec<_> = expected.split('`').skip(1).step_by(2).map(|it| format!("{it:?}")).collect();
        return format!("{unknown:?} is not known here; write {}", known.join(" or "));
    }
    if let Some(missing) = message.strip_prefix("missing field `").and_then(|it| it.strip_suffix('`')) {
        return format!("{missing} is missing; add it");
    }
    if message.starts_with("duplicate key") {
        return "it is there a second time; leave one".to_owned();
    }
    message.to_owned()
}

/// What `serde` calls a kind of value.
fn kind(expected: &str) -> String {
    match expected {
        "a string" | "path string" | "string" => "a text in quotes".to_owned(),
        "a sequence" => "a list of texts in quotes".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, not below 0".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a map" => "a table, like { name = \"value\" }".to_owned(),
        other if other.starts_with("struct ") || other.starts_with("internally tagged") => {
            "a table, like { name = \"value\" }".to_owned()
        }
        other => other.to_owned(),
    }
}

/// What `serde` found, as it stands in the file.
fn value(found: &str) -> String {
    match found.split_once(' ') {
        Some(("string", text)) => format!("the text {text}"),
        Some(("integer", number)) => format!("the number {}", number.trim_matches('`')),
        Some(("floating", number)) => format!("the number {}", number.trim_start_matches("point ").trim_matches('`')),
        Some(("boolean", word)) => word.trim_matches('`').to_owned(),
        _ if found == "sequence" => "a list".to_owned(),
        _ if found == "map" => "a table".to_owned(),
        _ => found.to_owned(),
    }
}

/// The same value as what was expected, where one can be guessed. Of a number not what text is meant: an address, a time with its unit.
fn instead(found: &str, expected: &str) -> Option<String> {
    let (is, said) = found.split_once(' ')?;
    let bare = said.trim_matches(['`', '"']);
    match (is, expected) {
        ("string", "a sequence") => Some(format!("{:?}", bare.split_whitespace().collect::<Vec<_>>())),
        ("string", "a boolean") if ["true", "false"].contains(&bare) => Some(bare.to_owned()),
        ("string", "u8" | "u16" | "u32" | "u64" | "usize") => bare.parse::<u64>().ok().map(|number| number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# a mesh\n[registry]\nport = 1\n\n[services.users]\ncommand = \"python3 app.py\"\nneeds = [\n  \"posts\",\n  7,\n]\n[[policies]]\nname = \"a\"\n";

    fn at(what: &str) -> Option<Range<usize>> {
        FILE.find(what).map(|start| start..start + what.len())
    }

    #[test]
    fn the_line_and_the_key_are_found_also_within_a_list() {
        let said = |what| {
            let it = Mistake::found(FILE, at(what).unwrap(), "x");
            (it.line, it.problem)
        };
        assert_eq!(said("1\n"), (3, "[registry] port: x".to_owned()));
        assert_eq!(said("7,"), (9, "[services.users] needs: x".to_owned()));
        assert_eq!(said("[services.users]"), (5, "[services.users]: x".to_owned()));
        assert_eq!(said("\"a\""), (12, "[[policies]] name: x".to_owned()));
        assert_eq!(said("# a mesh"), (1, "x".to_owned()));
        let lists = "[tls]\nx = [\n  [\"b\"],\n  [\"a\"]\n]\ny = '''\n[z]\n''' # [\n[\"w\"]\nv = \"[\\\"\"\nu = 1\n";
        let place = |line| {
            let it = Place::of(lists, lists.lines().take(line).map(|it| it.len() + 1).sum::<usize>() - 1);
            (it.heading, it.key)
        };
        assert_eq!(place(4), (Some("[tls]"), Some("x")), "a line of a list of lists is no heading");
        assert_eq!(place(7), (Some("[tls]"), Some("y")), "nor one of a text");
        assert_eq!(place(9), (Some("[\"w\"]"), None));
        assert_eq!(place(11), (Some("[\"w\"]"), Some("u")));
        let beyond = Mistake::said(FILE, Some(9_999..10_000), "x");
        assert_eq!(beyond.line, FILE.lines().count() + 1);
    }

    #[test]
    fn what_serde_says_is_told_with_what_to_write() {
        let said = |what, message| Mistake::said(FILE, at(what), message).problem;
        let command = "\"python3 app.py\"";
        assert_eq!(
            said(command, "invalid type: string \"python3 app.py\", expected a sequence"),
            "[services.users] command: expected a list of texts in quotes, found the text \"python3 app.py\"; write command = [\"python3\", \"app.py\"]"
        );
        assert_eq!(
            said("7,", "invalid type: integer `7`, expected a string"),
            "[services.users] needs: expected a text in quotes, found the number 7"
        );
        assert_eq!(
            said("port", "unknown field `port`, expected one of `listen`, `http`, `data`"),
            "[registry]: there is no key port; there are listen, http and data"
        );
        assert_eq!(
            said("port", "unknown field `port`, expected `listen`"),
            "[registry]: there is no key port; only listen may stand here"
        );
        assert_eq!(
            said("7,", "unknown field `kee`, expected `chain` or `key`"),
            "[services.users] needs: there is no key kee; there are chain and key"
        );
        assert_eq!(
            said(command, "unknown variant `some`, expected `all` or `none`"),
            "[services.users] command: \"some\" is not known here; write \"all\" or \"none\""
        );
        assert_eq!(said("[services.users]", "missing field `key`"), "[services.users]: key is missing; add it");
        assert_eq!(said("port", "something new"), "[registry] port: something new");
        assert!(said(command, "invalid type: string \"2\", expected u32").ends_with("write command = 2"));
        assert!(!said(command, "invalid type: integer `1`, expected struct RawService").contains("Raw"));
    }
}
