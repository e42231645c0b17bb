//! Header rules as callers and services meet them, by every protocol.

use http::StatusCode;
use weft_proto::weft::testkit::v1::{EchoRequest, echo_client::EchoClient};

use crate::{
    policies::start,
    support::{channel, send},
};

const RULES: &str = "
name: names
service: upstream
headers:
  methods: [weft.testkit.v1.Echo/Unary]
  request:
    - { name: x-tenant-id, rename: tenant }
    - { name: cookie, remove: true }
    - { name: x-entry, set: edge }
    - { name: x-via, append: edge }
  response:
    - { name: x-served-by, set: weft }
    - { name: x-gone, remove: true }
---
name: created
service: upstream
headers: { methods: [shop.users.v1.Users/CreateUser], response: [{ name: x-served-by, set: weft }] }
";

#[tokio::test]
async fn a_service_hears_and_a_caller_reads_what_the_rules_say() {
    let gateway = start(RULES).await;
    let sent = [
        ("x-tenant-id", "acme"),
        ("grpc-metadata-tenant", "mallory"),
        ("cookie", "a=b"),
        ("grpc-metadata-cookie", "c=d"),
        ("x-entry", "mallory"),
        ("x-via", "proxy"),
    ];
    let json = [("content-type", "application/json"), ("connect-protocol-version", "1")];
    let by_connect = [&sent[..], &json].concat();
    for (path, headers) in [("/echo", &sent[..]), ("/weft.testkit.v1.Echo/Unary", &by_connect)] {
        let answer = send(gateway.addr, "POST", path, headers, "{}").await;
        assert_eq!(answer.status, StatusCode::OK, "{path} {answer:?}");
        let heard = answer.json()["metadata"].clone();
        assert_eq!((&heard["tenant"], &heard["x-entry"]), (&"acme".into(), &"edge".into()), "{path} {heard}");
        for gone in ["cookie", "x-tenant-id"] {
            assert!(heard.get(gone).is_none(), "{path} {heard}");
        }
        assert_eq!(heard["x-via"], "edge", "{path}: the last one of two, as echo tells metadata");
        assert_eq!(answer.headers["x-served-by"], "weft", "{path}");
    }
    let mut echo = EchoClient::new(channel(&gateway).await);
    let mut request = tonic::Request::new(EchoRequest::default());
    request.metadata_mut().insert("x-tenant-id", "acme".parse().unwrap());
    let answer = echo.unary(request).await.unwrap();
    assert_eq!(answer.metadata().get("x-served-by").unwrap(), "weft");
    assert_eq!(answer.get_ref().metadata["tenant"], "acme");

    // Errors, too; and routes without a rule are left alone.
    let refused = send(gateway.addr, "POST", "/api/users", &[], "{}").await;
    assert_eq!((refused.status, &refused.headers["x-served-by"]), (StatusCode::BAD_REQUEST, &"weft".parse().unwrap()));
    let other = send(gateway.addr, "GET", "/api/users", &[], "").await;
    assert!(!other.headers.contains_key("x-served-by"), "{other:?}");
}
