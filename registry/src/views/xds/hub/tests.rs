//! The hub with many streams: what is built how often, who is told, what is left behind.

use std::collections::BTreeMap;

use weft_model::{
    Endpoint, Epoch, Instance, InstanceId, Locality, Protocol as Speaks, Snapshot, Status, Transport, Weight,
};
use weft_runtime::Metrics;

use super::*;
use crate::{
    catalog::{Catalog, Published},
    views::xds::{
        Kind::{Cluster, Endpoint as Eds, Listener},
        Mesh,
        session::{
            Ask,
            Protocol::{Delta, StateOfTheWorld},
        },
        testing::{BUILT, MAKER},
    },
};

struct Bench {
    hub: Hub,
    published: Arc<Published>,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let (catalog, _task) = Catalog::in_memory(&Metrics::default());
        let published = catalog.published();
        BUILT.set(0);
        Self { hub: Hub::new(XdsWorld::new(published.clone(), Mesh::Open), MAKER), published, now: Instant::now() }
    }

    /// Publishes a service with instances at these ports, or takes it away; returns how many streams were woken.
    fn set(&mut self, service: &str, ports: Option<&[u16]>) -> u64 {
        let name: ServiceName = service.parse().unwrap();
        let mut snapshot = Snapshot::clone(&self.published.snapshot);
        snapshot.version = Version(snapshot.version.0 + 1);
        match ports {
            Some(ports) => {
                let mut service = ServiceSnapshot::empty(name.clone(), snapshot.version);
                for port in ports {
                    let it = instance(&name, *port);
                    service.instances.insert(it.id, Arc::new(it));
                }
                snapshot.services.insert(name, Arc::new(service));
            }
            None => drop(snapshot.services.remove(&name)),
        }
        self.publish(snapshot);
        self.hub.update(
            XdsWorld::new(self.published.clone(), Mesh::Open),
            BTreeMap::new(),
            &Names::new(),
            self.now,
            self.now,
        )
    }

    fn publish(&mut self, snapshot: Snapshot) {
        let mut published = Published::clone(&self.published);
        published.snapshot = Arc::new(snapshot);
        self.published = Arc::new(published);
    }

    fn open(&mut self, cluster: &str) -> StreamId {
        let profile = Profile { service: cluster.parse().ok(), ..Profile::default() };
        self.hub.open(StateOfTheWorld, Peer::default(), profile, Arc::default(), self.now).unwrap()
    }

    fn ask(&mut self, id: StreamId, kind: Kind, names: &[&str], nonce: u64) {
        let names = names.iter().map(|it| it.to_string()).collect();
        let nonce = if nonce == 0 { String::new() } else { super::super::wire::nonce(nonce) };
        let ask = Ask::Names { names, version_info: String::new() };
        self.request(id, Request { kind, nonce, error: None, ask }).unwrap();
    }

    fn request(&mut self, id: StreamId, request: Request) -> Result<(), Refused> {
        let kind = request.kind;
        let Taken { more, .. } = self.hub.request(id, request, self.now)?;
        self.hub.join(id, kind, more.into_iter())
    }

    fn told(&mut self, id: StreamId) -> Vec<String> {
        let response = self.hub.respond(id, self.now);
        response.iter().flat_map(|it| &it.resources).map(|(name, _)| name.to_string()).collect()
    }
}

fn instance(service: &ServiceName, port: u16) -> Instance {
    let mut id = [1; 16];
    id[..2].copy_from_slice(&port.to_be_bytes());
    Instance {
        id: InstanceId::from_bytes(id),
        service: service.clone(),
        epoch: Epoch(1),
        endpoint: Endpoint {
            address: ([127, 0, 0, 1], port).into(),
            transport: Transport::Plaintext,
            protocol: Speaks::H2,
        },
        status: Status::Serving,
        reason: String::new(),
        locality: Locality::default(),
        weight: Weight::ONE,
        metadata: Default::default(),
        descriptors: None,
        check: None,
    }
}

const NOBODY: [&str; 0] = [];

#[test]
fn a_resource_is_built_once_for_all_streams_of_a_profile() {
    let mut bench = Bench::new();
    bench.set("users", Some(&[1]));
    let streams: Vec<_> = (0..10).map(|n| bench.open(&format!("service-{n}"))).collect();
    let mut bytes = Vec::new();
    for id in streams {
        bench.ask(id, Eds, &["users"], 0);
        bytes.push(bench.hub.respond(id, bench.now).unwrap().resources.remove(0).1);
    }
    assert_eq!(BUILT.get(), 1);
    assert!(bytes.iter().all(|it| Arc::ptr_eq(it, &bytes[0])));
    assert_eq!(bench.set("users", Some(&[1, 2])), 0, "nobody has answered yet");
    assert_eq!(BUILT.get(), 2);
}

