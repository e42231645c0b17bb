//! What the sidecar's code may assume: flags read, checked and completed.
//!
//! Lives here: the rules between flags, files named by them. Does not: their names and help (`args`).

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use weft_discovery::{Credential, DescriptorSet, RegistryUrls, Way};
use weft_identity::Identity;
use weft_model::{Locality, ServiceName, Weight};
use weft_runtime::Usage;
use weft_runtime::listen::{Insecure, ListenAddr};

use crate::lifecycle::DrainLimits;
use crate::{Args, Plaintext, Timing};

/// Everything a sidecar needs to know before it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// Service the app belongs to.
    pub service: ServiceName,
    /// Where the app listens; port 0 picks one that is free.
    pub app: SocketAddr,
    /// Where other services are known from.
    pub source: Source,
    /// What gives this sidecar its identity when it starts; none has one already, or needs none.
    pub credential: Option<Credential>,
    /// Who this sidecar is to its callers, to other sidecars and to registries; none speaks plaintext to all.
    pub identity: Option<Identity>,
    /// What becomes of inbound callers without an identity; none refuses them if there is one of its own, and else lets all in.
    pub plaintext: Option<Plaintext>,
    /// Where calls to the app come in.
    pub inbound: ListenAddr,
    /// Where the app's own calls come in.
    pub outbound: ListenAddr,
    /// Address that callers are told; none means that of `inbound`.
    pub advertise: Option<SocketAddr>,
    /// How the app's health is checked.
    pub health: HealthCheck,
    /// How often, and how long an answer may take.
    pub timing: Timing,
    /// The app's descriptors; none asks the app by reflection.
    pub descriptors: Option<DescriptorSet>,
    /// Name of the place among the service's instances.
    pub slot: Option<String>,
    /// Where the instance is.
    pub locality: Locality,
    /// Its share of traffic.
    pub weight: Weight,
    /// Where the app tells of itself in Prometheus' form, with or without a path.
    pub metrics: Option<String>,
    /// Directory for the app's data.
    pub data: Option<PathBuf>,
    /// Directory that gets a copy of this program.
    pub share_program: Option<PathBuf>,
    /// The app's program and its arguments; empty when somebody else runs the app.
    pub command: Vec<OsString>,
    /// The command line that leads to `weft_supervise::trampoline::exec`, so that the app cannot outlive the sidecar; empty for none.
    pub trampoline: Vec<OsString>,
    /// How long leaving may take.
    pub drain: DrainLimits,
}

/// Where other services are known from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Registries; the app is registered there, too.
    Registry(RegistryUrls),
    /// A file of addresses; the app is registered nowhere.
    Services(PathBuf),
}

/// How the app is asked whether it takes calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthCheck {
    /// grpc.health.v1, watched and polled; an app that does not implement it is healthy when a connection opens.
    Grpc,
    /// HTTP GET of this path; 2xx is healthy.
    Http(String),
    /// A connection that opens.
    Tcp,
}

/// Not a way to check health.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no health check: expected grpc, http:/PATH or tcp")]
pub struct BadHealthCheck(String);

impl FromStr for HealthCheck {
    type Err = BadHealthCheck;

    fn from_str(text: &str) -> Result<Self, BadHealthCheck> {
        match (text, text.strip_prefix("http:")) {
            ("grpc", _) => Ok(Self::Grpc),
            ("tcp", _) => Ok(Self::Tcp),
            (_, Some(path)) if path.starts_with('/') && path.parse::<http::Uri>().is_ok() => {
                Ok(Self::Http(path.to_owned()))
            }
            _ => Err(BadHealthCheck(text.to_owned())),
        }
    }
}

impl Config {
    /// Reads flags and the files they name.
    ///
    /// # Errors
    /// [`Usage`], naming the flag.
    pub fn load(args: Args) -> Result<Self, Usage> {
        let insecure = Insecure::from(args.insecure);
        let app = args.app.require_loopback("--app", insecure)?.get();
        if app.port() == 0 && args.command.is_empty() {
            return Err(Usage::new(
                "--app with port 0 needs a COMMAND to tell the port to: … --app 127.0.0.1:0 -- COMMAND",
            ));
        }
        let mut credential = None;
        let source = match args.services {
            Some(file) => Source::Services(file),
            None => match args.join.load().map_err(|error| Usage::of(&error))? {
                Way::Plaintext(urls) => Source::Registry(urls),
                Way::Secured(found) => Source::Registry(credential.insert(*found).registries().clone()),
            },
        };
        let advertise = args.advertise;
        if advertise.is_some_and(|addr| addr.ip().is_unspecified() || addr.port() == 0) {
            return Err(Usage::new("--advertise needs an IP and a port that callers can reach"));
        }
        // With an identity, callers prove who they are wherever they come from.
        let inbound = match &credential {
            Some(_) => args.inbound,
            None => args.inbound.require_loopback("--inbound", insecure)?,
        };
        if inbound.get().ip().is_unspecified() && advertise.is_none() && matches!(source, Source::Registry(_)) {
            return Err(Usage::new("--inbound on all interfaces needs --advertise: callers must be told one address"));
        }
        Ok(Self {
            service: args.service,
            app,
            source,
            credential,
            identity: None,
            plaintext: args.plaintext,
            inbound,
            outbound: args.outbound.require_loopback("--outbound", insecure)?,
            advertise,
            health: args.health,
            timing: Timing::default(),
            descriptors: args.descriptor_set.map(read_descriptors).transpose()?,
            slot: args.slot,
            locality: args.locality.unwrap_or_default(),
            weight: args.weight.unwrap_or(Weight::ONE),
            metrics: args.metrics.map(metrics).transpose()?,
            data: args.data,
            share_program: args.share_program,
            command: args.command,
            trampoline: trampoline()?,
            drain: DrainLimits::default(),
        })
    }
}

