//! Which mesh is meant, and where its parts are.
//!
//! Lives here: flags, the addresses they mean, what a running `weft up` says of its processes. Does not: asking the parts (`registry`, `gateway`, …).

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use tokio::time::timeout;
use weft_discovery::RegistryUrls;
use weft_model::ServiceName;
use weft_proto::weft::up::v1 as up;
use weft_runtime::Usage;
use weft_up::{Config, ConfigError, client, unverified::Scheme};

/// Time `weft up` has to say what runs.
const UP: Duration = Duration::from_secs(2);
/// Distance of a role's admin port from its own.
const ADMIN: u16 = 80;

/// Flags of `weft check`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// The mesh that `weft up` runs beside this file; else weft.toml in this directory or above
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["registry", "gateway"])]
    pub file: Option<PathBuf>,
    /// Registries of a mesh that no `weft up` runs here
    #[arg(long, value_name = "URL[,URL…]")]
    pub registry: Option<RegistryUrls>,
    /// Where the registry's /readyz and /metrics are [default: 80 ports above --registry]
    #[arg(long, value_name = "HOST:PORT", requires = "registry")]
    pub registry_admin: Option<Place>,
    /// Gateway of a mesh that no `weft up` runs here
    #[arg(long, value_name = "URL", requires = "registry")]
    pub gateway: Option<GatewayUrl>,
    /// Where the gateway's /readyz and /metrics are [default: 80 ports above --gateway]
    #[arg(long, value_name = "HOST:PORT", requires = "gateway")]
    pub gateway_admin: Option<Place>,
    /// An operator's token, for a registry that asks who you are [default: WEFT_TOKEN_FILE, else that of the mesh in this directory or above]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Print what an id means and what to do, and check nothing; without an id the page of all
    #[arg(long, value_name = "ID", num_args = 0..=1)]
    pub explain: Option<Option<String>>,
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name or IP literal, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl Place {
    fn admin(&self) -> Option<Self> {
        Some(Self { host: self.host.clone(), port: self.port.checked_add(ADMIN)? })
    }

    /// Whether it is on this machine for sure.
    pub(crate) fn is_here(&self) -> bool {
        !self.here().is_empty()
    }

    /// The addresses of this machine that it may mean; none if it is not on this machine for sure.
    pub(crate) fn here(&self) -> Vec<SocketAddr> {
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let ips = match self.host.as_str() {
            "localhost" => loopback.to_vec(),
            host => host.parse::<IpAddr>().into_iter().filter(IpAddr::is_loopback).collect(),
        };
        ips.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Place {
    type Err = Usage;

    fn from_str(text: &str) -> Result<Self, Usage> {
        let bare = text.split_once("://").map_or(text, |(_, rest)| rest).trim_end_matches('/');
        let parsed: Option<http::uri::Authority> = bare.parse().ok();
        let found = parsed.as_ref().and_then(|it| Some((it.host().trim_matches(['[', ']']), it.port_u16()?)));
        match found {
            Some((host, port)) if !host.is_empty() => Ok(Self { host: host.to_owned(), port }),
            _ => Err(Usage::new(format!("{text:?} is no address, like http://127.0.0.1:8080 or 10.0.0.5:8080"))),
        }
    }
}

/// A gateway as people write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayUrl {
    /// Where it is.
    pub place: Place,
    /// How it is spoken to; none: that is to be found out.
    pub scheme: Option<Scheme>,
}

impl FromStr for GatewayUrl {
    type Err = Usage;

    fn from_str(text: &str) -> Result<Self, Usage> {
        let scheme = match text.split_once("://") {
            None => None,
            Some((http, _)) if http.eq_ignore_ascii_case("http") => Some(Scheme::Http),
            Some((https, _)) if https.eq_ignore_ascii_case("https") => Some(Scheme::Https),
            Some((other, _)) => {
                return Err(Usage::new(format!("a gateway is no {other:?}; write http:// or https://, or no scheme")));
            }
        };
        Ok(Self { place: text.parse()?, scheme })
    }
}

/// How the mesh was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// By flags.
    Flags,
    /// By the `weft up` that runs beside this file.
    Up(PathBuf),
    /// By this file alone, beside which nothing runs.
    File {
        file: PathBuf,
        /// Why `weft up` was not heard.
        why: String,
    },
}

