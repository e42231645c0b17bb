//! The catalog over crashes: what was answered is there again, what was not may be lost but is never half there.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;
use weft_model::{Endpoint, Locality, Protocol, Status, Transport, Weight};
use weft_runtime::{Metrics, clock};

use super::{draft::Draft, store::Batch, *};

/// A disk that survives the registry, and can be pulled out: after that every write and sync fails.
#[derive(Debug, Clone, Default)]
struct Disk {
    content: Arc<Mutex<Vec<u8>>>,
    /// What had been synced last: all that a power cut leaves.
    synced: Arc<Mutex<Vec<u8>>>,
    broken: Arc<AtomicBool>,
}

impl Disk {
    /// A disk with what a power cut now would leave.
    fn after_power_cut(&self) -> Self {
        let synced = self.synced.lock().unwrap().clone();
        Self { content: Arc::new(Mutex::new(synced.clone())), synced: Arc::new(Mutex::new(synced)), ..Self::default() }
    }

    fn check(&self) -> io::Result<()> {
        if self.broken.load(Ordering::SeqCst) { Err(io::Error::other("the disk is gone")) } else { Ok(()) }
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.content.lock().unwrap()[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.content.lock().unwrap().resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        *self.synced.lock().unwrap() = self.content.lock().unwrap().clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        let start = usize::try_from(offset).unwrap();
        self.content.lock().unwrap()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// A running catalog; dropping it is kill -9.
struct Running {
    catalog: Catalog,
    _task: JoinSet<()>,
}

fn start(disk: &Disk) -> Running {
    let (store, state) = Store::open_backend(disk.clone()).unwrap();
    let (catalog, task) = Catalog::with_store(store, state, &Metrics::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(task.run(CancellationToken::new()));
    Running { catalog, _task: tasks }
}

fn id(n: u8) -> InstanceId {
    InstanceId::from_bytes([n; 16])
}

fn instance(n: u8) -> Instance {
    let endpoint = Endpoint {
        address: format!("127.0.0.1:{}", 1000 + u16::from(n)).parse().unwrap(),
        transport: Transport::Plaintext,
        protocol: Protocol::H2,
    };
    Instance {
        id: id(n),
        service: "users".parse().unwrap(),
        epoch: Epoch(0),
        endpoint,
        status: Status::Serving,
        reason: String::new(),
        locality: Locality::new("", "a", ""),
        weight: Weight::ONE,
        metadata: [("slot".to_owned(), format!("users-{n}"))].into(),
        descriptors: None,
        check: None,
    }
}

async fn register(running: &Running, n: u8) -> Applied {
    running.catalog.register(instance(n), LeaseTtl::DEFAULT).await.unwrap()
}

fn listed(running: &Running) -> Vec<Arc<Instance>> {
    let snapshot = running.catalog.snapshot();
    let users = snapshot.services.get(&"users".parse::<ServiceName>().unwrap());
    users.into_iter().flat_map(|s| s.instances.values().cloned()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_survives_a_power_cut() {
    let disk = Disk::default();
    let first = start(&disk);
    let kept = register(&first, 1).await;
    register(&first, 2).await;
    register(&first, 3).await;
    first.catalog.deregister(id(2), Word::Operator).await.unwrap();
    first.catalog.set_status(id(3), Word::Operator, Health::new(Status::NotServing, "night")).await.unwrap();
    let set = crate::schema::link(vec![file("a.proto", "A")], Default::default()).unwrap();
    first.catalog.put_descriptors(set.clone(), None).await.unwrap();
    let before = first.catalog.snapshot();

    let second = start(&disk.after_power_cut()); // the first one still runs, and knows nothing of it
    let after = second.catalog.snapshot();
    assert!(after.version > before.version, "{} {}", after.version, before.version);
    let (was, is) = (listed(&first), listed(&second));
    assert_eq!(was, is, "the same ids, addresses, epochs and states");
    assert_eq!(is[0].epoch, kept.epoch);
    assert_eq!(second.catalog.published().sets.keys().collect::<Vec<_>>(), [&set.digest]);
    let denied = second.catalog.register(instance(2), LeaseTtl::DEFAULT).await.unwrap_err();
    assert!(matches!(denied, ChangeError::Revoked { .. }), "the tombstone is back: {denied}");
    let taken = register(&second, 1).await;
    assert!(taken.epoch > kept.epoch, "epochs rise across restarts");
    second.catalog.set_status(id(3), Word::Operator, Health::new(Status::Serving, "")).await.unwrap();
    assert_eq!(listed(&second)[1].status, Status::Serving, "what it reported was kept below the operator's word");
}

fn file(name: &str, service: &str) -> bytes::Bytes {
    use prost::Message;
    use prost_reflect::prost_types::{FileDescriptorProto, ServiceDescriptorProto};
    let service = ServiceDescriptorProto { name: Some(service.into()), ..Default::default() };
    let file = FileDescriptorProto { name: Some(name.into()), service: vec![service], ..Default::default() };
    file.encode_to_vec().into()
}

#[tokio::test(start_paused = true)]
async fn claims_survive() {
    let disk = Disk::default();
    let first = start(&disk);
    let set = crate::schema::link(vec![file("a.proto", "A")], Default::default()).unwrap();
    first.catalog.put_descriptors(set.clone(), None).await.unwrap();
    let carrying =
        |n, service: &str| Instance { service: service.parse().unwrap(), descriptors: Some(set.digest), ..instance(n) };
    first.catalog.register(carrying(1, "users"), LeaseTtl::DEFAULT).await.unwrap();
    first.catalog.deregister(id(1), Word::Operator).await.unwrap();
    let second = start(&disk.after_power_cut());
    second.catalog.register(carrying(2, "impostor"), LeaseTtl::DEFAULT).await.unwrap();
    let info = &second.catalog.snapshot().directory[&"impostor".parse::<ServiceName>().unwrap()];
    assert_eq!(info.grpc_services, [], "the name is still that of users");
}

/// A state that changes by hand, with its own time.
struct ByHand {
    state: State,
    wall: std::time::SystemTime,
}

impl ByHand {
    fn new() -> Self {
        Self { state: Store::in_memory().1, wall: clock::wall() }
    }

    fn apply(&mut self, change: Change) {
        let nobody = |_: &InstanceId| false;
        let mut draft = Draft::new(&self.state, self.wall, &nobody);
        draft.apply(change).unwrap();
        self.state = draft.finish().0;
    }

    fn put(&mut self, name: &str, service: &str) -> Digest {
        let set = crate::schema::link(vec![file(name, service)], Default::default()).unwrap();
        self.apply(Change::PutDescriptors { set: Box::new(set.clone()), by: None });
        set.digest
    }

    fn register(&mut self, n: u8, descriptors: Digest) {
        let it = Instance { descriptors: Some(descriptors), ..instance(n) };
        self.apply(Change::Register { instance: Box::new(it), ttl: LeaseTtl::DEFAULT });
    }

    fn leave(&mut self, n: u8) {
        let epoch = self.state.records[&id(n)].instance.epoch;
        self.apply(Change::Deregister { id: id(n), word: Word::Owner(epoch) });
    }

    fn hours_later(&mut self, hours: u64) {
        self.wall += Duration::from_secs(hours * 3600);
        self.apply(Change::Forget);
    }

    fn claims(&self) -> Vec<&str> {
        self.state.claims.keys().map(String::as_str).collect()
    }
}

#[test]
fn a_set_that_nobody_carries_goes_after_a_day_and_its_claims_with_it() {
    let mut it = ByHand::new();
    let (old, new) = (it.put("a.proto", "Old"), it.put("b.proto", "New"));
    it.register(1, old);
    it.register(2, new);
    it.leave(1);
    it.hours_later(23);
    assert_eq!((it.state.sets.len(), it.claims()), (2, vec!["New", "Old"]), "a rollback finds all as it was");
    it.hours_later(1);
    assert_eq!(it.state.sets.keys().collect::<Vec<_>>(), [&new]);
    assert_eq!(it.claims(), ["New"]);
}

#[test]
fn a_service_that_is_away_keeps_its_claims_and_one_without_claims_is_forgotten() {
    let mut it = ByHand::new();
    let set = it.put("a.proto", "A");
    it.register(1, set);
    let mut plain = instance(2);
    plain.service = "plain".parse().unwrap();
    it.apply(Change::Register { instance: Box::new(plain), ttl: LeaseTtl::DEFAULT });
    it.leave(1);
    it.leave(2);
    let listed = |it: &ByHand| it.state.snapshot.directory.keys().map(ToString::to_string).collect::<Vec<_>>();
    it.hours_later(1);
    let version = it.state.snapshot.version;
    it.hours_later(1_000);
    assert_eq!((it.claims(), it.state.sets.len()), (vec!["A"], 1), "the set says what the claim is about");
    assert_eq!(listed(&it), ["users"]);
    assert!(it.state.snapshot.version > version, "watchers of the directory are told");
}

#[test]
fn a_service_that_is_away_offers_what_its_last_instance_did_until_it_loses_its_claims() {
    let mut it = ByHand::new();
    let offers = |state: &State| {
        let info = state.snapshot.directory.get(&"users".parse::<ServiceName>().unwrap());
        info.map(|info| (info.grpc_services.iter().map(|it| it.name.clone()).collect(), info.descriptors.clone()))
    };
    let expected = |names: &[&str], set| Some((names.iter().map(ToString::to_string).collect::<Vec<_>>(), vec![set]));
    let (old, new) = (it.put("a.proto", "Old"), it.put("b.proto", "New"));
    it.register(1, old);
    it.register(2, new);
    it.leave(1);
    it.leave(2);
    assert_eq!(offers(&it.state), expected(&["New"], new), "what nobody offered any more stays gone");
    it.hours_later(1_000);
    assert_eq!(offers(&it.state), expected(&["New"], new), "however long it is away");
    let kept = crate::catalog::state::Kept {
        claims: it.state.claims.clone().into_iter().collect(),
        sets: it.state.sets.values().map(|it| crate::schema::DescriptorSet::clone(it)).collect(),
        retired: it.state.retired.clone().into_iter().collect(),
        ..Default::default()
    };
    assert_eq!(offers(&State::restore(2, kept)), expected(&["New"], new), "across a restart");

    let next = crate::schema::link(vec![file("c.proto", "New")], Default::default()).unwrap();
    it.register(3, next.digest);
    assert_eq!(offers(&it.state), expected(&["New"], new), "an instance is there whose set is not, yet");
    it.apply(Change::PutDescriptors { set: Box::new(next.clone()), by: None });
    assert_eq!(offers(&it.state), expected(&["New"], next.digest));
    it.leave(3);
    it.hours_later(24);
    assert_eq!(it.state.sets.keys().collect::<Vec<_>>(), [&next.digest], "only the last is kept");
    it.apply(Change::MoveClaim { name: "New".into(), to: "people".parse().unwrap() });
    assert_eq!(offers(&it.state), Some((vec![], vec![])), "the name is another's");
}

#[test]
fn a_name_without_instances_goes_with_the_last_policy_or_claim_that_an_operator_takes_from_it() {
    let mut it = ByHand::new();
    let listed = |it: &ByHand| it.state.snapshot.directory.keys().map(ToString::to_string).collect::<Vec<_>>();
    let policy = |name: &str, service: &str| Policy {
        name: name.parse().unwrap(),
        service: service.parse().unwrap(),
        version: Version(0),
        kind: weft_model::PolicyKind::Access(weft_model::Access::CLOSED),
    };
    let set = it.put("a.proto", "A");
    it.register(1, set);
    it.leave(1);
    it.apply(Change::ApplyPolicies {
        policies: vec![policy("a", "usres"), policy("b", "usres"), policy("c", "users")],
        expected: None,
    });
    let delete = |name: &str| Change::DeletePolicy { name: name.parse().unwrap(), expected: None };
    it.apply(delete("a"));
    assert_eq!(listed(&it), ["users", "usres"], "another policy names it");
    let version = it.state.snapshot.version;
    it.apply(Change::ApplyPolicies { policies: vec![policy("b", "people")], expected: None });
    assert_eq!(listed(&it), ["people", "users"], "the policy is another service's now");
    assert!(it.state.snapshot.version > version, "watchers are told");
    it.apply(delete("b"));
    it.apply(delete("c"));
    assert_eq!(listed(&it), ["users"], "it has a claim");
    it.apply(Change::ReleaseClaim { name: "A".into() });
    assert_eq!(listed(&it), Vec::<String>::new());
}

#[test]
fn a_service_that_changes_its_set_at_every_start_leaves_no_heap_of_them() {
    let mut it = ByHand::new();
    for n in 0..100_u8 {
        let set = it.put(&format!("{n}.proto"), "A");
        it.register(n + 1, set);
        if n > 0 {
            it.leave(n);
        }
    }
    it.hours_later(0);
    assert_eq!(it.state.sets.len(), 17, "the one carried and the 16 before it");
    for n in 0..100_u8 {
        it.put(&format!("never-{n}.proto"), "A");
    }
    it.hours_later(0);
    assert_eq!(it.state.sets.len(), 17 + 64);
}

#[tokio::test(start_paused = true)]
async fn an_operators_word_on_a_claim_survives_a_power_cut() {
    let disk = Disk::default();
    let first = start(&disk);
    let set = crate::schema::link(vec![file("a.proto", "A")], Default::default()).unwrap();
    first.catalog.put_descriptors(set.clone(), None).await.unwrap();
    let carrying = Instance { descriptors: Some(set.digest), ..instance(1) };
    first.catalog.register(carrying, LeaseTtl::DEFAULT).await.unwrap();
    first.catalog.move_claim("A".into(), "people".parse().unwrap()).await.unwrap();
    let second = start(&disk.after_power_cut());
    let claim = second.catalog.published().claims["A"].clone();
    assert_eq!((claim.holder.to_string().as_str(), claim.placed), ("people", true));
    let users = &second.catalog.snapshot().directory[&"users".parse::<ServiceName>().unwrap()];
    assert_eq!((users.grpc_services.len(), users.refused.len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn policies_and_their_versions_survive_and_rise() {
    let disk = Disk::default();
    let first = start(&disk);
    let policy = |name: &str| Policy {
        name: name.parse().unwrap(),
        service: "users".parse().unwrap(),
        version: Version(0),
        kind: weft_model::PolicyKind::Access(weft_model::Access::CLOSED),
    };
    first.catalog.apply_policies(vec![policy("a"), policy("b")], None).await.unwrap();
    first.catalog.delete_policy("b".parse().unwrap(), None).await.unwrap();
    let before = first.catalog.published().policies.clone();

    let second = start(&disk.after_power_cut());
    let after = second.catalog.published().policies.clone();
    assert_eq!(after.version(), before.version(), "the set is at the version it was");
    assert_eq!(after.all().collect::<Vec<_>>(), before.all().collect::<Vec<_>>());
    let users = second.catalog.published().service(&"users".parse().unwrap());
    assert_eq!(users.policies.len(), 1, "a service is told of its policies before any instance of it is back");
    let applied = second.catalog.apply_policies(vec![policy("c")], Some(after.version())).await.unwrap();
    assert!(applied.version > before.version());
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_cannot_be_stored_is_not_in_force() {
    let disk = Disk::default();
    let running = start(&disk);
    disk.broken.store(true, Ordering::SeqCst);
    let (service, name) = ("users".parse().unwrap(), "a".parse().unwrap());
    let kind = weft_model::PolicyKind::Access(weft_model::Access::CLOSED);
    let policy = Policy { name, service, version: Version(0), kind };
    let refused = running.catalog.apply_policies(vec![policy], None).await.unwrap_err();
    assert!(matches!(refused, ChangeError::Store(_)), "{refused}");
    assert_eq!(running.catalog.published().policies.all().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_commit_and_answer_leaves_the_whole_change() {
    let disk = Disk::default();
    let (store, state) = Store::open_backend(disk.clone()).unwrap();
    let nobody = |_: &InstanceId| false;
    let mut draft = Draft::new(&state, clock::wall(), &nobody);
    draft.apply(Change::Register { instance: Box::new(instance(1)), ttl: LeaseTtl::DEFAULT }).unwrap();
    let (next, done) = draft.finish();
    store.commit(&Batch::new(&next, &done.durable)).unwrap();
    // Here the process dies: nobody was answered, nothing was published.
    let again = start(&disk.after_power_cut());
    assert_eq!(listed(&again).len(), 1);
    let mut stream = again.catalog.open_stream();
    let beat = |epoch| Beat { id: id(1), epoch, health: Health::new(Status::Serving, "") };
    let verdicts = again.catalog.beats(stream, vec![beat(Epoch(0))]).await.unwrap();
    assert_eq!(verdicts, [Verdict::Fenced], "its owner has no epoch: it registers again");
    let taken = register(&again, 1).await;
    stream = again.catalog.open_stream();
    assert_eq!(again.catalog.beats(stream, vec![beat(taken.epoch)]).await.unwrap(), [Verdict::Renewed]);
    assert_eq!(listed(&again).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_commit_changes_nothing_and_health_goes_on() {
    let disk = Disk::default();
    let running = start(&disk);
    let lease = register(&running, 1).await;
    register(&running, 2).await;
    let before = running.catalog.snapshot();
    disk.broken.store(true, Ordering::SeqCst);
    let denied = running.catalog.register(instance(3), LeaseTtl::DEFAULT).await.unwrap_err();
    assert!(matches!(denied, ChangeError::Store(_)), "{denied}");
    let denied = running.catalog.deregister(id(2), Word::Operator).await.unwrap_err();
    assert!(matches!(denied, ChangeError::Store(_)), "{denied}");
    assert_eq!(*running.catalog.snapshot(), *before, "nobody saw what was refused");
    let stream = running.catalog.open_stream();
    let beat = Beat { id: id(1), epoch: lease.epoch, health: Health::new(Status::Crashed, "segfault") };
    assert_eq!(running.catalog.beats(stream, vec![beat]).await.unwrap(), [Verdict::Renewed]);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(listed(&running)[0].status, Status::Crashed, "health needs no store");
    let again = start(&disk.after_power_cut());
    assert_eq!(listed(&again).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_failed_commit_would_have_changed_refuses_nobody() {
    let disk = Disk::default();
    let running = start(&disk);
    let catalog = &running.catalog;
    register(&running, 2).await;
    let lease = register(&running, 1).await;
    disk.broken.store(true, Ordering::SeqCst);
    // the registration just made holds the next group back, so these are one
    let (takeover, owner, removal, comeback, of_the_removed, nonsense) = tokio::join!(
        catalog.register(instance(1), LeaseTtl::DEFAULT),
        catalog.deregister(id(1), Word::Owner(lease.epoch)),
        catalog.deregister(id(2), Word::Operator),
        catalog.register(instance(2), LeaseTtl::DEFAULT),
        catalog.set_status(id(2), Word::Operator, Health::new(Status::NotServing, "night")),
        catalog.register(Instance { service: "posts".parse().unwrap(), ..instance(1) }, LeaseTtl::DEFAULT),
    );
    for (what, answer) in [
        ("takeover", takeover),
        ("fenced by it", owner),
        ("removal", removal),
        ("revoked by it", comeback),
        ("unknown by it", of_the_removed),
    ] {
        assert!(matches!(answer, Err(ChangeError::Store(_))), "{what}: {answer:?}");
    }
    assert!(matches!(nonsense, Err(ChangeError::Invalid(_))), "{nonsense:?}");
}

#[tokio::test(start_paused = true)]
async fn health_reaches_the_store_within_a_second_and_renewals_never() {
    let disk = Disk::default();
    let running = start(&disk);
    let lease = register(&running, 1).await;
    let stream = running.catalog.open_stream();
    let beat = |status| Beat { id: id(1), epoch: lease.epoch, health: Health::new(status, "") };
    running.catalog.beats(stream, vec![beat(Status::NotServing)]).await.unwrap();
    sleep(Duration::from_millis(1_100)).await;
    assert_eq!(listed(&start(&disk.after_power_cut()))[0].status, Status::NotServing);
    let stored = disk.synced.lock().unwrap().clone();
    for _ in 0..100 {
        running.catalog.beats(stream, vec![beat(Status::NotServing)]).await.unwrap();
        sleep(Duration::from_millis(50)).await;
    }
    assert!(stored == *disk.synced.lock().unwrap(), "a renewal was written");
}

#[tokio::test(start_paused = true)]
async fn an_orderly_end_stores_what_still_rides() {
    let disk = Disk::default();
    let (store, state) = Store::open_backend(disk.clone()).unwrap();
    let (catalog, task) = Catalog::with_store(store, state, &Metrics::default());
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(task.run(stop.clone()));
    let lease = catalog.register(instance(1), LeaseTtl::DEFAULT).await.unwrap();
    let stream = catalog.open_stream();
    let health = Health::new(Status::Crashed, "");
    catalog.beats(stream, vec![Beat { id: id(1), epoch: lease.epoch, health }]).await.unwrap();
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap();
    assert_eq!(listed(&start(&disk.after_power_cut()))[0].status, Status::Crashed);
    assert!(matches!(catalog.deregister(id(1), Word::Operator).await, Err(ChangeError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn changes_that_come_together_share_a_version() {
    let (catalog, task) = Catalog::in_memory(&Metrics::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(task.run(CancellationToken::new()));
    let before = catalog.snapshot().version.0;
    let mut registrations = JoinSet::new();
    for n in 1..=200 {
        let catalog = catalog.clone();
        registrations.spawn(async move { catalog.register(instance(n), LeaseTtl::DEFAULT).await.unwrap() });
    }
    while registrations.join_next().await.is_some() {}
    let versions = catalog.snapshot().version.0 - before;
    assert!(versions <= 4, "{versions} versions for 200 changes at one moment");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_comes_back_with_a_check_leaves_no_lease_behind() {
    let (catalog, task) = Catalog::in_memory(&Metrics::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(task.run(CancellationToken::new()));
    let check = weft_model::Check {
        kind: weft_model::CheckKind::Ttl { ttl: Duration::from_secs(3600) },
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(1),
        healthy_after: 1,
        unhealthy_after: 1,
    };
    for n in 1..=4 {
        catalog.register(instance(n), LeaseTtl::DEFAULT).await.unwrap();
        let checked = Instance { check: Some(Box::new(check.clone())), ..instance(n) };
        catalog.register(checked, LeaseTtl::DEFAULT).await.unwrap();
    }
    sleep(Duration::from_secs(60)).await;
    let published = catalog.published();
    assert_eq!(published.notices.as_ref(), [] as [String; 0], "nobody waits for beats of instances that are checked");
    assert_eq!(published.snapshot.services[&instance(1).service].instances.len(), 4);
}

#[test]
fn a_store_that_is_in_use_or_damaged_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    drop(store);
    let file = dir.path().join("registry.redb");
    for damaged in [b"this is no store".repeat(1000), vec![0; 10_000]] {
        std::fs::write(&file, &damaged).unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(
            matches!(error, StoreError::Unreadable { .. }) && error.to_string().contains("registry.redb"),
            "{error}"
        );
        assert!(std::fs::read(&file).unwrap() == damaged, "nothing was changed");
    }
}

#[test]
fn an_entry_that_makes_no_sense_is_named_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path()).unwrap();
    store.spoil(id(7));
    drop(store);
    for _ in 0..2 {
        let error = Store::open(dir.path()).unwrap_err();
        assert!(
            matches!(&error, StoreError::Entry { table: "instances", key, .. } if *key == id(7).to_string()),
            "{error}"
        );
    }
}

#[test]
fn each_start_is_a_generation() {
    let dir = tempfile::tempdir().unwrap();
    let generation = || Store::open(dir.path()).unwrap().1.generation();
    assert_eq!([generation(), generation(), generation()], [1, 2, 3]);
}
