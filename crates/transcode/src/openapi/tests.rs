//! Documents of small APIs: what is said of each kind of route and type.

use super::*;
use crate::fixture::{KINDS, schema};
use crate::schema::Schema;

fn describe_with(schemas: &[&Schema], settings: &Settings) -> Value {
    let about = About { title: "test", version: "1", max_request_bytes: 1024 };
    document(about, settings, schemas.iter().flat_map(|it| it.plans()).map(|it| (it, settings)))
}

fn describe(text: &'static str) -> Value {
    describe_with(&[&schema(text)], &Settings::default())
}

fn kinds() -> Value {
    describe(KINDS)
}

/// Follows a path of members and indexes.
#[track_caller]
fn at<'v>(value: &'v Value, path: &[&str]) -> &'v Value {
    path.iter().fold(value, |value, name| {
        let found = match value {
            Value::Array(items) => name.parse().ok().and_then(|at: usize| items.get(at)),
            other => other.get(*name),
        };
        found.unwrap_or_else(|| panic!("no {name} in {value:#}"))
    })
}

fn names(parameters: &Value) -> Vec<(&str, &str)> {
    let text = |it: &'_ Value, name: &str| it[name].as_str().unwrap_or_default().len();
    let items = parameters.as_array().unwrap();
    assert!(items.iter().all(|it| text(it, "name") > 0), "{parameters:#}");
    items.iter().map(|it| (it["in"].as_str().unwrap(), it["name"].as_str().unwrap())).collect()
}

const SHOP: &str = r#"
    syntax = "proto3";
    package shop.v1;
    import "google/api/annotations.proto";
    import "google/api/httpbody.proto";
    import "google/protobuf/empty.proto";
    import "google/protobuf/field_mask.proto";
    // Keeps things.
    service Shop {
      // Makes a thing. It is new,
      // and has an id.
      //
      // More of it.
      rpc Make(Thing) returns (Thing) { option (google.api.http) = { post: "/things" body: "*" }; }
      rpc Get(GetThing) returns (Thing) { option (google.api.http) = { get: "/things/{id}" }; }
      rpc Change(ChangeThing) returns (Thing) { option (google.api.http) = { patch: "/things/{thing.id}" body: "thing" }; }
      rpc Remove(GetThing) returns (google.protobuf.Empty) { option deprecated = true; option (google.api.http) = { delete: "/things/{id}" }; }
      rpc Under(Under) returns (Thing) { option (google.api.http) = { post: "/things/{id}/under" body: "*" additional_bindings { put: "/under/{id=a/*/b/*}:do" body: "*" } }; }
      rpc Purge(GetThing) returns (Thing) { option (google.api.http) = { custom { kind: "PURGE" path: "/things/{id}" } }; }
      rpc Any(GetThing) returns (Thing) { option (google.api.http) = { custom { kind: "*" path: "/any" } additional_bindings { get: "/rest/{id=**}" } additional_bindings { get: "/rest/{id}" } }; }
      rpc Watch(GetThing) returns (stream Thing) { option (google.api.http) = { get: "/things/{id}/changes" }; }
      rpc Load(stream Thing) returns (Thing) { option (google.api.http) = { post: "/load" body: "*" }; }
      rpc Raw(google.api.HttpBody) returns (google.api.HttpBody) { option (google.api.http) = { post: "/raw" body: "*" }; }
      rpc Plain(Thing) returns (Thing);
    }
    message Thing {
      // Its id.
      string id = 1;
      string note = 2 [deprecated = true]; // Said behind.
      Size size = 3;
    }
    // How large.
    enum Size {
      SIZE_UNSPECIFIED = 0;

      // Large.
      SIZE_LARGE = 1;
    }
    message GetThing { string id = 1; }
    message ChangeThing { Thing thing = 1; google.protobuf.FieldMask update_mask = 2; }
    message Under { string id = 1; string text = 2; }
"#;

