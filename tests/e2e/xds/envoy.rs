//! Envoy on our ADS, by state of the world and by delta, with the mesh's identities. Issue: step 3, "it must show", 2.
//!
//! Lives here: what an Envoy must do and must not refuse. Does not: its bootstrap (`weft bootstrap`).

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use weft_proto::{
    shop::users::v1::{ListUsersRequest, users_client::UsersClient},
    weft::{
        model::v1::Status as Health,
        testkit::v1::{EchoRequest, echo_client::EchoClient},
    },
};
use weft_testkit::{
    mesh::{App, Mesh},
    outside, wait,
};

use super::{LIMIT, leave, serving, stock};
use crate::ALONE;

/// A caller's pause between calls.
const PACE: Duration = Duration::from_millis(5);

/// Addresses that are free now; Envoy cannot tell which it took.
fn free() -> [SocketAddr; 2] {
    let held = [0, 0].map(|port| TcpListener::bind(("127.0.0.1", port)).expect("loopback has free ports"));
    held.map(|it| it.local_addr().expect("it is bound"))
}

/// An Envoy that a person set up with `weft bootstrap`. It ends with this value.
struct Envoy {
    listen: SocketAddr,
    admin: SocketAddr,
    _process: Child,
}

impl Envoy {
    async fn start(mesh: &Mesh, program: PathBuf, delta: bool) -> Self {
        let certificates = stock::identity(mesh, "edge").await;
        let ([listen, admin], out) = (free(), mesh.dir().join("envoy.json"));
        let mut bootstrap = Command::new(mesh.weft());
        let server = format!("https://{}", mesh.registry_at());
        bootstrap.args(["bootstrap", "--lang", "envoy", "--server", &server, "--identity"]).arg(&certificates);
        bootstrap.args(["--listen", &listen.to_string(), "--admin", &admin.to_string(), "--out"]).arg(&out);
        if delta {
            bootstrap.arg("--delta");
        }
        stock::succeed(&mut bootstrap).await;
        let log = std::fs::File::create(mesh.dir().join("envoy.log")).expect("the directory is ours");
        let mut command = Command::new(program);
        command.arg("-c").arg(&out).args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning"]);
        let process = command.stderr(log).kill_on_drop(true).spawn().expect("Envoy starts");
        Self { listen, admin, _process: process }
    }

    /// A channel through it that calls by this authority.
    fn channel(&self, authority: &str) -> Channel {
        let origin = format!("http://{authority}").parse().expect("an authority");
        let endpoint = Endpoint::from_shared(format!("http://{}", self.listen)).expect("an address");
        endpoint.origin(origin).timeout(LIMIT).connect_lazy()
    }

    /// Who answers, over a few calls by this authority; an error if one failed.
    async fn answers(&self, authority: &str) -> Result<BTreeSet<String>, Status> {
        let mut echo = EchoClient::new(self.channel(authority));
        let mut instances = BTreeSet::new();
        for _ in 0..12 {
            instances.insert(echo.unary(EchoRequest::default()).await?.into_inner().instance);
        }
        Ok(instances)
    }

    /// Statistics whose name ends so, summed up.
    async fn sum(&self, ending: &str) -> u64 {
        let page = metrics_page(self.admin).await;
        let lines = page.lines().filter_map(|line| line.split_once(": ")).filter(|(name, _)| name.ends_with(ending));
        lines.filter_map(|(_, value)| value.trim().parse::<u64>().ok()).sum()
    }
}

/// Sixteen callers through one connection that go on until they are told to end.
struct Callers {
    going: JoinSet<Vec<Status>>,
    enough: CancellationToken,
    calls: Arc<AtomicUsize>,
}

impl Callers {
    fn start<F>(call: impl Fn() -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let (mut going, enough, calls) = (JoinSet::new(), CancellationToken::new(), Arc::<AtomicUsize>::default());
        for _ in 0..16 {
            let (call, enough, calls) = (call.clone(), enough.clone(), calls.clone());
            going.spawn(async move {
                let mut failed = Vec::new();
                while !enough.is_cancelled() {
                    failed.extend(call().await.err());
                    calls.fetch_add(1, Relaxed);
                    tokio::time::sleep(PACE).await;
                }
                failed
            });
        }
        Self { going, enough, calls }
    }

