//! ADS and what is told of its clients, over real gRPC.

use envoy_types::pb::{
    envoy::{
        config::{core::v3::Node, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener},
        service::{
            discovery::v3::{
                DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
                aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
            },
            status::v3::{
                ClientStatusRequest, ConfigStatus,
                client_status_discovery_service_client::ClientStatusDiscoveryServiceClient,
            },
        },
        r#type::matcher::v3::{NodeMatcher, RegexMatcher, StringMatcher, string_matcher::MatchPattern},
    },
    google::rpc,
};
use prost::{Message, Name};
use weft_proto::weft::discovery::v1::{Client, ClientsRequest, client, subscription::resource::State};

use super::*;
use crate::views::xds::testing::ports;

/// An ADS stream as a stock client has it.
struct Ads {
    requests: mpsc::Sender<DiscoveryRequest>,
    answers: Streaming<DiscoveryResponse>,
}

impl Ads {
    async fn open(world: &World, node: &str) -> Self {
        let (requests, stream) = mpsc::channel(16);
        let node =
            Node { id: node.into(), cluster: "web".into(), user_agent_name: "gRPC Go".into(), ..Node::default() };
        requests.send(DiscoveryRequest { node: Some(node), ..DiscoveryRequest::default() }).await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(world.channel.clone());
        let answers = client.stream_aggregated_resources(ReceiverStream::new(stream)).await.unwrap().into_inner();
        Self { requests, answers }
    }