#[test]
fn templates_that_match_the_same_are_one_path_named_by_the_first() {
    let document = describe(SHOP);
    let item = at(&document, &["paths", "/things/{id}"]);
    for (method, id) in
        [("get", "shop.v1.Shop.Get"), ("patch", "shop.v1.Shop.Change"), ("delete", "shop.v1.Shop.Remove")]
    {
        assert_eq!(item[method]["operationId"], id);
        assert_eq!(names(&item[method]["parameters"])[0], ("path", "id"));
    }
    assert_eq!(names(&item["patch"]["parameters"]), [("path", "id"), ("query", "updateMask")]);
    assert_eq!(item["delete"]["deprecated"], true);
    assert_eq!(item["x-weft-methods"]["PURGE"]["operationId"], "shop.v1.Shop.Purge");
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(paths[..2], ["/things", "/things/{id}"], "as declared: {paths:?}");
}

#[test]
fn several_segments_are_several_parameters_and_one_place_has_one_operation() {
    let document = describe(SHOP);
    let under = at(&document, &["paths", "/under/a/{id_2}/b/{id_4}:do", "put"]);
    assert_eq!(under["operationId"], "shop.v1.Shop.Under.2");
    assert_eq!(names(&under["parameters"]), [("path", "id_2"), ("path", "id_4")]);
    assert_eq!(under["parameters"][0]["description"], "Part of `id`, which is `a/*/b/*`.");
    assert_eq!(at(&document, &["paths", "/any", "get", "x-weft-any-method"]), true);
    assert_eq!(document["x-weft-unlisted"], json!(["GET /rest/{id}: shop.v1.Shop.Any"]));
    let plain = at(&document, &["paths", "/shop.v1.Shop/Plain", "post"]);
    assert_eq!(plain["x-weft-grpc"], "/shop.v1.Shop/Plain");
    assert!(document["paths"].get("/shop.v1.Shop/Get").is_none(), "it has a binding of its own");
}

#[test]
fn what_authors_wrote_is_said_where_it_belongs() {
    let document = describe(SHOP);
    assert_eq!(document["tags"], json!([{ "name": "shop.v1.Shop", "description": "Keeps things." }]));
    let make = at(&document, &["paths", "/things", "post"]);
    assert_eq!(make["summary"], "Makes a thing");
    assert_eq!(make["description"], "Makes a thing. It is new,\nand has an id.\n\nMore of it.");
    let thing = at(&document, &["components", "schemas", "shop.v1.Thing", "properties"]);
    assert_eq!(thing["id"], json!({ "type": "string", "description": "Its id." }));
    assert_eq!(thing["note"], json!({ "type": "string", "description": "Said behind.", "deprecated": true }));
    let size = at(&document, &["components", "schemas", "shop.v1.Size"]);
    assert_eq!(size["description"], "How large.\n- `SIZE_LARGE`: Large.");
}

#[test]
fn a_body_is_what_the_binding_reads_of_it() {
    let document = describe(SHOP);
    let body = |path: &str, method: &str| at(&document, &["paths", path, method, "requestBody", "content"]).clone();
    let whole = body("/things", "post");
    assert_eq!(whole["application/json"]["schema"]["$ref"], "#/components/schemas/shop.v1.Thing");
    assert_eq!(whole["application/json"]["example"], json!({ "id": "id", "note": "note", "size": "SIZE_LARGE" }));
    let less = body("/things/{id}/under", "post");
    assert_eq!(
        less["application/json"]["schema"],
        json!({ "type": "object", "properties": { "text": { "type": "string" } } })
    );
    let field = body("/things/{id}", "patch");
    assert_eq!(
        field["application/json"]["example"],
        json!({ "note": "note", "size": "SIZE_LARGE" }),
        "the path has the id"
    );
    let stream = body("/load", "post");
    assert_eq!(stream["application/json"]["schema"]["type"], "array");
    assert_eq!(stream["application/x-ndjson"]["x-weft-item"]["$ref"], "#/components/schemas/shop.v1.Thing");
    let raw = body("/raw", "post");
    assert_eq!(raw["*/*"], json!({}));
    assert_eq!(raw["multipart/form-data"]["schema"]["required"], json!(["file"]), "a form with the file that it is");
    assert!(at(&document, &["paths", "/things/{id}", "get"]).get("requestBody").is_none());
}

