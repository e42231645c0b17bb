//! The life of `weft up`, from its first line to its last.
//!
//! Lives here: composition and the phases. Does not: any one of its parts.
//! ```text
//! Building ──► Starting ──► Serving ──► Stopping        first signal, `weft stop`, a failed start: stop in order
//!    └────────────┴────────────┴──────────► Killed      second signal: everything at once
//! ```

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use weft_discovery::{Registries, RegistryUrls, Topic, Watch, WatchConfig};
use weft_identity::TrustDomain;
use weft_model::{Epoch, InstanceId, Snapshot};
use weft_runtime::{
    Context, Shutdown,
    listen::{self, ListenAddr},
};
use weft_supervise::{Spawner, Supervisor};

use crate::{
    board::{Board, Kind, Row, View},
    cargo::Cargo,
    config::Config,
    control::{self, Control},
    director::{Director, GatewaysFile, Order},
    keys::Keys,
    launch::Launch,
    listed,
    place::{self, Entry, Listed, Place, Written},
    plan::Slot,
    procfs,
    screen::{self, Screen},
    welcome,
};

/// Orders that wait while one is carried out; more are refused.
const ORDERS: usize = 16;
/// Free ports tried until the one 80 above is free, too.
const PORT_TRIES: u32 = 16;
/// How long clients of the control socket have to hear that all is stopped.
const FAREWELL: Duration = Duration::from_secs(1);

/// Flags of `weft up`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The file that describes the mesh; else weft.toml in this directory or above
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Runs the mesh until it is stopped. `program` is what the person typed to start us, for lines to copy.
pub async fn run(args: Args, program: String, gateways_file: GatewaysFile, context: Context) -> anyhow::Result<()> {
    let started = Instant::now();
    let screen = Screen::new();
    let dir = std::env::current_dir().context("finding the working directory")?;
    let config = Config::load(args.file.as_deref(), &dir)?;
    screen.say(&headline(&config));
    let place = Arc::new(Place::take(config.root(), &program).await?);
    for name in place.end_leftovers().await {
        screen.say(&format!("  ended what an earlier `weft up` left running: {name}"));
    }
    let config = Arc::new(with_ports(config)?);
    let mut up = Up::prepare(config, place, screen, program, gateways_file, started, &context)?;
    let outcome = up.until_stop(&context).await;
    let stopped = up.stop(&context, outcome.is_err()).await;
    outcome.and(stopped)
}

fn headline(config: &Config) -> String {
    let services = config.services.iter().map(|(name, service)| match service.scale {
        1 => name.to_string(),
        scale => format!("{scale} × {name}"),
    });
    let all: Vec<_> = ["registry".to_owned(), "gateway".to_owned()].into_iter().chain(services).collect();
    format!("weft up: {} from {}", all.join(", "), config.file.display())
}

/// Makes sure that the ports are free before anything is built or started, and chooses one where the file says 0, so that a role that is
/// started again listens where it did before. Until a role listens, and while it is started again, a chosen port belongs to nobody: hence
/// one that no connection is given meanwhile.
fn with_ports(mut config: Config) -> anyhow::Result<Config> {
    let file = config.file.display().to_string();
    let free = |addr: ListenAddr, key: &str| listen::bind(addr.lasting()).with_context(|| format!("{key} of {file}"));
    let listen = free(config.registry.listen, "[registry] listen")?;
    let http = free(config.registry.http, "[registry] http")?;
    let dns = free(config.registry.dns, "[registry] dns")?;
    let gateway = gateway_port(config.gateway.listen, free)?;
    config.registry.listen = listen.local_addr()?.into();
    config.registry.http = http.local_addr()?.into();
    config.registry.dns = dns.local_addr()?.into();
    config.gateway.listen = gateway;
    Ok(config)
}

