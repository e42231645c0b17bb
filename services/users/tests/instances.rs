//! Several processes of the service on one file or one PostgreSQL database, and the life of one.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test may; clippy knows it only of functions marked as tests")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use weft_proto::shop::users::v1 as pb;
use weft_proto::shop::users::v1::users_client::UsersClient;
use weft_testkit::database::Rows;
use weft_testkit::postgres::{PASSWORD, Postgres};
use weft_testkit::wait;

const LONG: Duration = Duration::from_secs(30);

/// A process of the service; dropped, it is killed.
struct Instance {
    process: Child,
    log: Lines<BufReader<ChildStderr>>,
    channel: Option<Channel>,
}

impl Instance {
    /// Starts a process; where it listens is in its log.
    fn spawn(rows: &Rows) -> Self {
        Instance::spawn_with(rows.url().map(|url| ("DATABASE_URL", url)).as_slice(), rows.dir())
    }

    fn spawn_with(env: &[(&str, &str)], data: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_users"));
        command.env_clear().env("PORT", "0").env("WEFT_DATA", data).env("WEFT_SERVICE", "users");
        command.envs(env.iter().copied());
        let mut process = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap()).lines();
        Instance { process, log, channel: None }
    }

    async fn start(rows: &Rows) -> Self {
        let mut instance = Instance::spawn(rows);
        instance.connect().await;
        instance
    }

    async fn connect(&mut self) {
        let mut seen = Vec::new();
        while let Some(line) = timeout(LONG, self.log.next_line()).await.expect("it says where it listens").unwrap() {
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            if let Some(addr) = event["addr"].as_str() {
                let endpoint = Channel::from_shared(format!("http://{addr}")).unwrap();
                self.channel = Some(endpoint.connect().await.unwrap());
                return;
            }
            seen.push(line);
        }
        panic!("it ended before it listened: {seen:?}");
    }

    fn users(&self) -> UsersClient<Channel> {
        UsersClient::new(self.channel.clone().unwrap())
    }

    async fn health(&self) -> ServingStatus {
        let mut health = HealthClient::new(self.channel.clone().unwrap());
        health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status()
    }

    async fn becomes(&self, wanted: ServingStatus) {
        wait::until(&format!("health to say {wanted:?}"), LONG, || async {
            (self.health().await == wanted).then_some(())
        })
        .await;
    }

    /// Everything it wrote from now to its end.
    async fn rest_of_the_log(&mut self) -> String {
        let mut log = String::new();
        while let Some(line) = self.log.next_line().await.unwrap() {
            log += &line;
        }
        log
    }

    async fn terminate(&mut self) -> ExitStatus {
        let pid = self.process.id().unwrap().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
        timeout(LONG, self.process.wait()).await.expect("it ends soon").unwrap()
    }
}

async fn create(users: &mut UsersClient<Channel>, email: &str) -> pb::User {
    let request = pb::CreateUserRequest { name: "U".to_owned(), email: email.to_owned() };
    users.create_user(request).await.unwrap().into_inner()
}

weft_testkit::on_each_engine!(
    instances_that_start_together_migrate_once_and_all_come_up,
    what_one_instance_answered_every_other_reads_at_once_while_all_write,
    a_killed_instance_loses_nothing_it_answered_and_holds_up_nobody,
    a_terminated_instance_ends_well_and_its_successor_finds_everything,
);

async fn instances_that_start_together_migrate_once_and_all_come_up(rows: Rows) {
    let mut instances: Vec<Instance> = (0..4).map(|_| Instance::spawn(&rows)).collect();
    for instance in &mut instances {
        instance.connect().await;
    }
    let user = create(&mut instances[0].users(), "ada@example.com").await;
    for instance in &instances {
        let read = instance.users().get_user(pb::GetUserRequest { id: user.id.clone() }).await.unwrap();
        assert_eq!(read.into_inner(), user);
    }
}

async fn what_one_instance_answered_every_other_reads_at_once_while_all_write(rows: Rows) {
    const EACH: usize = 50;
    let instances = [Instance::start(&rows).await, Instance::start(&rows).await];
    let mut writers = JoinSet::new();
    for (index, number) in (0..EACH).flat_map(|number| [(0, number), (1, number)]) {
        let (mut here, mut there) = (instances[index].users(), instances[1 - index].users());
        writers.spawn(async move {
            let user = create(&mut here, &format!("u{index}-{number}@example.com")).await;
            let read = there.get_user(pb::GetUserRequest { id: user.id.clone() }).await.unwrap().into_inner();
            assert_eq!(read, user);
            user.id
        });
    }
    let created: BTreeSet<String> = writers.join_all().await.into_iter().collect();
    assert_eq!(created.len(), 2 * EACH);
    for instance in &instances {
        let request = pb::ListUsersRequest { page_size: 1_000, page_token: String::new() };
        let listed = instance.users().list_users(request).await.unwrap().into_inner().users;
        assert_eq!(listed.into_iter().map(|user| user.id).collect::<BTreeSet<_>>(), created);
    }
}

