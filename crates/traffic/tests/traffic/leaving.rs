//! Endpoints that leave under load: GOAWAY, kill, replacement. Figures of contracts/dataplane.md, section 4, in short form.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use weft_traffic::{Body, Code};

use crate::{
    mesh::{GET, Mesh, POST},
    upstream::{Call, Settings, Upstream},
};

/// Keeps 64 calls under way until `calls` are done; all must succeed.
async fn load(mesh: &Mesh, path: &str, calls: usize) {
    let mut all = FuturesUnordered::new();
    for _ in 0..calls {
        all.push(mesh.call(path, Body::full("hello")));
        if all.len() == 64 {
            assert_eq!(all.next().await.unwrap().unwrap().code, Code::Ok);
        }
    }
    while let Some(answered) = all.next().await {
        assert_eq!(answered.unwrap().code, Code::Ok);
    }
}

#[tokio::test]
async fn goaway_in_mid_load_loses_nothing() {
    let settings = Settings { calls_per_connection: 40, ..Settings::default() };
    let server = Upstream::start_with(settings, Call::echo).await;
    let mesh = Mesh::of([server.address]);
    load(&mesh, POST, 3_000).await;
    assert_eq!(server.calls(), 3_000, "nothing ran twice");
    assert!(server.connections() > 10, "it did send GOAWAY: {}", server.connections());
}

/// As the SDK uses it: one pool for the threads of a work-stealing runtime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goaway_loses_nothing_when_threads_share_the_pool() {
    let settings = Settings { calls_per_connection: 40, ..Settings::default() };
    let server = Upstream::start_with(settings, Call::echo).await;
    let mesh = std::sync::Arc::new(Mesh::of([server.address]));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let mesh = mesh.clone();
        callers.spawn(async move { load(&mesh, POST, 500).await });
    }
    callers.join_all().await;
    assert_eq!(server.calls(), 2_000, "nothing ran twice");
    assert_eq!(mesh.outbound.in_flight(), 0);
}

#[tokio::test]
async fn killing_one_of_three_under_load_loses_no_idempotent_call() {
    let dies = Upstream::start(Call::echo).await;
    let (second, third) = (Upstream::start(Call::echo).await, Upstream::start(Call::echo).await);
    let mesh = Mesh::of([dies.address, second.address, third.address]);
    let kill = async {
        while dies.calls() < 100 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(dies);
    };
    tokio::join!(load(&mesh, GET, 3_000), kill);
}

#[tokio::test]
async fn replacing_every_endpoint_under_load_loses_nothing() {
    let settings = Settings::default();
    let mut old = Upstream::start_with(settings.clone(), Call::echo).await;
    let mesh = Mesh::of([old.address]);
    let replace = async {
        for _ in 0..5 {
            while old.calls() < 200 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let new = Upstream::start_with(settings.clone(), Call::echo).await;
            mesh.set([new.address]);
            // As a drain does: it goes once its calls have.
            while old.open() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            old = new;
        }
    };
    tokio::join!(load(&mesh, POST, 3_000), replace);
}
