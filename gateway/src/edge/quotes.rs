//! Texts of headers in parts, some of them quoted.
//!
//! Lives here: where a separator separates, and whether a text is sound. Does not: what the parts mean (`forwarded`, `cache::control`).
//! Source: RFC 9110, 5.6.4: between quotes nothing separates, and a backslash there takes the meaning from the byte after it.

use std::iter;

/// The parts of a text, the last first. Quotes keep together what is between them, and are matched from the end too: one that is left open does not reach
/// into what somebody else adds after it.
pub(crate) fn parts(text: &[u8], by: u8) -> impl Iterator<Item = &[u8]> {
    let mut left = Some(text);
    iter::from_fn(move || {
        let text = left?;
        let mut quoted = false;
        let at = (0..text.len()).rev().find(|at| {
            quoted ^= text[*at] == b'"' && !(quoted && is_escaped(&text[..*at]));
            text[*at] == by && !quoted
        });
        left = at.map(|at| &text[..at]);
        Some(at.map_or(text, |at| &text[at + 1..]))
    })
}

/// Whether the byte after this text, inside quotes, stands for itself.
fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|it| **it == b'\\').count() % 2 == 1
}

/// Whether every quote of a text is closed, and no backslash stands outside of quotes, where it means nothing: such a text has the same parts from either
/// end.
pub(crate) fn are_sound(text: &[u8]) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for byte in text {
        (quoted, escaped) = match byte {
            _ if escaped => (quoted, false),
            b'\\' if !quoted => return false,
            b'\\' => (quoted, true),
            b'"' => (!quoted, false),
            _ => (quoted, false),
        };
    }
    !quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_together_what_is_between_them() {
        for (text, expected) in [
            ("a, b", &[" b", "a"][..]),
            ("", &[""]),
            (",", &["", ""]),
            (r#"a="x,y",b"#, &["b", r#"a="x,y""#]),
            (r#"a="x\",y",b"#, &["b", r#"a="x\",y""#]),
            (r#"a="x\\",b"#, &["b", r#"a="x\\""#]),
            (r#"a\,b"#, &["b", r"a\"]),
        ] {
            let parts: Vec<&str> = parts(text.as_bytes(), b',').map(|it| str::from_utf8(it).unwrap()).collect();
            assert_eq!(parts, expected, "{text}");
        }
    }

    #[test]
    fn a_text_is_sound_if_its_quotes_are_closed_and_backslashes_are_within_them() {
        for sound in ["", "a", r#""""#, r#"a="x", b="y""#, r#"a="\"""#, r#"a="\\""#] {
            assert!(are_sound(sound.as_bytes()), "{sound}");
        }
        for unsound in [r#"""#, r#"a="x"#, r#"a="x\""#, r#"a="x", ""#, r#"a\""#, r"a\", r#"no-store, a=\"b""#] {
            assert!(!are_sound(unsound.as_bytes()), "{unsound}");
        }
    }
}
