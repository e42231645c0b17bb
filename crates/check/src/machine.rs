//! What is on this machine: `weft up`, who holds the ports, the gateway's file.
//!
//! Lives here: these checks. Does not: whether what holds a port also answers (`registry`, `gateway`).

use std::path::Path;

use weft_runtime::listen::{self, Owner};

use crate::{
    ids,
    report::Outcome,
    target::{Mesh, Origin, Place},
};

/// Name of our program, as the kernel shows it.
const PROGRAM: &str = "weft";

/// `gateways_file` says what is wrong with such a file: what may be in it the gateway knows.
pub(crate) fn check(mesh: &Mesh, gateways_file: impl Fn(&Path) -> Result<(), String>) -> Vec<Outcome> {
    let mut outcomes = match &mesh.origin {
        Origin::Flags => return Vec::new(),
        Origin::Up(file) => vec![ids::RUNS.ok(file.display().to_string(), "")],
        Origin::File { file, why } => vec![ids::RUNS.failed(file.display().to_string(), why)],
    };
    let taken: Vec<_> = mesh.ports.iter().filter_map(|(role, place)| stranger(mesh, role, place)).collect();
    match taken.is_empty() {
        true => outcomes.push(ids::PORTS.ok("", "")),
        false => outcomes.extend(taken),
    }
    outcomes.extend(mesh.gateways_file.as_deref().map(|file| {
        let subject = file.display().to_string();
        match gateways_file(file) {
            Ok(()) => ids::GATEWAYS_FILE.ok(subject, ""),
            Err(problem) => ids::GATEWAYS_FILE.failed(subject, problem),
        }
    }));
    outcomes
}

/// Says so if a process that is not ours holds a role's port on this machine.
pub(crate) fn stranger(mesh: &Mesh, role: &str, place: &Place) -> Option<Outcome> {
    let owner = place.here().into_iter().find_map(listen::owner)?;
    (!is_ours(mesh, role, &owner)).then(|| ids::PORTS.failed(format!("{role} {place}"), format!("held by {owner}")))
}

/// Whether the role holds its port: `weft up` knows its process; of a file beside which nothing runs nobody is the role; and of a mesh that was
/// named by flags nothing but its program is known.
fn is_ours(mesh: &Mesh, role: &str, owner: &Owner) -> bool {
    match &mesh.origin {
        Origin::Up(_) => mesh.rows.iter().any(|row| row.name == role && row.pid == owner.pid),
        Origin::File { .. } => false,
        Origin::Flags => owner.program == PROGRAM,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use weft_proto::weft::up::v1::Process;

    use super::*;
    use crate::report::Status;

    #[test]
    fn a_port_is_the_roles_if_its_own_process_holds_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = std::process::id();
        let status = |origin: Origin, name: &str, pid: u32| {
            let mesh = Mesh {
                origin,
                rows: vec![Process { name: name.into(), pid, ..Process::default() }],
                ports: vec![("gateway", listener.local_addr().unwrap().to_string().parse().unwrap())],
                ..Mesh::for_test()
            };
            check(&mesh, |_| Ok(())).into_iter().find(|it| it.id == ids::PORTS.id).unwrap().status
        };
        let up = || Origin::Up("weft.toml".into());
        assert_eq!(status(up(), "gateway", ours), Status::Ok);
        assert_eq!(status(up(), "registry", ours), Status::Failed, "another role of the mesh");
        assert_eq!(status(up(), "gateway", ours + 1), Status::Failed);
        let alone = Origin::File { file: "weft.toml".into(), why: String::new() };
        assert_eq!(status(alone, "gateway", ours), Status::Failed, "nothing of the mesh runs");
    }

    #[test]
    fn a_gateways_file_is_looked_at_where_there_is_one() {
        let found = |file: Option<&str>, said: Result<(), String>| {
            let origin = Origin::File { file: "weft.toml".into(), why: String::new() };
            let mesh = Mesh { origin, gateways_file: file.map(Into::into), ..Mesh::for_test() };
            let outcomes = check(&mesh, |_| said.clone());
            outcomes.into_iter().find(|it| it.id == ids::GATEWAYS_FILE.id).map(|it| (it.status, it.detail))
        };
        assert_eq!(found(None, Err("broken".into())), None);
        assert_eq!(found(Some("gateway.toml"), Ok(())), Some((Status::Ok, String::new())));
        assert_eq!(found(Some("gateway.toml"), Err("broken".into())), Some((Status::Failed, "broken".into())));
    }
}
