//! The role put together: what is bound before anything starts, which parts run, who ends whom.
//!
//! Lives here: composition. Does not: behaviour.
//! One control runtime (accept, watch, leases, health, admin) and one data thread that carries every connection of both sides.
//! Admin answers from the beginning; the app is started, and the registry told of it, once the sidecar has its identity.

mod feed;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_discovery::IdentityTask;
use weft_identity::Identity;
use weft_model::{
    Endpoint, Epoch, Instance, InstanceId, Protocol, Status, Transport,
    metadata::{self, Metadata},
};
use weft_runtime::admin::{Admin, Readiness};
use weft_runtime::threads::{Connection, DataThreads, ThreadEnded};
use weft_runtime::{Context, Shutdown, listen};
use weft_supervise::Child;
use weft_traffic::{Interests, Outbound, OutboundConfig, Pool, PoolConfig, ToApp, Tracing, Worlds};

use crate::app::{self, PickedPort, Told};
use crate::door::Door;
use crate::entrance::{self, Entrance, Open};
use crate::lifecycle::{Lifecycle, Parts, Registration};
use crate::metrics::Metrics;
use crate::relay::Relay;
use crate::server::{Side, came_in_at, carry};
use crate::{Config, Plaintext, inbound, outbound};
use feed::Feed;

/// The app is on this machine: what does not answer a connection at once is not there.
const CONNECT_TO_APP: Duration = Duration::from_millis(300);
/// Connections accepted and not yet with the data thread; more wait in the kernel.
const ACCEPTED: usize = 64;

/// A sidecar whose listeners are bound; nothing is accepted, started or told yet.
pub struct Sidecar {
    inbound: TcpListener,
    outbound: TcpListener,
    admin: TcpListener,
    child: Option<Child>,
    interests: Interests,
    source: feed::Source,
    about: About,
}

/// What the parts are made of.
struct About {
    /// The app's port, if it was picked here: ours until the process ends.
    _picked: Option<PickedPort>,
    config: Config,
    context: Context,
    id: InstanceId,
    addresses: Addresses,
    plaintext: Plaintext,
    data: Option<PathBuf>,
    worlds: Worlds,
    traffic: weft_traffic::Metrics,
    metrics: Metrics,
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

impl Sidecar {
    /// Binds the listeners and reads what must be there before anything starts.
    ///
    /// # Errors
    /// A port that is taken, a services file that cannot be read ([`weft_runtime::Usage`]), a data directory that cannot be made.
    pub fn bind(mut config: Config, context: &Context) -> anyhow::Result<Self> {
        // Before anything listens: whoever is started after this sidecar may count on it.
        config.share_program.as_deref().map(share_program).transpose()?;
        let admin = listen::bind(config.inbound.admin())?;
        let (inbound, outbound) = (listen::bind(config.inbound)?, listen::bind(config.outbound)?);
        let picked = (config.app.port() == 0)
            .then(|| PickedPort::on(config.app.ip()).context("finding a port for the app"))
            .transpose()?;
        if let Some(picked) = &picked {
            config.app.set_port(picked.port);
        }
        let plaintext = config.plaintext()?;
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
        if config.will_be_somebody() {
            worlds.have_identity();
        }
        let source = feed::Source::load(&config, &worlds)?;
        let (context, metrics) = (context.clone(), Metrics::register(context.metrics()));
        let about =
            About { _picked: picked, config, context, id, addresses, plaintext, data, worlds, traffic, metrics };
        Ok(Self { inbound, outbound, admin, child, interests, source, about })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.about.addresses
    }

    /// Id of the instance it will register.
    pub fn id(&self) -> InstanceId {
        self.about.id
    }

    /// Joins the mesh, and runs until told to drain, until the app is done or was given up, or until a part fails.
    ///
    /// # Errors
    /// No identity from the registry; an app that failed too often, with its last lines; a registry that fences or refuses the instance; an abort.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let Self { inbound, outbound, admin, child, interests, source, about } = self;
        let (inside, outside) = (Side::default(), Side::default());
        let readiness = entrance::starting(about.config.credential.as_ref());
        let entrance = Entrance::shut(readiness.clone());
        let mut threads = about.start_data_thread(&inside, &outside, &entrance, &shutdown)?;
        let (drained, drain_told) = watch::channel(None);
        let (accepted, queue) = mpsc::channel(ACCEPTED);
        // What serves the lifecycle ends after it: the lease is needed to its last step, and so is `/metrics`.
        let (stop, until_the_end) = (CancellationToken::new(), Shutdown::new());
        about.announce();

