//! What each kind of field takes and refuses; prost-reflect's own reader is the oracle for what both accept.

use std::sync::OnceLock;

use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{DynamicMessage, prost_types};

use super::*;
use crate::bind::BindError;
use crate::codec::json::Position;
use crate::codec::{Codec, Elements};
use crate::fixture::{assert_same, decode, kinds, plan, print};
use crate::schema::Schema;

fn read_with(settings: &Settings, text: &str) -> Result<DynamicMessage, BindError> {
    let plan = plan("/echo");
    let wire = Codec::new(settings.clone()).json_message(&plan, text.as_bytes(), Position::START)?;
    Ok(decode(plan.method().input(), &wire))
}

fn read(text: &str) -> Result<DynamicMessage, BindError> {
    read_with(&Settings::default(), text)
}

fn strict() -> Settings {
    Settings { unknown_body: Unknown::Reject, ..Settings::default() }
}

#[test]
fn every_kind_reads_as_the_oracle_reads_it() {
    let documents = [
        r#"{"i32":2147483647,"i64":"9223372036854775807","u32":4294967295,"u64":"18446744073709551615","s32":-1,"s64":"-2"}"#,
        r#"{"f32":3,"f64":"4","sf32":-5,"sf64":-6,"flt":1.5,"dbl":-2.5e-3,"flag":true,"text":"é\n","data":"AQI="}"#,
        r#"{"color":"COLOR_BLUE","nested":{"name":"n","child":{"amount":1,"notes":["a"]}},"otherName":"r"}"#,
        r#"{"optI32":0,"optText":"","listI32":[1,2],"list_text":["a"],"listColor":["COLOR_RED",7],"listNested":[{},{"name":"x"}]}"#,
        r#"{"mapText":{"a":"1"},"mapI32":{"-3":4},"mapNested":{"true":{"name":"t"}},"mapColor":{"k":"COLOR_RED"},"choiceI32":0}"#,
        r#"{"wDbl":1,"wI64":"1","wText":"","wFlag":false,"wData":"AQI","ts":"1970-01-01T00:00:00.5Z","dur":"-1.5s","mask":"a,bC.dE"}"#,
        r#"{"object":{"n":null,"l":[1,"2",{"x":true}]},"value":[[]],"array":[1],"nullValue":null,"listValue":[null,1]}"#,
        r#"{"any":{"@type":"type.googleapis.com/test.v1.Nested","name":"a"}}"#,
        r#"{"any":{"amount":3,"@type":"type.googleapis.com/test.v1.Nested"}}"#,
        r#"{"any":{"@type":"type.googleapis.com/google.protobuf.Duration","value":"1.5s"}}"#,
        r#"{"value":null}"#,
        r#"{"i32":null,"text":null,"nested":null,"listI32":null,"mapText":null,"ts":null,"choiceText":null,"choiceI32":1}"#,
        "{}",
    ];
    for document in documents {
        let ours = read(document).unwrap_or_else(|error| panic!("{document}: {error}"));
        assert_same(&ours, &kinds(document));
    }
}

