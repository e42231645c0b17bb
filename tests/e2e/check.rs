//! `weft check` on real meshes: nothing to say of a healthy one, and for each fault exactly its id.
//!
//! Lives here: the faults, injected into real processes, and the whole set of ids that each one shows. Does not: what an id means (weft-check).
//! Inventory: check.

mod facts;
mod path;
mod up;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use prost::Message;
use prost_reflect::prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, field_descriptor_proto::Type,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use weft_discovery::{TokenFor, write_token};
use weft_proto::weft::model::v1::Status;
use weft_testkit::{
    load,
    mesh::{App, Mesh},
    outside, process, secure, wait,
};

use crate::{
    ALONE,
    reliability::{RATE, four_reads_to_one_write},
};

const SOON: Duration = Duration::from_secs(60);
/// What the whole run may take, however much is broken: its own bound, and beside it what a busy machine takes to start a process.
const BOUND: Duration = Duration::from_secs(20);

/// Where a call takes longer the machine has stood still for longer than a check waits for an answer, of which it may be alarmed.
const STANDS_STILL: Duration = Duration::from_secs(2);

/// What one run said.
#[derive(Debug)]
struct Checked {
    code: Option<i32>,
    report: Value,
    took: Duration,
}

impl Checked {
    fn with(&self, statuses: &[&str]) -> Vec<&Value> {
        let checks = self.report["checks"].as_array().expect("a report has checks");
        checks.iter().filter(|it| statuses.iter().any(|status| it["status"] == *status)).collect()
    }

    /// Ids of everything that is not well.
    fn ids(&self) -> BTreeSet<&str> {
        self.with(&["failed", "warning"]).iter().map(|it| it["id"].as_str().unwrap()).collect()
    }

    /// How many subjects an id was found well for.
    fn well(&self, id: &str) -> usize {
        self.with(&["ok"]).iter().filter(|it| it["id"] == id).count()
    }

    /// Demands exactly these ids, a cure for each, and the exit code that follows.
    #[track_caller]
    fn shows<const N: usize>(&self, ids: [&str; N]) {
        assert_eq!(self.ids(), BTreeSet::from(ids), "{:#}", self.report);
        assert!(
            self.with(&["failed", "warning"]).iter().all(|it| it["cure"].as_str().is_some_and(|cure| !cure.is_empty()))
        );
        let failed = !self.with(&["failed"]).is_empty();
        assert_eq!(
            (self.code, &self.report["ok"]),
            (Some(i32::from(failed)), &Value::Bool(!failed)),
            "{:#}",
            self.report
        );
        assert!(self.took < BOUND, "{:?}", self.took);
    }

    /// What was found by an id.
    fn detail(&self, id: &str) -> &str {
        let found = self.with(&["failed", "warning"]).into_iter().find(|it| it["id"] == id);
        found.and_then(|it| it["detail"].as_str()).unwrap_or_default()
    }

    /// Who is meant by the first finding of an id.
    fn subject(&self, id: &str) -> &str {
        self.subjects(id).first().copied().unwrap_or_default()
    }

    /// Who is meant by the findings of an id.
    fn subjects(&self, id: &str) -> Vec<&str> {
        let found = self.with(&["failed", "warning"]).into_iter().filter(|it| it["id"] == id);
        found.filter_map(|it| it["subject"].as_str()).collect()
    }
}

fn weft() -> PathBuf {
    outside::binary("weft").expect("checked when the mesh was started")
}

async fn check(dir: &Path, args: &[String]) -> Checked {
    let began = std::time::Instant::now();
    let mut command = tokio::process::Command::new(weft());
    let command = command.args(["check", "-o", "json"]).args(args).current_dir(dir).kill_on_drop(true);
    let output = command.output().await.expect("weft starts");
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    Checked { code: output.status.code(), report, took: began.elapsed() }
}

/// Where everything of a mesh is, so that it can still be named when it is gone.
struct Named(Vec<String>);

impl Named {
    async fn of(mesh: &mut Mesh) -> Self {
        let registry = mesh.registry.as_mut().expect("the registry runs").address("admin").await;
        let gateway = mesh.gateway.address("admin").await;
        Self(
            [
                ("--registry", format!("https://{}", mesh.registry_at())),
                ("--token-file", mesh.operator_token().to_string_lossy().into_owned()),
                ("--registry-admin", registry.to_string()),
                ("--gateway", format!("http://{}", mesh.gateway_at())),
                ("--gateway-admin", gateway.to_string()),
            ]
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect(),
        )
    }

    /// The same mesh with another value for a flag.
    fn with(&self, flag: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        let mut args = self.0.clone();
        let place = args.iter().position(|arg| arg == flag).expect("the flag is given");
        args[place + 1] = value.as_ref().to_string_lossy().into_owned();
        Self(args)
    }

