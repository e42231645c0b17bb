//! Routes as operations at paths.
//!
//! Lives here: how a template becomes a path of OpenAPI, which place an operation takes there. Does not: what it takes and gives
//! (`parameters`, `bodies`, `responses`).
//! Templates that differ only in what their variables are called are one path, and the first to come names its parameters.

use std::collections::HashMap;

use prost_reflect::MethodDescriptor;
use serde_json::{Map, Value, json};

use super::comments::first_sentence;
use super::schemas::Scope;
use super::{bodies, parameters, responses};
use crate::plan::MethodPlan;
use crate::settings::Settings;
use crate::template::Segment;

/// The HTTP methods that a path item has a place for.
const LISTED: [&str; 8] = ["GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"];

/// A route, described.
pub(super) struct Operation {
    http_method: String,
    has_body: bool,
    method: String,
    template: String,
    /// The path, with a blank where something varies.
    pieces: Vec<Option<String>>,
    verb: Option<String>,
    /// Parameters of the path, in order.
    in_path: Vec<Value>,
    /// All but the path's parameters and the id.
    pub(super) value: Value,
}

impl Operation {
    /// `own` is what holds for this operation and not for every one.
    pub(super) fn describe(plan: &MethodPlan, settings: &Settings, own: &[String], scope: &mut Scope) -> Self {
        let slots = parameters::slots(plan, scope);
        let in_path = slots.iter().map(|it| parameters::in_path(plan, it, scope)).collect();
        let segments = plan.template().segments().iter();
        let pieces = segments.map(|it| match it {
            Segment::Literal(text) => Some(text.clone()),
            Segment::Star | Segment::DoubleStar => None,
        });
        Self {
            http_method: plan.http_method().to_owned(),
            has_body: plan.has_body(),
            method: plan.method().full_name().to_owned(),
            template: plan.template().to_string(),
            pieces: pieces.collect(),
            verb: plan.template().verb().map(str::to_owned),
            in_path,
            value: value(plan, settings, own, scope),
        }
    }
}

fn value(plan: &MethodPlan, settings: &Settings, own: &[String], scope: &mut Scope) -> Value {
    let method = plan.method();
    let mut operation = json!({ "tags": [method.service()] });
    let descriptor = descriptor(plan);
    let said = descriptor.as_ref().and_then(|it| scope.comments().of(&it.parent_file(), it.path()));
    if let Some(text) = &said {
        operation["summary"] = json!(first_sentence(text));
    }
    let own = (!own.is_empty()).then(|| own.join(" "));
    let text: Vec<String> = said.into_iter().chain(own).collect();
    if !text.is_empty() {
        operation["description"] = json!(text.join("\n\n"));
    }
    let deprecated =
        |it: &MethodDescriptor| it.method_descriptor_proto().options.as_ref().is_some_and(|it| it.deprecated());
    if descriptor.as_ref().is_some_and(deprecated) {
        operation["deprecated"] = json!(true);
    }
    operation["x-weft-grpc"] = json!(method.grpc_path());
    let mut parameters = parameters::in_query(plan, settings, scope);
    parameters.extend(parameters::if_match(plan));
    operation["parameters"] = Value::Array(parameters);
    if method.streaming().client() || method.streaming().server() {
        operation["x-weft-websocket"] = json!(bodies::WEBSOCKET);
    }
    if let Some(body) = bodies::request(plan, settings, scope) {
        operation["requestBody"] = body;
    }
    let mut answers = Map::new();
    bodies::add_success(plan, settings, scope, &mut answers);
    responses::add(plan, &mut answers);
    operation["responses"] = Value::Object(answers);
    operation
}

fn descriptor(plan: &MethodPlan) -> Option<MethodDescriptor> {
    let method = plan.method();
    let service = method.output().parent_pool().get_service_by_name(method.service())?;
    service.methods().find(|it| it.name() == method.name())
}

/// Returns the place of a route's method in its service.
pub(super) fn declared_at(plan: &MethodPlan) -> usize {
    let service = plan.method().output().parent_pool().get_service_by_name(plan.method().service());
    service.and_then(|it| it.methods().position(|it| it.name() == plan.method().name())).unwrap_or(usize::MAX)
}

/// Paths with their operations.
#[derive(Default)]
pub(super) struct Paths {
    items: Map<String, Value>,
    /// By what a path matches: what it is called and what its parameters are.
    named: HashMap<String, (String, Vec<String>)>,
    /// How many operations a method has.
    count: HashMap<String, usize>,
    unlisted: Vec<String>,
}

impl Paths {
    pub(super) fn add(&mut self, operation: Operation) {
        let (path, names) = self.name(&operation);
        let item = self.items.entry(path).or_insert_with(|| json!({}));
        let listed = match operation.http_method.as_str() {
            // Any method: shown as the one a client would take.
            "*" if operation.has_body => Some("POST"),
            "*" => Some("GET"),
            other => LISTED.into_iter().find(|it| *it == other),
        };
        let place = match listed {
            Some(method) => &mut item[method.to_ascii_lowercase()],
            None => &mut item["x-weft-methods"][&operation.http_method],
        };
        if !place.is_null() {
            self.unlisted.push(format!("{} {}: {}", operation.http_method, operation.template, operation.method));
            return;
        }
        let count = self.count.entry(operation.method.clone()).or_default();
        *count += 1;
        let id = match count {
            1 => operation.method.clone(),
            more => format!("{}.{more}", operation.method), // no name of a proto starts with a digit
        };
        let mut value = operation.value;
        let in_path = operation.in_path.into_iter().zip(names).map(|(mut parameter, name)| {
            parameter["name"] = json!(name);
            parameter
        });
        let in_query = value["parameters"].as_array_mut().map(std::mem::take).unwrap_or_default();
        value["parameters"] = Value::Array(in_path.chain(in_query).collect());
        value["operationId"] = json!(id);
        if operation.http_method == "*" {
            value["x-weft-any-method"] = json!(true);
        }
        *place = value;
    }

    /// Returns what a path is called, and its parameters.
    fn name(&mut self, operation: &Operation) -> (String, Vec<String>) {
        let mut text = String::new();
        let mut shape = String::new();
        let mut names: Vec<String> = Vec::new();
        for piece in &operation.pieces {
            match piece {
                Some(literal) => {
                    text = format!("{text}/{literal}");
                    shape = format!("{shape}/{literal}");
                }
                None => {
                    let own = operation.in_path[names.len()]["name"].as_str().unwrap_or_default();
                    let mut name = own.to_owned();
                    while names.contains(&name) {
                        name.push('_');
                    }
                    text = format!("{text}/{{{name}}}");
                    shape.push_str("/*");
                    names.push(name);
                }
            }
        }
        if operation.pieces.is_empty() {
            text.push('/');
            shape.push('/');
        }
        if let Some(verb) = &operation.verb {
            text = format!("{text}:{verb}");
            shape = format!("{shape}:{verb}");
        }
        self.named.entry(shape).or_insert((text, names)).clone()
    }

    pub(super) fn finish(self) -> (Value, Vec<String>) {
        (Value::Object(self.items), self.unlisted)
    }
}
