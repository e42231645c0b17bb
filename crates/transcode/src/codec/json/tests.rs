//! What is JSON and what is not, and where a fault is said to be.

use proptest::prelude::*;

use super::*;

fn check(text: &[u8]) -> Read<()> {
    let elements = Elements::default();
    let mut json = Reader::new(text, &elements)?;
    json.skip()?;
    json.end()
}

#[test]
fn exactly_rfc_8259_is_accepted() {
    let valid = [
        "null",
        " true ",
        "[]",
        "{}",
        "[ ]",
        "{ }",
        "[1,2 , 3]",
        "{\"a\":1,\"b\":[{}]}",
        "-0",
        "0.1e+10",
        "1E-2",
        "\"\\u00e9\\uD83D\\uDE01\\/\"",
        "\"谷\u{7f}\"",
        "\t\r\n1",
    ];
    for text in valid {
        assert_eq!(check(text.as_bytes()), Ok(()), "{text}");
    }
    let invalid: [&[u8]; 40] = [
        b"",
        b" ",
        b"INVALID",
        b"nul",
        b"nulll",
        b"True",
        b"NaN",
        b"Infinity",
        b"+1",
        b"01",
        b"-",
        b"-a",
        b"1.",
        b".5",
        b"1e",
        b"1e+",
        b"0x1",
        b"1 2",
        b"{} x",
        b"[1,]",
        b"[,1]",
        b"[1 2]",
        b"[",
        b"[1",
        b"]",
        b"{\"a\"}",
        b"{\"a\":}",
        b"{\"a\":1,}",
        b"{a:1}",
        b"{'a':1}",
        b"{1:1}",
        b"{\"a\" 1}",
        b"{\n// no\n}",
        b"\"",
        b"\"\n\"",
        b"\"\\x\"",
        b"\"\\uD800\"",
        b"\"\\uDC00\\uD800\"",
        b"\"\\u12g4\"",
        b"\"a\xffb\"",
    ];
    for text in invalid {
        assert!(check(text).is_err(), "{}", String::from_utf8_lossy(text));
    }
    assert!(check("\u{feff}1".as_bytes()).is_err(), "a byte order mark");
}

#[test]
fn nesting_is_bounded_without_recursion_running_away() {
    let nested = |levels: usize| [vec![b'['; levels], vec![b']'; levels]].concat();
    assert_eq!(check(&nested(DEPTH)), Ok(()));
    assert!(check(&nested(DEPTH + 1)).is_err());
    assert!(check(&vec![b'['; 1_000_000]).is_err());
    let siblings = format!("[{}[]]", "[],".repeat(1_000));
    assert_eq!(check(siblings.as_bytes()), Ok(()), "depth is left again");
}

#[test]
fn faults_name_line_and_column_in_characters() {
    let table = [
        ("INVALID_JSON", "expected a JSON value, found 'I' at line 1 column 1"),
        ("{\"text\":\n  \"谷歌\",\n  oops}", "expected a member name in quotes, found 'o' at line 3 column 3"),
        ("{\"a\": \"谷\" x}", "expected ',' or '}', found 'x' at line 1 column 11"),
        ("{\"a\":1,}", "a comma cannot stand before '}' at line 1 column 8"),
        ("[1", "expected ',' or ']', found the end of the document at line 1 column 3"),
        ("\"ab", "the string does not end at line 1 column 4"),
        ("\"a\\uD800b\"", "an unpaired surrogate is no character at line 1 column 3"),
    ];
    for (text, expected) in table {
        let error = check(text.as_bytes()).unwrap_err().into_error(text.as_bytes(), Position::START);
        assert_eq!(error.message, format!("malformed request body: {expected}"), "{text}");
    }
}

proptest! {
    #[test]
    fn it_agrees_with_serde_json_on_what_is_a_document(text in "[\\[\\]{}:,\" \\\\\\n0-1a-eE.+u-]{0,14}|[\\[{]\"a\":[\\[{1\",a\\]}]{0,8}") {
        // serde_json also refuses numbers beyond a double, which is no question of syntax.
        let ours = check(text.as_bytes()).is_ok();
        match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(_) => prop_assert!(ours),
            Err(error) if error.to_string().starts_with("number out of range") => {}
            Err(_) => prop_assert!(!ours),
        }
    }

    #[test]
    fn a_plain_fraction_is_the_double_that_the_standard_library_reads(text in "-?[0-9]{0,17}\\.?[0-9]{0,17}[e,x}]?") {
        let elements = Elements::default();
        let mut json = Reader::new(text.as_bytes(), &elements).unwrap();
        let whole = check(text.trim_end_matches([',', '}']).as_bytes()).is_ok();
        let digits = text.bytes().filter(u8::is_ascii_digit).count();
        match json.plain_fraction() {
            Some(value) => {
                let taken = &text[..json.at];
                prop_assert!(whole && taken.contains('.'));
                prop_assert_eq!(value.to_bits(), taken.parse::<f64>().unwrap().to_bits());
            }
            None => {
                prop_assert_eq!(json.at, 0);
                prop_assert!(!whole || !text.contains('.') || digits > EXACT_DIGITS, "{} is plain", text);
            }
        }
    }

    #[test]
    fn strings_are_what_serde_json_wrote(text in any::<String>()) {
        let written = serde_json::to_string(&text).unwrap();
        let elements = Elements::default();
        let mut json = Reader::new(written.as_bytes(), &elements).unwrap();
        prop_assert_eq!(json.string().unwrap().into_owned(), text);
        prop_assert!(json.end().is_ok());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = check(&bytes).map_err(|fault| fault.into_error(&bytes, Position::START));
    }
}
