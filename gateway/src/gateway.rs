//! The role put together: where services come from, the threads that answer, and the order in which it all ends.
//!
//! Lives here: composition and drain. Does not: what runs beside the data threads (`gateway::parts`), anything a part could own.
//! ```text
//! Joining --identity--> Serving --drain--> Draining: not ready, what the kernel holds is accepted and nothing more, GOAWAY --all calls ended, or LIMIT-->
//! the parts end, exit         a gateway that joins, or has no routes yet, answers every call 503 or UNAVAILABLE with the cause, and goes on as it is
//! ```

mod entry;
mod fixed;
mod parts;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    pin::pin,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use hyper::{body::Incoming, service::service_fn};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use weft_discovery::{IdentityError, Topic, WatchConfig};
use weft_model::{Endpoint, Protocol, Transport};
use weft_reflection::Reflection;
use weft_runtime::{
    Context, Shutdown,
    admin::Readiness,
    listen::{self, BindError},
    threads::{Connection, DataThreads, ThreadEnded},
};
use weft_traffic::{Outbound, OutboundConfig, Pool, PoolConfig, Worlds};
use weft_transcode::Codec;

use crate::{
    Config,
    config::Source,
    edge::{
        access_log::access_log,
        cache::{Caching, Clocks},
        issuers::{Fetcher, issuers},
        metrics::{Meters, Refusals},
        outside::Outside,
        policies::Compiler,
        shared::{SharedTask, shared_counts},
        span::Tracing,
    },
    listener::{Bounds, Http},
    protocol::{
        Shard, Shared, Upstream,
        health::{Board, MeshHealth},
        own::Own,
        reflection::MeshSets,
    },
    routes::keeper::Published,
    tls::{self, Door, Follower, certificates::TlsError, peer::Peer},
};
use entry::{Entered, Entry, Who};
pub use fixed::{DescriptorError, DescriptorFiles};
use fixed::{Fixed, Places};
use parts::{Feed, Parts, Watched};