#[test]
fn a_stream_is_described_in_all_its_framings_the_configured_one_first() {
    let content = |settings: &Settings| {
        let document = describe_with(&[&schema(SHOP)], settings);
        at(&document, &["paths", "/things/{id}/changes", "get", "responses", "200", "content"]).clone()
    };
    let types = |content: &Value| content.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let array = content(&Settings::default());
    assert_eq!(types(&array), ["application/json", "application/x-ndjson", "text/event-stream"]);
    let item = &array["application/json"]["schema"]["items"]["anyOf"];
    assert_eq!(item[0]["$ref"], "#/components/schemas/shop.v1.Thing");
    assert_eq!(item[1]["$ref"], "#/components/schemas/weft.StreamError");
    let events = content(&Settings { stream_format: StreamFormat::Sse, ..Settings::default() });
    assert_eq!(types(&events)[0], "text/event-stream");
}

#[test]
fn answers_follow_the_code_table() {
    let document = describe(SHOP);
    let responses = |path: &str, method: &str| {
        let found = at(&document, &["paths", path, method, "responses"]).as_object().unwrap();
        found.keys().map(String::as_str).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(responses("/things", "post"), "200 2XX 400 401 403 404 409 413 415 429 499 500 501 503 504");
    assert_eq!(responses("/things/{id}", "get"), "200 2XX 400 401 403 404 409 429 499 500 501 503 504");
    let table = at(&document, &["components", "responses"]).as_object().unwrap();
    for code in (1..=16).map(crate::status::http_status).chain([413, 415]) {
        let schema = at(&table[&code.to_string()], &["content", "application/json", "schema"]);
        assert_eq!(schema["$ref"], "#/components/schemas/google.rpc.Status", "{code}");
    }
}

#[test]
fn fields_are_what_protojson_prints() {
    let document = kinds();
    let fields = at(&document, &["components", "schemas", "test.v1.Kinds", "properties"]);
    let table = [
        ("i64", json!({ "type": "string", "format": "int64", "pattern": "^(0|-?[1-9][0-9]{0,18})$" })),
        ("u32", json!({ "type": "integer", "format": "uint32", "minimum": 0, "maximum": 4_294_967_295_u32 })),
        ("data", json!({ "type": "string", "contentEncoding": "base64" })),
        ("color", json!({ "$ref": "#/components/schemas/test.v1.Color" })),
        ("listNested", json!({ "type": "array", "items": { "$ref": "#/components/schemas/test.v1.Nested" } })),
        ("mapText", json!({ "type": "object", "additionalProperties": { "type": "string" } })),
        ("wText", json!({ "type": ["string", "null"] })),
        ("ts", json!({ "type": "string", "format": "date-time" })),
        ("object", json!({ "type": "object", "additionalProperties": true })),
        ("array", json!({ "type": "array", "items": {} })),
        ("nullValue", json!({ "type": "null" })),
        ("otherName", json!({ "type": "string" })),
    ];
    for (name, expected) in table {
        assert_eq!(fields[name], expected, "{name}");
    }
    assert_eq!(fields["mapI32"]["propertyNames"]["pattern"], "^(0|-?[1-9][0-9]*)$");
    assert_eq!(fields["wDbl"]["anyOf"][2], json!({ "type": "null" }));
    let choice = at(&document, &["components", "schemas", "test.v1.Kinds", "allOf"]);
    assert_eq!(choice.as_array().unwrap().len(), 1, "an optional field is no oneof to a reader");
    assert_eq!(choice[0]["oneOf"][0], json!({ "required": ["choiceText"] }));
}

#[test]
fn query_parameters_are_those_that_bind_reads() {
    let document = kinds();
    let get = at(&document, &["paths", "/get/{text}", "get"]);
    let found = names(&get["parameters"]);
    for name in ["i32", "nested.name", "nested.notes", "listText", "mask", "wDbl", "choiceText", "dur"] {
        assert!(found.contains(&("query", name)), "{name}: {found:?}");
    }
    for name in ["text", "nested", "mapText", "object", "any", "listNested", "nested.child.name"] {
        assert!(!found.contains(&("query", name)), "{name}: {found:?}");
    }
    let list = get["parameters"].as_array().unwrap().iter().find(|it| it["name"] == "listText").unwrap();
    assert_eq!(list["schema"], json!({ "type": "array", "items": { "type": "string" } }));
    assert!(names(at(&document, &["paths", "/echo", "post", "parameters"])).is_empty());
}

#[test]
fn printing_settings_change_names_and_enums() {
    let json_output = JsonOutput { preserve_proto_names: true, enums_as_ints: true, emit_defaults: true };
    let document = describe_with(&[&schema(KINDS)], &Settings { json_output, ..Settings::default() });
    let schemas = at(&document, &["components", "schemas"]);
    assert!(schemas["test.v1.Kinds"]["properties"].get("list_text").is_some());
    assert_eq!(schemas["test.v1.Color"], json!({ "type": "integer", "enum": [0, 1, 7, -1] }));
    assert!(document["info"]["description"].as_str().unwrap().contains("Enums are printed as numbers"));
}

#[test]
fn an_operation_with_settings_of_its_own_says_so_and_has_types_of_its_own() {
    let json_output = JsonOutput { preserve_proto_names: true, enums_as_ints: true, ..JsonOutput::default() };
    let own = Settings { json_output, stream_format: StreamFormat::Sse, ..Settings::default() };
    let (usual, schema) = (Settings::default(), schema(KINDS));
    let own_names = ["test.v1.Api.Echo", "test.v1.Api.Collect"];
    let routes =
        schema.plans().iter().map(|it| (it, if own_names.contains(&it.method().full_name()) { &own } else { &usual }));
    let document = document(About { title: "t", version: "", max_request_bytes: 1 }, &usual, routes);
    let echo = at(&document, &["paths", "/echo", "post"]);
    let said = echo["description"].as_str().unwrap();
    assert!(said.contains("by the names of the proto file") && said.contains("Enums are printed as numbers"), "{said}");
    assert!(!said.contains("The replies are"), "it does not stream: {said}");
    let reference = |of: &Value| {
        let schema = &of["responses"]["200"]["content"]["application/json"]["schema"];
        schema["$ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
    };
    let schemas = at(&document, &["components", "schemas"]);
    let (own, usual) = (reference(echo), reference(at(&document, &["paths", "/get/{text}", "get"])));
    assert_ne!(own, usual);
    let member = |name: &str, member: &str| schemas[name]["properties"].get(member).is_some();
    assert!(member(&own, "list_text") && !member(&own, "listText"), "{own}");
    assert!(member(&usual, "listText") && !member(&usual, "list_text"), "{usual}");
    let collect = at(&document, &["paths", "/collect/{text}", "post"]);
    let said = collect["description"].as_str().unwrap();
    assert!(said.contains("The replies are server-sent events unless `Accept` asks otherwise."), "{said}");
    assert!(at(&document, &["paths", "/get/{text}", "get"]).get("description").is_none());
    let prose = document["info"]["description"].as_str().unwrap();
    assert!(prose.contains("is one JSON array unless") && !prose.contains("as numbers"), "{prose}");
}

/// Two services that each have a type of one name; in `other` it differs or not.
fn twins(other: &'static str) -> (Schema, Schema) {
    let one = schema(
        "syntax = \"proto3\"; package one; message Deep { string text = 1; } message Money { Deep deep = 1; }
         message Same { string id = 1; } message Reply { Money money = 1; Same same = 2; }
         service One { rpc Get(Same) returns (Reply); }",
    );
    (one, schema(other))
}

#[test]
fn two_types_of_one_name_are_told_apart_if_they_differ() {
    let (one, other) = twins(
        "syntax = \"proto3\"; package one; message Deep { int32 text = 1; } message Money { Deep deep = 1; }
         message Same { string id = 1; } message Reply { Money money = 1; Same same = 2; }
         service Other { rpc Get(Same) returns (Reply); }",
    );
    let document = describe_with(&[&one, &other], &Settings::default());
    let reply = |service: &str| {
        let path = format!("/one.{service}/Get");
        at(&document, &["paths", &path, "post", "responses", "200", "content", "application/json", "schema", "$ref"])
            .clone()
    };
    assert_eq!(reply("One"), "#/components/schemas/one.Reply");
    assert_eq!(reply("Other"), "#/components/schemas/one.Reply-2");
    let schemas = at(&document, &["components", "schemas"]).as_object().unwrap();
    let names: Vec<&str> = schemas.keys().map(String::as_str).filter(|it| it.starts_with("one.")).collect();
    assert_eq!(names, ["one.Deep", "one.Deep-2", "one.Money", "one.Money-2", "one.Reply", "one.Reply-2", "one.Same"]);
    assert_eq!(schemas["one.Reply-2"]["properties"]["money"]["$ref"], "#/components/schemas/one.Money-2");
    assert_eq!(schemas["one.Reply-2"]["properties"]["same"]["$ref"], "#/components/schemas/one.Same");
}

#[test]
fn comments_alone_are_no_difference() {
    let (one, other) = twins(
        "syntax = \"proto3\"; package one; message Deep { string text = 1; /* said */ } message Money { Deep deep = 1; }
         // Said.
         message Same { string id = 1; } message Reply { Money money = 1; Same same = 2; }
         service Other { rpc Get(Same) returns (Reply); }",
    );
    let document = describe_with(&[&one, &other], &Settings::default());
    let schemas = at(&document, &["components", "schemas"]).as_object().unwrap();
    assert!(!schemas.keys().any(|it| it.ends_with("-2")), "{:?}", schemas.keys());
}

#[test]
fn every_reference_leads_somewhere() {
    for text in [KINDS, SHOP] {
        let document = describe(text);
        let mut references = Vec::new();
        collect(&document, &mut references);
        assert!(references.len() > 10);
        for reference in references {
            let path: Vec<&str> = reference.strip_prefix("#/").unwrap().split('/').collect();
            at(&document, &path);
        }
    }
}

fn collect<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|it| collect(it, found));
        }
        Value::Array(items) => items.iter().for_each(|it| collect(it, found)),
        _ => {}
    }
}

