//! Every refusal has its rule, on the side that refuses, and its alert, on the side refused.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyUsagePurpose, SanType};
use weft_identity::{BadSvid, Bundle, Callers, Identity, Leaf, Refusal, Revocations, RootPin, Svid, bootstrap_config};
use weft_testkit::authority::{Authority, HOUR, Hand};

use crate::calls::{Failed, call, meet};

#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let ca = Authority::new("weft.local", &Hand::default());
    let (users, posts) = (ca.identity("users", HOUR), ca.identity("posts", HOUR));
    let (peer, _) = call(&users, Callers::MustShow, &posts, &ca.id("users")).await.good();
    assert_eq!(peer.unwrap().id(), &ca.id("posts"));
}

#[tokio::test]
async fn a_caller_without_a_certificate_is_refused_or_anonymous() {
    let ca = Authority::new("weft.local", &Hand::default());
    let users = ca.identity("users", HOUR);
    // A chain that carries its root, as a registry's does: the pin finds it.
    let (leaf, key) = ca.sign(&ca.leaf("users", HOUR));
    users.rotate(Svid::new(vec![leaf, ca.root.clone()], key).unwrap()).unwrap();
    let nobody = || bootstrap_config(RootPin::of(&ca.root), &ca.id("users"), &ca.hand.clock());

    let met = meet(&users, users.server_config(Callers::MustShow), nobody(), None).await;
    assert_eq!(met.rule(), "no_certificate");
    assert!(
        matches!(&met.client, Err(Failed::ByPeer(Some(alert))) if alert == "CertificateRequired"),
        "{:?}",
        met.client
    );

    let (peer, _) = meet(&users, users.server_config(Callers::MayShow), nobody(), None).await.good();
    assert!(peer.is_none());
}

#[tokio::test]
async fn a_foreign_trust_domain_is_refused_by_both_sides() {
    let hand = Hand::default();
    let (ours, theirs) = (Authority::new("weft.local", &hand), Authority::new("other.mesh", &hand));
    let (users, stranger) = (ours.identity("users", HOUR), theirs.identity("users", HOUR));
    let met = call(&users, Callers::MustShow, &stranger, &theirs.id("users")).await;
    assert_eq!(met.rule(), "foreign_trust_domain");
    assert!(
        matches!(&met.client, Err(Failed::Refused(Refusal::ForeignTrustDomain { id, .. })) if *id == ours.id("users"))
    );

    // The client is lenient, the server is not, even where certificates are optional.
    let trusting = Identity::new(theirs.svid("users", HOUR), theirs.trust()).unwrap();
    trusting.trust().replace(ours.bundle(), Revocations::default()).unwrap();
    let met = call(&users, Callers::MayShow, &trusting, &ours.id("users")).await;
    assert!(
        matches!(&met.server, Err(Failed::Refused(Refusal::ForeignTrustDomain { id, .. })) if *id == theirs.id("users"))
    );
    assert!(matches!(&met.client, Err(Failed::ByPeer(_))));
}

#[tokio::test]
async fn the_same_trust_domain_under_another_root_is_refused() {
    let hand = Hand::default();
    let (real, fake) = (Authority::new("weft.local", &hand), Authority::new("weft.local", &hand));
    let (users, forged) =
        (real.identity("users", HOUR), Identity::new(fake.svid("posts", HOUR), real.trust()).unwrap());
    let met = call(&users, Callers::MustShow, &forged, &real.id("users")).await;
    assert_eq!(met.rule(), "unknown_authority");
    assert!(matches!(&met.client, Err(Failed::ByPeer(Some(alert))) if alert == "UnknownCA"), "{:?}", met.client);
}

#[tokio::test]
async fn an_expired_certificate_is_refused_and_its_owner_is_told() {
    let ca = Authority::new("weft.local", &Hand::default());
    let (users, posts) = (ca.identity("users", 3 * HOUR), ca.identity("posts", HOUR));
    ca.hand.advance(2 * HOUR);
    let met = call(&users, Callers::MustShow, &posts, &ca.id("users")).await;
    assert_eq!(met.rule(), "expired");
    assert!(
        matches!(&met.client, Err(Failed::ByPeer(Some(alert))) if alert == "CertificateExpired"),
        "{:?}",
        met.client
    );
    let met = call(&posts, Callers::MustShow, &users, &ca.id("posts")).await;
    assert!(matches!(&met.client, Err(Failed::Refused(Refusal::Expired { .. }))), "{:?}", met.client);
}

#[tokio::test]
async fn a_certificate_from_the_future_is_refused() {
    let ca = Authority::new("weft.local", &Hand::default());
    let users = ca.identity("users", HOUR);
    let mut early = ca.leaf("posts", 2 * HOUR);
    early.not_before = (ca.hand.now() + HOUR).into();
    let (leaf, key) = ca.sign(&early);
    let posts = Identity::new(Svid::new(vec![leaf], key).unwrap(), ca.trust()).unwrap();
    assert_eq!(call(&users, Callers::MustShow, &posts, &ca.id("users")).await.rule(), "not_yet_valid");
}

