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

#[tokio::test]
async fn nobody_is_given_what_was_made_for_another_host_or_scheme() {
    let networks = vec!["127.0.0.0/8".parse().unwrap()];
    let kept =
        Kept::start_behind(crate::TrustedProxies { networks, ..crate::TrustedProxies::default() }, FOR_A_DAY).await;
    let [host, proto, way] = ["x-forwarded-host", "x-forwarded-proto", "x-forwarded-for"];
    let plain = [(way, "203.0.113.7")];
    let evil = [(way, "203.0.113.7"), (host, "evil.example")];
    let https = [(way, "203.0.113.7"), (proto, "https")];
    for _ in 0..2 {
        let calls = [&evil[..], &https, &plain].map(|said| kept.get(ADA, said));
        let [evil, https, plain] = calls;
        assert_eq!([evil.await.call(), https.await.call(), plain.await.call()], [1, 2, 3]);
    }
    // Whoever passes on what is for one hop only does not make the service told less.
    let hop = kept.get(ADA, &[evil[0], evil[1], ("connection", host)]).await;
    assert_eq!((hop.call(), kept.calls()), (1, 3));
}

#[tokio::test]
async fn callers_who_say_nothing_of_their_address_are_told_apart_by_it() {
    let kept = Kept::start(FOR_A_DAY).await;
    let from = async |address: &str, said: &[(&str, &str)]| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
        let stream = socket.connect(kept.mesh.addr).await.unwrap();
        let said = [&[("answer-vary", "x-forwarded-for")], said].concat();
        send_by(stream, "GET", ADA, &said, "").await.call()
    };
    for _ in 0..2 {
        assert_eq!([from("127.0.0.2", &[]).await, from("127.0.0.3", &[]).await], [1, 2], "the service is told two");
    }
    assert_eq!(from("127.0.0.2", &[("x-forwarded-for", "127.0.0.3")]).await, 1, "what a caller says is told nobody");
}
