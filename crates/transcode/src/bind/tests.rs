//! Path and query to messages: names, types, what wins, and the words of a refusal.

use prost_reflect::DynamicMessage;
use serde_json::{Value as Json, json};

use super::*;
use crate::codec::Codec;
use crate::fixture::{decode, plan, print};
use crate::settings::PathUnescape;

/// Binds a request without a body; returns what the backend gets, as JSON.
fn bind_with(settings: Settings, template: &str, variables: &[&str], query: &str) -> Result<Json, BindError> {
    let plan = plan(template);
    let variables = PathVariables(variables.iter().map(|it| (*it).to_owned()).collect());
    let parts = RequestParts { http_method: "GET", variables: &variables, query: Some(query), content_type: None };
    let codec = Codec::new(settings);
    let head = codec.check_head(&plan, parts);
    let wire = codec.decode_request(&plan, parts, b"");
    assert_eq!(head.is_ok(), wire.is_ok(), "the head alone tells whether it can be bound");
    Ok(print(&decode(plan.method().input(), &wire?)))
}

fn query(text: &str) -> Result<Json, BindError> {
    bind_with(Settings::default(), "/get/{text}", &["p"], text)
}

#[test]
fn every_kind_is_read_from_its_text() {
    let table = [
        ("i32=-7&u64=18446744073709551615&sf64=-1", json!({"i32": -7, "u64": "18446744073709551615", "sf64": "-1"})),
        ("flag=true&dbl=NaN&flt=1.5", json!({"flag": true, "dbl": "NaN", "flt": 1.5})),
        ("data=-_8%3D&color=COLOR_BLUE", json!({"data": "+/8=", "color": "COLOR_BLUE"})),
        ("color=-1", json!({"color": "COLOR_NEGATIVE"})),
        ("nested.child.name=a&nested.amount=2", json!({"nested": {"child": {"name": "a"}, "amount": 2}})),
        ("listText=a,b&i32=1&list_text=c&listText=", json!({"listText": ["a,b", "c", ""], "i32": 1})),
        ("listColor=1&listColor=COLOR_BLUE", json!({"listColor": ["COLOR_RED", "COLOR_BLUE"]})),
        ("wI64=-12&wText=&wFlag=false", json!({"wI64": "-12", "wText": "", "wFlag": false})),
        (
            "ts=2016-12-15T12%3A23%3A32.5Z&dur=1.5s&mask=a,bC",
            json!({"ts": "2016-12-15T12:23:32.500Z", "dur": "1.500s", "mask": "a,bC"}),
        ),
        ("optI32=0&optText=", json!({"optI32": 0, "optText": ""})),
        ("otherName=a", json!({"otherName": "a"})),
        ("renamed=a&&", json!({"otherName": "a"})),
        ("optText", json!({"optText": ""})),
        ("otherName=%24%25%2F%20%0A+%26", json!({"otherName": "$%/ \n+&"})),
        ("%6ftherName=x", json!({"otherName": "x"})),
        ("choiceI32=5", json!({"choiceI32": 5})),
    ];
    for (text, mut expected) in table {
        expected["text"] = json!("p");
        assert_eq!(query(text).unwrap_or_else(|error| panic!("{text}: {error}")), expected, "{text}");
    }
}

#[test]
fn refusals_name_the_parameter() {
    let table = [
        ("nope=1", "nope: unknown query parameter: test.v1.Kinds has no such field"),
        ("nested.nope=1", "nested.nope: unknown query parameter: test.v1.Kinds has no such field"),
        ("i32.x=1", "i32.x: unknown query parameter: test.v1.Kinds has no such field"),
        ("nested=x", "nested: is a message; name one of its fields"),
        ("object=x", "object: is a message; name one of its fields"),
        ("listNested.name=x", "listNested.name: goes through a repeated field, which a query cannot address"),
        ("mapText.a=x", "mapText.a: goes through a map, which a query cannot address; send a body"),
        ("mapText=x", "mapText: is a map, which a query cannot address; send a body"),
        ("map_text[a.b]=x", "map_text[a.b]: is an entry of mapText, a map, which a query cannot address; send a body"),
        ("listText[0]=x", "listText[0]: unknown query parameter: test.v1.Kinds has no such field"),
        ("i32=ten", "i32: query value \"ten\": expected an int32"),
        ("i32=2147483648", "i32: query value \"2147483648\": out of range of an int32"),
        ("i32=", "i32: query value \"\": expected an int32"),
        ("i32", "i32: query value \"\": expected an int32"),
        ("flag=yes", "flag: query value \"yes\": expected true or false"),
        ("color=COLOR_MAUVE", "color: query value \"COLOR_MAUVE\": no value of test.v1.Color"),
        ("otherName=%C3%28", "otherName: query value \"%C3%28\": not UTF-8 once its escapes are decoded"),
        ("otherName=a%zz", "otherName: query value \"a%zz\": a '%' must be followed by two hexadecimal digits"),
        ("i32=1&i32=1", "i32: is there twice, and takes one value"),
        ("otherName=a&i32=1&renamed=b", "renamed: is there twice, and takes one value"),
        ("nested.name=a&nested.name=", "nested.name: is there twice, and takes one value"),
        ("mask=a&mask=b", "mask: is there twice, and takes one value"),
        ("choiceI32=1&choiceText=a", "choiceText: oneof choice already has choiceI32"),
    ];
    for (text, expected) in table {
        let error = query(text).unwrap_err();
        assert_eq!(error.message, expected);
        assert_eq!((error.http_status, error.code), (400, 3));
        let status = error.status();
        assert_eq!(status.details[0].type_url, "type.googleapis.com/google.rpc.BadRequest");
    }
}

