//! Who calls and how often, as callers meet it over real connections: tokens of an issuer that rotates its keys, API keys, rules, limits.
//! Inventory: gw-auth, gw-rate-limit, oauth, api-keys, express-gateway.
//!
//! Lives here: one gateway in static mode. Does not: every way in which a token is bad (`edge::jwt`), two gateways of a mesh (`tests/e2e/edge.rs`).

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use serde_json::{Value, json};
use tonic::Code;
use weft_proto::{
    shop::users::v1::{ListUsersRequest, users_client::UsersClient},
    weft::testkit::v1::{EchoRequest, echo_client::EchoClient},
};
use weft_testkit::{
    issuer::{Issuer, Key, unsigned, with_secret},
    redis::{self, Redis},
    wait::until,
};

use crate::{
    policies::{read, start},
    support::{Answer, Running, channel, framed, send, send_bytes, start_with},
};

const SOON: Duration = Duration::from_secs(20);

fn now() -> u64 {
    let wall = weft_runtime::clock::wall().duration_since(std::time::SystemTime::UNIX_EPOCH);
    wall.unwrap().as_secs()
}

fn claims(issuer: &Issuer) -> Value {
    json!({"iss": issuer.url(), "aud": "shop", "sub": "ada", "roles": ["reader"], "exp": now() + 600})
}

fn with(claims: &Value, claim: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[claim] = value;
    claims
}

fn policy(issuer: &Issuer, more: &str) -> String {
    format!(
        "name: callers\nservice: gateway\nauthentication:\n  jwt: [{{ issuer: '{}', audiences: [shop] }}]\n{more}",
        issuer.url()
    )
}

async fn get(gateway: &Running, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    send(gateway.addr, "GET", "/api/users", &[("authorization", &bearer)], "").await
}

/// Checks that a refusal is one of this rule, in the shape of REST.
fn refused(answer: &Answer, status: u16, code: i32, rule: &str) {
    assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (status, &json!(code)), "{rule}: {answer:?}");
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with(&format!("policy callers, rule {rule}")), "{message}");
}

/// The one thing outside of the mesh that a gateway says it follows.
async fn outside(gateway: &Running) -> Value {
    send(gateway.admin, "GET", "/outside", &[], "").await.json()[0].clone()
}

