//! The API described: documents that agree with the routes, a page beside them, and who has the paths when a service wants them.

use bytes::Bytes;
use serde_json::Value;
use weft_gateway::{Docs, Source};

use crate::support::{Running, send, send_bytes, start, start_gateway, start_with};

async fn document(gateway: &Running) -> Value {
    let answer = send(gateway.addr, "GET", "/openapi.json", &[], "").await;
    assert_eq!((answer.status.as_u16(), &answer.headers["content-type"]), (200, &"application/json".parse().unwrap()));
    answer.json()
}

#[tokio::test]
async fn the_document_lists_what_is_routed_and_says_what_authors_wrote() {
    let gateway = start().await;
    let document = document(&gateway).await;
    assert_eq!(document["openapi"], "3.1.1");
    assert_eq!(document["info"]["version"].as_str().unwrap().len(), 12);
    let user = &document["paths"]["/api/users/{id}"];
    assert_eq!(user["get"]["operationId"], "shop.users.v1.Users.GetUser");
    assert_eq!(user["patch"]["parameters"][0]["name"], "id", "two templates of one shape are one path");
    assert_eq!(user["get"]["summary"], "Returns one user");
    let name = &document["components"]["schemas"]["shop.users.v1.User"]["properties"]["name"];
    assert_eq!(name["description"], "Name to show, 1 to 200 characters.");
}

#[tokio::test]
async fn a_document_is_made_anew_only_for_who_does_not_have_it() {
    let gateway = start().await;
    for path in ["/openapi.json", "/openapi.yaml", "/docs", "/docs/page.js", "/docs/page.css"] {
        let first = send(gateway.addr, "GET", path, &[], "").await;
        assert_eq!(first.status, 200, "{path}");
        let tag = first.headers["etag"].to_str().unwrap();
        for known in [tag.to_owned(), format!("\"x\", {}", tag.trim_start_matches("W/"))] {
            let again = send(gateway.addr, "GET", path, &[("if-none-match", &known)], "").await;
            assert_eq!((again.status.as_u16(), again.body.as_str()), (304, ""), "{path}");
        }
        let other = send(gateway.addr, "GET", path, &[("if-none-match", "\"x\"")], "").await;
        assert_eq!((other.status.as_u16(), other.body == first.body), (200, true), "{path}");
        let head = send(gateway.addr, "HEAD", path, &[], "").await;
        assert_eq!(head.headers["content-length"], first.body.len().to_string(), "{path}");
        let policy = first.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        let wrong = send(gateway.addr, "POST", path, &[], "").await;
        assert_eq!((wrong.status.as_u16(), &wrong.headers["allow"]), (405, &"GET, HEAD".parse().unwrap()), "{path}");
    }
}

#[tokio::test]
async fn the_page_names_nothing_that_another_host_serves() {
    let gateway = start().await;
    let page = send(gateway.addr, "GET", "/docs", &[], "").await.body;
    for reference in page.split(['"', '\'']).filter(|it| it.contains("//") || it.starts_with('/')) {
        assert!(reference.starts_with("/docs/") || reference.starts_with("/openapi."), "{reference}");
        assert_eq!(send(gateway.addr, "GET", reference, &[], "").await.status, 200, "{reference}");
    }
    assert!(!page.contains("<style") && !page.contains(" style="), "the policy refuses it");
}

#[tokio::test]
async fn switched_off_there_is_nothing_of_it() {
    let gateway = start_with(|config| config.docs = Docs { enabled: false, ..Docs::default() }).await;
    for path in ["/openapi.json", "/openapi.yaml", "/docs", "/docs/page.js"] {
        let answer = send(gateway.addr, "GET", path, &[], "").await;
        assert_eq!((answer.status.as_u16(), answer.json()["code"].clone()), (404, 5.into()), "{path}");
    }
}

/// An API with these rules, all for one method of one service.
fn descriptors(rules: &str) -> Vec<u8> {
    let text = format!(
        "syntax = \"proto3\"; package own.v1; import \"google/api/annotations.proto\";
         message It {{ string path = 1; }} service Own {{ rpc Get(It) returns (It) {{ option (google.api.http) = {{ {rules} }}; }} }}"
    );
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("own.proto"), text).unwrap();
    let protos = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
    let mut compiler = protox::Compiler::new([dir.path(), protos.as_ref()]).unwrap();
    compiler.include_imports(true).open_file("own.proto").unwrap();
    compiler.encode_file_descriptor_set()
}

