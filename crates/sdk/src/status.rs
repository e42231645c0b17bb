//! Answers other than the plain one: field violations, errors kept from the caller, another HTTP status.
//!
//! Lives here: how these travel in gRPC. Does not: what is wrong with a request (services know).
//! Source: google/rpc/error_details.proto.

use tonic::metadata::MetadataValue;
use tonic::{Code, Response, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// What is wrong with a request, field by field, gathered so that the caller learns of all at once.
#[derive(Debug, Clone, Default)]
pub struct Violations(Vec<FieldViolation>);

impl Violations {
    /// Returns an empty list.
    pub fn new() -> Self {
        Violations::default()
    }

    /// Adds what is wrong with a field, named by its path in the request (`user.email`).
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(FieldViolation::new(field, description));
    }

    /// Returns true if nothing is wrong so far.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends the check.
    ///
    /// # Errors
    /// INVALID_ARGUMENT with a `google.rpc.BadRequest`, if anything was added; its message names every field.
    pub fn check(self) -> Result<(), Status> {
        if self.0.is_empty() {
            return Ok(());
        }
        let parts: Vec<String> = self.0.iter().map(|it| format!("{}: {}", it.field, it.description)).collect();
        let details = ErrorDetails::with_bad_request(self.0);
        Err(Status::with_error_details(Code::InvalidArgument, parts.join("; "), details))
    }
}

/// Returns INTERNAL that tells the caller nothing, after logging the error with its causes for the operator.
pub fn internal(error: impl Into<anyhow::Error>) -> Status {
    let error: anyhow::Error = error.into();
    tracing::error!(error = format!("{error:#}"), "a call failed");
    Status::internal("internal error")
}

/// Sets the HTTP status that a REST caller gets for a successful answer, such as 201; gRPC callers see only metadata.
pub fn http_status<T>(mut response: Response<T>, status: http::StatusCode) -> Response<T> {
    response.metadata_mut().insert("weft-http-status", MetadataValue::from(status.as_u16()));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_travel_as_one_bad_request() {
        let mut wrong = Violations::new();
        wrong.add("name", "is required");
        wrong.add("email", "has no @");
        let status = wrong.check().unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "name: is required; email: has no @"));
        let details = status.get_details_bad_request().unwrap();
        let fields: Vec<_> = details.field_violations.iter().map(|it| it.field.as_str()).collect();
        assert_eq!(fields, ["name", "email"]);
        assert!(Violations::new().check().is_ok());
    }

    #[test]
    fn an_internal_error_keeps_its_text_to_itself() {
        let status = internal(std::io::Error::other("disk /dev/sda1 is full"));
        assert_eq!((status.code(), status.message()), (Code::Internal, "internal error"));
    }

    #[test]
    fn the_http_status_is_metadata_of_the_answer() {
        let response = http_status(Response::new(()), http::StatusCode::CREATED);
        assert_eq!(response.metadata().get("weft-http-status").unwrap(), "201");
    }
}
