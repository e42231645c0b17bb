//! What `cargo metadata` says about our own packages, as far as xtask asks.
//!
//! Lives here: the call and the few fields read. Does not: judging them (`arrows`, `headers`).

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::env::Env;

/// The workspace.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    /// Our packages, in cargo's order.
    pub(crate) packages: Vec<Package>,
    /// Where cargo builds.
    pub(crate) target_directory: PathBuf,
}

/// One of our packages.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    /// As in its manifest.
    pub(crate) name: String,
    /// Its Cargo.toml.
    pub(crate) manifest_path: PathBuf,
    /// As declared, third parties' included.
    pub(crate) dependencies: Vec<Dependency>,
    /// Library, binaries, tests and build script.
    pub(crate) targets: Vec<Target>,
}

/// One line of a package's dependency tables.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    /// The package's own name, however it is renamed.
    pub(crate) name: String,
    /// `None` for a normal dependency, else `dev` or `build`.
    pub(crate) kind: Option<String>,
}

/// One crate of a package.
#[derive(Debug, Deserialize)]
pub(crate) struct Target {
    /// `lib`, `bin`, `test`, `custom-build` and so on.
    pub(crate) kind: Vec<String>,
    /// The crate root.
    pub(crate) src_path: PathBuf,
}

/// Asks cargo. Touches neither the network nor the lock file.
pub(crate) fn load(env: &Env) -> Result<Metadata> {
    let out =
        env.cargo().args(["metadata", "--no-deps", "--format-version", "1"]).output().context("cargo metadata")?;
    ensure!(out.status.success(), "cargo metadata failed:\n{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).context("cargo metadata printed something else")
}
