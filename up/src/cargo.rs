//! Building the packages of `weft.toml`, so that nothing is compiled a second time.
//!
//! Lives here: which cargo command, its surroundings, reading its messages. Does not: running what was built.
//! Three things make cargo compile everything again, and each is avoided: variables that a cargo that runs us adds (build scripts
//! watch them), another profile or target directory than ours, and another set of selected packages (features are united over those,
//! so the workspace's default members are named beside the packages wanted, as `cargo run` does).
//! Source: The Cargo Book, "External tools" (JSON messages) and "Features" (resolver version 2).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use weft_runtime::Env;
use weft_supervise::{Bounds, Followed, Logs, Outcome, Process, Spawner, Spec, Stream};

/// One JSON message of cargo can be large: `cargo metadata` prints a single line.
const BOUNDS: Bounds = Bounds { lines: 10_000, line_bytes: 64 * 1024 * 1024 };
/// Lines of compiler output shown when a build fails.
const SHOWN: usize = 200;

/// Why there are no executables.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    /// There is no cargo.
    #[error(
        "cannot run cargo, which builds the packages of weft.toml; install it from https://rustup.rs, or use command = [\"program\", …]"
    )]
    NoCargo(#[source] io::Error),
    /// A package of weft.toml is not in the workspace, or does not have one binary.
    #[error("{0}")]
    Package(String),
    /// Cargo says no; what the compiler said comes with it.
    #[error("cargo {command} failed with {outcome}:\n{}", .output.join("\n"))]
    Failed {
        /// `build` or `metadata`.
        command: &'static str,
        /// How cargo ended.
        outcome: Outcome,
        /// Its last lines.
        output: Vec<String>,
    },
}

/// A cargo to build with.
pub(crate) struct Cargo<'a> {
    /// Where `weft.toml` lies.
    pub(crate) root: &'a Path,
    /// Our own binary: its profile and target directory are used where it was built from the same workspace.
    pub(crate) exe: &'a Path,
    pub(crate) env: &'a Env,
    pub(crate) spawner: &'a Spawner,
    /// Whether the compiler's messages may have colours.
    pub(crate) color: bool,
}

