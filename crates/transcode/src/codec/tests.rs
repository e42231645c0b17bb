//! Requests and replies whole: which part the JSON is, what wins, update masks, raw bodies.

use proptest::prelude::*;
use prost::Message;
use serde_json::{Value as Json, json};

use super::*;
use crate::fixture::{decode, kinds, plan, print};
use crate::routes::PathVariables;
use crate::status::Detail;

fn request(settings: Settings, http_method: &str, template: &str, query: &str, body: &str) -> Result<Json, String> {
    request_at(settings, http_method, template, "v", query, body)
}

fn request_at(
    settings: Settings,
    http_method: &str,
    template: &str,
    variable: &str,
    query: &str,
    body: &str,
) -> Result<Json, String> {
    let plan = plan(template);
    let variables = PathVariables(vec![variable.to_owned(); plan.variables().len()]);
    let parts = RequestParts { http_method, variables: &variables, query: Some(query), content_type: None };
    let codec = Codec::new(settings);
    let wire = codec.decode_request(&plan, parts, body.as_bytes());
    let behind = codec.decode_request_behind(3, &plan, parts, body.as_bytes());
    assert_eq!(
        behind.as_ref().map(|it| it.split_at(3)),
        wire.as_ref().map(|it| (&[0; 3][..], &**it)),
        "wherever it is written"
    );
    Ok(print(&decode(plan.method().input(), &wire.map_err(|error| error.message)?)))
}

#[test]
fn the_path_beats_the_body_even_within_the_body_field() {
    let body = r#"{"nested":{"name":"b","amount":2}}"#;
    let expected = json!({"kinds": {"nested": {"name": "v", "amount": 2}}});
    assert_eq!(request(Settings::default(), "POST", "/deep/{kinds.nested.name}", "", body).unwrap(), expected);
}

