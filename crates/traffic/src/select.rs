//! Select: from here on a call has a cluster with endpoints, or is refused.
//!
//! Lives here: where the service's route rules send the call, waiting, with a bound, for endpoints of a service that is known: not subscribed yet,
//! starting, restarting, not serving. Does not: what rules say (`world/rules`), routes (`world/routes`), waiting for endpoints that are there but do not answer (`retry`).
//! A call meets the rules of the service that it names, and no others: a service that it is sent on to is called as it is. One that names an instance
//! meets none. The rules of a service that nobody subscribed are known when its endpoints are.

use std::{sync::Arc, time::Duration};

use http::Response;
use tokio::time::Instant;
use weft_model::ServiceName;

use crate::{
    Error, Worlds,
    answer::Answer,
    cluster::Cluster,
    stage::{Called, Route, Selected, Stage},
    world::rules::{Directed, Rules},
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

    /// The cluster that the call names, perhaps one without endpoints, and the rules of its service.
    async fn named(&self, route: Route, path: &str, until: Instant) -> Result<Named, Error> {
        match route {
            Route::Nowhere(error) => Err(error),
            Route::To { cluster, rules, authority } => Ok((cluster, rules, authority)),
            Route::Unsubscribed { service, authority } => {
                self.worlds.want(&service);
                let cluster = subscribed(&self.worlds, &service, path, until).await?;
                let rules = self.worlds.load().cluster(&service).and_then(|whole| whole.rules.clone());
                Ok((cluster, rules, authority))
            }
        }
    }

    /// Counted from when a service lost its endpoints: a restart costs no call, and once an outage has lasted longer, calls are told at once
    /// instead of piling up here.
    fn end_of_patience(&self, cluster: &Cluster) -> Instant {
        let spent = cluster.empty_since.map(|since| self.worlds.clock().now().since(since)).unwrap_or_default();
        Instant::now() + self.patience.saturating_sub(spent)
    }

    /// The cluster that it goes to.
    async fn sent_on(&self, to: &ServiceName, path: &str, until: Instant) -> Result<Arc<Cluster>, Error> {
        let known = self.worlds.load().serving_of(to, path).cloned();
        match known {
            Some(cluster) => self.filled(cluster, path, until).await,
            None => {
                self.worlds.want(to);
                endpoints(&self.worlds, to, path, until).await
            }
        }
    }

    /// The same cluster when it has endpoints.
    async fn filled(&self, cluster: Arc<Cluster>, path: &str, until: Instant) -> Result<Arc<Cluster>, Error> {
        if !cluster.members.is_empty() {
            return Ok(cluster);
        }
        if !cluster.may_fill() {
            return Err(cluster.nobody());
        }
        let until = until.min(self.end_of_patience(&cluster));
        endpoints(&self.worlds, cluster.name(), path, until).await
    }
}

type Named = (Arc<Cluster>, Option<Arc<Rules>>, http::uri::Authority);

impl<S: Stage<Selected>> Stage<Called> for Select<S> {
    async fn call(&self, call: Called) -> Result<Response<Answer>, Error> {
        let Called { head, body, options, method, route, deadline, trace } = call;
        let give_up = Instant::now() + self.patience;
        let pinned = options.instance;
        let (named, rules, authority) = self.named(route, head.uri.path(), give_up).await?;
        let rules = rules.filter(|_| pinned.is_none());
        let directed = rules.and_then(|rules| rules.direct(head.uri.path(), &head.headers, &mut rand::rng()));
        let Directed { to, timeout, retry } = directed.unwrap_or_default();
        let received = self.worlds.clock().at(options.received);
        named.shared.named(received);
        let by_rule = timeout.and_then(|timeout| options.received.checked_add(timeout));
        let sooner = by_rule.filter(|it| deadline.is_none_or(|deadline| *it < deadline));
        let deadline = sooner.or(deadline);
        let called = async {
            let path = head.uri.path();
            let mut cluster = match &to {
                Some(to) if to != named.name() => self.sent_on(to, path, give_up).await?,
                Some(_) | None => self.filled(named, path, give_up).await?,
            };
            if let Some(instance) = pinned {
                let only = cluster.only(instance);
                cluster = Arc::new(only.ok_or_else(|| Error::NoEndpoint { service: cluster.name().clone() })?);
            }
            cluster.used(received);
            let selected = Selected { head, body, method, authority, cluster, deadline, trace, pinned, retry, give_up };
            self.inner.call(selected).await
        };
        let Some(sooner) = sooner else { return called.await };
        match tokio::time::timeout_at(sooner, called).await {
            Ok(answered) => answered.map(|response| response.map(|answer| answer.until(sooner))),
            Err(_elapsed) => Err(Error::Deadline), // as `deadline` does for the caller's own
        }
    }
}

/// Waits until a world has a cluster of a service that somebody wants, with endpoints or not.
async fn subscribed(worlds: &Worlds, service: &ServiceName, path: &str, until: Instant) -> Result<Arc<Cluster>, Error> {
    let mut changes = worlds.changes(); // before the look, so that no change falls in between
    let mut world = worlds.load();
    loop {
        if let Some(cluster) = world.serving_of(service, path) {
            return Ok(cluster.clone());
        }
        match tokio::time::timeout_at(until, changes.next()).await {
            Ok(Some(next)) => world = next,
            Ok(None) | Err(_) => return Err(Error::NoEndpoint { service: service.clone() }),
        }
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
            None if world.is_complete() => break,
            Some(_) | None => {}
        }
        match tokio::time::timeout_at(until, changes.next()).await {
            Ok(Some(next)) => world = next,
            Ok(None) | Err(_) => break,
        }
    }
    Err(Error::NoEndpoint { service: service.clone() })
}
