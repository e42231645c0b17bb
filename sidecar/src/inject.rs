//! `weft inject`: adds the sidecar to the pods of Kubernetes manifests. Text in, text out.
//!
//! Lives here: which documents hold pods, what an author may set by annotation, what is said of bad input. Does not: what is added to a
//! pod (`pod`), cutting a stream of documents (`documents`), reading and writing files (`cli`).
//! A document without a pod, or whose pods are as this would leave them, comes out as it went in, byte for byte; so doing it twice is doing
//! it once. One that changes is written anew: its values and their order stay, the comments below its head go.

use clap::ValueEnum;
use serde_json::{Map, Value};
use weft_discovery::RegistryUrls;
use weft_identity::{TrustDomain, name::SYSTEM_NAMESPACE};
use weft_model::ServiceName;

use crate::Plaintext;

mod documents;
mod pod;

/// What holds for every pod; `weft.dev/…` annotations of a pod come before it.
#[derive(Debug, Clone)]
pub struct Injection {
    /// Image of the sidecar.
    pub image: String,
    /// Registries as pods reach them.
    pub registry: RegistryUrls,
    /// How pods prove who they are; none for registries that speak plaintext.
    pub identity: Option<Identity>,
}

/// How a pod proves who it is: by the token of its service account, to a registry whose root it knows.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Audience of the tokens: what the registry's `--kubernetes-audience` says.
    pub audience: String,
    /// ConfigMap of the pod's namespace whose key `sha256` holds the hash of the root.
    pub root: String,
    /// Trust domain of the registry.
    pub trust_domain: TrustDomain,
}

/// Manifests with their sidecars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected {
    /// The whole stream of documents.
    pub text: String,
    /// What was done to which pod, and what an author should know; for people.
    pub notes: Vec<String>,
}

