//! JSON's scalars as bytes: strings, numbers, base64.
//!
//! Lives here: escaping, shortest decimals. Does not: structure (`encode`).

use std::str::Utf8Error;

/// Prints bytes in quotes, if they are UTF-8.
#[inline]
pub(crate) fn utf8(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Utf8Error> {
    let found = Marks::of(bytes);
    if found.beyond_ascii != 0 {
        str::from_utf8(bytes)?;
    }
    if found.special != 0 {
        quoted(out, bytes);
        return Ok(());
    }
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    out.extend_from_slice(bytes);
    out.push(b'"');
    Ok(())
}

/// Prints a string in quotes.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    quoted(out, text.as_bytes());
}

fn quoted(out: &mut Vec<u8>, mut text: &[u8]) {
    out.push(b'"');
    loop {
        let (plain, special) = text.split_at(plain_length(text));
        out.extend_from_slice(plain);
        let Some((byte, after)) = special.split_first() else { break };
        escape(out, *byte);
        text = after;
    }
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x0C => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            const DIGITS: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xF)]]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Returns how many bytes from the start can stand in a JSON string as they are: up to a quote, a backslash or a control
/// character.
#[inline]
pub(crate) fn plain_length(bytes: &[u8]) -> usize {
    // Most strings end within a few words; what is longer is looked at by the block.
    match bytes.split_first_chunk::<32>() {
        None => plain_words(bytes),
        Some((head, rest)) => match plain_words(head) {
            32 => 32 + plain_blocks(rest),
            short => short,
        },
    }
}

fn plain_blocks(bytes: &[u8]) -> usize {
    let (blocks, rest) = bytes.as_chunks::<32>();
    for (at, block) in blocks.iter().enumerate() {
        // Without a branch inside, the compiler compares many bytes at once.
        if block.iter().fold(false, |found, it| found | is_special(*it)) {
            return at * 32 + plain_words(block);
        }
    }
    blocks.len() * 32 + plain_words(rest)
}

/// What was found among bytes, wherever: zero if nothing was.
#[derive(Clone, Copy)]
struct Marks {
    /// What cannot stand in a JSON string as it is.
    special: u64,
    beyond_ascii: u64,
}

impl Marks {
    const NONE: Self = Self { special: 0, beyond_ascii: 0 };

    #[inline]
    fn of(bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<8>();
        let found = words.iter().fold(Self::NONE, |found, word| found.and(*word));
        // The last bytes are looked at together with some before them.
        match (bytes.last_chunk::<8>(), rest.first_chunk::<4>(), rest.last_chunk::<4>()) {
            (Some(last), _, _) => found.and(*last),
            (None, Some([a, b, c, d]), Some([e, f, g, h])) => found.and([*a, *b, *c, *d, *e, *f, *g, *h]),
            _ => rest.iter().fold(found, |found, it| found.and([*it; 8])),
        }
    }

    #[inline]
    fn and(self, word: [u8; 8]) -> Self {
        let word = u64::from_le_bytes(word);
        Self { special: self.special | special(word), beyond_ascii: self.beyond_ascii | word & HIGHS }
    }
}

#[inline]
fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

#[inline]
fn plain_words(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let found = special(u64::from_le_bytes(*word));
        if found != 0 {
            return at * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    words.len() * 8 + rest.iter().position(|it| is_special(*it)).unwrap_or(rest.len())
}

/// The high bit of each byte.
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Sets the high bit of each byte that is a quote, a backslash or below 0x20. Bytes above the first such may be marked
/// wrongly, the first never is.
#[inline]
fn special(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // A byte below what is taken from it borrows, and so sets its high bit, which no byte of ASCII has before.
    let differs = |byte: u8| word ^ (ONES * u64::from(byte));
    let borrows = |word: u64, limit: u64| word.wrapping_sub(ONES * limit);
    (borrows(differs(b'"'), 1) | borrows(differs(b'\\'), 1) | borrows(word, 0x20)) & !word & HIGHS
}

pub(crate) fn integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Prints a 64-bit integer, which JSON's readers would round: in quotes.
pub(crate) fn quoted_integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.push(b'"');
    integer(out, value);
    out.push(b'"');
}

/// Prints the shortest decimal that reads back the same.
pub(crate) fn double(out: &mut Vec<u8>, value: f64) {
    match not_finite(value) {
        Some(name) => out.extend_from_slice(name),
        None => decimal(out, value),
    }
}

/// Prints the shortest decimal that reads back the same as a float.
pub(crate) fn float(out: &mut Vec<u8>, value: f32) {
    match not_finite(f64::from(value)) {
        Some(name) => out.extend_from_slice(name),
        None => decimal(out, value),
    }
}

fn decimal(out: &mut Vec<u8>, value: impl zmij::Float) {
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(value);
    out.extend_from_slice(text.strip_suffix(".0").unwrap_or(text).as_bytes());
}

fn not_finite(value: f64) -> Option<&'static [u8]> {
    match value {
        _ if value.is_nan() => Some(b"\"NaN\""),
        f64::INFINITY => Some(b"\"Infinity\""),
        f64::NEG_INFINITY => Some(b"\"-Infinity\""),
        _ => None,
    }
}

pub(crate) fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len().div_ceil(3) * 4 + 2); // the library makes room for this alone, each time
    out.push(b'"');
    base64_simd::STANDARD.encode_append(bytes, out);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn printed(print: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        print(&mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn strings_are_printed_as_serde_json_prints_them(text in "(?s)[a-z\"\\\\\u{0}-\u{20}é\u{7f}\u{10000}]{0,40}") {
            let expected = serde_json::Value::from(&*text).to_string();
            prop_assert_eq!(&printed(|out| utf8(out, text.as_bytes()).unwrap()), &expected);
            prop_assert_eq!(printed(|out| string(out, &text)), expected);
        }

        #[test]
        fn numbers_read_back_the_same(bits: u64) {
            let (double, float) = (f64::from_bits(bits), f32::from_bits(bits as u32));
            prop_assume!(double.is_finite() && float.is_finite());
            prop_assert_eq!(printed(|out| self::double(out, double)).parse::<f64>().unwrap().to_bits(), double.to_bits());
            prop_assert_eq!(printed(|out| self::float(out, float)).parse::<f32>().unwrap().to_bits(), float.to_bits());
        }
    }
}
