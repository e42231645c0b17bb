//! The store: what must survive the process, in one redb file under `--data`.
//!
//! Lives here: tables, transactions, the generation, errors that say what to do. Does not: shapes of records (`record`), when to commit (`catalog`).
//! Invariants: a batch is all there or not at all; the generation rises by one durable commit at each start; a file that cannot be read is
//! never written to. redb locks the file, so two registries cannot share it.
//! Blocking: `open` and `commit` do file I/O; the catalog calls `commit` on a blocking thread.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use weft_model::{Digest, InstanceId, Invalid, PolicyName, ServiceName, Version};

use crate::{
    catalog::{
        draft::Keys,
        record,
        state::{Claim, Kept, Record, Retired, State},
    },
    policy,
};

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const INSTANCES: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("instances");
const TOMBSTONES: TableDefinition<'_, &[u8; 16], u64> = TableDefinition::new("tombstones");
const CLAIMS: TableDefinition<'_, &str, &str> = TableDefinition::new("claims");
/// Those of `CLAIMS` that an operator gave; an older registry knows nothing of them and keeps them like others.
const PLACED: TableDefinition<'_, &str, bool> = TableDefinition::new("placed_claims");
const SETS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("descriptor_sets");
/// Those of `SETS` that no instance carries: since when, and whose instance was the last one; empty if there was none.
const RETIRED: TableDefinition<'_, &[u8; 32], (u64, &str)> = TableDefinition::new("retired_sets");
const POLICIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("policies");

const GENERATION: &str = "generation";
/// Version of the set of policies; it outlives the policies themselves.
const POLICIES_VERSION: &str = "policies_version";
const FORMAT: &str = "format";
/// Shape of the tables; raised when an older registry could not read them.
const THIS_FORMAT: u64 = 1;

/// redb's page cache. The catalog itself is in memory and the store is read once: it is for what commits write, whose pages the kernel has, too.
const CACHE_BYTES: usize = 4 << 20;

/// Why the store cannot be opened or written. Whatever the reason, what it held is still there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be made or entered.
    #[error("cannot use the data directory {dir}")]
    Directory {
        /// `--data`.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("{file} is in use by another registry; stop that one or give this one its own --data")]
    InUse {
        /// The store.
        file: PathBuf,
    },
    /// The file is no store, or is damaged.
    #[error(
        "{file} cannot be read as a registry store; nothing was changed; move it away to start empty, or put a backup in its place"
    )]
    Unreadable {
        /// The store.
        file: PathBuf,
        /// What redb said.
        source: Box<redb::Error>,
    },
    /// A newer registry wrote it.
    #[error("{file} has format {found}, this registry reads up to {THIS_FORMAT}; start the newer version again")]
    Newer {
        /// The store.
        file: PathBuf,
        /// Format in the file.
        found: u64,
    },
    /// One entry makes no sense.
    #[error("{file}: {table} entry {key} cannot be read ({problem}); nothing was changed")]
    Entry {
        /// The store.
        file: PathBuf,
        /// Table of the entry.
        table: &'static str,
        /// Its key.
        key: String,
        /// What is wrong.
        problem: Invalid,
    },
    /// A commit failed; the disk may be full.
    #[error("cannot write {file}")]
    Write {
        /// The store.
        file: PathBuf,
        /// What redb said.
        source: Box<redb::Error>,
    },
}

/// The store, open. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    file: PathBuf,
    /// None keeps nothing: a catalog that ends with its process.
    db: Option<Arc<Database>>,
    /// What stands in `META`: written anew when it changes, which a commit of instances does not.
    stands: Arc<Mutex<Option<Meta>>>,
}

/// Generation, and version of the policies.
type Meta = (u64, Version);

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.file.display())
    }
}

