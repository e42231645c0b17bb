//! A pull reader for strict JSON that knows where it is.
//!
//! Lives here: RFC 8259 syntax, the nesting limit, counting members and elements. Does not: how many there may be (`elements`), strings (`json::strings`),
//! meaning (`decode`), what is said of a fault (`json::fault`).
//! Invariants: it accepts exactly RFC 8259 in UTF-8 without a byte order mark; it looks at a byte more than once only by
//! `rewind`, before a string's first escape and in a number that is no plain integer; recursion of its callers is bounded by `DEPTH`.

mod fault;
mod strings;

use std::borrow::Cow;

use crate::codec::elements::Elements;
pub(crate) use fault::{Fault, Position, Read};

/// Nested arrays and objects accepted; protobuf's own usual limit.
pub(crate) const DEPTH: usize = 100;
/// Digits that surely make an `i64`.
const PLAIN_DIGITS: usize = 18;
/// Digits that surely make an integer that is a double.
const EXACT_DIGITS: usize = 15;
const POWERS_OF_TEN: [f64; EXACT_DIGITS] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14];

/// What a value starts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl Shape {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Reader<'d> {
    text: &'d str,
    at: usize,
    depth: usize,
    /// Members and elements that may still follow.
    left: usize,
    elements: &'d Elements,
}

/// A place to come back to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    at: usize,
    depth: usize,
    left: usize,
}

impl<'d> Reader<'d> {
    pub(crate) fn new(document: &'d [u8], elements: &'d Elements) -> Read<Self> {
        match std::str::from_utf8(document) {
            Ok(text) => Ok(Self { text, at: 0, depth: 0, left: elements.most(), elements }),
            Err(error) => Err(Fault::new(error.valid_up_to(), "not UTF-8")),
        }
    }

    /// Returns the byte offset of the next token.
    #[inline]
    pub(crate) fn at(&mut self) -> usize {
        self.skip_space();
        self.at
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { at: self.at, depth: self.depth, left: self.left }
    }

    pub(crate) fn rewind(&mut self, mark: Mark) {
        (self.at, self.depth, self.left) = (mark.at, mark.depth, mark.left);
    }

    /// Returns whether nothing but space is left.
    pub(crate) fn is_blank(&mut self) -> bool {
        self.skip_space();
        self.at == self.text.len()
    }

    /// Checks that nothing but space is left.
    pub(crate) fn end(&mut self) -> Read<()> {
        if self.is_blank() { Ok(()) } else { Err(self.unexpected("the end of the document")) }
    }

    /// Returns what the next value is, without taking it.
    #[inline]
    pub(crate) fn shape(&mut self) -> Read<Shape> {
        self.skip_space();
        match self.peek() {
            Some(b'n') => Ok(Shape::Null),
            Some(b't' | b'f') => Ok(Shape::Bool),
            Some(b'-' | b'0'..=b'9') => Ok(Shape::Number),
            Some(b'"') => Ok(Shape::String),
            Some(b'[') => Ok(Shape::Array),
            Some(b'{') => Ok(Shape::Object),
            _ => Err(self.unexpected("a JSON value")),
        }
    }

    pub(crate) fn null(&mut self) -> Read<()> {
        self.word("null")
    }

    pub(crate) fn bool(&mut self) -> Read<bool> {
        self.skip_space();
        match self.peek() {
            Some(b't') => self.word("true").map(|()| true),
            _ => self.word("false").map(|()| false),
        }
    }