#[test]
fn an_update_builds_and_wakes_only_what_the_changed_service_is_in() {
    let mut bench = Bench::new();
    for service in ["users", "posts"] {
        bench.set(service, Some(&[1]));
    }
    let (users, posts) = (bench.open("a"), bench.open("b"));
    for (id, name) in [(users, "users"), (posts, "posts")] {
        for (nonce, kind) in [(1, Cluster), (2, Eds)] {
            bench.ask(id, kind, &[name], 0);
            assert_eq!(bench.told(id), [name]);
            bench.ask(id, kind, &[name], nonce);
        }
    }
    BUILT.set(0);
    assert_eq!(bench.set("users", Some(&[1, 2])), 1, "one stream");
    assert_eq!(BUILT.get(), 2, "its cluster and its endpoints");
    assert_eq!(bench.told(users), ["users"]);
    assert_eq!(bench.told(users), NOBODY, "the cluster came out as it was");
    assert_eq!(bench.told(posts), NOBODY);
    bench.ask(users, Eds, &["users"], 3);
    BUILT.set(0);
    assert_eq!(bench.set("users", Some(&[1, 2])), 0, "the same again");
    assert_eq!(bench.set("others", Some(&[1])), 0);
    assert_eq!(BUILT.get(), 2);
}

#[test]
fn a_request_builds_nothing_by_itself_and_what_it_asks_for_may_change_before_it_is_joined() {
    let mut bench = Bench::new();
    for service in ["posts", "users"] {
        bench.set(service, Some(&[1]));
    }
    let id = bench.open("a");
    let ask = Ask::Names { names: vec!["*".into(), "other".into()], version_info: String::new() };
    BUILT.set(0);
    let request = Request { kind: Cluster, nonce: String::new(), error: None, ask };
    let Taken { more, .. } = bench.hub.request(id, request, bench.now).unwrap();
    assert_eq!((more.len(), BUILT.get()), (3, 0));
    let mut more = more.into_iter();
    bench.hub.join(id, Cluster, more.by_ref().take(1)).unwrap();
    assert_eq!(BUILT.get(), 1);
    bench.set("users", None);
    bench.hub.join(id, Cluster, more).unwrap();
    assert_eq!(bench.hub.subscriptions, 2, "what went meanwhile is not joined");
    assert_eq!(bench.told(id), ["other", "posts.default"]);
}

#[test]
fn who_has_its_share_is_refused_more_and_answers_freely() {
    let mut bench = Bench::new();
    bench.set("users", Some(&[1]));
    let greedy = Peer { identity: "spiffe://weft.local/ns/default/svc/greedy".into(), ..Peer::default() };
    let id = bench.hub.open(StateOfTheWorld, greedy, Profile::default(), Arc::default(), bench.now).unwrap();
    let other = bench.open("other");
    bench.ask(id, Eds, &["users"], 0);
    bench.told(id);
    bench.hub.tables.accounts.charge(id, 1 << 30);
    bench.ask(id, Eds, &["users"], 1);
    let names = vec!["users".to_owned(), "posts".to_owned()];
    let ask = Ask::Names { names, version_info: String::new() };
    BUILT.set(0);
    let refused = bench.request(id, Request { kind: Eds, nonce: String::new(), error: None, ask }).unwrap_err();
    assert_eq!((refused, BUILT.get()), (Refused::Share("subscriptions"), 0), "before anything is built");
    bench.ask(other, Eds, &["posts"], 0);
}

#[test]
fn who_pays_for_a_resource_leaves_it_to_another_who_has_it() {
    let mut bench = Bench::new();
    bench.set("users", Some(&[1]));
    let (first, second) = (bench.open("a"), bench.open("b"));
    bench.ask(first, Eds, &["users"], 0);
    let held = |bench: &Bench| bench.hub.tables.accounts.held();
    let alone = held(&bench);
    bench.ask(second, Eds, &["users"], 0);
    let both = held(&bench);
    assert!(both > alone && both < 2 * alone, "the bytes are there once");
    bench.set("users", Some(&[1, 2, 3]));
    let grown = held(&bench) - both;
    assert!(grown > 0);
    bench.hub.close(first);
    assert_eq!(held(&bench), alone + grown);
    bench.hub.close(second);
    assert_eq!(held(&bench), 0);
}

