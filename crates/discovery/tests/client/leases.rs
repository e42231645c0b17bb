//! Leases through outages and verdicts.

use std::{pin::pin, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status as RpcStatus};
use weft_discovery::{CallError, Drained, Lease, LeaseState, Leases, Registries};
use weft_model::{Epoch, Instance, LeaseTtl, Status, Version};
use weft_proto::weft::model::v1 as wire;
use weft_proto::weft::registry::v1::{self as pb, verdict::Outcome};

use crate::fake::{Fake, KeepingAlive, LIMIT, registries, soon};

pub(crate) struct Running {
    pub(crate) leases: Leases,
    stop: CancellationToken,
    task: JoinSet<()>,
}

impl Running {
    pub(crate) fn start(registries: Registries) -> Self {
        let (task, leases) = Leases::new(registries, LeaseTtl::new(Duration::from_secs(3)).unwrap());
        let stop = CancellationToken::new();
        Self { leases, task: JoinSet::from_iter([task.run(stop.clone())]), stop }
    }

    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        soon("the task to end", self.task.join_next()).await.unwrap().unwrap();
    }
}

pub(crate) fn instance() -> Instance {
    Instance {
        id: "0197a1b2-0000-7000-8000-000000000001".parse().unwrap(),
        service: "users".parse().unwrap(),
        epoch: Epoch::default(),
        endpoint: weft_model::Endpoint {
            address: "127.0.0.1:7300".parse().unwrap(),
            transport: weft_model::Transport::Plaintext,
            protocol: weft_model::Protocol::H2,
        },
        status: Status::Serving,
        reason: String::new(),
        locality: weft_model::Locality::default(),
        weight: weft_model::Weight::ONE,
        metadata: Default::default(),
        descriptors: None,
        check: None,
    }
}

pub(crate) async fn grant(fake: &mut Fake, epoch: u64) {
    let call = fake.register().await;
    assert_eq!(call.request.instance.as_ref().unwrap().id, instance().id.to_string());
    assert_eq!(call.request.ttl_ms, 3_000);
    let id = instance().id.to_string();
    let lease = pb::Lease { instance_id: id, epoch, ttl_ms: 3_000, beat_every_ms: 1_000 };
    call.answer(Ok(pb::RegisterResponse { lease: Some(lease) }));
}

/// Returns the next beat, skipping requests without one.
pub(crate) async fn beat(stream: &mut KeepingAlive) -> pb::Beat {
    loop {
        if let Some(beat) = stream.request().await.beats.pop() {
            return beat;
        }
    }
}

pub(crate) async fn judge(stream: &KeepingAlive, outcome: Outcome) {
    judge_and_ask(stream, outcome, 1_000).await;
}

/// The same, and asks for another rhythm of beats.
async fn judge_and_ask(stream: &KeepingAlive, outcome: Outcome, beat_every_ms: u32) {
    let verdict = pb::Verdict { id: instance().id.to_string(), outcome: outcome.into(), reason: "because".into() };
    stream.answer(pb::KeepAliveResponse { verdicts: vec![verdict], beat_every_ms }).await;
}

pub(crate) async fn state(lease: &mut Lease, wanted: LeaseState) {
    let what = format!("{wanted:?}");
    soon(&what, async {
        while lease.state() != wanted {
            lease.changed().await.expect("the task lives");
        }
    })
    .await;
}

#[tokio::test]
async fn a_granted_lease_beats_at_once_and_says_a_change_of_status_at_once() {
    let mut fake = Fake::start().await;
    let running = Running::start(fake.registries());
    let mut lease = running.leases.hold(instance());
    let mut stream = fake.keep_alive().await;
    grant(&mut fake, 5).await;
    let first = beat(&mut stream).await;
    assert_eq!((first.epoch, first.status()), (5, wire::Status::Serving));
    // So rarely that a change which waited for the next beat would come far too late.
    judge_and_ask(&stream, Outcome::Renewed, 600_000).await;
    state(&mut lease, LeaseState::Held { epoch: Epoch(5) }).await;
    beat(&mut stream).await; // the last one that was due already
    judge_and_ask(&stream, Outcome::Renewed, 600_000).await;
    lease.report(Status::Crashed, "exit code 3");
    let crashed = beat(&mut stream).await;
    assert_eq!((crashed.status(), crashed.reason.as_str()), (wire::Status::Crashed, "exit code 3"));
    judge(&stream, Outcome::Renewed).await;
    assert_eq!(beat(&mut stream).await.status(), wire::Status::Crashed, "and every later beat carries it");
    running.stop().await;
}

