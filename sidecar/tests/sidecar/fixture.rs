//! A registry, sidecars and apps for one test, all on free ports and in one directory.
//!
//! Lives here: starting, asking, waiting with a deadline. Does not: expectations.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tonic::transport::{Channel, Endpoint};
use weft_discovery::Credential;
use weft_identity::{Identity, KeyRequest, Trust, token::Token};
use weft_model::InstanceId;
use weft_proto::weft::discovery::v1::{ListRequest, discovery_client::DiscoveryClient, service_update::Body};
use weft_proto::weft::model::v1::{Instance, Status};
use weft_proto::weft::testkit::v1::{EchoRequest, echo_client::EchoClient};
use weft_registry::ca::{Ca, Settings};
use weft_runtime::listen::ListenAddr;
use weft_runtime::{Context, Env, Shutdown};
use weft_sidecar::{Addresses, Config, DrainLimits, HealthCheck, Sidecar, Source, Timing};
use weft_testkit::wait;

/// Longest wait of a test for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Waits for what must come, naming it.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("waited {LIMIT:?} for {what}"))
}

/// The directory of a test and what runs in it; everything ends with this value.
pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
    registry: Option<SocketAddr>,
    /// The registry's authority; none speaks plaintext.
    authority: Option<Settings>,
    /// Has the registry's port before it starts: takes connections and says nothing.
    deaf: Option<std::net::TcpListener>,
    tasks: JoinSet<anyhow::Result<()>>,
    shutdown: Shutdown,
}

impl Fixture {
    /// Without a registry: sidecars know each other by the file `services.toml`.
    pub(crate) fn fixed() -> Self {
        let (dir, tasks, shutdown) = (TempDir::new().unwrap(), JoinSet::new(), Shutdown::new());
        let it = Self { dir, registry: None, authority: None, deaf: None, tasks, shutdown };
        it.services("");
        it
    }

    /// With a registry that gives identities and does not answer before it is started.
    pub(crate) fn before_registry() -> Self {
        let (mut it, deaf) = (Self::fixed(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let at = it.registry.insert(deaf.local_addr().unwrap());
        it.authority = Some(Settings {
            dir: it.dir.path().join("ca"),
            trust_domain: "weft.local".parse().unwrap(),
            life: Duration::from_secs(3_600),
            advertise: vec![format!("https://{at}")],
            kubernetes: None,
        });
        it.deaf = Some(deaf);
        it
    }

    /// What makes a sidecar `service`: a token of the registry's authority, or of one that is none of it.
    pub(crate) fn credential(&self, service: &str, authority: &Path) -> Credential {
        let settings = Settings { dir: authority.to_owned(), ..self.authority.clone().unwrap() };
        let ca = Ca::open(&settings, Arc::new(weft_runtime::clock::wall)).unwrap();
        let (token, _) = ca.create_token(Some(&service.parse().unwrap()), None).unwrap();
        token.parse::<Token>().unwrap().try_into().unwrap()
    }

    /// With a registry.
    pub(crate) async fn with_registry() -> Self {
        let mut it = Self::fixed();
        it.start_registry().await;
        it
    }

    /// Starts the registry; again, where it was before.
    pub(crate) async fn start_registry(&mut self) {
        drop(self.deaf.take());
        let (context, shutdown) = (Context::for_test("registry", Env::default()), Shutdown::new());
        // A port that it can have again when it was stopped.
        let listen = self.registry.map_or_else(|| ListenAddr::loopback(0).lasting(), ListenAddr::from);
        let config = weft_registry::Config {
            listen,
            http: ListenAddr::loopback(0),
            dns: ListenAddr::loopback(0),
            dns_ttl: Duration::ZERO,
            data: self.dir.path().join("registry"),
            identity: self.authority.clone(),
        };
        let registry = weft_registry::Registry::bind(config, &context).await.unwrap();
        self.registry = Some(registry.grpc_addr().unwrap());
        self.tasks.spawn(registry.run(shutdown.clone()));
        self.shutdown = shutdown;
    }

    /// Ends the registry, and waits until it is gone.
    pub(crate) async fn stop_registry(&mut self) {
        self.shutdown.drain();
        soon("the registry to end", self.tasks.join_next()).await.expect("the test has a registry").unwrap().unwrap();
    }

    pub(crate) fn registry_url(&self) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.registry.expect("the test has a registry"))
    }

