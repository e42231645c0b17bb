//! Arguments of `weft registry`, and what they mean.
//!
//! Lives here: flags, defaults, what goes together. Does not: binding (`registry`).

use std::{path::PathBuf, time::Duration};

use http::Uri;
use weft_identity::TrustDomain;
use weft_runtime::{LogFormat, Usage, listen::ListenAddr};

use crate::ca::{Kubernetes, Settings};

/// Port of DNS.
const DNS: u16 = 7153;

/// Keeps the catalog: who is alive, where, and what they offer. Speaks TLS and is the certificate authority of the mesh.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where sidecars, gateways and tools reach the registry: gRPC, mutual TLS
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7100")]
    pub listen: ListenAddr,
    /// Where /healthz, /readyz, /metrics and /prometheus/sd are: plaintext, and nothing can be written there
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7180")]
    pub http: ListenAddr,
    /// Where names below `weft.` are answered, by UDP and TCP [default: 127.0.0.1:7153; any free port if that of --http is 0]
    #[arg(long, value_name = "ADDR")]
    pub dns: Option<ListenAddr>,
    /// Seconds a DNS answer may be kept, at most an hour. An instance that leaves waits for them, up to its notice
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=3_600))]
    pub dns_ttl: u32,
    /// Directory of the catalog; made if it is not there
    #[arg(long, value_name = "DIR", default_value = ".weft/registry")]
    pub data: PathBuf,
    /// No TLS and no identities: everyone who reaches --listen may write
    #[arg(long, conflicts_with_all = ["ca_dir", "certificate_life", "advertise", "kubernetes_audience"])]
    pub insecure: bool,
    /// Directory of the certificate authority, shared by all registries of a mesh [default: `ca` below --data]
    #[arg(long, value_name = "DIR")]
    pub ca_dir: Option<PathBuf>,
    /// Domain the certificate authority vouches for; fixed once its directory is made
    #[arg(long, value_name = "DOMAIN", default_value = "weft.local")]
    pub trust_domain: TrustDomain,
    /// Seconds a certificate lives, 2 to 2592000; it is renewed at half of it
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400, value_parser = clap::value_parser!(u32).range(2..=2_592_000))]
    pub certificate_life: u32,
    /// Where registries are reached, written into tokens: https://host:port [default: where this one listens]
    #[arg(long, value_name = "URL[,URL…]", value_delimiter = ',')]
    pub advertise: Vec<String>,
    /// Take tokens that Kubernetes projects for this audience, too: a pod is the service its service account names
    #[arg(long, value_name = "AUDIENCE")]
    pub kubernetes_audience: Option<String>,
    /// The Kubernetes API server that reviews them
    #[arg(
        long,
        value_name = "URL",
        default_value = "https://kubernetes.default.svc",
        requires = "kubernetes_audience"
    )]
    pub kubernetes_api: Uri,
    /// PEM file of the authority behind it
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
        requires = "kubernetes_audience"
    )]
    pub kubernetes_ca: PathBuf,
    /// File of the token the registry is known by there; its account needs the cluster role system:auth-delegator
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount/token",
        requires = "kubernetes_audience"
    )]
    pub kubernetes_token: PathBuf,
    /// How log lines look; `json` also prints one line for each listener on stdout
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
    /// DNS listener, UDP and TCP.
    pub dns: ListenAddr,
    /// How long a DNS answer may be kept; whole seconds.
    pub dns_ttl: Duration,
    /// Directory of the catalog.
    pub data: PathBuf,
    /// The certificate authority; None speaks plaintext and issues nothing.
    pub identity: Option<Settings>,
}

impl Config {
    /// Checks what clap cannot. The error says which flag is wrong and what would be right.
    pub fn load(args: Args) -> Result<Self, Usage> {
        let (listen, http, data) = (args.listen, args.http, args.data.clone());
        let dns = args.dns.unwrap_or(ListenAddr::loopback(if http.get().port() == 0 { 0 } else { DNS }));
        let dns_ttl = Duration::from_secs(args.dns_ttl.into());
        let identity = if args.insecure { None } else { Some(settings(args)?) };
        Ok(Self { listen, http, dns, dns_ttl, data, identity })
    }
}

