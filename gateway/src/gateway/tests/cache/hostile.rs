//! Callers of a cached route that mean harm to those who want the same.
//!
//! Lives here: keeping others waiting, being taken for another, making what is kept wrong, switching the cache off. Does not: what the cache does for
//! everybody else (`cache`).

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[tokio::test]
async fn who_owes_a_body_keeps_nobody_waiting() {
    let kept = Kept::start(FOR_A_DAY).await;
    let mut owing = TcpStream::connect(kept.mesh.addr).await.unwrap();
    let head = format!(
        "GET {ADA} HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\nexpect: 100-continue\r\ngrpc-timeout: 99999999H\r\n\r\n"
    );
    owing.write_all(head.as_bytes()).await.unwrap();
    // The gateway says so when it begins to read the body: the call is as far as it gets.
    let mut said = [0; 12];
    let waiting = tokio::time::timeout(SOON, owing.read_exact(&mut said)).await;
    waiting.expect("the gateway wants the body").unwrap();
    assert_eq!(&said, b"HTTP/1.1 100");
    let answer = tokio::time::timeout(SOON, kept.get(ADA, &[("grpc-timeout", "5S")])).await.expect("an answer");
    assert_eq!((answer.status, answer.call()), (StatusCode::OK, 1));
}

#[tokio::test]
async fn a_credential_that_a_rule_makes_tells_callers_apart() {
    let policies = "{name: kept, service: users, cache: {ttl: 24h, per_caller: true}}\n---\n\
                    {name: renamed, service: users, headers: {request: [{name: x-session, rename: authorization}]}}";
    let kept = Kept::start(policies).await;
    let theme = ("cookie", "theme=dark");
    for who in ["ada", "bob", "ada"] {
        let answer = kept.get(ADA, &[theme, ("x-session", who)]).await;
        assert!(answer.body.contains(&format!("for {who}")), "{}", answer.body);
    }
    assert_eq!(kept.calls(), 2);
}

#[tokio::test]
async fn what_is_for_one_hop_is_seen_by_neither_cache_nor_service() {
    let kept = Kept::start(FOR_A_DAY).await;
    let (vary, german) = (("answer-vary", "accept-language"), ("accept-language", "de"));
    let poison = kept.get(ADA, &[vary, german, ("connection", "accept-language")]).await;
    assert!(!poison.body.contains("for de"), "{}", poison.body);
    let answer = kept.get(ADA, &[vary, german]).await;
    assert!(answer.body.contains("for de"), "{}", answer.body);
}

#[tokio::test]
async fn a_request_that_is_refused_switches_nothing_off() {
    let kept = Kept::start(FOR_A_DAY).await;
    assert_eq!(kept.get(ADA, &[]).await.call(), 1);
    let refused = kept.get(ADA, &[("cache-control", "no-cache"), ("grpc-timeout", "x")]).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert_eq!(kept.get(ADA, &[]).await.call(), 1);
}
