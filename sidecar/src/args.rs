//! The sidecar's flags, as a person writes them.
//!
//! Lives here: names, defaults, help. Does not: what follows from them (`config`).

use std::ffi::OsString;
use std::path::PathBuf;

use weft_discovery::JoinArgs;
use weft_model::{Locality, ServiceName, Weight};
use weft_runtime::LogFormat;
use weft_runtime::listen::ListenAddr;

use crate::{HealthCheck, Plaintext};

/// Stands beside one app: registers it, supervises it, carries its calls.
///
/// Calls to the app come in at --inbound and go on to --app; the app's own calls to other services go to --outbound with the service's
/// name as authority. With a COMMAND the sidecar starts the app itself, tells it by PORT where to listen, and restarts it when it fails.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Service the app belongs to: NAME or NAME.NAMESPACE
    #[arg(long, value_name = "NAME")]
    pub service: ServiceName,

    /// Where the app listens; port 0 picks a free one and tells the COMMAND by PORT
    #[arg(long, value_name = "HOST:PORT")]
    pub app: ListenAddr,

    /// How it finds the registries and proves who it is.
    #[command(flatten)]
    pub join: JoinArgs,

    /// Static mode, without a registry: TOML file of NAME = ["HOST:PORT", …], read again when it changes
    #[arg(long, value_name = "FILE", conflicts_with_all = ["registry", "token_file", "token_fd"])]
    pub services: Option<PathBuf>,

    /// Where calls to the app come in
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7300")]
    pub inbound: ListenAddr,

    /// Where the app's calls to other services come in
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7301")]
    pub outbound: ListenAddr,

    /// Address that callers are told [default: the inbound address]
    #[arg(long, value_name = "IP:PORT")]
    pub advertise: Option<std::net::SocketAddr>,

    /// How the app's health is checked: grpc (falls back to tcp), http:/PATH, or tcp
    #[arg(long, value_name = "CHECK", default_value = "grpc")]
    pub health: HealthCheck,

    /// Encoded FileDescriptorSet of the app, with imports; it serves what the files that no other imports declare [default: asked by gRPC reflection]
    #[arg(long, value_name = "FILE")]
    pub descriptor_set: Option<PathBuf>,

    /// Name of the app's place among the instances of its service, for people: users-1
    #[arg(long, value_name = "NAME")]
    pub slot: Option<String>,

    /// Where the instance is: callers prefer near ones
    #[arg(long, value_name = "REGION[/ZONE[/SUB_ZONE]]")]
    pub locality: Option<Locality>,

    /// Its share of traffic, 1 to 65535 [default: 1]
    #[arg(long, value_name = "N")]
    pub weight: Option<Weight>,

    /// Where the app tells of itself in Prometheus' form, as others reach it; the path is /metrics unless said
    #[arg(long, value_name = "IP:PORT[/PATH]")]
    pub metrics: Option<String>,

    /// Directory for the app's data, made if it is not there and told by WEFT_DATA
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// Directory where this program is put at the start, made if it is not there: a container beside this one runs `DIR/weft drain` from there
    #[arg(long, value_name = "DIR")]
    pub share_program: Option<PathBuf>,

    /// What becomes of inbound callers without an identity, whom access rules know as anonymous [default: refuse with an identity of its own, else allow]
    #[arg(long, value_name = "WHO", value_enum)]
    pub plaintext: Option<Plaintext>,

    /// Listen off loopback although connections are neither encrypted nor authenticated; --inbound needs this only without a token
    #[arg(long)]
    pub insecure: bool,

    /// How logs are written; json also writes one line a listener on stdout
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// The app's program and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}
