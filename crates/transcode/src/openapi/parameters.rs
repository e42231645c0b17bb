//! Path and query parameters.
//!
//! Lives here: what `bind` reads from path and query, one parameter each. Does not: the path itself (`operations`).

use prost_reflect::{FieldDescriptor, MessageDescriptor};
use serde_json::{Value, json};

use super::behavior;
use super::schemas::{Scope, is_deprecated};
use crate::bind::text::is_bindable;
use crate::codec::well_known::WellKnown;
use crate::plan::{Body, MethodPlan};
use crate::settings::Settings;
use crate::template::Segment;

/// Messages within messages whose fields are listed. Deeper ones are read, too, and not listed, like those of a type within itself.
const DEPTH: usize = 4;
/// Query parameters that are listed.
const MOST: usize = 200;

/// A place in a path where something varies.
pub(super) struct Slot<'p> {
    /// Index of the variable that it is part of.
    variable: Option<usize>,
    /// The variable's field, unless it is only part of that.
    leaf: Option<&'p FieldDescriptor>,
    /// What it is called if no other route has named it.
    pub(super) name: String,
    many: bool,
}

/// Returns what varies in a plan's path, in order.
pub(super) fn slots<'p>(plan: &'p MethodPlan, scope: &Scope) -> Vec<Slot<'p>> {
    let template = plan.template();
    let mut slots: Vec<Slot<'p>> = Vec::new();
    for (segment, it) in template.segments().iter().enumerate() {
        let many = match it {
            Segment::Literal(_) => continue,
            Segment::Star => false,
            Segment::DoubleStar => true,
        };
        let variable = template.variables().iter().position(|it| it.span.contains(&segment));
        let slot = match variable {
            None => {
                let name = format!("segment_{}", segment + 1);
                Slot { variable, leaf: None, name, many }
            }
            Some(at) => {
                let span = &template.variables()[at].span;
                let path = &plan.variables()[at];
                let dotted = path.iter().map(|it| scope.name(it)).collect::<Vec<_>>().join(".");
                let whole = span.len() == 1;
                let name = if whole { dotted } else { format!("{dotted}_{}", segment - span.start + 1) };
                Slot { variable, leaf: path.last().filter(|_| whole), name, many }
            }
        };
        slots.push(slot);
    }
    slots
}

/// Returns the parameter of a slot.
pub(super) fn in_path(plan: &MethodPlan, slot: &Slot<'_>, scope: &mut Scope) -> Value {
    let mut schema = match slot.leaf {
        Some(field) => scope.text(&field.kind()),
        None => json!({ "type": "string" }),
    };
    if schema == json!({ "type": "string" }) {
        schema["minLength"] = json!(1);
    }
    let mut said = Vec::new();
    if let Some(field) = slot.leaf {
        said.extend(scope.comments().of(&field.parent_file(), field.path()));
    } else if let Some(at) = slot.variable {
        let variable = &plan.template().variables()[at];
        let pattern: Vec<String> =
            plan.template().segments()[variable.span.clone()].iter().map(Segment::to_string).collect();
        said.push(format!("Part of `{}`, which is `{}`.", variable.field_path.join("."), pattern.join("/")));
    }
    if slot.many {
        said.push("Any number of segments, none included.".to_owned());
    }
    let mut parameter = json!({ "name": slot.name, "in": "path", "required": true });
    if !said.is_empty() {
        parameter["description"] = json!(said.join(" "));
    }
    if slot.many {
        parameter["x-weft-many"] = json!(true);
    }
    parameter["schema"] = schema;
    parameter
}

/// Returns the query parameters.
pub(super) fn in_query(plan: &MethodPlan, settings: &Settings, scope: &mut Scope) -> Vec<Value> {
    if *plan.body() == Body::Whole {
        return Vec::new();
    }
    let mut query = Query { plan, settings, found: Vec::new(), path: Vec::new(), within: Vec::new() };
    query.collect(plan.method().input(), scope);
    query.found
}

/// Returns the header that names the version to be changed, if the request has room for it.
pub(super) fn if_match(plan: &MethodPlan) -> Option<Value> {
    let said = "The `etag` that is to be the current one, in quotes; if it is another, the answer is 412.";
    plan.takes_if_match()
        .then(|| json!({ "name": "If-Match", "in": "header", "description": said, "schema": { "type": "string" } }))
}

struct Query<'p> {
    plan: &'p MethodPlan,
    settings: &'p Settings,
    found: Vec<Value>,
    path: Vec<FieldDescriptor>,
    within: Vec<String>,
}

impl Query<'_> {
    fn collect(&mut self, desc: &MessageDescriptor, scope: &mut Scope) {
        if self.within.len() > DEPTH || self.within.iter().any(|it| it == desc.full_name()) {
            return;
        }
        self.within.push(desc.full_name().to_owned());
        for field in desc.fields() {
            let in_body = self.path.is_empty() && matches!(self.plan.body(), Body::Field(body) if *body == field);
            self.path.push(field.clone());
            let bound = self.plan.variables().contains(&self.path);
            let kind = field.kind();
            match kind.as_message() {
                _ if in_body || bound || field.is_map() || self.found.len() >= MOST => {}
                Some(inner) if !is_bindable(&kind) => {
                    // Nobody writes the inside of a Struct or an Any into a query.
                    if !field.is_list() && WellKnown::of(inner).is_none() {
                        self.collect(inner, scope);
                    }
                }
                _ => {
                    let parameter = self.parameter(&field, scope);
                    self.found.push(parameter);
                }
            }
            self.path.pop();
        }
        self.within.pop();
    }

    fn parameter(&self, field: &FieldDescriptor, scope: &mut Scope) -> Value {
        let name = self.path.iter().map(|it| scope.name(it)).collect::<Vec<_>>().join(".");
        let one = scope.text(&field.kind());
        let mut said: Vec<String> = scope.comments().of(&field.parent_file(), field.path()).into_iter().collect();
        if self.is_inferred(field) {
            said.push("Left out, it is what the members of the body name.".to_owned());
        }
        let mut parameter = json!({ "name": name, "in": "query" });
        if !said.is_empty() {
            parameter["description"] = json!(said.join(" "));
        }
        if is_deprecated(field) {
            parameter["deprecated"] = json!(true);
        }
        if self.path.len() == 1 && behavior::is_required(field) {
            parameter["required"] = json!(true);
        }
        parameter["schema"] = if field.is_list() { json!({ "type": "array", "items": one }) } else { one };
        parameter
    }

    fn is_inferred(&self, field: &FieldDescriptor) -> bool {
        let asked = self.settings.infer_update_mask && self.plan.http_method() == "PATCH";
        asked && matches!(self.plan.body(), Body::Field(_)) && self.path.len() == 1 && field.name() == "update_mask"
    }
}
