//! Strings, taken as they stand or with their escapes read.
//!
//! Lives here: RFC 8259, 7. Does not: where a string may stand (`json`).

use std::borrow::Cow;

use super::{Fault, Read, Reader};
use crate::codec::print;
use crate::wire;

/// A part of a string whose escapes are being read.
enum Part<'t> {
    Plain(&'t str),
    /// What an escape stood for.
    Char(char),
}

impl<'d> Reader<'d> {
    #[inline]
    pub(crate) fn string(&mut self) -> Read<Cow<'d, str>> {
        let start = self.open_string()?;
        if self.close_string() {
            return Ok(Cow::Borrowed(&self.text[start..self.at - 1]));
        }
        let mut decoded = self.text[start..self.at].to_owned();
        self.escaped(|part| match part {
            Part::Plain(text) => decoded.push_str(text),
            Part::Char(char) => decoded.push(char),
        })?;
        Ok(Cow::Owned(decoded))
    }

    /// Takes a string that stands here without a space before it and without an escape, as nearly all do. None if anything
    /// else stands here; then nothing is taken.
    #[inline]
    pub(crate) fn plain_string(&mut self) -> Option<&'d [u8]> {
        let [b'"', text @ ..] = self.rest() else { return None };
        let (text, after) = text.split_at(print::plain_length(text));
        if after.first() != Some(&b'"') {
            return None;
        }
        self.at += text.len() + 2;
        Some(text)
    }

    /// Reads a string and writes its length and its bytes; nothing of an empty one, and then returns false.
    #[inline]
    pub(crate) fn string_to_wire(&mut self, out: &mut Vec<u8>) -> Read<bool> {
        let start = self.open_string()?;
        let plain = &self.text.as_bytes()[start..self.at];
        if self.close_string() {
            if !plain.is_empty() {
                wire::put_bytes(out, plain);
            }
            return Ok(!plain.is_empty());
        }
        let length = wire::open_length(out);
        out.extend_from_slice(plain);
        self.escaped(|part| match part {
            Part::Plain(text) => out.extend_from_slice(text.as_bytes()),
            Part::Char(char) if char.is_ascii() => out.push(char as u8),
            Part::Char(char) => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        })?;
        wire::close_length(out, length);
        Ok(true)
    }

    /// Moves to the first byte of a string that cannot be taken as it is; returns where the string begins.
    #[inline]
    fn open_string(&mut self) -> Read<usize> {
        self.expect(b'"', "a string")?;
        let start = self.at;
        self.take_plain();
        Ok(start)
    }

    /// Takes the quote that ends a string, if it is there.
    #[inline]
    fn close_string(&mut self) -> bool {
        self.take_if(|it| it == b'"')
    }

    /// Moves to the next byte of a string that is not to be taken as it is.
    fn take_plain(&mut self) {
        self.at += print::plain_length(&self.text.as_bytes()[self.at..]);
    }

    /// Reads on in a string at a byte that cannot be taken as it is; gives away the characters part by part.
    fn escaped(&mut self, mut put: impl FnMut(Part<'_>)) -> Read<()> {
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => put(Part::Char(self.escape()?)),
                Some(_) => return Err(Fault::new(self.at, "a control character in a string must be escaped")),
                None => return Err(Fault::new(self.at, "the string does not end")),
            }
            let start = self.at;
            self.take_plain();
            if self.at > start {
                put(Part::Plain(&self.text[start..self.at]));
            }
        }
        self.at += 1;
        Ok(())
    }

    fn escape(&mut self) -> Read<char> {
        let start = self.at;
        let kind = self.text.as_bytes().get(start + 1);
        self.at += 2;
        Ok(match kind {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let unit = self.code_unit(start)?;
                let code = match unit {
                    0xD800..0xDC00 => {
                        let low = if self.text[self.at..].starts_with("\\u") { Some(self.at) } else { None };
                        self.at += 2;
                        let low =
                            low.map(|at| self.code_unit(at)).transpose()?.filter(|it| (0xDC00..0xE000).contains(it));
                        low.map(|low| 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00))
                    }
                    _ => Some(unit),
                };
                code.and_then(char::from_u32)
                    .ok_or_else(|| Fault::new(start, "an unpaired surrogate is no character"))?
            }
            _ => return Err(Fault::new(start, "no such escape in a string")),
        })
    }

    /// Reads four hexadecimal digits.
    fn code_unit(&mut self, escape_at: usize) -> Read<u32> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).filter(|it| it.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.ok_or_else(|| Fault::new(escape_at, "\\u must be followed by four hexadecimal digits"))?;
        self.at += 4;
        Ok(digits.iter().fold(0, |unit, digit| unit << 4 | char::from(*digit).to_digit(16).unwrap_or_default()))
    }
}
