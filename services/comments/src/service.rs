//! `shop.comments.v1.Comments`: what each call takes, does and answers.
//!
//! Lives here: reading requests, choosing statuses. Does not: SQL (`store`), what a text must be (`comment`), calling other services
//! (`others`).
//! A request is read as a whole before anything is done, so that the caller learns of all its mistakes at once; posts and users are
//! asked, at the same time, only about a request that is right otherwise.

use http::StatusCode;
use tonic::{Request, Response, Status};
use weft::status::{invalid_argument, violations};
use weft_proto::shop::comments::v1 as pb;
use weft_proto::shop::comments::v1::comments_server::CommentsServer;
use weft_store::{Error, Id, Page};

use crate::comment::{Comment, ForeignId, Text};
use crate::others::Others;
use crate::store::Store;

/// Returns what the process serves.
pub fn services(store: Store, others: Others) -> weft::Services {
    let (database, comments) = (store.database.clone(), CommentsServer::new(Comments { store, others }));
    database.attend(weft::Services::new(weft_proto::descriptors::SHOP_COMMENTS).with(comments))
}

struct Comments {
    store: Store,
    others: Others,
}

#[tonic::async_trait]
impl pb::comments_server::Comments for Comments {
    async fn create_comment(
        &self,
        request: Request<pb::CreateCommentRequest>,
    ) -> Result<Response<pb::Comment>, Status> {
        let request = request.into_inner();
        let parsed =
            (ForeignId::parse(&request.post_id), ForeignId::parse(&request.author_id), Text::parse(&request.text));
        let (post, author, text) = match parsed {
            (Ok(post), Ok(author), Ok(text)) => (post, author, text),
            (post, author, text) => {
                return Err(violations([("post_id", post.err()), ("author_id", author.err()), ("text", text.err())]));
            }
        };
        // The first failure ends both: without either answer there is nothing to say.
        let (is_post, is_user) =
            tokio::try_join!(self.others.has_post(post.as_str()), self.others.has_user(author.as_str()))?;
        if !is_post {
            return Err(Status::not_found("no such post")); // it is what a REST path names
        }
        if !is_user {
            return Err(invalid_argument([("author_id", "is no user's id")]));
        }
        let comment = self.store.insert(&post, &author, &text).await.map_err(status)?;
        Ok(weft::http_status(Response::new(comment.into()), StatusCode::CREATED))
    }

    async fn list_comments(
        &self,
        request: Request<pb::ListCommentsRequest>,
    ) -> Result<Response<pb::ListCommentsResponse>, Status> {
        let request = request.into_inner();
        let page = Page::parse(request.page_size, &request.page_token)?;
        let comments = self.store.page_on(&request.post_id, page).await.map_err(status)?;
        let (comments, next_page_token) = page.cut(comments, |comment| comment.id);
        let comments = comments.into_iter().map(pb::Comment::from).collect();
        Ok(Response::new(pb::ListCommentsResponse { comments, next_page_token }))
    }

    async fn delete_comment(&self, request: Request<pb::DeleteCommentRequest>) -> Result<Response<()>, Status> {
        let request = request.into_inner();
        let id = Id::parse(&request.id).map_err(status)?;
        self.store.delete(&request.post_id, id).await.map_err(status)?;
        Ok(Response::new(()))
    }
}

/// The one place where an error of the store becomes a status.
fn status(error: Error) -> Status {
    error.status("comment")
}

impl From<Comment> for pb::Comment {
    fn from(comment: Comment) -> Self {
        pb::Comment {
            id: comment.id.to_string(),
            post_id: comment.post,
            author_id: comment.author,
            text: comment.text,
            create_time: Some(comment.create_time.into()),
        }
    }
}