#[tokio::test]
async fn a_revoked_peer_is_refused_from_the_moment_of_its_revocation() {
    let ca = Authority::new("weft.local", &Hand::default());
    let (users, posts) = (ca.identity("users", HOUR), ca.identity("posts", HOUR));
    let (peer, _) = call(&users, Callers::MustShow, &posts, &ca.id("users")).await.good();
    let revoked = Revocations { serials: [peer.unwrap().leaf.serial].into(), ..Revocations::default() };
    users.trust().replace(ca.bundle(), revoked).unwrap();
    let met = call(&users, Callers::MustShow, &posts, &ca.id("users")).await;
    assert_eq!(met.rule(), "revoked");
    assert!(
        matches!(&met.client, Err(Failed::ByPeer(Some(alert))) if alert == "CertificateRevoked"),
        "{:?}",
        met.client
    );

    posts.rotate(ca.svid("posts", HOUR)).unwrap();
    call(&users, Callers::MustShow, &posts, &ca.id("users")).await.good();
}

#[tokio::test]
async fn an_endpoint_that_is_somebody_else_is_refused_by_name() {
    let ca = Authority::new("weft.local", &Hand::default());
    let (users, posts) = (ca.identity("users", HOUR), ca.identity("posts", HOUR));
    let met = call(&users, Callers::MustShow, &posts, &ca.id("orders")).await;
    let Err(Failed::Refused(Refusal::WrongIdentity { expected, presented })) = met.client else {
        panic!("{:?}", met.client);
    };
    assert_eq!((expected, presented), (ca.id("orders"), ca.id("users")));
}

#[tokio::test]
async fn a_registry_that_does_not_show_the_pinned_root_is_refused() {
    let hand = Hand::default();
    let (real, fake) = (Authority::new("weft.local", &hand), Authority::new("weft.local", &hand));
    let impostor = fake.identity("registry.weft", HOUR);
    let pinned = bootstrap_config(RootPin::of(&real.root), &real.id("registry.weft"), &hand.clock());
    let met = meet(&impostor, impostor.server_config(Callers::MayShow), pinned, None).await;
    assert_eq!(met.rule(), "wrong_root");
    assert!(met.server.is_err());
}

/// The pinned root is no secret: an impostor can put it into its chain. It does not help.
#[tokio::test]
async fn showing_the_pinned_root_without_its_signature_does_not_help() {
    let hand = Hand::default();
    let (real, fake) = (Authority::new("weft.local", &hand), Authority::new("weft.local", &hand));
    let (leaf, key) = fake.sign(&fake.leaf("registry.weft", HOUR));
    let svid = Svid::new(vec![leaf, fake.root.clone(), real.root.clone()], key).unwrap();
    let impostor = Identity::new(svid, fake.trust()).unwrap();
    let pinned = bootstrap_config(RootPin::of(&real.root), &real.id("registry.weft"), &hand.clock());
    let met = meet(&impostor, impostor.server_config(Callers::MayShow), pinned, None).await;
    assert_eq!(met.rule(), "unknown_authority");
}

/// Anyone who has an SVID can put the real root into the chain; the name is what makes a registry.
#[tokio::test]
async fn a_service_cannot_play_the_registry() {
    let ca = Authority::new("weft.local", &Hand::default());
    let (leaf, key) = ca.sign(&ca.leaf("users", HOUR));
    let users = Identity::new(Svid::new(vec![leaf, ca.root.clone()], key).unwrap(), ca.trust()).unwrap();
    let pinned = bootstrap_config(RootPin::of(&ca.root), &ca.id("registry.weft"), &ca.hand.clock());
    let met = meet(&users, users.server_config(Callers::MayShow), pinned, None).await;
    assert_eq!(met.rule(), "wrong_identity");
}

#[test]
fn a_leaf_that_breaks_a_rule_of_x509_svid_is_no_svid() {
    let ca = Authority::new("weft.local", &Hand::default());
    let problem = |spoil: &dyn Fn(&mut CertificateParams)| {
        let mut leaf = ca.leaf("users", HOUR);
        spoil(&mut leaf);
        match Leaf::read(&ca.sign(&leaf).0) {
            Err(Refusal::NotAnSvid { problem }) => problem,
            other => panic!("{other:?}"),
        }
    };
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    assert!(problem(&|l| l.subject_alt_names.clear()).contains("exactly one URI"));
    assert!(problem(&|l| l.subject_alt_names.push(uri("spiffe://weft.local/x"))).contains("exactly one URI"));
    assert!(problem(&|l| l.subject_alt_names = vec![SanType::DnsName("users".try_into().unwrap())]).contains("URI"));
    assert!(problem(&|l| l.subject_alt_names = vec![uri("https://users")]).contains("spiffe://"));
    assert!(problem(&|l| l.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)).contains("CA"));
    assert!(problem(&|l| l.key_usages.clear()).contains("no key usage"));
    assert!(problem(&|l| l.key_usages = vec![KeyUsagePurpose::KeyEncipherment]).contains("digital signatures"));
    assert!(problem(&|l| l.key_usages.push(KeyUsagePurpose::KeyCertSign)).contains("sign certificates"));

    let mut both = ca.leaf("users", HOUR);
    both.subject_alt_names.push(SanType::DnsName("users.local".try_into().unwrap()));
    assert_eq!(Leaf::read(&ca.sign(&both).0).unwrap().id, ca.id("users"), "a DNS name beside the URI is allowed");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let ca = Authority::new("weft.local", &Hand::default());
    let (leaf, _) = ca.sign(&ca.leaf("users", HOUR));
    let (_, other) = ca.sign(&ca.leaf("users", HOUR));
    assert!(matches!(Svid::new(vec![leaf], other), Err(BadSvid::Key(_))));
    let users = ca.identity("users", HOUR);
    assert!(matches!(users.rotate(ca.svid("posts", HOUR)), Err(BadSvid::OtherIdentity { .. })));
}

