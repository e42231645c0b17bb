//! The control side: everything that runs beside the data threads, and what brings services and endpoints.
//!
//! Lives here: the tasks, their one owner, the line that joins discovery and traffic. Does not: what any of them does.
//! Invariant: every part runs until the gateway ends; one that ends before is news (`Error::PartEnded`).

use std::{sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use weft_discovery::{IdentityTask, Registries, RegistryUrls, Watch, WatchConfig};
use weft_identity::Identity;
use weft_model::{Snapshot, Version};
use weft_runtime::{
    Metrics, Shutdown,
    admin::{Admin, Readiness},
};
use weft_traffic::Worlds;

use super::fixed::{Fixed, Places};
use crate::{
    edge::{
        access_log::Writer, issuers::Fetcher, metrics::Meters, outside::Outside, policies::Compiler, shared::SharedTask,
    },
    protocol::health::Board,
    routes::keeper::{Fetch, Keeper, Published},
    tls::Follower,
};

/// How long `/drain` goes on accepting after readiness fell, so that balancers in front notice. The sidecar's callers acknowledge; these do not.
const NOTICE: Duration = Duration::from_secs(5);
/// Time a descriptor set may take to arrive.
const FETCH: Duration = Duration::from_secs(5);
/// Time the parts have to end; of theirs only the admin server's last answers are worth waiting for, which has less time.
const END: Duration = Duration::from_secs(2);

/// What brings services and endpoints.
pub(super) enum Feed {
    /// Nothing more to come.
    Fixed,
    /// Files, to be looked at.
    Files(Box<Fixed>),
    /// Registries, to be watched so.
    Registry(Box<Watched>),
    /// Snapshots and descriptor sets made by a test.
    #[cfg(test)]
    Test { snapshots: tokio::sync::mpsc::Receiver<Arc<Snapshot>>, fetch: Fetch },
}

/// Where tables are published.
pub(super) struct Tables {
    pub(super) worlds: Worlds,
    pub(super) published: Published,
    pub(super) board: watch::Sender<Arc<Board>>,
    pub(super) meters: Meters,
    pub(super) edge: Compiler,
}

/// Whom to watch, and what for.
pub(super) struct Watched {
    pub(super) urls: RegistryUrls,
    pub(super) config: WatchConfig,
}

/// Snapshots as they come, and the word back that one is acted upon.
pub(super) trait Updates: Send + 'static {
    /// Waits for the next snapshot; none when there will be no more.
    fn next(&mut self) -> impl Future<Output = Option<Arc<Snapshot>>> + Send;
    /// From here on every new call goes by this version.
    fn acted_upon(&self, version: Version);
}

impl Updates for Watch {
    async fn next(&mut self) -> Option<Arc<Snapshot>> {
        Some(Watch::next(self).await?.snapshot)
    }

    fn acted_upon(&self, version: Version) {
        self.ack(version);
    }
}

/// The running parts.
pub(super) struct Parts {
    running: JoinSet<&'static str>,
    shutdown: Shutdown,
}

impl Parts {
    /// No parts yet. They have a shutdown of their own: a drain still follows the mesh and answers a scrape.
    pub(super) fn new() -> Self {
        Self { running: JoinSet::new(), shutdown: Shutdown::new() }
    }

    pub(super) fn write_log(&mut self, lines: Writer) {
        self.run("access log", lines.run());
    }

    pub(super) fn fetch_keys(&mut self, fetcher: Fetcher) {
        self.run("fetcher of issuers' keys", fetcher.run());
    }

    pub(super) fn follow_certificates(&mut self, follower: Follower) {
        self.run("follower of TLS files", follower.run());
    }

    pub(super) fn share_counts(&mut self, task: SharedTask) {
        self.run("shared rate limits", task.run());
    }

    pub(super) fn keep_identity(&mut self, task: IdentityTask) {
        self.run("identity", task.run(CancellationToken::new()));
    }

    /// `drains` is the gateway's own end, which `/drain` brings about.
    pub(super) fn serve_admin(
        &mut self,
        metrics: Metrics,
        readiness: Readiness,
        outside: Outside,
        listener: TcpListener,
        drains: Shutdown,
    ) {
        let asked = CancellationToken::new();
        self.run("drain", drain_when(asked.clone(), readiness.clone(), drains.clone()));
        let admin = Admin::new(metrics, readiness).drain(move || {
            asked.cancel();
            let drains = drains.clone();
            async move {
                drains.draining().await;
                "draining: finishing the calls in flight".to_owned()
            }
        });
        let admin = admin.pages(move |request| outside.page(request));
        let until = self.shutdown.clone();
        self.running.spawn(async move {
            admin.run(listener, until).await; // to its own end: the last answers
            "admin server"
        });
    }

