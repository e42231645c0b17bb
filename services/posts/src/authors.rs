//! What posts asks users.
//!
//! Lives here: the calls to `shop.users.v1.Users`. Does not: their way and their deadline (`weft::Channel`), what an answer means for a
//! post (`service`).

use std::time::Duration;

use tonic::Status;
use weft::Channel;
use weft_proto::shop::users::v1::GetUserRequest;
use weft_proto::shop::users::v1::users_client::UsersClient;

/// Longest wait for users when the caller of posts sets no bound of its own.
const LIMIT: Duration = Duration::from_secs(5);

/// The users, as authors of posts.
#[derive(Debug, Clone)]
pub struct Authors {
    users: UsersClient<Channel>,
}

impl Authors {
    /// Makes it of a channel to `users`.
    pub fn new(users: Channel) -> Self {
        Authors { users: UsersClient::new(users.at_most(LIMIT)) }
    }

    /// Returns the name of a user, none if there is no such user.
    pub(crate) async fn name(&self, id: &str) -> Result<Option<String>, Status> {
        let request = GetUserRequest { id: id.to_owned() };
        let user = weft::status::found("users", self.users.clone().get_user(request).await)?;
        Ok(user.map(|user| user.name))
    }
}
