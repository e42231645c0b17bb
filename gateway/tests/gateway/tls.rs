//! TLS on the gateway's port, with clients that check what they are shown: certificates by name, replaced while it serves, and certificates of clients.
//! Inventory: gw-tls.

use std::{
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use weft_gateway::{ClientFiles, TlsFiles};
use weft_testkit::wait::until;

use crate::{
    policies::read,
    support::{Running, descriptor_set, send, start_with},
};

const SOON: Duration = Duration::from_secs(20);

/// Signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

/// A certificate and its key.
struct Pair {
    der: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), der }
    }

    fn sign(&self, names: Vec<SanType>) -> Pair {
        self.sign_with(names, |_| {})
    }

    fn sign_with(&self, names: Vec<SanType>, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        change(&mut params);
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Pair { der, key: key.serialize_der() }
    }
}

impl Authority {
    /// Its list of certificates that it took back, by serial number.
    fn takes_back(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2124, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        pem("X509 CRL", list.signed_by(&self.issuer).unwrap().der())
    }
}

impl Pair {
    fn write(&self, dir: &Path, name: &str) {
        replace(&dir.join(format!("{name}.key")), pem("PRIVATE KEY", &self.key));
        replace(&dir.join(format!("{name}.pem")), pem("CERTIFICATE", &self.der));
    }
}

/// Writes a file so that nobody reads half of it.
fn replace(path: &Path, content: impl AsRef<[u8]>) {
    let beside = path.with_extension("new");
    fs::write(&beside, content).unwrap();
    fs::rename(beside, path).unwrap();
}

fn pem(what: &str, der: &[u8]) -> String {
    format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", STANDARD.encode(der))
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// Whom a client believes and what it shows.
struct Client {
    believes: CertificateDer<'static>,
    shows: Option<(CertificateDer<'static>, Vec<u8>)>,
}

impl Client {
    fn of(authority: &Authority) -> Self {
        Self { believes: authority.der.clone(), shows: None }
    }

    fn with(authority: &Authority, pair: &Pair) -> Self {
        Self { shows: Some((pair.der.clone(), pair.key.clone())), ..Self::of(authority) }
    }

    async fn connect(&self, to: &Running, name: &str, alpn: &[u8]) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.believes.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &self.shows {
            None => config.with_no_client_auth(),
            Some((der, key)) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.clone()));
                config.with_client_auth_cert(vec![der.clone()], key).unwrap()
            }
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        let stream = TcpStream::connect(to.addr).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect(name.to_owned().try_into().unwrap(), stream).await
    }

    /// The certificate that it is shown.
    async fn shown(&self, to: &Running, name: &str) -> CertificateDer<'static> {
        let stream = self.connect(to, name, b"http/1.1").await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }

    /// One call to echo over HTTP/1.1; none if the connection does not carry it.
    async fn echo(&self, to: &Running, name: &str) -> Option<(StatusCode, serde_json::Value)> {
        let stream = self.connect(to, name, b"http/1.1").await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let request = Request::post("/echo").header("host", name).body(Full::new(Bytes::from_static(b"{}"))).unwrap();
        let (head, body) = sender.send_request(request).await.ok()?.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some((head.status, serde_json::from_slice(&body).unwrap()))
    }
}

