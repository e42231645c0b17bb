//! Where calls come from, as limits and services see it: with proxies before the gateway, and with callers who only say so.

use http::StatusCode;
use serde_json::Value;
use weft_gateway::TrustedProxies;
use weft_proto::weft::testkit::v1::{EchoRequest, echo_client::EchoClient};

use crate::{
    policies::read,
    support::{Running, channel, send, start_with},
};

const TWO_EACH: &str = "
name: two
service: upstream
rate_limit: { rules: [{ name: each, per: [address], calls: 2, every: 24h, methods: [weft.testkit.v1.Echo/Unary] }] }
";

async fn start(trusted: &[&str]) -> Running {
    let networks = trusted.iter().map(|it| it.parse().unwrap()).collect();
    start_with(|config| {
        (config.proxies, config.policies) = (TrustedProxies { networks, ..TrustedProxies::default() }, read(TWO_EACH));
    })
    .await
}

/// What the service is told by REST, or the refusal.
async fn echo(gateway: &Running, said: &[(&str, &str)]) -> (StatusCode, Value) {
    let answer = send(gateway.addr, "POST", "/echo", said, "{}").await;
    (answer.status, answer.json()["metadata"].clone())
}

/// What it is told by native gRPC.
async fn native(gateway: &Running, said: &[(&'static str, &str)]) -> std::collections::HashMap<String, String> {
    let mut request = tonic::Request::new(EchoRequest::default());
    for (name, value) in said {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    let answer = EchoClient::new(channel(gateway).await).unary(request).await.unwrap();
    answer.into_inner().metadata.into_iter().collect()
}

#[tokio::test]
async fn a_trusted_proxy_says_who_calls() {
    let gateway = start(&["127.0.0.0/8"]).await;
    let from = |way| [("x-forwarded-for", way), ("x-forwarded-proto", "https"), ("x-forwarded-host", "shop.example")];
    let (status, heard) = echo(&gateway, &from("203.0.113.7")).await;
    assert_eq!((status, &heard["x-forwarded-for"]), (StatusCode::OK, &"203.0.113.7, 127.0.0.1".into()), "{heard}");
    assert_eq!((&heard["x-forwarded-proto"], &heard["x-forwarded-host"]), (&"https".into(), &"shop.example".into()));
    // Whatever a caller puts before itself: it is the same one.
    let (status, heard) = echo(&gateway, &from("198.51.100.1, 203.0.113.7")).await;
    assert_eq!((status, &heard["x-forwarded-for"]), (StatusCode::OK, &"203.0.113.7, 127.0.0.1".into()), "{heard}");
    assert_eq!(echo(&gateway, &from("198.51.100.2, 203.0.113.7")).await.0, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(echo(&gateway, &from("203.0.113.8")).await.0, StatusCode::OK, "somebody else");
    let heard = native(&gateway, &from("203.0.113.8")).await;
    assert_eq!((&*heard["x-forwarded-for"], &*heard["x-forwarded-proto"]), ("203.0.113.8, 127.0.0.1", "https"));
    assert_eq!(
        echo(&gateway, &from("203.0.113.8")).await.0,
        StatusCode::TOO_MANY_REQUESTS,
        "one count for all protocols"
    );
}

#[tokio::test]
async fn nobody_else_does() {
    for trusted in [&[][..], &["10.0.0.0/8"]] {
        let gateway = start(trusted).await;
        let lies = |way| [("x-forwarded-for", way), ("x-forwarded-host", "bank.example"), ("forwarded", "for=1.1.1.1")];
        let (status, heard) = echo(&gateway, &lies("203.0.113.7")).await;
        assert_eq!((status, &heard["x-forwarded-for"]), (StatusCode::OK, &"127.0.0.1".into()), "{heard}");
        assert_ne!(heard["x-forwarded-host"], "bank.example");
        let heard = native(&gateway, &lies("203.0.113.8")).await;
        assert_eq!(heard["x-forwarded-for"], "127.0.0.1");
        assert!(!heard.contains_key("x-forwarded-host") && !heard.contains_key("forwarded"), "{heard:?}");
        assert_eq!(echo(&gateway, &lies("203.0.113.9")).await.0, StatusCode::TOO_MANY_REQUESTS, "all are one address");
    }
}
