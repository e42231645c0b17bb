//! The same changes through etcd's own watch: the peer.
//!
//! Lives here: starting etcd, writing the population as keys, watching by range. Does not: leases, since weft's are compared with nobody's.
//! An instance is the key `/i/SERVICE/ID` with the encoded instance as its value; a replacement deletes one key and writes another, as with
//! weft. A watch of a service is the range below `/i/SERVICE/`; all watches of a watcher share one stream.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use prost::Message;
use rand::Rng;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use uuid::Uuid;
use weft_proto::{
    etcdserverpb::{
        DeleteRangeRequest, PutRequest, RangeRequest, WatchCreateRequest, WatchRequest, kv_client::KvClient,
        watch_client::WatchClient, watch_request::RequestUnion,
    },
    mvccpb::event::EventType,
    weft::model::v1::Instance,
};
use weft_testkit::process::Process;

use crate::{
    connect,
    native::{Seen, Stage, asked_at},
    population::Population,
    registrants::{Counts, Mode},
};

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
    let until = Instant::now() + Duration::from_secs(30);
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

fn key(service: &str, id: &str) -> Vec<u8> {
    format!("/i/{service}/{id}").into_bytes()
}

/// Starts writers that share the slots; they know `Calm`, `Churning` and `Leaving`.
pub(crate) fn writers(
    etcd: SocketAddr,
    population: Population,
    writers: usize,
    counts: &Arc<Counts>,
    mode: &watch::Receiver<Mode>,
) -> JoinSet<anyhow::Result<()>> {
    let mut all = JoinSet::new();
    for number in 0..writers {
        let slots: Vec<usize> = (number..population.instances).step_by(writers).collect();
        let (counts, mode) = (counts.clone(), mode.clone());
        all.spawn(write(etcd, population, slots, counts, mode));
    }
    all
}

async fn put(
    client: &mut KvClient<Channel>,
    population: &Population,
    slot: usize,
    generation: usize,
) -> anyhow::Result<Instance> {
    let instance = population.instance(slot, generation);
    let (key, value) = (key(&instance.service, &instance.id), instance.encode_to_vec());
    client.put(PutRequest { key: key.into(), value: value.into(), lease: 0 }).await?;
    Ok(instance)
}

async fn write(
    etcd: SocketAddr,
    population: Population,
    slots: Vec<usize>,
    counts: Arc<Counts>,
    mut mode: watch::Receiver<Mode>,
) -> anyhow::Result<()> {
    let mut client = KvClient::new(connect(etcd).await?);
    let mut held = Vec::with_capacity(slots.len());
    let mut latencies = Vec::new();
    for slot in slots {
        let began = Instant::now();
        held.push((slot, 0, put(&mut client, &population, slot, 0).await?));
        latencies.push(u64::try_from(began.elapsed().as_nanos())?);
        counts.registered.fetch_add(1, Ordering::Relaxed);
    }
    counts.register.extend(latencies);
    let mut now = *mode.borrow_and_update();
    let mut churn_at = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(churn_at), if matches!(now, Mode::Churning(_)) => {
                if let Mode::Churning(every) = now {
                    churn_at += every;
                }
                let index = rand::rng().random_range(0..held.len());
                let (slot, generation, ref old) = held[index];
                counts.departures.note(Uuid::parse_str(&old.id)?.as_u128(), population.now());
                let gone = DeleteRangeRequest { key: key(&old.service, &old.id).into(), ..DeleteRangeRequest::default() };
                client.delete_range(gone).await?;
                held[index] = (slot, generation + 1, put(&mut client, &population, slot, generation + 1).await?);
            }
            changed = mode.changed() => {
                changed?;
                now = *mode.borrow_and_update();
                match now {
                    Mode::Churning(every) => churn_at = Instant::now() + rand::rng().random_range(Duration::ZERO..every),
                    Mode::Leaving => return Ok(()),
                    Mode::Calm | Mode::Beating => {}
                }
            }
        }
    }
}

/// Starts watchers, each with the services it looks at; `*` is all of them.
pub(crate) fn watchers(
    etcd: SocketAddr,
    population: Population,
    watched: Vec<Vec<String>>,
    seen: &Arc<Seen>,
    counts: &Arc<Counts>,
    stage: &watch::Receiver<Stage>,
) -> JoinSet<anyhow::Result<u64>> {
    let mut all = JoinSet::new();
    for services in watched {
        all.spawn(watch(etcd, population, services, seen.clone(), counts.clone(), stage.clone()));
    }
    all
}

async fn watch(
    etcd: SocketAddr,
    population: Population,
    services: Vec<String>,
    seen: Arc<Seen>,
    counts: Arc<Counts>,
    mut stage: watch::Receiver<Stage>,
) -> anyhow::Result<u64> {
    let mut client = WatchClient::new(connect(etcd).await?).max_decoding_message_size(usize::MAX);
    let (requests, outgoing) = mpsc::channel(services.len().max(1));
    for service in &services {
        let (key, range_end) = if service == "*" {
            ("/i/".to_owned(), "/i0".to_owned())
        } else {
            (format!("/i/{service}/"), format!("/i/{service}0"))
        };
        let create =
            WatchCreateRequest { key: key.into(), range_end: range_end.into(), ..WatchCreateRequest::default() };
        requests.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).await?;
    }
    let mut stream = client.watch(ReceiverStream::new(outgoing)).await?.into_inner();
    let (mut created, events) = (0, AtomicU64::new(0));
    let mut latencies = Vec::new();
    loop {
        let now = *stage.borrow_and_update();
        let message = if now == Stage::Ending {
            match timeout(Duration::from_secs(3), stream.message()).await {
                Ok(message) => message?,
                Err(_) => break,
            }
        } else {
            tokio::select! {
                message = stream.message() => message?,
                changed = stage.changed() => { changed?; continue }
            }
        };
        let message = message.context("etcd ended a watch")?;
        ensure!(!message.canceled, "etcd cancelled a watch: {}", message.cancel_reason);
        if message.created {
            created += 1;
            if created == services.len() {
                seen.ready.fetch_add(1, Ordering::Relaxed);
            }
            continue;
        }
        seen.messages.fetch_add(1, Ordering::Relaxed);
        for event in &message.events {
            events.fetch_add(1, Ordering::Relaxed);
            let pair = event.kv.as_ref().context("an event has a key")?;
            let asked = match event.r#type() {
                EventType::Put => asked_at(&Instance::decode(pair.value.clone())?),
                EventType::Delete => {
                    let id = pair.key.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                    counts.departures.when(Uuid::try_parse_ascii(id)?.as_u128())
                }
            };
            if now == Stage::Measuring {
                latencies.extend(asked.map(|asked| population.now().saturating_sub(asked)));
            }
        }
    }
    seen.latencies.extend(latencies);
    Ok(events.into_inner())
}
