//! The admin server of a role: `/healthz`, `/readyz`, `/metrics`, `/drain`, and what pages a role adds.
//!
//! Lives here: the four answers, readiness, and asking for a drain. Does not: deciding when a role is ready, how it drains, or what its own
//! pages say (hooks).
//! It runs on the control runtime: a scrape never meets a call. Three answers tell and change nothing, and go to whoever reaches the port; `/drain`
//! takes a process out of the mesh, and goes to its own machine (in Kubernetes: its own pod) only.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::{Metrics, Shutdown, metrics::Exposition};

/// Admin connections at once; more are closed at accept.
const MAX_CONNECTIONS: usize = 64;
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// Time the answers under way have when the server ends; one of them tells who asked for the drain that it is done.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Longest answer to a drain that is read.
const LONGEST: usize = 64 << 10;

/// Whether a role takes work, and why not. Cheap to clone; starts as not ready.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<watch::Sender<State>>);

#[derive(Debug)]
struct State {
    now: Result<(), String>,
    /// It stays as it is.
    leaving: bool,
}

impl Readiness {
    /// Not ready, with the reason people see at `/readyz`.
    pub fn starting(reason: &str) -> Self {
        Self(Arc::new(watch::Sender::new(State { now: Err(reason.to_owned()), leaving: false })))
    }

    /// From now on ready, unless it leaves.
    pub fn ready(&self) {
        self.unless_leaving(Ok(()));
    }

    /// From now on not ready. Of a role that leaves, that it leaves says more.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.unless_leaving(Err(reason.into()));
    }

    /// Not ready and never again, whatever is found out from now on.
    pub fn leave(&self, reason: impl Into<String>) {
        drop(self.0.send_replace(State { now: Err(reason.into()), leaving: true }));
    }

    fn unless_leaving(&self, next: Result<(), String>) {
        self.0.send_if_modified(|state| {
            if !state.leaving {
                state.now = next;
            }
            !state.leaving
        });
    }

    /// The present state.
    pub fn load(&self) -> Result<(), String> {
        self.0.borrow().now.clone()
    }

    /// Waits until it is ready. Cancel-safe.
    pub async fn until_ready(&self) {
        // Cannot fail: the sender is `self`.
        drop(self.0.subscribe().wait_for(|state| state.now.is_ok()).await);
    }

    /// Waits until it is not ready, and returns why. Cancel-safe.
    pub async fn until_not_ready(&self) -> String {
        let mut state = self.0.subscribe();
        // Cannot fail: the sender is `self`.
        let reason = state.wait_for(|state| state.now.is_err()).await.ok().and_then(|state| state.now.clone().err());
        reason.unwrap_or_default()
    }
}

type DrainHook = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = String> + Send>> + Send + Sync>;

/// An answer of a page.
pub type Page = Response<Full<Bytes>>;

type Pages = Arc<dyn Fn(&Parts) -> Option<Page> + Send + Sync>;

/// An admin server before it runs.
#[derive(Clone)]
pub struct Admin {
    metrics: Metrics,
    readiness: Readiness,
    drain: Option<DrainHook>,
    pages: Option<Pages>,
}

impl Admin {
    /// Serves these metrics and this readiness.
    pub fn new(metrics: Metrics, readiness: Readiness) -> Self {
        Self { metrics, readiness, drain: None, pages: None }
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

    /// Adds pages of the role's own: asked for every path that is none of the four, answering none for those they do not know. They are answered
    /// from what is at hand: nothing here waits.
    #[must_use]
    pub fn pages(mut self, pages: impl Fn(&Parts) -> Option<Page> + Send + Sync + 'static) -> Self {
        self.pages = Some(Arc::new(pages));
        self
    }

    /// Serves until `abort`: metrics and `/drain` are wanted while the role drains. What is being answered then is finished within a second; an owner that
    /// drops the future cuts it off.
    pub async fn run(self, listener: TcpListener, shutdown: Shutdown) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.aborting() => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) if connections.len() < MAX_CONNECTIONS => {
                        connections.spawn(self.clone().serve(stream, from.ip(), shutdown.clone()));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(%error, "admin listener cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await; // out of descriptors: spinning would not free one
                    }
                },
            }
        }
        drop(listener);
        drop(timeout(LAST_ANSWERS, async { while connections.join_next().await.is_some() {} }).await);
    }

    async fn serve(self, stream: TcpStream, from: IpAddr, shutdown: Shutdown) {
        let service = service_fn(|request: Request<Incoming>| self.answer(request, from));
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT);
        let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = shutdown.aborting() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        drop(served); // a broken scrape is the scraper's news
    }

    async fn answer<B>(&self, request: Request<B>, from: IpAddr) -> Result<Page, Infallible> {
        let (request, _) = request.into_parts();
        let text = "text/plain; charset=utf-8";
        let (status, content_type, body) = match (request.uri.path(), &request.method) {
            ("/healthz", _) => (StatusCode::OK, text, "alive\n".to_owned()),
            ("/readyz", _) => match self.readiness.load() {
                Ok(()) => (StatusCode::OK, text, "ready\n".to_owned()),
                Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, text, format!("not ready: {reason}\n")),
            },
            ("/metrics", _) => {
                let form = Exposition::accepted(&request.headers);
                (StatusCode::OK, form.content_type(), self.metrics.encode_as(form))
            }
            ("/drain", _) if !from.to_canonical().is_loopback() => {
                let cure = "/drain is answered on loopback only: run `weft drain` where this process runs\n";
                (StatusCode::FORBIDDEN, text, cure.to_owned())
            }
            ("/drain", &Method::GET | &Method::POST) => match &self.drain {
                Some(hook) => (StatusCode::OK, text, hook().await + "\n"),
                None => (StatusCode::NOT_FOUND, text, "this role does not drain\n".to_owned()),
            },
            _ => match self.pages.as_ref().and_then(|pages| pages(&request)) {
                Some(page) => return Ok(page),
                None => (StatusCode::NOT_FOUND, text, "try /healthz, /readyz, /metrics or /drain\n".to_owned()),
            },
        };
        let mut response = Response::new(Full::new(body.into()));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
        Ok(response)
    }
}

