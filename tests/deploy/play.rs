//! What ships, played: the real roles started with the command lines of the manifests and of compose, and calls that cross their mesh.
//!
//! Lives here: putting addresses and directories of this machine in the place of a cluster's. Does not: containers, and an API server of Kubernetes,
//! in whose place recorded answers stand.
//! Each pod gets an address of its own in 127.0.0.0/8, so that ports stay as they are written.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use http::{Method, StatusCode};
use serde_json::json;
use tempfile::TempDir;
use weft_runtime::listen::ListenAddr;
use weft_testkit::{
    http::send,
    kubernetes::{AUTHENTICATED, ApiServer},
    outside,
    process::Process,
    wait,
};

use crate::{compose, kubernetes};

/// How long a part may take to start, on a busy machine.
const START: Duration = Duration::from_secs(60);

/// Where the parts of a mesh run on this machine.
struct Stage {
    dir: TempDir,
    weft: PathBuf,
    /// Of the registry, the gateway, then the services.
    addresses: [Ipv4Addr; 4],
    running: Vec<Process>,
}

/// A part of the mesh: its place among the addresses, and a directory of its own.
struct Part<'s> {
    name: &'s str,
    at: Ipv4Addr,
    dir: PathBuf,
}

impl Stage {
    fn new(weft: &Path) -> Self {
        // Two runs at once must not meet: a network of 127.0.0.0/8 by process and by test.
        static STAGES: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);
        let stage = STAGES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let [.., high, low] = std::process::id().to_be_bytes();
        let addresses = [1, 2, 3, 4].map(|host| Ipv4Addr::new(127, 64 | high, low, stage * 8 + host));
        Self { dir: tempfile::tempdir().unwrap(), weft: weft.to_owned(), addresses, running: Vec::new() }
    }

    fn part<'s>(&self, name: &'s str, place: usize) -> Part<'s> {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        Part { name, at: self.addresses[place], dir }
    }

    fn registry(&self) -> SocketAddr {
        (IpAddr::from(self.addresses[0]), 7100).into()
    }

    /// The line as it is written, but for addresses and directories.
    fn here(&self, part: &Part<'_>, line: &[String], app: u16) -> Vec<String> {
        let (at, dir) = (part.at.to_string(), part.dir.display().to_string());
        let said = [
            ("=:", format!("={at}:")),
            ("$(POD_IP)", at.clone()),
            ("$(POD_NAME)", format!("{}-0", part.name)),
            ("$(POD_NAMESPACE)", "shop".to_owned()),
            ("127.0.0.1:50051", format!("127.0.0.1:{app}")),
            ("127.0.0.1:", format!("{at}:")),
            ("registry.weft.svc:7100", self.registry().to_string()),
            ("//registry:7100", format!("//{}", self.registry())),
            ("/var/run/secrets/weft", dir.clone()),
            ("/var/lib/weft", dir.clone()),
            ("/opt/weft", dir),
        ];
        let put = |word: &String| {
            if word.starts_with("--app=") {
                return word.replace("127.0.0.1:50051", &format!("127.0.0.1:{app}"));
            }
            if word.starts_with("--advertise=1") {
                return format!("--advertise={at}:{}", word.rsplit(':').next().unwrap()); // compose knows its addresses
            }
            said.iter().fold(word.clone(), |word, (from, to)| word.replace(from, to))
        };
        line.iter().map(put).collect()
    }

    async fn start(&mut self, part: &Part<'_>, line: &[String], more: &[String], app: u16, announces: &str) {
        let mut args = [self.here(part, line, app).as_slice(), more].concat();
        if announces == "grpc" {
            args.push(format!("--dns={}:7153", part.at)); // the default is a pod's own loopback; stages share theirs
        }
        let mut process = Process::start(part.name, &self.weft, &self.weft, &args, &[]).unwrap();
        process.address(announces).await;
        self.running.push(process);
    }

    /// The app's own program beside its sidecar, with the variables it is told.
    fn start_app(&mut self, part: &Part<'_>, app: u16, env: &[(&str, String)]) {
        let Some(program) = outside::binary(part.name) else { panic!("checked at the start") };
        let told = [("PORT", app.to_string()), ("WEFT_DATA", part.dir.display().to_string())];
        let outbound = ("WEFT_OUTBOUND", format!("http://{}:7301", part.at));
        let env = [env, &told, &[outbound]].concat();
        self.running.push(Process::start(part.name, &self.weft, &program, &[], &env).unwrap());
    }

    /// Runs a command of `weft` as the operator whose token lies in the registry's directory; returns what it prints.
    fn operate(&self, args: &[String]) -> String {
        let mut command = Command::new(&self.weft);
        let token = self.dir.path().join("registry/ca/operator.token");
        let out = command.args(args).env("WEFT_TOKEN_FILE", token).current_dir(self.dir.path()).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    /// Waits until a process is who its service account makes it.
    async fn has_joined(&self, service: &str) {
        let who = format!("spiffe://weft.local/ns/shop/svc/{service}");
        wait::until(&format!("{who} to join"), START, async || self.said(&who).then_some(())).await;
    }

    fn said(&self, text: &str) -> bool {
        self.running.iter().any(|it| it.said(text))
    }

    fn log(&self) -> String {
        self.running.iter().map(Process::log).collect()
    }

    /// A user is made through the gateway, and a post of hers: posts asks users.
    async fn calls_cross(&self) {
        let gateway = (IpAddr::from(self.addresses[1]), 8080).into();
        let ada = r#"{"name":"Ada","email":"ada@example.com"}"#;
        let user = wait::until("users to be called", START, || async {
            let user = send(gateway, Method::POST, "/api/users", ada).await.ok()?;
            (user.status == StatusCode::CREATED).then_some(user)
        })
        .await;
        let post = json!({ "authorId": user.json()["id"], "title": "Notes" }).to_string();
        wait::until("posts to be called", START, || async {
            let post = send(gateway, Method::POST, "/api/posts", &post).await.ok()?;
            (post.status == StatusCode::CREATED).then_some(())
        })
        .await;
    }

    /// Nothing is plaintext but the gateway's own port.
    async fn only_identities_come_in(&self) {
        for place in [2, 3] {
            let inbound = (IpAddr::from(self.addresses[place]), 7300).into();
            let refused = send(inbound, Method::GET, "/", "").await.unwrap();
            assert_eq!(refused.status, StatusCode::FORBIDDEN, "{refused:?}");
        }
        assert!(!self.said("--insecure") && !self.said("plaintext, as"), "{}", self.log());
    }
}

