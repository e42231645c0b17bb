//! The environment, read once: where the repository and the cache are, and how a child process is started.
//!
//! Lives here: every environment variable that xtask looks at. Does not: running a child and judging its end (`run`).
//! Invariant: no child inherits the `CARGO_*` variables that describe xtask itself. Build scripts (ring's among them) watch some of
//! these, so that a cargo started with them would rebuild half the tree and the next plain cargo would build it back.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Families of `CARGO_*` that a person sets to configure cargo; all others describe the package that cargo is running right now.
const CONFIGURES_CARGO: &[&str] = &[
    "CARGO_BUILD_",
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_INCREMENTAL",
    "CARGO_NET_",
    "CARGO_PROFILE_",
    "CARGO_REGISTRIES_",
    "CARGO_REGISTRY_",
    "CARGO_SOURCE_",
    "CARGO_TARGET_",
    "CARGO_TERM_",
];

/// What xtask knows about its surroundings.
pub(crate) struct Env {
    vars: BTreeMap<OsString, OsString>,
    root: PathBuf,
    cache: PathBuf,
    in_ci: bool,
    shared_target: Option<PathBuf>,
}

impl Env {
    /// Reads the environment of this process. Fails outside `cargo xtask`, and without a home directory.
    pub(crate) fn read() -> Result<Env> {
        Env::from_vars(std::env::vars_os().collect())
    }

    fn from_vars(vars: BTreeMap<OsString, OsString>) -> Result<Env> {
        let get = |name: &str| vars.get(OsStr::new(name)).filter(|it| !it.is_empty());
        let manifest = get("CARGO_MANIFEST_DIR").context("run me through cargo: `cargo xtask …`")?;
        let root = Path::new(manifest).parent().context("xtask has no folder above it")?.to_owned();
        let home = get("HOME").context("HOME is not set: there is no place to keep downloaded tools")?;
        let cache = Path::new(home).join(".cache/weft");
        let placed = get("CARGO_TARGET_DIR").or(get("CARGO_BUILD_TARGET_DIR")).is_some();
        let in_ci = get("CI").is_some_and(|it| it == "true");
        let shared_target = (in_ci && !placed).then(|| cache.join("target"));
        Ok(Env { vars, root, cache, in_ci, shared_target })
    }

    /// An environment for tests of other modules: nothing but a home.
    #[cfg(test)]
    pub(crate) fn at(home: &Path) -> Env {
        let root = home.join("weft");
        Env { vars: BTreeMap::new(), root, cache: home.join(".cache/weft"), in_ci: false, shared_target: None }
    }

    /// The repository's top folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// `~/.cache/weft`: what was downloaded or may be built again.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// Returns whether this is CI's own run (`CI=true`), in which nothing but the gate may have changed the work tree.
    pub(crate) fn in_ci(&self) -> bool {
        self.in_ci
    }

    /// The target directory that CI's runs share; `None` on a laptop, or where somebody chose a directory.
    pub(crate) fn shared_target(&self) -> Option<&Path> {
        self.shared_target.as_deref()
    }

    /// Returns `program`, to be started at the top of the repository, without the variables that describe xtask.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        for name in self.vars.keys().filter(|name| describes_xtask(name)) {
            command.env_remove(name);
        }
        if let Some(target) = &self.shared_target {
            // Nobody edits and rebuilds there: what incremental compilation writes down is never read.
            command.env("CARGO_TARGET_DIR", target).env("CARGO_INCREMENTAL", "0");
        }
        let set = |name: &str| self.vars.get(OsStr::new(name));
        if let (Some(roots), None) = (set("SSL_CERT_FILE"), set("NODE_EXTRA_CA_CERTS")) {
            // OpenSSL, Go and Python read SSL_CERT_FILE; Node knows its roots by another name alone, and npm then trusts no proxy.
            command.env("NODE_EXTRA_CA_CERTS", roots);
        }
        command
    }

    /// Returns where the system has `program`, if it is in `PATH`.
    pub(crate) fn find(&self, program: &str) -> Option<PathBuf> {
        let places = std::env::split_paths(self.vars.get(OsStr::new("PATH"))?);
        places.map(|place| place.join(program)).find(|path| path.is_absolute() && path.is_file())
    }

    /// Returns the cargo that runs xtask, as `command` returns any program.
    pub(crate) fn cargo(&self) -> Command {
        self.command(self.vars.get(OsStr::new("CARGO")).map_or(OsStr::new("cargo"), |it| it.as_os_str()))
    }
}

