//! Descriptor sets of static mode where a person has put them: a file, or a directory of files.
//!
//! Lives here: seeing which have changed, reading these, what all sets say together. Does not: linking (`routes::sets`), the table of them and when it is made
//! (`gateway::fixed`).
//! A directory's files are sets of one service, each linked by itself: two may bring different versions of an import. Of a method that several declare, the
//! first by name of the file counts.
//! Invariants: a file that is as it was when it was read is neither read nor linked again, whatever is wrong with it or with others; what can be read but
//! once, as a pipe, is read when the gateway starts and never after; nothing but files is opened while they are followed.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io::{self, Read},
    mem,
    os::unix::fs::MetadataExt,
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
/// Longest file in bytes; a registry takes sets of an eighth.
const LONGEST: usize = 64 << 20;

/// Where the descriptors of static mode are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DescriptorFiles {
    /// Here: an encoded `google.protobuf.FileDescriptorSet`, for good.
    Set(Bytes),
    /// In a file that is one, or in a directory all of whose files are such, but for hidden ones. Followed; what is neither, as a pipe, is read once.
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
    /// There is no file any more where one was followed, but a pipe or a device.
    #[error("{}: no file and no directory any more; a pipe is read when the gateway starts", path.display())]
    NoFile {
        /// Which.
        path: PathBuf,
    },
    /// A file is longer than descriptors are.
    #[error("{}: longer than {} MiB; give a file that protoc wrote with --include_imports", path.display(), LONGEST >> 20)]
    Long {
        /// Which.
        path: PathBuf,
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
    /// Takes what can be read but once, as from a pipe, and has it for good. Files and directories stay where they are.
    pub(crate) fn taken(self) -> Result<Self, DescriptorError> {
        let path = match self {
            Self::Set(_) => return Ok(self),
            Self::Path(path) => path,
        };
        let kind = metadata(&path)?.file_type();
        if kind.is_file() || kind.is_dir() { Ok(Self::Path(path)) } else { read(&path).map(Self::Set) }
    }

    /// Reads all there is, to see whether it can be.
    pub(crate) fn check(&self) -> Result<(), DescriptorError> {
        match self {
            Self::Set(_) => Ok(()),
            Self::Path(path) => Files::new(self.clone()).read(path).map(drop),
        }
    }
}