impl Cargo<'_> {
    /// Builds `packages` and returns the executable of each. `busy` hears what is being done.
    pub(crate) async fn build(
        &self,
        packages: &[&str],
        busy: impl Fn(&str),
    ) -> Result<BTreeMap<String, PathBuf>, BuildError> {
        let args = ["metadata", "--no-deps", "--format-version", "1"].map(str::to_owned);
        let mut workspace = None;
        self.run(
            "metadata",
            args,
            |line| workspace = serde_json::from_str::<Workspace>(line).ok().or(workspace.take()),
            &busy,
        )
        .await?;
        let workspace =
            workspace.ok_or_else(|| BuildError::Package("cargo metadata says nothing that we know".into()))?;
        let binaries = workspace.binaries(packages)?;
        let mut built = BTreeMap::new();
        let args = self.build_args(&workspace, &binaries);
        let keep = |line: &str| {
            let Ok(Message { reason, package_id, executable: Some(path) }) = serde_json::from_str(line) else { return };
            let package = workspace.packages.iter().find(|it| Some(&it.id) == package_id.as_ref());
            if let Some(package) = package.filter(|_| reason == "compiler-artifact") {
                built.insert(package.name.clone(), path);
            }
        };
        self.run("build", args, keep, &busy).await?;
        match packages.iter().find(|package| !built.contains_key(**package)) {
            Some(package) => Err(BuildError::Package(format!("cargo built no executable of {package}"))),
            None => Ok(built),
        }
    }

    fn build_args(&self, workspace: &Workspace, binaries: &BTreeMap<&str, &str>) -> Vec<String> {
        let mut args = vec!["build".to_owned(), "--message-format".to_owned(), "json-render-diagnostics".to_owned()];
        if self.color {
            args.extend(["--color".to_owned(), "always".to_owned()]);
        }
        if let Some((target, profile)) = own_target(self.exe).filter(|_| workspace.builds_us()) {
            args.extend(["--target-dir".to_owned(), target.display().to_string(), "--profile".to_owned(), profile]);
        }
        let selected: BTreeSet<_> = workspace.default_members().chain(binaries.keys().copied()).collect();
        args.extend(selected.into_iter().flat_map(|package| ["-p".to_owned(), package.to_owned()]));
        args.extend(binaries.values().flat_map(|binary| ["--bin".to_owned(), (*binary).to_owned()]));
        args
    }

    async fn run(
        &self,
        command: &'static str,
        args: impl IntoIterator<Item = String>,
        mut on_stdout: impl FnMut(&str),
        busy: &impl Fn(&str),
    ) -> Result<(), BuildError> {
        // The toolchain is the one we were built with, not cargo's own word.
        let toolchain = self.env.get("RUSTUP_TOOLCHAIN").map(|name| ("RUSTUP_TOOLCHAIN", name));
        let spec = Spec::new("cargo", "cargo")
            .args(args)
            .envs(self.env.without_cargo().chain(toolchain))
            .cwd(self.root)
            .trampoline([self.exe.as_os_str(), "trampoline".as_ref(), "--".as_ref()]);
        let logs = Logs::new(BOUNDS);
        let mut lines = logs.follow(0);
        let mut process = Process::start(self.spawner, &spec, &logs).await.map_err(BuildError::NoCargo)?;
        let mut output = Vec::new();
        let mut ended = None;
        loop {
            let line = match &ended {
                None => tokio::select! {
                    line = lines.next() => line,
                    exit = process.wait() => { ended = Some(exit); continue }
                },
                // All has been read by now: what can be had without waiting is the rest.
                Some(_) => tokio::select! { biased; line = lines.next() => line, () = std::future::ready(()) => break },
            };
            match line {
                Some(Followed::Line(line)) if line.stream == Stream::Stdout => on_stdout(&line.text),
                Some(Followed::Line(line)) => match doing(&line.text) {
                    Some(what) => busy(&what),
                    None => output.push(line.text.to_string()),
                },
                Some(Followed::Missed(_)) => {} // of 10,000 lines; the executables come last
                None => break,
            }
        }
        match ended.map(|exit| exit.outcome) {
            Some(Outcome::Code(127)) => Err(BuildError::NoCargo(io::ErrorKind::NotFound.into())),
            Some(outcome) if !outcome.is_success() => {
                let output = output.split_off(output.len().saturating_sub(SHOWN));
                Err(BuildError::Failed { command, outcome, output })
            }
            _ => Ok(()),
        }
    }
}

/// What cargo says it does, `Compiling tokio v1.54.1`; `None` for a line that belongs to a diagnostic.
fn doing(line: &str) -> Option<String> {
    const WORDS: [&str; 9] =
        ["Compiling", "Checking", "Building", "Finished", "Fresh", "Downloading", "Downloaded", "Blocking", "Updating"];
    let line = plain(line);
    let line = line.trim_start();
    WORDS.iter().any(|word| line.starts_with(word)).then(|| line.to_owned())
}

/// The text without colour codes.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// Target directory and profile of a binary that cargo made, from its path `<target>/<profile>/weft`; `None` for any other.
fn own_target(exe: &Path) -> Option<(PathBuf, String)> {
    let profile = exe.parent()?;
    let target = profile.parent()?;
    target.join("CACHEDIR.TAG").is_file().then_some(())?; // cargo marks its target directories with it
    let name = match profile.file_name()?.to_str()? {
        "debug" => "dev",
        other => other,
    };
    Some((target.to_owned(), name.to_owned()))
}

#[derive(Deserialize)]
struct Workspace {
    packages: Vec<Package>,
    #[serde(default)]
    workspace_default_members: Vec<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    package_id: Option<String>,
    executable: Option<PathBuf>,
}

