//! Linking: what is supplied, what is refused with which file and symbol, what is left out with a reason.

use prost::Message;

use super::*;
use crate::fixture::{self, compile};

const SERVICE: &str = r#"
    syntax = "proto3";
    package a.v1;
    import "google/api/annotations.proto";
    import "google/api/httpbody.proto";
    import "google/protobuf/timestamp.proto";
    import "common.proto";
    message Req { string id = 1; common.Thing thing = 2; repeated string tags = 3; google.protobuf.Timestamp at = 4; google.api.HttpBody raw = 5; }
    service Svc {
      rpc Get(Req) returns (Req) {
        option idempotency_level = NO_SIDE_EFFECTS;
        option (google.api.http) = { get: "/a/{id}" additional_bindings { custom: { kind: "head" path: "/a/{at}" } } };
      }
      rpc Put(Req) returns (stream google.api.HttpBody) { option (google.api.http) = { put: "/raw" body: "raw" }; }
      rpc Chat(stream Req) returns (stream Req) { option idempotency_level = IDEMPOTENT; }
    }
"#;
const COMMON: (&str, &str) =
    ("common.proto", r#"syntax = "proto3"; package common; message Thing { string name = 1; }"#);
const SET: &[(&str, &str)] = &[("svc.proto", SERVICE), COMMON];

#[test]
fn methods_and_their_bindings_are_read_from_raw_options() {
    let schema = Schema::decode(&compile(SET, true)).unwrap();
    let plans: Vec<_> = schema
        .plans()
        .iter()
        .map(|it| format!("{} {} {}", it.http_method(), it.template(), it.method().name()))
        .collect();
    let expected = [
        "POST /a.v1.Svc/Get Get",
        "GET /a/{id} Get",
        "HEAD /a/{at} Get",
        "POST /a.v1.Svc/Put Put",
        "PUT /raw Put",
        "POST /a.v1.Svc/Chat Chat",
    ];
    assert_eq!(plans, expected);
    let method = |at: usize| schema.plans()[at].method();
    assert_eq!(
        [0, 3, 5].map(|at| method(at).idempotency()),
        [Idempotency::NoSideEffects, Idempotency::Unknown, Idempotency::Idempotent]
    );
    assert_eq!([0, 3, 5].map(|at| method(at).streaming()), [Streaming::Unary, Streaming::Server, Streaming::Bidi]);
    assert_eq!(method(0).grpc_path(), "/a.v1.Svc/Get");
    assert_eq!(method(0).full_name(), "a.v1.Svc.Get");
    assert!(schema.plans()[4].takes_raw_body() && schema.plans()[4].returns_raw_body());
    assert!(!schema.plans()[1].has_body() && !schema.plans()[1].takes_raw_body());
    assert_eq!(schema.services().collect::<Vec<_>>(), ["a.v1.Svc"]);
}

#[test]
fn files_of_google_are_supplied_where_a_set_lacks_them() {
    let whole = Schema::decode(&compile(SET, true)).unwrap();
    let own_files = Schema::decode(&compile(SET, false)).unwrap();
    assert_eq!(own_files.plans().len(), whole.plans().len());
    assert_eq!(own_files.services().count(), 1);
}

#[test]
fn files_come_in_any_order_and_may_come_twice() {
    let mut files = raw::FileSet::decode(compile(SET, true).as_slice()).unwrap().file;
    files.reverse();
    files.push(files[0].clone());
    assert_eq!(Schema::from_files(files).unwrap().plans().len(), 6);
}

#[test]
fn two_services_may_each_own_a_file_of_one_name() {
    const OTHER: &[(&str, &str)] = &[(
        "common.proto",
        r#"syntax = "proto3"; package common; message Thing { int32 id = 9; } service S { rpc M(Thing) returns (Thing); }"#,
    )];
    assert!(Schema::decode(&compile(SET, true)).is_ok());
    assert!(Schema::decode(&compile(OTHER, true)).is_ok());
}

#[test]
fn a_set_that_does_not_link_names_file_and_symbol() {
    let mut files = raw::FileSet::decode(compile(SET, true).as_slice()).unwrap().file;
    let named = |bytes: &Vec<u8>| raw::File::decode(bytes.as_slice()).unwrap().name;
    files.retain(|it| named(it) != "common.proto");
    let error = Schema::from_files(&files).unwrap_err();
    assert_eq!(error.to_string(), "svc.proto: imported file 'common.proto' has not been added (in common.proto)");

    const EMPTY: &[(&str, &str)] = &[("common.proto", r#"syntax = "proto3"; package common;"#)];
    files.extend(raw::FileSet::decode(compile(EMPTY, true).as_slice()).unwrap().file);
    let error = Schema::from_files(&files).unwrap_err();
    let SchemaError::Link { file, symbol, reason } = error else { panic!("{error}") };
    assert_eq!((file.as_str(), symbol.as_str()), ("svc.proto", "a.v1.Req.thing"));
    assert!(reason.contains("common.Thing"), "{reason}");

    assert!(matches!(Schema::decode(b"\xff\xff"), Err(SchemaError::Malformed { .. })));
}

#[test]
fn bindings_that_cannot_be_served_are_left_out_with_a_reason() {
    const BAD: &str = r#"
        syntax = "proto3";
        package a.v1;
        import "google/api/annotations.proto";
        message Req { string id = 1; repeated string tags = 2; Req inner = 3; map<string, Req> map = 4; }
        service Svc {
          rpc Get(Req) returns (Req) {
            option (google.api.http) = {
              get: "/ok/{inner.id}"
              additional_bindings { get: "/a/{id" }
              additional_bindings { get: "/b/{nope}" }
              additional_bindings { get: "/c/{tags}" }
              additional_bindings { get: "/d/{inner}" }
              additional_bindings { get: "/e/{id.x}" }
              additional_bindings { get: "/f/{map.key}" }
              additional_bindings { get: "/g/{id}/{id}" }
              additional_bindings { post: "/h" body: "nope" }
              additional_bindings { get: "/i" response_body: "nope" }
              additional_bindings { body: "*" }
            };
          }
        }
    "#;
    let schema = fixture::schema(BAD);
    assert_eq!(schema.plans().len(), 2);
    let problems: Vec<_> = schema.problems().iter().map(ToString::to_string).collect();
    let expected = [
        r#"a.v1.Svc.Get: GET "/a/{id": expected '}', found the end at column 7"#,
        r#"a.v1.Svc.Get: GET "/b/{nope}": variable nope names nope, which is no field of a.v1.Req; it has id, tags, inner, map"#,
        r#"a.v1.Svc.Get: GET "/c/{tags}": variable tags goes through tags, which is repeated"#,
        r#"a.v1.Svc.Get: GET "/d/{inner}": variable inner is a a.v1.Req, which has no text form"#,
        r#"a.v1.Svc.Get: GET "/e/{id.x}": variable id.x: nothing lies below id"#,
        r#"a.v1.Svc.Get: GET "/f/{map.key}": variable map.key goes through map, which is repeated"#,
        r#"a.v1.Svc.Get: GET "/g/{id}/{id}": field id is bound twice"#,
        r#"a.v1.Svc.Get: POST "/h": body names nope, which is no field of a.v1.Req; it has id, tags, inner, map"#,
        r#"a.v1.Svc.Get: GET "/i": response_body names nope, which is no field of a.v1.Req; it has id, tags, inner, map"#,
        "a.v1.Svc.Get: the rule names no HTTP method",
    ];
    assert_eq!(problems, expected);
}

fn binding(kind: &str, template: &str, body: &str) -> weft_model::HttpBinding {
    weft_model::HttpBinding {
        kind: kind.parse().unwrap(),
        template: template.parse().unwrap(),
        body: body.parse().unwrap(),
        response_body: Default::default(),
    }
}

fn rule(selector: &str, bindings: &[(&str, &str, &str)]) -> HttpRule {
    let mut bindings = bindings.iter().map(|(kind, template, body)| binding(kind, template, body));
    HttpRule { selector: selector.parse().unwrap(), binding: bindings.next().unwrap(), additional: bindings.collect() }
}

/// Everything but the plain bindings.
fn bound(schema: &Schema) -> Vec<String> {
    let said = schema.plans().iter().filter(|it| !it.is_plain());
    said.map(|it| format!("{} {} {} {:?}", it.http_method(), it.template(), it.method().name(), it.origin())).collect()
}

#[test]
fn a_rule_stands_in_for_all_that_the_annotation_says_and_binds_what_has_none() {
    let annotated = Schema::decode(&compile(SET, true)).unwrap();
    let chat = rule("a.v1.Svc.Chat", &[("post", "/chat", "*"), ("*", "/talk", "*")]);
    let get = rule("a.v1.Svc.Get", &[("get", "/users/{id}", ""), ("put", "/users/{thing.name}", "tags")]);
    let later = rule("a.v1.Svc.Get", &[("get", "/later", "")]);
    let ruled = annotated.with_rules([&chat, &get, &later]);
    let expected = [
        "GET /users/{id} Get Rule",
        "PUT /users/{thing.name} Get Rule",
        "PUT /raw Put Annotation",
        "POST /chat Chat Rule",
        "* /talk Chat Rule",
    ];
    assert_eq!(bound(&ruled), expected, "the first rule about a method counts, the others' annotations stay");
    assert_eq!(ruled.problems(), []);
    let plain = |it: &Schema| it.plans().iter().filter(|it| it.is_plain()).map(Arc::as_ptr).collect::<Vec<_>>();
    assert_eq!(plain(&ruled), plain(&annotated), "how every method can be called is as before");
    assert_eq!(
        bound(&annotated),
        ["GET /a/{id} Get Annotation", "HEAD /a/{at} Get Annotation", "PUT /raw Put Annotation"]
    );
    assert!(ruled.with_rules([]).plans().len() == ruled.plans().len() && annotated.declares(&chat.selector));
}

#[test]
fn what_cannot_be_served_of_a_rule_is_told_with_what_there_is() {
    let schema = Schema::decode(&compile(SET, true)).unwrap();
    let rules = [
        rule("a.v1.Svc.Get", &[("get", "/a/{nope}", ""), ("get", "/b/{id}", ""), ("post", "/c", "nope")]),
        rule("a.v1.Svc.Gett", &[("get", "/d", "")]),
        rule("b.v1.Svc.Get", &[("get", "/e", "")]),
    ];
    let ruled = schema.with_rules(&rules);
    assert_eq!(bound(&ruled), ["GET /b/{id} Get Rule", "PUT /raw Put Annotation"], "no annotation comes back");
    let expected = [
        r#"a.v1.Svc.Get: GET "/a/{nope}": variable nope names nope, which is no field of a.v1.Req; it has id, thing, tags, at, raw"#,
        r#"a.v1.Svc.Get: POST "/c": body names nope, which is no field of a.v1.Req; it has id, thing, tags, at, raw"#,
        "a.v1.Svc.Gett: a.v1.Svc has no method Gett; it has Get, Put, Chat",
        "b.v1.Svc.Get: there is no gRPC service b.v1.Svc; there are a.v1.Svc",
    ];
    assert_eq!(ruled.problems().iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    assert!(ruled.problems().iter().all(|it| it.origin == Origin::Rule));
}

#[test]
fn a_mistake_of_an_annotation_goes_with_the_annotation() {
    const BAD: &str = r#"
        syntax = "proto3";
        package a.v1;
        import "google/api/annotations.proto";
        message Req { string id = 1; }
        service Svc {
          rpc Get(Req) returns (Req) { option (google.api.http) = { get: "/a/{nope}" }; }
          rpc Put(Req) returns (Req) { option (google.api.http) = { put: "/b/{nope}" }; }
        }
    "#;
    let schema = fixture::schema(BAD);
    assert_eq!(schema.problems().len(), 2);
    let ruled = schema.with_rules([&rule("a.v1.Svc.Get", &[("get", "/a/{id}", "")])]);
    let left: Vec<_> = ruled.problems().iter().map(|it| (it.method.as_str(), it.origin)).collect();
    assert_eq!(left, [("a.v1.Svc.Put", Origin::Annotation)]);
}

#[test]
fn descriptor_proto_is_whole_where_its_messages_are_used_and_stands_in_elsewhere() {
    let schema = |body: &str| {
        let text = format!(
            r#"syntax = "proto3"; package a.v1; import "google/protobuf/descriptor.proto"; import "google/protobuf/any.proto";
            {body} service Svc {{ rpc Get(Req) returns (Req); }}"#
        );
        fixture::schema(Box::leak(text.into_boxed_str()))
    };
    let whole = |schema: &Schema| schema.pool().get_message_by_name("google.protobuf.FileDescriptorProto").is_some();
    let extends = "extend google.protobuf.FieldOptions { string unit = 50001; }
        message Req { string id = 1 [(unit) = \"s\", deprecated = true]; google.protobuf.Any any = 2; }";
    let options_alone = schema(extends);
    assert!(!whole(&options_alone));
    let req = options_alone.pool().get_message_by_name("a.v1.Req").unwrap();
    let id = req.get_field_by_name("id").unwrap();
    assert!(id.field_descriptor_proto().options.as_ref().unwrap().deprecated(), "options are what they were");
    let method = options_alone.plans()[0].method();
    let any = br#"{"any":{"@type":"type.googleapis.com/google.protobuf.MethodOptions","deprecated":true}}"#;
    let wire = crate::Codec::default().decode_json(method, any).unwrap();
    assert_eq!(crate::Codec::default().encode_json(method, &wire).unwrap(), &any[..], "the type itself is known");
    for used in [
        "message Req { google.protobuf.FileDescriptorProto file = 1; }",
        "message Req { message In { map<string, google.protobuf.FieldOptions> options = 1; } string id = 1; }",
        "message Req { string id = 1; google.protobuf.FieldDescriptorProto.Type kind = 2; }",
        "message Req {} extend google.protobuf.FieldOptions { google.protobuf.FieldOptions more = 50001; }",
    ] {
        assert!(whole(&schema(used)), "{used}");
    }
}

#[test]
fn a_file_of_an_edition_is_read_as_its_features_say() {
    const FILE: &str = r#"
        syntax = "proto3";
        package e;
        message M { int32 a = 1; repeated int32 r = 2; M c = 3; map<string, M> m = 4; E e = 5; }
        enum E { ZERO = 0; ONE = 1; }
        service S { rpc Call(M) returns (M); }
    "#;
    // syntax, edition 2023; options.features: field_presence IMPLICIT, repeated_field_encoding EXPANDED, message_encoding DELIMITED.
    const EDITION: &[u8] = b"\x62\x08editions\x70\xe8\x07";
    const FEATURES: &[u8] = b"\x42\x09\x92\x03\x06\x08\x02\x18\x02\x28\x02";
    let file = raw::FileSet::decode(&*compile(&[("e.proto", FILE)], false)).unwrap().file.remove(0);
    let json = r#"{"a":0,"r":[1,2],"c":{"a":5},"m":{"k":{"a":6}},"e":7}"#;
    let through = |file: Vec<u8>| {
        let schema = Schema::from_files([file]).unwrap();
        let plan = &schema.plans()[0];
        let variables = crate::routes::PathVariables::default();
        let parts = crate::RequestParts { http_method: "POST", variables: &variables, query: None, content_type: None };
        let codec = crate::Codec::default();
        let wire = codec.decode_request(plan, parts, json.as_bytes()).unwrap();
        let printed = codec.encode_reply(plan, &wire).unwrap().body;
        (wire.to_vec(), String::from_utf8(printed.to_vec()).unwrap())
    };
    let (wire, printed) = through([&file, EDITION].concat());
    assert_eq!(wire, b"\x08\x00\x12\x02\x01\x02\x1a\x02\x08\x05\x22\x07\x0a\x01k\x12\x02\x08\x06\x28\x07");
    assert_eq!(printed, json, "a field has a presence");
    let (wire, printed) = through([&file, EDITION, FEATURES].concat());
    assert_eq!(wire, b"\x10\x01\x10\x02\x1b\x08\x05\x1c\x22\x07\x0a\x01k\x12\x02\x08\x06\x28\x07");
    assert_eq!(printed, json.replace("\"a\":0,", ""));

    let newer = [&file, EDITION, b"\x70\xea\x07"].concat();
    let error = Schema::from_files([newer]).unwrap_err().to_string();
    assert!(error.contains("e.proto: edition 1002 is newer than 1001 (2024)"), "{error}");
    assert_eq!(in_proto2(&file).unwrap(), None, "proto3 stays what it is");
}

#[test]
fn an_entry_of_a_map_has_a_key_and_a_value() {
    const FILE: &str = r#"syntax = "proto3"; package m; message M { map<string, M> it = 1; }"#;
    let file = raw::FileSet::decode(&*compile(&[("m.proto", FILE)], false)).unwrap().file.remove(0);
    let broken = |change: fn(&mut DescriptorProto)| {
        let mut file = FileDescriptorProto::decode(&*file).unwrap();
        change(&mut file.message_type[0].nested_type[0]);
        Schema::from_files([file.encode_to_vec()]).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(broken(|_| {}), Ok(()));
    let changes: [fn(&mut DescriptorProto); 4] = [
        |entry| drop(entry.field.pop()),
        |entry| entry.field[1].number = Some(3),
        |entry| entry.field[0].r#type = Some(1),
        |entry| entry.field[1].label = Some(3),
    ];
    for change in changes {
        let error = broken(change).unwrap_err();
        assert!(error.contains("m.proto: an entry of a map has a key") && error.contains("m.M.ItEntry"), "{error}");
    }
}
