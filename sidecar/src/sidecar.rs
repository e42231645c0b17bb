//! The role put together: what is bound before anything starts, which parts run, who ends whom.
//!
//! Lives here: composition. Does not: behaviour.
//! One control runtime (accept, watch, leases, health, admin) and one data thread that carries every connection of both sides.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_discovery::{
    IdentityTask, LeaseTask, Leases, Registries, RegistryUrls, Topic, Watch, WatchConfig, WatchTask, join, rejoin,
};
use weft_model::{Endpoint, Epoch, Instance, InstanceId, LeaseTtl, Protocol, ServiceName, Status, Transport, metadata};
use weft_runtime::admin::{Admin, Readiness};
use weft_runtime::threads::{Connection, DataThreads};
use weft_runtime::{Context, Shutdown, Usage, listen};
use weft_supervise::Child;
use weft_traffic::{Interests, Outbound, OutboundConfig, Pool, PoolConfig, ToApp, Tracing, Worlds};

use crate::app::{self, Told};
use crate::door::Door;
use crate::lifecycle::{Lifecycle, Parts, Registration};
use crate::metrics::Metrics;
use crate::relay::{Relay, RelayTask};
use crate::server::{Side, came_in_at, carry};
use crate::services::Services;
use crate::{Config, Plaintext, Source, inbound, outbound};

/// The app is on this machine: what does not answer a connection at once is not there.
const CONNECT_TO_APP: Duration = Duration::from_millis(300);
/// How long a registry may take to give an identity; then the process ends, and whoever started it decides.
const JOIN: Duration = Duration::from_secs(60);
/// Connections accepted and not yet with the data thread; more wait in the kernel.
const ACCEPTED: usize = 64;

/// A sidecar whose listeners are bound; nothing is accepted, started or told yet.
pub struct Sidecar {
    config: Config,
    context: Context,
    id: InstanceId,
    inbound: TcpListener,
    outbound: TcpListener,
    admin: TcpListener,
    addresses: Addresses,
    child: Option<Child>,
    worlds: Worlds,
    interests: Interests,
    traffic: weft_traffic::Metrics,
    metrics: Metrics,
    door: Door,
    relay: Relay,
    source: Feed,
    /// Keeps the identity fresh.
    joined: Option<IdentityTask>,
}

/// Where a sidecar listens, and where its app should.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Calls to the app come in here.
    pub inbound: SocketAddr,
    /// The app's own calls come in here.
    pub outbound: SocketAddr,
    /// `/metrics`, `/healthz`, `/readyz`, `/drain`.
    pub admin: SocketAddr,
    /// The app itself.
    pub app: SocketAddr,
}

/// Where the world comes from, ready to run.
enum Feed {
    Registry(Box<Control>),
    Services(Services),
}

/// The parts that talk to the registry.
struct Control {
    registries: Registries,
    leases: Leases,
    lease_task: LeaseTask,
    watch: Watch,
    watch_task: WatchTask,
    relay_task: RelayTask,
}