impl Package {
    fn binaries(&self) -> impl Iterator<Item = &str> {
        self.targets.iter().filter(|target| target.kind.iter().any(|kind| kind == "bin")).map(|it| it.name.as_str())
    }
}

impl Workspace {
    /// The one binary of each package.
    fn binaries<'a>(&'a self, packages: &[&'a str]) -> Result<BTreeMap<&'a str, &'a str>, BuildError> {
        let binary = |name: &&'a str| {
            let package = self.packages.iter().find(|it| it.name == *name).ok_or_else(|| {
                BuildError::Package(format!("package = {name:?} of weft.toml is no package of this cargo workspace"))
            })?;
            match package.binaries().collect::<Vec<_>>()[..] {
                [binary] => Ok((*name, binary)),
                ref some => {
                    let problem =
                        format!("package {name} has {} binaries; weft.toml needs one with exactly one", some.len());
                    Err(BuildError::Package(problem))
                }
            }
        };
        packages.iter().map(binary).collect()
    }

    fn default_members(&self) -> impl Iterator<Item = &str> {
        let members = self.packages.iter().filter(|package| self.workspace_default_members.contains(&package.id));
        members.map(|package| package.name.as_str())
    }

    /// Whether our own binary is one of this workspace's.
    fn builds_us(&self) -> bool {
        self.packages.iter().any(|package| package.name == "weft-cli" && package.binaries().any(|it| it == "weft"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> Workspace {
        let package = |name: &str, binaries: &[&str]| Package {
            id: format!("path+file:///w/{name}#0.1.0"),
            name: name.to_owned(),
            targets: binaries
                .iter()
                .map(|it| Target { name: (*it).to_owned(), kind: vec!["bin".to_owned()] })
                .collect(),
        };
        let packages = vec![package("weft-cli", &["weft"]), package("weft-users", &["users"]), package("lib", &[])];
        Workspace { workspace_default_members: vec![packages[0].id.clone()], packages }
    }

    #[test]
    fn a_package_must_be_in_the_workspace_and_have_one_binary() {
        let workspace = workspace();
        assert_eq!(workspace.binaries(&["weft-users"]).unwrap(), [("weft-users", "users")].into());
        let message = |name| workspace.binaries(&[name]).unwrap_err().to_string();
        assert_eq!(message("weft-user"), "package = \"weft-user\" of weft.toml is no package of this cargo workspace");
        assert_eq!(message("lib"), "package lib has 0 binaries; weft.toml needs one with exactly one");
    }

    #[test]
    fn the_build_selects_what_cargo_run_selects_and_uses_our_profile() {
        let dir = tempfile::tempdir().unwrap();
        let exe = dir.path().join("debug/weft");
        std::fs::write(dir.path().join("CACHEDIR.TAG"), "").unwrap();
        let (env, spawner) = (Env::default(), Spawner::new().unwrap());
        let cargo = Cargo { root: dir.path(), exe: &exe, env: &env, spawner: &spawner, color: false };
        let workspace = workspace();
        let args = cargo.build_args(&workspace, &workspace.binaries(&["weft-users"]).unwrap()).join(" ");
        let target = dir.path().display();
        assert_eq!(
            args,
            format!(
                "build --message-format json-render-diagnostics --target-dir {target} --profile dev -p weft-cli -p weft-users --bin users"
            )
        );
        assert_eq!(own_target(Path::new("/usr/local/bin/weft")), None);
    }

    #[test]
    fn status_lines_are_told_from_diagnostics() {
        assert_eq!(doing("   Compiling tokio v1.54.1").as_deref(), Some("Compiling tokio v1.54.1"));
        assert_eq!(doing("\u{1b}[1m\u{1b}[92m   Compiling\u{1b}[0m a v0.1.0").as_deref(), Some("Compiling a v0.1.0"));
        assert_eq!(doing("error[E0425]: cannot find value"), None);
        assert_eq!(doing(""), None);
    }
}
