//! One way to call one method: a method, an HTTP binding, and everything about them that can be worked out before the
//! first request.
//!
//! Lives here: resolving the names in an HTTP rule to descriptors. Does not: reading requests (`bind`, `codec`).

use std::sync::Arc;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use weft_model::HttpBinding;

use crate::codec::well_known::WellKnown;
use crate::etag::Etags;
use crate::schema::{Method, some_of};
use crate::template::Template;

/// A method bound to an HTTP method and a path template, with its field names resolved.
#[derive(Debug)]
pub struct MethodPlan {
    method: Arc<Method>,
    http_method: String,
    template: Template,
    variables: Vec<FieldPath>,
    body: Body,
    response_body: Option<FieldDescriptor>,
    origin: Origin,
    pub(crate) etags: Etags,
}

/// Who says that a method is called so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Nobody has to: every method has this binding, by its gRPC path.
    Plain,
    /// The method's `google.api.http`.
    Annotation,
    /// A rule beside the descriptors, which stands in for the annotation.
    Rule,
}

/// Fields from the request message down to the one meant; never empty.
pub(crate) type FieldPath = Vec<FieldDescriptor>;

/// Which part of the request message the HTTP body is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Body {
    /// There is none.
    None,
    /// The whole message, less what the path binds.
    Whole,
    /// One field.
    Field(FieldDescriptor),
}

impl MethodPlan {
    /// Returns the binding every method has: `POST /package.Service/Method` with the whole message as body.
    pub(crate) fn plain(method: &Arc<Method>) -> Self {
        Self {
            method: Arc::clone(method),
            http_method: "POST".to_owned(),
            template: Template::literal([method.service().to_owned(), method.name().to_owned()]),
            variables: Vec::new(),
            body: Body::Whole,
            response_body: None,
            origin: Origin::Plain,
            etags: Etags::of(method.input(), method.output(), &Body::Whole, true),
        }
    }

    /// Resolves an annotation; the error says what about it is wrong.
    pub(crate) fn bound(
        method: &Arc<Method>,
        http_method: &str,
        template: &str,
        body: &str,
        response_body: &str,
    ) -> Result<Self, String> {
        let template: Template = template.parse().map_err(|error: crate::template::TemplateError| error.to_string())?;
        Self::resolved(method, http_method, template, (body, response_body), Origin::Annotation)
    }

    /// Resolves a binding of a rule; the error says what about it is wrong.
    pub(crate) fn ruled(method: &Arc<Method>, it: &HttpBinding) -> Result<Self, String> {
        let bodies = (it.body.as_str(), it.response_body.as_str());
        Self::resolved(method, it.kind.as_str(), it.template.clone(), bodies, Origin::Rule)
    }

    fn resolved(
        method: &Arc<Method>,
        http_method: &str,
        template: Template,
        (body, response_body): (&str, &str),
        origin: Origin,
    ) -> Result<Self, String> {
        let variables = template.variables().iter();
        let variables: Vec<_> =
            variables.map(|it| variable(method.input(), &it.field_path)).collect::<Result<_, _>>()?;
        if let Some(at) = (1..variables.len()).find(|at| variables[..*at].contains(&variables[*at])) {
            return Err(format!("field {} is bound twice", template.variables()[at].field_path.join(".")));
        }
        let body = match body {
            "" => Body::None,
            "*" => Body::Whole,
            name => Body::Field(top_level(method.input(), name, "body")?),
        };
        let response_body = match response_body {
            "" | "*" => None,
            name => Some(top_level(method.output(), name, "response_body")?),
        };
        let etags = Etags::of(method.input(), method.output(), &body, response_body.is_none());
        Ok(Self {
            method: Arc::clone(method),
            http_method: http_method.to_owned(),
            template,
            variables,
            body,
            response_body,
            origin,
            etags,
        })
    }

    /// Returns the method that is called.
    pub fn method(&self) -> &Arc<Method> {
        &self.method
    }

    /// Returns the HTTP method of the binding in upper case, or `*` for any.
    pub fn http_method(&self) -> &str {
        &self.http_method
    }

    /// Returns the path template of the binding.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// Returns whether this is the binding that every method has, by its gRPC path.
    pub fn is_plain(&self) -> bool {
        self.origin == Origin::Plain
    }

    /// Returns who says that the method is called so.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Returns the name under which its paths are claimed; see `Template::claim`.
    pub fn claim(&self) -> String {
        self.template.claim(&self.http_method)
    }

    /// Returns whether the binding reads an HTTP body at all.
    pub fn has_body(&self) -> bool {
        self.body != Body::None
    }

    /// Returns whether the HTTP body is taken as raw bytes into a `google.api.HttpBody`.
    pub fn takes_raw_body(&self) -> bool {
        match &self.body {
            Body::None => false,
            Body::Whole => is_http_body(self.method.input()),
            Body::Field(field) => is_http_body_field(field),
        }
    }

    /// Returns whether replies are the raw bytes of a `google.api.HttpBody`.
    pub fn returns_raw_body(&self) -> bool {
        match &self.response_body {
            None => is_http_body(self.method.output()),
            Some(field) => is_http_body_field(field),
        }
    }

    pub(crate) fn body(&self) -> &Body {
        &self.body
    }

    pub(crate) fn response_body(&self) -> Option<&FieldDescriptor> {
        self.response_body.as_ref()
    }

    pub(crate) fn variables(&self) -> &[FieldPath] {
        &self.variables
    }
}

/// Prints a field path as the client would write it.
pub(crate) fn dotted(path: &[FieldDescriptor]) -> String {
    path.iter().map(FieldDescriptor::json_name).collect::<Vec<_>>().join(".")
}

fn is_http_body(message: &MessageDescriptor) -> bool {
    message.full_name() == "google.api.HttpBody"
}

fn is_http_body_field(field: &FieldDescriptor) -> bool {
    !field.is_list() && field.kind().as_message().is_some_and(is_http_body)
}

fn top_level(message: &MessageDescriptor, name: &str, what: &str) -> Result<FieldDescriptor, String> {
    message
        .get_field_by_name(name)
        .ok_or_else(|| format!("{what} names {name}, which is no field of {}", told(message)))
}

/// Prints a message and the fields that it has, to choose from.
fn told(message: &MessageDescriptor) -> String {
    let names: Vec<String> = message.fields().map(|it| it.name().to_owned()).collect();
    format!("{}; {}", message.full_name(), some_of("it has", names.iter().map(String::as_str)))
}

fn variable(message: &MessageDescriptor, names: &[String]) -> Result<FieldPath, String> {
    let mut scope = Some(message.clone());
    let mut path = FieldPath::new();
    for name in names {
        let parent =
            scope.ok_or_else(|| format!("variable {}: nothing lies below {}", names.join("."), dotted(&path)))?;
        let field = parent.get_field_by_name(name).ok_or_else(|| {
            format!("variable {} names {name}, which is no field of {}", names.join("."), told(&parent))
        })?;
        if field.is_list() || field.is_map() {
            return Err(format!("variable {} goes through {name}, which is repeated", names.join(".")));
        }
        scope = field.kind().as_message().cloned();
        path.push(field);
    }
    match path.last().map(FieldDescriptor::kind) {
        Some(Kind::Message(leaf)) if !WellKnown::of(&leaf).is_some_and(WellKnown::is_text) => {
            Err(format!("variable {} is a {}, which has no text form", names.join("."), leaf.full_name()))
        }
        _ => Ok(path),
    }
}
