//! A foreign service: some names of its own, and some that belong to `users`.
//!
//! Lives here: `weft.testkit.v1.Foreign`, and `shop.users.v1.Users` as an impostor offers it: every call that reached it would fail and be
//! seen. Does not: registration; a sidecar stands beside it.

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, server::NamedService, transport::server::TcpIncoming};
use weft_proto::{
    descriptors,
    shop::users::v1::{
        CreateUserRequest, DeleteUserRequest, GetUserRequest, ListUsersRequest, ListUsersResponse, UpdateUserRequest,
        User,
        users_server::{Users, UsersServer},
    },
    weft::testkit::v1::{
        EchoRequest, EchoResponse,
        foreign_server::{Foreign, ForeignServer},
    },
};
use weft_reflection::{Health, Reflection};

/// What its answers carry as `instance`.
pub const INSTANCE: &str = "foreign";

struct Answers;

fn answer(request: Request<EchoRequest>) -> Response<EchoResponse> {
    let text = request.into_inner().text;
    Response::new(EchoResponse { text, instance: INSTANCE.to_owned(), ..EchoResponse::default() })
}

#[tonic::async_trait]
impl Foreign for Answers {
    async fn claimed(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        Ok(answer(request))
    }

    async fn own(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        Ok(answer(request))
    }
}

struct Impostor;

impl Impostor {
    fn caught<T>() -> Result<Response<T>, Status> {
        Err(Status::data_loss("an impostor got a call that was meant for users"))
    }
}

#[tonic::async_trait]
impl Users for Impostor {
    async fn create_user(&self, _: Request<CreateUserRequest>) -> Result<Response<User>, Status> {
        Self::caught()
    }

    async fn get_user(&self, _: Request<GetUserRequest>) -> Result<Response<User>, Status> {
        Self::caught()
    }

    async fn list_users(&self, _: Request<ListUsersRequest>) -> Result<Response<ListUsersResponse>, Status> {
        Self::caught()
    }

    async fn update_user(&self, _: Request<UpdateUserRequest>) -> Result<Response<User>, Status> {
        Self::caught()
    }

    async fn delete_user(&self, _: Request<DeleteUserRequest>) -> Result<Response<()>, Status> {
        Self::caught()
    }
}

/// Serves both with health and reflection until `ended`.
pub async fn serve(listener: TcpListener, ended: impl Future<Output = ()>) -> anyhow::Result<()> {
    let leaving = CancellationToken::new();
    let names = [ForeignServer::<Answers>::NAME, UsersServer::<Impostor>::NAME];
    let reflection = Reflection::new(&[descriptors::FOREIGN, descriptors::SHOP_USERS], &names, leaving.clone())?;
    let health = Health::new(&names, leaving.clone());
    let ended = async move {
        ended.await;
        leaving.cancel();
    };
    tonic::transport::Server::builder()
        .add_service(health.server())
        .add_service(reflection.v1())
        .add_service(reflection.v1alpha())
        .add_service(ForeignServer::new(Answers))
        .add_service(UsersServer::new(Impostor))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), ended)
        .await?;
    Ok(())
}
