//! Everyone who must not get in: refused by a rule that is counted and logged. Inventory: security.
//!
//! Lives here: connections to a sidecar's inbound, and joins at the registry. Does not: calls that a known caller may not make (policies).

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_discovery::{TokenFor, write_token};
use weft_proto::shop::users::v1::{ListUsersRequest, users_client::UsersClient};
use weft_testkit::{
    kubernetes::{self, ApiServer},
    mesh::{App, Mesh, Options, channel},
    process::Process,
    secure, wait,
};

use super::{counted, leaf, registry_beside, weft, write_files};
use crate::ALONE;

const SOON: Duration = Duration::from_secs(30);
const INBOUND: &str = "weft_sidecar_inbound_refusals_total";
const JOINS: &str = "weft_registry_identity_refusals_total";

/// Calls a sidecar's inbound as a stranger who shows the files in `shown`, or nothing.
async fn call(at: SocketAddr, shown: Option<&Path>) -> Result<(), tonic::Status> {
    let channel = secure::stranger_channel(at, secure::stranger(shown));
    UsersClient::new(channel).list_users(ListUsersRequest::default()).await.map(drop)
}

/// Waits until the sidecar of users has counted and logged a refusal by `rule`.
async fn refused(mesh: &mut Mesh, rule: &str) {
    let sidecar = &mut mesh.members[0].sidecar;
    let admin = sidecar.address("admin").await;
    wait::until(&format!("{rule} to be counted"), SOON, || async {
        counted(admin, INBOUND, "rule", rule).await.filter(|count| *count > 0)
    })
    .await;
    logged(sidecar, rule).await;
}

/// Waits until a log that is written as it happens names a rule: a line may be on its way when the count shows already.
async fn logged(process: &Process, rule: &str) {
    let line = format!("\"rule\":\"{rule}\"");
    wait::until(&format!("{rule} to be logged"), SOON, || async { process.said(&line).then_some(()) }).await;
}

