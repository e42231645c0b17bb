//! Answers: the records that a question has, out of one snapshot.
//!
//! Lives here: choosing instances, records, the SOA of what is not there. Does not: names (`names`), bytes (`wire`).
//! Invariants: an answer is made of one [`Published`]; only instances that take calls are in it; a name that exists without records of the
//! asked type is NOERROR with the SOA, one that does not exist NXDOMAIN with it (RFC 2308).
//! Order is shuffled: most resolvers take the first. SRV's weights are the instances'; nothing here prefers by them.
//! Cost: records are made of as many instances as an answer can hold, drawn anew for each; of the others it is only asked whether they are ready.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use hickory_proto::{
    op::ResponseCode,
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, NS, SOA, SRV, TXT},
    },
};
use rand::seq::{IteratorRandom, SliceRandom};
use weft_model::{Instance, ServiceName, metadata};

use crate::{
    catalog::Published,
    views::dns::names::{self, Asked, Which},
};

/// Priority of every SRV record: one tier.
const PRIORITY: u16 = 1;
/// Bytes of one string of a TXT record at most (RFC 1035, 3.3.14).
const TXT_STRING: usize = 255;

/// What the zone says of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Zone {
    /// Seconds that an answer may be kept.
    pub(super) ttl: u32,
    /// Where this server is, if it listens on one address.
    pub(super) server: Option<IpAddr>,
}

/// The sections of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) additionals: Vec<Record>,
}

/// The service whose instances an answer would tell.
pub(super) fn service_asked(published: &Published, asked: &Asked) -> Option<ServiceName> {
    match asked {
        Asked::Service(service, _) => Some(service.clone()),
        Asked::Instance(id) => published.service_of(id).cloned(),
        Asked::Apex | Asked::Server | Asked::Empty | Asked::Address(_) | Asked::Nothing => None,
    }
}

/// A question, and how much of an answer is of use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    /// As it was spelled.
    pub(super) name: &'a Name,
    pub(super) kind: RecordType,
    /// Records that fit at most; one more is made, so that it is seen that some are missing.
    pub(super) most: usize,
}

/// Answers a question about a name below `weft.`.
pub(super) fn answer(published: &Published, zone: Zone, asked: &Asked, question: Question<'_>) -> Reply {
    let Question { name, kind, .. } = question;
    let of_one = |ip: IpAddr| Some(addresses(name, zone.ttl, [ip], kind));
    let found = match asked {
        Asked::Nothing => None,
        Asked::Empty => Some(Vec::new()),
        Asked::Apex => Some(apex(published, zone, name, kind)),
        Asked::Server => Some(zone.server.and_then(of_one).unwrap_or_default()),
        Asked::Address(ip) => of_one(*ip),
        Asked::Instance(id) => {
            let service = published.service_of(id).and_then(|name| published.snapshot.services.get(name));
            let instance = service.and_then(|service| service.instances.get(id)).filter(|it| it.status.takes_calls());
            instance.map(|it| records(std::iter::once(it.as_ref()), zone, question, Details::Told))
        }
        Asked::Service(service, which) => of_service(published, zone, question, (service, which)),
    };
    let Some(answers) = found else {
        return negative(published, zone, ResponseCode::NXDomain);
    };
    if answers.is_empty() {
        return negative(published, zone, ResponseCode::NoError);
    }
    let additionals = targets(&answers, zone.ttl);
    Reply { code: ResponseCode::NoError, answers, authorities: Vec::new(), additionals }
}

fn negative(published: &Published, zone: Zone, code: ResponseCode) -> Reply {
    let authorities = vec![Record::from_rdata(names::name(&[]), zone.ttl, soa(published))];
    Reply { code, answers: Vec::new(), authorities, additionals: Vec::new() }
}

/// The serial is the low half of the catalog's version: nobody transfers this zone, so it only tells people whether something changed.
fn soa(published: &Published) -> RData {
    let serial = u32::try_from(published.snapshot.version.0 & 0xffff_ffff).expect("32 bits were kept");
    RData::SOA(SOA::new(names::name(&["ns"]), names::name(&["postmaster"]), serial, 3600, 600, 86_400, 0))
}

fn apex(published: &Published, zone: Zone, name: &Name, kind: RecordType) -> Vec<Record> {
    let record = |data| Record::from_rdata(name.clone(), zone.ttl, data);
    let ns = || record(RData::NS(NS(names::name(&["ns"]))));
    match kind {
        RecordType::SOA => vec![record(soa(published))],
        RecordType::NS => vec![ns()],
        RecordType::ANY => vec![record(soa(published)), ns()],
        _ => Vec::new(),
    }
}

/// Whether metadata is told as TXT records: of one instance it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Details {
    Told,
    LeftOut,
}

