//! Answers other than the plain one: field violations, errors kept from the caller, another HTTP status.
//!
//! Lives here: how these travel in gRPC. Does not: what is wrong with a request (services know).
//! Source: google/rpc/error_details.proto.

use tonic::metadata::MetadataValue;
use tonic::{Code, Response, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// Returns INVALID_ARGUMENT with a `google.rpc.BadRequest`: what is wrong with a request, as pairs of a field's path (`user.email`) and
/// a description that reads on from it (`is required`). Give all of them at once, so that the caller learns of all at once; the
/// message repeats them.
pub fn invalid_argument<F, D>(violations: impl IntoIterator<Item = (F, D)>) -> Status
where
    F: Into<String>,
    D: Into<String>,
{
    let violations: Vec<_> = violations.into_iter().map(|(field, wrong)| FieldViolation::new(field, wrong)).collect();
    let parts: Vec<String> = violations.iter().map(|it| format!("{} {}", it.field, it.description)).collect();
    Status::with_error_details(Code::InvalidArgument, parts.join("; "), ErrorDetails::with_bad_request(violations))
}

/// Returns [`invalid_argument`] for those fields of a request that have something wrong with them, as the `err()` of their parsing says.
pub fn violations<D: Into<String>, const N: usize>(fields: [(&'static str, Option<D>); N]) -> Status {
    invalid_argument(fields.into_iter().filter_map(|(field, wrong)| Some((field, wrong?))))
}

/// Returns what a service answers when another one could not do what it was asked for: that it is not to be had, overloaded or late is
/// passed on with the cause; anything else is a mistake between the two services, which is logged and INTERNAL. Statuses that the asking
/// service understands, like NOT_FOUND, are handled before, see [`found`].
pub fn upstream(service: &str, status: Status) -> Status {
    let because = || format!("asking {service}: {}", status.message());
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => Status::new(status.code(), because()),
        // The caller did not leave, or nobody would read this.
        Code::Cancelled => Status::unavailable(because()),
        _ => {
            tracing::error!(service, code = ?status.code(), message = status.message(), "a service refused a call of ours");
            Status::internal("internal error")
        }
    }
}

/// Returns what another service has, or none if it says NOT_FOUND.
///
/// # Errors
/// [`upstream`], for any other status.
pub fn found<T>(service: &str, answer: Result<Response<T>, Status>) -> Result<Option<T>, Status> {
    match answer {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(upstream(service, status)),
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
        let status = invalid_argument([("name", "is required"), ("email", "has no @")]);
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "name is required; email has no @"));
        let details = status.get_details_bad_request().unwrap();
        let fields: Vec<_> = details.field_violations.iter().map(|it| it.field.as_str()).collect();
        assert_eq!(fields, ["name", "email"]);
    }

    #[test]
    fn only_fields_with_something_wrong_are_named() {
        let status = violations([("name", None), ("email", Some("has no @"))]);
        assert_eq!(status.message(), "email has no @");
    }

    #[test]
    fn of_another_services_failures_those_that_pass_are_passed_on() {
        let passed = [
            (Code::Unavailable, Code::Unavailable),
            (Code::DeadlineExceeded, Code::DeadlineExceeded),
            (Code::ResourceExhausted, Code::ResourceExhausted),
            (Code::Cancelled, Code::Unavailable),
        ];
        for (code, answered) in passed {
            let status = upstream("users", Status::new(code, "why"));
            assert_eq!((status.code(), status.message()), (answered, "asking users: why"));
        }
        for code in [Code::InvalidArgument, Code::PermissionDenied, Code::Unimplemented, Code::Internal, Code::Unknown]
        {
            let status = upstream("users", Status::new(code, "a secret of users"));
            assert_eq!((status.code(), status.message()), (Code::Internal, "internal error"));
        }
    }

    #[test]
    fn what_is_not_there_is_an_answer() {
        assert_eq!(found("users", Ok(Response::new(1))).unwrap(), Some(1));
        assert_eq!(found::<u8>("users", Err(Status::not_found("no such user"))).unwrap(), None);
        assert_eq!(found::<u8>("users", Err(Status::unavailable(""))).unwrap_err().code(), Code::Unavailable);
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
