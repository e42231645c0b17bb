//! What the author of a Rust service imports: one call that turns tonic services into a process of the mesh.
//!
//! Lives here: serving (port, health, reflection, deadlines, panics, graceful end) and small helpers for answers. Does not: anything
//! of one service, and nothing of a role. Calls to other services, events, configuration and sagas join when a service needs them.
//!
//! ```no_run
//! # async fn open(dir: std::path::PathBuf) -> anyhow::Result<()> { Ok(()) }
//! # static DESCRIPTORS: &[u8] = &[];
//! fn main() -> std::process::ExitCode {
//!     weft::serve("users", |app| async move {
//!         let _store = open(app.data_dir()?).await?;
//!         Ok(weft::Services::new(DESCRIPTORS) /* .with(UsersServer::new(…)) */)
//!     })
//! }
//! ```
//!
//! Environment: `PORT` (default [`DEFAULT_PORT`], always on 127.0.0.1), `WEFT_DATA`, `WEFT_SERVICE`, `WEFT_INSTANCE`, `RUST_LOG`.
#![forbid(unsafe_code)]

pub mod status;

mod guard;
mod process;
mod services;

pub use process::{App, DEFAULT_PORT, serve};
pub use services::{ServeError, Services};
pub use status::http_status;
pub use weft_reflection::BadDescriptors;
pub use weft_runtime::{Shutdown, clock};