/// A mesh to be checked.
#[derive(Debug, Clone)]
pub(crate) struct Mesh {
    pub(crate) origin: Origin,
    pub(crate) registries: RegistryUrls,
    /// File of the token that says who we are there.
    pub(crate) token: Option<PathBuf>,
    pub(crate) registry_admin: Option<Place>,
    pub(crate) gateway: Option<Place>,
    /// How the gateway is spoken to; none: that is to be found out.
    pub(crate) gateway_scheme: Option<Scheme>,
    pub(crate) gateway_admin: Option<Place>,
    /// What `weft up` runs; empty without one.
    pub(crate) rows: Vec<up::Process>,
    /// Services that `weft up` has, also those of which none runs; empty without one.
    pub(crate) services: BTreeSet<ServiceName>,
    /// Who listens where, as it was configured.
    pub(crate) ports: Vec<(&'static str, Place)>,
    /// What `weft up` gives the gateway to read; none: nothing, or there is none.
    pub(crate) gateways_file: Option<PathBuf>,
}

/// Why there is nothing to check.
#[derive(Debug, thiserror::Error)]
pub enum NoTarget {
    /// Neither a file nor flags.
    #[error(
        "no {} here or above; name one with --file, or a mesh with --registry and --gateway",
        weft_up::config::FILE
    )]
    Nothing,
    /// The file is wrong.
    #[error(transparent)]
    Config(ConfigError),
    /// `weft up` has not started anything yet.
    #[error("`weft up` is still building; check again when it says that it is ready")]
    Building,
    /// It makes no address.
    #[error(transparent)]
    Address(#[from] weft_discovery::BadUrl),
}

impl Mesh {
    /// Finds the mesh that `args` mean; `dir` is the working directory. Asks `weft up`, at most 2 s.
    pub(crate) async fn find(args: &Args, dir: &Path) -> Result<Self, NoTarget> {
        match &args.registry {
            Some(registries) => Ok(Self::named(args, registries, dir)),
            None => Self::beside(args.file.as_deref(), args.token_file.as_deref(), dir).await,
        }
    }

    fn named(args: &Args, registries: &RegistryUrls, dir: &Path) -> Self {
        let registry: Option<Place> = registries.to_string().split(',').next().and_then(|url| url.parse().ok());
        let registry_admin = args.registry_admin.clone().or_else(|| registry.as_ref()?.admin());
        let gateway_admin = args.gateway_admin.clone().or_else(|| args.gateway.as_ref()?.place.admin());
        Self {
            origin: Origin::Flags,
            registries: registries.clone(),
            token: args.token_file.clone().or_else(|| weft_up::config::operator_token(None, dir).ok()),
            registry_admin,
            gateway: args.gateway.as_ref().map(|it| it.place.clone()),
            gateway_scheme: args.gateway.as_ref().and_then(|it| it.scheme),
            gateway_admin,
            rows: Vec::new(),
            services: BTreeSet::new(),
            ports: Vec::new(),
            gateways_file: None,
        }
    }

