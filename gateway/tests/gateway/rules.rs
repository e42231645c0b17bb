//! HTTP rules beside annotations, over real connections, in static mode: from the file and from policies in it. Whose a path is: `routes`' own tests.

use http::StatusCode;
use weft_gateway::{Config, FileRule, Source};
use weft_runtime::{Context, Env};

use crate::{
    policies,
    support::{Running, backend, send, start, start_gateway},
};

const ECHO: &str = "weft.testkit.v1.Echo";
const USERS: &str = "shop.users.v1.Users";

/// The rules of a file.
fn read(toml: &str) -> Vec<FileRule> {
    let rules = weft_policy::parse_http_among(toml).unwrap_or_else(|e| panic!("{e} in\n{toml}"));
    rules.into_iter().map(|(line, rule)| FileRule { at: format!("gateway.toml:{line}").into(), rule }).collect()
}

/// The descriptors of users and echo with an annotation's number made that of nobody: protos that say nothing of REST.
fn without_annotations() -> bytes::Bytes {
    // google.api.http is field 72295728, length-delimited.
    let (number, nobodys) = ([0x82, 0xd3, 0xe4, 0x93, 0x02], [0x8a, 0xd3, 0xe4, 0x93, 0x02]);
    let mut set = crate::support::descriptor_set().to_vec();
    let mut annotations = 0;
    while let Some(at) = set.windows(number.len()).position(|it| it == number) {
        set[at..at + number.len()].copy_from_slice(&nobodys);
        annotations += 1;
    }
    assert!(annotations >= 5, "users has annotations");
    set.into()
}

async fn start_bare(change: impl FnOnce(&mut Config)) -> (Running, crate::support::Backend) {
    let backend = backend().await;
    let gateway = start_gateway(backend.addr.clone(), |config: &mut Config| {
        config.source = Source::Static { descriptor_set: without_annotations().into(), upstream: backend.addr.clone() };
        change(config);
    })
    .await;
    (gateway, backend)
}

#[tokio::test]
async fn protos_without_annotations_are_called_by_the_rules_of_the_file() {
    let (bare, _users) = start_bare(|_| {}).await;
    assert_eq!(send(bare.addr, "GET", "/api/users", &[], "").await.status, StatusCode::NOT_FOUND);
    let rules = read(&format!(
        "[[http]]
        selector = \"{USERS}.CreateUser\"
        post = \"/people\"
        body = \"*\"
        [[http]]
        selector = \"{USERS}.GetUser\"
        get = \"/people/{{id}}\"
        additional_bindings = [{{ get = \"/people/{{id}}/name\", response_body = \"name\" }}]
        [[http]]
        selector = \"{ECHO}.Unary\"
        custom = {{ kind = \"REPORT\", path = \"/said\" }}
        body = \"*\""
    ));
    let (gateway, _users) = start_bare(|config| config.rules = rules).await;
    let ada = "{\"name\": \"Ada\", \"email\": \"ada@shop.example\"}";
    let created = send(gateway.addr, "POST", "/people", &[], ada).await;
    assert!(created.status.is_success(), "{created:?}");
    let id = created.json()["id"].as_str().unwrap().to_owned();
    let read = send(gateway.addr, "GET", &format!("/people/{id}"), &[], "").await;
    assert_eq!((read.status, &read.json()["email"]), (StatusCode::OK, &"ada@shop.example".into()));
    let name = send(gateway.addr, "GET", &format!("/people/{id}/name"), &[], "").await;
    assert_eq!((name.status, name.json()), (StatusCode::OK, "Ada".into()));
    let wrong = send(gateway.addr, "DELETE", &format!("/people/{id}"), &[], "").await;
    assert_eq!((wrong.status, &wrong.headers["allow"]), (StatusCode::METHOD_NOT_ALLOWED, &"GET".parse().unwrap()));
    let said = send(gateway.addr, "REPORT", "/said", &[], "{\"text\": \"hello\"}").await;
    assert_eq!((said.status, &said.json()["text"]), (StatusCode::OK, &"hello".into()), "{said:?}");
    let document = send(gateway.addr, "GET", "/openapi.json", &[], "").await.json();
    assert_eq!(document["paths"]["/people/{id}"]["get"]["operationId"], format!("{USERS}.GetUser"));
}

#[tokio::test]
async fn a_rule_stands_in_for_an_annotation_with_all_its_bindings() {
    let yaml = format!(
        "{{ name: paths, service: upstream, http: {{ rules: [{{ selector: {USERS}.ListUsers, get: /people }}] }} }}"
    );
    let gateway = policies::start(&yaml).await;
    assert_eq!(send(gateway.addr, "GET", "/people", &[], "").await.status, StatusCode::OK);
    let gone = send(gateway.addr, "GET", "/api/users", &[], "").await;
    assert_eq!((gone.status, &gone.headers["allow"]), (StatusCode::METHOD_NOT_ALLOWED, &"POST".parse().unwrap()));
    let plain = send(gateway.addr, "POST", &format!("/{USERS}/ListUsers"), &[], "{}").await;
    assert_eq!(plain.status, StatusCode::OK, "what every method has stays");
    let document = send(gateway.addr, "GET", "/openapi.json", &[], "").await.json();
    let (new, old) = (&document["paths"]["/people"], &document["paths"]["/api/users"]);
    assert!(new["get"].is_object() && old["get"].is_null() && old["post"].is_object(), "{new} {old}");
    let before = start().await;
    assert_eq!(send(before.addr, "GET", "/people", &[], "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_rule_of_the_file_that_cannot_be_served_refuses_the_start_and_names_its_place() {
    let backend = backend().await;
    for (rule, told) in [
        (format!("selector = \"{USERS}.GetUsr\"\nget = \"/a\""), "has no method GetUsr; it has"),
        (
            "selector = \"shop.v1.Users.GetUser\"\nget = \"/a\"".to_owned(),
            "no service declares the gRPC service shop.v1.Users",
        ),
        (format!("selector = \"{USERS}.GetUser\"\nget = \"/a/{{idd}}\""), "names idd, which is no field of"),
        (format!("selector = \"{USERS}.GetUser\"\nget = \"/api/users\""), "belongs to shop.users.v1.Users.ListUsers"),
    ] {
        let mut config = crate::support::config(backend.addr.clone());
        config.rules = read(&format!("\n[[http]]\n{rule}\n"));
        let context = Context::for_test("gateway", Env::default());
        let error = weft_gateway::Gateway::bind(config, &context).await.err().expect("it does not start").to_string();
        assert!(error.starts_with("gateway.toml:2: shop.") || error.starts_with("gateway.toml:2: GET"), "{error}");
        assert!(error.contains(told), "{error}");
    }
}
