//! A crowd that comes at once: 5,000 ADS streams, of which one in ten never reads. Issue: step 3, "it must show", 7.
//!
//! Lives here: what the others get meanwhile, and what the crowd costs the registry. Does not: what answers say (the registry's own tests).
//! HTTP/2 by hand, since a gRPC library reads by itself: a stream that is not read keeps its window full, and its connection carries others.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::{
    config::{core::v3::Node, endpoint::v3::ClusterLoadAssignment},
    service::discovery::v3::DiscoveryRequest,
};
use h2::{RecvStream, SendStream, client, client::ResponseFuture};
use prost::{Message, Name};
use tokio::{
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use weft_proto::weft::{
    model::v1::{Endpoint, Instance, Status, Transport, transport},
    registry::v1::{RegisterRequest, registry_client::RegistryClient},
};
use weft_testkit::{memory, mesh, outside, process::Process, wait};

use super::streams;
use crate::ALONE;

/// Connections, within the 1,024 descriptors that a process often has.
const CONNECTIONS: usize = 500;
/// Streams of each. The first never reads.
const STREAMS: usize = 10;
const READERS: usize = CONNECTIONS * (STREAMS - 1);
/// What a stream takes without being read: less than an answer.
const WINDOW: u32 = 16 << 10;
const INSTANCES: u16 = 1_200;
const CHANGES: u16 = 10;
/// What the crowd may cost, in MiB: 32 KiB for each stream, twice what it does in a debug build. A copy of an answer for each stream would be more alone,
/// as would all answers for those who do not read.
const MOST_MEMORY: f64 = (CONNECTIONS * STREAMS) as f64 * 32.0 / 1_024.0;
/// For everything together; a run takes a fraction of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A response, its resources as they came.
#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(bytes = "bytes", repeated, tag = "2")]
    resources: Vec<Bytes>,
    #[prost(string, tag = "5")]
    nonce: String,
}

/// What the crowd was told, and how many have come how far.
#[derive(Debug, Default)]
struct Crowd {
    /// Each resource once: a copy for every stream would be more than the test has to say.
    told: Mutex<Vec<Bytes>>,
    answered: AtomicUsize,
    finished: AtomicUsize,
}

impl Crowd {
    /// The number of a resource, the same for the same bytes.
    fn number(&self, resource: Bytes) -> usize {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter().rposition(|it| *it == resource).unwrap_or_else(|| {
            told.push(resource);
            told.len() - 1
        })
    }
}

/// What streams are to do.
#[derive(Debug, Clone, Copy, Default)]
struct Word {
    /// Changes of the catalog so far.
    changes: u16,
    /// Number of what everybody is to have in the end, once that is known.
    last: Option<usize>,
}

fn request(names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: ClusterLoadAssignment::type_url(),
        resource_names: names.iter().map(|it| (*it).to_owned()).collect(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    }
}

fn framed(message: &DiscoveryRequest) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.encoded_len() + 5);
    frame.put_u8(0);
    frame.put_u32(message.encoded_len().try_into().expect("it is short"));
    message.encode(&mut frame).expect("there is room");
    frame.freeze()
}

/// A connection; its task ends with the set.
async fn connect(at: SocketAddr, tasks: &mut JoinSet<()>) -> client::SendRequest<Bytes> {
    let socket = TcpStream::connect(at).await.unwrap();
    let builder = client::Builder::new().initial_window_size(WINDOW).initial_connection_window_size(4 << 20).clone();
    let (requests, connection) = builder.handshake(socket).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    requests
}

/// An open stream whose answer nobody has looked for yet.
struct Stream {
    requests: SendStream<Bytes>,
    response: ResponseFuture,
}

impl Stream {
    /// Opens one that asks for the endpoints of users.
    fn open(connection: &mut client::SendRequest<Bytes>, node: String) -> Self {
        let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
        let head = http::Request::post(format!("http://registry{path}"));
        let head = head.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap();
        let (response, requests) = connection.send_request(head, false).unwrap();
        let mut stream = Self { requests, response };
        let first = DiscoveryRequest { node: Some(Node { id: node, ..Node::default() }), ..request(&["users"], "") };
        stream.requests.send_data(framed(&first), false).unwrap();
        stream
    }

