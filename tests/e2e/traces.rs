//! Traces of real calls through the whole mesh, read back where an operator reads them: from an OTLP receiver, and from the logs. Inventory:
//! otel, distributed-tracer, log-analysis, gw-logging.
//!
//! Lives here: the tree of spans of a call, what unsampled calls leave behind, that no collector can hurt a call, finding a call's lines.
//! Does not: what one hop's span says (weft-traffic, weft-gateway), the environment's variables (weft-runtime).

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::timeout};
use weft_testkit::{
    collector::{Collector, Span, tree},
    http::{Answer, count, send, send_with},
    mesh::{App, Mesh},
    process::Process,
    up::Up,
    wait,
};

use crate::ALONE;

/// Spans leave every half second; a machine may be slow.
const SOON: Duration = Duration::from_secs(30);

async fn post(gateway: std::net::SocketAddr, path: &str, body: &Value) -> Answer {
    let answer = send(gateway, Method::POST, path, &body.to_string()).await.expect("the gateway answers");
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer
}

/// The id of a trace that began at the gateway, as its caller is told.
fn trace_of(answer: &Answer) -> String {
    answer.headers["x-request-id"].to_str().unwrap().to_owned()
}

fn id(answer: &Answer) -> String {
    answer.json()["id"].as_str().expect("it has an id").to_owned()
}

async fn ada(gateway: std::net::SocketAddr) -> String {
    id(&post(gateway, "/api/users", &json!({"name": "Ada", "email": "ada@example.com"})).await)
}

fn sampled_by(collector: &Collector, sampler: &str) -> Vec<(&'static str, String)> {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-test=key".to_owned()),
        ("OTEL_TRACES_SAMPLER", sampler.to_owned()),
    ]
}

/// Waits until a trace has as many spans as the tree wanted has lines, and compares.
async fn assert_tree(collector: &Collector, trace: &str, wanted: &str) -> Vec<Span> {
    let lines = wanted.lines().count();
    let complete =
        wait::until("the whole trace", SOON * 2, || async { (collector.trace(trace).len() >= lines).then_some(()) });
    let _ = timeout(SOON, complete).await; // the comparison shows what is missing
    let spans = collector.trace(trace);
    assert_eq!(tree(&spans), wanted);
    spans
}

const POST_TREE: &str = "\
gateway SERVER POST /api/posts
  gateway CLIENT shop.posts.v1.Posts/CreatePost
    posts-sidecar SERVER shop.posts.v1.Posts/CreatePost
      posts SERVER shop.posts.v1.Posts/CreatePost
        posts CLIENT shop.users.v1.Users/GetUser
          posts-sidecar CLIENT shop.users.v1.Users/GetUser
            users-sidecar SERVER shop.users.v1.Users/GetUser
              users SERVER shop.users.v1.Users/GetUser
";

const COMMENT_TREE: &str = "\
gateway SERVER POST /api/posts/{post_id}/comments
  gateway CLIENT shop.comments.v1.Comments/CreateComment
    comments-sidecar SERVER shop.comments.v1.Comments/CreateComment
      comments SERVER shop.comments.v1.Comments/CreateComment
        comments CLIENT shop.posts.v1.Posts/GetPost
          comments-sidecar CLIENT shop.posts.v1.Posts/GetPost
            posts-sidecar SERVER shop.posts.v1.Posts/GetPost
              posts SERVER shop.posts.v1.Posts/GetPost
        comments CLIENT shop.users.v1.Users/GetUser
          comments-sidecar CLIENT shop.users.v1.Users/GetUser
            users-sidecar SERVER shop.users.v1.Users/GetUser
              users SERVER shop.users.v1.Users/GetUser
";

#[tokio::test]
async fn a_call_is_one_trace_through_gateway_sidecars_and_services() {
    let _shared = ALONE.read().await;
    let test = "a_call_is_one_trace_through_gateway_sidecars_and_services";
    let collector = Collector::start().await;
    let env = sampled_by(&collector, "parentbased_always_on");
    let apps = [App::Users, App::Posts, App::Comments];
    let Some(mesh) = Mesh::start_with(test, &apps, env).await else { return };
    let gateway = mesh.gateway_at();
    let ada = ada(gateway).await;

    let article = post(gateway, "/api/posts", &json!({"authorId": ada, "title": "Notes"})).await;
    let spans = assert_tree(&collector, &trace_of(&article), POST_TREE).await;
    for span in &spans[..] {
        assert!(!span.error && span.time.0 <= span.time.1, "{span:?}");
        let rest = span.name.starts_with("POST ");
        let (key, value) = if rest { ("http.route", "/api/posts") } else { ("rpc.method", span.name.as_str()) };
        assert_eq!(span.attributes.get(key).map(String::as_str), Some(value), "{span:?}");
        if rest {
            assert_eq!(span.attributes["http.response.status_code"], "201");
            continue;
        }
        assert_eq!(span.attributes["rpc.system.name"], "grpc");
        assert_eq!(span.attributes["rpc.response.status_code"], "OK");
        if span.kind == "CLIENT" {
            let called = if span.name.starts_with("shop.posts") { "posts" } else { "users" };
            assert_eq!(span.attributes["server.address"], called, "{span:?}");
        }
    }

    let path = format!("/api/posts/{}/comments", id(&article));
    let comment = post(gateway, &path, &json!({"authorId": ada, "text": "Agreed."})).await;
    assert_tree(&collector, &trace_of(&comment), COMMENT_TREE).await;
    assert_eq!(collector.headers(), BTreeSet::from(["key".to_owned()]), "what OTEL_EXPORTER_OTLP_HEADERS says is sent");
}