#[test]
fn yaml_is_block_style_and_leaves_nothing_to_guess() {
    let value = json!({
        "no": [], "version": "1.10", "2XX": { "a-b": [1, { "x": null, "y": ["no", "a: b\n# c\u{85}"] }, []] }, "": {}, "/p/{id}": true
    });
    let expected = "\"no\": []\nversion: \"1.10\"\n\"2XX\":\n  a-b:\n    - 1\n    - x: null\n      \"y\":\n        - \"no\"\n        - \"a: b\\n# c\\u0085\"\n    - []\n\"\": {}\n\"/p/{id}\": true\n";
    assert_eq!(to_yaml(&value), expected);
    assert_eq!(to_yaml(&json!([1, -2.5, 1e300, 1.5e-9])), "- 1\n- -2.5\n- 1.0e+300\n- 1.5e-9\n");
}

const BEHAVIORS: &[(&str, &str)] = &[
    crate::fixture::FIELD_BEHAVIOR,
    (
        "test.proto",
        r#"
        syntax = "proto3";
        package test.v1;
        import "google/api/annotations.proto";
        import "google/api/field_behavior.proto";
        message Thing {
          string id = 1 [(google.api.field_behavior) = OUTPUT_ONLY, (google.api.field_behavior) = REQUIRED];
          // Its owner.
          string owner = 2 [(google.api.field_behavior) = REQUIRED, (google.api.field_behavior) = IMMUTABLE];
          string secret = 3 [(google.api.field_behavior) = INPUT_ONLY];
          bytes photo = 4;
          string etag = 5;
        }
        message Find { string owner = 1 [(google.api.field_behavior) = REQUIRED]; string text = 2; }
        message Change { Thing thing = 1; }
        message Note { string text = 1; }
        service Things {
          rpc Say(Note) returns (Note) { option (google.api.http) = { post: "/notes" body: "*" }; }
          rpc Make(Thing) returns (Thing) { option (google.api.http) = { post: "/things" body: "*" }; }
          rpc Own(Thing) returns (Thing) { option (google.api.http) = { post: "/own/{owner}" body: "*" }; }
          rpc Search(Find) returns (stream Thing) { option (google.api.http) = { get: "/things" }; }
          rpc Update(Change) returns (Thing) { option (google.api.http) = { patch: "/things/{thing.id}" body: "thing" }; }
        }
        "#,
    ),
];