    /// Keeps world and route table in step with what `feed` brings; registries are asked as `identity`.
    pub(super) fn follow(
        &mut self,
        feed: Feed,
        identity: Option<Identity>,
        worlds: Worlds,
        keeper: impl FnOnce(Fetch) -> Keeper,
    ) {
        match feed {
            Feed::Fixed | Feed::Files(_) => {} // the latter has no mesh to follow: [`Parts::follow_files`]
            Feed::Registry(watched) => {
                let Watched { urls, config } = *watched;
                let registries = match &identity {
                    Some(identity) => Registries::secured(&urls, identity),
                    None => Registries::new(&urls),
                };
                let (task, watch) = Watch::new(registries.clone(), config);
                self.run("watch", task.run(CancellationToken::new()));
                self.apply(watch, worlds, keeper(fetch_from(registries)));
            }
            #[cfg(test)]
            Feed::Test { snapshots, fetch } => self.apply(snapshots, worlds, keeper(fetch)),
        }
    }

    /// Keeps world and route table in step with files.
    pub(super) fn follow_files(&mut self, files: Fixed, tables: Tables) {
        self.run("descriptors", async move {
            let Tables { worlds, published, board, meters, mut edge } = tables;
            let (worlds, published, board, meters) = (&worlds, &*published, &board, &meters);
            files.follow(Places { worlds, published, board, meters, edge: &mut edge }).await;
        });
    }

    fn apply(&mut self, mut updates: impl Updates, worlds: Worlds, keeper: Keeper) {
        let (for_routes, snapshots) = watch::channel(Arc::default());
        self.run("route table", keeper.run(snapshots, self.shutdown.clone()));
        self.run("world", async move {
            while let Some(snapshot) = updates.next().await {
                worlds.apply(&snapshot);
                for_routes.send_replace(Arc::clone(&snapshot));
                updates.acted_upon(snapshot.version);
            }
        });
    }

    fn run(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.running.spawn(async move {
            tokio::select! {
                () = part => {}
                () = shutdown.aborting() => {}
            }
            name
        });
    }

    /// Waits until any part ends. Cancel-safe.
    pub(super) async fn ended(&mut self) -> &'static str {
        match self.running.join_next().await {
            Some(Ok(name)) => name,
            Some(Err(_)) => "control side", // a panic, reported by its hook
            None => std::future::pending().await,
        }
    }

    /// Ends all parts.
    pub(super) async fn end(mut self) {
        self.shutdown.abort();
        drop(timeout(END, async { while self.running.join_next().await.is_some() {} }).await);
        self.running.shutdown().await;
    }
}

/// What `/drain` asks for: not ready, and after the notice the drain. A part of its own, so that an asker who hangs up does not stop it half-way.
async fn drain_when(asked: CancellationToken, readiness: Readiness, shutdown: Shutdown) {
    asked.cancelled().await;
    readiness.leave("asked to drain");
    sleep(NOTICE).await;
    shutdown.drain();
    std::future::pending().await // its end would be news
}

fn fetch_from(registries: Registries) -> Fetch {
    Arc::new(move |service, digest| {
        let registries = registries.clone();
        Box::pin(async move { registries.descriptors(&service, Some(digest), FETCH).await })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_that_was_asked_for_gives_notice_first() {
        let (asked, readiness, shutdown) =
            (CancellationToken::new(), Readiness::starting("no routes yet"), Shutdown::new());
        readiness.ready();
        let mut parts = Parts::new();
        parts.run("drain", drain_when(asked.clone(), readiness.clone(), shutdown.clone()));
        let begun = tokio::time::Instant::now();
        assert!(timeout(NOTICE, shutdown.draining()).await.is_err(), "nobody has asked");
        assert!(readiness.load().is_ok());
        asked.cancel();
        assert!(timeout(NOTICE / 2, shutdown.draining()).await.is_err(), "the notice is not over");
        assert!(readiness.load().is_err());
        shutdown.draining().await;
        assert_eq!(begun.elapsed(), NOTICE * 2);
        assert!(timeout(NOTICE, parts.ended()).await.is_err(), "no part has failed");
    }
}
