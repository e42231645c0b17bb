//! An index over the raw files of a descriptor set: which file declares a symbol or an extension, and what it imports.
//!
//! Lives here: reading a set, finding files. Does not: parsing beyond names; a file leaves as it came, because types that know no extensions
//! would drop every `google.api.http` option.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto};
use tonic::server::NamedService;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::pb::{v1, v1alpha};

/// What is wrong with a descriptor set.
#[derive(Debug, thiserror::Error)]
pub enum BadDescriptors {
    /// The bytes are no encoded `google.protobuf.FileDescriptorSet`.
    #[error("not a file descriptor set")]
    Encoding(#[from] prost::DecodeError),
    /// A file imports another that the set lacks; it was made without its imports.
    #[error("{file} imports {import}, which is not in the set")]
    MissingImport {
        /// The file.
        file: String,
        /// What it imports.
        import: String,
    },
    /// A service is offered that the set does not describe; callers could not learn of it.
    #[error("service {0} is not in the set")]
    Undescribed(String),
}

/// A `FileDescriptorSet` whose files are left as they are.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RawSet {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) file: Vec<Bytes>,
}

/// The files of one set, found by name, symbol and extension.
#[derive(Debug, Default)]
pub struct Descriptors {
    files: Vec<File>,
    by_name: HashMap<String, usize>,
    by_symbol: HashMap<String, usize>,
    /// Extended message → field number → file of the extension.
    extensions: HashMap<String, BTreeMap<i32, usize>>,
}

#[derive(Debug)]
struct File {
    bytes: Bytes,
    imports: Vec<usize>,
}

/// The services that every server of ours offers beside its own.
pub(crate) const COMMON: [&str; 3] = [
    HealthServer::<()>::NAME,
    v1::server_reflection_server::ServerReflectionServer::<()>::NAME,
    v1alpha::server_reflection_server::ServerReflectionServer::<()>::NAME,
];

/// The descriptors of the services that every server of ours offers beside its own, health and reflection: encoded `FileDescriptorSet`s.
pub const COMMON_SETS: [&[u8]; 3] =
    [tonic_health::pb::FILE_DESCRIPTOR_SET, v1::FILE_DESCRIPTOR_SET, v1alpha::FILE_DESCRIPTOR_SET];

impl Descriptors {
    /// Indexes encoded `FileDescriptorSet`s as one; of two files of one name the first is taken.
    ///
    /// # Errors
    /// Bytes that are no set, or one made without its imports.
    pub fn of_sets(sets: &[&[u8]]) -> Result<Self, BadDescriptors> {
        let mut files = Vec::new();
        for set in sets {
            files.extend(RawSet::decode(*set)?.file);
        }
        Self::of_files(files)
    }

    /// Indexes encoded `FileDescriptorProto`s; of two of one name the first is taken.
    ///
    /// # Errors
    /// As [`Descriptors::of_sets`].
    pub fn of_files(files: impl IntoIterator<Item = Bytes>) -> Result<Self, BadDescriptors> {
        let mut index = Self::default();
        let mut read = Vec::new();
        for bytes in files {
            let file = FileDescriptorProto::decode(bytes.as_ref())?;
            if index.by_name.contains_key(file.name()) {
                continue;
            }
            let at = index.files.len();
            index.by_name.insert(file.name().to_owned(), at);
            index.files.push(File { bytes, imports: Vec::new() });
            index.file(at, &file);
            read.push(file);
        }
        for (at, file) in read.iter().enumerate() {
            for import in &file.dependency {
                let missing = || BadDescriptors::MissingImport { file: file.name().to_owned(), import: import.clone() };
                let import = *index.by_name.get(import).ok_or_else(missing)?;
                index.files[at].imports.push(import);
            }
        }
        Ok(index)
    }

    /// Indexes the sets of [`COMMON`].
    pub(crate) fn common() -> Self {
        Self::of_sets(&COMMON_SETS).expect("tonic publishes whole descriptor sets")
    }

    fn file(&mut self, at: usize, file: &FileDescriptorProto) {
        let scope = file.package();
        file.message_type.iter().for_each(|it| self.message(at, scope, it));
        file.enum_type.iter().for_each(|it| self.enumeration(at, scope, it));
        file.extension.iter().for_each(|it| self.extension(at, scope, it));
        for service in &file.service {
            let name = self.symbol(at, scope, service.name());
            service.method.iter().for_each(|it| drop(self.symbol(at, &name, it.name())));
        }
    }

    fn message(&mut self, at: usize, scope: &str, message: &DescriptorProto) {
        let name = self.symbol(at, scope, message.name());
        message.field.iter().for_each(|it| drop(self.symbol(at, &name, it.name())));
        message.oneof_decl.iter().for_each(|it| drop(self.symbol(at, &name, it.name())));
        message.nested_type.iter().for_each(|it| self.message(at, &name, it));
        message.enum_type.iter().for_each(|it| self.enumeration(at, &name, it));
        message.extension.iter().for_each(|it| self.extension(at, &name, it));
    }

    /// The values of an enum are names beside it, not in it; clients ask for both forms.
    fn enumeration(&mut self, at: usize, scope: &str, it: &EnumDescriptorProto) {
        let name = self.symbol(at, scope, it.name());
        for value in &it.value {
            self.symbol(at, scope, value.name());
            self.symbol(at, &name, value.name());
        }
    }

    fn extension(&mut self, at: usize, scope: &str, field: &FieldDescriptorProto) {
        self.symbol(at, scope, field.name());
        let extended = field.extendee().trim_start_matches('.').to_owned();
        self.extensions.entry(extended).or_default().insert(field.number(), at);
    }

    fn symbol(&mut self, at: usize, scope: &str, name: &str) -> String {
        let full = if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") };
        self.by_symbol.insert(full.clone(), at);
        full
    }

    /// Whether a file of the set declares this symbol.
    pub fn declares(&self, symbol: &str) -> bool {
        self.by_symbol.contains_key(symbol)
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn by_symbol(&self, symbol: &str) -> Option<usize> {
        self.by_symbol.get(symbol).copied()
    }

    pub(crate) fn by_extension(&self, extended: &str, number: i32) -> Option<usize> {
        self.extensions.get(extended)?.get(&number).copied()
    }

    /// Field numbers by which a message is extended; none if the set does not know the message.
    pub(crate) fn extension_numbers(&self, message: &str) -> Option<impl Iterator<Item = i32> + '_> {
        self.by_symbol(message)?;
        Some(self.extensions.get(message).into_iter().flat_map(BTreeMap::keys).copied())
    }

    /// The file that was asked for comes first and always, what it needs only if it was not `sent`.
    pub(crate) fn with_imports(&self, asked: usize, sent: &mut HashSet<usize>) -> Vec<Vec<u8>> {
        sent.insert(asked);
        let mut order = vec![asked];
        let mut next = 0;
        while let Some(at) = order.get(next) {
            next += 1;
            let unsent: Vec<_> =
                self.files[*at].imports.iter().copied().filter(|import| sent.insert(*import)).collect();
            order.extend(unsent);
        }
        order.iter().map(|at| self.files[*at].bytes.to_vec()).collect()
    }
}