#[test]
fn the_path_beats_the_body_whatever_the_value_is() {
    let mixed = |template: &str, variable: &str, body: &str| {
        request_at(Settings::default(), "POST", template, variable, "", body).unwrap()
    };
    assert_eq!(mixed("/number/{i32}", "7", r#"{"i32":5,"text":"a"}"#), json!({"i32": 7, "text": "a"}));
    // The default is not written, and still wins.
    assert_eq!(mixed("/number/{i32}", "0", r#"{"i32":5,"text":"a"}"#), json!({"text": "a"}));
    // Members of a oneof exclude each other.
    assert_eq!(mixed("/choice/{choice_text}", "c", r#"{"choiceI32":5,"i32":1}"#), json!({"i32": 1, "choiceText": "c"}));
    // A timestamp is one value: nothing of the body's stays.
    let body = r#"{"ts":"1970-01-01T00:00:00.5Z"}"#;
    assert_eq!(mixed("/when/{ts}", "1970-01-01T00:00:01Z", body), json!({"ts": "1970-01-01T00:00:01Z"}));
    // Messages on the way are the body's but for the field bound.
    let body = r#"{"nested":{"name":"n","child":{"name":"old","notes":["a"]}}}"#;
    let expected = json!({"nested": {"name": "n", "child": {"name": "new", "notes": ["a"]}}});
    assert_eq!(mixed("/within/{nested.child.name}", "new", body), expected);
}

#[test]
fn query_and_body_field_go_together() {
    let body = r#"{"text":"t","listI32":[1]}"#;
    let both = request(Settings::default(), "PATCH", "/kinds/{id}", "updateMask=text,listI32", body).unwrap();
    assert_eq!(both, json!({"id": "v", "kinds": {"text": "t", "listI32": [1]}, "updateMask": "text,listI32"}));
}

#[test]
fn a_body_without_a_byte_is_no_body() {
    assert_eq!(request(Settings::default(), "POST", "/echo", "", "").unwrap(), json!({}));
    let blank = request(Settings::default(), "POST", "/echo", "", " \n").unwrap_err();
    assert!(blank.contains("found the end of the document at line 2 column 1"), "{blank}");
    assert_eq!(request(Settings::default(), "PATCH", "/kinds/{id}", "", "").unwrap(), json!({"id": "v"}));
    assert_eq!(request(Settings::default(), "PATCH", "/kinds/{id}", "", "null").unwrap(), json!({"id": "v"}));
    assert_eq!(request(Settings::default(), "GET", "/get/{text}", "", "not looked at").unwrap(), json!({"text": "v"}));
}

#[test]
fn malformed_bodies_name_line_and_column_and_the_field_where_known() {
    let refused = |body: &str| request(Settings::default(), "PATCH", "/kinds/{id}", "", body).unwrap_err();
    assert_eq!(refused("oops"), "kinds: expected a JSON value, found 'o' at line 1 column 1");
    assert_eq!(
        refused("{\n \"nested\": {\"amount\": \"x\"}}"),
        "kinds.nested.amount: expected an int32, found \"x\" at line 2 column 23"
    );
    assert_eq!(
        refused("{} {}"),
        "malformed request body: expected the end of the document, found '{' at line 1 column 4"
    );
    let whole = request(Settings::default(), "POST", "/echo", "", "[{}]").unwrap_err();
    assert_eq!(whole, "malformed request body: expected an object, found an array at line 1 column 1");
}

#[test]
fn an_update_mask_is_inferred_from_the_members_present() {
    let infer = || Settings { infer_update_mask: true, ..Settings::default() };
    let mask = |settings: Settings, http_method: &str, query: &str, body: &str| {
        let message = request(settings, http_method, "/kinds/{id}", query, body).unwrap();
        message.get("updateMask").cloned()
    };
    let body = r#"{"nested":{"name":"n","child":{"amount":3},"notes":[]},"i32":null,"mapText":{"k":"v"},"object":{"a":1},"otherName":"r","nope":1}"#;
    let inferred = "i32,mapText,nested.child.amount,nested.name,nested.notes,object.a,renamed";
    assert_eq!(mask(infer(), "PATCH", "", body), Some(json!(inferred)));
    assert_eq!(mask(infer(), "PATCH", "", r#"{"nested":{"child":{}}}"#), Some(json!("nested.child")));
    assert_eq!(mask(infer(), "PATCH", "", r#"{"nested":null}"#), Some(json!("nested")));
    let within = r#"{"object":{"b":{"c":1,"d":[{"e":1}]},"a":null},"value":{"f":{}},"array":[{"g":1}]}"#;
    assert_eq!(mask(infer(), "PATCH", "", within), Some(json!("array,object.a,object.b.c,object.b.d,value.f")));
    let unnameable = r#"{"object":{"b":{"c.d":1,"e":2}},"value":[1]}"#;
    assert_eq!(mask(infer(), "PATCH", "", unnameable), Some(json!("object.b,value")));
    assert_eq!(mask(infer(), "PATCH", "updateMask=i64", body), Some(json!("i64")));
    assert_eq!(mask(infer(), "PUT", "", body), None);
    assert_eq!(mask(infer(), "PATCH", "", ""), None);
    assert_eq!(mask(Settings::default(), "PATCH", "", body), None);
}

#[test]
fn a_field_of_whose_value_something_was_ignored_is_in_no_mask() {
    let infer = || Settings { infer_update_mask: true, ..Settings::default() };
    let read = |body: &str| request(infer(), "PATCH", "/kinds/{id}", "", body);
    let mask = |body: &str| read(body).map(|it| it["updateMask"].clone());
    let any = r#"{"any":{"@type":"t/test.v1.Kinds","color":"BLUE"},"i32":1}"#;
    for (body, expected) in [
        (r#"{"color":"BLUE","text":"a"}"#, "text"),
        (r#"{"color":"COLOR_BLUE","text":"a"}"#, "color,text"),
        (r#"{"color":null,"text":"a"}"#, "color,text"),
        (r#"{"color":5,"text":"a"}"#, "color,text"),
        (r#"{"listColor":["COLOR_RED","BLUE"],"text":"a"}"#, "text"),
        (r#"{"mapColor":{"a":"COLOR_RED","b":"BLUE"},"text":"a"}"#, "text"),
        (r#"{"nested":{"nmae":"a"},"text":"a"}"#, "text"),
        (r#"{"nested":{"nmae":"a","amount":1}}"#, "nested.amount"),
        (r#"{"nested":{"child":{"nmae":"a"},"amount":1}}"#, "nested.amount"),
        (r#"{"listNested":[{"name":"a"},{"nmae":"a"}],"text":"a"}"#, "text"),
        (r#"{"mapNested":{"true":{"nmae":"a"}},"listNested":[{"name":"a"}]}"#, "listNested"),
        (any, "i32"),
    ] {
        assert_eq!(mask(body), Ok(json!(expected)), "{body}");
    }
    // A mask without a path means every field to many services: nobody asked for that.
    for body in [r#"{"color":"BLUE"}"#, r#"{"nope":1}"#, r#"{"nested":{"nmae":"a"}}"#] {
        let refused = read(body).unwrap_err();
        assert!(refused.contains("kinds: names no field that can be changed"), "{body}: {refused}");
    }
    assert_eq!(mask("{}"), Ok(json!("")), "that names nothing");
    let lenient = Settings { case_insensitive_enums: true, ..infer() };
    let message = request(lenient, "PATCH", "/kinds/{id}", "", r#"{"color":"color_blue"}"#).unwrap();
    assert_eq!(message["updateMask"], "color");
}

#[test]
fn what_only_the_service_sets_is_in_no_mask() {
    const THINGS: &str = r#"
        syntax = "proto3";
        package test.v1;
        import "google/api/annotations.proto";
        import "google/api/field_behavior.proto";
        import "google/protobuf/field_mask.proto";
        message Spec { string key = 1; string text = 2; string made = 3 [(google.api.field_behavior) = OUTPUT_ONLY]; }
        message Thing {
          string id = 1; string name = 2; Spec spec = 3;
          Spec status = 4 [(google.api.field_behavior) = IMMUTABLE, (google.api.field_behavior) = OUTPUT_ONLY];
        }
        message Update { Thing thing = 1; google.protobuf.FieldMask mask = 2; }
        service Things {
          rpc Up(Update) returns (Thing) { option (google.api.http) = { patch: "/things/{thing.id}/{thing.spec.key}" body: "thing" }; }
        }
    "#;
    let files = &[crate::fixture::FIELD_BEHAVIOR, ("test.proto", THINGS)];
    let schema = crate::Schema::decode(&crate::fixture::compile(files, true)).unwrap();
    let plan = schema.plans().iter().find(|it| !it.is_plain()).unwrap();
    let codec = Codec::new(Settings { infer_update_mask: true, ..Settings::default() });
    let variables = PathVariables(vec!["7".to_owned(), "k".to_owned()]);
    let parts = RequestParts { http_method: "PATCH", variables: &variables, query: None, content_type: None };
    let mask = |body: &str| {
        let wire = codec.decode_request(plan, parts, body.as_bytes())?;
        Ok::<_, BindError>(print(&decode(plan.method().input(), &wire))["mask"].clone())
    };
    let got = r#"{"id":"7","name":"n","spec":{"key":"k","text":"t","made":"m"},"status":{"text":"x"}}"#;
    assert_eq!(mask(got), Ok(json!("id,name,spec.key,spec.text")));
    assert_eq!(mask(r#"{"spec":{}}"#), Ok(json!("spec")));
    assert_eq!(mask(r#"{"status":null}"#).unwrap_err().violations[0].field, "thing");
    let mut form = crate::bind::Form::new(&codec, plan).unwrap();
    form.urlencoded(b"id=7&name=n&spec.key=k&spec.text=t&spec.made=m&status.text=x").unwrap();
    let wire = form.finish(parts).unwrap();
    assert_eq!(print(&decode(plan.method().input(), &wire))["mask"], "id,name,spec.key,spec.text");
}

#[test]
fn a_response_body_is_printed_alone() {
    let wire = kinds(r#"{"nested":{"name":"n"},"listText":["a","b"]}"#).encode_to_vec();
    let alone = |template: &str| {
        let reply = Codec::default().encode_reply(&plan(template), &wire).unwrap();
        assert_eq!(reply.content_type, "application/json");
        String::from_utf8(reply.body.to_vec()).unwrap()
    };
    assert_eq!(alone("/alone/nested"), r#"{"name":"n"}"#);
    assert_eq!(alone("/alone/list"), r#"["a","b"]"#);
    assert_eq!(alone("/alone/ts"), "null");
}

#[test]
fn a_reply_of_another_type_is_the_backends_fault() {
    let error = Codec::default().encode_reply(&plan("/echo"), &[0xff]).unwrap_err();
    assert!(matches!(&error, EncodeError::Malformed { method, .. } if method == "test.v1.Api.Echo"), "{error}");
    assert_eq!(error.status().http_status(), 500);
}

#[test]
fn raw_bodies_pass_both_ways_untouched() {
    const RAW: &str = r#"
        syntax = "proto3";
        package test.v1;
        import "google/api/annotations.proto";
        import "google/api/httpbody.proto";
        message Upload { string name = 1; google.api.HttpBody file = 2; }
        service Raws {
          rpc Put(Upload) returns (Upload) { option (google.api.http) = { put: "/{name}" body: "file" response_body: "file" }; }
        }
    "#;
    let schema = crate::fixture::schema(RAW);
    let plan = &schema.plans()[1];
    let variables = PathVariables(vec!["n".to_owned()]);
    let parts =
        RequestParts { http_method: "PUT", variables: &variables, query: None, content_type: Some("text/csv; a=b") };
    let wire = Codec::default().decode_request(plan, parts, b"{\"broken\":").unwrap();
    let reply = Codec::default().encode_reply(plan, &wire).unwrap();
    assert_eq!(reply, Reply { content_type: "text/csv; a=b".into(), body: Bytes::from_static(b"{\"broken\":") });
    let owned = Codec::default().encode_owned(plan, &wire).unwrap();
    assert!(owned == reply && wire.as_ptr_range().contains(&owned.body.as_ptr()), "a part of the message, not a copy");
    let stream = Codec::default().reply_stream(plan, None).message(&wire).unwrap();
    assert!(stream == reply.body && wire.as_ptr_range().contains(&stream.as_ptr()), "as in a stream");
    let empty = Codec::default().encode_reply(plan, &[]).unwrap();
    assert_eq!(empty, Reply { content_type: "application/octet-stream".into(), body: Bytes::new() });
}

#[test]
fn a_detail_that_cannot_be_shown_costs_neither_the_others_nor_the_status() {
    let detail =
        |url: &str, value: &'static [u8]| Detail { type_url: url.to_owned(), value: Bytes::from_static(value) };
    let mut status = Status::new(5, "kept");
    status.details = vec![
        detail("type.googleapis.com/no.such.Detail", b"\x0a\x03abc"),
        detail("type.googleapis.com/google.rpc.RequestInfo", b"\x0a\x01r"),
        detail("type.googleapis.com/google.rpc.RequestInfo", b"\xff"),
        detail("type.googleapis.com/google.protobuf.Timestamp", b"\x08\xff\xff\xff\xff\xff\xff\xff\x7f"),
        detail("type.googleapis.com/test.v1.Nested", b"\x10\x07"),
        detail("", b""),
    ];
    let json = Codec::default().encode_status(&status, Some(&plan("/echo")));
    let expected = json!({"code": 5, "message": "kept", "details": [
        {"@type": "type.googleapis.com/no.such.Detail", "value": "CgNhYmM="},
        {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": "r"},
        {"@type": "type.googleapis.com/google.rpc.RequestInfo", "value": "/w=="},
        {"@type": "type.googleapis.com/google.protobuf.Timestamp", "value": "CP////////9/"},
        {"@type": "type.googleapis.com/test.v1.Nested", "amount": 7},
        {"@type": "", "value": ""},
    ]});
    assert_eq!(serde_json::from_slice::<Json>(&json).unwrap(), expected);
    assert_eq!(Codec::default().encode_status(&Status::new(5, ""), None), Bytes::from_static(b"{\"code\":5}"));
}

#[test]
fn every_member_and_element_counts_once_wherever_it_stands() {
    let read = |text: &str, most: u32| {
        let codec = Codec::new(Settings::default()).bounded(Elements::new(most, || "rule seven".to_owned()));
        let parts =
            RequestParts { http_method: "POST", variables: &PathVariables(vec![]), query: None, content_type: None };
        codec.decode_request(&plan("/echo"), parts, text.as_bytes())
    };
    let documents = [
        (r#"{"i32":1,"text":"a"}"#, 2, "body"),
        (r#"{ "i32" : 1 , "text" : "a" }"#, 2, "body"),
        (r#"{"listI32":[1,2,3]}"#, 4, "listI32"),
        (r#"{"listNested":[{},{"name":"a"}]}"#, 4, "listNested[1]"),
        (r#"{"mapText":{"a":"1","b":"2"}}"#, 3, "mapText"),
        (r#"{"object":{"a":[1,{"b":null}]}}"#, 5, "object[\"a\"][1]"),
        (r#"{"array":[[],[[1]]]}"#, 5, "array[1][0]"),
        (r#"{"nobody":[1,{"knows":2}]}"#, 4, "nobody"),
        (r#"{"any":{"name":"read for its type first","@type":"t/test.v1.Nested"}}"#, 3, "any"),
        (r#"{"any":{"value":"1.5s","@type":"t/google.protobuf.Duration"}}"#, 3, "any"),
    ];
    for (text, count, path) in documents {
        assert!(read(text, count).is_ok(), "{text} has {count}: {:?}", read(text, count));
        let error = read(text, count - 1).unwrap_err();
        assert_eq!((error.http_status, error.violations[0].field.as_str()), (400, path), "{text}: {error}");
        let (most, told) = (count - 1, &error.violations[0].description);
        assert!(told.starts_with(&format!("more than {most} members and elements at line 1 column ")), "{told}");
        assert!(told.ends_with(": rule seven; send fewer of them in one message"), "{told}");
    }
    let many = |count: usize| format!("{{\"listI32\":[{}0]}}", "0,".repeat(count - 1));
    let parts =
        RequestParts { http_method: "POST", variables: &PathVariables(vec![]), query: None, content_type: None };
    let read = |text: &str| Codec::default().decode_request(&plan("/echo"), parts, text.as_bytes());
    assert!(read(&many(999_999)).is_ok(), "the list is a member, too");
    assert!(read(&many(1_000_000)).unwrap_err().message.starts_with("listI32: more than 1000000 members and elements"));
}

#[test]
fn the_deepest_documents_fit_half_a_thread_s_stack() {
    let work = || {
        let deep = |levels: usize| format!("{{\"value\":{}1{}}}", "[".repeat(levels), "]".repeat(levels));
        let plan = plan("/echo");
        let parts =
            RequestParts { http_method: "POST", variables: &PathVariables(vec![]), query: None, content_type: None };
        // Two messages on the wire for each array, and one for the value.
        let printable = Codec::default().decode_request(&plan, parts, deep(49).as_bytes()).unwrap();
        assert_eq!(Codec::default().encode_reply(&plan, &printable).unwrap().body, deep(49));
        let refused = Codec::default().decode_request(&plan, parts, deep(50).as_bytes()).unwrap_err();
        assert_eq!((refused.http_status, &*refused.violations[0].field), (400, &*format!("value{}", "[0]".repeat(50))));
        assert!(refused.message.contains("nested deeper than 100 messages"), "{refused}");
        let children =
            format!("{{\"nested\":{}{{}}{}}}", "{\"child\":".repeat(json::DEPTH - 2), "}".repeat(json::DEPTH - 2));
        assert!(Codec::default().decode_request(&plan, parts, children.as_bytes()).is_ok());
        let any = "{\"any\":{\"@type\":\"t/test.v1.Kinds\",".to_owned()
            + &"\"any\":{\"@type\":\"t/test.v1.Kinds\",".repeat(json::DEPTH - 2);
        let anys = format!("{}\"i32\":1{}", any, "}".repeat(json::DEPTH));
        assert!(Codec::default().decode_request(&plan, parts, anys.as_bytes()).is_ok());
        let mut nested = Vec::new();
        for _ in 0..90 {
            let mut outer = vec![0x1A];
            prost::encoding::encode_varint(nested.len() as u64, &mut outer);
            outer.extend(nested);
            nested = outer;
        }
        let mut wire = vec![0x8A, 0x01];
        prost::encoding::encode_varint(nested.len() as u64, &mut wire);
        wire.extend(nested);
        assert!(Codec::default().encode_reply(&plan, &wire).is_ok());
    };
    std::thread::Builder::new().stack_size(1 << 20).spawn(work).unwrap().join().unwrap();
}

proptest! {
    #[test]
    fn no_bytes_make_either_direction_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), text in "[{}\\[\\]:,\"a-z0-9@.]{0,40}") {
        for template in ["/echo", "/kinds/{id}", "/alone/nested"] {
            let _ = request(Settings { infer_update_mask: true, ..Settings::default() }, "PATCH", template, &text, &text);
            let _ = Codec::default().encode_reply(&plan(template), &bytes);
        }
    }
}
