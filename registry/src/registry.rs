//! The registry put together: store, catalog, watches, checks, listeners.
//!
//! Lives here: the order of starting and leaving. Does not: any decision.
//! Start: the store is loaded before the listener opens, so that the first answer has everything. Leave: streams are told and end, then
//! checks and watches, then the catalog stores what it still holds.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use weft_runtime::{
    Context, Shutdown,
    admin::{Admin, Readiness},
    listen,
    threads::alone,
};

use crate::{
    Config,
    ca::{Ca, OwnIdentity, Settings, kubernetes::Reviewer},
    catalog::{Catalog, CatalogTask},
    checks::Checks,
    drains::Drains,
    metrics::IdentityMetrics,
    server::{Authority, Rooms, Server},
    views::{
        dns::Dns,
        prometheus::Prometheus,
        watch::Watches,
        xds::{Mesh, Xds},
    },
};

/// A registry, listening.
pub struct Registry {
    grpc: TcpListener,
    http: TcpListener,
    admin: Admin,
    dns: Dns,
    catalog: Catalog,
    task: CatalogTask,
    watches: Watches,
    xds: Xds,
    drains: Drains,
    checks: Checks,
    authority: Option<(Opened, IdentityMetrics)>,
}

impl Registry {
    /// Loads the store, opens the listeners and announces them. Fails if the store is unreadable or an address is taken.
    pub async fn bind(config: Config, context: &Context) -> anyhow::Result<Self> {
        let (catalog, task) = Catalog::open(&config.data, context.metrics()).context("opening the catalog")?;
        let snapshot = catalog.snapshot();
        let instances: usize = snapshot.services.values().map(|service| service.instances.len()).sum();
        tracing::info!(instances, version = %snapshot.version, data = %config.data.display(), "catalog loaded");
        let watches = Watches::new(&catalog, context.metrics());
        let mesh = match &config.identity {
            Some(_) => Mesh::Secured,
            None => Mesh::Open,
        };
        let xds = Xds::new(&catalog, mesh, watches.pace(), context.metrics());
        let drains = Drains::new(&watches, &xds, context.metrics());
        let checks = Checks::new(&catalog, context.metrics());
        let grpc = listen::bind(config.listen)?;
        let http = listen::bind(config.http)?;
        let dns = Dns::bind(config.dns, config.dns_ttl, &catalog, &watches, context.metrics())?;
        let authority = match config.identity {
            Some(settings) => {
                let urls = vec![format!("https://{}", grpc.local_addr()?)];
                let opened = tokio::task::spawn_blocking(move || open_authority(&settings, urls)).await??;
                context.metrics().certificate("registry", opened.own.renewals());
                Some((opened, IdentityMetrics::register(context.metrics())))
            }
            None => {
                tracing::warn!("plaintext, as --insecure says: whoever reaches this registry may write to it");
                None
            }
        };
        listen::announce(context, "grpc", grpc.local_addr()?);
        listen::announce(context, "admin", http.local_addr()?);
        listen::announce(context, "dns", dns.addr()?);
        let readiness = Readiness::starting("not running yet");
        readiness.ready(); // loaded: from here on every answer is complete
        let prometheus = Prometheus::new(&catalog, &watches, http.local_addr()?);
        let admin = Admin::new(context.metrics().clone(), readiness).pages(move |request| prometheus.page(request));
        Ok(Self { grpc, http, admin, dns, catalog, task, watches, xds, drains, checks, authority })
    }

    /// Where the gRPC listener is.
    pub fn grpc_addr(&self) -> std::io::Result<SocketAddr> {
        self.grpc.local_addr()
    }

    /// Where `/healthz`, `/readyz`, `/metrics` and `/prometheus/sd` are.
    pub fn http_addr(&self) -> std::io::Result<SocketAddr> {
        self.http.local_addr()
    }

    /// Where DNS is, by UDP and TCP.
    pub fn dns_addr(&self) -> std::io::Result<SocketAddr> {
        self.dns.addr()
    }

    /// A handle on the catalog.
    pub fn catalog(&self) -> Catalog {
        self.catalog.clone()
    }

