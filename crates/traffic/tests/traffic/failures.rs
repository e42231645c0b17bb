//! Endpoints that refuse, fail or break: what is sent again, what is not, and how often.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use h2::Reason;
use weft_traffic::{Body, Code, Error, OutboundConfig, Pings, PoolConfig, Retry};

use crate::{
    mesh::{GET, Mesh, POST, nobody, read, request, until},
    upstream::{Call, Settings, Upstream},
};

fn hello() -> Body {
    Body::full("hello")
}

#[tokio::test]
async fn a_refused_connect_goes_to_another_endpoint_and_is_out_of_picks() {
    let live = Upstream::start(Call::echo).await;
    let mesh = Mesh::of([nobody(), live.address]);
    for _ in 0..50 {
        let answered = mesh.call(POST, hello()).await.unwrap();
        assert_eq!((answered.code, &*answered.body), (Code::Ok, &b"hello"[..]));
    }
}

#[tokio::test]
async fn an_endpoint_that_accepts_and_closes_is_as_good_as_unreachable() {
    let closes = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closes.local_addr().unwrap();
    let live = Upstream::start(Call::echo).await;
    let mesh = Mesh::of([address, live.address]);
    let accepted = AtomicUsize::new(0);
    let close = async {
        loop {
            drop(closes.accept().await.unwrap());
            accepted.fetch_add(1, SeqCst);
        }
    };
    let calls = async {
        for _ in 0..30 {
            assert_eq!(mesh.call(GET, hello()).await.unwrap().code, Code::Ok);
        }
    };
    tokio::select! {
        () = calls => {}
        () = close => unreachable!("it never ends"),
    }
    // It rests after each; without that it would be met by half of the calls.
    assert!((1..8).contains(&accepted.load(SeqCst)), "{accepted:?}");
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_whatever_the_method() {
    let refuses = Upstream::start(|call: Call| async { call.refuse() }).await;
    let live = Upstream::start(Call::echo).await;
    let mesh = Mesh::of([refuses.address, live.address]);
    for _ in 0..50 {
        assert_eq!(mesh.call(POST, hello()).await.unwrap().code, Code::Ok);
    }
    assert_eq!(live.calls(), 50);
    assert!((1..10).contains(&refuses.calls()), "it rests after refusing: {}", refuses.calls());
}

#[tokio::test]
async fn a_service_that_refuses_for_a_while_costs_time_and_no_call() {
    let recovers =
        Upstream::start(|call: Call| async { if call.before < 3 { call.refuse() } else { call.echo().await } }).await;
    let mesh = Mesh::of([recovers.address]);
    assert_eq!(mesh.call(POST, hello()).await.unwrap().code, Code::Ok);
    assert_eq!(recovers.calls(), 4);
}

#[tokio::test]
async fn a_service_that_restarts_costs_time_and_no_call() {
    let address = nobody();
    let mesh = Mesh::of([address]);
    let restart = async {
        tokio::time::sleep(Duration::from_millis(300)).await; // the outage itself
        Upstream::start_on(address, Settings::default(), Call::echo).await
    };
    let calls: FuturesUnordered<_> = (0..20).map(|_| mesh.call(POST, hello())).collect();
    let (_restarted, answers) = tokio::join!(restart, calls.collect::<Vec<_>>());
    assert!(answers.into_iter().all(|a| a.unwrap().code == Code::Ok));
}

#[tokio::test]
async fn patience_ends_with_what_was_wrong() {
    let config = OutboundConfig { patience: Duration::from_millis(200), ..OutboundConfig::default() };
    let mesh = Mesh::with(PoolConfig::default(), config, [nobody()]);
    let began = Instant::now();
    let error = mesh.call(POST, hello()).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert_eq!((error.grpc_code(), error.retry()), (Code::Unavailable, Retry::Safe));
    assert!(began.elapsed() < OutboundConfig::default().patience, "it is the shorter one that counts");
}

#[tokio::test]
async fn a_reset_after_headers_were_handed_on_is_not_sent_again_and_ends_in_trailers() {
    let (reset, gate) = tokio::sync::watch::channel(false);
    let resets = move |mut call: Call| {
        let mut gate = gate.clone();
        async move {
            let mut stream = call.headers().unwrap();
            gate.wait_for(|reset| *reset).await.unwrap();
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
    };
    let (first, second) = (Upstream::start(resets.clone()).await, Upstream::start(resets).await);
    let mesh = Mesh::of([first.address, second.address]);
    let response = mesh.outbound.call(request(POST, hello())).await.unwrap();
    reset.send_replace(true);
    let answered = read(response).await;
    assert_eq!(answered.code, Code::Internal, "{}", answered.message);
    assert_eq!(first.calls() + second.calls(), 1);
}

#[tokio::test]
async fn a_call_in_flight_on_a_killed_endpoint_runs_again_only_if_it_may_run_twice() {
    for (path, again) in [(GET, true), (POST, false)] {
        let dies = Upstream::start(Call::stall).await;
        let mesh = Mesh::of([dies.address]);
        let call = mesh.call(path, hello());
        let kill = async {
            until("the call arrived", || dies.calls() == 1).await;
            let live = Upstream::start(Call::echo).await;
            mesh.set([dies.address, live.address]);
            drop(dies);
            live
        };
        let (answer, live) = tokio::join!(call, kill);
        assert_eq!(live.calls(), usize::from(again), "{path}");
        match answer {
            Ok(answered) => assert!(again && answered.code == Code::Ok, "{path}"),
            Err(error) => {
                assert!(!again && matches!(error, Error::Broken { .. }), "{path}: {error:?}");
                assert_eq!((error.grpc_code(), error.retry()), (Code::Unavailable, Retry::OnlyIfNotSent));
            }
        }
    }
}

#[tokio::test]
async fn unavailable_is_sent_elsewhere_only_for_idempotent_methods() {
    let fails = Upstream::start(|call: Call| async { call.trailers_only("14", &[]) }).await;
    let live = Upstream::start(Call::echo).await;
    let mesh = Mesh::of([fails.address, live.address]);
    for _ in 0..30 {
        assert_eq!(mesh.call(GET, hello()).await.unwrap().code, Code::Ok);
    }
    assert!(fails.calls() >= 1);
    let only = Mesh::of([fails.address]);
    let before = fails.calls();
    assert_eq!(only.call(POST, hello()).await.unwrap().code, Code::Unavailable);
    assert_eq!(fails.calls(), before + 1);
}

#[tokio::test]
async fn an_endpoints_word_on_trying_again_comes_first() {
    let asks = |pushback: &'static str| {
        move |call: Call| async move {
            let first = call.before == 0;
            if first { call.trailers_only("14", &[("grpc-retry-pushback-ms", pushback)]) } else { call.echo().await }
        }
    };
    let later = Upstream::start(asks("50")).await;
    let began = Instant::now();
    assert_eq!(Mesh::of([later.address]).call(GET, hello()).await.unwrap().code, Code::Ok);
    assert!(began.elapsed() >= Duration::from_millis(50));
    assert_eq!(later.head(1).headers["grpc-previous-rpc-attempts"], "1");
    assert!(!later.head(0).headers.contains_key("grpc-previous-rpc-attempts"));

    let never = Upstream::start(asks("-1")).await;
    let other = Upstream::start(asks("-1")).await;
    assert_eq!(Mesh::of([never.address, other.address]).call(GET, hello()).await.unwrap().code, Code::Unavailable);
    assert_eq!(never.calls() + other.calls(), 1);
}

#[tokio::test]
async fn when_all_fail_callers_learn_it_at_once_and_sends_stay_within_the_budget() {
    let fail = |call: Call| async { call.trailers_only("14", &[]) };
    let servers = [Upstream::start(fail).await, Upstream::start(fail).await, Upstream::start(fail).await];
    let mesh = Mesh::of(servers.iter().map(|s| s.address));
    let began = Instant::now();
    for _ in 0..500 {
        assert_eq!(mesh.call(GET, hello()).await.unwrap().code, Code::Unavailable);
    }
    let seconds = began.elapsed().as_secs() as usize + 1;
    let sends: usize = servers.iter().map(Upstream::calls).sum();
    assert!(sends <= 500 * 12 / 10 + 10 * seconds + 1, "{sends} sends in {seconds} s");
    assert!(began.elapsed() < Duration::from_millis(16) * 500, "less than the shortest back-off for each");
}

#[tokio::test]
async fn a_body_of_several_chunks_is_sent_again_while_the_client_still_sends() {
    let refuses = Upstream::start(|mut call: Call| async move {
        call.request.body_mut().data().await;
        call.refuse();
    })
    .await;
    let mesh = Mesh::of([refuses.address]);
    let (mut sender, body) = Body::channel(1);
    let call = mesh.call(POST, body);
    let client = async {
        sender.data(Bytes::from("one ")).await.unwrap();
        until("it was refused", || refuses.calls() == 1).await;
        let live = Upstream::start(Call::echo).await;
        mesh.set([live.address]);
        sender.data(Bytes::from("two ")).await.unwrap();
        sender.data(Bytes::from("three")).await.unwrap();
        drop(sender);
        live
    };
    let (answered, _live) = tokio::join!(call, client);
    assert_eq!(&*answered.unwrap().body, b"one two three");
}

#[tokio::test]
async fn past_64_kib_a_refused_call_is_not_sent_again() {
    let read = Arc::new(AtomicUsize::new(0));
    let refuses = {
        let read = read.clone();
        Upstream::start(move |mut call: Call| {
            let read = read.clone();
            async move {
                while read.load(SeqCst) < 100_000 {
                    let Some(Ok(data)) = call.request.body_mut().data().await else { return };
                    call.request.body_mut().flow_control().release_capacity(data.len()).unwrap();
                    read.fetch_add(data.len(), SeqCst);
                }
                call.refuse();
            }
        })
        .await
    };
    let live = Upstream::start(Call::echo).await;
    let mesh = Mesh::of([refuses.address]);
    let (mut sender, body) = Body::channel(1);
    let call = mesh.send(request(POST, body));
    let client = async {
        for _ in 0..10 {
            if sender.data(Bytes::from(vec![b'x'; 10_000])).await.is_err() {
                break;
            }
        }
        mesh.set([refuses.address, live.address]);
        sender
    };
    let (answer, _sender) = tokio::join!(call, client);
    assert!(matches!(answer, Err(Error::Refused { .. })), "{answer:?}");
    assert_eq!(live.calls(), 0);
}

#[tokio::test]
async fn a_peer_that_is_half_open_is_found_by_ping() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let pool = PoolConfig {
        pings: Pings::All,
        ping_every: Duration::from_millis(50),
        ping_timeout: Duration::from_secs(1), // of one that answers, even if this machine stands still for a moment
        ..PoolConfig::default()
    };
    let mesh = Mesh::with(pool, OutboundConfig::default(), [address]);
    let live = Upstream::start(Call::echo).await;
    let call = mesh.call(GET, hello());
    let accept = async {
        let held = silent.accept().await.unwrap(); // never reads, never answers
        mesh.set([address, live.address]);
        held
    };
    let (answered, _held) = tokio::join!(call, accept);
    assert_eq!(answered.unwrap().code, Code::Ok);
    assert_eq!(live.calls(), 1);
}

#[tokio::test]
async fn one_slow_endpoint_of_five_gets_little() {
    let mut servers = vec![
        Upstream::start(|call: Call| async {
            tokio::time::sleep(Duration::from_secs(1)).await; // what makes it slow, also beside a busy machine
            call.echo().await
        })
        .await,
    ];
    for _ in 0..4 {
        servers.push(Upstream::start(Call::echo).await);
    }
    let mesh = Mesh::of(servers.iter().map(|s| s.address));
    let mut all = FuturesUnordered::new();
    let mut done = 0;
    for sent in 0..600 {
        all.push(mesh.call(GET, hello()));
        if sent >= 8 {
            assert_eq!(all.next().await.unwrap().unwrap().code, Code::Ok);
            done += 1;
        }
    }
    while let Some(answered) = all.next().await {
        assert_eq!(answered.unwrap().code, Code::Ok);
        done += 1;
    }
    assert_eq!(done, 600);
    assert!(servers[0].calls() < 30, "{} of 600", servers[0].calls());
}
