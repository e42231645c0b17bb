//! Where the world comes from: a registry and what the sidecar does there, or a file.
//!
//! Lives here: the parts of either, and starting them. Does not: when (`sidecar`), what a world is (`weft-traffic`).
//! `Source` is what is known at once, `Feed` what a sidecar makes of it that knows who it is.

use std::net::SocketAddr;
use std::path::Path;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_discovery::{LeaseTask, Leases, Registries, RegistryUrls, Topic, Watch, WatchConfig, WatchTask};
use weft_identity::Identity;
use weft_model::{LeaseTtl, ServiceName};
use weft_runtime::Usage;
use weft_traffic::{Interests, Worlds};

use super::place;
use crate::relay::{Relay, RelayTask};
use crate::services::Services;
use crate::{Config, outbound};

/// Where the world comes from, as far as that is known before the sidecar is somebody.
pub(super) enum Source {
    Registry(RegistryUrls),
    Services(Services),
}

impl Source {
    /// Reads the file of static mode, and prepares the world for either.
    ///
    /// # Errors
    /// [`Usage`] for a file that cannot be read.
    pub(super) fn load(config: &Config, worlds: &Worlds) -> Result<Self, Usage> {
        match &config.source {
            crate::Source::Registry(urls) => {
                worlds.guard(config.service.clone());
                Ok(Self::Registry(urls.clone()))
            }
            crate::Source::Services(path) => {
                let loaded = Services::load(path.clone(), worlds);
                Ok(Self::Services(loaded.map_err(|error| Usage::new(error.to_string()))?))
            }
        }
    }

    /// Whether the world is still to be learnt.
    pub(super) const fn is_live(&self) -> bool {
        matches!(self, Self::Registry(_))
    }

    /// What comes of it for `identity`, or for nobody; and the relay of the app's xDS.
    pub(super) fn feed(
        self,
        config: &Config,
        identity: Option<&Identity>,
        admin: SocketAddr,
        data: Option<&Path>,
    ) -> (Feed, Relay) {
        match self {
            Self::Registry(urls) => {
                let (control, relay) = Control::new(&urls, config, identity, admin, data);
                (Feed::Registry(Box::new(control)), relay)
            }
            Self::Services(services) => (Feed::Services(services), Relay::none()),
        }
    }
}

/// Where the world comes from, ready to run.
pub(super) enum Feed {
    Registry(Box<Control>),
    Services(Services),
}

/// The parts that talk to the registry.
pub(super) struct Control {
    pub(super) registries: Registries,
    pub(super) leases: Leases,
    lease_task: LeaseTask,
    watch: Watch,
    watch_task: WatchTask,
    relay_task: RelayTask,
}

impl Control {
    fn new(
        urls: &RegistryUrls,
        config: &Config,
        identity: Option<&Identity>,
        admin: SocketAddr,
        data: Option<&Path>,
    ) -> (Self, Relay) {
        let registries = match identity {
            Some(identity) => Registries::secured(urls, identity),
            None => Registries::new(urls),
        };
        let (lease_task, leases) = Leases::new(registries.clone(), LeaseTtl::DEFAULT);
        let place = place(config);
        let (watch_task, watch) = Watch::new(
            registries.clone(),
            WatchConfig {
                watcher: format!("sidecar/{place}:{}", std::process::id()),
                admin: Some(admin),
                topics: vec![Topic::Directory, Topic::Service(config.service.clone())], // the latter for its policies
                last_good: data.map(|data| data.join(format!(".weft-{place}.last-good"))),
            },
        );
        let (relay, relay_task) = Relay::new(registries.clone());
        (Self { registries, leases, lease_task, watch, watch_task, relay_task }, relay)
    }
}

impl Feed {
    /// Starts what keeps the world up to date, and what else talks to the registry.
    pub(super) fn run(
        self,
        parts: &mut JoinSet<()>,
        own: ServiceName,
        interests: Interests,
        worlds: Worlds,
        stop: &CancellationToken,
    ) {
        match self {
            Self::Registry(control) => {
                let Control { lease_task, watch, watch_task, relay_task, .. } = *control;
                let subscriptions = watch.subscriptions();
                parts.spawn(lease_task.run(stop.clone()));
                parts.spawn(watch_task.run(stop.clone()));
                parts.spawn(relay_task.run(stop.clone()));
                parts.spawn(outbound::follow(watch, worlds.clone()));
                parts.spawn(outbound::subscribe(interests, subscriptions, worlds, own, stop.clone()));
            }
            Self::Services(services) => {
                parts.spawn(services.run(worlds, stop.clone()));
            }
        }
    }
}
