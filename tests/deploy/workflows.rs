//! GitHub's workflows: they parse, call what exists, pin what they use, and keep nothing to themselves.
//!
//! Lives here: both files. Does not: GitHub.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;
use weft_testkit::outside;

use crate::{
    docker,
    files::{self, list, string},
};

fn jobs(file: &str) -> Vec<(String, Value)> {
    let workflow = files::document(&format!(".github/workflows/{file}.yml"));
    assert_eq!(workflow["permissions"]["contents"], "read", "{file}: what a job may write it asks for by itself");
    assert!(!workflow["on"].is_null(), "{file} never runs");
    let jobs = workflow["jobs"].as_object().unwrap();
    jobs.iter().map(|(name, job)| (name.clone(), job.clone())).collect()
}

fn steps(job: &Value) -> &[Value] {
    list(&job["steps"])
}

#[test]
fn ci_is_the_gate_and_nothing_else() {
    let test = "ci_is_the_gate_and_nothing_else";
    let Some(xtask) = outside::need_binaries(&["xtask"], test) else { return };
    for (name, job) in jobs("ci") {
        let commands: Vec<_> = steps(&job).iter().filter_map(|step| step.get("run")).map(string).collect();
        assert_eq!(commands.len(), 1, "{name}: {commands:?}");
        let (_, words) = commands[0].split_once("cargo xtask ").unwrap();
        let out = Command::new(&xtask[0]).args(words.split_whitespace()).arg("--help").output().unwrap();
        assert!(out.status.success(), "cargo xtask {words}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn every_matrix_is_a_list_of_runners_and_what_it_names_is_in_it() {
    for file in ["ci", "release"] {
        for (name, job) in jobs(file) {
            if let Some(called) = job.get("uses") {
                assert_eq!(called, "./.github/workflows/ci.yml", "{file}: {name}: a workflow that this test reads");
                continue;
            }
            assert!(job["timeout-minutes"].is_u64(), "{file}: {name} may run for ever");
            let matrix = &job["strategy"]["matrix"];
            let rows: Vec<BTreeSet<&str>> = match list(&matrix["include"]) {
                [] => vec![matrix.as_object().into_iter().flat_map(|it| it.keys()).map(String::as_str).collect()],
                rows => rows.iter().map(|row| row.as_object().unwrap().keys().map(String::as_str).collect()).collect(),
            };
            for used in job.to_string().split("matrix.").skip(1) {
                let key = used.split(|it: char| !it.is_alphanumeric() && it != '_').next().unwrap();
                assert!(rows.iter().all(|row| row.contains(key)), "{file}: {name} has no matrix.{key}");
            }
        }
    }
}

#[test]
fn every_action_has_a_version_and_no_secret_but_githubs_own_token_is_used() {
    for file in ["ci", "release"] {
        assert!(!files::read(&format!(".github/workflows/{file}.yml")).contains("secrets."), "{file}");
        for (name, job) in jobs(file) {
            for uses in steps(&job).iter().filter_map(|step| step.get("uses")).map(string) {
                let version = uses.split_once("@v").and_then(|(_, version)| version.parse::<u32>().ok());
                assert!(version.is_some(), "{file}: {name}: {uses}");
            }
        }
    }
}

#[test]
fn a_release_is_made_only_of_what_passed_the_gate() {
    assert!(files::document(".github/workflows/ci.yml")["on"].as_object().unwrap().contains_key("workflow_call"));
    let jobs: BTreeMap<_, _> = jobs("release").into_iter().collect();
    assert_eq!(jobs["gate"]["uses"], "./.github/workflows/ci.yml");
    let needs = |name: &str| jobs[name]["needs"].as_str().map(str::to_owned);
    for name in jobs.keys().filter(|name| *name != "gate") {
        let mut before = needs(name);
        while let Some(job) = before.clone().filter(|job| job != "gate") {
            before = needs(&job);
        }
        assert_eq!(before.as_deref(), Some("gate"), "{name} does not wait for the gate");
    }
}

#[test]
fn a_release_makes_every_image_of_the_dockerfile() {
    let wanted: Vec<_> = docker::targets().into_iter().collect();
    let (mut loops, mut listed) = (0, 0);
    for (_, job) in jobs("release") {
        for command in steps(&job).iter().filter_map(|step| step.get("run")).map(string) {
            for line in command.lines().filter_map(|line| line.trim().strip_prefix("for target in ")) {
                let mut made: Vec<_> = line.trim_end_matches("; do").split(' ').map(str::to_owned).collect();
                made.sort();
                assert_eq!(made, wanted);
                loops += 1;
            }
            for file in command.split("--file ").skip(1).map(|it| it.split_whitespace().next().unwrap()) {
                assert!(files::root(file).is_file(), "{file}");
            }
            if command.contains("--manifest-path \"$folder/Cargo.toml\"") {
                let folder =
                    |target: &String| if target == "weft" { "cli".into() } else { format!("services/{target}") };
                for folder in wanted.iter().map(folder) {
                    assert!(command.contains("folder=\"services/$target\"") && command.contains("folder=cli"));
                    assert!(files::root(&format!("{folder}/Cargo.toml")).is_file(), "{folder}");
                }
                listed += 1;
            }
        }
    }
    assert_eq!((loops, listed), (3, 1), "images are pushed, listed by what they are made of, and joined");
}

#[test]
fn shell_in_workflows_is_shell() {
    for file in ["ci", "release"] {
        for (name, job) in jobs(file) {
            for command in steps(&job).iter().filter_map(|step| step.get("run")).map(string) {
                let plain = command.replace("${{", "$(: ").replace("}}", ")");
                let out = Command::new("bash").args(["-n", "-c", &plain]).output().unwrap();
                assert!(out.status.success(), "{file}: {name}: {}", String::from_utf8_lossy(&out.stderr));
            }
        }
    }
}