/// Values of a group's keys, encoded. `None` deletes.
#[derive(Debug, Default, Clone)]
pub(crate) struct Batch {
    generation: u64,
    instances: BTreeMap<InstanceId, Option<Vec<u8>>>,
    tombstones: BTreeMap<InstanceId, Option<u64>>,
    claims: BTreeMap<String, Option<Claim>>,
    sets: BTreeMap<Digest, Option<Vec<u8>>>,
    retired: BTreeMap<Digest, Option<Retired>>,
    policies: BTreeMap<PolicyName, Option<Vec<u8>>>,
    policies_version: Version,
}

impl Batch {
    pub(crate) fn new(state: &State, keys: &Keys) -> Self {
        let set = |digest| state.sets.get(digest).map(|s| record::encode_set(s));
        Self {
            generation: state.generation().into(),
            instances: keys
                .instances
                .iter()
                .map(|id| (*id, state.records.get(id).map(|r| record::encode(r))))
                .collect(),
            tombstones: keys
                .tombstones
                .iter()
                .map(|id| (*id, state.tombstones.get(id).map(|at| record::millis(*at))))
                .collect(),
            claims: keys.claims.iter().map(|name| (name.clone(), state.claims.get(name).cloned())).collect(),
            sets: keys.sets.iter().map(|digest| (*digest, set(digest))).collect(),
            retired: keys.retired.iter().map(|digest| (*digest, state.retired.get(digest).cloned())).collect(),
            policies: keys
                .policies
                .iter()
                .map(|name| (name.clone(), state.policies.get(name).map(|it| record::encode_policy(it))))
                .collect(),
            policies_version: state.policies.version(),
        }
    }
}

impl Store {
    /// Opens or makes the store of a data directory, raises the generation durably and returns what it held.
    pub(crate) fn open(dir: &Path) -> Result<(Self, State), Error> {
        fs::create_dir_all(dir).map_err(|source| Error::Directory { dir: dir.to_owned(), source })?;
        let file = dir.join("registry.redb");
        let opened = Database::builder().set_cache_size(CACHE_BYTES).create(&file);
        Self::adopt(file, opened)
    }

    #[cfg(test)]
    pub(crate) fn open_backend(backend: impl redb::StorageBackend) -> Result<(Self, State), Error> {
        Self::adopt(PathBuf::from("backend"), Database::builder().create_with_backend(backend))
    }

    /// Puts an entry into the store that no registry would write.
    #[cfg(test)]
    pub(crate) fn spoil(&self, id: InstanceId) {
        let batch =
            Batch { instances: [(id, Some(b"\xffgarbage".to_vec()))].into(), generation: 1, ..Batch::default() };
        self.commit(&batch).unwrap();
    }

    /// Returns a store that keeps nothing, as generation 1.
    pub(crate) fn in_memory() -> (Self, State) {
        (Self { file: PathBuf::from("memory"), db: None, stands: Arc::default() }, State::restore(1, Kept::default()))
    }

