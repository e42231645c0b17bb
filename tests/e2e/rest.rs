//! The REST calls a newcomer tries first, through gateway and sidecars to two instances of `users`. Inventory: rest-users, gateway, gw-translate.
//!
//! Lives here: status, headers and bodies as promised; that every protocol tells the same of one method. Does not: every binding rule (the transcoding
//! cases), what each protocol asks of a server (`tests/conformance/protocols.rs`).

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{Method, StatusCode};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};
use weft_proto::{
    descriptors,
    shop::users::v1::{GetUserRequest, users_client::UsersClient},
};
use weft_testkit::{
    http::{Answer, send, send_with},
    mesh::{App, Mesh},
};

use crate::ALONE;

async fn call(mesh: &Mesh, method: Method, path: &str, body: Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    send(mesh.gateway_at(), method, path, &body).await.expect("the gateway answers")
}

fn assert_status_body(answer: &Answer, status: StatusCode, code: u32) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.headers["content-type"], "application/json");
    let body = answer.json();
    assert_eq!(body["code"], code, "{answer:?}");
    assert!(!body["message"].as_str().unwrap_or_default().is_empty(), "{answer:?}");
}

#[tokio::test]
async fn users_are_created_read_changed_listed_and_deleted_by_rest() {
    let _shared = ALONE.read().await;
    let test = "users_are_created_read_changed_listed_and_deleted_by_rest";
    let Some(mesh) = Mesh::start(test, &[App::Users, App::Users]).await else { return };

    let created = call(&mesh, Method::POST, "/api/users", json!({"name": "Ada", "email": "ada@example.com"})).await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
    let user = created.json();
    let path = format!("/api/users/{}", user["id"].as_str().expect("a user has an id"));
    assert_eq!((&user["name"], &user["email"]), (&json!("Ada"), &json!("ada@example.com")));

    for _ in 0..50 {
        let read = call(&mesh, Method::GET, &path, Value::Null).await;
        assert_eq!((read.status, read.json()), (StatusCode::OK, user.clone()));
    }

    let unknown = call(&mesh, Method::GET, "/api/users/0197a1b2-0000-7000-8000-000000000000", Value::Null).await;
    assert_status_body(&unknown, StatusCode::NOT_FOUND, 5);
    let unparsable = call(&mesh, Method::GET, "/api/users/nobody", Value::Null).await;
    assert_status_body(&unparsable, StatusCode::NOT_FOUND, 5);

    let twice = call(&mesh, Method::POST, "/api/users", json!({"name": "Eve", "email": "ADA@example.com"})).await;
    assert_status_body(&twice, StatusCode::CONFLICT, 6);

    let renamed = call(&mesh, Method::PATCH, &format!("{path}?updateMask=name"), json!({"name": "Ada L."})).await;
    assert_eq!((renamed.status, &renamed.json()["name"]), (StatusCode::OK, &json!("Ada L.")), "{renamed:?}");

    call(&mesh, Method::POST, "/api/users", json!({"name": "Bob", "email": "bob@example.com"})).await;
    let first = call(&mesh, Method::GET, "/api/users?pageSize=1", Value::Null).await.json();
    let token = first["nextPageToken"].as_str().expect("there is a second page");
    let second =
        call(&mesh, Method::GET, &format!("/api/users?pageSize=1&pageToken={token}"), Value::Null).await.json();
    assert_eq!((&first["users"][0]["name"], &second["users"][0]["name"]), (&json!("Ada L."), &json!("Bob")));
    assert_eq!(second.get("nextPageToken"), None);

    let deleted = call(&mesh, Method::DELETE, &path, Value::Null).await;
    assert_eq!((deleted.status, deleted.json()), (StatusCode::OK, json!({})));
    assert_status_body(&call(&mesh, Method::GET, &path, Value::Null).await, StatusCode::NOT_FOUND, 5);
}

