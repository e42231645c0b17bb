//! Printing: what the oracle reads back, and the places where ours has rules of its own.

use proptest::prelude::*;
use prost::Message;
use prost_reflect::{DynamicMessage, MapKey, ReflectMessage, Value};

use super::*;
use crate::codec::Codec;
use crate::fixture::{assert_same, decode, kinds, plan};

fn print_with(output: JsonOutput, message: &DynamicMessage) -> Result<String, String> {
    let plan = plan("/echo");
    let types = &*plan.method().types;
    let wire = message.encode_to_vec();
    let mut encoder = Encoder::new(types, output, wire.len());
    let id = types.id(message.descriptor().full_name()).unwrap();
    encoder.message(id, &wire).map_err(|failure| match failure {
        Failure::Flaw(flaw) => flaw.to_string(),
        Failure::Malformed(reason) => reason.to_owned(),
    })?;
    Ok(String::from_utf8(encoder.finish()).unwrap())
}

fn print(message: &DynamicMessage) -> String {
    print_with(JsonOutput::default(), message).unwrap()
}

#[test]
fn protojson_is_printed_in_field_order_with_defaults_left_out() {
    let table = [
        (r#"{"i32":0,"text":"","listI32":[],"nested":{"name":""}}"#, r#"{"nested":{}}"#),
        (r#"{"optI32":0,"wText":"","wFlag":false}"#, r#"{"optI32":0,"wText":"","wFlag":false}"#),
        (
            r#"{"u64":"18446744073709551615","i64":"-1","i32":-4}"#,
            r#"{"i32":-4,"i64":"-1","u64":"18446744073709551615"}"#,
        ),
        (r#"{"dbl":1234,"flt":1.1}"#, r#"{"flt":1.1,"dbl":1234}"#),
        (r#"{"dbl":1e300,"flt":"Infinity"}"#, r#"{"flt":"Infinity","dbl":1e+300}"#),
        (r#"{"dbl":"NaN","flt":"-Infinity"}"#, r#"{"flt":"-Infinity","dbl":"NaN"}"#),
        (r#"{"data":"-_8"}"#, r#"{"data":"+/8="}"#),
        (r#"{"color":123,"listColor":[1,0]}"#, r#"{"color":123,"listColor":["COLOR_RED","COLOR_UNSPECIFIED"]}"#),
        (r#"{"mapI32":{"10":1,"9":2,"-1":3}}"#, r#"{"mapI32":{"-1":3,"9":2,"10":1}}"#),
        (
            r#"{"ts":"1970-01-01T00:00:00.01Z","dur":"1.000010s"}"#,
            r#"{"ts":"1970-01-01T00:00:00.010Z","dur":"1.000010s"}"#,
        ),
        (r#"{"dur":"-0.5s","mask":"foo,barBaz"}"#, r#"{"dur":"-0.500s","mask":"foo,barBaz"}"#),
        (r#"{"value":null,"array":[null,{"a":1}]}"#, r#"{"value":null,"array":[null,{"a":1}]}"#),
        (r#"{"text":"\" \\ \n </script> \u0001 谷"}"#, "{\"text\":\"\\\" \\\\ \\n </script> \\u0001 谷\"}"),
        (
            r#"{"any":{"@type":"t/google.protobuf.Duration","value":"3s"}}"#,
            r#"{"any":{"@type":"t/google.protobuf.Duration","value":"3s"}}"#,
        ),
        (r#"{"any":{"@type":"t/test.v1.Nested","amount":3}}"#, r#"{"any":{"@type":"t/test.v1.Nested","amount":3}}"#),
    ];
    for (document, expected) in table {
        assert_eq!(print(&kinds(document)), expected);
    }
}

#[test]
fn non_finite_wrappers_are_quoted() {
    // The oracle's own printer writes null here, so the wire form is given.
    let desc = plan("/echo").method().input().clone();
    let wire = [&[0xF2, 0x01, 9, 9][..], &f64::NEG_INFINITY.to_le_bytes()].concat();
    assert_eq!(print(&decode(&desc, &wire)), r#"{"wDbl":"-Infinity"}"#);
}

#[test]
fn output_settings_change_names_enums_and_defaults() {
    let message = kinds(r#"{"listColor":["COLOR_RED"],"otherName":"x","nullValue":null}"#);
    let named = JsonOutput { preserve_proto_names: true, ..JsonOutput::default() };
    assert_eq!(print_with(named, &message).unwrap(), r#"{"list_color":["COLOR_RED"],"renamed":"x"}"#);
    let numbers = JsonOutput { enums_as_ints: true, ..JsonOutput::default() };
    assert_eq!(print_with(numbers, &message).unwrap(), r#"{"listColor":[1],"otherName":"x"}"#);
    let nested = kinds(r#"{"nested":{"name":"n"}}"#);
    let nested = nested.get_field_by_name("nested").unwrap().into_owned();
    let defaults = JsonOutput { emit_defaults: true, ..JsonOutput::default() };
    assert_eq!(print_with(defaults, nested.as_message().unwrap()).unwrap(), r#"{"name":"n","amount":0,"notes":[]}"#);
}

#[test]
fn an_any_of_unknown_type_keeps_its_bytes() {
    let desc = plan("/echo").method().input().clone();
    // any: type_url "t/no.Such", value 01 02
    let wire = [&[0xCA, 0x02, 15, 0x0A, 9][..], b"t/no.Such", &[0x12, 2, 1, 2]].concat();
    assert_eq!(print(&decode(&desc, &wire)), r#"{"any":{"@type":"t/no.Such","value":"AQI="}}"#);
}

#[test]
fn what_has_no_json_form_says_where() {
    let desc = plan("/echo").method().input().clone();
    let flaw = |wire: &[u8]| print_with(JsonOutput::default(), &decode(&desc, wire)).unwrap_err();
    // ts.seconds = 2^55; dur.nanos = -1 with seconds = 1; mask path "aB"; value = NaN
    assert_eq!(
        flaw(&[0x9A, 0x02, 9, 0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40]),
        "ts: google.protobuf.Timestamp: out of range"
    );
    let opposed = [&[0xA2, 0x02, 13, 0x08, 1, 0x10][..], &[0xFF; 9], &[0x01]].concat();
    assert_eq!(flaw(&opposed), "dur: google.protobuf.Duration: out of range");
    assert_eq!(flaw(&[0xAA, 0x02, 4, 0x0A, 2, b'a', b'B']), "mask: google.protobuf.FieldMask: a path has no JSON form");
    let not_a_number = [&[0xBA, 0x02, 9, 0x11][..], &f64::NAN.to_le_bytes()].concat();
    assert_eq!(flaw(&not_a_number), "value: a google.protobuf.Value cannot hold NaN or Infinity");
}

#[test]
fn an_any_within_an_any_cannot_exhaust_the_stack() {
    let desc = plan("/echo").method().input().parent_pool().get_message_by_name("google.protobuf.Any").unwrap();
    let mut wire: Vec<u8> = Vec::new();
    for _ in 0..2_000 {
        let mut any = DynamicMessage::new(desc.clone());
        any.set_field_by_number(1, Value::String("t/google.protobuf.Any".to_owned()));
        any.set_field_by_number(2, Value::Bytes(wire.into()));
        wire = any.encode_to_vec();
    }
    assert!(print_with(JsonOutput::default(), &decode(&desc, &wire)).unwrap_err().contains("nested deeper"));
}

#[test]
fn no_record_goes_from_one_part_of_a_message_into_the_next() {
    let print = |wire: &[u8]| Codec::default().encode_reply(&plan("/echo"), wire).map(|it| it.body);
    // nested, twice: {name: "a"}, {amount: 3}; in a map, too
    let parts = print(b"\x8a\x01\x03\x0a\x01a\x8a\x01\x02\x10\x03").unwrap();
    assert_eq!(parts, r#"{"nested":{"name":"a","amount":3}}"#);
    let parts = print(b"\xd2\x01\x0b\x08\x01\x12\x03\x0a\x01a\x12\x02\x10\x03").unwrap();
    assert_eq!(parts, r#"{"mapNested":{"true":{"name":"a","amount":3}}}"#);
    // {name: "ab"}, cut before the text: neither part is a message
    for wire in [&b"\x8a\x01\x02\x0a\x02\x8a\x01\x02ab"[..], b"\xd2\x01\x0a\x08\x01\x12\x02\x0a\x02\x12\x02ab"] {
        assert!(print(wire).unwrap_err().to_string().contains("buffer underflow"), "{wire:02x?}");
    }
}

#[test]
fn messages_may_be_nested_as_deep_as_prost_takes_them() {
    let print = |wire: &[u8]| Codec::default().encode_reply(&plan("/echo"), wire).map(|it| it.body);
    let field = |key: &[u8], payload: &[u8]| {
        let mut out = key.to_vec();
        prost::encoding::encode_varint(payload.len() as u64, &mut out);
        [&out, payload].concat()
    };
    let desc = plan("/echo").method().input().clone();
    let value = desc.parent_pool().get_message_by_name("google.protobuf.Value").unwrap();
    for levels in 98..103 {
        // nested, and the child of each
        let children = (1..levels).fold(Vec::new(), |inner, _| field(&[0x1A], &inner));
        let wire = field(&[0x8A, 0x01], &children);
        assert_eq!(print(&wire).is_ok(), DynamicMessage::decode(desc.clone(), &*wire).is_ok(), "{levels} levels");
        // a Value within a list within a Value, in an Any: one that is too deep is printed as bytes
        let key = |level: usize| if level.is_multiple_of(2) { [0x32] } else { [0x0A] };
        let lists = (0..levels).rev().fold(Vec::new(), |inner, level| field(&key(level), &inner));
        let any = [field(&[0x0A], b"t/google.protobuf.Value"), field(&[0x12], &lists)].concat();
        let printed = print(&field(&[0xCA, 0x02], &any)).unwrap();
        let taken = DynamicMessage::decode(value.clone(), &*lists).is_ok();
        assert_eq!(printed.ends_with(b"]}}"), taken, "{levels} levels: {printed:?}");
    }
}

#[test]
fn an_unset_response_field_prints_as_its_empty_form() {
    let plan = plan("/echo");
    let method = plan.method();
    let alone = |name: &str| {
        let field = method.input().get_field_by_name(name).unwrap();
        let mut encoder = Encoder::new(&method.types, JsonOutput::default(), 0);
        encoder.field_alone(method.types.get(method.input_type), &[], field.number()).unwrap();
        String::from_utf8(encoder.finish()).unwrap()
    };
    let table = [
        ("nested", "{}"),
        ("ts", "null"),
        ("list_text", "[]"),
        ("map_text", "{}"),
        ("i64", "\"0\""),
        ("text", "\"\""),
        ("color", "\"COLOR_UNSPECIFIED\""),
    ];
    for (name, expected) in table {
        assert_eq!(alone(name), expected, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_oracle_reads_back_what_is_printed(
        (i32, i64, u64) in any::<(i32, i64, u64)>(),
        (flt, dbl) in (prop::num::f32::NORMAL | prop::num::f32::ZERO, prop::num::f64::NORMAL | prop::num::f64::ZERO),
        (text, data) in any::<(String, Vec<u8>)>(),
        list in prop::collection::vec(any::<i32>(), 0..5),
        entries in prop::collection::btree_map(any::<String>(), any::<String>(), 0..4),
        seconds in -62_135_596_800_i64..=253_402_300_799,
        nanos in 0..1_000_000_000_i32,
    ) {
        let mut message = kinds(r#"{"nested":{"child":{}},"color":"COLOR_BLUE","ts":"1970-01-01T00:00:00Z"}"#);
        message.set_field_by_name("i32", Value::I32(i32));
        message.set_field_by_name("i64", Value::I64(i64));
        message.set_field_by_name("u64", Value::U64(u64));
        message.set_field_by_name("flt", Value::F32(flt));
        message.set_field_by_name("dbl", Value::F64(dbl));
        message.set_field_by_name("text", Value::String(text));
        message.set_field_by_name("data", Value::Bytes(data.into()));
        message.set_field_by_name("list_i32", Value::List(list.into_iter().map(Value::I32).collect()));
        let entries = entries.into_iter().map(|(key, value)| (MapKey::String(key), Value::String(value)));
        message.set_field_by_name("map_text", Value::Map(entries.collect()));
        let time = message.get_field_by_name_mut("ts").and_then(Value::as_message_mut).unwrap();
        time.set_field_by_number(1, Value::I64(seconds));
        time.set_field_by_number(2, Value::I32(nanos));
        let printed = print(&message);
        // serde_json's doubles may be off by a unit in the last place; ours must not be.
        let shown: serde_json::Value = serde_json::from_str(&printed).unwrap();
        prop_assert_eq!(shown.get("text").is_some(), message.has_field_by_name("text"));
        let plan = plan("/echo");
        let back = crate::codec::Codec::default();
        let back = back.json_message(&plan, printed.as_bytes(), crate::codec::json::Position::START).unwrap();
        assert_same(&decode(&message.descriptor(), &back), &message);
        let mut oracle = kinds(&printed);
        oracle.set_field_by_name("dbl", Value::F64(dbl));
        oracle.set_field_by_name("flt", Value::F32(flt));
        assert_same(&oracle, &message);
    }
}