async fn a_killed_instance_loses_nothing_it_answered_and_holds_up_nobody(rows: Rows) {
    let (mut killed, other) = (Instance::start(&rows).await, Instance::start(&rows).await);
    let user = create(&mut killed.users(), "ada@example.com").await;
    killed.process.kill().await.unwrap();
    let request = pb::GetUserRequest { id: user.id.clone() };
    assert_eq!(other.users().get_user(request.clone()).await.unwrap().into_inner(), user);
    let again = Instance::start(&rows).await;
    assert_eq!(again.users().get_user(request).await.unwrap().into_inner(), user);
}

async fn a_terminated_instance_ends_well_and_its_successor_finds_everything(rows: Rows) {
    let mut first = Instance::start(&rows).await;
    let user = create(&mut first.users(), "ada@example.com").await;
    assert_eq!(first.terminate().await.code(), Some(0));
    let second = Instance::start(&rows).await;
    let read = second.users().get_user(pb::GetUserRequest { id: user.id.clone() }).await.unwrap();
    assert_eq!(read.into_inner(), user);
}

#[tokio::test]
async fn a_start_that_cannot_succeed_says_why_and_how_it_was_meant() {
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("users.db"), "no database at all, but as long as one ".repeat(99)).unwrap();
    let mistyped = ("DATABASE_URL", "postgres://ann@127.0.0.1/shop?passwrod=s3cret");
    for (env, code, says) in [
        (&[("PORT", "http")][..], 2, "PORT"),
        (&[mistyped], 2, "passwrod"),
        (&[("DATABASE_URL", "s3cret")], 2, "expected postgres://USER:PASSWORD@HOST:PORT/DATABASE"),
        (&[], 1, "users.db"),
    ] {
        let mut instance = Instance::spawn_with(env, data.path());
        let status = timeout(LONG, instance.process.wait()).await.expect("it ends").unwrap();
        let log = instance.rest_of_the_log().await;
        assert_eq!(status.code(), Some(code), "{log}");
        assert!(log.contains(says) && !log.contains("s3cret"), "{log}");
    }
}

#[tokio::test]
async fn a_server_that_goes_away_takes_the_service_out_until_it_is_back() {
    let test = "a_server_that_goes_away_takes_the_service_out_until_it_is_back";
    let Some(mut postgres) = Postgres::start(test) else { return };
    let (url, data) = (postgres.database(), tempfile::tempdir().unwrap());
    let env = [("DATABASE_URL", url.as_str())];
    let mut early = Instance::spawn_with(&env, data.path());
    early.connect().await;
    let user = create(&mut early.users(), "ada@example.com").await;
    assert_eq!(early.health().await, ServingStatus::Serving);

    postgres.stop();
    early.becomes(ServingStatus::NotServing).await;
    let mut late = Instance::spawn_with(&env, data.path());
    late.connect().await;
    assert_eq!(late.health().await, ServingStatus::NotServing, "it serves as soon as it can, and not before");
    for instance in [&early, &late] {
        let asked = Instant::now();
        let status = instance.users().get_user(pb::GetUserRequest { id: user.id.clone() }).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "the database cannot be reached"));
        // A call waits for five seconds for a server of which nobody knows that it is away.
        assert!(asked.elapsed() < Duration::from_secs(4), "nobody waits for a server that is known to be away");
    }

    postgres.start_again();
    for (number, instance) in [&early, &late].into_iter().enumerate() {
        instance.becomes(ServingStatus::Serving).await;
        let read = instance.users().get_user(pb::GetUserRequest { id: user.id.clone() }).await.unwrap();
        assert_eq!(read.into_inner(), user);
        create(&mut instance.users(), &format!("{number}@example.com")).await;
    }
    for (mut instance, cause) in [(early, "cannot be reached: "), (late, "cannot be reached: Connection refused")] {
        assert_eq!(instance.terminate().await.code(), Some(0));
        let log = instance.rest_of_the_log().await;
        assert!(log.contains(cause) && !log.contains(PASSWORD), "{log}");
    }
}

#[tokio::test]
async fn a_password_that_is_wrong_is_the_cause_and_gets_into_no_log() {
    let test = "a_password_that_is_wrong_is_the_cause_and_gets_into_no_log";
    let Some(url) = weft_testkit::postgres::database(test) else { return };
    let (url, data) = (url.replace(PASSWORD, "s3cret"), tempfile::tempdir().unwrap());
    let mut instance = Instance::spawn_with(&[("DATABASE_URL", &url)], data.path());
    instance.connect().await;
    assert_eq!(instance.health().await, ServingStatus::NotServing);
    assert_eq!(instance.terminate().await.code(), Some(0));
    let log = instance.rest_of_the_log().await;
    assert!(log.contains("password authentication failed") && !log.contains("s3cret"), "{log}");
}
