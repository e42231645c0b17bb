//! Services that call each other through their sidecars: posts asks users, comments asks both. Inventory: example-services.
//!
//! Lives here: what a caller sees of the calls behind its call, when all is well and when it is not. Does not: the rules of one service
//! (its own tests).

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use weft_testkit::{
    http::{Answer, send, send_with},
    mesh::{App, Mesh},
    outside, process, wait,
};

use crate::ALONE;

/// Below the five seconds that the mesh waits for somebody, and posts for users: what takes less waited for neither.
const AT_ONCE: Duration = Duration::from_secs(4);
/// What the gateway takes for an answer of its own at most while the machine runs; beyond that it stood still.
const USUAL: Duration = Duration::from_millis(250);
/// How a sidecar counts a call whose caller waits no longer.
const GIVEN_UP: [&str; 2] = [r#""DEADLINE_EXCEEDED""#, r#""CANCELLED""#];
const SOON: Duration = Duration::from_secs(30);
const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

async fn get(mesh: &Mesh, path: &str) -> Answer {
    send(mesh.gateway_at(), Method::GET, path, "").await.expect("the gateway answers")
}

async fn post(mesh: &Mesh, path: &str, body: Value) -> Answer {
    send(mesh.gateway_at(), Method::POST, path, &body.to_string()).await.expect("the gateway answers")
}

/// Creates something and returns it.
async fn created(mesh: &Mesh, path: &str, body: Value) -> Value {
    let answer = post(mesh, path, body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.json()
}

fn id(of: &Value) -> &str {
    of["id"].as_str().expect("it has an id")
}

/// Creates a user and returns her id.
async fn ada(mesh: &Mesh) -> String {
    id(&created(mesh, "/api/users", json!({"name": "Ada", "email": "ada@example.com"})).await).to_owned()
}

fn assert_violation(answer: &Answer, field: &str) {
    assert_eq!((answer.status, &answer.json()["code"]), (StatusCode::BAD_REQUEST, &json!(3)), "{answer:?}");
    assert_eq!(answer.json()["details"][0]["fieldViolations"][0]["field"], field, "{answer:?}");
}

/// A post is answered 503 with a cause that contains this, and without any waiting. It is asked once: it may be only the first question that waits.
async fn assert_unavailable_at_once(mesh: &Mesh, path: &str, body: Value, cause: &str) {
    let answered = Cell::new(false);
    let question = async {
        let asked = Instant::now();
        let answer = post(mesh, path, body).await;
        answered.set(true);
        (answer, asked.elapsed())
    };
    // Calls beside it that the gateway answers by itself tell for how long the machine stood still meanwhile.
    let beside = async {
        let mut stood_still = Duration::ZERO;
        while !answered.get() {
            let asked = Instant::now();
            get(mesh, "/nowhere").await;
            stood_still += asked.elapsed().saturating_sub(USUAL);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stood_still
    };
    let ((answer, took), stood_still) = tokio::join!(question, beside);
    let code = answer.json()["code"].clone();
    assert_eq!((answer.status, code), (StatusCode::SERVICE_UNAVAILABLE, json!(14)), "{answer:?}");
    assert!(answer.json()["message"].as_str().unwrap().contains(cause), "{answer:?}");
    assert!(
        took.saturating_sub(stood_still) < AT_ONCE,
        "503 after {took:?}, of which the machine stood still {stood_still:?}"
    );
}

/// The process of an instance's app.
fn app_of(mesh: &Mesh, slot: &str) -> u32 {
    let member = mesh.members.iter().find(|member| member.slot == slot).expect("there is such an instance");
    let children = process::children(member.sidecar.pid());
    children.into_iter().find(|pid| process::runs(*pid)).expect("the sidecar has an app")
}

#[tokio::test]
async fn posts_and_comments_know_their_authors_by_asking() {
    let _shared = ALONE.read().await;
    let test = "posts_and_comments_know_their_authors_by_asking";
    let Some(mesh) = Mesh::start(test, &[App::Users, App::Posts, App::Comments]).await else { return };
    let ada = ada(&mesh).await;

    let article = created(&mesh, "/api/posts", json!({"authorId": ada, "title": "Notes", "body": "one"})).await;
    let path = format!("/api/posts/{}", id(&article));
    assert_eq!(get(&mesh, &path).await.json(), article);
    assert_eq!(get(&mesh, &format!("{path}?view=POST_VIEW_FULL")).await.json()["authorName"], "Ada");
    assert_eq!(get(&mesh, &format!("/api/posts?authorId={ada}")).await.json()["posts"], json!([article]));

    let comments = format!("{path}/comments");
    let comment = created(&mesh, &comments, json!({"authorId": ada, "text": "Agreed."})).await;
    assert_eq!((&comment["postId"], &comment["authorId"]), (&article["id"], &json!(ada)));
    assert_eq!(get(&mesh, &comments).await.json()["comments"], json!([comment]));

    assert_violation(&post(&mesh, "/api/posts", json!({"authorId": NOBODY, "title": "Notes"})).await, "author_id");
    assert_violation(&post(&mesh, "/api/posts", json!({"authorId": "nobody", "title": "Notes"})).await, "author_id");
    assert_violation(&post(&mesh, &comments, json!({"authorId": NOBODY, "text": "No."})).await, "author_id");
    let nowhere = post(&mesh, &format!("/api/posts/{NOBODY}/comments"), json!({"authorId": ada, "text": "No."})).await;
    assert_eq!(nowhere.status, StatusCode::NOT_FOUND, "{nowhere:?}");
    assert_eq!(get(&mesh, "/api/posts").await.json()["posts"], json!([article]), "what was refused is not there");
    assert_eq!(get(&mesh, &comments).await.json()["comments"], json!([comment]));

    let one = format!("{comments}/{}", id(&comment));
    for (path, status) in [(&one, StatusCode::OK), (&one, StatusCode::NOT_FOUND), (&path, StatusCode::OK)] {
        let deleted = send(mesh.gateway_at(), Method::DELETE, path, "").await.unwrap();
        assert_eq!(deleted.status, status, "{deleted:?}");
    }
}

#[tokio::test]
async fn users_that_are_not_there_are_the_cause_at_once_before_and_after_they_were() {
    let _shared = ALONE.read().await;
    let test = "users_that_are_not_there_are_the_cause_at_once_before_and_after_they_were";
    if outside::need_binaries(&["users"], test).is_none() {
        return;
    }
    let Some(mut mesh) = Mesh::start(test, &[App::Posts, App::Comments]).await else { return };
    let by_ada = |ada: &str| json!({"authorId": ada, "title": "Notes"});

    assert_unavailable_at_once(&mesh, "/api/posts", by_ada(NOBODY), "asking users: ").await;

    mesh.add(App::Users);
    mesh.all_serving().await;
    let ada = ada(&mesh).await;
    let article = wait::until("posts to reach users", SOON, || async {
        let answer = post(&mesh, "/api/posts", by_ada(&ada)).await;
        (answer.status == StatusCode::CREATED).then(|| answer.json())
    })
    .await;

    let users = mesh.members.iter_mut().find(|member| member.app == App::Users).unwrap();
    users.sidecar.signal(Signal::TERM);
    users.sidecar.end(SOON).await;
    mesh.members.retain(|member| member.app != App::Users);
    let path = format!("/api/posts/{}", id(&article));
    assert_unavailable_at_once(&mesh, "/api/posts", by_ada(&ada), "asking users: ").await;
    let text = json!({"authorId": ada, "text": "Agreed."});
    assert_unavailable_at_once(&mesh, &format!("{path}/comments"), text, "asking users: ").await;
    assert_eq!(get(&mesh, &path).await.json(), article, "what posts knows itself needs no users");

    mesh.add(App::Users);
    mesh.all_serving().await;
    wait::until("posts to reach users again", SOON, || async {
        (post(&mesh, "/api/posts", by_ada(&ada)).await.status == StatusCode::CREATED).then_some(())
    })
    .await;
}

#[tokio::test]
async fn users_that_hang_cost_the_callers_deadline_and_no_more() {
    let _alone = ALONE.write().await;
    let test = "users_that_hang_cost_the_callers_deadline_and_no_more";
    let Some(mut mesh) = Mesh::start(test, &[App::Users, App::Posts]).await else { return };
    let posts = mesh.members[1].sidecar.address("admin").await;
    let ada = ada(&mesh).await;
    let article = json!({"authorId": ada, "title": "Notes"});
    created(&mesh, "/api/posts", article.clone()).await; // every connection is there, and nothing else can be slow

    let app = Pid::from_raw(app_of(&mesh, "users-1").cast_signed()).unwrap();
    kill_process(app, Signal::STOP).unwrap();
    let limit = Duration::from_millis(500);
    let given_up = async || {
        let page = send(posts, Method::GET, "/metrics", "").await.expect("the sidecar answers").body;
        let counts = page.lines().filter(|it| it.starts_with("rpc_client_call_duration_seconds_count"));
        let counts = counts.filter(|it| it.contains("shop.users.v1.Users/GetUser"));
        let counts = counts.filter(|it| GIVEN_UP.iter().any(|code| it.contains(code)));
        counts.filter_map(|it| it.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    let took = wait::until("a question to users to be given up with the call that it was for", SOON, async || {
        let (before, asked) = (given_up().await, Instant::now());
        let headers = [("grpc-timeout", "500m")];
        let answer = send_with(mesh.gateway_at(), Method::POST, "/api/posts", &headers, &article.to_string()).await;
        let (answer, took) = (answer.expect("the gateway answers"), asked.elapsed());
        assert_eq!((answer.status, &answer.json()["code"]), (StatusCode::GATEWAY_TIMEOUT, &json!(4)), "{answer:?}");
        assert!(took >= limit, "504 after {took:?}");
        // Only then can nothing that users say still be heard. On a busy machine a call may not even get as far as asking them.
        let counted = async {
            while given_up().await == before {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let counted = tokio::time::timeout(AT_ONCE, counted).await.is_ok();
        (counted && took < limit + AT_ONCE).then_some(took)
    })
    .await;
    println!("504 after {took:?}");
    kill_process(app, Signal::CONT).unwrap();

    wait::until("users to answer again", SOON, || async {
        (post(&mesh, "/api/posts", article.clone()).await.status == StatusCode::CREATED).then_some(())
    })
    .await;
    let posts = get(&mesh, "/api/posts").await.json()["posts"].as_array().unwrap().len();
    assert_eq!(posts, 2, "the post that was given up was not stored later");
}

#[tokio::test]
async fn posts_are_written_while_users_are_killed_and_drained() {
    let _alone = ALONE.write().await;
    let test = "posts_are_written_while_users_are_killed_and_drained";
    let Some(mut mesh) = Mesh::start(test, &[App::Users, App::Users, App::Posts]).await else { return };
    let ada = ada(&mesh).await;
    for number in 0..200 {
        match number {
            50 => process::kill(app_of(&mesh, "users-1")),
            100 => mesh.members[1].sidecar.signal(Signal::TERM),
            _ => {}
        }
        created(&mesh, "/api/posts", json!({"authorId": ada, "title": format!("Notes {number}")})).await;
        if number == 90 {
            mesh.all_serving().await; // the killed app is back before the other instance leaves
        }
    }
    let drained = &mut mesh.members[1].sidecar;
    assert!(drained.end(SOON).await.success(), "it left in order");
}
