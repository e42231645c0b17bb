//! DNS as stock clients see it: `dig` for each kind of record, and a resolver library of another language that reads SRV. Inventory: registry.
//!
//! Lives here: what these clients are answered by a mesh that runs. Does not: the rules (weft-registry, `views::dns`).

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use http::Method;
use tokio::process::Command;
use weft_proto::weft::{
    model::v1::{Endpoint, Instance, Status, Transport, transport},
    registry::v1::{RegisterRequest, registry_client::RegistryClient},
};
use weft_testkit::{
    http::send,
    mesh::{App, Mesh, Options},
    outside,
};

use crate::ALONE;

/// dig, and the server it asks.
struct Dig {
    program: PathBuf,
    at: SocketAddr,
}

impl Dig {
    fn of(at: SocketAddr, test: &str) -> Option<Self> {
        Some(Self { program: outside::need_from_setup(outside::program("dig"), test, "dig")?, at })
    }

    /// Asks, and returns all that dig prints: header, sections, and what it remarks.
    async fn ask(&self, question: &[&str]) -> String {
        let (server, port) = (format!("@{}", self.at.ip()), self.at.port().to_string());
        let mut dig = Command::new(&self.program);
        dig.args([&server, "-p", &port, "+time=10", "+tries=1"]).args(question).kill_on_drop(true);
        let output = dig.output().await.expect("dig starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "dig {question:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    /// Asks, and returns the answers, sorted, each as `TYPE DATA`.
    async fn answers(&self, question: &[&str]) -> Vec<String> {
        let said = self.ask(&[question, &["+noall", "+answer"]].concat()).await;
        records(&said)
    }
}

/// `name ttl IN TYPE data` → `TYPE data`.
fn records(said: &str) -> Vec<String> {
    let lines = said.lines().filter(|line| !line.is_empty() && !line.starts_with(';'));
    let mut records: Vec<_> = lines.map(|line| line.split_whitespace().skip(3).collect::<Vec<_>>().join(" ")).collect();
    records.sort();
    records
}

fn srv(addr: &str) -> String {
    let addr: SocketAddr = addr.parse().unwrap();
    let SocketAddr::V4(addr) = addr else { panic!("{addr}") };
    format!("SRV 1 1 {} {:08x}.addr.weft.", addr.port(), addr.ip().to_bits())
}

#[tokio::test]
async fn dig_reads_every_kind_of_record_and_follows_a_drain() {
    let test = "dig_reads_every_kind_of_record_and_follows_a_drain";
    let _shared = ALONE.read().await;
    let Some(mut mesh) = Mesh::start(test, &[App::Users, App::Users]).await else { return };
    let Some(dig) = Dig::of(mesh.registry.as_mut().unwrap().address("dns").await, test) else { return };
    let instances = mesh.instances().await;
    let addresses: Vec<_> = instances.iter().map(|it| it.endpoint.clone().unwrap().address).collect();
    let mut wanted: Vec<_> = addresses.iter().map(|it| srv(it)).collect();
    wanted.sort();

    for name in [
        "users.service.weft",
        "_users._tcp.service.weft",
        "users.service.default.ns.weft",
        "users.default.svc.weft",
        "_grpc._tcp.users.default.svc.weft",
        "UsErS.Service.WEFT",
    ] {
        assert_eq!(dig.answers(&[name, "A"]).await, ["A 127.0.0.1"], "{name}");
        assert_eq!(dig.answers(&[name, "SRV"]).await, wanted, "{name}");
    }
    let all = dig.ask(&["users.service.weft", "SRV"]).await;
    assert!(all.contains("status: NOERROR") && all.contains("flags: qr aa rd;"), "{all}");
    assert!(all.contains("WARNING: recursion requested but not available"), "{all}");
    assert!(all.contains("; EDNS: version: 0, flags:; udp: 1232"), "{all}");
    assert!(all.contains(";; ADDITIONAL SECTION:\n7f000001.addr.weft.\t0\tIN\tA\t127.0.0.1"), "{all}");
    assert!(all.lines().any(|line| line.starts_with("users.service.weft.\t0\tIN\tSRV")), "TTL 0: {all}");
    assert_eq!(dig.answers(&["7f000001.addr.weft", "A"]).await, ["A 127.0.0.1"]);
    assert_eq!(dig.answers(&["00000000000000000000000000000001.addr.weft", "AAAA"]).await, ["AAAA ::1"]);
    assert_eq!(dig.answers(&["weft", "NS"]).await, ["NS ns.weft."]);
    assert_eq!(dig.answers(&["ns.weft", "A"]).await, ["A 127.0.0.1"]);
    let soa = dig.answers(&["weft", "SOA"]).await;
    assert!(soa[0].starts_with("SOA ns.weft. postmaster.weft. ") && soa[0].ends_with(" 3600 600 86400 0"), "{soa:?}");

    let slot = instances[0].metadata["slot"].clone();
    for name in [format!("{slot}.users.service.weft"), format!("{}.node.weft", instances[0].id)] {
        assert_eq!(dig.answers(&[&name, "SRV"]).await, [srv(&addresses[0])], "{name}");
        let facts = dig.answers(&[&name, "TXT"]).await;
        assert!(facts.contains(&format!("TXT \"slot={slot}\"")), "{facts:?}");
    }

    for (question, status) in [
        (["users.service.weft", "AAAA"], "NOERROR"),
        (["service.weft", "A"], "NOERROR"),
        (["nobody.service.weft", "A"], "NXDOMAIN"),
        (["users.weft", "SRV"], "NXDOMAIN"),
    ] {
        let said = dig.ask(&question).await;
        assert!(said.contains(&format!("status: {status}")) && said.contains("ANSWER: 0, AUTHORITY: 1"), "{said}");
        assert!(said.contains("weft.\t\t\t0\tIN\tSOA\tns.weft. postmaster.weft."), "{said}");
    }
    let refused = dig.ask(&["example.com", "A"]).await;
    assert!(refused.contains("status: REFUSED") && refused.contains("ANSWER: 0, AUTHORITY: 0"), "{refused}");
    let transfer = dig.ask(&["weft", "AXFR"]).await;
    assert!(transfer.contains("Transfer failed"), "{transfer}");
    assert_eq!(dig.answers(&["users.service.weft", "SRV", "+tcp"]).await, wanted);
    let plain = dig.ask(&["users.service.weft", "SRV", "+noedns"]).await;
    assert!(!plain.contains("OPT PSEUDOSECTION") && plain.contains("ANSWER: 2"), "{plain}");
    let newer = dig.ask(&["users.service.weft", "A", "+edns=1", "+noednsneg"]).await;
    assert!(newer.contains("status: BADVERS"), "{newer}");

    let leaving = mesh.members[0].sidecar.address("admin").await;
    send(leaving, Method::GET, "/drain", "").await.unwrap();
    let stays = &mesh.members[1].slot;
    let stays = instances.iter().find(|it| it.metadata["slot"] == *stays).unwrap();
    let stays = srv(&stays.endpoint.as_ref().unwrap().address);
    assert_eq!(dig.answers(&["users.service.weft", "SRV"]).await, [stays], "what drains is out before /drain answers");

    let registry = mesh.registry.as_mut().unwrap().address("admin").await;
    let metrics = send(registry, Method::GET, "/metrics", "").await.unwrap().body;
    for (kind, code) in
        [("srv", "noerror"), ("a", "nxdomain"), ("a", "refused"), ("other", "refused"), ("a", "badvers")]
    {
        let series = format!("weft_registry_dns_queries_total{{kind=\"{kind}\",rcode=\"{code}\"}}");
        assert!(metrics.lines().any(|line| line.starts_with(&series)), "{series} is not in\n{metrics}");
    }
}

/// Registers instances that are nowhere, as an operator may.
async fn register_many(mesh: &Mesh, service: &str, many: u16) {
    let mut registry = RegistryClient::new(mesh.registry_channel());
    for n in 0..many {
        let [high, low] = n.to_be_bytes();
        let transport = Transport { kind: Some(transport::Kind::Plaintext(transport::Plaintext {})) };
        let endpoint = Endpoint { address: format!("10.1.{high}.{low}:7300"), transport: Some(transport), protocol: 0 };
        let mut instance = Instance {
            id: format!("01900000-0000-7000-8000-{n:012x}"),
            service: service.to_owned(),
            endpoint: Some(endpoint),
            ..Instance::default()
        };
        instance.set_status(Status::Serving);
        registry.register(RegisterRequest { instance: Some(instance), ttl_ms: 600_000 }).await.unwrap();
    }
}

#[tokio::test]
async fn what_does_not_fit_into_a_datagram_is_asked_again_by_tcp() {
    let test = "what_does_not_fit_into_a_datagram_is_asked_again_by_tcp";
    let _shared = ALONE.read().await;
    let Some(python) = outside::need(outside::python(), test, "Python's dnspython") else { return };
    let Some(mut mesh) = Mesh::start(test, &[]).await else { return };
    let at = mesh.registry.as_mut().unwrap().address("dns").await;
    let Some(dig) = Dig::of(at, test) else { return };
    let many: u16 = 200;
    register_many(&mesh, "many", many).await;

    let short = dig.ask(&["many.service.weft", "SRV", "+ignore"]).await;
    assert!(short.contains("flags: qr aa tc rd;"), "{short}");
    let kept = records(&short).iter().filter(|it| it.starts_with("SRV")).count();
    assert!((1..usize::from(many)).contains(&kept), "{kept} of {many}: {short}");
    let whole = dig.ask(&["many.service.weft", "SRV"]).await;
    assert!(whole.contains(";; Truncated, retrying in TCP mode.") && whole.contains("(TCP)"), "{whole}");
    assert!(whole.contains(&format!("ANSWER: {many}, AUTHORITY: 0, ADDITIONAL: {}", many + 1)), "{whole}");

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/python/read_srv.py");
    let mut client = Command::new(python);
    client.arg(script).args([at.ip().to_string(), at.port().to_string(), "_many._tcp.service.weft".to_owned()]);
    let output = client.kill_on_drop(true).output().await.expect("Python starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let read: BTreeSet<_> = said.lines().collect();
    let wanted: Vec<_> = (0..many).map(|n| format!("10.1.{}.{}:7300", n / 256, n % 256)).collect();
    assert_eq!(read, wanted.iter().map(String::as_str).collect());
}

#[tokio::test]
async fn a_drain_waits_as_long_as_an_answer_may_be_kept() {
    let test = "a_drain_waits_as_long_as_an_answer_may_be_kept";
    let _shared = ALONE.read().await;
    let options = Options { registry: vec!["--dns-ttl".to_owned(), "3600".to_owned()], ..Options::default() };
    let Some(mut mesh) = Mesh::start_as(test, &[App::Users, App::Users], options).await else { return };
    let Some(dig) = Dig::of(mesh.registry.as_mut().unwrap().address("dns").await, test) else { return };
    let said = dig.ask(&["users.service.weft", "SRV"]).await;
    assert!(said.contains("users.service.weft.\t3600\tIN\tSRV"), "{said}");
    let leaving = mesh.members[0].sidecar.address("admin").await;
    let drained = send(leaving, Method::GET, "/drain", "").await.unwrap();
    assert!(drained.body.contains("not acknowledged in time by dns"), "its notice is over first: {}", drained.body);
}