    async fn ask<M: Name>(&self, names: &[&str], after: Option<&DiscoveryResponse>, error: Option<&str>) {
        let request = DiscoveryRequest {
            type_url: M::type_url(),
            resource_names: names.iter().map(|it| it.to_string()).collect(),
            response_nonce: after.map(|it| it.nonce.clone()).unwrap_or_default(),
            version_info: after.map(|it| it.version_info.clone()).unwrap_or_default(),
            error_detail: error.map(|it| rpc::Status { code: 3, message: it.into(), details: vec![] }),
            ..DiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    async fn next(&mut self) -> DiscoveryResponse {
        self.answers.message().await.unwrap().expect("the stream goes on")
    }

    /// Waits for the endpoints of a service and acknowledges them; returns their ports.
    async fn endpoints(&mut self, service: &str) -> Vec<u32> {
        let answer = self.next().await;
        self.ask::<ClusterLoadAssignment>(&[service], Some(&answer), None).await;
        assignment(&answer)
    }

    async fn is_quiet(&mut self) -> bool {
        tokio::time::timeout(Duration::from_secs(3), self.answers.message()).await.is_err()
    }
}

fn assignment(answer: &DiscoveryResponse) -> Vec<u32> {
    assert_eq!(answer.type_url, ClusterLoadAssignment::type_url());
    assert_eq!(answer.resources.len(), 1);
    ports(&ClusterLoadAssignment::decode(answer.resources[0].value.as_ref()).unwrap())
}

async fn clients(world: &mut World, name: &str) -> Vec<Client> {
    let request = ClientsRequest { name: name.into(), resources: true };
    let mut answers = world.discovery.clients(request).await.unwrap().into_inner();
    let mut clients = Vec::new();
    while let Some(client) = answers.message().await.unwrap() {
        clients.push(client);
    }
    clients
}

#[tokio::test(start_paused = true)]
async fn a_client_is_told_of_a_service_that_registers_later_and_of_each_change() {
    let mut world = World::new().await;
    let mut ads = Ads::open(&world, "web-1").await;
    ads.ask::<Listener>(&["users"], None, None).await;
    ads.ask::<ClusterLoadAssignment>(&["users"], None, None).await;
    assert!(ads.is_quiet().await, "there is nothing to tell");
    world.users(1).await;
    assert_eq!(ads.endpoints("users").await, [10_001]);
    let listener = ads.next().await;
    assert_eq!(listener.type_url, Listener::type_url());
    ads.ask::<Listener>(&["users"], Some(&listener), None).await;
    world.users(2).await;
    assert_eq!(ads.endpoints("users").await, [10_001, 10_002]);
    assert!(ads.is_quiet().await, "the listener is as it was");
    world.register(instance("posts", 3)).await.unwrap();
    assert!(ads.is_quiet().await, "nobody asked for posts");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_type_gets_no_answer_and_ends_nothing() {
    let mut world = World::new().await;
    world.users(1).await;
    let mut ads = Ads::open(&world, "web-1").await;
    let type_url = "type.googleapis.com/envoy.service.runtime.v3.Runtime".into();
    ads.requests.send(DiscoveryRequest { type_url, ..DiscoveryRequest::default() }).await.unwrap();
    ads.ask::<ClusterLoadAssignment>(&["users"], None, None).await;
    assert_eq!(ads.endpoints("users").await, [10_001]);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_misses_what_was_between_and_holds_nobody_up() {
    let mut world = World::new().await;
    world.users(1).await;
    let (mut slow, mut quick) = (Ads::open(&world, "slow").await, Ads::open(&world, "quick").await);
    for ads in [&slow, &quick] {
        ads.ask::<ClusterLoadAssignment>(&["users"], None, None).await;
    }
    assert_eq!(quick.endpoints("users").await.len(), 1);
    for n in 2..40 {
        world.users(n).await;
        while quick.endpoints("users").await.len() < n.into() {}
    }
    assert_eq!(slow.endpoints("users").await.len(), 1);
    assert_eq!(slow.endpoints("users").await.len(), 39);
    assert!(slow.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn an_ads_client_delays_a_drain_by_a_round_trip() {
    let mut world = World::new().await;
    let lease = world.users(1).await;
    world.register(instance("posts", 2)).await.unwrap();
    let (mut ads, mut bystander) = (Ads::open(&world, "web-1").await, Ads::open(&world, "bystander").await);
    ads.ask::<ClusterLoadAssignment>(&["users"], None, None).await;
    bystander.ask::<ClusterLoadAssignment>(&["posts"], None, None).await;
    assert_eq!(ads.endpoints("users").await, [10_001]);
    assert_eq!(bystander.endpoints("posts").await, [10_002]);
    assert!(ads.is_quiet().await);
    let acking = async {
        assert_eq!(ads.endpoints("users").await, [] as [u32; 0]);
    };
    let ((answer, took), ()) = tokio::join!(world.drain(&lease, 60_000), acking);
    assert!(answer.acknowledged);
    assert_eq!(answer.waited_for, ["web-1"]);
    assert!(took <= 20 * MS, "{took:?}: a round trip and one group");
}

#[tokio::test(start_paused = true)]
async fn a_silent_ads_client_stops_counting_after_five_seconds_but_is_named() {
    let mut world = World::new().await;
    let lease = world.users(1).await;
    let mut ads = Ads::open(&world, "wedged").await;
    ads.ask::<ClusterLoadAssignment>(&["users"], None, None).await;
    assert_eq!(ads.endpoints("users").await, [10_001]);
    assert!(ads.is_quiet().await);
    let (answer, took) = world.drain(&lease, 60_000).await;
    assert!(!answer.acknowledged);
    assert_eq!(answer.waiting, ["wedged"]);
    assert!((5_000 * MS..=5_020 * MS).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_ads_client_that_talks_without_answering_counts_no_longer_than_a_silent_one() {
    let mut world = World::new().await;
    let lease = world.users(1).await;
    let mut ads = Ads::open(&world, "wedged").await;
    ads.ask::<ClusterLoadAssignment>(&["users"], None, None).await;
    assert_eq!(ads.endpoints("users").await, [10_001]);
    let talking = async {
        for n in 0.. {
            ads.ask::<Listener>(&[&format!("some-{n}")], None, None).await;
            sleep(Duration::from_secs(1)).await;
        }
    };
    let (answer, took) = tokio::select! {
        drained = world.drain(&lease, 60_000) => drained,
        () = talking => unreachable!("it talks on"),
    };
    assert_eq!((answer.acknowledged, answer.waiting.as_slice()), (false, &["wedged".to_owned()][..]));
    assert!((5_000 * MS..=5_020 * MS).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_ads_client_that_leaves_is_not_waited_for() {
    let mut world = World::new().await;
    let lease = world.users(1).await;
    let mut ads = Ads::open(&world, "web-1").await;
    ads.ask::<ClusterLoadAssignment>(&["users"], None, None).await;
    assert_eq!(ads.endpoints("users").await, [10_001]);
    assert!(ads.is_quiet().await);
    let leaving = async {
        ads.next().await;
        drop(ads);
    };
    let ((answer, took), ()) = tokio::join!(world.drain(&lease, 60_000), leaving);
    assert!(answer.acknowledged && took <= 100 * MS, "{answer:?} {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_told_with_the_clients_words() {
    let mut world = World::new().await;
    world.users(1).await;
    let mut ads = Ads::open(&world, "web-1").await;
    ads.ask::<ClusterLoadAssignment>(&["users"], None, None).await;
    ads.ask::<Listener>(&["users", "nobody"], None, None).await;
    let answer = ads.next().await;
    ads.ask::<ClusterLoadAssignment>(&["users"], Some(&answer), Some("users: no locality")).await;
    let answer = ads.next().await;
    ads.ask::<Listener>(&["users", "nobody"], Some(&answer), None).await;
    assert!(ads.is_quiet().await, "a NACK does not loop");
    let mut watch = world.watch("gateway", &["users"]).await;
    let first = watch.next().await;
    watch.ack(first.version).await;
    assert!(watch.is_quiet().await);

    let all = clients(&mut world, "").await;
    assert_eq!(all.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["gateway", "web-1"]);
    assert_eq!(all[0].protocol(), client::Protocol::Watch);
    assert!(all[0].subscriptions[0].settled && all[0].subscriptions[0].acknowledged == first.version);
    let web = &clients(&mut world, "web-1").await[0];
    assert_eq!((web.protocol(), web.agent.as_str(), web.cluster.as_str()), (client::Protocol::Xds, "gRPC Go", "web"));
    assert_eq!(web.transport, "plaintext");
    let [endpoints, listeners] = web.subscriptions.as_slice() else { panic!("{web:?}") };
    let rejection = endpoints.rejection.as_ref().unwrap();
    assert_eq!(
        (rejection.error.as_str(), rejection.resources.as_slice()),
        ("users: no locality", &["users".into()][..])
    );
    assert_eq!(endpoints.resources[0].state(), State::Rejected);
    assert_eq!((listeners.kind.as_str(), listeners.missing.as_slice()), ("lds", &["nobody".into()][..]));
    assert_eq!(listeners.resources[1].state(), State::Acknowledged);
    assert!(listeners.acknowledged > 0 && listeners.settled);

    let mut csds = ClientStatusDiscoveryServiceClient::new(world.channel.clone());
    let answer = csds.fetch_client_status(ClientStatusRequest::default()).await.unwrap().into_inner();
    let configs = &answer.config[0].generic_xds_configs;
    let statuses: Vec<_> = configs.iter().map(|it| (it.name.as_str(), it.config_status())).collect();
    let expected = [("users", ConfigStatus::Error), ("nobody", ConfigStatus::NotSent), ("users", ConfigStatus::Synced)];
    assert_eq!(statuses, expected);
    assert_eq!(configs[0].error_state.as_ref().unwrap().details, "users: no locality");
    assert_eq!(configs[2].xds_config.as_ref().unwrap().type_url, Listener::type_url());

    world.users(2).await;
    assert_eq!(ads.endpoints("users").await.len(), 2, "what changed is told, and accepted");
    assert!(ads.is_quiet().await);
    assert!(clients(&mut world, "web-1").await[0].subscriptions[0].rejection.is_none());
}

#[tokio::test(start_paused = true)]
async fn csds_answers_on_a_stream_as_often_as_it_is_asked_of_nodes_by_name() {
    use MatchPattern::{Contains, Exact, Prefix, SafeRegex, Suffix};

    let mut world = World::new().await;
    world.users(1).await;
    let mut all = Vec::new();
    for node in ["web-1", "web-2", "App-1"] {
        let mut ads = Ads::open(&world, node).await;
        ads.ask::<Listener>(&["users"], None, None).await;
        ads.next().await;
        all.push(ads);
    }
    let (asks, stream) = mpsc::channel(1);
    let mut csds = ClientStatusDiscoveryServiceClient::new(world.channel.clone());
    let mut answers = csds.stream_client_status(ReceiverStream::new(stream)).await.unwrap().into_inner();
    let mut asked = async |patterns: Vec<(MatchPattern, bool)>| {
        let matcher = |(pattern, ignore_case)| {
            let node_id = Some(StringMatcher { match_pattern: Some(pattern), ignore_case });
            NodeMatcher { node_id, ..NodeMatcher::default() }
        };
        let node_matchers = patterns.into_iter().map(matcher).collect();
        asks.send(ClientStatusRequest { node_matchers, ..ClientStatusRequest::default() }).await.unwrap();
        let answer = answers.message().await?.expect("the stream goes on");
        Ok::<_, Status>(answer.config.into_iter().map(|it| it.node.unwrap().id).collect::<Vec<_>>())
    };
    assert_eq!(asked(vec![]).await.unwrap(), ["App-1", "web-1", "web-2"]);
    assert_eq!(asked(vec![(Exact("web-1".into()), false)]).await.unwrap(), ["web-1"]);
    assert_eq!(asked(vec![(Prefix("web".into()), false)]).await.unwrap(), ["web-1", "web-2"]);
    assert_eq!(asked(vec![(Suffix("-1".into()), false)]).await.unwrap(), ["App-1", "web-1"]);
    assert_eq!(asked(vec![(Contains("app".into()), false)]).await.unwrap(), [""; 0]);
    let either = vec![(Contains("app".into()), true), (Exact("web-2".into()), false)];
    assert_eq!(asked(either).await.unwrap(), ["App-1", "web-2"]);
    let refused = asked(vec![(SafeRegex(RegexMatcher::default()), false)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("node_matchers[0].node_id"), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn delta_tells_one_resource_at_a_time() {
    let mut world = World::new().await;
    world.users(1).await;
    let (requests, stream) = mpsc::channel(16);
    let ask = |names: &[&str], nonce: &str| DeltaDiscoveryRequest {
        node: Some(Node { id: "envoy-1".into(), ..Node::default() }),
        type_url: ClusterLoadAssignment::type_url(),
        resource_names_subscribe: names.iter().map(|it| it.to_string()).collect(),
        response_nonce: nonce.into(),
        ..DeltaDiscoveryRequest::default()
    };
    requests.send(ask(&["users", "posts"], "")).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(world.channel.clone());
    let mut answers = client.delta_aggregated_resources(ReceiverStream::new(stream)).await.unwrap().into_inner();
    let first = answers.message().await.unwrap().unwrap();
    let names = |it: &DeltaDiscoveryResponse| it.resources.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
    assert_eq!((names(&first), first.removed_resources.as_slice()), (vec!["users".into()], &["posts".into()][..]));
    requests.send(ask(&[], &first.nonce)).await.unwrap();
    world.register(instance("posts", 2)).await.unwrap();
    let second = answers.message().await.unwrap().unwrap();
    assert_eq!(names(&second), ["posts"]);
    requests.send(ask(&[], &second.nonce)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stream_out_of_bounds_ends_with_the_field() {
    let world = World::new().await;
    let mut ads = Ads::open(&world, "web-1").await;
    ads.ask::<Listener>(&["users", &"x".repeat(5_000)], None, None).await;
    let status = ads.answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "resource_names[1]");
}
