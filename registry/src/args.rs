//! Arguments of `weft registry`, and what they mean.
//!
//! Lives here: flags, defaults, the rule about loopback. Does not: binding (`registry`).

use std::{path::PathBuf, time::Duration};

use weft_identity::TrustDomain;
use weft_runtime::{LogFormat, Usage, listen::ListenAddr};

use crate::ca::Settings;

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
    /// Speak TLS on --listen and issue identities; the first start makes a root.
    #[arg(long)]
    pub tls: bool,
    /// Directory of the certificate authority, shared by all registries of a mesh; without it, `ca` below --data.
    #[arg(long, value_name = "DIR", requires = "tls")]
    pub ca_dir: Option<PathBuf>,
    /// Domain the certificate authority vouches for; fixed once its directory is made.
    #[arg(long, value_name = "DOMAIN", default_value = "weft.local")]
    pub trust_domain: TrustDomain,
    /// Seconds a certificate lives, 2 to 2592000; it is renewed at half of it.
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400, value_parser = clap::value_parser!(u32).range(2..=2_592_000))]
    pub certificate_life: u32,
    /// Where registries are reached, written into tokens: https://host:port, several with commas. Without it, where this one listens.
    #[arg(long, value_name = "URL", value_delimiter = ',', requires = "tls")]
    pub advertise: Vec<String>,
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
    /// The certificate authority; None speaks plaintext and issues nothing.
    pub identity: Option<Settings>,
}

impl Config {
    /// Checks what clap cannot. The error says which flag is wrong and what would be right.
    pub fn load(args: Args) -> Result<Self, Usage> {
        let identity = args.tls.then(|| Settings {
            dir: args.ca_dir.unwrap_or_else(|| args.data.join("ca")),
            trust_domain: args.trust_domain,
            life: Duration::from_secs(args.certificate_life.into()),
            advertise: args.advertise,
        });
        // With --tls too: until writes ask who their caller is, only this machine may make them.
        let listen = args.listen.require_loopback("--listen", args.insecure.into())?;
        Ok(Self {
            listen,
            http: args.http.require_loopback("--http", args.insecure.into())?,
            data: args.data,
            identity,
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
    fn the_authority_lies_below_the_data_unless_registries_share_it() {
        assert!(load(&[]).unwrap().identity.is_none());
        let own = load(&["--tls", "--data", "d"]).unwrap().identity.unwrap();
        assert_eq!((own.dir, own.life), (PathBuf::from("d/ca"), Duration::from_secs(86_400)));
        let shared = ["--tls", "--ca-dir", "s", "--certificate-life", "10", "--advertise", "https://a:1,https://b:1"];
        let shared = load(&shared).unwrap().identity.unwrap();
        assert_eq!((shared.dir, shared.life, shared.advertise.len()), (PathBuf::from("s"), Duration::from_secs(10), 2));
    }

    #[test]
    fn a_listener_off_loopback_needs_insecure() {
        for flags in [["--listen", ":7100"], ["--http", "0.0.0.0:7180"]] {
            assert!(load(&flags).unwrap_err().to_string().contains("--insecure"));
            assert!(load(&[&flags[..], &["--insecure"]].concat()).is_ok());
        }
    }
}