/// Why manifests stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// A document is not YAML.
    #[error("document {document} is no YAML: {problem}")]
    Syntax {
        /// Counted from 1.
        document: usize,
        /// What the parser says, with line and column of the document.
        problem: String,
    },
    /// A field of a pod is missing, of another type, or holds what cannot be.
    #[error("{object}: {field}: {problem}")]
    Field {
        /// Kind and name, `Deployment users`.
        object: String,
        /// Path of the field from the object's top.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// Adds a sidecar to every Deployment, StatefulSet, DaemonSet, ReplicaSet and Pod in `text`, inside Lists, too.
///
/// # Errors
/// [`InjectError`], for the first document or field that cannot be understood; nothing is changed then.
pub fn inject(text: &str, injection: &Injection) -> Result<Injected, InjectError> {
    let mut injected = Injected { text: String::with_capacity(text.len()), notes: Vec::new() };
    for (index, document) in documents::split(text).into_iter().enumerate() {
        let before = document.parse().map_err(|problem| InjectError::Syntax { document: index + 1, problem })?;
        let mut value = before.clone();
        object(&mut value, injection, &mut injected.notes)?;
        injected.text.push_str(&if value == before { document.text() } else { document.written(&value) });
    }
    if injected.notes.is_empty() {
        injected.notes.push("no Deployment, StatefulSet, DaemonSet, ReplicaSet or Pod here: nothing to add".to_owned());
    }
    Ok(injected)
}

/// Changes one object, or the items of a list of them.
fn object(value: &mut Value, injection: &Injection, notes: &mut Vec<String>) -> Result<(), InjectError> {
    let kind = value["kind"].as_str().unwrap_or_default().to_owned();
    match kind.as_str() {
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Pod" => {}
        "List" => {
            let items = value.get_mut("items").and_then(Value::as_array_mut);
            return items.into_iter().flatten().try_for_each(|item| object(item, injection, notes));
        }
        _ => return Ok(()),
    }
    let metadata = |key: &str| value["metadata"][key].as_str().unwrap_or_default().to_owned();
    let (name, namespace) = (metadata("name"), metadata("namespace"));
    let place = Place { object: format!("{kind} {name}"), prefix: if kind == "Pod" { "" } else { "spec.template." } };
    let pod = if kind == "Pod" { Some(value) } else { value.pointer_mut("/spec/template") };
    let Some(pod) = pod.and_then(Value::as_object_mut) else {
        return Err(place.wrong("spec", "expected a template of pods"));
    };
    let Some(wanted) = Wanted::read(pod, &name, &place)? else {
        notes.push(format!("{}: left alone, as its annotation {INJECT} says", place.object));
        return Ok(());
    };
    if injection.identity.is_some() {
        if namespace == SYSTEM_NAMESPACE {
            let problem = format!("{SYSTEM_NAMESPACE} is the mesh's own, where no pod gets an identity; use another");
            return Err(InjectError::Field { object: place.object, field: "metadata.namespace".into(), problem });
        }
        wanted.can_be_proven(pod, &place)?;
    }
    pod::add_sidecar(pod, &wanted, injection, &place, notes)
}

/// Where in the input we are, for words to people.
struct Place {
    object: String,
    prefix: &'static str,
}

impl Place {
    fn wrong(&self, field: &str, problem: impl Into<String>) -> InjectError {
        let field = format!("{}{field}", self.prefix);
        InjectError::Field { object: self.object.clone(), field, problem: problem.into() }
    }
}

const OURS: &str = "weft.dev/";
const INJECT: &str = "weft.dev/inject";
const SERVICE: &str = "weft.dev/service";
const APP_PORT: &str = "weft.dev/app-port";
const CONTAINER: &str = "weft.dev/container";
const HEALTH: &str = "weft.dev/health";
const PLAINTEXT: &str = "weft.dev/plaintext";
const KNOWN: [&str; 6] = [INJECT, SERVICE, APP_PORT, CONTAINER, HEALTH, PLAINTEXT];

/// What the author of a pod wants of its sidecar.
struct Wanted {
    service: ServiceName,
    app_port: Option<u16>,
    container: Option<String>,
    health: Option<String>,
    plaintext: Option<String>,
}

impl Wanted {
    /// Reads labels and annotations; none means that the pod shall have no sidecar.
    fn read(pod: &Map<String, Value>, name: &str, place: &Place) -> Result<Option<Self>, InjectError> {
        let metadata = |kind: &str, key: &str| pod.get("metadata")?.get(kind)?.get(key).map(text);
        let annotations = pod.get("metadata").and_then(|it| it.get("annotations")?.as_object());
        if let Some(key) = annotations
            .into_iter()
            .flat_map(Map::keys)
            .find(|key| key.starts_with(OURS) && !KNOWN.contains(&key.as_str()))
        {
            return Err(place.wrong(&annotation(key), format!("no such annotation; there are {}", KNOWN.join(", "))));
        }
        let given = |key: &str| metadata("annotations", key);
        match given(INJECT).as_deref() {
            None | Some("true") => {}
            Some("false") => return Ok(None),
            Some(other) => {
                return Err(place.wrong(&annotation(INJECT), format!("{other:?} is neither \"true\" nor \"false\"")));
            }
        }
        let label = metadata("labels", "app.kubernetes.io/name");
        let service = given(SERVICE).or(account(pod)).or(label).unwrap_or_else(|| name.to_owned());
        let service = service.parse().map_err(|error| {
            place.wrong(&annotation(SERVICE), format!("{service:?} names no service ({error}); set this annotation"))
        })?;
        let app_port = given(APP_PORT).map(|it| port(&it).map_err(|why| place.wrong(&annotation(APP_PORT), why)));
        let health = given(HEALTH);
        if let Some(Err(error)) = health.as_deref().map(str::parse::<crate::HealthCheck>) {
            return Err(place.wrong(&annotation(HEALTH), error.to_string()));
        }
        let plaintext = given(PLAINTEXT);
        if let Some(who) = plaintext.as_deref().filter(|who| Plaintext::from_str(who, false).is_err()) {
            let problem = format!("{who:?} says not who may call without a certificate: refuse, loopback or allow");
            return Err(place.wrong(&annotation(PLAINTEXT), problem));
        }
        Ok(Some(Self { service, app_port: app_port.transpose()?, container: given(CONTAINER), health, plaintext }))
    }

    /// The API server vouches for service accounts: the pod's must be the service that it wants to be.
    fn can_be_proven(&self, pod: &Map<String, Value>, place: &Place) -> Result<(), InjectError> {
        let service = self.service.name();
        if self.service.full() == self.service.to_string() {
            let problem = format!("the namespace is that of the pod; write {service}");
            return Err(place.wrong(&annotation(SERVICE), problem));
        }
        let problem = match account(pod) {
            Some(account) if account == service => return Ok(()),
            Some(account) => format!(
                "{account:?} makes the pod the service {account}, and not {service}; name a ServiceAccount {service} here, or change {SERVICE}"
            ),
            None => format!("missing: a pod is the service its account names; name a ServiceAccount {service} here"),
        };
        Err(place.wrong("spec.serviceAccountName", problem))
    }
}

/// The service account of a pod, if it names one.
fn account(pod: &Map<String, Value>) -> Option<String> {
    pod.get("spec")?.get("serviceAccountName")?.as_str().map(str::to_owned)
}

fn annotation(key: &str) -> String {
    format!("metadata.annotations[{key}]")
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("{text:?} is no port from 1 to 65535"))
}

/// A scalar as its author wrote it: Kubernetes wants strings in annotations, and people forget the quotes.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests;
