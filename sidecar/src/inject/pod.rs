//! One pod gets its sidecar: a container that starts before the app and ends after it, and what the app must be told.
//!
//! Lives here: every field that is added, with its reason. Does not: finding pods, reading annotations (`inject`).
//! The sidecar is an init container that always restarts, which Kubernetes starts first and stops last. Its own `preStop` would run
//! beside the app's, so the drain hangs on the app's: the app is told to end once no caller sends it anything more. A drain is answered on
//! loopback only, and an app's image need hold no program that could ask: the sidecar puts its own where the app's container sees it.

use serde_json::{Map, Value, json};

use super::{Identity, InjectError, Injection, Place, Wanted, port};

/// Name of the sidecar's container, and of what is its own in the pod.
const NAME: &str = "weft";
/// Where the sidecar's listeners are; the admin port is the inbound's + 80.
const INBOUND: u16 = 7300;
const OUTBOUND: u16 = 7301;
const ADMIN: u16 = INBOUND + 80;
/// What a drain may take: 5 s for callers to hear of it, 30 s for calls in flight, and the app's own end.
const GRACE_SECONDS: u16 = 60;
/// Where the sidecar keeps the last world it knew, for a restart while no registry answers.
const DATA: &str = "/var/lib/weft";
/// Where the sidecar puts its program, and where the app's container finds it.
const PROGRAM: &str = "/opt/weft";
/// Where the pod's token and the hash of the root are.
const PROOF: &str = "/var/run/secrets/weft";
/// How long a token is good; the kubelet replaces it before.
const TOKEN_SECONDS: u32 = 3_600;

type Object = Map<String, Value>;

/// Adds the sidecar to a pod or a template of pods, or brings the one that is there up to date.
pub(super) fn add_sidecar(
    pod: &mut Object,
    wanted: &Wanted,
    injection: &Injection,
    place: &Place,
    notes: &mut Vec<String>,
) -> Result<(), InjectError> {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else {
        return Err(place.wrong("spec", "missing: a pod needs containers"));
    };
    let app_port = to_app(spec, wanted, place, notes)?;
    put(list(spec, "initContainers", place)?, container(wanted, app_port, injection), First::Yes);
    let volumes = list(spec, "volumes", place)?;
    put(volumes, json!({ "name": "weft-data", "emptyDir": { "sizeLimit": "64Mi" } }), First::No);
    put(volumes, json!({ "name": "weft-program", "emptyDir": { "sizeLimit": "256Mi" } }), First::No);
    match &injection.identity {
        Some(identity) => put(volumes, proof(identity), First::No),
        None => volumes.retain(|it| it["name"] != "weft-identity"),
    }
    spec.entry("terminationGracePeriodSeconds").or_insert_with(|| GRACE_SECONDS.into());
    notes.push(format!("{}: sidecar of service {} before port {app_port}", place.object, wanted.service));
    Ok(())
}

/// Tells the app's container of its sidecar; returns the port that the app listens on.
fn to_app(spec: &mut Object, wanted: &Wanted, place: &Place, notes: &mut Vec<String>) -> Result<u16, InjectError> {
    let containers = spec.get_mut("containers").and_then(Value::as_array_mut).filter(|them| !them.is_empty());
    let Some(containers) = containers else {
        return Err(place.wrong("spec.containers", "missing: a sidecar stands beside an app's container"));
    };
    if containers.iter().any(|it| it["name"] == NAME) {
        return Err(place.wrong("spec.containers", "one is named weft, which is the sidecar's name; rename it"));
    }
    let names: Vec<_> = containers.iter().map(|it| super::text(&it["name"])).collect();
    let index = match &wanted.container {
        Some(name) => names.iter().position(|it| it == name).ok_or_else(|| {
            let problem = format!("{name:?} is none of the pod's containers, {}", names.join(", "));
            place.wrong(&super::annotation(super::CONTAINER), problem)
        })?,
        None if names.len() == 1 => 0,
        None => {
            let problem = format!("which of {} is the app? Set this annotation", names.join(", "));
            return Err(place.wrong(&super::annotation(super::CONTAINER), problem));
        }
    };
    let field = format!("spec.containers[{index}]");
    let Some(app) = containers[index].as_object_mut() else { return Err(place.wrong(&field, "expected an object")) };
    let app_port = match wanted.app_port {
        Some(port) => port,
        None => only_port(app, &field, place)?,
    };
    let env = list(app, "env", place)?;
    for (name, value) in [
        ("PORT", app_port.to_string()),
        ("WEFT_SERVICE", wanted.service.to_string()), // as people know it: the pod's namespace is left out
        ("WEFT_OUTBOUND", format!("http://127.0.0.1:{OUTBOUND}")),
    ] {
        if env.iter().all(|it| it["name"] != name) {
            env.push(json!({ "name": name, "value": value }));
        }
    }
    drain_first(app, place, &field, notes)?;
    Ok(app_port)
}

fn only_port(app: &Object, field: &str, place: &Place) -> Result<u16, InjectError> {
    let ports = app.get("ports").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let problem = "say where the app listens by one containerPort here, or by the annotation weft.dev/app-port";
    let [one] = ports else { return Err(place.wrong(&format!("{field}.ports"), problem)) };
    port(&super::text(&one["containerPort"]))
        .map_err(|why| place.wrong(&format!("{field}.ports[0].containerPort"), why))
}

