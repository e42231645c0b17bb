//! What `inject` does to manifests: golden output, idempotence, refusals.

use clap::Parser;

use super::*;
use crate::{Args, Config};

fn injection() -> Injection {
    Injection { image: "weft:test".to_owned(), registry: "http://weft-registry:7100".parse().unwrap() }
}

fn injected(text: &str) -> String {
    inject(text, &injection()).unwrap().text
}

const BEFORE: &str = include_str!("fixtures/before.yaml");
const AFTER: &str = include_str!("fixtures/after.yaml");

#[test]
fn a_stream_comes_out_as_it_was_with_sidecars_where_pods_are() {
    assert!(injected(BEFORE) == AFTER, "--- got ---\n{}", injected(BEFORE));
}

#[test]
fn doing_it_twice_is_doing_it_once() {
    assert!(injected(AFTER) == AFTER, "--- got ---\n{}", injected(AFTER));
}

#[test]
fn a_sidecar_of_another_image_is_brought_up_to_date_and_not_doubled() {
    let newer = Injection { image: "weft:newer".to_owned(), ..injection() };
    let text = inject(AFTER, &newer).unwrap().text;
    assert!(text == AFTER.replace("weft:test", "weft:newer"), "--- got ---\n{text}");
}

#[test]
fn what_the_sidecar_is_started_with_is_what_it_takes() {
    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }
    let health = Some("http:/healthz".to_owned());
    let wanted = Wanted { service: "users.shop".parse().unwrap(), app_port: None, container: None, health };
    let arguments = pod::arguments(&wanted, 50051, &injection());
    let at_start = arguments.iter().map(|it| it.replace("$(POD_IP)", "10.0.0.7").replace("$(POD_NAME)", "users-0"));
    let config = Config::load(Cli::try_parse_from(at_start).unwrap().args).unwrap();
    assert_eq!((config.service, config.app.port()), (wanted.service, 50051));
    assert_eq!(config.inbound.admin().get().port(), 7380, "the port of probes and preStop");
    assert_eq!(config.outbound.get().to_string(), "127.0.0.1:7301", "what WEFT_OUTBOUND says");
}

#[test]
fn a_hook_of_the_apps_own_is_kept_and_its_author_told() {
    let own = "lifecycle: { preStop: { exec: { command: [sync] } } }, ports: [{ containerPort: 1 }]";
    let pod = format!("{{ kind: Pod, metadata: {{ name: a }}, spec: {{ containers: [{{ name: a, {own} }}] }} }}\n");
    let injected = inject(&pod, &injection()).unwrap();
    assert!(injected.text.contains("sync") && !injected.text.contains("/drain"), "{}", injected.text);
    assert!(injected.notes[0].contains("7380/drain"), "{:?}", injected.notes);
}

#[test]
fn input_that_cannot_be_is_refused_with_field_and_cure() {
    let pod = |annotations: &str, spec: &str| {
        format!("{{ kind: Pod, metadata: {{ name: a, annotations: {{ {annotations} }} }}, spec: {{ {spec} }} }}\n")
    };
    let fine = "containers: [{ name: a, ports: [{ containerPort: 1 }] }]";
    for (text, says) in [
        ("a: 1\n---\nkind: [\n".to_owned(), vec!["document 2"]),
        ("kind: Deployment\nmetadata: { name: a }\n".to_owned(), vec!["Deployment a", "spec", "template"]),
        (pod("", "x: 1"), vec!["Pod a", "spec.containers"]),
        (pod("", "containers: [{ name: a }]"), vec!["spec.containers[0].ports", "weft.dev/app-port"]),
        (pod("", "containers: [{ name: a, ports: [{ containerPort: 0 }] }]"), vec!["containerPort", "65535"]),
        (pod("", "containers: [{ name: a }, { name: b }]"), vec!["weft.dev/container", "a, b"]),
        (pod("weft.dev/container: c", fine), vec!["weft.dev/container", "none of"]),
        (pod("", "containers: [{ name: weft }]"), vec!["rename"]),
        (pod("weft.dev/app-port: 70000", fine), vec!["metadata.annotations[weft.dev/app-port]", "65535"]),
        (pod("weft.dev/service: Users", fine), vec!["weft.dev/service", "DNS label"]),
        (pod("weft.dev/health: ping", fine), vec!["weft.dev/health", "http:/PATH"]),
        (pod("weft.dev/inject: maybe", fine), vec!["weft.dev/inject", "true"]),
        (pod("weft.dev/servcie: users", fine), vec!["weft.dev/servcie", "no such annotation", "weft.dev/service"]),
        (pod("", "containers: [{ name: a, env: x, ports: [{ containerPort: 1 }] }]"), vec!["env", "list"]),
    ] {
        let error = inject(&text, &injection()).unwrap_err().to_string();
        assert!(says.iter().all(|it| error.contains(it)), "{text}: {error}");
    }
}

#[test]
fn what_has_no_pod_is_said_to_have_none() {
    let injected = inject("kind: Service\n", &injection()).unwrap();
    assert!(injected.notes[0].contains("nothing to add"), "{:?}", injected.notes);
}
