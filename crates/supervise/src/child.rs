//! A program kept running: one process after another, as the policy allows and its owner orders.
//!
//! Lives here: the life of one child and the handle others hold on it. Does not: many children (`supervisor`), the rules
//! themselves (`policy`).
//!
//! ```text
//!   Due ──► Spawning ──► Running ──► exit nobody asked for: Due again after a delay │ GaveUp │ Stopped
//!    ▲                     │
//!    └──── restart ────  Leaving (SIGTERM … SIGKILL) ──► Stopped        GaveUp ── restart ──► Due
//! ```
//!
//! The owner drives it by pulling `next`. After `Exited` nothing moves until the next pull, so an owner that awaits something in
//! between (deregister, then restart) simply awaits. The delay of a restart counts from the exit, not from the pull.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::exit::{Exit, Outcome};
use crate::logs::Logs;
use crate::policy::{Decision, Restarts};
use crate::process::Process;
use crate::spawner::Spawner;
use crate::spec::Spec;

/// Orders that may wait for the owner's next pull; who orders more waits with them.
const ORDERS: usize = 8;

/// What happened to a child, in the order its owner pulls it.
#[derive(Debug, Clone)]
pub enum Event {
    /// A process runs. That it serves is another question.
    Started {
        /// Its id, and that of its group.
        pid: u32,
    },
    /// The process has ended or could not be started, and what was left of its group is gone. What follows is the next event.
    Exited {
        /// How.
        exit: Exit,
    },
    /// It will be started again.
    Restarting {
        /// How long after the exit.
        after: Duration,
    },
    /// It failed too often and stays down until somebody orders a restart.
    GaveUp {
        /// The restarts that did not help.
        restarts: u32,
        /// The window in which they happened.
        within: Duration,
        /// The last failure.
        exit: Exit,
    },
    /// It stays down for good: ordered, or done by its own word. The last event.
    Stopped,
}

/// Where a child is in its life.
#[derive(Debug, Clone)]
pub enum State {
    /// About to be started, or started just now.
    Starting,
    /// A process runs.
    Running {
        /// Its id.
        pid: u32,
    },
    /// It failed, and waits for its restart.
    Waiting {
        /// When that is due.
        until: Instant,
    },
    /// It was asked to end and has not yet.
    Stopping {
        /// The id of the process.
        pid: u32,
    },
    /// It failed too often.
    GaveUp {
        /// The last failure.
        exit: Exit,
    },
    /// Down for good.
    Stopped,
}

/// What a [`Handle`] shows.
#[derive(Debug, Clone)]
pub struct Status {
    /// Where it is.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// Starts after the first, for whatever reason.
    pub restarts: u64,
    /// Number of the first line of output that the present process wrote or will write; lines before it are an earlier one's.
    pub first_line: u64,
}

/// A child process kept running. Dropping it kills its process group at once.
#[derive(Debug)]
pub struct Child {
    spec: Arc<Spec>,
    spawner: Spawner,
    history: Restarts,
    phase: Phase,
    /// Events not yet pulled; one transition makes at most two.
    told: VecDeque<Event>,
    starts: u64,
    status: watch::Sender<Status>,
    orders: mpsc::Receiver<Order>,
    handle: Handle,
}

enum Phase {
    Due(Instant),
    Spawning(Spawning),
    Running(Process),
    Leaving { process: Process, kill_at: Option<Instant>, then: Then },
    GaveUp(Exit),
    Stopped,
}

type Spawning = Pin<Box<dyn Future<Output = io::Result<Process>> + Send>>;

impl std::fmt::Debug for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Phase::Due(_) => "Due",
            Phase::Spawning(_) => "Spawning",
            Phase::Running(_) => "Running",
            Phase::Leaving { .. } => "Leaving",
            Phase::GaveUp(_) => "GaveUp",
            Phase::Stopped => "Stopped",
        })
    }
}

/// What follows an end that was asked for.
#[derive(Debug, Clone, Copy)]
enum Then {
    StartAgain,
    StayDown,
}

#[derive(Debug, Clone, Copy)]
enum Order {
    Restart,
    Stop,
}

/// What can move a child on.
enum Step {
    Due,
    Spawned(io::Result<Process>),
    Exited(Exit),
    GraceOver,
    Ordered(Order),
}

impl Child {
    /// Returns a child that is started by the first pull of [`Child::next`].
    pub fn new(spec: Spec, spawner: Spawner) -> Self {
        let logs = Logs::new(spec.bounds());
        let history = Restarts::new(spec.restart_policy().clone());
        let now = Instant::now();
        let status = watch::Sender::new(Status { state: State::Starting, since: now, restarts: 0, first_line: 0 });
        let (order, orders) = mpsc::channel(ORDERS);
        let handle = Handle { name: spec.name().into(), status: status.subscribe(), orders: order, logs };
        let (spec, phase, told) = (Arc::new(spec), Phase::Due(now), VecDeque::new());
        Child { spec, spawner, history, phase, told, starts: 0, status, orders, handle }
    }

