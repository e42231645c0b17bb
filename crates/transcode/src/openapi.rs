//! OpenAPI 3.1 of a set of routes: what a client may send, and what it gets for it.
//!
//! Lives here: the document as one JSON value, and its YAML form. Does not: serving it, or knowing whose a route is.
//! Reading order: `operations` turns a route into an operation at a path, `parameters` and `bodies` fill it, `schemas`
//! describes message types, `comments` finds what the authors wrote about them, `examples` invents values, `responses`
//! is the code table, `behavior` reads what authors say of fields, `security` adds who may call and `kept` which answers may be
//! kept, `yaml` prints.
//! Invariants: the same routes give the same document; it says what `bind`, `codec` and `stream` do and nothing else, under the same settings.
//! Source: OpenAPI 3.1.1, JSON Schema 2020-12, ProtoJSON in the form that is printed (readers accept more: a number for
//! an int64, an enum's number, null for a field left out).
//!
//! What the format cannot say is said in extensions: `x-weft-grpc` is an operation's gRPC path, `x-weft-methods` holds operations of
//! HTTP methods that a path item has no place for, `x-weft-item` describes one message of a stream, `x-weft-websocket` what a
//! stream is as a WebSocket at the same path, `x-weft-many` marks a
//! parameter of any number of segments, `x-weft-unlisted` names routes
//! whose place another has, since `{name}` and `{name=**}` look alike.

mod behavior;
mod bodies;
mod comments;
mod examples;
mod kept;
mod operations;
mod parameters;
mod responses;
mod schemas;
mod security;
mod yaml;

use std::collections::HashSet;
use std::sync::Arc;

use prost_reflect::DescriptorPool;
use serde_json::{Map, Value, json};

use crate::plan::MethodPlan;
use crate::schema::builtin;
use crate::settings::{JsonOutput, Settings, StreamFormat, Unknown};
use operations::{Operation, Paths};
use schemas::{Components, Scope};

pub use kept::keep;
pub use security::{Security, secure};
pub use yaml::to_yaml;

/// What the document says beside the routes.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// `info.title`.
    pub title: &'a str,
    /// `info.version`.
    pub version: &'a str,
    /// Longest body that is taken.
    pub max_request_bytes: u64,
}

/// A route, and the settings that its calls have.
type Described<'a> = (&'a Arc<MethodPlan>, &'a Settings);

/// Returns the document. A method with bindings of its own is described by these; one without, by its gRPC path. `usual` are the settings of routes that
/// have none of their own: what is said of all goes by them, what differs is said at the operation.
pub fn document<'a>(about: About<'_>, usual: &Settings, routes: impl IntoIterator<Item = Described<'a>>) -> Value {
    let routes = in_order(routes.into_iter().collect());
    let mut scopes: Vec<Scope> = vec![Scope::new(usual.json_output, builtin::pool().clone())];
    let errors = responses::all(&mut scopes[0]);
    let mut tags = Tags::default();
    let mut operations = Vec::with_capacity(routes.len());
    for (plan, settings) in routes {
        let at = scope_of(&mut scopes, settings.json_output, plan.method().output().parent_pool());
        tags.add(plan, &mut scopes[at]);
        let own = own_ways(plan, settings, usual);
        operations.push((at, Operation::describe(plan, settings, &own, &mut scopes[at])));
    }
    let mut components = Components::default();
    components.add_fixed(responses::STREAM_ERROR, responses::stream_error());
    let renamed: Vec<_> = scopes.into_iter().map(|scope| components.add(scope)).collect();
    let mut paths = Paths::default();
    for (at, mut operation) in operations {
        renamed[at].apply(&mut operation.value);
        paths.add(operation);
    }
    let (paths, unlisted) = paths.finish();
    let mut document = json!({
        "openapi": "3.1.1",
        "info": { "title": about.title, "version": about.version, "description": prose(usual, about.max_request_bytes) },
        "servers": [{ "url": "/" }],
        "tags": tags.list,
        "paths": paths,
        "components": { "schemas": components.finish(), "responses": errors, "headers": responses::headers() },
    });
    if !unlisted.is_empty() {
        document["x-weft-unlisted"] = json!(unlisted);
    }
    document
}

