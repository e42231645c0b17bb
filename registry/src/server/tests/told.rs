//! What clients of xDS come to hold, over real gRPC, with the resources that a registry really makes, by both forms of ADS.

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::Cluster,
            core::v3::Node,
            endpoint::v3::ClusterLoadAssignment,
            listener::v3::Listener,
            route::v3::{RouteConfiguration, route, route_action},
        },
        extensions::filters::network::http_connection_manager::v3::{
            HttpConnectionManager, http_connection_manager::RouteSpecifier,
        },
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    google::protobuf::{Any, ListValue, Struct, Value, value::Kind as Json},
};
use prost::Name;
use weft_proto::weft::policy::v1::{
    ApplyRequest, DeleteRequest, PlaintextUpstream, Policy, plaintext_upstream::Mode, policy::Kind,
};

use super::*;
use crate::views::xds::testing::ports;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Whole,
    Delta,
}

const FORMS: [Form; 2] = [Form::Whole, Form::Delta];

enum Line {
    Whole(mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>),
    Delta(mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>),
}

/// What a client wants and holds of one kind.
#[derive(Debug, Clone, Default)]
struct Kept {
    wanted: Vec<String>,
    held: BTreeMap<String, (String, Vec<u8>)>,
    version: String,
    nonce: String,
}

/// A client as the protocol has it: it takes what it is told, and says so.
struct Reader {
    line: Line,
    node: Node,
    kept: BTreeMap<String, Kept>,
    /// Kinds whose responses it applies and never answers.
    mute: Vec<String>,
}

/// Kinds of which an answer by state of the world is all there is.
fn is_complete(type_url: &str) -> bool {
    [Cluster::type_url(), Listener::type_url()].iter().any(|it| it == type_url)
}

fn name_of(any: &Any) -> String {
    fn of<M: prost::Message + Default>(any: &Any) -> M {
        M::decode(any.value.as_slice()).unwrap()
    }
    match any.type_url.as_str() {
        url if url == Cluster::type_url() => of::<Cluster>(any).name,
        url if url == Listener::type_url() => of::<Listener>(any).name,
        url if url == RouteConfiguration::type_url() => of::<RouteConfiguration>(any).name,
        _ => of::<ClusterLoadAssignment>(any).cluster_name,
    }
}

impl Reader {
    async fn open(world: &World, form: Form, node: Node) -> Self {
        let line = Self::dial(world, form).await;
        Self { line, node, kept: BTreeMap::new(), mute: Vec::new() }
    }

    async fn dial(world: &World, form: Form) -> Line {
        let mut client = AggregatedDiscoveryServiceClient::new(world.channel.clone());
        match form {
            Form::Whole => {
                let (requests, stream) = mpsc::channel(64);
                let answers = client.stream_aggregated_resources(ReceiverStream::new(stream)).await.unwrap();
                Line::Whole(requests, answers.into_inner())
            }
            Form::Delta => {
                let (requests, stream) = mpsc::channel(64);
                let answers = client.delta_aggregated_resources(ReceiverStream::new(stream)).await.unwrap();
                Line::Delta(requests, answers.into_inner())
            }
        }
    }

    /// Subscribes these names instead of those before; none at first are all.
    async fn want<M: Name>(&mut self, names: &[&str]) {
        let kept = self.kept.entry(M::type_url()).or_default();
        let before = std::mem::replace(&mut kept.wanted, names.iter().map(|it| it.to_string()).collect());
        kept.held.retain(|name, _| names.is_empty() || names.contains(&name.as_str()));
        self.say(&M::type_url(), before, BTreeMap::new()).await;
    }

    /// Says what is subscribed, and answers the last response.
    async fn say(&mut self, type_url: &str, before: Vec<String>, initial: BTreeMap<String, String>) {
        let kept = &self.kept[type_url];
        let less = |a: &[String], b: &[String]| a.iter().filter(|it| !b.contains(it)).cloned().collect();
        match &self.line {
            Line::Whole(requests, _) => {
                let request = DiscoveryRequest {
                    node: Some(self.node.clone()),
                    type_url: type_url.to_owned(),
                    resource_names: kept.wanted.clone(),
                    response_nonce: kept.nonce.clone(),
                    version_info: kept.version.clone(),
                    ..DiscoveryRequest::default()
                };
                requests.send(request).await.unwrap();
            }
            Line::Delta(requests, _) => {
                let request = DeltaDiscoveryRequest {
                    node: Some(self.node.clone()),
                    type_url: type_url.to_owned(),
                    resource_names_subscribe: less(&kept.wanted, &before),
                    resource_names_unsubscribe: less(&before, &kept.wanted),
                    response_nonce: kept.nonce.clone(),
                    initial_resource_versions: initial.into_iter().collect(),
                    ..DeltaDiscoveryRequest::default()
                };
                requests.send(request).await.unwrap();
            }
        }
    }

