//! weft-gateway: north-south. REST and native gRPC on one port, to the live instances of every service of the mesh.
//!
//! Reading order: `args` and `config` say what a person sets; `gateway` puts the role together; `listener` owns connections, `tls` how they enter; `protocol` tells what
//! a request speaks and answers it (`protocol::rest`, `protocol::grpc`, reflection and health for the whole mesh); `routes` is the live table that
//! both ask; `docs` describes it to people and tools; `edge` counts and logs every call.
//! Lives here: the edge of the mesh. Does not: balancing, retries, deadlines (`weft-traffic`), JSON and templates (`weft-transcode`), the
//! registry's wire (`weft-discovery`). It keeps no state worth saving: everything it knows it learns again.
#![forbid(unsafe_code)]

mod args;
mod config;
mod docs;
mod edge;
mod gateway;
mod listener;
mod network;
mod protocol;
mod routes;
mod tls;

pub use args::Args;
pub use config::{Config, Limits, Source};
pub use docs::Docs;
pub use edge::{
    forwarded::{ForwardedHeader, TrustedProxies},
    shared::RedisUrl,
};
pub use gateway::{DescriptorError, DescriptorFiles, Error, Gateway};
pub use network::{Network, NotANetwork};
pub use routes::rules::FileRule;
pub use tls::{
    ClientFiles, TlsFiles,
    certificates::{TlsError, TlsFile},
};
