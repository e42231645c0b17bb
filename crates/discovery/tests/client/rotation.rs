//! What lives on a connection to the registry when our certificate is replaced: the next connection is there before the old one is left.
//!
//! Lives here: the order of the move, over TLS, against a registry that the test plays. Does not: the real one (`identity`).

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use weft_discovery::LeaseState;
use weft_identity::{Identity, KeyRequest, Svid, Trust};
use weft_model::{Epoch, Status, Version};
use weft_proto::weft::registry::v1::verdict::Outcome;
use weft_registry::ca::{Ca, Settings};

use crate::fake::Fake;
use crate::leases::{self, beat, grant, instance, judge, state};
use crate::watch::{self, added, full, opened, users};

struct Authority {
    ca: Ca,
    _dir: TempDir,
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            dir: dir.path().to_owned(),
            trust_domain: "weft.local".parse().unwrap(),
            life: Duration::from_secs(3_600),
            advertise: Vec::new(),
            kubernetes: None,
        };
        Self { ca: Ca::open(&settings, Arc::new(weft_runtime::clock::wall)).unwrap(), _dir: dir }
    }

    fn svid(&self, service: &str) -> Svid {
        let (key, id) = (KeyRequest::generate().unwrap(), self.ca.domain().service(&service.parse().unwrap()));
        let issued = self.ca.sign(key.csr(), &id).unwrap();
        key.complete(issued.chain).unwrap()
    }

    fn identity(&self, service: &str) -> Identity {
        let trusted = self.ca.trusted();
        let trust = Trust::new(trusted.bundle, trusted.revocations, Arc::new(weft_runtime::clock::wall)).unwrap();
        Identity::new(self.svid(service), trust).unwrap()
    }
}

#[tokio::test]
async fn a_watch_moves_and_leaves_the_old_stream_when_the_new_one_has_its_word() {
    let authority = Authority::new();
    let us = authority.identity("gateway");
    let mut fake = Fake::start_as(&authority.identity("registry.weft")).await;
    let mut running = watch::Running::start(fake.secured(&us), &[users()], None);
    let mut old = opened(&mut fake).await;
    old.answer(full(7, &[1])).await;
    running.shows(&[1]).await;
    running.watch.ack(Version(7));
    assert_eq!(old.request().await.ack, 7);

    us.rotate(authority.svid("gateway")).unwrap();
    let mut new = opened(&mut fake).await;
    assert!(old.stays().await, "the new stream has said nothing yet");
    new.answer(full(8, &[1, 2])).await;
    running.shows(&[1, 2]).await;
    assert!(old.stays().await, "nothing of the new stream is acknowledged yet");
    running.watch.ack(Version(8));
    assert_eq!(new.request().await.ack, 8);
    old.left().await;

    new.answer(added(9, 8, 3)).await;
    running.shows(&[1, 2, 3]).await;
    assert!(fake.watches.try_recv().is_err(), "it has moved once");
    running.stop().await;
}

#[tokio::test]
async fn a_late_word_on_what_the_old_stream_said_does_not_end_it() {
    let authority = Authority::new();
    let us = authority.identity("gateway");
    let mut fake = Fake::start_as(&authority.identity("registry.weft")).await;
    let mut running = watch::Running::start(fake.secured(&us), &[users()], None);
    let mut old = opened(&mut fake).await;
    old.answer(full(7, &[1])).await;
    running.shows(&[1]).await;

    us.rotate(authority.svid("gateway")).unwrap();
    let mut new = opened(&mut fake).await;
    new.answer(full(8, &[1, 2])).await;
    running.shows(&[1, 2]).await;
    running.watch.ack(Version(7));
    assert_eq!(new.request().await.ack, 7);
    assert!(old.stays().await, "calls still go by what was said before the new stream");
    running.watch.ack(Version(8));
    assert_eq!(new.request().await.ack, 8);
    old.left().await;
    running.stop().await;
}

#[tokio::test]
async fn a_lease_moves_and_leaves_the_old_stream_when_it_is_renewed_on_the_new_one() {
    let authority = Authority::new();
    let us = authority.identity("users");
    let mut fake = Fake::start_as(&authority.identity("registry.weft")).await;
    let running = leases::Running::start(fake.secured(&us));
    let mut lease = running.leases.hold(instance());
    let mut old = fake.keep_alive().await;
    grant(&mut fake, 5).await;
    assert_eq!(beat(&mut old).await.epoch, 5);
    judge(&old, Outcome::Renewed).await;
    state(&mut lease, LeaseState::Held { epoch: Epoch(5) }).await;

    us.rotate(authority.svid("users")).unwrap();
    let mut new = fake.keep_alive().await;
    assert_eq!(beat(&mut new).await.epoch, 5, "the same lease, and nothing is registered");
    assert!(old.stays().await, "its end would start the grace of a lease that is not renewed elsewhere yet");
    judge(&new, Outcome::Renewed).await;
    old.left().await;

    lease.report(Status::Draining, "");
    assert_eq!(beat(&mut new).await.epoch, 5);
    assert_eq!(lease.state(), LeaseState::Held { epoch: Epoch(5) });
    assert!(fake.registers.try_recv().is_err() && fake.keep_alives.try_recv().is_err());
    running.stop().await;
}

#[tokio::test]
async fn a_stream_that_cannot_move_stays_where_it_is() {
    let authority = Authority::new();
    let (us, registry) = (authority.identity("gateway"), authority.identity("registry.weft"));
    let mut fake = Fake::start_as(&registry).await;
    let mut running = watch::Running::start(fake.secured(&us), &[users()], None);
    let mut old = opened(&mut fake).await;
    old.answer(full(7, &[1])).await;
    running.shows(&[1]).await;

    // A registry that trusts nobody of ours any more, for a while.
    let other = Authority::new().ca.trusted();
    let good = registry.trust().bundle();
    registry.trust().replace(other.bundle, other.revocations.clone()).unwrap();
    us.rotate(authority.svid("gateway")).unwrap();
    assert!(old.stays().await);
    old.answer(added(8, 7, 2)).await;
    running.shows(&[1, 2]).await;

    registry.trust().replace(good, other.revocations).unwrap();
    let new = opened(&mut fake).await;
    new.answer(full(9, &[3])).await;
    running.shows(&[3]).await;
    running.watch.ack(Version(9));
    old.left().await;
    running.stop().await;
}