#[tokio::test]
async fn a_live_connections_owner_learns_when_its_peer_is_no_longer_welcome() {
    let ca = Authority::new("weft.local", &Hand::default());
    let (users, posts) = (ca.identity("users", HOUR), ca.identity("posts", HOUR));
    let peer = call(&users, Callers::MustShow, &posts, &ca.id("users")).await.good().0.unwrap();
    users.trust().judge(&peer).unwrap();

    let waiting = users.trust().refuses(&peer);
    let revoked = Revocations { serials: [peer.leaf.serial.clone()].into(), ..Revocations::default() };
    let (refusal, ()) = tokio::join!(waiting, async {
        tokio::task::yield_now().await;
        users.trust().replace(ca.bundle(), revoked).unwrap();
    });
    assert_eq!(refusal, Refusal::Revoked);

    users.trust().replace(ca.bundle(), Revocations::default()).unwrap();
    let other = Authority::new("weft.local", &ca.hand);
    users.trust().replace(Bundle::new(ca.domain.clone(), [other.root]).unwrap(), Revocations::default()).unwrap();
    assert_eq!(users.trust().refuses(&peer).await, Refusal::UnknownAuthority, "its root has left the bundle");
}

#[tokio::test(start_paused = true)]
async fn a_live_connections_owner_learns_of_its_peers_expiry() {
    let ca = Authority::new("weft.local", &Hand::default());
    let (users, posts) = (ca.identity("users", HOUR), ca.identity("posts", Duration::from_secs(90)));
    let peer = call(&users, Callers::MustShow, &posts, &ca.id("users")).await.good().0.unwrap();
    let turning = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            ca.hand.advance(Duration::from_secs(1));
        }
    };
    let started = tokio::time::Instant::now();
    let refusal = tokio::select! {
        refusal = users.trust().refuses(&peer) => refusal,
        () = turning => unreachable!("a clock does not stop"),
    };
    assert!(matches!(refusal, Refusal::Expired { .. }), "{refusal}");
    assert!((89..=93).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_expired_peer_is_refused_and_not_disowned_until_it_is_revoked() {
    let ca = Authority::new("weft.local", &Hand::default());
    let (users, posts) = (ca.identity("users", HOUR), ca.identity("posts", HOUR));
    let peer = call(&users, Callers::MustShow, &posts, &ca.id("users")).await.good().0.unwrap();
    ca.hand.advance(2 * HOUR);
    assert!(matches!(users.trust().refuses(&peer).await, Refusal::Expired { .. }));
    let mut disowned = std::pin::pin!(users.trust().disowns(&peer));
    assert!(tokio::time::timeout(Duration::from_millis(50), disowned.as_mut()).await.is_err());
    let revoked = Revocations { serials: [peer.leaf.serial.clone()].into(), ..Revocations::default() };
    users.trust().replace(ca.bundle(), revoked).unwrap();
    assert_eq!(disowned.await, Refusal::Revoked);

    users.trust().replace(ca.bundle(), Revocations::default()).unwrap();
    let other = Authority::new("weft.local", &ca.hand);
    users.trust().replace(Bundle::new(ca.domain.clone(), [other.root]).unwrap(), Revocations::default()).unwrap();
    assert_eq!(users.trust().disowns(&peer).await, Refusal::UnknownAuthority);
}

#[tokio::test(start_paused = true)]
async fn an_instant_of_the_wall_clock_is_waited_for_through_a_jump() {
    let ca = Authority::new("weft.local", &Hand::default());
    let trust = ca.trust();
    let (begun, at) = (tokio::time::Instant::now(), ca.hand.now() + HOUR);
    let jump = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        ca.hand.advance(HOUR);
    };
    tokio::join!(trust.reaches(at), jump);
    assert!(begun.elapsed() <= Duration::from_secs(31), "{:?}", begun.elapsed());
    trust.reaches(ca.hand.now()).await;
}