    fn services_file(&self) -> PathBuf {
        self.dir.path().join("services.toml")
    }

    /// Replaces the file of services.
    pub(crate) fn services(&self, content: &str) {
        fs::write(self.services_file(), content).unwrap();
    }

    /// A sidecar for `service`, with short times, on free ports; `command` is started as its app.
    pub(crate) fn config(&self, service: &str, command: &[&str]) -> Config {
        let data = self.dir.path().join(format!("{service}-data"));
        let source = match self.registry {
            Some(_) => Source::Registry(self.registry_url().parse().unwrap()),
            None => Source::Services(self.services_file()),
        };
        Config {
            service: service.parse().unwrap(),
            app: "127.0.0.1:0".parse().unwrap(),
            credential: None,
            source,
            identity: None,
            plaintext: None,
            inbound: ListenAddr::loopback(0),
            outbound: ListenAddr::loopback(0),
            advertise: None,
            health: HealthCheck::Grpc,
            timing: Timing { interval: Duration::from_millis(500), timeout: Duration::from_millis(250) },
            descriptors: None,
            slot: Some(format!("{service}-1")),
            locality: weft_model::Locality::default(),
            weight: weft_model::Weight::ONE,
            metrics: None,
            data: Some(data),
            share_program: None,
            command: command.iter().map(OsString::from).collect(),
            trampoline: Vec::new(),
            drain: DrainLimits::default(),
        }
    }

    /// A sidecar with the echo app.
    pub(crate) fn echo(&self, service: &str) -> Config {
        let app = echo_app();
        self.config(service, &[app.to_str().unwrap()])
    }

    pub(crate) async fn start(&self, config: Config) -> Running {
        let context = Context::for_test("sidecar", Env::from_pairs([("PATH", "/usr/bin:/bin")]));
        let data = config.data.clone().unwrap();
        let sidecar = Sidecar::bind(config, &context).unwrap();
        let (addresses, id, shutdown) = (sidecar.addresses(), sidecar.id(), context.shutdown());
        let task = JoinSet::from_iter([sidecar.run(shutdown.clone())]);
        Running { addresses, id, shutdown, data, task }
    }

    /// Everything the registry lists, by id.
    pub(crate) async fn listed(&self) -> Vec<Instance> {
        let mut client = DiscoveryClient::connect(self.registry_url()).await.unwrap();
        let services = client.list(ListRequest::default()).await.unwrap().into_inner().services;
        let bodies = services.into_iter().filter_map(|service| service.body);
        bodies.flat_map(|body| if let Body::Full(full) = body { full.instances } else { Vec::new() }).collect()
    }

    /// Waits until the registry lists the instance of `sidecar` with this status, and returns it.
    pub(crate) async fn listed_as(&self, sidecar: &Running, status: Status) -> Instance {
        wait::until(&format!("{status:?}"), LIMIT, || async {
            let id = sidecar.id.to_string();
            self.listed().await.into_iter().find(|instance| instance.id == id && instance.status() == status)
        })
        .await
    }
}