fn settings(args: Args) -> Result<Settings, Usage> {
    if args.listen.get().ip().is_unspecified() && args.advertise.is_empty() {
        return Err(Usage::new(format!(
            "--listen {} is every address of this machine: say by --advertise https://host:port where others reach it",
            args.listen
        )));
    }
    if let Some(url) = args.advertise.iter().find(|url| !is_https(url)) {
        return Err(Usage::new(format!("--advertise {url}: expected https://host:port")));
    }
    let kubernetes = match args.kubernetes_audience {
        Some(audience) if args.kubernetes_api.scheme_str() == Some("https") => Some(Kubernetes {
            audience,
            api: args.kubernetes_api,
            ca: args.kubernetes_ca,
            token: args.kubernetes_token,
        }),
        Some(_) => {
            return Err(Usage::new(format!("--kubernetes-api {}: expected https://host[:port]", args.kubernetes_api)));
        }
        None => None,
    };
    Ok(Settings {
        dir: args.ca_dir.unwrap_or_else(|| args.data.join("ca")),
        trust_domain: args.trust_domain,
        life: Duration::from_secs(args.certificate_life.into()),
        advertise: args.advertise,
        kubernetes,
    })
}

fn is_https(url: &str) -> bool {
    let uri: Option<Uri> = url.parse().ok();
    uri.is_some_and(|uri| {
        uri.scheme_str() == Some("https") && uri.port_u16().is_some() && matches!(uri.path(), "" | "/")
    })
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
        assert_eq!((config.dns, config.dns_ttl), (ListenAddr::loopback(7153), Duration::ZERO));
    }

    #[test]
    fn dns_listens_anywhere_if_http_does() {
        assert_eq!(load(&["--http", "127.0.0.1:0"]).unwrap().dns, ListenAddr::loopback(0));
        let told = load(&["--http", "127.0.0.1:0", "--dns", "127.0.0.2:53", "--dns-ttl", "5"]).unwrap();
        assert_eq!((told.dns.to_string().as_str(), told.dns_ttl), ("127.0.0.2:53", Duration::from_secs(5)));
        assert!(Cli::try_parse_from(["registry", "--dns-ttl", "3601"]).is_err());
    }

    #[test]
    fn a_registry_is_an_authority_unless_it_is_told_to_be_insecure() {
        let own = load(&["--data", "d"]).unwrap().identity.unwrap();
        assert_eq!((own.dir, own.life), (PathBuf::from("d/ca"), Duration::from_secs(86_400)));
        let shared = ["--ca-dir", "s", "--certificate-life", "10", "--advertise", "https://a:1,https://b:1"];
        let shared = load(&shared).unwrap().identity.unwrap();
        assert_eq!((shared.dir, shared.life, shared.advertise.len()), (PathBuf::from("s"), Duration::from_secs(10), 2));
        assert!(load(&["--insecure", "--listen", ":7100"]).unwrap().identity.is_none());
        assert!(Cli::try_parse_from(["registry", "--insecure", "--ca-dir", "s"]).is_err(), "an authority of nobody");
    }

    #[test]
    fn tokens_name_an_address_that_others_can_reach() {
        assert!(load(&["--listen", ":7100"]).unwrap_err().to_string().contains("--advertise https://"));
        assert!(load(&["--listen", ":7100", "--advertise", "https://registry:7100"]).is_ok());
        for wrong in ["http://registry:7100", "registry:7100", "https://registry", "https://registry:7100/x"] {
            assert!(load(&["--advertise", wrong]).unwrap_err().to_string().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn tokens_of_kubernetes_are_taken_where_an_audience_says_so() {
        assert!(load(&[]).unwrap().identity.unwrap().kubernetes.is_none());
        let inside = load(&["--kubernetes-audience", "weft"]).unwrap().identity.unwrap().kubernetes.unwrap();
        assert_eq!(inside.api, "https://kubernetes.default.svc");
        assert_eq!(inside.ca, PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"));
        let plain = ["--kubernetes-audience", "weft", "--kubernetes-api", "http://api"];
        assert!(load(&plain).unwrap_err().to_string().contains("--kubernetes-api http://api"));
        assert!(
            Cli::try_parse_from(["registry", "--kubernetes-ca", "f"]).is_err(),
            "without an audience it says nothing"
        );
    }
}
