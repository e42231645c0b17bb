//! The authority's file: read, written whole, locked, for its owner only.
//!
//! Lives here: files, modes, the lock, errors that say what to do. Does not: what the file means (`state`).
//! Invariants: a reader sees the old or the new file, never half of one; a change is made on what the file holds while the lock is held; a file that
//! others may read is not used, since it holds private keys; one that cannot be read is never written to.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Mutex,
};

use weft_identity::TrustDomain;

use crate::ca::state::{State, THIS_FORMAT};

const FILE: &str = "ca.json";
const LOCK: &str = "ca.lock";

/// Why the authority cannot be used. Whatever the reason, what it held is still there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or the directory cannot be used.
    #[error("cannot use {path}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The private keys lie open.
    #[error(
        "{path} may be read by others (mode {mode:o}) and holds private keys; chmod 600 it, and rotate the root if they may have read it"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file is damaged.
    #[error("{file} cannot be read as an authority; nothing was changed; put a backup in its place")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A newer registry wrote it.
    #[error("{file} has format {found}, this registry reads up to {THIS_FORMAT}; start the newer version again")]
    Newer {
        /// The file.
        file: PathBuf,
        /// Format in the file.
        found: u32,
    },
    /// The directory belongs to another mesh.
    #[error(
        "{file} is the authority of {found}, not of {asked}; a domain is not renamed: use another --ca-dir or --trust-domain {found}"
    )]
    OtherDomain {
        /// The file.
        file: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose was expected.
        asked: TrustDomain,
    },
    /// The file was there and is not any more.
    #[error("{file} has vanished; put it back")]
    Vanished {
        /// The file.
        file: PathBuf,
    },
    /// What the file holds contradicts itself.
    #[error("the authority's file is damaged: {problem}")]
    Damaged {
        /// Which part.
        problem: String,
    },
    /// A key could not be made or used.
    #[error("the authority's cryptography")]
    Crypto(#[source] rcgen::Error),
}

/// The directory of an authority.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    /// Which version of the file was read last: inode and time of writing; each write makes a new inode.
    seen: Mutex<Option<(u64, i64, i64)>>,
}

impl Store {
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|source| Error::Io { path: dir.to_owned(), source })?;
        Ok(Self { dir: dir.to_owned(), seen: Mutex::default() })
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    pub(crate) fn vanished(&self) -> Error {
        Error::Vanished { file: self.file() }
    }

    /// Makes a change to what the file holds, with the lock held. `change` gets None if there is no file yet. Returns the lock, too, for what else
    /// must be done before anybody else changes the file.
    pub(crate) fn update<T>(
        &self,
        change: impl FnOnce(Option<State>) -> Result<(State, T), Error>,
    ) -> Result<(File, T), Error> {
        let lock = self.lock()?; // the system gives it back when the file is closed
        let (fresh, result) = change(self.load()?)?;
        let text =
            serde_json::to_vec_pretty(&fresh).map_err(|source| Error::Unreadable { file: self.file(), source })?;
        self.write(FILE, &text)?;
        self.note();
        Ok((lock, result))
    }

    /// Returns what the file holds if it is another than was read last.
    pub(crate) fn read_changed(&self) -> Result<Option<State>, Error> {
        let seen = *self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if self.stamp() == seen {
            return Ok(None);
        }
        let _lock = self.lock()?;
        let state = self.load()?.ok_or_else(|| self.vanished())?;
        self.note();
        Ok(Some(state))
    }

    /// Takes the lock, and returns it with what the file holds if that is another than was read last: until it is dropped, nobody changes the file.
    pub(crate) fn hold(&self) -> Result<(File, Option<State>), Error> {
        let lock = self.lock()?;
        let seen = *self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if self.stamp() == seen {
            return Ok((lock, None));
        }
        let state = self.load()?.ok_or_else(|| self.vanished())?;
        self.note();
        Ok((lock, Some(state)))
    }

    /// Reads a file of the directory.
    pub(crate) fn read(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.dir.join(name))
    }

    /// Replaces a file of the directory, durably, readable by its owner only.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let (path, fresh) = (self.dir.join(name), self.dir.join(format!("{name}.new")));
        let written = (|| {
            drop(fs::remove_file(&fresh)); // left by a writer that died; its mode is not to be trusted
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            File::open(&self.dir)?.sync_all()
        })();
        written.map_err(|source| Error::Io { path, source })
    }

    fn lock(&self) -> Result<File, Error> {
        let path = self.dir.join(LOCK);
        let locked = (|| {
            let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            file.lock()?;
            Ok(file)
        })();
        locked.map_err(|source| Error::Io { path, source })
    }

    fn load(&self) -> Result<Option<State>, Error> {
        let path = self.file();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { path, source }),
        };
        let meta = fs::metadata(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        let mode = meta.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Error::Exposed { path, mode });
        }
        let state: State =
            serde_json::from_slice(&text).map_err(|source| Error::Unreadable { file: path.clone(), source })?;
        if state.format > THIS_FORMAT {
            return Err(Error::Newer { file: path, found: state.format });
        }
        if state.roots.is_empty() {
            return Err(Error::Damaged { problem: "it has no root".into() });
        }
        Ok(Some(state))
    }

    fn stamp(&self) -> Option<(u64, i64, i64)> {
        fs::metadata(self.file()).ok().map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec()))
    }

    fn note(&self) {
        *self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = self.stamp();
    }
}
