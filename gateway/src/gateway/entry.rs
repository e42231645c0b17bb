//! Entering the mesh: the gateway asks for its identity while it already answers, and follows the mesh once it has it.
//!
//! Lives here: who the gateway is by now, asking for that, saying what it waits for. Does not: what callers are told meanwhile (`protocol`), keeping the
//! identity fresh and following the mesh (`gateway::parts`).
//! Invariant: the first route table is published after `Who` is known, since what brings it is started here; so no call goes upstream as somebody else.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::sync::watch;
use weft_discovery::{Credential, IdentityTask, enter};
use weft_identity::Identity;
use weft_runtime::{Metrics, admin::Readiness};
use weft_traffic::Worlds;

use super::{
    Error,
    parts::{Feed, Parts, Tables},
};
use crate::{
    Config,
    edge::{metrics::Meters, policies::Compiler},
    protocol::health::Board,
    routes::keeper::{Keeper, Published},
};

/// How long a registry may take to give an identity; then the process ends, and whoever started it decides.
const JOIN: Duration = Duration::from_secs(60);
const LEARNING: &str = "no routes yet: learning which services there are";

/// Who the gateway is: not known while it joins, then for good. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Who(Arc<OnceLock<Option<Identity>>>);

impl Who {
    /// Known at once where nothing is to be asked for.
    pub(super) fn of(config: &Config) -> Self {
        let who = Self::default();
        if config.credential.is_none() {
            who.is(config.identity.clone());
        }
        who
    }

    fn is(&self, identity: Option<Identity>) {
        self.0.set(identity).expect("it is found out once");
    }

    /// Its identity; none if it speaks plaintext. For whoever goes by a route table.
    pub(super) fn identity(&self) -> Option<Identity> {
        self.0.get().expect("tables come from a mesh that was entered as somebody").clone()
    }
}

/// The way into the mesh, and what goes on there.
pub(super) struct Entry {
    pub(super) who: Who,
    pub(super) feed: Feed,
    pub(super) worlds: Worlds,
    pub(super) published: Published,
    pub(super) board: watch::Sender<Arc<Board>>,
    pub(super) readiness: Readiness,
    pub(super) meters: Meters,
    pub(super) edge: Compiler,
    pub(super) metrics: Metrics,
}

impl Entry {
    /// Waits until the gateway is who it is to be. An operator's token makes a gateway, not an operator.
    pub(super) async fn open(self, credential: Option<Credential>) -> Result<Entered, Error> {
        let Some(credential) = credential else { return Ok(Entered { entry: self, task: None }) };
        let service = credential.is_operators().then(|| "gateway".parse().expect("a constant that is a name"));
        let clock = Arc::new(weft_runtime::clock::wall);
        let waits = |why: &str| self.readiness.not_ready(format!("joining the mesh: {why}"));
        let (task, identity) = enter(credential, service, clock, JOIN, None, waits).await.map_err(Error::Join)?;
        let renewals = task.renewals();
        self.metrics.certificate("gateway", move || (renewals.expires(), renewals.failed()));
        self.who.is(Some(identity));
        self.readiness.not_ready(LEARNING);
        Ok(Entered { entry: self, task: Some(task) })
    }
}

/// What `/readyz` and callers are told first.
pub(super) fn starting(config: &Config) -> Readiness {
    Readiness::starting(match config.credential {
        Some(_) => "joining the mesh: asking a registry for an identity",
        None => LEARNING,
    })
}

/// A gateway that is somebody, or nobody for good.
pub(super) struct Entered {
    entry: Entry,
    /// Keeps the identity fresh.
    task: Option<IdentityTask>,
}

impl Entered {
    /// Starts what follows the mesh.
    pub(super) fn follow(self, parts: &mut Parts) {
        let Self { entry, task } = self;
        let Entry { who, feed, worlds, published, board, readiness, meters, edge, metrics: _ } = entry;
        let identity = who.identity();
        if identity.is_some() {
            worlds.have_identity();
        }
        if let Some(task) = task {
            parts.keep_identity(task);
        }
        match feed {
            Feed::Files(files) => parts.follow_files(*files, Tables { worlds, published, board, meters, edge }),
            feed => {
                let keeper = |fetch| Keeper::new(published, board, readiness, meters, edge, fetch);
                parts.follow(feed, identity, worlds, keeper);
            }
        }
    }
}
