//! Certificates and roots change while calls go on; sessions never outlive what they were made of.

use std::time::Duration;

use rustls::HandshakeKind;
use tokio::time::Instant;
use weft_identity::{Bundle, Callers, KeyRequest, Refusal, Revocations, Svid};
use weft_testkit::authority::{Authority, HOUR, Hand};

use crate::calls::{Failed, call, meet};

#[tokio::test]
async fn a_second_connection_resumes_and_still_knows_its_peer() {
    let ca = Authority::new("weft.local", &Hand::default());
    let (users, posts) = (ca.identity("users", HOUR), ca.identity("posts", HOUR));
    let (_, kind) = call(&users, Callers::MustShow, &posts, &ca.id("users")).await.good();
    assert_eq!(kind, HandshakeKind::Full);
    let (peer, kind) = call(&users, Callers::MustShow, &posts, &ca.id("users")).await.good();
    assert_eq!((peer.unwrap().id(), kind), (&ca.id("posts"), HandshakeKind::Resumed));
}

#[tokio::test]
async fn a_session_is_not_resumed_across_a_rotation_of_either_side() {
    let ca = Authority::new("weft.local", &Hand::default());
    let (users, posts) = (ca.identity("users", HOUR), ca.identity("posts", HOUR));
    for rotated in [&users, &posts] {
        call(&users, Callers::MustShow, &posts, &ca.id("users")).await.good();
        let service = if rotated.id() == ca.id("users") { "users" } else { "posts" };
        rotated.rotate(ca.svid(service, HOUR)).unwrap();
        let (peer, kind) = call(&users, Callers::MustShow, &posts, &ca.id("users")).await.good();
        assert_eq!(kind, HandshakeKind::Full, "after a rotation of {service}");
        assert_eq!(peer.unwrap().leaf, *posts.svid().leaf(), "the newest certificate is shown");
    }
}

#[tokio::test]
async fn a_session_is_not_resumed_for_another_identity() {
    let ca = Authority::new("weft.local", &Hand::default());
    let (users, posts) = (ca.identity("users", HOUR), ca.identity("posts", HOUR));
    call(&users, Callers::MustShow, &posts, &ca.id("users")).await.good();
    let met = call(&users, Callers::MustShow, &posts, &ca.id("orders")).await;
    assert_eq!(met.rule(), "wrong_identity");
}

/// rustls does not verify a resumed peer: it would let a certificate in that has run out or was revoked since.
#[tokio::test]
async fn a_resumed_peer_is_judged_anew_by_both_sides() {
    let ca = Authority::new("weft.local", &Hand::default());
    let (users, posts) = (ca.identity("users", 3 * HOUR), ca.identity("posts", HOUR));
    call(&users, Callers::MustShow, &posts, &ca.id("users")).await.good();
    ca.hand.advance(HOUR + Duration::from_secs(2));
    let met = call(&users, Callers::MustShow, &posts, &ca.id("users")).await;
    assert!(matches!(met.server, Err(Failed::Refused(Refusal::Expired { .. }))), "{:?}", met.server);

    let (users, posts) = (ca.identity("users", HOUR), ca.identity("posts", 3 * HOUR));
    call(&users, Callers::MustShow, &posts, &ca.id("users")).await.good();
    ca.hand.advance(HOUR + Duration::from_secs(2));
    let met = call(&users, Callers::MustShow, &posts, &ca.id("users")).await;
    assert!(matches!(met.client, Err(Failed::Refused(Refusal::Expired { .. }))), "{:?}", met.client);
}

/// Configs held for longer than they should be: the tickets of before the revocation still work, the check after the handshake does not let them.
#[tokio::test]
async fn an_old_config_does_not_let_a_revoked_peer_in() {
    let ca = Authority::new("weft.local", &Hand::default());
    let (users, posts) = (ca.identity("users", HOUR), ca.identity("posts", HOUR));
    let (accept, dial) = (users.server_config(Callers::MustShow), posts.client_config(&ca.id("users")));
    let (peer, _) = meet(&users, accept.clone(), dial.clone(), Some(&posts)).await.good();
    let revoked = Revocations { serials: [peer.unwrap().leaf.serial].into(), ..Revocations::default() };
    users.trust().replace(ca.bundle(), revoked).unwrap();
    let met = meet(&users, accept, dial, Some(&posts)).await;
    assert!(matches!(met.server, Err(Failed::Refused(Refusal::Revoked))), "{:?}", met.server);
}

