//! The API as the gateway describes it, judged by strangers: a validator, a tool that makes up requests from the description and holds answers
//! against it, and a browser. Inventory: fastapi.
//!
//! Lives here: starting the example API, and the echo service for what streams, and these judges. Does not: what the description says of each kind of route
//! (weft-transcode), what the judges look at (`python/validate_openapi.py`, `python/validate_streams.py`, `python/browse_docs.py`), who is there for
//! them to ask for (`python/shop_hooks.py`).

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use http::Method;
use serde_json::Value;
use tokio::{process::Command, time::timeout};
use weft_testkit::{
    http::send,
    mesh::{App, Mesh},
    outside, wait,
};

use crate::ALONE;

const SHOP: [App; 3] = [App::Users, App::Posts, App::Comments];
const SOON: Duration = Duration::from_secs(60);
/// Far above what it takes: a judge that hangs must not hold up all tests.
const JUDGED: Duration = Duration::from_secs(300);

/// What holds without exception. Left out are checks of what no proto tells: that a name may have 200 characters and an author must be there
/// (`positive_data_acceptance`), and that a value of a wrong type is refused, where ProtoJSON takes more than one form (`negative_data_rejection`).
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,unsupported_method,allow_header_conformance,use_after_free,ensure_resource_availability";
const SEED: &str = "20261129";
const EXAMPLES: &str = "20";
/// Where `shop_hooks.py` says how often each operation succeeded.
const SERVED: &str = "served.json";

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/python").join(name)
}

async fn run<A: AsRef<OsStr>>(program: &Path, arguments: impl IntoIterator<Item = A>, within: &Path) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(within).kill_on_drop(true);
    command.env("SCHEMATHESIS_HOOKS", script("shop_hooks.py")).env("SHOP_SERVED", within.join(SERVED));
    let output = timeout(JUDGED, command.output()).await.expect("it ends in time").expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    output
}

/// Waits until the gateway describes so many services.
async fn described(mesh: &Mesh, services: usize) {
    wait::until("all services to be described", SOON, || async {
        let answer = send(mesh.gateway_at(), Method::GET, "/openapi.json", "").await.ok()?;
        let tags = answer.status.is_success().then(|| answer.json()["tags"].as_array().map(Vec::len))?;
        tags.filter(|it| *it == services)
    })
    .await;
}

/// Has the gateway's description judged, in both its forms.
async fn validate(python: &Path, mesh: &Mesh) {
    let at = |form: &str| format!("http://{}/openapi.{form}", mesh.gateway_at());
    let (json, yaml) = (at("json"), at("yaml"));
    run(python, [script("validate_openapi.py").as_os_str(), json.as_ref(), yaml.as_ref()], mesh.dir()).await;
}

#[tokio::test]
async fn the_example_api_is_what_its_openapi_document_says() {
    let test = "the_example_api_is_what_its_openapi_document_says";
    let _shared = ALONE.read().await;
    let Some(python) = outside::need(outside::openapi_python(), test, "schemathesis") else { return };
    let Some(mesh) = Mesh::start(test, &SHOP).await else { return };
    described(&mesh, SHOP.len()).await;
    validate(&python, &mesh).await;

    let json = format!("http://{}/openapi.json", mesh.gateway_at());
    let asked =
        ["-m", "schemathesis.cli", "run", &json, "--checks", CHECKS, "--max-examples", EXAMPLES, "--seed", SEED];
    let further = [
        // Two make CPython 3.11 fail in its own parser now and then: "AST constructor recursion depth mismatch".
        "--workers",
        "1",
        "--request-timeout",
        "30",
        "--suppress-health-check",
        "all",
        "--generation-database",
        "none",
    ];
    let output = run(&python, asked.into_iter().chain(further), mesh.dir()).await;
    println!("{}", String::from_utf8_lossy(&output.stdout));
    let served = std::fs::read_to_string(mesh.dir().join(SERVED)).expect("the hooks wrote it");
    let served: Value = serde_json::from_str(&served).expect("it is JSON");
    let document = send(mesh.gateway_at(), Method::GET, "/openapi.json", "").await.expect("the gateway answers").json();
    let operations: Vec<String> = document["paths"].as_object().expect("paths").iter().flat_map(operations).collect();
    assert!(operations.len() >= 13, "{operations:?}");
    let never: Vec<&String> = operations.iter().filter(|it| served[it].as_u64().unwrap_or_default() == 0).collect();
    assert!(never.is_empty(), "never succeeded: {never:?}; did: {served}");
}

#[tokio::test]
async fn streams_and_failures_are_what_the_openapi_document_says() {
    let test = "streams_and_failures_are_what_the_openapi_document_says";
    let _shared = ALONE.read().await;
    let Some(python) = outside::need(outside::openapi_python(), test, "openapi-spec-validator") else { return };
    let Some(mesh) = Mesh::start(test, &[App::Echo]).await else { return };
    described(&mesh, 1).await;
    validate(&python, &mesh).await;
    let (said, at) = (script("validate_streams.py"), format!("http://{}", mesh.gateway_at()));
    let output = run(&python, [said.as_os_str(), at.as_ref()], mesh.dir()).await;
    println!("{}", String::from_utf8_lossy(&output.stdout));
}

/// Returns the operations of one path as schemathesis names them: `GET /api/users`.
fn operations((path, item): (&String, &Value)) -> impl Iterator<Item = String> {
    item.as_object().expect("operations").keys().map(move |method| format!("{} {path}", method.to_uppercase()))
}

#[tokio::test]
async fn a_call_is_made_from_the_page_by_keyboard_in_a_real_browser() {
    let test = "a_call_is_made_from_the_page_by_keyboard_in_a_real_browser";
    let _shared = ALONE.read().await;
    let Some(chromium) = outside::need_from_setup(outside::chromium(), test, "Chromium") else { return };
    let Some(python) = outside::need(outside::openapi_python(), test, "Python") else { return };
    let Some(mesh) = Mesh::start(test, &SHOP).await else { return };
    described(&mesh, SHOP.len()).await;
    let page = format!("http://{}/docs", mesh.gateway_at());
    let picture = Path::new(env!("CARGO_TARGET_TMPDIR")).join("docs.png");
    let said = script("browse_docs.py");
    let arguments = [said.as_os_str(), chromium.as_os_str(), page.as_ref(), picture.as_os_str()];
    let output = run(&python, arguments, mesh.dir()).await;
    let created: Value = serde_json::from_slice(&output.stdout).expect("it prints the answer");
    let id = created["id"].as_str().expect("a user has an id");
    let read =
        send(mesh.gateway_at(), Method::GET, &format!("/api/users/{id}"), "").await.expect("the gateway answers");
    assert_eq!(read.json(), created, "what the page said was created is there");
}
