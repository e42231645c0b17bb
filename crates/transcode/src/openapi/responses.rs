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

/// HTTP status, and what it says. `true`: only where a request body is read.
const TABLE: [(&str, bool, &str); 13] = [
    (
        "400",
        false,
        "INVALID_ARGUMENT (3), FAILED_PRECONDITION (9) or OUT_OF_RANGE (11). The gateway's own, for a parameter or body that does not fit, names the field.",
    ),
    ("401", false, "UNAUTHENTICATED (16)."),
    ("403", false, "PERMISSION_DENIED (7)."),
    ("404", false, "NOT_FOUND (5)."),
    ("409", false, "ALREADY_EXISTS (6) or ABORTED (10)."),
    ("413", true, "The body is longer than the gateway takes (code 8)."),
    ("415", true, "The body is of a type that is not served here (code 3)."),
    ("429", false, "RESOURCE_EXHAUSTED (8)."),
    ("499", false, "CANCELLED (1)."),
    ("500", false, "UNKNOWN (2), INTERNAL (13) or DATA_LOSS (15)."),
    ("501", false, "UNIMPLEMENTED (12)."),
    ("503", false, "UNAVAILABLE (14): no instance can be reached, or the service says so."),
    ("504", false, "DEADLINE_EXCEEDED (4): no answer in the time the call has."),
];

/// Returns all of them, for `components.responses`.
pub(super) fn all(scope: &mut Scope<'_>) -> Value {
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
        responses.insert(code.to_owned(), json!({ "description": text, "content": { "application/json": media } }));
    }
    Value::Object(responses)
}

/// Adds those that an operation may have.
pub(super) fn add(plan: &MethodPlan, responses: &mut Map<String, Value>) {
    for (code, of_body, _) in TABLE {
        if !of_body || plan.has_body() {
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
