//! What a call is answered that fails: the code table as components, and which of them an operation has.
//!
//! Lives here: the errors of services and of the gateway, which have one form. Does not: what a success looks like (`bodies`).
//! Source: google/rpc/code.proto; of the gateway's own, what `status` and `bind` give.

use serde_json::{Map, Value, json};

use super::schemas::Scope;
use crate::plan::MethodPlan;
use crate::schema::builtin;

/// Name of the element that ends a stream which fails.
pub(super) const STREAM_ERROR: &str = "weft.StreamError";

/// Where a status can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Any,
    /// Where a request body is read.
    Body,
    /// Where a request may name the version it is about.
    Condition,
}

/// HTTP status, where it can be, and what it says.
const TABLE: [(&str, Of, &str); 14] = [
    (
        "400",
        Of::Any,
        "INVALID_ARGUMENT (3), FAILED_PRECONDITION (9) or OUT_OF_RANGE (11). The gateway's own, for a parameter or body that does not fit, names the field.",
    ),
    ("401", Of::Any, "UNAUTHENTICATED (16)."),
    ("403", Of::Any, "PERMISSION_DENIED (7)."),
    ("404", Of::Any, "NOT_FOUND (5)."),
    ("409", Of::Any, "ALREADY_EXISTS (6) or ABORTED (10)."),
    (
        "412",
        Of::Condition,
        "`If-Match` names another version than the current one: ABORTED (10) or FAILED_PRECONDITION (9).",
    ),
    ("413", Of::Body, "The body is longer than the gateway takes (code 8)."),
    ("415", Of::Body, "The body is of a type that is not served here (code 3)."),
    ("429", Of::Any, "RESOURCE_EXHAUSTED (8)."),
    ("499", Of::Any, "CANCELLED (1)."),
    ("500", Of::Any, "UNKNOWN (2), INTERNAL (13) or DATA_LOSS (15)."),
    ("501", Of::Any, "UNIMPLEMENTED (12)."),
    ("503", Of::Any, "UNAVAILABLE (14): no instance can be reached, or the service says so."),
    ("504", Of::Any, "DEADLINE_EXCEEDED (4): no answer in the time the call has."),
];

/// HTTP status, a header that the gateway tells with it, and what that says.
const HEADERS: [(&str, &str, &str); 2] = [
    ("401", "WWW-Authenticate", "What the call has to show, and what was wrong with what it showed."),
    ("429", "Retry-After", "Seconds until the call may be made again, where a limit of the gateway says them."),
];

/// Tells calls apart.
const REQUEST_ID: &str = "x-request-id";

/// Returns the headers that every answer has, for `components.headers`.
pub(super) fn headers() -> Value {
    let said = "Names the call, here and in the logs of whoever heard of it. It is what the request said in a header of this name, if that is at most \
                128 characters of visible ASCII, and else made up.";
    json!({ REQUEST_ID: { "description": said, "required": true, "schema": { "type": "string" } } })
}

/// Adds to the headers of an answer those that every answer has.
pub(super) fn names_call(mut headers: Value) -> Value {
    headers[REQUEST_ID] = json!({ "$ref": format!("#/components/headers/{REQUEST_ID}") });
    headers
}

/// Returns a header that may be there.
pub(super) fn header(description: &str) -> Value {
    json!({ "description": description, "schema": { "type": "string" } })
}

/// Returns all of them, for `components.responses`.
pub(super) fn all(scope: &mut Scope) -> Value {
    let status = builtin::pool().get_message_by_name("google.rpc.Status").expect("it is built in");
    let schema = scope.message(&status);
    let mut responses = Map::new();
    for (code, _, text) in TABLE {
        let mut media = json!({ "schema": schema });
        if code == "400" {
            media["example"] = json!({
                "code": 3,
                "message": "name: is empty",
                "details": [{
                    "@type": "type.googleapis.com/google.rpc.BadRequest",
                    "fieldViolations": [{ "field": "name", "description": "is empty" }]
                }]
            });
        }
        let own = HEADERS.into_iter().filter(|it| it.0 == code).map(|(_, name, text)| (name.to_owned(), header(text)));
        let headers = names_call(Value::Object(own.collect()));
        let response = json!({ "description": text, "headers": headers, "content": { "application/json": media } });
        responses.insert(code.to_owned(), response);
    }
    Value::Object(responses)
}

/// Adds those that an operation may have.
pub(super) fn add(plan: &MethodPlan, responses: &mut Map<String, Value>) {
    for (code, of, _) in TABLE {
        let has = match of {
            Of::Any => true,
            Of::Body => plan.has_body(),
            Of::Condition => plan.takes_if_match(),
        };
        if has {
            responses.insert(code.to_owned(), json!({ "$ref": format!("#/components/responses/{code}") }));
        }
    }
}

/// The last element of a stream that fails.
pub(super) fn stream_error() -> Value {
    json!({
        "type": "object",
        "description": "The last element of a stream that fails after its first message.",
        "required": ["error"],
        "properties": { "error": { "$ref": "#/components/schemas/google.rpc.Status" } }
    })
}
