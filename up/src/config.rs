//! `weft.toml`: what one machine's mesh consists of.
//!
//! Lives here: finding the file, its schema, and everything that makes it wrong, with file and line. Does not: the order its services
//! start in (`order`), what they are started with (`launch`).
//! Invariants: a [`Config`] names only services that exist, its `needs` have no cycle, and every listener is on loopback.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::Spanned;
use weft_model::{Invalid, Locality, ServiceName, Weight};
use weft_runtime::{
    Mistake,
    listen::{Insecure, ListenAddr},
};

use crate::order;

/// The file's name.
pub const FILE: &str = "weft.toml";
/// Where a registry keeps its data unless told otherwise.
const REGISTRY: &str = ".weft/registry";
/// Instances of one service at most, as in `weft.up.v1`.
pub const MAX_SCALE: u32 = 100;

/// One machine's mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// The registry.
    pub registry: Registry,
    /// The gateway.
    pub gateway: Gateway,
    /// The services by name.
    pub services: BTreeMap<ServiceName, Service>,
}

/// `[registry]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// `listen`: gRPC. Default 127.0.0.1:7100.
    pub listen: ListenAddr,
    /// `http`: readiness, metrics, Prometheus' discovery. Default 127.0.0.1:7180.
    pub http: ListenAddr,
    /// `dns`: names below `weft.`, by UDP and TCP. Default 127.0.0.1:7153; any free port if that of `http` is 0.
    pub dns: ListenAddr,
    /// `data`: directory of the catalog. Default `.weft/registry`.
    pub data: PathBuf,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            listen: ListenAddr::loopback(7100),
            http: ListenAddr::loopback(7180),
            dns: ListenAddr::loopback(7153),
            data: REGISTRY.into(),
        }
    }
}

impl Registry {
    /// File of the token that its operators use; the registry writes it.
    pub fn operator_token(&self) -> PathBuf {
        self.data.join("ca/operator.token")
    }
}

/// `[gateway]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// `listen`: every protocol on one port. Default 127.0.0.1:8080.
    pub listen: ListenAddr,
    /// `config`: a file for `weft gateway --config`. Default none.
    pub config: Option<PathBuf>,
}

/// `[services.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `package` or `command`: what an instance runs.
    pub run: Run,
    /// `scale`: instances, 0 to 100. Default 1.
    pub scale: u32,
    /// `needs`: services that serve before this one starts. Default none.
    pub needs: Vec<ServiceName>,
    /// `env`: variables of the app beside the inherited ones. Default none.
    pub env: BTreeMap<String, String>,
    /// `data`: which directory an instance keeps its data in. Default one each.
    pub data: Data,
    /// `plaintext`: who may call an instance without a certificate. Default nobody.
    pub plaintext: Plaintext,
    /// `descriptor_set`: a file with the encoded FileDescriptorSet of the app. Default none: the app is asked by gRPC reflection.
    pub descriptor_set: Option<PathBuf>,
    /// `locality`: where its instances are, `REGION[/ZONE[/SUB_ZONE]]`. Default unknown.
    pub locality: Option<Locality>,
    /// `weight`: the share of traffic of each instance. Default 1.
    pub weight: Option<Weight>,
}

/// Who may call an instance without a certificate: as nobody, to whom access rules apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Plaintext {
    /// Nobody.
    #[default]
    Refuse,
    /// Processes of this machine.
    Loopback,
    /// Everybody.
    Allow,
}

impl Plaintext {
    const ALL: [Self; 3] = [Self::Refuse, Self::Loopback, Self::Allow];

    /// As the file and the sidecar's flag call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Loopback => "loopback",
            Self::Allow => "allow",
        }
    }
}

/// What an instance runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// A cargo package with one binary, built first.
    Package(String),
    /// A program and its arguments.
    Command(Vec<String>),
}

