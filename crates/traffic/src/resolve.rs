//! Resolve: the one load of the world of a request.
//!
//! Lives here: looking up method and route, so that everything below has its facts and handles. Does not: waiting for a world (`select`), refusing (also `select`,
//! so that refusals are counted).

use http::{Response, uri::Authority};

use crate::{
    Error, Worlds,
    answer::Answer,
    head,
    stage::{Called, Came, Route, Stage},
    world::World,
};

/// Looks calls up in the world of their beginning.
pub(crate) struct Resolve<S> {
    inner: S,
    worlds: Worlds,
}

impl<S> Resolve<S> {
    pub(crate) fn layer(worlds: Worlds) -> impl tower::Layer<S, Service = Self> + use<S> {
        tower::layer::layer_fn(move |inner| Self { inner, worlds: worlds.clone() })
    }

    pub(crate) fn inner(&self) -> &S {
        &self.inner
    }

    fn resolve(&self, came: Came) -> Called {
        let Came { request, options } = came;
        let (head, body) = request.into_parts();
        let authority = head::authority(&head);
        let world = self.worlds.borrow();
        let method = world.routes().method(head.uri.path()).clone();
        let route = route(&world, &options, authority, head.uri.path());
        Called { head, body, options, method, route, deadline: None, trace: None }
    }
}

impl<S: Stage<Called>> Stage<Came> for Resolve<S> {
    async fn call(&self, came: Came) -> Result<Response<Answer>, Error> {
        self.inner.call(self.resolve(came)).await
    }
}

fn route(world: &World, options: &crate::CallOptions, authority: Option<Authority>, path: &str) -> Route {
    let routes = world.routes();
    let slot = match &options.service {
        Some(service) => routes.slot(service).ok_or_else(|| Error::UnknownService { name: service.to_string() }),
        None => routes.route(authority.as_ref().map(Authority::as_str), path),
    };
    match slot {
        Err(error) => Route::Nowhere(error),
        Ok(slot) => {
            let authority = authority.unwrap_or_else(|| routes.authority(slot).clone());
            match world.serving(slot, path) {
                Some(cluster) => {
                    let rules = world.at(slot).and_then(|whole| whole.rules.clone());
                    Route::To { cluster: cluster.clone(), rules, authority }
                }
                None => Route::Unsubscribed { service: routes.name(slot).clone(), authority },
            }
        }
    }
}
