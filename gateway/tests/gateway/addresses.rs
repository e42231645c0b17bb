//! Where calls come from, as limits and services see it: with proxies before the gateway, and with callers who only say so.

use http::StatusCode;
use serde_json::Value;
use weft_gateway::{ForwardedHeader, TrustedProxies};
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
    start_reading(ForwardedHeader::XForwardedFor, trusted).await
}

async fn start_reading(header: ForwardedHeader, trusted: &[&str]) -> Running {
    let networks = trusted.iter().map(|it| it.parse().unwrap()).collect();
    start_with(|config| {
        (config.proxies, config.policies) = (TrustedProxies { networks, header }, read(TWO_EACH));
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
        let lies_too =
            [&lies("203.0.113.8")[..], &[("x-forwarded-port", "1"), ("x-forwarded-prefix", "/evil")]].concat();
        let heard = native(&gateway, &lies_too).await;
        let about: Vec<_> = heard.iter().filter(|(name, _)| name.contains("forwarded")).collect();
        assert_eq!(about, [(&"x-forwarded-for".into(), &"127.0.0.1".into())]);
        assert_eq!(echo(&gateway, &lies("203.0.113.9")).await.0, StatusCode::TOO_MANY_REQUESTS, "all are one address");
    }
}

#[tokio::test]
async fn what_a_proxy_says_reaches_services_whatever_the_header_and_the_hop() {
    let gateway = start_reading(ForwardedHeader::Forwarded, &["127.0.0.0/8"]).await;
    let open_quote = "for=1.2.3.4;x=\", for=203.0.113.7;host=shop.example;proto=https";
    let told = [
        ("x-forwarded-for", "203.0.113.7, 127.0.0.1"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-proto", "https"),
    ];
    let said = [("forwarded", open_quote), ("x-forwarded-host", "bank.example")];
    let heard = native(&gateway, &said).await;
    assert!(told.iter().all(|(name, value)| heard[*name] == *value) && !heard.contains_key("forwarded"), "{heard:?}");
    let gateway = start(&["127.0.0.0/8"]).await;
    let hop = ("connection", "x-forwarded-for, x-forwarded-host, x-forwarded-proto");
    let said = [("x-forwarded-for", "203.0.113.7"), told[1], told[2], hop];
    let (status, heard) = echo(&gateway, &said).await;
    assert!(told.iter().all(|(name, value)| heard[*name] == *value), "{status} {heard}");
}

#[tokio::test]
async fn what_callers_claim_in_the_words_of_other_products_is_passed_on_for_proxies_alone() {
    let claims = [
        ("x-real-ip", "203.0.113.7"),
        ("true-client-ip", "203.0.113.7"),
        ("cf-connecting-ip", "203.0.113.7"),
        ("x-envoy-external-address", "203.0.113.7"),
        ("x-envoy-original-path", "/admin"),
        ("x-original-host", "bank.example"),
    ];
    let prefixed =
        [("grpc-metadata-x-real-ip", "203.0.113.7"), ("grpc-metadata-x-forwarded-port", "1"), ("x-custom", "1")];
    let said = [&claims[..], &prefixed].concat();
    let gateway = start(&["10.0.0.0/8"]).await;
    let (status, heard) = echo(&gateway, &said).await;
    assert_eq!((status, &heard["x-custom"]), (StatusCode::OK, &"1".into()), "{heard}");
    let by_grpc = native(&gateway, &claims).await;
    for name in claims.iter().map(|(name, _)| *name).chain(["x-forwarded-port"]) {
        assert_eq!((&heard[name], by_grpc.get(name)), (&Value::Null, None), "{name}");
    }
    let gateway = start(&["127.0.0.0/8"]).await;
    let (_, heard) = echo(&gateway, &said).await;
    let by_grpc = native(&gateway, &claims).await;
    for (name, value) in claims {
        assert_eq!((heard[name].as_str(), by_grpc.get(name).map(String::as_str)), (Some(value), Some(value)), "{name}");
    }
}