fn behaviors() -> Value {
    let schema = Schema::decode(&crate::fixture::compile(BEHAVIORS, true)).unwrap();
    describe_with(&[&schema], &Settings::default())
}

#[test]
fn who_sets_a_field_is_said_and_what_a_request_needs() {
    let document = behaviors();
    let thing = at(&document, &["components", "schemas", "test.v1.Thing"]);
    assert!(thing.get("required").is_none(), "a reply leaves out what is at its default");
    assert_eq!(thing["properties"]["id"], json!({ "type": "string", "readOnly": true }));
    assert_eq!(thing["properties"]["secret"], json!({ "type": "string", "writeOnly": true }));
    assert_eq!(thing["properties"]["owner"]["description"], "Its owner. Cannot be changed once it is set.");
    let body = |path: &str, method: &str| at(&document, &["paths", path, method, "requestBody", "content"]).clone();
    let needs = json!({ "allOf": [{ "$ref": "#/components/schemas/test.v1.Thing" }, { "required": ["owner"] }] });
    assert_eq!(body("/things", "post")["application/json"]["schema"], needs);
    assert!(body("/own/{owner}", "post")["application/json"]["schema"].get("allOf").is_none(), "the path has it");
    assert_eq!(at(&document, &["paths", "/things", "get", "parameters", "0", "required"]), true);
}

