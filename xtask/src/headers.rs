//! House rules that no lint knows: what every Rust file and every manifest has to say.
//!
//! Lives here: a file opens with `//!`; no `mod.rs`; no `#[ignore]` and no `#[should_panic]`; a library's or binary's root forbids
//! (or denies) unsafe code; every manifest takes the workspace's lints. Does not: anything rustc or clippy can tell.
//! Rules read lines, not syntax: an attribute is a line that begins with it, which is how rustfmt leaves one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::metadata::{Metadata, Package};

/// Crates that end up in something that ships. The others (tests, build scripts) have the floor of `[workspace.lints]`.
const SHIPPING: [&str; 3] = ["lib", "bin", "proc-macro"];

/// Returns every breach, as `file: what is wrong`, with paths from `root` on.
pub(crate) fn problems(metadata: &Metadata, root: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for file in rust_files(root)? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let named = file.strip_prefix(root).unwrap_or(&file);
        problems.extend(in_file(named, &text).into_iter().map(|it| format!("{}: {it}", named.display())));
    }
    for package in &metadata.packages {
        problems.extend(in_package(package, root)?);
    }
    Ok(problems)
}

/// Every `.rs` file of the work tree, sorted. Hidden folders and build output (which cargo marks with CACHEDIR.TAG) are not ours.
fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_symlink() || hidden {
            continue;
        } else if path.is_dir() && !path.join("CACHEDIR.TAG").exists() {
            found.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn in_file(path: &Path, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if !text.starts_with("//! ") {
        problems.push("does not open with `//!` lines that say what lives there".to_owned());
    }
    if path.file_name().is_some_and(|name| name == "mod.rs") {
        problems.push("is a mod.rs: call it like its folder, beside the folder".to_owned());
    }
    let attributes = [
        ("#[ignore", "`#[ignore]`: assert today's behaviour, with a FIXME that says what is right"),
        ("#[should_panic", "`#[should_panic]`: check the error instead"),
    ];
    for (number, line) in text.lines().enumerate() {
        let broken = attributes.iter().filter(|(attribute, _)| line.trim_start().starts_with(attribute));
        problems.extend(broken.map(|(_, why)| format!("line {}: {why}", number + 1)));
    }
    problems
}

fn in_package(package: &Package, root: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let named = |path: &Path| path.strip_prefix(root).unwrap_or(path).display().to_string();
    for target in
        package.targets.iter().filter(|target| target.kind.iter().any(|kind| SHIPPING.contains(&kind.as_str())))
    {
        if !guards_unsafe(&read(&target.src_path)?) {
            problems
                .push(format!("{}: the crate root does not say `#![forbid(unsafe_code)]`", named(&target.src_path)));
        }
    }
    if !takes_workspace_lints(&read(&package.manifest_path)?)? {
        problems.push(format!("{}: does not say `[lints] workspace = true`", named(&package.manifest_path)));
    }
    Ok(problems)
}

fn guards_unsafe(root: &str) -> bool {
    root.lines().any(|line| matches!(line.trim(), "#![forbid(unsafe_code)]" | "#![deny(unsafe_code)]"))
}

fn takes_workspace_lints(manifest: &str) -> Result<bool> {
    #[derive(Deserialize)]
    struct Manifest {
        lints: Option<Lints>,
    }
    #[derive(Deserialize)]
    struct Lints {
        #[serde(default)]
        workspace: bool,
    }
    let manifest: Manifest = toml::from_str(manifest).context("cannot read a manifest")?;
    Ok(manifest.lints.is_some_and(|lints| lints.workspace))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str, wanted: &[&str]) {
        let found = in_file(Path::new(path), text);
        assert_eq!(found.len(), wanted.len(), "{found:?}");
        for (found, wanted) in found.iter().zip(wanted) {
            assert!(found.contains(wanted), "{found:?} does not say {wanted:?}");
        }
    }

    #[test]
    fn a_file_says_first_what_lives_there() {
        check("a.rs", "//! What.\nfn main() {}\n", &[]);
        check("a.rs", "// What.\n", &["open with"]);
        check("a.rs", "\n//! What.\n", &["open with"]);
        check("a/mod.rs", "", &["open with", "mod.rs"]);
    }

    #[test]
    fn tests_are_neither_ignored_nor_content_with_a_panic() {
        let ignore = "    #[ignore = \"slow\"]\n";
        check("a.rs", &format!("//! What.\n#[test]\n{ignore}"), &["line 3: `#[ignore]`"]);
        check("a.rs", "//! What.\n#[should_panic(expected = \"x\")]\n", &["line 2: `#[should_panic]`"]);
        check("a.rs", "//! No `#[ignore]` here.\nlet text = \"#[ignore]\";\n", &[]);
    }

    #[test]
    fn only_the_attribute_itself_guards_a_crate_root() {
        assert!(guards_unsafe("//! Root.\n#![forbid(unsafe_code)]\n"));
        assert!(guards_unsafe("//! Root.\n#![deny(unsafe_code)]\n"));
        assert!(!guards_unsafe("//! We say `#![forbid(unsafe_code)]`.\n// #![forbid(unsafe_code)]\n"));
    }

    #[test]
    fn a_manifest_takes_the_workspaces_lints() {
        let takes = |manifest| takes_workspace_lints(manifest).unwrap();
        assert!(takes("[package]\nname = \"a\"\n[lints]\nworkspace = true\n"));
        assert!(takes("lints.workspace = true\n"));
        assert!(!takes("[package]\nname = \"a\"\n"));
        assert!(!takes("[lints.rust]\nunsafe_code = \"deny\"\n"));
    }

    #[test]
    fn build_output_and_hidden_folders_are_not_read() {
        let root = std::env::temp_dir().join(format!("weft-xtask-files-{}", std::process::id()));
        for (file, text) in
            [("b.rs", ""), ("a/c.rs", ""), (".hidden/d.rs", ""), ("out/CACHEDIR.TAG", ""), ("out/e.rs", "")]
        {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found: Vec<_> = rust_files(&root).unwrap();
        assert_eq!(found, [root.join("a/c.rs"), root.join("b.rs")]);
        fs::remove_dir_all(root).unwrap();
    }
}
