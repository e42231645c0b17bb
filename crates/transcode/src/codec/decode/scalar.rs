//! Numbers and bytes from their text to the wire.
//!
//! Lives here: which wire form each kind of number has, base64, the parts of timestamps and masks. Does not: the text of
//! numbers beyond the plain ones (`bind::text`).

use crate::bind::text;
use crate::types::Kind;
use crate::wire;

/// A number as it is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scalar {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
}

impl Scalar {
    /// Returns what is written as a number: 0 for the default and nothing else.
    #[inline]
    pub(super) fn bits(self) -> u64 {
        match self {
            Self::Varint(value) | Self::Fixed64(value) => value,
            Self::Fixed32(value) => u64::from(value),
        }
    }

    #[inline]
    pub(super) fn put(self, out: &mut Vec<u8>) {
        match self {
            Self::Varint(value) => wire::put_varint(out, value),
            Self::Fixed64(value) => out.extend_from_slice(&value.to_le_bytes()),
            Self::Fixed32(value) => out.extend_from_slice(&value.to_le_bytes()),
        }
    }
}

/// Reads a number written as in JSON, or the name of a float that JSON has no number for.
#[inline]
pub(super) fn number(text: &str, kind: &Kind) -> Result<Scalar, String> {
    Ok(match kind {
        Kind::Int32 => Scalar::Varint(i64::from(integer::<i32>(text, "an int32")?) as u64),
        Kind::Sint32 => Scalar::Varint(u64::from(wire::zigzag(i64::from(integer::<i32>(text, "an int32")?)) as u32)),
        Kind::Sfixed32 => Scalar::Fixed32(integer::<i32>(text, "an int32")? as u32),
        Kind::Int64 => Scalar::Varint(integer::<i64>(text, "an int64")? as u64),
        Kind::Sint64 => Scalar::Varint(wire::zigzag(integer::<i64>(text, "an int64")?)),
        Kind::Sfixed64 => Scalar::Fixed64(integer::<i64>(text, "an int64")? as u64),
        Kind::Uint32 => Scalar::Varint(u64::from(integer::<u32>(text, "a uint32")?)),
        Kind::Fixed32 => Scalar::Fixed32(integer::<u32>(text, "a uint32")?),
        Kind::Uint64 => Scalar::Varint(integer::<u64>(text, "a uint64")?),
        Kind::Fixed64 => Scalar::Fixed64(integer::<u64>(text, "a uint64")?),
        Kind::Double => Scalar::Fixed64(text::float(text, str::parse::<f64>, f64::is_finite, f64::from)?.to_bits()),
        Kind::Float => Scalar::Fixed32(text::float(text, str::parse::<f32>, f32::is_finite, |it| it as f32)?.to_bits()),
        Kind::Bool | Kind::String | Kind::Bytes | Kind::Enum(_) | Kind::Message(_) | Kind::Group(_) => {
            return Err("not a number".to_owned());
        }
    })
}

/// Returns an integer as a kind of number, if it is in its range.
#[inline]
pub(super) fn plain(value: i64, kind: &Kind) -> Option<Scalar> {
    /// Up to here every integer is a double.
    const EXACT: u64 = 1 << 53;
    let int32 = || i32::try_from(value).ok();
    let uint32 = || u32::try_from(value).ok();
    let uint64 = || u64::try_from(value).ok();
    Some(match kind {
        Kind::Int32 => Scalar::Varint(int32().map(|_| value as u64)?),
        Kind::Sint32 => Scalar::Varint(int32().map(|it| u64::from(wire::zigzag(i64::from(it)) as u32))?),
        Kind::Sfixed32 => Scalar::Fixed32(int32()? as u32),
        Kind::Int64 => Scalar::Varint(value as u64),
        Kind::Sint64 => Scalar::Varint(wire::zigzag(value)),
        Kind::Sfixed64 => Scalar::Fixed64(value as u64),
        Kind::Uint32 => Scalar::Varint(u64::from(uint32()?)),
        Kind::Fixed32 => Scalar::Fixed32(uint32()?),
        Kind::Uint64 => Scalar::Varint(uint64()?),
        Kind::Fixed64 => Scalar::Fixed64(uint64()?),
        Kind::Double if value.unsigned_abs() <= EXACT => Scalar::Fixed64((value as f64).to_bits()),
        _ => return None,
    })
}

/// Reads a number whose syntax is known to be JSON's.
pub(super) fn json_number(text: &str, kind: &Kind) -> Result<Scalar, String> {
    match kind {
        Kind::Double => match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Scalar::Fixed64(value.to_bits())),
            Ok(_) | Err(_) => Err("out of range".to_owned()),
        },
        kind => number(text, kind),
    }
}

/// Reads an integer in any of JSON's notations.
#[inline]
pub(super) fn integer<N: TryFrom<i128> + TryFrom<i64>>(text: &str, expected: &str) -> Result<N, String> {
    match digits(text).map(N::try_from) {
        Some(Ok(value)) => Ok(value),
        Some(Err(_)) | None => text::integer(text, expected),
    }
}

/// Reads an integer that is written as digits alone, not too many, as nearly all are.
#[inline]
fn digits(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || digits.len() > 18 || (digits.len() > 1 && digits[0] == b'0') {
        return None;
    }
    let mut value = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(digit - b'0');
    }
    Some(if negative { -value } else { value })
}

/// Reads the key of a map that is no string.
pub(super) fn map_key(name: &str, kind: &Kind) -> Result<Scalar, String> {
    match (kind, name) {
        (Kind::Bool, "true") => Ok(Scalar::Varint(1)),
        (Kind::Bool, "false") => Ok(Scalar::Varint(0)),
        (Kind::Bool, _) => Err("expected a key true or false".to_owned()),
        (kind, name) => number(name, kind),
    }
}

/// Writes what base64 stands for, with its length.
pub(super) fn put_bytes(out: &mut Vec<u8>, text: &str) -> Result<(), String> {
    let length = text.trim_end_matches('=').len() / 4 * 3 + text.trim_end_matches('=').len() % 4 * 6 / 8;
    wire::put_varint(out, length as u64);
    let start = out.len();
    text::put_bytes(out, text)?;
    // Valid base64 has no other length.
    if out.len() - start == length { Ok(()) } else { Err("expected base64".to_owned()) }
}

/// Writes fields 1 and 2 of a timestamp or a duration.
pub(super) fn put_seconds(out: &mut Vec<u8>, (seconds, nanos): (i64, i32)) {
    for (key, value) in [(0x08, seconds), (0x10, i64::from(nanos))] {
        if value != 0 {
            out.push(key);
            wire::put_varint(out, value as u64);
        }
    }
}

/// Writes strings as field 1.
pub(super) fn put_texts(out: &mut Vec<u8>, texts: &[String]) {
    for text in texts {
        out.push(0x0A);
        wire::put_bytes(out, text.as_bytes());
    }
}