    /// Returns what others need: state, output, orders.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Moves the child on and returns what happened; `None` after [`Event::Stopped`]. Orders given to a handle are carried out
    /// here, too. Cancel-safe: nothing is lost, and a running process goes on running.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.told.pop_front() {
                return Some(event);
            }
            if matches!(self.phase, Phase::Stopped) {
                return None;
            }
            match self.step().await {
                Step::Due => self.spawn(),
                Step::Spawned(Ok(process)) => self.started(process),
                Step::Spawned(Err(error)) => self.failed_to_start(error),
                Step::Exited(exit) => self.exited(exit),
                Step::GraceOver => self.kill(),
                Step::Ordered(Order::Stop) => self.order_stop(),
                Step::Ordered(Order::Restart) => self.order_restart(),
            }
        }
    }

    /// Stops the child: `SIGTERM`, after the spec's grace `SIGKILL`. Returns how the process ended, `None` if there was none.
    /// Events of the way are not reported. For the owner; others have [`Handle::stop`].
    pub async fn stop(&mut self) -> Option<Exit> {
        if !matches!(self.phase, Phase::Spawning(_)) {
            self.order_stop();
        }
        let mut last = None;
        while let Some(event) = self.next().await {
            match event {
                Event::Started { .. } => self.order_stop(), // it was being started when we came
                Event::Exited { exit } => last = Some(exit),
                Event::Restarting { .. } | Event::GaveUp { .. } => self.order_stop(),
                Event::Stopped => {}
            }
        }
        last
    }

    async fn step(&mut self) -> Step {
        let Self { phase, orders, .. } = self;
        let orders_wait = matches!(phase, Phase::Spawning(_)); // for the millisecond a start takes
        let own = async {
            match phase {
                Phase::Due(at) => {
                    sleep_until(*at).await;
                    Step::Due
                }
                Phase::Spawning(start) => Step::Spawned(start.await),
                Phase::Running(process) | Phase::Leaving { process, kill_at: None, .. } => {
                    Step::Exited(process.wait().await)
                }
                Phase::Leaving { process, kill_at: Some(at), .. } => match timeout_at(*at, process.wait()).await {
                    Ok(exit) => Step::Exited(exit),
                    Err(_) => Step::GraceOver,
                },
                Phase::GaveUp(_) | Phase::Stopped => pending().await,
            }
        };
        tokio::select! { // both are cancel-safe: what a start or a process has to say stays in the phase
            step = own => step,
            Some(order) = orders.recv(), if !orders_wait => Step::Ordered(order),
        }
    }

    fn spawn(&mut self) {
        let (spec, spawner, logs) = (self.spec.clone(), self.spawner.clone(), self.handle.logs.clone());
        self.starts += 1;
        self.enter(Phase::Spawning(Box::pin(async move { Process::start(&spawner, &spec, &logs).await })));
    }

    fn started(&mut self, process: Process) {
        self.told.push_back(Event::Started { pid: process.pid() });
        self.enter(Phase::Running(process));
    }

    fn failed_to_start(&mut self, error: io::Error) {
        let outcome = Outcome::Failed(Arc::new(error));
        self.after_failure(Exit { outcome, ran_for: Duration::ZERO, last_lines: Vec::new() });
    }

    fn exited(&mut self, exit: Exit) {
        match &self.phase {
            Phase::Leaving { then, .. } => {
                let then = *then;
                self.told.push_back(Event::Exited { exit });
                match then {
                    Then::StayDown => self.stay_down(),
                    Then::StartAgain => self.start_again(Duration::ZERO),
                }
            }
            Phase::Due(_) | Phase::Spawning(_) | Phase::Running(_) | Phase::GaveUp(_) | Phase::Stopped => {
                self.after_failure(exit);
            }
        }
    }

    /// An exit that nobody asked for.
    fn after_failure(&mut self, exit: Exit) {
        self.told.push_back(Event::Exited { exit: exit.clone() });
        if !self.spec.restarts_after(&exit.outcome) {
            return self.stay_down();
        }
        match self.history.decide(Instant::now().into_std(), exit.ran_for, &mut rand::rng()) {
            Decision::Restart { after } => self.start_again(after),
            Decision::GiveUp { restarts } => {
                let within = self.spec.restart_policy().within;
                self.told.push_back(Event::GaveUp { restarts, within, exit: exit.clone() });
                self.enter(Phase::GaveUp(exit));
            }
        }
    }

    fn start_again(&mut self, after: Duration) {
        self.told.push_back(Event::Restarting { after });
        self.enter(Phase::Due(Instant::now() + after));
    }

    fn stay_down(&mut self) {
        self.told.push_back(Event::Stopped);
        self.enter(Phase::Stopped);
    }

    fn kill(&mut self) {
        if let Phase::Leaving { process, kill_at, .. } = &mut self.phase {
            process.kill();
            *kill_at = None;
        }
    }

    fn order_stop(&mut self) {
        match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Due(_) | Phase::GaveUp(_) => self.stay_down(),
            Phase::Running(process) => self.leave(process, Then::StayDown),
            Phase::Leaving { process, kill_at, .. } => {
                self.phase = Phase::Leaving { process, kill_at, then: Then::StayDown };
            }
            phase @ (Phase::Spawning(_) | Phase::Stopped) => self.phase = phase,
        }
    }

    /// A restart that was ordered is no failure: it starts a new history and does not wait.
    fn order_restart(&mut self) {
        self.history.forget();
        match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Due(_) | Phase::GaveUp(_) => self.start_again(Duration::ZERO),
            Phase::Running(process) => self.leave(process, Then::StartAgain),
            phase @ (Phase::Spawning(_) | Phase::Leaving { .. } | Phase::Stopped) => self.phase = phase,
        }
    }

    fn leave(&mut self, process: Process, then: Then) {
        process.terminate();
        let kill_at = Some(Instant::now() + self.spec.stop_grace());
        self.enter(Phase::Leaving { process, kill_at, then });
    }

    fn enter(&mut self, phase: Phase) {
        let state = match &phase {
            Phase::Due(at) if *at > Instant::now() => State::Waiting { until: *at },
            Phase::Due(_) | Phase::Spawning(_) => State::Starting,
            Phase::Running(process) => State::Running { pid: process.pid() },
            Phase::Leaving { process, .. } => State::Stopping { pid: process.pid() },
            Phase::GaveUp(exit) => State::GaveUp { exit: exit.clone() },
            Phase::Stopped => State::Stopped,
        };
        let first_line = match &phase {
            Phase::Running(process) | Phase::Leaving { process, .. } => process.first_line(),
            Phase::Due(_) | Phase::Spawning(_) | Phase::GaveUp(_) | Phase::Stopped => self.handle.logs.next_number(),
        };
        self.phase = phase;
        let restarts = self.starts.saturating_sub(1);
        self.status.send_replace(Status { state, since: Instant::now(), restarts, first_line });
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !matches!(self.phase, Phase::Stopped) {
            self.enter(Phase::Stopped); // drops the process, and with it the group
        }
        self.handle.logs.close();
    }
}