/// Which directory an instance keeps its data in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// `.weft/data/<service>`, the same for all.
    Shared,
    /// `.weft/data/<slot>`; a replacement takes over the directory of the instance it replaces.
    PerInstance,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Nobody wrote one.
    #[error("no {FILE} in {} or above; write one, or name a file with --file", .dir.display())]
    NotFound {
        /// Where the search began.
        dir: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read {}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It says something that cannot be.
    #[error("{}:{line}: {problem}", .file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

impl Config {
    /// Reads `file`, or the first `weft.toml` in `dir` and the directories above it.
    pub fn load(file: Option<&Path>, dir: &Path) -> Result<Self, ConfigError> {
        let file = locate(file, dir)?;
        let text =
            fs::read_to_string(&file).map_err(|source| ConfigError::Unreadable { file: file.clone(), source })?;
        Self::parse(&file, &text)
    }

    /// The directory that relative paths of the file start from, and that `.weft` lies in.
    pub fn root(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("/"))
    }

    /// The cargo packages to build, each once.
    pub(crate) fn packages(&self) -> Vec<&str> {
        let mut packages: Vec<&str> = (self.services.values())
            .filter_map(|it| match &it.run {
                Run::Package(name) => Some(name.as_str()),
                Run::Command(_) => None,
            })
            .collect();
        packages.sort_unstable();
        packages.dedup();
        packages
    }

    fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let raw: RawFile =
            toml::from_str(text).map_err(|error| invalid(file, Mistake::said(text, error.span(), error.message())))?;
        raw.check(file).map_err(|wrong| wrong.in_file(file, text))
    }
}

/// Returns the absolute path of the file that [`Config::load`] reads.
pub fn locate(file: Option<&Path>, dir: &Path) -> Result<PathBuf, ConfigError> {
    match file {
        Some(file) => {
            let file = dir.join(file);
            file.canonicalize().map_err(|source| ConfigError::Unreadable { file, source })
        }
        None => (dir.ancestors().map(|dir| dir.join(FILE)).find(|file| file.is_file()))
            .ok_or_else(|| ConfigError::NotFound { dir: dir.to_owned() }),
    }
}

/// Returns where the operator's token of a mesh lies: below its registry's directory. Without a `weft.toml`, that of a plain `weft registry` that
/// was started in `dir`.
pub fn operator_token(file: Option<&Path>, dir: &Path) -> Result<PathBuf, ConfigError> {
    match Config::load(file, dir) {
        Ok(config) => Ok(config.registry.operator_token()),
        Err(error @ ConfigError::NotFound { .. }) => {
            let plain = Registry { data: dir.join(REGISTRY), ..Registry::default() }.operator_token();
            if plain.exists() { Ok(plain) } else { Err(error) }
        }
        Err(error) => Err(error),
    }
}

/// A problem at a place of the text.
struct Wrong {
    at: Range<usize>,
    problem: String,
}

impl Wrong {
    fn new(at: Range<usize>, problem: impl fmt::Display) -> Self {
        Self { at, problem: problem.to_string() }
    }

    fn in_file(self, file: &Path, text: &str) -> ConfigError {
        invalid(file, Mistake::found(text, self.at, &self.problem))
    }
}

