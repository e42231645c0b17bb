//! JSON documents near a valid one: other spellings of its values, and the mistakes that clients make.
//!
//! Lives here: printing a document with one change at one place. Does not: judging what the change means; the oracles do.

use serde_json::Value as Json;

use crate::dice::Dice;

/// Returns the document with one value, name or byte of it changed.
pub(crate) fn mutant(dice: &mut Dice, document: &Json) -> String {
    let mut out = String::new();
    let target = dice.below(count(document));
    Printer { dice, left: target, out: &mut out }.value(document);
    match dice.below(6) {
        0 => byte(dice, &out),
        _ => out,
    }
}

fn count(value: &Json) -> usize {
    1 + match value {
        Json::Array(items) => items.iter().map(count).sum(),
        Json::Object(members) => members.values().map(|it| 1 + count(it)).sum(),
        _ => 0,
    }
}

/// Changes one character; the result is still UTF-8.
fn byte(dice: &mut Dice, text: &str) -> String {
    const NOISE: [&str; 20] = [
        "", "\"", "\\", "{", "}", "[", "]", ",", ":", "0", "-", ".", "e5", " ", "\n", "\u{0}", "\u{e9}", "null", "//",
        "\u{feff}",
    ];
    let places: Vec<_> = text.char_indices().collect();
    if places.is_empty() {
        return (*dice.pick(&NOISE)).to_owned();
    }
    let (at, old) = *dice.pick(&places);
    let keep = if dice.once_in(2) { at } else { at + old.len_utf8() };
    format!("{}{}{}", &text[..at], dice.pick(&NOISE), &text[keep..])
}

struct Printer<'a> {
    dice: &'a mut Dice,
    /// Values and names before the one to change.
    left: usize,
    out: &'a mut String,
}

impl Printer<'_> {
    fn is_target(&mut self) -> bool {
        let hit = self.left == 0;
        self.left = self.left.wrapping_sub(1);
        hit
    }

    fn value(&mut self, value: &Json) {
        if self.is_target() {
            let changed = self.changed(value);
            self.out.push_str(&changed);
            return;
        }
        match value {
            Json::Array(items) => {
                self.out.push('[');
                for (at, item) in items.iter().enumerate() {
                    self.out.push_str(if at == 0 { "" } else { "," });
                    self.value(item);
                }
                self.out.push(']');
            }
            Json::Object(members) => {
                self.out.push('{');
                for (at, (name, value)) in members.iter().enumerate() {
                    self.out.push_str(if at == 0 { "" } else { "," });
                    let name = if self.is_target() { self.name(name) } else { Json::from(name.as_str()).to_string() };
                    self.out.push_str(&name);
                    self.out.push(':');
                    self.value(value);
                }
                self.out.push('}');
            }
            scalar => self.out.push_str(&scalar.to_string()),
        }
    }

    fn name(&mut self, name: &str) -> String {
        let quoted = Json::from(name).to_string();
        match self.dice.below(5) {
            0 => Json::from(snake(name)).to_string(),
            1 => "\"nobody\"".to_owned(),
            2 => format!("{quoted}:null,{quoted}"),
            3 => format!("\"{}\"", name.chars().map(escaped).collect::<String>()),
            _ => name.to_owned(),
        }
    }

    fn changed(&mut self, value: &Json) -> String {
        const ANYTHING: [&str; 22] = [
            "null",
            "true",
            "false",
            "0",
            "-1",
            "1.5",
            "\"\"",
            "\"1\"",
            "\"x\"",
            "{}",
            "[]",
            "[null]",
            "[[]]",
            "{\"a\":1}",
            "NaN",
            "\"NaN\"",
            "\"-Infinity\"",
            "1e400000",
            "99999999999999999999",
            "\"true\"",
            "[1,\"2\",3.0]",
            "{\"@type\":\"type.googleapis.com/gen.M1\"}",
        ];
        let text = value.to_string();
        if self.dice.once_in(4) {
            return (*self.dice.pick(&ANYTHING)).to_owned();
        }
        match value {
            Json::Number(_) => self.number(&text),
            Json::String(inner) => self.string(inner, &text),
            Json::Array(_) => match self.dice.below(4) {
                0 => text.replacen('[', "[null,", 1),
                1 => text.replacen(']', ",]", 1),
                2 => text.replacen(',', "  ,\n\t", 3),
                _ => format!("[{text}]"),
            },
            Json::Object(members) => match (self.dice.below(5), members.iter().next()) {
                (0, Some((name, value))) => text.replacen('{', &format!("{{{}:{value},", Json::from(name.as_str())), 1),
                (1, _) => text.replacen('{', "{\"unknown\":{\"deep\":[1,2]},", 1).replace(",}", "}"),
                (2, _) => text.replacen(':', " : ", 3),
                (3, _) => format!("[{text}]"),
                _ => format!("{text} "),
            },
            _ => format!("\"{text}\""),
        }
    }

    fn number(&mut self, text: &str) -> String {
        match self.dice.below(11) {
            0 => format!("\"{text}\""),
            1 if !text.contains(['.', 'e']) => format!("{text}.0"),
            2 if !text.contains(['.', 'e']) => format!("{text}e0"),
            3 if !text.contains(['.', 'e']) => format!("{text}00E-2"),
            4 => format!("{text}.5"),
            5 => format!("-{text}"),
            6 => format!("0{text}"),
            7 => format!("+{text}"),
            8 => format!("\" {text}\""),
            9 => format!("{text}{}", "0".repeat(12)),
            _ => "0x10".to_owned(),
        }
    }

    fn string(&mut self, inner: &str, text: &str) -> String {
        match self.dice.below(12) {
            0 => inner.to_owned(),
            1 => format!("\"{}\"", inner.chars().map(escaped).collect::<String>()),
            2 => Json::from(format!("{inner} ")).to_string(),
            3 => Json::from(inner.replace('+', "-").replace('/', "_")).to_string(),
            4 => Json::from(inner.trim_end_matches('=')).to_string(),
            5 => text.replacen('"', "\"\\ud800", 1),
            6 => text.replacen('"', "\"\u{1}", 1),
            7 => text.replacen('"', "\"\\x", 1),
            8 => Json::from(inner.to_lowercase()).to_string(),
            // Both oracles make a double of it, which is inexact beyond 2^53.
            9 if inner.len() < 16 => Json::from(format!("{inner}.0")).to_string(),
            10 => Json::from(inner.chars().rev().collect::<String>()).to_string(),
            _ => Json::from(inner.chars().skip(1).collect::<String>()).to_string(),
        }
    }
}

/// Writes a character as JSON escapes, all of it.
fn escaped(it: char) -> String {
    let mut units = [0; 2];
    it.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04X}")).collect()
}

fn snake(name: &str) -> String {
    name.chars()
        .flat_map(|it| if it.is_ascii_uppercase() { vec!['_', it.to_ascii_lowercase()] } else { vec![it] })
        .collect()
}
