//! The directory `.weft` beside `weft.toml`: one owner at a time, and what an owner left running or listed.
//!
//! Lives here: the lock, `run.json`, ending leftovers, the paths of everything kept there. Does not: what is written to the paths, asking the
//! registry (`listed`).
//! Invariants: the lock is held as long as a [`Place`] lives, and the kernel gives it back however we end; a process is only ended
//! when its id and its start time are those written down, so an id that was given to somebody else is safe.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process, kill_process_group},
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use weft_model::{Epoch, InstanceId};

use crate::procfs;

/// How long leftovers have between SIGTERM and SIGKILL. They are of no use to anybody, but may want to flush.
const LEFTOVER_GRACE: Duration = Duration::from_secs(3);

/// How long a lock that is held may be on its way out: a process that was just forked holds it until its program is executed.
const LOCK_PATIENCE: Duration = Duration::from_millis(300);

/// What runs, and what the registry lists of it.
const RUN: &str = "run.json";
/// Directory of the services' tokens.
const TOKENS: &str = "tokens";

/// Where the control socket of the mesh beside `root` is.
pub(crate) fn socket(root: &Path) -> PathBuf {
    root.join(".weft/up.sock")
}

/// Why the place cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// Another `weft up` owns it.
    #[error(
        "a mesh runs here already (weft up, pid {pid}); look at it with `{program} ps`, stop it with `{program} stop`"
    )]
    Taken {
        /// Its process id.
        pid: u32,
        /// What the person typed to start us.
        program: String,
    },
    /// The file system refuses.
    #[error("cannot use {}", .path.display())]
    Io {
        /// What was to be used.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The directory, ours until dropped.
#[derive(Debug)]
pub(crate) struct Place {
    dir: PathBuf,
    tokens: PathBuf,
    /// What is written down. The lock is held for a look and for writing a small file.
    kept: Mutex<Kept>,
    _lock: File,
}

/// What an earlier owner left, and what ours has.
#[derive(Debug, Default)]
struct Kept {
    /// Instances that an earlier owner left in the registry: written down until they were taken back.
    earlier: Vec<Listed>,
    now: Written,
    /// Instances that are out of the registry, which whoever writes down may not have heard of.
    gone: BTreeSet<InstanceId>,
}

/// `run.json`, as this release and the one before write it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Run {
    Now(Written),
    Before(Vec<Entry>),
}

/// What is written down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    /// What runs.
    pub(crate) processes: Vec<Entry>,
    /// What the registry lists of it: it goes on to do so when everything is killed, the registry included.
    pub(crate) instances: Vec<Listed>,
}

/// An instance that the registry lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    /// Its slot.
    pub(crate) name: String,
    /// Its id.
    #[serde(with = "as_text")]
    pub(crate) id: InstanceId,
    /// Of its lease: the id under another is somebody else's.
    #[serde(with = "as_number")]
    pub(crate) epoch: Epoch,
}

mod as_text {
    //! An id as people see it.
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use weft_model::InstanceId;

