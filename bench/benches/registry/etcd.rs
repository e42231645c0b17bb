//! etcd, the peer: the same population as keys, the same changes by its own watch.
//!
//! Lives here: starting etcd, keys, reading and watching ranges. Does not: leases, since weft's are compared with nobody's.
//! An instance is the key `/i/SERVICE/ID` with the encoded instance as its value. A reader reads the range of each of its services and watches it from
//! the revision it has read; all watches of a reader share one stream. etcd wants no acknowledgement.

use std::{
    future::pending,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use prost::Message;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};
use weft_proto::{
    etcdserverpb::{
        DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest,
        WatchResponse, kv_client::KvClient, request_op::Request, watch_client::WatchClient,
        watch_request::RequestUnion,
    },
    mvccpb::event::EventType,
    weft::model::v1::Instance,
};
use weft_testkit::process::Process;

use crate::{
    connect,
    population::number_of,
    readers::{ALL, Reader, State},
    tally::Change,
    writers::{Beaten, Writer},
};

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts an etcd with its data below `dir`, one member, durable as by default.
pub(crate) async fn start(program: &Path, dir: &Path) -> anyhow::Result<(Process, SocketAddr)> {
    let [client, peer] = [free()?, free()?];
    let mut command = Command::new(program);
    command.args(["--name", "bench", "--log-level", "error", "--data-dir"]).arg(dir.join("etcd"));
    command.args([format!("--listen-client-urls=http://{client}"), format!("--advertise-client-urls=http://{client}")]);
    command.args([
        format!("--listen-peer-urls=http://{peer}"),
        format!("--initial-advertise-peer-urls=http://{peer}"),
        format!("--initial-cluster=bench=http://{peer}"),
        "--quota-backend-bytes=8589934592".to_owned(),
    ]);
    let mut etcd = Process::spawn("etcd", command)?;
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(how) = etcd.ended() {
            anyhow::bail!("etcd ended ({how}):\n{}", etcd.log());
        }
        if let Ok(channel) = connect(client).await
            && KvClient::new(channel).range(RangeRequest { key: "x".into(), ..RangeRequest::default() }).await.is_ok()
        {
            return Ok((etcd, client));
        }
        ensure!(Instant::now() < until, "etcd does not answer:\n{}", etcd.log());
        sleep(Duration::from_millis(50)).await;
    }
}

fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// What the store itself says.
pub(crate) async fn catalog(etcd: SocketAddr) -> anyhow::Result<State> {
    let (mut client, mut state) = (kv(connect(etcd).await?), State::default());
    read(&mut client, ALL, &mut state).await?;
    Ok(state)
}

fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(usize::MAX)
}

/// The first key of a service, and the first that is none of its.
fn range(service: &str) -> (Vec<u8>, Vec<u8>) {
    match service {
        ALL => (b"/i/".to_vec(), b"/i0".to_vec()),
        service => (format!("/i/{service}/").into_bytes(), format!("/i/{service}0").into_bytes()),
    }
}

/// Takes a key apart.
fn parse(key: &[u8]) -> anyhow::Result<(&str, u64)> {
    let parts = std::str::from_utf8(key)?.strip_prefix("/i/").and_then(|it| it.split_once('/'));
    let (service, id) = parts.context("a key of an instance")?;
    Ok((service, number_of(id)?))
}

/// Reads the instances of a service; returns the revision.
async fn read(client: &mut KvClient<Channel>, service: &str, state: &mut State) -> anyhow::Result<i64> {
    let (key, range_end) = range(service);
    let request = RangeRequest { key: key.into(), range_end: range_end.into(), ..RangeRequest::default() };
    let answer = client.range(request).await?.into_inner();
    if service != ALL {
        state.insert(service.to_owned(), Default::default());
    }
    for pair in &answer.kvs {
        let (service, number) = parse(&pair.key)?;
        state.entry(service.to_owned()).or_default().insert(number);
    }
    Ok(answer.header.context("an answer has a header")?.revision)
}