    async fn check(&self) -> Checked {
        check(&std::env::temp_dir(), &self.0).await
    }
}

fn app_of(mesh: &Mesh, place: usize) -> Pid {
    let apps = process::children(mesh.members[place].sidecar.pid());
    let app = apps.into_iter().find(|pid| process::runs(*pid)).expect("the sidecar has an app");
    Pid::from_raw(app.cast_signed()).expect("a process id is above zero")
}

#[tokio::test]
async fn a_healthy_mesh_gives_no_alarm_in_twenty_runs_under_load() {
    let _alone = ALONE.write().await;
    let test = "a_healthy_mesh_gives_no_alarm_in_twenty_runs_under_load";
    let apps = [App::Users, App::Users, App::Posts];
    let Some(mut mesh) = Mesh::start(test, &apps).await else { return };
    let named = Named::of(&mut mesh).await;
    let call = four_reads_to_one_write(mesh.gateway_at()).await;
    let done = CancellationToken::new();
    let load = load::run_until(mesh.gateway_at(), RATE, done.cancelled(), call);
    let checks = async {
        let (mut well, mut alarms) = (0, Vec::new());
        while well < 20 && alarms.len() < 5 {
            let from = tokio::time::Instant::now();
            let checked = named.check().await;
            if !checked.ids().is_empty() {
                alarms.push((from, tokio::time::Instant::now(), checked));
                continue;
            }
            well += 1;
            checked.shows([]);
            assert!(checked.with(&["skipped"]).is_empty(), "everything was looked at: {:#}", checked.report);
            assert_eq!(checked.well("WEFT0305"), apps.len() + 1, "instances and registry: {:#}", checked.report);
            for id in ["WEFT0402", "WEFT0601", "WEFT0603"] {
                assert_eq!(checked.well(id), apps.len(), "{id} for each instance: {:#}", checked.report);
            }
            for id in ["WEFT0108", "WEFT0201", "WEFT0204", "WEFT0303", "WEFT0304", "WEFT0501", "WEFT0602", "WEFT0604"] {
                assert_eq!(checked.well(id), 1, "{id}: {:#}", checked.report);
            }
        }
        done.cancel();
        alarms
    };
    let (report, alarms) = tokio::join!(load, checks);
    println!("twenty checks: {report}");
    report.lost_none();
    for (from, to, checked) in &alarms {
        let stood_still = report.outcomes.iter().any(|it| it.under_way(*from, *to) && it.latency > STANDS_STILL);
        assert!(stood_still, "calls were answered as ever: {:#}", checked.report);
    }
    assert!(alarms.len() < 5, "the machine stands still all the time: {report}");
}

