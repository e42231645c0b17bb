//! Clients that have never heard of weft: grpcurl (Go) and a generated Python client, against the gateway. Inventory: gateway, testing.
//!
//! Lives here: what these tools see and can do. Does not: how they are fetched (xtask).

use std::{path::Path, process::Output};

use serde_json::Value;
use tokio::process::Command;
use weft_testkit::{
    mesh::{App, Mesh},
    outside,
};

use crate::ALONE;

async fn output(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.kill_on_drop(true).output().await.expect("the tool starts");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?} failed: {stdout}{stderr}");
    stdout.into_owned()
}

#[tokio::test]
async fn grpcurl_lists_describes_and_calls() {
    let test = "grpcurl_lists_describes_and_calls";
    let Some(grpcurl) = outside::need(outside::grpcurl(), test, "grpcurl") else { return };
    let _shared = ALONE.read().await;
    let Some(mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let gateway = mesh.gateway_at().to_string();
    let run = async |args: &[&str]| output(Command::new(&grpcurl).arg("-plaintext").args(args)).await;

    let list = run(&[&gateway, "list"]).await;
    let services: Vec<_> = list.lines().collect();
    assert_eq!(
        services,
        [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "shop.users.v1.Users"
        ]
    );

    let method = run(&[&gateway, "describe", "shop.users.v1.Users.GetUser"]).await;
    assert!(method.contains("google.api.http") && method.contains("/api/users/{id}"), "{method}");

    let data = r#"{"name": "Ada", "email": "ada@example.com"}"#;
    let created = run(&["-d", data, &gateway, "shop.users.v1.Users/CreateUser"]).await;
    let created: Value = serde_json::from_str(&created).expect("grpcurl prints JSON");
    let id = format!(r#"{{"id": {}}}"#, created["id"]);
    let read = run(&["-d", &id, &gateway, "shop.users.v1.Users/GetUser"]).await;
    assert_eq!(serde_json::from_str::<Value>(&read).expect("grpcurl prints JSON"), created);

    let health = run(&[&gateway, "grpc.health.v1.Health/Check"]).await;
    assert!(health.contains("SERVING"), "{health}");
}

#[tokio::test]
async fn a_generated_python_client_works() {
    let test = "a_generated_python_client_works";
    let Some(python) = outside::need(outside::python(), test, "Python with grpcio-tools") else { return };
    let _shared = ALONE.read().await;
    let Some(mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let stubs = tempfile::TempDir::new().unwrap();
    let (proto, out) = (here.join("../proto"), stubs.path().to_string_lossy().into_owned());
    let mut generate = Command::new(&python);
    generate.args(["-m", "grpc_tools.protoc", "-I"]).arg(&proto);
    generate.arg(format!("--python_out={out}")).arg(format!("--grpc_python_out={out}"));
    output(generate.args(["google/api/http.proto", "google/api/annotations.proto", "shop/users/v1/users.proto"])).await;

    let mut client = Command::new(&python);
    client.arg(here.join("e2e/python/users_client.py")).arg(mesh.gateway_at().to_string());
    let said = output(client.env("PYTHONPATH", &out).env("PYTHONDONTWRITEBYTECODE", "1")).await;
    assert!(said.ends_with("all well\n"), "{said}");
}