#[tokio::test]
async fn what_is_wrong_with_a_call_is_said_in_its_answer() {
    let _shared = ALONE.read().await;
    let Some(mesh) = Mesh::start("what_is_wrong_with_a_call_is_said_in_its_answer", &[App::Users]).await else {
        return;
    };

    let malformed =
        send(mesh.gateway_at(), Method::POST, "/api/users", "{\"name\": \"Ada\",\n  \"email\": }").await.unwrap();
    assert_status_body(&malformed, StatusCode::BAD_REQUEST, 3);
    let message = malformed.json()["message"].to_string();
    assert!(message.contains("line 2") && message.contains("column"), "{message}");

    let mistyped = call(&mesh, Method::POST, "/api/users", json!({"name": 7, "email": "a@example.com"})).await;
    assert_status_body(&mistyped, StatusCode::BAD_REQUEST, 3);
    assert!(mistyped.body.contains("name"), "{mistyped:?}");

    let invalid = call(&mesh, Method::POST, "/api/users", json!({"name": "", "email": "nonsense"})).await;
    assert_status_body(&invalid, StatusCode::BAD_REQUEST, 3);
    let violations = &invalid.json()["details"][0]["fieldViolations"];
    let fields: Vec<_> = violations.as_array().expect("violations").iter().map(|v| v["field"].clone()).collect();
    assert_eq!(fields, [json!("name"), json!("email")], "{invalid:?}");

    let unknown_parameter = call(&mesh, Method::GET, "/api/users?limit=3", Value::Null).await;
    assert_status_body(&unknown_parameter, StatusCode::BAD_REQUEST, 3);
    assert!(unknown_parameter.body.contains("limit"), "{unknown_parameter:?}");

    let wrong_method = call(&mesh, Method::DELETE, "/api/users", Value::Null).await;
    assert_status_body(&wrong_method, StatusCode::METHOD_NOT_ALLOWED, 12);
    let allow = wrong_method.headers["allow"].to_str().unwrap();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");

    assert_status_body(&call(&mesh, Method::GET, "/nowhere", Value::Null).await, StatusCode::NOT_FOUND, 5);
}

/// The messages of an answer by gRPC-Web's text, in frames of a flag and a length; each piece of it was made to text by itself.
fn frames(text: &str) -> Vec<(u8, Vec<u8>)> {
    let quads = text.as_bytes().chunks(4).map(|quad| BASE64_STANDARD.decode(quad).expect("it is base64"));
    let (bytes, mut frames): (Vec<u8>, Vec<_>) = (quads.flatten().collect(), Vec::new());
    let mut rest = bytes.as_slice();
    while let Some((&[flag, a, b, c, d], after)) = rest.split_first_chunk::<5>() {
        let (message, next) = after.split_at(u32::from_be_bytes([a, b, c, d]) as usize);
        frames.push((flag, message.to_vec()));
        rest = next;
    }
    frames
}

#[tokio::test]
async fn one_method_reached_four_ways_answers_alike() {
    let _shared = ALONE.read().await;
    let test = "one_method_reached_four_ways_answers_alike";
    let Some(mesh) = Mesh::start(test, &[App::Users, App::Users]).await else { return };
    let ada = json!({"name": "Ada ☂", "email": "ada@example.com"});
    let ada = call(&mesh, Method::POST, "/api/users", ada).await.json();
    let id = ada["id"].as_str().expect("a user has an id");
    let path = "/shop.users.v1.Users/GetUser";
    let asked = json!({"id": id}).to_string();

    let by_rest = call(&mesh, Method::GET, &format!("/api/users/{id}"), Value::Null).await.json();

    let connect = [("content-type", "application/json"), ("connect-protocol-version", "1")];
    let by_connect = send_with(mesh.gateway_at(), Method::POST, path, &connect, &asked).await.unwrap();
    assert_eq!(by_connect.status, StatusCode::OK, "{by_connect:?}");

    let web = [("content-type", "application/grpc-web-text+json")];
    let length = u32::try_from(asked.len()).unwrap().to_be_bytes();
    let framed = BASE64_STANDARD.encode([&[0], &length[..], asked.as_bytes()].concat());
    let by_web = send_with(mesh.gateway_at(), Method::POST, path, &web, &framed).await.unwrap();
    assert_eq!(by_web.headers["content-type"], "application/grpc-web-text+json", "{by_web:?}");
    let by_web = frames(&by_web.body);
    let [(0, by_web), (0x80, trailers)] = &by_web[..] else { panic!("a message and trailers: {by_web:?}") };
    assert!(String::from_utf8_lossy(trailers).contains("grpc-status: 0"));

    // As an implementation of JSON prints it that is not ours.
    let mut users = UsersClient::new(mesh.gateway_channel());
    let by_grpc = users.get_user(GetUserRequest { id: id.to_owned() }).await.unwrap().into_inner().encode_to_vec();
    let pool = DescriptorPool::decode(descriptors::SHOP_USERS).unwrap();
    let user = pool.get_message_by_name("shop.users.v1.User").unwrap();
    let by_grpc = serde_json::to_value(DynamicMessage::decode(user, by_grpc.as_slice()).unwrap()).unwrap();

    let ways = [by_rest, by_connect.json(), serde_json::from_slice(by_web).unwrap(), by_grpc];
    assert_eq!(ways, [(); 4].map(|()| ada.clone()));
}