fn metadata(path: &Path) -> Result<Metadata, DescriptorError> {
    fs::metadata(path).map_err(|source| DescriptorError::Read { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<Bytes, DescriptorError> {
    let (path, mut bytes) = (path.to_owned(), Vec::new());
    let read = File::open(&path).and_then(|file| file.take(LONGEST as u64 + 1).read_to_end(&mut bytes));
    match read {
        Err(source) => Err(DescriptorError::Read { path, source }),
        Ok(0) => Err(DescriptorError::Empty { path }),
        Ok(length) if length > LONGEST => Err(DescriptorError::Long { path }),
        Ok(_) => Ok(bytes.into()),
    }
}

/// The files at a path, by name.
fn files_at(path: &Path) -> Result<Vec<PathBuf>, DescriptorError> {
    if path.is_dir() { files_of(path) } else { Ok(vec![path.to_owned()]) }
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

fn link(name: &str, set: &[u8]) -> Result<Arc<LinkedSet>, DescriptorError> {
    let set = DescriptorSet::from_encoded_set(set);
    let set = set.map_err(|source| DescriptorError::Descriptors { name: name.into(), source })?;
    let linked = LinkedSet::link(&set);
    linked.map(Arc::new).map_err(|source| DescriptorError::Link { name: name.into(), source })
}

/// Descriptor sets where they are, with what was found there.
#[derive(Debug)]
pub(super) struct Files {
    from: DescriptorFiles,
    known: BTreeMap<PathBuf, Known>,
    /// Whether the last look saw all of them.
    whole: bool,
}

/// A file that was read.
#[derive(Debug)]
struct Known {
    stamp: Stamp,
    /// Whether it was read with this stamp before, a look ago: two writes within one tick of a file system's clock have one stamp.
    settled: bool,
    bytes: Bytes,
    /// None: it is not linked yet, or does not link.
    set: Option<Arc<LinkedSet>>,
}

/// By what a file is known to be as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    /// Device and number: another file has its name.
    file: (u64, u64),
    length: u64,
    /// Seconds and nanoseconds; nobody sets these back, as copies do with the other time.
    changed: (i64, i64),
    modified: (i64, i64),
}

impl Stamp {
    fn of(it: &Metadata) -> Self {
        Self {
            file: (it.dev(), it.ino()),
            length: it.len(),
            changed: (it.ctime(), it.ctime_nsec()),
            modified: (it.mtime(), it.mtime_nsec()),
        }
    }
}

impl Files {
    pub(super) fn new(from: DescriptorFiles) -> Self {
        Self { from, known: BTreeMap::new(), whole: false }
    }

    /// The path that is followed; none: what there is is there for good.
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.from {
            DescriptorFiles::Set(_) => None,
            DescriptorFiles::Path(path) => Some(path),
        }
    }

    /// Hands over what is known, to where looking may wait for a disk. Nothing is known here until it comes back.
    pub(super) fn lend(&mut self) -> Self {
        let anew = Self::new(self.from.clone());
        mem::replace(self, anew)
    }

    /// Looks at the files, and reads and links what has changed. None: nothing has, and what came of the last look holds.
    pub(super) fn look(&mut self) -> Option<Result<Sets, DescriptorError>> {
        let saw_all = mem::replace(&mut self.whole, false);
        let read = match self.from.clone() {
            DescriptorFiles::Set(set) => return Some(link("the set", &set).map(|it| Sets(vec![it]))),
            DescriptorFiles::Path(path) => self.read(&path),
        };
        self.whole = read.is_ok();
        match read {
            Ok(false) if saw_all => None,
            Ok(_) => Some(self.sets()),
            Err(error) => Some(Err(error)),
        }
    }

    /// Reads what has changed below a path; whether anything had.
    fn read(&mut self, path: &Path) -> Result<bool, DescriptorError> {
        let paths = files_at(path)?;
        let read = paths.iter().try_fold(false, |changed, path| Ok(self.read_file(path, &paths)? || changed));
        let before = self.known.len();
        self.known.retain(|path, _| paths.binary_search(path).is_ok()); // also if one cannot be read, for as long as it cannot
        Ok(read? || self.known.len() < before)
    }

    /// Reads one of these paths, if it has changed; whether what is in it had.
    fn read_file(&mut self, path: &Path, paths: &[PathBuf]) -> Result<bool, DescriptorError> {
        let found = metadata(path)?;
        if !found.is_file() {
            return Err(DescriptorError::NoFile { path: path.to_owned() }); // opening it might wait for good
        }
        match found.len() {
            0 => return Err(DescriptorError::Empty { path: path.to_owned() }),
            length if length > LONGEST as u64 => return Err(DescriptorError::Long { path: path.to_owned() }),
            _ => {}
        }
        let stamp = Stamp::of(&found); // of before it is read: what is written meanwhile leaves another one
        if self.known.get(path).is_some_and(|it| it.settled && it.stamp == stamp) {
            return Ok(false);
        }
        let bytes = read(path)?;
        if let Some(it) = self.known.get_mut(path)
            && it.bytes == bytes
        {
            (it.settled, it.stamp) = (it.stamp == stamp, stamp);
            return Ok(false);
        }
        let mut renamed =
            self.known.iter().filter(|(before, it)| it.bytes == bytes && paths.binary_search(before).is_err());
        let set = renamed.find_map(|(_, it)| it.set.clone());
        self.known.insert(path.to_owned(), Known { stamp, settled: false, bytes, set });
        Ok(true)
    }

    /// The sets of all files, each linked once.
    fn sets(&mut self) -> Result<Sets, DescriptorError> {
        let sets: Result<Vec<_>, _> = self.known.iter_mut().map(|(path, it)| it.linked(path)).collect();
        sets.map(Sets)
    }
}

impl Known {
    fn linked(&mut self, path: &Path) -> Result<Arc<LinkedSet>, DescriptorError> {
        if let Some(set) = &self.set {
            return Ok(Arc::clone(set));
        }
        let set = link(&path.to_string_lossy(), &self.bytes)?;
        self.set = Some(Arc::clone(&set));
        Ok(set)
    }
}

/// Sets that link, in the order in which they count.
#[derive(Debug)]
pub(super) struct Sets(Vec<Arc<LinkedSet>>);

impl Sets {
    /// Whether they are the same ones.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn linked(&self) -> Vec<Arc<LinkedSet>> {
        self.0.clone()
    }

    /// What all of them say together.
    pub(super) fn info(&self) -> ServiceInfo {
        let mut whole = ServiceInfo::default();
        for set in &self.0 {
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

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        os::{fd::AsRawFd, unix::fs::symlink},
        thread,
    };

    use tempfile::TempDir;
    use weft_proto::descriptors::{SHOP_USERS, TESTKIT};

    use super::*;

    /// A directory with these files, which are followed.
    fn directory(names: &[(&str, &[u8])]) -> (TempDir, Files) {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in names {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        let files = Files::new(DescriptorFiles::Path(dir.path().to_owned()));
        (dir, files)
    }

    fn found(files: &mut Files) -> Sets {
        files.look().expect("something has changed").unwrap()
    }

    fn refused(files: &mut Files) -> DescriptorError {
        files.look().expect("something has changed").unwrap_err()
    }

    #[test]
    fn a_file_is_read_when_it_has_changed_and_once_more_and_then_no_more() {
        let (dir, mut files) = directory(&[("users.binpb", SHOP_USERS)]);
        let path = dir.path().join("users.binpb");
        assert_eq!(found(&mut files).len(), 1);
        // What is remembered of it is changed in its place: only who reads the file finds out.
        let disturb = |files: &mut Files| files.known.get_mut(&path).unwrap().bytes = Bytes::from_static(b"other");
        disturb(&mut files);
        assert_eq!(found(&mut files).len(), 1, "another write may have left the same stamp");
        assert!(files.look().is_none());
        disturb(&mut files);
        assert!(files.look().is_none(), "it is not read");
        fs::write(&path, TESTKIT).unwrap();
        let services = found(&mut files).info().grpc_services;
        assert!(services.iter().any(|it| it.name == "weft.testkit.v1.Echo"), "{services:?}");
    }

    #[test]
    fn a_file_in_the_place_of_another_is_read_even_if_it_is_as_long_and_as_old() {
        let (dir, mut files) = directory(&[("users.binpb", SHOP_USERS)]);
        let (path, beside) = (dir.path().join("users.binpb"), dir.path().join(".beside"));
        assert_eq!(found(&mut files).len(), 1);
        assert!(files.look().is_none() && files.look().is_none());
        fs::write(&beside, vec![0xff; SHOP_USERS.len()]).unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        File::options().write(true).open(&beside).unwrap().set_modified(modified).unwrap();
        fs::rename(beside, path).unwrap();
        assert!(matches!(refused(&mut files), DescriptorError::Descriptors { .. }));
    }

    #[test]
    fn a_set_that_cannot_be_used_is_not_tried_again_and_the_others_are_linked_once() {
        let (dir, mut files) = directory(&[("a.binpb", SHOP_USERS), ("b.binpb", &b"no descriptor set"[..])]);
        let path = |name: &str| dir.path().join(name);
        let of_b = path("b.binpb").display().to_string();
        assert_eq!(refused(&mut files).to_string(), of_b);
        let users = files.known[&path("a.binpb")].set.clone().expect("it is linked");
        assert!(files.look().is_none() && files.look().is_none());
        fs::write(path("c.binpb"), TESTKIT).unwrap();
        assert_eq!(refused(&mut files).to_string(), of_b, "another one came, and that one is as it was");
        fs::rename(path("a.binpb"), path("d.binpb")).unwrap();
        fs::remove_file(path("b.binpb")).unwrap();
        let sets = found(&mut files);
        assert_eq!(sets.len(), 2);
        assert!(Arc::ptr_eq(&sets.0[1], &users), "another name makes no other set of it");
    }

    #[test]
    fn an_empty_file_of_a_directory_is_refused_by_name_for_as_long_as_it_is_empty() {
        let (dir, mut files) = directory(&[("a.binpb", SHOP_USERS), ("b.binpb", &[]), (".hidden", &[])]);
        let empty = dir.path().join("b.binpb");
        let is_told = |error: &DescriptorError| matches!(error, DescriptorError::Empty { path } if *path == empty);
        for _ in 0..3 {
            let error = refused(&mut files);
            assert!(is_told(&error), "{error}");
        }
        fs::write(&empty, TESTKIT).unwrap();
        assert_eq!(found(&mut files).len(), 2);
        fs::write(&empty, []).unwrap();
        let error = refused(&mut files);
        assert!(is_told(&error), "{error}");
    }

    #[test]
    fn a_file_is_not_read_beyond_what_descriptors_are() {
        let (dir, mut files) = directory(&[]);
        let disk = dir.path().join("disk.img");
        let file = File::create(&disk).unwrap();
        file.set_len(LONGEST as u64 + 1).unwrap(); // it takes no room
        assert!(matches!(refused(&mut files), DescriptorError::Long { .. }));
        assert!(matches!(read(&disk), Err(DescriptorError::Long { .. })), "nor what a pipe brings");
    }

    #[test]
    fn what_has_gone_is_forgotten_also_while_another_file_cannot_be_read() {
        let (dir, mut files) = directory(&[("a0.binpb", SHOP_USERS), ("z.binpb", &[])]);
        let path = |n: u32| dir.path().join(format!("a{n}.binpb"));
        for n in 0..5 {
            refused(&mut files);
            assert!(files.known.keys().eq([&path(n)]), "{:?}", files.known.keys());
            fs::rename(path(n), path(n + 1)).unwrap();
        }
    }

    #[test]
    fn a_pipe_is_read_once_and_is_then_a_set_for_good() {
        let (reader, mut writer) = io::pipe().unwrap();
        let writing = thread::spawn(move || writer.write_all(SHOP_USERS).unwrap());
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        let taken = DescriptorFiles::Path(path.into()).taken().unwrap();
        writing.join().unwrap();
        assert_eq!(taken, DescriptorFiles::Set(Bytes::from_static(SHOP_USERS)));
        assert_eq!(Files::new(taken).path(), None, "nothing is left to follow");
    }

    #[test]
    fn a_pipe_in_the_place_of_a_file_is_told_and_not_opened() {
        let (dir, _) = directory(&[("users.binpb", SHOP_USERS)]);
        let path = dir.path().join("users.binpb");
        let mut files = Files::new(DescriptorFiles::Path(path.clone()));
        assert_eq!(found(&mut files).len(), 1);
        let (mut reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"still there").unwrap();
        fs::remove_file(&path).unwrap();
        symlink(format!("/dev/fd/{}", reader.as_raw_fd()), &path).unwrap();
        let error = refused(&mut files);
        assert!(matches!(error, DescriptorError::NoFile { .. }), "{error}");
        drop(writer);
        let mut left = String::new();
        reader.read_to_string(&mut left).unwrap();
        assert_eq!(left, "still there");
    }
}
