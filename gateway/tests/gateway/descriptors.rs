//! Static mode's descriptors as files: a directory of sets, what is changed in it, and what cannot be used.

use std::{fs, io::Write, os::fd::AsRawFd, path::Path, thread, time::Duration};

use tempfile::TempDir;
use weft_gateway::{DescriptorFiles, Source};
use weft_proto::descriptors;
use weft_testkit::wait::until;

use crate::support::{Backend, Running, backend, send, start_gateway};

const SOON: Duration = Duration::from_secs(20);

/// Puts a file there at once, as whoever deploys should.
fn put(dir: &Path, name: &str, bytes: &[u8]) {
    let beside = dir.join(format!(".{name}"));
    fs::write(&beside, bytes).unwrap();
    fs::rename(beside, dir.join(name)).unwrap();
}

async fn start_with(path: &Path) -> (Running, Backend) {
    let backend = backend().await;
    let (upstream, files) = (backend.addr.clone(), DescriptorFiles::Path(path.to_owned()));
    let gateway = start_gateway(upstream.clone(), |config| {
        config.source = Source::Static { descriptor_set: files, upstream };
    })
    .await;
    (gateway, backend)
}

async fn directory() -> (Running, Backend, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "users.binpb", descriptors::SHOP_USERS);
    let (gateway, backend) = start_with(dir.path()).await;
    (gateway, backend, dir)
}

async fn echo(gateway: &Running) -> u16 {
    send(gateway.addr, "POST", "/echo", &[], "{}").await.status.as_u16()
}

async fn users(gateway: &Running) -> u16 {
    send(gateway.addr, "GET", "/api/users", &[], "").await.status.as_u16()
}

async fn until_echo_is(gateway: &Running, status: u16) {
    until(&format!("/echo to be {status}"), SOON, || async { (echo(gateway).await == status).then_some(()) }).await;
}

async fn refused(gateway: &Running) -> String {
    let metrics = send(gateway.admin, "GET", "/metrics", &[], "").await.body;
    let name = "weft_gateway_descriptor_sets_refused_total ";
    metrics.lines().find_map(|it| it.strip_prefix(name)).expect("the metric").to_owned()
}

async fn outside(gateway: &Running) -> serde_json::Value {
    send(gateway.admin, "GET", "/outside", &[], "").await.json()[0].clone()
}

#[tokio::test]
async fn a_directory_is_all_sets_in_it_and_is_followed() {
    let (gateway, _backend, dir) = directory().await;
    assert_eq!((users(&gateway).await, echo(&gateway).await), (200, 404));
    put(dir.path(), "echo.binpb", descriptors::TESTKIT);
    until_echo_is(&gateway, 200).await;
    assert_eq!(users(&gateway).await, 200);
    let paths = send(gateway.addr, "GET", "/openapi.json", &[], "").await.json()["paths"].clone();
    assert!(paths.get("/echo").is_some() && paths.get("/api/users").is_some(), "the description follows");
    fs::remove_file(dir.path().join("echo.binpb")).unwrap();
    until_echo_is(&gateway, 404).await;
    assert_eq!((users(&gateway).await, refused(&gateway).await.as_str()), (200, "0"));
}

#[tokio::test]
async fn a_set_that_cannot_be_used_leaves_the_routes_before_and_is_told() {
    let (gateway, _backend, dir) = directory().await;
    put(dir.path(), "echo.binpb", b"no descriptor set");
    until("the set to be refused", SOON, || async { (refused(&gateway).await == "1").then_some(()) }).await;
    until("its problem to be told", SOON, || async { (outside(&gateway).await["state"] == "without").then_some(()) })
        .await;
    assert_eq!((users(&gateway).await, echo(&gateway).await), (200, 404));
    let told = outside(&gateway).await;
    assert_eq!((&told["kind"], &told["state"]), (&"descriptors".into(), &"without".into()), "{told}");
    let problem = told["problem"].as_str().unwrap();
    assert!(problem.contains("echo.binpb: not a file descriptor set"), "{problem}");

    put(dir.path(), "echo.binpb", descriptors::TESTKIT);
    until_echo_is(&gateway, 200).await;
    until("the problem to be over", SOON, || async { (outside(&gateway).await["state"] == "well").then_some(()) })
        .await;

    for file in ["echo.binpb", "users.binpb"] {
        fs::remove_file(dir.path().join(file)).unwrap();
    }
    until("the empty directory to be refused", SOON, || async { (refused(&gateway).await != "1").then_some(()) }).await;
    assert_eq!(users(&gateway).await, 200, "nothing in place of something is a mistake");
}

#[tokio::test]
async fn a_file_is_followed_as_a_directory_is() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "set.binpb", descriptors::SHOP_USERS);
    let (gateway, _backend) = start_with(&dir.path().join("set.binpb")).await;
    assert_eq!((users(&gateway).await, echo(&gateway).await), (200, 404));
    put(dir.path(), "set.binpb", &[descriptors::SHOP_USERS, descriptors::TESTKIT].concat());
    until_echo_is(&gateway, 200).await;
    fs::remove_file(dir.path().join("set.binpb")).unwrap();
    until("the lack to be told", SOON, || async { (refused(&gateway).await == "1").then_some(()) }).await;
    assert_eq!((users(&gateway).await, echo(&gateway).await), (200, 200));
}

#[tokio::test]
async fn a_pipe_that_a_flag_names_is_read_once_and_serves() {
    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: weft_gateway::Args,
    }
    let (reader, mut writer) = std::io::pipe().unwrap();
    let writing = thread::spawn(move || writer.write_all(descriptors::SHOP_USERS).unwrap());
    let set = format!("/dev/fd/{}", reader.as_raw_fd());
    let line = ["weft", "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", "--descriptor-set", &set];
    let read = weft_gateway::Config::load(<Command as clap::Parser>::parse_from(line).args).unwrap().source;
    writing.join().unwrap();
    let Source::Static { descriptor_set, .. } = read else { panic!("it has an upstream") };
    let backend = backend().await;
    let upstream = backend.addr.clone();
    let gateway = start_gateway(upstream.clone(), |config| {
        config.source = Source::Static { descriptor_set, upstream };
    })
    .await;
    assert_eq!((users(&gateway).await, echo(&gateway).await), (200, 404));
}
