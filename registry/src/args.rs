//! Arguments of `weft registry`, and what they mean.
//!
//! Lives here: flags, defaults, the rule about loopback. Does not: binding (`registry`).

use std::path::PathBuf;

use weft_runtime::{LogFormat, Usage, listen::ListenAddr};

/// Keeps the catalog: who is alive, where, and what they offer.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where sidecars, gateways and tools reach the registry (gRPC).
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7100")]
    pub listen: ListenAddr,
    /// Where /healthz, /readyz and /metrics are.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7180")]
    pub http: ListenAddr,
    /// Directory of the catalog; made if it is not there.
    #[arg(long, value_name = "DIR", default_value = ".weft/registry")]
    pub data: PathBuf,
    /// Accept plaintext from other machines; without it both addresses must be on loopback.
    #[arg(long)]
    pub insecure: bool,
    /// How log lines look; `json` also prints one line for each listener on stdout.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,
}

/// What the registry may assume.
#[derive(Debug, Clone)]
pub struct Config {
    /// gRPC listener.
    pub listen: ListenAddr,
    /// HTTP listener; also the admin address.
    pub http: ListenAddr,
    /// Directory of the catalog.
    pub data: PathBuf,
}

impl Config {
    /// Checks what clap cannot. The error says which flag is wrong and what would be right.
    pub fn load(args: Args) -> Result<Self, Usage> {
        Ok(Self {
            listen: args.listen.require_loopback("--listen", args.insecure.into())?,
            http: args.http.require_loopback("--http", args.insecure.into())?,
            data: args.data,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn load(args: &[&str]) -> Result<Config, Usage> {
        Config::load(Cli::try_parse_from([&["registry"], args].concat()).unwrap().args)
    }

    #[test]
    fn defaults_are_on_loopback() {
        let config = load(&[]).unwrap();
        assert_eq!(config.listen, ListenAddr::loopback(7100));
        assert_eq!(config.http, ListenAddr::loopback(7180));
    }

    #[test]
    fn a_listener_off_loopback_needs_insecure() {
        for flags in [["--listen", ":7100"], ["--http", "0.0.0.0:7180"]] {
            assert!(load(&flags).unwrap_err().to_string().contains("--insecure"));
            assert!(load(&[&flags[..], &["--insecure"]].concat()).is_ok());
        }
    }
}