    async fn beside(file: Option<&Path>, token_file: Option<&Path>, dir: &Path) -> Result<Self, NoTarget> {
        let config = Config::load(file, dir).map_err(|error| match error {
            ConfigError::NotFound { .. } => NoTarget::Nothing,
            other => NoTarget::Config(other),
        })?;
        let asked = async {
            let mut up = client::connect(Some(&config.file), dir).await.map_err(|error| error.to_string())?;
            let status = up.status(up::StatusRequest {}).await.map_err(|status| status.message().to_owned())?;
            Ok(status.into_inner())
        };
        let said = timeout(UP, asked).await.unwrap_or_else(|_| Err(format!("`weft up` does not answer within {UP:?}")));
        let (origin, rows, services) = match said {
            // Where people reach the mesh is known when it is ready.
            Ok(said) if said.processes.is_empty() && said.urls.is_empty() => return Err(NoTarget::Building),
            Ok(said) => (Origin::Up(config.file.clone()), said.processes, config.services.keys().cloned().collect()),
            Err(why) => (Origin::File { file: config.file.clone(), why }, Vec::new(), BTreeSet::new()),
        };
        let announced = |role: &str, proto: &str| {
            let row = rows.iter().find(|row| row.name == role)?;
            row.addresses.get(proto)?.parse::<Place>().ok()
        };
        let written = |addr: std::net::SocketAddr| Place { host: addr.ip().to_string(), port: addr.port() };
        let (listen, http) = (written(config.registry.listen.get()), written(config.registry.http.get()));
        let (gateway, admin) = (written(config.gateway.listen.get()), written(config.gateway.listen.admin().get()));
        let dns = written(config.registry.dns.get());
        let of_registry = [&listen, &http, &dns].map(|place| ("registry", place));
        let ports = of_registry.into_iter().chain([("gateway", &gateway), ("gateway", &admin)]);
        let ports = ports.filter(|(_, place)| place.port != 0).map(|(role, place)| (role, place.clone())).collect();
        let registry = announced("registry", "grpc").unwrap_or(listen);
        Ok(Self {
            origin,
            registries: format!("https://{registry}").parse()?,
            token: Some(token_file.map_or_else(|| config.registry.operator_token(), Path::to_owned)),
            registry_admin: Some(announced("registry", "admin").unwrap_or(http)),
            gateway: Some(announced("gateway", "http").unwrap_or(gateway)),
            gateway_scheme: None, // its file may have changed since it started
            gateway_admin: Some(announced("gateway", "admin").unwrap_or(admin)),
            rows,
            services,
            ports,
            gateways_file: config.gateway.config,
        })
    }

    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        let args = Args { registry: Some("http://127.0.0.1:1".parse().expect("it is a URL")), ..Args::default() };
        Self::named(&args, args.registry.as_ref().expect("set above"), Path::new("/"))
    }

    /// What `weft up` says of a role, if it says anything but that all is well.
    pub(crate) fn told(&self, role: &str) -> Option<String> {
        let row = self.rows.iter().find(|row| row.name == role && row.state != "serving")?;
        Some(if row.reason.is_empty() { row.state.clone() } else { format!("{}: {}", row.state, row.reason) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Place>().map(|place| place.to_string()).unwrap_or_default();
        assert_eq!(read("http://127.0.0.1:8080/"), "127.0.0.1:8080");
        assert_eq!(read("gateway.example:80"), "gateway.example:80");
        assert_eq!(read("[::1]:8080"), "[::1]:8080");
        for wrong in ["", "8080", ":8080", "http://a", "a:b"] {
            assert_eq!(read(wrong), "", "{wrong:?}");
        }
    }

    #[test]
    fn a_gateway_is_asked_by_the_scheme_that_was_written() {
        let read = |text: &str| text.parse::<GatewayUrl>().map(|it| (it.place.to_string(), it.scheme));
        let there = "10.0.0.7:8080".to_owned();
        assert_eq!(read("http://10.0.0.7:8080").unwrap(), (there.clone(), Some(Scheme::Http)));
        assert_eq!(read("HTTPS://10.0.0.7:8080/").unwrap(), (there.clone(), Some(Scheme::Https)));
        assert_eq!(read("10.0.0.7:8080").unwrap(), (there, None));
        assert!(read("ftp://10.0.0.7:8080").unwrap_err().to_string().contains("https://"));
    }

    #[test]
    fn admin_is_eighty_ports_up_unless_it_is_named() {
        let place = |text: &str| Some(text.parse::<Place>().unwrap());
        let mut args = Args {
            registry: Some("http://10.0.0.5:7100,http://10.0.0.6:7100".parse().unwrap()),
            gateway: Some("10.0.0.7:8080".parse().unwrap()),
            ..Args::default()
        };
        let mesh = |args: &Args| Mesh::named(args, args.registry.as_ref().unwrap(), Path::new("/"));
        assert_eq!(
            (mesh(&args).registry_admin, mesh(&args).gateway_admin),
            (place("10.0.0.5:7180"), place("10.0.0.7:8160"))
        );
        args.gateway_admin = place("10.0.0.8:1");
        assert_eq!(mesh(&args).gateway_admin, place("10.0.0.8:1"));
    }

    #[test]
    fn without_a_token_file_that_of_the_mesh_in_the_directory_is_used() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut args = Args { registry: Some("https://10.0.0.5:7100".parse().unwrap()), ..Args::default() };
        let token = |args: &Args, dir: &Path| Mesh::named(args, args.registry.as_ref().unwrap(), dir).token;
        assert_eq!(token(&args, dir.path()), None);
        std::fs::write(dir.path().join("weft.toml"), "[registry]\ndata = \"here\"\n").unwrap();
        let below = dir.path().join("below");
        std::fs::create_dir(&below).unwrap();
        assert_eq!(token(&args, &below), Some(dir.path().join("here/ca/operator.token")));
        args.token_file = Some("given".into());
        assert_eq!(token(&args, &below), Some("given".into()));
    }

    #[test]
    fn only_loopback_is_here() {
        let here = |text: &str| text.parse::<Place>().unwrap().here().len();
        assert_eq!((here("127.0.0.1:1"), here("[::1]:1"), here("localhost:1")), (1, 1, 2));
        assert_eq!((here("10.0.0.5:1"), here("example.com:1")), (0, 0));
    }
}
