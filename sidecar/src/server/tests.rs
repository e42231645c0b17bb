//! The inbound side on a real socket, with identities of a real authority: who comes in, who does not and is told, who has to leave.
//!
//! Lives here: behaviours of door and server together. Does not: the app behind them (`tests/sidecar`), the rules of trust (`weft-identity`).

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::SystemTime;

use futures_util::stream::FuturesUnordered;
use http_body_util::BodyExt;
use hyper::client::conn::http2::SendRequest;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use weft_identity::{Identity, KeyRequest, Svid, Trust, TrustDomain};
use weft_model::{Caller, Endpoint, Protocol, ServiceInfo, SpiffeId, Transport};
use weft_registry::ca::{Ca, Revoke, Settings};
use weft_runtime::{Context, Env, threads::Load};
use weft_traffic::{Claims, Code, Outbound, OutboundConfig, Pool, PoolConfig, StaticCluster, Worlds};

use super::*;
use crate::Plaintext;
use crate::metrics::Metrics;

const HOUR: Duration = Duration::from_secs(3_600);
/// Longest wait of a test for anything.
const LIMIT: Duration = Duration::from_secs(30);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("waited {LIMIT:?} for {what}"))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    soon(what, async {
        while !holds() {
            sleep(Duration::from_millis(2)).await; // between two looks
        }
    })
    .await;
}

/// An authority whose clock can be moved.
struct Authority {
    ca: Ca,
    moved: Arc<AtomicU64>,
    _dir: TempDir,
}

impl Authority {
    fn new(domain: &str, life: Duration) -> Self {
        let (dir, moved) = (tempfile::tempdir().unwrap(), Arc::new(AtomicU64::new(0)));
        let trust_domain: TrustDomain = domain.parse().unwrap();
        let settings =
            Settings { dir: dir.path().to_owned(), trust_domain, life, advertise: Vec::new(), kubernetes: None };
        let by = moved.clone();
        let now = move || -> SystemTime { weft_runtime::clock::wall() + Duration::from_secs(by.load(SeqCst)) };
        Self { ca: Ca::open(&settings, Arc::new(now)).unwrap(), moved, _dir: dir }
    }

    fn id(&self, service: &str) -> SpiffeId {
        self.ca.domain().service(&service.parse().unwrap())
    }

    fn svid(&self, service: &str) -> Svid {
        let key = KeyRequest::generate().unwrap();
        let issued = self.ca.sign(key.csr(), &self.id(service)).unwrap();
        key.complete(issued.chain).unwrap()
    }

    fn identity(&self, service: &str) -> Identity {
        let (trusted, moved) = (self.ca.trusted(), self.moved.clone());
        let clock = move || -> SystemTime { weft_runtime::clock::wall() + Duration::from_secs(moved.load(SeqCst)) };
        let trust = Trust::new(trusted.bundle, trusted.revocations, Arc::new(clock)).unwrap();
        Identity::new(self.svid(service), trust).unwrap()
    }

    /// What a process learns from the registry.
    fn tell(&self, who: &Identity) {
        let trusted = self.ca.trusted();
        who.trust().replace(trusted.bundle, trusted.revocations).unwrap();
    }

    fn revoke(&self, serial_of: &Svid, tell: &Identity) {
        self.ca.revoke(&Revoke::Serial(serial_of.leaf().serial.clone())).unwrap();
        self.tell(tell);
    }
}

/// An inbound that answers by itself, and what it saw.
struct Inbound {
    at: SocketAddr,
    side: Side,
    callers: Arc<Mutex<Vec<Option<Caller>>>>,
    /// What their heads say of who sent them.
    told: Arc<Mutex<Vec<Option<String>>>>,
    context: Context,
    open: TaskTracker,
    _accepting: JoinSet<()>,
}

