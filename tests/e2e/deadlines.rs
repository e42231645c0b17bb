//! A caller's deadline across services: kept at each hop, shorter at each hop, and the end of the call everywhere. And what is sent again
//! behind a call. Inventory: example-services, deadlines, retries.
//!
//! Lives here: what the last service of a chain sees. Does not: the rules of one stack (`weft-traffic`), services that are gone (`shop`).

use std::{
    cell::Cell,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};
use tonic::{Code, Request, Response, Status, transport};
use weft_proto::{
    descriptors,
    shop::{
        comments::v1::{self as comments, comments_server::CommentsServer},
        posts::v1::{GetPostRequest, PostView, posts_client::PostsClient},
        users::v1::{CreateUserRequest, GetUserRequest, User, users_client::UsersClient},
    },
};
use weft_testkit::{
    http::{Answer, send_with},
    mesh::{App, Mesh},
    outside, wait,
};

use crate::{
    ALONE,
    standin::{End, Reply, Seen, StandIn, timeout},
};

const SOON: Duration = Duration::from_secs(30);
const SLOW: Duration = Duration::from_secs(40);
const ADA: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn ada() -> User {
    User { id: ADA.to_owned(), name: "Ada".to_owned(), ..User::default() }
}

/// Posts, and the stand-in as users behind sidecars of its own.
struct Shop {
    mesh: Mesh,
    users: StandIn,
    dir: TempDir,
}

impl Shop {
    async fn start(test: &str, users: StandIn, instances: usize) -> Option<Self> {
        outside::need_binaries(&["posts"], test)?;
        let mut shop = Self { mesh: Mesh::start(test, &[]).await?, users, dir: TempDir::new().unwrap() };
        let set = shop.descriptors("users", descriptors::SHOP_USERS);
        let flags = ["--health", "tcp", "--descriptor-set", set.to_str().unwrap()];
        for _ in 0..instances {
            shop.mesh.add_beside(App::Users, shop.users.at, &flags);
        }
        shop.mesh.add(App::Posts);
        shop.mesh.all_serving().await;
        Some(shop)
    }

    fn descriptors(&self, service: &str, set: &[u8]) -> PathBuf {
        let path = self.dir.path().join(service);
        std::fs::write(&path, set).unwrap();
        path
    }

    async fn call(&self, method: Method, path: &str, within: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [("grpc-timeout", within)];
        send_with(self.mesh.gateway_at(), method, path, &headers, &body).await.expect("the gateway answers")
    }

    async fn create_post(&self, within: &str) -> Answer {
        self.call(Method::POST, "/api/posts", within, json!({"authorId": ADA, "title": "Notes"})).await
    }

    /// The n-th call of users, once its stream has ended.
    async fn ended(&self, number: usize) -> (Seen, End, Duration) {
        wait::until("the stream at users to end", SOON, || async {
            let seen = self.users.calls().into_iter().nth(number)?;
            let (end, after) = seen.end?;
            Some((seen, end, after))
        })
        .await
    }
}

#[tokio::test]
async fn a_deadline_ends_the_call_in_time_and_resets_the_stream_of_the_slow_service() {
    let _alone = ALONE.write().await;
    let test = "a_deadline_ends_the_call_in_time_and_resets_the_stream_of_the_slow_service";
    let slow = |_: &str, before: usize| Reply::with(&ada()).after(if before == 0 { Duration::ZERO } else { SLOW });
    let Some(shop) = Shop::start(test, StandIn::start(slow).await, 1).await else { return };
    let created = shop.create_post("30S").await; // every connection is there, and nothing but users can be slow
    assert_eq!(created.status, StatusCode::CREATED, "{created:?}");

    let limit = Duration::from_millis(500);
    let asked_for = Cell::new(1_usize);
    for number in [1, 2] {
        let before = shop.users.calls().len();
        // On a busy machine the time of a call may be over before users hear of it: then it is made again.
        let took = wait::until("users to be asked", SOON, async || {
            let asked = Instant::now();
            let answer = match number {
                1 => shop.create_post("500m").await,
                _ => shop.call(Method::GET, &format!("/api/users/{ADA}"), "500m", Value::Null).await,
            };
            let took = asked.elapsed();
            asked_for.set(asked_for.get() + 1);
            assert_eq!((answer.status, &answer.json()["code"]), (StatusCode::GATEWAY_TIMEOUT, &json!(4)), "{answer:?}");
            assert!((limit..SLOW / 2).contains(&took), "504 after {took:?}");
            (shop.users.calls().len() > before).then_some(took)
        })
        .await;
        let (seen, end, after) = shop.ended(before).await;
        println!("504 after {took:?}; users got {:?} to answer and a {end:?} after {after:?}", seen.timeout);
        assert_eq!(end, End::Reset(h2::Reason::CANCEL), "{seen:?}");
        assert!(after < SLOW, "{seen:?}");
        assert!(seen.timeout.is_some_and(|left| left < limit), "{seen:?}");
    }
    let (asked, asked_for) = (shop.users.calls().len(), asked_for.get());
    assert!(asked <= asked_for, "nobody asks again once the deadline is over: {asked} questions for {asked_for} calls");
}

