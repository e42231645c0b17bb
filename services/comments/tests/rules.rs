//! Every rule of `shop.comments.v1.Comments`, by a real client over a real connection, with stand-ins for posts and users, on each
//! engine.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test may; clippy knows it only of functions marked as tests")]

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;
use weft_comments::{Others, Store, services};
use weft_proto::shop::comments::v1 as pb;
use weft_proto::shop::comments::v1::comments_client::CommentsClient;
use weft_proto::shop::posts::v1 as posts;
use weft_proto::shop::posts::v1::posts_server::PostsServer;
use weft_proto::shop::users::v1 as users;
use weft_proto::shop::users::v1::users_server::UsersServer;
use weft_store::Place;
use weft_testkit::database::Rows;

const LONG: Duration = Duration::from_secs(20);

/// Stands in for posts and users alike: what an id says happens.
#[derive(Clone)]
struct StandIn {
    /// Where a question about "together" waits for the other one.
    together: Arc<Barrier>,
}

impl StandIn {
    async fn look(&self, id: &str) -> Result<(), Status> {
        match id {
            "known" => Ok(()),
            "together" => {
                self.together.wait().await;
                Ok(())
            }
            "down" => Err(Status::unavailable("no endpoint takes calls")),
            "slow" => std::future::pending().await,
            _ => Err(Status::not_found("no such thing")),
        }
    }
}

