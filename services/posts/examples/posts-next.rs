//! The next version of `posts`: all that the present one does, on the same database, and `CountPosts`, which the present one does not have.
//!
//! Lives here: what a release changes when it adds a method: its place in the proto, its answer. Does not: the other methods (`weft_posts`).
//! Tests run it beside the present version; its contract is made of the present one, so that the two cannot drift apart.
#![forbid(unsafe_code)]

use std::{
    convert::Infallible,
    process::ExitCode,
    sync::Arc,
    task::{Context, Poll},
};

use anyhow::Context as _;
use protox::file::{ChainFileResolver, DescriptorSetFileResolver, File, FileResolver};
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{BoxFuture, Service},
    server::{Grpc, NamedService, UnaryService},
};
use weft_posts::{Authors, Store, posts};
use weft_proto::{
    descriptors,
    shop::posts::v1::{
        ListPostsRequest,
        posts_server::{Posts, PostsServer},
    },
};

const FILE: &str = "shop/posts/v1/posts.proto";
const PRESENT: &str = include_str!("../../../proto/shop/posts/v1/posts.proto");
const METHOD: &str = "
service Posts {
  // Returns how many posts there are.
  rpc CountPosts(CountPostsRequest) returns (CountPostsResponse) {
    option idempotency_level = NO_SIDE_EFFECTS;
    option (google.api.http) = {get: \"/api/posts:count\"};
  }";
const MESSAGES: &str = "
// Input of CountPosts.
message CountPostsRequest {}
// How many posts there are.
message CountPostsResponse { int64 count = 1; }
";

fn main() -> ExitCode {
    weft::serve("posts", |app| async move {
        let store = Store::open(&weft_store::Place::of(&app)?).await?;
        let database = store.database().clone();
        let posts = Arc::new(posts(store, Authors::new(app.channel("users"))));
        let set: &'static [u8] = Box::leak(contract()?.into_boxed_slice()); // once, and for as long as the process
        let next = Next { present: PostsServer::from_arc(posts.clone()), count: Count(posts) };
        Ok(database.attend(weft::Services::new(set).with(next)))
    })
}

/// Compiles the present contract with one more method.
fn contract() -> anyhow::Result<Vec<u8>> {
    let text = PRESENT.replacen("\nservice Posts {", METHOD, 1) + MESSAGES;
    let mut resolver = ChainFileResolver::new();
    resolver.add(Text(text));
    resolver.add(DescriptorSetFileResolver::decode(descriptors::SHOP_POSTS).context("the present contract")?);
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_file(FILE).context("the next contract")?;
    Ok(compiler.encode_file_descriptor_set())
}

struct Text(String);

impl FileResolver for Text {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == FILE { File::from_source(name, &self.0) } else { Err(protox::Error::file_not_found(name)) }
    }
}

/// Answers `CountPosts`; the present version answers the rest.
struct Next<T> {
    present: PostsServer<T>,
    count: Count<T>,
}

impl<T> Clone for Next<T> {
    fn clone(&self) -> Self {
        Self { present: self.present.clone(), count: self.count.clone() }
    }
}

impl<T> NamedService for Next<T> {
    const NAME: &'static str = PostsServer::<T>::NAME;
}

impl<T: Posts> Service<http::Request<Body>> for Next<T> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != "/shop.posts.v1.Posts/CountPosts" {
            return Service::call(&mut self.present, request);
        }
        let count = self.count.clone();
        Box::pin(async move { Ok(Grpc::new(tonic_prost::ProstCodec::default()).unary(count, request).await) })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct CountPostsRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct CountPostsResponse {
    #[prost(int64, tag = "1")]
    count: i64,
}

/// Counts page by page.
struct Count<T>(Arc<T>);

impl<T> Clone for Count<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Posts> UnaryService<CountPostsRequest> for Count<T> {
    type Response = CountPostsResponse;
    type Future = BoxFuture<Response<CountPostsResponse>, Status>;

    fn call(&mut self, _: Request<CountPostsRequest>) -> Self::Future {
        let posts = self.0.clone();
        Box::pin(async move {
            let (mut count, mut page_token) = (0, String::new());
            loop {
                let request = ListPostsRequest { page_size: 1_000, page_token, ..ListPostsRequest::default() };
                let page = posts.list_posts(Request::new(request)).await?.into_inner();
                count += i64::try_from(page.posts.len()).unwrap_or(i64::MAX);
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    return Ok(Response::new(CountPostsResponse { count }));
                }
            }
        })
    }
}
