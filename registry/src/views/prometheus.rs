//! Prometheus' HTTP service discovery: `/prometheus/sd`, everything of the mesh that has metrics.
//!
//! Lives here: targets, labels, what a request may narrow them by. Does not: metrics themselves, HTTP (`weft_runtime::admin`).
//! | role | target | known from |
//! | --- | --- | --- |
//! | registry | this one's HTTP port, at the host that the request names | – |
//! | gateway | its admin port | its watch |
//! | sidecar | its admin port | its instance; its watch while it has none |
//! | service | the app's own, if it has any | the instance's metadata `metrics` |
//!
//! Each answer is complete, and made of one snapshot: Prometheus drops what is not in it. Instances are listed in every state, since an ill one
//! is worth looking at. What lives in watches only is not there yet just after a restart: until they have had time to come back the answer is an
//! error, on which Prometheus keeps what it has.
//! Source: prometheus.io/docs/prometheus/latest/http_sd.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HOST, RETRY_AFTER},
    request::Parts,
};
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tokio::time::Instant;
use weft_model::{Instance, metadata};
use weft_runtime::admin::Page;

use crate::{
    catalog::{Catalog, Published},
    metrics,
    views::watch::Watches,
};

/// Where it is.
const PATH: &str = "/prometheus/sd";
/// Watchers of a registry that restarted are back by then: they try again every 5 s at most.
const COMING_BACK: Duration = Duration::from_secs(7);
/// What every label of ours begins with.
const PREFIX: &str = "__meta_weft_";
/// What a request may be narrowed by.
const KEYS: [&str; 4] = ["role", "service", "tag", "zone"];

/// The view.
#[derive(Debug, Clone)]
pub(crate) struct Prometheus {
    catalog: Catalog,
    watches: Watches,
    /// Where the registry's own metrics are, unless a request knows better.
    own: SocketAddr,
    /// Until when watchers are awaited that an earlier run of this registry had.
    awaited: Option<Instant>,
}

/// Targets that share their labels: here always one.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Group {
    targets: [String; 1],
    labels: BTreeMap<String, String>,
}

/// What a request asks for; a key that is left out asks for all.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted(BTreeMap<&'static str, BTreeSet<String>>);

impl Prometheus {
    /// Must be made before changes are taken: what the catalog holds now is what it held before the registry started.
    pub(crate) fn new(catalog: &Catalog, watches: &Watches, own: SocketAddr) -> Self {
        let restarted = !catalog.snapshot().services.is_empty();
        let awaited = restarted.then(|| Instant::now() + COMING_BACK);
        Self { catalog: catalog.clone(), watches: watches.clone(), own, awaited }
    }

    /// Answers a request for its path; none to all others.
    pub(crate) fn page(&self, request: &Parts) -> Option<Page> {
        if request.uri.path() != PATH {
            return None;
        }
        if !matches!(request.method, Method::GET | Method::HEAD) {
            let mut page = text(StatusCode::METHOD_NOT_ALLOWED, "ask with GET\n".to_owned());
            page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Some(page);
        }
        let wanted = match Wanted::read(request.uri.query().unwrap_or_default()) {
            Ok(wanted) => wanted,
            Err(problem) => return Some(text(StatusCode::BAD_REQUEST, problem + "\n")),
        };
        if self.awaited.is_some_and(|until| Instant::now() < until) {
            let why = "this registry has just started, and not everybody is back; keep what you have\n";
            let mut page = text(StatusCode::SERVICE_UNAVAILABLE, why.to_owned());
            page.headers_mut().insert(RETRY_AFTER, HeaderValue::from(COMING_BACK.as_secs()));
            return Some(page);
        }
        let host = request.headers.get(HOST).and_then(|host| host.to_str().ok());
        let groups = self.groups(&wanted, host);
        let body = serde_json::to_vec(&groups).expect("strings are JSON");
        let mut page = Response::new(Full::new(Bytes::from(body)));
        page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Some(page)
    }

    fn groups(&self, wanted: &Wanted, host: Option<&str>) -> Vec<Group> {
        let published = self.catalog.published();
        let mut groups = vec![own(self.own, host)];
        groups.extend(instances(&published).flat_map(|it| [sidecar(it), app(it)]).flatten());
        let known: BTreeSet<String> = groups.iter().map(|group| group.targets[0].clone()).collect();
        let watching = self.watches.admins().into_iter().map(|(name, at)| watcher(&name, at));
        groups.extend(watching.filter(|group| !known.contains(&group.targets[0])));
        groups.retain(|group| wanted.takes(&group.labels));
        groups
    }
}

