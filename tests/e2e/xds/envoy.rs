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
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use weft_proto::{
    shop::users::v1::{ListUsersRequest, users_client::UsersClient},
    weft::{
        model::v1::Status as Health,
        policy::v1 as policy,
        testkit::v1::{EchoRequest, echo_client::EchoClient},
    },
};
use weft_runtime::listen::ListenAddr;
use weft_testkit::{
    mesh::{App, Mesh},
    outside, wait,
};

use super::{
    LIMIT, apply, canary_policy, failing, harmless, inbound_calls, leave, rule, services, serving, stock, streams,
    waiting,
};
use crate::ALONE;

/// A caller's pause between calls.
const PACE: Duration = Duration::from_millis(5);

/// Addresses that are free now, and that nobody else is given meanwhile; Envoy cannot tell which it took.
fn free() -> [SocketAddr; 2] {
    let first = ListenAddr::loopback(0).lasting().get();
    let _held = TcpListener::bind(first).expect("it was free a moment ago");
    [first, ListenAddr::loopback(0).lasting().get()]
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

    let callers = {
        let users = UsersClient::new(envoy.channel("users"));
        Callers::start(move || {
            let mut users = users.clone();
            async move { users.list_users(ListUsersRequest::default()).await.map(drop) }
        })
    };
    // Nobody else's calls are cut: no policy changes the listener.
    obeys_policies(&envoy, &mut mesh).await;
    callers.go_on(200).await;
    // A kill gives no notice: what can be repeated is, elsewhere.
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

    // Nobody else asks by xDS here.
    let admin = mesh.registry.as_mut().expect("the registry runs").address("admin").await;
    let (asked, other) = if delta { ("delta", "sotw") } else { ("sotw", "delta") };
    wait::until(&format!("a stream of {asked}"), LIMIT, async || (streams(admin, asked).await > 0).then_some(())).await;
    assert_eq!(streams(admin, other).await, 0, "Envoy asks by {other}, too");
    assert!(envoy.sum("update_success").await > 0);
    assert_eq!(envoy.sum("update_rejected").await, 0, "{}", metrics_page(envoy.admin).await);
    assert_eq!(super::rejections(&mut mesh).await, 0);
}

/// Shares and headers, a limit, more tries, faults: of calls to echo, which one instance takes, and a canary.
async fn obeys_policies(envoy: &Envoy, mesh: &mut Mesh) {
    let token = mesh.token_for("canary").await;
    mesh.add_with(App::Echo, &["--service", "canary", "--token-file", &token.to_string_lossy()]);
    mesh.all_serving().await;
    let of = services(mesh).await;
    let echo = EchoClient::new(envoy.channel("echo"));
    // The service whose instance answers; calls that it should tell from others have a header.
    let send = async |request: EchoRequest, marked: bool| {
        let mut request = Request::new(request);
        if marked {
            request.metadata_mut().insert("x-canary", "yes".parse().expect("a value"));
        }
        let answer = echo.clone().unary(request).await?.into_inner();
        Ok::<_, Status>(of[&answer.instance].as_str())
    };
    let call = async |marked| send(EchoRequest::default(), marked).await;
    let fails = async |what: &str, code: Code, request: EchoRequest| {
        wait::until(&format!("{what}: {code:?}"), LIMIT, async || {
            send(request.clone(), false).await.err().filter(|it| it.code() == code).map(drop)
        })
        .await;
    };

    apply(mesh, vec![canary_policy()]).await;
    wait::until("a marked call at the canary", LIMIT, async || {
        (call(true).await.expect("somebody answers") == "canary.default").then_some(())
    })
    .await;
    let mut canary = 0;
    for _ in 0..1_000 {
        canary += usize::from(call(false).await.expect("somebody answers") == "canary.default");
    }
    assert!((60..=140).contains(&canary), "one in ten of the others, not {canary} of 1000");
    assert_eq!(call(true).await.expect("it answers"), "canary.default");

    apply(mesh, vec![rule(policy::RouteRule { timeout_ms: 1_000, ..policy::RouteRule::default() })]).await;
    let slow = EchoRequest { delay_ms: 10_000, ..EchoRequest::default() };
    fails("a call beyond its limit", Code::DeadlineExceeded, slow).await;

    let retry = policy::RetryRule { on: vec!["resource-exhausted".into()], retries: 3, ..policy::RetryRule::default() };
    apply(mesh, vec![rule(policy::RouteRule { retry: Some(retry), ..policy::RouteRule::default() })]).await;
    let tries = async |code: Code| {
        let before = inbound_calls(mesh).await;
        let failing = EchoRequest { fail_with: (code as i32).cast_unsigned(), ..EchoRequest::default() };
        let failed = send(failing, false).await.expect_err("it was asked to fail");
        assert_eq!(failed.code(), code, "{failed:?}");
        inbound_calls(mesh).await - before
    };
    wait::until("four tries of a call", LIMIT, async || (tries(Code::ResourceExhausted).await == 4).then_some(()))
        .await;
    assert_eq!(tries(Code::Internal).await, 1, "another status is not tried again");

    // Calls that end in Envoy, at once or while they wait to be sent.
    apply(mesh, vec![failing()]).await;
    fails("a call that is made to fail", Code::FailedPrecondition, EchoRequest::default()).await;
    let before = inbound_calls(mesh).await;
    apply(mesh, vec![waiting()]).await;
    fails("a call that is made to wait", Code::DeadlineExceeded, EchoRequest::default()).await;
    assert_eq!(inbound_calls(mesh).await, before, "they got to no instance");
    apply(mesh, vec![harmless()]).await;
    wait::until("calls as before", LIMIT, async || call(true).await.ok().filter(|it| *it == "echo.default")).await;
}

#[tokio::test]
async fn an_envoy_follows_the_mesh_by_state_of_the_world() {
    envoy_follows(false, "an_envoy_follows_the_mesh_by_state_of_the_world").await;
}

#[tokio::test]
async fn an_envoy_follows_the_mesh_by_delta() {
    envoy_follows(true, "an_envoy_follows_the_mesh_by_delta").await;
}
