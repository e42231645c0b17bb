//! The population of a run: which services there are, who their instances are, who watches what.
//!
//! Lives here: names, ids, addresses, the Zipf choice. Does not: sending any of it.
//! An instance has a number; its id, its address and its service follow from that, so that whoever is told any of them knows which it is. The successor of
//! an instance has the number of one as many further on as there are instances.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use anyhow::Context;
use rand::{Rng, SeedableRng, rngs::StdRng};
use uuid::Uuid;
use weft_proto::weft::model::v1::{Endpoint, Instance, Locality, Protocol, Status, Transport, transport};

/// An id of version 7, but for the number.
const IDS: u128 = 0x0190_0000_0000_7000_8000 << 48;
const PORT: u64 = 7_200;

/// How much there is of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Population {
    /// Services.
    pub(crate) services: usize,
    /// Instances of all services at a time.
    pub(crate) instances: usize,
}

fn service(number: usize) -> String {
    format!("svc-{number:04}.default")
}

fn address(number: u64) -> String {
    let [_, _, _, _, _, a, b, c] = number.to_be_bytes();
    format!("10.{a}.{b}.{c}:{}", PORT + (number >> 24))
}

/// The number of the instance at an address.
pub(crate) fn number_at(address: SocketAddr) -> Option<u64> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    let high = u64::from(address.port()).checked_sub(PORT)?;
    Some(high << 24 | u64::from(ip.to_bits() & 0xff_ffff))
}

/// The number of the instance with an id.
pub(crate) fn number_of(id: &str) -> anyhow::Result<u64> {
    let id = Uuid::parse_str(id).with_context(|| format!("{id} is no id of an instance"))?;
    Ok(u64::try_from(id.as_u128() & 0xffff_ffff_ffff)?)
}

impl Population {
    /// The service of an instance.
    pub(crate) fn service_of(&self, number: u64) -> String {
        service(number as usize % self.instances % self.services)
    }

    /// Who comes when an instance leaves.
    pub(crate) fn successor(&self, number: u64) -> u64 {
        number + self.instances as u64
    }

    /// An instance.
    pub(crate) fn instance(&self, number: u64) -> Instance {
        Instance {
            id: Uuid::from_u128(IDS | u128::from(number)).to_string(),
            service: self.service_of(number),
            endpoint: Some(Endpoint {
                address: address(number),
                transport: Some(Transport { kind: Some(transport::Kind::Plaintext(transport::Plaintext {})) }),
                protocol: Protocol::H2.into(),
            }),
            status: Status::Serving.into(),
            locality: Some(Locality { zone: ["a", "b", "c"][number as usize % 3].to_owned(), ..Locality::default() }),
            weight: 1,
            metadata: [("slot".to_owned(), number.to_string())].into(),
            ..Instance::default()
        }
    }

    /// The services that watcher `number` looks at: `count` different ones by Zipf's law, the same in every run.
    pub(crate) fn watched(&self, number: usize, count: usize) -> Vec<String> {
        let mut random = StdRng::seed_from_u64(number as u64);
        let weights: Vec<f64> = (1..=self.services).map(|rank| 1.0 / rank as f64).collect();
        let whole: f64 = weights.iter().sum();
        let mut chosen = BTreeSet::new();
        while chosen.len() < count.min(self.services) {
            let mut at = random.random_range(0.0..whole);
            let hit = weights.iter().position(|weight| {
                at -= weight;
                at <= 0.0
            });
            chosen.insert(hit.unwrap_or(self.services - 1));
        }
        chosen.into_iter().map(service).collect()
    }
}
