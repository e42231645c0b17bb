//! Identities end to end: who is refused and by which rule, what goes over the wire, certificates and the root replaced under load.
//!
//! Lives here: what these topics share. Does not: the rules themselves (`weft-identity`, the registry's `ca`), access rules.

mod files;
mod refusals;
mod rotation;
mod wire;

use std::{net::SocketAddr, path::Path, process::Command};

use weft_testkit::{http::count, mesh::Mesh, process::Process};

/// What an admin address counts under this label; none if it does not say.
async fn counted(admin: SocketAddr, metric: &str, label: &str, rule: &str) -> Option<u64> {
    count(admin, &format!("{metric}{{{label}=\"{rule}\"}}")).await
}

/// Runs a command of weft to its end, which must be good.
async fn weft(mesh: &Mesh, args: &[&str]) -> String {
    let mut command = tokio::process::Command::new(mesh.weft());
    let output = command.args(args).current_dir(mesh.dir()).kill_on_drop(true).output().await.unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "weft {args:?}: {said}");
    said
}

/// A registry beside the mesh's, with further flags; its data lies in `name`.
async fn registry_beside(mesh: &Mesh, name: &str, flags: &[&str]) -> Process {
    let mut command = Command::new(mesh.weft());
    command.current_dir(mesh.dir()).args(["registry", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    command.args(["--log-format", "json", "--data", name]).args(flags);
    let mut registry = Process::spawn(name, command).unwrap();
    registry.address("grpc").await;
    registry
}

/// Has `weft identity` write the files of a service's certificate into `out`.
async fn write_files(mesh: &Mesh, token: &Path, out: &str, flags: &[&str]) {
    let token = token.to_string_lossy();
    weft(mesh, &[&["identity", "--once", "--token-file", &token, "--out", out], flags].concat()).await;
}

fn leaf(dir: &Path) -> weft_identity::Leaf {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let chain = CertificateDer::from_pem_file(dir.join(weft_identity::pem::CHAIN)).unwrap();
    weft_identity::Leaf::read(&chain).unwrap()
}