#[tokio::test]
async fn after_an_outage_the_same_lease_beats_on() {
    let mut fake = Fake::start().await;
    let running = Running::start(fake.registries());
    let mut lease = running.leases.hold(instance());
    let mut stream = fake.keep_alive().await;
    grant(&mut fake, 5).await;
    beat(&mut stream).await;
    judge(&stream, Outcome::Renewed).await;
    state(&mut lease, LeaseState::Held { epoch: Epoch(5) }).await;
    let mut fake = Fake::start_at(fake.kill()).await;
    let mut stream = fake.keep_alive().await;
    assert_eq!(stream.request().await.beats[0].epoch, 5, "the first request of the new stream carries it");
    judge(&stream, Outcome::Renewed).await;
    beat(&mut stream).await;
    assert!(fake.registers.try_recv().is_err(), "nothing was registered again");
    assert_eq!(lease.state(), LeaseState::Held { epoch: Epoch(5) });
    running.stop().await;
}

#[tokio::test]
async fn a_registry_that_does_not_know_the_lease_gets_it_again() {
    let mut fake = Fake::start().await;
    let running = Running::start(fake.registries());
    let mut lease = running.leases.hold(instance());
    let mut stream = fake.keep_alive().await;
    grant(&mut fake, 5).await;
    beat(&mut stream).await;
    lease.report(Status::NotServing, "ill");
    judge(&stream, Outcome::Unknown).await;
    let again = fake.register().await;
    assert_eq!(again.request.instance.as_ref().unwrap().status(), wire::Status::NotServing);
    let granted = pb::Lease { instance_id: instance().id.to_string(), epoch: 6, ttl_ms: 3_000, beat_every_ms: 1_000 };
    again.answer(Ok(pb::RegisterResponse { lease: Some(granted) }));
    state(&mut lease, LeaseState::Held { epoch: Epoch(6) }).await;
    running.stop().await;
}

#[tokio::test]
async fn a_registry_that_is_away_is_asked_until_it_is_back() {
    let away = Fake::start().await.kill();
    let running = Running::start(registries(&[away]));
    let mut lease = running.leases.hold(instance());
    let mut fake = Fake::start_at(away).await;
    let _stream = fake.keep_alive().await;
    fake.register().await.answer(Err(RpcStatus::unavailable("the store is away")));
    grant(&mut fake, 5).await;
    state(&mut lease, LeaseState::Held { epoch: Epoch(5) }).await;
    running.stop().await;
}

#[tokio::test]
async fn an_address_that_is_held_is_asked_for_until_its_holder_lapses() {
    let mut fake = Fake::start().await;
    let running = Running::start(fake.registries());
    let mut lease = running.leases.hold(instance());
    let _stream = fake.keep_alive().await;
    let held = "held until 2s after its holder's last beat, by instance 7";
    for _ in 0..3 {
        fake.register().await.answer(Err(RpcStatus::aborted(held)));
        state(&mut lease, LeaseState::Registering { failure: Some(held.into()) }).await;
    }
    grant(&mut fake, 5).await;
    state(&mut lease, LeaseState::Held { epoch: Epoch(5) }).await;
    running.stop().await;
}

#[tokio::test]
async fn fenced_and_revoked_are_told_and_end_the_beats() {
    for (outcome, expected) in [
        (Outcome::Fenced, LeaseState::Fenced { reason: "because".into() }),
        (Outcome::Revoked, LeaseState::Revoked { reason: "because".into() }),
    ] {
        let mut fake = Fake::start().await;
        let running = Running::start(fake.registries());
        let mut lease = running.leases.hold(instance());
        let mut stream = fake.keep_alive().await;
        grant(&mut fake, 5).await;
        beat(&mut stream).await;
        judge(&stream, outcome).await;
        state(&mut lease, expected).await;
        lease.report(Status::NotServing, "");
        assert_eq!(stream.request().await.beats, [], "{outcome:?}");
        running.stop().await;
    }
}

