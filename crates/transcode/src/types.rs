//! Message types as the codec wants them: what it needs of a descriptor, worked out once and found without searching.
//!
//! Lives here: `Types`, one for each descriptor pool; fields by name, by number and by guess; names ready to print. Does
//! not: reading or writing anything (`codec`), well-known types' own forms (`codec::well_known`).
//! Invariants: a type is compiled when it is first met, so a pool costs nothing for what nobody calls; types name each
//! other by `TypeId`, so they may be recursive. Extensions stand behind the fields.

mod names;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use prost_reflect::{
    DescriptorPool, EnumDescriptor, ExtensionDescriptor, FieldDescriptor, Kind as Described, MessageDescriptor,
};

use crate::behavior;
use crate::codec::well_known::WellKnown;
use crate::schema::editions::Implicit;
use crate::settings::JsonOutput;
use crate::wire::{self, WireType};
use names::{ByName, Names};

/// The message types of a pool.
#[derive(Debug)]
pub(crate) struct Types {
    entries: Vec<Entry>,
    ids: HashMap<String, TypeId>,
    implicit: Implicit,
}

/// A message type of a `Types`; means nothing to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TypeId(usize);

#[derive(Debug)]
struct Entry {
    desc: MessageDescriptor,
    compiled: OnceLock<MessageType>,
}

impl Types {
    pub(crate) fn new(pool: &DescriptorPool, implicit: Implicit) -> Self {
        let entries = pool.all_messages().map(|desc| Entry { desc, compiled: OnceLock::new() });
        let entries: Vec<Entry> = entries.collect();
        // The stand-in for descriptor.proto (`schema::files`) has nothing to print or to read.
        let described = pool.get_message_by_name("google.protobuf.FileDescriptorProto").is_some();
        let stands_in = |it: &Entry| !described && it.desc.parent_file().name() == "google/protobuf/descriptor.proto";
        let own = entries.iter().enumerate().filter(|(_, it)| !stands_in(it));
        let ids = own.map(|(at, it)| (it.desc.full_name().to_owned(), TypeId(at))).collect();
        Self { entries, ids, implicit }
    }

    pub(crate) fn id(&self, full_name: &str) -> Option<TypeId> {
        self.ids.get(full_name).copied()
    }

    pub(crate) fn get(&self, id: TypeId) -> &MessageType {
        let entry = &self.entries[id.0];
        entry.compiled.get_or_init(|| MessageType::compile(&entry.desc, self))
    }

    fn id_of(&self, desc: &MessageDescriptor) -> TypeId {
        self.id(desc.full_name()).expect("a pool holds the types of its own fields")
    }
}

#[derive(Debug)]
pub(crate) struct MessageType {
    pub(crate) name: Box<str>,
    pub(crate) well_known: Option<WellKnown>,
    /// In the order of their numbers, then extensions in theirs.
    pub(crate) fields: Box<[Field]>,
    oneofs: Box<[Box<str>]>,
    names: Names,
    /// Index of the field by number, `NONE` in gaps; for numbers that are small.
    low: Box<[u32]>,
    /// The others, sorted by number.
    high: Box<[(u32, u32)]>,
}

const NONE: u32 = u32::MAX;
/// Fields that are compared with a text before its name is read and looked up.
const GUESSES: usize = 3;
/// Bytes of a member's beginning that are compared at once.
const OPENING: usize = 16;
/// So many names of values are compared one by one; more are hashed.
const FEW: usize = 8;
/// Numbers below this are looked up by index.
const LOW: u32 = 256;

/// How often a field may occur.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cardinality {
    One,
    List {
        packed: bool,
    },
    /// Fields 1 and 2 of the entry.
    Map(Box<(Field, Field)>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) name: Box<str>,
    /// As clients write it; of an extension, `[full.name]`.
    pub(crate) json_name: Box<str>,
    pub(crate) kind: Kind,
    pub(crate) cardinality: Cardinality,
    /// Whether unset differs from the default.
    pub(crate) presence: bool,
    pub(crate) is_extension: bool,
    /// Whether only the service sets it (`google.api.field_behavior`).
    pub(crate) output_only: bool,
    /// Index of its oneof in the message type.
    pub(crate) oneof: Option<u32>,
    /// What stands before a value on the wire; before the whole list if it is packed.
    pub(crate) key: Box<[u8]>,
    /// `,"jsonName":` and `,"proto_name":`.
    printed: [Box<[u8]>; 2],
    /// The first bytes of `opening`, and which of their bits count if it is shorter.
    begins: (u128, u128),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    String,
    Bytes,
    Enum(Arc<EnumType>),
    Message(TypeId),
    /// A message between two keys in place of behind a length (proto2).
    Group(TypeId),
}

#[derive(Debug, PartialEq)]
pub(crate) struct EnumType {
    pub(crate) name: Box<str>,
    /// `google.protobuf.NullValue`, which is JSON's null.
    pub(crate) is_null: bool,
    /// What a field without value holds.
    pub(crate) default: i32,
    values: Vec<(Box<str>, i32)>,
    /// Names by number, sorted; of aliases the first.
    numbers: Vec<(i32, Box<str>)>,
    names: ByName<i32>,
}