/// Stands for comments: lists none, and asks posts about each post with its author, as the call it serves.
struct Relay {
    posts: Arc<OnceLock<weft::Channel>>,
    /// What each of its calls was given.
    given: Arc<std::sync::Mutex<Vec<Duration>>>,
}

#[tonic::async_trait]
impl comments::comments_server::Comments for Relay {
    async fn list_comments(
        &self,
        request: Request<comments::ListCommentsRequest>,
    ) -> Result<Response<comments::ListCommentsResponse>, Status> {
        self.given.lock().unwrap().extend(timeout(request.metadata().as_ref()));
        let posts = self.posts.get().expect("set before the first call").clone();
        let post = GetPostRequest { id: request.into_inner().post_id, view: PostView::Full.into() };
        PostsClient::new(posts).get_post(post).await?;
        Ok(Response::new(comments::ListCommentsResponse::default()))
    }

    async fn create_comment(
        &self,
        _: Request<comments::CreateCommentRequest>,
    ) -> Result<Response<comments::Comment>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_comment(&self, _: Request<comments::DeleteCommentRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tokio::test]
async fn from_comments_to_posts_to_users_a_deadline_shrinks_at_each_hop() {
    let _shared = ALONE.read().await;
    let test = "from_comments_to_posts_to_users_a_deadline_shrinks_at_each_hop";
    let users = StandIn::start(|_, _| Reply::with(&ada())).await;
    let Some(mut shop) = Shop::start(test, users, 1).await else { return };
    let post = shop.create_post("30S").await.json()["id"].as_str().unwrap().to_owned();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (posts, given) = (Arc::new(OnceLock::new()), Arc::default());
    let relay = Relay { posts: Arc::clone(&posts), given: Arc::clone(&given) };
    let relay = weft::Services::new(descriptors::SHOP_COMMENTS).with(CommentsServer::new(relay));
    let mut served = JoinSet::new();
    served.spawn(relay.run(listener, weft::Shutdown::new()));
    let outbound = shop.mesh.add_beside(App::Comments, at, &[]).sidecar.address("outbound").await;
    posts.set(weft::Channel::new(Some(format!("http://{outbound}").parse().unwrap()), "posts")).unwrap();
    shop.mesh.all_serving().await;

    // Below the five seconds that posts itself would wait for users at most. A machine that stands still may take much of it: then the call is made again.
    let whole = Duration::from_secs(4);
    wait::until("a call of which only the time that passed is gone", SOON, async || {
        let answer = shop.call(Method::GET, &format!("/api/posts/{post}/comments"), "4S", Value::Null).await;
        if answer.status == StatusCode::GATEWAY_TIMEOUT {
            return None;
        }
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let first = *given.lock().unwrap().last().expect("comments was asked");
        let last = shop.users.calls().last().and_then(|seen| seen.timeout).expect("users has a deadline, too");
        println!("of 4 s the gateway gave comments {first:?}, and posts gave users {last:?}");
        assert!(first < whole && last < first, "{first:?}, then {last:?}");
        (last > whole / 4).then_some(())
    })
    .await;
}

#[tokio::test]
async fn behind_a_call_only_what_has_no_side_effects_is_sent_again() {
    let _shared = ALONE.read().await;
    let test = "behind_a_call_only_what_has_no_side_effects_is_sent_again";
    let first_fails =
        |_: &str, before: usize| if before.is_multiple_of(2) { Reply::UNAVAILABLE } else { Reply::with(&ada()) };
    // Two, since UNAVAILABLE is asked again elsewhere only.
    let Some(mut shop) = Shop::start(test, StandIn::start(first_fails).await, 2).await else { return };

    let created = shop.create_post("30S").await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
    let asked: Vec<_> = shop.users.calls().into_iter().map(|seen| seen.method).collect();
    assert_eq!(asked, ["GetUser", "GetUser"], "posts' sidecar asked again, and nobody else did");

    // As an app would, through the sidecar of posts.
    let posts = shop.mesh.members.iter_mut().find(|member| member.app == App::Posts).unwrap();
    let outbound = posts.sidecar.address("outbound").await;
    let channel = transport::Channel::from_shared(format!("http://{outbound}")).unwrap();
    let mut users = UsersClient::new(channel.origin("http://users".parse().unwrap()).connect_lazy());
    let status = users.create_user(CreateUserRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let got = users.get_user(GetUserRequest { id: ADA.to_owned() }).await.unwrap().into_inner();
    assert_eq!(got, ada());
    let asked: Vec<_> = shop.users.calls().into_iter().skip(2).map(|seen| seen.method).collect();
    assert_eq!(asked, ["CreateUser", "GetUser", "GetUser"]);
}