#[tokio::test]
async fn what_the_registry_will_never_list_is_told_and_not_asked_again() {
    for (status, expected) in [
        (RpcStatus::invalid_argument("instance.weight"), LeaseState::Refused { reason: "instance.weight".into() }),
        (RpcStatus::failed_precondition("removed by word"), LeaseState::Revoked { reason: "removed by word".into() }),
    ] {
        let mut fake = Fake::start().await;
        let running = Running::start(fake.registries());
        let mut lease = running.leases.hold(instance());
        let _stream = fake.keep_alive().await;
        fake.register().await.answer(Err(status));
        state(&mut lease, expected).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn a_drain_tells_who_was_waited_for_and_a_deregistration_ends_the_beats() {
    let mut fake = Fake::start().await;
    let running = Running::start(fake.registries());
    let mut lease = running.leases.hold(instance());
    let mut stream = fake.keep_alive().await;
    grant(&mut fake, 5).await;
    state(&mut lease, LeaseState::Held { epoch: Epoch(5) }).await;
    let serve = async {
        let call = soon("a drain", fake.drains.recv()).await.unwrap();
        assert_eq!((call.request.epoch, call.request.at_most_ms > 3_000), (5, true));
        let waiting = vec!["gateway/1".to_owned()];
        call.answer(Ok(pb::DrainResponse { acknowledged: false, waited_for: waiting.clone(), waiting, version: 9 }));
        loop {
            if beat(&mut stream).await.status() == wire::Status::Draining {
                break;
            }
        }
        let call = soon("a deregistration", fake.deregisters.recv()).await.unwrap();
        assert_eq!(call.request.epoch, 5);
        call.answer(Ok(pb::DeregisterResponse { version: 10 }));
    };
    let leave = async {
        let drained = lease.drain(LIMIT).await.unwrap();
        let gateway = || vec!["gateway/1".to_owned()];
        assert_eq!(drained, Drained { acknowledged: false, waiting: gateway(), waited_for: gateway() });
        assert_eq!(lease.deregister(LIMIT).await.unwrap(), Some(Version(10)));
    };
    tokio::join!(serve, leave);
    assert_eq!(stream.request().await.beats, []);
    running.stop().await;
}

#[tokio::test]
async fn without_a_registry_a_drain_ends_by_its_bound() {
    let mut fake = Fake::start().await;
    let running = Running::start(fake.registries());
    let mut lease = running.leases.hold(instance());
    let _stream = fake.keep_alive().await;
    grant(&mut fake, 5).await;
    state(&mut lease, LeaseState::Held { epoch: Epoch(5) }).await;
    fake.kill();
    let (short, hour) = (Duration::from_millis(300), Duration::from_secs(3_600));
    {
        // Were the bound one of its own, those that begin later would outlast the one that began first.
        let mut long = pin!(lease.drain(hour));
        for _ in 0..3 {
            tokio::select! {
                biased; // so that the long one is asked each time
                ended = &mut long => panic!("an hour is not over: {ended:?}"),
                drained = soon("the end of a drain", lease.drain(short)) => {
                    let by_itself = matches!(&drained, Err(CallError::OutOfReach { within, .. }) if *within == short);
                    assert!(by_itself, "nobody refused anything: {drained:?}");
                }
            }
        }
    }
    let gone = soon("the end of a deregistration", lease.deregister(short)).await;
    assert_eq!(gone.unwrap_err().code(), None::<Code>);
    running.stop().await;
}

#[tokio::test]
async fn the_owner_of_a_lease_learns_that_its_task_has_ended() {
    let mut fake = Fake::start().await;
    let running = Running::start(fake.registries());
    let mut lease = running.leases.hold(instance());
    let _stream = fake.keep_alive().await;
    grant(&mut fake, 5).await;
    state(&mut lease, LeaseState::Held { epoch: Epoch(5) }).await;
    running.stop().await;
    assert_eq!(soon("the end to be told", lease.changed()).await, None);
    assert_eq!(lease.state(), LeaseState::Held { epoch: Epoch(5) }, "which the registry does not know of yet");
}

#[tokio::test]
async fn a_deregistration_waits_for_a_registration_that_is_on_its_way() {
    let mut fake = Fake::start().await;
    let running = Running::start(fake.registries());
    let lease = running.leases.hold(instance());
    let _stream = fake.keep_alive().await;
    let on_its_way = fake.register().await;
    let mut leaving = JoinSet::from_iter([lease.deregister(Duration::from_secs(10))]);
    tokio::task::yield_now().await; // it has begun
    let id = instance().id.to_string();
    let lease = pb::Lease { instance_id: id, epoch: 5, ttl_ms: 3_000, beat_every_ms: 1_000 };
    on_its_way.answer(Ok(pb::RegisterResponse { lease: Some(lease) }));
    let gone = soon("a deregistration", fake.deregisters.recv()).await.unwrap();
    assert_eq!(gone.request.epoch, 5);
    gone.answer(Ok(pb::DeregisterResponse { version: 9 }));
    let left = soon("the deregistration to end", leaving.join_next()).await.unwrap().unwrap();
    assert_eq!(left.unwrap(), Some(Version(9)));
    running.stop().await;
}