#[tokio::test]
async fn a_token_counts_if_its_issuer_signed_it_for_us_and_now() {
    let (rsa, ec) = (Key::rsa("one"), Key::p256("two"));
    let issuer = Issuer::start(&[&rsa, &ec]).await;
    let gateway = start(&policy(&issuer, "")).await;
    let good = claims(&issuer);
    for key in [&rsa, &ec] {
        let answer = get(&gateway, &key.sign(&good)).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
    let expired = get(&gateway, &rsa.sign(&with(&good, "exp", json!(now() - 60)))).await;
    refused(&expired, 401, 16, "token-expired");
    let challenge = expired.headers["www-authenticate"].to_str().unwrap();
    assert!(challenge.starts_with("Bearer ") && challenge.contains("error=\"invalid_token\""), "{challenge}");
    refused(&get(&gateway, &rsa.sign(&with(&good, "aud", json!("bank")))).await, 401, 16, "token-audience");
    refused(
        &get(&gateway, &rsa.sign(&with(&good, "iss", json!("https://evil.example")))).await,
        401,
        16,
        "token-issuer",
    );
    refused(&get(&gateway, &unsigned("none", &good)).await, 401, 16, "token-algorithm");
    let confused = with_secret(&rsa.public_bytes(), "one", &good);
    refused(&get(&gateway, &confused).await, 401, 16, "token-algorithm");
    refused(&get(&gateway, &Key::p256("two").sign(&good)).await, 401, 16, "token-signature");
    refused(&get(&gateway, "nonsense").await, 401, 16, "token-malformed");
    let nothing = send(gateway.addr, "GET", "/api/users", &[], "").await;
    refused(&nothing, 401, 16, "no-credential");
    assert_eq!(nothing.headers["www-authenticate"], "Bearer realm=\"weft\"");
    let basic = send(gateway.addr, "GET", "/api/users", &[("authorization", "Basic YTpi")], "").await;
    refused(&basic, 401, 16, "token-malformed");

    let metrics = send(gateway.admin, "GET", "/metrics", &[], "").await.body;
    let counted = r#"weft_gateway_policy_refusals_total{policy="callers",rule="token-algorithm"} 2"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn a_key_that_an_issuer_rotates_in_counts_and_one_that_it_takes_back_does_not() {
    let (old, new) = (Key::p256("old"), Key::p256("new"));
    let issuer = Issuer::start(&[&old]).await;
    let gateway = start(&policy(&issuer, "")).await;
    let good = claims(&issuer);
    let known = old.sign(&good);
    for _ in 0..2 {
        assert_eq!(get(&gateway, &known).await.status, StatusCode::OK);
    }
    issuer.tells(&[&new]);
    until("the new key to count", SOON, || async {
        (get(&gateway, &new.sign(&good)).await.status == StatusCode::OK).then_some(())
    })
    .await;
    for token in [&known, &old.sign(&good)] {
        refused(&get(&gateway, token).await, 401, 16, "token-unknown-key");
    }

    // Unknown keys are asked for seldom: a stranger cannot make the gateway ask as often as he likes.
    let before = issuer.fetched();
    for _ in 0..50 {
        refused(&get(&gateway, &Key::p256("made-up").sign(&good)).await, 401, 16, "token-unknown-key");
    }
    assert!(issuer.fetched() <= before + 25, "{} fetches for 50 calls", issuer.fetched() - before);

    issuer.fails();
    assert_eq!(get(&gateway, &new.sign(&good)).await.status, StatusCode::OK, "its keys outlive its absence");
}

#[tokio::test]
async fn without_any_keys_of_its_issuer_a_token_is_neither_good_nor_bad() {
    let key = Key::p256("one");
    let issuer = Issuer::start(&[&key]).await;
    issuer.fails();
    let gateway = start(&policy(&issuer, "")).await;
    let token = key.sign(&claims(&issuer));
    let answer = get(&gateway, &token).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (503, &json!(14)), "{answer:?}");
    // The token names its issuer; what stands behind it is nobody's outside.
    let told = format!("the keys of {} cannot be had now: policy callers", issuer.url());
    assert_eq!(answer.json()["message"], json!(told), "{answer:?}");
    // The call gives up before the fetch does on a busy machine.
    let failing = async || (outside(&gateway).await["state"] == json!("failing")).then_some(());
    until("the issuer to be named as failing", SOON, failing).await;
    assert!(outside(&gateway).await["problem"].as_str().unwrap().contains("answers 5"), "it names the cause");
    issuer.tells(&[&key]);
    until("the keys to be there", SOON, || async {
        (get(&gateway, &token).await.status == StatusCode::OK).then_some(())
    })
    .await;
    assert_eq!(outside(&gateway).await["state"], json!("well"));
}

#[tokio::test]
async fn rules_about_claims_say_who_may_call_what() {
    let key = Key::ed25519("one");
    let issuer = Issuer::start(&[&key]).await;
    let rules = "  rules:
    - { name: readers, claims: [{ claim: roles, any_of: [reader, admin] }], methods: [shop.users.v1.Users/ListUsers, shop.users.v1.Users/GetUser] }
    - { name: admins, claims: [{ claim: roles, is: admin }] }
    - { name: banned, action: deny, claims: [{ claim: sub, any_of: [eve] }] }
";
    let gateway = start(&policy(&issuer, rules)).await;
    let good = claims(&issuer);
    let delete = async |claims: &Value| {
        let bearer = format!("Bearer {}", key.sign(claims));
        send(gateway.addr, "DELETE", "/api/users/9", &[("authorization", &bearer)], "").await
    };
    assert_eq!(get(&gateway, &key.sign(&good)).await.status, StatusCode::OK);
    refused(&delete(&good).await, 403, 7, "default");
    let admin = with(&good, "roles", json!(["admin"]));
    assert_eq!(delete(&admin).await.status, StatusCode::NOT_FOUND, "it may, and there is no such user");
    refused(&delete(&with(&admin, "sub", json!("eve"))).await, 403, 7, "banned");
    refused(&get(&gateway, &key.sign(&with(&good, "roles", json!([])))).await, 403, 7, "default");
}