#[tonic::async_trait]
impl users::users_server::Users for StandIn {
    async fn get_user(&self, request: Request<users::GetUserRequest>) -> Result<Response<users::User>, Status> {
        self.look(&request.get_ref().id).await?;
        Ok(Response::new(users::User::default()))
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

#[tonic::async_trait]
impl posts::posts_server::Posts for StandIn {
    async fn get_post(&self, request: Request<posts::GetPostRequest>) -> Result<Response<posts::Post>, Status> {
        assert_ne!(request.get_ref().view(), posts::PostView::Full, "the author's name is of no use to comments");
        self.look(&request.get_ref().id).await?;
        Ok(Response::new(posts::Post::default()))
    }

    async fn create_post(&self, _: Request<posts::CreatePostRequest>) -> Result<Response<posts::Post>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_posts(
        &self,
        _: Request<posts::ListPostsRequest>,
    ) -> Result<Response<posts::ListPostsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn update_post(&self, _: Request<posts::UpdatePostRequest>) -> Result<Response<posts::Post>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_post(&self, _: Request<posts::DeletePostRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// A service in this process and a client of it; dropped, both go.
struct Shop {
    comments: CommentsClient<Channel>,
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
    let mut served = JoinSet::new();
    let stand_in = StandIn { together: Arc::new(Barrier::new(2)) };
    let posts = weft::Services::new(weft_proto::descriptors::SHOP_POSTS).with(PostsServer::new(stand_in.clone()));
    let users = weft::Services::new(weft_proto::descriptors::SHOP_USERS).with(UsersServer::new(stand_in));
    let posts = weft::Channel::new(Some(serve(&mut served, posts).await.parse().unwrap()), "posts");
    let users = weft::Channel::new(Some(serve(&mut served, users).await.parse().unwrap()), "users");
    let url = serve(&mut served, services(open(&rows).await, Others::new(posts, users))).await;
    Shop { comments: CommentsClient::connect(url).await.unwrap(), served, rows }
}

impl Shop {
    async fn create(&mut self, post: &str, author: &str, text: &str) -> Result<pb::Comment, Status> {
        let (post_id, author_id, text) = (post.to_owned(), author.to_owned(), text.to_owned());
        let request = pb::CreateCommentRequest { post_id, author_id, text };
        self.comments.create_comment(request).await.map(Response::into_inner)
    }

    async fn list(&mut self, post: &str, page_size: i32, token: &str) -> Result<pb::ListCommentsResponse, Status> {
        let (post_id, page_token) = (post.to_owned(), token.to_owned());
        let request = pb::ListCommentsRequest { post_id, page_size, page_token };
        self.comments.list_comments(request).await.map(Response::into_inner)
    }

    async fn delete(&mut self, post: &str, id: &str) -> Result<(), Status> {
        let request = pb::DeleteCommentRequest { post_id: post.to_owned(), id: id.to_owned() };
        self.comments.delete_comment(request).await.map(Response::into_inner)
    }
}

/// The fields that an INVALID_ARGUMENT complains of.
fn wrong_fields<T: std::fmt::Debug>(answer: Result<T, Status>) -> Vec<String> {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let details = status.get_details_bad_request().unwrap();
    details.field_violations.into_iter().map(|it| it.field).collect()
}

weft_testkit::on_each_engine!(
    a_created_comment_is_what_was_sent_with_an_id_and_a_time_and_is_listed,
    posts_and_users_are_asked_at_the_same_time,
    what_nobody_knows_is_refused_and_nothing_is_stored,
    all_that_is_wrong_is_said_at_once,
    a_service_that_cannot_be_asked_is_the_cause_whatever_the_other_one_does,
    what_comments_knows_itself_it_tells_without_the_others,
    pages_give_each_comment_of_a_post_once_oldest_first,
    a_comment_is_deleted_once_and_only_from_its_own_post,
);

async fn a_created_comment_is_what_was_sent_with_an_id_and_a_time_and_is_listed(rows: Rows) {
    let mut shop = shop(rows).await;
    let (post_id, author_id) = ("known".to_owned(), "known".to_owned());
    let request = pb::CreateCommentRequest { post_id, author_id, text: "one\ntwo".to_owned() };
    let answer = shop.comments.create_comment(request).await.unwrap();
    assert_eq!(answer.metadata().get("weft-http-status").unwrap(), "201");
    let comment = answer.into_inner();
    assert_eq!((comment.post_id.as_str(), comment.author_id.as_str()), ("known", "known"));
    assert_eq!(comment.text, "one\ntwo");
    assert!(comment.create_time.is_some());
    assert_eq!(shop.list("known", 0, "").await.unwrap().comments, [comment]);
    assert!(shop.list("other", 0, "").await.unwrap().comments.is_empty());
}

async fn posts_and_users_are_asked_at_the_same_time(rows: Rows) {
    let mut shop = shop(rows).await;
    // Each question is answered only when the other one is there.
    timeout(LONG, shop.create("together", "together", "text")).await.expect("nobody waits for the other").unwrap();
}

async fn what_nobody_knows_is_refused_and_nothing_is_stored(rows: Rows) {
    let mut shop = shop(rows).await;
    assert_eq!(wrong_fields(shop.create("known", "nobody", "text").await), ["author_id"]);
    for author in ["known", "nobody"] {
        let status = shop.create("nothing", author, "text").await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::NotFound, "no such post"));
    }
    for post in ["known", "nothing", "\0"] {
        assert!(shop.list(post, 0, "").await.unwrap().comments.is_empty());
    }
}

async fn all_that_is_wrong_is_said_at_once(rows: Rows) {
    let mut shop = shop(rows).await;
    assert_eq!(wrong_fields(shop.create("", "", " ").await), ["post_id", "author_id", "text"]);
    assert_eq!(
        wrong_fields(shop.create("slow", "slow", &"a".repeat(2_001)).await),
        ["text"],
        "before anybody is asked"
    );
    assert_eq!(wrong_fields(shop.list("known", -1, "no token").await), ["page_size", "page_token"]);
}

async fn a_service_that_cannot_be_asked_is_the_cause_whatever_the_other_one_does(rows: Rows) {
    let mut shop = shop(rows).await;
    for (post, author, cause) in [("down", "slow", "asking posts: "), ("slow", "down", "asking users: ")] {
        let status = timeout(LONG, shop.create(post, author, "text")).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.message(), format!("{cause}no endpoint takes calls"));
    }
    assert!(shop.list("down", 0, "").await.unwrap().comments.is_empty());
}

async fn what_comments_knows_itself_it_tells_without_the_others(rows: Rows) {
    let mut shop = shop(rows).await;
    let comment = shop.create("known", "known", "text").await.unwrap();
    let alone = |service| weft::Channel::new(None, service);
    let store = open(&shop.rows).await;
    let url = serve(&mut shop.served, services(store, Others::new(alone("posts"), alone("users")))).await;
    shop.comments = CommentsClient::connect(url).await.unwrap();

    assert_eq!(shop.list("known", 0, "").await.unwrap().comments, std::slice::from_ref(&comment));
    let status = shop.create("known", "known", "text").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("WEFT_OUTBOUND"), "{status}");
    shop.delete("known", &comment.id).await.unwrap();
}

async fn pages_give_each_comment_of_a_post_once_oldest_first(rows: Rows) {
    let mut shop = shop(rows).await;
    let mut created = Vec::new();
    for number in 0..5 {
        created.push(shop.create("known", "known", &number.to_string()).await.unwrap());
    }
    let first = shop.list("known", 3, "").await.unwrap();
    let second = shop.list("known", 3, &first.next_page_token).await.unwrap();
    assert_eq!([first.comments, second.comments].concat(), created);
    assert_eq!(second.next_page_token, "");
}

async fn a_comment_is_deleted_once_and_only_from_its_own_post(rows: Rows) {
    let mut shop = shop(rows).await;
    let comment = shop.create("known", "known", "text").await.unwrap();
    for (post, id) in
        [("other", comment.id.as_str()), ("known", "1"), ("known", ""), ("", ""), ("\0", comment.id.as_str())]
    {
        assert_eq!(shop.delete(post, id).await.unwrap_err().code(), Code::NotFound, "{post:?} {id:?}");
    }
    shop.delete("known", &comment.id).await.unwrap();
    assert_eq!(shop.delete("known", &comment.id).await.unwrap_err().code(), Code::NotFound);
    assert!(shop.list("known", 0, "").await.unwrap().comments.is_empty());
}
