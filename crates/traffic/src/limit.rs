//! A limit on calls in flight: full means an answer at once, nothing waits up here.
//!
//! Lives here: the count and the layer. Does not: adaptive limits in front of an app.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use http::Response;

use crate::{
    Error,
    answer::Answer,
    stage::{Called, Stage},
};

/// Refuses calls beyond the limit with RESOURCE_EXHAUSTED.
pub(crate) struct Limit<S> {
    inner: S,
    max: usize,
    in_flight: Arc<AtomicUsize>,
}

impl<S> Limit<S> {
    pub(crate) fn layer(max: usize) -> impl tower::Layer<S, Service = Self> + use<S> {
        tower::layer::layer_fn(move |inner| Self { inner, max, in_flight: Arc::default() })
    }

    /// Calls in flight, bodies of answers included.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    fn enter(&self) -> Result<Permit, Error> {
        let in_flight = self.in_flight.fetch_add(1, Relaxed);
        let permit = Permit(self.in_flight.clone());
        if in_flight < self.max { Ok(permit) } else { Err(Error::Overloaded { in_flight }) }
    }
}

impl<S: Stage<Called>> Stage<Called> for Limit<S> {
    async fn call(&self, call: Called) -> Result<Response<Answer>, Error> {
        let permit = self.enter()?;
        let response = self.inner.call(call).await?;
        Ok(response.map(|answer| answer.with_permit(permit)))
    }
}

/// Counts one call until dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_a_permit_returns_its_place() {
        let limit = Limit { inner: (), max: 2, in_flight: Arc::default() };
        let first = limit.enter().unwrap();
        let _second = limit.enter().unwrap();
        assert!(matches!(limit.enter(), Err(Error::Overloaded { in_flight: 2 })));
        drop(first);
        assert!(limit.enter().is_ok());
        assert_eq!(limit.in_flight(), 1);
    }
}
