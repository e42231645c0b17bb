//! A real mesh of a test: registry, gateway, sidecars and apps as processes, on free ports, in a directory of their own.
//!
//! Lives here: starting the roles by hand, one process each, and asking the registry what it knows. Does not: `weft up` (`up`).

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use weft_discovery::{Credential, Operator, TokenFor, join, write_token};
use weft_identity::{Identity, name};
use weft_model::{Endpoint, Transport};
use weft_proto::weft::{
    discovery::v1::{ListRequest, ListResponse, discovery_client::DiscoveryClient, service_update::Body},
    model::v1::{Instance, Status},
};
use weft_runtime::listen::ListenAddr;

use crate::{outside, process::Process, secure, wait};

/// How long a mesh may take to serve, on a busy machine.
const START: Duration = Duration::from_secs(60);

/// An app that a mesh can run behind sidecars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum App {
    /// The example service `users`.
    Users,
    /// The example service `posts`, which asks users.
    Posts,
    /// The example service `comments`, which asks posts and users.
    Comments,
    /// The next version of `posts`: it has a method more.
    PostsNext,
    /// The echo service of this crate.
    Echo,
    /// The service of this crate that claims names of `users`.
    Foreign,
}

impl App {
    /// One app of each service.
    const OF_EACH: [Self; 5] = [Self::Users, Self::Posts, Self::Comments, Self::Echo, Self::Foreign];

    /// Name of the service.
    pub const fn service(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Posts | Self::PostsNext => "posts",
            Self::Comments => "comments",
            Self::Echo => "echo",
            Self::Foreign => "foreign",
        }
    }

    const fn binary(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Posts => "posts",
            Self::Comments => "comments",
            Self::PostsNext => "examples/posts-next",
            Self::Echo => "weft-echo",
            Self::Foreign => "weft-foreign",
        }
    }
}

/// One instance: a sidecar that supervises its app.
#[derive(Debug)]
pub struct Member {
    /// What runs.
    pub app: App,
    /// Name of its place, `users-1`.
    pub slot: String,
    /// The sidecar.
    pub sidecar: Process,
}

/// How a mesh differs from the usual one.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Variables in the environment of every process.
    pub env: Vec<(&'static str, String)>,
    /// Further flags of the registry, such as `--certificate-life 4`.
    pub registry: Vec<String>,
    /// Words of a shell that becomes the registry, such as `trap '' XFSZ`: what it ignores or limits stays so. None if empty.
    pub registry_shell: String,
    /// Further flags of every sidecar.
    pub sidecar: Vec<String>,
}

/// The processes of a mesh; they end with this value. They speak mutual TLS, each with an identity that a token of its own gave it.
#[derive(Debug)]
pub struct Mesh {
    weft: PathBuf,
    dir: TempDir,
    options: Options,
    registry_at: SocketAddr,
    gateway_at: SocketAddr,
    operator: Operator,
    identity: Identity,
    started: usize,
    /// Keeps the operator's identity fresh.
    _keeping: JoinSet<()>,
    /// The registry; none while it is down.
    pub registry: Option<Process>,
    /// The gateway.
    pub gateway: Process,
    /// The instances.
    pub members: Vec<Member>,
}

impl Mesh {
    /// Starts a mesh with these instances and waits until all serve. None if a binary is missing; the test named then skips loudly.
    pub async fn start(test: &str, apps: &[App]) -> Option<Self> {
        Self::start_as(test, apps, Options::default()).await
    }