    /// Waits until they have made this many more calls.
    async fn go_on(&self, more: usize) {
        let wanted = self.calls.load(Relaxed) + more;
        wait::until("more calls", LIMIT, async || (self.calls.load(Relaxed) >= wanted).then_some(())).await;
    }

    /// Ends them; no call may have failed.
    async fn lost_none(self) {
        self.enough.cancel();
        let failed = self.going.join_all().await.concat();
        assert!(failed.is_empty(), "{} of {} calls failed: {failed:?}", failed.len(), self.calls.load(Relaxed));
    }
}

async fn metrics_page(admin: SocketAddr) -> String {
    weft_testkit::http::send(admin, http::Method::GET, "/stats", "").await.map(|it| it.body).unwrap_or_default()
}

async fn envoy_follows(delta: bool, test: &str) {
    let Some(program) = outside::need(outside::envoy(), test, "Envoy") else { return };
    let _alone = ALONE.write().await;
    let apps = [App::Echo, App::Echo, App::Users, App::Users, App::Users];
    let Some(mut mesh) = Mesh::start(test, &apps).await else { return };
    let envoy = Envoy::start(&mesh, program, delta).await;
    let set = async |mesh: &Mesh| serving(mesh).await.into_iter().collect::<BTreeSet<_>>();
    let reaches = async |authority: &str, wanted: BTreeSet<String>| {
        wait::until(&format!("Envoy to reach {wanted:?} by {authority}"), LIMIT, async || {
            envoy.answers(authority).await.ok().filter(|it| *it == wanted)
        })
        .await;
    };
    let both = set(&mesh).await;
    for authority in ["echo", "echo.default", "echo.default.weft", "echo:8080"] {
        reaches(authority, both.clone()).await;
    }
    reaches("somewhere.example", both).await; // by the gRPC service in the path

    let callers = {
        let echo = EchoClient::new(envoy.channel("echo"));
        Callers::start(move || {
            let mut echo = echo.clone();
            async move { echo.unary(EchoRequest::default()).await.map(drop) }
        })
    };
    mesh.add(App::Echo);
    mesh.all_serving().await;
    reaches("echo", set(&mesh).await).await;
    leave(&mut mesh, 0).await;
    leave(&mut mesh, 0).await;
    let one = set(&mesh).await;
    assert_eq!(one.len(), 1);
    reaches("echo", one).await;
    callers.lost_none().await;

    // A kill gives no notice: what can be repeated is, elsewhere.
    let callers = {
        let users = UsersClient::new(envoy.channel("users"));
        Callers::start(move || {
            let mut users = users.clone();
            async move { users.list_users(ListUsersRequest::default()).await.map(drop) }
        })
    };
    callers.go_on(200).await;
    let users = mesh.members.iter().position(|it| it.app == App::Users).expect("three were started");
    let mut killed = mesh.members.remove(users);
    killed.sidecar.kill();
    wait::until("the registry to miss the instance", LIMIT, async || {
        let left = mesh.instances().await.into_iter().filter(|it| it.service == "users.default");
        (left.filter(|it| it.status() == Health::Serving).count() == 2).then_some(())
    })
    .await;
    callers.go_on(200).await;
    callers.lost_none().await;

    assert!(envoy.sum("update_success").await > 0);
    assert_eq!(envoy.sum("update_rejected").await, 0, "{}", metrics_page(envoy.admin).await);
    assert_eq!(super::rejections(&mut mesh).await, 0);
}

#[tokio::test]
async fn an_envoy_follows_the_mesh_by_state_of_the_world() {
    envoy_follows(false, "an_envoy_follows_the_mesh_by_state_of_the_world").await;
}

#[tokio::test]
async fn an_envoy_follows_the_mesh_by_delta() {
    envoy_follows(true, "an_envoy_follows_the_mesh_by_delta").await;
}
