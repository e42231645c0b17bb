//! The way to an app behind an inbound: what the inbound can say to its caller, and what the caller's stack makes of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};

use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, task::JoinSet};
use weft_traffic::{Body, CallOptions, Code, Error, Metrics, Pool, PoolConfig, Reset, ToApp, Worlds};

use crate::{
    mesh::{GET, Mesh, POST, nobody, read, request, until, users},
    upstream::{Call, Settings, Upstream},
};

fn to_app(app: SocketAddr) -> ToApp {
    let (worlds, _interests) = Worlds::new(Metrics::default());
    ToApp::new(
        users(),
        app,
        worlds,
        weft_traffic::Tracing::default(),
        Pool::new(PoolConfig::default(), Metrics::default()),
    )
}

/// An inbound as a sidecar has it.
async fn inbound(app: SocketAddr, tasks: &mut JoinSet<()>) -> SocketAddr {
    let to_app = to_app(app);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let to_app = to_app.clone();
            let service = service_fn(move |request: http::Request<Incoming>| {
                let to_app = to_app.clone();
                async move {
                    match to_app.call_with(request.map(Body::from), CallOptions::default()).await {
                        Ok(response) => Ok(response),
                        Err(error) => match error.refusal() {
                            Some(reset) => Err::<_, Reset>(reset),
                            None => Ok(error.to_response()),
                        },
                    }
                }
            });
            connections.spawn(async move {
                let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(socket), service);
                drop(served.await);
            });
        }
    });
    address
}

#[tokio::test]
async fn an_app_that_cannot_be_reached_is_a_refusal_and_one_that_breaks_is_not() {
    let refused = to_app(nobody()).call_with(request(POST, Body::full("x")), CallOptions::default()).await;
    let error = refused.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }) && error.refusal().is_some(), "{error:?}");

    let app = Upstream::start(Call::stall).await;
    let through = to_app(app.address);
    let call = through.call_with(request(GET, Body::full("x")), CallOptions::default());
    let kill = async {
        until("the call arrived", || app.calls() == 1).await;
        drop(app);
    };
    let (broken, ()) = tokio::join!(call, kill);
    let error = broken.unwrap_err();
    assert!(matches!(error, Error::Broken { .. }) && error.refusal().is_none(), "{error:?}");
    assert_eq!(Code::from_headers(error.to_response().headers()), Some(Code::Unavailable));
}

#[tokio::test]
async fn a_call_to_a_dead_app_goes_to_another_instance_whatever_the_method() {
    let mut tasks = JoinSet::new();
    let live = Upstream::start(Call::echo).await;
    let first = inbound(nobody(), &mut tasks).await;
    let second = inbound(live.address, &mut tasks).await;
    let mesh = Mesh::of([first, second]);
    for _ in 0..30 {
        assert_eq!(mesh.call(POST, Body::full("x")).await.unwrap().code, Code::Ok);
    }
    assert_eq!(live.calls(), 30);
}

#[tokio::test]
async fn a_call_in_flight_on_an_app_that_dies_runs_again_only_if_it_may_run_twice() {
    for (path, wanted) in [(GET, Code::Ok), (POST, Code::Unavailable)] {
        let mut tasks = JoinSet::new();
        let dies = Upstream::start(Call::stall).await;
        let first = inbound(dies.address, &mut tasks).await;
        let mesh = Mesh::of([first]);
        let call = mesh.call(path, Body::full("x"));
        let kill = async {
            until("the call arrived", || dies.calls() == 1).await;
            let live = Upstream::start(Call::echo).await;
            let second = inbound(live.address, &mut tasks).await;
            mesh.set([first, second]);
            drop(dies);
            live
        };
        let (answered, _live) = tokio::join!(call, kill);
        assert_eq!(answered.unwrap().code, wanted, "{path}");
    }
}

#[tokio::test]
async fn an_app_that_closes_its_connections_in_order_loses_nothing() {
    let settings = Settings { calls_per_connection: 3, ..Settings::default() };
    let app = Upstream::start_with(settings, Call::echo).await;
    let through = to_app(app.address);
    for _ in 0..50 {
        let response = through.call_with(request(POST, Body::full("x")), CallOptions::default()).await.unwrap();
        assert_eq!(read(response).await.code, Code::Ok);
    }
    assert_eq!(app.calls(), 50);
}

/// The reliability case "kill −9 of an app, restarted by its sidecar" in short form: open loop, GET : POST 4 : 1.
#[tokio::test]
async fn an_app_that_is_killed_and_restarted_under_load_loses_only_posts_that_it_had() {
    let mut tasks = JoinSet::new();
    let answered = Arc::new(AtomicUsize::new(0));
    let slow_echo = {
        let answered = answered.clone();
        move |call: Call| {
            let answered = answered.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(5)).await; // so that there is something in flight
                call.echo().await;
                answered.fetch_add(1, SeqCst);
            }
        }
    };
    let dies = Upstream::start_on(nobody(), Settings::default(), slow_echo.clone()).await;
    let stays = Upstream::start(|call: Call| async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        call.echo().await;
    })
    .await;
    let (first, second) = (inbound(dies.address, &mut tasks).await, inbound(stays.address, &mut tasks).await);
    let mesh = Mesh::of([first, second]);

    let posts_under_way = AtomicUsize::new(0);
    let load = async {
        let mut every = tokio::time::interval(Duration::from_millis(5));
        let mut calls = FuturesUnordered::new();
        let mut failed = (0, 0);
        let mut sent = 0;
        while sent < 400 || !calls.is_empty() {
            tokio::select! {
                _ = every.tick(), if sent < 400 => {
                    let path = if sent % 5 == 4 { POST } else { GET };
                    posts_under_way.fetch_add(usize::from(path == POST), SeqCst);
                    let mesh = &mesh;
                    calls.push(async move { (path, mesh.call(path, Body::full("x")).await) });
                    sent += 1;
                }
                Some((path, answer)) = calls.next() => {
                    let good = answer.is_ok_and(|a| a.code == Code::Ok);
                    posts_under_way.fetch_sub(usize::from(path == POST), SeqCst);
                    match path {
                        GET => failed.0 += usize::from(!good),
                        _ => failed.1 += usize::from(!good),
                    }
                }
            }
        }
        failed
    };
    let kill = async {
        until("it is in use", || dies.calls() > 60).await;
        until("it has a call", || dies.calls() > answered.load(SeqCst)).await;
        // Those that are on their way to it have not been counted by anybody else.
        let (address, had) = (dies.address, posts_under_way.load(SeqCst));
        drop(dies);
        tokio::time::sleep(Duration::from_millis(300)).await; // the app's start
        (Upstream::start_on(address, Settings::default(), slow_echo).await, had)
    };
    let ((gets, posts), (_again, had)) = tokio::join!(load, kill);
    assert_eq!(gets, 0, "no GET fails");
    assert!(posts <= had, "{posts} POSTs failed, {had} were under way");
}