    /// Acknowledges what it has not read: a nonce is easily guessed.
    fn pretend(&mut self, nonce: u16) {
        self.requests.send_data(framed(&request(&["users"], &format!("{nonce:x}"))), false).unwrap();
    }

    async fn read(self) -> Reader {
        let response = self.response.await.unwrap();
        assert_eq!(response.status(), 200);
        Reader { requests: self.requests, answers: response.into_body(), buffer: BytesMut::new() }
    }
}

/// A stream that reads.
struct Reader {
    requests: SendStream<Bytes>,
    answers: RecvStream,
    buffer: BytesMut,
}

impl Reader {
    /// Waits for the next answer and acknowledges it; returns its one resource. Cancel-safe.
    async fn next(&mut self) -> Bytes {
        let mut answer = self.message().await;
        assert_eq!(answer.resources.len(), 1);
        self.requests.send_data(framed(&request(&["users"], &answer.nonce)), false).unwrap();
        answer.resources.remove(0)
    }

    async fn message(&mut self) -> Answer {
        loop {
            if let Some(mut head) = self.buffer.get(1..5) {
                let whole = 5 + head.get_u32() as usize;
                if self.buffer.len() >= whole {
                    return Answer::decode(self.buffer.split_to(whole).freeze().slice(5..)).unwrap();
                }
            }
            let chunk = self.answers.data().await.expect("the stream goes on").unwrap();
            self.answers.flow_control().release_capacity(chunk.len()).unwrap();
            self.buffer.extend_from_slice(&chunk);
        }
    }
}

/// Follows until it has what everybody is to have, and stays open; its first answer has to be the crowd's first.
async fn follow(stream: Stream, crowd: Arc<Crowd>, mut word: watch::Receiver<Word>) -> Reader {
    let mut reader = stream.read().await;
    let mut have = crowd.number(reader.next().await);
    assert_eq!(have, 0, "the first answer is another one");
    crowd.answered.fetch_add(1, Ordering::Relaxed);
    while word.borrow_and_update().last != Some(have) {
        tokio::select! {
            next = reader.next() => have = crowd.number(next),
            changed = word.changed() => changed.unwrap(),
        }
    }
    crowd.finished.fetch_add(1, Ordering::Relaxed);
    reader
}

/// One connection with its streams; all stay open until there is no more to be said.
async fn connection(at: SocketAddr, number: usize, crowd: Arc<Crowd>, mut word: watch::Receiver<Word>) {
    let mut tasks = JoinSet::new();
    let mut requests = connect(at, &mut tasks).await;
    let (mut stuck, mut readers) = (Vec::new(), JoinSet::new());
    for n in 0..STREAMS {
        requests = requests.ready().await.unwrap();
        let stream = Stream::open(&mut requests, format!("crowd-{number}-{n}"));
        match n {
            0 => stuck.push(stream),
            _ => drop(readers.spawn(follow(stream, crowd.clone(), word.clone()))),
        }
    }
    let mut done = Vec::new();
    loop {
        tokio::select! {
            Some(ended) = readers.join_next() => done.push(ended.unwrap()),
            changed = word.changed() => match changed {
                Ok(()) => {
                    let nonce = word.borrow_and_update().changes;
                    stuck.iter_mut().for_each(|it| it.pretend(nonce));
                }
                Err(_) => return,
            }
        }
    }
}

fn instance(n: u16) -> Instance {
    let [high, low] = n.to_be_bytes();
    let transport = Transport { kind: Some(transport::Kind::Plaintext(transport::Plaintext {})) };
    let endpoint = Endpoint { address: format!("10.1.{high}.{low}:7300"), transport: Some(transport), protocol: 0 };
    let id = format!("01900000-0000-7000-8000-{n:012x}");
    let mut instance = Instance { id, service: "users".into(), endpoint: Some(endpoint), ..Instance::default() };
    instance.set_status(Status::Serving);
    instance
}

