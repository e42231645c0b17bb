//! Random schemas: proto3, proto2 and edition 2023 sources with every kind of field.
//!
//! Lives here: writing the source, compiling it. Does not: messages of it (`values`).
//! Simplification: no required fields, and editions for Python only, whose protoc compiles them: prost-reflect knows none.

use std::fmt::Write;

use prost_reflect::MessageDescriptor;
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use weft_transcode::Schema;

use crate::dice::Dice;
use crate::values::shuffle;

const SCALARS: [&str; 15] = [
    "double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32",
    "sfixed64", "bool", "string", "bytes",
];
const KEYS: [&str; 12] = [
    "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32", "sfixed64", "bool",
    "string",
];
pub(crate) const WELL_KNOWN: [&str; 17] = [
    "google.protobuf.Timestamp",
    "google.protobuf.Duration",
    "google.protobuf.FieldMask",
    "google.protobuf.Struct",
    "google.protobuf.Value",
    "google.protobuf.ListValue",
    "google.protobuf.Any",
    "google.protobuf.Empty",
    "google.protobuf.DoubleValue",
    "google.protobuf.FloatValue",
    "google.protobuf.Int64Value",
    "google.protobuf.UInt64Value",
    "google.protobuf.Int32Value",
    "google.protobuf.UInt32Value",
    "google.protobuf.BoolValue",
    "google.protobuf.StringValue",
    "google.protobuf.BytesValue",
];
const NUMBERS: [u32; 24] =
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 63, 64, 100, 2047, 2048, 300_000, 536_870_911];
const MESSAGES: usize = 4;

/// A schema and everything made of it.
#[derive(Debug)]
pub(crate) struct Generated {
    pub(crate) source: String,
    pub(crate) set: Vec<u8>,
    /// What the codec under test uses.
    pub(crate) schema: Schema,
    /// Request and reply type of its one method, `/gen.S/Call`.
    pub(crate) root: MessageDescriptor,
}

impl Generated {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let dialect = if dice.once_in(4) { Dialect::Proto2 } else { Dialect::Proto3 };
        let source = source(dice, dialect);
        let set = compile(&source);
        Self::of(source, set)
    }

    /// Returns a schema of edition 2023, which `compile` makes a descriptor set of.
    pub(crate) fn of_an_edition(dice: &mut Dice, compile: impl FnOnce(&str) -> Vec<u8>) -> Self {
        let source = source(dice, Dialect::Edition);
        let set = compile(&source);
        Self::of(source, set)
    }

    fn of(source: String, set: Vec<u8>) -> Self {
        let schema = Schema::decode(&set).unwrap_or_else(|error| panic!("{error} in\n{source}"));
        let root = schema.pool().get_message_by_name("gen.M0").expect("every schema has it");
        Self { source, set, schema, root }
    }
}

/// What a source is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Proto2,
    Proto3,
    Edition,
}

impl Dialect {
    fn head(self) -> &'static str {
        match self {
            Self::Proto2 => "syntax = \"proto2\";",
            Self::Proto3 => "syntax = \"proto3\";",
            Self::Edition => "edition = \"2023\";",
        }
    }

    /// Whether presence is told by a label.
    fn labels(self, dice: &mut Dice) -> &'static str {
        let labelled = match self {
            Self::Proto2 => true,
            Self::Proto3 => dice.once_in(3),
            Self::Edition => false,
        };
        if labelled { "optional " } else { "" }
    }
}

struct OneFile(String);

impl FileResolver for OneFile {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match name {
            "gen.proto" => File::from_source(name, &self.0),
            _ => Err(protox::Error::file_not_found(name)),
        }
    }
}

fn compile(source: &str) -> Vec<u8> {
    let mut files = ChainFileResolver::new();
    files.add(OneFile(source.to_owned()));
    files.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(files);
    compiler.include_imports(true);
    if let Err(error) = compiler.open_file("gen.proto") {
        panic!("{error:?} in\n{source}");
    }
    compiler.encode_file_descriptor_set()
}

