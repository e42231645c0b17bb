//! The way to an app behind an inbound: what the inbound can say to its caller, and what the caller's stack makes of it.

use std::net::SocketAddr;

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
    ToApp::new(users(), app, worlds, Pool::new(PoolConfig::default(), Metrics::default()))
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
    let refused = to_app(nobody().await).call_with(request(POST, Body::full("x")), CallOptions::default()).await;
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
    let first = inbound(nobody().await, &mut tasks).await;
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