/// None if there is no such service, or it has no such part.
fn of_service(
    published: &Published,
    zone: Zone,
    question: Question<'_>,
    (service, which): (&ServiceName, &Which),
) -> Option<Vec<Record>> {
    let service = published.snapshot.services.get(service)?;
    let details = match which {
        Which::All | Which::Tagged(_) => Details::LeftOut,
        Which::Named(_) => Details::Told,
    };
    let mut exists = matches!(which, Which::All);
    let chosen =
        service.instances.values().map(AsRef::as_ref).filter(|it| chosen(it, which)).inspect(|_| exists = true);
    let records = records(chosen.filter(|it: &&Instance| it.status.takes_calls()), zone, question, details);
    exists.then_some(records)
}

fn chosen(instance: &Instance, which: &Which) -> bool {
    let fact = |key: &str| instance.metadata.get(key);
    let tagged = |tag: &str| instance.metadata.tags().any(|it| it.eq_ignore_ascii_case(tag));
    match which {
        Which::All => true,
        Which::Tagged(tag) => tagged(tag),
        Which::Named(label) => {
            fact(metadata::SLOT).is_some_and(|slot| slot.eq_ignore_ascii_case(label))
                || label.parse().is_ok_and(|id| instance.id == id)
                || tagged(label)
        }
    }
}

fn records<'a>(
    instances: impl Iterator<Item = &'a Instance>,
    zone: Zone,
    Question { name, kind, most }: Question<'_>,
    details: Details,
) -> Vec<Record> {
    let (mut random, most) = (rand::rng(), most.saturating_add(1));
    let mut records = match kind {
        RecordType::A | RecordType::AAAA | RecordType::ANY => {
            // One process may be two instances and one machine many: each address once.
            let ips: BTreeSet<IpAddr> =
                instances.map(|it| it.endpoint.address.ip()).filter(|ip| is_of(*ip, kind)).collect();
            addresses(name, zone.ttl, ips.into_iter().choose_multiple(&mut random, most), kind)
        }
        RecordType::SRV => {
            let some = instances.choose_multiple(&mut random, most).into_iter();
            some.map(|it| srv(name, zone.ttl, it.endpoint.address, it.weight.get())).collect()
        }
        RecordType::TXT if details == Details::Told => {
            let some = instances.choose_multiple(&mut random, most).into_iter();
            some.flat_map(|it| facts(it, name, zone.ttl)).take(most).collect()
        }
        _ => {
            instances.for_each(drop); // whether there is one decides between NOERROR and NXDOMAIN
            Vec::new()
        }
    };
    records.shuffle(&mut random);
    records
}

fn srv(name: &Name, ttl: u32, at: SocketAddr, weight: u16) -> Record {
    let data = SRV::new(PRIORITY, weight, at.port(), names::of_address(at.ip()));
    Record::from_rdata(name.clone(), ttl, RData::SRV(data))
}

fn is_of(ip: IpAddr, kind: RecordType) -> bool {
    match ip {
        IpAddr::V4(_) => kind != RecordType::AAAA,
        IpAddr::V6(_) => kind != RecordType::A,
    }
}

/// The addresses of the asked family.
fn addresses(name: &Name, ttl: u32, ips: impl IntoIterator<Item = IpAddr>, kind: RecordType) -> Vec<Record> {
    let data = |ip| match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    let of_family = matches!(kind, RecordType::A | RecordType::AAAA | RecordType::ANY);
    let data = ips.into_iter().filter(|ip| of_family && is_of(*ip, kind)).map(data);
    data.map(|data| Record::from_rdata(name.clone(), ttl, data)).collect()
}

/// Addresses of SRV targets, each once.
fn targets(answers: &[Record], ttl: u32) -> Vec<Record> {
    let targets: BTreeSet<&Name> = answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(&srv.target),
            _ => None,
        })
        .collect();
    let ip = |target: &Name| match names::read(target) {
        Some(Asked::Address(ip)) => Some(ip),
        _ => None,
    };
    targets.into_iter().flat_map(|it| addresses(it, ttl, ip(it), RecordType::ANY)).collect()
}

/// Metadata as `key=value` strings (RFC 1464); a key that starts with `rfc1035-` is told by its value alone, as Consul does.
fn facts(instance: &Instance, name: &Name, ttl: u32) -> Vec<Record> {
    let text = |(key, value): (&str, &str)| match key.strip_prefix("rfc1035-") {
        Some(_) => value.to_owned(),
        None => format!("{}={value}", key.replace('=', "`=")),
    };
    let record = |text: String| {
        let strings = text.as_bytes().chunks(TXT_STRING).collect();
        Record::from_rdata(name.clone(), ttl, RData::TXT(TXT::from_bytes(strings)))
    };
    instance.metadata.iter().map(text).map(record).collect()
}