#[tokio::test]
async fn a_service_is_told_claims_and_neither_credentials_nor_what_callers_claim_of_themselves() {
    let key = Key::p256("one");
    let issuer = Issuer::start(&[&key]).await;
    let more = "  to_metadata: [{ claim: sub, metadata: x-user }, { claim: roles, metadata: x-roles }, { claim: gone, metadata: x-gone }]\n";
    let gateway = start(&policy(&issuer, more)).await;
    let bearer = format!("Bearer {}", key.sign(&claims(&issuer)));
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("x-user", "root"),
        ("grpc-metadata-x-user", "root"),
        ("x-gone", "root"),
        ("Grpc-Metadata-X-Gone", "root"),
        ("x-other", "kept"),
        ("grpc-metadata-authorization", "Bearer of-somebody-else"),
    ];
    let answer = send(gateway.addr, "POST", "/echo", &headers, "{}").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let heard = &answer.json()["metadata"];
    assert_eq!(heard["x-user"], "ada", "{heard}");
    assert_eq!(heard["x-roles"], "[\"reader\"]");
    assert_eq!(heard["x-other"], "kept");
    for absent in ["authorization", "x-gone"] {
        assert!(heard.get(absent).is_none(), "{absent} in {heard}");
    }

    let forwarding = start(&policy(&issuer, "  forward_credentials: true\n")).await;
    let answer = send(forwarding.addr, "POST", "/echo", &headers, "{}").await;
    assert_eq!(answer.json()["metadata"]["authorization"], bearer.as_str(), "the policy says so");
}

/// A policy's key, by its hash as `weft keys` makes it.
fn key_policy(name: &str, service: &str, secret: &str, more: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, secret.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("---\nname: {name}\nservice: {service}\napi_key: {{ sha256: '{hex}' {more} }}\n")
}

#[tokio::test]
async fn an_api_key_counts_by_its_hash_until_it_ends() {
    let policies = [
        "name: callers\nservice: gateway\nauthentication: { api_keys: true, rules: [{ name: gold, claims: [{ claim: plan, is: gold }] }] }\n".to_owned(),
        key_policy("good", "gateway", "weft_one", ", claims: { plan: gold }"),
        key_policy("poor", "gateway", "weft_two", ""),
        key_policy("old", "gateway", "weft_three", ", expires: '2020-01-01T00:00:00Z'"),
    ];
    let gateway = start(&policies.concat()).await;
    let call = async |key: &str| {
        send(gateway.addr, "POST", "/echo", &[("x-api-key", key), ("content-type", "application/json")], "{}").await
    };
    let good = call("weft_one").await;
    assert_eq!(good.status, StatusCode::OK, "{good:?}");
    assert!(good.json()["metadata"].get("x-api-key").is_none(), "it is for the gateway: {good:?}");
    refused(&call("weft_two").await, 403, 7, "default");
    refused(&call("weft_three").await, 401, 16, "key-expired");
    refused(&call("weft_four").await, 401, 16, "key-unknown");
    let nothing = send(gateway.addr, "POST", "/echo", &[], "{}").await;
    refused(&nothing, 401, 16, "no-credential");
    assert_eq!(nothing.headers["www-authenticate"], "ApiKey realm=\"weft\"");
}