#[tokio::test]
async fn a_registry_that_is_down_is_one_failure_and_so_is_a_gateway() {
    let _shared = ALONE.read().await;
    let test = "a_registry_that_is_down_is_one_failure_and_so_is_a_gateway";
    let Some(mut mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let named = Named::of(&mut mesh).await;
    mesh.gateway.kill();
    named.check().await.shows(["WEFT0501"]);

    // Somebody else on its port is the better word, also from a file that nothing runs beside.
    let stranger = std::net::TcpListener::bind(mesh.gateway_at()).unwrap();
    let checked = named.check().await;
    checked.shows(["WEFT0107"]);
    assert!(checked.subject("WEFT0107").contains(&mesh.gateway_at().to_string()), "{:#}", checked.report);
    drop(stranger);

    mesh.kill_registry();
    named.check().await.shows(["WEFT0201", "WEFT0501"]);
}

#[tokio::test]
async fn a_port_that_another_process_holds_is_named_before_the_mesh_starts() {
    let _shared = ALONE.read().await;
    let test = "a_port_that_another_process_holds_is_named_before_the_mesh_starts";
    if outside::need_binaries(&["weft"], test).is_none() {
        return;
    }
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = TempDir::new().unwrap();
    let toml = format!(
        "[registry]\nlisten = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n[gateway]\nlisten = \"{}\"\n",
        stranger.local_addr().unwrap()
    );
    fs::write(dir.path().join("weft.toml"), toml).unwrap();
    let checked = check(dir.path(), &[]).await;
    checked.shows(["WEFT0101", "WEFT0107"]);
    let detail = &checked.with(&["failed"]).into_iter().find(|it| it["id"] == "WEFT0107").unwrap()["detail"];
    assert!(detail.as_str().unwrap().contains(&format!("(pid {})", std::process::id())), "{detail}");
}

#[tokio::test]
async fn a_port_that_weft_holds_for_another_mesh_is_a_strangers_too() {
    let _shared = ALONE.read().await;
    let test = "a_port_that_weft_holds_for_another_mesh_is_a_strangers_too";
    let Some(mut mesh) = Mesh::start(test, &[]).await else { return };
    let dir = TempDir::new().unwrap();
    let toml = format!(
        "[registry]\nlisten = \"{}\"\nhttp = \"127.0.0.1:0\"\n[gateway]\nlisten = \"127.0.0.1:0\"\n",
        mesh.registry_at()
    );
    fs::write(dir.path().join("weft.toml"), &toml).unwrap();
    let checked = check(dir.path(), &[]).await;
    checked.shows(["WEFT0101", "WEFT0107"]);
    let holder = format!("held by weft (pid {})", mesh.registry.as_ref().unwrap().pid());
    assert_eq!(checked.detail("WEFT0107"), holder);

    // The same port at another address is not in its way.
    fs::write(dir.path().join("weft.toml"), toml.replace("listen = \"127.0.0.1:", "listen = \"127.0.0.2:")).unwrap();
    check(dir.path(), &[]).await.shows(["WEFT0101"]);
    Named::of(&mut mesh).await.check().await.shows([]);
}

#[tokio::test]
async fn an_app_that_hangs_is_found_at_once_and_after_its_sidecar_has_noticed() {
    let _shared = ALONE.read().await;
    let test = "an_app_that_hangs_is_found_at_once_and_after_its_sidecar_has_noticed";
    let Some(mut mesh) = Mesh::start(test, &[App::Users, App::Users]).await else { return };
    let named = Named::of(&mut mesh).await;
    kill_process(app_of(&mesh, 0), Signal::STOP).unwrap();
    let checked = named.check().await;
    checked.shows(["WEFT0402"]);
    assert_eq!(checked.subject("WEFT0402"), "users-1");
    wait::until("the registry to hear of it", SOON, || async {
        mesh.instances().await.iter().any(|it| it.status() == Status::NotServing).then_some(())
    })
    .await;
    named.check().await.shows(["WEFT0402"]);
    kill_process(app_of(&mesh, 0), Signal::CONT).unwrap();
    mesh.all_serving().await;
    named.check().await.shows([]);
}

#[tokio::test]
async fn a_sidecar_that_stands_still_is_named_and_its_app_is_not_blamed() {
    let _shared = ALONE.read().await;
    let test = "a_sidecar_that_stands_still_is_named_and_its_app_is_not_blamed";
    let Some(mut mesh) = Mesh::start(test, &[App::Users, App::Users]).await else { return };
    let named = Named::of(&mut mesh).await;
    mesh.members[1].sidecar.signal(Signal::STOP);
    let checked = named.check().await;
    checked.shows(["WEFT0406"]);
    assert_eq!(checked.subject("WEFT0406"), "users-2");
    mesh.members[1].sidecar.signal(Signal::CONT);
}

#[tokio::test]
async fn a_service_without_an_instance_is_named_and_one_that_vanished_is_too() {
    let _shared = ALONE.read().await;
    let test = "a_service_without_an_instance_is_named_and_one_that_vanished_is_too";
    let Some(mut mesh) = Mesh::start(test, &[App::Users, App::Echo]).await else { return };
    let named = Named::of(&mut mesh).await;
    let mut echo = mesh.members.pop().expect("two were started");
    echo.sidecar.signal(Signal::TERM);
    echo.sidecar.end(SOON).await;
    let checked = named.check().await;
    checked.shows(["WEFT0401"]);
    assert_eq!(checked.subject("WEFT0401"), "echo.default");
    assert_eq!(checked.code, Some(1), "it holds claims, and nobody answers for it: {:#}", checked.report);
    mesh.members[0].sidecar.kill();
    let checked = named.check().await;
    assert_eq!(checked.code, Some(1), "users are missed, too: {:#}", checked.report);
    assert!(checked.with(&["failed"]).iter().any(|it| it["subject"] == "users-1"), "{:#}", checked.report);
}

#[tokio::test]
async fn a_registry_whose_clock_is_off_is_named() {
    let _shared = ALONE.read().await;
    let test = "a_registry_whose_clock_is_off_is_named";
    let Some(library) = outside::need_libfaketime(test) else { return };
    let Some(mut mesh) = Mesh::start(test, &[App::Users]).await else { return };
    mesh.kill_registry();
    // Certificates are good for a minute before they are signed: what is found is the clock, and nothing that broke by it.
    let ahead = [
        ("LD_PRELOAD", library.to_string_lossy().into_owned()),
        ("FAKETIME", "+40s".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    mesh.start_registry_with(&ahead).await;
    mesh.all_serving().await;
    let checked = Named::of(&mut mesh).await.check().await;
    checked.shows(["WEFT0108"]);
    assert_eq!(checked.subject("WEFT0108"), "registry");
}

#[tokio::test]
async fn descriptors_that_do_not_link_are_named_with_the_symbol() {
    let _shared = ALONE.read().await;
    let test = "descriptors_that_do_not_link_are_named_with_the_symbol";
    let Some(mut mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let file = FileDescriptorProto {
        name: Some("broken.proto".into()),
        message_type: vec![DescriptorProto {
            name: Some("Broken".into()),
            field: vec![FieldDescriptorProto {
                name: Some("what".into()),
                number: Some(1),
                r#type: Some(Type::Message.into()),
                type_name: Some(".nowhere.Thing".into()),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let set = mesh.dir().join("broken.binpb");
    fs::write(&set, FileDescriptorSet { file: vec![file] }.encode_to_vec()).unwrap();
    mesh.add_with(App::Echo, &["--descriptor-set", &set.to_string_lossy()]);
    wait::until("the instance to be listed", SOON, || async {
        let instances = mesh.instances().await;
        (instances.iter().filter(|it| it.status() == Status::Serving).count() == 2).then_some(())
    })
    .await;
    let checked = Named::of(&mut mesh).await.check().await;
    checked.shows(["WEFT0407"]);
    assert_eq!(checked.subject("WEFT0407"), "echo-2");
    assert!(checked.with(&["failed"])[0]["detail"].as_str().unwrap().contains("nowhere.Thing"), "{:#}", checked.report);
}

#[tokio::test]
async fn plaintext_where_the_registry_speaks_tls_is_told_from_an_absence() {
    let _shared = ALONE.read().await;
    let test = "plaintext_where_the_registry_speaks_tls_is_told_from_an_absence";
    let Some(mut mesh) = Mesh::start(test, &[]).await else { return };
    let named = Named::of(&mut mesh).await;
    named.with("--registry", format!("http://{}", mesh.registry_at())).check().await.shows(["WEFT0203"]);
    // The gateway's port speaks plaintext.
    named.with("--registry", format!("https://{}", mesh.gateway_at())).check().await.shows(["WEFT0203"]);
}

#[tokio::test]
async fn each_thing_that_can_be_wrong_with_a_token_has_its_id() {
    let _shared = ALONE.read().await;
    let test = "each_thing_that_can_be_wrong_with_a_token_has_its_id";
    let Some(mut mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let named = Named::of(&mut mesh).await;
    let file = mesh.dir().join("given.token");
    let given = named.with("--token-file", &file);
    given.check().await.shows(["WEFT0301"]);
    write_token(&file, "no token").unwrap();
    given.check().await.shows(["WEFT0301"]);

    write_token(&file, fs::read_to_string(mesh.operator_token()).unwrap().trim()).unwrap();
    given.check().await.shows([]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    given.check().await.shows(["WEFT0302"]);

    let (revoked, listed) = mesh.operator().create_token(&TokenFor::Operator, None).await.unwrap();
    mesh.operator().revoke_token(&listed.id).await.unwrap();
    write_token(&file, &revoked).unwrap();
    let checked = given.check().await;
    checked.shows(["WEFT0303"]);
    assert!(checked.detail("WEFT0303").contains("token_revoked"), "{:#}", checked.report);

    let (expired, listed) =
        mesh.operator().create_token(&TokenFor::Operator, Some(Duration::from_secs(1))).await.unwrap();
    wait::until("the token to run out", SOON, || async { (secure::clock()() > listed.expires).then_some(()) }).await;
    write_token(&file, &expired).unwrap();
    let checked = given.check().await;
    checked.shows(["WEFT0303"]);
    assert!(checked.detail("WEFT0303").contains("token_expired"), "{:#}", checked.report);
}

#[tokio::test]
async fn a_token_of_another_authority_shows_the_wrong_root() {
    let _shared = ALONE.read().await;
    let test = "a_token_of_another_authority_shows_the_wrong_root";
    let Some(mut mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let Some(other) = Mesh::start(test, &[]).await else { return };
    let named = Named::of(&mut mesh).await;
    named.with("--token-file", other.operator_token()).check().await.shows(["WEFT0304"]);
}

#[tokio::test]
async fn wrong_use_is_exit_code_2_and_an_explanation_needs_no_mesh() {
    let test = "wrong_use_is_exit_code_2_and_an_explanation_needs_no_mesh";
    let Some(weft) = outside::need(outside::binary("weft"), test, "the binary `weft`") else { return };
    let dir = TempDir::new().unwrap();
    let run = |args: &[&str]| Command::new(&weft).arg("check").args(args).current_dir(dir.path()).output().unwrap();
    for wrong in [&[][..], &["--explain", "WEFT9999"], &["--gateway", "127.0.0.1:1"], &["--registry", "7100"]] {
        assert_eq!(run(wrong).status.code(), Some(2), "{wrong:?}");
    }
    let explained = run(&["--explain", "weft0107"]);
    assert!(explained.status.success() && String::from_utf8_lossy(&explained.stdout).starts_with("WEFT0107 "));
}
