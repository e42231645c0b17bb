//! weft-transcode: REST and JSON on one side, protobuf wire bytes on the other, decided by descriptors alone.
//!
//! Lives here: reading `google.api.http` from a service's descriptors, and rules that stand in for it (`schema`), the
//! live table from HTTP method and path to gRPC method (`routes`), binding path, query and body to a request message
//! (`bind`), strict ProtoJSON both ways (`codec`), by message types compiled from descriptors (`types`, `wire`), errors as `google.rpc.Status` (`status`), the
//! framings of streams (`stream`), and all of it described for clients (`openapi`).
//! Does not: I/O, async, clocks, HTTP types. The gateway owns sockets, headers and calls and uses this crate as plain
//! functions:
//!
//! 1. `Schema::decode(bytes)` once per service; `RouteTable::builder().add(&schema, owner).build()` once per change of
//!    the world.
//! 2. Per request `table.lookup(method, path)`, then `codec.decode_request(&found.plan, parts)`: wire bytes, or a
//!    `BindError` that is the answer.
//! 3. Call the method at `found.plan.method().grpc_path()`; then `codec.encode_reply(&found.plan, wire)` or
//!    `Codec::encode_status(..)`.
#![forbid(unsafe_code)]

pub mod settings;

pub mod schema;

pub mod plan;
pub mod routes;

pub mod bind;
pub mod codec;
pub mod stream;

pub mod openapi;

pub mod etag;
pub mod metadata;
pub mod status;

mod behavior;
mod types;
mod wire;

#[cfg(test)]
mod fixture;

pub use bind::{BindError, RequestParts};
pub use codec::{Codec, Elements, EncodeError, Reply};
pub use plan::MethodPlan;
pub use routes::{Lookup, Match, RouteTable};
pub use schema::{Schema, SchemaError};
pub use settings::Settings;
pub use status::Status;
pub use weft_model::template;
