//! `shop.posts.v1.Posts`: what each call takes, does and answers.
//!
//! Lives here: reading requests, choosing statuses. Does not: SQL (`store`), what a title must be (`post`), calling users (`authors`).
//! A request is read as a whole before anything is done, so that the caller learns of all its mistakes at once; users are asked only
//! about a request that is right otherwise.

use http::StatusCode;
use tonic::{Request, Response, Status};
use weft::Mask;
use weft::status::{invalid_argument, violations};
use weft_proto::shop::posts::v1 as pb;
use weft_proto::shop::posts::v1::posts_server::PostsServer;
use weft_store::{Error, Id, Page};

use crate::authors::Authors;
use crate::post::{AuthorId, Body, Post, Title};
use crate::store::{Changes, Store};

/// Returns what the process serves.
pub fn services(store: Store, authors: Authors) -> weft::Services {
    let (database, posts) = (store.database().clone(), PostsServer::new(posts(store, authors)));
    database.attend(weft::Services::new(weft_proto::descriptors::SHOP_POSTS).with(posts))
}

/// Returns what answers the calls, for a process that serves more than that.
pub fn posts(store: Store, authors: Authors) -> impl pb::posts_server::Posts {
    Posts { store, authors }
}

struct Posts {
    store: Store,
    authors: Authors,
}

#[tonic::async_trait]
impl pb::posts_server::Posts for Posts {
    async fn create_post(&self, request: Request<pb::CreatePostRequest>) -> Result<Response<pb::Post>, Status> {
        let request = request.into_inner();
        let parsed = (AuthorId::parse(&request.author_id), Title::parse(&request.title), Body::parse(&request.body));
        let (author, title, body) = match parsed {
            (Ok(author), Ok(title), Ok(body)) => (author, title, body),
            (author, title, body) => {
                return Err(violations([("author_id", author.err()), ("title", title.err()), ("body", body.err())]));
            }
        };
        if self.authors.name(author.as_str()).await?.is_none() {
            return Err(invalid_argument([("author_id", "is no user's id")]));
        }
        let post = self.store.insert(&author, &title, &body).await.map_err(status)?;
        Ok(weft::http_status(Response::new(post.into()), StatusCode::CREATED))
    }

    async fn get_post(&self, request: Request<pb::GetPostRequest>) -> Result<Response<pb::Post>, Status> {
        let view = request.get_ref().view();
        let post = self.store.get(known(&request.get_ref().id)?).await.map_err(status)?;
        let mut post = pb::Post::from(post);
        if view == pb::PostView::Full {
            post.author_name = self.authors.name(&post.author_id).await?.unwrap_or_default();
        }
        Ok(Response::new(post))
    }

    async fn list_posts(
        &self,
        request: Request<pb::ListPostsRequest>,
    ) -> Result<Response<pb::ListPostsResponse>, Status> {
        let request = request.into_inner();
        let page = Page::parse(request.page_size, &request.page_token)?;
        let posts = match request.author_id.as_str() {
            "" => self.store.page(page).await,
            author => self.store.page_by(author, page).await,
        };
        let (posts, next_page_token) = page.cut(posts.map_err(status)?, |post| post.id);
        let posts = posts.into_iter().map(pb::Post::from).collect();
        Ok(Response::new(pb::ListPostsResponse { posts, next_page_token }))
    }

    async fn update_post(&self, request: Request<pb::UpdatePostRequest>) -> Result<Response<pb::Post>, Status> {
        let request = request.into_inner();
        let post = request.post.ok_or_else(|| invalid_argument([("post", "is required")]))?;
        let changes = changes(&post, &Mask::new(request.update_mask))?;
        let id = known(&post.id)?;
        let updated = match changes {
            Changes { title: None, body: None } => self.store.get(id).await,
            changes => self.store.update(id, &changes).await,
        };
        Ok(Response::new(updated.map_err(status)?.into()))
    }

    async fn delete_post(&self, request: Request<pb::DeletePostRequest>) -> Result<Response<()>, Status> {
        self.store.delete(known(&request.get_ref().id)?).await.map_err(status)?;
        Ok(Response::new(()))
    }
}

fn known(id: &str) -> Result<Id, Status> {
    Id::parse(id).map_err(status)
}

/// Reads the fields that the mask names; an empty mask names those that are set.
fn changes(post: &pb::Post, mask: &Mask) -> Result<Changes, Status> {
    let title = mask.names("title", !post.title.is_empty()).then(|| Title::parse(&post.title)).transpose();
    let body = mask.names("body", !post.body.is_empty()).then(|| Body::parse(&post.body)).transpose();
    match (title, body, mask.beyond(&["title", "body"])) {
        (Ok(title), Ok(body), None) => Ok(Changes { title, body }),
        (title, body, beyond) => Err(violations([
            ("post.title", title.err().map(str::to_owned)),
            ("post.body", body.err().map(str::to_owned)),
            ("update_mask", beyond),
        ])),
    }
}

/// The one place where an error of the store becomes a status.
fn status(error: Error) -> Status {
    error.status("post")
}

impl From<Post> for pb::Post {
    fn from(post: Post) -> Self {
        pb::Post {
            id: post.id.to_string(),
            author_id: post.author,
            title: post.title,
            body: post.body,
            create_time: Some(post.create_time.into()),
            update_time: Some(post.update_time.into()),
            author_name: String::new(), // users know it
        }
    }
}
