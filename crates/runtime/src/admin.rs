//! The admin server of a role: `/healthz`, `/readyz`, `/metrics`, `/drain`.
//!
//! Lives here: the four answers and readiness. Does not: deciding when a role is ready or how it drains (hooks).
//! It runs on the control runtime: a scrape never meets a call.

use std::{convert::Infallible, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::{Metrics, Shutdown, metrics::Exposition};

/// Admin connections at once; more are closed at accept.
const MAX_CONNECTIONS: usize = 64;
const HEADER_LIMIT: Duration = Duration::from_secs(5);

/// Whether a role takes work, and why not. Cheap to clone; starts as not ready.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<watch::Sender<Result<(), String>>>);

impl Readiness {
    /// Not ready, with the reason people see at `/readyz`.
    pub fn starting(reason: &str) -> Self {
        Self(Arc::new(watch::Sender::new(Err(reason.to_owned()))))
    }

    /// From now on ready.
    pub fn ready(&self) {
        drop(self.0.send_replace(Ok(())));
    }

    /// From now on not ready.
    pub fn not_ready(&self, reason: impl Into<String>) {
        drop(self.0.send_replace(Err(reason.into())));
    }

    /// The present state.
    pub fn load(&self) -> Result<(), String> {
        self.0.borrow().clone()
    }

    /// Waits until it is ready. Cancel-safe.
    pub async fn until_ready(&self) {
        // Cannot fail: the sender is `self`.
        drop(self.0.subscribe().wait_for(Result::is_ok).await);
    }

    /// Waits until it is not ready, and returns why. Cancel-safe.
    pub async fn until_not_ready(&self) -> String {
        let mut state = self.0.subscribe();
        // Cannot fail: the sender is `self`.
        let reason = state.wait_for(Result::is_err).await.ok().and_then(|state| state.clone().err());
        reason.unwrap_or_default()
    }
}

type DrainHook = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = String> + Send>> + Send + Sync>;

/// An admin server before it runs.
#[derive(Clone)]
pub struct Admin {
    metrics: Metrics,
    readiness: Readiness,
    drain: Option<DrainHook>,
}

impl Admin {
    /// Serves these metrics and this readiness.
    pub fn new(metrics: Metrics, readiness: Readiness) -> Self {
        Self { metrics, readiness, drain: None }
    }

    /// Answers `/drain` when the hook's future ends, with its text; a `preStop` hook waits for exactly that.
    #[must_use]
    pub fn drain<F>(mut self, hook: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = String> + Send + 'static,
    {
        self.drain = Some(Arc::new(move || Box::pin(hook())));
        self
    }

    /// Serves until `abort`: metrics and `/drain` are wanted while the role drains. Owners that end earlier drop the future.
    pub async fn run(self, listener: TcpListener, shutdown: Shutdown) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.aborting() => return,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if connections.len() < MAX_CONNECTIONS => {
                        let admin = self.clone();
                        connections.spawn(async move {
                            let service = service_fn(|request| admin.answer(request));
                            let mut http = hyper::server::conn::http1::Builder::new();
                            http.timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT);
                            drop(http.serve_connection(TokioIo::new(stream), service).await); // a broken scrape is the scraper's news
                        });
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(%error, "admin listener cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await; // out of descriptors: spinning would not free one
                    }
                },
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let text = "text/plain; charset=utf-8";
        let (status, content_type, body) = match (request.uri().path(), request.method()) {
            ("/healthz", _) => (StatusCode::OK, text, "alive\n".to_owned()),
            ("/readyz", _) => match self.readiness.load() {
                Ok(()) => (StatusCode::OK, text, "ready\n".to_owned()),
                Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, text, format!("not ready: {reason}\n")),
            },
            ("/metrics", _) => {
                let form = Exposition::accepted(request.headers());
                (StatusCode::OK, form.content_type(), self.metrics.encode_as(form))
            }
            ("/drain", &Method::GET | &Method::POST) => match &self.drain {
                Some(hook) => (StatusCode::OK, text, hook().await + "\n"),
                None => (StatusCode::NOT_FOUND, text, "this role does not drain\n".to_owned()),
            },
            _ => (StatusCode::NOT_FOUND, text, "try /healthz, /readyz, /metrics or /drain\n".to_owned()),
        };
        let mut response = Response::new(Full::new(body.into()));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readiness_can_be_waited_for_both_ways() {
        let readiness = Readiness::starting("warming up");
        assert_eq!(readiness.until_not_ready().await, "warming up");
        let (told, ()) = tokio::join!(readiness.until_ready(), async { readiness.ready() });
        assert_eq!((told, readiness.load()), ((), Ok(())));
        let (why, ()) = tokio::join!(readiness.until_not_ready(), async { readiness.not_ready("ill") });
        assert_eq!(why, "ill");
    }
}
