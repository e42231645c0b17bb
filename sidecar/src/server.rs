//! The HTTP/2 server that both listeners share: accepting on the control runtime, serving on the data thread, leaving in order.
//!
//! Lives here: connections, from accept to GOAWAY. Does not: who comes in (`door`), what a call meets (`inbound`, `outbound`).
//! HTTP/2 only, in TLS or with prior knowledge. A side (inbound, outbound) leaves in two steps: `leave` ends accepting and sends GOAWAY;
//! `cut` ends what is left. One data thread carries both sides, so a connection's side is told by the port it came in at.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use weft_identity::Refusal;
use weft_runtime::linger::{Remains, lingering};
use weft_runtime::listen;
use weft_runtime::threads::{Connection, DataThreads, ThreadEnded};
use weft_traffic::{Body, Reset};

use crate::door::{Bond, Door, Entered, Unbound, Wire};
use crate::inbound::Introduction;

const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Streams a caller may have open on one connection; hyper's own default of 200 stalls a busy gateway.
const STREAMS: u32 = 1_000;
const HEADERS: u32 = 64 << 10;
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a leaving side waits for a caller that has connected to say who it is.
const LAST_CALL: Duration = Duration::from_millis(100);
/// Pause after a failed accept: out of descriptors, spinning would not free one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One of the two sides: its connections and how they are told to leave. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Side {
    leave: CancellationToken,
    cut: CancellationToken,
    connections: TaskTracker,
    /// Counts of connections on their way to the data thread, so that leaving waits for them, too. Held for a push or a pop.
    handed_over: Arc<Mutex<Vec<TaskTrackerToken>>>,
}

impl Side {
    /// Waits for `future`, but not longer than the side stays.
    pub(crate) async fn unless_leaving(&self, future: impl Future<Output = ()>) {
        self.leave.run_until_cancelled(future).await.unwrap_or_default();
    }