/// The gateway's admin port stands 80 above its own; both must be free.
fn gateway_port(
    wanted: ListenAddr,
    free: impl Fn(ListenAddr, &str) -> anyhow::Result<TcpListener>,
) -> anyhow::Result<ListenAddr> {
    let mut tries = if wanted.get().port() == 0 { PORT_TRIES } else { 1 };
    loop {
        let main = free(wanted, "[gateway] listen")?;
        let addr: ListenAddr = main.local_addr()?.into();
        tries -= 1;
        match free(addr.admin(), "the admin port, 80 above [gateway] listen,") {
            Ok(_) => return Ok(addr),
            Err(error) if tries == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

/// Everything `weft up` is made of.
struct Up {
    config: Arc<Config>,
    screen: Screen,
    program: String,
    started: Instant,
    exe: PathBuf,
    spawner: Spawner,
    director: Director,
    board: View,
    orders: mpsc::Receiver<Order>,
    /// Takes who we are once the registry is there to be watched.
    joined: Option<oneshot::Sender<Keys>>,
    place: Arc<Place>,
    world: watch::Receiver<Arc<Snapshot>>,
    /// Cancelled when everything is stopped.
    stopped: CancellationToken,
    /// Control socket, board, watch, screen, `run.json`: none of them ends before we do.
    parts: JoinSet<anyhow::Result<()>>,
    /// The supervisor; dropping it kills what still runs.
    supervisor: JoinSet<()>,
    children_gone: CancellationToken,
}

impl Up {
    fn prepare(
        config: Arc<Config>,
        place: Arc<Place>,
        screen: Screen,
        program: String,
        gateways_file: GatewaysFile,
        started: Instant,
        context: &Context,
    ) -> anyhow::Result<Self> {
        let exe = weft_runtime::env::current_exe().context("finding our own binary")?;
        let supervisor = Supervisor::new().context("starting the supervisor")?;
        let control = supervisor.control();
        let (board, view) = Board::new(control.events());
        let launch = Launch::new(&exe, context.env(), config.root(), place.tokens());
        let (rows, lies, shown) = (view.clone(), place.clone(), screen.clone());
        let director = Director::new(config.clone(), launch, control, rows, lies, shown, gateways_file);
        let (orders, ordered) = mpsc::channel(ORDERS);
        let (stopped, children_gone) = Default::default();
        let (joined, join) = oneshot::channel();
        let (world_in, world) = watch::channel(Arc::default());
        let path = place::socket(config.root());
        let listener = control::bind(&path).with_context(|| format!("control socket {}", path.display()))?;
        let control = Control {
            config: config.clone(),
            board: view.clone(),
            orders,
            screen: screen.clone(),
            shutdown: context.shutdown(),
            stopped: CancellationToken::clone(&stopped),
            started_at: control::now(),
            reach: director.reach(),
            tasks: Default::default(),
        };
        let mut parts = JoinSet::new();
        parts.spawn(async move { Ok(control.serve(listener).await?) });
        parts.spawn(async move {
            board.run().await;
            Ok(())
        });
        parts.spawn(write_down(view.clone(), world.clone(), place.clone()));
        parts.spawn(show(view.clone(), screen.clone(), context.shutdown()));
        parts.spawn(watch_registry(Arc::clone(&config), join, world_in, view.clone()));
        let mut supervising = JoinSet::new();
        supervising.spawn(supervisor.run(CancellationToken::clone(&children_gone)));
        Ok(Self {
            config,
            screen,
            program,
            started,
            exe,
            spawner: Spawner::new().context("starting a thread")?,
            director,
            board: view,
            orders: ordered,
            joined: Some(joined),
            place,
            world,
            stopped,
            parts,
            supervisor: supervising,
            children_gone,
        })
    }

    /// Builds, starts and serves; an error means that something did not start.
    async fn until_stop(&mut self, context: &Context) -> anyhow::Result<()> {
        let shutdown = context.shutdown();
        let mut parts = std::mem::take(&mut self.parts);
        let outcome = tokio::select! {
            outcome = self.start_and_serve(context) => outcome,
            () = shutdown.draining() => Ok(()),
            Some(ended) = parts.join_next() => Err(anyhow::anyhow!("a part of weft up ended: {ended:?}")),
        };
        self.parts = parts;
        outcome
    }

    async fn start_and_serve(&mut self, context: &Context) -> anyhow::Result<()> {
        self.build(context).await?;
        self.director.start_registry().await?;
        let domain = self.join().await?;
        self.director.start_services().await?;
        let (world, config) = (self.world.clone(), Arc::clone(&self.config));
        let reach = self.director.start_gateway(move || grpc_services(&world.borrow(), &config)).await?;
        let rows = self.board.rows();
        let facts = welcome::Facts {
            config: &self.config,
            reach,
            domain,
            rows: &rows,
            program: &self.program,
            took: self.started.elapsed(),
        };
        self.screen.print(&welcome::text(&facts));
        let lines = unreachable(&self.world.borrow(), &self.config);
        lines.iter().for_each(|line| self.screen.say(line));
        self.director.announce(reach);
        self.director.serve(&mut self.orders).await;
        Ok(())
    }

    /// Becomes the operator of the mesh, and gives its services their tokens. Returns the trust domain.
    async fn join(&mut self) -> anyhow::Result<TrustDomain> {
        let stage = self.screen.stage("identity");
        let keys = Keys::open(&self.config, &self.place).await?;
        let identity = keys.identity();
        stage.done(&format!("mutual TLS, {}", identity.id()));
        let registries = Registries::secured(&registry(&self.config)?, &identity);
        // Before those of this one join.
        match listed::take_out(&registries, &self.place, self.place.left_listed()).await {
            Ok(out) => {
                if !out.names.is_empty() {
                    let names = out.names.join(", ");
                    self.screen
                        .say(&format!("  took out of the registry what an earlier `weft up` left there: {names}"));
                }
                for kept in out.kept {
                    self.screen.say(&format!("  what an earlier `weft up` left stays listed for a while: {kept}"));
                }
            }
            // Their leases run out.
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "instances of an earlier `weft up` stay listed for a while"
            ),
        }
        self.director.joined(registries);
        // The part that takes it lives as long as we do.
        if let Some(joined) = self.joined.take() {
            drop(joined.send(keys));
        }
        Ok(identity.trust().domain())
    }

    async fn build(&mut self, context: &Context) -> anyhow::Result<()> {
        let packages = self.config.packages();
        if packages.is_empty() {
            return Ok(());
        }
        let stage = self.screen.stage("build");
        let cargo = Cargo {
            root: self.config.root(),
            exe: &self.exe,
            env: context.env(),
            spawner: &self.spawner,
            color: self.screen.is_live() && context.env().get("NO_COLOR").is_none_or(str::is_empty),
        };
        let built = cargo.build(&packages, |what| stage.busy(what)).await?;
        self.director.built(built);
        stage.done(&packages.join(", "));
        Ok(())
    }

    /// Stops in order; kills at once when asked for that. Leaves no process.
    async fn stop(mut self, context: &Context, failed: bool) -> anyhow::Result<()> {
        let shutdown = context.shutdown();
        let since = Instant::now();
        self.screen.say(if failed {
            "stopping what was started"
        } else {
            "stopping; Ctrl-C again kills everything at once"
        });
        shutdown.drain();
        drop(self.orders); // those that wait are cut off now, and who asked is told
        let in_order = tokio::select! {
            () = self.director.stop() => true,
            () = shutdown.aborting() => false,
        };
        if in_order {
            self.screen.say(&format!("stopped after {}", screen::seconds(since.elapsed())));
            self.children_gone.cancel();
            while self.supervisor.join_next().await.is_some() {}
        } else {
            self.screen.say("killed");
            // A sidecar that is killed takes its app along, and nobody what the app has started: that is looked up while it has parents.
            let left = procfs::descendants(std::process::id());
            self.supervisor.shutdown().await;
            place::kill(&left);
        }
        self.stopped.cancel();
        let farewell = async { while self.parts.join_next().await.is_some_and(|part| !matches!(part, Ok(Ok(())))) {} };
        drop(timeout(FAREWELL, farewell).await); // a client that does not read learns from the closed socket
        self.parts.shutdown().await;
        self.screen.close();
        Ok(())
    }
}

fn registry(config: &Config) -> anyhow::Result<RegistryUrls> {
    format!("https://{}", config.registry.listen).parse().context("address of the registry")
}

/// gRPC services of the mesh's services, as the registry knows them.
fn grpc_services(world: &Snapshot, config: &Config) -> Vec<String> {
    let services = config.services.keys().filter_map(|name| world.services.get(name));
    services.flat_map(|service| service.info.grpc_services.iter().map(|grpc| grpc.name.clone())).collect()
}

/// What cannot be called of services that serve: names that belong to others, methods that nobody knows.
fn unreachable(world: &Snapshot, config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, service) in config.services.keys().filter_map(|name| Some((name, world.services.get(name)?))) {
        let refused: Vec<_> =
            service.info.refused.iter().map(|it| format!("{} belongs to {}", it.name, it.holder)).collect();
        if !refused.is_empty() {
            lines.push(format!("  {name}: calls do not come here: {}; `weft check` says more", refused.join(", ")));
        } else if !service.instances.is_empty() && service.info.descriptors.is_empty() {
            lines.push(format!(
                "  {name}: its methods are not known (has the app gRPC reflection?), so calls through the gateway fail; `weft check` says more"
            ));
        }
    }
    lines
}

/// Tells the board what the registry says. We send no call anywhere, so a version is acted upon when it has arrived.
async fn watch_registry(
    config: Arc<Config>,
    joined: oneshot::Receiver<Keys>,
    world: watch::Sender<Arc<Snapshot>>,
    board: View,
) -> anyhow::Result<()> {
    let Ok(keys) = joined.await else { std::future::pending().await }; // stopped before the registry was there
    let urls = registry(&config)?;
    let watcher = format!("up:{}", std::process::id());
    let watch_config = WatchConfig { watcher, admin: None, topics: vec![Topic::All], last_good: None };
    let (task, mut watch) = Watch::new(Registries::secured(&urls, &keys.identity()), watch_config);
    let mut running = JoinSet::new();
    running.spawn(task.run(CancellationToken::new()));
    running.spawn(keys.run());
    while let Some(update) = watch.next().await {
        world.send_replace(Arc::clone(&update.snapshot));
        board.world(update.snapshot).await;
        watch.ack(update.version);
    }
    running.join_next().await.transpose()?;
    anyhow::bail!("the watch of the registry ended")
}

/// Keeps the table and the lines about changes up to date.
async fn show(mut board: View, screen: Screen, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut before = board.rows();
    while let Some(rows) = board.next().await {
        for line in screen::changes(&before, &rows) {
            screen.say(&format!("  {line}"));
        }
        screen.table(if shutdown.is_draining() { &[] } else { &rows }); // a stop has its own lines
        before = rows;
    }
    Ok(())
}

/// Keeps `run.json` up to date: what runs and what the registry lists of it, for the next `weft up` beside the same file.
async fn write_down(
    mut board: View,
    mut world: watch::Receiver<Arc<Snapshot>>,
    place: Arc<Place>,
) -> anyhow::Result<()> {
    let (mut written, mut listed) = (Written::default(), BTreeMap::new());
    loop {
        let rows = tokio::select! {
            Some(rows) = board.next() => rows,
            Ok(()) = world.changed() => board.rows(),
            else => return Ok(()),
        };
        still_listed(&mut listed, &rows, &world.borrow_and_update());
        let instances =
            listed.iter().map(|(id, (slot, epoch))| Listed { name: slot.to_string(), id: *id, epoch: *epoch });
        let instances = instances.collect();
        let now = Written { processes: rows.iter().flat_map(entries).collect(), instances };
        if now != written {
            if let Err(error) = place.write_down(now.clone()) {
                tracing::warn!(%error, "cannot write run.json; should weft up be killed, its processes end without it on Linux only");
            }
            written = now;
        }
    }
}

/// Adds the instances of `rows`, and takes out those that the registry lists no more: one whose process was killed is listed for longer than it has a row.
fn still_listed(listed: &mut BTreeMap<InstanceId, (Slot, Epoch)>, rows: &[Row], world: &Snapshot) {
    listed.extend(rows.iter().filter_map(|row| match &row.kind {
        Kind::Instance(slot) => Some((row.instance?, (slot.clone(), Epoch::default()))),
        Kind::Registry | Kind::Gateway => None,
    }));
    listed.retain(|id, (slot, epoch)| {
        let instance = world.services.get(&slot.service).and_then(|it| it.instances.get(id));
        instance.inspect(|it| *epoch = it.epoch).is_some()
    });
}

fn entries(row: &Row) -> impl Iterator<Item = Entry> {
    let app = match &row.kind {
        Kind::Instance(_) => row.app.map(|pid| (format!("app of {}", row.name()), pid)),
        Kind::Registry | Kind::Gateway => None,
    };
    let processes = row.pid.map(|pid| (row.name(), pid)).into_iter().chain(app);
    processes.filter_map(|(name, pid)| Some(Entry { name, pid, started: procfs::start_time(pid)? }))
}
