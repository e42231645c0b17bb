//! Outbound: the app's calls to other services.
//!
//! Lives here: the entry from the app's side, and which services are subscribed. Does not: everything between (`weft-traffic`).
//! A service is subscribed at its first call and dropped when no call used it for a while: a sidecar of a large mesh knows what its app
//! calls and no more.

use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use weft_discovery::{Subscriptions, Topic, Watch};
use weft_model::{ServiceName, Version};
use weft_traffic::{Body, CallOptions, Dialect, Interests, Reset, Worlds};

use crate::entrance::{Entrance, Open};

/// A subscription goes when no call used it for this long.
const IDLE: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_secs(60);

/// Longest wait for the first word of a registry before calls are told that nothing is known.
const FIRST_WORLD: Duration = Duration::from_secs(5);

pub(crate) async fn call(entrance: Entrance, request: Request<Incoming>) -> Result<Response<Body>, Reset> {
    let dialect = Dialect::of(request.headers());
    let Some(Open { to_mesh, relay, .. }) = entrance.get() else { return Ok(entrance.refusal(dialect)) };
    if relay.takes(&request) {
        return Ok(relay.clone().call(request).await);
    }
    let answer = to_mesh.call_with(request.map(Body::from), CallOptions::default()).await;
    // The app's own client need not know how to send a call again: it gets an answer in any case.
    Ok(answer.unwrap_or_else(|error| dialect.put(error.to_response(), &error.message())))
}

/// Waits until the mesh was entered and something of it is known, at most 5 s. The app may start faster than the registry answers: its first connections wait
/// in the kernel for this, and the path of a call has little to check. So do those of its callers: by then its access rules are known.
pub(crate) async fn first_world(entrance: Entrance, worlds: Option<Worlds>) {
    let known = async {
        entrance.opened().await;
        let Some(worlds) = worlds else { return };
        let mut changes = worlds.changes();
        if worlds.load().version() == Version::default() {
            changes.next().await;
        }
    };
    if timeout(FIRST_WORLD, known).await.is_err() {
        tracing::warn!("nothing is known of the mesh yet; the app's calls will be refused until a registry answers");
    }
}

/// Joins discovery and traffic: each state becomes the world, and is acknowledged once every new call goes by it.
pub(crate) async fn follow(mut watch: Watch, worlds: Worlds) {
    while let Some(update) = watch.next().await {
        worlds.apply(&update.snapshot);
        watch.ack(update.version);
    }
}

/// Subscribes what calls ask for and drops what they do not use any more, until `shutdown`. The app's own service stays: its policies guard
/// the inbound.
pub(crate) async fn subscribe(
    mut interests: Interests,
    subscriptions: Subscriptions,
    worlds: Worlds,
    own: ServiceName,
    shutdown: CancellationToken,
) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            wanted = interests.next() => match wanted {
                Some(service) => subscriptions.subscribe(Topic::Service(service)),
                None => return,
            },
            _ = looks.tick() => {
                for service in worlds.unused_for(IDLE).into_iter().filter(|it| *it != own) {
                    tracing::debug!(%service, "no call for a while; the subscription goes");
                    subscriptions.unsubscribe(&Topic::Service(service));
                }
            }
            () = shutdown.cancelled() => return,
        }
    }
}