    pub(super) fn serialize<S: Serializer>(id: &InstanceId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<InstanceId, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

mod as_number {
    //! An epoch as the wire has it.
    use serde::{Deserialize as _, Deserializer, Serializer};
    use weft_model::Epoch;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(epoch: &Epoch, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(epoch.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Epoch, D::Error> {
        u64::deserialize(from).map(Epoch)
    }
}

/// A process as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Role or slot.
    pub(crate) name: String,
    /// Its process id, and that of its group.
    pub(crate) pid: u32,
    /// When it started, in clock ticks since boot.
    pub(crate) started: u64,
}

impl Kept {
    fn tidy(&mut self) {
        let gone = &self.gone;
        self.earlier.retain(|it| !gone.contains(&it.id));
        self.now.instances.retain(|it| !gone.contains(&it.id));
    }
}

impl Place {
    /// Makes `root/.weft` ours. `program` is what the person typed to start us.
    pub(crate) async fn take(root: &Path, program: &str) -> Result<Self, PlaceError> {
        let dir = root.join(".weft");
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| PlaceError::Io { path, source }
        };
        for dir in [&dir, &dir.join("log"), &dir.join(TOKENS)] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))?;
        }
        let path = dir.join("up.lock");
        let mut lock = (OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600))
            .open(&path)
            .map_err(failed(&path))?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            if Instant::now() < deadline {
                sleep(Duration::from_millis(10)).await;
                continue;
            }
            let pid = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
            return Err(PlaceError::Taken { pid, program: program.to_owned() });
        }
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(failed(&path))?;
        let tokens = dir.join(TOKENS);
        let text = fs::read(dir.join(RUN)).unwrap_or_default();
        let now = match serde_json::from_slice(&text) {
            Ok(Run::Now(now)) => now,
            Ok(Run::Before(processes)) => Written { processes, ..Written::default() },
            Err(_) => Written::default(), // damaged: the kernel ended them, on Linux at least
        };
        let kept = Mutex::new(Kept { earlier: now.instances.clone(), now, ..Kept::default() });
        Ok(Self { dir, tokens, kept, _lock: lock })
    }

    /// File that a process's output goes to.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir.join("log").join(format!("{name}.log"))
    }

    /// Directory of the services' tokens, ours alone.
    pub(crate) fn tokens(&self) -> &Path {
        &self.tokens
    }

    /// Writes down what runs, for the next owner. A reader sees the old file or the new.
    pub(crate) fn write_down(&self, now: Written) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.gone.retain(|id| now.instances.iter().any(|it| it.id == *id)); // until those who write have heard, too
        kept.now = now;
        kept.tidy();
        self.write(&kept)
    }

    /// Instances of these slots that are written down as listed.
    pub(crate) fn listed_of(&self, slots: &BTreeSet<String>) -> Vec<Listed> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.now.instances.iter().filter(|it| slots.contains(&it.name)).cloned().collect()
    }

    /// Instances that an earlier owner left in the registry. Its processes are gone, so nobody else takes them back.
    pub(crate) fn left_listed(&self) -> Vec<Listed> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).earlier.clone()
    }

    /// Forgets instances: they are in the registry no more.
    pub(crate) fn forget(&self, gone: &[InstanceId]) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.gone.extend(gone);
        kept.tidy();
        self.write(&kept)
    }

    fn write(&self, kept: &Kept) -> io::Result<()> {
        let mut all = kept.now.clone();
        all.instances.extend(kept.earlier.iter().filter(|it| !kept.now.instances.contains(it)).cloned());
        let draft = self.dir.join("run.json.new");
        fs::write(&draft, serde_json::to_vec_pretty(&all)?)?;
        fs::rename(draft, self.dir.join(RUN))
    }

    /// Ends what an earlier owner left running and returns the names: SIGTERM to each group, SIGKILL after 3 s.
    pub(crate) async fn end_leftovers(&self) -> Vec<String> {
        let written = self.kept.lock().unwrap_or_else(PoisonError::into_inner).now.processes.clone();
        let left: Vec<Entry> = written.into_iter().filter(runs).collect();
        left.iter().for_each(|it| signal(it, Signal::TERM));
        let deadline = Instant::now() + LEFTOVER_GRACE;
        while left.iter().any(runs) && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
        }
        left.iter().filter(|it| runs(it)).for_each(|it| signal(it, Signal::KILL));
        left.into_iter().map(|it| format!("{} (pid {})", it.name, it.pid)).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nothing of ours runs any more. What the registry was not told of is the next owner's to take back.
        let kept = self.kept.get_mut().unwrap_or_else(PoisonError::into_inner);
        kept.now.processes.clear();
        let kept = std::mem::take(kept);
        if kept.earlier.is_empty() && kept.now.instances.is_empty() {
            let _ = fs::remove_file(self.dir.join(RUN));
        } else {
            let _ = self.write(&kept);
        }
        let _ = fs::remove_file(self.dir.join("up.sock"));
    }
}

/// Ends processes at once, each known by its id and start time; those that ended meanwhile are left out.
pub(crate) fn kill(left: &[(u32, u64)]) {
    for (pid, started) in left.iter().filter(|(pid, started)| procfs::start_time(*pid) == Some(*started)) {
        tracing::debug!(pid, started, "killing what an app has left");
        if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL); // an error means that it ended in between
        }
    }
}

fn runs(entry: &Entry) -> bool {
    procfs::start_time(entry.pid) == Some(entry.started)
}

