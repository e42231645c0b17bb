//! What the code really has: flags, listeners, variables, commands of health and drain, targets.
//!
//! Lives here: asking the code. Flags go through the roles' own parsers and the rules between them, as at a start; files of tokens and roots are put in
//! the place of those that they name. Does not: the files that are held against it.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use clap::Parser;
use tempfile::TempDir;
use weft_registry::ca::{Ca, Settings};
use weft_runtime::listen::ListenAddr;
use weft_testkit::secure;

use crate::files;

/// What answers on an admin port; asked of a real mesh in `monitoring`.
pub(crate) const ADMIN_PATHS: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/drain"];

/// What a command line makes of a process.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its role.
    pub(crate) role: String,
    /// Ports that other machines reach, admin included.
    pub(crate) open: BTreeSet<u16>,
    /// Port of `/healthz` and its like.
    pub(crate) admin: u16,
    /// Where its app listens.
    pub(crate) app: Option<u16>,
    /// Its service.
    pub(crate) service: Option<String>,
    /// Where apps dial it.
    pub(crate) outbound: Option<u16>,
    /// URLs of its registries.
    pub(crate) registries: Vec<String>,
    /// Where it keeps data.
    pub(crate) data: Option<String>,
    /// File of the token with which it joins.
    pub(crate) token: Option<String>,
    /// File of the root it demands to see.
    pub(crate) root: Option<String>,
    /// Where it puts its program.
    pub(crate) program: Option<String>,
    /// URLs by which tokens name it.
    pub(crate) advertised: Vec<String>,
    /// Audience of the tokens of Kubernetes that it takes.
    pub(crate) audience: Option<String>,
}

/// Files of the right kind, whatever a command line calls them.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The line with its token and its root: beside a root stands somebody else's token, else one of ours.
    fn stand_in(&self, line: &[String]) -> Vec<String> {
        let (token, root) = (self.0.path().join("token"), self.0.path().join("root"));
        let pinned = line.iter().any(|it| it.starts_with("--registry-pin-file="));
        if pinned {
            fs::write(&root, "1".repeat(64)).unwrap();
            fs::write(&token, "a.projected.token").unwrap();
        } else if line.iter().any(|it| it.starts_with("--token-file=")) {
            weft_discovery::write_token(&token, &self.minted()).unwrap();
        }
        let flag = |it: &String| match it.split_once('=') {
            Some((name @ "--token-file", _)) => format!("{name}={}", token.display()),
            Some((name @ "--registry-pin-file", _)) => format!("{name}={}", root.display()),
            _ => it.clone(),
        };
        line.iter().map(flag).collect()
    }

    fn minted(&self) -> String {
        let settings = Settings {
            dir: self.0.path().join("ca"),
            trust_domain: "weft.local".parse().unwrap(),
            life: Duration::from_secs(60),
            advertise: vec!["https://registry:7100".to_owned()],
            kubernetes: None,
        };
        let ca = Ca::open(&settings, secure::clock()).unwrap();
        ca.create_token(Some(&"users".parse().unwrap()), None).unwrap().0
    }
}

#[derive(Parser)]
struct Flags<A: clap::Args> {
    #[command(flatten)]
    args: A,
}

fn parse<A: clap::Args>(line: &[String]) -> Result<A, String> {
    Flags::<A>::try_parse_from(line).map(|it| it.args).map_err(|error| error.to_string())
}

/// A token of ours, of an authority that is nobody's.
pub(crate) fn token() -> String {
    Files::new().minted()
}

