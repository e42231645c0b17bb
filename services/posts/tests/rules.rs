//! Every rule of `shop.posts.v1.Posts`, by a real client over a real connection, with a stand-in for users, on
//! each engine.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test may; clippy knows it only of functions marked as tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use prost_types::FieldMask;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;
use weft_posts::{Authors, Store, services};
use weft_proto::shop::posts::v1 as pb;
use weft_proto::shop::posts::v1::posts_client::PostsClient;
use weft_proto::shop::users::v1 as users;
use weft_proto::shop::users::v1::users_server::UsersServer;
use weft_store::Place;
use weft_testkit::database::Rows;

const LONG: Duration = Duration::from_secs(20);
/// The one user there is, until `ada_is_gone`.
const ADA: &str = "ada";

/// Stands in for users: knows Ada, and fails in ways that an id asks for. Counts what it is asked.
#[derive(Clone, Default)]
struct Users {
    asked: Arc<AtomicUsize>,
    ada_is_gone: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl users::users_server::Users for Users {
    async fn get_user(&self, request: Request<users::GetUserRequest>) -> Result<Response<users::User>, Status> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match request.get_ref().id.as_str() {
            ADA if !self.ada_is_gone.load(Ordering::SeqCst) => {
                Ok(Response::new(users::User { id: ADA.to_owned(), name: "Ada".to_owned(), ..Default::default() }))
            }
            "down" => Err(Status::unavailable("no endpoint of users takes calls")),
            "broken" => Err(Status::internal("a secret of users")),
            "slow" => std::future::pending().await,
            _ => Err(Status::not_found("no such user")),
        }
    }

    async fn create_user(&self, _: Request<users::CreateUserRequest>) -> Result<Response<users::User>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_users(
        &self,
        _: Request<users::ListUsersRequest>,
    ) -> Result<Response<users::ListUsersResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn update_user(&self, _: Request<users::UpdateUserRequest>) -> Result<Response<users::User>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_user(&self, _: Request<users::DeleteUserRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// A service in this process, a client of it, and the users it asks; dropped, all go.
struct Shop {
    posts: PostsClient<Channel>,
    users: Users,
    served: JoinSet<()>,
    rows: Rows,
}

async fn serve(served: &mut JoinSet<()>, services: weft::Services) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    served.spawn(async move { services.run(listener, weft::Shutdown::new()).await.unwrap() });
    url
}

async fn open(rows: &Rows) -> Store {
    Store::open(&Place::named(rows.dir(), rows.url()).unwrap()).await.unwrap()
}

async fn shop(rows: Rows) -> Shop {
    let (users, mut served) = (Users::default(), JoinSet::new());
    let stand_in = weft::Services::new(weft_proto::descriptors::SHOP_USERS).with(UsersServer::new(users.clone()));
    let outbound = serve(&mut served, stand_in).await.parse().unwrap();
    let authors = Authors::new(weft::Channel::new(Some(outbound), "users"));
    let url = serve(&mut served, services(open(&rows).await, authors)).await;
    Shop { posts: PostsClient::connect(url).await.unwrap(), users, served, rows }
}

impl Shop {
    async fn create(&mut self, author: &str, title: &str, body: &str) -> Result<pb::Post, Status> {
        let (author_id, title, body) = (author.to_owned(), title.to_owned(), body.to_owned());
        let request = pb::CreatePostRequest { author_id, title, body };
        self.posts.create_post(request).await.map(Response::into_inner)
    }

    async fn get(&mut self, id: &str, view: pb::PostView) -> Result<pb::Post, Status> {
        let request = pb::GetPostRequest { id: id.to_owned(), view: view.into() };
        self.posts.get_post(request).await.map(Response::into_inner)
    }

    async fn list(&mut self, author: &str, page_size: i32, token: &str) -> Result<pb::ListPostsResponse, Status> {
        let (author_id, page_token) = (author.to_owned(), token.to_owned());
        let request = pb::ListPostsRequest { page_size, page_token, author_id };
        self.posts.list_posts(request).await.map(Response::into_inner)
    }

    async fn update(&mut self, post: pb::Post, mask: &[&str]) -> Result<pb::Post, Status> {
        let paths = mask.iter().map(|path| (*path).to_owned()).collect();
        let request = pb::UpdatePostRequest { post: Some(post), update_mask: Some(FieldMask { paths }) };
        self.posts.update_post(request).await.map(Response::into_inner)
    }

    async fn delete(&mut self, id: &str) -> Result<(), Status> {
        self.posts.delete_post(pb::DeletePostRequest { id: id.to_owned() }).await.map(Response::into_inner)
    }