async fn of(rules: &str) -> Running {
    let set = descriptors(rules);
    // Nobody is there: what goes upstream is UNAVAILABLE, and so told from what is answered here.
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    start_gateway(unused, |config| {
        if let Source::Static { descriptor_set, .. } = &mut config.source {
            *descriptor_set = set.into();
        }
    })
    .await
}

#[tokio::test]
async fn a_service_that_binds_a_path_of_ours_has_it_and_one_that_binds_every_path_does_not() {
    let named = of("get: \"/docs\"").await;
    assert_eq!(send(named.addr, "GET", "/docs", &[], "").await.status, 503);
    assert_eq!(send(named.addr, "GET", "/openapi.json", &[], "").await.status, 200);
    let every = of("get: \"/{path=**}\"").await;
    assert_eq!(send(every.addr, "GET", "/docs", &[], "").await.status, 200);
    assert_eq!(send(every.addr, "GET", "/elsewhere", &[], "").await.status, 503);
}

#[tokio::test]
async fn what_a_policy_keeps_is_in_the_document_and_as_it_says() {
    let policy = "name: kept\nservice: upstream\ncache: { ttl: 1h, methods: [shop.users.v1.Users/ListUsers] }\n";
    let gateway = crate::policies::start(policy).await;
    let document = document(&gateway).await;
    let responses = |path: &str| document["paths"][path]["get"]["responses"].clone();
    assert_eq!(responses("/api/users")["304"]["$ref"], "#/components/responses/304");
    assert!(responses("/api/users/{id}").get("304").is_none(), "a policy names the other");
    let first = send(gateway.addr, "GET", "/api/users", &[], "").await;
    let tag = first.headers["etag"].to_str().unwrap();
    let again = send(gateway.addr, "GET", "/api/users", &[("if-none-match", tag)], "").await;
    assert_eq!(again.status, 304, "{again:?}");
    let said = document["components"]["responses"]["304"]["headers"].as_object().unwrap();
    assert_eq!(said.len(), 4, "{said:?}");
    for name in said.keys() {
        assert!(again.headers.contains_key(name.as_str()), "{name} in {again:?}");
    }
}

#[tokio::test]
async fn what_a_policy_wants_of_callers_is_in_the_document() {
    let policy = "name: callers\nservice: gateway\nauthentication:\n  jwt: [{ issuer: 'http://127.0.0.1:1', audiences: [shop] }]\n  api_keys: true\n  \
                  methods: [shop.users.v1.Users/CreateUser]\n";
    let gateway = crate::policies::start(policy).await;
    let document = document(&gateway).await;
    let create = &document["paths"]["/api/users"]["post"];
    assert_eq!(create["security"], serde_json::json!([{ "bearer": [] }, { "key.x-api-key": [] }]), "{create:#}");
    assert!(document["paths"]["/api/users"]["get"].get("security").is_none());
    assert_eq!(document["components"]["securitySchemes"]["key.x-api-key"]["name"], "x-api-key");
}

#[tokio::test]
async fn the_documents_are_compressed_for_who_accepts_it() {
    let gateway = start().await;
    for path in ["/openapi.json", "/openapi.yaml", "/docs"] {
        let (status, plain, whole) = send_bytes(gateway.addr, "GET", path, &[], Bytes::new()).await;
        let accepting = [("accept-encoding", "gzip")];
        let (_, headers, body) = send_bytes(gateway.addr, "GET", path, &accepting, Bytes::new()).await;
        assert_eq!((status.as_u16(), &headers["content-encoding"]), (200, &"gzip".parse().unwrap()), "{path}");
        assert!(body.len() < whole.len() * 3 / 4, "{path}: {} of {}", body.len(), whole.len());
        let known = [("if-none-match", headers["etag"].to_str().unwrap()), accepting[0]];
        assert_eq!(headers["etag"], plain["etag"]);
        assert_eq!(send(gateway.addr, "GET", path, &known, "").await.status, 304, "{path}");
    }
}