async fn start(dir: &Path, names: &[&str], clients: Option<bool>, policies: &str) -> Running {
    let pair = |name: &&str| (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    let revocations = Some(dir.join("clients.crl")).filter(|it| it.exists());
    let clients = clients.map(|required| ClientFiles { authorities: dir.join("clients.pem"), revocations, required });
    let tls = TlsFiles { certificates: names.iter().map(pair).collect(), clients, plaintext: false };
    start_with(|config| (config.tls, config.policies) = (Some(tls), read(policies))).await
}

#[tokio::test]
async fn a_client_is_shown_the_certificate_of_the_name_it_asks_for() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new("servers"));
    let a = authority.sign(vec![dns("a.test"), SanType::IpAddress("127.0.0.1".parse().unwrap())]);
    let b = authority.sign(vec![dns("b.test"), dns("*.b.test")]);
    a.write(dir.path(), "a");
    b.write(dir.path(), "b");
    let gateway = start(dir.path(), &["a", "b"], None, "").await;
    let client = Client::of(&authority);
    for (name, shown) in [("a.test", &a), ("A.test", &a), ("b.test", &b), ("x.b.test", &b), ("127.0.0.1", &a)] {
        assert_eq!(client.shown(&gateway, name).await, shown.der, "{name}");
    }
    for unknown in ["c.test", "x.y.b.test"] {
        assert!(client.connect(&gateway, unknown, b"h2").await.is_err(), "{unknown}: the first one, which is not its");
    }
    let (status, heard) = client.echo(&gateway, "a.test").await.unwrap();
    assert_eq!((status, &heard["metadata"]["x-forwarded-proto"]), (StatusCode::OK, &"https".into()), "{heard}");

    // HTTP/2, as negotiated.
    let stream = client.connect(&gateway, "b.test", b"h2").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::get("https://b.test/api/users").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::OK);

    // Plaintext.
    let mut plain = TcpStream::connect(gateway.addr).await.unwrap();
    plain.write_all(b"GET /api/users HTTP/1.1\r\nhost: a.test\r\n\r\n").await.unwrap();
    let mut said = String::new();
    timeout(SOON, plain.read_to_string(&mut said)).await.expect("the connection is closed").unwrap();
    assert!(said.starts_with("HTTP/1.1 400") && said.ends_with("speaks TLS: write https:// here\n"), "{said}");
}

/// What a gateway reads of this file.
fn load(dir: &Path, file: &str) -> Option<TlsFiles> {
    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: weft_gateway::Args,
    }
    fs::write(dir.join("gateway.toml"), file).unwrap();
    fs::write(dir.join("set.bin"), descriptor_set()).unwrap();
    let path = |name: &str| dir.join(name).display().to_string();
    let (set, config) = (path("set.bin"), path("gateway.toml"));
    let line =
        ["weft", "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", "--descriptor-set", &set, "--config", &config];
    weft_gateway::Config::load(<Command as clap::Parser>::parse_from(line).args).unwrap().tls
}

#[tokio::test]
async fn a_file_names_certificates_beside_it_and_they_are_followed() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new("servers"));
    let [a, b, new] = ["a.test", "b.test", "b.test"].map(|name| authority.sign(vec![dns(name)]));
    a.write(dir.path(), "a");
    b.write(dir.path(), "b");
    fs::write(dir.path().join("clients.pem"), pem("CERTIFICATE", &authority.der)).unwrap();
    let tls = load(
        dir.path(),
        "[tls]\ncertificates = [{ chain = \"a.pem\", key = \"a.key\" }, { chain = \"b.pem\", key = \"b.key\" }]\n\
         client_authorities = \"clients.pem\"\nclient_certificates = \"optional\"\n",
    );
    let gateway = start_with(|config| config.tls = tls).await;
    let client = Client::of(&authority);
    for (name, shown) in [("a.test", &a), ("b.test", &b)] {
        assert_eq!(client.shown(&gateway, name).await, shown.der, "{name}");
    }
    new.write(dir.path(), "b");
    until("the new certificate", SOON, || async { (client.shown(&gateway, "b.test").await == new.der).then_some(()) })
        .await;
    assert_eq!(client.shown(&gateway, "a.test").await, a.der);
    assert_eq!(Client::with(&authority, &a).echo(&gateway, "a.test").await.unwrap().0, StatusCode::OK);
}

#[tokio::test]
async fn certificates_are_replaced_under_open_connections() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new("servers"));
    let [first, second] = [(); 2].map(|()| authority.sign(vec![dns("a.test")]));
    first.write(dir.path(), "a");
    let gateway = start(dir.path(), &["a"], None, "").await;
    let client = Client::of(&authority);
    let stream = client.connect(&gateway, "a.test", b"http/1.1").await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let mut answers = async || {
        sender.ready().await.expect("the connection lives");
        let request = Request::get("/api/users").header("host", "a.test").body(Full::<Bytes>::default()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body().collect().await.unwrap();
    };
    answers().await;

    second.write(dir.path(), "a");
    until("the new certificate", SOON, || async {
        (client.shown(&gateway, "a.test").await == second.der).then_some(())
    })
    .await;
    answers().await;

    let before = failures(&gateway).await;
    replace(&dir.path().join("a.pem"), "no certificate");
    until("the refusal", SOON, || async { (failures(&gateway).await > before).then_some(()) }).await;
    assert_eq!(client.shown(&gateway, "a.test").await, second.der, "what was there before stays");
    answers().await;
}