/// Returns the key of an instance, and what writes it.
fn put(instance: &Instance) -> (Vec<u8>, PutRequest) {
    let key = format!("/i/{}/{}", instance.service, instance.id).into_bytes();
    let value = instance.encode_to_vec();
    (key.clone(), PutRequest { key: key.into(), value: value.into(), lease: 0 })
}

fn delete(key: &[u8]) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.to_vec().into(), ..DeleteRangeRequest::default() }
}

/// A process that writes keys.
#[derive(Debug)]
pub(crate) struct Keys(KvClient<Channel>);

impl Keys {
    /// In one transaction.
    async fn all(&mut self, requests: impl IntoIterator<Item = Request>) -> anyhow::Result<()> {
        let success = requests.into_iter().map(|it| RequestOp { request: Some(it) }).collect();
        self.0.txn(TxnRequest { success }).await?;
        Ok(())
    }
}

impl Writer for Keys {
    /// The key.
    type Held = Vec<u8>;

    async fn open(to: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self(kv(connect(to).await?)))
    }

    async fn register(&mut self, instance: Instance) -> anyhow::Result<Vec<u8>> {
        let (key, put) = put(&instance);
        self.0.put(put).await?;
        Ok(key)
    }

    async fn register_all(&mut self, instances: Vec<Instance>) -> anyhow::Result<Vec<Vec<u8>>> {
        let (keys, puts): (Vec<_>, Vec<_>) = instances.iter().map(put).unzip();
        self.all(puts.into_iter().map(Request::RequestPut)).await?;
        Ok(keys)
    }

    async fn deregister(&mut self, held: &Vec<u8>) -> anyhow::Result<()> {
        self.0.delete_range(delete(held)).await?;
        Ok(())
    }

    async fn replace(&mut self, held: &Vec<u8>, successor: Instance) -> anyhow::Result<Vec<u8>> {
        let (key, put) = put(&successor);
        self.all([Request::RequestDeleteRange(delete(held)), Request::RequestPut(put)]).await?;
        Ok(key)
    }

    async fn beat<'a>(&mut self, _: impl Iterator<Item = &'a Vec<u8>> + Send) -> anyhow::Result<()> {
        Ok(()) // keys without a lease stay
    }

    async fn answered(&mut self) -> anyhow::Result<Beaten> {
        pending().await
    }
}

/// A stream with a watch for each service.
#[derive(Debug)]
pub(crate) struct Watch {
    _requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
    watches: usize,
    created: usize,
    state: State,
}

impl Reader for Watch {
    async fn open(to: SocketAddr, _: String, services: Vec<String>) -> anyhow::Result<Self> {
        let channel = connect(to).await?;
        let (mut client, mut state) = (kv(channel.clone()), State::default());
        let (requests, outgoing) = mpsc::channel(services.len().max(1));
        for service in &services {
            let start_revision = read(&mut client, service, &mut state).await? + 1;
            let (key, range_end) = range(service);
            let (key, range_end) = (key.into(), range_end.into());
            let create = WatchCreateRequest { key, range_end, start_revision, ..WatchCreateRequest::default() };
            requests.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).await?;
        }
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let answers = client.watch(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { _requests: requests, answers, watches: services.len(), created: 0, state })
    }

    async fn next(&mut self) -> anyhow::Result<Vec<Change>> {
        let message = self.answers.message().await?.context("etcd ended a watch")?;
        ensure!(!message.canceled, "etcd cancelled a watch: {}", message.cancel_reason);
        self.created += usize::from(message.created);
        let mut changes = Vec::new();
        for event in &message.events {
            let (service, number) = parse(&event.kv.as_ref().context("an event has a key")?.key)?;
            let known = self.state.entry(service.to_owned()).or_default();
            match event.r#type() {
                EventType::Put => {
                    known.insert(number);
                    changes.push(Change::Comes(number));
                }
                EventType::Delete => {
                    known.remove(&number);
                    changes.push(Change::Goes(number));
                }
            }
        }
        Ok(changes)
    }

    async fn acknowledge(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.created == self.watches
    }

    fn state(&self) -> &State {
        &self.state
    }
}