/// A hold on a child for those who do not own it; clones are cheap. Orders are carried out when the owner pulls.
#[derive(Debug, Clone)]
pub struct Handle {
    name: Arc<str>,
    status: watch::Receiver<Status>,
    orders: mpsc::Sender<Order>,
    logs: Logs,
}

impl Handle {
    /// Returns the child's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns where the child is now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Returns the id of its process, if one runs.
    pub fn pid(&self) -> Option<u32> {
        match self.status.borrow().state {
            State::Running { pid } | State::Stopping { pid } => Some(pid),
            State::Starting | State::Waiting { .. } | State::GaveUp { .. } | State::Stopped => None,
        }
    }

    /// Returns its output.
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// Waits until the child's state satisfies `wanted` and returns that status; `None` if the child is gone before. States that
    /// pass quickly may be skipped. Cancel-safe.
    pub async fn wait_for(&self, mut wanted: impl FnMut(&State) -> bool) -> Option<Status> {
        let mut status = self.status.clone();
        let reached = status.wait_for(|status| wanted(&status.state)).await.ok()?;
        Some(reached.clone())
    }

    /// Orders a stop (`SIGTERM`, after the spec's grace `SIGKILL`) and waits until the child is down for good. Its owner must not
    /// await this while nobody pulls; it has [`Child::stop`].
    pub async fn stop(&self) {
        if self.orders.send(Order::Stop).await.is_ok() {
            self.wait_for(|state| matches!(state, State::Stopped)).await;
        }
    }

    /// Orders a restart at once, also of a child that was given up; the history of failures starts anew. Returns when the order is
    /// given. A child that is being stopped or is down for good stays so.
    pub async fn restart_now(&self) {
        // A child that is gone cannot be restarted, which its state says.
        let _ = self.orders.send(Order::Restart).await;
    }
}
