//! The messages, and each codec's way with them.
//!
//! Lives here: five sizes, three codecs, two directions; that all of them agree is checked before anything is timed.
//! Does not: timing.

use std::sync::{Arc, OnceLock};

use anyhow::{Context, ensure};
use prost::Message;
use prost_reflect::DynamicMessage;
use serde::Serialize;
use serde::de::DeserializeOwned;
use weft_transcode::routes::PathVariables;
use weft_transcode::{Codec, MethodPlan, RequestParts, Schema};

/// prost's types and pbjson's implementations for them.
mod pb {
    #![expect(unreachable_pub, clippy::allow_attributes, reason = "generated")]
    include!(concat!(env!("OUT_DIR"), "/weft.bench.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/weft.bench.v1.serde.rs"));
}

const SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/bench.binpb"));

type Work = Box<dyn Fn() -> usize>;
/// Makes the work of reading and the work of printing.
type Typed = fn(&Arc<Vec<u8>>, &Arc<Vec<u8>>) -> [Work; 2];

pub(crate) struct Payload {
    pub(crate) name: &'static str,
    pub(crate) json: Arc<Vec<u8>>,
    pub(crate) wire: Arc<Vec<u8>>,
    plan: Arc<MethodPlan>,
    /// pbjson's, by direction: it alone knows the type at compile time.
    typed: Typed,
}

pub(crate) struct Contender {
    pub(crate) codec: &'static str,
    pub(crate) direction: &'static str,
    pub(crate) work: Work,
}

pub(crate) fn payloads() -> anyhow::Result<Vec<Payload>> {
    Ok(vec![
        payload("3 fields", "EchoSmall", &small())?,
        payload("1 kB nested", "EchoOrder", &order(1, 4))?,
        payload("4 KiB", "EchoOrder", &order(2, 34))?,
        payload("100 kB list", "EchoOrders", &pb::Orders { orders: (0..100).map(|it| order(it, 4)).collect() })?,
        payload("1 MB bytes", "EchoBlob", &blob())?,
    ])
}

fn small() -> pb::Small {
    pb::Small { name: "Ada Lovelace".to_owned(), amount: 42, active: true }
}

fn order(number: u32, items: u32) -> pb::Order {
    let address = |street: &str| pb::Address {
        street: street.to_owned(),
        city: "Zürich".to_owned(),
        postal_code: "8001".to_owned(),
        country: "CH".to_owned(),
    };
    let item = |at: u32| pb::Item {
        sku: format!("SKU-{:06}", number * 100 + at),
        title: "A thing that somebody \"ordered\"".to_owned(),
        quantity: at + 1,
        price_micros: 19_990_000 + i64::from(at),
        weight: 0.25 * f64::from(at) + 0.1,
    };
    pb::Order {
        order_id: format!("018f3c1e-7d3a-7c1b-9d5e-{number:012}"),
        state: pb::State::Shipped.into(),
        created_at: 1_700_000_000_000 + i64::from(number),
        delivery: Some(address("Bahnhofstrasse 1")),
        invoice: Some(address("Postfach 12")),
        items: (0..items).map(item).collect(),
        labels: [("channel", "web"), ("campaign", "spring")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        route: vec![3, 1, 4, 15, 926],
        express: true,
    }
}

fn blob() -> pb::Blob {
    pb::Blob {
        name: "photo".to_owned(),
        data: (0..1_000_000_u32).map(|it| (it.wrapping_mul(2_654_435_761) >> 24) as u8).collect(),
    }
}

fn payload<T>(name: &'static str, method: &str, message: &T) -> anyhow::Result<Payload>
where
    T: Message + Default + Serialize + DeserializeOwned + PartialEq + 'static,
{
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    let schema = match SCHEMA.get() {
        Some(schema) => schema,
        None => SCHEMA.get_or_init(|| Schema::decode(SET).expect("the set links: protox made it")),
    };
    let plan = schema.plans().iter().find(|it| it.method().name() == method).context("no such method")?;
    let it = Payload {
        name,
        json: Arc::new(serde_json::to_vec(message)?),
        wire: Arc::new(message.encode_to_vec()),
        plan: Arc::clone(plan),
        typed: typed::<T>,
    };
    let read = weft_read(&Codec::default(), plan, &it.json);
    ensure!(T::decode(&*read)? == *message, "{name}: weft reads something else");
    let printed = Codec::default().encode_reply(plan, &it.wire)?.body;
    ensure!(serde_json::from_slice::<T>(&printed)? == *message, "{name}: weft prints something else");
    ensure!(T::decode(&*reflect_read(plan, &it.json))? == *message, "{name}: prost-reflect reads something else");
    Ok(it)
}

fn typed<T>(json: &Arc<Vec<u8>>, wire: &Arc<Vec<u8>>) -> [Work; 2]
where
    T: Message + Default + Serialize + DeserializeOwned + 'static,
{
    let (json, wire) = (Arc::clone(json), Arc::clone(wire));
    let read = move || serde_json::from_slice::<T>(&json).expect("valid").encode_to_vec().len();
    let print = move || serde_json::to_vec(&T::decode(&**wire).expect("valid")).expect("printable").len();
    [Box::new(read), Box::new(print)]
}

fn weft_read(codec: &Codec, plan: &MethodPlan, json: &[u8]) -> Vec<u8> {
    let variables = PathVariables::default();
    let parts = RequestParts { http_method: "POST", variables: &variables, query: None, content_type: None };
    codec.decode_request(plan, parts, json).expect("valid").into()
}

fn reflect_read(plan: &MethodPlan, json: &[u8]) -> Vec<u8> {
    let mut json = serde_json::Deserializer::from_slice(json);
    DynamicMessage::deserialize(plan.method().input().clone(), &mut json).expect("valid").encode_to_vec()
}

fn reflect_print(plan: &MethodPlan, wire: &[u8]) -> Vec<u8> {
    let message = DynamicMessage::decode(plan.method().output().clone(), wire).expect("valid");
    serde_json::to_vec(&message).expect("printable")
}

impl Payload {
    pub(crate) fn contenders(&self) -> Vec<Contender> {
        let [typed_read, typed_print] = (self.typed)(&self.json, &self.wire);
        let codec = Codec::default();
        let (plan, json) = (Arc::clone(&self.plan), Arc::clone(&self.json));
        let read: Work = {
            let (codec, plan, json) = (codec.clone(), Arc::clone(&plan), Arc::clone(&json));
            Box::new(move || weft_read(&codec, &plan, &json).len())
        };
        let print: Work = {
            let (plan, wire) = (Arc::clone(&plan), Arc::clone(&self.wire));
            Box::new(move || codec.encode_reply(&plan, &wire).expect("printable").body.len())
        };
        let dynamic_read: Work = {
            let plan = Arc::clone(&plan);
            Box::new(move || reflect_read(&plan, &json).len())
        };
        let wire = Arc::clone(&self.wire);
        let dynamic_print: Work = Box::new(move || reflect_print(&plan, &wire).len());
        let (reading, printing) = ("JSON → wire", "wire → JSON");
        vec![
            Contender { codec: "weft", direction: reading, work: read },
            Contender { codec: "prost-reflect", direction: reading, work: dynamic_read },
            Contender { codec: "pbjson", direction: reading, work: typed_read },
            Contender { codec: "weft", direction: printing, work: print },
            Contender { codec: "prost-reflect", direction: printing, work: dynamic_print },
            Contender { codec: "pbjson", direction: printing, work: typed_print },
        ]
    }
}
