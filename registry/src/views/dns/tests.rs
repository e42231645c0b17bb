//! The DNS view as a client meets it: messages in, messages out, over a catalog that runs.
//!
//! Lives here: records of each kind, what is not there, sizes, carriers, and packets that nobody should send. Does not: stock clients (tests/e2e).

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType},
};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;
use weft_model::{Endpoint, Epoch, Instance, InstanceId, LeaseTtl, Locality, Protocol, Status, Transport, Weight};
use weft_runtime::Metrics;

use super::*;
use crate::{
    catalog::{Health, Word},
    drains::Drains,
    views::{
        pace::Pace,
        xds::{Mesh, Xds},
    },
};

/// A view over a catalog of its own.
struct World {
    view: View,
    drains: Drains,
    tasks: JoinSet<()>,
}

impl World {
    fn new(ttl: u32) -> Self {
        let metrics = Metrics::default();
        let (catalog, task) = Catalog::in_memory(&metrics);
        let (watches, xds) = (Watches::new(&catalog, &metrics), Xds::new(&catalog, Mesh::Open, Pace::new(), &metrics));
        let drains = Drains::new(&watches, &xds, &metrics);
        let mut tasks = JoinSet::new();
        tasks.spawn(task.run(CancellationToken::new()));
        tasks.spawn(watches.clone().run(catalog.follow()));
        tasks.spawn(xds.run(catalog.follow()));
        let zone = Zone { ttl, server: Some(Ipv4Addr::LOCALHOST.into()) };
        let view = View(Arc::new(Inner { catalog, watches, zone, metrics: DnsMetrics::register(&metrics) }));
        Self { view, drains, tasks }
    }

    async fn register(&self, service: &str, n: u16, address: &str, status: Status) -> InstanceId {
        let id = id(n);
        let instance = Instance {
            id,
            service: service.parse().unwrap(),
            epoch: Epoch(0),
            endpoint: Endpoint {
                address: address.parse().unwrap(),
                transport: Transport::Plaintext,
                protocol: Protocol::H2,
            },
            status,
            reason: String::new(),
            locality: Locality::default(),
            weight: Weight::new(u32::from(n) + 1).unwrap(),
            metadata: [("slot", format!("{service}-{n}")), ("tags", "green, v2".to_owned())]
                .map(|(k, v)| (k.to_owned(), v))
                .into(),
            descriptors: None,
            check: None,
        };
        self.view.0.catalog.register(instance, LeaseTtl::DEFAULT).await.unwrap();
        id
    }

    /// Asks by UDP with room for any answer of a usual size.
    fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.ask_by(name, kind, Carrier::Udp, Some(UDP_MOST))
    }

    fn ask_by(&self, name: &str, kind: RecordType, carrier: Carrier, room: Option<u16>) -> Message {
        let mut message = question(name, kind);
        message.edns = room.map(|room| {
            let mut edns = Edns::new();
            edns.set_max_payload(room);
            edns
        });
        let bytes = self.view.respond(&message.to_vec().unwrap(), carrier).expect("a query is answered");
        let most = match carrier {
            Carrier::Udp => room.unwrap_or(512).clamp(512, UDP_MOST).into(),
            Carrier::Tcp => usize::from(u16::MAX),
        };
        assert!(bytes.len() <= most, "{} bytes, {most} at most", bytes.len());
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(
            (answer.id, answer.message_type, answer.recursion_available),
            (message.id, MessageType::Response, false)
        );
        assert_eq!(answer.edns.is_some(), room.is_some(), "EDNS is answered with EDNS");
        answer
    }
}

const UDP_MOST: u16 = 1_232;