/// Vouches for the sidecars of a test.
pub(crate) struct Authority {
    ca: Ca,
    _dir: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let settings = Settings {
            dir: dir.path().to_owned(),
            trust_domain: "weft.local".parse().unwrap(),
            life: Duration::from_secs(3_600),
            advertise: Vec::new(),
            kubernetes: None,
        };
        Self { ca: Ca::open(&settings, Arc::new(weft_runtime::clock::wall)).unwrap(), _dir: dir }
    }

    pub(crate) fn identity(&self, service: &str) -> Identity {
        let (key, id) = (KeyRequest::generate().unwrap(), self.ca.domain().service(&service.parse().unwrap()));
        let issued = self.ca.sign(key.csr(), &id).unwrap();
        let (svid, trusted) = (key.complete(issued.chain).unwrap(), self.ca.trusted());
        let trust = Trust::new(trusted.bundle, trusted.revocations, Arc::new(weft_runtime::clock::wall)).unwrap();
        Identity::new(svid, trust).unwrap()
    }
}

pub(crate) fn echo_app() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let app = tests.parent().unwrap().parent().unwrap().join("examples/echo-app");
    assert!(app.is_file(), "the example `echo-app` is not built: run `cargo test -p weft-sidecar` without --test");
    app
}

/// A sidecar that runs.
pub(crate) struct Running {
    pub(crate) addresses: Addresses,
    pub(crate) id: InstanceId,
    pub(crate) shutdown: Shutdown,
    pub(crate) data: PathBuf,
    task: JoinSet<anyhow::Result<()>>,
}

impl Running {
    /// Waits until `/readyz` says ready.
    pub(crate) async fn ready(&self) {
        wait::until("the sidecar to be ready", LIMIT, || async {
            let answer = weft_testkit::http::send(self.addresses.admin, http::Method::GET, "/readyz", "").await.ok()?;
            answer.status.is_success().then_some(())
        })
        .await;
    }

    /// What `/metrics` says after the first of these names; empty if nothing.
    pub(crate) async fn metric(&self, name: &str) -> String {
        let answer = weft_testkit::http::send(self.addresses.admin, http::Method::GET, "/metrics", "").await.unwrap();
        let line = answer.body.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().to_owned()
    }

    /// Process id of the app, once it is another than `before`.
    pub(crate) async fn pid(&self, before: Option<Pid>) -> Pid {
        wait::until("the app's process id", LIMIT, || async {
            let pid = fs::read_to_string(self.data.join("pid")).ok()?.parse().ok().and_then(Pid::from_raw)?;
            (Some(pid) != before).then_some(pid)
        })
        .await
    }

    pub(crate) fn app_was_asked_to_end(&self) -> bool {
        self.data.join("ended").exists()
    }

    /// Waits for the sidecar's end.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        soon("the sidecar to end", self.task.join_next()).await.expect("waited for once").unwrap()
    }

    /// A client of `Echo` at the inbound listener.
    pub(crate) fn inbound(&self) -> EchoClient<Channel> {
        EchoClient::new(channel(self.addresses.inbound).connect_lazy())
    }

    /// A client of `Echo` at the outbound listener, as an app would have it: the authority names the service.
    pub(crate) fn outbound(&self, authority: &str) -> EchoClient<Channel> {
        let origin = format!("http://{authority}").parse().unwrap();
        EchoClient::new(channel(self.addresses.outbound).origin(origin).connect_lazy())
    }
}

fn channel(at: SocketAddr) -> Endpoint {
    Endpoint::from_shared(format!("http://{at}")).unwrap()
}

pub(crate) fn says(text: &str) -> EchoRequest {
    EchoRequest { text: text.to_owned(), ..EchoRequest::default() }
}

/// Waits until a call that was made by this client before is surely with the app: one that was made later has come back from there by the same connections.
pub(crate) async fn under_way(mut client: EchoClient<Channel>) {
    let begun = Instant::now();
    soon("an answer to a later call", client.unary(says("later"))).await.unwrap();
    wait::until("the call to be under way", LIMIT, || async {
        (begun.elapsed() > Duration::from_millis(200)).then_some(())
    })
    .await;
}

pub(crate) fn signal(pid: Pid, signal: Signal) {
    kill_process(pid, signal).unwrap();
}