/// What callers in the background have seen.
#[derive(Default)]
struct Tally {
    /// On connections that stay, and on connections of their own.
    answered: [AtomicUsize; 2],
    failed: AtomicUsize,
    enough: AtomicBool,
}

impl Tally {
    fn note(&self, kind: usize, status: Option<StatusCode>) {
        match status {
            Some(StatusCode::OK) => self.answered[kind].fetch_add(1, SeqCst),
            _ => self.failed.fetch_add(1, SeqCst),
        };
    }

    fn answered(&self) -> [usize; 2] {
        self.answered.each_ref().map(|it| it.load(SeqCst))
    }
}

/// How often, and between two times how many calls of each kind at least.
const REPLACED: usize = 5;
const BETWEEN: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_under_load_and_no_call_fails() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new("servers"));
    let sign = || authority.sign(vec![dns("a.test")]);
    sign().write(dir.path(), "a");
    let gateway = Arc::new(start(dir.path(), &["a"], None, "").await);
    let (client, tally) = (Arc::new(Client::of(&authority)), Arc::new(Tally::default()));
    let mut callers = JoinSet::new();
    for _ in 0..4 {
        let stream = client.connect(&gateway, "a.test", b"h2").await.unwrap();
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        callers.spawn(async move { drop(connection.await) });
        let of_h2 = Arc::clone(&tally);
        callers.spawn(async move {
            while !of_h2.enough.load(SeqCst) {
                let request = Request::post("https://a.test/echo").body(Full::new(Bytes::from_static(b"{}"))).unwrap();
                let answered = timeout(SOON, async {
                    let (head, body) = sender.send_request(request).await.ok()?.into_parts();
                    body.collect().await.is_ok().then_some(head.status)
                });
                of_h2.note(0, answered.await.ok().flatten());
            }
        });
        let (client, gateway, tally) = (Arc::clone(&client), Arc::clone(&gateway), Arc::clone(&tally));
        callers.spawn(async move {
            while !tally.enough.load(SeqCst) {
                let answered = timeout(SOON, client.echo(&gateway, "a.test")).await.ok().flatten();
                tally.note(1, answered.map(|(status, _)| status));
            }
        });
    }
    for _ in 0..REPLACED {
        let next = sign();
        next.write(dir.path(), "a");
        until("the new certificate", SOON, || async {
            (client.shown(&gateway, "a.test").await == next.der).then_some(())
        })
        .await;
        let before = tally.answered();
        until("calls of both kinds", SOON, || async {
            let now = tally.answered();
            (now[0] >= before[0] + BETWEEN && now[1] >= before[1] + BETWEEN).then_some(())
        })
        .await;
    }
    tally.enough.store(true, SeqCst);
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    println!("{:?} calls on connections that stay and on their own, {REPLACED} certificates", tally.answered());
    assert_eq!(tally.failed.load(SeqCst), 0, "of {:?}", tally.answered());
}

const WHO: &str = "
name: who
service: upstream
authentication:
  certificates: true
  to_metadata: [{ claim: sub, metadata: x-user }]
  rules: [{ name: partners, claims: [{ claim: uri, is: 'https://partner.example/ada' }] }]
";