    /// The same, with these variables in the environment of every process.
    pub async fn start_with(test: &str, apps: &[App], env: Vec<(&'static str, String)>) -> Option<Self> {
        Self::start_as(test, apps, Options { env, ..Options::default() }).await
    }

    /// The same with options.
    pub async fn start_as(test: &str, apps: &[App], options: Options) -> Option<Self> {
        let names: Vec<_> = ["weft"].into_iter().chain(apps.iter().map(|app| app.binary())).collect();
        let weft = outside::need_binaries(&names, test)?.swap_remove(0);
        let dir = TempDir::new().expect("a temporary directory can be made");
        // It is started again where it was.
        let mut registry = registry(&weft, &dir, &ListenAddr::loopback(0).lasting().to_string(), &options);
        let registry_at = registry.address("grpc").await;
        let credential =
            Credential::read(&operator_token(&dir), None).expect("the registry wrote its operator's token");
        let (task, identity) =
            join(credential.clone(), None, secure::clock(), START).await.expect("the operator's token is good");
        let mut keeping = JoinSet::new();
        keeping.spawn(task.run(CancellationToken::new()));
        let operator = Operator::new(credential, secure::clock());
        for service in App::OF_EACH.iter().map(|app| app.service()).chain(["gateway"]) {
            let whom = TokenFor::Service(service.parse().expect("a name of a service"));
            let (text, _) = operator.create_token(&whom, None).await.expect("an operator may make tokens");
            write_token(&token_file(&dir, service), &text).expect("the directory is ours");
        }
        let mut gateway = gateway(&weft, &token_file(&dir, "gateway"), &[], &options.env);
        let gateway_at = gateway.address("http").await;
        let mut mesh = Self {
            weft,
            dir,
            options,
            registry_at,
            gateway_at,
            operator,
            identity,
            started: 0,
            _keeping: keeping,
            registry: Some(registry),
            gateway,
            members: Vec::new(),
        };
        for app in apps {
            mesh.add(*app);
        }
        mesh.all_serving().await;
        Some(mesh)
    }

    /// Starts one more gateway; where it listens it says itself.
    pub fn add_gateway(&self) -> Process {
        self.add_gateway_with(&[])
    }

    /// The same with further flags.
    pub fn add_gateway_with(&self, flags: &[&str]) -> Process {
        gateway(&self.weft, &self.token_file("gateway"), flags, &self.options.env)
    }

    /// Starts one more instance and does not wait for it. All instances of a service share its data.
    pub fn add(&mut self, app: App) -> &mut Member {
        self.add_with(app, &[])
    }

    /// The same with further flags of its sidecar; one that it has anyway takes the place of that.
    pub fn add_with(&mut self, app: App, flags: &[&str]) -> &mut Member {
        let data = self.dir.path().join(app.service());
        self.start_sidecar(app, &data, &[], flags, None)
    }

    /// The same, with data of its own and these variables.
    pub fn add_apart(&mut self, app: App, env: &[(&str, String)]) -> &mut Member {
        let data = self.dir.path().join(format!("{}-{}", app.service(), self.started + 1));
        self.start_sidecar(app, &data, env, &[], None)
    }

    /// Starts one more sidecar, with these flags, for an app that the test runs itself.
    pub fn add_beside(&mut self, app: App, at: SocketAddr, flags: &[&str]) -> &mut Member {
        let data = self.dir.path().join(app.service());
        self.start_sidecar(app, &data, &[], flags, Some(at))
    }

    /// Without an address of the app, the sidecar runs it.
    fn start_sidecar(
        &mut self,
        app: App,
        data: &Path,
        env: &[(&str, String)],
        flags: &[&str],
        at: Option<SocketAddr>,
    ) -> &mut Member {
        self.started += 1;
        let slot = format!("{}-{}", app.service(), self.started);
        let (app_at, command) = match at {
            Some(at) => (at.to_string(), Vec::new()),
            None => {
                let program = outside::binary(app.binary()).expect("checked at the start of the mesh");
                ("127.0.0.1:0".to_owned(), vec!["--".to_owned(), program.display().to_string()])
            }
        };
        let token = self.token_file(app.service());
        let (data, token) = (data.to_string_lossy(), token.to_string_lossy());
        let args = [
            "sidecar",
            "--service",
            app.service(),
            "--token-file",
            &token,
            "--app",
            &app_at,
            "--inbound",
            "127.0.0.1:0",
            "--outbound",
            "127.0.0.1:0",
            "--slot",
            &slot,
            "--data",
            &data,
            "--log-format",
            "json",
        ];
        let given = self.options.sidecar.iter().cloned();
        let usual = args[1..].chunks_exact(2).filter(|pair| !flags.contains(&pair[0])).flatten().copied();
        let args = args[..1]
            .iter()
            .copied()
            .chain(usual)
            .chain(flags.iter().copied())
            .map(str::to_owned)
            .chain(given)
            .chain(command);
        let args: Vec<_> = args.collect();
        let env = [self.options.env.as_slice(), env].concat();
        let sidecar = Process::start(&slot, &self.weft, &self.weft, &args, &env).expect("weft starts");
        self.members.push(Member { app, slot, sidecar });
        self.members.last_mut().expect("pushed above")
    }

    /// File of the token with which instances of a service join.
    pub fn token_file(&self, service: &str) -> PathBuf {
        token_file(&self.dir, service)
    }

    /// Makes a token for one more service, and returns its file.
    pub async fn token_for(&self, service: &str) -> PathBuf {
        let whom = TokenFor::Service(service.parse().expect("a name of a service"));
        let (text, _) = self.operator.create_token(&whom, None).await.expect("the operator may make tokens");
        let file = self.token_file(service);
        write_token(&file, &text).expect("the directory is ours");
        file
    }

    /// File of the operator's token.
    pub fn operator_token(&self) -> PathBuf {
        operator_token(&self.dir)
    }

    /// The program `weft`.
    pub fn weft(&self) -> &Path {
        &self.weft
    }

    /// A directory that ends with the mesh.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The mesh's operator: makes tokens, takes back, rotates.
    pub const fn operator(&self) -> &Operator {
        &self.operator
    }

    /// The operator's identity, which the registry lets write anything.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A channel to the registry, as an operator, that connects when first used.
    pub fn registry_channel(&self) -> Channel {
        let registry = self.identity.trust().domain().service(&name::registry());
        secure::channel(self.registry_at, &self.identity, &registry)
    }

    /// A channel to an instance, as an operator and by the transport it registered, that connects when first used.
    pub fn instance_channel(&self, instance: &Instance) -> Option<Channel> {
        let endpoint: Endpoint = instance.endpoint.clone()?.try_into().ok()?;
        Some(match &endpoint.transport {
            Transport::Mtls { identity } => secure::channel(endpoint.address, &self.identity, identity),
            Transport::Plaintext | Transport::Tls { .. } => channel(endpoint.address),
        })
    }

    /// Waits until every instance is listed as serving and the gateway answers for itself and for its service.
    pub async fn all_serving(&self) {
        wait::until("all instances to serve", START, || async {
            let serving = self.instances().await.into_iter().filter(|i| i.status() == Status::Serving).count();
            (serving >= self.members.len()).then_some(())
        })
        .await;
        let mut services: Vec<_> = self.members.iter().map(|m| m.app.service()).collect();
        services.dedup();
        services.insert(0, ""); // the gateway itself, which has to have a route table even where there is no service
        for service in services {
            wait::until(&format!("the gateway to know {service}"), START, || self.gateway_serves(service)).await;
        }
    }

    async fn gateway_serves(&self, service: &str) -> Option<()> {
        let mut health = tonic_health::pb::health_client::HealthClient::new(self.gateway_channel());
        let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
        let status = health.check(request).await.ok()?.into_inner().status();
        (status == tonic_health::pb::health_check_response::ServingStatus::Serving).then_some(())
    }

    /// Address of the gateway's main port.
    pub const fn gateway_at(&self) -> SocketAddr {
        self.gateway_at
    }

    /// Address of the registry's gRPC port; the same after a restart.
    pub const fn registry_at(&self) -> SocketAddr {
        self.registry_at
    }

    /// A channel to the gateway that connects when first used.
    pub fn gateway_channel(&self) -> Channel {
        channel(self.gateway_at)
    }

    /// Kills the registry with SIGKILL.
    pub fn kill_registry(&mut self) {
        if let Some(mut registry) = self.registry.take() {
            registry.kill();
        }
    }

    /// Starts the registry again on the same address with the same data.
    pub async fn start_registry(&mut self) {
        self.start_registry_with(&[]).await;
    }

    /// The same with further variables in its environment.
    pub async fn start_registry_with(&mut self, env: &[(&'static str, String)]) {
        let env = self.options.env.iter().chain(env).cloned().collect();
        let options = Options { env, ..self.options.clone() };
        let mut registry = registry(&self.weft, &self.dir, &self.registry_at.to_string(), &options);
        registry.address("grpc").await;
        self.registry = Some(registry);
    }

    /// What the registry knows now. Fails while it is down.
    pub async fn list(&self) -> Result<ListResponse, tonic::Status> {
        let mut discovery = DiscoveryClient::new(self.registry_channel());
        Ok(discovery.list(ListRequest::default()).await?.into_inner())
    }

    /// All instances the registry knows, of every service; empty while it is down.
    pub async fn instances(&self) -> Vec<Instance> {
        let services = self.list().await.map(|list| list.services).unwrap_or_default();
        let instances = services.into_iter().filter_map(|service| match service.body {
            Some(Body::Full(full)) => Some(full.instances),
            _ => None,
        });
        instances.flatten().collect()
    }
}

fn gateway(weft: &Path, token: &Path, flags: &[&str], env: &[(&str, String)]) -> Process {
    let token = token.to_string_lossy();
    let args = ["gateway", "--listen", "127.0.0.1:0", "--token-file", &token, "--log-format", "json"];
    let args: Vec<_> = args.iter().chain(flags).map(|it| (*it).to_owned()).collect();
    Process::start("gateway", weft, weft, &args, env).expect("weft starts")
}

fn registry(weft: &Path, dir: &TempDir, listen: &str, options: &Options) -> Process {
    let data = dir.path().join("registry");
    let data = data.to_string_lossy();
    let args = ["registry", "--listen", listen, "--http", "127.0.0.1:0", "--data", &data, "--log-format", "json"];
    let args = args.map(str::to_owned).into_iter().chain(options.registry.clone());
    let (program, args): (_, Vec<_>) = match options.registry_shell.as_str() {
        "" => (weft, args.collect()),
        words => {
            let shell = ["-c".to_owned(), format!(r#"{words}; exec "$0" "$@""#), weft.display().to_string()];
            (Path::new("/bin/sh"), shell.into_iter().chain(args).collect())
        }
    };
    Process::start("registry", weft, program, &args, &options.env).expect("weft starts")
}

fn operator_token(dir: &TempDir) -> PathBuf {
    dir.path().join("registry/ca/operator.token")
}

fn token_file(dir: &TempDir, service: &str) -> PathBuf {
    dir.path().join(format!("{service}.token"))
}

/// A plaintext channel that connects when first used.
pub fn channel(addr: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{addr}")).expect("an address is a valid authority");
    endpoint.connect_timeout(Duration::from_secs(10)).timeout(Duration::from_secs(30)).connect_lazy()
}