    /// Comes back by another stream, with what it has.
    async fn resume(self, world: &World) -> Self {
        let form = if matches!(self.line, Line::Whole(..)) { Form::Whole } else { Form::Delta };
        let mut next = Self { line: Self::dial(world, form).await, ..self };
        for (type_url, kept) in next.kept.clone() {
            let (wanted, held) = (kept.wanted.clone(), kept.held.iter());
            let initial = held.map(|(name, (version, _))| (name.clone(), version.clone())).collect();
            next.kept.insert(type_url.clone(), Kept { nonce: String::new(), ..kept });
            let before = if form == Form::Whole { wanted } else { Vec::new() };
            next.say(&type_url, before, initial).await;
        }
        next
    }

    /// Takes one response if one comes within the time.
    async fn take(&mut self, within: Duration) -> bool {
        let (type_url, nonce) = match &mut self.line {
            Line::Whole(_, answers) => {
                let Ok(answer) = tokio::time::timeout(within, answers.message()).await else { return false };
                let answer = answer.unwrap().expect("the stream goes on");
                let kept = self.kept.get_mut(&answer.type_url).expect("a kind that was asked for");
                if is_complete(&answer.type_url) {
                    kept.held.clear();
                }
                let resources = answer.resources.iter().map(|it| (name_of(it), (String::new(), it.value.clone())));
                kept.held.extend(resources);
                kept.version = answer.version_info;
                (answer.type_url, answer.nonce)
            }
            Line::Delta(_, answers) => {
                let Ok(answer) = tokio::time::timeout(within, answers.message()).await else { return false };
                let answer = answer.unwrap().expect("the stream goes on");
                let kept = self.kept.get_mut(&answer.type_url).expect("a kind that was asked for");
                for it in answer.resources {
                    kept.held.insert(it.name, (it.version, it.resource.unwrap().value));
                }
                answer.removed_resources.iter().for_each(|name| drop(kept.held.remove(name)));
                (answer.type_url, answer.nonce)
            }
        };
        let kept = self.kept.get_mut(&type_url).unwrap();
        kept.nonce = nonce;
        let wanted = kept.wanted.clone();
        if !self.mute.contains(&type_url) {
            self.say(&type_url, wanted, BTreeMap::new()).await;
        }
        true
    }

    /// Takes and answers until nothing comes for a while; returns how many came.
    async fn settle(&mut self) -> usize {
        let mut count = 0;
        while self.take(Duration::from_secs(1)).await {
            count += 1;
        }
        count
    }

    fn holds<M: prost::Message + Name + Default>(&self, name: &str) -> Option<M> {
        let (_, bytes) = self.kept.get(&M::type_url())?.held.get(name)?;
        Some(M::decode(bytes.as_slice()).unwrap())
    }

    fn names<M: Name>(&self) -> Vec<&str> {
        self.kept[&M::type_url()].held.keys().map(String::as_str).collect()
    }

    /// Follows a cluster to its endpoints; returns whether it is protected, and their ports.
    async fn cluster(&mut self, name: &str) -> (bool, Vec<u32>) {
        self.settle().await;
        let cluster: Cluster = self.holds(name).expect("the cluster");
        let endpoints = cluster.eds_cluster_config.unwrap().service_name;
        self.want::<ClusterLoadAssignment>(&[&endpoints]).await;
        self.settle().await;
        let assignment = self.holds::<ClusterLoadAssignment>(&endpoints);
        (cluster.transport_socket.is_some(), assignment.map(|it| ports(&it)).unwrap_or_default())
    }
}

fn text(it: &str) -> Value {
    Value { kind: Some(Json::StringValue(it.to_owned())) }
}

fn object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, it)| (key.to_owned(), it)).collect() }
}