#[tokio::test]
async fn native_grpc_is_refused_in_its_own_shape() {
    let key = Key::p256("one");
    let issuer = Issuer::start(&[&key]).await;
    let more = "  rules: [{ name: echo, methods: [weft.testkit.v1.Echo/*] }]\n---\nname: few\nservice: upstream\nrate_limit:\n  rules: [{ name: each, per: [client], calls: 2, every: 1h, methods: [weft.testkit.v1.Echo/*] }]\n";
    let gateway = start(&policy(&issuer, more)).await;
    let channel = channel(&gateway).await;
    let bearer: tonic::metadata::MetadataValue<_> = format!("Bearer {}", key.sign(&claims(&issuer))).parse().unwrap();
    let mut echo = EchoClient::new(channel.clone());
    let status = echo.unary(EchoRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    assert!(status.message().contains("policy callers, rule no-credential"), "{status:?}");
    assert!(status.metadata().get("www-authenticate").is_some(), "{status:?}");

    let known = |mut request: tonic::Request<EchoRequest>| {
        request.metadata_mut().insert("authorization", bearer.clone());
        request
    };
    for _ in 0..2 {
        let answer = echo.unary(known(tonic::Request::new(EchoRequest::default()))).await.unwrap();
        assert!(!answer.into_inner().metadata.contains_key("authorization"));
    }
    let status = echo.unary(known(tonic::Request::new(EchoRequest::default()))).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("policy few, rule each"), "{status:?}");
    assert!(status.metadata().get("retry-after").is_some(), "{status:?}");

    let mut list = tonic::Request::new(ListUsersRequest::default());
    list.metadata_mut().insert("authorization", bearer.clone());
    let status = UsersClient::new(channel.clone()).list_users(list).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert!(status.message().contains("policy callers, rule default"), "{status:?}");

    // A method that the service does not declare is no way around.
    let path = http::uri::PathAndQuery::from_static("/weft.testkit.v1.Echo/Undeclared");
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<EchoRequest, EchoRequest>::default();
    let status = client.unary(tonic::Request::new(EchoRequest::default()), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
}

#[tokio::test]
async fn a_limit_refuses_what_is_too_much_and_says_when_there_is_room() {
    let yaml = "
name: few
service: gateway
rate_limit:
  rules:
    - { name: writes, methods: [shop.users.v1.Users/CreateUser], per: [address], calls: 2, every: 1h }
    - { name: all, calls: 1000, every: 1s }
";
    let gateway = Arc::new(start(yaml).await);
    let create = async |name: &str| {
        let body = json!({"name": name, "email": format!("{name}@example.com")}).to_string();
        send(gateway.addr, "POST", "/api/users", &[("content-type", "application/json")], &body).await
    };
    for name in ["ada", "eve"] {
        assert_eq!(create(name).await.status, StatusCode::CREATED);
    }
    let refused = create("bob").await;
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (429, &json!(8)), "{refused:?}");
    assert!(refused.json()["message"].as_str().unwrap().contains("policy few, rule writes"), "{refused:?}");
    let after: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1_700..=1_800).contains(&after), "half an hour to the next of two an hour, not {after} s");
    let listed = send(gateway.addr, "GET", "/api/users?page_size=10", &[], "").await;
    assert_eq!(
        listed.json()["users"].as_array().unwrap().len(),
        2,
        "reading is not limited, and the third was not made"
    );
}

#[tokio::test]
async fn who_shows_nothing_may_be_let_in_as_nobody_and_who_shows_something_bad_never_is() {
    let key = Key::p256("one");
    let issuer = Issuer::start(&[&key]).await;
    let more = "  anonymous: true\n  to_metadata: [{ claim: sub, metadata: x-user }]\n";
    let gateway = start(&policy(&issuer, more)).await;
    let headers = [("content-type", "application/json"), ("x-user", "root")];
    let answer = send(gateway.addr, "POST", "/echo", &headers, "{}").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert!(answer.json()["metadata"].get("x-user").is_none(), "nobody is not who he says: {answer:?}");
    refused(&get(&gateway, &Key::p256("one").sign(&claims(&issuer))).await, 401, 16, "token-signature");
}

/// How often gateways may be seen to count alone before nothing is said of how they count together.
const ROUNDS: usize = 20;

