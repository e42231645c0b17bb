//! Drains: who is waited for, and for how long.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_acking_watcher_delays_a_drain_by_a_round_trip() {
    let mut world = World::new().await;
    let lease = world.users(1).await;
    let mut watch = world.watch("gateway", &["users"]).await;
    let mut bystander = world.watch("bystander", &["posts"]).await;
    let first = watch.next().await;
    watch.ack(first.version).await;
    bystander.next().await;
    sleep(50 * MS).await; // who was told something a moment ago rests for as long
    let acking = async {
        let answer = watch.next().await;
        assert_eq!(delta(&answer.services[0]).0, [(id(1).as_str(), Health::Draining)], "it stays listed");
        watch.ack(answer.version).await;
    };
    let ((answer, took), ()) = tokio::join!(world.drain(&lease, 60_000), acking);
    assert!(answer.acknowledged);
    assert_eq!(answer.waited_for, ["gateway"], "who does not hold it is not waited for");
    assert_eq!(answer.waiting, [] as [&str; 0]);
    assert!(took <= 20 * MS, "{took:?}: a round trip and one group");
}

#[tokio::test(start_paused = true)]
async fn an_unacking_watcher_delays_a_drain_by_exactly_the_bound() {
    let mut world = World::new().await;
    let lease = world.users(1).await;
    let mut watches = Vec::new();
    for name in ["sidecar", "gateway"] {
        let mut watch = world.watch(name, &["users"]).await;
        let first = watch.next().await;
        watch.ack(first.version).await;
        watches.push(watch);
    }
    let acking = async {
        let answer = watches[0].next().await;
        watches[0].ack(answer.version).await;
    };
    let ((answer, took), ()) = tokio::join!(world.drain(&lease, 3_000), acking);
    assert!(!answer.acknowledged);
    assert_eq!(
        (answer.waited_for.as_slice(), answer.waiting.as_slice()),
        (&["gateway".into(), "sidecar".into()][..], &["gateway".into()][..])
    );
    // tokio's timers have a resolution of 1 ms and never fire early.
    assert!((3_000 * MS..=3_002 * MS).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_watcher_stops_counting_after_five_seconds() {
    let mut world = World::new().await;
    let lease = world.users(1).await;
    let mut watch = world.watch("wedged", &["users"]).await;
    watch.next().await;
    let (answer, took) = world.drain(&lease, 60_000).await;
    assert!(!answer.acknowledged);
    assert_eq!(answer.waiting, ["wedged"]);
    assert!((5_000 * MS..=5_020 * MS).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_leaves_is_no_longer_waited_for() {
    let mut world = World::new().await;
    let lease = world.users(1).await;
    let mut watch = world.watch("gone", &["users"]).await;
    watch.next().await;
    let leaving = async {
        sleep(1_000 * MS).await;
        drop(watch);
    };
    let ((answer, took), ()) = tokio::join!(world.drain(&lease, 60_000), leaving);
    assert!(answer.acknowledged);
    assert_eq!(answer.waited_for, ["gone"]);
    assert!((1_000 * MS..=1_100 * MS).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_cannot_acknowledge_is_told_and_not_waited_for() {
    let mut world = World::new().await;
    let (lease, late) = (world.users(1).await, world.users(2).await);
    let request = WatchRequest { watcher: "grpcurl".into(), subscribe: vec!["users".into()], ..Default::default() };
    let mut answers = world.discovery.watch(tokio_stream::iter([request])).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    sleep(10 * MS).await; // its end arrives
    let (answer, took) = world.drain(&lease, 60_000).await;
    assert!(answer.acknowledged && answer.waited_for.is_empty() && took <= 20 * MS, "{answer:?} {took:?}");
    let told = answers.message().await.unwrap().unwrap();
    assert_eq!(delta(&told.services[0]).0, [(id(1).as_str(), Health::Draining)]);

    let mut watch = world.watch("leaving", &["users"]).await;
    watch.next().await;
    let Watch { requests, answers: _open } = watch;
    let ending = async {
        sleep(1_000 * MS).await;
        drop(requests);
    };
    let ((answer, took), ()) = tokio::join!(world.drain(&late, 60_000), ending);
    assert!(answer.acknowledged && (1_000 * MS..=1_100 * MS).contains(&took), "{answer:?} {took:?}");
}

#[tokio::test(start_paused = true)]
async fn without_watchers_a_drain_answers_at_once() {
    let mut world = World::new().await;
    let lease = world.users(1).await;
    let (answer, took) = world.drain(&lease, 0).await;
    assert!(answer.acknowledged && answer.waited_for.is_empty() && took <= 20 * MS, "{answer:?} {took:?}");
    assert_eq!(answer.version, world.catalog.snapshot().version.0);
}

#[tokio::test(start_paused = true)]
async fn beats_that_were_on_their_way_do_not_undo_a_drain() {
    let mut world = World::new().await;
    let (lease, _other) = (world.users(1).await, world.users(2).await);
    let mut stream = world.keep_alive().await;
    world.drain(&lease, 0).await;
    stream.beat(&[&lease], Health::Serving).await;
    sleep(20 * MS).await;
    assert_eq!(world.status_of(&id(1)).await, Health::Draining);
    let mut watch = world.watch("test", &["users"]).await;
    watch.next().await;
    world.deregister(&id(1), lease.epoch).await.unwrap();
    assert_eq!(delta(&watch.next_of("users.default").await).1, [(id(1).as_str(), Reason::Drained)]);
}

#[tokio::test(start_paused = true)]
async fn an_operator_drains_without_an_epoch_and_a_stranger_does_not() {
    let mut world = World::new().await;
    let old = world.users(1).await;
    world.users(1).await;
    let request = |epoch| DrainRequest { id: id(1), epoch, at_most_ms: 0 };
    assert_eq!(world.registry.drain(request(old.epoch)).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(world.status_of(&id(1)).await, Health::Serving);
    world.registry.drain(request(0)).await.unwrap();
    assert_eq!(world.status_of(&id(1)).await, Health::Draining);
    let unknown = DrainRequest { id: id(7), epoch: 0, at_most_ms: 0 };
    assert_eq!(world.registry.drain(unknown).await.unwrap_err().code(), Code::NotFound);
}