/// Asks the process whose admin server is at `at` to drain and waits for its answer, which comes when callers have had their notice.
///
/// # Errors
/// It cannot be reached, refuses, or does not answer within `limit`.
pub async fn drain(at: SocketAddr, limit: Duration) -> io::Result<String> {
    let asked = timeout(limit, ask(at)).await;
    asked.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"))))
}

async fn ask(at: SocketAddr) -> io::Result<String> {
    let stream = TokioIo::new(TcpStream::connect(at).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(io::Error::other)?;
    let request = Request::post("/drain").header(header::HOST, at.to_string()).body(Full::<Bytes>::default());
    let request = request.expect("a path and an address make a request");
    let answer = async {
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LONGEST).collect().await.map_err(io::Error::other)?;
        let text = String::from_utf8_lossy(&body.to_bytes()).trim().to_owned();
        if status == StatusCode::OK { Ok(text) } else { Err(io::Error::other(format!("{status}: {text}"))) }
    };
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    tokio::select! { // the connection carries the answer, and ends after it at the earliest
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(io::Error::other(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draining() -> Admin {
        Admin::new(Metrics::default(), Readiness::starting("not yet")).drain(|| async { "leaving".to_owned() })
    }

    #[tokio::test]
    async fn a_drain_is_asked_for_on_its_own_machine_and_from_nowhere_else() {
        for (from, path, status) in [
            ("127.0.0.1", "/drain", StatusCode::OK),
            ("::1", "/drain", StatusCode::OK),
            ("::ffff:127.0.0.1", "/drain", StatusCode::OK),
            ("10.0.0.7", "/drain", StatusCode::FORBIDDEN),
            ("::ffff:10.0.0.7", "/drain", StatusCode::FORBIDDEN),
            ("fd00::7", "/drain", StatusCode::FORBIDDEN),
            ("10.0.0.7", "/healthz", StatusCode::OK),
            ("10.0.0.7", "/readyz", StatusCode::SERVICE_UNAVAILABLE),
        ] {
            let answer = draining().answer(Request::get(path).body(()).unwrap(), from.parse().unwrap()).await.unwrap();
            assert_eq!(answer.status(), status, "{path} from {from}");
        }
    }

    #[tokio::test]
    async fn who_asks_for_a_drain_hears_how_it_went_or_why_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, shutdown) = (listener.local_addr().unwrap(), Shutdown::new());
        let served = tokio::task::JoinSet::from_iter([draining().run(listener, shutdown.clone())]);
        assert_eq!(drain(at, HEADER_LIMIT).await.unwrap(), "leaving");
        shutdown.abort();
        served.join_all().await;
        assert!(drain(at, HEADER_LIMIT).await.is_err(), "nobody is there");
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = drain(silent.local_addr().unwrap(), Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn an_answer_under_way_when_the_server_ends_arrives() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, shutdown) = (listener.local_addr().unwrap(), Shutdown::new());
        let until = shutdown.clone();
        let drained = Admin::new(Metrics::default(), Readiness::starting("not yet")).drain(move || {
            let until = until.clone();
            async move {
                until.abort(); // the drain is done when the process is about to end
                tokio::task::yield_now().await;
                "left".to_owned()
            }
        });
        let (told, ()) = tokio::join!(drain(at, HEADER_LIMIT), drained.run(listener, shutdown));
        assert_eq!(told.unwrap(), "left");
    }

    #[tokio::test]
    async fn readiness_can_be_waited_for_both_ways() {
        let readiness = Readiness::starting("warming up");
        assert_eq!(readiness.until_not_ready().await, "warming up");
        let (told, ()) = tokio::join!(readiness.until_ready(), async { readiness.ready() });
        assert_eq!((told, readiness.load()), ((), Ok(())));
        let (why, ()) = tokio::join!(readiness.until_not_ready(), async { readiness.not_ready("ill") });
        assert_eq!(why, "ill");
    }

    #[test]
    fn who_leaves_is_never_ready_again() {
        let readiness = Readiness::starting("warming up");
        readiness.leave("draining");
        readiness.ready();
        readiness.not_ready("ill");
        assert_eq!(readiness.load(), Err("draining".to_owned()));
        readiness.leave("aborting");
        assert_eq!(readiness.load(), Err("aborting".to_owned()));
    }
}
