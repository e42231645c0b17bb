//! Watches through outages, contradictions and changes of the subscription.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_discovery::{Registries, Topic, Update, Watch, WatchConfig};
use weft_model::Version;
use weft_proto::weft::discovery::v1 as pb;
use weft_proto::weft::model::v1::{Endpoint, Instance, Status};

use crate::fake::{Fake, Watching, registries, soon};

/// A watch whose task runs, and ends when told.
pub(crate) struct Running {
    pub(crate) watch: Watch,
    stop: CancellationToken,
    task: JoinSet<()>,
}

impl Running {
    pub(crate) fn start(registries: Registries, topics: &[Topic], last_good: Option<PathBuf>) -> Self {
        let config = WatchConfig { watcher: "test/1".into(), admin: None, topics: topics.to_vec(), last_good };
        let (task, watch) = Watch::new(registries, config);
        let stop = CancellationToken::new();
        Self { watch, task: JoinSet::from_iter([task.run(stop.clone())]), stop }
    }

    pub(crate) async fn next(&mut self) -> Update {
        soon("an update", self.watch.next()).await.expect("the task lives")
    }

    /// Waits for an update that shows exactly these ports of `users`.
    pub(crate) async fn shows(&mut self, ports: &[u16]) -> Update {
        let what = format!("users at {ports:?}");
        soon(&what, async {
            loop {
                let update = self.next().await;
                if seen(&update) == ports {
                    return update;
                }
            }
        })
        .await
    }

    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        soon("the task to end", self.task.join_next()).await.unwrap().unwrap();
    }
}

pub(crate) fn users() -> Topic {
    Topic::Service("users".parse().unwrap())
}

fn seen(update: &Update) -> Vec<u16> {
    let service = update.snapshot.services.get(&"users".parse::<weft_model::ServiceName>().unwrap());
    service.into_iter().flat_map(|s| s.instances.values()).map(|i| i.endpoint.address.port()).collect()
}

fn instance(port: u16) -> Instance {
    Instance {
        id: format!("0197a1b2-0000-7000-8000-{port:012}"),
        service: "users".into(),
        endpoint: Some(Endpoint {
            address: SocketAddr::from(([127, 0, 0, 1], port)).to_string(),
            transport: Some((&weft_model::Transport::Plaintext).into()),
            ..Default::default()
        }),
        status: Status::Serving.into(),
        ..Default::default()
    }
}

fn message(version: u64, base: u64, body: pb::service_update::Body, authoritative: bool) -> pb::WatchResponse {
    let (name, body) = ("users.default".into(), Some(body));
    let update = pb::ServiceUpdate { name, base, body, authoritative, version, ..Default::default() };
    pb::WatchResponse { version, services: vec![update], ..Default::default() }
}

pub(crate) fn full(version: u64, ports: &[u16]) -> pb::WatchResponse {
    let instances = ports.iter().map(|port| instance(*port)).collect();
    message(version, 0, pb::service_update::Body::Full(pb::Full { instances }), true)
}

pub(crate) fn added(version: u64, base: u64, port: u16) -> pb::WatchResponse {
    let delta = pb::Delta { upserted: vec![instance(port)], removed: Vec::new() };
    message(version, base, pb::service_update::Body::Delta(delta), true)
}

pub(crate) async fn opened(fake: &mut Fake) -> Watching {
    let mut watching = fake.watch().await;
    let first = watching.request().await;
    assert_eq!(first.watcher, "test/1");
    assert_eq!(first.subscribe, ["users.default"]);
    watching
}

#[tokio::test]
async fn a_state_is_acknowledged_after_the_consumer_has_it() {
    let mut fake = Fake::start().await;
    let mut running = Running::start(fake.registries(), &[users()], None);
    let mut watching = opened(&mut fake).await;
    watching.answer(full(7, &[1])).await;
    let update = running.next().await;
    assert_eq!((update.version, seen(&update)), (Version(7), vec![1]));
    running.watch.ack(update.version);
    assert_eq!(watching.request().await.ack, 7);
    running.stop().await;
    watching.left().await;
}

#[tokio::test]
async fn an_outage_takes_nothing_away_and_the_next_stream_starts_in_full() {
    let mut fake = Fake::start().await;
    let mut running = Running::start(fake.registries(), &[users()], None);
    opened(&mut fake).await.answer(full(7, &[1, 2])).await;
    running.shows(&[1, 2]).await;
    let at = fake.kill();
    let mut fake = Fake::start_at(at).await;
    let watching = opened(&mut fake).await;
    watching.answer(message(8, 0, pb::service_update::Body::Full(pb::Full::default()), false)).await;
    let update = running.next().await;
    assert_eq!(
        (update.version, seen(&update)),
        (Version(8), vec![1, 2]),
        "an empty set that is not meant is not obeyed"
    );
    watching.answer(added(9, 8, 3)).await;
    assert_eq!(seen(&running.next().await), [3]);
    running.stop().await;
}

