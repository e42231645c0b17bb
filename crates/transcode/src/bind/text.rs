//! Field values from plain text: what a path variable, a query parameter or a quoted JSON value may be.
//!
//! Lives here: scalars, enums and the well-known types with a string form. Does not: JSON syntax.
//! Source: ProtoJSON, of which a path or query value is the string form without quotes; booleans, which JSON does not
//! quote, are `true` and `false`.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use prost_reflect::{DynamicMessage, EnumDescriptor, Kind, Value};

use crate::codec::well_known::{self, WellKnown};
use crate::settings::Settings;

/// Returns whether a singular value of this kind has a text form.
pub(crate) fn is_bindable(kind: &Kind) -> bool {
    match kind {
        Kind::Message(message) => WellKnown::of(message).is_some_and(WellKnown::is_text),
        _ => true,
    }
}

/// Reads a singular value; the error says what was expected.
pub(crate) fn value(text: &str, kind: &Kind, settings: &Settings) -> Result<Value, String> {
    match kind {
        Kind::Bool => match text {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err("expected true or false".to_owned()),
        },
        Kind::String => Ok(Value::String(text.to_owned())),
        Kind::Bytes => bytes(text).map(Value::Bytes),
        Kind::Enum(desc) => enumerator(text, desc, settings)
            .map(Value::EnumNumber)
            .ok_or_else(|| format!("no value of {}", desc.full_name())),
        Kind::Message(desc) => {
            let mut message = DynamicMessage::new(desc.clone());
            match WellKnown::of(desc) {
                Some(WellKnown::Wrapper) => {
                    let field = desc.get_field(1).ok_or("malformed wrapper type")?;
                    well_known::put(&mut message, 1, value(text, &field.kind(), settings)?)?;
                }
                Some(WellKnown::Timestamp) => put_seconds(&mut message, well_known::read_timestamp(text)?)?,
                Some(WellKnown::Duration) => put_seconds(&mut message, well_known::read_duration(text)?)?,
                Some(WellKnown::FieldMask) => {
                    let paths = well_known::read_field_mask(text)?.into_iter().map(Value::String);
                    well_known::put(&mut message, 1, Value::List(paths.collect()))?;
                }
                Some(_) | None => return Err(format!("a {} has no text form", desc.full_name())),
            }
            Ok(Value::Message(message))
        }
        number => self::number(text, number),
    }
}

fn put_seconds(message: &mut DynamicMessage, (seconds, nanos): (i64, i32)) -> Result<(), String> {
    well_known::put(message, 1, Value::I64(seconds))?;
    well_known::put(message, 2, Value::I32(nanos))
}

/// Reads a number written as in JSON, or the name of a float that JSON has no number for.
pub(crate) fn number(text: &str, kind: &Kind) -> Result<Value, String> {
    match kind {
        Kind::Double => float(text, str::parse::<f64>, f64::is_finite, f64::from).map(Value::F64),
        Kind::Float => float(text, str::parse::<f32>, f32::is_finite, |it| it as f32).map(Value::F32),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => integer(text, "an int32").map(Value::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => integer(text, "an int64").map(Value::I64),
        Kind::Uint32 | Kind::Fixed32 => integer(text, "a uint32").map(Value::U32),
        Kind::Uint64 | Kind::Fixed64 => integer(text, "a uint64").map(Value::U64),
        Kind::Bool | Kind::String | Kind::Bytes | Kind::Message(_) | Kind::Enum(_) => Err("not a number".to_owned()),
    }
}

/// Returns the number of an enum value from its name or its number.
fn enumerator(text: &str, desc: &EnumDescriptor, settings: &Settings) -> Option<i32> {
    enum_name(text, desc, settings).or_else(|| integer(text, "").ok())
}

/// Returns the number of an enum value from its name.
fn enum_name(name: &str, desc: &EnumDescriptor, settings: &Settings) -> Option<i32> {
    let exact = desc.get_value_by_name(name).map(|it| it.number());
    let folded = || desc.values().find(|it| it.name().eq_ignore_ascii_case(name)).map(|it| it.number());
    exact.or_else(|| if settings.case_insensitive_enums { folded() } else { None })
}

/// Reads an integer of any range from a number in JSON's grammar, exactly: `1e5` and `100.0` are integers, `0.5` is
/// not.
pub(crate) fn integer<N: TryFrom<i128>>(text: &str, expected: &str) -> Result<N, String> {
    let number = Number::read(text).ok_or_else(|| format!("expected {expected}"))?;
    let exact =
        number.to_integer().ok_or_else(|| format!("expected {expected}, found a fraction or a number out of range"))?;
    N::try_from(exact).map_err(|_| format!("out of range of {expected}"))
}

/// Reads a float; what overflows is refused.
pub(crate) fn float<N: Copy, E>(
    text: &str,
    parse: impl Fn(&str) -> Result<N, E>,
    finite: impl Fn(N) -> bool,
    from: impl Fn(f64) -> N,
) -> Result<N, String> {
    match text {
        "NaN" => return Ok(from(f64::NAN)),
        "Infinity" => return Ok(from(f64::INFINITY)),
        "-Infinity" => return Ok(from(f64::NEG_INFINITY)),
        _ => {}
    }
    let number = Number::read(text).and_then(|_| parse(text).ok()).ok_or("expected a number")?;
    if finite(number) { Ok(number) } else { Err("out of range".to_owned()) }
}

/// Reads base64 of either alphabet, padded or not, and nothing else.
fn bytes(text: &str) -> Result<Bytes, String> {
    let mut out = Vec::new();
    put_bytes(&mut out, text).map(|()| out.into())
}

/// Reads base64 as `bytes` does and appends what it stands for.
pub(crate) fn put_bytes(out: &mut Vec<u8>, text: &str) -> Result<(), String> {
    // The conformance suite has "-_", whose last bits are not zero.
    const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
    let start = out.len();
    // What nearly everybody sends, many bytes at once; what is left is rarer, or wrong.
    out.reserve(text.len()); // the library makes room for this alone, each time
    if base64_simd::STANDARD.decode_append(text, out).is_ok() {
        return Ok(());
    }
    STANDARD
        .decode_vec(text, out)
        .or_else(|_| {
            out.truncate(start);
            URL_SAFE.decode_vec(text, out)
        })
        .map_err(|_| "expected base64".to_owned())
}

/// Quotes a value for a message, cut short if long.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{:?}…", &text[..at]),
        None => format!("{text:?}"),
    }
}

