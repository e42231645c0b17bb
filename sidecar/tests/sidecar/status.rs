//! What the registry is told of the app.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::Method;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::interceptor::InterceptedService;
use weft_proto::descriptors;
use weft_proto::weft::discovery::v1::{WatchRequest, discovery_client::DiscoveryClient, service_update::Body};
use weft_proto::weft::model::v1::Status;
use weft_proto::weft::registry::v1::{RegisterRequest, registry_client::RegistryClient};

use weft_runtime::listen::ListenAddr;
use weft_sidecar::Config;
use weft_testkit::{http::send, wait};

use crate::fixture::{Fixture, LIMIT, signal};

#[tokio::test]
async fn an_app_is_listed_when_it_is_ready_with_its_descriptors_and_slot() {
    let fixture = Fixture::with_registry().await;
    let sidecar = fixture.start(fixture.echo("echo")).await;
    let listed = fixture.listed_as(&sidecar, Status::Serving).await;
    assert_eq!(listed.endpoint.unwrap().address, sidecar.addresses.inbound.to_string());
    assert_eq!(listed.metadata["slot"], "echo-1");
    let registries = weft_discovery::Registries::new(&fixture.registry_url().parse().unwrap());
    let set = registries.descriptors(&"echo".parse().unwrap(), None, LIMIT).await.unwrap();
    assert_eq!(set.digest().0[..], listed.descriptor_digest[..]);
    assert!(set.services().contains(&"weft.testkit.v1.Echo".to_owned()));
}

#[tokio::test]
async fn of_an_app_that_speaks_no_grpc_readyz_says_so() {
    let fixture = Fixture::with_registry().await;
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config { app: app.local_addr().unwrap(), ..fixture.config("web", &[]) };
    let _app = JoinSet::from_iter([async move {
        loop {
            let (mut caller, _) = app.accept().await.unwrap();
            let mut read = vec![0; 1024];
            let _ = caller.read(&mut read).await; // it may have gone
            let _ = caller.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        }
    }]);
    let sidecar = fixture.start(config).await;
    wait::until("the reason", LIMIT, || async {
        let answer = send(sidecar.addresses.admin, Method::GET, "/readyz", "").await.ok()?;
        let said = "not ready: the app is not ready yet: speaks no HTTP/2, which gRPC needs";
        (answer.status.as_u16() == 503 && answer.body.trim() == said).then_some(())
    })
    .await;
}

/// Waits until a watcher of `echo` was told that it crashed and, right after that, that it serves.
async fn crash_and_return(fixture: &Fixture) {
    let mut client = DiscoveryClient::connect(fixture.registry_url()).await.unwrap();
    let watch = WatchRequest { watcher: "test".into(), subscribe: vec!["echo".into()], ..Default::default() };
    let mut stream = client.watch(tokio_stream::iter([watch])).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while !seen.ends_with(&[Status::Crashed, Status::Serving]) {
        let next = timeout(LIMIT, stream.message()).await;
        let message = next.unwrap_or_else(|_| panic!("no crash and return: {seen:?}")).unwrap().unwrap();
        for body in message.services.into_iter().filter_map(|service| service.body) {
            let instances = match body {
                Body::Full(full) => full.instances,
                Body::Delta(delta) => delta.upserted,
            };
            seen.extend(instances.iter().map(|instance| instance.status()));
        }
    }
}

#[tokio::test]
async fn a_killed_app_is_told_as_crashed_before_it_serves_again_under_the_same_id() {
    let fixture = Fixture::with_registry().await;
    let sidecar = fixture.start(fixture.echo("echo")).await;
    fixture.listed_as(&sidecar, Status::Serving).await;
    // After the first crash the app is back at once, and a watcher, who gets the latest, may be told of nothing. The later ones take
    // longer, and there CRASHED has to be seen: NOT_SERVING, the lost connection that a crash shows by, is not enough.
    let ((), ()) = tokio::join!(crash_and_return(&fixture), async {
        let mut pid = sidecar.pid(None).await;
        for _ in 0..3 {
            signal(pid, Signal::KILL);
            pid = sidecar.pid(Some(pid)).await;
        }
    });
    let again = fixture.listed_as(&sidecar, Status::Serving).await;
    assert_eq!(again.id, sidecar.id.to_string());
    sidecar.inbound().unary(crate::fixture::says("x")).await.unwrap();
}

#[tokio::test]
async fn a_hung_app_is_out_within_three_probe_intervals_and_back_when_it_answers() {
    let fixture = Fixture::with_registry().await;
    let mut config = fixture.echo("echo");
    // Two silent probes are two intervals and a moment: what is left of the third is more than a machine stands still for.
    config.timing.interval = Duration::from_secs(8);
    let three = 3 * config.timing.interval;
    let sidecar = fixture.start(config).await;
    fixture.listed_as(&sidecar, Status::Serving).await;
    let pid = sidecar.pid(None).await;
    let before = Instant::now();
    signal(pid, Signal::STOP);
    let listed = fixture.listed_as(&sidecar, Status::NotServing).await;
    assert!(listed.reason.contains("no answer"), "{}", listed.reason);
    assert!(before.elapsed() < three, "{:?}", before.elapsed());
    signal(pid, Signal::CONT);
    fixture.listed_as(&sidecar, Status::Serving).await;
}

