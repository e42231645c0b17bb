//! The shop on PostgreSQL: instances that share nothing but the server. Inventory: example-services.
//!
//! Lives here: what the mesh makes of a database that is another process. Does not: the rules of one service on each engine (its own tests).

use std::{net::SocketAddr, time::Duration};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use weft_proto::shop::users::v1::{CreateUserRequest, GetUserRequest, users_client::UsersClient};
use weft_testkit::{
    http::{Answer, send},
    mesh::{App, Member, Mesh, channel},
    outside,
    postgres::{PASSWORD, Postgres},
    wait,
};

use crate::ALONE;

const SOON: Duration = Duration::from_secs(30);

async fn call(mesh: &Mesh, method: Method, path: &str, body: Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    send(mesh.gateway_at(), method, path, &body).await.expect("the gateway answers")
}

async fn created(mesh: &Mesh, path: &str, body: Value) -> String {
    let answer = call(mesh, Method::POST, path, body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.json()["id"].as_str().expect("it has an id").to_owned()
}

/// Where an instance's app listens, as its sidecar says.
fn app_of(member: &Member) -> SocketAddr {
    let log = member.sidecar.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut apps = lines.filter_map(|line| line["app"].as_str()?.parse().ok());
    apps.next().expect("a sidecar says where its app is")
}

/// Two instances of users, one of posts and one of comments, each in a directory of its own, all on one database.
async fn shop(test: &str, postgres: &Postgres) -> Option<Mesh> {
    outside::need_binaries(&["users", "posts", "comments"], test)?;
    let mut mesh = Mesh::start(test, &[]).await?;
    let env = [("DATABASE_URL", postgres.database())];
    for app in [App::Users, App::Users, App::Posts, App::Comments] {
        mesh.add_apart(app, &env);
    }
    mesh.all_serving().await;
    Some(mesh)
}

#[tokio::test]
async fn instances_in_separate_directories_read_each_others_writes() {
    let _shared = ALONE.read().await;
    let test = "instances_in_separate_directories_read_each_others_writes";
    let Some(postgres) = Postgres::start(test) else { return };
    let Some(mesh) = shop(test, &postgres).await else { return };

    let apps: Vec<_> = mesh.members.iter().filter(|it| it.app == App::Users).map(app_of).collect();
    let at = |n: usize| apps[n];
    for (from, to) in [(0, 1), (1, 0)] {
        let (mut here, mut there) = (UsersClient::new(channel(at(from))), UsersClient::new(channel(at(to))));
        for number in 0..10 {
            let email = format!("{number}@{from}.example.com");
            let user =
                here.create_user(CreateUserRequest { name: "Ada".to_owned(), email }).await.unwrap().into_inner();
            let read = there.get_user(GetUserRequest { id: user.id.clone() }).await.unwrap().into_inner();
            assert_eq!(read, user);
        }
    }

    let ada = created(&mesh, "/api/users", json!({"name": "Ada", "email": "ada@example.com"})).await;
    let post = created(&mesh, "/api/posts", json!({"authorId": ada, "title": "Notes"})).await;
    let comments = format!("/api/posts/{post}/comments");
    let comment = created(&mesh, &comments, json!({"authorId": ada, "text": "Agreed."})).await;
    let listed = call(&mesh, Method::GET, &comments, Value::Null).await.json();
    assert_eq!(listed["comments"][0]["id"], json!(comment));
    let again = call(&mesh, Method::POST, "/api/users", json!({"name": "Eve", "email": "ADA@example.com"})).await;
    assert_eq!(again.status, StatusCode::CONFLICT, "{again:?}");
    for member in &mesh.members {
        assert!(!member.sidecar.log().contains(PASSWORD), "{}", member.slot);
    }
}

#[tokio::test]
async fn a_database_that_goes_away_is_a_503_and_comes_back_by_itself() {
    let _shared = ALONE.read().await;
    let test = "a_database_that_goes_away_is_a_503_and_comes_back_by_itself";
    let Some(mut postgres) = Postgres::start(test) else { return };
    let Some(mesh) = shop(test, &postgres).await else { return };
    let ada = created(&mesh, "/api/users", json!({"name": "Ada", "email": "ada@example.com"})).await;
    let path = format!("/api/users/{ada}");

    postgres.stop();
    wait::until("users to be listed as not serving", SOON, || async {
        let told = mesh.instances().await.into_iter().filter(|it| it.service.starts_with("users")).map(|it| it.reason);
        (told.filter(|reason| reason.contains("says that it is not serving: postgres://127.0.0.1:")).count() == 2)
            .then_some(())
    })
    .await;
    let answer = call(&mesh, Method::GET, &path, Value::Null).await;
    assert_eq!((answer.status, &answer.json()["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(14)), "{answer:?}");

    postgres.start_again();
    wait::until("users to be read again", SOON, || async {
        (call(&mesh, Method::GET, &path, Value::Null).await.status == StatusCode::OK).then_some(())
    })
    .await;
}
