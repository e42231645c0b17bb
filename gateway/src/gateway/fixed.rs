//! Static mode: one upstream, described by files in place of a mesh.
//!
//! Lives here: the table made of descriptor sets, when it is made anew. Does not: files (`fixed::files`), what a table says (`routes`).
//! Invariants: a table has all sets or, where one of them cannot be used, none of what is new: the one before stays; once it runs, one task publishes.

mod files;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use tokio::{
    sync::watch,
    task,
    time::{MissedTickBehavior, interval},
};
use weft_model::{Endpoint, Policy, ServiceName};
use weft_traffic::{Claims, StaticCluster, Worlds};

use crate::{
    config::UPSTREAM,
    edge::{
        metrics::Meters,
        outside::{Kind, Outside, Part, State},
        policies::{Compiler, Told},
    },
    protocol::{chain, health::Board},
    routes::{Entry, Table},
};
use files::Sets;
pub use files::{DescriptorError, DescriptorFiles};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

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
        let (info, sets) = (Arc::new(sets.info()), sets.linked());
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
                        tracing::info!(sets = self.sets.len(), "descriptor sets replaced");
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
