//! Watches as their readers meet them.

use super::*;
use crate::views::watch::{Topic, Watcher};

/// Opens a watch by hand, since a stream would read ahead, and takes what it is told first.
async fn opened(watches: &Watches, name: &str, topic: &str) -> Watcher {
    let mut watcher = watches.open(name);
    watcher.subscribe([topic.parse().unwrap()]);
    watcher.next().await;
    watcher
}

#[tokio::test(start_paused = true)]
async fn the_first_answer_is_full_and_later_ones_are_deltas_on_it() {
    let mut world = World::new().await;
    world.users(1).await;
    let mut watch = world.watch("test", &["users"]).await;
    let first = watch.next().await;
    assert_eq!(full(&first.services[0]), [id(1)]);
    assert_eq!(first.services[0].base, 0);
    let two = world.users(2).await;
    let second = watch.next().await;
    assert_eq!(second.services[0].base, first.services[0].version);
    assert!(second.version > first.version);
    assert_eq!(delta(&second.services[0]), (vec![(id(2).as_str(), Health::Serving)], vec![]));
    world.deregister(&id(2), two.epoch).await.unwrap();
    let third = watch.next().await;
    assert_eq!(third.services[0].base, second.services[0].version);
    assert_eq!(delta(&third.services[0]), (vec![], vec![(id(2).as_str(), Reason::Deregistered)]));
    world.deregister(&id(1), 0).await.unwrap();
    let update = watch.next_of("users.default").await;
    assert_eq!(delta(&update).1, [(id(1).as_str(), Reason::Forced)]);
    assert!(update.authoritative, "emptied by word: obey it");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_service_is_empty_and_meant_once_the_registry_is_warm() {
    let mut world = World::new().await;
    let mut watch = world.watch("test", &["ghosts"]).await;
    let first = watch.next_of("ghosts.default").await;
    assert_eq!((full(&first).len(), first.authoritative), (0, false), "it may be about to register again");
    let told = watch.next_of("ghosts.default").await;
    assert!(told.authoritative);
    sleep(WARM).await;
    let mut late = world.watch("late", &["ghosts"]).await;
    assert!(late.next_of("ghosts.default").await.authoritative);
}

#[tokio::test(start_paused = true)]
async fn a_star_brings_everything_and_answers_even_when_there_is_nothing() {
    let mut world = World::new().await;
    let mut watch = world.watch("test", &["*"]).await;
    assert_eq!(watch.next().await.services, []);
    world.users(1).await;
    watch.next_of("users.default").await;
    world.register(instance("posts", 2)).await.unwrap();
    assert_eq!(full(&watch.next_of("posts.default").await), [id(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_star_is_complete_once_the_registry_is_warm() {
    let mut world = World::new().await;
    let mut early = world.watch("early", &["*"]).await;
    assert!(!early.next().await.complete, "services of the time before may be about to register again");
    let mut one = world.watch("one", &["users"]).await;
    assert!(!one.next().await.complete);
    let warm = early.next().await;
    assert!(warm.complete && warm.services.is_empty(), "{warm:?}");
    world.users(1).await;
    assert!(early.next().await.complete, "every later message, too");
    let mut late = world.watch("late", &["*"]).await;
    let first = late.next().await;
    assert!(first.complete);
    assert_eq!(first.services.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["users.default"]);
    assert!(!one.next().await.complete, "a watch of names alone never is");
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_service_wakes_nobody() {
    let mut world = World::new().await;
    world.users(1).await;
    let mut watch = world.watch("test", &["users"]).await;
    watch.next().await;
    let before = world.watches.wakeups();
    for n in 10..20 {
        world.register(instance("posts", n)).await.unwrap();
    }
    let lease = world.users(1).await; // a new epoch is a change
    watch.next_of("users.default").await;
    assert_eq!(world.watches.wakeups(), before + 1);
    let mut stream = world.keep_alive().await;
    for _ in 0..10 {
        assert_eq!(stream.beat(&[&lease], Health::Serving).await, [Outcome::Renewed]);
    }
    assert!(watch.is_quiet().await);
    assert_eq!(world.watches.wakeups(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_the_latest_once() {
    let mut world = World::new().await;
    world.users(1).await;
    let mut watch = world.watches.open("slow"); // by hand: a stream would read ahead
    watch.subscribe(["users".parse().unwrap()]);
    let first = watch.next().await.response();
    assert_eq!(full(&first.services[0]), [id(1)]);
    for n in 2..=50 {
        world.users(n).await;
    }
    world.deregister(&id(1), 0).await.unwrap();
    let second = watch.next().await.response();
    assert_eq!(second.services[0].base, first.services[0].version);
    assert_eq!(second.version, world.catalog.snapshot().version.0);
    let (upserted, removed) = delta(&second.services[0]);
    assert_eq!((upserted.len(), removed), (49, vec![(id(1).as_str(), Reason::Forced)]), "50 changes in one message");
}

#[tokio::test(start_paused = true)]
async fn changes_that_follow_each_other_closely_come_in_one_message() {
    let mut world = World::new().await;
    world.users(1).await;
    let mut watch = world.watch("test", &["users"]).await;
    watch.next().await;
    let first = world.users(2).await;
    let alone = watch.next().await;
    assert_eq!(delta(&alone.services[0]).0.len(), 1, "told at once after a pause, or with what came before");
    for n in 3..=5 {
        world.users(n).await;
    }
    world.deregister(&id(2), first.epoch).await.unwrap();
    let together = watch.next().await;
    let (upserted, removed) = delta(&together.services[0]);
    assert_eq!((upserted.len(), removed), (3, vec![(id(2).as_str(), Reason::Deregistered)]));
    assert_eq!(together.services[0].base, alone.services[0].version);
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_watchers_rest_comes_when_they_have_rested_and_after_that_at_once() {
    let mut world = World::new().await;
    world.users(1).await;
    let (mut one, mut other) = (world.watch("one", &["users"]).await, world.watch("other", &["users"]).await);
    one.next().await;
    other.next().await;
    let told = Instant::now();
    sleep(10 * MS).await;
    world.users(2).await;
    for watch in [&mut one, &mut other] {
        assert_eq!(delta(&watch.next_of("users.default").await).0.len(), 1);
        let rested = told.elapsed();
        assert!((40 * MS..45 * MS).contains(&rested), "{rested:?}");
    }
    sleep(100 * MS).await;
    let asked = Instant::now();
    world.users(3).await;
    for watch in [&mut one, &mut other] {
        watch.next_of("users.default").await;
        let took = asked.elapsed();
        assert!(took < 20 * MS, "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn readers_of_everything_rest_together_and_are_told_of_one_snapshot() {
    let mut world = World::new().await;
    world.users(1).await;
    sleep(WARM).await;
    let mut one = opened(&world.watches, "one", "*").await;
    let told = Instant::now();
    sleep(15 * MS).await;
    let mut other = opened(&world.watches, "other", "*").await;
    for n in [2, 4, 6] {
        world.users(n).await;
        let first = one.next().await;
        world.users(n + 1).await; // after the first of them was told
        let second = other.next().await;
        assert!(Arc::ptr_eq(&first.snapshot, &second.snapshot));
        let rested = told.elapsed().as_millis() % 40;
        assert!(rested < 10, "{rested} ms after the first of them had rested");
        let (first, second) = (one.next().await, other.next().await);
        assert!(Arc::ptr_eq(&first.snapshot, &second.snapshot));
        assert_eq!(first.snapshot.version, world.catalog.snapshot().version);
    }
}

#[tokio::test(start_paused = true)]
async fn readers_of_everything_are_told_once_a_rest_whoever_rests_beside() {
    let mut world = World::new().await;
    world.users(1).await;
    sleep(WARM).await;
    let mut one = opened(&world.watches, "one", "users").await;
    sleep(3 * MS).await;
    let mut all = opened(&world.watches, "all", "*").await; // ends its rest just after the other, and is woken with it
    let began = Instant::now();
    let mut messages = 0;
    while began.elapsed() < 400 * MS {
        world.users(2 + messages).await;
        all.next().await;
        world.users(3 + messages).await; // there is always something
        one.next().await;
        messages += 1;
    }
    assert!((9..=13).contains(&messages), "{messages} messages in 400 ms");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_of_everything_is_told_the_latest() {
    let mut world = World::new().await;
    world.users(1).await;
    let mut slow = opened(&world.watches, "slow", "*").await;
    let mut other = opened(&world.watches, "other", "*").await;
    world.users(2).await;
    other.next().await;
    drop(other);
    let _third = opened(&world.watches, "third", "*").await;
    sleep(100 * MS).await;
    world.users(3).await;
    let told = slow.next().await;
    assert_eq!(told.snapshot.version, world.catalog.snapshot().version);
}

#[tokio::test(start_paused = true)]
async fn what_changed_while_a_star_covered_it_is_told_when_the_star_goes() {
    let mut world = World::new().await;
    world.users(1).await;
    sleep(WARM).await;
    let topics = |names: [&str; 2]| names.map(|it| it.parse::<Topic>().unwrap());
    let mut watcher = world.watches.open("test");
    watcher.subscribe(topics(["*", "users"]));
    watcher.unsubscribe([Topic::All]);
    let first = watcher.next().await.response();
    assert_eq!(full(&first.services[0]), [id(1)], "dropped before anything was told");
    watcher.subscribe([Topic::All]);
    while watcher.take().is_some() {}
    world.users(2).await;
    watcher.unsubscribe([Topic::All]);
    let second = watcher.next().await.response();
    assert_eq!((second.services.len(), second.services[0].base), (1, first.services[0].version));
    assert_eq!(delta(&second.services[0]).0.len(), 1, "changed before it was dropped");
}

#[tokio::test(start_paused = true)]
async fn who_reads_everything_no_more_goes_on_with_what_it_named() {
    let mut world = World::new().await;
    world.users(1).await;
    world.register(instance("posts", 2)).await.unwrap();
    sleep(WARM).await;
    let mut watch = world.watch("test", &["*", "users"]).await;
    let first = watch.next().await;
    assert_eq!(first.services.len(), 2);
    watch.send(WatchRequest { unsubscribe: vec!["*".into()], ..Default::default() }).await;
    sleep(100 * MS).await;
    world.register(instance("posts", 3)).await.unwrap();
    world.users(4).await;
    let update = watch.next_of("users.default").await;
    assert_eq!(delta(&update).0.len(), 1);
    let told = first.services.iter().find(|it| it.name == update.name).unwrap();
    assert_eq!(update.base, told.version);
    watch.send(WatchRequest { subscribe: vec!["*".into()], ..Default::default() }).await;
    let update = watch.next_of("posts.default").await;
    assert_eq!(full(&update), [id(2), id(3)], "and of users there is nothing new");
}

#[tokio::test(start_paused = true)]
async fn what_is_unsubscribed_is_told_no_more_and_starts_anew() {
    let mut world = World::new().await;
    world.users(1).await;
    let mut watch = world.watch("test", &["users"]).await;
    watch.next().await;
    watch.send(WatchRequest { unsubscribe: vec!["users".into()], ..Default::default() }).await;
    sleep(10 * MS).await;
    world.users(2).await;
    assert!(watch.is_quiet().await);
    watch.send(WatchRequest { subscribe: vec!["users.default".into()], ..Default::default() }).await;
    assert_eq!(full(&watch.next_of("users.default").await), [id(1), id(2)]);
}

#[tokio::test(start_paused = true)]
async fn the_directory_names_services_without_endpoints() {
    let mut world = World::new().await;
    let mut watch = world.watch("test", &["@directory"]).await;
    assert_eq!(watch.next().await.directory.unwrap().services, []);
    world.users(1).await;
    let answer = watch.next().await;
    assert_eq!(answer.services, []);
    let names: Vec<_> = answer.directory.unwrap().services.into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["users.default"]);
    world.users(2).await;
    assert!(watch.is_quiet().await, "another instance is no news for the directory");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_dropped_leaves_nothing_behind() {
    let mut world = World::new().await;
    let mut watch = world.watch("test", &["users"]).await;
    watch.next().await;
    assert!(world.metrics.encode().contains("weft_registry_watchers 1"));
    drop(watch);
    sleep(10 * MS).await;
    assert!(world.metrics.encode().contains("weft_registry_watchers 0"));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_only_listens_keeps_its_watch() {
    let mut world = World::new().await;
    let request = WatchRequest { watcher: "grpcurl".into(), subscribe: vec!["users".into()], ..Default::default() };
    let mut answers = world.discovery.watch(tokio_stream::iter([request])).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    world.users(1).await;
    assert_eq!(answers.message().await.unwrap().unwrap().version, world.catalog.snapshot().version.0);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_much_for_one_message_comes_in_several_and_only_the_last_has_the_version() {
    let mut world = World::new().await;
    let services = ["a", "b", "c", "d", "e"];
    for (number, service) in services.iter().enumerate() {
        for n in 0..1_500 {
            let n = u16::try_from(number * 1_500 + n + 1).unwrap();
            world.register(instance(service, n)).await.unwrap();
        }
    }
    sleep(WARM).await;
    let mut watch = world.watch("test", &["*"]).await;
    let (mut told, mut versions) = (BTreeMap::new(), BTreeMap::new());
    let last = loop {
        let message = watch.next().await;
        let size = prost::Message::encoded_len(&message);
        assert!(size < 2 << 20, "{size} bytes");
        told.extend(message.services.iter().map(|s| (s.name.clone(), full(s).len())));
        versions.extend(message.services.iter().map(|s| (s.name.clone(), s.version)));
        if message.complete {
            break message;
        }
        assert_eq!(message.version, 0, "more is to come");
        assert!(!message.services.is_empty());
    };
    assert_eq!(last.version, world.catalog.snapshot().version.0);
    assert!(last.services.len() < services.len(), "one message carried everything");
    assert_eq!(told, services.map(|it| (format!("{it}.default"), 1_500)).into());
    let update = world.register(instance("a", 9_999)).await.map(|_| watch.next_of("a.default")).unwrap().await;
    assert_eq!(update.base, versions["a.default"], "a delta on what a message of version 0 said");
    assert_eq!(delta(&update).0.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_rests_longer_while_turns_come_late_and_is_told_at_once_after_a_pause() {
    let mut world = World::new().await;
    let pace = world.watches.pace();
    world.users(1).await;
    let mut watch = world.watch("test", &["users"]).await;
    watch.next().await;
    let mut told = async |n| {
        let asked = Instant::now();
        world.users(n).await;
        watch.next().await;
        asked.elapsed()
    };
    for (n, late, rests) in [(2, 0, 20..45), (4, 18, 120..200), (6, 0, 20..45)] {
        sleep(Duration::from_secs(2)).await;
        let now = Instant::now();
        (0..2_000).for_each(|_| pace.turn(now - late * MS, now));
        let (first, second) = (told(n).await.as_millis(), told(n + 1).await.as_millis());
        assert!(first < 20 && rests.contains(&second), "turns {late} ms late: {first} ms, then {second} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_its_turn_late_counts_and_who_rests_does_not() {
    let mut world = World::new().await;
    let (pace, mut watcher) = (world.watches.pace(), opened(&world.watches, "test", "users").await);
    let rest = || pace.rest(MS, Instant::now());
    for n in 1..=20 {
        world.users(n).await; // while it rests
        watcher.next().await;
    }
    assert_eq!(rest(), MS);
    sleep(100 * MS).await;
    world.users(21).await;
    sleep(Duration::from_secs(2)).await;
    watcher.ready().await;
    assert!(rest() > 50 * MS, "it waited for two seconds: {:?}", rest());
    watcher.ready().await;
    assert!(rest() < 100 * MS, "one turn counts once: {:?}", rest());
}