#[tokio::test]
async fn a_refusal_deep_in_the_mesh_is_an_error_where_it_is_one() {
    let _shared = ALONE.read().await;
    let test = "a_refusal_deep_in_the_mesh_is_an_error_where_it_is_one";
    let collector = Collector::start().await;
    let env = sampled_by(&collector, "always_on");
    let Some(mesh) = Mesh::start_with(test, &[App::Users, App::Posts], env).await else { return };
    let nobody = json!({"authorId": "01890a5d-ac96-774b-bcce-b302099a8057", "title": "Notes"});
    let answer = send(mesh.gateway_at(), Method::POST, "/api/posts", &nobody.to_string()).await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
    let spans = assert_tree(&collector, &trace_of(&answer), POST_TREE).await;
    let of = |service: &str, kind: &str| {
        let span = spans.iter().find(|span| span.service == service && span.kind == kind).unwrap();
        let code = |key: &str| span.attributes.get(key).cloned().unwrap_or_default();
        (code("rpc.response.status_code"), code("error.type"), span.error)
    };
    let caller = |code: &str| (code.to_owned(), code.to_owned(), true);
    let callee = |code: &str| (code.to_owned(), String::new(), false);
    assert_eq!(of("users", "SERVER"), callee("NOT_FOUND"));
    assert_eq!(of("users-sidecar", "SERVER"), callee("NOT_FOUND"));
    assert_eq!(of("posts-sidecar", "CLIENT"), caller("NOT_FOUND"));
    assert_eq!(of("posts", "CLIENT"), caller("NOT_FOUND"));
    assert_eq!(of("posts", "SERVER"), callee("INVALID_ARGUMENT"));
    assert_eq!(of("gateway", "CLIENT"), caller("INVALID_ARGUMENT"));
    let edge = spans.iter().find(|span| span.parent.is_none()).unwrap();
    assert_eq!((edge.attributes["http.response.status_code"].as_str(), edge.error), ("400", false));
}

/// Spans that a proxy says it has recorded.
async fn recorded(process: &mut Process, role: &str) -> u64 {
    let admin = process.address("admin").await;
    count(admin, &format!("weft_{role}_spans_total")).await.expect("every proxy counts its spans")
}

#[tokio::test]
async fn unsampled_calls_make_no_span_anywhere() {
    let _shared = ALONE.read().await;
    let collector = Collector::start().await;
    let env = sampled_by(&collector, "parentbased_always_off");
    let test = "unsampled_calls_make_no_span_anywhere";
    let Some(mut mesh) = Mesh::start_with(test, &[App::Users, App::Posts], env).await else { return };
    let gateway = mesh.gateway_at();
    let ada = ada(gateway).await;
    let article = json!({"authorId": ada, "title": "Notes"});
    for _ in 0..50 {
        post(gateway, "/api/posts", &article).await;
    }

    // One call whose caller has decided shows that spans would be made and would arrive, and comes after all the others.
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let headers = [("traceparent", parent.as_str())];
    let sampled = send_with(gateway, Method::POST, "/api/posts", &headers, &article.to_string()).await.unwrap();
    assert_eq!(sampled.status, StatusCode::CREATED);
    let missing = " (its parent is missing)\n"; // the caller's own span was never made
    assert_tree(&collector, trace, &POST_TREE.replacen('\n', missing, 1)).await;

    assert_eq!(collector.spans().len(), 8, "{}", tree(&collector.spans()));
    assert_eq!(recorded(&mut mesh.gateway, "gateway").await, 2);
    let mut by_sidecar = Vec::new();
    for member in &mut mesh.members {
        by_sidecar.push((member.app, recorded(&mut member.sidecar, "sidecar").await));
    }
    assert_eq!(by_sidecar, [(App::Users, 1), (App::Posts, 2)]);
    // And at the end, when everything that waits is sent, too.
    mesh.gateway.signal(Signal::TERM);
    assert!(mesh.gateway.end(SOON).await.success());
    for mut member in std::mem::take(&mut mesh.members) {
        member.sidecar.signal(Signal::TERM);
        assert!(member.sidecar.end(Duration::from_secs(60)).await.success());
    }
    assert_eq!(collector.spans().len(), 8, "{}", tree(&collector.spans()));
}