/// A node with these keys of ours.
fn node(id: &str, agent: &str, weft: impl IntoIterator<Item = (&'static str, Value)>) -> Node {
    let weft = Value { kind: Some(Json::StructValue(object(weft))) };
    Node { id: id.into(), user_agent_name: agent.into(), metadata: Some(object([("weft", weft)])), ..Node::default() }
}

fn plain() -> Node {
    node("plain", "gRPC Go", [])
}

fn certified() -> Node {
    let providers = ListValue { values: vec![text("weft")] };
    let providers = Value { kind: Some(Json::ListValue(providers)) };
    node("certified", "gRPC Go", [("certificate_providers", providers), ("trust_domain", text("weft.local"))])
}

fn envoy() -> Node {
    let keys = [("secrets", "/run/identity"), ("trust_domain", "weft.local"), ("listen", "127.0.0.1:10000")];
    node("envoy", "envoy", keys.map(|(key, it)| (key, text(it))))
}

/// An instance that takes mutual TLS only, of a service of any namespace.
fn secured(service: &str, n: u16) -> Instance {
    let (name, namespace) = service.split_once('.').unwrap_or((service, "default"));
    let identity = format!("spiffe://weft.local/ns/{namespace}/svc/{name}");
    with_transport(instance(service, n), transport::Kind::Mtls(transport::Mtls { identity }))
}

fn with_transport(it: Instance, kind: transport::Kind) -> Instance {
    let endpoint = it.endpoint.unwrap();
    Instance { endpoint: Some(Endpoint { transport: Some(Transport { kind: Some(kind) }), ..endpoint }), ..it }
}

impl World {
    async fn allow_plaintext(&mut self, service: &str) {
        let kind = Some(Kind::PlaintextUpstream(PlaintextUpstream { mode: Mode::Allow.into() }));
        let policy = Policy { name: "clear".into(), service: service.into(), version: 0, kind };
        self.policies.apply(ApplyRequest { policies: vec![policy], ..ApplyRequest::default() }).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_plaintext_instance_takes_mutual_tls_from_nobody_until_a_policy_allows_it() {
    for form in FORMS {
        for (node, has_certificates) in [(plain(), false), (certified(), true), (envoy(), true)] {
            let mut world = World::real().await;
            world.register(secured("users", 1)).await.unwrap();
            let mut reader = Reader::open(&world, form, node.clone()).await;
            reader.want::<Cluster>(&["users.default"]).await;
            let protected: Vec<u32> = if has_certificates { vec![10_001] } else { vec![] };
            let what = format!("{form:?} {}", node.id);
            assert_eq!(reader.cluster("users.default").await, (has_certificates, protected.clone()), "{what}");
            let plaintext = transport::Kind::Plaintext(transport::Plaintext {});
            world.register(with_transport(users(2), plaintext)).await.unwrap();
            assert_eq!(reader.cluster("users.default").await, (has_certificates, protected.clone()), "{what}");
            world.allow_plaintext("users").await;
            assert_eq!(reader.cluster("users.default").await, (false, vec![10_002]), "{what}: as an operator says");
            let request = DeleteRequest { name: "clear".into(), ..DeleteRequest::default() };
            world.policies.delete(request).await.unwrap();
            assert_eq!(reader.cluster("users.default").await, (has_certificates, protected), "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_did_not_answer_is_told_when_the_wait_is_over_although_nothing_happens_then() {
    for form in FORMS {
        let mut world = World::new().await;
        world.users(1).await;
        let mut reader = Reader::open(&world, form, plain()).await;
        reader.mute.push(ClusterLoadAssignment::type_url());
        reader.want::<ClusterLoadAssignment>(&["users"]).await;
        assert_eq!(reader.settle().await, 1);
        world.users(2).await;
        assert_eq!(reader.settle().await, 0, "{form:?}: the first is not answered yet");
        assert!(reader.take(Duration::from_secs(11)).await, "{form:?}: nobody waits for ever");
        assert_eq!(ports(&reader.holds("users").unwrap()), [10_001, 10_002]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_is_told_when_the_wait_for_a_cluster_is_over() {
    for form in FORMS {
        let mut world = World::new().await;
        world.users(1).await;
        let mut reader = Reader::open(&world, form, plain()).await;
        reader.mute.push(Cluster::type_url());
        reader.want::<Listener>(&["users", "posts"]).await;
        assert_eq!(reader.settle().await, 1);
        reader.want::<Cluster>(&["users.default"]).await;
        assert_eq!(reader.settle().await, 1);
        world.register(instance("posts", 2)).await.unwrap();
        assert_eq!(reader.settle().await, 0, "{form:?}: the cluster is not warm");
        assert!(reader.take(Duration::from_secs(11)).await, "{form:?}: it may never be");
        assert_eq!(reader.names::<Listener>(), ["posts", "users"]);
    }
}

/// An Envoy that follows everything.
async fn follow_all(reader: &mut Reader) {
    reader.want::<Cluster>(&[]).await;
    reader.want::<Listener>(&[]).await;
    reader.want::<RouteConfiguration>(&["weft/outbound"]).await;
    reader.settle().await;
}

/// Services that an Envoy has routes to.
fn routed(reader: &Reader) -> Vec<String> {
    let routes: RouteConfiguration = reader.holds("weft/outbound").expect("routes");
    routes.virtual_hosts.into_iter().map(|it| it.name).filter(|it| it.contains('.')).collect()
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_to_a_registry_that_has_just_started_keeps_what_it_does_not_know_yet() {
    for form in FORMS {
        let mut before = World::real().await;
        for service in ["posts", "users"] {
            before.register(secured(service, 1 + u16::from(service == "users"))).await.unwrap();
        }
        let mut reader = Reader::open(&before, form, envoy()).await;
        follow_all(&mut reader).await;
        let both = ["posts.default", "users.default"];
        assert_eq!((routed(&reader), reader.names::<Cluster>()), (both.map(str::to_owned).into(), both.to_vec()));

        // A new one, with nothing on its disk. Users are quick to register again, posts come late, or not at all.
        for comes in [true, false] {
            let mut after = World::real().await;
            after.register(secured("users", 2)).await.unwrap();
            reader = reader.resume(&after).await;
            reader.settle().await;
            assert_eq!(routed(&reader), both, "{form:?}");
            assert_eq!(reader.names::<Cluster>(), both, "{form:?}");
            if comes {
                after.register(secured("posts", 1)).await.unwrap();
            }
            assert!(reader.settle().await < 10);
            assert_eq!(routed(&reader), both, "{form:?}");
            sleep(WARM).await;
            reader.settle().await;
            assert_eq!(routed(&reader).contains(&both[0].to_owned()), comes, "{form:?}: now it knows");
            assert_eq!(reader.names::<Cluster>().contains(&both[0]), comes, "{form:?}");
        }
    }
}

/// The cluster that calls of a gRPC channel go to.
fn target(reader: &Reader, name: &str) -> String {
    let listener: Listener = reader.holds(name).expect("a listener");
    let manager = listener.api_listener.unwrap().api_listener.unwrap();
    let manager = <HttpConnectionManager as prost::Message>::decode(manager.value.as_slice()).unwrap();
    let Some(RouteSpecifier::RouteConfig(routes)) = manager.route_specifier else { panic!("routes are inline") };
    let last = routes.virtual_hosts[0].routes.last().unwrap().action.clone();
    let Some(route::Action::Route(action)) = last else { panic!("{last:?}") };
    match action.cluster_specifier {
        Some(route_action::ClusterSpecifier::Cluster(name)) => name,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_without_a_namespace_means_a_service_of_the_callers_own_first() {
    let of = |cluster: &str, node: Node| Node { cluster: cluster.into(), ..node };
    for form in FORMS {
        let mut world = World::real().await;
        world.register(secured("users", 1)).await.unwrap();
        let mut here = Reader::open(&world, form, of("web.shop", certified())).await;
        let mut there = Reader::open(&world, form, of("web", certified())).await;
        let mut envoys = Reader::open(&world, form, of("web.shop", envoy())).await;
        for reader in [&mut here, &mut there] {
            reader.want::<Listener>(&["users", "users:80", "users.default"]).await;
            reader.settle().await;
            assert_eq!(target(reader, "users"), "users.default", "{form:?}: there is no other");
        }
        follow_all(&mut envoys).await;
        let means = |reader: &Reader, domain: &str| {
            let routes: RouteConfiguration = reader.holds("weft/outbound").unwrap();
            let hosts = routes.virtual_hosts.into_iter().filter(|it| it.domains.iter().any(|it| it == domain));
            hosts.map(|it| it.name).collect::<Vec<_>>()
        };
        assert_eq!(means(&envoys, "users"), ["users.default"]);

        world.register(secured("users.shop", 2)).await.unwrap();
        for reader in [&mut here, &mut there, &mut envoys] {
            reader.settle().await;
        }
        assert_eq!((target(&here, "users"), target(&here, "users:80")), ("users.shop".into(), "users.shop".into()));
        assert_eq!(target(&here, "users.default"), "users.default");
        assert_eq!(target(&there, "users"), "users.default", "{form:?}: nothing changes for services of `default`");
        assert_eq!(means(&envoys, "users"), ["users.shop"]);
        assert_eq!(means(&envoys, "users.default"), ["users.default"]);
        here.want::<Cluster>(&["users.shop"]).await;
        assert_eq!(here.cluster("users.shop").await, (true, vec![10_002]));
    }
}
