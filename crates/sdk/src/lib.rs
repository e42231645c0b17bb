//! What the author of a Rust service imports: one call that turns tonic services into a process of the mesh.
//!
//! Lives here: serving (port, health, reflection, deadlines, panics, graceful end), calls to other services, and small helpers for
//! answers. Does not: anything of one service, and nothing of a role. Events, configuration and sagas join when a service needs them.
//!
//! ```no_run
//! # async fn open(dir: std::path::PathBuf) -> anyhow::Result<()> { Ok(()) }
//! # static DESCRIPTORS: &[u8] = &[];
//! fn main() -> std::process::ExitCode {
//!     weft::serve("posts", |app| async move {
//!         let _store = open(app.data_dir()?).await?;
//!         let _users = app.channel("users"); // UsersClient::new(…)
//!         Ok(weft::Services::new(DESCRIPTORS) /* .with(PostsServer::new(…)) */)
//!     })
//! }
//! ```
//!
//! Environment: `PORT` (default [`DEFAULT_PORT`], always on 127.0.0.1), `WEFT_OUTBOUND` (the sidecar, for calls to other services),
//! `WEFT_DATA` or `DATABASE_URL` (where a service that has data keeps it), `WEFT_SERVICE`, `WEFT_INSTANCE`, `RUST_LOG`, and
//! OpenTelemetry's `OTEL_EXPORTER_OTLP_*`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`. In a sampled call, `tracing` spans of the
//! author's become spans of its trace.
#![forbid(unsafe_code)]

pub mod status;

mod call_span;
mod channel;
mod guard;
mod mask;
mod process;
mod served;
mod services;

pub use channel::Channel;
pub use mask::Mask;
pub use process::{App, DEFAULT_PORT, serve};
pub use services::{ServeError, Services};
pub use status::http_status;
pub use weft_reflection::BadDescriptors;
pub use weft_runtime::admin::Readiness;
pub use weft_runtime::{Shutdown, Usage, clock};
