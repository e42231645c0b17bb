//! The client: HTTP/1.1 connections that are kept, each with one call at a time.
//!
//! Lives here: calls as fast as they are answered, and calls at a fixed rate, timed from when they were due. Does not: reading answers, beyond that each
//! is as long as the first, which the bench has read.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{
    Request, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
};

/// From when a round is begun to its first call: until then everybody is in place.
const LEAD: Duration = Duration::from_millis(5);

/// A call that is made over and over.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) path: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) body: Bytes,
}

/// Connections to one peer. They end with this value.
pub(crate) struct Client {
    senders: Vec<SendRequest<Full<Bytes>>>,
    _connections: JoinSet<()>,
}

impl Client {
    pub(crate) async fn connect(target: SocketAddr, many: usize) -> anyhow::Result<Self> {
        let (mut senders, mut connections) = (Vec::new(), JoinSet::new());
        for _ in 0..many {
            let stream = TcpStream::connect(target).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            connections.spawn(async move { drop(connection.await) });
            senders.push(sender);
        }
        Ok(Self { senders, _connections: connections })
    }

    /// The answer to one call.
    pub(crate) async fn once(&mut self, call: &Call) -> anyhow::Result<Bytes> {
        let sender = self.senders.first_mut().context("there is a connection")?;
        let (status, body) = send(sender, call).await?;
        ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&body[..body.len().min(500)]));
        Ok(body)
    }

    /// Makes so many calls as fast as they are answered. Returns how long it took.
    pub(crate) async fn flat_out(&mut self, call: &Call, calls: usize, length: usize) -> anyhow::Result<Duration> {
        let (began, many) = (Instant::now(), self.senders.len());
        self.each(|at, mut sender| {
            let (call, share) = (call.clone(), calls / many + usize::from(at < calls % many));
            async move {
                for _ in 0..share {
                    sends(&mut sender, &call, length).await?;
                }
                Ok((sender, ()))
            }
        })
        .await?;
        Ok(began.elapsed())
    }

    /// Makes calls at a rate for a time. Returns how long each took from when it was due, shortest first.
    pub(crate) async fn paced(
        &mut self,
        call: &Call,
        rate: f64,
        span: Duration,
        length: usize,
    ) -> anyhow::Result<Vec<Duration>> {
        let (many, every) = (self.senders.len(), Duration::from_secs_f64(1.0 / rate));
        let calls = (span.as_secs_f64() * rate).ceil().max(1.0) as usize;
        // A queue has room for all that comes through it: a call that is late holds up those of its connection alone.
        let (ringing, heard): (Vec<_>, Vec<_>) = (0..many).map(|_| mpsc::channel(calls.div_ceil(many))).unzip();
        let (began, mut heard) = (Instant::now() + LEAD, heard.into_iter());
        let bells = spawn_blocking(move || ring(began, every, calls, &ringing));
        let took = self.each(|_, mut sender| {
            let (call, mut bell) = (call.clone(), heard.next().expect("there is one for each connection"));
            async move {
                let mut took = Vec::new();
                while let Some(due) = bell.recv().await {
                    sends(&mut sender, &call, length).await?;
                    took.push(Instant::now().saturating_duration_since(due));
                }
                Ok((sender, took))
            }
        });
        let mut took = took.await?.concat();
        bells.await?;
        ensure!(took.len() == calls, "{} calls instead of {calls}", took.len());
        took.sort_unstable();
        Ok(took)
    }

    /// Does something on every connection at once.
    async fn each<T: Send + 'static, F>(
        &mut self,
        mut work: impl FnMut(usize, SendRequest<Full<Bytes>>) -> F,
    ) -> anyhow::Result<Vec<T>>
    where
        F: Future<Output = anyhow::Result<(SendRequest<Full<Bytes>>, T)>> + Send + 'static,
    {
        let senders = std::mem::take(&mut self.senders).into_iter().enumerate();
        let mut working: JoinSet<_> = senders.map(|(at, sender)| work(at, sender)).collect();
        let mut results = Vec::new();
        while let Some(ended) = working.join_next().await {
            let (sender, result) = ended??;
            self.senders.push(sender);
            results.push(result);
        }
        Ok(results)
    }
}

/// Tells connections, one after the other, that a call is due, when it is. On a thread, since the timers of the runtime go by whole milliseconds; and asleep
/// between calls, since to wait awake would take a core from what is measured. Ends when it has told of all, or nobody listens.
#[expect(clippy::disallowed_methods, reason = "a thread of its own: nobody else waits")]
fn ring(began: Instant, every: Duration, calls: usize, connections: &[mpsc::Sender<Instant>]) {
    let mut due = began;
    for connection in connections.iter().cycle().take(calls) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if connection.try_send(due).is_err() {
            return; // a call has failed, and its round with it
        }
        due += every;
    }
}

async fn sends(sender: &mut SendRequest<Full<Bytes>>, call: &Call, length: usize) -> anyhow::Result<()> {
    let (status, body) = send(sender, call).await?;
    ensure!(status == StatusCode::OK && body.len() == length, "{status}, {} bytes instead of {length}", body.len());
    Ok(())
}

async fn send(sender: &mut SendRequest<Full<Bytes>>, call: &Call) -> anyhow::Result<(StatusCode, Bytes)> {
    let request = Request::post(call.path)
        .header(HOST, "bench")
        .header(CONTENT_TYPE, call.content_type)
        .header(ACCEPT, call.content_type)
        .body(Full::new(call.body.clone()))?;
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}