#[test]
fn a_name_is_told_when_its_service_comes_and_deleted_when_it_goes() {
    let mut bench = Bench::new();
    let id = bench.open("a");
    bench.ask(id, Listener, &["users:8080"], 0);
    assert_eq!(bench.told(id), NOBODY);
    assert_eq!(bench.set("users", Some(&[])), 1);
    assert_eq!(bench.told(id), ["users:8080"]);
    bench.ask(id, Listener, &["users:8080"], 1);
    assert_eq!(bench.set("users", None), 1);
    let response = bench.hub.respond(id, bench.now).unwrap();
    assert_eq!((response.resources.len(), response.gone.len()), (0, 1));
}

#[test]
fn a_wildcard_follows_the_services() {
    let mut bench = Bench::new();
    bench.set("posts", Some(&[]));
    let id = bench.open("a");
    bench.ask(id, Cluster, &[], 0);
    assert_eq!(bench.told(id), ["posts.default"]);
    bench.ask(id, Cluster, &[], 1);
    assert_eq!(bench.set("users", Some(&[1])), 1);
    assert_eq!(bench.told(id), ["posts.default", "users.default"]);
    bench.ask(id, Cluster, &[], 2);
    // The cluster is there by its name, for whoever asks by name; it is none of all.
    bench.set("posts", None);
    assert_eq!(bench.told(id), ["users.default"]);
    bench.ask(id, Cluster, &[], 3);
    assert_eq!(bench.hub.resources(), 1, "what went is not kept");
    // One that comes and goes before anyone was told leaves nothing behind either.
    bench.set("users", Some(&[1, 2]));
    bench.set("short", Some(&[1]));
    bench.set("short", None);
    assert_eq!(bench.hub.resources(), 1);
    assert_eq!(bench.hub.subscriptions, 1);
}

#[test]
fn a_wildcard_by_delta_is_told_of_what_is_none_of_all_any_more() {
    let mut bench = Bench::new();
    bench.set("posts", Some(&[]));
    bench.set("users", Some(&[]));
    let id = bench.hub.open(Delta, Peer::default(), Profile::default(), Arc::default(), bench.now).unwrap();
    let ask = |nonce: &str| Request {
        kind: Cluster,
        nonce: nonce.into(),
        error: None,
        ask: Ask::Change { subscribe: vec![], unsubscribe: vec![], initial: BTreeMap::new() },
    };
    bench.request(id, ask("")).unwrap();
    assert_eq!(bench.told(id), ["posts.default", "users.default"]);
    bench.request(id, ask("1")).unwrap();
    bench.set("posts", None);
    let response = bench.hub.respond(id, bench.now).unwrap();
    assert_eq!((response.resources.len(), response.removed.as_slice()), (0, &["posts.default".into()][..]));
    assert_eq!(bench.hub.resources(), 1, "what went is not kept");
}

#[test]
fn nothing_is_left_when_the_last_stream_has_gone() {
    let mut bench = Bench::new();
    bench.set("users", Some(&[1]));
    let streams: Vec<_> = (0..3).map(|_| bench.open("a")).collect();
    for id in &streams {
        bench.ask(*id, Cluster, &[], 0);
        bench.ask(*id, Eds, &["users", "nobody"], 0);
        bench.ask(*id, Listener, &["*", "users"], 0);
        bench.told(*id);
    }
    assert!(bench.hub.resources() > 3);
    streams.into_iter().for_each(|id| bench.hub.close(id));
    assert_eq!((bench.hub.resources(), bench.hub.subscriptions, bench.hub.streams().len()), (0, 0, 0));
    assert_eq!(bench.hub.tables.accounts.held(), 0, "nobody pays for anything");
    assert_eq!(bench.hub.affected(&XdsWorld::new(Bench::new().published, Mesh::Open)).len(), 0);
    assert_eq!(bench.set("users", None), 0);
}

#[test]
fn a_drain_at_one_of_several_versions_that_came_together_finds_its_holders() {
    let mut bench = Bench::new();
    let users: ServiceName = "users".parse().unwrap();
    bench.set("users", Some(&[1, 2]));
    let id = bench.open("a");
    bench.ask(id, Eds, &["users"], 0);
    bench.told(id);
    bench.ask(id, Eds, &["users"], 1);
    let drained = Version(bench.hub.version().0 + 1);
    assert!(bench.hub.holders(&users, drained).is_none(), "not there yet");
    let mut later = Snapshot::clone(&bench.published.snapshot);
    later.version = Version(drained.0 + 5);
    bench.publish(later);
    bench.set("users", Some(&[1]));
    let holders = bench.hub.holders(&users, drained).unwrap();
    assert_eq!(holders.len(), 1);
    bench.told(id);
    bench.ask(id, Eds, &["users"], 2);
    assert!(bench.hub.holds(&holders[0], drained).is_none());
    assert_eq!(bench.hub.holders(&users, drained).unwrap().len(), 0);
}