    /// Accepts until the side leaves; the listener is closed then, so that callers are refused by the kernel.
    pub(crate) async fn accept(self, listener: TcpListener, to: mpsc::Sender<Accepted>) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.leave.cancelled() => break,
            };
            match accepted {
                Ok((stream, downstream)) => self.send(stream, downstream, &to).await,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        for accepted in listen::close(listener) {
            match accepted {
                Ok((stream, downstream)) => self.send(stream, downstream, &to).await,
                Err(error) => tracing::warn!(%error, "connections that waited to be accepted are lost"),
            }
        }
    }

    async fn send(&self, stream: TcpStream, downstream: SocketAddr, to: &mpsc::Sender<Accepted>) {
        self.on_their_way().push(self.connections.token());
        // Fails only when the process ends, which ends the connection, too.
        let _ = to.send(Accepted { side: self.clone(), stream, downstream }).await;
    }

    fn on_their_way(&self) -> MutexGuard<'_, Vec<TaskTrackerToken>> {
        self.handed_over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves one connection to its end on the data thread.
    pub(crate) async fn serve<S, F>(self, connection: Connection, call: S)
    where
        S: Fn(Request<Incoming>) -> F,
        F: Future<Output = Result<Response<Body>, Reset>> + Send + 'static,
    {
        let _counted = self.counted();
        let (stream, remains) = lingering(connection.stream);
        drop(self.carry(Wire::Left(stream), remains, self.words(None), call).await);
    }

    /// Like [`Side::serve`], for a connection that `door` lets in. Each request says who sent it, by a [`Caller`] among its extensions, and by its head.
    pub(crate) async fn serve_from<S, F>(self, connection: Connection, door: &Door, call: S)
    where
        S: Fn(Request<Incoming>) -> F,
        F: Future<Output = Result<Response<Body>, Reset>> + Send + 'static,
    {
        let _counted = self.counted();
        let Connection { stream, downstream, .. } = connection; // streams are not counted: there is one data thread
        let entered = tokio::select! {
            entered = door.enter(stream, downstream) => entered,
            () = self.last_call() => return,
        };
        let Some(Entered { wire, remains, caller, bond }) = entered else { return };
        let introduction = Introduction::of(&caller);
        let call = move |mut request: Request<Incoming>| {
            introduction.write(request.headers_mut());
            request.extensions_mut().insert(caller.clone());
            call(request)
        };
        if let Some(refusal) = self.carry(wire, remains, self.words(bond), call).await {
            door.refused(downstream, refusal.rule(), &refusal);
        }
    }

    /// Closes a connection that nobody can serve yet.
    pub(crate) fn turn_away(self, connection: Connection) {
        let _counted = self.counted();
        drop(connection);
    }

    fn counted(&self) -> TaskTrackerToken {
        self.on_their_way().pop().unwrap_or_else(|| self.connections.token())
    }

    /// Waits until the side leaves, and then for as long as a caller that was let in by the kernel may need to say who it is.
    async fn last_call(&self) {
        self.leave.cancelled().await;
        sleep(LAST_CALL).await;
    }

    /// What a connection may be told. Kept in a set that polls those only that have something to say: the connection is polled for every frame.
    fn words(&self, bond: Option<Bond>) -> Words {
        let words = Words::new();
        let (leave, cut) = (self.leave.clone(), self.cut.clone());
        words.push(async move { leave.cancelled().map(|()| Word::Finish).await }.boxed());
        words.push(async move { cut.cancelled().map(|()| Word::Cut(None)).await }.boxed());
        for end in bond.into_iter().flat_map(Bond::ends) {
            words.push(end.map(Word::from).boxed());
        }
        words
    }

    /// Carries calls until the connection ends, or was cut. Returns why, if its caller is no longer welcome.
    async fn carry<S, F>(&self, wire: Wire, remains: Remains, mut words: Words, call: S) -> Option<Refusal>
    where
        S: Fn(Request<Incoming>) -> F,
        F: Future<Output = Result<Response<Body>, Reset>> + Send + 'static,
    {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(STREAMS)
            // A caller whose own callers hang up resets many streams at once; h2's limit of 20 would take it for an attack and end the connection.
            .max_pending_accept_reset_streams(STREAMS as usize)
            .max_header_list_size(HEADERS)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT);
        {
            let mut served = pin!(http.serve_connection(TokioIo::new(wire), service_fn(call)));
            loop {
                tokio::select! {
                    ended = served.as_mut() => {
                        if let Err(error) = ended {
                            tracing::debug!(%error, "a connection broke");
                        }
                        break;
                    }
                    Some(word) = words.next() => match word {
                        // GOAWAY now, and again with the last id once the caller has seen the first.
                        Word::Finish => served.as_mut().graceful_shutdown(),
                        Word::Cut(why) => return why,
                    },
                }
            }
        }
        self.cut.run_until_cancelled(remains.close()).await;
        None
    }

    /// Takes nothing new, lets calls finish for at most `limit`, then ends the rest. Returns how many connections had to be ended.
    pub(crate) async fn finish(&self, limit: Duration) -> usize {
        self.leave.cancel();
        self.connections.close();
        if timeout(limit, self.connections.wait()).await.is_ok() {
            return 0;
        }
        let left = self.connections.len();
        self.cut.cancel();
        self.connections.wait().await;
        left
    }

    /// Ends everything now.
    pub(crate) fn cut(&self) {
        self.leave.cancel();
        self.cut.cancel();
    }
}

type Words = FuturesUnordered<BoxFuture<'static, Word>>;

/// What a connection is told.
enum Word {
    /// Take nothing new.
    Finish,
    /// End now.
    Cut(Option<Refusal>),
}

impl From<Unbound> for Word {
    fn from(unbound: Unbound) -> Self {
        match unbound {
            Unbound::Outlived => Self::Finish,
            Unbound::Disowned(refusal) => Self::Cut(Some(refusal)),
        }
    }
}

/// A connection that waits for its data thread.
pub(crate) struct Accepted {
    side: Side,
    stream: TcpStream,
    downstream: SocketAddr,
}

/// Hands what is accepted to the data threads; returns when one of them ends.
pub(crate) async fn carry(threads: &mut DataThreads, mut accepted: mpsc::Receiver<Accepted>) -> ThreadEnded {
    loop {
        let Accepted { side, stream, downstream } = tokio::select! {
            Some(next) = accepted.recv() => next,
            ended = threads.ended() => return ended,
        };
        // A socket that fails here concerns its caller only.
        if let Err(error) = threads.hand_over(stream, downstream).await {
            side.on_their_way().pop();
            tracing::debug!(%error, "a connection was lost before it was served");
        }
    }
}

/// Whether a connection came in at this listener. Both sides share the data thread, and their listeners differ by port.
pub(crate) fn came_in_at(connection: &Connection, listener: SocketAddr) -> bool {
    connection.stream.local_addr().is_ok_and(|local| local.port() == listener.port())
}

#[cfg(test)]
mod tests;
