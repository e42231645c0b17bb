//! A real Prometheus that knows of a mesh only where its registry is: finds everything, scrapes everything, follows what comes and goes.
//! Inventory: prometheus.
//!
//! Lives here: discovery over HTTP as Prometheus does it. Does not: the form of the list (weft-registry), rules and boards (tests/deploy).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    process::Command,
    time::Duration,
};

use http::Method;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;
use weft_runtime::listen::ListenAddr;
use weft_testkit::{
    http::send,
    mesh::{App, Mesh},
    outside,
    process::Process,
    wait,
};

use crate::{ALONE, up::Up};

const SOON: Duration = Duration::from_secs(60);

/// A Prometheus with one job, which looks and scrapes every second.
struct Prometheus {
    at: SocketAddr,
    process: Process,
    _dir: TempDir,
}

impl Prometheus {
    /// Starts one for the registry whose HTTP port this is.
    async fn start(registry: SocketAddr, test: &str) -> Option<Self> {
        let program = outside::need_from_setup(outside::program("prometheus"), test, "Prometheus")?;
        let dir = TempDir::new().unwrap();
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\n\
             scrape_configs:\n  - job_name: weft\n    http_sd_configs:\n      - url: http://{registry}/prometheus/sd\n        refresh_interval: 1s\n    \
             relabel_configs:\n      - action: labelmap\n        regex: __meta_weft_(role|service|slot|health)\n"
        );
        fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let at = ListenAddr::loopback(0).lasting().get(); // nobody else is given it meanwhile
        let mut command = Command::new(program);
        command.arg("--config.file=prometheus.yml").arg("--storage.tsdb.path=data").current_dir(dir.path());
        command.arg(format!("--web.listen-address={at}"));
        let process = Process::spawn("prometheus", command).unwrap();
        let it = Self { at, process, _dir: dir };
        wait::until("Prometheus to be ready", SOON, || async {
            send(at, Method::GET, "/-/ready", "").await.ok().filter(|it| it.status.is_success())
        })
        .await;
        Some(it)
    }

    async fn get(&self, path: &str) -> Value {
        let answer = send(self.at, Method::GET, path, "").await;
        answer.unwrap_or_else(|error| panic!("{error:#}: {}", self.process.log())).json()["data"].take()
    }

    /// Active targets: address → role and health.
    async fn targets(&self) -> BTreeMap<String, (String, String)> {
        let active =
            self.get("/api/v1/targets?state=active").await["activeTargets"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let target = |it: &Value| (text(&it["labels"]["instance"]), (text(&it["labels"]["role"]), text(&it["health"])));
        active.iter().map(target).collect()
    }

    /// Waits until exactly these targets are there, and all are up.
    async fn finds(&self, what: &str, wanted: &BTreeMap<String, String>) {
        let wanted: BTreeMap<_, _> =
            wanted.iter().map(|(at, role)| (at.clone(), (role.clone(), "up".to_owned()))).collect();
        let start = tokio::time::Instant::now();
        while self.targets().await != wanted {
            assert!(start.elapsed() < SOON, "{what}: {:#?}, not {wanted:#?}", self.targets().await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Addresses for which a query's value is 1.
    async fn ones(&self, query: &str) -> BTreeSet<String> {
        let result =
            self.get(&format!("/api/v1/query?query={query}")).await["result"].as_array().cloned().unwrap_or_default();
        let ones = result.iter().filter(|it| it["value"][1] == "1");
        ones.map(|it| it["metric"]["instance"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

/// Admin addresses of everything that `weft ps` shows, with its role.
async fn shown(up: &Up) -> BTreeMap<String, String> {
    let role =
        |name: &str| if ["registry", "gateway"].contains(&name) { name.to_owned() } else { "sidecar".to_owned() };
    let processes = up.processes().await;
    let admin = |it: &Value| {
        let at = it["addresses"]["admin"].as_str().expect("every process has an admin port");
        (at.to_owned(), role(it["name"].as_str().unwrap_or_default()))
    };
    processes.iter().map(admin).collect()
}

#[tokio::test]
async fn prometheus_finds_and_scrapes_all_of_weft_up_and_follows_its_scale() {
    let test = "prometheus_finds_and_scrapes_all_of_weft_up_and_follows_its_scale";
    let _shared = ALONE.read().await;
    let Some(up) = Up::start(test).await else { return };
    let first = shown(&up).await;
    let registry = first.iter().find(|(_, role)| *role == "registry").unwrap().0.parse().unwrap();
    let Some(prometheus) = Prometheus::start(registry, test).await else { return };
    assert_eq!(first.len(), 4, "registry, gateway, two sidecars: {first:?}");
    prometheus.finds("after the start", &first).await;
    let addresses: BTreeSet<_> = first.keys().cloned().collect();
    wait::until("a sample of each", SOON, || async { (prometheus.ones("up").await == addresses).then_some(()) }).await;
    // Sidecars have the labels of their instances; a scrape that took too long is a sample of 0.
    let serving = "up{role=%22sidecar%22,service=%22users%22,health=%22serving%22,slot=~%22users-[12]%22}";
    wait::until("samples of two serving sidecars", SOON, || async {
        (prometheus.ones(serving).await.len() == 2).then_some(())
    })
    .await;

    up.run(&["scale", "users=3"]).await;
    let more = shown(&up).await;
    assert_eq!(more.len(), 5, "{more:?}");
    prometheus.finds("one more", &more).await;
    up.run(&["scale", "users=1"]).await;
    let fewer = shown(&up).await;
    assert_eq!(fewer.len(), 3, "{fewer:?}");
    prometheus.finds("two fewer", &fewer).await;
}

#[tokio::test]
async fn an_apps_own_metrics_are_found_beside_those_of_its_sidecar() {
    let test = "an_apps_own_metrics_are_found_beside_those_of_its_sidecar";
    let _shared = ALONE.read().await;
    let Some(mut mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let mut serving = JoinSet::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    let (metrics, ready) = (weft_runtime::Metrics::default(), weft_runtime::admin::Readiness::starting(""));
    let context = weft_runtime::Context::for_test("app", weft_runtime::Env::default());
    serving.spawn(weft_runtime::admin::Admin::new(metrics, ready).run(listener, context.shutdown()));
    mesh.add_with(App::Users, &["--metrics", &format!("{app}/metrics")]);
    mesh.all_serving().await;

    let registry = mesh.registry.as_mut().unwrap().address("admin").await;
    let Some(prometheus) = Prometheus::start(registry, test).await else { return };
    let mut wanted: BTreeMap<String, String> =
        [(registry, "registry"), (mesh.gateway.address("admin").await, "gateway"), (app, "service")]
            .map(|(at, role)| (at.to_string(), role.to_owned()))
            .into();
    for member in &mut mesh.members {
        wanted.insert(member.sidecar.address("admin").await.to_string(), "sidecar".to_owned());
    }
    prometheus.finds("everything", &wanted).await;
}
