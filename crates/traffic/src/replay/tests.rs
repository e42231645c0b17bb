//! The body of a call over several attempts, without a network.

use http_body_util::BodyExt;

use super::*;

async fn next(body: &mut SendBody) -> Option<Result<Frame<Bytes>, BodyError>> {
    body.frame().await
}

async fn data(body: &mut SendBody) -> String {
    let frame = next(body).await.expect("a frame").expect("no error");
    String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text")
}

async fn rest(body: &mut SendBody) -> (String, Option<HeaderMap>) {
    let (mut text, mut trailers) = (String::new(), None);
    while let Some(frame) = next(body).await {
        match frame.expect("no error").into_data() {
            Ok(bytes) => text.push_str(std::str::from_utf8(&bytes).expect("text")),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    (text, trailers)
}

#[tokio::test]
async fn a_body_that_is_all_there_is_kept_whole() {
    let replay = Replay::of(Body::full("hello")).await;
    assert!(matches!(&replay, Replay::Whole(bytes) if bytes == "hello"));
    for _ in 0..3 {
        assert_eq!(rest(&mut replay.attempt()).await.0, "hello");
    }
    assert!(matches!(Replay::of(Body::empty()).await, Replay::Empty));
}

#[tokio::test]
async fn several_chunks_and_trailers_are_sent_again() {
    let (mut sender, body) = Body::channel(8);
    for chunk in ["a", "b", "c"] {
        sender.data(Bytes::from(chunk)).await.unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x", http::HeaderValue::from_static("1"));
    sender.trailers(trailers.clone()).await.unwrap();
    let replay = Replay::of(body).await;
    for _ in 0..3 {
        assert_eq!(rest(&mut replay.attempt()).await, ("abc".into(), Some(trailers.clone())));
        assert!(replay.can_repeat());
    }
}

#[tokio::test]
async fn an_attempt_may_switch_midway_while_the_client_still_sends() {
    let (mut sender, body) = Body::channel(1);
    let replay = Replay::of(body).await;
    let mut first = replay.attempt();
    sender.data(Bytes::from("a")).await.unwrap();
    assert_eq!(data(&mut first).await, "a");
    let mut second = replay.attempt();
    assert!(next(&mut first).await.unwrap().is_err(), "the attempt before is told to stop");
    assert_eq!(data(&mut second).await, "a");
    sender.data(Bytes::from("b")).await.unwrap();
    assert_eq!(data(&mut second).await, "b");
    drop(sender);
    assert!(next(&mut second).await.is_none());
    assert_eq!(rest(&mut replay.attempt()).await.0, "ab");
}

#[tokio::test]
async fn past_the_cap_it_only_passes_through() {
    let (mut sender, body) = Body::channel(8);
    let chunk = Bytes::from(vec![b'x'; CAP / 2]);
    let replay = Replay::of(body).await;
    let mut attempt = replay.attempt();
    for _ in 0..2 {
        sender.data(chunk.clone()).await.unwrap();
        data(&mut attempt).await;
    }
    assert!(replay.can_repeat(), "exactly the cap");
    sender.data(Bytes::from("y")).await.unwrap();
    data(&mut attempt).await;
    assert!(!replay.can_repeat());
    sender.data(Bytes::from("z")).await.unwrap();
    assert_eq!(data(&mut attempt).await, "z");
}

#[tokio::test]
async fn one_piece_beyond_the_cap_can_go_again_only_until_it_was_read() {
    let replay = Replay::of(Body::full(vec![b'x'; CAP + 1])).await;
    let unread = replay.attempt();
    assert!(replay.can_repeat());
    drop(unread);
    let mut attempt = replay.attempt();
    assert_eq!(data(&mut attempt).await.len(), CAP + 1);
    assert!(!replay.can_repeat());
    assert!(attempt.is_end_stream() || next(&mut attempt).await.is_none());
}

#[tokio::test]
async fn after_commit_the_rest_flows_and_abandon_ends_it() {
    let (mut sender, body) = Body::channel(1);
    let replay = Replay::of(body).await;
    let mut attempt = replay.attempt();
    sender.data(Bytes::from("a")).await.unwrap();
    assert_eq!(data(&mut attempt).await, "a");
    let shared = replay.commit().unwrap();
    sender.data(Bytes::from("b")).await.unwrap();
    assert_eq!(data(&mut attempt).await, "b");
    let waiting = next(&mut attempt);
    shared.abandon();
    assert!(waiting.await.unwrap().is_err());
    assert!(sender.data(Bytes::from("c")).await.is_err(), "the client's side is closed");
}

#[tokio::test]
async fn a_client_that_breaks_off_is_no_body_to_repeat() {
    let (sender, body) = Body::channel(1);
    let replay = Replay::of(body).await;
    sender.fail("gone");
    assert!(next(&mut replay.attempt()).await.unwrap().is_err());
    assert!(replay.client_left() && !replay.can_repeat());
}

proptest::proptest! {
    #[test]
    fn every_attempt_within_the_cap_sends_the_same_bytes(chunks in proptest::collection::vec(0_usize..9_000, 0..12), cuts in proptest::collection::vec(0_usize..12, 0..4)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut sender, body) = Body::channel(16);
            let mut whole = String::new();
            for (n, size) in chunks.iter().enumerate() {
                let chunk = char::from(b'a' + n as u8).to_string().repeat(*size);
                whole.push_str(&chunk);
                sender.data(Bytes::from(chunk)).await.unwrap();
            }
            drop(sender);
            let replay = Replay::of(body).await;
            for cut in cuts {
                let mut attempt = replay.attempt();
                for _ in 0..cut {
                    if next(&mut attempt).await.is_none() {
                        break;
                    }
                }
                if !replay.can_repeat() {
                    assert!(whole.len() > CAP);
                    return;
                }
            }
            assert_eq!(rest(&mut replay.attempt()).await.0, whole);
        });
    }
}