fn free_port() -> u16 {
    ListenAddr::loopback(0).lasting().get().port() // nobody else is given it before the app takes it
}

/// What a container runs, and what it does before it ends.
fn command(cluster: &kubernetes::cluster::Cluster, pods: &str, container: &str) -> (Vec<String>, Vec<String>) {
    let found = cluster.pods.iter().find(|it| it.name == pods).unwrap();
    let value = |name: &str| found.containers.iter().find(|it| it.name == name).unwrap().value.clone();
    let stop = value(if container == "weft" { pods } else { container });
    let stop = crate::files::strings(&stop["lifecycle"]["preStop"]["exec"]["command"]);
    (crate::files::strings(&value(container)["args"]), stop)
}

#[tokio::test]
async fn the_roles_start_as_the_manifests_say_and_calls_cross_their_mesh() {
    let test = "the_roles_start_as_the_manifests_say_and_calls_cross_their_mesh";
    let Some(kustomize) = outside::need(outside::kustomize(), test, "kustomize") else { return };
    let Some(binaries) = outside::need_binaries(&["weft", "users", "posts"], test) else { return };
    let cluster = kubernetes::cluster::Cluster::read(&kubernetes::render(&kustomize, "single"));
    let api = ApiServer::start().await;
    let mut stage = Stage::new(&binaries[0]);

    let registry = stage.part("registry", 0);
    let api_is = [
        format!("--kubernetes-api={}", api.url()),
        format!("--kubernetes-ca={}", api.ca().display()),
        format!("--kubernetes-token={}", api.token().display()),
    ];
    let (line, _) = command(&cluster, "registry", "registry");
    stage.start(&registry, &line, &api_is, 0, "grpc").await;
    let root = stage.operate(&["identity", "root"].map(str::to_owned));
    assert_eq!(root.len(), 64, "{root}");

    let vouch = |part: &Part<'_>, account: &str| {
        fs::write(part.dir.join("token"), format!("a.projected.{account}\n")).unwrap();
        fs::write(part.dir.join("root"), &root).unwrap();
        api.says(201, &AUTHENTICATED.replace("shop:users", &format!("shop:{account}")));
    };
    let gateway = stage.part("gateway", 1);
    vouch(&gateway, "gateway");
    let (line, gateway_stop) = command(&cluster, "gateway", "gateway");
    stage.start(&gateway, &line, &[], 0, "http").await;
    stage.has_joined("gateway").await; // the API server vouches for one at a time
    let mut stops = Vec::new();
    for (place, service) in [(2, "users"), (3, "posts")] {
        let (part, app) = (stage.part(service, place), free_port());
        vouch(&part, service);
        let (line, stop) = command(&cluster, service, "weft");
        stage.start(&part, &line, &[], app, "inbound").await;
        stage.has_joined(service).await;
        stage.start_app(&part, app, &[("WEFT_SERVICE", service.to_owned())]);
        stops.push(stage.here(&part, &stop, app));
    }
    stage.calls_cross().await;
    stage.only_identities_come_in().await;

    // What a pod does first when it is to go.
    stops.push(stage.here(&gateway, &gateway_stop, 0));
    for (place, admin, stop) in [(2, 7380, &stops[0]), (1, 8160, &stops[2])] {
        let program = if stop[0] == "weft" { stage.weft.clone() } else { PathBuf::from(&stop[0]) };
        let out = Command::new(program).args(&stop[1..]).output().unwrap();
        assert!(out.status.success(), "{stop:?}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(String::from_utf8_lossy(&out.stdout).contains("draining"), "{out:?}");
        // The gateway, with nothing in flight, is gone by then.
        let ready = send((IpAddr::from(stage.addresses[place]), admin).into(), Method::GET, "/readyz", "").await;
        assert!(ready.as_ref().map_or(true, |it| it.status == StatusCode::SERVICE_UNAVAILABLE), "{stop:?}: {ready:?}");
    }
}

#[tokio::test]
async fn the_roles_start_as_compose_says_and_calls_cross_their_mesh() {
    let test = "the_roles_start_as_compose_says_and_calls_cross_their_mesh";
    let Some(binaries) = outside::need_binaries(&["weft", "users", "posts"], test) else { return };
    let line = compose::commands();
    let mut stage = Stage::new(&binaries[0]);
    let registry = stage.part("registry", 0);
    stage.start(&registry, &line["registry"], &[], 0, "grpc").await;
    let token = |stage: &Stage, part: &Part<'_>| {
        stage.operate(&stage.here(part, &line[&format!("{}-token", part.name)], 0));
    };
    let gateway = stage.part("gateway", 1);
    token(&stage, &gateway);
    stage.start(&gateway, &line["gateway"], &[], 0, "http").await;
    for (place, service) in [(2, "users"), (3, "posts")] {
        let (part, app) = (stage.part(service, place), free_port());
        token(&stage, &part);
        stage.start(&part, &line[&format!("{service}-sidecar")], &[], app, "inbound").await;
        stage.start_app(&part, app, &[("WEFT_SERVICE", service.to_owned())]);
    }
    stage.calls_cross().await;
    stage.only_identities_come_in().await;
}