impl MessageType {
    fn compile(desc: &MessageDescriptor, types: &Types) -> Self {
        let mut own: Vec<FieldDescriptor> = desc.fields().collect();
        own.sort_unstable_by_key(FieldDescriptor::number);
        let mut extensions: Vec<ExtensionDescriptor> = desc.extensions().collect();
        extensions.sort_unstable_by_key(ExtensionDescriptor::number);
        let oneofs: Vec<_> = desc.oneofs().filter(|it| !it.is_synthetic()).collect();
        let oneof = |field: &FieldDescriptor| {
            let own = field.containing_oneof()?;
            oneofs.iter().position(|it| *it == own).and_then(|at| u32::try_from(at).ok())
        };
        let fields = own.iter().map(|it| Field { oneof: oneof(it), ..Field::of(it, types) });
        let fields: Box<[Field]> = fields.chain(extensions.iter().map(|it| Field::of_extension(it, types))).collect();
        let mut by_number: Vec<(u32, u32)> = fields.iter().zip(0..).map(|(it, at)| (it.number, at)).collect();
        by_number.sort_unstable();
        let split = by_number.partition_point(|(number, _)| *number < LOW);
        let high = by_number.split_off(split).into();
        let mut low = vec![NONE; by_number.last().map_or(0, |(number, _)| *number as usize + 1)];
        by_number.iter().for_each(|(number, at)| low[*number as usize] = *at);
        Self {
            name: desc.full_name().into(),
            well_known: WellKnown::of(desc),
            names: Names::of(&fields),
            oneofs: oneofs.iter().map(|it| it.name().into()).collect(),
            fields,
            low: low.into(),
            high,
        }
    }

    /// Returns the index of a field by its number.
    #[inline]
    pub(crate) fn index_of(&self, number: u32) -> Option<u32> {
        match self.low.get(number as usize) {
            Some(&NONE) => None,
            Some(at) => Some(*at),
            None => self.high.binary_search_by_key(&number, |it| it.0).ok().map(|at| self.high[at].1),
        }
    }

    pub(crate) fn by_number(&self, number: u32) -> Option<&Field> {
        self.index_of(number).map(|at| &self.fields[at as usize])
    }

    /// Returns the index of a field by JSON name or by proto name. `guess` is looked at first: clients mostly write the
    /// fields in their order.
    #[inline]
    pub(crate) fn by_name(&self, name: &str, guess: u32) -> Option<u32> {
        match self.fields.get(guess as usize) {
            Some(field) if *field.json_name == *name => Some(guess),
            _ => self.names.find(name),
        }
    }

    /// Returns the first field from `guess` on, of a few, that begins as a text does.
    #[inline]
    pub(crate) fn by_opening(&self, text: &[u8], guess: u32) -> Option<(u32, &Field)> {
        match self.fields.get(guess as usize)? {
            field if field.opens(text) => Some((guess, field)),
            _ => self.by_later_opening(text, guess + 1),
        }
    }

    fn by_later_opening(&self, text: &[u8], guess: u32) -> Option<(u32, &Field)> {
        let fields = self.fields.get(guess as usize..)?.iter().take(GUESSES - 1);
        (guess..).zip(fields).find(|(_, field)| field.opens(text))
    }

    pub(crate) fn oneof(&self, index: u32) -> &str {
        &self.oneofs[index as usize]
    }
}

impl Field {
    fn of(field: &FieldDescriptor, types: &Types) -> Self {
        let described = field.kind();
        let kind = Kind::of(&described, field.is_group(), types);
        let cardinality = match &described {
            Described::Message(entry) if field.is_map() => Cardinality::Map(Box::new((
                Self::of(&entry.map_entry_key_field(), types),
                Self::of(&entry.map_entry_value_field(), types),
            ))),
            _ if field.is_list() => Cardinality::List { packed: field.is_packed() },
            _ => Cardinality::One,
        };
        let presence =
            field.supports_presence() && !types.implicit.has(field.parent_message().full_name(), field.number());
        let it = Self::assemble(field.number(), field.name(), field.json_name(), kind, cardinality, presence);
        Self { output_only: behavior::of(field).contains(&behavior::OUTPUT_ONLY), ..it }
    }

    fn of_extension(field: &ExtensionDescriptor, types: &Types) -> Self {
        let kind = Kind::of(&field.kind(), field.is_group(), types);
        let cardinality =
            if field.is_list() { Cardinality::List { packed: field.is_packed() } } else { Cardinality::One };
        let name = field.json_name();
        let it = Self::assemble(field.number(), name, name, kind, cardinality, field.supports_presence());
        Self { is_extension: true, ..it }
    }

