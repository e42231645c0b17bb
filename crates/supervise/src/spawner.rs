//! Starts processes from one thread that lives as long as anything it started, and waits for each in a thread of its own.
//!
//! Lives here: the two kinds of threads, signals to a process group, reaping. Does not: output, time limits (`process`).
//! Why a thread to start from: the parent-death signal fires when the *thread* that forked ends, and a runtime's threads come and go.
//! Why a thread to wait in: it needs no reactor, works on any Unix, reaps even while the runtime is busy or gone, and lets the
//! group be killed while its leader, dead but not reaped, still holds the group's id.
//! Invariant: a signal is never sent to an id that was given back to the kernel (one lock, held by signal and by reap).

use std::io;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::sync::{mpsc, oneshot};

/// Starts that may wait for the thread; each has its caller waiting for the answer, who waits here too if it is full.
const QUEUE: usize = 16;
/// The waiting threads call three system calls and keep nothing.
const WAITER_STACK: usize = 64 * 1024;

/// The thread that starts processes; clones share it. It ends when the last clone and the last process are gone.
#[derive(Debug, Clone)]
pub struct Spawner {
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
struct Request {
    command: Command,
    reply: oneshot::Sender<io::Result<Spawned>>,
}

/// A process that was started, with the threads' ends of it. Dropping it kills the process group.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) group: KillOnDrop,
    pub(crate) stdout: ChildStdout,
    pub(crate) stderr: ChildStderr,
    pub(crate) exit: oneshot::Receiver<io::Result<ExitStatus>>,
}

impl Spawner {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's, if it has no room for a thread.
    pub fn new() -> io::Result<Self> {
        let (requests, inbox) = mpsc::channel(QUEUE);
        thread::Builder::new().name("spawner".to_owned()).spawn(move || serve(inbox))?;
        Ok(Spawner { requests })
    }

    /// Starts `command`, whose outputs must be piped. If the caller goes away meanwhile, the process is killed.
    pub(crate) async fn spawn(&self, command: Command) -> io::Result<Spawned> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the spawner thread has ended");
        self.requests.send(Request { command, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn serve(mut inbox: mpsc::Receiver<Request>) {
    while let Some(Request { mut command, reply }) = inbox.blocking_recv() {
        // A caller that has gone drops the answer, and with it the process.
        let _ = reply.send(command.spawn().and_then(adopt));
    }
}

fn adopt(mut child: Child) -> io::Result<Spawned> {
    let group = Arc::new(Group { leader: Pid::from_child(&child), reaped: Mutex::new(false) });
    let outputs = (child.stdout.take(), child.stderr.take());
    let (told, exit) = oneshot::channel();
    let owned = KillOnDrop(group.clone());
    let waiter = thread::Builder::new().name(format!("wait {}", child.id())).stack_size(WAITER_STACK);
    waiter.spawn(move || {
        let _ = told.send(group.reap(child)); // an owner that dropped the process does not ask
    })?;
    let (Some(stdout), Some(stderr)) = outputs else { return Err(io::Error::other("outputs are not piped")) };
    Ok(Spawned { group: owned, stdout, stderr, exit })
}

/// A process group and its leader, our child.
#[derive(Debug)]
struct Group {
    leader: Pid,
    /// Once true, the id may belong to somebody else. Held across a signal and across the reap, which cannot block by then.
    reaped: Mutex<bool>,
}

impl Group {
    fn signal(&self, signal: Signal) {
        let reaped = self.reaped();
        if !*reaped {
            // An error means that the group has no process left that could be told.
            let _ = kill_process_group(self.leader, signal);
        }
    }

    /// Waits for the leader's end, kills what is left of its group, and gives the id back.
    fn reap(&self, mut child: Child) -> io::Result<ExitStatus> {
        let ended = rustix::io::retry_on_intr(|| {
            waitid(WaitId::Pid(self.leader), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
        });
        if ended.is_err() {
            // No look without reaping here: wait blindly; a signal sent in the instant after may miss.
            let status = child.wait();
            *self.reaped() = true;
            return status;
        }
        let mut reaped = self.reaped();
        let _ = kill_process_group(self.leader, Signal::KILL);
        *reaped = true;
        child.wait()
    }

    fn reaped(&self) -> MutexGuard<'_, bool> {
        self.reaped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to signal a process group, and the duty to leave nothing of it behind.
#[derive(Debug)]
pub(crate) struct KillOnDrop(Arc<Group>);

impl KillOnDrop {
    pub(crate) fn pid(&self) -> u32 {
        self.0.leader.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn terminate(&self) {
        self.0.signal(Signal::TERM);
    }

    pub(crate) fn kill(&self) {
        self.0.signal(Signal::KILL);
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.kill();
    }
}