async fn register(registry: SocketAddr, numbers: impl Iterator<Item = u16>) {
    let client = RegistryClient::new(mesh::channel(registry));
    let mut calls = JoinSet::new();
    for n in numbers {
        let mut client = client.clone();
        let request = RegisterRequest { instance: Some(instance(n)), ttl_ms: 600_000 };
        calls.spawn(async move { drop(client.register(request).await.unwrap()) });
    }
    while let Some(ended) = calls.join_next().await {
        ended.unwrap();
    }
}

fn endpoints(resource: &Bytes) -> usize {
    let any = envoy_types::pb::google::protobuf::Any::decode(resource.clone()).unwrap();
    let assignment = ClusterLoadAssignment::decode(any.value.as_slice()).unwrap();
    assignment.endpoints.iter().map(|it| it.lb_endpoints.len()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_5000_streams_is_served_although_one_in_ten_never_reads() {
    let test = "a_crowd_of_5000_streams_is_served_although_one_in_ten_never_reads";
    let Some(programs) = outside::need_binaries(&["weft"], test) else { return };
    let _alone = ALONE.write().await;
    timeout(PATIENCE, comes(&programs[0])).await.expect("everybody has what there is");
}

async fn comes(weft: &std::path::Path) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_string_lossy().into_owned();
    let args = ["registry", "--insecure", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-format", "json"];
    let args: Vec<_> = args.into_iter().chain(["--data", &data]).map(str::to_owned).collect();
    let mut registry = Process::start("registry", weft, weft, &args, &[("RUST_LOG", "warn".to_owned())]).unwrap();
    let (at, admin) = (registry.address("grpc").await, registry.address("admin").await);
    register(at, 0..INSTANCES).await;

    let mut tasks = JoinSet::new();
    let mut requests = connect(at, &mut tasks).await.ready().await.unwrap();
    let mut witness = Stream::open(&mut requests, "witness".to_owned()).read().await;
    let mut told = witness.next().await;
    assert_eq!(endpoints(&told), usize::from(INSTANCES));
    assert!(told.len() > 2 * WINDOW as usize, "an answer of {} bytes fits into the window", told.len());
    let before = memory::resident(registry.pid()).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", registry.pid())).unwrap();
    assert!(status.contains("\nTHP_enabled:\t0"), "a buffer that is hardly used takes its whole size: {status}");

    let (word, words) = watch::channel(Word::default());
    let crowd = Arc::new(Crowd::default());
    assert_eq!(crowd.number(told.clone()), 0);
    let mut connections = JoinSet::new();
    for number in 0..CONNECTIONS {
        connections.spawn(connection(at, number, crowd.clone(), words.clone()));
    }
    drop(words);
    reach(&crowd.answered, &mut connections).await;
    // Of those who never read nothing is heard by which one could tell that they are counted, too.
    let all = async || (streams(admin, "sotw").await == CONNECTIONS * STREAMS + 1).then_some(());
    wait::until("all to be counted: nobody was left out", PATIENCE, all).await;

    for change in 1..=CHANGES {
        register(at, std::iter::once(INSTANCES + change - 1)).await;
        while endpoints(&told) < usize::from(INSTANCES + change) {
            told = witness.next().await;
        }
        word.send_modify(|word| word.changes = change);
    }
    word.send_modify(|word| word.last = Some(crowd.number(told)));
    reach(&crowd.finished, &mut connections).await;
    assert_eq!(streams(admin, "sotw").await, CONNECTIONS * STREAMS + 1, "nobody was cut off");
    let after = memory::resident(registry.pid()).unwrap();
    let cost = after.peak - before.now;
    assert!(cost < MOST_MEMORY, "the crowd cost {cost:.0} MiB of {MOST_MEMORY:.0}: {before:?}, {after:?}");

    drop(word);
    while let Some(ended) = connections.join_next().await {
        ended.unwrap();
    }
    wait::until("the crowd to be forgotten", PATIENCE, async || (streams(admin, "sotw").await == 1).then_some(()))
        .await;
}

/// Waits until all that read have come so far; none of their connections may end before.
async fn reach(count: &AtomicUsize, connections: &mut JoinSet<()>) {
    while count.load(Ordering::Relaxed) < READERS {
        if let Some(ended) = connections.try_join_next() {
            panic!("a connection ended: {ended:?}");
        }
        sleep(Duration::from_millis(10)).await;
    }
}