#[tokio::test]
async fn clients_are_known_by_their_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let [servers, clients, strangers] = ["servers", "clients", "strangers"].map(Authority::new);
    servers.sign(vec![dns("a.test")]).write(dir.path(), "a");
    fs::write(dir.path().join("clients.pem"), pem("CERTIFICATE", &clients.der)).unwrap();
    let uri = |name: &str| vec![SanType::URI(format!("https://partner.example/{name}").as_str().try_into().unwrap())];
    let (ada, eve, stranger) = (clients.sign(uri("ada")), clients.sign(uri("eve")), strangers.sign(uri("ada")));

    let gateway = start(dir.path(), &["a"], Some(false), WHO).await;
    let (status, heard) = Client::with(&servers, &ada).echo(&gateway, "a.test").await.unwrap();
    assert_eq!(
        (status, &heard["metadata"]["x-user"]),
        (StatusCode::OK, &"https://partner.example/ada".into()),
        "{heard}"
    );
    let (status, refused) = Client::with(&servers, &eve).echo(&gateway, "a.test").await.unwrap();
    assert_eq!((status, &refused["code"]), (StatusCode::FORBIDDEN, &7.into()), "{refused}");
    let (status, refused) = Client::of(&servers).echo(&gateway, "a.test").await.unwrap();
    assert_eq!((status, &refused["code"]), (StatusCode::UNAUTHORIZED, &16.into()), "{refused}");
    assert_eq!(Client::with(&servers, &stranger).echo(&gateway, "a.test").await, None, "signed by nobody who counts");

    let gateway = start(dir.path(), &["a"], Some(true), WHO).await;
    assert_eq!(Client::of(&servers).echo(&gateway, "a.test").await, None, "one has to be shown");
    assert_eq!(Client::with(&servers, &ada).echo(&gateway, "a.test").await.unwrap().0, StatusCode::OK);
    // Who is refused may hear of it before it is counted.
    until("the refusal to be counted", SOON, || async {
        metrics(&gateway).await.contains("weft_gateway_tls_handshake_failures_total 1").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_certificate_that_has_run_out_or_was_taken_back_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let [servers, clients] = ["servers", "clients"].map(Authority::new);
    servers.sign(vec![dns("a.test")]).write(dir.path(), "a");
    fs::write(dir.path().join("clients.pem"), pem("CERTIFICATE", &clients.der)).unwrap();
    let list = dir.path().join("clients.crl");
    fs::write(&list, clients.takes_back(&[7])).unwrap();
    let numbered = |serial: u64| clients.sign_with(vec![dns("c.test")], |it| it.serial_number = Some(serial.into()));
    let (good, other, gone) = (numbered(5), numbered(6), numbered(7));
    let old = clients.sign_with(vec![dns("c.test")], |it| {
        (it.not_before, it.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });

    let gateway = start(dir.path(), &["a"], Some(true), "").await;
    let ok = async |pair: &Pair| {
        Client::with(&servers, pair).echo(&gateway, "a.test").await.map(|(status, _)| status) == Some(StatusCode::OK)
    };
    assert!(ok(&good).await && ok(&other).await);
    assert!(!ok(&gone).await, "taken back");
    assert!(!ok(&old).await, "run out");

    // Another one is taken back: open connections are for who shows itself anew.
    let client = Client::with(&servers, &good);
    let stream = client.connect(&gateway, "a.test", b"h2").await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = || Request::get("https://a.test/api/users").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(sender.send_request(request()).await.unwrap().status(), StatusCode::OK);
    replace(&list, clients.takes_back(&[7, 5]));
    timeout(SOON, driver.join_next()).await.expect("the connection ends").unwrap().unwrap().unwrap();
    assert!(!ok(&good).await && ok(&other).await);

    // What cannot be used changes nothing.
    let before = failures(&gateway).await;
    replace(&list, "no list");
    until("the refusal", SOON, || async { (failures(&gateway).await > before).then_some(()) }).await;
    assert!(!ok(&good).await && ok(&other).await);
}

#[tokio::test]
async fn lists_that_lack_an_authoritys_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let [servers, clients] = ["servers", "clients"].map(Authority::new);
    servers.sign(vec![dns("a.test")]).write(dir.path(), "a");
    fs::write(dir.path().join("clients.pem"), pem("CERTIFICATE", &clients.der)).unwrap();
    let list = dir.path().join("clients.crl");
    fs::write(&list, clients.takes_back(&[])).unwrap();
    let ada = clients.sign(vec![dns("c.test")]);
    let gateway = start(dir.path(), &["a"], Some(true), "").await;
    let ok =
        async || Client::with(&servers, &ada).echo(&gateway, "a.test").await.map(|it| it.0) == Some(StatusCode::OK);
    assert!(ok().await);

    // The list of somebody else: by it nothing would be known of any client's certificate, and none let in.
    let before = failures(&gateway).await;
    replace(&list, servers.takes_back(&[]));
    until("the refusal", SOON, || async { (failures(&gateway).await > before).then_some(()) }).await;
    assert!(ok().await);
}

/// How many times files were refused so far. A pair that is read between its two files is refused once.
async fn failures(gateway: &Running) -> u64 {
    let metrics = metrics(gateway).await;
    let counted = metrics.lines().find_map(|line| line.strip_prefix("weft_gateway_tls_reload_failures_total "));
    counted.map_or(0, |count| count.parse().unwrap())
}

async fn metrics(gateway: &Running) -> String {
    send(gateway.admin, "GET", "/metrics", &[], "").await.body
}