/// How long calls in flight may take once the gateway drains.
const LIMIT: Duration = Duration::from_secs(30);
/// Pause after a failed accept: out of descriptors, spinning would not free one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a gateway does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A port cannot be had.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// The descriptors of static mode cannot be used.
    #[error("--descriptor-set")]
    Descriptors(#[source] DescriptorError),
    /// HTTP rules of the file cannot be served with the descriptors of static mode; one a line, each with its place. With a registry descriptors come
    /// and go, and such a rule is a warning.
    #[error("{0}")]
    Rules(String),
    /// The upstream of static mode has no address.
    #[error("--upstream {upstream}: no address")]
    Upstream {
        /// As it was given.
        upstream: String,
        /// What resolving it said.
        source: io::Error,
    },
    /// The files of the port's TLS cannot be used.
    #[error("[tls]")]
    Tls(#[from] TlsError),
    /// The registry gives no identity.
    #[error("joining the mesh")]
    Join(#[source] IdentityError),
    /// A data thread cannot be started.
    #[error("starting data threads")]
    Threads(#[source] io::Error),
    /// A data thread ended, although nobody asked it to.
    #[error(transparent)]
    ThreadEnded(#[from] ThreadEnded),
    /// A part of the control side ended, although nobody asked it to.
    #[error("the gateway's {0} ended")]
    PartEnded(&'static str),
}

/// A gateway that listens and does not serve yet.
pub struct Gateway {
    config: Config,
    context: Context,
    listener: TcpListener,
    admin: TcpListener,
    readiness: Readiness,
    meters: Meters,
    published: Published,
    worlds: Worlds,
    traffic: weft_traffic::Metrics,
    codec: Codec,
    edge: Compiler,
    fetcher: Fetcher,
    shared: Option<SharedTask>,
    outside: Outside,
    tls: Option<(Door, Follower)>,
    board: watch::Sender<Arc<Board>>,
    feed: Feed,
}

impl Gateway {
    /// Takes the ports and says where it listens. In static mode reads the descriptors and resolves the upstream, too.
    ///
    /// # Errors
    /// [`Error`]; nothing runs then.
    pub async fn bind(config: Config, context: &Context) -> Result<Self, Error> {
        let mut gateway = Self::listen(config, context)?;
        if let Source::Static { descriptor_set, upstream } = gateway.config.source.clone() {
            gateway.feed = gateway.set_static(descriptor_set, &upstream).await?;
        } else {
            gateway.feed = gateway.feed();
        }
        listen::announce(context, "http", gateway.local_addr());
        listen::announce(context, "admin", gateway.admin_addr());
        Ok(gateway)
    }

    fn listen(config: Config, context: &Context) -> Result<Self, Error> {
        let listener = listen::bind(config.listen)?;
        let admin = listen::bind(config.listen.admin())?;
        let traffic = context.metrics().register(|registry| weft_traffic::Metrics::register(registry, "gateway"));
        let (worlds, _) = Worlds::new(traffic.clone()); // all services are subscribed: nobody's interest is news
        let outside = Outside::default();
        let (issuers, fetcher) = issuers(outside.clone());
        let meters = Meters::new(context.metrics());
        let shared = config.redis.clone().map(|url| shared_counts(url, meters.counted_alone.clone(), &outside));
        let (shared, task) = shared.unzip();
        let wall = weft_runtime::clock::wall;
        let caching = Caching::new(config.cache_bytes, &meters, Clocks { ages: Instant::now, wall });
        let codec = Codec::new(config.transcoding.clone()).bounded(config.limits.elements());
        let edge = Compiler::new(issuers, Refusals::new(context.metrics()), wall, shared, caching, codec.clone());
        let edge = edge.with_rules(config.rules.clone());
        let tls = config.tls.as_ref().map(|files| tls::open(files, context.metrics())).transpose()?;
        Ok(Self {
            tls,
            readiness: entry::starting(&config),
            config,
            context: context.clone(),
            listener,
            admin,
            meters,
            published: Arc::new(ArcSwapOption::empty()),
            worlds,
            traffic,
            codec,
            edge,
            fetcher,
            shared: task,
            outside,
            board: watch::Sender::default(),
            feed: Feed::Fixed,
        })
    }

    fn feed(&self) -> Feed {
        let Source::Registry(urls) = &self.config.source else { return Feed::Fixed };
        let watcher = format!("gateway/{}:{}", self.local_addr(), std::process::id());
        let (admin, topics) = (Some(self.admin_addr()), vec![Topic::All, Topic::Directory]);
        let config = WatchConfig { watcher, admin, topics, last_good: None };
        Feed::Registry(Box::new(Watched { urls: urls.clone(), config }))
    }

    async fn set_static(&mut self, files: DescriptorFiles, upstream: &str) -> Result<Feed, Error> {
        let endpoints = resolve(upstream).await?;
        let policies = self.config.policies.iter().cloned().map(Arc::new).collect();
        let mut places = Places {
            worlds: &self.worlds,
            published: &self.published,
            board: &self.board,
            meters: &self.meters,
            edge: &mut self.edge,
        };
        let fixed =
            Fixed::open(files, endpoints, policies, &self.outside, &mut places).map_err(|error| match error {
                DescriptorError::Rules { mistakes } => Error::Rules(mistakes),
                error => Error::Descriptors(error),
            })?;
        self.readiness.ready();
        Ok(if fixed.is_followed() { Feed::Files(Box::new(fixed)) } else { Feed::Fixed })
    }

    /// Where REST and gRPC are served.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound listener has an address")
    }

    /// Where `/metrics`, `/healthz`, `/readyz` and `/drain` are served.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.local_addr().expect("a bound listener has an address")
    }

    /// Joins the mesh and serves until `shutdown` drains, then finishes what is in flight, at most 30 s.
    ///
    /// # Errors
    /// [`Error::Join`], if no registry gives an identity; [`Error::ThreadEnded`] or [`Error::PartEnded`], if a part ends before the drain.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let who = Who::of(&self.config);
        let (log, lines) = access_log(self.meters.lines_lost.clone());
        let leaving = CancellationToken::new();
        let health = MeshHealth::new(self.board.subscribe(), self.published.clone(), leaving.clone());
        let shared = Arc::new(Shared {
            table: self.published.clone(),
            codec: self.codec,
            limits: self.config.limits,
            docs: self.config.docs,
            meters: self.meters.clone(),
            log,
            tracing: Tracing {
                root: weft_telemetry::root(self.context.sampling()),
                spans: self.context.spans().clone(),
            },
            reflection: Reflection::of(MeshSets(self.published.clone()), leaving.clone()),
            health,
            readiness: self.readiness.clone(),
            proxies: Arc::new(self.config.proxies),
            own: Own::new(),
        });
        let connections = shutdown.child();
        let workers = self.config.workers.unwrap_or_else(cores);
        let calls = OutboundConfig { spans: weft_telemetry::sink(self.context.spans()), ..OutboundConfig::default() };
        let upstream = upstream(calls, self.worlds.clone(), who.clone(), self.traffic);
        let (door, follower) = self.tls.unzip();
        let build = shards(shared, upstream, door, connections.clone());
        let threads = DataThreads::start("data", workers, &connections, build).map_err(Error::Threads)?;

        let mut parts = Parts::new();
        if let Some(lines) = lines {
            parts.write_log(lines);
        }
        let (metrics, readiness) = (self.context.metrics().clone(), self.readiness.clone());
        parts.serve_admin(metrics, readiness, self.outside, self.admin, shutdown.clone());
        parts.fetch_keys(self.fetcher);
        if let Some(follower) = follower {
            parts.follow_certificates(follower);
        }
        if let Some(shared) = self.shared {
            parts.share_counts(shared);
        }
        let entry = Entry {
            who,
            feed: self.feed,
            worlds: self.worlds,
            published: self.published,
            board: self.board.clone(), // kept here, too: watches of health end with the last one
            readiness: self.readiness.clone(),
            meters: self.meters,
            edge: self.edge,
            metrics: self.context.metrics().clone(),
        };
        let entering = Box::pin(entry.open(self.config.credential)); // once a process, and large
        let ended = accept(self.listener, threads, entering, &mut parts, &shutdown).await;
        self.readiness.leave("draining");
        leaving.cancel(); // streams of our own end, which would hold the connections
        let result = match ended {
            Ok(threads) => {
                finish(threads, &connections).await;
                Ok(())
            }
            Err(error) => {
                connections.abort();
                Err(error)
            }
        };
        parts.end().await;
        result
    }
}

/// Returns what makes the way upstream of one data thread: its own connections, everything else shared.
fn upstream(
    calls: OutboundConfig,
    worlds: Worlds,
    who: Who,
    traffic: weft_traffic::Metrics,
) -> impl Fn() -> Upstream + Clone + Send + 'static {
    move || {
        let (calls, worlds, who, traffic) = (calls.clone(), worlds.clone(), who.clone(), traffic.clone());
        Arc::new(LazyLock::new(Box::new(move || {
            let pool = PoolConfig { identity: who.identity(), ..PoolConfig::default() };
            Outbound::new(calls, worlds, Pool::new(pool, traffic))
        })))
    }
}

/// Returns what makes the server of one data thread.
fn shards(
    shared: Arc<Shared>,
    upstream: impl Fn() -> Upstream + Clone + Send + 'static,
    door: Option<Door>,
    shutdown: Shutdown,
) -> impl Fn(usize) -> Box<dyn FnMut(Connection) -> Serving> + Clone + Send + 'static {
    move |_| {
        let shard = Shard { shared: Arc::clone(&shared), outbound: upstream() };
        let (http, door, shutdown) = (Http::new(Bounds::default()), door.clone(), shutdown.clone());
        Box::new(move |connection| {
            Box::pin(serve(shard.clone(), http.clone(), door.clone(), connection, shutdown.clone()))
        })
    }
}