/// What lets a pod prove who it is, and know whom to tell: both are replaced in place, the one by the kubelet, the other with its ConfigMap.
fn proof(identity: &Identity) -> Value {
    let Identity { audience, root, trust_domain: _ } = identity;
    let token = json!({ "audience": audience, "expirationSeconds": TOKEN_SECONDS, "path": "token" });
    let root = json!({ "name": root, "items": [{ "key": "sha256", "path": "root" }] });
    json!({
        "name": "weft-identity",
        "projected": { "sources": [{ "serviceAccountToken": token }, { "configMap": root }] },
    })
}

/// Hangs the drain on the app's `preStop`, unless its author hung something else there.
fn drain_first(app: &mut Object, place: &Place, field: &str, notes: &mut Vec<String>) -> Result<(), InjectError> {
    let program = json!({ "name": "weft-program", "mountPath": PROGRAM, "readOnly": true });
    put(list(app, "volumeMounts", place)?, program, First::No);
    let command = [format!("{PROGRAM}/weft"), "drain".to_owned(), format!("127.0.0.1:{ADMIN}")];
    let ours = json!({ "exec": { "command": command } });
    let lifecycle = app.entry("lifecycle").or_insert_with(|| json!({}));
    let Some(lifecycle) = lifecycle.as_object_mut() else {
        return Err(place.wrong(&format!("{field}.lifecycle"), "expected an object"));
    };
    let hook = lifecycle.entry("preStop").or_insert_with(|| ours.clone());
    if hook.pointer("/httpGet/path").is_some_and(|path| path == "/drain") {
        *hook = ours.clone(); // of a weft that drained for whoever asked
    }
    if *hook != ours {
        let object = &place.object;
        notes.push(format!("{object}: {field} keeps its own preStop; let it run `{}` first", command.join(" ")));
    }
    Ok(())
}

fn container(wanted: &Wanted, app_port: u16, injection: &Injection) -> Value {
    let probe = |path: &str| json!({ "httpGet": { "path": path, "port": "weft-admin" } });
    let from_field =
        |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    json!({
        "name": NAME,
        "image": injection.image,
        "restartPolicy": "Always",
        "args": arguments(wanted, app_port, injection),
        "env": [
            from_field("POD_IP", "status.podIP"),
            from_field("POD_NAME", "metadata.name"),
            from_field("POD_NAMESPACE", "metadata.namespace"),
        ],
        "ports": [
            { "name": "weft-inbound", "containerPort": INBOUND },
            { "name": "weft-admin", "containerPort": ADMIN },
        ],
        // The app is started once this succeeds, so it must not ask for the app.
        "startupProbe": { "httpGet": { "path": "/healthz", "port": "weft-admin" }, "periodSeconds": 1, "failureThreshold": 60 },
        "readinessProbe": probe("/readyz"),
        "livenessProbe": probe("/healthz"),
        "resources": { "requests": { "cpu": "50m", "memory": "32Mi" }, "limits": { "memory": "128Mi" } },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": mounts(injection),
    })
}

fn mounts(injection: &Injection) -> Vec<Value> {
    let own = [("weft-data", DATA), ("weft-program", PROGRAM)];
    let mut mounts: Vec<_> = own.iter().map(|(name, path)| json!({ "name": name, "mountPath": path })).collect();
    if injection.identity.is_some() {
        mounts.push(json!({ "name": "weft-identity", "mountPath": PROOF, "readOnly": true }));
    }
    mounts
}

/// What is typed after the image's entry point, `weft`. Kubernetes puts the environment in for `$(NAME)`.
pub(super) fn arguments(wanted: &Wanted, app_port: u16, injection: &Injection) -> Vec<String> {
    let mut arguments: Vec<String> = vec!["sidecar".to_owned()];
    let mut flag = |name: &str, value: String| arguments.push(format!("--{name}={value}"));
    match &injection.identity {
        Some(_) => flag("service", format!("{}.$(POD_NAMESPACE)", wanted.service.name())),
        None => flag("service", wanted.service.to_string()),
    }
    flag("app", format!("127.0.0.1:{app_port}"));
    flag("registry", injection.registry.to_string());
    if let Some(Identity { trust_domain, .. }) = &injection.identity {
        flag("token-file", format!("{PROOF}/token"));
        flag("registry-pin-file", format!("{PROOF}/root"));
        flag("trust-domain", trust_domain.to_string());
    }
    flag("inbound", format!(":{INBOUND}"));
    flag("outbound", format!("127.0.0.1:{OUTBOUND}"));
    flag("advertise", format!("$(POD_IP):{INBOUND}"));
    flag("slot", "$(POD_NAME)".to_owned());
    flag("data", DATA.to_owned());
    flag("share-program", PROGRAM.to_owned());
    if let Some(health) = &wanted.health {
        flag("health", health.clone());
    }
    if let Some(plaintext) = &wanted.plaintext {
        flag("plaintext", plaintext.clone());
    }
    flag("log-format", "json".to_owned());
    if injection.identity.is_none() {
        arguments.push("--insecure".to_owned());
    }
    arguments
}

enum First {
    Yes,
    No,
}

/// Puts an entry in the place of the one with its name, or where told.
fn put(entries: &mut Vec<Value>, entry: Value, first: First) {
    match (entries.iter_mut().find(|it| it["name"] == entry["name"]), first) {
        (Some(there), _) => *there = entry,
        (None, First::Yes) => entries.insert(0, entry),
        (None, First::No) => entries.push(entry),
    }
}

/// The list under a key, made if it is not there.
fn list<'a>(object: &'a mut Object, key: &str, place: &Place) -> Result<&'a mut Vec<Value>, InjectError> {
    let value = object.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = json!([]);
    }
    value.as_array_mut().ok_or_else(|| place.wrong(&format!("spec.{key}"), "expected a list"))
}
