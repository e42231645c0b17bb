//! Descriptor sets near valid ones: they decode, and say things that no compiler writes.
//!
//! Lives here: the sets to begin with, one change to a message of descriptor.proto at a time. Does not: bytes that are no set at all.

use std::path::Path;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, ReflectMessage, Value};

use crate::dice::Dice;

const PROTO2: &str = r#"
    syntax = "proto2";
    package a;
    import "google/api/annotations.proto";
    message M { optional M b = 1; repeated E e = 2; map<string, M> m = 3; oneof o { int32 x = 4; M y = 5; }
                optional group G = 6 { required string s = 1; } optional string d = 7 [default = "x"]; extensions 100 to 200; }
    enum E { A = 1; B = -1; }
    extend M { optional M ext = 100; }
    service S { rpc Call(M) returns (stream M) { option (google.api.http) = { post: "/a/{y.d}/{b.d=x/**}:v" body: "b" response_body: "e" }; } }
"#;
const PROTO3: &str = r#"
    syntax = "proto3";
    package b.v1;
    import "google/protobuf/any.proto";
    import "google/protobuf/struct.proto";
    import "google/protobuf/wrappers.proto";
    import "google/api/annotations.proto";
    message M { string id = 1; google.protobuf.Any any = 2; google.protobuf.Value v = 3; optional int32 o = 4; repeated M many = 5;
                google.protobuf.Int64Value w = 6; message N { M m = 1; enum K { Z = 0; } K k = 2; } N n = 7; }
    service T { rpc Get(M) returns (M) { option (google.api.http) = { get: "/b/{id}" additional_bindings { patch: "/b/{n.m.id}" body: "n" } }; } }
"#;

pub(crate) struct Sets {
    seeds: Vec<Vec<u8>>,
    set: MessageDescriptor,
}

impl Sets {
    /// Takes the root of the repository.
    pub(crate) fn new(root: &Path) -> Self {
        let seeds = [PROTO2, PROTO3].map(|source| {
            let folder = tempfile::tempdir().expect("a folder can be made");
            std::fs::write(folder.path().join("seed.proto"), source).expect("it can be written");
            let mut compiler = protox::Compiler::new([folder.path(), &root.join("proto")]).expect("the folders exist");
            // Without imports: what mutants are to be found in is the service's own file.
            compiler.open_file("seed.proto").expect("the seed compiles");
            compiler.encode_file_descriptor_set()
        });
        let pool = DescriptorPool::global();
        let set = pool.get_message_by_name("google.protobuf.FileDescriptorSet").expect("prost-reflect knows it");
        Self { seeds: seeds.to_vec(), set }
    }

    pub(crate) fn seeds(&self) -> &[Vec<u8>] {
        &self.seeds
    }

    /// Returns a set with a few changes.
    pub(crate) fn mutant(&self, dice: &mut Dice) -> Vec<u8> {
        let mut set = DynamicMessage::decode(self.set.clone(), &dice.pick(&self.seeds)[..]).expect("a seed is a set");
        for _ in 0..1 + dice.below(3) {
            let mut left = dice.below(count(&set));
            change(dice, &mut set, &mut left);
        }
        set.encode_to_vec()
    }
}

fn count(message: &DynamicMessage) -> usize {
    let within = |value: &Value| match value {
        Value::Message(inner) => count(inner),
        Value::List(items) => items.iter().map(|it| 1 + it.as_message().map_or(0, count)).sum(),
        _ => 0,
    };
    1 + message.fields().map(|(_, value)| 1 + within(value)).sum::<usize>()
}

/// Changes the value that `left` others stand before; returns whether it was here.
fn change(dice: &mut Dice, message: &mut DynamicMessage, left: &mut usize) -> bool {
    if *left == 0 {
        add(dice, message);
        return true;
    }
    *left -= 1;
    let fields: Vec<_> = message.fields().map(|(field, _)| field).collect();
    for field in fields {
        if *left == 0 {
            match dice.below(4) {
                0 => message.clear_field(&field),
                _ => {
                    let value = other(dice, &field.kind(), message.get_field(&field).into_owned());
                    message.set_field(&field, value);
                }
            }
            return true;
        }
        *left -= 1;
        let done = match message.get_field_mut(&field) {
            Value::Message(inner) => change(dice, inner, left),
            Value::List(items) => items.iter_mut().any(|it| {
                if *left == 0 {
                    *it = other(dice, &field.kind(), it.clone());
                    return true;
                }
                *left -= 1;
                it.as_message_mut().is_some_and(|inner| change(dice, inner, left))
            }),
            _ => false,
        };
        if done {
            return true;
        }
    }
    false
}

/// Sets a field that the message lacks.
fn add(dice: &mut Dice, message: &mut DynamicMessage) {
    let fields: Vec<_> = message.descriptor().fields().collect();
    if fields.is_empty() {
        return;
    }
    let field = dice.pick(&fields).clone();
    let default = Value::default_value(&field.kind());
    let value = other(dice, &field.kind(), default);
    match field.is_list() {
        true => message.get_field_mut(&field).as_list_mut().expect("a list").push(value),
        false => message.set_field(&field, value),
    }
}

fn other(dice: &mut Dice, kind: &Kind, old: Value) -> Value {
    const NAMES: [&str; 22] = [
        "",
        "a",
        ".a.M",
        ".a.E",
        "a.M",
        "M",
        ".b.v1.M",
        ".b.v1.M.N",
        ".google.protobuf.Any",
        ".nowhere.M",
        ".",
        "..",
        "x",
        "y",
        "id",
        "é",
        "proto2",
        "proto3",
        "editions",
        "seed.proto",
        "google/protobuf/any.proto",
        "1e999",
    ];
    const NUMBERS: [i32; 14] = [0, 1, 2, 3, 4, 9, 10, 11, 14, -1, i32::MIN, i32::MAX, 19_000, 536_870_911];
    match old {
        Value::List(mut items) => {
            match dice.below(3) {
                0 if !items.is_empty() => drop(items.remove(dice.below(items.len()))),
                1 if !items.is_empty() => items.push(dice.pick(&items).clone()),
                _ => items.reverse(),
            }
            Value::List(items)
        }
        _ => match kind {
            Kind::String => Value::String((*dice.pick(&NAMES)).to_owned()),
            Kind::Int32 => Value::I32(*dice.pick(&NUMBERS)),
            Kind::Int64 => Value::I64(dice.next() as i64),
            Kind::Uint64 => Value::U64(dice.next()),
            Kind::Enum(_) => Value::EnumNumber(*dice.pick(&NUMBERS)),
            Kind::Bool => Value::Bool(dice.once_in(2)),
            Kind::Bytes => Value::Bytes(vec![dice.next() as u8].into()),
            Kind::Message(desc) if dice.once_in(3) => Value::Message(DynamicMessage::new(desc.clone())),
            _ => old,
        },
    }
}
