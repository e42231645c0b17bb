//! Forms: the message is that of the JSON body which says the same.

use proptest::prelude::*;
use prost_reflect::DynamicMessage;

use super::*;
use crate::fixture::{assert_same, decode, kinds, plan, print, schema};
use crate::routes::PathVariables;
use crate::settings::Settings;

fn codec(change: impl FnOnce(&mut Settings)) -> Codec {
    let mut settings = Settings::default();
    change(&mut settings);
    Codec::new(settings)
}

fn finish(form: Form, plan: &MethodPlan, query: Option<&str>) -> Result<DynamicMessage, BindError> {
    let variables = PathVariables(vec!["v".to_owned(); plan.variables().len()]);
    let parts = RequestParts { http_method: "POST", variables: &variables, query, content_type: None };
    Ok(decode(plan.method().input(), &form.finish(parts)?))
}

fn read(template: &str, body: &str) -> Result<DynamicMessage, BindError> {
    let plan = plan(template);
    let mut form = Form::new(&codec(|_| {}), &plan)?;
    form.urlencoded(body.as_bytes())?;
    finish(form, &plan, None)
}

#[test]
fn a_form_says_what_a_json_body_says() {
    let table = [
        ("", "{}"),
        ("text=a+b%26c&i32=-5&u64=7&flag=true&dbl=1.5", r#"{"text":"a b&c","i32":-5,"u64":"7","flag":true,"dbl":1.5}"#),
        ("color=COLOR_RED&data=YWI%3D&otherName=x", r#"{"color":1,"data":"YWI=","otherName":"x"}"#),
        ("color=7&renamed=x", r#"{"color":"COLOR_BLUE","otherName":"x"}"#),
        (
            "listI32=1&list_i32=2&listText=a&listText=&listColor=1",
            r#"{"listI32":[1,2],"listText":["a",""],"listColor":[1]}"#,
        ),
        (
            "nested.name=a&nested.child.amount=3&nested.notes=x&nested.notes=y",
            r#"{"nested":{"name":"a","child":{"amount":3},"notes":["x","y"]}}"#,
        ),
        (
            "ts=2024-01-02T03%3A04%3A05Z&dur=1.5s&mask=a.b,c&wText=&wFlag=true&wI64=9",
            r#"{"ts":"2024-01-02T03:04:05Z","dur":"1.5s","mask":"a.b,c","wText":"","wFlag":true,"wI64":"9"}"#,
        ),
        ("optI32=0&choiceText=", r#"{"optI32":0,"choiceText":""}"#),
        // Of a checkbox the last one counts, also if it is a default; what no field is called is ignored.
        ("flag=true&flag=false&text=b&csrf=xyz&=&nested.x.y=1", r#"{"text":"b"}"#),
        ("flag=false&flag=true&wFlag=true&wFlag=false", r#"{"flag":true,"wFlag":false}"#),
    ];
    for (form, json) in table {
        assert_same(&read("/echo", form).unwrap_or_else(|error| panic!("{form}: {error}")), &kinds(json));
    }
}

#[test]
fn a_form_begins_where_a_json_body_would_and_path_and_query_are_as_ever() {
    let plan = plan("/kinds/{id}");
    let mut form = Form::new(&codec(|_| {}), &plan).unwrap();
    form.urlencoded(b"text=a&nested.amount=1").unwrap();
    let message = finish(form, &plan, Some("updateMask=text")).unwrap();
    let expected = r#"{"kinds":{"text":"a","nested":{"amount":1}},"updateMask":"text","id":"v"}"#;
    assert_eq!(print(&message).to_string(), expected);
    let message = read("/number/{i32}", "i32=5");
    assert!(message.unwrap_err().message.contains("i32"), "the path's v is no number");
    let message = read("/choice/{choice_text}", "choiceI32=5").unwrap();
    assert_eq!(print(&message).to_string(), r#"{"choiceText":"v"}"#, "the path wins over a form");
}

#[test]
fn a_patch_by_a_form_changes_the_fields_that_it_names() {
    let plan = plan("/kinds/{id}");
    let read = |infer: bool, http_method: &str, query: Option<&str>, body: &str| {
        let mut form = Form::new(&codec(|it| it.infer_update_mask = infer), &plan).unwrap();
        form.urlencoded(body.as_bytes()).unwrap();
        let variables = PathVariables(vec!["v".to_owned()]);
        let parts = RequestParts { http_method, variables: &variables, query, content_type: None };
        form.finish(parts).map(|it| print(&decode(plan.method().input(), &it)).get("updateMask").cloned())
    };
    let mask = |infer, http_method, query, body| read(infer, http_method, query, body).unwrap();
    let body = "nested.name=n&otherName=r&nested.child.amount=3&listI32=1&listI32=2&text=&ts=2024-01-02T03%3A04%3A05Z\
        &ts.nanos=1&nope=1";
    let inferred = "listI32,nested.child.amount,nested.name,renamed,text,ts";
    assert_eq!(mask(true, "PATCH", None, body), Some(inferred.into()));
    assert_eq!(mask(true, "PATCH", Some("updateMask=i64"), body), Some("i64".into()), "who names a mask means it");
    for unchanging in ["nope=1", "color=BLUE", "listColor=COLOR_RED&listColor=BLUE"] {
        let error = read(true, "PATCH", None, unchanging).unwrap_err();
        assert_eq!((error.http_status, &*error.violations[0].field), (400, "kinds"), "{unchanging}: as a JSON body");
    }
    let partly = "text=a&listColor=BLUE&listColor=COLOR_RED&color=COLOR_RED";
    assert_eq!(mask(true, "PATCH", None, partly), Some("color,text".into()), "what was not taken is not cleared");
    assert_eq!(mask(true, "PATCH", None, ""), None);
    assert_eq!(mask(true, "PUT", None, body), None);
    assert_eq!(mask(false, "PATCH", None, body), None);
}

#[test]
fn what_cannot_be_is_refused_by_its_name() {
    let table = [
        ("i32=x", "i32"),
        ("i32=", "i32"),
        ("flag=1", "flag"),
        ("u32=-1", "u32"),
        ("data=!", "data"),
        ("ts=yesterday", "ts"),
        ("nested=a", "nested"),
        ("object=a", "object"),
        ("mapText.a=b", "mapText.a"),
        ("listNested.name=a", "listNested.name"),
        ("choiceText=a&choiceI32=1", "choiceI32"),
        ("i32=1&i32=2", "i32"),
        ("text=a&text=a", "text"),
        ("ts=2024-01-02T03%3A04%3A05.5Z&ts=2024-01-02T03%3A04%3A05Z", "ts"),
        ("choiceText=a&choiceText=b", "choiceText"),
        ("nested.amount=1&nested.amount=1", "nested.amount"),
        ("nested.amount=1.5", "nested.amount"),
        ("text=%zz", "text"),
        ("text=%ff", "text"),
    ];
    for (form, field) in table {
        let error = read("/echo", form).unwrap_err();
        assert_eq!((error.http_status, error.violations[0].field.as_str()), (400, field), "{form}: {error}");
    }
    let strict = codec(|it| it.unknown_body = Unknown::Reject);
    let mut form = Form::new(&strict, &plan("/echo")).unwrap();
    assert_eq!(form.text("csrf", "x").unwrap_err().violations[0].field, "csrf");
    assert!(form.text("color", "COLOR_PLAID").is_err());
    assert_eq!(Form::new(&codec(|_| {}), &plan("/get/{text}")).unwrap_err().http_status, 415, "no body, no form");
    assert_eq!(Form::new(&codec(|_| {}), &plan("/collect/{text}")).unwrap_err().http_status, 415, "a stream");
    let deep = format!("{}name=a", "nested.child.".repeat(40));
    assert_same(&read("/echo", &deep).unwrap(), &kinds("{}"));
    let many = "listI32=1&".repeat(1001);
    assert!(read("/echo", &many).unwrap_err().message.contains("1000 fields"));
}

#[test]
fn a_file_is_the_bytes_of_its_field() {
    let plan = plan("/echo");
    let mut form = Form::new(&codec(|_| {}), &plan).unwrap();
    form.file("data", Some("image/png"), b"\xff\0\n").unwrap();
    form.file("text", None, "ä".as_bytes()).unwrap();
    form.file("nobody", None, b"\xff").unwrap();
    assert_same(&finish(form, &plan, None).unwrap(), &kinds(r#"{"data":"/wAK","text":"ä"}"#));
    let mut form = Form::new(&codec(|_| {}), &plan).unwrap();
    assert_eq!(form.file("text", None, b"\xff").unwrap_err().violations[0].field, "text");
    form.file("data", None, b"a").unwrap();
    assert_eq!(form.file("data", None, b"").unwrap_err().violations[0].field, "data", "which of the two?");
}

const UPLOADS: &str = r#"
    syntax = "proto3";
    package test.v1;
    import "google/api/annotations.proto";
    import "google/api/httpbody.proto";
    message Upload { string name = 1; google.api.HttpBody file = 2; repeated google.api.HttpBody files = 3; }
    service Files {
      rpc Put(Upload) returns (Upload) { option (google.api.http) = { post: "/put" body: "file" additional_bindings { post: "/all" body: "*" } }; }
      rpc Raw(google.api.HttpBody) returns (Upload) { option (google.api.http) = { post: "/raw" body: "*" }; }
      rpc Stream(stream Upload) returns (Upload) { option (google.api.http) = { post: "/stream/{name}" body: "file" }; }
    }
"#;

#[test]
fn a_file_is_the_body_where_the_body_is_raw() {
    let schema = schema(UPLOADS);
    let plan = |path: &str| {
        let found = schema.plans().iter().find(|it| it.template().to_string() == path);
        Arc::clone(found.expect("UPLOADS has the path"))
    };
    let open = |path| Form::new(&codec(|_| {}), &plan(path)).unwrap();
    let said = |form: Form, path| print(&finish(form, &plan(path), None).unwrap()).to_string();

    let mut form = open("/put");
    form.text("name", "a").unwrap();
    form.file("whatever", Some("text/plain"), b"x").unwrap();
    assert!(form.file("second", None, b"y").unwrap_err().message.contains("second file"));
    let expected = r#"{"name":"a","file":{"contentType":"text/plain","data":"eA=="}}"#;
    assert_eq!(said(form, "/put"), expected);

    let mut form = open("/raw");
    form.text("name", "nobody").unwrap();
    form.file("f", Some("a/b"), b"x").unwrap();
    assert_eq!(said(form, "/raw"), r#"{"contentType":"a/b","data":"eA=="}"#);

    let mut form = open("/all");
    form.file("files", Some("a/b"), b"x").unwrap();
    form.file("files", None, b"y").unwrap();
    form.file("file", None, b"z").unwrap();
    let expected = r#"{"file":{"data":"eg=="},"files":[{"contentType":"a/b","data":"eA=="},{"data":"eQ=="}]}"#;
    assert_eq!(said(form, "/all"), expected);

    let (form, stream) = (open("/stream/{name}"), plan("/stream/{name}"));
    let variables = PathVariables(vec!["v".to_owned()]);
    let parts = RequestParts { http_method: "POST", variables: &variables, query: None, content_type: None };
    let first = form.begin_upload(parts, Some("a/b"), b"x").unwrap();
    let first = print(&decode(stream.method().input(), &first)).to_string();
    assert_eq!(first, r#"{"name":"v","file":{"contentType":"a/b","data":"eA=="}}"#);
    let more = print(&decode(stream.method().input(), &Form::go_on(&stream, b"y"))).to_string();
    assert_eq!(more, r#"{"file":{"data":"eQ=="}}"#);
}

proptest! {
    #[test]
    fn any_body_is_a_message_or_an_error(body in proptest::collection::vec(any::<u8>(), 0..80)) {
        let plan = plan("/echo");
        let mut form = Form::new(&codec(|_| {}), &plan).unwrap();
        if form.urlencoded(&body).is_ok() {
            finish(form, &plan, None).unwrap();
        }
    }

    #[test]
    fn any_pairs_are_a_message_or_an_error(
        pairs in proptest::collection::vec((
            "(nested|child|listNested|i32|text|ts|wI64|choiceText|choiceI32|data|listI32|color|mapI32|value|any)(\\.(nested|child|name|notes|amount))?",
            "(-?[0-9]{0,12}|[a-zA-Z=/]{0,8}|COLOR_RED|2024-01-02T03:04:05Z)",
        ), 0..12)
    ) {
        let plan = plan("/echo");
        let mut form = Form::new(&codec(|_| {}), &plan).unwrap();
        let taken: Vec<bool> = pairs.iter().map(|(name, value)| form.text(name, value).is_ok()).collect();
        let message = finish(form, &plan, None).unwrap();
        // What JSON prints can be read again: nothing on the wire that does not belong there.
        let again = kinds(&print(&message).to_string());
        prop_assert!(message.unknown_fields().next().is_none(), "{pairs:?} {taken:?}");
        prop_assert_eq!(print(&again), print(&message));
    }

    #[test]
    fn text_arrives_as_it_was_written(text in "\\PC{0,30}") {
        let escaped = percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let message = read("/echo", &format!("text={}", escaped.replace("%20", "+"))).unwrap();
        let field = message.get_field_by_name("text").unwrap();
        prop_assert_eq!(field.as_str(), Some(text.as_str()));
    }
}
