//! Services and clients in other languages, with no weft in them, behind sidecars of `weft up`. Inventory: polyglot.
//!
//! Lives here: what `clients/` can do in a mesh. Does not: how its libraries are fetched (xtask), each library's own behaviour.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Output,
};

use tempfile::TempDir;
use tokio::process::Command;
use weft_testkit::outside;

use crate::{ALONE, up::Up};

const CONTRACT: [&str; 8] = [
    "google/api/annotations.proto",
    "google/api/http.proto",
    "shop/ring/v1/go.proto",
    "shop/ring/v1/java.proto",
    "shop/ring/v1/node.proto",
    "shop/ring/v1/python.proto",
    "shop/ring/v1/ring.proto",
    "shop/users/v1/users.proto",
];

/// A language: its name, and how a program of it starts.
struct Language {
    name: &'static str,
    program: PathBuf,
    folder: PathBuf,
    ending: &'static str,
    env: Vec<(&'static str, String)>,
}

impl Language {
    fn script(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.{}", self.ending))
    }

    /// As a service of `weft.toml`.
    fn service(&self) -> String {
        let env: Vec<_> = self.env.iter().map(|(key, value)| format!("{key} = {value:?}")).collect();
        let (name, program, script) = (self.name, self.program.display(), self.script("service"));
        format!("[services.{name}]\ncommand = [\"{program}\", {script:?}]\nenv = {{ {} }}\n\n", env.join(", "))
    }

    /// Runs its client and returns what it printed.
    async fn client(&self, outbound: &str, args: &[&str]) -> String {
        let mut command = Command::new(&self.program);
        command.arg(self.script("client")).args(args).envs(self.env.iter().map(|(key, value)| (key, value)));
        let run = command.env("WEFT_OUTBOUND", outbound).kill_on_drop(true).output();
        let Output { status, stdout, stderr } = run.await.expect("it starts");
        let said = String::from_utf8_lossy(&stdout).into_owned();
        assert!(status.success(), "{} {args:?}: {said}{}", self.name, String::from_utf8_lossy(&stderr));
        said
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Generates as `cargo xtask clients` does, into a directory of the test's own.
async fn python(dir: &Path, test: &str) -> Option<Language> {
    let program = outside::need(outside::python(), test, "Python with grpcio-tools")?;
    let generated = dir.join("generated");
    fs::create_dir(&generated).unwrap();
    let mut protoc = Command::new(&program);
    protoc.args(["-m", "grpc_tools.protoc", "-I"]).arg(repository().join("proto")).args(CONTRACT);
    let out = generated.display();
    protoc.arg(format!("--python_out={out}")).arg(format!("--grpc_python_out={out}"));
    assert!(protoc.kill_on_drop(true).status().await.unwrap().success());
    let env = vec![("PYTHONPATH", out.to_string()), ("PYTHONDONTWRITEBYTECODE", "1".to_owned())];
    Some(Language { name: "python", program, folder: repository().join("clients/python"), ending: "py", env })
}

fn node(dir: &Path, test: &str) -> Option<Language> {
    let modules = outside::need(outside::node_modules(), test, "grpc-js")?;
    let program = outside::need_from_setup(outside::program("node"), test, "Node.js")?;
    let folder = dir.join("node");
    for file in CONTRACT {
        let to = folder.join("proto").join(file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(repository().join("proto").join(file), to).unwrap();
    }
    for file in fs::read_dir(repository().join("clients/node")).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            fs::copy(file.path(), folder.join(file.file_name())).unwrap();
        }
    }
    symlink(modules, folder.join("node_modules")).unwrap();
    Some(Language { name: "node", program, folder, ending: "js", env: Vec::new() })
}

/// Asserts that these services had the pass in this order, all in one trace.
fn assert_round(said: &str, wanted: &[&str]) {
    let hops: Vec<Vec<&str>> = said.lines().map(|line| line.splitn(4, ' ').collect()).collect();
    assert_eq!(hops.iter().map(|hop| hop[0]).collect::<Vec<_>>(), wanted, "{said}");
    let traces: BTreeSet<_> = hops.iter().map(|hop| hop[2]).collect();
    assert!(traces.len() == 1 && traces.first().unwrap().len() == 32, "one trace: {said}");
}

#[tokio::test]
async fn services_of_other_languages_join_behind_sidecars_and_call_each_other() {
    let test = "services_of_other_languages_join_behind_sidecars_and_call_each_other";
    let _shared = ALONE.read().await;
    let dir = TempDir::new().unwrap();
    let Some(python) = python(dir.path(), test).await else { return };
    let Some(node) = node(dir.path(), test) else { return };
    let Some(users) = outside::need(outside::binary("users"), test, "the binary `users`") else { return };
    let services =
        format!("{}{}[services.users]\ncommand = [{:?}]\n", python.service(), node.service(), users.display());
    let Some(up) = Up::start_in(test, dir, &services).await else { return };

    let processes = up.processes().await;
    let outbound = processes.iter().find_map(|it| it["addresses"]["outbound"].as_str()).expect("a sidecar has one");
    let (outbound, gateway) = (format!("http://{outbound}"), format!("gateway={}", up.gateway().await));
    for language in [&python, &node] {
        for way in [gateway.as_str(), "sidecar"] {
            assert!(!language.client(&outbound, &[way, "users"]).await.trim().is_empty(), "the id of a user");
            for route in [["python", "node", "python", "node"], ["node", "python", "node", "python"]] {
                let said = language.client(&outbound, &[way, "ring", &route.join(",")]).await;
                assert_round(&said, &route);
            }
        }
    }
}
