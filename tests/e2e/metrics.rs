//! `/metrics` of every role as strict parsers read it: Prometheus' own promtool, and the reference parser of OpenMetrics. Inventory:
//! prometheus.
//!
//! Lives here: both forms, of a mesh that has carried calls, so that the series of calls are there. Does not: which metric counts what (each
//! room).

use std::{
    io::Write,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use http::{Method, StatusCode};
use serde_json::json;
use weft_testkit::{
    http::{send, send_with},
    mesh::{App, Mesh},
    outside,
};

use crate::ALONE;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Prints the name of every family; raises at whatever the specification does not allow.
const READ: &str = "\
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read
for family in read(sys.stdin.read()):
    print(family.name)
";

/// Runs a program on a text and returns what it printed. Fails the test if it fails.
fn feed(program: &Path, args: &[&str], text: &str) -> String {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it was there a moment ago");
    let mut stdin = child.stdin.take().unwrap();
    let text = text.to_owned();
    let fed = std::thread::spawn({
        let text = text.clone();
        move || stdin.write_all(text.as_bytes())
    });
    let output = child.wait_with_output().unwrap();
    fed.join().unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}{complained}\nabout\n{text}", program.display());
    said
}

async fn metrics(admin: SocketAddr, accept: &[(&str, &str)], content_type: &str) -> String {
    let answer = send_with(admin, Method::GET, "/metrics", accept, "").await.unwrap();
    assert_eq!((answer.status, &answer.headers["content-type"]), (StatusCode::OK, &content_type.parse().unwrap()));
    answer.body
}

#[tokio::test]
async fn strict_parsers_take_the_metrics_of_every_role() {
    let _shared = ALONE.read().await;
    let test = "strict_parsers_take_the_metrics_of_every_role";
    let Some(python) = outside::need(outside::python(), test, "Python's prometheus_client") else { return };
    let Some(promtool) = outside::need_from_setup(outside::promtool(), test, "promtool") else { return };
    let Some(mut mesh) = Mesh::start(test, &[App::Users, App::Posts]).await else { return };
    let user = json!({"name": "Ada", "email": "ada@example.com"}).to_string();
    let user = send(mesh.gateway_at(), Method::POST, "/api/users", &user).await.unwrap().json();
    let article = json!({"authorId": user["id"], "title": "Notes"}).to_string();
    for (method, path, body) in [
        (Method::POST, "/api/posts", article.as_str()),
        (Method::POST, "/api/posts", r#"{"authorId": "nobody", "title": "Notes"}"#),
        (Method::GET, "/nowhere", ""),
    ] {
        send(mesh.gateway_at(), method, path, body).await.unwrap();
    }

    let registry = mesh.registry.as_mut().unwrap().address("admin").await;
    let gateway = mesh.gateway.address("admin").await;
    let sidecar = mesh.members[1].sidecar.address("admin").await;
    let roles = [
        (registry, ["weft_registry_watchers", "weft_registry_spans", "weft_registry_spans_dropped"].as_slice()),
        (gateway, &["weft_gateway_calls", "rpc_client_call_duration_seconds", "weft_gateway_spans"]),
        (
            sidecar,
            &["rpc_server_call_duration_seconds", "rpc_client_call_duration_seconds", "weft_sidecar_spans_exported"],
        ),
    ];
    for (admin, wanted) in roles {
        let open = metrics(admin, &[("accept", OPEN_METRICS)], OPEN_METRICS).await;
        let families = feed(&python, &["-c", READ], &open);
        for family in wanted {
            assert!(families.lines().any(|it| it == *family), "{family} is not among\n{families}");
        }
        feed(&promtool, &["check", "metrics"], &metrics(admin, &[], TEXT).await);
    }
}

#[tokio::test]
async fn the_parsers_are_strict() {
    let test = "the_parsers_are_strict";
    let Some(python) = outside::need(outside::python(), test, "Python's prometheus_client") else { return };
    let Some(promtool) = outside::need_from_setup(outside::promtool(), test, "promtool") else { return };
    let fails = |program: &Path, args: &[&str], text: &str| {
        std::panic::catch_unwind(|| feed(program, args, text)).expect_err("a wrong text is refused");
    };
    let good = "# HELP a Some.\n# TYPE a counter\na_total 1\n# EOF\n";
    feed(&python, &["-c", READ], good);
    fails(&python, &["-c", READ], good.trim_end_matches("# EOF\n"));
    fails(&python, &["-c", READ], &good.replace("a_total 1", "a 1"));
    let good = "# HELP a_total Some.\n# TYPE a_total counter\na_total 1\n";
    feed(&promtool, &["check", "metrics"], good);
    fails(&promtool, &["check", "metrics"], &good.replace("a_total 1", "a_total one"));
    fails(&promtool, &["check", "metrics"], &good.replace("a_total", "a"));
}