    fn adopt(file: PathBuf, opened: Result<Database, redb::DatabaseError>) -> Result<(Self, State), Error> {
        let db = opened.map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => Error::InUse { file: file.clone() },
            other => Error::Unreadable { file: file.clone(), source: Box::new(other.into()) },
        })?;
        let store = Self { file, db: Some(Arc::new(db)), stands: Arc::default() };
        let state = store.load()?;
        let policies_version = state.policies.version();
        let first = Batch { generation: state.generation().into(), policies_version, ..Batch::default() };
        store.commit(&first)?;
        Ok((store, state))
    }

    /// Writes a batch durably: when it returns, a power cut loses nothing of it. Blocks.
    pub(crate) fn commit(&self, batch: &Batch) -> Result<(), Error> {
        let Some(db) = &self.db else { return Ok(()) };
        let mut stands = self.stands.lock().unwrap_or_else(PoisonError::into_inner); // as long as redb's own, for one writer
        let meta = (batch.generation, batch.policies_version);
        let news = (*stands != Some(meta)).then_some(meta);
        let written = write(db, batch, news);
        written.map_err(|source| Error::Write { file: self.file.clone(), source: Box::new(source) })?;
        *stands = Some(meta);
        Ok(())
    }

    /// Whether it keeps nothing.
    pub(crate) const fn is_volatile(&self) -> bool {
        self.db.is_none()
    }

    fn load(&self) -> Result<State, Error> {
        let db = self.db.as_ref().expect("only a store with a file is loaded");
        let raw = read(db).map_err(|source| Error::Unreadable { file: self.file.clone(), source: Box::new(source) })?;
        if raw.format > THIS_FORMAT {
            return Err(Error::Newer { file: self.file.clone(), found: raw.format });
        }
        let entry = |table, key: &dyn fmt::Display, problem| Error::Entry {
            file: self.file.clone(),
            table,
            key: key.to_string(),
            problem,
        };
        if let Some((id, problem)) = raw.unread {
            return Err(entry("instances", &id, problem));
        }
        let records = raw.records;
        let mut claims = Vec::with_capacity(raw.claims.len());
        for (name, holder) in raw.claims {
            let holder: ServiceName = holder.parse().map_err(|e| entry("claims", &name, e))?;
            let placed = raw.placed.contains(&name);
            claims.push((name, Claim { holder, placed }));
        }
        let mut sets = Vec::with_capacity(raw.sets.len());
        for (digest, bytes) in &raw.sets {
            sets.push(record::decode_set(bytes).map_err(|e| entry("descriptor_sets", digest, e))?);
        }
        let mut retired = Vec::with_capacity(raw.retired.len());
        for (digest, since, service) in raw.retired {
            let service = Some(service).filter(|service| !service.is_empty()).map(|service| service.parse());
            let service = service.transpose().map_err(|e| entry("retired_sets", &digest, e))?;
            retired.push((digest, Retired { since: record::from_millis(since), service }));
        }
        let mut policies = Vec::with_capacity(raw.policies.len());
        for (name, bytes) in &raw.policies {
            policies.push(record::decode_policy(bytes).map_err(|e| entry("policies", name, e))?);
        }
        let policies = policy::Set::restore(policies, Version(raw.policies_version));
        let tombstones = raw.tombstones.into_iter().map(|(id, ms)| (id, record::from_millis(ms))).collect();
        let generation = u32::try_from(raw.generation + 1).expect("2^32 starts outlast the machine");
        Ok(State::restore(generation, Kept { records, tombstones, claims, sets, retired, policies }))
    }
}

#[derive(Default)]
struct Raw {
    format: u64,
    generation: u64,
    /// Read as they come: their bytes together are much of what a large registry weighs.
    records: Vec<Record>,
    /// The first instance that could not be read.
    unread: Option<(InstanceId, Invalid)>,
    tombstones: Vec<(InstanceId, u64)>,
    claims: Vec<(String, String)>,
    placed: Vec<String>,
    sets: Vec<(Digest, Vec<u8>)>,
    retired: Vec<(Digest, u64, String)>,
    policies: Vec<(String, Vec<u8>)>,
    policies_version: u64,
}

/// A table that was never written counts as empty.
fn each<K: redb::Key + 'static, V: redb::Value + 'static>(
    read: &redb::ReadTransaction,
    table: TableDefinition<'_, K, V>,
    mut with: impl FnMut(K::SelfType<'_>, V::SelfType<'_>),
) -> Result<(), redb::Error> {
    let table = match read.open_table(table) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        Err(other) => return Err(other.into()),
    };
    for entry in table.iter()? {
        let (key, value) = entry?;
        with(key.value(), value.value());
    }
    Ok(())
}

