//! Endpoints by mutual TLS: who is met, who is refused and how the caller learns of it, what becomes of connections when certificates change.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use http_body_util::BodyExt;
use weft_identity::{Bundle, Identity, Revocations};
use weft_testkit::authority::{Authority, HOUR, Hand};
use weft_traffic::{Body, Code, ConnectError, Error};

use crate::{
    mesh::{GET, Mesh, POST, read, request, until},
    upstream::{Call, Settings, Upstream, ok, send},
};

async fn serving(identity: &Identity) -> Upstream {
    Upstream::start_with(Settings { identity: Some(identity.clone()), ..Settings::default() }, Call::echo).await
}

/// Calls once and returns the rule by which the connection was refused, having checked that the caller is told.
async fn refused(mesh: &Mesh) -> &'static str {
    let error = mesh.call(POST, Body::full("x")).await.unwrap_err();
    let Error::Connect { source, .. } = &error else { panic!("{error:?}") };
    let rule = source.rule().unwrap_or_else(|| panic!("{source:?}"));
    let response = error.to_response();
    assert_eq!(Code::from_headers(response.headers()), Some(Code::Unavailable));
    let message = response.headers()["grpc-message"].to_str().unwrap();
    let told = match &**source {
        ConnectError::RefusedByPeer { alert } => alert.as_str(),
        _ => rule,
    };
    assert!(message.contains(told) || rule == "no_identity", "{message}");
    assert!(mesh.counted(&format!("weft_test_upstream_refusals_total{{rule=\"{rule}\"}}")) >= 1, "{rule}");
    rule
}

#[tokio::test]
async fn the_right_peer_is_met_and_calls_pass() {
    let ca = Authority::new("weft.local", &Hand::running());
    let (users, posts) = (ca.identity("users", HOUR), ca.identity("posts", HOUR));
    let server = serving(&users).await;
    let mesh = Mesh::secured(Some(posts), &ca.id("users"), [server.address]);
    let calls: FuturesUnordered<_> = (0..50).map(|_| mesh.call(POST, Body::full("hello"))).collect();
    assert!(calls.all(async |answer| answer.unwrap().body == "hello").await);
    assert_eq!((server.connections(), mesh.pool.connections()), (1, 1), "they share one handshake");
}

#[tokio::test]
async fn a_peer_that_may_not_be_called_is_refused_by_its_rule() {
    let hand = Hand::running();
    let (ours, theirs) = (Authority::new("weft.local", &hand), Authority::new("other.mesh", &hand));
    let forger = Authority::new("weft.local", &hand);
    let posts = ours.identity("posts", 9 * HOUR);
    let expected = ours.id("users");

    let (users, orders) = (ours.identity("users", HOUR), ours.identity("orders", HOUR));
    let (stranger, forged) = (theirs.identity("users", HOUR), forger.identity("users", HOUR));
    let call = async |server: &Identity| {
        let server = serving(server).await;
        let mesh = Mesh::secured(Some(posts.clone()), &expected, [server.address]);
        let rule = refused(&mesh).await;
        assert_eq!(server.calls(), 0, "{rule}: no call reaches it");
        rule
    };
    assert_eq!(call(&orders).await, "wrong_identity");
    assert_eq!(call(&stranger).await, "foreign_trust_domain");
    assert_eq!(call(&forged).await, "unknown_authority");
    ours.revoke(&posts, &users.svid().leaf().serial);
    assert_eq!(call(&users).await, "revoked");
    hand.advance(2 * HOUR);
    assert_eq!(call(&users).await, "expired");
}

/// In TLS 1.3 the client is done before the server has looked at its certificate: a call that went out then would be lost.
#[tokio::test]
async fn a_caller_that_the_peer_refuses_loses_no_call_and_learns_why() {
    let hand = Hand::running();
    let (ours, theirs) = (Authority::new("weft.local", &hand), Authority::new("other.mesh", &hand));
    let (users, other, posts) =
        (ours.identity("users", HOUR), ours.identity("users", HOUR), ours.identity("posts", HOUR));
    ours.revoke(&users, &posts.svid().leaf().serial);
    let (server, second) = (serving(&users).await, serving(&other).await);
    let mesh = Mesh::secured(Some(posts.clone()), &ours.id("users"), [server.address]);
    assert_eq!(refused(&mesh).await, "by_peer");
    let error = mesh.call(POST, Body::full("x")).await.unwrap_err();
    assert!(error.message().ends_with("CertificateRevoked"), "{}", error.message());
    assert_eq!((server.let_in(), server.calls()), (0, 0));

    let (patience, both) = (Duration::from_secs(10), [server.address, second.address]);
    let mesh = Mesh::secured_with(patience, Some(posts), &ours.id("users"), both);
    for _ in 0..20 {
        assert_eq!(mesh.call(POST, Body::full("x")).await.unwrap().code, Code::Ok, "it goes to one that lets it in");
    }

    let stranger = theirs.identity("posts", HOUR);
    stranger.trust().replace(ours.bundle(), Revocations::default()).unwrap();
    let mesh = Mesh::secured(Some(stranger), &ours.id("users"), [server.address]);
    assert_eq!(refused(&mesh).await, "by_peer");
}

