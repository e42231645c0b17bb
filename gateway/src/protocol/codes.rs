//! gRPC codes as the numbers that a status carries.
//!
//! Lives here: those that the gateway itself says. Does not: what each means to a client (`weft_traffic::Code`, contracts of each protocol).

use weft_traffic::Code;

pub(crate) const CANCELLED: i32 = number(Code::Cancelled);
pub(crate) const UNKNOWN: i32 = number(Code::Unknown);
pub(crate) const INVALID_ARGUMENT: i32 = number(Code::InvalidArgument);
pub(crate) const DEADLINE_EXCEEDED: i32 = number(Code::DeadlineExceeded);
pub(crate) const PERMISSION_DENIED: i32 = number(Code::PermissionDenied);
pub(crate) const RESOURCE_EXHAUSTED: i32 = number(Code::ResourceExhausted);
pub(crate) const UNIMPLEMENTED: i32 = number(Code::Unimplemented);
pub(crate) const INTERNAL: i32 = number(Code::Internal);
pub(crate) const UNAVAILABLE: i32 = number(Code::Unavailable);

const fn number(code: Code) -> i32 {
    code.number() as i32
}