/// The routes to describe: services in the order they come, methods and their bindings as declared.
fn in_order(mut routes: Vec<Described<'_>>) -> Vec<Described<'_>> {
    let bound: HashSet<String> =
        routes.iter().filter(|(it, _)| !it.is_plain()).map(|(it, _)| it.method().full_name().to_owned()).collect();
    let mut services: Vec<String> = Vec::new();
    let mut seen = HashSet::new();
    for (plan, _) in &routes {
        if seen.insert(plan.method().service()) {
            services.push(plan.method().service().to_owned());
        }
    }
    routes.retain(|(it, _)| !it.is_plain() || !bound.contains(it.method().full_name()));
    let place: std::collections::HashMap<&str, usize> =
        services.iter().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
    routes.sort_by_cached_key(|(it, _)| (place[it.method().service()], operations::declared_at(it)));
    routes
}

/// The scope of a pool that is printed so, a new one if it has none; routes of one pool mostly follow one another.
fn scope_of(scopes: &mut Vec<Scope>, output: JsonOutput, pool: &DescriptorPool) -> usize {
    match scopes.iter().rposition(|it| it.is_of(pool, output)) {
        Some(at) => at,
        None => {
            scopes.push(Scope::new(output, pool.clone()));
            scopes.len() - 1
        }
    }
}

/// The gRPC services, with what their authors say of them.
#[derive(Default)]
struct Tags {
    list: Vec<Value>,
    seen: HashSet<String>,
}

impl Tags {
    fn add(&mut self, plan: &MethodPlan, scope: &mut Scope) {
        let name = plan.method().service();
        if !self.seen.insert(name.to_owned()) {
            return;
        }
        let mut tag = Map::from_iter([("name".to_owned(), json!(name))]);
        let service = plan.method().output().parent_pool().get_service_by_name(name);
        if let Some(text) = service.and_then(|it| scope.comments().of(&it.parent_file(), it.path())) {
            tag.insert("description".to_owned(), json!(text));
        }
        self.list.push(Value::Object(tag));
    }
}

/// What holds for every operation.
fn prose(settings: &Settings, max_request_bytes: u64) -> String {
    let mut lines = vec![
        "Made from the descriptors of the services that run now. JSON is ProtoJSON: members at their default are left out, 64-bit integers are \
         strings, bytes are base64."
            .to_owned(),
        "Every method is also served as `POST /package.Service/Method`, with its request as the body.".to_owned(),
        "A failed call is answered by a `google.rpc.Status`. A path that is not listed is 404; a method that its path does not have, 405 with \
         `Allow`."
            .to_owned(),
        format!("A request body is at most {max_request_bytes} bytes; a longer one is 413."),
    ];
    lines.push(match settings.unknown_query {
        Unknown::Reject => "A query parameter that names no field is 400.".to_owned(),
        Unknown::Ignore => "A query parameter that names no field is ignored.".to_owned(),
    });
    lines.push(match settings.unknown_body {
        Unknown::Reject => "A member of a body that names no field is 400, and so is the name of an enum value that there is none of.".to_owned(),
        Unknown::Ignore => "A member of a body that names no field is ignored, and so is the name of an enum value that there is none of.".to_owned(),
    });
    let default = framing(settings.stream_format);
    let others = match settings.stream_format {
        StreamFormat::JsonArray => "`application/x-ndjson` (a document a line) or `text/event-stream`",
        StreamFormat::Ndjson => "`application/json` (one array) or `text/event-stream`",
        StreamFormat::Sse => "`application/json` (one array) or `application/x-ndjson` (a document a line)",
    };
    lines.push(format!(
        "A stream of replies is {default} unless `Accept` asks for {others}; a failure \
         after the first message is its last element, `{{\"error\": status}}`."
    ));
    if settings.json_output != JsonOutput::default() {
        let JsonOutput { emit_defaults, preserve_proto_names, enums_as_ints } = settings.json_output;
        let said = [
            (emit_defaults, "Members at their default are printed, too."),
            (preserve_proto_names, "Members are printed by the names of the proto file."),
            (enums_as_ints, "Enums are printed as numbers."),
        ];
        lines.extend(said.into_iter().filter(|(on, _)| *on).map(|(_, text)| text.to_owned()));
    }
    lines.join("\n\n")
}

fn framing(format: StreamFormat) -> &'static str {
    match format {
        StreamFormat::JsonArray => "one JSON array",
        StreamFormat::Ndjson => "one JSON document a line",
        StreamFormat::Sse => "server-sent events",
    }
}

/// What holds for an operation and not for every one, in sentences.
fn own_ways(plan: &MethodPlan, settings: &Settings, usual: &Settings) -> Vec<String> {
    let (own, all) = (settings.json_output, usual.json_output);
    let printed = [
        (
            own.emit_defaults,
            all.emit_defaults,
            "Members at their default are printed.",
            "Members at their default are left out.",
        ),
        (
            own.preserve_proto_names,
            all.preserve_proto_names,
            "Members are printed by the names of the proto file.",
            "Members are printed in camel case.",
        ),
        (own.enums_as_ints, all.enums_as_ints, "Enums are printed as numbers.", "Enums are printed by their names."),
    ];
    let printed = printed.into_iter().filter(|(own, all, ..)| own != all);
    let printed = printed.map(|(own, _, on, off)| if own { on } else { off }.to_owned());
    let framed = plan.method().streaming().server() && settings.stream_format != usual.stream_format;
    let framed =
        framed.then(|| format!("The replies are {} unless `Accept` asks otherwise.", framing(settings.stream_format)));
    printed.chain(framed).collect()
}

#[cfg(test)]
mod tests;