        let mut parts = JoinSet::new();
        if let Some(child) = &child {
            parts.spawn(app::relay(child.handle().logs().clone()));
        }
        let asked_to_leave = CancellationToken::new();
        let hook = drain_hook(asked_to_leave.clone(), drain_told);
        let answers = Admin::new(about.context.metrics().clone(), readiness.clone()).drain(hook);
        parts.spawn(answers.run(admin, until_the_end.clone()));
        for (side, listener) in [(inside.clone(), inbound), (outside.clone(), outbound)] {
            let (entrance, accepted) = (entrance.clone(), accepted.clone());
            let world = source.is_live().then(|| about.worlds.clone());
            parts.spawn(async move {
                side.unless_leaving(outbound::first_world(entrance, world)).await;
                side.accept(listener, accepted).await;
            });
        }
        drop(accepted);

        let result = {
            let mut carrying = pin!(carry(&mut threads, queue));
            let joining = Box::pin(about.join(&readiness, &shutdown, &asked_to_leave)); // large, as is the other
            match alongside(joining, &mut parts, carrying.as_mut()).await {
                Ok(joined) => {
                    let (registration, child) = match joined {
                        Some(Joined { identity, task }) => {
                            if let Some(task) = task {
                                parts.spawn(task.run(stop.clone()));
                            }
                            let admin = about.admin_as_reached();
                            let (feed, relay) =
                                source.feed(&about.config, identity.as_ref(), admin, about.data.as_deref());
                            let registration = about.registration(identity.as_ref(), &feed);
                            entrance.open(about.open(identity, relay));
                            feed.run(&mut parts, about.config.service.clone(), interests, about.worlds.clone(), &stop);
                            (registration, child)
                        }
                        None => {
                            drop(child); // an app that was not started need not end; nobody knows this instance
                            (None, None)
                        }
                    };
                    let lifecycle = Lifecycle::new(Parts {
                        app: about.config.app,
                        child,
                        health: about.config.health.clone(),
                        timing: about.config.timing,
                        registration,
                        inbound: inside.clone(),
                        outbound: outside.clone(),
                        limits: about.config.drain,
                        readiness,
                        metrics: about.metrics.clone(),
                        asked_to_leave,
                        drained,
                    });
                    alongside(Box::pin(lifecycle.run(shutdown)), &mut parts, carrying.as_mut()).await
                }
                Err(error) => {
                    drop(child); // and so ends the part that waits for its lines
                    Err(error)
                }
            }
        };

        inside.cut();
        outside.cut();
        threads.finish().await;
        stop.cancel();
        until_the_end.abort();
        while parts.join_next().await.is_some() {}
        result
    }
}

/// A sidecar that is somebody, or nobody for good.
struct Joined {
    identity: Option<Identity>,
    /// Keeps the identity fresh.
    task: Option<IdentityTask>,
}

impl About {
    /// Becomes the service, if a token says that it may; none if it is told to leave meanwhile.
    async fn join(
        &self,
        readiness: &Readiness,
        shutdown: &Shutdown,
        asked_to_leave: &CancellationToken,
    ) -> anyhow::Result<Option<Joined>> {
        let Some(credential) = self.config.credential.clone() else {
            return Ok(Some(Joined { identity: self.config.identity.clone(), task: None }));
        };
        let file = self.data.as_ref().map(|data| data.join(format!(".weft-{}.identity", place(&self.config))));
        let (task, identity) = tokio::select! {
            joined = entrance::join(credential, self.config.service.clone(), file, readiness) => joined?,
            () = shutdown.draining() => return Ok(self.left_early(readiness)),
            () = asked_to_leave.cancelled() => return Ok(self.left_early(readiness)),
        };
        let renewals = task.renewals();
        self.context.metrics().certificate("sidecar", move || (renewals.expires(), renewals.failed()));
        readiness.not_ready(entrance::NO_APP);
        Ok(Some(Joined { identity: Some(identity), task: Some(task) }))
    }

    fn left_early(&self, readiness: &Readiness) -> Option<Joined> {
        tracing::info!("told to leave before a registry gave an identity");
        readiness.leave("leaving");
        None
    }