fn read(db: &Database) -> Result<Raw, redb::Error> {
    let tx = db.begin_read()?;
    let mut raw = Raw::default();
    each(&tx, META, |key, value| match key {
        GENERATION => raw.generation = value,
        FORMAT => raw.format = value,
        POLICIES_VERSION => raw.policies_version = value,
        _ => {}
    })?;
    each(&tx, INSTANCES, |id, bytes| match record::decode(bytes) {
        Ok(record) => raw.records.push(record),
        Err(problem) => {
            raw.unread.get_or_insert((InstanceId::from_bytes(*id), problem));
        }
    })?;
    each(&tx, TOMBSTONES, |id, until| raw.tombstones.push((InstanceId::from_bytes(*id), until)))?;
    each(&tx, CLAIMS, |name, owner| raw.claims.push((name.to_owned(), owner.to_owned())))?;
    each(&tx, PLACED, |name, _| raw.placed.push(name.to_owned()))?;
    each(&tx, SETS, |digest, bytes| raw.sets.push((Digest(*digest), bytes.to_vec())))?;
    each(&tx, RETIRED, |digest, (since, service)| raw.retired.push((Digest(*digest), since, service.to_owned())))?;
    each(&tx, POLICIES, |name, bytes| raw.policies.push((name.to_owned(), bytes.to_vec())))?;
    Ok(raw)
}

/// A table is opened when there is something to write: each costs a look-up, and more when the transaction ends.
fn write(db: &Database, batch: &Batch, meta: Option<Meta>) -> Result<(), redb::Error> {
    let tx = db.begin_write()?;
    if let Some((generation, policies_version)) = meta {
        let mut meta = tx.open_table(META)?;
        meta.insert(GENERATION, generation)?;
        meta.insert(FORMAT, THIS_FORMAT)?;
        meta.insert(POLICIES_VERSION, policies_version.0)?;
    }
    if !batch.instances.is_empty() {
        let mut instances = tx.open_table(INSTANCES)?;
        for (id, value) in &batch.instances {
            match value {
                Some(bytes) => drop(instances.insert(id.as_bytes(), bytes.as_slice())?),
                None => drop(instances.remove(id.as_bytes())?),
            }
        }
    }
    if !batch.tombstones.is_empty() {
        let mut tombstones = tx.open_table(TOMBSTONES)?;
        for (id, value) in &batch.tombstones {
            match value {
                Some(until) => drop(tombstones.insert(id.as_bytes(), until)?),
                None => drop(tombstones.remove(id.as_bytes())?),
            }
        }
    }
    if !batch.claims.is_empty() {
        let (mut claims, mut placed) = (tx.open_table(CLAIMS)?, tx.open_table(PLACED)?);
        for (name, value) in &batch.claims {
            match value {
                Some(claim) => drop(claims.insert(name.as_str(), claim.holder.full())?),
                None => drop(claims.remove(name.as_str())?),
            }
            match value {
                Some(Claim { placed: true, .. }) => drop(placed.insert(name.as_str(), true)?),
                Some(_) | None => drop(placed.remove(name.as_str())?),
            }
        }
    }
    if !batch.sets.is_empty() {
        let mut sets = tx.open_table(SETS)?;
        for (digest, value) in &batch.sets {
            match value {
                Some(bytes) => drop(sets.insert(&digest.0, bytes.as_slice())?),
                None => drop(sets.remove(&digest.0)?),
            }
        }
    }
    if !batch.retired.is_empty() {
        let mut retired = tx.open_table(RETIRED)?;
        for (digest, value) in &batch.retired {
            match value {
                Some(it) => {
                    let service = it.service.as_ref().map_or("", |service| service.full());
                    drop(retired.insert(&digest.0, (record::millis(it.since), service))?);
                }
                None => drop(retired.remove(&digest.0)?),
            }
        }
    }
    if !batch.policies.is_empty() {
        let mut policies = tx.open_table(POLICIES)?;
        for (name, value) in &batch.policies {
            match value {
                Some(bytes) => drop(policies.insert(name.as_str(), bytes.as_slice())?),
                None => drop(policies.remove(name.as_str())?),
            }
        }
    }
    tx.commit()?;
    Ok(())
}