#[tokio::test]
async fn a_sidecar_refuses_every_caller_that_is_nobody_and_says_by_which_rule() {
    let _shared = ALONE.read().await;
    let test = "a_sidecar_refuses_every_caller_that_is_nobody_and_says_by_which_rule";
    let Some(mut mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let at = mesh.members[0].sidecar.address("inbound").await;
    let dir = mesh.dir().to_owned();
    let posts = mesh.token_file("posts");

    // What is good gets in, by the same way that the rest fails on.
    write_files(&mesh, &posts, "good", &[]).await;
    call(at, Some(&dir.join("good"))).await.unwrap();

    call(at, None).await.unwrap_err();
    refused(&mut mesh, "no_certificate").await;

    UsersClient::new(channel(at)).list_users(ListUsersRequest::default()).await.unwrap_err();
    refused(&mut mesh, "plaintext").await;

    let _foreign = registry_beside(&mesh, "foreign", &["--trust-domain", "other.mesh"]).await;
    write_files(&mesh, &dir.join("foreign/ca/operator.token"), "stranger", &["--service", "posts"]).await;
    call(at, Some(&dir.join("stranger"))).await.unwrap_err();
    refused(&mut mesh, "foreign_trust_domain").await;

    let _forger = registry_beside(&mesh, "forger", &[]).await;
    write_files(&mesh, &dir.join("forger/ca/operator.token"), "forged", &["--service", "posts"]).await;
    call(at, Some(&dir.join("forged"))).await.unwrap_err();
    refused(&mut mesh, "unknown_authority").await;

    // A second registry of the same authority, whose certificates live for a few seconds.
    let ca = dir.join("registry/ca");
    let flags = ["--ca-dir", ca.to_str().unwrap(), "--certificate-life", "5"];
    let mut hasty = registry_beside(&mesh, "hasty", &flags).await;
    let url = format!("https://{}", hasty.address("grpc").await);
    write_files(&mesh, &posts, "short", &["--registry", &url]).await;
    let end = leaf(&dir.join("short")).not_after;
    wait::until("the certificate to run out", SOON, || async { (secure::clock()() > end).then_some(()) }).await;
    wait::until("an expired caller to be refused", SOON, || async { call(at, Some(&dir.join("short"))).await.err() })
        .await;
    refused(&mut mesh, "expired").await;
}

/// Opens a connection that says the beginning of HTTP/2 and no more, and returns once the server has answered: it is served.
async fn idle(at: SocketAddr, shown: &Path) -> impl AsyncReadExt + Unpin + use<> {
    let mut stream = secure::connect_as(secure::stranger(Some(shown)), at).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    assert!(stream.read(&mut [0; 512]).await.unwrap() > 0, "the server's settings");
    stream
}

#[tokio::test]
async fn a_revoked_certificate_loses_its_live_connection_and_gets_no_other() {
    let _shared = ALONE.read().await;
    let test = "a_revoked_certificate_loses_its_live_connection_and_gets_no_other";
    let Some(mut mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let at = mesh.members[0].sidecar.address("inbound").await;
    let (dir, posts) = (mesh.dir().to_owned(), mesh.token_file("posts"));
    write_files(&mesh, &posts, "revoked", &[]).await;
    write_files(&mesh, &posts, "other", &[]).await;
    let shown = dir.join("revoked");
    let mut live = idle(at, &shown).await;
    call(at, Some(&shown)).await.unwrap();

    let (serial, operator) = (leaf(&shown).serial.to_string(), mesh.operator_token());
    weft(&mesh, &["identity", "revoke", "--serial", &serial, "--token-file", operator.to_str().unwrap()]).await;
    let ended = async {
        while live.read(&mut [0; 512]).await.is_ok_and(|read| read > 0) {} // a GOAWAY may come first
    };
    tokio::time::timeout(SOON, ended).await.expect("the live connection ends");
    refused(&mut mesh, "revoked").await;
    call(at, Some(&shown)).await.unwrap_err();
    call(at, Some(&dir.join("other"))).await.expect("another certificate of the same service is none of its business");
}

/// Starts a sidecar of `service` with a token, waits for its end, which must be a failure that names `rule`.
async fn does_not_join(mesh: &Mesh, service: &str, token: &Path, rule: &str) {
    let mut command = Command::new(mesh.weft());
    command.args(["sidecar", "--service", service, "--token-file", token.to_str().unwrap(), "--log-format", "json"]);
    command.args(["--app", "127.0.0.1:1", "--inbound", "127.0.0.1:0", "--outbound", "127.0.0.1:0"]);
    let mut sidecar = Process::spawn(rule, command).unwrap();
    let status = sidecar.end(SOON).await;
    assert_eq!(status.code(), Some(1), "{rule}:\n{}", sidecar.log());
    assert!(sidecar.said(&format!("\"rule\":\"{rule}\"")), "{rule} is not in its log:\n{}", sidecar.log());
}

#[tokio::test]
async fn a_token_that_is_not_good_gives_no_identity_and_the_process_ends_naming_the_rule() {
    let _shared = ALONE.read().await;
    let test = "a_token_that_is_not_good_gives_no_identity_and_the_process_ends_naming_the_rule";
    let Some(mut mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let token = |name: &str, text: &str| {
        let path = mesh.dir().join(name);
        write_token(&path, text).unwrap();
        path
    };
    let users = TokenFor::Service("users".parse().unwrap());
    let (good, _) = mesh.operator().create_token(&users, None).await.unwrap();

    does_not_join(&mesh, "posts", &token("of-users", &good), "token_other_service").await;

    let (signed, _) = good.rsplit_once('.').unwrap();
    let altered = format!("{signed}.{}", "A".repeat(86));
    does_not_join(&mesh, "users", &token("altered", &altered), "token_altered").await;

    let (short, listed) = mesh.operator().create_token(&users, Some(Duration::from_secs(1))).await.unwrap();
    let over = || async { (secure::clock()() > listed.expires + Duration::from_secs(1)).then_some(()) };
    wait::until("the token to run out", SOON, over).await; // tokens count in seconds
    does_not_join(&mesh, "users", &token("expired", &short), "token_expired").await;

    let (revoked, listed) = mesh.operator().create_token(&users, None).await.unwrap();
    mesh.operator().revoke_token(&listed.id).await.unwrap();
    does_not_join(&mesh, "users", &token("revoked", &revoked), "token_revoked").await;

    // Another authority of the same name, whose tokens lead to the mesh's registry.
    let url = format!("https://{}", mesh.registry_at());
    let _forger = registry_beside(&mesh, "forger", &["--advertise", &url]).await;
    does_not_join(&mesh, "users", &mesh.dir().join("forger/ca/operator.token"), "wrong_root").await;

    let registry = mesh.registry.as_mut().unwrap();
    let admin = registry.address("admin").await;
    for rule in ["token_other_service", "token_altered", "token_expired", "token_revoked", "refused_by_caller"] {
        assert_eq!(counted(admin, JOINS, "outcome", rule).await, Some(1), "{rule}");
        logged(registry, rule).await;
    }
}

#[tokio::test]
async fn a_token_file_that_others_may_read_is_refused_with_the_cure() {
    let _shared = ALONE.read().await;
    let test = "a_token_file_that_others_may_read_is_refused_with_the_cure";
    let Some(mesh) = Mesh::start(test, &[]).await else { return };
    let token = mesh.token_file("users");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&token, open).unwrap();
    let mut command = Command::new(mesh.weft());
    command.args(["sidecar", "--service", "users", "--token-file", token.to_str().unwrap(), "--app", "127.0.0.1:1"]);
    let mut sidecar = Process::spawn("sidecar", command).unwrap();
    assert_eq!(sidecar.end(SOON).await.code(), Some(2), "{}", sidecar.log());
    assert!(sidecar.said(&format!("chmod 600 {}", token.display())), "{}", sidecar.log());
}

#[tokio::test]
async fn a_pod_joins_with_the_token_that_kubernetes_projects_if_the_api_server_vouches_for_it() {
    let _shared = ALONE.read().await;
    let test = "a_pod_joins_with_the_token_that_kubernetes_projects_if_the_api_server_vouches_for_it";
    let api = ApiServer::start().await;
    api.says(201, kubernetes::AUTHENTICATED);
    let (ca, own) = (api.ca(), api.token());
    let flags =
        ["--kubernetes-audience", "weft", "--kubernetes-api", &api.url(), "--kubernetes-ca", ca.to_str().unwrap()];
    let registry =
        flags.iter().copied().chain(["--kubernetes-token", own.to_str().unwrap()]).map(str::to_owned).collect();
    let Some(mut mesh) = Mesh::start_as(test, &[App::Echo], Options { registry, ..Options::default() }).await else {
        return;
    };
    let token = mesh.dir().join("projected");
    let projected = kubernetes::token(kubernetes::AUTHENTICATED);
    std::fs::write(&token, &projected).unwrap();
    let (url, pin) = (format!("https://{}", mesh.registry_at()), mesh.identity().trust().bundle().roots()[0].clone());
    let pin = weft_identity::RootPin::of(&pin).to_string();
    let place = ["--registry", &url, "--registry-pin", &pin];
    write_files(&mesh, &token, "pod", &place).await;
    assert_eq!(leaf(&mesh.dir().join("pod")).id.as_str(), "spiffe://weft.local/ns/shop/svc/users");
    assert_eq!(api.heard()[0].body["spec"]["token"], *projected);

    let refuse = async |mesh: &Mesh, service: &str, rule: &str| {
        let mut command = Command::new(mesh.weft());
        command.args(["sidecar", "--service", service, "--token-file"]).arg(&token).args(place);
        command.args(["--app", "127.0.0.1:1", "--inbound", "127.0.0.1:0", "--outbound", "127.0.0.1:0"]);
        let mut sidecar = Process::spawn(rule, command).unwrap();
        assert_eq!(sidecar.end(SOON).await.code(), Some(1), "{}", sidecar.log());
        assert!(sidecar.said(rule), "{}", sidecar.log());
    };
    refuse(&mesh, "posts.shop", "token_other_service").await;
    std::fs::write(&token, kubernetes::token(kubernetes::EXPIRED)).unwrap();
    api.says(201, kubernetes::EXPIRED);
    refuse(&mesh, "users.shop", "token_unauthenticated").await;
    let admin = mesh.registry.as_mut().unwrap().address("admin").await;
    assert_eq!(counted(admin, JOINS, "outcome", "token_unauthenticated").await, Some(1));
}