    /// The authority, if this registry is one.
    pub fn ca(&self) -> Option<Ca> {
        self.authority.as_ref().map(|(opened, _)| opened.ca.clone())
    }

    /// A handle on the watches.
    pub fn watches(&self) -> Watches {
        self.watches.clone()
    }

    /// Runs until drained. A part that ends by itself ends the registry with an error.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let (readers, writer) = (CancellationToken::new(), CancellationToken::new());
        let mut parts: JoinSet<()> = JoinSet::new();
        let authority = self.authority.map(|(Opened { ca, own, kubernetes }, metrics)| {
            let (stop, identity) = (readers.clone(), own.identity());
            parts.spawn(async move { stop.run_until_cancelled(own.run()).await.unwrap_or_default() });
            Authority { ca, identity, kubernetes, metrics }
        });
        let rooms = Rooms {
            catalog: &self.catalog,
            watches: &self.watches,
            xds: &self.xds,
            drains: self.drains,
            heard: self.checks.heard(),
        };
        let server = Server::new(rooms, authority, &shutdown)?;
        let task = parts.spawn(alone("catalog", self.task.run(writer.clone()))?).id();
        let stop = readers.clone();
        let (watches, follow) = (self.watches, self.catalog.follow());
        let watches = async move { stop.run_until_cancelled(watches.run(follow)).await.unwrap_or_default() };
        parts.spawn(alone("watches", watches)?);
        let (stop, xds, follow) = (readers.clone(), self.xds, self.catalog.follow());
        let xds = async move { stop.run_until_cancelled(xds.run(follow)).await.unwrap_or_default() };
        parts.spawn(alone("xds", xds)?);
        let (stop, checks) = (readers.clone(), self.checks);
        parts.spawn(async move { stop.run_until_cancelled(checks.run()).await.unwrap_or_default() });
        let (stop, dns) = (readers.clone(), self.dns);
        parts.spawn(async move { stop.run_until_cancelled(dns.run()).await.unwrap_or_default() });
        let (admin, ending) = (self.admin, shutdown.child());
        let (http, until) = (self.http, ending.clone());
        parts.spawn(async move { admin.run(http, until).await });

        let mut serving: JoinSet<anyhow::Result<()>> = JoinSet::new();
        serving.spawn(server.run(self.grpc, shutdown.clone()));
        let ended_early = tokio::select! {
            Some(ended) = serving.join_next() => ended.unwrap_or_else(|panic| Err(panic.into())).err(),
            Some(ended) = parts.join_next_with_id() => {
                let (id, cause) = match ended {
                    Ok((id, ())) => (id, anyhow::anyhow!("a part ended by itself")),
                    Err(error) => (error.id(), anyhow::Error::new(error)),
                };
                shutdown.drain();
                Some(cause.context(if id == task { "the catalog" } else { "a part of the registry" }))
            }
        };
        while let Some(ended) = serving.join_next().await {
            if let Err(error) = ended.unwrap_or_else(|panic| Err(panic.into())) {
                tracing::warn!(error = format!("{error:#}"), "connections ended early");
            }
        }
        readers.cancel();
        writer.cancel();
        drop(self.catalog);
        ending.abort(); // metrics were wanted until here
        while let Some(ended) = parts.join_next().await {
            ended.context("a part of the registry")?;
        }
        ended_early.map_or(Ok(()), Err)
    }
}

/// The authority as it was opened.
struct Opened {
    ca: Ca,
    own: OwnIdentity,
    kubernetes: Option<Reviewer>,
}

/// Opens the authority and signs for this registry; file I/O and a few signatures.
fn open_authority(settings: &Settings, urls: Vec<String>) -> anyhow::Result<Opened> {
    let ca = Ca::open(settings, Arc::new(weft_runtime::clock::wall)).context("opening the certificate authority")?;
    ca.keep_operator_token(urls).context("writing the operator's token")?;
    let own = OwnIdentity::new(&ca).context("signing for this registry")?;
    let kubernetes = settings.kubernetes.clone().map(Reviewer::new).transpose().context("--kubernetes-ca")?;
    Ok(Opened { ca, own, kubernetes })
}