fn describes_xtask(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("CARGO") && !CONFIGURES_CARGO.iter().any(|family| name.starts_with(family))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(vars: &[(&str, &str)]) -> Env {
        let own = [("HOME", "/home/ann"), ("CARGO_MANIFEST_DIR", "/src/weft/xtask")];
        let vars = own.iter().chain(vars).map(|(name, value)| (name.into(), value.into())).collect();
        Env::from_vars(vars).unwrap()
    }

    fn removed(command: &Command) -> Vec<&str> {
        command.get_envs().filter(|(_, value)| value.is_none()).filter_map(|(name, _)| name.to_str()).collect()
    }

    fn set(command: &Command, name: &str) -> Option<String> {
        command.get_envs().find(|(it, _)| *it == name).and_then(|(_, value)| Some(value?.to_str()?.to_owned()))
    }

    #[test]
    fn a_child_sees_what_configures_cargo_and_nothing_that_describes_xtask() {
        let kept =
            [("CARGO_HOME", "/c"), ("CARGO_TARGET_DIR", "/t"), ("CARGO_REGISTRIES_X_INDEX", "i"), ("PATH", "/bin")];
        let dropped = [("CARGO", "/bin/cargo"), ("CARGO_PKG_NAME", "xtask"), ("CARGO_BIN_NAME", "xtask")];
        let env = env(&[kept.as_slice(), dropped.as_slice()].concat());
        assert_eq!(removed(&env.command("true")), ["CARGO", "CARGO_BIN_NAME", "CARGO_MANIFEST_DIR", "CARGO_PKG_NAME"]);
        assert_eq!(env.cargo().get_program(), "/bin/cargo");
        assert_eq!(env.cargo().get_current_dir(), Some(Path::new("/src/weft")));
    }

    #[test]
    fn ci_builds_in_the_shared_target_unless_a_place_is_named() {
        let target = |vars: &[(&str, &str)]| set(&env(vars).cargo(), "CARGO_TARGET_DIR");
        assert_eq!(target(&[("CI", "true")]).as_deref(), Some("/home/ann/.cache/weft/target"));
        assert_eq!(target(&[("CI", "true"), ("CARGO_TARGET_DIR", "/t")]), None, "inherited as it is");
        assert_eq!(target(&[]), None);
    }

    #[test]
    fn node_trusts_the_roots_that_everybody_else_was_given() {
        let roots = |vars: &[(&str, &str)]| set(&env(vars).command("npm"), "NODE_EXTRA_CA_CERTS");
        assert_eq!(roots(&[("SSL_CERT_FILE", "/roots.pem")]).as_deref(), Some("/roots.pem"));
        assert_eq!(roots(&[("SSL_CERT_FILE", "/a"), ("NODE_EXTRA_CA_CERTS", "/b")]), None, "inherited as it is");
        assert_eq!(roots(&[]), None);
    }

    #[test]
    fn a_program_is_found_where_the_path_has_it() {
        let env = env(&[("PATH", "relative:/nowhere:/bin")]);
        assert_eq!(env.find("sh").as_deref(), Some(Path::new("/bin/sh")));
        assert_eq!(env.find("no-such-program"), None);
    }

    #[test]
    fn outside_cargo_it_says_how_to_start_it() {
        let error = Env::from_vars(BTreeMap::new()).err().map(|it| it.to_string());
        assert_eq!(error.as_deref(), Some("run me through cargo: `cargo xtask …`"));
    }
}