fn invalid(file: &Path, Mistake { line, problem }: Mistake) -> ConfigError {
    ConfigError::Invalid { file: file.to_owned(), line, problem }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    registry: RawRegistry,
    #[serde(default)]
    gateway: RawGateway,
    #[serde(default)]
    services: BTreeMap<Spanned<String>, RawService>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawRegistry {
    listen: Option<Spanned<String>>,
    http: Option<Spanned<String>>,
    dns: Option<Spanned<String>>,
    data: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawGateway {
    listen: Option<Spanned<String>>,
    config: Option<Spanned<PathBuf>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    package: Option<Spanned<String>>,
    command: Option<Spanned<Vec<String>>>,
    scale: Option<Spanned<u32>>,
    #[serde(default)]
    needs: Vec<Spanned<String>>,
    #[serde(default)]
    env: BTreeMap<Spanned<String>, String>,
    data: Option<Spanned<String>>,
    plaintext: Option<Spanned<String>>,
    descriptor_set: Option<Spanned<PathBuf>>,
    locality: Option<Spanned<String>>,
    weight: Option<Spanned<u32>>,
}

impl RawFile {
    fn check(self, file: &Path) -> Result<Config, Wrong> {
        let root = file.parent().unwrap_or(Path::new("/"));
        let http = listener(self.registry.http, 7180)?;
        let registry = Registry {
            listen: listener(self.registry.listen, 7100)?,
            http,
            dns: listener(self.registry.dns, if http.get().port() == 0 { 0 } else { 7153 })?,
            data: root.join(self.registry.data.unwrap_or_else(|| REGISTRY.into())),
        };
        let gateway = Gateway {
            listen: listener(self.gateway.listen, 8080)?,
            config: self.gateway.config.map(|path| existing(root, path)).transpose()?,
        };
        let mut names = BTreeMap::new();
        for key in self.services.keys() {
            let name = service_name(key)?;
            if ["registry", "gateway"].contains(&name.to_string().as_str()) {
                return Err(Wrong::new(
                    key.span(),
                    format!("{name:?} is the name of a role; call the service otherwise"),
                ));
            }
            names.insert(name, key.span());
        }
        let mut needs = BTreeMap::new();
        let mut services = BTreeMap::new();
        for (key, raw) in self.services {
            let name = service_name(&key)?;
            needs.insert(name.clone(), raw.needs.iter().map(|need| need.span()).collect::<Vec<_>>());
            services.insert(name, raw.check(key.span(), &names, root)?);
        }
        if let Err(cycle) = order::stages(services.iter().map(|(name, it)| (name, it.needs.as_slice()))) {
            let at = needs.get(&cycle.0[0]).and_then(|spans| spans.first().cloned()).unwrap_or_default();
            return Err(Wrong::new(at, cycle));
        }
        Ok(Config { file: file.to_owned(), registry, gateway, services })
    }
}

impl RawService {
    fn check(
        self,
        at: Range<usize>,
        names: &BTreeMap<ServiceName, Range<usize>>,
        root: &Path,
    ) -> Result<Service, Wrong> {
        Ok(Service {
            run: run(self.package, self.command, at)?,
            scale: match self.scale {
                Some(scale) if *scale.get_ref() > MAX_SCALE => {
                    return Err(Wrong::new(
                        scale.span(),
                        format!("{} instances, at most {MAX_SCALE}", scale.get_ref()),
                    ));
                }
                scale => scale.map_or(1, Spanned::into_inner),
            },
            needs: self.needs.into_iter().map(|need| needed(&need, names)).collect::<Result<_, _>>()?,
            env: self.env.into_iter().map(variable).collect::<Result<_, _>>()?,
            data: match self.data {
                None => Data::PerInstance,
                Some(data) if data.get_ref() == "shared" => Data::Shared,
                Some(data) => {
                    let problem = format!(
                        "{:?} is not known here; write \"shared\", or leave it out for one directory an instance",
                        data.get_ref()
                    );
                    return Err(Wrong::new(data.span(), problem));
                }
            },
            plaintext: self.plaintext.map(plaintext).transpose()?.unwrap_or_default(),
            descriptor_set: self.descriptor_set.map(|path| existing(root, path)).transpose()?,
            locality: self.locality.map(|it| sound(it.span(), it.get_ref().parse::<Locality>())).transpose()?,
            weight: self.weight.map(|it| sound(it.span(), Weight::new(*it.get_ref()))).transpose()?,
        })
    }
}

fn plaintext(text: Spanned<String>) -> Result<Plaintext, Wrong> {
    let found = Plaintext::ALL.into_iter().find(|it| it.as_str() == text.get_ref());
    let problem = || format!("{:?} is not known here; write \"refuse\", \"loopback\" or \"allow\"", text.get_ref());
    found.ok_or_else(|| Wrong::new(text.span(), problem()))
}

fn run(
    package: Option<Spanned<String>>,
    command: Option<Spanned<Vec<String>>>,
    at: Range<usize>,
) -> Result<Run, Wrong> {
    match (package, command) {
        (Some(package), None) if !package.get_ref().is_empty() => Ok(Run::Package(package.into_inner())),
        (None, Some(command)) if command.get_ref().first().is_some_and(|program| !program.is_empty()) => {
            Ok(Run::Command(command.into_inner()))
        }
        (Some(package), None) => {
            Err(Wrong::new(package.span(), "it is empty; name a cargo package, or leave it out and give command"))
        }
        (None, Some(command)) => Err(Wrong::new(command.span(), "it names no program; write [\"program\", …]")),
        (Some(_), Some(command)) => Err(Wrong::new(command.span(), "give either package or command, not both")),
        (None, None) => Err(Wrong::new(at, "give package = \"<cargo package>\" or command = [\"program\", …]")),
    }
}

fn listener(text: Option<Spanned<String>>, default_port: u16) -> Result<ListenAddr, Wrong> {
    let Some(text) = text else { return Ok(ListenAddr::loopback(default_port)) };
    let addr: ListenAddr = text.get_ref().parse().map_err(|error| Wrong::new(text.span(), error))?;
    if addr.require_loopback("", Insecure::Refused).is_err() {
        let problem = format!(
            "{addr} is reachable from other machines; `weft up` listens on loopback, like 127.0.0.1:{default_port}"
        );
        return Err(Wrong::new(text.span(), problem));
    }
    Ok(addr)
}

fn existing(root: &Path, path: Spanned<PathBuf>) -> Result<PathBuf, Wrong> {
    let full = root.join(path.get_ref());
    if full.is_file() {
        Ok(full)
    } else {
        Err(Wrong::new(path.span(), format!("there is no file {}; correct the path, or leave it out", full.display())))
    }
}

fn sound<T>(at: Range<usize>, read: Result<T, Invalid>) -> Result<T, Wrong> {
    read.map_err(|wrong| Wrong::new(at, wrong))
}

fn service_name(key: &Spanned<String>) -> Result<ServiceName, Wrong> {
    sound(key.span(), key.get_ref().parse())
}

fn needed(need: &Spanned<String>, names: &BTreeMap<ServiceName, Range<usize>>) -> Result<ServiceName, Wrong> {
    let name = service_name(need)?;
    if names.contains_key(&name) {
        return Ok(name);
    }
    Err(Wrong::new(need.span(), format!("there is no [services.{name}]; add it, or take {name} out")))
}

fn variable((key, value): (Spanned<String>, String)) -> Result<(String, String), Wrong> {
    let name = key.get_ref();
    let ours = name == "PORT" || name.starts_with("WEFT_");
    if ours || name.is_empty() || name.contains(['=', '\0']) {
        let why = if ours { "is set by the sidecar" } else { "is no name of a variable" };
        return Err(Wrong::new(key.span(), format!("{name:?} {why}")));
    }
    Ok((key.into_inner(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("/m/weft.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_is_a_registry_and_a_gateway_at_their_default_ports() {
        let config = parse("").unwrap();
        assert_eq!(config.registry.listen, ListenAddr::loopback(7100));
        assert_eq!(config.registry.http, ListenAddr::loopback(7180));
        assert_eq!(config.registry.dns, ListenAddr::loopback(7153));
        assert_eq!(config.registry.data, Path::new("/m/.weft/registry"));
        assert_eq!(config.gateway, Gateway { listen: ListenAddr::loopback(8080), config: None });
        assert!(config.services.is_empty());
    }

    #[test]
    fn every_key_is_read() {
        let config = parse(
            "[registry]\nlisten = \"127.0.0.1:0\"\nhttp = \"[::1]:0\"\ndata = \"/elsewhere\"\n[gateway]\nlisten = \"localhost:0\"\n\
             [services.users]\npackage = \"weft-users\"\nscale = 2\nneeds = [\"mail\"]\nenv = { LOG_SQL = \"1\" }\ndata = \"shared\"\nplaintext = \"loopback\"\n\
             locality = \"eu/a\"\nweight = 3\n\
             [services.mail]\ncommand = [\"python3\", \"app.py\"]\n",
        )
        .unwrap();
        assert_eq!(config.registry.data, Path::new("/elsewhere"));
        assert_eq!(config.registry.dns, ListenAddr::loopback(0), "anywhere, as http");
        assert_eq!(config.gateway.listen, ListenAddr::loopback(0));
        let users = &config.services[&"users".parse().unwrap()];
        assert_eq!(users.run, Run::Package("weft-users".to_owned()));
        assert_eq!((users.scale, users.data, users.plaintext), (2, Data::Shared, Plaintext::Loopback));
        assert_eq!(users.needs, ["mail".parse().unwrap()]);
        assert_eq!(users.env["LOG_SQL"], "1");
        let mail = &config.services[&"mail".parse().unwrap()];
        assert_eq!(mail.run, Run::Command(vec!["python3".to_owned(), "app.py".to_owned()]));
        assert_eq!((mail.scale, mail.data, mail.plaintext), (1, Data::PerInstance, Plaintext::Refuse));
        assert_eq!((&users.locality, users.weight), (&Some("eu/a".parse().unwrap()), Some(Weight::new(3).unwrap())));
        assert_eq!((&mail.descriptor_set, &mail.locality, mail.weight), (&None, &None, None));
        assert_eq!(config.packages(), ["weft-users"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_file_and_line() {
        let users = "[services.users]\npackage = \"p\"\n";
        let cases = [
            ("[registry]\nport = 1\n", "2: [registry]: there is no key port; there are listen, http, dns and data"),
            ("\n\n[broker]\n", "3: there is no key broker; there are registry, gateway and services"),
            ("[gateway]\nlisten = 8080\n", "2: [gateway] listen: expected a text in quotes, found the number 8080"),
            ("[gateway]\nlisten = \"here\"\n", "2: [gateway] listen: \"here\" is no address to listen on"),
            ("[gateway]\nlisten = \":8080\"\n", "2: [gateway] listen: :8080 is reachable from other machines"),
            ("[gateway]\nconfig = \"none.toml\"\n", "2: [gateway] config: there is no file /m/none.toml"),
            (
                "[gateway]\nlisten = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"\n",
                "3: [gateway] listen: it is there a second time; leave one",
            ),
            ("[services.Users]\npackage = \"p\"\n", "1: [services.Users]: name \"Users\" is no DNS label"),
            (
                "[services.registry]\npackage = \"p\"\n",
                "1: [services.registry]: registry.default is the name of a role",
            ),
            ("[services.users]\nscale = 2\n", "1: [services.users]: give package = \"<cargo package>\" or command"),
            (
                "[services.users]\npackage = \"p\"\ncommand = [\"c\"]\n",
                "3: [services.users] command: give either package or command, not both",
            ),
            (
                "[services.users]\ncommand = \"python3 app.py\"\n",
                "2: [services.users] command: expected a list of texts in quotes, found the text \"python3 app.py\"; write command = [\"python3\", \"app.py\"]",
            ),
            ("[services.users]\ncommand = []\n", "2: [services.users] command: it names no program"),
            ("[services.users]\npackage = \"\"\n", "2: [services.users] package: it is empty; name a cargo package"),
            (
                "[services.users]\npackage = \"p\"\nscale = 101\n",
                "3: [services.users] scale: 101 instances, at most 100",
            ),
            (
                "[services.users]\npackage = \"p\"\nscale = -1\n",
                "3: [services.users] scale: expected a whole number, not below 0, found the number -1",
            ),
            (
                "[services.users]\npackage = \"p\"\nneeds = [\"mail\"]\n",
                "3: [services.users] needs: there is no [services.mail]; add it, or take mail out",
            ),
            (
                "[services.users]\npackage = \"p\"\nneeds = [\"users\"]\n",
                "3: [services.users] needs: needs form a cycle: users → users",
            ),
            (
                "[services.users]\npackage = \"p\"\ndata = \"mine\"\n",
                "3: [services.users] data: \"mine\" is not known here; write \"shared\"",
            ),
            (
                "[services.users]\npackage = \"p\"\nplaintext = \"yes\"\n",
                "3: [services.users] plaintext: \"yes\" is not known here; write \"refuse\", \"loopback\" or \"allow\"",
            ),
            (
                "[services.users]\npackage = \"p\"\ndescriptor_set = \"none.binpb\"\n",
                "3: [services.users] descriptor_set: there is no file /m/none.binpb",
            ),
            (
                "[services.users]\npackage = \"p\"\nlocality = \"eu west\"\n",
                "3: [services.users] locality: \"eu west\" is no place: expected REGION, REGION/ZONE",
            ),
            ("[services.users]\npackage = \"p\"\nweight = 0\n", "3: [services.users] weight: 0 is outside 1 to 65535"),
            (
                "[services.users]\npackage = \"p\"\nenv = { PORT = \"1\" }\n",
                "3: [services.users] env: \"PORT\" is set by the sidecar",
            ),
            (
                "[services.users]\npackage = \"p\"\nenv = { A = 1 }\n",
                "3: [services.users] env: expected a text in quotes, found the number 1",
            ),
            ("[services.users\n", "1: "),
        ];
        for (text, wanted) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(&format!("/m/weft.toml:{wanted}")), "{text:?} gave {error:?}, not {wanted:?}");
        }
        assert!(parse(users).is_ok());
    }

    #[test]
    fn a_descriptor_set_lies_beside_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let set = dir.path().join("mail.binpb");
        fs::write(&set, "").unwrap();
        let text = "[services.mail]\ncommand = [\"./mail\"]\ndescriptor_set = \"mail.binpb\"\n";
        let config = Config::parse(&dir.path().join(FILE), text).unwrap();
        assert_eq!(config.services[&"mail".parse().unwrap()].descriptor_set, Some(set));
    }

    #[test]
    fn a_longer_cycle_is_shown_whole() {
        let text = "[services.a]\npackage = \"p\"\nneeds = [\"b\"]\n[services.b]\npackage = \"p\"\nneeds = [\"c\"]\n[services.c]\npackage = \"p\"\nneeds = [\"a\"]\n";
        assert_eq!(parse(text).unwrap_err(), "/m/weft.toml:3: [services.a] needs: needs form a cycle: a → b → c → a");
    }

    #[test]
    fn the_file_is_found_in_the_directory_or_above() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let deep = root.join("a/b");
        fs::create_dir_all(&deep).unwrap();
        let error = locate(Some(Path::new("other.toml")), &deep).unwrap_err();
        assert!(error.to_string().contains("a/b/other.toml"), "{error}");
        fs::write(root.join(FILE), "").unwrap();
        assert_eq!(Config::load(None, &deep).unwrap().root(), root);
        assert_eq!(Config::load(Some(Path::new("../../weft.toml")), &deep).unwrap().root(), root);
    }
}
