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
    time::{Instant, MissedTickBehavior, interval_at},
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
pub use files::{DescriptorError, DescriptorFiles};
use files::{Files, Sets};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The name of the one service that there is.
fn upstream() -> ServiceName {
    UPSTREAM.parse().expect("a constant that is a name")
}

/// What is described, and what calls of it meet.
pub(super) struct Fixed {
    files: Files,
    endpoints: Vec<Endpoint>,
    policies: Vec<Arc<Policy>>,
    /// Those that the table is made of.
    sets: Sets,
    /// Where it is told whether the files can be used.
    part: Part,
    /// Why they cannot; empty: they can.
    told: String,
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
        let mut files = Files::new(files.taken()?);
        let sets = files.look().expect("the first look sees all")?;
        let name = files.path().map(|it| it.display().to_string()).unwrap_or_default();
        let part = outside.part(Kind::Descriptors, &name);
        part.is(State::Well);
        let fixed = Self { files, endpoints, policies, sets, part, told: String::new() };
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
        self.files.path().is_some()
    }

    /// Looks at the files until it is dropped.
    pub(super) async fn follow(mut self, mut places: Places<'_>) {
        let mut ticks = interval_at(Instant::now() + LOOK, LOOK); // the first look was at the start
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(&mut places).await;
        }
    }

    /// Looks at the files once. What has changed is taken over, or told to be unusable.
    async fn look(&mut self, places: &mut Places<'_>) {
        let mut files = self.files.lend();
        let looked = task::spawn_blocking(move || {
            let looked = files.look();
            (files, looked)
        });
        let Ok((files, looked)) = looked.await else { return }; // it panicked: all is read anew
        self.files = files;
        let Some(read) = looked else { return };
        let new = read.and_then(|sets| match sets.is(&self.sets) {
            true => Ok(None),
            false => self.table(&sets, places).map(|table| Some((sets, table))),
        });
        match new {
            Ok(new) => {
                if let Some((sets, table)) = new {
                    self.sets = sets;
                    self.publish(table, places);
                    tracing::info!(sets = self.sets.len(), "descriptor sets replaced");
                }
                self.part.is(State::Well);
                self.told.clear();
            }
            Err(error) => self.refuse(&error, places),
        }
    }

    /// Tells once, for as long as it lasts, what is wrong with the files.
    fn refuse(&mut self, error: &DescriptorError, places: &Places<'_>) {
        let error = chain(error);
        if error != self.told {
            places.meters.sets_refused.inc();
            tracing::error!(error, "descriptor sets cannot be used; the routes before them stay");
            self.part.is(State::Without(format!("{error}; the routes before stay")));
            self.told = error;
        }
    }
}

#[cfg(test)]
mod tests;