fn id(n: u16) -> InstanceId {
    let [high, low] = n.to_be_bytes();
    InstanceId::from_bytes([7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, high, low])
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// Records as text, in order.
fn said(records: &[Record]) -> Vec<String> {
    let mut said: Vec<_> = records.iter().map(|record| format!("{} {}", record.record_type(), record.data)).collect();
    said.sort();
    said
}

/// Asserts that an answer says that there is no such record, or no such name.
fn assert_negative(answer: &Message, code: ResponseCode) {
    assert_eq!((answer.response_code, answer.answers.len(), answer.authoritative), (code, 0, true), "{answer}");
    let [authority] = answer.authorities.as_slice() else { panic!("{answer}") };
    let RData::SOA(soa) = &authority.data else { panic!("{answer}") };
    assert_eq!((authority.name.to_string().as_str(), soa.mname.to_string().as_str()), ("weft.", "ns.weft."));
    assert_eq!(
        (soa.rname.to_string().as_str(), soa.refresh, soa.retry, soa.expire, soa.minimum),
        ("postmaster.weft.", 3600, 600, 86_400, 0)
    );
}

#[tokio::test]
async fn a_service_has_the_addresses_of_its_ready_instances_each_once() {
    let world = World::new(0);
    world.register("users", 1, "10.0.0.1:7300", Status::Serving).await;
    world.register("users", 2, "10.0.0.1:7301", Status::Serving).await;
    world.register("users", 3, "[fd00::3]:7300", Status::Serving).await;
    world.register("users", 4, "10.0.0.4:7300", Status::NotServing).await;
    world.register("users", 5, "10.0.0.5:7300", Status::Starting).await;
    world.register("users.eu", 6, "10.9.9.9:7300", Status::Serving).await;

    let a = world.ask("users.service.weft.", RecordType::A);
    assert_eq!((said(&a.answers), a.response_code), (vec!["A 10.0.0.1".to_owned()], ResponseCode::NoError));
    assert!(a.authoritative && !a.truncation && a.recursion_desired);
    assert_eq!((a.answers[0].ttl, a.answers[0].dns_class), (0, DNSClass::IN));
    assert_eq!(said(&world.ask("users.service.weft.", RecordType::AAAA).answers), ["AAAA fd00::3"]);
    assert_eq!(said(&world.ask("users.service.weft.", RecordType::ANY).answers), ["A 10.0.0.1", "AAAA fd00::3"]);
    assert_eq!(said(&world.ask("users.service.eu.ns.weft.", RecordType::A).answers), ["A 10.9.9.9"]);
    assert_negative(&world.ask("users.service.eu.ns.weft.", RecordType::AAAA), ResponseCode::NoError);
}

#[tokio::test]
async fn an_srv_record_leads_to_the_address_and_its_target_is_a_name_that_resolves() {
    let world = World::new(0);
    world.register("users", 1, "10.0.0.1:7300", Status::Serving).await;
    world.register("users", 2, "[fd00::2]:7301", Status::Serving).await;
    for name in ["users.service.weft.", "_users._tcp.service.weft.", "_users._tcp.weft."] {
        let srv = world.ask(name, RecordType::SRV);
        assert_eq!(
            said(&srv.answers),
            ["SRV 1 2 7300 0a000001.addr.weft.", "SRV 1 3 7301 fd000000000000000000000000000002.addr.weft."]
        );
        assert_eq!(said(&srv.additionals), ["A 10.0.0.1", "AAAA fd00::2"]);
        assert_eq!(srv.answers[0].name.to_string(), name);
    }
    assert_eq!(said(&world.ask("0a000001.addr.weft.", RecordType::A).answers), ["A 10.0.0.1"]);
    assert_eq!(
        said(&world.ask("FD000000000000000000000000000002.addr.weft.", RecordType::AAAA).answers),
        ["AAAA fd00::2"]
    );
    assert_negative(&world.ask("0a000001.addr.weft.", RecordType::AAAA), ResponseCode::NoError);
    assert_negative(&world.ask("0a0001.addr.weft.", RecordType::A), ResponseCode::NXDomain);
}

#[tokio::test]
async fn an_instance_is_found_by_slot_id_and_tag() {
    let world = World::new(0);
    let first = world.register("users", 1, "10.0.0.1:7300", Status::Serving).await;
    world.register("users", 2, "10.0.0.2:7300", Status::Serving).await;
    for name in [
        "users-1.users.service.weft.".to_owned(),
        format!("{first}.users.service.weft."),
        format!("{first}.node.weft."),
    ] {
        assert_eq!(said(&world.ask(&name, RecordType::A).answers), ["A 10.0.0.1"], "{name}");
        assert_eq!(said(&world.ask(&name, RecordType::SRV).answers), ["SRV 1 2 7300 0a000001.addr.weft."], "{name}");
        let facts = said(&world.ask(&name, RecordType::TXT).answers);
        assert_eq!(facts, ["TXT slot=users-1", "TXT tags=green, v2"], "{name}");
    }
    for name in ["green.users.service.weft.", "_users._v2.service.weft."] {
        assert_eq!(said(&world.ask(name, RecordType::A).answers), ["A 10.0.0.1", "A 10.0.0.2"], "{name}");
    }
    for name in [
        "blue.users.service.weft.",
        "_users._blue.service.weft.",
        "users-3.users.service.weft.",
        &format!("{}.node.weft.", id(9)),
    ] {
        assert_negative(&world.ask(name, RecordType::A), ResponseCode::NXDomain);
    }
    assert_negative(&world.ask("users.service.weft.", RecordType::TXT), ResponseCode::NoError);
}

#[tokio::test]
async fn what_is_not_there_is_told_with_the_soa_and_a_name_above_another_is_there() {
    let world = World::new(0);
    world.register("users", 1, "10.0.0.1:7300", Status::NotServing).await;
    for name in ["nobody.service.weft.", "users.weft.", "a.b.c.weft."] {
        assert_negative(&world.ask(name, RecordType::A), ResponseCode::NXDomain);
    }
    for name in ["users.service.weft.", "service.weft.", "node.weft.", "addr.weft.", "default.ns.weft.", "weft."] {
        assert_negative(&world.ask(name, RecordType::A), ResponseCode::NoError);
    }
    assert_eq!(said(&world.ask("weft.", RecordType::NS).answers), ["NS ns.weft."]);
    assert_eq!(said(&world.ask("ns.weft.", RecordType::A).answers), ["A 127.0.0.1"]);
    let soa = world.ask("WEFT.", RecordType::SOA);
    let RData::SOA(told) = &soa.answers[0].data else { panic!("{soa}") };
    let version = world.view.0.catalog.snapshot().version.0;
    assert_eq!((u64::from(told.serial), soa.answers[0].name.to_string().as_str()), (version & 0xffff_ffff, "WEFT."));
}

#[tokio::test]
async fn an_instance_that_drains_or_goes_is_out_of_the_next_answer() {
    let world = World::new(0);
    let first = world.register("users", 1, "10.0.0.1:7300", Status::Serving).await;
    let second = world.register("users", 2, "10.0.0.2:7300", Status::Serving).await;
    let catalog = &world.view.0.catalog;
    catalog.drain(first, Word::Operator).await.unwrap();
    assert_eq!(said(&world.ask("users.service.weft.", RecordType::A).answers), ["A 10.0.0.2"]);
    assert_negative(&world.ask("users-1.users.service.weft.", RecordType::A), ResponseCode::NoError);
    assert_negative(&world.ask(&format!("{first}.node.weft."), RecordType::A), ResponseCode::NXDomain);
    catalog.set_status(second, Word::Operator, Health::new(Status::NotServing, "night")).await.unwrap();
    assert_negative(&world.ask("users.service.weft.", RecordType::A), ResponseCode::NoError);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_answers_that_may_still_be_used_and_for_no_others() {
    let world = World::new(3);
    let first = world.register("users", 1, "10.0.0.1:7300", Status::Serving).await;
    let second = world.register("posts", 2, "10.0.0.2:7300", Status::Serving).await;
    let (catalog, drains) = (&world.view.0.catalog, &world.drains);
    let drained = async |service: &str, id, notice| {
        let version = catalog.drain(id, Word::Operator).await.unwrap().service.unwrap().1;
        let until = Instant::now() + Duration::from_secs(notice);
        let began = Instant::now();
        let drained = drains.drained(&service.parse().unwrap(), &id, version, until).await;
        (drained.acknowledged, drained.waited_for, drained.waiting, began.elapsed().as_secs_f64().round())
    };
    assert_eq!(world.ask("users.service.weft.", RecordType::A).answers[0].ttl, 3);
    let dns = || vec!["dns".to_owned()];
    assert_eq!(drained("users", first, 5).await, (true, dns(), vec![], 3.0));
    assert_eq!(drained("posts", second, 5).await, (true, vec![], vec![], 0.0), "nobody asked");
    let third = world.register("posts", 3, "10.0.0.3:7300", Status::Serving).await;
    world.ask(&format!("{third}.node.weft."), RecordType::SRV);
    assert_eq!(drained("posts", third, 1).await, (false, dns(), dns(), 1.0), "its notice is over first");
}

#[tokio::test]
async fn an_answer_that_does_not_fit_says_so_by_udp_and_is_whole_by_tcp() {
    let world = World::new(0);
    let many: u16 = 300;
    for n in 0..many {
        let [high, low] = n.to_be_bytes();
        world.register("many", n, &format!("10.1.{high}.{low}:7300"), Status::Serving).await;
    }
    for kind in [RecordType::A, RecordType::SRV] {
        for room in [None, Some(0), Some(512), Some(UDP_MOST), Some(u16::MAX)] {
            let short = world.ask_by("many.service.weft.", kind, Carrier::Udp, room);
            assert!(
                short.truncation && !short.answers.is_empty() && short.answers.len() < many.into(),
                "{kind} {room:?}"
            );
        }
        let whole = world.ask_by("many.service.weft.", kind, Carrier::Tcp, None);
        assert_eq!((whole.truncation, whole.answers.len()), (false, many.into()), "{kind}");
    }
    let few = world.ask_by("_many._tcp.service.weft.", RecordType::SRV, Carrier::Tcp, Some(512));
    assert_eq!(few.additionals.len(), usize::from(many));
    // Without additional records an answer is whole: their names resolve by themselves.
    for n in 0..12 {
        world.register("some", 1_000 + n, &format!("10.2.0.{n}:7300"), Status::Serving).await;
    }
    let whole = world.ask_by("some.service.weft.", RecordType::SRV, Carrier::Udp, Some(600));
    assert_eq!((whole.truncation, whole.answers.len(), whole.additionals.len()), (false, 12, 0));
}

#[tokio::test]
async fn more_than_the_largest_message_holds_is_truncated_by_tcp_too() {
    let world = World::new(0);
    for n in 0..2_000u16 {
        let [high, low] = n.to_be_bytes();
        world.register("many", n, &format!("10.1.{high}.{low}:7300"), Status::Serving).await;
    }
    let part = world.ask_by("many.service.weft.", RecordType::SRV, Carrier::Tcp, Some(512));
    assert!(part.truncation && part.answers.len() > 500, "{} answers", part.answers.len());
}

#[tokio::test]
async fn records_are_made_of_as_many_instances_as_an_answer_can_hold_and_drawn_from_all() {
    let world = World::new(0);
    for n in 0..300u16 {
        let [high, low] = n.to_be_bytes();
        world.register("many", n, &format!("10.1.{high}.{low}:7300"), Status::Serving).await;
    }
    let name = Name::from_str("many.service.weft.").unwrap();
    let asked = names::read(&name).unwrap();
    let of = |kind, most| {
        let question = Question { name: &name, kind, most };
        answer::answer(&world.view.0.catalog.published(), world.view.0.zone, &asked, question)
    };
    for kind in [RecordType::SRV, RecordType::A] {
        assert_eq!(of(kind, 77).answers.len(), 78, "{kind}: one more, so that it is seen that some are missing");
        assert_eq!(of(kind, 4_096).answers.len(), 300, "{kind}");
    }
    assert_eq!(of(RecordType::SRV, 77).additionals.len(), 78);
    let mut seen = std::collections::BTreeSet::new();
    wait_for_all(|| {
        seen.extend(of(RecordType::SRV, 77).answers.iter().map(ToString::to_string));
        seen.len() == 300
    });
    let part = world.ask_by("many.service.weft.", RecordType::SRV, Carrier::Udp, Some(1_232));
    assert!(part.truncation && !part.answers.is_empty());
}

/// A draw of 78 of 300 leaves one out a thousand times in a row less than once in 10^130.
fn wait_for_all(mut draw: impl FnMut() -> bool) {
    assert!((0..1_000).any(|_| draw()), "some are never told");
}

#[tokio::test]
async fn the_order_changes_from_answer_to_answer() {
    let world = World::new(0);
    for n in 0..20 {
        world.register("users", n, &format!("10.0.0.{n}:7300"), Status::Serving).await;
    }
    let first = world.ask("users.service.weft.", RecordType::A).answers;
    let differs = (0..10).any(|_| world.ask("users.service.weft.", RecordType::A).answers != first);
    assert!(differs, "one of 20! orders, eleven times");
}

#[tokio::test]
async fn nothing_is_resolved_for_others_and_nothing_transferred() {
    let world = World::new(0);
    let refused = |message: &Message| {
        let answer = Message::from_vec(&world.view.respond(&message.to_vec().unwrap(), Carrier::Udp).unwrap()).unwrap();
        assert_eq!(
            (answer.response_code, answer.authoritative, answer.recursion_available),
            (ResponseCode::Refused, false, false),
            "{answer}"
        );
        assert_eq!(answer.queries, message.queries);
    };
    for name in ["example.com.", ".", "users.service.consul."] {
        refused(&question(name, RecordType::A));
    }
    refused(&question("weft.", RecordType::AXFR));
    refused(&question("weft.", RecordType::IXFR));
    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    refused(&chaos);
    chaos.queries[0].set_name(Name::from_str("users.service.weft.").unwrap());
    refused(&chaos);
}

#[tokio::test]
async fn what_is_no_query_of_ours_is_answered_by_its_code_or_not_at_all() {
    let world = World::new(0);
    let code = |message: &Message| {
        let bytes = world.view.respond(&message.to_vec().unwrap(), Carrier::Udp)?;
        Some(Message::from_vec(&bytes).unwrap().response_code)
    };
    let with = |change: &dyn Fn(&mut Message)| {
        let mut message = question("users.service.weft.", RecordType::A);
        change(&mut message);
        code(&message)
    };
    assert_eq!(with(&|it| it.metadata.message_type = MessageType::Response), None, "answers are not answered");
    assert_eq!(with(&|it| it.metadata.op_code = OpCode::Notify), Some(ResponseCode::NotImp));
    assert_eq!(with(&|it| it.metadata.op_code = OpCode::Unknown(9)), Some(ResponseCode::NotImp));
    assert_eq!(with(&|it| it.queries.clear()), Some(ResponseCode::FormErr));
    let second = Query::query(Name::root(), RecordType::A);
    assert_eq!(with(&|it| it.queries.push(second.clone())), Some(ResponseCode::FormErr));
    let newer = |it: &mut Message| {
        let mut edns = Edns::new();
        edns.set_version(1);
        it.edns = Some(edns);
    };
    let code = with(&newer).map(u16::from);
    assert_eq!(code, Some(16), "BADVERS, which the codec reads back as BADSIG");
    assert_eq!(world.view.respond(&[], Carrier::Udp), None);
    assert_eq!(world.view.respond(&[1; 11], Carrier::Udp), None, "no whole header");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Whatever comes: no panic, and an answer that a client can read, with the id it sent.
    #[test]
    fn any_packet_is_answered_with_a_message_or_dropped(
        mut packet in prop::collection::vec(any::<u8>(), 0..300),
        from_query in any::<bool>(),
        flips in prop::collection::vec((0usize..60, any::<u8>()), 0..6),
        cut in 0usize..80,
    ) {
        if from_query {
            let mut message = question("_users._tcp.service.default.ns.weft.", RecordType::SRV);
            message.edns = Some(Edns::new());
            packet = message.to_vec().unwrap();
            for (at, byte) in flips {
                if let Some(it) = packet.get_mut(at) {
                    *it = byte;
                }
            }
            packet.truncate(80 - cut);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(async { World::new(0).view.respond(&packet, Carrier::Udp) });
        if let Some(answer) = answer {
            prop_assert!(answer.len() <= usize::from(UDP_MOST));
            prop_assert!(packet.len() >= 12 && packet[2] & 0x80 == 0, "an answer to no query: {packet:?}");
            let read = Message::from_vec(&answer).unwrap();
            prop_assert_eq!(read.id, u16::from_be_bytes([packet[0], packet[1]]));
            prop_assert!(!read.recursion_available && read.message_type == MessageType::Response);
        }
    }
}

/// A view on sockets of its own.
async fn listening() -> (World, SocketAddr) {
    let mut world = World::new(0);
    let Inner { catalog, watches, .. } = &*world.view.0;
    let dns = Dns::bind(ListenAddr::loopback(0), Duration::ZERO, catalog, watches, &Metrics::default()).unwrap();
    let at = dns.addr().unwrap();
    world.tasks.spawn(dns.run());
    (world, at)
}

async fn by_tcp(stream: &mut TcpStream, messages: &[Message]) -> Vec<Message> {
    let framed = messages.iter().flat_map(|message| {
        let bytes = message.to_vec().unwrap();
        [u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec(), bytes].concat()
    });
    stream.write_all(&framed.collect::<Vec<_>>()).await.unwrap();
    let mut answers = Vec::new();
    let mut buffer = Vec::new();
    for _ in messages {
        assert!(question_of(stream, &mut buffer).await);
        answers.push(Message::from_vec(&buffer).unwrap());
    }
    answers
}

async fn question_of(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    super::question(stream, buffer).await.unwrap()
}

#[tokio::test]
async fn both_carriers_answer_at_one_port_and_a_connection_carries_many_questions() {
    let (world, at) = listening().await;
    world.register("users", 1, "10.0.0.1:7300", Status::Serving).await;
    world.register("users", 2, "[fd00::2]:7300", Status::Serving).await;
    let (a, aaaa) = (question("users.service.weft.", RecordType::A), question("users.service.weft.", RecordType::AAAA));
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    udp.send_to(b"noise", at).await.unwrap();
    udp.send_to(&a.to_vec().unwrap(), at).await.unwrap();
    let mut buffer = [0; 512];
    let length = udp.recv(&mut buffer).await.unwrap();
    assert_eq!(said(&Message::from_vec(&buffer[..length]).unwrap().answers), ["A 10.0.0.1"]);

    let mut tcp = TcpStream::connect(at).await.unwrap();
    let answers = by_tcp(&mut tcp, &[a.clone(), aaaa]).await;
    assert_eq!(
        (said(&answers[0].answers), said(&answers[1].answers)),
        (vec!["A 10.0.0.1".to_owned()], vec!["AAAA fd00::2".to_owned()])
    );
    assert_eq!(by_tcp(&mut tcp, &[a]).await[0].answers.len(), 1);
}

#[tokio::test]
async fn connections_beyond_the_bound_are_closed_and_the_others_go_on() {
    let (world, at) = listening().await;
    world.register("users", 1, "10.0.0.1:7300", Status::Serving).await;
    let a = question("users.service.weft.", RecordType::A);
    let mut open = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(at).await.unwrap();
        assert_eq!(by_tcp(&mut stream, std::slice::from_ref(&a)).await.len(), 1); // it is among those that are served
        open.push(stream);
    }
    let mut one_more = TcpStream::connect(at).await.unwrap();
    assert_eq!(one_more.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed");
    assert_eq!(by_tcp(&mut open[0], &[a]).await[0].answers.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_does_not_finish_its_question_is_closed() {
    let (_world, at) = listening().await;
    let mut slow = TcpStream::connect(at).await.unwrap();
    slow.write_all(&[0, 40, 1, 2, 3]).await.unwrap();
    let began = Instant::now();
    assert_eq!(slow.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed");
    assert!(began.elapsed() >= PATIENCE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_taken_port_is_named_whichever_carrier_holds_it() {
    let (world, at) = listening().await;
    let Inner { catalog, watches, .. } = &*world.view.0;
    let again = Dns::bind(at.into(), Duration::ZERO, catalog, watches, &Metrics::default()).unwrap_err().to_string();
    assert!(again.contains(&at.to_string()), "{again}");
    let udp = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
    let at = udp.local_addr().unwrap();
    let again = Dns::bind(at.into(), Duration::ZERO, catalog, watches, &Metrics::default()).unwrap_err().to_string();
    assert!(again.contains(&at.to_string()) && again.contains(&format!("pid {}", std::process::id())), "{again}");
}
