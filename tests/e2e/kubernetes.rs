//! The order in which Kubernetes ends a pod, played with plain processes under load: `preStop` on `/drain`, the app's SIGTERM, the sidecar's
//! SIGTERM last. Inventory: kubernetes, scaling.
//!
//! Lives here: pods whose app nobody supervises but the kubelet (the test), gateways behind a balancer. Does not: manifests (`deploy/`).

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_testkit::{
    http::send,
    load::{self, Report},
    mesh::{App, Mesh},
    outside,
    process::Process,
    wait,
};

use crate::{
    ALONE,
    reliability::{RATE, four_reads_to_one_write, span_and},
};

const SOON: Duration = Duration::from_secs(30);
/// What a process may take that has nothing left to wait for, on a busy machine.
const PROMPTLY: Duration = Duration::from_secs(20);

/// An app and its sidecar, which know each other's address and nothing else.
struct Pod {
    app: Process,
    /// Names its sidecar.
    slot: String,
}

impl Pod {
    async fn start(mesh: &mut Mesh, users: &Path, data: &Path) -> Self {
        let weft = outside::binary("weft").expect("checked at the start of the mesh");
        let env = [("PORT", "0".to_owned()), ("WEFT_DATA", data.display().to_string())];
        let mut app = Process::start("users", &weft, users, &[], &env).unwrap();
        let at = app.address("grpc").await;
        let slot = mesh.add_beside(App::Users, at, &[]).slot.clone();
        Self { app, slot }
    }

    /// What the kubelet does to a pod that is to go; returns what `/drain` answered.
    async fn end(mut self, mesh: &mut Mesh) -> String {
        let place = mesh.members.iter().position(|member| member.slot == self.slot).expect("it has a sidecar");
        let mut sidecar = mesh.members.remove(place).sidecar;
        let admin = sidecar.address("admin").await;
        let drained = send(admin, Method::GET, "/drain", "").await.expect("preStop is answered");
        assert_eq!(drained.status, StatusCode::OK, "{drained:?}");
        // Both containers may have the hook.
        let again = send(admin, Method::POST, "/drain", "").await.expect("a second preStop is answered");
        assert_eq!((again.status, &again.body), (StatusCode::OK, &drained.body));

        self.app.signal(Signal::TERM);
        assert!(self.app.end(SOON).await.success(), "the app ends well");
        sidecar.signal(Signal::TERM);
        let status = sidecar.end(PROMPTLY).await;
        assert!(status.success(), "the sidecar ends well: {status:?}\n{}", sidecar.log());
        drained.body
    }
}

#[tokio::test]
async fn pods_replaced_in_the_order_of_kubernetes_fail_no_call() {
    let _alone = ALONE.write().await;
    let test = "pods_replaced_in_the_order_of_kubernetes_fail_no_call";
    let Some(users) = outside::need_binaries(&["users"], test) else { return };
    let Some(mut mesh) = Mesh::start(test, &[]).await else { return };
    let data = TempDir::new().unwrap();
    let mut pods = vec![];
    for _ in 0..2 {
        pods.push(Pod::start(&mut mesh, &users[0], data.path()).await);
    }
    mesh.all_serving().await;

    let call = four_reads_to_one_write(mesh.gateway_at()).await;
    let (enough, mut load) = (CancellationToken::new(), JoinSet::<Report>::new());
    load.spawn(load::run_until(mesh.gateway_at(), RATE, span_and(enough.clone()), call));
    for pod in std::mem::take(&mut pods) {
        pods.push(Pod::start(&mut mesh, &users[0], data.path()).await);
        mesh.all_serving().await;
        let began = Instant::now();
        let drained = pod.end(&mut mesh).await;
        println!("a pod was gone after {:?}; {}", began.elapsed(), drained.trim());
        assert!(drained.contains("acknowledged by") && drained.contains("gateway/"), "{drained}");
    }
    enough.cancel();
    let listed = mesh.instances().await;
    assert_eq!(listed.len(), 2, "who left is not listed: {listed:?}");
    let report = load.join_next().await.unwrap().unwrap();
    println!("two pods replaced: {report}");
    report.lost_none();
}

/// The gateways that say they are ready, as a load balancer in front of them knows it: from a probe now and then.
#[derive(Clone, Default)]
struct Balancer {
    ready: Arc<Mutex<Vec<SocketAddr>>>,
    next: Arc<AtomicUsize>,
}

impl Balancer {
    const PROBE_EVERY: Duration = Duration::from_millis(500);

    async fn probe(self, gateways: Vec<(SocketAddr, SocketAddr)>) {
        loop {
            let mut ready = Vec::new();
            for (at, admin) in &gateways {
                let probed = send(*admin, Method::GET, "/readyz", "").await;
                ready.extend(probed.is_ok_and(|answer| answer.status == StatusCode::OK).then_some(*at));
            }
            *self.ready.lock().unwrap() = ready;
            tokio::time::sleep(Self::PROBE_EVERY).await;
        }
    }

    fn ready(&self) -> usize {
        self.ready.lock().unwrap().len()
    }

    fn pick(&self) -> SocketAddr {
        let ready = self.ready.lock().unwrap();
        ready[self.next.fetch_add(1, Ordering::Relaxed) % ready.len()]
    }
}

#[tokio::test]
async fn a_gateway_that_drains_behind_a_balancer_fails_no_call() {
    let _alone = ALONE.write().await;
    let test = "a_gateway_that_drains_behind_a_balancer_fails_no_call";
    let Some(mut mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let mut second = mesh.add_gateway();
    let gateways = vec![
        (mesh.gateway_at(), mesh.gateway.address("admin").await),
        (second.address("http").await, second.address("admin").await),
    ];
    let leaving = gateways[0].1;
    let (balancer, mut probes) = (Balancer::default(), JoinSet::new());
    probes.spawn(balancer.clone().probe(gateways));
    wait::until("both gateways to be ready", SOON, || async { (balancer.ready() == 2).then_some(()) }).await;

    let call = four_reads_to_one_write(mesh.gateway_at()).await;
    let (enough, mut load) = (CancellationToken::new(), JoinSet::<Report>::new());
    let picks = balancer.clone();
    let stop = span_and(enough.clone());
    load.spawn(load::run_balanced_until(move |_| picks.pick(), RATE, stop, call));
    let flows = async |more: usize| {
        let wanted = balancer.next.load(Ordering::Relaxed) + more;
        let begun = || async { (balancer.next.load(Ordering::Relaxed) > wanted).then_some(()) };
        wait::until("the load to flow", SOON, begun).await;
    };
    flows(200).await;
    let began = Instant::now();
    let drained = send(leaving, Method::GET, "/drain", "").await.expect("preStop is answered");
    assert_eq!(drained.status, StatusCode::OK, "{drained:?}");
    assert!(began.elapsed() >= 2 * Balancer::PROBE_EVERY, "the balancer had time to hear of it: {:?}", began.elapsed());
    // It is this test that probes, and a busy machine may keep it from that.
    wait::until("the balancer to hear of it", SOON, || async { (balancer.ready() == 1).then_some(()) }).await;
    mesh.gateway.signal(Signal::TERM);
    let status = mesh.gateway.end(PROMPTLY).await;
    assert!(status.success(), "{status:?}\n{}", mesh.gateway.log());

    flows(200).await;
    enough.cancel();
    let report = load.join_next().await.unwrap().unwrap();
    println!("one of two gateways left: {report}");
    report.lost_none();
}