#[tokio::test]
async fn gateways_with_one_redis_count_together_and_for_themselves_while_it_is_away() {
    let Some(mut redis) =
        Redis::start("gateways_with_one_redis_count_together_and_for_themselves_while_it_is_away").await
    else {
        return;
    };
    let start = async |round: usize| {
        let rule = "{ name: all, per: [address], calls: 6, every: 24h }";
        let yaml = format!("name: few-{round}\nservice: gateway\nrate_limit: {{ rules: [{rule}] }}\n");
        let url = redis.url();
        start_with(|config| (config.policies, config.redis) = (read(&yaml), Some(url.parse().unwrap()))).await
    };
    let call = async |gateway: &Running| send(gateway.addr, "GET", "/api/users", &[], "").await;
    let mut round = 0;
    let gateways = loop {
        round += 1;
        assert!(round <= ROUNDS, "Redis answered too late in each of {ROUNDS} rounds");
        let gateways = [start(round).await, start(round).await];
        for gateway in &gateways {
            let well = || async { (outside(gateway).await["state"] == json!("well")).then_some(()) };
            until("the gateway to have its connection", SOON, well).await;
        }
        let mut passed = 0;
        for at in [0, 1].repeat(6) {
            let answer = call(&gateways[at]).await;
            match answer.status {
                StatusCode::OK => passed += 1,
                StatusCode::TOO_MANY_REQUESTS => assert!(answer.headers.contains_key("retry-after"), "{answer:?}"),
                other => panic!("{other}: {answer:?}"),
            }
        }
        // A question that Redis answered too late was counted by its gateway alone, which a metric tells: such a round shows nothing, and the next one is by
        // a policy of which nobody has counted anything.
        let mut alone = 0;
        for gateway in &gateways {
            alone += weft_testkit::http::count(gateway.admin, "weft_gateway_rate_limits_alone_total").await.unwrap();
        }
        if alone == 0 {
            assert_eq!(passed, 6, "both have six together");
            break gateways;
        }
        println!("round {round}: {alone} calls were counted alone, {passed} passed");
    };

    // Also if a question was answered too late a moment ago.
    until("Redis to be well", SOON, || async { (outside(&gateways[1]).await["state"] == json!("well")).then_some(()) })
        .await;
    redis.stop().await;
    until("a gateway that asks nothing to notice", SOON, || async {
        (outside(&gateways[1]).await["state"] == json!("without")).then_some(())
    })
    .await;
    assert_eq!(call(&gateways[0]).await.status, StatusCode::OK, "a gateway that counts for itself has its own six");
    redis.start_again().await;
    until("the gateway to count with Redis again", SOON, || async {
        let series = "weft_gateway_rate_limits_alone_total";
        let before = weft_testkit::http::count(gateways[0].admin, series).await;
        call(&gateways[0]).await;
        (weft_testkit::http::count(gateways[0].admin, series).await == before).then_some(())
    })
    .await;
    let metrics = send(gateways[0].admin, "GET", "/metrics", &[], "").await.body;
    assert!(!metrics.contains(redis::PASSWORD));
}

#[tokio::test]
async fn a_redis_that_closes_what_is_idle_is_not_away() {
    let Some(redis) = Redis::start("a_redis_that_closes_what_is_idle_is_not_away").await else { return };
    let (url, yaml) = (
        redis.url(),
        "
name: few
service: gateway
rate_limit: { rules: [{ name: all, per: [address], calls: 6, every: 24h }] }
",
    );
    let gateway = start_with(|config| (config.policies, config.redis) = (read(yaml), Some(url.parse().unwrap()))).await;
    let state = async || outside(&gateway).await["state"].clone();
    until("the gateway to have its connection", SOON, async || (state().await == json!("well")).then_some(())).await;
    assert_eq!(redis.connections().await, 1);
    redis.close_connections().await;
    until("the gateway to have another", SOON, async || {
        assert_eq!(state().await, json!("well"));
        (redis.connections().await == 1).then_some(())
    })
    .await;
    until("one that closes the next ones, too, to be away", SOON, async || {
        redis.close_connections().await;
        (state().await == json!("without")).then_some(())
    })
    .await;
    until("the gateway to be let in again", SOON, async || (state().await == json!("well")).then_some(())).await;
}

