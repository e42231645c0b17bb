//! Who may call whom: policies applied by `weft apply`, enforced by sidecars, told in status, metric and log. Inventory: authorization.
//!
//! Lives here: the way of a policy from a file to a refusal, and what it costs calls that are allowed. Does not: the rules themselves
//! (`weft-traffic`), what is wrong with files (`weft-policy`).

use std::{process::Output, time::Duration};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;
use weft_proto::shop::users::v1::{GetUserRequest, User, users_client::UsersClient};
use weft_testkit::{
    http::{Answer, count, send},
    load::{self, Begun, Call},
    mesh::{App, Mesh},
    outside, wait,
};

use crate::ALONE;

const SOON: Duration = Duration::from_secs(30);
/// Trace of the calls that a test makes as a service.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

async fn call(mesh: &Mesh, method: Method, path: &str, body: &str) -> Answer {
    send(mesh.gateway_at(), method, path, body).await.expect("the gateway answers")
}

/// Runs a command of `weft` against the mesh's registry, with this on its standard input.
async fn weft(mesh: &Mesh, args: &[&str], input: &str) -> Output {
    use tokio::io::AsyncWriteExt;
    let program = outside::binary("weft").expect("checked at the start of the mesh");
    let mut command = Command::new(program);
    command.args(args).arg("--token-file").arg(mesh.operator_token());
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().expect("weft starts");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).await.expect("weft reads its input");
    tokio::time::timeout(SOON, child.wait_with_output()).await.expect("weft ends").expect("weft can be waited for")
}