#[tokio::test]
async fn a_process_without_an_identity_is_told_to_get_one() {
    let ca = Authority::new("weft.local", &Hand::running());
    let server = serving(&ca.identity("users", HOUR)).await;
    let mesh = Mesh::secured(None, &ca.id("users"), [server.address]);
    assert_eq!(refused(&mesh).await, "no_identity");
    let error = mesh.call(GET, Body::full("x")).await.unwrap_err();
    assert!(error.message().contains("no identity; start it with a token"), "{}", error.message());
    assert_eq!(server.connections(), 0, "nothing is dialled");
}

#[tokio::test]
async fn a_plaintext_server_behind_an_mtls_endpoint_gets_no_call() {
    let ca = Authority::new("weft.local", &Hand::running());
    let server = Upstream::start(Call::echo).await;
    let mesh = Mesh::secured(Some(ca.identity("posts", HOUR)), &ca.id("users"), [server.address]);
    let error = mesh.call(POST, Body::full("x")).await.unwrap_err();
    let Error::Connect { source, .. } = &error else { panic!("{error:?}") };
    assert!(matches!(**source, ConnectError::Tls(_)), "{source:?}");
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn a_revoked_peers_live_connection_is_cut_with_its_calls() {
    let ca = Authority::new("weft.local", &Hand::running());
    let (users, posts) = (ca.identity("users", HOUR), ca.identity("posts", HOUR));
    let settings = Settings { identity: Some(users.clone()), ..Settings::default() };
    let server = Upstream::start_with(settings, |mut call: Call| async move {
        let stream = call.headers().unwrap();
        call.stall_on(stream).await;
    })
    .await;
    let mesh = Mesh::secured(Some(posts.clone()), &ca.id("users"), [server.address]);
    let held = mesh.outbound.call(request(POST, Body::empty())).await.unwrap();
    ca.revoke(&posts, &users.svid().leaf().serial);
    assert_eq!(read(held).await.code, Code::Unavailable, "the call ends");
    until("the connection is closed", || server.open() == 0).await;
    assert_eq!(mesh.pool.connections(), 0);
    assert_eq!(refused(&mesh).await, "revoked");

    users.rotate(ca.svid("users", HOUR)).unwrap();
    until_called(&mesh).await;
}

#[tokio::test]
async fn a_root_that_goes_takes_its_connections_with_it() {
    let hand = Hand::running();
    let (old, new) = (Authority::new("weft.local", &hand), Authority::new("weft.local", &hand));
    let (users, posts) = (old.identity("users", HOUR), old.identity("posts", HOUR));
    let server = serving(&users).await;
    let mesh = Mesh::secured(Some(posts.clone()), &old.id("users"), [server.address]);
    mesh.call(GET, Body::full("x")).await.unwrap();
    posts.trust().replace(new.bundle(), Revocations::default()).unwrap();
    until("the connection is closed", || server.open() == 0).await;
    assert_eq!(refused(&mesh).await, "unknown_authority");
}

/// Opens a call and waits for its headers; the call stays.
async fn streaming(mesh: &Mesh) -> (weft_traffic::BodySender, Body) {
    let (sender, body) = Body::channel(1);
    let response = mesh.outbound.call(request(POST, body)).await.unwrap();
    (sender, response.into_body())
}

async fn answers(call: (weft_traffic::BodySender, Body)) {
    let (mut sender, body) = call;
    sender.data("still here".into()).await.unwrap();
    drop(sender);
    assert_eq!(body.collect().await.unwrap().to_bytes(), "still here");
}

async fn slow_echo(mut call: Call) {
    let mut stream = call.headers().unwrap();
    let Some(body) = call.body().await else { return };
    send(&mut stream, body).await;
    ok(stream);
}

#[tokio::test]
async fn a_rotation_opens_the_next_connection_before_it_leaves_the_old_one_whose_calls_finish() {
    let ca = Authority::new("weft.local", &Hand::running());
    let (users, posts) = (ca.identity("users", HOUR), ca.identity("posts", HOUR));
    let settings = Settings { identity: Some(users), ..Settings::default() };
    let server = Upstream::start_with(settings, slow_echo).await;
    let mesh = Mesh::secured(Some(posts.clone()), &ca.id("users"), [server.address]);
    let call = streaming(&mesh).await;
    posts.rotate(ca.svid("posts", HOUR)).unwrap();
    // Nobody calls, and there is another connection all the same.
    until_within(Duration::from_secs(20), "the next connection, alone in the pool", || {
        server.let_in() == 2 && mesh.pool.connections() == 1
    })
    .await;
    assert_eq!(server.open(), 2, "the old one carries a call");
    mesh.call(GET, Body::full("x")).await.unwrap();
    assert_eq!(server.connections(), 2, "the call found it open");
    answers(call).await;
    until("the old one is closed", || server.open() == 1).await;
}

#[tokio::test]
async fn a_peer_that_renews_is_met_anew_before_its_old_certificate_runs_out() {
    let ca = Authority::new("weft.local", &Hand::running());
    let (users, posts) = (ca.identity("users", 10 * Duration::from_secs(1)), ca.identity("posts", HOUR));
    let server = serving(&users).await;
    let mesh = Mesh::secured(Some(posts), &ca.id("users"), [server.address]);
    mesh.call(GET, Body::full("x")).await.unwrap();
    users.rotate(ca.svid("users", HOUR)).unwrap();
    ca.hand.advance(Duration::from_secs(8));
    until_within(Duration::from_secs(40), "the next connection, alone in the pool", || {
        server.let_in() >= 2 && server.open() == 1 && mesh.pool.connections() == 1
    })
    .await;
    ca.hand.advance(Duration::from_secs(60));
    mesh.call(GET, Body::full("x")).await.unwrap();
}

#[tokio::test]
async fn an_expired_peer_gets_no_new_call_and_finishes_those_it_has() {
    let ca = Authority::new("weft.local", &Hand::running());
    let (users, posts) = (ca.identity("users", HOUR), ca.identity("posts", 9 * HOUR));
    let settings = Settings { identity: Some(users.clone()), ..Settings::default() };
    let server = Upstream::start_with(settings, slow_echo).await;
    let mesh = Mesh::secured(Some(posts.clone()), &ca.id("users"), [server.address]);
    let (first, second) = (streaming(&mesh).await, streaming(&mesh).await);
    ca.hand.advance(2 * HOUR);
    // The clock of this test jumps: a change of trust makes everybody look at it.
    posts
        .trust()
        .replace(ca.bundle(), Revocations { serials: ["01f0".parse().unwrap()].into(), ..Default::default() })
        .unwrap();
    until("the connection takes no calls", || mesh.pool.connections() == 0).await;
    assert_eq!(refused(&mesh).await, "expired");
    answers(first).await;
    ca.revoke(&posts, &users.svid().leaf().serial);
    let trailers = second.1.collect().await.unwrap().trailers().cloned().unwrap();
    assert_eq!(Code::from_headers(&trailers), Some(Code::Unavailable), "revoked beats expired: the rest is cut");
}

/// 500 calls while certificates of both sides and the root are replaced all the time.
#[tokio::test]
async fn calls_across_rotations_of_both_sides_and_of_the_root_lose_nothing() {
    let hand = Hand::running();
    let (old, new) = (Authority::new("weft.local", &hand), Authority::new("weft.local", &hand));
    let life = Duration::from_secs(5);
    let (users, posts) = (old.identity("users", life), old.identity("posts", life));
    let server = serving(&users).await;
    let mesh = Mesh::secured(Some(posts.clone()), &old.id("users"), [server.address]);
    let done = AtomicBool::new(false);
    let rotating = async {
        let both = || {
            let roots = [old.bundle().roots(), new.bundle().roots()].concat();
            Bundle::new(old.bundle().domain().clone(), roots).unwrap()
        };
        for side in [&users, &posts] {
            side.trust().replace(both(), Revocations::default()).unwrap();
        }
        for turn in 0.. {
            if done.load(SeqCst) {
                return turn;
            }
            let signs = if turn < 6 { &old } else { &new };
            users.rotate(signs.svid("users", life)).unwrap();
            posts.rotate(signs.svid("posts", life)).unwrap();
            if turn == 12 {
                for side in [&users, &posts] {
                    side.trust().replace(new.bundle(), Revocations::default()).unwrap();
                }
            }
            tokio::time::sleep(life / 20).await;
        }
        unreachable!("it rotates until the calls are done")
    };
    let calling = async {
        let (mut all, mut sent, mut every) =
            (FuturesUnordered::new(), 0, tokio::time::interval(Duration::from_millis(10)));
        while sent < 500 || !all.is_empty() {
            tokio::select! {
                _ = every.tick(), if sent < 500 => {
                    all.push(mesh.call(POST, Body::full("x")));
                    sent += 1;
                }
                Some(answer) = all.next() => assert_eq!(answer.unwrap().code, Code::Ok),
            }
        }
        done.store(true, SeqCst);
    };
    let (turns, ()) = tokio::join!(rotating, calling);
    assert_eq!(server.calls(), 500, "nothing ran twice");
    assert!(turns > 15 && server.let_in() > 5, "{turns} rotations, {} connections", server.let_in());
}

#[tokio::test]
async fn a_pool_that_finishes_leaves_no_keeper_behind() {
    let ca = Authority::new("weft.local", &Hand::running());
    let server = serving(&ca.identity("users", HOUR)).await;
    let mesh = Mesh::secured(Some(ca.identity("posts", HOUR)), &ca.id("users"), [server.address]);
    mesh.call(GET, Body::full("x")).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), mesh.pool.finish()).await.expect("no task is left");
    until("the connection is closed", || server.open() == 0).await;
}

async fn until_called(mesh: &Mesh) {
    let called = tokio::time::timeout(Duration::from_secs(20), async {
        while mesh.outbound.call(request(GET, Body::empty())).await.is_err() {}
    });
    assert!(called.await.is_ok(), "it is called again");
}

async fn until_within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(limit, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}
