//! Faults of a mesh that `weft up` runs: what only it knows of its processes.
//!
//! Lives here: those faults, found without a flag. Does not: what a run says (`check`).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use weft_discovery::{Credential, join};
use weft_identity::name;
use weft_proto::weft::registry::v1::{DeregisterRequest, registry_client::RegistryClient};
use weft_testkit::{process, secure, up::Up, wait};

use super::{Checked, SOON, check};
use crate::ALONE;

/// A mesh of the service echo, with these words of its table.
async fn up(test: &str, service: impl FnOnce(&Path, &Path) -> String) -> Option<Up> {
    let table = |[echo]: [PathBuf; 1], dir: &Path| format!("[services.echo]\n{}\n", service(&echo, dir));
    Up::start(test, ["weft-echo"], &[], table).await
}

/// Checks until these ids show, and no others at that moment.
async fn comes_to_show<const N: usize>(up: &Up, ids: [&str; N]) -> Checked {
    let checked = wait::until("the ids to show", SOON, || async {
        let checked = check(up.dir(), &[]).await;
        (checked.ids() == BTreeSet::from(ids)).then_some(checked)
    })
    .await;
    checked.shows(ids);
    checked
}

#[tokio::test]
async fn weft_up_is_checked_without_a_flag_and_tells_what_an_operator_removed() {
    let _shared = ALONE.read().await;
    let test = "weft_up_is_checked_without_a_flag_and_tells_what_an_operator_removed";
    let Some(up) = up(test, |echo, _| format!("command = [{:?}]\nscale = 2", echo.display())).await else {
        return;
    };
    let checked = check(up.dir(), &[]).await;
    checked.shows([]);
    assert!(checked.with(&["skipped"]).is_empty(), "{:#}", checked.report);
    assert_eq!((checked.well("WEFT0101"), checked.well("WEFT0107"), checked.well("WEFT0601")), (1, 1, 2));

    let id = up.row("echo-1").await["instance_id"].as_str().unwrap().to_owned();
    let registry = up.address("registry", "grpc").await;
    let word = DeregisterRequest { id, epoch: 0 };
    let token = up.dir().join(".weft/registry/ca/operator.token");
    let credential = Credential::read(&token, None).unwrap();
    let (_keeping, operator) = join(credential, None, secure::clock(), SOON).await.unwrap();
    let expected = operator.trust().domain().service(&name::registry());
    let channel = secure::channel(registry, &operator, &expected);
    RegistryClient::new(channel).deregister(word).await.unwrap();
    let checked = comes_to_show(&up, ["WEFT0404"]).await;
    assert_eq!(checked.subject("WEFT0404"), "echo-1");
}

#[tokio::test]
async fn a_service_that_somebody_scaled_to_nothing_is_no_alarm() {
    let _shared = ALONE.read().await;
    let test = "a_service_that_somebody_scaled_to_nothing_is_no_alarm";
    let Some(up) = up(test, |echo, _| format!("command = [{:?}]", echo.display())).await else { return };
    up.run(&["stop", "echo"]).await;
    let checked = check(up.dir(), &[]).await;
    checked.shows([]);
    let skipped = checked.with(&["skipped"]).into_iter().filter(|it| it["id"] == "WEFT0401");
    let skipped: Vec<_> = skipped.map(|it| (it["subject"].as_str().unwrap(), it["detail"].as_str().unwrap())).collect();
    assert_eq!(skipped, [("echo.default", "scaled to 0")]);
    up.run(&["scale", "echo=1"]).await;
    let checked = comes_to_show(&up, []).await;
    assert_eq!(checked.well("WEFT0601"), 1, "{:#}", checked.report);
}

#[tokio::test]
async fn a_service_that_declares_the_name_of_another_is_refused_by_name() {
    let _shared = ALONE.read().await;
    let test = "a_service_that_declares_the_name_of_another_is_refused_by_name";
    let same = |echo: &Path, _: &Path| {
        let echo = echo.display();
        format!("command = [\"{echo}\"]\n[services.mimic]\ncommand = [\"{echo}\"]\nneeds = [\"echo\"]")
    };
    let Some(up) = up(test, same).await else { return };
    let checked = check(up.dir(), &[]).await;
    checked.shows(["WEFT0408"]);
    assert_eq!(checked.subject("WEFT0408"), "mimic.default");
}

#[tokio::test]
async fn an_app_that_crashes_again_and_again_is_named_with_its_last_words() {
    let _shared = ALONE.read().await;
    let test = "an_app_that_crashes_again_and_again_is_named_with_its_last_words";
    let service = |echo: &Path, dir: &Path| {
        let script =
            format!("test -e {}/broken && {{ echo no disk >&2; exit 3; }}; exec {}", dir.display(), echo.display());
        format!("command = [\"sh\", \"-c\", {script:?}]")
    };
    let Some(up) = up(test, service).await else { return };
    check(up.dir(), &[]).await.shows([]);
    fs::write(up.dir().join("broken"), "").unwrap();
    process::kill(u32::try_from(up.row("echo-1").await["app_pid"].as_u64().unwrap()).unwrap());
    let checked = comes_to_show(&up, ["WEFT0403"]).await;
    assert_eq!(checked.subject("WEFT0403"), "echo-1");
}
