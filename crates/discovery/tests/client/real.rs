//! The client against the real registry, killed and started again on its data.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_discovery::{LeaseState, Leases, Registries, Topic, Watch, WatchConfig};
use weft_model::{Instance, InstanceId, LeaseTtl, Status};
use weft_registry::{Config, Registry};
use weft_runtime::{Context, Env, Shutdown, listen::ListenAddr};

use crate::fake::{registries, soon};
use crate::leases::instance;

/// A registry that has just started is not sure of what there is for TTL + 5 s, and a watch takes the word of one that has lost its past
/// after 30 s.
const UNTIL_SURE: Duration = Duration::from_secs(60);

/// A port that nobody else is given while its registry is away.
fn somewhere() -> SocketAddr {
    ListenAddr::loopback(0).lasting().get()
}

/// Starts a registry in a runtime of its own, so that ending it is as sudden as a kill.
async fn start(at: SocketAddr, data: &Path) -> (Runtime, SocketAddr) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (bound, addr) = oneshot::channel();
    let config = Config {
        listen: at.to_string().parse().unwrap(),
        http: "127.0.0.1:0".parse().unwrap(),
        dns: "127.0.0.1:0".parse().unwrap(),
        dns_ttl: Duration::ZERO,
        data: data.to_owned(),
        identity: None,
    };
    runtime.spawn(async move {
        let context = Context::for_test("registry", Env::default());
        let registry = loop {
            // The one killed before may need a moment to give port and file back.
            match Registry::bind(config.clone(), &context).await {
                Ok(registry) => break registry,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        bound.send(registry.grpc_addr().unwrap()).unwrap();
        registry.run(Shutdown::new()).await
    });
    let addr = soon("the registry", addr).await.unwrap();
    (runtime, addr)
}

fn numbered(number: u8) -> Instance {
    let id: InstanceId = format!("0197a1b2-0000-7000-8000-0000000000{number:02}").parse().unwrap();
    let mut instance = Instance { id, ..instance() };
    instance.endpoint.address.set_port(7_000 + u16::from(number));
    instance
}

#[tokio::test]
async fn a_registry_killed_and_restarted_costs_no_endpoint_and_no_lease() {
    let dir = tempfile::tempdir().unwrap();
    let (server, at) = start(somewhere(), dir.path()).await;
    let client: Registries = registries(&[at]);
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());

    let (lease_task, leases) = Leases::new(client.clone(), LeaseTtl::DEFAULT);
    tasks.spawn(lease_task.run(stop.clone()));
    let mut held: Vec<_> = (1..=3).map(|number| leases.hold(numbered(number))).collect();
    for lease in &mut held {
        while !matches!(soon("a lease", lease.changed()).await.unwrap(), LeaseState::Held { .. }) {}
    }
    let granted: Vec<_> = held.iter().map(|lease| lease.state()).collect();

    let config = WatchConfig {
        watcher: "test/1".into(),
        admin: None,
        topics: vec![Topic::All, Topic::Directory],
        last_good: None,
    };
    let (watch_task, mut watch) = Watch::new(client, config);
    tasks.spawn(watch_task.run(stop.clone()));
    let users = "users".parse::<weft_model::ServiceName>().unwrap();
    let before = loop {
        let update = soon("all three", watch.next()).await.unwrap();
        if update.snapshot.services.get(&users).is_some_and(|service| service.instances.len() == 3) {
            break update;
        }
    };
    watch.ack(before.version);

    server.shutdown_background();
    let (server, _) = start(at, dir.path()).await;
    held[0].report(Status::NotServing, "told after the restart");
    let mut last = before.version;
    loop {
        let update = soon("the change", watch.next()).await.unwrap();
        assert!(update.version >= last, "{} after {last}", update.version);
        last = update.version;
        let service = &update.snapshot.services[&users];
        assert_eq!(service.instances.len(), 3, "no update has fewer endpoints");
        watch.ack(update.version);
        if service.instances[&held[0].id()].status == Status::NotServing {
            break;
        }
    }
    assert!(last > before.version);
    assert_eq!(held.iter().map(|lease| lease.state()).collect::<Vec<_>>(), granted, "same ids, same epochs");
    stop.cancel();
    tasks.join_all().await;
    server.shutdown_background();
}

#[tokio::test]
async fn a_service_that_a_registry_without_its_past_does_not_know_is_forgotten() {
    // Another registry takes the place of the first with nothing on its disk: its versions are lower, and the client takes its word once it
    // has stayed behind for long. By then it is sure of what there is: `posts`, which registered again.
    let (first_dir, second_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, at) = start(somewhere(), first_dir.path()).await;
    let client: Registries = registries(&[at]);
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let (leaving, mut users_tasks) = (CancellationToken::new(), JoinSet::new());
    let [users, posts] = ["users", "posts"].map(|name| name.parse::<weft_model::ServiceName>().unwrap());

    let (users_task, users_leases) = Leases::new(client.clone(), LeaseTtl::DEFAULT);
    users_tasks.spawn(users_task.run(leaving.clone()));
    let _users = users_leases.hold(Instance { service: users.clone(), ..numbered(1) });
    let (posts_task, posts_leases) = Leases::new(client.clone(), LeaseTtl::DEFAULT);
    tasks.spawn(posts_task.run(stop.clone()));
    let _posts = posts_leases.hold(Instance { service: posts.clone(), ..numbered(2) });

    let config = WatchConfig { watcher: "test/1".into(), admin: None, topics: vec![Topic::All], last_good: None };
    let (watch_task, mut watch) = Watch::new(client, config);
    tasks.spawn(watch_task.run(stop.clone()));
    loop {
        let update = soon("both", watch.next()).await.unwrap();
        watch.ack(update.version);
        if [&users, &posts].into_iter().all(|name| update.snapshot.services.contains_key(name)) {
            break;
        }
    }

    leaving.cancel(); // the users die with their registry
    users_tasks.join_all().await;
    server.shutdown_background();
    let (server, _) = start(at, second_dir.path()).await;
    let forgotten = async {
        loop {
            let update = watch.next().await.unwrap();
            watch.ack(update.version);
            let posts = &update.snapshot.services[&posts];
            assert_eq!(posts.instances.len(), 1, "what lives is never forgotten");
            if !update.snapshot.services.contains_key(&users) {
                break;
            }
        }
    };
    tokio::time::timeout(UNTIL_SURE, forgotten).await.expect("users is forgotten");
    stop.cancel();
    tasks.join_all().await;
    server.shutdown_background();
}