type Serving = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

async fn serve(shard: Shard, versions: Http, door: Option<Door>, connection: Connection, shutdown: Shutdown) {
    let Connection { stream, downstream, load } = connection;
    let downstream = shard.shared.proxies.see(downstream);
    let service = |peer: Option<Arc<Peer>>| {
        service_fn(move |mut request: http::Request<Incoming>| {
            let (shard, load, downstream) = (shard.clone(), load.clone(), downstream.clone());
            if let Some(peer) = &peer {
                request.extensions_mut().insert(Arc::clone(peer));
            }
            // In a box: hyper would move it, all 16 kB, into the connection's, and keep the room while the connection idles.
            Box::pin(async move { Ok::<_, std::convert::Infallible>(shard.answer(request, downstream, load).await) })
        })
    };
    match door {
        Some(door) => versions.serve_at(&door, stream, service, shutdown).await,
        None => versions.serve(stream, service(None), shutdown).await,
    }
}

/// Hands connections to data threads until the drain, and has the mesh followed once it was entered; returns the threads for the drain.
async fn accept(
    listener: TcpListener,
    mut threads: DataThreads,
    entering: impl Future<Output = Result<Entered, Error>>,
    parts: &mut Parts,
    shutdown: &Shutdown,
) -> Result<DataThreads, Error> {
    let mut entering = pin!(entering);
    let mut outside = true;
    loop {
        let accepted = tokio::select! {
            () = shutdown.draining() => break,
            entered = entering.as_mut(), if outside => {
                entered?.follow(parts);
                outside = false;
                continue;
            }
            ended = threads.ended() => return Err(ended.into()),
            name = parts.ended() => return Err(Error::PartEnded(name)),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, downstream)) => hand_over(&threads, stream, downstream).await,
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    for accepted in listen::close(listener) {
        match accepted {
            Ok((stream, downstream)) => hand_over(&threads, stream, downstream).await,
            Err(error) => tracing::warn!(%error, "connections that waited to be accepted are lost"),
        }
    }
    Ok(threads)
}

async fn hand_over(threads: &DataThreads, stream: TcpStream, downstream: SocketAddr) {
    if let Err(error) = threads.hand_over(stream, downstream).await {
        tracing::debug!(%error, %downstream, "connection lost before it was served");
    }
}

/// Waits for the calls in flight, within the limit or until somebody aborts.
async fn finish(threads: DataThreads, connections: &Shutdown) {
    let mut finished = std::pin::pin!(threads.finish());
    tracing::info!(limit = ?LIMIT, "draining: finishing the calls in flight");
    if timeout(LIMIT, finished.as_mut()).await.is_err() {
        tracing::warn!(limit = ?LIMIT, "calls are still in flight; ending them");
        connections.abort();
        finished.await;
    }
}

/// Every address of the upstream: the balancer finds out which of them answer.
async fn resolve(upstream: &str) -> Result<Vec<Endpoint>, Error> {
    let failed = |source| Error::Upstream { upstream: upstream.to_owned(), source };
    let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host(upstream).await.map_err(failed)?.collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(failed(io::ErrorKind::NotFound.into()));
    }
    let endpoint = |address| Endpoint { address, transport: Transport::Plaintext, protocol: Protocol::H2 };
    Ok(addresses.into_iter().map(endpoint).collect())
}

fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
