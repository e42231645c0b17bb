//! Leases as their owners meet them: fencing, force, grace, mass loss.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_old_epoch_is_fenced_and_changes_nothing() {
    let mut world = World::new().await;
    let old = world.users(1).await;
    let new = world.users(1).await;
    assert!(new.epoch > old.epoch);
    let before = world.catalog.snapshot();
    let mut stream = world.keep_alive().await;
    assert_eq!(stream.beat(&[&old], Health::Crashed).await, [Outcome::Fenced]);
    let denied = world.set_status(&old.instance_id, old.epoch, Health::NotServing).await.unwrap_err();
    assert_eq!(denied.code(), Code::FailedPrecondition);
    assert_eq!(world.deregister(&old.instance_id, old.epoch).await.unwrap_err().code(), Code::FailedPrecondition);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(*world.catalog.snapshot(), *before);
    assert_eq!(stream.beat(&[&new, &old], Health::Serving).await, [Outcome::Renewed, Outcome::Fenced]);
}

#[tokio::test(start_paused = true)]
async fn a_fenced_beat_does_not_keep_the_lease_alive() {
    let mut world = World::new().await;
    let (old, other) = (world.users(1).await, world.users(2).await);
    let new = world.users(1).await;
    sleep(WARM - Duration::from_secs(5)).await;
    let (mut fenced, mut alive) = (world.keep_alive().await, world.keep_alive().await);
    for _ in 0..6 {
        assert_ne!(fenced.beat(&[&old], Health::Serving).await, [Outcome::Renewed]);
        alive.beat(&[&other], Health::Serving).await;
        sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(world.ids("users.default").await, [id(2)]);
    assert_eq!(alive.beat(&[&new], Health::Serving).await, [Outcome::Unknown]);
}

#[tokio::test(start_paused = true)]
async fn a_forced_deregistration_stays() {
    let mut world = World::new().await;
    let (lease, _other) = (world.users(1).await, world.users(2).await);
    let mut stream = world.keep_alive().await;
    assert_eq!(stream.beat(&[&lease], Health::Serving).await, [Outcome::Renewed]);
    world.deregister(&lease.instance_id, 0).await.unwrap();
    assert_eq!(stream.beat(&[&lease], Health::Serving).await, [Outcome::Revoked]);
    assert_eq!(world.register(users(1)).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(world.ids("users.default").await, [id(2)]);
    world.deregister(&lease.instance_id, lease.epoch).await.expect("leaving twice is no error");
}

#[tokio::test(start_paused = true)]
async fn many_register_at_once_and_what_is_refused_is_refused_alone() {
    let mut world = World::new().await;
    let held = world.users(9).await;
    let mut stream = world.keep_alive().await;
    assert_eq!(stream.beat(&[&held], Health::Serving).await, [Outcome::Renewed]);
    let (nowhere, taken) = (Instance { endpoint: None, ..users(2) }, Instance { id: id(3), ..users(9) });
    let mut refused = Vec::new();
    for it in [&nowhere, &taken] {
        refused.push(crate::sources::status::as_message(&world.register(it.clone()).await.unwrap_err()));
    }
    assert_eq!([refused[0].code, refused[1].code], [i32::from(Code::InvalidArgument), i32::from(Code::Aborted)]);
    assert!(!refused[0].details.is_empty(), "it names the field");
    let ask = |it| RegisterRequest { instance: Some(it), ttl_ms: 0 };
    let requests = [users(1), nowhere, taken, users(4)].map(ask).to_vec();
    let request = registry::RegisterAllRequest { requests, leaving: vec![] };
    let answer = world.registry.register_all(request).await.unwrap().into_inner();
    let (mut leases, mut not) = (Vec::new(), Vec::new());
    for it in answer.registered {
        match it.outcome.unwrap() {
            registry::registered::Outcome::Lease(lease) => leases.push(lease),
            registry::registered::Outcome::Refused(status) => not.push(status),
        }
    }
    assert_eq!(leases.iter().map(|it| it.instance_id.clone()).collect::<Vec<_>>(), [id(1), id(4)]);
    assert_eq!(not, refused, "as each by itself");
    assert_eq!(world.ids("users.default").await, [id(1), id(4), id(9)]);
    assert_eq!(stream.beat(&[&leases[0], &leases[1]], Health::Serving).await, [Outcome::Renewed; 2]);
    let requests = vec![ask(users(5)); 1_001];
    let error =
        world.registry.register_all(registry::RegisterAllRequest { requests, leaving: vec![] }).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(world.ids("users.default").await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn those_that_leave_and_those_that_come_at_once_are_one_version() {
    let mut world = World::new().await;
    let (leaves, fenced) = (world.users(1).await, world.users(2).await);
    let stays = world.users(2).await;
    let mut watch = world.watch("test", &["users"]).await;
    watch.next_of("users.default").await;
    let refused = world.deregister(&fenced.instance_id, fenced.epoch).await.unwrap_err();
    let parting = |lease: &Lease| DeregisterRequest { id: lease.instance_id.clone(), epoch: lease.epoch };
    let garbled = DeregisterRequest { id: "users-1".into(), epoch: 1 };
    let gone = DeregisterRequest { id: id(77), epoch: 1 };
    let successor = Instance { id: id(5), ..users(1) };
    let request = registry::RegisterAllRequest {
        requests: vec![RegisterRequest { instance: Some(successor), ttl_ms: 0 }],
        leaving: vec![parting(&leaves), parting(&fenced), garbled, gone],
    };
    let answer = world.registry.register_all(request.clone()).await.unwrap().into_inner();
    let Some(registry::registered::Outcome::Lease(lease)) = &answer.registered[0].outcome else { panic!("{answer:?}") };
    assert_eq!(lease.instance_id, id(5), "the address that was left is free");
    let message = watch.next().await;
    let (version, code) = (Ok(message.version), |code: Code| Err(i32::from(code)));
    let outcomes = answer.deregistered.iter().map(|it| match it.outcome.as_ref().unwrap() {
        registry::deregistered::Outcome::Version(version) => Ok(*version),
        registry::deregistered::Outcome::Refused(status) => Err(status.code),
    });
    let expected = [version, code(refused.code()), code(Code::InvalidArgument), version];
    assert_eq!(outcomes.collect::<Vec<_>>(), expected, "one by one as by itself; leaving twice is no error");
    let told = delta(&message.services[0]);
    assert_eq!(told, (vec![(id(5).as_str(), Health::Serving)], vec![(id(1).as_str(), Reason::Deregistered)]));
    let mut stream = world.keep_alive().await;
    assert_eq!(stream.beat(&[lease, &stays], Health::Serving).await, [Outcome::Renewed; 2]);
    assert_eq!(stream.beat(&[&leaves], Health::Serving).await, [Outcome::Unknown]);
    let leaving = vec![request.leaving[0].clone(); 1_001];
    let error =
        world.registry.register_all(registry::RegisterAllRequest { requests: vec![], leaving }).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_not_known_is_unknown() {
    let mut world = World::new().await;
    let lease = Lease { instance_id: id(9), epoch: 3, ..Default::default() };
    let mut stream = world.keep_alive().await;
    assert_eq!(stream.beat(&[&lease], Health::Serving).await, [Outcome::Unknown]);
    assert_eq!(stream.beat(&[], Health::Serving).await, [], "an empty first message is allowed");
    let denied = world.set_status(&id(9), 3, Health::Serving).await.unwrap_err();
    assert_eq!(denied.code(), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_stream_broken_within_its_grace_loses_nothing() {
    let mut world = World::new().await;
    let (one, two) = (world.users(1).await, world.users(2).await);
    sleep(WARM - Duration::from_secs(10)).await;
    let mut stream = world.keep_alive().await;
    stream.beat_for(Duration::from_secs(12), &[&one, &two]).await;
    let mut watch = world.watch("test", &["users"]).await;
    assert_eq!(full(&watch.next_of("users.default").await), [id(1), id(2)]);
    for _ in 0..3 {
        drop(stream);
        sleep(Duration::from_millis(4_900)).await;
        stream = world.keep_alive().await;
        assert_eq!(stream.beat(&[&one, &two], Health::Serving).await, [Outcome::Renewed; 2]);
    }
    assert!(watch.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn a_stream_broken_beyond_its_grace_loses_its_leases() {
    let mut world = World::new().await;
    let (one, two) = (world.users(1).await, world.users(2).await);
    let (mut first, mut second) = (world.keep_alive().await, world.keep_alive().await);
    let (ones, twos) = ([&one], [&two]);
    tokio::join!(first.beat_for(WARM, &ones), second.beat_for(WARM, &twos));
    let mut watch = world.watch("test", &["users"]).await;
    watch.next().await;
    let broke = Instant::now();
    drop(first);
    let (update, ()) = tokio::join!(watch.next_of("users.default"), second.beat_for(Duration::from_secs(8), &twos));
    assert_eq!(delta(&update).1, [(id(1).as_str(), Reason::Expired)]);
    assert!(update.authoritative);
    assert!(broke.elapsed() >= Duration::from_secs(5));
    assert_eq!(second.beat(&[&one], Health::Serving).await, [Outcome::Unknown]);
}

#[tokio::test(start_paused = true)]
async fn losing_too_many_at_once_suspends_expiry_visibly() {
    let mut world = World::new().await;
    let mut leases = Vec::new();
    for n in 1..=6 {
        leases.push(world.users(n).await);
    }
    let all: Vec<&Lease> = leases.iter().collect();
    let (mut lost, mut alive) = (world.keep_alive().await, world.keep_alive().await);
    tokio::join!(lost.beat_for(WARM, &all[..3]), alive.beat_for(WARM, &all[3..]));
    let mut watch = world.watch("test", &["users"]).await;
    assert!(watch.next_of("users.default").await.authoritative);
    drop(lost);
    alive.beat_for(Duration::from_secs(60), &all[3..]).await;

    assert_eq!(world.ids("users.default").await.len(), 6);
    let notices = world.discovery.list(ListRequest::default()).await.unwrap().into_inner().notices;
    assert!(matches!(notices.as_slice(), [one] if one.contains("users") && one.contains("3 of 6")), "{notices:?}");
    assert!(world.metrics.encode().contains("weft_registry_expiry_suspended 1"));
    let update = watch.next_of("users.default").await;
    assert_eq!(delta(&update), (vec![], vec![]));
    assert!(!update.authoritative, "a watcher is told that the registry is not sure");

    world.deregister(&id(1), 0).await.unwrap(); // an operator's word counts at once; two of five are believed
    alive.beat_for(Duration::from_secs(2), &all[3..]).await;
    assert_eq!(world.ids("users.default").await, [id(4), id(5), id(6)]);
    assert!(world.metrics.encode().contains("weft_registry_expiry_suspended 0"));
}

#[tokio::test(start_paused = true)]
async fn beats_carry_status_and_an_operator_overrides_it() {
    let mut world = World::new().await;
    let lease = world.users(1).await;
    let mut stream = world.keep_alive().await;
    stream.beat(&[&lease], Health::Crashed).await;
    sleep(20 * MS).await;
    assert_eq!(world.status_of(&id(1)).await, Health::Crashed);
    world.set_status(&id(1), 0, Health::NotServing).await.unwrap();
    stream.beat(&[&lease], Health::Serving).await;
    sleep(20 * MS).await;
    assert_eq!(world.status_of(&id(1)).await, Health::NotServing, "an operator's word holds");
    let again = world.users(1).await;
    assert_eq!(world.status_of(&id(1)).await, Health::NotServing, "also over a new registration");
    world.set_status(&id(1), 0, Health::Serving).await.unwrap();
    assert_eq!(world.status_of(&id(1)).await, Health::Serving);
    world.set_status(&id(1), again.epoch, Health::Starting).await.unwrap();
    assert_eq!(world.status_of(&id(1)).await, Health::Starting);
}

#[tokio::test(start_paused = true)]
async fn an_address_belongs_to_one_live_instance() {
    let mut world = World::new().await;
    let first = world.users(1).await;
    let mut stream = world.keep_alive().await;
    stream.beat(&[&first], Health::Serving).await;
    let mut twin = users(2);
    twin.endpoint = users(1).endpoint;
    let denied = world.register(twin.clone()).await.unwrap_err();
    assert_eq!(denied.code(), Code::Aborted, "it may be right a moment later: ask again");
    let text = format!("held until 10s after its holder's last beat, by instance {}", id(1));
    assert!(denied.message().contains(&text), "{}", denied.message());
    drop(stream);
    sleep(10 * MS).await; // the process died and another took its port: no need to wait for its grace
    world.register(twin).await.unwrap();
    assert_eq!(world.ids("users.default").await, [id(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_stream_only_looks_open_gives_its_address_up_when_it_misses_two_beats() {
    let mut world = World::new().await;
    let first = world.users(1).await;
    let mut dead = world.keep_alive().await; // its machine lost its power: nobody closes this
    dead.beat(&[&first], Health::Serving).await;
    let mut again = users(2);
    again.endpoint = users(1).endpoint;
    let began = Instant::now();
    while let Err(denied) = world.register(again.clone()).await {
        assert_eq!(denied.code(), Code::Aborted, "{denied:?}");
        sleep(100 * MS).await;
    }
    assert!((9_900 * MS..=10_200 * MS).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(world.ids("users.default").await, [id(2)]);
}

#[tokio::test(start_paused = true)]
async fn streams_are_told_when_the_registry_leaves() {
    let mut world = World::new().await;
    let mut stream = world.keep_alive().await;
    let mut watch = world.watch("test", &["*"]).await;
    watch.next().await;
    world.shutdown.drain();
    assert_eq!(stream.verdicts.message().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(watch.answers.message().await.unwrap_err().code(), Code::Unavailable);
}
