//! What upstream sees of a request's head.

use http::{HeaderValue, Version};
use weft_traffic::{Body, OutboundConfig, PoolConfig, Root, TraceContext};

use crate::{
    mesh::{GET, Mesh, request},
    upstream::{Call, Upstream},
};

#[tokio::test]
async fn the_head_arrives_whole_without_what_belongs_to_the_hop() {
    let server = Upstream::start(Call::echo).await;
    let mesh = Mesh::of([server.address]);
    let mut sent = request(GET, Body::full("x"));
    *sent.version_mut() = Version::HTTP_11;
    *sent.uri_mut() = GET.parse().unwrap();
    for (name, value) in [("host", "users:7301"), ("connection", "x-hop"), ("x-hop", "1"), ("x-own", "1")] {
        sent.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    sent.headers_mut().append("x-own", HeaderValue::from_static("2"));
    mesh.send(sent).await.unwrap();
    let head = server.head(0);
    assert_eq!(head.uri.to_string(), format!("http://users:7301{GET}"));
    assert_eq!(head.headers.get_all("x-own").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(head.headers["te"], "trailers");
    for gone in ["host", "connection", "x-hop", "content-length"] {
        assert!(!head.headers.contains_key(gone), "{gone}");
    }
}

#[tokio::test]
async fn a_trace_is_begun_once_and_handed_on_unchanged() {
    let server = Upstream::start(Call::echo).await;
    let config = OutboundConfig { root: Root::ALWAYS, ..OutboundConfig::default() };
    let mesh = Mesh::with(PoolConfig::default(), config, [server.address]);
    mesh.send(request(GET, Body::full("x"))).await.unwrap();
    let begun = TraceContext::from_headers(&server.head(0).headers).expect("a trace");
    assert!(begun.sampled());
    let mut second = request(GET, Body::full("x"));
    begun.write(second.headers_mut());
    mesh.send(second).await.unwrap();
    assert_eq!(TraceContext::from_headers(&server.head(1).headers), Some(begun));
}
