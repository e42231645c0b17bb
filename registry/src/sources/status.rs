//! The one way from our errors to a gRPC status.
//!
//! Lives here: codes and details (google.rpc.BadRequest with the field path). Does not: deciding what is wrong.

use std::error::Error;

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use weft_model::{Digest, Invalid};
use weft_proto::{descriptors::BadFiles, google};

use crate::{catalog::ChangeError, schema::SchemaError};

/// INVALID_ARGUMENT naming the field.
pub(crate) fn invalid(error: &Invalid) -> Status {
    let details = ErrorDetails::with_bad_request_violation(error.field(), error.problem());
    Status::with_error_details(Code::InvalidArgument, error.to_string(), details)
}

/// What the caller of a change is told.
pub(crate) fn change(error: &ChangeError) -> Status {
    match error {
        ChangeError::Invalid(error) => invalid(error),
        ChangeError::Unknown(_) | ChangeError::Unclaimed(_) | ChangeError::UnknownPolicy(_) => {
            Status::not_found(error.to_string())
        }
        ChangeError::Fenced { .. } | ChangeError::Revoked { .. } | ChangeError::Declared { .. } => {
            Status::failed_precondition(error.to_string())
        }
        ChangeError::Held { .. } | ChangeError::PoliciesMoved { .. } => Status::aborted(error.to_string()),
        ChangeError::Store(source) => {
            let cause = source.source().map(|s| format!(": {s}")).unwrap_or_default();
            Status::unavailable(format!("{error}: {source}{cause}"))
        }
        ChangeError::Closed => Status::unavailable("the registry is leaving"),
    }
}

/// A descriptor set that is refused: the field is `files` or `services`, the text names file and symbol.
pub(crate) fn schema(error: &SchemaError) -> Status {
    let field = match error {
        SchemaError::Files(BadFiles::Garbled { index, .. }) => format!("files[{index}]"),
        SchemaError::Undeclared { .. } => "services".to_owned(),
        SchemaError::Files(BadFiles::Clash { .. })
        | SchemaError::Empty
        | SchemaError::Link(_)
        | SchemaError::Route(_) => "files".to_owned(),
    };
    invalid(&Invalid::new(field, error.to_string()))
}

/// A status as a part of a message, with its details.
pub(crate) fn as_message(status: &Status) -> google::rpc::Status {
    // tonic keeps details as the bytes of this very message
    let details = google::rpc::Status::decode(status.details()).map(|it| it.details).unwrap_or_default();
    google::rpc::Status { code: status.code().into(), message: status.message().to_owned(), details }
}

/// Reads a SHA-256.
pub(crate) fn digest(bytes: &[u8], field: &str) -> Result<Digest, Status> {
    let bytes = bytes
        .try_into()
        .map_err(|_| invalid(&Invalid::new(field, format!("has {} bytes, a SHA-256 has 32", bytes.len()))))?;
    Ok(Digest(bytes))
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use weft_model::{Epoch, InstanceId, Version};

    use super::*;
    use crate::catalog::StoreError;

    #[test]
    fn every_refusal_has_its_code() {
        let id = InstanceId::from_bytes([1; 16]);
        let table = [
            (ChangeError::Invalid(Invalid::new("a", "b")), Code::InvalidArgument),
            (ChangeError::Unknown(id), Code::NotFound),
            (ChangeError::Unclaimed("a.B".into()), Code::NotFound),
            (ChangeError::Declared { name: "a.B".into(), holder: "a".parse().unwrap() }, Code::FailedPrecondition),
            (ChangeError::Fenced { id, held: Epoch(2) }, Code::FailedPrecondition),
            (ChangeError::Revoked { id, until: SystemTime::UNIX_EPOCH }, Code::FailedPrecondition),
            (ChangeError::Held { address: "127.0.0.1:1".parse().unwrap(), holder: id, silence: None }, Code::Aborted),
            (ChangeError::Store(Arc::new(StoreError::InUse { file: "f".into() })), Code::Unavailable),
            (ChangeError::UnknownPolicy("a".parse().unwrap()), Code::NotFound),
            (ChangeError::PoliciesMoved { expected: Version(1), held: Version(2) }, Code::Aborted),
            (ChangeError::Closed, Code::Unavailable),
        ];
        for (error, code) in table {
            assert_eq!(change(&error).code(), code, "{error}");
        }
    }

    #[test]
    fn an_invalid_field_is_a_bad_request_violation() {
        let status = invalid(&Invalid::new("instance.id", "is no UUID"));
        let details = status.get_error_details();
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!((violation.field.as_str(), violation.description.as_str()), ("instance.id", "is no UUID"));
    }
}