impl Inbound {
    async fn start(identity: Option<&Identity>, plaintext: Plaintext) -> Self {
        let context = Context::for_test("sidecar", Env::default());
        let door = Door::new(identity.cloned(), plaintext, Metrics::register(context.metrics()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (side, callers, open) = (Side::default(), Arc::<Mutex<Vec<_>>>::default(), TaskTracker::new());
        let told = Arc::<Mutex<Vec<_>>>::default();
        let accept = {
            let (side, callers, told, open) = (side.clone(), callers.clone(), told.clone(), open.clone());
            async move {
                loop {
                    let (stream, downstream) = listener.accept().await.unwrap();
                    let connection = Connection { stream, downstream, load: Load::default() };
                    let (side, door, callers, told) = (side.clone(), door.clone(), callers.clone(), told.clone());
                    open.spawn(async move {
                        side.serve_from(connection, &door, |request: Request<Incoming>| {
                            callers.lock().unwrap().push(request.extensions().get().cloned());
                            let said = request.headers().get("x-forwarded-client-cert");
                            told.lock().unwrap().push(said.map(|it| it.to_str().unwrap().to_owned()));
                            answer(request)
                        })
                        .await;
                    });
                }
            }
        };
        Self { at, side, callers, told, context, open, _accepting: JoinSet::from_iter([accept]) }
    }

    fn counted(&self, rule: &str) -> u64 {
        let line = format!("weft_sidecar_inbound_refusals_total{{rule=\"{rule}\"}} ");
        let text = self.context.metrics().encode();
        text.lines().find_map(|it| it.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }

    fn told(&self) -> Vec<Option<String>> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }

    fn callers(&self) -> Vec<Option<Caller>> {
        std::mem::take(&mut *self.callers.lock().unwrap())
    }
}

/// `/echo` gives the body back as it comes; anything else is answered at once.
async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Reset> {
    if request.uri().path() == "/echo" {
        return Ok(Response::new(request.into_body().into()));
    }
    let mut response = Response::new(Body::empty());
    Code::Ok.write("", response.headers_mut());
    Ok(response)
}

/// One connection of a caller.
struct Client {
    sender: SendRequest<Body>,
    _driving: JoinSet<()>,
}

impl Client {
    async fn over(io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static) -> Self {
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
        Self { sender, _driving: JoinSet::from_iter([async { drop(connection.await) }]) }
    }

    async fn plain(at: SocketAddr) -> Self {
        Self::over(TcpStream::connect(at).await.unwrap()).await
    }

    async fn with(at: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from("mesh.invalid").unwrap();
        let tls = TlsConnector::from(config).connect(name, TcpStream::connect(at).await?).await?;
        Ok(Self::over(tls).await)
    }

    async fn dial(at: SocketAddr, caller: &Identity, callee: &SpiffeId) -> io::Result<Self> {
        Self::with(at, caller.client_config(callee)).await
    }

    /// Calls and returns status and message; none if the connection ends first.
    async fn call(&mut self) -> Option<(Code, String)> {
        let request = Request::post("http://users/a.B/C").header("content-type", "application/grpc");
        let forged = "URI=spiffe://weft.local/ns/default/svc/operator";
        let request = request.header("x-forwarded-client-cert", forged).header("x-forwarded-client-cert", forged);
        let request = request.body(Body::empty()).unwrap();
        let answer = soon("an answer", self.sender.send_request(request)).await.ok()?;
        let message = answer.headers().get("grpc-message").map_or("", |it| it.to_str().unwrap()).to_owned();
        Some((Code::from_headers(answer.headers()).unwrap(), message))
    }

    /// Opens a call that goes on until its body ends.
    async fn open(&mut self) -> (weft_traffic::BodySender, Incoming) {
        let (sender, body) = Body::channel(1);
        let request = Request::post("http://users/echo").body(body).unwrap();
        (sender, soon("headers", self.sender.send_request(request)).await.unwrap().into_body())
    }

    async fn good(&mut self) -> bool {
        self.call().await.is_some_and(|(code, _)| code == Code::Ok)
    }
}

/// Shows no certificate.
#[derive(Debug)]
struct Nobody;

impl ResolvesClientCert for Nobody {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

fn without_certificate(identity: &Identity, callee: &SpiffeId) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&identity.client_config(callee));
    config.client_auth_cert_resolver = Arc::new(Nobody);
    Arc::new(config)
}

/// Whether the caller is turned away, which it may notice at the handshake or at its first call.
async fn turned_away(dialled: io::Result<Client>) -> bool {
    match dialled {
        Err(_) => true,
        Ok(mut client) => client.call().await.is_none(),
    }
}

#[tokio::test]
async fn a_request_carries_who_sent_it() {
    let mesh = Authority::new("weft.local", HOUR);
    let (users, posts) = (mesh.identity("users"), mesh.identity("posts"));
    let inbound = Inbound::start(Some(&users), Plaintext::Loopback).await;
    assert!(Client::dial(inbound.at, &posts, &users.id()).await.unwrap().good().await);
    assert_eq!(inbound.callers(), [Some(Caller::Identity(posts.id()))]);
    assert_eq!(inbound.told(), [Some(format!("URI={}", posts.id()))], "and not what it says of itself");

    assert!(Client::with(inbound.at, without_certificate(&posts, &users.id())).await.unwrap().good().await);
    assert!(Client::plain(inbound.at).await.good().await);
    assert_eq!(inbound.callers(), [Some(Caller::Anonymous), Some(Caller::Anonymous)]);
    assert_eq!(inbound.told(), [None, None], "nobody proved anything");

    let without = Inbound::start(None, Plaintext::Allow).await;
    assert!(Client::plain(without.at).await.good().await);
    assert_eq!(without.callers(), [Some(Caller::Anonymous)]);
}

#[tokio::test]
async fn who_may_not_come_in_is_refused_and_counted_by_its_rule() {
    let (mesh, foreign, forger) = (
        Authority::new("weft.local", HOUR),
        Authority::new("other.mesh", HOUR),
        Authority::new("weft.local", 99 * HOUR),
    );
    let users = mesh.identity("users");
    let inbound = Inbound::start(Some(&users), Plaintext::Refuse).await;
    let believing = |other: &Authority| {
        let stranger = other.identity("posts");
        stranger.trust().replace(mesh.ca.trusted().bundle, mesh.ca.trusted().revocations).unwrap();
        stranger
    };
    let (revoked, late) = (mesh.identity("posts"), mesh.identity("posts"));
    mesh.revoke(&revoked.svid(), &users);
    let cases = [
        ("foreign_trust_domain", believing(&foreign)),
        ("unknown_authority", believing(&forger)),
        ("revoked", revoked),
    ];
    for (rule, caller) in cases {
        assert!(turned_away(Client::dial(inbound.at, &caller, &users.id()).await).await, "{rule}");
        until(rule, || inbound.counted(rule) == 1).await;
    }
    let nobody = without_certificate(&late, &users.id());
    assert!(turned_away(Client::with(inbound.at, nobody).await).await);
    until("no_certificate", || inbound.counted("no_certificate") == 1).await;

    mesh.moved.fetch_add(2 * HOUR.as_secs(), SeqCst);
    users.rotate(mesh.svid("users")).unwrap();
    assert!(turned_away(Client::dial(inbound.at, &late, &users.id()).await).await);
    until("expired", || inbound.counted("expired") == 1).await;

    let stranger = mesh.identity("posts");
    assert!(turned_away(Client::dial(inbound.at, &stranger, &mesh.id("orders")).await).await, "it refuses us");
    until("by_caller", || inbound.counted("by_caller") == 1).await;
    assert_eq!(inbound.callers(), [], "no call came through");
    until("no connection to be left", || inbound.open.is_empty()).await;
}

#[tokio::test]
async fn a_refused_plaintext_caller_is_told_why_in_its_protocol() {
    let mesh = Authority::new("weft.local", HOUR);
    let inbound = Inbound::start(Some(&mesh.identity("users")), Plaintext::Refuse).await;
    let (code, message) = Client::plain(inbound.at).await.call().await.unwrap();
    assert_eq!(code, Code::Unauthenticated);
    assert!(message.contains("rule plaintext") && message.contains("mutual TLS"), "{message}");

    for (says, answered) in [("GET / HTTP/1.1\r\nhost: a\r\n\r\n", "HTTP/1.1 403"), ("\u{1}\u{2}\u{3}garbage", "")] {
        let mut stream = TcpStream::connect(inbound.at).await.unwrap();
        stream.write_all(says.as_bytes()).await.unwrap();
        let mut text = Vec::new();
        drop(soon("the end", stream.read_to_end(&mut text)).await); // garbage may be answered by a reset
        let text = String::from_utf8_lossy(&text);
        assert!(text.starts_with(answered) && text.is_empty() == answered.is_empty(), "{text}");
        assert!(answered.is_empty() || text.contains("rule plaintext"), "{text}");
    }
    assert_eq!((inbound.counted("plaintext"), inbound.callers()), (3, vec![]));
}

#[tokio::test]
async fn bytes_that_only_look_like_tls_end_at_the_handshake() {
    let mesh = Authority::new("weft.local", HOUR);
    let inbound = Inbound::start(Some(&mesh.identity("users")), Plaintext::Allow).await;
    let mut stream = TcpStream::connect(inbound.at).await.unwrap();
    stream.write_all(b"\x16nonsense, and more of it than a record's head").await.unwrap();
    drop(soon("the end", stream.read_to_end(&mut Vec::new())).await);
    until("handshake", || inbound.counted("handshake") == 1).await;
    until("no connection to be left", || inbound.open.is_empty()).await;
}

#[tokio::test]
async fn a_slow_handshake_holds_nobody_and_is_let_go() {
    let mesh = Authority::new("weft.local", HOUR);
    let (users, posts) = (mesh.identity("users"), mesh.identity("posts"));
    let inbound = Inbound::start(Some(&users), Plaintext::Refuse).await;
    let mut slow = Vec::new();
    for start in ["", "\u{16}\u{3}"] {
        let mut stream = TcpStream::connect(inbound.at).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    assert!(Client::dial(inbound.at, &posts, &users.id()).await.unwrap().good().await);
    assert_eq!(inbound.counted("too_slow"), 0, "nobody had to wait for them");
    for mut stream in slow {
        drop(soon("the end", stream.read_to_end(&mut Vec::new())).await);
    }
    until("both to be counted", || inbound.counted("too_slow") == 2).await;
}

#[tokio::test]
async fn a_flood_of_handshakes_is_bounded_and_a_good_caller_comes_in_all_the_same() {
    const MANY: usize = 400;
    let mesh = Authority::new("weft.local", HOUR);
    let (users, posts) = (mesh.identity("users"), mesh.identity("posts"));
    let inbound = Inbound::start(Some(&users), Plaintext::Refuse).await;
    let mut flood = Vec::new();
    for _ in 0..MANY {
        let mut stream = TcpStream::connect(inbound.at).await.unwrap();
        stream.write_all(&[0x16]).await.unwrap();
        flood.push(stream);
    }
    assert!(Client::dial(inbound.at, &posts, &users.id()).await.unwrap().good().await);
    until("the first of the flood to be displaced", || inbound.counted("crowded") > 0).await;
    drop(soon("its end", flood[0].read_to_end(&mut Vec::new())).await);
    assert!(inbound.open.len() <= 300, "{} are held", inbound.open.len());
    drop(flood);
    until("no connection to be left", || inbound.open.is_empty()).await;
}

#[tokio::test]
async fn a_revoked_callers_connection_is_cut_at_once() {
    let mesh = Authority::new("weft.local", HOUR);
    let (users, posts, other) = (mesh.identity("users"), mesh.identity("posts"), mesh.identity("comments"));
    let inbound = Inbound::start(Some(&users), Plaintext::Refuse).await;
    let mut client = Client::dial(inbound.at, &posts, &users.id()).await.unwrap();
    let mut unharmed = Client::dial(inbound.at, &other, &users.id()).await.unwrap();
    let (_sender, body) = client.open().await;
    assert!(unharmed.good().await);
    mesh.revoke(&posts.svid(), &users);
    assert!(soon("the end of its call", body.collect()).await.is_err());
    assert!(client.call().await.is_none());
    until("the end to be counted", || inbound.counted("revoked") == 1).await;
    assert!(unharmed.good().await);
}

#[tokio::test]
async fn an_expired_caller_is_sent_away_in_order_and_finishes_what_it_has() {
    let mesh = Authority::new("weft.local", HOUR);
    let (users, posts) = (mesh.identity("users"), mesh.identity("posts"));
    let inbound = Inbound::start(Some(&users), Plaintext::Refuse).await;
    let mut client = Client::dial(inbound.at, &posts, &users.id()).await.unwrap();
    let (mut sender, body) = client.open().await;
    mesh.moved.fetch_add(2 * HOUR.as_secs(), SeqCst);
    // Any change of trust makes the owner of a connection look at the clock, which jumped here.
    mesh.revoke(&mesh.svid("nobody"), &users);
    soon("GOAWAY", async { while client.good().await {} }).await;
    sender.data("still here".into()).await.unwrap();
    drop(sender);
    assert_eq!(soon("the rest", body.collect()).await.unwrap().to_bytes(), "still here");
    until("the connection to end", || inbound.open.is_empty()).await;
    assert_eq!(inbound.counted("expired"), 0, "nobody was refused");
}

#[tokio::test]
async fn an_expired_caller_that_is_revoked_is_cut_all_the_same() {
    let mesh = Authority::new("weft.local", HOUR);
    let (users, posts) = (mesh.identity("users"), mesh.identity("posts"));
    let inbound = Inbound::start(Some(&users), Plaintext::Refuse).await;
    let mut client = Client::dial(inbound.at, &posts, &users.id()).await.unwrap();
    let (_sender, body) = client.open().await;
    mesh.ca.revoke(&Revoke::Identity(posts.id())).unwrap();
    let revocations = mesh.ca.trusted().revocations;
    mesh.moved.fetch_add(2 * HOUR.as_secs(), SeqCst);
    mesh.revoke(&mesh.svid("nobody"), &users);
    users.trust().replace(mesh.ca.trusted().bundle, revocations).unwrap();
    assert!(soon("the end of its call", body.collect()).await.is_err());
}

/// A caller as other sidecars and the gateway are.
fn outbound(identity: &Identity, callee: &SpiffeId, at: SocketAddr) -> (Outbound, Worlds) {
    let metrics = weft_traffic::Metrics::default();
    let (worlds, _) = Worlds::new(metrics.clone());
    worlds.set_static(vec![StaticCluster {
        name: "users".parse().unwrap(),
        endpoints: vec![Endpoint {
            address: at,
            transport: Transport::Mtls { identity: callee.clone() },
            protocol: Protocol::H2,
        }],
        info: ServiceInfo::default(),
        claims: Claims::Everything,
    }]);
    let pool = PoolConfig { identity: Some(identity.clone()), connect_timeout: LIMIT, ..PoolConfig::default() };
    (Outbound::new(OutboundConfig::default(), worlds.clone(), Pool::new(pool, metrics)), worlds)
}

#[tokio::test]
async fn five_hundred_calls_across_rotations_of_certificates_and_root_lose_nothing() {
    let mesh = Authority::new("weft.local", Duration::from_secs(3));
    let (users, posts) = (mesh.identity("users"), mesh.identity("posts"));
    let inbound = Inbound::start(Some(&users), Plaintext::Refuse).await;
    let (outbound, _worlds) = outbound(&posts, &users.id(), inbound.at);
    let (done, gone) = (AtomicBool::new(false), AtomicBool::new(false));
    let rotating = async {
        for turn in 0.. {
            if done.load(SeqCst) {
                return turn;
            }
            if turn == 2 {
                mesh.ca.rotate(None).unwrap();
            }
            for side in [&users, &posts] {
                mesh.tell(side);
            }
            users.rotate(mesh.svid("users")).unwrap();
            posts.rotate(mesh.svid("posts")).unwrap();
            sleep(Duration::from_millis(500)).await;
            mesh.ca.refresh().unwrap();
            gone.store(turn > 2 && mesh.ca.trusted().bundle.roots().len() == 1, SeqCst);
        }
        unreachable!("it rotates until the calls are done")
    };
    let calling = async {
        let (mut all, mut sent) = (FuturesUnordered::new(), 0_usize);
        let mut every = tokio::time::interval(Duration::from_millis(12));
        let more = |sent: usize| sent < 500 || !gone.load(SeqCst);
        while more(sent) || !all.is_empty() {
            tokio::select! {
                _ = every.tick(), if more(sent) => {
                    let request = Request::post("http://users/a.B/C").body(Body::full("x")).unwrap();
                    all.push(outbound.call(request));
                    sent += 1;
                }
                Some(answer) = all.next() => {
                    let answer = answer.unwrap_or_else(|error| panic!("{}", error.message()));
                    assert_eq!(Code::from_headers(answer.headers()), Some(Code::Ok), "{answer:?}");
                }
            }
        }
        done.store(true, SeqCst);
        sent
    };
    let both = timeout(4 * LIMIT, async { tokio::join!(rotating, calling) });
    let (turns, sent) = both.await.expect("the old root goes");
    assert_eq!(inbound.callers().len(), sent, "nothing ran twice");
    assert!(turns > 8, "{turns} rotations");
}

/// A gateway whose own callers hang up resets their calls, many at a time.
#[tokio::test]
async fn a_burst_of_aborted_calls_does_not_cost_the_connection() {
    let inbound = Inbound::start(None, Plaintext::Allow).await;
    let stream = TcpStream::connect(inbound.at).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    for _ in 0..5 {
        for _ in 0..500 {
            let request = Request::post("http://users/echo").body(()).unwrap();
            sender = sender.ready().await.unwrap();
            let (_, mut body) = sender.send_request(request, false).unwrap();
            body.send_reset(h2::Reason::CANCEL);
        }
        let request = Request::post("http://users/a.B/C").body(()).unwrap();
        sender = sender.ready().await.unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        soon("an answer", answer).await.expect("the connection lives");
    }
}

#[tokio::test]
async fn a_side_that_leaves_waits_a_moment_for_a_caller_that_has_just_connected() {
    let mesh = Authority::new("weft.local", HOUR);
    let (users, posts) = (mesh.identity("users"), mesh.identity("posts"));
    let inbound = Inbound::start(Some(&users), Plaintext::Refuse).await;
    let idle = TcpStream::connect(inbound.at).await.unwrap();
    until("it is accepted", || inbound.open.len() == 1).await;
    let mut client = Client::dial(inbound.at, &posts, &users.id()).await.unwrap();
    assert!(client.good().await);
    assert_eq!(
        inbound.side.finish(LIMIT).await,
        0,
        "nobody was waited for until the limit, when all that is left is cut and counted"
    );
    drop(idle);
}