#[tokio::test]
async fn certificates_rotate_every_few_calls_and_none_fails() {
    let ca = Authority::new("weft.local", &Hand::default());
    let life = Duration::from_secs(4);
    let (users, posts) = (ca.identity("users", life), ca.identity("posts", life));
    let (mut calls, until) = (0u32, Instant::now() + Duration::from_secs(2));
    while Instant::now() < until {
        for _ in 0..5 {
            call(&users, Callers::MustShow, &posts, &ca.id("users")).await.good();
            calls += 1;
        }
        ca.hand.advance(life / 2);
        users.rotate(ca.svid("users", life)).unwrap();
        posts.rotate(ca.svid("posts", life)).unwrap();
    }
    assert!(calls >= 50 && users.rotations() >= 10, "{calls} calls, {} rotations", users.rotations());
}

#[tokio::test]
async fn a_root_is_replaced_with_overlap_and_no_call_fails() {
    let hand = Hand::default();
    let (old, new) = (Authority::new("weft.local", &hand), Authority::new("weft.local", &hand));
    let (users, posts) = (old.identity("users", HOUR), old.identity("posts", HOUR));
    let id = old.id("users");
    let both = || Bundle::new(old.domain.clone(), [old.root.clone(), new.root.clone()]).unwrap();
    let good = async || drop(call(&users, Callers::MustShow, &posts, &id).await.good());

    good().await;
    users.trust().replace(both(), Revocations::default()).unwrap(); // published, one process at a time
    good().await;
    posts.trust().replace(both(), Revocations::default()).unwrap();
    good().await;
    posts.rotate(new.svid("posts", HOUR)).unwrap(); // signs, one process at a time
    good().await;
    users.rotate(new.svid("users", HOUR)).unwrap();
    good().await;
    for side in [&posts, &users] {
        side.trust().replace(new.bundle(), Revocations::default()).unwrap(); // the old one leaves
        good().await;
    }
    posts.rotate(old.svid("posts", HOUR)).unwrap();
    assert_eq!(call(&users, Callers::MustShow, &posts, &id).await.rule(), "unknown_authority");
}

#[tokio::test]
async fn who_waits_for_a_change_is_woken_by_one() {
    let ca = Authority::new("weft.local", &Hand::default());
    let users = ca.identity("users", HOUR);
    let (rotations, revision) = (users.rotations(), users.trust().revision());
    users.trust().replace(ca.bundle(), Revocations::default()).unwrap();
    assert_eq!(users.trust().revision(), revision, "the same bundle is no change");
    tokio::join!(users.rotated_since(rotations), async { users.rotate(ca.svid("users", HOUR)).unwrap() });
    let revoked = Revocations { serials: ["01".parse().unwrap()].into(), ..Revocations::default() };
    tokio::join!(users.trust().changed_since(revision), async {
        users.trust().replace(ca.bundle(), revoked).unwrap();
    });
}

#[test]
fn a_request_asks_for_no_name_and_never_shows_its_key() {
    let request = KeyRequest::generate().unwrap();
    assert_eq!(format!("{request:?}"), "KeyRequest { .. }");
    let parsed = rcgen::CertificateSigningRequestParams::from_der(&request.csr().to_vec().into()).unwrap();
    assert!(parsed.params.subject_alt_names.is_empty());
    let ca = Authority::new("weft.local", &Hand::default());
    let (leaf, _) = ca.sign(&ca.leaf("users", HOUR));
    assert!(request.complete(vec![leaf]).is_err(), "signed for another key");
    assert!(matches!(Svid::new(vec![], ca.sign(&ca.leaf("x", HOUR)).1), Err(weft_identity::BadSvid::Empty)));
}