#[test]
fn a_form_a_websocket_and_a_condition_are_described_where_they_are() {
    let document = behaviors();
    let content = at(&document, &["paths", "/things", "post", "requestBody", "content"]);
    let form = &content["application/x-www-form-urlencoded"]["schema"];
    assert_eq!(
        (&form["required"], &form["properties"]["photo"]["contentEncoding"]),
        (&json!(["owner"]), &json!("base64"))
    );
    let parts = &content["multipart/form-data"]["schema"]["properties"];
    assert_eq!(parts["photo"], json!({ "type": "string", "contentMediaType": "application/octet-stream" }));
    let note = at(&document, &["paths", "/notes", "post", "requestBody", "content"]);
    for form in ["application/x-www-form-urlencoded", "multipart/form-data"] {
        assert_eq!(
            note[form]["schema"]["properties"],
            json!({ "text": { "type": "string" } }),
            "{form}, without files"
        );
    }
    let search = at(&document, &["paths", "/things", "get"]);
    assert!(search["x-weft-websocket"].is_string() && search.get("requestBody").is_none());
    assert!(at(&document, &["paths", "/things", "post"]).get("x-weft-websocket").is_none());
    let update = at(&document, &["paths", "/things/{thing.id}", "patch"]);
    assert!(names(&update["parameters"]).contains(&("header", "If-Match")), "{:#}", update["parameters"]);
    assert!(update["responses"].get("412").is_some() && search["responses"].get("412").is_none());
    assert!(update["responses"]["200"]["headers"].get("ETag").is_some(), "what `If-Match` takes");
    assert!(search["responses"]["200"]["headers"].get("ETag").is_none(), "a stream has no tag");
    assert!(at(&document, &["components", "responses", "429", "headers"]).get("Retry-After").is_some());
    assert!(at(&document, &["components", "responses", "401", "headers"]).get("WWW-Authenticate").is_some());
}

