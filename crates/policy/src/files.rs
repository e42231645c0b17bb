//! Files of policies: one, or those of a directory.
//!
//! Lives here: which files are read, in which order, and that no policy is written twice. Does not: what a text says (`text`). Blocking.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use weft_model::{Policy, PolicyName};

use crate::{Format, Wrong, parse};

/// A policy and where it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The policy; its version is 0.
    pub policy: Policy,
    /// The file, as it was named.
    pub file: PathBuf,
    /// Where it begins, counted from 1.
    pub line: usize,
}

/// Why there are no policies.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {}", .file.display())]
    Unreadable {
        /// The file or directory.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its name does not say what it is written in.
    #[error("{}: the name does not end in .toml, .yaml, .yml or .json; say --format", .file.display())]
    NoFormat {
        /// The file.
        file: PathBuf,
    },
    /// A directory without files of policies.
    #[error("{}: no file here ends in .toml, .yaml, .yml or .json", .dir.display())]
    Nothing {
        /// The directory.
        dir: PathBuf,
    },
    /// It says something that cannot be.
    #[error("{}:{}", .file.display(), told(.wrong))]
    Wrong {
        /// The file.
        file: PathBuf,
        /// What and where.
        wrong: Wrong,
    },
}

/// `3: access.rules[0].from: …`, as it follows a file's name.
fn told(wrong: &Wrong) -> String {
    let Wrong { line, field, problem } = wrong;
    if field.is_empty() { format!("{line}: {problem}") } else { format!("{line}: {field}: {problem}") }
}

/// Reads the policies of a file, or of the files in a directory, by name and not deeper, that end in .toml, .yaml, .yml or .json.
///
/// # Errors
/// What cannot be read, or the first thing that is wrong; a policy that is written twice is.
pub fn load(path: &Path, format: Option<Format>) -> Result<Vec<Written>, FileError> {
    let unreadable = |file: &Path| {
        let file = file.to_owned();
        move |source| FileError::Unreadable { file, source }
    };
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(unreadable(path))? {
            let file = entry.map_err(unreadable(path))?.path();
            if let Some(of) = Format::of(&file).filter(|_| file.is_file()) {
                files.push((file, format.unwrap_or(of)));
            }
        }
        files.sort_by(|a, b| a.0.cmp(&b.0));
        if files.is_empty() {
            return Err(FileError::Nothing { dir: path.to_owned() });
        }
    } else {
        let format = format.or_else(|| Format::of(path));
        files.push((path.to_owned(), format.ok_or_else(|| FileError::NoFormat { file: path.to_owned() })?));
    }
    let mut written = Vec::new();
    for (file, format) in files {
        let text = fs::read_to_string(&file).map_err(unreadable(&file))?;
        written.extend(read(&text, format, &file)?);
    }
    each_once(written)
}

/// Reads the policies of a text that came from `file`, whatever that is.
///
/// # Errors
/// The first thing that is wrong; a policy that is written twice is.
pub fn read(text: &str, format: Format, file: &Path) -> Result<Vec<Written>, FileError> {
    let parsed = parse(text, format).map_err(|wrong| FileError::Wrong { file: file.to_owned(), wrong })?;
    each_once(parsed.into_iter().map(|(line, policy)| Written { policy, file: file.to_owned(), line }).collect())
}

fn each_once(written: Vec<Written>) -> Result<Vec<Written>, FileError> {
    let mut seen: BTreeMap<&PolicyName, &Written> = BTreeMap::new();
    for it in &written {
        if let Some(first) = seen.insert(&it.policy.name, it) {
            let place = format!("{}:{}", first.file.display(), first.line);
            let problem = format!("policy {} is written at {place} already", it.policy.name);
            let wrong = Wrong { line: it.line, field: "name".to_owned(), problem };
            return Err(FileError::Wrong { file: it.file.clone(), wrong });
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "name: one\nservice: users\nplaintext_upstream: allow\n";

    #[test]
    fn a_directory_is_its_files_of_policies_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("b.yaml", ONE);
        write("a.toml", "name = \"two\"\nservice = \"users\"\nplaintext_upstream = \"allow\"\n");
        write("README.md", "no policy");
        let names =
            |written: Vec<Written>| written.into_iter().map(|it| it.policy.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(load(dir.path(), None).unwrap()), ["two", "one"]);
        write("c.yml", &format!("---\n{ONE}"));
        let error = load(dir.path(), None).unwrap_err().to_string();
        assert!(
            error.contains("c.yml:2: name: policy one is written at") && error.contains("b.yaml:1 already"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_file_of_policies_says_how_it_could_be() {
        let dir = tempfile::tempdir().unwrap();
        let says = |path: &Path| load(path, None).unwrap_err().to_string();
        assert!(says(dir.path()).contains("no file here ends in .toml"));
        assert!(says(&dir.path().join("missing.toml")).contains("cannot read"));
        let file = dir.path().join("policies");
        fs::write(&file, ONE).unwrap();
        assert!(says(&file).contains("say --format"));
        assert_eq!(load(&file, Some(Format::Yaml)).unwrap().len(), 1);
    }
}
