//! What the store keeps, as bytes: protobuf messages of our own, so that a later version reads what an older one wrote.
//!
//! Lives here: the shapes on disk and their way to and from the state. Does not: tables and transactions (`store`).
//! Compatibility: fields are only added; an older registry that meets a newer store drops what it does not know when it next writes a record.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message;
use weft_model::{Instance, Invalid, LeaseTtl, Policy, Status};
use weft_proto::weft::{model::v1 as pb, policy::v1 as policy};

use crate::{
    catalog::{
        change::Health,
        state::{Hold, Record},
    },
    schema::DescriptorSet,
};

#[derive(Clone, PartialEq, Message)]
struct DiskRecord {
    /// Status and reason are the reported ones.
    #[prost(message, optional, tag = "1")]
    instance: Option<pb::Instance>,
    #[prost(uint32, tag = "2")]
    ttl_ms: u32,
    /// An operator's word that overrides the report.
    #[prost(message, optional, tag = "3")]
    operator: Option<DiskHealth>,
    #[prost(bool, tag = "4")]
    draining: bool,
}

#[derive(Clone, PartialEq, Message)]
struct DiskHealth {
    #[prost(enumeration = "pb::Status", tag = "1")]
    status: i32,
    #[prost(string, tag = "2")]
    reason: String,
}

#[derive(Clone, PartialEq, Message)]
struct DiskSet {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    files: Vec<Bytes>,
    #[prost(uint64, tag = "2")]
    age: u64,
    #[prost(string, repeated, tag = "3")]
    served: Vec<String>,
}

pub(super) fn encode(record: &Record) -> Vec<u8> {
    let mut instance = pb::Instance::from(record.instance.as_ref());
    let (status, reason) = record.reported();
    instance.set_status(status.into());
    reason.clone_into(&mut instance.reason);
    let operator = match record.held_by() {
        Some(Hold::Operator(h)) => {
            Some(DiskHealth { status: pb::Status::from(h.status).into(), reason: h.reason.clone() })
        }
        Some(Hold::Draining) | None => None,
    };
    let ttl_ms = u32::try_from(record.ttl.get().as_millis()).expect("a ttl is an hour at most");
    let draining = record.held_by() == Some(&Hold::Draining);
    DiskRecord { instance: Some(instance), ttl_ms, operator, draining }.encode_to_vec()
}

pub(super) fn decode(bytes: &[u8]) -> Result<Record, Invalid> {
    let disk = DiskRecord::decode(bytes).map_err(garbled)?;
    let instance = Instance::try_from(disk.instance.ok_or_else(|| Invalid::new("instance", "is missing"))?)?;
    let ttl = LeaseTtl::new(Duration::from_millis(disk.ttl_ms.into())).map_err(|e| e.within("ttl_ms"))?;
    let hold = match disk.operator {
        Some(health) => Some(Hold::Operator(Health::new(Status::from(health.status()), health.reason))),
        None => disk.draining.then_some(Hold::Draining),
    };
    Ok(Record::new(instance, ttl, hold))
}

pub(super) fn encode_set(set: &DescriptorSet) -> Vec<u8> {
    DiskSet { files: set.files.clone(), age: set.age, served: set.served.iter().cloned().collect() }.encode_to_vec()
}

/// Links the set anew: the facts about its services are derived, only its bytes are kept.
pub(super) fn decode_set(bytes: &[u8]) -> Result<DescriptorSet, Invalid> {
    let disk = DiskSet::decode(bytes).map_err(garbled)?;
    let set = crate::schema::link(disk.files, disk.served.into_iter().collect());
    let set = set.map_err(|e| Invalid::new("files", e.to_string()))?;
    Ok(DescriptorSet { age: disk.age, ..set })
}

pub(super) fn encode_policy(it: &Policy) -> Vec<u8> {
    policy::Policy::from(it).encode_to_vec()
}

/// Strict: a registry that cannot read a policy must not serve as if it were not there.
pub(super) fn decode_policy(bytes: &[u8]) -> Result<Policy, Invalid> {
    policy::Policy::decode(bytes).map_err(garbled)?.try_into()
}

/// Milliseconds since 1970; wall time, because a tombstone outlives the process.
pub(crate) fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn from_millis(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

fn garbled(error: prost::DecodeError) -> Invalid {
    Invalid::new("", error.to_string())
}