#[test]
fn every_answer_names_its_call() {
    let document = behaviors();
    let id = at(&document, &["components", "headers", "x-request-id"]);
    assert_eq!((&id["required"], &id["schema"]), (&json!(true), &json!({ "type": "string" })));
    let mut answers: Vec<&Value> = document["components"]["responses"].as_object().unwrap().values().collect();
    for operation in document["paths"].as_object().unwrap().values().flat_map(|it| it.as_object().unwrap().values()) {
        answers.extend(["200", "2XX"].map(|code| at(operation, &["responses", code])));
    }
    assert!(answers.len() > 14 + 2, "{answers:#?}");
    for answer in answers {
        assert_eq!(answer["headers"]["x-request-id"]["$ref"], "#/components/headers/x-request-id", "{answer:#}");
    }
}

#[test]
fn what_may_be_kept_may_be_asked_for_by_its_tag() {
    let mut document = describe(SHOP);
    let before = document.clone();
    keep(&mut document, |_| false);
    assert_eq!(document, before, "nothing is kept");
    keep(&mut document, |grpc_path| {
        ["/shop.v1.Shop/Get", "/shop.v1.Shop/Any", "/shop.v1.Shop/Under"].contains(&grpc_path)
    });
    let get = at(&document, &["paths", "/things/{id}", "get"]);
    assert_eq!(names(&get["parameters"]), [("path", "id"), ("header", "If-None-Match")]);
    let codes: Vec<&String> = get["responses"].as_object().unwrap().keys().collect();
    assert_eq!(codes[..4], ["200", "2XX", "304", "400"]);
    for header in ["ETag", "Age", "Cache-Status", "x-request-id"] {
        assert!(get["responses"]["200"]["headers"].get(header).is_some(), "{header} in {get:#}");
        assert!(at(&document, &["components", "responses", "304", "headers"]).get(header).is_some(), "{header}");
    }
    assert!(at(&document, &["components", "responses", "304"]).get("content").is_none());
    assert!(at(&document, &["paths", "/any", "get", "responses"]).get("304").is_some(), "any method is GET, too");
    for (path, method) in [("/things/{id}", "delete"), ("/things/{id}/under", "post"), ("/things/{id}/changes", "get")]
    {
        let operation = at(&document, &["paths", path, method]);
        assert_eq!(*operation, before["paths"][path][method], "{method} {path}");
    }
}

#[test]
fn who_may_call_is_said_of_each_operation() {
    let mut document = behaviors();
    secure(&mut document, |grpc_path| match grpc_path.rsplit('/').next() {
        Some("Make") => Some(Security { bearer: true, api_key: Some("x-api-key".to_owned()), ..Security::default() }),
        Some("Update") => Some(Security { bearer: true, anonymous: true, ..Security::default() }),
        Some("Own") => Some(Security { certificate: true, ..Security::default() }),
        _ => None,
    });
    let make = at(&document, &["paths", "/things", "post", "security"]);
    assert_eq!(*make, json!([{ "bearer": [] }, { "key.x-api-key": [] }]));
    assert_eq!(*at(&document, &["paths", "/things/{thing.id}", "patch", "security"]), json!([{ "bearer": [] }, {}]));
    let own = at(&document, &["paths", "/own/{owner}", "post", "security"]);
    assert_eq!(*own, json!([{ "certificate": [] }]), "none at all would let in anybody");
    assert!(at(&document, &["paths", "/things", "get"]).get("security").is_none());
    let schemes = at(&document, &["components", "securitySchemes"]);
    assert_eq!(schemes["bearer"], json!({ "type": "http", "scheme": "bearer", "bearerFormat": "JWT" }));
    assert_eq!(schemes["certificate"], json!({ "type": "mutualTLS" }));
    assert_eq!(schemes["key.x-api-key"], json!({ "type": "apiKey", "in": "header", "name": "x-api-key" }));
}