/// A number in the grammar of RFC 8259, 6.
struct Number<'t> {
    negative: bool,
    whole: &'t str,
    fraction: &'t str,
    exponent: i32,
}

impl<'t> Number<'t> {
    fn read(text: &'t str) -> Option<Self> {
        let (negative, rest) = text.strip_prefix('-').map_or((false, text), |it| (true, it));
        let (mantissa, exponent) =
            rest.split_once(['e', 'E']).map_or((rest, None), |(it, exponent)| (it, Some(exponent)));
        let (whole, fraction) =
            mantissa.split_once('.').map_or((mantissa, None), |(it, fraction)| (it, Some(fraction)));
        let digits = |it: &str| !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit());
        let unsigned = exponent.map(|it| it.strip_prefix(['+', '-']).unwrap_or(it));
        let valid = digits(whole)
            && (whole == "0" || !whole.starts_with('0'))
            && fraction.is_none_or(digits)
            && unsigned.is_none_or(digits);
        // An exponent beyond i32 is out of every range anyway; its sign decides to which side.
        let clamp = |it: &str| it.parse().unwrap_or(if it.starts_with('-') { i32::MIN } else { i32::MAX });
        valid.then(|| Self {
            negative,
            whole,
            fraction: fraction.unwrap_or_default(),
            exponent: exponent.map_or(0, clamp),
        })
    }

    /// Returns the value if it is an integer of at most 30 digits.
    fn to_integer(&self) -> Option<i128> {
        const DIGITS: i64 = 30;
        let digits = format!("{}{}", self.whole, self.fraction);
        let significant = digits.trim_start_matches('0');
        let point = significant.len() as i64 - self.fraction.len() as i64 + i64::from(self.exponent);
        let significant = significant.trim_end_matches('0');
        if significant.is_empty() {
            return Some(0);
        }
        let zeros = point - significant.len() as i64;
        if zeros < 0 || point > DIGITS {
            return None;
        }
        let value = significant.parse::<i128>().ok()?.checked_mul(10_i128.checked_pow(u32::try_from(zeros).ok()?)?)?;
        Some(if self.negative { -value } else { value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_exact_in_every_notation() {
        let table = [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("0.0", Some(0)),
            ("0e99999999999", Some(0)),
            ("1e5", Some(100_000)),
            ("100000.000", Some(100_000)),
            ("1.5e1", Some(15)),
            ("120e-1", Some(12)),
            ("9007199254740993", Some(9_007_199_254_740_993)),
            ("9007199254740993.0", Some(9_007_199_254_740_993)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("1e400", None),
            ("0.5", None),
            ("1e-1", None),
            ("15e-1", None),
            ("", None),
            ("-", None),
            ("+1", None),
            ("01", None),
            ("-01", None),
            ("1.", None),
            (".5", None),
            ("1e", None),
            ("1e+", None),
            ("0x10", None),
            (" 1", None),
            ("1 ", None),
            ("12abc", None),
            ("1_000", None),
            ("NaN", None),
        ];
        for (text, expected) in table {
            assert_eq!(integer::<i64>(text, "an int64").ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn floats_reject_what_overflows_and_what_json_does_not_write() {
        let read = |text: &str| number(text, &Kind::Float).ok().and_then(|it| it.as_f32());
        assert_eq!(read("3.4028235e38"), Some(f32::MAX));
        assert_eq!(read("-Infinity"), Some(f32::NEG_INFINITY));
        assert!(read("NaN").unwrap().is_nan());
        for text in ["3.502823e+38", "inf", "nan", "infinity", "+1", "", "1f", "0x1p3", ".5"] {
            assert_eq!(read(text), None, "{text:?}");
        }
        assert!(number("1.89769e+308", &Kind::Double).is_err());
        assert_eq!(number("2.22507e-308", &Kind::Double).unwrap().as_f64(), Some(2.22507e-308));
    }

    #[test]
    fn base64_of_either_alphabet_and_nothing_else() {
        let table: [(&str, Option<&[u8]>); 9] = [
            ("", Some(b"")),
            ("AQI=", Some(b"\x01\x02")),
            ("AQI", Some(b"\x01\x02")),
            ("-_8=", Some(b"\xfb\xff")),
            ("+/8", Some(b"\xfb\xff")),
            ("-_", Some(b"\xfb")),
            ("A*I=", None),
            ("AQ I=", None),
            ("+_8=", None),
        ];
        for (text, expected) in table {
            assert_eq!(bytes(text).ok().as_deref(), expected, "{text:?}");
        }
    }
}
