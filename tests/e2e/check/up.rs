//! Faults of a mesh that `weft up` runs: what only it knows of its processes.
//!
//! Lives here: those faults, found without a flag. Does not: what a run says (`check`).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use weft_discovery::{Credential, join};
use weft_identity::{name, pem};
use weft_proto::weft::registry::v1::{DeregisterRequest, registry_client::RegistryClient};
use weft_testkit::{
    authority::{Authority, HOUR, Hand},
    process, secure,
    up::Up,
    wait,
};

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
    says(&up, "mimic: calls do not come here: weft.testkit.v1.Echo belongs to echo").await;
}

/// Waits until `weft up` has said so.
async fn says(up: &Up, text: &str) {
    wait::until(&format!("weft up to say {text:?}"), SOON, || async { up.process.said(text).then_some(()) }).await;
}

#[tokio::test]
async fn calls_that_fail_at_the_gateway_are_told_from_those_that_reach_the_app() {
    let _shared = ALONE.read().await;
    let test = "calls_that_fail_at_the_gateway_are_told_from_those_that_reach_the_app";
    let hidden = |echo: &Path, _: &Path| format!("command = [{:?}]\nenv = {{ ECHO_HIDDEN = \"1\" }}", echo.display());
    let Some(up) = up(test, hidden).await else { return };
    says(&up, "echo: its methods are not known").await;
    let checked = comes_to_show(&up, ["WEFT0407"]).await;
    assert_eq!((checked.subject("WEFT0407"), checked.well("WEFT0601")), ("echo.default", 1));

    let policy = "name: few\nservice: echo\naccess: { rules: [{ name: posts, from: { services: [posts] } }] }\n";
    fs::write(up.dir().join("few.yaml"), policy).unwrap();
    up.run(&["apply", "-f", "few.yaml"]).await;
    let checked = comes_to_show(&up, ["WEFT0407", "WEFT0601"]).await;
    assert_eq!((checked.subject("WEFT0601"), checked.well("WEFT0601")), ("echo-1", 0));
    assert!(checked.detail("WEFT0601").ends_with("policy few, rule default"), "{:#}", checked.report);
}

#[tokio::test]
async fn a_gateway_by_tls_alone_gets_ready_and_outlives_a_mistake_in_its_file() {
    let _shared = ALONE.read().await;
    let test = "a_gateway_by_tls_alone_gets_ready_and_outlives_a_mistake_in_its_file";
    let tls = format!("[tls]\ncertificates = [{{ chain = \"{}\", key = \"{}\" }}]\n", pem::CHAIN, pem::KEY);
    let table = |[echo]: [PathBuf; 1], dir: &Path| {
        let authority = Authority::new("shop.example", &Hand::default());
        pem::export(dir, &authority.svid("shop", HOUR), &authority.bundle()).unwrap();
        fs::write(dir.join("gateway.toml"), &tls).unwrap();
        format!("config = \"gateway.toml\"\n[services.echo]\ncommand = [{:?}]\n", echo.display())
    };
    let Some(up) = Up::start(test, ["weft-echo"], &[], table).await else { return };
    says(&up, &format!("ready on https://{}", up.address("gateway", "http").await)).await;

    let checked = check(up.dir(), &[]).await;
    checked.shows([]);
    assert_eq!((checked.well("WEFT0501"), checked.well("WEFT0601")), (1, 1), "{:#}", checked.report);

    let before = up.row("gateway").await;
    fs::write(up.dir().join("gateway.toml"), "[tls]\ncertificates = 7\n").unwrap();
    let refused = up.try_run(&["restart", "gateway"]).await;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("gateway.toml"), "{said}");
    assert!(said.contains("gateway runs on as before"), "{said}");
    let after = up.row("gateway").await;
    assert_eq!((&before["pid"], &before["restarts"]), (&after["pid"], &after["restarts"]));
    fs::write(up.dir().join("gateway.toml"), &tls).unwrap();
    up.run(&["restart", "gateway"]).await;
    assert_ne!(before["pid"], up.row("gateway").await["pid"]);
}

#[tokio::test]
async fn a_gateway_for_clients_with_certificates_gets_ready_and_may_come_back_in_plaintext() {
    let _shared = ALONE.read().await;
    let test = "a_gateway_for_clients_with_certificates_gets_ready_and_may_come_back_in_plaintext";
    let table = |[echo]: [PathBuf; 1], dir: &Path| {
        let authority = Authority::new("shop.example", &Hand::default());
        pem::export(dir, &authority.svid("shop", HOUR), &authority.bundle()).unwrap();
        let certificates = format!("certificates = [{{ chain = \"{}\", key = \"{}\" }}]", pem::CHAIN, pem::KEY);
        let clients = format!("client_authorities = \"{}\"\nclient_certificates = \"required\"", pem::BUNDLE);
        fs::write(dir.join("gateway.toml"), format!("[tls]\n{certificates}\n{clients}\n")).unwrap();
        format!("config = \"gateway.toml\"\n[services.echo]\ncommand = [{:?}]\n", echo.display())
    };
    let Some(up) = Up::start(test, ["weft-echo"], &[], table).await else { return };
    let at = up.address("gateway", "http").await;
    says(&up, &format!("ready on https://{at}")).await;
    says(&up, "grpcurl -insecure -cert FILE -key FILE").await;
    let checked = check(up.dir(), &[]).await;
    checked.shows([]);
    let skipped: BTreeSet<_> = checked.with(&["skipped"]).iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert!(skipped.contains("WEFT0501"), "{:#}", checked.report);

    let shown = || async { up.run(&["ps", "-o", "json"]).await };
    assert!(shown().await.contains(&format!("\"https://{at}\"")), "{}", shown().await);
    fs::write(up.dir().join("gateway.toml"), "").unwrap();
    up.run(&["restart", "gateway"]).await;
    assert!(shown().await.contains(&format!("\"http://{at}\"")), "{}", shown().await);
    let checked = check(up.dir(), &[]).await;
    checked.shows([]);
    assert_eq!((checked.well("WEFT0501"), checked.well("WEFT0601")), (1, 1), "{:#}", checked.report);
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