    fn assemble(
        number: u32,
        name: &str,
        json_name: &str,
        kind: Kind,
        cardinality: Cardinality,
        presence: bool,
    ) -> Self {
        let wire_type = match cardinality {
            Cardinality::List { packed: true } => WireType::Len,
            _ => kind.wire_type(),
        };
        let mut key = Vec::new();
        wire::put_key(&mut key, number, wire_type);
        let printed = |name: &str| -> Box<[u8]> { format!(",{}:", serde_json::Value::from(name)).into_bytes().into() };
        let printed = [printed(json_name), printed(name)];
        let (mut first, mut counts) = ([0; OPENING], [0; OPENING]);
        for ((byte, first), counts) in printed[0][1..].iter().zip(&mut first).zip(&mut counts) {
            (*first, *counts) = (*byte, 0xFF);
        }
        Self {
            number,
            name: name.into(),
            json_name: json_name.into(),
            kind,
            cardinality,
            presence,
            is_extension: false,
            output_only: false,
            oneof: None,
            key: key.into(),
            printed,
            begins: (u128::from_le_bytes(first), u128::from_le_bytes(counts)),
        }
    }

    /// Returns a comma, the name in quotes and a colon.
    #[inline]
    pub(crate) fn printed(&self, output: JsonOutput) -> &[u8] {
        &self.printed[usize::from(output.preserve_proto_names)]
    }

    /// Returns whether a text begins with `opening`. Most openings are short, and a wrong guess differs early.
    #[inline]
    fn opens(&self, text: &[u8]) -> bool {
        let Some(first) = text.first_chunk::<OPENING>() else { return text.starts_with(self.opening()) };
        let (begins, counts) = self.begins;
        u128::from_le_bytes(*first) & counts == begins
            && (self.opening().len() <= OPENING || text.starts_with(self.opening()))
    }

    /// Returns the JSON name in quotes and a colon: how a member begins that was written without spaces or needless escapes.
    #[inline]
    pub(crate) fn opening(&self) -> &[u8] {
        &self.printed[0][1..]
    }
}

impl Kind {
    fn of(kind: &Described, is_group: bool, types: &Types) -> Self {
        match kind {
            Described::Double => Self::Double,
            Described::Float => Self::Float,
            Described::Int32 => Self::Int32,
            Described::Int64 => Self::Int64,
            Described::Uint32 => Self::Uint32,
            Described::Uint64 => Self::Uint64,
            Described::Sint32 => Self::Sint32,
            Described::Sint64 => Self::Sint64,
            Described::Fixed32 => Self::Fixed32,
            Described::Fixed64 => Self::Fixed64,
            Described::Sfixed32 => Self::Sfixed32,
            Described::Sfixed64 => Self::Sfixed64,
            Described::Bool => Self::Bool,
            Described::String => Self::String,
            Described::Bytes => Self::Bytes,
            Described::Enum(desc) => Self::Enum(Arc::new(EnumType::of(desc))),
            Described::Message(desc) if is_group => Self::Group(types.id_of(desc)),
            Described::Message(desc) => Self::Message(types.id_of(desc)),
        }
    }

    /// Returns how one value is written.
    #[inline]
    pub(crate) fn wire_type(&self) -> WireType {
        match self {
            Self::Double | Self::Fixed64 | Self::Sfixed64 => WireType::Fixed64,
            Self::Float | Self::Fixed32 | Self::Sfixed32 => WireType::Fixed32,
            Self::String | Self::Bytes | Self::Message(_) => WireType::Len,
            Self::Group(_) => WireType::Group,
            Self::Int32 | Self::Int64 | Self::Uint32 | Self::Uint64 | Self::Sint32 | Self::Sint64 | Self::Bool => {
                WireType::Varint
            }
            Self::Enum(_) => WireType::Varint,
        }
    }
}

impl EnumType {
    fn of(desc: &EnumDescriptor) -> Self {
        let values: Vec<(Box<str>, i32)> = desc.values().map(|it| (it.name().into(), it.number())).collect();
        // The descriptor's own list is not in the order of the file; it knows which alias comes first.
        let first = |number: i32| desc.get_value(number).map(|it| (number, Box::from(it.name())));
        let mut numbers: Vec<(i32, Box<str>)> = values.iter().filter_map(|it| first(it.1)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        Self {
            name: desc.full_name().into(),
            is_null: desc.full_name() == "google.protobuf.NullValue",
            default: desc.default_value().number(),
            names: values.iter().cloned().collect(),
            values,
            numbers,
        }
    }

    /// Returns a value's name by its number.
    pub(crate) fn name_of(&self, number: i32) -> Option<&str> {
        let at = self.numbers.binary_search_by_key(&number, |it| it.0).ok()?;
        Some(&self.numbers[at].1)
    }

    /// Returns a value's number by its name.
    pub(crate) fn number_of(&self, name: &str, fold_case: bool) -> Option<i32> {
        let folded = || self.values.iter().find(|it| it.0.eq_ignore_ascii_case(name)).map(|it| it.1);
        let found = match self.values.len() {
            ..=FEW => self.values.iter().find(|it| *it.0 == *name).map(|it| it.1),
            _ => self.names.get(name).copied(),
        };
        found.or_else(|| if fold_case { folded() } else { None })
    }
}