#[test]
fn settings_change_what_a_query_may_hold() {
    let lenient = Settings {
        unknown_query: Unknown::Ignore,
        query_plus_as_space: true,
        case_insensitive_enums: true,
        ignored_query_params: vec!["i32".to_owned()],
        ..Settings::default()
    };
    let bound = bind_with(lenient, "/get/{text}", &["p"], "nope=1&nested.nope=2&otherName=a+b&color=color_red&i32=x");
    assert_eq!(bound.unwrap(), json!({"text": "p", "otherName": "a b", "color": "COLOR_RED"}));
}

#[test]
fn the_path_wins_over_the_query_and_is_decoded_by_its_shape() {
    let default = Settings::default;
    assert_eq!(bind_with(default(), "/get/{text}", &["a%2Fb+%25"], "text=q").unwrap(), json!({"text": "a/b+%"}));
    assert_eq!(bind_with(default(), "/rest/{text=**}", &["a%2fb/%7E"], "").unwrap(), json!({"text": "a%2fb/~"}));
    let all = Settings { path_unescape: PathUnescape::All, ..default() };
    assert_eq!(bind_with(all, "/rest/{text=**}", &["a%2Fb"], "").unwrap(), json!({"text": "a/b"}));
    let error = bind_with(default(), "/get/{text}", &["%FF"], "").unwrap_err();
    assert_eq!(error.message, "text: path value \"%FF\": not UTF-8 once its escapes are decoded");
}

#[test]
fn what_the_body_holds_is_no_query_parameter() {
    let refused = |template: &str, query: &str| {
        let plan = plan(template);
        let variables = PathVariables(vec!["v".to_owned(); plan.variables().len()]);
        let parts = RequestParts { http_method: "POST", variables: &variables, query: Some(query), content_type: None };
        Codec::default()
            .decode_request(&plan, parts, b"{}")
            .map(|it| decode(plan.method().input(), &it))
            .map_err(|error| error.message)
    };
    assert_eq!(refused("/echo", "i32=1").unwrap_err(), "i32: not a query parameter: the request body holds this field");
    assert_eq!(
        refused("/kinds/{id}", "kinds.i32=1").unwrap_err(),
        "kinds.i32: not a query parameter: the request body holds this field"
    );
    assert!(refused("/kinds/{id}", "updateMask=i32").is_ok());
}

#[test]
fn a_parameter_lies_no_deeper_than_a_message_may() {
    let ask = |depth: usize| query(&format!("nested.{}name=x", "child.".repeat(depth)));
    assert!(ask(98).is_ok());
    for depth in [99, 5_000] {
        let refused = ask(depth).unwrap_err();
        assert_eq!(refused.http_status, 400);
        assert!(refused.message.ends_with("names more than 100 fields, each within the one before it"), "{refused}");
    }
}

#[test]
fn errors_become_statuses_that_name_their_fields() {
    let error = BindError::field("item.title", "must not be empty");
    let json = Codec::default().encode_status(&error.status(), None);
    let expected = json!({
        "code": 3,
        "message": "item.title: must not be empty",
        "details": [{
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [{"field": "item.title", "description": "must not be empty"}],
        }],
    });
    assert_eq!(serde_json::from_slice::<Json>(&json).unwrap(), expected);
    assert_eq!(BindError::not_found("/x").status(), Status::new(5, "no method is bound to path \"/x\""));
    let allow = ["GET".to_owned(), "PUT".to_owned()];
    assert_eq!(
        BindError::method_not_allowed("POST", &allow).message,
        "method POST is not allowed here; allowed: GET, PUT"
    );
    assert_eq!(BindError::too_large(10).http_status, 413);
}

#[test]
fn a_second_member_of_a_oneof_is_refused_but_a_set_one_may_be_set_again() {
    let mut message: DynamicMessage = crate::fixture::kinds(r#"{"choiceI32":1}"#);
    let field = |name: &str| message.descriptor().get_field_by_name(name).unwrap();
    use prost_reflect::ReflectMessage;
    assert!(check_oneof(&message, &field("choice_i32")).is_ok());
    assert!(check_oneof(&message, &field("choice_text")).is_err());
    assert!(check_oneof(&message, &field("opt_i32")).is_ok());
    message.clear_field_by_name("choice_i32");
}