fn metrics(told: String) -> Result<String, Usage> {
    let at = told.split_once('/').map_or(told.as_str(), |(at, _)| at);
    match at.parse::<SocketAddr>() {
        Ok(at) if at.port() != 0 && !at.ip().is_unspecified() => Ok(told),
        Ok(_) | Err(_) => Err(Usage::new(format!(
            "--metrics {told}: expected where others reach the app's metrics, like 10.0.0.7:9464 or 10.0.0.7:9464/internal/metrics"
        ))),
    }
}

impl Config {
    /// What becomes of callers without an identity.
    ///
    /// # Errors
    /// [`Usage`] if there would be no caller left.
    pub(crate) fn plaintext(&self) -> Result<Plaintext, Usage> {
        match (self.plaintext, self.will_be_somebody()) {
            (Some(Plaintext::Refuse), false) => Err(Usage::new(
                "--plaintext refuse needs an identity, or nobody could call; give the sidecar a token to join with",
            )),
            (Some(chosen), _) => Ok(chosen),
            (None, true) => Ok(Plaintext::Refuse),
            (None, false) => Ok(Plaintext::Allow),
        }
    }

    /// Whether the sidecar has an identity, or gets one before it serves.
    pub(crate) const fn will_be_somebody(&self) -> bool {
        self.credential.is_some() || self.identity.is_some()
    }
}

fn read_descriptors(path: PathBuf) -> Result<DescriptorSet, Usage> {
    let wrong = |problem: String| Usage::new(format!("--descriptor-set {}: {problem}", path.display()));
    let bytes = fs::read(&path).map_err(|error| wrong(error.to_string()))?;
    let set = DescriptorSet::from_encoded_set(&bytes).map_err(|error| wrong(error.to_string()))?;
    Ok(set.serving_roots())
}

fn trampoline() -> Result<Vec<OsString>, Usage> {
    let exe = weft_runtime::env::current_exe()
        .map_err(|error| Usage::new(format!("cannot find the path of this program: {error}")))?;
    Ok(vec![exe.into(), "trampoline".into(), "--".into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn load(flags: &str) -> Result<Config, String> {
        let cli =
            Cli::try_parse_from(["sidecar"].into_iter().chain(flags.split_whitespace())).map_err(|e| e.to_string())?;
        Config::load(cli.args).map_err(|e| e.to_string())
    }

    #[test]
    fn a_command_follows_the_dashes_with_its_own_flags() {
        let config =
            load("--service users --app 127.0.0.1:0 --registry http://127.0.0.1:7100 -- run --service x").unwrap();
        assert_eq!(config.command, ["run", "--service", "x"]);
        assert_eq!(config.inbound, ListenAddr::loopback(7300));
    }

    #[test]
    fn flags_that_do_not_go_together_are_refused() {
        let needs = "--service users --app 127.0.0.1:1";
        for (flags, says) in [
            (needs.to_owned(), "--registry"),
            (format!("{needs} --registry http://a:1 --services f"), "--services"),
            (format!("{needs} --registry http://a:1 --inbound :7300"), "--insecure"),
            (format!("{needs} --registry http://a:1 --inbound :7300 --insecure"), "--advertise"),
            (format!("{needs} --registry http://a:1 --advertise 0.0.0.0:1"), "--advertise"),
            (format!("{needs} --registry http://a:1 --health ping"), "http:/PATH"),
            (format!("{needs} --registry http://a:1 --descriptor-set /nowhere"), "/nowhere"),
            ("--service users --app 127.0.0.1:0 --registry http://a:1".to_owned(), "COMMAND"),
            ("--service Users --app 127.0.0.1:1 --registry http://a:1".to_owned(), "DNS label"),
        ] {
            let error = load(&flags).unwrap_err();
            assert!(error.contains(says), "{flags}: {error}");
        }
    }

    #[test]
    fn health_checks_are_read() {
        assert_eq!("http:/healthz?x=1".parse::<HealthCheck>().unwrap(), HealthCheck::Http("/healthz?x=1".into()));
        assert_eq!("tcp".parse::<HealthCheck>().unwrap(), HealthCheck::Tcp);
        assert!("http:healthz".parse::<HealthCheck>().is_err());
    }
}