    fn asked(&self) -> usize {
        self.users.asked.load(Ordering::SeqCst)
    }
}

fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> Code {
    answer.unwrap_err().code()
}

/// The fields that an INVALID_ARGUMENT complains of.
fn wrong_fields<T: std::fmt::Debug>(answer: Result<T, Status>) -> Vec<String> {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let details = status.get_details_bad_request().unwrap();
    details.field_violations.into_iter().map(|it| it.field).collect()
}

weft_testkit::on_each_engine!(
    a_created_post_is_what_was_sent_with_an_id_and_times_and_can_be_read,
    an_author_nobody_knows_is_a_violation_and_nothing_is_stored,
    all_that_is_wrong_is_said_at_once_and_users_are_not_bothered,
    users_that_cannot_be_asked_are_the_cause_and_nothing_is_stored,
    slow_users_cost_a_caller_without_a_deadline_five_seconds,
    the_full_view_tells_the_authors_name_of_now,
    what_posts_knows_itself_it_tells_without_users,
    an_unknown_id_is_not_found_whatever_its_form,
    an_update_changes_what_the_mask_names_and_nothing_else,
    pages_give_each_post_of_an_author_once_oldest_first,
    a_deleted_post_is_gone,
);

async fn a_created_post_is_what_was_sent_with_an_id_and_times_and_can_be_read(rows: Rows) {
    let mut shop = shop(rows).await;
    let request =
        pb::CreatePostRequest { author_id: ADA.to_owned(), title: "Notes".to_owned(), body: "one\ntwo".to_owned() };
    let answer = shop.posts.create_post(request).await.unwrap();
    assert_eq!(answer.metadata().get("weft-http-status").unwrap(), "201");
    let post = answer.into_inner();
    assert_eq!((post.author_id.as_str(), post.title.as_str(), post.body.as_str()), (ADA, "Notes", "one\ntwo"));
    assert!(post.create_time.is_some() && post.create_time == post.update_time);
    assert_eq!(shop.get(&post.id, pb::PostView::Basic).await.unwrap(), post);
    assert_eq!(shop.get(&post.id, pb::PostView::Unspecified).await.unwrap(), post);
    assert_eq!(shop.asked(), 1, "only the creation needed users");
}

async fn an_author_nobody_knows_is_a_violation_and_nothing_is_stored(rows: Rows) {
    let mut shop = shop(rows).await;
    for nobody in ["nobody", "a\0b"] {
        assert_eq!(wrong_fields(shop.create(nobody, "Notes", "").await), ["author_id"]);
    }
    assert!(shop.list("", 0, "").await.unwrap().posts.is_empty());
}

async fn all_that_is_wrong_is_said_at_once_and_users_are_not_bothered(rows: Rows) {
    let mut shop = shop(rows).await;
    assert_eq!(wrong_fields(shop.create("", " ", &"a".repeat(10_001)).await), ["author_id", "title", "body"]);
    assert_eq!(wrong_fields(shop.create("nobody", "a\nb", "").await), ["title"]);
    assert_eq!(wrong_fields(shop.list("", -1, "no token").await), ["page_size", "page_token"]);
    let post = pb::Post { title: " ".to_owned(), body: "\0".to_owned(), ..Default::default() };
    let all = ["post.title", "post.body", "update_mask"];
    assert_eq!(wrong_fields(shop.update(post, &["title", "body", "author_id"]).await), all);
    assert_eq!(wrong_fields(shop.posts.update_post(pb::UpdatePostRequest::default()).await), ["post"]);
    assert_eq!(shop.asked(), 0);
}

async fn users_that_cannot_be_asked_are_the_cause_and_nothing_is_stored(rows: Rows) {
    let mut shop = shop(rows).await;
    let status = shop.create("down", "Notes", "").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "asking users: no endpoint of users takes calls");
    let status = shop.create("broken", "Notes", "").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Internal, "internal error"));
    assert!(shop.list("", 0, "").await.unwrap().posts.is_empty());
}

async fn slow_users_cost_a_caller_without_a_deadline_five_seconds(rows: Rows) {
    let mut shop = shop(rows).await;
    let status = timeout(LONG, shop.create("slow", "Notes", "")).await.unwrap().unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::DeadlineExceeded, "asking users: users did not answer in time")
    );
}

async fn the_full_view_tells_the_authors_name_of_now(rows: Rows) {
    let mut shop = shop(rows).await;
    let post = shop.create(ADA, "Notes", "").await.unwrap();
    assert_eq!(post.author_name, "");
    let full = shop.get(&post.id, pb::PostView::Full).await.unwrap();
    assert_eq!(full, pb::Post { author_name: "Ada".to_owned(), ..post.clone() });
    shop.users.ada_is_gone.store(true, Ordering::SeqCst);
    assert_eq!(shop.get(&post.id, pb::PostView::Full).await.unwrap(), post, "a post outlives its author");
}