/// Reads the arguments of `weft` as `weft` does.
pub(crate) fn process(line: &[String]) -> Result<Process, String> {
    let role = line.first().ok_or("no role is named")?.clone();
    let usage = |error: weft_runtime::Usage| error.to_string();
    let open = |addresses: &[ListenAddr]| {
        let reachable = addresses.iter().map(|it| it.get()).filter(|it| !it.ip().is_loopback());
        reachable.map(|it| it.port()).collect()
    };
    let flag = |name: &str| line.iter().find_map(|it| it.strip_prefix(&format!("--{name}="))).map(str::to_owned);
    let registries = flag("registry").iter().flat_map(|urls| urls.split(',')).map(str::to_owned).collect();
    let (token, root) = (flag("token-file"), flag("registry-pin-file"));
    let files = Files::new();
    let line = &files.stand_in(line);
    match role.as_str() {
        "registry" => {
            let args: weft_registry::Args = parse(line)?;
            let data = Some(args.data.to_string_lossy().into_owned());
            let (advertised, audience) = (args.advertise.clone(), args.kubernetes_audience.clone());
            let config = weft_registry::Config::load(args).map_err(usage)?;
            let (open, admin) = (open(&[config.listen, config.http]), config.http.get().port());
            Ok(Process { role, open, admin, data, advertised, audience, ..Process::default() })
        }
        "gateway" => {
            let args: weft_gateway::Args = parse(line)?;
            let config = weft_gateway::Config::load(args).map_err(usage)?;
            let admin = config.listen.admin();
            let open = open(&[config.listen, admin]);
            let admin = admin.get().port();
            Ok(Process { role, open, admin, registries, token, root, ..Process::default() })
        }
        "sidecar" => {
            let args: weft_sidecar::Args = parse(line)?;
            let (data, program) = (flag("data"), flag("share-program"));
            let config = weft_sidecar::Config::load(args).map_err(usage)?;
            let admin = config.inbound.admin();
            Ok(Process {
                role,
                open: open(&[config.inbound, config.outbound, admin]),
                admin: admin.get().port(),
                app: Some(config.app.port()),
                service: Some(config.service.to_string()),
                outbound: Some(config.outbound.get().port()),
                registries,
                data,
                token,
                root,
                program,
                ..Process::default()
            })
        }
        other => Err(format!("{other:?} is no role")),
    }
}

/// Holds a command of health or drain against the real program: nothing listens where the test runs it, so it must come to a no (1), not to a
/// complaint about how it was called (2).
pub(crate) fn asking_command(weft: &Path, line: &[String]) {
    let program = line.first().map(|it| it.rsplit('/').next().unwrap());
    assert_eq!(program, Some("weft"), "{line:?} is no command of an image of ours");
    let line = line[1..].iter().map(|word| if word.starts_with("127.0.0.1:") { "127.0.0.1:1" } else { word.as_str() });
    let Output { status, stderr, .. } = Command::new(weft).args(line).arg("--timeout=1").output().unwrap();
    assert_eq!(status.code(), Some(1), "{}", String::from_utf8_lossy(&stderr));
}

/// Whether our own code, tests aside, speaks of an environment variable.
pub(crate) fn reads_variable(name: &str) -> bool {
    let literal = format!("\"{name}\"");
    let rooms = ["crates", "registry", "gateway", "sidecar", "services"];
    let sources = rooms.iter().flat_map(|room| files::below(room, ".rs"));
    let shipped = sources.filter(|path| !path.components().any(|it| it.as_os_str() == "tests"));
    let mut texts = shipped.map(|path| fs::read_to_string(path).unwrap());
    texts.any(|text| text.split("#[cfg(test)]").next().is_some_and(|code| code.contains(&literal)))
}

#[test]
fn a_flag_or_variable_that_the_code_does_not_have_is_found() {
    let line = |text: &str| process(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
    let gateway = line("gateway --listen=:8080 --registry=http://r:7100 --insecure").unwrap();
    assert_eq!((gateway.open, gateway.admin), (BTreeSet::from([8080, 8160]), 8160));
    assert!(line("gateway --lisen=:8080").unwrap_err().contains("--lisen"));
    assert!(line("gatway").unwrap_err().contains("gatway"));
    assert!(line("gateway --token-file=/a --registry-pin-file=/b").unwrap_err().contains("--registry"));
    let joined = line("gateway --token-file=/a --registry=https://r:1 --registry-pin-file=/b").unwrap();
    assert_eq!((joined.token.as_deref(), joined.root.as_deref()), (Some("/a"), Some("/b")));
    assert!(
        line("sidecar --service=a --app=127.0.0.1:1 --registry=http://r:1 --inbound=:7300 --insecure")
            .unwrap_err()
            .contains("--advertise")
    );
    assert!(reads_variable("WEFT_OUTBOUND") && !reads_variable("WEFT_OUTBUOND"));
}
