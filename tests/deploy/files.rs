//! The files of the repository as values.
//!
//! Lives here: finding and reading them, walking what was read. Does not: judging it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// A path from the repository's top.
pub(crate) fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the repository").join(path)
}

/// The text of a file.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The documents of a YAML text.
pub(crate) fn yaml(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The one document of a YAML file.
pub(crate) fn document(path: &str) -> Value {
    yaml(&read(path)).into_iter().next().unwrap_or_else(|| panic!("{path} is empty"))
}

/// Files below a folder whose name ends so, sorted.
pub(crate) fn below(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A list of strings; empty if there is none.
pub(crate) fn strings(value: &Value) -> Vec<String> {
    list(value).iter().map(|it| it.as_str().unwrap_or_else(|| panic!("{it} is no string")).to_owned()).collect()
}

/// A list; empty if there is none.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A string that must be there.
pub(crate) fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string"))
}

/// A port, written as a number or as text.
pub(crate) fn port(value: &Value) -> u16 {
    let port = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    port.and_then(|it| it.try_into().ok()).unwrap_or_else(|| panic!("{value} is no port"))
}
