//! The client: HTTP/1.1 connections that are kept, each with one call at a time.
//!
//! Lives here: calls as fast as they are answered, and calls at a fixed rate, timed from when they were due. Does not: reading answers, beyond that each
//! is as long as the first, which the bench has read.

use std::{
    net::SocketAddr,
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
use tokio::{net::TcpStream, task::JoinSet, time::sleep};

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
        let (began, many) = (Instant::now(), self.senders.len());
        let every = Duration::from_secs_f64(many as f64 / rate);
        let took = self.each(|at, mut sender| {
            let (call, mut due) = (call.clone(), began + every.mul_f64(at as f64 / many as f64));
            async move {
                let mut took = Vec::new();
                while due < began + span {
                    sleep(due.saturating_duration_since(Instant::now())).await;
                    sends(&mut sender, &call, length).await?;
                    took.push(due.elapsed());
                    due += every;
                }
                Ok((sender, took))
            }
        });
        let mut took = took.await?.concat();
        took.sort_unstable();
        Ok(took)
    }

    /// Does something on every connection at once.
    async fn each<T: Send + 'static, F>(
        &mut self,
        work: impl Fn(usize, SendRequest<Full<Bytes>>) -> F,
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