    /// Returns a number's text, its syntax checked.
    pub(crate) fn number(&mut self) -> Read<&'d str> {
        self.skip_space();
        let start = self.at;
        self.take_if(|it| it == b'-');
        if !self.take_if(|it| it == b'0') && self.take_digits() == 0 {
            return Err(self.unexpected("a digit"));
        }
        if self.peek().is_some_and(|it| it.is_ascii_digit()) {
            return Err(Fault::new(start, "a number cannot start with 0"));
        }
        if self.take_if(|it| it == b'.') && self.take_digits() == 0 {
            return Err(self.unexpected("a digit"));
        }
        if self.take_if(|it| it == b'e' || it == b'E') {
            self.take_if(|it| it == b'+' || it == b'-');
            if self.take_digits() == 0 {
                return Err(self.unexpected("a digit"));
            }
        }
        Ok(&self.text[start..self.at])
    }

    /// Takes an integer that is written as digits alone and not too many, as nearly all are. None if anything else stands
    /// here; then nothing is taken.
    #[inline]
    pub(crate) fn plain_integer(&mut self) -> Option<i64> {
        let rest = &self.text.as_bytes()[self.at..];
        let (negative, digits) = match rest {
            [b'-', digits @ ..] => (true, digits),
            digits => (false, digits),
        };
        let mut value = 0;
        let mut length = 0;
        while let Some(digit) = digits.get(length).map(|it| it.wrapping_sub(b'0')).filter(|it| *it < 10) {
            if length == PLAIN_DIGITS {
                return None;
            }
            value = value * 10 + i64::from(digit);
            length += 1;
        }
        // A negative zero is a float's.
        if !Self::ends_number(digits.get(length))
            || length == 0
            || (length > 1 && digits[0] == b'0')
            || (negative && value == 0)
        {
            return None;
        }
        self.at += usize::from(negative) + length;
        Some(if negative { -value } else { value })
    }

    /// Takes a number with a point that is written in few digits and without an exponent, as nearly all are. None if anything else
    /// stands here; then nothing is taken.
    ///
    /// Its digits and the power of ten below them are doubles exactly, so that their quotient is the nearest double there is.
    #[inline]
    pub(crate) fn plain_fraction(&mut self) -> Option<f64> {
        let rest = self.rest();
        let (negative, text) = match rest {
            [b'-', text @ ..] => (true, text),
            text => (false, text),
        };
        let (mut value, mut length, mut point) = (0_u64, 0, None);
        while let Some(byte) = text.get(length) {
            match byte {
                b'0'..=b'9' if length <= EXACT_DIGITS => value = value * 10 + u64::from(byte - b'0'),
                b'.' if point.is_none() => point = Some(length),
                _ => break,
            }
            length += 1;
        }
        let point = point?;
        let below = length - point - 1;
        if point == 0 || below == 0 || (point > 1 && text[0] == b'0') || !Self::ends_number(text.get(length)) {
            return None;
        }
        self.at += usize::from(negative) + length;
        let value = value as f64 / POWERS_OF_TEN[below];
        Some(if negative { -value } else { value })
    }

    /// Whether what stands behind a number surely ends it.
    #[inline]
    fn ends_number(next: Option<&u8>) -> bool {
        matches!(next, None | Some(b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r'))
    }

    /// Enters an object; then `member` until it returns none.
    #[inline]
    pub(crate) fn open_object(&mut self) -> Read<()> {
        self.expect(b'{', "an object")?;
        self.enter()
    }

    /// Returns the next member's name and where it stands; its value must then be read. None at the end of the object,
    /// which is left.
    pub(crate) fn member(&mut self, first: bool) -> Read<Option<(Cow<'d, str>, usize)>> {
        if self.another_member(first)? { self.name().map(Some) } else { Ok(None) }
    }

    /// Returns whether another member follows, whose name and value must then be read. False at the end of the object,
    /// which is left.
    #[inline]
    pub(crate) fn another_member(&mut self, first: bool) -> Read<bool> {
        self.continues(first, b'}', "',' or '}'")
    }

    /// Returns what is left of the document.
    #[inline]
    pub(crate) fn rest(&self) -> &'d [u8] {
        &self.text.as_bytes()[self.at..]
    }

    /// Moves past ASCII text that was found in `rest`; returns where it began.
    #[inline]
    pub(crate) fn advance(&mut self, length: usize) -> usize {
        let start = self.at;
        self.at += length;
        start
    }

    /// Returns the name of the member that begins at a place; the reader is left anywhere.
    #[cold]
    pub(crate) fn name_at(&mut self, at: usize) -> Cow<'d, str> {
        self.at = at;
        self.string().unwrap_or_default()
    }

    /// Returns a member's name and where it stands; the colon behind it is taken.
    pub(crate) fn name(&mut self) -> Read<(Cow<'d, str>, usize)> {
        let at = self.at();
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a member name in quotes"));
        }
        let name = self.string()?;
        self.expect(b':', "':' after the member name")?;
        Ok((name, at))
    }

    /// Enters an array; then `element` until it returns false.
    #[inline]
    pub(crate) fn open_array(&mut self) -> Read<()> {
        self.expect(b'[', "an array")?;
        self.enter()
    }

    /// Returns whether another element follows, which must then be read. False at the end of the array, which is left.
    pub(crate) fn element(&mut self, first: bool) -> Read<bool> {
        self.continues(first, b']', "',' or ']'")
    }

    /// Reads past a value, checking its syntax.
    pub(crate) fn skip(&mut self) -> Read<()> {
        match self.shape()? {
            Shape::Null => self.null(),
            Shape::Bool => self.bool().map(drop),
            Shape::Number => self.number().map(drop),
            Shape::String => self.string().map(drop),
            Shape::Array => {
                self.open_array()?;
                let mut first = true;
                while self.element(first)? {
                    first = false;
                    self.skip()?;
                }
                Ok(())
            }
            Shape::Object => {
                self.open_object()?;
                let mut first = true;
                while self.member(first)?.is_some() {
                    first = false;
                    self.skip()?;
                }
                Ok(())
            }
        }
    }

    #[inline]
    fn continues(&mut self, first: bool, close: u8, expected: &str) -> Read<bool> {
        // Most documents were written by a program, without a space.
        match self.rest() {
            [b',', next, ..] if !first && *next > b' ' && *next != close => {
                if let Some(left) = self.left.checked_sub(1) {
                    self.left = left;
                    self.at += 1;
                    return Ok(true);
                }
            }
            [next, ..] if *next == close => {
                self.at += 1;
                self.depth -= 1;
                return Ok(false);
            }
            [next, ..] if first && *next > b' ' => {
                if let Some(left) = self.left.checked_sub(1) {
                    self.left = left;
                    return Ok(true);
                }
            }
            _ => {}
        }
        self.continues_in_any_way(first, close, expected)
    }

    /// Apart, so that what is mostly done costs no more than it must.
    #[inline(never)]
    fn continues_in_any_way(&mut self, first: bool, close: u8, expected: &str) -> Read<bool> {
        self.skip_space();
        match self.peek() {
            Some(found) if found == close => {
                self.at += 1;
                self.depth -= 1;
                return Ok(false);
            }
            _ if first => return self.count(),
            Some(b',') => self.at += 1,
            _ => return Err(self.unexpected(expected)),
        }
        self.skip_space();
        if self.peek() == Some(close) {
            return Err(Fault::new(self.at, format!("a comma cannot stand before {:?}", char::from(close))));
        }
        self.count()
    }

    /// Takes note of a member or an element that follows.
    fn count(&mut self) -> Read<bool> {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => return Err(Fault::beyond(self.at, self.elements.exceeded())),
        }
        Ok(true)
    }

    #[inline]
    fn enter(&mut self) -> Read<()> {
        self.depth += 1;
        if self.depth > DEPTH { Err(self.too_deep()) } else { Ok(()) }
    }

    #[cold]
    fn too_deep(&self) -> Fault {
        Fault::new(self.at - 1, format!("nested deeper than {DEPTH} levels"))
    }

    fn word(&mut self, word: &str) -> Read<()> {
        self.skip_space();
        let rest = &self.text.as_bytes()[self.at..];
        let boundary = rest.get(word.len()).is_none_or(|it| !it.is_ascii_alphanumeric());
        if !rest.starts_with(word.as_bytes()) || !boundary {
            return Err(self.unexpected("a JSON value"));
        }
        self.at += word.len();
        Ok(())
    }

    #[inline]
    fn expect(&mut self, wanted: u8, expected: &str) -> Read<()> {
        self.skip_space();
        if self.take_if(|it| it == wanted) { Ok(()) } else { Err(self.unexpected(expected)) }
    }

    #[cold]
    fn unexpected(&self, expected: &str) -> Fault {
        match self.text[self.at..].chars().next() {
            Some(found) => Fault::new(self.at, format!("expected {expected}, found {found:?}")),
            None => Fault::new(self.at, format!("expected {expected}, found the end of the document")),
        }
    }

    #[inline]
    fn skip_space(&mut self) {
        while self.take_if(|it| matches!(it, b' ' | b'\t' | b'\n' | b'\r')) {}
    }

    fn take_digits(&mut self) -> usize {
        let start = self.at;
        while self.take_if(|it| it.is_ascii_digit()) {}
        self.at - start
    }

    #[inline]
    fn take_if(&mut self, wanted: impl Fn(u8) -> bool) -> bool {
        let taken = self.peek().is_some_and(wanted);
        self.at += usize::from(taken);
        taken
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}

#[cfg(test)]
mod tests;