    fn start_data_thread(
        &self,
        inside: &Side,
        outside: &Side,
        entrance: &Entrance,
        shutdown: &Shutdown,
    ) -> std::io::Result<DataThreads> {
        let (inside, outside, inbound_at) = (inside.clone(), outside.clone(), self.addresses.inbound);
        let (service, app) = (self.config.service.clone(), self.config.app);
        let (worlds, metrics, entrance) = (self.worlds.clone(), self.traffic.clone(), entrance.clone());
        let tracing = weft_telemetry::tracing(&self.context);
        let build = move |_| {
            let near = PoolConfig { connect_timeout: CONNECT_TO_APP, ..PoolConfig::default() };
            let near = Pool::new(near, metrics.clone());
            let to_app = ToApp::new(service.clone(), app, worlds.clone(), tracing.clone(), near);
            let (inside, outside, entrance) = (inside.clone(), outside.clone(), entrance.clone());
            move |connection: Connection| {
                let (inside, outside) = (inside.clone(), outside.clone());
                let (to_app, entrance) = (to_app.clone(), entrance.clone());
                async move {
                    match entrance.get() {
                        _ if !came_in_at(&connection, inbound_at) => {
                            outside.serve(connection, move |request| outbound::call(entrance.clone(), request)).await;
                        }
                        Some(Open { door, .. }) => {
                            inside
                                .serve_from(connection, door, move |request| inbound::call(to_app.clone(), request))
                                .await;
                        }
                        None => inside.turn_away(connection),
                    }
                }
            }
        };
        DataThreads::start("sidecar", NonZeroUsize::MIN, shutdown, build)
    }

    /// What is behind the entrance. There is one data thread, so one pool.
    fn open(&self, identity: Option<Identity>, relay: Relay) -> Open {
        let Tracing { root, spans } = weft_telemetry::tracing(&self.context);
        let calls = OutboundConfig { root, spans, ..OutboundConfig::default() };
        let pool = Pool::new(PoolConfig { identity: identity.clone(), ..PoolConfig::default() }, self.traffic.clone());
        let to_mesh = Outbound::new(calls, self.worlds.clone(), pool);
        Open { door: Door::new(identity, self.plaintext, self.metrics.clone()), to_mesh, relay }
    }

    fn announce(&self) {
        let Addresses { inbound, outbound, admin, app } = self.addresses;
        for (proto, addr) in [("inbound", inbound), ("outbound", outbound), ("admin", admin)] {
            listen::announce(&self.context, proto, addr);
        }
        tracing::info!(service = %self.config.service, instance = %self.id, %app, "standing beside the app");
    }

    /// Where others reach the admin server: at the IP that callers are told.
    fn admin_as_reached(&self) -> SocketAddr {
        let at = self.config.advertise.unwrap_or(self.addresses.inbound);
        SocketAddr::new(at.ip(), self.addresses.admin.port())
    }

    /// What tools want to know of this instance: its place, where this sidecar tells of itself, and its build.
    fn metadata(&self) -> Metadata {
        let admin = self.admin_as_reached().to_string();
        let slot = self.config.slot.iter().map(|slot| (metadata::SLOT, slot.clone()));
        let metrics = self.config.metrics.iter().map(|at| (metadata::METRICS, at.clone()));
        let facts = [(metadata::ADMIN, admin), (metadata::VERSION, env!("CARGO_PKG_VERSION").to_owned())];
        let plaintext = self.config.plaintext.and_then(Plaintext::as_metadata);
        let plaintext = plaintext.map(|who| (metadata::PLAINTEXT, who.to_owned()));
        slot.chain(metrics).chain(facts).chain(plaintext).collect()
    }

    fn registration(&self, identity: Option<&Identity>, feed: &Feed) -> Option<Registration> {
        let Feed::Registry(control) = feed else { return None };
        let instance = Instance {
            id: self.id,
            service: self.config.service.clone(),
            epoch: Epoch::default(),
            endpoint: Endpoint {
                address: self.config.advertise.unwrap_or(self.addresses.inbound),
                transport: match identity {
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

/// Names the files of this instance in a directory that it may share.
fn place(config: &Config) -> String {
    config.slot.clone().unwrap_or_else(|| config.service.to_string())
}

/// Runs `it` until it ends, or what carries and serves beside it fails.
async fn alongside<T>(
    it: impl Future<Output = anyhow::Result<T>>,
    parts: &mut JoinSet<()>,
    carrying: Pin<&mut impl Future<Output = ThreadEnded>>,
) -> anyhow::Result<T> {
    tokio::select! {
        biased; // an abort ends the data thread, too: what is to be told is the abort
        result = it => result,
        failed = first_failure(parts) => Err(failed),
        ended = carrying => Err(ended.into()),
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