async fn what_posts_knows_itself_it_tells_without_users(rows: Rows) {
    let mut shop = shop(rows).await;
    let post = shop.create(ADA, "Notes", "").await.unwrap();
    let alone = Authors::new(weft::Channel::new(None, "users"));
    let url = serve(&mut shop.served, services(open(&shop.rows).await, alone)).await;
    shop.posts = PostsClient::connect(url).await.unwrap();

    assert_eq!(shop.get(&post.id, pb::PostView::Basic).await.unwrap(), post);
    assert_eq!(shop.list(ADA, 0, "").await.unwrap().posts, std::slice::from_ref(&post));
    let status = shop.get(&post.id, pb::PostView::Full).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("WEFT_OUTBOUND"), "{status}");
    let renamed = pb::Post { title: "Diary".to_owned(), ..post.clone() };
    assert_eq!(shop.update(renamed, &["title"]).await.unwrap().title, "Diary");
    shop.delete(&post.id).await.unwrap();
}

async fn an_unknown_id_is_not_found_whatever_its_form(rows: Rows) {
    let mut shop = shop(rows).await;
    for id in ["01890a5d-ac96-774b-bcce-b302099a8057", "1", "", "\0", "'; DROP TABLE posts; --", &"x".repeat(10_000)] {
        assert_eq!(code(shop.get(id, pb::PostView::Full).await), Code::NotFound, "{id:.40}");
        assert_eq!(code(shop.delete(id).await), Code::NotFound, "{id:.40}");
        let post = pb::Post { id: id.to_owned(), title: "Notes".to_owned(), ..Default::default() };
        assert_eq!(code(shop.update(post.clone(), &["title"]).await), Code::NotFound, "{id:.40}");
        assert_eq!(code(shop.update(pb::Post { title: String::new(), ..post }, &[]).await), Code::NotFound, "{id:.40}");
    }
    assert_eq!(shop.asked(), 0);
}

async fn an_update_changes_what_the_mask_names_and_nothing_else(rows: Rows) {
    let mut shop = shop(rows).await;
    let post = shop.create(ADA, "Notes", "text").await.unwrap();
    let sent = pb::Post {
        title: "Diary".to_owned(),
        body: String::new(),
        author_id: "eve".to_owned(),
        author_name: "Eve".to_owned(),
        ..post.clone()
    };
    let named = shop.update(sent.clone(), &["title"]).await.unwrap();
    let (before, after) = (post.update_time.unwrap(), named.update_time.unwrap());
    assert!((after.seconds, after.nanos) > (before.seconds, before.nanos));
    assert_eq!(named, pb::Post { title: "Diary".to_owned(), update_time: named.update_time, ..post.clone() });
    assert_eq!(shop.update(sent.clone(), &["body"]).await.unwrap().body, "", "a mask can empty a field");
    let only_body = pb::Post { id: post.id.clone(), body: "again".to_owned(), ..Default::default() };
    let unmasked = shop.update(only_body, &[]).await.unwrap();
    assert_eq!((unmasked.title.as_str(), unmasked.body.as_str()), ("Diary", "again"));
    let nothing = pb::Post { id: post.id.clone(), ..Default::default() };
    assert_eq!(shop.update(nothing, &[]).await.unwrap(), unmasked, "not even the time changes");
    assert_eq!(shop.get(&post.id, pb::PostView::Basic).await.unwrap(), unmasked);
}

async fn pages_give_each_post_of_an_author_once_oldest_first(rows: Rows) {
    let mut shop = shop(rows).await;
    let mut created = Vec::new();
    for number in 0..5 {
        created.push(shop.create(ADA, &format!("Notes {number}"), "").await.unwrap());
    }
    let (mut seen, mut token, mut sizes) = (Vec::new(), String::new(), Vec::new());
    loop {
        let page = shop.list(ADA, 2, &token).await.unwrap();
        sizes.push(page.posts.len());
        seen.extend(page.posts);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!((sizes, seen), (vec![2, 2, 1], created.clone()));
    assert_eq!(shop.list("", 5, "").await.unwrap().posts, created);
    for nobody in ["eve", "\0", "'"] {
        assert!(shop.list(nobody, 0, "").await.unwrap().posts.is_empty(), "{nobody:?}");
    }
}

async fn a_deleted_post_is_gone(rows: Rows) {
    let mut shop = shop(rows).await;
    let post = shop.create(ADA, "Notes", "").await.unwrap();
    shop.delete(&post.id).await.unwrap();
    assert_eq!(code(shop.get(&post.id, pb::PostView::Basic).await), Code::NotFound);
    assert_eq!(code(shop.delete(&post.id).await), Code::NotFound);
}