#[tokio::test]
async fn a_collector_that_never_answers_costs_no_call_and_no_end() {
    let _shared = ALONE.read().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap(); // the kernel accepts, and nobody ever says a word
    let env = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", silent.local_addr().unwrap())),
        ("OTEL_TRACES_SAMPLER", "always_on".to_owned()),
    ];
    let test = "a_collector_that_never_answers_costs_no_call_and_no_end";
    let Some(mut mesh) = Mesh::start_with(test, &[App::Users], env).await else { return };
    let before = recorded(&mut mesh.gateway, "gateway").await;
    for _ in 0..50 {
        let answer = send(mesh.gateway_at(), Method::GET, "/api/users", "").await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
    assert_eq!(recorded(&mut mesh.gateway, "gateway").await - before, 100);
    mesh.gateway.signal(Signal::TERM);
    assert!(mesh.gateway.end(SOON).await.success());
}

/// The lines that a command prints beside a mesh.
async fn printed(up: &Up, args: &[&str]) -> Vec<String> {
    up.run(args).await.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_lines_of_one_call_are_found_in_all_processes_by_its_trace() {
    let _shared = ALONE.read().await;
    let test = "the_lines_of_one_call_are_found_in_all_processes_by_its_trace";
    let services = |[users, posts]: [PathBuf; 2], _: &Path| {
        format!(
            "[services.users]\ncommand = [{users:?}]\n[services.posts]\ncommand = [{posts:?}]\nneeds = [\"users\"]\n"
        )
    };
    // It logs each span.
    let env = [("RUST_LOG", "info,trace=debug")];
    let Some(up) = Up::start(test, ["users", "posts"], &env, services).await else { return };
    let gateway = up.address("gateway", "http").await;
    let ada = ada(gateway).await;
    let article = json!({"authorId": ada, "title": "Notes"});
    let trace = trace_of(&post(gateway, "/api/posts", &article).await);
    post(gateway, "/api/posts", &article).await;

    // 8 spans and the line of the access log; `weft up` samples every call and, without a collector, each span is a line.
    let find = ["logs", "--trace", trace.as_str(), "--raw"];
    let lines = wait::until("every line of the call", SOON, || async {
        let lines = printed(&up, &find).await;
        (lines.len() >= 9).then_some(lines)
    })
    .await;
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 9, "{lines:#?}");
    assert!(lines.iter().all(|line| line["trace_id"] == trace.as_str()), "{lines:#?}");
    assert!(lines.is_sorted_by_key(|line| line["timestamp"].as_str().unwrap().to_owned()), "{lines:#?}");
    let spans: Vec<_> = lines.iter().filter(|line| line["message"] == "span").collect();
    assert_eq!(spans.len(), 8);
    for span in spans {
        assert!(span["name"].is_string() && span["duration_ms"].is_number() && span["result"] == "ok", "{span}");
    }
    let access: Vec<_> = lines.iter().filter(|line| line["target"] == "access").collect();
    let [access] = access[..] else { panic!("one line of the access log: {lines:#?}") };
    let said = ["method", "path", "status", "service"].map(|field| &access[field]);
    assert_eq!(said, [&json!("POST"), &json!("/api/posts"), &json!(201), &json!("posts")], "{access}");
    assert!(access["duration_ms"].as_f64().is_some_and(|it| it > 0.0), "{access}");
    let processes = |lines: &[String]| -> BTreeSet<String> {
        lines.iter().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
    };
    let all = processes(&printed(&up, &["logs", "--trace", &trace]).await);
    assert_eq!(all, ["gateway", "posts-1", "users-1"].map(str::to_owned).into());
    let of_users = processes(&printed(&up, &["logs", "users", "--trace", &trace.to_uppercase()]).await);
    assert_eq!(of_users, ["users-1".to_owned()].into());

    // The same of a call that is made while somebody follows it.
    let later = "5bf92f3577b34da6a3ce929d0e0e4736";
    let followed = Process::spawn("weft logs", up.command(&["logs", "-f", "--trace", later])).unwrap();
    let parent = format!("00-{later}-00f067aa0ba902b7-01");
    let headers = [("traceparent", parent.as_str())];
    send_with(gateway, Method::POST, "/api/posts", &headers, &article.to_string()).await.unwrap();
    wait::until("the follower to see it in every process", SOON, || async {
        ["gateway", "posts-1", "users-1"].iter().all(|name| followed.log().contains(name)).then_some(())
    })
    .await;
    assert!(followed.log().lines().all(|line| line.contains(later)), "{}", followed.log());

    for bad in ["4bf9", &format!("{trace}0")] {
        let refused = up.try_run(&["logs", "--trace", bad]).await;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(said.contains("32 hexadecimal digits"), "{said}");
    }
}
