//! What `inject` does to manifests: golden output, idempotence, refusals.

use std::{fs, path::Path};

use clap::Parser;

use super::*;
use crate::{Args, Config};

fn injection() -> Injection {
    let identity = Identity {
        audience: "weft".to_owned(),
        root: "weft-root".to_owned(),
        trust_domain: "weft.local".parse().unwrap(),
    };
    let registry = "https://registry.weft.svc:7100".parse().unwrap();
    Injection { image: "weft:test".to_owned(), registry, identity: Some(identity) }
}

/// For a mesh without identities.
fn plain() -> Injection {
    Injection { registry: "http://registry:7100".parse().unwrap(), identity: None, ..injection() }
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

/// What the sidecar makes of its flags in a pod of the namespace `shop`, whose files lie in `dir`.
fn loaded(arguments: &[String], dir: &Path) -> Config {
    let proof = format!("{}/", dir.display());
    let at_start = arguments.iter().map(|it| {
        let it = it.replace("$(POD_IP)", "10.0.0.7").replace("$(POD_NAME)", "users-0");
        it.replace("$(POD_NAMESPACE)", "shop").replace("/var/run/secrets/weft/", &proof)
    });
    Config::load(Cli::try_parse_from(at_start).unwrap().args).unwrap()
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
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("token"), "a.projected.token\n").unwrap();
    fs::write(dir.path().join("root"), format!("{}\n", "1".repeat(64))).unwrap();
    let (health, plaintext) = (Some("http:/healthz".to_owned()), Some("loopback".to_owned()));
    let wanted = Wanted { service: "users".parse().unwrap(), app_port: None, container: None, health, plaintext };
    let config = loaded(&pod::arguments(&wanted, 50051, &injection()), dir.path());
    assert_eq!((config.service.full(), config.app.port()), ("users.shop", 50051));
    let credential = config.credential.as_ref().unwrap();
    assert_eq!((credential.secret(), credential.pin().to_string()), ("a.projected.token", "1".repeat(64)));
    assert_eq!(credential.registries().to_string(), "https://registry.weft.svc:7100");
    assert_eq!(credential.registry().as_str(), "spiffe://weft.local/ns/weft/svc/registry");
    assert_eq!(config.plaintext, Some(Plaintext::Loopback));
    assert_eq!(config.share_program.as_deref(), Some(Path::new("/opt/weft")), "where preStop finds it");
    assert_eq!(config.inbound.admin().get().port(), 7380, "the port of probes and preStop");
    assert_eq!(config.outbound.get().to_string(), "127.0.0.1:7301", "what WEFT_OUTBOUND says");

    let wanted = Wanted { service: "users.shop".parse().unwrap(), plaintext: None, ..wanted };
    let config = loaded(&pod::arguments(&wanted, 50051, &plain()), dir.path());
    assert!(config.credential.is_none() && config.plaintext.is_none());
    assert_eq!(config.service, wanted.service);
}

#[test]
fn a_mesh_without_identities_is_a_word_of_its_registry() {
    let pod =
        "{ kind: Pod, metadata: { name: a }, spec: { containers: [{ name: a, ports: [{ containerPort: 1 }] }] } }\n";
    let text = inject(pod, &plain()).unwrap().text;
    assert!(text.contains("--insecure") && text.contains("--registry=http://registry:7100"), "{text}");
    assert!(!text.contains("token") && !text.contains("weft-root"), "{text}");
    // Turned on later, and off again: what goes with it comes and goes.
    let account = text.replacen("containers:", "serviceAccountName: a\n  containers:", 1);
    let secured = inject(&account, &injection()).unwrap().text;
    assert!(secured.contains("serviceAccountToken") && !secured.contains("--insecure"), "{secured}");
    assert!(
        inject(&secured, &plain()).unwrap().text == account,
        "--- got ---\n{}",
        inject(&secured, &plain()).unwrap().text
    );
}

#[test]
fn a_hook_that_asked_for_a_drain_from_outside_is_replaced() {
    let old = "lifecycle: { preStop: { httpGet: { path: /drain, port: 7380 } } }, ports: [{ containerPort: 1 }]";
    let pod = format!("{{ kind: Pod, metadata: {{ name: a }}, spec: {{ containers: [{{ name: a, {old} }}] }} }}\n");
    let text = inject(&pod, &plain()).unwrap().text;
    assert!(!text.contains("path: /drain") && text.contains("/opt/weft/weft"), "{text}");
}

#[test]
fn a_hook_of_the_apps_own_is_kept_and_its_author_told() {
    let own = "lifecycle: { preStop: { exec: { command: [sync] } } }, ports: [{ containerPort: 1 }]";
    let pod = format!("{{ kind: Pod, metadata: {{ name: a }}, spec: {{ containers: [{{ name: a, {own} }}] }} }}\n");
    let injected = inject(&pod, &plain()).unwrap();
    assert!(injected.text.contains("sync") && !injected.text.contains("- drain"), "{}", injected.text);
    assert!(injected.notes[0].contains("/opt/weft/weft drain 127.0.0.1:7380"), "{:?}", injected.notes);
}

#[test]
fn input_that_cannot_be_is_refused_with_field_and_cure() {
    let pod = |annotations: &str, spec: &str| {
        let spec = format!("serviceAccountName: a, {spec}");
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
        (pod("weft.dev/plaintext: always", fine), vec!["weft.dev/plaintext", "refuse, loopback or allow"]),
        (pod("weft.dev/service: a.shop", fine), vec!["weft.dev/service", "the pod; write a"]),
        (
            pod("weft.dev/service: b", fine),
            vec!["spec.serviceAccountName", "\"a\"", "ServiceAccount b", "weft.dev/service"],
        ),
        (
            format!("{{ kind: Pod, metadata: {{ name: b }}, spec: {{ {fine} }} }}"),
            vec!["spec.serviceAccountName", "missing"],
        ),
        (pod("", fine).replace("name: a,", "name: a, namespace: weft,"), vec!["Pod a: metadata.namespace", "own"]),
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