#[tokio::test]
async fn an_app_that_crashes_again_and_again_is_given_up_with_its_last_words() {
    let fixture = Fixture::with_registry().await;
    let config = fixture.config("echo", &["sh", "-c", "echo cannot open the shop >&2; exit 3"]);
    let mut sidecar = fixture.start(config).await;
    let error = sidecar.ended().await.unwrap_err().to_string();
    assert!(error.contains("exit code 3") && error.contains("cannot open the shop"), "{error}");
    assert_eq!(fixture.listed().await, []);
}

#[tokio::test]
async fn an_app_that_served_and_is_given_up_has_left_the_list_when_its_sidecar_ends() {
    let fixture = Fixture::with_registry().await;
    let once = format!("test -e \"$WEFT_DATA/pid\" && exit 3; exec {:?}", crate::fixture::echo_app());
    let mut sidecar = fixture.start(fixture.config("echo", &["sh", "-c", &once])).await;
    fixture.listed_as(&sidecar, Status::Serving).await;
    signal(sidecar.pid(None).await, Signal::KILL);
    let error = sidecar.ended().await.unwrap_err().to_string();
    assert!(error.contains("exit code 3"), "{error}");
    assert_eq!(fixture.listed().await, [], "nobody is behind it any more");
}

#[tokio::test]
async fn a_newer_registration_of_its_id_makes_the_sidecar_leave() {
    let fixture = Fixture::with_registry().await;
    let mut sidecar = fixture.start(fixture.echo("echo")).await;
    let instance = fixture.listed_as(&sidecar, Status::Serving).await;
    let mut client = RegistryClient::connect(fixture.registry_url()).await.unwrap();
    client.register(RegisterRequest { instance: Some(instance), ttl_ms: 0 }).await.unwrap();
    let error = timeout(LIMIT, sidecar.ended()).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("newer registration"), "{error}");
}

/// An app whose reflection fails as often as it was told; on a runtime of its own, whose end closes every connection, as a crash would.
struct Reflecting {
    at: SocketAddr,
    failures: Arc<AtomicU32>,
    server: Option<Runtime>,
}

impl Reflecting {
    async fn start(at: SocketAddr, set: &'static [u8], failures: u32) -> Self {
        let failures = Arc::new(AtomicU32::new(failures));
        let left = failures.clone();
        let reflection = tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(set);
        let reflection = InterceptedService::new(reflection.build_v1().unwrap(), move |request| {
            match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
                Ok(_) => Err(tonic::Status::unavailable("not now")),
                Err(_) => Ok(request),
            }
        });
        let (_reporter, health) = tonic_health::server::health_reporter();
        let server = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // the one before may need a moment to give the port back
        let listener = wait::until("the port", LIMIT, || async { std::net::TcpListener::bind(at).ok() }).await;
        listener.set_nonblocking(true).unwrap();
        let at = listener.local_addr().unwrap();
        server.spawn(async move {
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            tonic::transport::Server::builder()
                .add_service(health)
                .add_service(reflection)
                .serve_with_incoming(incoming)
                .await
        });
        Self { at, failures, server: Some(server) }
    }
}

impl Drop for Reflecting {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
    }
}

#[tokio::test]
async fn a_restarted_app_that_fails_to_describe_itself_keeps_its_descriptors_until_it_does() {
    let fixture = Fixture::with_registry().await;
    let at = ListenAddr::loopback(0).lasting().get(); // which nobody else is given while it is away
    let app = Reflecting::start(at, descriptors::TESTKIT, 0).await;
    let mut config = fixture.config("echo", &[]);
    config.app = app.at;
    let sidecar = fixture.start(config).await;
    let first = fixture.listed_as(&sidecar, Status::Serving).await.descriptor_digest;
    assert!(!first.is_empty());
    drop(app);
    fixture.listed_as(&sidecar, Status::NotServing).await;
    let again = Reflecting::start(at, descriptors::SHOP_USERS, 2).await;
    wait::until("the first failure", LIMIT, || async { (again.failures.load(Ordering::SeqCst) < 2).then_some(()) })
        .await;
    let seen = wait::until("other descriptors", LIMIT, || async {
        let listed = fixture.listed().await.remove(0).descriptor_digest;
        (listed != first).then_some(listed)
    });
    assert!(!seen.await.is_empty(), "the next that is told are those of the new app, and never none");
    assert_eq!(again.failures.load(Ordering::SeqCst), 0, "it was asked until it said");
}