fn instances(published: &Published) -> impl Iterator<Item = &Instance> {
    published.snapshot.services.values().flat_map(|service| service.instances.values().map(AsRef::as_ref))
}

/// This registry: at the host that it was asked by, which the asker reaches, since a listener on all interfaces has no address of its own.
fn own(at: SocketAddr, host: Option<&str>) -> Group {
    let asked = host.and_then(|host| host.parse::<http::uri::Authority>().ok());
    let asked = asked.map(|host| match host.port_u16() {
        Some(_) => host.to_string(),
        None => format!("{host}:80"),
    });
    group(asked.unwrap_or_else(|| at.to_string()), [("role", "registry".to_owned())])
}

fn watcher(name: &str, at: SocketAddr) -> Group {
    // `gateway/127.0.0.1:8080:71`; the rest is for people, and ours are the only ones that say where they are
    let role = if name.starts_with("gateway/") { "gateway" } else { "sidecar" };
    group(at.to_string(), [("role", role.to_owned()), ("watcher", name.to_owned())])
}

fn sidecar(instance: &Instance) -> Option<Group> {
    let at = instance.metadata.get(metadata::ADMIN)?;
    Some(group(at.to_owned(), labels(instance, "sidecar")))
}

fn app(instance: &Instance) -> Option<Group> {
    let told = instance.metadata.get(metadata::METRICS)?;
    let (at, path) = told.split_once('/').map_or((told, None), |(at, path)| (at, Some(format!("/{path}"))));
    let mut group = group(at.to_owned(), labels(instance, "service"));
    group.labels.extend(path.map(|path| ("__metrics_path__".to_owned(), path)));
    Some(group)
}

/// Labels of an instance; a fact that is not known is left out, which a rule cannot tell from an empty one.
fn labels(instance: &Instance, role: &str) -> impl Iterator<Item = (String, String)> {
    let fact = |key: &str| instance.metadata.get(key).unwrap_or_default().to_owned();
    let tags: Vec<&str> = instance.metadata.tags().collect();
    // between separators, so that a rule finds a whole one: `.*,green,.*`
    let tags = if tags.is_empty() { String::new() } else { format!(",{},", tags.join(",")) };
    let of_ours = [
        ("role", role.to_owned()),
        ("service", instance.service.name().to_owned()),
        ("namespace", instance.service.namespace().to_owned()),
        ("instance", instance.id.to_string()),
        ("address", instance.endpoint.address.to_string()),
        ("slot", fact(metadata::SLOT)),
        ("version", fact(metadata::VERSION)),
        ("health", metrics::status(instance.status).to_owned()),
        ("region", instance.locality.region().to_owned()),
        ("zone", instance.locality.zone().to_owned()),
        ("tags", tags),
    ];
    let told = instance.metadata.iter().map(|(key, value)| (format!("metadata_{}", label(key)), value.to_owned()));
    of_ours.map(|(key, value)| (key.to_owned(), value)).into_iter().chain(told.collect::<Vec<_>>())
}

/// A key as a part of a label's name.
fn label(key: &str) -> String {
    key.chars().map(|it| if it.is_ascii_alphanumeric() { it } else { '_' }).collect()
}

fn group<K: AsRef<str>>(target: String, labels: impl IntoIterator<Item = (K, String)>) -> Group {
    let labels = labels.into_iter().filter(|(_, value)| !value.is_empty());
    let labels = labels.map(|(key, value)| (format!("{PREFIX}{}", key.as_ref()), value)).collect();
    Group { targets: [target], labels }
}

impl Wanted {
    /// Reads a query such as `service=users&zone=a`. A key may come several times: any of its values will do.
    fn read(query: &str) -> Result<Self, String> {
        let mut wanted = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(key) = KEYS.into_iter().find(|it| *it == key) else {
                return Err(format!("{key:?} is no key; what may be asked for: {}", KEYS.join(", ")));
            };
            let value = percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned();
            if !value.is_empty() {
                wanted.0.entry(key).or_default().insert(value);
            }
        }
        Ok(wanted)
    }

    fn takes(&self, labels: &BTreeMap<String, String>) -> bool {
        let told = |key: &str| labels.get(&format!("{PREFIX}{key}")).map_or("", String::as_str);
        self.0.iter().all(|(key, values)| match *key {
            "tag" => told("tags").split(',').any(|tag| values.contains(tag)),
            "service" => {
                let full = format!("{}.{}", told("service"), told("namespace"));
                let short = told("namespace") == "default" && values.contains(told("service"));
                short || values.contains(&full)
            }
            key => values.contains(told(key)),
        })
    }
}

