//! `shop.users.v1.Users`: what each call takes, does and answers.
//!
//! Lives here: reading requests, choosing statuses. Does not: SQL (`store`), what a name or an address must be (`user`).
//! A request is read as a whole before anything is done, so that the caller learns of all its mistakes at once.

use http::StatusCode;
use prost_types::Timestamp;
use tonic::{Request, Response, Status};
use weft::status::{internal, invalid_argument};
use weft_proto::shop::users::v1 as pb;
use weft_proto::shop::users::v1::users_server::UsersServer;

use crate::page;
use crate::store::{Changes, Error, Store};
use crate::user::{Email, Id, Micros, Name, User};

/// Returns what the process serves.
pub fn services(store: Store) -> weft::Services {
    weft::Services::new(weft_proto::descriptors::SHOP_USERS).with(UsersServer::new(Users { store }))
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
        let request = request.into_inner();
        let (size, after) = match (page::size(request.page_size), page::after(&request.page_token)) {
            (Ok(size), Ok(after)) => (size, after),
            (size, after) => return Err(violations([("page_size", size.err()), ("page_token", after.err())])),
        };
        // One more than asked for tells whether another page follows.
        let mut users = self.store.page(after, u32::from(size) + 1).await.map_err(status)?;
        let more = users.len() > usize::from(size);
        users.truncate(size.into());
        let next_page_token = users.last().filter(|_| more).map(|last| page::token_after(last.id)).unwrap_or_default();
        let users = users.into_iter().map(pb::User::from).collect();
        Ok(Response::new(pb::ListUsersResponse { users, next_page_token }))
    }

    async fn update_user(&self, request: Request<pb::UpdateUserRequest>) -> Result<Response<pb::User>, Status> {
        let request = request.into_inner();
        let user = request.user.ok_or_else(|| invalid_argument([("user", "is required")]))?;
        let changes = changes(&user, &request.update_mask.unwrap_or_default().paths)?;
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

/// An id that is not of our form belongs to nobody, which is all that a caller needs to know.
fn known(id: &str) -> Result<Id, Status> {
    Id::parse(id).ok_or_else(|| status(Error::NotFound))
}

/// Reads the fields that the mask names; an empty mask names those that are set.
fn changes(user: &pb::User, mask: &[String]) -> Result<Changes, Status> {
    let named = |field: &str, value: &str| match mask {
        [] => !value.is_empty(),
        mask => mask.iter().any(|path| path == field),
    };
    let name = named("name", &user.name).then(|| Name::parse(&user.name)).transpose();
    let email = named("email", &user.email).then(|| Email::parse(&user.email)).transpose();
    let fixed = mask.iter().find(|path| !["name", "email"].contains(&path.as_str()));
    match (name, email, fixed) {
        (Ok(name), Ok(email), None) => Ok(Changes { name, email }),
        (name, email, fixed) => Err(violations([
            ("user.name", name.err().map(str::to_owned)),
            ("user.email", email.err().map(str::to_owned)),
            ("update_mask", fixed.map(|path| format!("names {path:?}; name and email can be changed"))),
        ])),
    }
}

fn violations<D: Into<String>, const N: usize>(fields: [(&'static str, Option<D>); N]) -> Status {
    invalid_argument(fields.into_iter().filter_map(|(field, wrong)| Some((field, wrong?))))
}

/// The one place where an error of the store becomes a status. What the database says stays here, in the log.
fn status(error: Error) -> Status {
    match error {
        Error::NotFound => Status::not_found(error.to_string()),
        Error::EmailTaken => Status::already_exists(error.to_string()),
        Error::Busy(_) => Status::unavailable(error.to_string()),
        Error::Database(_) => internal(error),
    }
}

impl From<User> for pb::User {
    fn from(user: User) -> Self {
        pb::User {
            id: user.id.to_string(),
            name: user.name,
            email: user.email,
            create_time: Some(timestamp(user.create_time)),
            update_time: Some(timestamp(user.update_time)),
        }
    }
}

fn timestamp(Micros(micros): Micros) -> Timestamp {
    let nanos = micros.rem_euclid(1_000_000) * 1_000;
    Timestamp { seconds: micros.div_euclid(1_000_000), nanos: i32::try_from(nanos).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn every_error_of_the_store_has_its_status_and_no_sql_gets_out() {
        let table = "no such table: users".to_owned();
        let cases = [
            (Error::NotFound, Code::NotFound),
            (Error::EmailTaken, Code::AlreadyExists),
            (Error::Busy(sqlx::Error::PoolTimedOut), Code::Unavailable),
            (Error::Database(sqlx::Error::Protocol(table)), Code::Internal),
        ];
        for (error, code) in cases {
            let status = status(error);
            assert_eq!(status.code(), code);
            assert!(!status.message().contains("table"), "{status}");
        }
    }

    #[test]
    fn microseconds_become_a_timestamp_also_before_1970() {
        assert_eq!(timestamp(Micros(1_500_001)), Timestamp { seconds: 1, nanos: 500_001_000 });
        assert_eq!(timestamp(Micros(-1)), Timestamp { seconds: -1, nanos: 999_999_000 });
    }
}
