//! Answers that the gateway may keep: what a client may ask of them, and what it is told.
//!
//! Lives here: the form of it. Does not: which methods have such answers, which the gateway's policies say.
//! Source: RFC 9110, 8.8.3, 13.1.2 and 15.4.5; RFC 9111, 5.1; RFC 9211.

use serde_json::{Value, json};

use super::responses::{header, names_call};

const TAG: &str = "Names this answer: what `If-None-Match` may say. Of a reply with an `etag` it is that one.";
const AGE: &str = "Seconds since the answer was fetched; only there when it was kept.";
const HOW: &str = "Where the answer comes from, by RFC 9211.";
const IF_NONE_MATCH: &str =
    "`ETag`s of answers that the client has, or `*`; if one of them still is the answer, it is 304 without a body.";
const NOT_MODIFIED: &str = "The answer is one that the client has, by `If-None-Match`.";

/// Adds to a document what is said of answers that may be kept; `of` knows by gRPC path whether those of a method may. Kept are answers to GET.
pub fn keep(document: &mut Value, of: impl Fn(&str) -> bool) {
    let items = document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut());
    let mut any = false;
    for get in items.filter_map(|item| item.get_mut("get")) {
        let bare = get.get("requestBody").is_none();
        if bare && get["x-weft-grpc"].as_str().is_some_and(&of) {
            describe(get);
            any = true;
        }
    }
    if any {
        let headers = names_call(json!({ "ETag": header(TAG), "Age": header(AGE), "Cache-Status": header(HOW) }));
        let responses = &mut document["components"]["responses"];
        responses["304"] = json!({ "description": NOT_MODIFIED, "headers": headers });
        in_order(responses);
    }
}

fn describe(get: &mut Value) {
    let condition = json!({
        "name": "If-None-Match", "in": "header", "description": IF_NONE_MATCH, "schema": { "type": "string" }
    });
    if let Some(parameters) = get["parameters"].as_array_mut() {
        parameters.push(condition);
    }
    let responses = &mut get["responses"];
    let headers = &mut responses["200"]["headers"];
    for (name, text) in [("ETag", TAG), ("Age", AGE), ("Cache-Status", HOW)] {
        headers[name] = header(text);
    }
    responses["304"] = json!({ "$ref": "#/components/responses/304" });
    in_order(responses);
}

/// By code, as the others are.
fn in_order(responses: &mut Value) {
    if let Some(responses) = responses.as_object_mut() {
        responses.sort_keys();
    }
}
