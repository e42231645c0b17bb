//! Several processes of the service on one data directory, as `weft up` runs them, and the life of one.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test may; clippy knows it only of functions marked as tests")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Channel;
use weft_proto::shop::users::v1 as pb;
use weft_proto::shop::users::v1::users_client::UsersClient;

const LONG: Duration = Duration::from_secs(30);

/// A process of the service; dropped, it is killed.
struct Instance {
    process: Child,
    log: Lines<BufReader<ChildStderr>>,
    users: Option<UsersClient<Channel>>,
}

impl Instance {
    /// Starts a process; where it listens is in its log.
    fn spawn(data: &Path, port: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_users"));
        command.env_clear().env("PORT", port).env("WEFT_DATA", data).env("WEFT_SERVICE", "users");
        let mut process = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap()).lines();
        Instance { process, log, users: None }
    }

    async fn start(data: &Path) -> Self {
        let mut instance = Instance::spawn(data, "0");
        instance.connect().await;
        instance
    }

    async fn connect(&mut self) {
        let mut seen = Vec::new();
        while let Some(line) = timeout(LONG, self.log.next_line()).await.expect("it says where it listens").unwrap() {
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            if let Some(addr) = event["addr"].as_str() {
                self.users = Some(UsersClient::connect(format!("http://{addr}")).await.unwrap());
                return;
            }
            seen.push(line);
        }
        panic!("it ended before it listened: {seen:?}");
    }

    fn users(&self) -> UsersClient<Channel> {
        self.users.clone().unwrap()
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

#[tokio::test]
async fn instances_that_start_together_migrate_once_and_all_come_up() {
    let data = tempfile::tempdir().unwrap();
    let mut instances: Vec<Instance> = (0..4).map(|_| Instance::spawn(data.path(), "0")).collect();
    for instance in &mut instances {
        instance.connect().await;
    }
    let user = create(&mut instances[0].users(), "ada@example.com").await;
    for instance in &instances {
        let read = instance.users().get_user(pb::GetUserRequest { id: user.id.clone() }).await.unwrap();
        assert_eq!(read.into_inner(), user);
    }
}

#[tokio::test]
async fn what_one_instance_answered_every_other_reads_at_once_while_all_write() {
    const EACH: usize = 50;
    let data = tempfile::tempdir().unwrap();
    let instances = [Instance::start(data.path()).await, Instance::start(data.path()).await];
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

#[tokio::test]
async fn a_killed_instance_loses_nothing_it_answered_and_holds_up_nobody() {
    let data = tempfile::tempdir().unwrap();
    let (mut killed, other) = (Instance::start(data.path()).await, Instance::start(data.path()).await);
    let user = create(&mut killed.users(), "ada@example.com").await;
    killed.process.kill().await.unwrap();
    let request = pb::GetUserRequest { id: user.id.clone() };
    assert_eq!(other.users().get_user(request.clone()).await.unwrap().into_inner(), user);
    let again = Instance::start(data.path()).await;
    assert_eq!(again.users().get_user(request).await.unwrap().into_inner(), user);
}

#[tokio::test]
async fn a_terminated_instance_ends_well_and_its_successor_finds_everything() {
    let data = tempfile::tempdir().unwrap();
    let mut first = Instance::start(data.path()).await;
    let user = create(&mut first.users(), "ada@example.com").await;
    assert_eq!(first.terminate().await.code(), Some(0));
    let second = Instance::start(data.path()).await;
    let read = second.users().get_user(pb::GetUserRequest { id: user.id.clone() }).await.unwrap();
    assert_eq!(read.into_inner(), user);
}

#[tokio::test]
async fn a_start_that_cannot_succeed_says_why_and_how_it_was_meant() {
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("users.db"), "no database at all, but as long as one ".repeat(99)).unwrap();
    for (port, code, says) in [("http", 2, "PORT"), ("0", 1, "users.db")] {
        let mut instance = Instance::spawn(data.path(), port);
        let status = timeout(LONG, instance.process.wait()).await.expect("it ends").unwrap();
        let mut log = String::new();
        while let Some(line) = instance.log.next_line().await.unwrap() {
            log.push_str(&line);
        }
        assert_eq!(status.code(), Some(code), "{log}");
        assert!(log.contains(says), "{log}");
    }
}
