//! Descriptor sets of static mode where a person has put them: a file, or a directory of files.
//!
//! Lives here: reading them, what all sets say together. Does not: linking (`routes::sets`), the table of them and when it is made (`gateway::fixed`).
//! A directory's files are sets of one service, each linked by itself: two may bring different versions of an import. Of a method that several declare, the
//! first by name of the file counts.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use weft_discovery::{BadDescriptors, DescriptorSet};
use weft_model::ServiceInfo;
use weft_transcode::SchemaError;

use crate::routes::sets::LinkedSet;

/// Files of a directory at most: it was meant for something else.
const MOST: usize = 1_000;

/// Where the descriptors of static mode are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DescriptorFiles {
    /// Here: an encoded `google.protobuf.FileDescriptorSet`, for good.
    Set(Bytes),
    /// In a file that is one, or in a directory all of whose files are such, but for hidden ones. Followed.
    Path(PathBuf),
}

/// Why descriptors of static mode cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptorError {
    /// A file or the directory cannot be read.
    #[error("{}: it cannot be read; give a file that protoc wrote with --include_imports, or a directory of such files", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is nothing in a file: it is being written, or a disk was full.
    #[error("{}: the file is empty; write a set beside its place and rename it", path.display())]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// The directory holds no file, or far too many.
    #[error("{}: a directory with {files} files; 1 to {} descriptor sets are expected", path.display(), MOST)]
    Number {
        /// Which.
        path: PathBuf,
        /// How many it holds.
        files: usize,
    },
    /// A file is no descriptor set.
    #[error("{name}")]
    Descriptors {
        /// Which.
        name: Box<str>,
        /// What is wrong with it.
        source: BadDescriptors,
    },
    /// A descriptor set does not link.
    #[error("{name}")]
    Link {
        /// Which.
        name: Box<str>,
        /// Why not.
        source: SchemaError,
    },
    /// HTTP rules of the gateway's file cannot be served with these descriptors.
    #[error("{mistakes}")]
    Rules {
        /// One a line, each with its place.
        mistakes: String,
    },
}

impl From<Bytes> for DescriptorFiles {
    fn from(set: Bytes) -> Self {
        Self::Set(set)
    }
}

impl From<Vec<u8>> for DescriptorFiles {
    fn from(set: Vec<u8>) -> Self {
        Self::Set(set.into())
    }
}

impl DescriptorFiles {
    /// Reads what there is, each file with its name, in the order of names.
    pub(crate) fn read(&self) -> Result<Vec<(Box<str>, Bytes)>, DescriptorError> {
        let path = match self {
            Self::Set(set) => return Ok(vec![("the set".into(), set.clone())]),
            Self::Path(path) => path,
        };
        let files = match path.is_dir() {
            false => vec![path.clone()],
            true => files_of(path)?,
        };
        let read = |path: PathBuf| match fs::read(&path) {
            Ok(bytes) if bytes.is_empty() => Err(DescriptorError::Empty { path }),
            Ok(bytes) => Ok((path.to_string_lossy().into(), bytes.into())),
            Err(source) => Err(DescriptorError::Read { path, source }),
        };
        files.into_iter().map(read).collect()
    }
}

/// The files in a directory, by name. Links count as what they lead to: Kubernetes mounts files so, beside directories with two dots.
fn files_of(directory: &Path) -> Result<Vec<PathBuf>, DescriptorError> {
    let unread = |source| DescriptorError::Read { path: directory.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with('.') && path.is_file() {
            files.push(path);
        }
    }
    if !(1..=MOST).contains(&files.len()) {
        return Err(DescriptorError::Number { path: directory.to_owned(), files: files.len() });
    }
    files.sort_unstable();
    Ok(files)
}

/// Sets that link, with the bytes that each was made of.
#[derive(Debug, Clone, Default)]
pub(super) struct Sets(Vec<(Bytes, Arc<LinkedSet>)>);

impl Sets {
    /// Reads and links; a file that has not changed since `before` is not linked again.
    pub(super) fn read(files: &DescriptorFiles, before: &Self) -> Result<Self, DescriptorError> {
        let link = |(name, bytes): (Box<str>, Bytes)| {
            if let Some((_, known)) = before.0.iter().find(|(known, _)| *known == bytes) {
                return Ok((bytes, Arc::clone(known)));
            }
            match DescriptorSet::from_encoded_set(&bytes) {
                Err(source) => Err(DescriptorError::Descriptors { name, source }),
                Ok(set) => match LinkedSet::link(&set) {
                    Ok(set) => Ok((bytes, Arc::new(set))),
                    Err(source) => Err(DescriptorError::Link { name, source }),
                },
            }
        };
        files.read()?.into_iter().map(link).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|((_, a), (_, b))| Arc::ptr_eq(a, b))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn linked(&self) -> Vec<Arc<LinkedSet>> {
        self.0.iter().map(|(_, set)| Arc::clone(set)).collect()
    }

    /// What all of them say together.
    pub(super) fn info(&self) -> ServiceInfo {
        let mut whole = ServiceInfo::default();
        for (_, set) in &self.0 {
            let info = set.info();
            whole.descriptors.extend(info.descriptors);
            for service in info.grpc_services {
                match whole.grpc_services.iter_mut().find(|it| it.name == service.name) {
                    None => whole.grpc_services.push(service),
                    Some(known) => {
                        let new =
                            service.methods.into_iter().filter(|it| known.methods.iter().all(|m| m.name != it.name));
                        let new: Vec<_> = new.collect();
                        known.methods.extend(new);
                    }
                }
            }
        }
        whole
    }
}
