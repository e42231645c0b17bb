//! Strings that cannot be taken as they are.
//!
//! Lives here: escapes (RFC 8259, 7). Does not: strings without any (`json`).

use super::{Fault, Read, Reader};

impl Reader<'_> {
    /// Reads on in a string that began at `start` and cannot be taken as it is.
    pub(super) fn escaped(&mut self, start: usize) -> Read<String> {
        let mut decoded = self.text[start..self.at].to_owned();
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => decoded.push(self.escape()?),
                Some(_) => return Err(Fault::new(self.at, "a control character in a string must be escaped")),
                None => return Err(Fault::new(self.at, "the string does not end")),
            }
            let start = self.at;
            self.take_plain();
            decoded.push_str(&self.text[start..self.at]);
        }
        self.at += 1;
        Ok(decoded)
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
