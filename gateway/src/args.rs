//! What a person types after `weft gateway`.
//!
//! Lives here: flags, their defaults and help. Does not: what they mean together (`config`).

use std::{num::NonZeroUsize, path::PathBuf};

use weft_discovery::JoinArgs;
use weft_runtime::{LogFormat, listen::ListenAddr};

/// Flags of `weft gateway`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Address for REST and gRPC; `:8080` means all interfaces, port 0 any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: ListenAddr,

    /// How it finds the registries and proves who it is.
    #[command(flatten)]
    pub join: JoinArgs,

    /// Without a registry: file with an encoded FileDescriptorSet, imports included, or a directory of such files; changes are followed, a pipe is read once
    #[arg(long, value_name = "PATH", requires = "upstream", conflicts_with_all = ["registry", "token_file", "token_fd"])]
    pub descriptor_set: Option<PathBuf>,

    /// Without a registry: where every call goes
    #[arg(long, value_name = "HOST:PORT", requires = "descriptor_set")]
    pub upstream: Option<String>,

    /// TOML file with `[transcoding]`, `[limits]`, `[docs]` and `[[http]]`; without a registry also `[[policies]]`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Data threads; the number of cores if left out
    #[arg(long, value_name = "N")]
    pub workers: Option<NonZeroUsize>,

    /// Listen off loopback although callers' connections are not encrypted or authenticated
    #[arg(long)]
    pub insecure: bool,

    /// How log lines look; with json, stdout carries one line for each listener
    #[arg(long, value_enum, default_value = "auto")]
    pub log_format: LogFormat,
}
