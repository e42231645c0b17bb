//! `shop.users.v1.Users`: what each call takes, does and answers.
//!
//! Lives here: reading requests, choosing statuses. Does not: SQL (`store`), what a name or an address must be (`user`).
//! A request is read as a whole before anything is done, so that the caller learns of all its mistakes at once.

use http::StatusCode;
use tonic::{Request, Response, Status};
use weft::Mask;
use weft::status::{invalid_argument, violations};
use weft_proto::shop::users::v1 as pb;
use weft_proto::shop::users::v1::users_server::UsersServer;
use weft_store::{Error, Id, Page};

use crate::store::{Changes, Store};
use crate::user::{Email, Name, User};

/// Returns what the process serves.
pub fn services(store: Store) -> weft::Services {
    let database = store.database.clone();
    database.attend(weft::Services::new(weft_proto::descriptors::SHOP_USERS).with(UsersServer::new(Users { store })))
}

struct Users {
    store: Store,
}

#[tonic::async_trait]
impl pb::users_server::Users for Users {
    async fn create_user(&self, request: Request<pb::CreateUserRequest>) -> Result<Response<pb::User>, Status> {
        let request = request.into_inner();
        let (name, email) = match (Name::parse(&request.name), Email::parse(&request.email)) {
            (Ok(name), Ok(email)) => (name, email),
            (name, email) => return Err(violations([("name", name.err()), ("email", email.err())])),
        };
        let user = self.store.insert(&name, &email).await.map_err(status)?;
        Ok(weft::http_status(Response::new(user.into()), StatusCode::CREATED))
    }

    async fn get_user(&self, request: Request<pb::GetUserRequest>) -> Result<Response<pb::User>, Status> {
        let user = self.store.get(known(&request.get_ref().id)?).await.map_err(status)?;
        Ok(Response::new(user.into()))
    }

    async fn list_users(
        &self,
        request: Request<pb::ListUsersRequest>,
    ) -> Result<Response<pb::ListUsersResponse>, Status> {
        let page = Page::parse(request.get_ref().page_size, &request.get_ref().page_token)?;
        let (users, next_page_token) = page.cut(self.store.page(page).await.map_err(status)?, |user| user.id);
        let users = users.into_iter().map(pb::User::from).collect();
        Ok(Response::new(pb::ListUsersResponse { users, next_page_token }))
    }

    async fn update_user(&self, request: Request<pb::UpdateUserRequest>) -> Result<Response<pb::User>, Status> {
        let request = request.into_inner();
        let user = request.user.ok_or_else(|| invalid_argument([("user", "is required")]))?;
        let changes = changes(&user, &Mask::new(request.update_mask))?;
        let id = known(&user.id)?;
        let updated = match changes {
            Changes { name: None, email: None } => self.store.get(id).await,
            changes => self.store.update(id, &changes).await,
        };
        Ok(Response::new(updated.map_err(status)?.into()))
    }

    async fn delete_user(&self, request: Request<pb::DeleteUserRequest>) -> Result<Response<()>, Status> {
        self.store.delete(known(&request.get_ref().id)?).await.map_err(status)?;
        Ok(Response::new(()))
    }
}

fn known(id: &str) -> Result<Id, Status> {
    Id::parse(id).map_err(status)
}

/// Reads the fields that the mask names; an empty mask names those that are set.
fn changes(user: &pb::User, mask: &Mask) -> Result<Changes, Status> {
    let name = mask.names("name", !user.name.is_empty()).then(|| Name::parse(&user.name)).transpose();
    let email = mask.names("email", !user.email.is_empty()).then(|| Email::parse(&user.email)).transpose();
    match (name, email, mask.beyond(&["name", "email"])) {
        (Ok(name), Ok(email), None) => Ok(Changes { name, email }),
        (name, email, beyond) => Err(violations([
            ("user.name", name.err().map(str::to_owned)),
            ("user.email", email.err().map(str::to_owned)),
            ("update_mask", beyond),
        ])),
    }
}

/// The one place where an error of the store becomes a status.
fn status(error: Error) -> Status {
    match error {
        // The id is ours and new, so the address is what is taken.
        Error::Taken => Status::already_exists("another user has this e-mail address"),
        error => error.status("user"),
    }
}

impl From<User> for pb::User {
    fn from(user: User) -> Self {
        pb::User {
            id: user.id.to_string(),
            name: user.name,
            email: user.email,
            create_time: Some(user.create_time.into()),
            update_time: Some(user.update_time.into()),
        }
    }
}