#[test]
fn a_string_reads_the_same_however_it_is_written() {
    for length in [0, 1, 31, 32, 33, 127, 128, 20_000] {
        let plain = "x".repeat(length);
        let escaped = plain.replacen('x', "\\u0078", 1);
        for field in ["text", "optText", "listText"] {
            let whole = |value: &str| match field {
                "listText" => format!(r#"{{"{field}":["{value}", "{value}"]}}"#),
                _ => format!(r#"{{"{field}": "{value}","i32":1}}"#),
            };
            for document in
                [whole(&plain), whole(&escaped), whole(&plain).replace(' ', ""), whole(&escaped).replace(' ', "")]
            {
                assert_same(&read(&document).unwrap(), &kinds(&document));
                assert_same(&read(&document).unwrap(), &kinds(&whole(&plain)));
            }
        }
    }
}

#[test]
fn what_is_not_protojson_is_refused_with_the_field() {
    let table = [
        (r#"{"i32":true}"#, "i32: expected a number, found a boolean at line 1 column 8"),
        (
            r#"{"i32":0.5}"#,
            "i32: expected an int32, found a fraction or a number out of range, found \"0.5\" at line 1 column 8",
        ),
        (r#"{"i32":2147483648}"#, "i32: out of range of an int32, found \"2147483648\" at line 1 column 8"),
        (r#"{"i32":"12abc"}"#, "i32: expected an int32, found \"12abc\" at line 1 column 8"),
        (r#"{"u32":-1}"#, "u32: out of range of a uint32, found \"-1\" at line 1 column 8"),
        (r#"{"u64":" 1"}"#, "u64: expected a uint64, found \" 1\" at line 1 column 8"),
        (r#"{"flag":1}"#, "flag: expected true or false, found a number at line 1 column 9"),
        (r#"{"flag":"true"}"#, "flag: expected true or false, found a string at line 1 column 9"),
        (r#"{"text":12}"#, "text: expected a string, found a number at line 1 column 9"),
        (r#"{"data":"A*I="}"#, "data: expected base64, found \"A*I=\" at line 1 column 9"),
        (r#"{"data":1}"#, "data: expected base64 in a string, found a number at line 1 column 9"),
        (r#"{"flt":3.5e38}"#, "flt: out of range, found \"3.5e38\" at line 1 column 8"),
        (r#"{"dbl":""}"#, "dbl: expected a number, found \"\" at line 1 column 8"),
        (r#"{"color":true}"#, "color: expected the name of an enum value, found a boolean at line 1 column 10"),
        (
            r#"{"color":1.5}"#,
            "color: expected the number of an enum value, found a fraction or a number out of range at line 1 column 10",
        ),
        (r#"{"nested":"a"}"#, "nested: expected an object, found a string at line 1 column 11"),
        (
            r#"{"nested":{"child":{"notes":["a",1]}}}"#,
            "nested.child.notes[1]: expected a string, found a number at line 1 column 34",
        ),
        (r#"{"listI32":[1,null]}"#, "listI32[1]: null is no value here at line 1 column 15"),
        (r#"{"listI32":1}"#, "listI32: expected an array, found a number at line 1 column 12"),
        (r#"{"mapI32":{"0":null}}"#, "mapI32[\"0\"]: null is no value here at line 1 column 16"),
        (r#"{"mapI32":{"a":1}}"#, "mapI32[\"a\"]: expected an int32 at line 1 column 12"),
        (
            r#"{"mapText":{"a":"1","a":"2"}}"#,
            "mapText[\"a\"]: this key stands in the object already at line 1 column 21",
        ),
        (r#"{"mapI32":{"1":1,"1.0":2}}"#, "mapI32[\"1.0\"]: this key stands in the object already at line 1 column 18"),
        (r#"{"mapText":[]}"#, "mapText: expected an object, found an array at line 1 column 12"),
        (r#"{"object":{"a":1,"a":2}}"#, "object[\"a\"]: this key stands in the object already at line 1 column 18"),
        (r#"{"object":[]}"#, "object: expected an object, found an array at line 1 column 11"),
        (r#"{"value":1e999}"#, "value: out of range at line 1 column 10"),
        (
            r#"{"ts":"2001-02-29T00:00:00Z"}"#,
            "ts: expected an RFC 3339 timestamp such as 2006-01-02T15:04:05Z, found \"2001-02-29T00:00:00Z\" at line 1 column 7",
        ),
        (r#"{"dur":1}"#, "dur: expected a string, found a number at line 1 column 8"),
        (
            r#"{"mask":"a_b"}"#,
            "mask: expected field paths in lowerCamelCase, separated by commas, found \"a_b\" at line 1 column 9",
        ),
        (r#"{"any":{"@type":"no.slash"}}"#, "any.@type: a type URL needs a '/' at line 1 column 17"),
        (
            r#"{"any":{"@type":"t/no.such.Type"}}"#,
            "any.@type: unknown message type \"no.such.Type\" at line 1 column 17",
        ),
        (r#"{"any":{"name":"a"}}"#, "any: an Any needs a member \"@type\" at line 1 column 8"),
    ];
    for (document, expected) in table {
        match read(document) {
            Ok(message) => panic!("{document} was read as {}", print(&message)),
            Err(error) => {
                assert_eq!(error.message, expected, "{document}");
                assert_eq!((error.http_status, error.code), (400, 3));
                assert_eq!(error.violations.len(), 1);
            }
        }
    }
}

#[test]
fn a_name_or_a_oneof_may_stand_once() {
    for document in [
        r#"{"i32":1,"i32":1}"#,
        r#"{"listI32":[],"list_i32":[]}"#,
        r#"{"renamed":"a","otherName":"b"}"#,
        r#"{"nested":null,"nested":{}}"#,
        r#"{"choiceI32":1,"choiceText":"a"}"#,
        r#"{"any":{"@type":"t/test.v1.Nested","@type":"t/test.v1.Nested"}}"#,
        r#"{"any":{"@type":"t/google.protobuf.Duration","value":"1s","value":"2s"}}"#,
    ] {
        assert!(read(document).is_err(), "{document}");
    }
}

#[test]
fn unknown_names_are_skipped_or_refused_as_set() {
    let document = r#"{"nope":{"a":[1,{}]},"i32":1,"color":"COLOR_MAUVE","listColor":["COLOR_MAUVE","COLOR_RED"],"mapColor":{"a":"X"}}"#;
    assert_same(&read(document).unwrap(), &kinds(r#"{"i32":1,"listColor":["COLOR_RED"]}"#));
    assert!(read(r#"{"nope":[1,]}"#).is_err(), "what is skipped is still JSON");
    let refused = |document: &str| read_with(&strict(), document).unwrap_err().message;
    assert_eq!(
        refused(r#"{"nested":{"nope":1}}"#),
        "nested.nope: unknown member: test.v1.Nested has no such field at line 1 column 12"
    );
    assert_eq!(
        refused(r#"{"color":"COLOR_MAUVE"}"#),
        "color: test.v1.Color has no value \"COLOR_MAUVE\" at line 1 column 10"
    );
}

#[test]
fn enum_names_fold_case_only_if_set() {
    let folding = Settings { case_insensitive_enums: true, ..strict() };
    assert_same(&read_with(&folding, r#"{"color":"color_blue"}"#).unwrap(), &kinds(r#"{"color":7}"#));
    assert!(read_with(&strict(), r#"{"color":"color_blue"}"#).is_err());
}

#[test]
fn proto2_extensions_read_by_their_bracketed_name() {
    const EXTENDED: &str = r#"
        syntax = "proto2";
        package test.v1;
        message Base { extensions 100 to 200; }
        extend Base { optional int32 extra = 100; }
    "#;
    let types = Types::new(crate::fixture::schema(EXTENDED).pool(), Default::default());
    let elements = Elements::default();
    let mut json = Reader::new(br#"{"[test.v1.extra]": 5}"#, &elements).unwrap();
    let settings = strict();
    let mut decoder = Decoder::new(&settings, &types, 0);
    decoder.message(&mut json, types.id("test.v1.Base").unwrap()).unwrap();
    assert_eq!(decoder.finish(), [0xA0, 0x06, 5]);
}

/// A `google.protobuf.Value` of arrays (true) and objects around a number, from within; with its JSON.
fn tower(steps: &[bool]) -> (prost_types::Value, String) {
    use prost_types::{ListValue, Struct, Value, value::Kind};
    let number = Value { kind: Some(Kind::NumberValue(1.0)) };
    steps.iter().fold((number, "1".to_owned()), |(inner, json), array| match array {
        true => (Value { kind: Some(Kind::ListValue(ListValue { values: vec![inner] })) }, format!("[{json}]")),
        false => {
            let fields = std::collections::BTreeMap::from([("k".to_owned(), inner)]);
            (Value { kind: Some(Kind::StructValue(Struct { fields })) }, format!("{{\"k\":{json}}}"))
        }
    })
}

/// Reads it as a request that is nothing else.
fn read_tower(json: &str) -> Result<Vec<u8>, BindError> {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    let schema = SCHEMA.get_or_init(|| {
        crate::fixture::schema(
            "syntax = \"proto3\"; package test.v1; import \"google/protobuf/struct.proto\";
             service Say { rpc Say(google.protobuf.Value) returns (google.protobuf.Value); }",
        )
    });
    Codec::default().decode_json(schema.plans()[0].method(), json.as_bytes()).map(|wire| wire.to_vec())
}

#[test]
fn what_no_reader_would_follow_is_refused_where_it_gets_too_deep() {
    for (array, most, step, at) in [(true, 50, "[0]", 50), (false, 33, "[\"k\"]", 34)] {
        assert!(read_tower(&tower(&vec![array; most]).1).is_ok(), "{most} of {step}");
        let refused = read_tower(&tower(&vec![array; most + 1]).1).unwrap_err();
        assert_eq!((refused.http_status, &*refused.violations[0].field), (400, &*step.repeat(at)));
    }
    // Beside each other they are not within each other; in an Any there is room for as many again.
    let most = tower(&[true; 50]).1;
    assert!(read_tower(&format!("[[{most}],1]")).is_err());
    let deep = tower(&[true; 48]).1;
    assert!(read_tower(&format!("[{deep},{deep},{{\"a\":1,\"b\":1}},{deep}]")).is_ok());
    let any = |json: &str| format!(r#"{{"any":{{"@type":"t/google.protobuf.Value","value":{json}}}}}"#);
    assert!(read(&any(&most)).is_ok() && read(&any(&tower(&[true; 51]).1)).is_err());
    assert!(read(&format!(r#"{{"any":{{"@type":"t/google.protobuf.Value","value":{most}}},"value":{deep}}}"#)).is_ok());
    assert!(read(&format!(r#"{{"mapNested":{{"true":{{}},"false":{{"child":{{}}}}}},"value":[{deep}]}}"#)).is_ok());
}

/// JSON documents of `test.v1.Kinds`, some valid and some not.
fn documents() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|it| it.to_string()),
        any::<i32>().prop_map(|it| it.to_string()),
        any::<i64>().prop_map(|it| format!("\"{it}\"")),
        // Quarters, because serde_json reads other fractions inexactly.
        (-4_000_000..4_000_000_i32).prop_map(|it| (f64::from(it) / 4.0).to_string()),
        "[a-zA-Z0-9:.=/_-]{0,12}".prop_map(|it| format!("{it:?}")),
        Just("\"COLOR_RED\"".to_owned()),
        Just("\"1.5s\"".to_owned()),
        Just("\"2020-02-29T01:02:03Z\"".to_owned()),
    ];
    let names = prop::sample::select(vec![
        "i32", "i64", "u32", "u64", "flt", "dbl", "flag", "text", "data", "color", "nested", "optI32", "listI32",
        "mapText", "mapI32", "wI64", "wText", "ts", "dur", "mask", "object", "value", "array", "name", "amount",
        "child", "notes", "nope",
    ]);
    let value = scalar.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|it| format!("[{}]", it.join(","))),
            prop::collection::btree_map(names.clone(), inner, 0..4).prop_map(|it| {
                let members: Vec<_> = it.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    });
    value.prop_filter("an object", |it| it.starts_with('{'))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Its own types count an entry of a map, unlike prost-reflect.
    #[test]
    fn a_value_may_be_as_deep_as_prost_takes_it(steps in prop::collection::vec(any::<bool>(), 28..56)) {
        let (value, json) = tower(&steps);
        let wire = value.encode_to_vec();
        let taken = prost_types::Value::decode(&*wire).is_ok();
        let read = read_tower(&json);
        prop_assert_eq!(read.is_ok(), taken, "{}", json);
        if let Ok(read) = read {
            prop_assert_eq!(prost_types::Value::decode(&*read).unwrap(), value);
        }
    }

    /// The oracle is more lenient, never stricter, and reads the same.
    #[test]
    fn what_is_accepted_reads_as_the_oracle_reads_it(document in documents()) {
        if let Ok(ours) = read_with(&strict(), &document) {
            prop_assert_eq!(print(&ours), print(&kinds(&document)), "{}", document);
        }
    }
}