fn text(status: StatusCode, text: String) -> Page {
    let mut page = Response::new(Full::new(Bytes::from(text)));
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    page
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::BodyExt;
    use serde_json::{Value, json};
    use tokio::task::JoinSet;
    use tokio_util::sync::CancellationToken;
    use weft_model::{Endpoint, Epoch, InstanceId, LeaseTtl, Locality, Protocol, Status, Transport, Weight};
    use weft_runtime::Metrics;

    use super::*;

    struct World {
        catalog: Catalog,
        watches: Watches,
        prometheus: Prometheus,
        _tasks: JoinSet<()>,
    }

    fn world() -> World {
        let metrics = Metrics::default();
        let (catalog, task) = Catalog::in_memory(&metrics);
        let watches = Watches::new(&catalog, &metrics);
        let mut tasks = JoinSet::new();
        tasks.spawn(task.run(CancellationToken::new()));
        let prometheus = Prometheus::new(&catalog, &watches, "127.0.0.1:7180".parse().unwrap());
        World { catalog, watches, prometheus, _tasks: tasks }
    }

    async fn register(world: &World, service: &str, n: u8, metadata: &[(&str, &str)], status: Status) {
        let endpoint = Endpoint {
            address: format!("10.0.0.{n}:7300").parse().unwrap(),
            transport: Transport::Plaintext,
            protocol: Protocol::H2,
        };
        let instance = Instance {
            id: InstanceId::from_bytes([n; 16]),
            service: service.parse().unwrap(),
            epoch: Epoch(0),
            endpoint,
            status,
            reason: String::new(),
            locality: Locality::new("", "a", ""),
            weight: Weight::ONE,
            metadata: metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            descriptors: None,
            check: None,
        };
        world.catalog.register(instance, LeaseTtl::DEFAULT).await.unwrap();
    }

    async fn get(world: &World, path: &str, host: &str) -> (StatusCode, String) {
        let request = Request::get(path).header(HOST, host).body(()).unwrap().into_parts().0;
        let page = world.prometheus.page(&request).expect("it is its path");
        let (status, kind) = (page.status(), page.headers()[CONTENT_TYPE].clone());
        assert_eq!(kind == "application/json", status == StatusCode::OK);
        let body = page.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn groups(world: &World, query: &str) -> Value {
        let (status, body) = get(world, &format!("/prometheus/sd?{query}"), "registry:7180").await;
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn targets(world: &World, query: &str) -> Vec<String> {
        let groups = groups(world, query).await;
        let groups = groups.as_array().unwrap().iter();
        groups.map(|group| group["targets"][0].as_str().unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn everything_with_metrics_is_listed_with_what_is_known_of_it() {
        let world = world();
        let facts = [
            ("admin", "10.0.0.1:7380"),
            ("slot", "users-1"),
            ("version", "0.1.0"),
            ("tags", "green,v2"),
            ("team.name", "x"),
        ];
        register(&world, "users", 1, &facts, Status::NotServing).await;
        register(&world, "posts.eu", 2, &[("admin", "10.0.0.2:7380"), ("metrics", "10.0.0.2:9464/m")], Status::Serving)
            .await;
        let (gateway, sidecar, other) = (world.watches.open("g"), world.watches.open("s"), world.watches.open("t"));
        gateway.tells_at("gateway/127.0.0.1:8080:7", "10.0.0.9:8160".parse().unwrap());
        sidecar.tells_at("sidecar/users-1:8", "10.0.0.1:7380".parse().unwrap());
        other.tells_at("sidecar/not-yet:9", "10.0.0.3:7380".parse().unwrap());
        let id = InstanceId::from_bytes([1; 16]).to_string();
        let posts = json!({
            "__meta_weft_role": "sidecar", "__meta_weft_service": "posts", "__meta_weft_namespace": "eu", "__meta_weft_zone": "a",
            "__meta_weft_instance": InstanceId::from_bytes([2; 16]).to_string(), "__meta_weft_address": "10.0.0.2:7300",
            "__meta_weft_health": "serving", "__meta_weft_metadata_admin": "10.0.0.2:7380", "__meta_weft_metadata_metrics": "10.0.0.2:9464/m",
        });
        let mut app = posts.clone();
        app["__meta_weft_role"] = json!("service");
        app["__metrics_path__"] = json!("/m");
        let wanted = json!([
            { "targets": ["registry:7180"], "labels": { "__meta_weft_role": "registry" } },
            { "targets": ["10.0.0.2:7380"], "labels": posts },
            { "targets": ["10.0.0.2:9464"], "labels": app },
            { "targets": ["10.0.0.1:7380"], "labels": {
                "__meta_weft_role": "sidecar", "__meta_weft_service": "users", "__meta_weft_namespace": "default", "__meta_weft_zone": "a",
                "__meta_weft_instance": id, "__meta_weft_address": "10.0.0.1:7300", "__meta_weft_health": "not_serving",
                "__meta_weft_slot": "users-1", "__meta_weft_version": "0.1.0", "__meta_weft_tags": ",green,v2,",
                "__meta_weft_metadata_admin": "10.0.0.1:7380", "__meta_weft_metadata_slot": "users-1",
                "__meta_weft_metadata_version": "0.1.0", "__meta_weft_metadata_tags": "green,v2", "__meta_weft_metadata_team_name": "x",
            } },
            { "targets": ["10.0.0.9:8160"], "labels": { "__meta_weft_role": "gateway", "__meta_weft_watcher": "gateway/127.0.0.1:8080:7" } },
            { "targets": ["10.0.0.3:7380"], "labels": { "__meta_weft_role": "sidecar", "__meta_weft_watcher": "sidecar/not-yet:9" } },
        ]);
        assert_eq!(groups(&world, "").await, wanted);
        drop(gateway);
        assert!(!targets(&world, "").await.contains(&"10.0.0.9:8160".to_owned()), "it watches no more");
    }

    #[tokio::test]
    async fn a_request_may_ask_for_less_and_nothing_is_an_empty_list() {
        let world = world();
        register(&world, "users", 1, &[("admin", "10.0.0.1:1"), ("tags", "green")], Status::Serving).await;
        register(&world, "users.eu", 2, &[("admin", "10.0.0.2:1"), ("tags", "green,blue")], Status::Serving).await;
        for (query, wanted) in [
            ("role=registry", vec!["registry:7180"]),
            ("service=users", vec!["10.0.0.1:1"]),
            ("service=users.default", vec!["10.0.0.1:1"]),
            ("service=users.eu&service=users&", vec!["10.0.0.1:1", "10.0.0.2:1"]),
            ("tag=blue&zone=a", vec!["10.0.0.2:1"]),
            ("tag=gre%65n&role=sidecar&service=", vec!["10.0.0.1:1", "10.0.0.2:1"]),
            ("zone=b", vec![]),
            ("service=nobody", vec![]),
        ] {
            assert_eq!(targets(&world, query).await, wanted, "{query}");
        }
        assert_eq!(get(&world, "/prometheus/sd?zone=b", "r").await, (StatusCode::OK, "[]".to_owned()));
        let (status, body) = get(&world, "/prometheus/sd?job=users", "r").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(body.contains("\"job\"") && body.contains("role, service, tag, zone"), "{body}");
    }

    #[tokio::test]
    async fn the_registry_is_where_it_was_asked_and_else_where_it_listens() {
        let world = world();
        for (host, wanted) in [
            ("registry:7180", "registry:7180"),
            ("registry", "registry:80"),
            ("[::1]:1", "[::1]:1"),
            ("a b", "127.0.0.1:7180"),
        ] {
            let (_, body) = get(&world, "/prometheus/sd", host).await;
            assert_eq!(serde_json::from_str::<Value>(&body).unwrap()[0]["targets"][0], wanted, "{host}");
        }
        let other = Request::get("/prometheus").body(()).unwrap().into_parts().0;
        assert!(world.prometheus.page(&other).is_none());
        let post = Request::post("/prometheus/sd").body(()).unwrap().into_parts().0;
        assert_eq!(world.prometheus.page(&post).unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_restart_no_list_is_given_until_watchers_had_time_to_come_back() {
        let mut world = world();
        register(&world, "users", 1, &[("admin", "10.0.0.1:1")], Status::Serving).await;
        world.prometheus = Prometheus::new(&world.catalog, &world.watches, world.prometheus.own);
        assert_eq!(get(&world, "/prometheus/sd", "r").await.0, StatusCode::SERVICE_UNAVAILABLE);
        tokio::time::sleep(COMING_BACK).await;
        assert_eq!(targets(&world, "").await, ["registry:7180", "10.0.0.1:1"]);
    }
}