fn signal(entry: &Entry, signal: Signal) {
    if let Some(group) = i32::try_from(entry.pid).ok().and_then(Pid::from_raw) {
        // An error means that it ended in between.
        let _ = kill_process_group(group, signal);
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::CommandExt, process::Command};

    use super::*;

    #[tokio::test]
    async fn a_place_has_one_owner_and_says_who() {
        let root = tempfile::tempdir().unwrap();
        let place = Place::take(root.path(), "weft").await.unwrap();
        let error = Place::take(root.path(), "target/debug/weft").await.unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        assert!(error.contains("`target/debug/weft stop`"), "{error}");
        drop(place);
        assert!(Place::take(root.path(), "weft").await.is_ok());
    }

    /// The place of the owner after one that was killed, and so removed nothing.
    async fn killed(root: &Path, place: Place) -> Place {
        let run = root.join(".weft").join(RUN);
        let written = fs::read(&run).unwrap();
        drop(place);
        fs::write(run, written).unwrap();
        Place::take(root, "weft").await.unwrap()
    }

    #[tokio::test]
    async fn what_an_owner_left_in_the_registry_is_known_until_it_was_taken_back() {
        let root = tempfile::tempdir().unwrap();
        let run = root.path().join(".weft").join(RUN);
        let id = |end: char| format!("01890a5d-ac96-774b-bcce-b302099a805{end}").parse().unwrap();
        let listed = |name: &str, id| Listed { name: name.to_owned(), id, epoch: Epoch(7) };
        let of = |listed: &Listed| Written { instances: vec![listed.clone()], ..Written::default() };
        let (old, new) = (listed("users-1", id('1')), listed("users-1", id('2')));
        let first = Place::take(root.path(), "weft").await.unwrap();
        assert_eq!(first.left_listed(), []);
        first.write_down(of(&old)).unwrap();
        let second = killed(root.path(), first).await;
        assert_eq!(second.left_listed(), std::slice::from_ref(&old));
        second.write_down(of(&new)).unwrap();
        drop(second); // it ended properly, and yet the registry was told of neither
        let third = Place::take(root.path(), "weft").await.unwrap();
        assert_eq!(third.left_listed(), [new.clone(), old.clone()]);
        third.forget(&[new.id]).unwrap();
        let third = killed(root.path(), third).await;
        assert_eq!(third.left_listed(), std::slice::from_ref(&old), "one is out, the other was refused");
        let mine = listed("users-2", id('3'));
        third.write_down(of(&mine)).unwrap();
        third.forget(&[old.id, mine.id]).unwrap();
        third.write_down(of(&mine)).unwrap(); // by who has not heard yet
        assert_eq!(third.listed_of(&["users-2".to_owned()].into()), []);
        assert_eq!(third.left_listed(), []);
        drop(third);
        assert!(!run.exists(), "nothing is left that anybody would have to know");
    }

    #[tokio::test]
    async fn what_the_release_before_wrote_down_is_read() {
        let root = tempfile::tempdir().unwrap();
        let first = Place::take(root.path(), "weft").await.unwrap();
        drop(first);
        let mut left = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
        let (pid, started) = (left.id(), procfs::start_time(left.id()).unwrap());
        let run = format!("[{{\"name\": \"users-1\", \"pid\": {pid}, \"started\": {started}}}]");
        fs::write(root.path().join(".weft").join(RUN), run).unwrap();
        let place = Place::take(root.path(), "weft").await.unwrap();
        let reaper = std::thread::spawn(move || left.wait().unwrap());
        assert_eq!(place.end_leftovers().await, [format!("users-1 (pid {pid})")]);
        assert!(!reaper.join().unwrap().success());
    }

    #[tokio::test]
    async fn leftovers_are_ended_and_a_stranger_with_the_same_id_is_not() {
        let root = tempfile::tempdir().unwrap();
        let mut left = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
        let mut stranger = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
        let entry = |name: &str, pid, started| Entry { name: name.to_owned(), pid, started };
        let started = |pid| procfs::start_time(pid).unwrap();
        let first = Place::take(root.path(), "weft").await.unwrap();
        let entries = [
            entry("users-1", left.id(), started(left.id())),
            entry("users-2", stranger.id(), started(stranger.id()) + 1),
        ];
        first.write_down(Written { processes: entries.to_vec(), ..Written::default() }).unwrap();
        let first = killed(root.path(), first).await;
        let reaper = std::thread::spawn(move || left.wait().unwrap()); // a zombie would count as ended, too
        assert_eq!(first.end_leftovers().await, [format!("users-1 (pid {})", entries[0].pid)]);
        assert!(!reaper.join().unwrap().success());
        assert!(stranger.try_wait().unwrap().is_none(), "the stranger still runs");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        drop(first);
        assert!(!root.path().join(".weft/run.json").exists());
    }
}
