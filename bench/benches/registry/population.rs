//! The population of a run: which services there are, what instance sits in which slot, who watches what.
//!
//! Lives here: names, addresses, the Zipf choice. Does not: sending any of it.
//! A slot is a place for one instance at a time; a replacement has the next generation, and with it an id and an address of its own.

use std::{collections::BTreeSet, time::Instant};

use rand::{Rng, SeedableRng, rngs::StdRng};
use uuid::Uuid;
use weft_proto::weft::model::v1::{Endpoint, Instance, Locality, Protocol, Status, Transport, transport};

/// Metadata key with the moment a change was asked for, in ns since the run began.
pub(crate) const SENT: &str = "sent-ns";

/// How much there is of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Population {
    /// Services.
    pub(crate) services: usize,
    /// Instances of all services.
    pub(crate) instances: usize,
    /// When the run began.
    pub(crate) began: Instant,
}

/// Name of the service with this number.
pub(crate) fn service(number: usize) -> String {
    format!("svc-{number:04}")
}

impl Population {
    /// Name of the service whose instance sits in a slot.
    pub(crate) fn service_of(&self, slot: usize) -> String {
        service(slot % self.services)
    }

    /// The instance of a slot in a generation, asked for now.
    pub(crate) fn instance(&self, slot: usize, generation: usize) -> Instance {
        let number = slot + generation * self.instances;
        let port = 7_200 + (number >> 24);
        let address = format!("10.{}.{}.{}:{port}", (number >> 16) & 255, (number >> 8) & 255, number & 255);
        Instance {
            id: Uuid::now_v7().to_string(),
            service: self.service_of(slot),
            endpoint: Some(Endpoint {
                address,
                transport: Some(Transport { kind: Some(transport::Kind::Plaintext(transport::Plaintext {})) }),
                protocol: Protocol::H2.into(),
            }),
            status: Status::Serving.into(),
            locality: Some(Locality { zone: ["a", "b", "c"][slot % 3].to_owned(), ..Locality::default() }),
            weight: 1,
            metadata: [(SENT.to_owned(), self.now().to_string()), ("slot".to_owned(), slot.to_string())].into(),
            ..Instance::default()
        }
    }

    /// Nanoseconds since the run began.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
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