async fn apply(mesh: &Mesh, policy: &str) -> String {
    let output = weft(mesh, &["apply", "-f", "-", "--format", "yaml"], policy).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A policy of users that lets this service use every method, and nobody else.
fn only(service: &str) -> String {
    format!(
        "name: users-callers\nservice: users\naccess:\n  rules:\n    - {{ name: known, from: {{ services: [{service}] }} }}\n"
    )
}

/// A policy of users that lets everybody use these methods.
fn users_policy(methods: &[&str]) -> String {
    let methods: Vec<_> = methods.iter().map(|it| format!("shop.users.v1.Users/{it}")).collect();
    let from = "{ anonymous: true, authenticated: true }";
    format!(
        "name: users-callers\nservice: users\naccess:\n  rules:\n    - {{ name: known, from: {from}, methods: [{}] }}\n",
        methods.join(", ")
    )
}

async fn until_status(mesh: &Mesh, method: Method, path: &str, status: StatusCode) -> Answer {
    wait::until(&format!("{method} {path} to be {status}"), SOON, || async {
        let answer = call(mesh, method.clone(), path, "").await;
        (answer.status == status).then_some(answer)
    })
    .await
}

/// Waits until calls end so ten times in a row: every instance has heard.
async fn until_everywhere(mesh: &Mesh, method: Method, path: &str, status: StatusCode) {
    wait::until(&format!("{method} {path} to be {status} everywhere"), SOON, || async {
        for _ in 0..10 {
            if call(mesh, method.clone(), path, "").await.status != status {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// The sum of a sidecar's refusals by the rule of a policy.
async fn refusals(mesh: &mut Mesh, policy: &str, rule: &str) -> u64 {
    let series = format!("weft_sidecar_policy_refusals_total{{policy=\"{policy}\",rule=\"{rule}\"}}");
    let mut sum = 0;
    for member in &mut mesh.members {
        let admin = member.sidecar.address("admin").await;
        sum += count(admin, &series).await.unwrap_or_default(); // a series begins with its first refusal
    }
    sum
}

/// The line that a sidecar logged of a refusal to this service.
fn logged_refusal(mesh: &Mesh, caller: &str) -> Option<Value> {
    let refused = |line: &Value| {
        let by = line["caller"].as_str().unwrap_or_default();
        line["message"] == "call refused" && by.ends_with(&format!("/ns/default/svc/{caller}"))
    };
    mesh.members.iter().find_map(|it| {
        let log = it.sidecar.log();
        log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find(|line| refused(line))
    })
}

#[tokio::test]
async fn a_method_that_no_rule_allows_is_refused_and_told_in_status_metric_and_log() {
    let _shared = ALONE.read().await;
    let test = "a_method_that_no_rule_allows_is_refused_and_told_in_status_metric_and_log";
    let Some(mut mesh) = Mesh::start(test, &[App::Users, App::Users]).await else { return };
    let created = call(&mesh, Method::POST, "/api/users", r#"{"name": "Ada", "email": "ada@example.com"}"#).await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
    let path = format!("/api/users/{}", created.json()["id"].as_str().unwrap());

    let told = apply(&mesh, &users_policy(&["GetUser", "ListUsers"])).await;
    assert!(told.starts_with("policy users-callers created at "), "{told}");
    let told = apply(&mesh, &users_policy(&["GetUser", "ListUsers"])).await;
    assert!(told.starts_with("policy users-callers unchanged at "), "{told}");
    until_everywhere(&mesh, Method::DELETE, "/api/users/nobody", StatusCode::FORBIDDEN).await;
    let refused = until_status(&mesh, Method::DELETE, &path, StatusCode::FORBIDDEN).await;
    let body = refused.json();
    assert_eq!(body["code"], 7, "{body}");
    let message = body["message"].as_str().unwrap();
    assert!(
        message.contains("may not call shop.users.v1.Users/DeleteUser: policy users-callers, rule default"),
        "{message}"
    );
    let info = &body["details"][0];
    assert_eq!((&info["reason"], &info["domain"]), (&json!("REFUSED_BY_POLICY"), &json!("weft")), "{body}");
    assert_eq!((&info["metadata"]["policy"], &info["metadata"]["rule"]), (&json!("users-callers"), &json!("default")));
    assert_eq!(call(&mesh, Method::GET, &path, "").await.status, StatusCode::OK, "what is allowed goes on");

    assert!(refusals(&mut mesh, "users-callers", "default").await >= 1);
    let line = wait::until("the refusal to be logged", SOON, || async { logged_refusal(&mesh, "gateway") }).await;
    let told = ["policy", "rule", "method", "level"].map(|field| line[field].as_str().unwrap_or_default());
    assert_eq!(told, ["users-callers", "default", "shop.users.v1.Users/DeleteUser", "WARN"], "{line}");
    let trace = line["trace_id"].as_str().unwrap_or_default();
    assert!(trace.len() == 32 && trace.bytes().all(|it| it.is_ascii_hexdigit()), "{line}");

    let yaml = weft(&mesh, &["get", "policies", "-o", "yaml"], "").await;
    let told = apply(&mesh, &String::from_utf8(yaml.stdout).unwrap()).await;
    assert!(told.starts_with("policy users-callers unchanged at "), "what get prints, apply reads: {told}");
    let gone = weft(&mesh, &["delete", "policies", "users-callers"], "").await;
    assert!(gone.status.success(), "{gone:?}");
    until_status(&mesh, Method::DELETE, &path, StatusCode::OK).await;
}

/// Calls users as the service whose sidecar listens here for its app, within [`TRACE`].
struct As(UsersClient<Channel>);

impl As {
    fn new(outbound: std::net::SocketAddr) -> Self {
        let channel = Channel::from_shared(format!("http://{outbound}")).expect("an address is a valid authority");
        Self(UsersClient::new(channel.origin("http://users".parse().expect("it is a URI")).connect_lazy()))
    }

    async fn get(&mut self, id: &str) -> Result<User, Status> {
        let mut request = Request::new(GetUserRequest { id: id.to_owned() });
        request.set_timeout(SOON);
        request.metadata_mut().insert("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-00").parse().unwrap());
        Ok(self.0.get_user(request).await?.into_inner())
    }

    /// Waits until calls end so ten times in a row: every instance has heard.
    async fn until_everywhere(&self, id: &str, code: Code) {
        wait::until(&format!("calls to be {code:?} everywhere"), SOON, || async {
            let mut client = Self(self.0.clone());
            for _ in 0..10 {
                if client.get(id).await.map_or_else(|status| status.code(), |_| Code::Ok) != code {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_service_that_no_rule_allows_is_refused_by_name_and_the_calls_of_the_others_go_on() {
    let _shared = ALONE.read().await;
    let test = "a_service_that_no_rule_allows_is_refused_by_name_and_the_calls_of_the_others_go_on";
    let Some(mut mesh) = Mesh::start(test, &[App::Users, App::Users, App::Posts]).await else { return };
    let created = call(&mesh, Method::POST, "/api/users", r#"{"name": "Ada", "email": "ada@example.com"}"#).await;
    let ada = created.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/api/users/{ada}");
    let mut posts = As::new(mesh.members[2].sidecar.address("outbound").await);
    assert_eq!(posts.get(&ada).await.unwrap().name, "Ada", "nobody has said yet who may");

    apply(&mesh, &only("gateway")).await;
    posts.until_everywhere(&ada, Code::PermissionDenied).await;
    let counted = refusals(&mut mesh, "users-callers", "default").await;
    for _ in 0..20 {
        let refused = posts.get(&ada).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        let says = "posts may not call shop.users.v1.Users/GetUser: policy users-callers, rule default";
        assert_eq!(refused.message(), says);
        let info = refused.get_details_error_info().expect("a refusal says what refuses");
        let named = ["policy", "rule", "method"].map(|it| info.metadata[it].as_str());
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("REFUSED_BY_POLICY", "weft"));
        assert_eq!(named, ["users-callers", "default", "shop.users.v1.Users/GetUser"]);
        let answer = call(&mesh, Method::GET, &path, "").await;
        assert_eq!(answer.status, StatusCode::OK, "the gateway's calls go on: {answer:?}");
    }
    assert_eq!(
        refusals(&mut mesh, "users-callers", "default").await - counted,
        20,
        "each is counted, and nothing else"
    );
    let line = wait::until("the refusal to be logged", SOON, || async { logged_refusal(&mesh, "posts") }).await;
    let told = ["policy", "rule", "method", "trace_id"].map(|field| line[field].as_str().unwrap_or_default());
    assert_eq!(told, ["users-callers", "default", "shop.users.v1.Users/GetUser", TRACE], "{line}");

    // That posts may not ask is a matter between the two services: its own caller is told nothing of it, its operator all.
    let article = json!({"authorId": ada, "title": "Notes"}).to_string();
    let failed = call(&mesh, Method::POST, "/api/posts", &article).await;
    assert_eq!(
        (failed.status, failed.json()["message"].clone()),
        (StatusCode::INTERNAL_SERVER_ERROR, json!("internal error"))
    );
    wait::until("the cause to be logged", SOON, || async {
        mesh.members[2].sidecar.said("policy users-callers, rule default").then_some(())
    })
    .await;

    // The other way round, REST is told what gRPC is.
    apply(&mesh, &only("posts")).await;
    posts.until_everywhere(&ada, Code::Ok).await;
    until_everywhere(&mesh, Method::GET, &path, StatusCode::FORBIDDEN).await;
    let body = call(&mesh, Method::GET, &path, "").await.json();
    let message = body["message"].as_str().unwrap();
    assert!(message.starts_with("gateway may not call shop.users.v1.Users/GetUser"), "{body}");
    assert!(message.ends_with("policy users-callers, rule default"), "{body}");
    assert_eq!(call(&mesh, Method::POST, "/api/posts", &article).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn policies_come_into_force_under_load_and_outlive_the_registry_without_an_allowed_call_failing() {
    let _alone = ALONE.write().await;
    let test = "policies_come_into_force_under_load_and_outlive_the_registry_without_an_allowed_call_failing";
    let Some(mut mesh) = Mesh::start(test, &[App::Users, App::Users]).await else { return };
    call(&mesh, Method::POST, "/api/users", r#"{"name": "Ada", "email": "ada@example.com"}"#).await;

    let begun = Begun::default();
    let get = begun.counting(|_| Call { method: Method::GET, path: "/api/users".to_owned(), body: None });
    let done = CancellationToken::new();
    let load = load::run_until(mesh.gateway_at(), 40, done.cancelled(), get);
    let changes = async {
        for methods in [vec!["ListUsers"], vec!["ListUsers", "GetUser"], vec!["*"], vec!["ListUsers"]] {
            apply(&mesh, &users_policy(&methods)).await;
            let status = if methods.contains(&"*") { StatusCode::NOT_FOUND } else { StatusCode::FORBIDDEN };
            until_everywhere(&mesh, Method::DELETE, "/api/users/nobody", status).await;
            begun.more(30, SOON).await;
        }
        done.cancel();
    };
    let (report, ()) = tokio::join!(load, changes);
    report.lost_none();

    mesh.kill_registry();
    assert_eq!(call(&mesh, Method::DELETE, "/api/users/nobody", "").await.status, StatusCode::FORBIDDEN);
    mesh.start_registry().await;
    let table = wait::until("the registry to be back", SOON, || async {
        let output = weft(&mesh, &["get", "policies", "-o", "wide"], "").await;
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    })
    .await;
    assert!(table.contains("users-callers") && table.contains("access"), "{table}");
    mesh.add(App::Users);
    mesh.all_serving().await;
    for _ in 0..20 {
        let refused = call(&mesh, Method::DELETE, "/api/users/nobody", "").await;
        assert_eq!(
            refused.status,
            StatusCode::FORBIDDEN,
            "an instance that started later enforces it, too: {refused:?}"
        );
    }
}

#[tokio::test]
async fn a_file_that_is_wrong_is_named_by_line_and_field_and_changes_nothing() {
    let _shared = ALONE.read().await;
    let test = "a_file_that_is_wrong_is_named_by_line_and_field_and_changes_nothing";
    let Some(mesh) = Mesh::start(test, &[]).await else { return };
    let wrong =
        "name: a\nservice: users\naccess:\n  rules:\n    - from: { anonymous: true }\n      method: [GetUser]\n";
    let output = weft(&mesh, &["apply", "-f", "-", "--format", "yaml"], wrong).await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("stdin:6: access.rules[0].method: unknown key; did you mean methods?"), "{told}");
    let output = weft(&mesh, &["apply", "-f", "-", "--format", "yaml", "--dry-run"], &users_policy(&["*"])).await;
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), told.trim()), (Some(0), "policy users-callers created (dry run)"));
    let doubt = "weft: warning: policy users-callers: its service users.default is nobody's";
    assert_eq!(String::from_utf8(output.stderr).unwrap().trim(), doubt, "this mesh has none");
    let unknown = weft(&mesh, &["get", "policies", "users-callers"], "").await;
    let told = String::from_utf8(unknown.stderr).unwrap();
    assert_eq!((unknown.status.code(), told.trim()), (Some(1), "weft: there is no policy users-callers"));
}
