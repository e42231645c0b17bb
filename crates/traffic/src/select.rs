//! Select: from here on a call has a cluster with endpoints, or is refused.
//!
//! Lives here: waiting, with a bound, for endpoints of a service that is known: not subscribed yet, starting, restarting, not serving. Does not: routes (`world/routes`),
//! waiting for endpoints that are there but do not answer (`retry`).

use std::{sync::Arc, time::Duration};

use http::Response;
use tokio::time::Instant;
use weft_model::ServiceName;

use crate::{
    Error, Worlds,
    answer::Answer,
    cluster::Cluster,
    stage::{Called, Route, Selected, Stage},
};

/// Finds a call's cluster, or waits for it.
pub(crate) struct Select<S> {
    inner: S,
    worlds: Worlds,
    patience: Duration,
}

impl<S> Select<S> {
    pub(crate) fn layer(worlds: Worlds, patience: Duration) -> impl tower::Layer<S, Service = Self> + use<S> {
        tower::layer::layer_fn(move |inner| Self { inner, worlds: worlds.clone(), patience })
    }

    async fn select(
        &self,
        route: Route,
        path: &str,
        until: Instant,
    ) -> Result<(Arc<Cluster>, http::uri::Authority), Error> {
        match route {
            Route::Nowhere(error) => Err(error),
            Route::To { cluster, authority } if !cluster.members.is_empty() => Ok((cluster, authority)),
            Route::To { cluster, .. } if !cluster.may_fill() => Err(cluster.nobody()),
            Route::To { cluster, authority } => {
                let until = until.min(self.end_of_patience(&cluster));
                Ok((endpoints(&self.worlds, cluster.name(), path, until).await?, authority))
            }
            Route::Unsubscribed { service, authority } => {
                self.worlds.want(&service);
                Ok((endpoints(&self.worlds, &service, path, until).await?, authority))
            }
        }
    }

    /// Counted from when a service lost its endpoints: a restart costs no call, and once an outage has lasted longer, calls are told at once
    /// instead of piling up here.
    fn end_of_patience(&self, cluster: &Cluster) -> Instant {
        let spent = cluster.empty_since.map(|since| self.worlds.clock().now().since(since)).unwrap_or_default();
        Instant::now() + self.patience.saturating_sub(spent)
    }
}

impl<S: Stage<Selected>> Stage<Called> for Select<S> {
    async fn call(&self, call: Called) -> Result<Response<Answer>, Error> {
        let Called { head, body, options, method, route, deadline, trace } = call;
        let give_up = Instant::now() + self.patience;
        let (mut cluster, authority) = self.select(route, head.uri.path(), give_up).await?;
        let pinned = options.instance;
        if let Some(instance) = pinned {
            let only = cluster.only(instance);
            cluster = Arc::new(only.ok_or_else(|| Error::NoEndpoint { service: cluster.name().clone() })?);
        }
        cluster.used(self.worlds.clock().at(options.received));
        self.inner.call(Selected { head, body, method, authority, cluster, deadline, trace, pinned, give_up }).await
    }
}

/// Waits until a world has endpoints of a service for this path. Fails early when a world says that there are none.
pub(crate) async fn endpoints(
    worlds: &Worlds,
    service: &ServiceName,
    path: &str,
    until: Instant,
) -> Result<Arc<Cluster>, Error> {
    let mut changes = worlds.changes(); // before the look, so that no change falls in between
    let mut world = worlds.load();
    loop {
        match world.serving_of(service, path) {
            Some(cluster) if !cluster.members.is_empty() => return Ok(cluster.clone()),
            Some(cluster) if !cluster.may_fill() => return Err(cluster.nobody()),
            Some(_) | None => {}
        }
        match tokio::time::timeout_at(until, changes.next()).await {
            Ok(Some(next)) => world = next,
            Ok(None) | Err(_) => break,
        }
    }
    Err(Error::NoEndpoint { service: service.clone() })
}
