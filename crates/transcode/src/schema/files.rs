//! The files of a set as they are linked.
//!
//! Lives here: which files are supplied, and a stand-in for descriptor.proto. Does not: linking (`schema`), what the supplied files say
//! (`builtin`), what files of an edition come to (`editions`).
//! Every file with a `google.api.http` option imports descriptor.proto, whose thirty messages cost more to link than all else in most sets. Nearly
//! all of these do nothing but extend its options, so they are linked against messages without fields; options are read from their bytes
//! anyway.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::editions::{self, Implicit};
use super::{SchemaError, builtin, malformed, raw};

const DESCRIPTOR: &str = "google/protobuf/descriptor.proto";

/// A set before linking: what to link, which of it we supplied, the method options by full name, and what linking cannot say.
pub(super) struct Files {
    pub(super) encoded: Vec<Vec<u8>>,
    pub(super) supplied: HashSet<String>,
    pub(super) options: HashMap<String, raw::MethodOptions>,
    pub(super) implicit: Implicit,
}

impl Files {
    pub(super) fn read<F: AsRef<[u8]>>(files: impl IntoIterator<Item = F>) -> Result<Self, SchemaError> {
        let mut read = Self {
            encoded: Vec::new(),
            supplied: HashSet::new(),
            options: HashMap::new(),
            implicit: Implicit::default(),
        };
        let mut present: HashMap<String, usize> = HashMap::new();
        let mut wanted = Vec::new();
        let mut describes = false;
        for bytes in files {
            let bytes = bytes.as_ref();
            let file = raw::File::decode(bytes).map_err(malformed)?;
            let retold = editions::retold(&file, bytes, &mut read.implicit)?;
            let bytes = retold.as_deref().unwrap_or(bytes);
            // Reflection may send one file twice; a different file of that name is a clash, which the linker reports.
            if present.get(&file.name).is_some_and(|at| read.encoded[*at] == bytes) {
                continue;
            }
            describes |= file.dependency.iter().any(|it| it == DESCRIPTOR) && uses_descriptors(bytes)?;
            present.insert(file.name, read.encoded.len());
            read.encoded.push(bytes.to_vec());
            wanted.extend(file.dependency);
            for service in file.service {
                let scope =
                    if file.package.is_empty() { service.name } else { format!("{}.{}", file.package, service.name) };
                let methods = service.method.into_iter();
                read.options.extend(methods.filter_map(|it| Some((format!("{scope}.{}", it.name), it.options?))));
            }
        }
        while let Some(name) = wanted.pop() {
            if present.contains_key(&name) {
                continue;
            }
            let Some(bytes) = builtin::file(&name) else { continue };
            wanted.extend(raw::File::decode(bytes.as_slice()).map_err(malformed)?.dependency);
            present.insert(name.clone(), read.encoded.len());
            read.supplied.insert(name);
            read.encoded.push(bytes);
        }
        if let Some(at) = present.get(DESCRIPTOR).filter(|_| !describes) {
            read.encoded[*at] = builtin::options_alone().to_vec();
        }
        Ok(read)
    }
}

/// Returns whether a file that imports descriptor.proto does more with it than to extend its messages: has a field of their types, or hands the
/// import on.
fn uses_descriptors(file: &[u8]) -> Result<bool, SchemaError> {
    let file = raw::Uses::decode(file).map_err(malformed)?;
    let own = |name: &str| {
        // A name that is not written in full may be anything.
        !name.is_empty() && (!name.starts_with('.') || builtin::is_descriptor(&name[1..]))
    };
    let methods = file.service.iter().flat_map(|it| &it.method);
    Ok(!file.public_dependency.is_empty()
        || methods.into_iter().any(|it| own(&it.input_type) || own(&it.output_type))
        || file.extension.iter().any(|it| own(&it.type_name))
        || file.message_type.iter().any(|it| it.any_type(&own)))
}