#[tokio::test]
async fn a_delta_on_another_base_makes_a_new_stream_and_not_a_wrong_state() {
    let mut fake = Fake::start().await;
    let mut running = Running::start(fake.registries(), &[users()], None);
    let watching = opened(&mut fake).await;
    watching.answer(full(7, &[1])).await;
    running.shows(&[1]).await;
    watching.answer(added(9, 8, 2)).await;
    watching.left().await;
    opened(&mut fake).await.answer(full(10, &[1, 3])).await;
    assert_eq!(seen(&running.next().await), [1, 3]);
    running.stop().await;
}

#[tokio::test]
async fn another_registry_that_is_behind_is_not_obeyed_until_it_has_caught_up() {
    let (mut one, mut other) = (Fake::start().await, Fake::start().await);
    let mut running = Running::start(registries(&[one.at, other.at]), &[users()], None);
    // Which of the two is asked first is drawn by lot.
    let (first, second) = tokio::select! {
        watching = one.watch() => ((watching, one), other),
        watching = other.watch() => ((watching, other), one),
    };
    first.0.answer(full(20, &[1, 2])).await;
    running.shows(&[1, 2]).await;
    first.1.kill();
    let mut second = second;
    let watching = opened(&mut second).await;
    watching.answer(full(18, &[9])).await;
    watching.answer(added(21, 18, 8)).await;
    let update = running.next().await;
    assert_eq!((update.version, seen(&update)), (Version(21), vec![8, 9]), "18 was never shown");
    running.stop().await;
}

#[tokio::test]
async fn a_subscription_can_change_while_the_watch_runs() {
    let mut fake = Fake::start().await;
    let mut running = Running::start(fake.registries(), &[Topic::Directory], None);
    let mut watching = fake.watch().await;
    assert_eq!(watching.request().await.subscribe, ["@directory"]);
    running.watch.subscriptions().subscribe(users());
    assert_eq!(watching.request().await.subscribe, ["users.default"]);
    watching.answer(full(7, &[1])).await;
    running.shows(&[1]).await;
    running.watch.subscriptions().unsubscribe(&users());
    assert_eq!(watching.request().await.unsubscribe, ["users.default"]);
    running.shows(&[]).await;
    running.stop().await;
}

#[tokio::test]
async fn what_was_known_is_served_at_the_next_start_without_a_registry() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("last-good");
    let mut fake = Fake::start().await;
    let mut running = Running::start(fake.registries(), &[users()], Some(file.clone()));
    opened(&mut fake).await.answer(full(7, &[1, 2])).await;
    running.shows(&[1, 2]).await;
    running.stop().await;
    let at = fake.kill();

    let mut running = Running::start(registries(&[at]), &[Topic::Directory], Some(file));
    running.watch.subscriptions().subscribe(users());
    assert_eq!(running.shows(&[1, 2]).await.version, Version(7));
    let mut fake = Fake::start_at(at).await;
    fake.watch().await.answer(full(8, &[2])).await;
    assert_eq!(running.shows(&[2]).await.version, Version(8));
    running.stop().await;
}

#[tokio::test]
async fn a_watch_ends_when_its_consumer_is_gone() {
    let mut fake = Fake::start().await;
    let Running { watch, mut task, .. } = Running::start(fake.registries(), &[users()], None);
    let watching = opened(&mut fake).await;
    drop(watch);
    soon("the task to end", task.join_next()).await.unwrap().unwrap();
    watching.left().await;
}

#[tokio::test]
async fn a_watch_ends_when_its_consumer_is_gone_although_no_registry_answers_and_a_handle_lives_on() {
    let at = Fake::start().await.kill();
    let Running { watch, mut task, .. } = Running::start(registries(&[at]), &[users()], None);
    let handle = watch.subscriptions();
    drop(watch);
    soon("the task to end", task.join_next()).await.unwrap().unwrap();
    drop(handle);
}

#[tokio::test]
async fn registries_that_greet_and_hang_up_are_asked_ever_more_rarely() {
    let (mut one, mut two) = (Fake::start().await, Fake::start().await);
    let running = Running::start(registries(&[one.at, two.at]), &[users()], None);
    let began = tokio::time::Instant::now();
    for _ in 0..6 {
        let watching = tokio::select! { // six streams are three rounds: with 0.1 s and 0.2 s, less a fifth, between them
            watching = one.watch() => watching,
            watching = two.watch() => watching,
        };
        watching.answer(full(7, &[1])).await;
    }
    assert!(began.elapsed() >= std::time::Duration::from_millis(240), "{:?}", began.elapsed());
    running.stop().await;
}
