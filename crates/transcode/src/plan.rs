//! One way to call one method: a method, an HTTP binding, and everything about them that can be worked out before the first request.
//!
//! Lives here: resolving the names in an HTTP rule to descriptors. Does not: reading requests (`bind`, `codec`).

use std::sync::Arc;

use prost_reflect::FieldDescriptor;

use crate::schema::Method;
use crate::template::Template;

/// A method bound to an HTTP method and a path template, with its field names resolved.
#[derive(Debug)]
pub struct MethodPlan {
    pub(crate) method: Arc<Method>,
    pub(crate) http_method: String,
    pub(crate) template: Template,
    pub(crate) variables: Vec<FieldPath>,
    pub(crate) body: Body,
    pub(crate) response_body: Option<FieldDescriptor>,
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
    /// Returns the method that is called.
    pub fn method(&self) -> &Arc<Method> {
        &self.method
    }

    /// Returns the HTTP method of the binding, upper case as annotated, or `*` for any.
    pub fn http_method(&self) -> &str {
        &self.http_method
    }

    /// Returns the path template of the binding.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// Returns whether the binding reads an HTTP body at all.
    pub fn has_body(&self) -> bool {
        self.body != Body::None
    }

    /// Returns whether the HTTP body is taken as raw bytes into a `google.api.HttpBody`.
    pub fn takes_raw_body(&self) -> bool {
        todo!()
    }

    /// Returns whether replies are the raw bytes of a `google.api.HttpBody`.
    pub fn returns_raw_body(&self) -> bool {
        todo!()
    }
}
