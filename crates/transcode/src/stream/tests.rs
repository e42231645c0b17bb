//! Streams: chunks may break anywhere, framing is exact.

use proptest::prelude::*;

use super::*;
use crate::bind::RequestParts;
use crate::fixture::{decode, plan, print};
use crate::routes::PathVariables;
use crate::settings::Settings;

fn open(plan: &Arc<MethodPlan>, content_type: &str) -> RequestStream {
    let variables = PathVariables(vec!["v".to_owned(); plan.variables().len()]);
    let parts = RequestParts {
        http_method: "POST",
        variables: &variables,
        query: Some("i32=5"),
        content_type: Some(content_type),
    };
    Codec::new(Settings::default()).request_stream(plan, parts).unwrap()
}

/// Feeds a body in chunks that end at the given places.
fn read(content_type: &str, body: &str, cuts: &[usize]) -> Result<Vec<String>, BindError> {
    let plan = plan("/collect/{text}");
    let mut stream = open(&plan, content_type);
    let mut messages = Vec::new();
    let mut rest = body.as_bytes();
    for cut in cuts {
        let (chunk, after) = rest.split_at((*cut).min(rest.len()));
        messages.extend(stream.feed(chunk)?);
        rest = after;
    }
    messages.extend(stream.feed(rest)?);
    messages.extend(stream.finish()?);
    assert_eq!(stream.buffered(), 0);
    Ok(messages.iter().map(|it| print(&decode(plan.method().input(), it)).to_string()).collect())
}

const FIRST: &str = r#"{"i32":5,"text":"v","nested":{"name":"a"}}"#;
const SECOND: &str = r#"{"nested":{"name":"],[{\"","amount":2}}"#;
const ARRAY: &str = "[ {\"name\":\"a\"} ,\n{\"amount\":2,\"name\":\"],[{\\\"\"} ] ";
const LINES: &str = "{\"name\":\"a\"}\r\n\n{\"amount\":2,\"name\":\"],[{\\\"\"}";

#[test]
fn path_and_query_belong_to_the_first_message_alone() {
    assert_eq!(read("application/json", ARRAY, &[]).unwrap(), [FIRST, SECOND]);
    assert_eq!(read("application/x-ndjson; charset=utf-8", LINES, &[]).unwrap(), [FIRST, SECOND]);
}

#[test]
fn an_empty_array_and_an_empty_body_are_no_messages() {
    for body in ["[]", " [ ] ", ""] {
        assert_eq!(read("application/json", body, &[]).unwrap(), [""; 0], "{body:?}");
    }
    assert_eq!(read("application/x-ndjson", " \n\n", &[]).unwrap(), [""; 0]);
}

#[test]
fn broken_streams_say_where() {
    let table = [
        (
            "{\"name\":\"a\"}",
            "malformed request body: a client stream is a JSON array of messages (or one a line, as application/x-ndjson): expected '[' at line 1 column 1",
        ),
        (" \n", "malformed request body: expected '[', found the end of the body at line 2 column 1"),
        ("[{\"name\":\"a\"},", "malformed request body: the array does not end at line 1 column 15"),
        ("[{}\n {}]", "malformed request body: expected ',' or ']' at line 2 column 2"),
        ("[{},]", "malformed request body: expected a message at line 1 column 5"),
        ("[] x", "malformed request body: expected the end of the body at line 1 column 4"),
        ("[{},\n {\"name\":1}]", "nested.name: expected a string, found a number at line 2 column 10"),
        ("[{}", "malformed request body: the array does not end at line 1 column 4"),
        ("[{]}]", "expected a member name in quotes, found ']' at line 1 column 3"),
    ];
    for (body, expected) in table {
        let message = read("application/json", body, &[]).unwrap_err().message;
        assert_eq!(message.strip_prefix("nested: ").unwrap_or(&message), expected, "{body:?}");
    }
}

#[test]
fn replies_are_framed_as_asked_for() {
    let plan = plan("/collect/{text}");
    let wire = Bytes::from_static(&[0x08, 1]);
    let frame = |accept: Option<&str>, messages: usize, failure: Option<Status>| {
        let mut stream = Codec::new(Settings::default()).reply_stream(&plan, accept);
        let mut out = Vec::new();
        for _ in 0..messages {
            out.extend(stream.message(&wire).unwrap());
        }
        out.extend(match failure {
            Some(status) => stream.fail(&status),
            None => stream.finish(),
        });
        (stream.content_type().to_owned(), String::from_utf8(out).unwrap())
    };
    let lost = || Some(Status::new(11, "ran off"));
    let pair = |kind: &str, body: &str| (kind.to_owned(), body.to_owned());
    let error = r#"{"error":{"code":11,"message":"ran off"}}"#;
    assert_eq!(frame(None, 2, None), pair("application/json", r#"[{"i32":1},{"i32":1}]"#));
    assert_eq!(frame(Some("*/*"), 0, None), pair("application/json", "[]"));
    assert_eq!(frame(None, 1, lost()), pair("application/json", &format!(r#"[{{"i32":1}},{error}]"#)));
    assert_eq!(frame(None, 0, lost()), pair("application/json", &format!("[{error}]")));
    let ndjson = Some("application/x-ndjson");
    assert_eq!(frame(ndjson, 2, None), pair("application/x-ndjson", "{\"i32\":1}\n{\"i32\":1}\n"));
    assert_eq!(frame(ndjson, 1, lost()), pair("application/x-ndjson", &format!("{{\"i32\":1}}\n{error}\n")));
    let sse = Some("text/html, text/event-stream;q=0.9, application/json;q=0.5");
    assert_eq!(
        frame(sse, 1, lost()),
        pair("text/event-stream", &format!("id: 1\ndata: {{\"i32\":1}}\n\nevent: error\ndata: {error}\n\n"))
    );
}

#[test]
fn accept_picks_the_heaviest_that_we_have() {
    let table = [
        ("*/*", None),
        ("", None),
        ("application/json", Some(StreamFormat::JsonArray)),
        ("text/event-stream", Some(StreamFormat::Sse)),
        ("application/json;q=0.1, application/x-ndjson", Some(StreamFormat::Ndjson)),
        ("Text/Event-Stream; q=0", None),
        ("application/x-ndjson, text/event-stream", Some(StreamFormat::Ndjson)),
        // What axios sends, and what curl might: the route decides.
        ("application/json, text/plain, */*", None),
        ("*/*, application/json;q=0.9", None),
        ("application/json, */*;q=0.8", Some(StreamFormat::JsonArray)),
        ("text/event-stream, */*", Some(StreamFormat::Sse)),
        ("application/json, text/event-stream;q=0.5, */*", None),
    ];
    for (accept, expected) in table {
        assert_eq!(accepted(accept), expected, "{accept:?}");
    }
}

proptest! {
    #[test]
    fn where_chunks_break_changes_nothing(cuts in prop::collection::vec(0..12_usize, 0..12)) {
        prop_assert_eq!(read("application/json", ARRAY, &cuts).unwrap(), [FIRST, SECOND]);
        prop_assert_eq!(read("application/x-ndjson", LINES, &cuts).unwrap(), [FIRST, SECOND]);
    }

    #[test]
    fn no_body_makes_a_stream_panic(body in "[\\[\\]{},\":\\\\ a1\\n]{0,24}") {
        let _ = read("application/json", &body, &[3, 5]);
        let _ = read("application/x-ndjson", &body, &[3, 5]);
    }
}