impl Sidecar {
    /// Binds the listeners and reads what must be there before anything starts.
    ///
    /// # Errors
    /// A port that is taken, a services file that cannot be read ([`Usage`]), a data directory that cannot be made.
    pub async fn bind(mut config: Config, context: &Context) -> anyhow::Result<Self> {
        // Before anything listens: whoever is started after this sidecar may count on it.
        config.share_program.as_deref().map(share_program).transpose()?;
        let admin = listen::bind(config.inbound.admin())?;
        let (inbound, outbound) = (listen::bind(config.inbound)?, listen::bind(config.outbound)?);
        if config.app.port() == 0 {
            config.app.set_port(app::free_port(config.app.ip()).context("finding a port for the app")?);
        }
        let joined = join_mesh(&mut config, context).await?;
        let metrics = Metrics::register(context.metrics());
        let door = Door::new(config.identity.clone(), config.plaintext()?, metrics.clone());
        let addresses = Addresses {
            inbound: inbound.local_addr()?,
            outbound: outbound.local_addr()?,
            admin: admin.local_addr()?,
            app: config.app,
        };
        let id = InstanceId::new(uuid::Uuid::now_v7());
        let data = config.data.as_deref().map(made).transpose()?;
        let told =
            Told { app: config.app, instance: id.to_string(), outbound: addresses.outbound, data: data.as_deref() };
        let child = app::child(&config, context.env(), &told).context("starting the thread that runs the app")?;
        let traffic = context.metrics().register(|registry| weft_traffic::Metrics::register(registry, "sidecar"));
        let (worlds, interests) = Worlds::new(traffic.clone());
        if config.identity.is_some() {
            worlds.have_identity();
        }
        let (source, relay) = match &config.source {
            Source::Registry(urls) => {
                worlds.guard(config.service.clone());
                let admin = reached(&config, &addresses);
                let (control, relay) = Control::new(urls, &config, admin, data.as_deref());
                (Feed::Registry(Box::new(control)), relay)
            }
            Source::Services(path) => {
                let loaded = Services::load(path.clone(), &worlds);
                (Feed::Services(loaded.map_err(|error| Usage::new(error.to_string()))?), Relay::none())
            }
        };
        let context = context.clone();
        Ok(Self {
            config,
            context,
            id,
            inbound,
            outbound,
            admin,
            addresses,
            child,
            worlds,
            interests,
            traffic,
            metrics,
            door,
            relay,
            source,
            joined,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Id of the instance it will register.
    pub fn id(&self) -> InstanceId {
        self.id
    }

    /// Runs until told to drain, until the app is done or was given up, or until a part fails.
    ///
    /// # Errors
    /// An app that failed too often, with its last lines; a registry that fences or refuses the instance; an abort.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let (inside, outside) = (Side::default(), Side::default());
        let mut threads = self.start_data_thread(&inside, &outside, &shutdown)?;
        let registration = self.registration();
        let readiness = Readiness::starting("the app is not ready yet");
        let (drained, drain_told) = watch::channel(None);
        let (accepted, queue) = mpsc::channel(ACCEPTED);
        // What serves the lifecycle ends after it: the lease is needed to its last step, and so is `/metrics`.
        let (stop, until_the_end) = (CancellationToken::new(), Shutdown::new());
        self.announce();

        let mut parts = JoinSet::new();
        if let Some(child) = &self.child {
            parts.spawn(app::relay(child.handle().logs().clone()));
        }
        let asked_to_leave = CancellationToken::new();
        let hook = drain_hook(asked_to_leave.clone(), drain_told);
        let admin = Admin::new(self.context.metrics().clone(), readiness.clone()).drain(hook);
        parts.spawn(admin.run(self.admin, until_the_end.clone()));
        let knows_at_once = matches!(self.source, Feed::Services(_));
        for (side, listener) in [(inside.clone(), self.inbound), (outside.clone(), self.outbound)] {
            let (world, accepted) = (self.worlds.clone(), accepted.clone());
            parts.spawn(async move {
                if !knows_at_once {
                    side.unless_leaving(outbound::first_world(world)).await;
                }
                side.accept(listener, accepted).await;
            });
        }
        drop(accepted);
        if let Some(task) = self.joined {
            parts.spawn(task.run(stop.clone()));
        }
        run_source(&mut parts, self.source, self.config.service, self.interests, self.worlds, &stop);
        let lifecycle = Lifecycle::new(Parts {
            app: self.config.app,
            child: self.child,
            health: self.config.health,
            timing: self.config.timing,
            registration,
            inbound: inside.clone(),
            outbound: outside.clone(),
            limits: self.config.drain,
            readiness,
            metrics: self.metrics,
            asked_to_leave,
            drained,
        });
        let mut thread_ended = false;
        let result = tokio::select! {
            biased; // an abort ends the data thread, too: what is to be told is the abort
            result = lifecycle.run(shutdown) => result,
            failed = first_failure(&mut parts) => Err(failed),
            ended = carry(&mut threads, queue) => {
                thread_ended = true;
                Err(ended.into())
            }
        };

        inside.cut();
        outside.cut();
        if !thread_ended {
            threads.finish().await;
        }
        stop.cancel();
        until_the_end.abort();
        while parts.join_next().await.is_some() {}
        result
    }

    fn start_data_thread(&self, inside: &Side, outside: &Side, shutdown: &Shutdown) -> std::io::Result<DataThreads> {
        let (inside, outside, inbound_at) = (inside.clone(), outside.clone(), self.addresses.inbound);
        let (service, app) = (self.config.service.clone(), self.config.app);
        let (worlds, metrics, door) = (self.worlds.clone(), self.traffic.clone(), self.door.clone());
        let relay = self.relay.clone();
        let tracing = weft_telemetry::tracing(&self.context);
        let far = PoolConfig { identity: self.config.identity.clone(), ..PoolConfig::default() };
        let build = move |_| {
            let near = PoolConfig { connect_timeout: CONNECT_TO_APP, ..PoolConfig::default() };
            let near = Pool::new(near, metrics.clone());
            let to_app = ToApp::new(service.clone(), app, worlds.clone(), tracing.clone(), near);
            let pool = Pool::new(far.clone(), metrics.clone());
            let Tracing { root, spans } = tracing.clone();
            let to_mesh = OutboundConfig { root, spans, ..OutboundConfig::default() };
            let to_mesh = Outbound::new(to_mesh, worlds.clone(), pool);
            let (inside, outside, door, relay) = (inside.clone(), outside.clone(), door.clone(), relay.clone());
            move |connection: Connection| {
                let (inside, outside, door, relay) = (inside.clone(), outside.clone(), door.clone(), relay.clone());
                let (to_app, to_mesh) = (to_app.clone(), to_mesh.clone());
                async move {
                    if came_in_at(&connection, inbound_at) {
                        inside
                            .serve_from(connection, &door, move |request| inbound::call(to_app.clone(), request))
                            .await;
                    } else {
                        let call = move |request| outbound::call(to_mesh.clone(), relay.clone(), request);
                        outside.serve(connection, call).await;
                    }
                }
            }
        };
        DataThreads::start("sidecar", NonZeroUsize::MIN, shutdown, build)
    }

    fn announce(&self) {
        let Addresses { inbound, outbound, admin, app } = self.addresses;
        for (proto, addr) in [("inbound", inbound), ("outbound", outbound), ("admin", admin)] {
            listen::announce(&self.context, proto, addr);
        }
        tracing::info!(service = %self.config.service, instance = %self.id, %app, "standing beside the app");
    }

    /// What tools want to know of this instance: its place, where this sidecar tells of itself, and its build.
    fn metadata(&self) -> BTreeMap<String, String> {
        let admin = reached(&self.config, &self.addresses).to_string();
        let slot = self.config.slot.iter().map(|slot| (metadata::SLOT, slot.clone()));
        let metrics = self.config.metrics.iter().map(|at| (metadata::METRICS, at.clone()));
        let facts = [(metadata::ADMIN, admin), (metadata::VERSION, env!("CARGO_PKG_VERSION").to_owned())];
        let plaintext = self.config.plaintext.and_then(Plaintext::as_metadata);
        let plaintext = plaintext.map(|who| (metadata::PLAINTEXT, who.to_owned()));
        slot.chain(metrics).chain(facts).chain(plaintext).map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn registration(&self) -> Option<Registration> {
        let Feed::Registry(control) = &self.source else { return None };
        let instance = Instance {
            id: self.id,
            service: self.config.service.clone(),
            epoch: Epoch::default(),
            endpoint: Endpoint {
                address: self.config.advertise.unwrap_or(self.addresses.inbound),
                transport: match &self.config.identity {
                    Some(identity) => Transport::Mtls { identity: identity.id() },
                    None => Transport::Plaintext,
                },
                protocol: Protocol::H2,
            },
            status: Status::Starting,
            reason: String::new(),
            locality: self.config.locality.clone(),
            weight: self.config.weight,
            metadata: self.metadata(),
            descriptors: None,
            check: None, // we report
        };
        Some(Registration {
            registries: control.registries.clone(),
            leases: control.leases.clone(),
            instance,
            descriptors: self.config.descriptors.clone(),
        })
    }
}

/// Where others reach the admin server: at the IP that callers are told.
fn reached(config: &Config, addresses: &Addresses) -> SocketAddr {
    SocketAddr::new(config.advertise.unwrap_or(addresses.inbound).ip(), addresses.admin.port())
}

impl Control {
    fn new(urls: &RegistryUrls, config: &Config, admin: SocketAddr, data: Option<&Path>) -> (Self, Relay) {
        let registries = match &config.identity {
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

/// Names the files of this instance in a directory that it may share.
fn place(config: &Config) -> String {
    config.slot.clone().unwrap_or_else(|| config.service.to_string())
}

/// Becomes the service, where a token says that we may.
async fn join_mesh(config: &mut Config, context: &Context) -> anyhow::Result<Option<IdentityTask>> {
    let Some(credential) = config.credential.take() else { return Ok(None) };
    let (shutdown, clock) = (context.shutdown(), Arc::new(weft_runtime::clock::wall));
    let (service, place) = (Some(config.service.clone()), place(config));
    let file = config.data.as_deref().map(made).transpose()?.map(|data| data.join(format!(".weft-{place}.identity")));
    let joining = async {
        match file {
            Some(file) => rejoin(credential, service, clock, JOIN, file).await,
            None => join(credential, service, clock, JOIN).await,
        }
    };
    let (task, identity) = tokio::select! {
        joined = joining => joined.context("joining the mesh")?,
        () = shutdown.draining() => anyhow::bail!("told to leave before a registry gave an identity"),
    };
    let renewals = task.renewals();
    context.metrics().certificate("sidecar", move || (renewals.expires(), renewals.failed()));
    config.identity = Some(identity);
    Ok(Some(task))
}

/// Starts what keeps the world up to date.
fn run_source(
    parts: &mut JoinSet<()>,
    source: Feed,
    own: ServiceName,
    interests: Interests,
    worlds: Worlds,
    stop: &CancellationToken,
) {
    match source {
        Feed::Registry(control) => {
            let Control { lease_task, watch, watch_task, relay_task, .. } = *control;
            let subscriptions = watch.subscriptions();
            parts.spawn(lease_task.run(stop.clone()));
            parts.spawn(watch_task.run(stop.clone()));
            parts.spawn(relay_task.run(stop.clone()));
            parts.spawn(outbound::follow(watch, worlds.clone()));
            parts.spawn(outbound::subscribe(interests, subscriptions, worlds, own, stop.clone()));
        }
        Feed::Services(services) => {
            parts.spawn(services.run(worlds, stop.clone()));
        }
    }
}

/// Waits until a part fails. Parts that end by themselves have nothing left to do.
async fn first_failure(parts: &mut JoinSet<()>) -> anyhow::Error {
    while let Some(ended) = parts.join_next().await {
        if let Err(error) = ended {
            return anyhow::Error::new(error).context("a part of the sidecar failed");
        }
    }
    std::future::pending().await
}

/// What `/drain` does: starts the leaving and answers when every caller has heard of it, so that a `preStop` hook that waits for the
/// answer lets the app be stopped no earlier.
fn drain_hook(
    asked_to_leave: CancellationToken,
    told: watch::Receiver<Option<String>>,
) -> impl Fn() -> Pin<Box<dyn Future<Output = String> + Send>> + Send + Sync + 'static {
    move || {
        let mut told = told.clone();
        asked_to_leave.cancel();
        Box::pin(async move {
            match told.wait_for(Option::is_some).await {
                Ok(how) => format!("draining: {}", how.clone().unwrap_or_default()),
                Err(_) => "leaving".to_owned(),
            }
        })
    }
}

/// Puts this program, which needs nothing beside it, where a container without one finds it; one that is there is replaced whole.
fn share_program(dir: &Path) -> anyhow::Result<()> {
    let failed = || format!("--share-program {}", dir.display());
    let own = weft_runtime::env::current_exe().context("finding this program")?;
    let fresh = dir.join(".weft.new");
    std::fs::create_dir_all(dir).with_context(failed)?;
    std::fs::copy(own, &fresh).with_context(failed)?; // its mode comes along
    std::fs::rename(fresh, dir.join("weft")).with_context(failed)
}

fn made(data: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(data).with_context(|| format!("--data {}", data.display()))?;
    Ok(std::path::absolute(data)?)
}
