//! What the code really has: flags, listeners, variables, health commands, targets.
//!
//! Lives here: asking the code. Flags go through the roles' own parsers and the rules between them, as at a start. Does not: the files
//! that are held against it.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output},
};

use clap::Parser;
use weft_runtime::listen::ListenAddr;

use crate::files;

/// What answers on an admin port; asked of a real mesh in `monitoring`.
pub(crate) const ADMIN_PATHS: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/drain"];

/// What a command line makes of a process.
#[derive(Debug, PartialEq, Eq)]
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
}

#[derive(Parser)]
struct Flags<A: clap::Args> {
    #[command(flatten)]
    args: A,
}

fn parse<A: clap::Args>(line: &[String]) -> Result<A, String> {
    Flags::<A>::try_parse_from(line).map(|it| it.args).map_err(|error| error.to_string())
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
    match role.as_str() {
        "registry" => {
            let args: weft_registry::Args = parse(line)?;
            let data = Some(args.data.to_string_lossy().into_owned());
            let config = weft_registry::Config::load(args).map_err(usage)?;
            let (open, admin) = (open(&[config.listen, config.http]), config.http.get().port());
            Ok(Process { role, open, admin, app: None, service: None, outbound: None, registries: vec![], data })
        }
        "gateway" => {
            let args: weft_gateway::Args = parse(line)?;
            let config = weft_gateway::Config::load(args).map_err(usage)?;
            let admin = config.listen.admin();
            let open = open(&[config.listen, admin]);
            let admin = admin.get().port();
            Ok(Process { role, open, admin, app: None, service: None, outbound: None, registries, data: None })
        }
        "sidecar" => {
            let args: weft_sidecar::Args = parse(line)?;
            let data = flag("data");
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
            })
        }
        other => Err(format!("{other:?} is no role")),
    }
}

/// Holds a health command against the real program: nothing listens where the test runs it, so it must come to a no (1), not to a
/// complaint about how it was called (2).
pub(crate) fn health_command(weft: &Path, line: &[String]) {
    assert_eq!(line.first().map(String::as_str), Some("weft"), "{line:?} is no command of an image of ours");
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
    assert!(
        line("sidecar --service=a --app=127.0.0.1:1 --registry=http://r:1 --inbound=:7300 --insecure")
            .unwrap_err()
            .contains("--advertise")
    );
    assert!(reads_variable("WEFT_OUTBOUND") && !reads_variable("WEFT_OUTBUOND"));
}
