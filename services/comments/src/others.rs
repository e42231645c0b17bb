//! What comments asks other services.
//!
//! Lives here: the calls to `shop.posts.v1.Posts` and `shop.users.v1.Users`. Does not: their way and their deadline (`weft::Channel`),
//! what an answer means for a comment (`service`).

use std::time::Duration;

use tonic::Status;
use weft::Channel;
use weft::status::found;
use weft_proto::shop::posts::v1::posts_client::PostsClient;
use weft_proto::shop::posts::v1::{GetPostRequest, PostView};
use weft_proto::shop::users::v1::GetUserRequest;
use weft_proto::shop::users::v1::users_client::UsersClient;

/// Longest wait for another service when the caller of comments sets no bound of its own.
const LIMIT: Duration = Duration::from_secs(5);

/// The services that know posts and users.
#[derive(Debug, Clone)]
pub struct Others {
    posts: PostsClient<Channel>,
    users: UsersClient<Channel>,
}

impl Others {
    /// Makes it of channels to `posts` and `users`.
    pub fn new(posts: Channel, users: Channel) -> Self {
        Others { posts: PostsClient::new(posts.at_most(LIMIT)), users: UsersClient::new(users.at_most(LIMIT)) }
    }

    /// Returns whether there is such a post.
    pub(crate) async fn has_post(&self, id: &str) -> Result<bool, Status> {
        let request = GetPostRequest { id: id.to_owned(), view: PostView::Basic.into() };
        Ok(found("posts", self.posts.clone().get_post(request).await)?.is_some())
    }

    /// Returns whether there is such a user.
    pub(crate) async fn has_user(&self, id: &str) -> Result<bool, Status> {
        let request = GetUserRequest { id: id.to_owned() };
        Ok(found("users", self.users.clone().get_user(request).await)?.is_some())
    }
}
