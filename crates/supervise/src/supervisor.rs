//! Many children, one for one: each lives in a task of its own, and its failure concerns no other.
//!
//! Lives here: taking children in while running, telling what happens to them, stopping them in stages. Does not: the life of one
//! (`child`).
//! Invariants: when `run` returns no child is left; when its future is dropped, their groups are killed.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::child::{Child, Event, Handle, State};
use crate::spawner::Spawner;
use crate::spec::Spec;

/// Events kept for readers that are late; see [`Noticed::Missed`].
const EVENTS: usize = 1024;
/// Children that may wait to be taken in; who starts more waits.
const INCOMING: usize = 16;

/// Keeps children running until it is told to shut down.
#[derive(Debug)]
pub struct Supervisor {
    control: Control,
    incoming: mpsc::Receiver<(u32, Child)>,
}

/// A hold on a supervisor; clones are cheap.
#[derive(Debug, Clone)]
pub struct Control {
    spawner: Spawner,
    children: mpsc::Sender<(u32, Child)>,
    events: broadcast::Sender<ChildEvent>,
}

/// The supervisor is shutting down or gone; it takes no child in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the supervisor is shutting down")]
pub struct Closed;

/// What happened to one of the children.
#[derive(Debug, Clone)]
pub struct ChildEvent {
    /// The name in its spec.
    pub child: Arc<str>,
    /// What happened.
    pub event: Event,
}

impl Supervisor {
    /// Returns a supervisor without children.
    ///
    /// # Errors
    /// The system's, if it has no room for a thread.
    pub fn new() -> io::Result<Self> {
        let (children, incoming) = mpsc::channel(INCOMING);
        let control = Control { spawner: Spawner::new()?, children, events: broadcast::Sender::new(EVENTS) };
        Ok(Supervisor { control, incoming })
    }

    /// Returns what starts children and tells of them, before and while [`Supervisor::run`] runs.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Keeps children running until `shutdown`, then stops them: the highest stage first, the children of one stage together, each
    /// with its own grace. Dropping the future kills all of them at once.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        let mut stages: BTreeMap<u32, Vec<Handle>> = BTreeMap::new();
        loop {
            tokio::select! {
                Some((stage, child)) = self.incoming.recv() => {
                    let handles = stages.entry(stage).or_default();
                    handles.retain(|handle| !matches!(handle.status().state, State::Stopped));
                    handles.push(child.handle());
                    tasks.spawn(keep(child, self.control.events.clone()));
                }
                Some(ended) = tasks.join_next() => ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())),
                () = shutdown.cancelled() => break,
            }
        }
        drop(self.incoming); // a child that was not taken in yet is never started
        for (_, handles) in stages.into_iter().rev() {
            let mut stops = JoinSet::new();
            for handle in handles {
                stops.spawn(async move { handle.stop().await });
            }
            stops.join_all().await;
        }
        tasks.join_all().await;
    }
}

async fn keep(mut child: Child, events: broadcast::Sender<ChildEvent>) {
    let name: Arc<str> = child.handle().name().into();
    while let Some(event) = child.next().await {
        let _ = events.send(ChildEvent { child: name.clone(), event }); // nobody listens: nobody needs it
    }
}

impl Control {
    /// Starts a child under the supervisor and returns a handle on it at once.
    ///
    /// # Errors
    /// [`Closed`], and nothing was started.
    pub async fn start(&self, spec: Spec) -> Result<Handle, Closed> {
        let stage = spec.stop_stage();
        let child = Child::new(spec, self.spawner.clone());
        let handle = child.handle();
        self.children.send((stage, child)).await.map_err(|_| Closed)?;
        Ok(handle)
    }

    /// Returns a reader of all events from now on.
    pub fn events(&self) -> Events {
        Events { receiver: self.events.subscribe() }
    }
}

/// A reader of what happens to the children.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<ChildEvent>,
}

/// What a reader of events gets.
#[derive(Debug, Clone)]
pub enum Noticed {
    /// The next event.
    Event(ChildEvent),
    /// The reader was late by more than 1,024 events; this many are gone. A [`Handle`] still tells the present state.
    Missed(u64),
}

impl Events {
    /// Waits for the next event; `None` when the supervisor and all its controls are gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<Noticed> {
        match self.receiver.recv().await {
            Ok(event) => Some(Noticed::Event(event)),
            Err(RecvError::Lagged(missed)) => Some(Noticed::Missed(missed)),
            Err(RecvError::Closed) => None,
        }
    }
}
