//! The environment of the process, read once and passed down as a value.
//!
//! Lives here: names and meaning of every variable we read. Does not: flags (each role's `Args`) and files.

use std::{collections::BTreeMap, path::PathBuf};

/// The environment as it was when the process started. Variables that are not UTF-8 are left out.
#[derive(Debug, Clone, Default)]
pub struct Env(BTreeMap<String, String>);

impl Env {
    /// Reads the environment of the process. Called by [`crate::run`]; call it elsewhere only in a `main` without the frame.
    pub fn capture() -> Self {
        Self(std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect())
    }

    /// Makes an environment for a test.
    pub fn from_pairs<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Self(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }

    /// Any variable; empty counts as unset, as in most specifications.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// All variables, for handing a cleaned copy to a child.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// `PORT`: where an app listens on 127.0.0.1. An error names the value that is no port.
    pub fn port(&self) -> Result<Option<u16>, crate::Usage> {
        let Some(text) = self.get("PORT") else { return Ok(None) };
        let port = text.parse().map_err(|_| crate::Usage::new(format!("PORT={text:?} is no port from 0 to 65535")))?;
        Ok(Some(port))
    }

    /// `WEFT_SERVICE`: name of the service this app belongs to.
    pub fn service(&self) -> Option<&str> {
        self.get("WEFT_SERVICE")
    }

    /// `WEFT_INSTANCE`: id of the instance this app belongs to.
    pub fn instance(&self) -> Option<&str> {
        self.get("WEFT_INSTANCE")
    }

    /// `WEFT_OUTBOUND`: URL of the sidecar's outbound listener.
    pub fn outbound(&self) -> Option<&str> {
        self.get("WEFT_OUTBOUND")
    }

    /// `WEFT_DATA`: directory for the app's data.
    pub fn data(&self) -> Option<PathBuf> {
        self.get("WEFT_DATA").map(PathBuf::from)
    }

    /// `DATABASE_URL`: the database server that keeps the app's data, if not its directory. May hold a password.
    pub fn database_url(&self) -> Option<&str> {
        self.get("DATABASE_URL")
    }

    /// `WEFT_TOKEN_FILE`: file of the token that commands for operators use.
    pub fn token_file(&self) -> Option<PathBuf> {
        self.get("WEFT_TOKEN_FILE").map(PathBuf::from)
    }

    /// `RUST_LOG`: filter of log lines in the syntax of `tracing-subscriber`.
    pub fn log_filter(&self) -> Option<&str> {
        self.get("RUST_LOG")
    }

    /// The environment without what a cargo that runs us adds: a cargo we start would rebuild half the tree because of it.
    /// Settings of the person (`CARGO_HOME`, target directory and linker, profiles, registries, network) stay, or we would build with others.
    pub fn without_cargo(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter(|(name, _)| !added_by_cargo(name))
    }
}

fn added_by_cargo(name: &str) -> bool {
    const KEPT: [&str; 10] = [
        "CARGO_BUILD_",
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_INCREMENTAL",
        "CARGO_NET_",
        "CARGO_PROFILE_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TARGET_",
        "CARGO_TERM_",
    ];
    let rustc = ["RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "RUST_RECURSION_COUNT"].contains(&name);
    rustc || (name.starts_with("CARGO") && !KEPT.iter().any(|kept| name.starts_with(kept)))
}

/// Returns the path of the running program; a link to it when that is how it was started.
pub fn current_exe() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let env = Env::from_pairs([("WEFT_SERVICE", ""), ("PORT", "80")]);
        assert_eq!(env.service(), None);
        assert_eq!(env.port().unwrap(), Some(80));
        assert!(Env::from_pairs([("PORT", "http")]).port().is_err());
    }

    #[test]
    fn what_cargo_adds_is_left_out_and_settings_stay() {
        let pairs = [
            "CARGO_PKG_NAME",
            "CARGO",
            "CARGO_MANIFEST_DIR",
            "RUSTUP_TOOLCHAIN",
            "CARGO_HOME",
            "CARGO_TARGET_DIR",
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER",
            "CARGO_PROFILE_DEV_DEBUG",
            "CARGO_INCREMENTAL",
            "PATH",
        ];
        let env = Env::from_pairs(pairs.map(|name| (name, "x")));
        let left: Vec<_> = env.without_cargo().map(|(name, _)| name).collect();
        let settings = [
            "CARGO_HOME",
            "CARGO_INCREMENTAL",
            "CARGO_PROFILE_DEV_DEBUG",
            "CARGO_TARGET_DIR",
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER",
        ];
        assert_eq!(left, [&settings[..], &["PATH"]].concat());
    }
}
