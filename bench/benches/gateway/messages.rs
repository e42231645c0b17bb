//! What is sent: one message in the sizes that are measured, as JSON and in protobuf's wire format.
//!
//! Lives here: the messages, made from nothing but their size; prost-reflect writes the wire format, so that no peer judges itself. Does not: sending.

use std::path::Path;

use anyhow::Context as _;
use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use serde_json::{Value, json};

/// How often Repeat says its message.
const REPEATED: u32 = 10_000;

/// What is sent, and how much of it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// `Echo` or `Repeat`.
    pub(crate) method: &'static str,
    pub(crate) json: Bytes,
    /// Without gRPC's prefix.
    pub(crate) wire: Bytes,
    /// Calls of a round, before they are scaled.
    pub(crate) calls: usize,
    /// Calls a second where latency is measured: each peer has to be far from its limit.
    pub(crate) rate: f64,
}

/// The schema, as each peer reads it.
pub(crate) struct Schema {
    /// An encoded FileDescriptorSet with everything that it imports.
    pub(crate) set: Vec<u8>,
    shape: MessageDescriptor,
}

impl Schema {
    pub(crate) fn load() -> anyhow::Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut compiler = protox::Compiler::new([here.join("proto"), here.join("../proto")])?;
        compiler.include_imports(true).open_file("weft/bench/v1/shapes.proto")?;
        let set = compiler.encode_file_descriptor_set();
        let pool = DescriptorPool::decode(set.as_slice())?;
        let shape = pool.get_message_by_name("weft.bench.v1.Shape").context("the schema has a Shape")?;
        Ok(Self { set, shape })
    }

    /// Reads JSON as protobuf's rules have it.
    pub(crate) fn read(&self, json: &[u8]) -> anyhow::Result<DynamicMessage> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        let message = DynamicMessage::deserialize(self.shape.clone(), &mut reader)?;
        reader.end()?;
        self.decode(&message.encode_to_vec()) // a default that was written is not another message
    }

    /// Reads the wire format.
    pub(crate) fn decode(&self, wire: &[u8]) -> anyhow::Result<DynamicMessage> {
        Ok(DynamicMessage::decode(self.shape.clone(), wire)?)
    }

    /// All that are measured, from small to large.
    pub(crate) fn cases(&self) -> anyhow::Result<Vec<Case>> {
        let case = |name, method, message: &Value, calls, rate| {
            let json = Bytes::from(serde_json::to_vec(message)?);
            let wire = Bytes::from(self.read(&json)?.encode_to_vec());
            anyhow::Ok(Case { name, method, json, wire, calls, rate })
        };
        let repeated = json!({"repeat": REPEATED, "name": "Ada Lovelace", "number": "1815121010", "flag": true});
        Ok(vec![
            case("3 fields", "Echo", &three_fields(), 10_000, 1_000.0)?,
            case("1 kB nested", "Echo", &json!({"name": "nested", "parts": parts(2, 2)}), 5_000, 500.0)?,
            case("4 KiB", "Echo", &json!({"name": "mixed", "parts": parts(5, 2), "labels": labels(28)}), 2_000, 250.0)?,
            case("100 kB list", "Echo", &json!({"parts": parts(740, 0)}), 100, 10.0)?,
            case("1 MB bytes", "Echo", &json!({"data": bytes(1_000_000)}), 50, 5.0)?,
            case("10,000 messages", "Repeat", &repeated, 10, 1.0)?,
        ])
    }
}

fn three_fields() -> Value {
    json!({"name": "Ada Lovelace", "number": "1815121010", "flag": true})
}

/// Parts beside each other, each with as many inside it as it is deep.
fn parts(many: usize, deep: usize) -> Value {
    let part = |n: usize| {
        let mut part = json!({
            "kind": if n.is_multiple_of(2) { "KIND_ROUND" } else { "KIND_SQUARE" },
            "title": format!("part number {n}, \"quoted\" and ünlike the others"),
            "share": n as f64 / 64.0, // serde_json reads others less exactly than it could
            "values": [n, 2 * n, 3 * n, -17],
        });
        if deep > 0 {
            part["parts"] = parts(deep, deep - 1);
        }
        part
    };
    (0..many).map(part).collect()
}

fn labels(many: usize) -> Value {
    (0..many)
        .map(|n| (format!("label-{n}"), Value::from(format!("value of label {n}"))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// So many bytes in base64.
fn bytes(many: usize) -> String {
    use base64::Engine as _;
    let bytes: Vec<u8> = (0..many).map(|n| u8::try_from(n * 31 % 251).expect("a rest of 251")).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
