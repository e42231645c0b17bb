//! Static mode: one upstream, described by files in place of a mesh.
//!
//! Lives here: reading the file or the directory of descriptor sets, the table made of them, following both. Does not: linking (`routes::sets`), what a
//! table says (`routes`).
//! A directory's files are sets of one service, each linked by itself: two may bring different versions of an import. Of a method that several declare, the
//! first by name of the file counts.
//! Invariants: a table has all sets or, where one of them cannot be used, none of what is new: the one before stays; once it runs, one task publishes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::{
    sync::watch,
    task,
    time::{MissedTickBehavior, interval},
};
use weft_discovery::{BadDescriptors, DescriptorSet};
use weft_model::{Endpoint, Policy, ServiceInfo, ServiceName};
use weft_traffic::{Claims, StaticCluster, Worlds};
use weft_transcode::SchemaError;

use crate::{
    config::UPSTREAM,
    edge::{
        metrics::Meters,
        outside::{Kind, Outside, Part, State},
        policies::{Compiler, Told},
    },
    protocol::{chain, health::Board},
    routes::{Entry, Table, sets::LinkedSet},
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);
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

    fn is(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|((_, a), (_, b))| Arc::ptr_eq(a, b))
    }

    /// What all of them say together.
    fn info(&self) -> ServiceInfo {
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

/// The name of the one service that there is.
fn upstream() -> ServiceName {
    UPSTREAM.parse().expect("a constant that is a name")
}

/// What is described, and what calls of it meet.
pub(super) struct Fixed {
    files: DescriptorFiles,
    endpoints: Vec<Endpoint>,
    policies: Vec<Arc<Policy>>,
    sets: Sets,
    /// Where it is told whether the files can be used.
    part: Part,
}

/// Where it is published.
pub(super) struct Places<'p> {
    pub(super) worlds: &'p Worlds,
    pub(super) published: &'p ArcSwapOption<Table>,
    pub(super) board: &'p watch::Sender<Arc<Board>>,
    pub(super) meters: &'p Meters,
    pub(super) edge: &'p mut Compiler,
}

impl Fixed {
    /// Reads and publishes for the first time.
    pub(super) fn open(
        files: DescriptorFiles,
        endpoints: Vec<Endpoint>,
        policies: Vec<Arc<Policy>>,
        outside: &Outside,
        places: &mut Places<'_>,
    ) -> Result<Self, DescriptorError> {
        let sets = Sets::read(&files, &Sets::default())?;
        let name = match &files {
            DescriptorFiles::Set(_) => String::new(),
            DescriptorFiles::Path(path) => path.display().to_string(),
        };
        let part = outside.part(Kind::Descriptors, &name);
        part.is(State::Well);
        let fixed = Self { files, endpoints, policies, sets, part };
        places.edge.keys(fixed.policies.iter());
        let table = fixed.table(&fixed.sets, places)?;
        fixed.publish(table, places);
        Ok(fixed)
    }

    /// The table of these sets, if it has all that the gateway's file says.
    fn table(&self, sets: &Sets, places: &mut Places<'_>) -> Result<Table, DescriptorError> {
        let edge = places.edge.compile(&Told::from_policies(self.policies.iter().cloned()));
        let info = Arc::new(sets.info());
        let sets = sets.0.iter().map(|(_, set)| Arc::clone(set)).collect();
        let table = Table::of_upstream(Entry { name: upstream(), info, sets }, edge, places.meters);
        let mistakes: Vec<&str> = table.mistakes_of_file().collect();
        if mistakes.is_empty() { Ok(table) } else { Err(DescriptorError::Rules { mistakes: mistakes.join("\n") }) }
    }

    /// World, then table: what a table leads to is there.
    fn publish(&self, table: Table, places: &mut Places<'_>) {
        let (name, info) = (upstream(), self.sets.info());
        places.worlds.set_static(vec![StaticCluster {
            name: name.clone(),
            endpoints: self.endpoints.clone(),
            info: info.clone(),
            claims: Claims::Everything,
        }]);
        places.board.send_replace(Arc::new(Board::serving(&name, &info)));
        for problem in table.problems() {
            tracing::warn!(problem, "route left out");
        }
        places.meters.routes.set(i64::try_from(table.len()).unwrap_or(i64::MAX));
        places.published.store(Some(Arc::new(table)));
    }

    /// Whether the files may change.
    pub(super) fn is_followed(&self) -> bool {
        matches!(self.files, DescriptorFiles::Path(_))
    }

    /// Looks at the files until it is dropped.
    pub(super) async fn follow(mut self, mut places: Places<'_>) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = String::new();
        loop {
            ticks.tick().await;
            let (files, before) = (self.files.clone(), self.sets.clone());
            let Ok(read) = task::spawn_blocking(move || Sets::read(&files, &before)).await else { continue };
            let new = read.and_then(|sets| match sets.is(&self.sets) {
                true => Ok(None),
                false => self.table(&sets, &mut places).map(|table| Some((sets, table))),
            });
            match new {
                Ok(new) => {
                    if let Some((sets, table)) = new {
                        self.sets = sets;
                        self.publish(table, &mut places);
                        tracing::info!(sets = self.sets.0.len(), "descriptor sets replaced");
                    }
                    self.part.is(State::Well);
                    told.clear();
                }
                Err(error) => {
                    let error = chain(&error);
                    if error != told {
                        places.meters.sets_refused.inc();
                        tracing::error!(error, "descriptor sets cannot be used; the routes before them stay");
                        self.part.is(State::Without(format!("{error}; the routes before stay")));
                        told = error;
                    }
                }
            }
        }
    }
}