fn source(dice: &mut Dice, dialect: Dialect) -> String {
    let mut out = format!("{}\npackage gen;\n", dialect.head());
    for file in ["any", "duration", "empty", "field_mask", "struct", "timestamp", "wrappers"] {
        let _ = writeln!(out, "import \"google/protobuf/{file}.proto\";");
    }
    let extended = dialect != Dialect::Proto3;
    let mut closed = "";
    if dialect == Dialect::Edition {
        let implicit = dice.once_in(3);
        for (wanted, feature) in [
            (implicit, "field_presence = IMPLICIT"),
            (dice.once_in(3), "repeated_field_encoding = EXPANDED"),
            (dice.once_in(3), "message_encoding = DELIMITED"),
        ] {
            if wanted {
                let _ = writeln!(out, "option features.{feature};");
            }
        }
        // A field of a closed enum has a presence.
        closed = if implicit { "" } else { "option features.enum_type = CLOSED; " };
    }
    out.push_str("enum E0 { E0_NONE = 0; E0_ONE = 1; E0_BIG = 2147483647; E0_NEGATIVE = -1; }\n");
    let _ = writeln!(
        out,
        "enum E1 {{ {closed}option allow_alias = true; E1_ZERO = 0; E1_OTHER = 5; E1_ALIAS = 5; e1_lower = 6; }}"
    );
    for message in 0..MESSAGES {
        let _ = writeln!(out, "message M{message} {{");
        fields(dice, dialect, &mut out);
        if extended {
            out.push_str("  extensions 1000 to 1999;\n");
        }
        out.push_str("}\n");
    }
    if extended {
        let optional = dialect.labels(dice);
        let _ = writeln!(
            out,
            "extend M0 {{ {optional}int64 ext_a = 1000; repeated M1 ext_b = 1001; {optional}E0 ext_c = 1002; }}"
        );
    }
    out.push_str("service S { rpc Call(M0) returns (M0); }\n");
    out
}

fn fields(dice: &mut Dice, dialect: Dialect, out: &mut String) {
    let mut numbers = NUMBERS;
    shuffle(dice, &mut numbers);
    let mut numbers = numbers.into_iter();
    for at in 0..1 + dice.below(10) {
        let mut number = || numbers.next().expect("fewer fields than numbers");
        let name = match dice.below(4) {
            0 => format!("f{at}"),
            1 => format!("some_field_{at}"),
            2 => format!("mixedCase{at}"),
            _ => format!("_odd__name_{at}"),
        };
        match dice.below(12) {
            0 | 1 => {
                let (key, value) = (dice.pick(&KEYS), type_name(dice));
                let _ = writeln!(out, "  map<{key}, {value}> {name} = {};", number());
            }
            2 => {
                let _ = writeln!(out, "  oneof choice_{at} {{");
                for member in 0..1 + dice.below(3) {
                    let kind = type_name(dice);
                    let _ = writeln!(out, "    {kind} {name}_{member} = {};", number());
                }
                out.push_str("  }\n");
            }
            3 if dialect == Dialect::Proto2 => {
                let label = dice.pick(&["optional", "repeated"]);
                let inner = type_name(dice);
                let _ = writeln!(out, "  {label} group Group{at} = {} {{ optional {inner} inner = 1; }}", number());
            }
            3..=6 => {
                let kind = type_name(dice);
                let mut options = Vec::new();
                if is_packable(&kind) && dice.once_in(3) {
                    options.push(match (dialect, dice.once_in(2)) {
                        (Dialect::Edition, true) => "features.repeated_field_encoding = PACKED".to_owned(),
                        (Dialect::Edition, false) => "features.repeated_field_encoding = EXPANDED".to_owned(),
                        (Dialect::Proto2 | Dialect::Proto3, packed) => format!("packed = {packed}"),
                    });
                }
                options.extend(framing(dice, dialect, &kind));
                let _ = writeln!(out, "  repeated {kind} {name} = {}{};", number(), listed(&options));
            }
            _ => {
                let label = dialect.labels(dice);
                let kind = type_name(dice);
                let mut options = Vec::new();
                if dice.once_in(8) {
                    options.push(format!("json_name = \"né w{at}\""));
                }
                if dialect == Dialect::Edition && (is_packable(&kind) || is_text(&kind)) && dice.once_in(2) {
                    let implicit = kind != "E1" && dice.once_in(2);
                    let presence = if implicit { "IMPLICIT" } else { "EXPLICIT" };
                    options.push(format!("features.field_presence = {presence}"));
                }
                options.extend(framing(dice, dialect, &kind));
                let _ = writeln!(out, "  {label}{kind} {name} = {}{};", number(), listed(&options));
            }
        }
    }
}

fn is_packable(kind: &str) -> bool {
    SCALARS[..13].contains(&kind) || kind.starts_with('E')
}

fn is_text(kind: &str) -> bool {
    SCALARS[13..].contains(&kind)
}

/// Returns how a message of an edition is framed, if it says so.
fn framing(dice: &mut Dice, dialect: Dialect, kind: &str) -> Option<String> {
    let said = dialect == Dialect::Edition && !is_packable(kind) && !is_text(kind) && dice.once_in(3);
    said.then(|| format!("features.message_encoding = {}", dice.pick(&["DELIMITED", "LENGTH_PREFIXED"])))
}

fn listed(options: &[String]) -> String {
    if options.is_empty() { String::new() } else { format!(" [{}]", options.join(", ")) }
}

fn type_name(dice: &mut Dice) -> String {
    match dice.below(10) {
        0..=4 => (*dice.pick(&SCALARS)).to_owned(),
        5 => (*dice.pick(&["E0", "E1"])).to_owned(),
        6 | 7 => format!("M{}", dice.below(MESSAGES)),
        _ => (*dice.pick(&WELL_KNOWN)).to_owned(),
    }
}
