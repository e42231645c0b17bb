//! Transcoding policies as callers meet them: routes with ways of their own beside routes without, in every face that speaks JSON.

use serde_json::{Value, json};
use weft_gateway::Config;
use weft_transcode::settings::JsonOutput;

use crate::{
    policies::{read, start},
    support::{Answer, Running, send, start_with},
};

const POLICIES: &str = "
name: echo-events
service: upstream
transcoding: { methods: [weft.testkit.v1.Echo/ServerStream], stream_format: sse, json_output: { preserve_proto_names: true, emit_defaults: true } }
---
name: echo
service: upstream
transcoding: { methods: [weft.testkit.v1.Echo/*], json_output: { emit_defaults: true } }
---
name: masks
service: gateway
transcoding: { infer_update_mask: true }
";

const UNARY: &str = "/weft.testkit.v1.Echo/Unary";
const SERVER_STREAM: &str = "/weft.testkit.v1.Echo/ServerStream";

async fn post(gateway: &Running, path: &str, headers: &[(&str, &str)]) -> Answer {
    send(gateway.addr, "POST", path, headers, r#"{"text": "a", "count": 1}"#).await
}

#[tokio::test]
async fn each_route_is_printed_as_its_policy_says_and_others_as_the_file_does() {
    let gateway = start(POLICIES).await;
    let unary = post(&gateway, "/echo", &[]).await.json();
    assert_eq!((&unary["padding"], unary.get("deadlineMs").is_some()), (&json!(""), true), "{unary}");
    let connect = [("content-type", "application/json"), ("connect-protocol-version", "1")];
    assert_eq!(post(&gateway, UNARY, &connect).await.json()["padding"], "", "by Connect, too");

    let events = post(&gateway, SERVER_STREAM, &[]).await;
    assert_eq!(events.headers["content-type"], "text/event-stream", "the first policy by name that is about it");
    let event = events.body.lines().find_map(|it| it.strip_prefix("data: ")).unwrap();
    let event: Value = serde_json::from_str(event).unwrap();
    assert!(event.get("deadline_ms").is_some() && event.get("deadlineMs").is_none(), "{event}");
    let array = post(&gateway, SERVER_STREAM, &[("accept", "application/json")]).await;
    assert!(array.json()[0].get("deadline_ms").is_some(), "Accept decides the framing alone: {array:?}");

    let created = send(gateway.addr, "POST", "/api/users", &[], r#"{"name": "Ada"}"#).await.json();
    assert!(created.get("email").is_none(), "no policy about how it is printed: {created}");
}

#[tokio::test]
async fn a_mask_is_inferred_where_the_gateways_policy_says_so() {
    let gateway = start(POLICIES).await;
    let user = send(gateway.addr, "POST", "/api/users", &[], r#"{"name": "Ada"}"#).await.json();
    let path = format!("/api/users/{}", user["id"].as_str().unwrap());
    let patched = send(gateway.addr, "PATCH", &path, &[], r#"{"email": "a@b"}"#).await;
    assert_eq!(patched.json()["name"], "Ada", "absent: untouched");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(send(gateway.addr, "PATCH", &path, &form, "email=b").await.json()["name"], "Ada", "by a form, too");
    let without = crate::support::start().await;
    let user = send(without.addr, "POST", "/api/users", &[], r#"{"name": "Ada"}"#).await.json();
    let path = format!("/api/users/{}", user["id"].as_str().unwrap());
    let patched = send(without.addr, "PATCH", &path, &[], r#"{"email": "a@b"}"#).await;
    assert_eq!(patched.json().get("name"), None, "without a policy a mask is the client's business");
}

#[tokio::test]
async fn a_policy_changes_what_it_names_of_what_the_file_says() {
    let policies = read("{name: a, service: upstream, transcoding: {json_output: {emit_defaults: false}}}");
    let gateway = start_with(|config: &mut Config| {
        config.policies = policies;
        config.transcoding.json_output =
            JsonOutput { emit_defaults: true, preserve_proto_names: true, enums_as_ints: false };
    })
    .await;
    let timed = post(&gateway, "/echo", &[("grpc-timeout", "60S")]).await.json();
    assert!(timed.get("deadline_ms").is_some_and(Value::is_number), "the file's word on names stands: {timed}");
    assert!(timed.get("padding").is_none(), "{timed}");
}

#[tokio::test]
async fn the_description_says_what_a_route_does() {
    let gateway = start(POLICIES).await;
    let document = send(gateway.addr, "GET", "/openapi.json", &[], "").await.json();
    let stream = &document["paths"][SERVER_STREAM]["post"];
    let content = stream["responses"]["200"]["content"].as_object().unwrap();
    assert!(content.contains_key("text/event-stream"), "{stream}");
    let said = stream["description"].as_str().unwrap();
    assert!(said.contains("server-sent events unless `Accept`") && said.contains("default are printed"), "{said}");
    let reply = |operation: &Value| {
        let name = operation.pointer("/responses/200/content/application~1json/schema/$ref").unwrap().as_str().unwrap();
        document["components"]["schemas"][name.rsplit('/').next().unwrap()]["properties"].clone()
    };
    assert!(reply(&document["paths"]["/echo"]["post"]).get("deadlineMs").is_some());
    let item =
        stream["responses"]["200"]["content"]["application/json"]["schema"]["items"]["anyOf"][0]["$ref"].as_str();
    let name = item.unwrap().rsplit('/').next().unwrap();
    assert!(document["components"]["schemas"][name]["properties"].get("deadline_ms").is_some(), "{name}");
    let patch = &document["paths"]["/api/users/{id}"]["patch"]["parameters"];
    let mask = patch.as_array().unwrap().iter().find(|it| it["name"] == "updateMask").expect("a client may name one");
    assert!(!mask["required"].as_bool().unwrap_or_default(), "{mask}");
}