#[tokio::test]
async fn no_protocol_is_a_way_around_the_edge() {
    let key = Key::p256("one");
    let issuer = Issuer::start(&[&key]).await;
    let gateway = start(&policy(&issuer, "")).await;
    let bearer = format!("Bearer {}", key.sign(&claims(&issuer)));
    let (list, stream) = ("/shop.users.v1.Users/ListUsers", "/weft.testkit.v1.Echo/ServerStream");
    let get = format!("{list}?connect=v1&encoding=json&message=%7B%7D");
    let (json, proto, connect) = ("application/json", "application/proto", "application/connect+json");
    for (method, path, content_type, body, status, refused, passed) in [
        ("POST", list, json, b"{}".to_vec(), 401, r#""code":"unauthenticated""#, "{}"),
        ("POST", list, proto, vec![], 401, r#""code":"unauthenticated""#, ""),
        ("GET", get.as_str(), json, vec![], 401, r#""code":"unauthenticated""#, "{}"),
        ("POST", stream, connect, framed(0, br#"{"count": 1}"#), 200, r#""code":"unauthenticated""#, "\"instance\""),
        ("POST", list, "application/grpc-web+proto", framed(0, b""), 200, "grpc-status: 16", "grpc-status: 0"),
        ("POST", stream, "application/grpc-web+proto", framed(0, &[16, 1]), 200, "grpc-status: 16", "grpc-status: 0"),
    ] {
        let mut headers = vec![("content-type", content_type)];
        if content_type == json {
            headers.push(("connect-protocol-version", "1"));
        }
        let (http, told, answer) = send_bytes(gateway.addr, method, path, &headers, body.clone().into()).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!((http.as_u16(), answer.contains(refused)), (status, true), "{path} {content_type}: {answer}");
        assert!(told.contains_key("www-authenticate"), "{path} {content_type}: {told:?}");
        headers.push(("authorization", bearer.as_str()));
        let (http, _, answer) = send_bytes(gateway.addr, method, path, &headers, body.into()).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!((http.as_u16(), answer.contains(passed)), (200, true), "{path} {content_type}: {answer}");
    }
}

#[tokio::test]
async fn grpc_web_and_connect_are_no_way_around() {
    let key = Key::p256("one");
    let issuer = Issuer::start(&[&key]).await;
    let gateway = start(&policy(&issuer, "")).await;
    let bearer = format!("Bearer {}", key.sign(&claims(&issuer)));
    let (path, known) = ("/weft.testkit.v1.Echo/Unary", ("authorization", bearer.as_str()));

    let connect = [("content-type", "application/json"), ("connect-protocol-version", "1")];
    let answer = send(gateway.addr, "POST", path, &connect, "{}").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{answer:?}");
    assert_eq!(answer.json()["code"], "unauthenticated", "{answer:?}");
    assert!(answer.json()["message"].as_str().unwrap().ends_with("policy callers, rule no-credential"), "{answer:?}");
    assert!(answer.headers.contains_key("www-authenticate"), "{answer:?}");
    let answer = send(gateway.addr, "POST", path, &[connect[0], connect[1], known], "{}").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert!(answer.json()["metadata"].get("authorization").is_none(), "{answer:?}");

    let web = ("content-type", "application/grpc-web+json");
    let message = "\0\0\0\0\u{2}{}";
    let answer = send(gateway.addr, "POST", path, &[web], message).await;
    let body = answer.body.replace(' ', "");
    assert!(body.contains("grpc-status:16") && body.contains("no-credential"), "{answer:?}");
    let answer = send(gateway.addr, "POST", path, &[web, known], message).await;
    assert!(answer.body.replace(' ', "").contains("grpc-status:0"), "{answer:?}");
}
