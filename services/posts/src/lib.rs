//! Posts of the example shop: create, get, list, update, delete; their authors are users.
//!
//! Lives here: the service `shop.posts.v1.Posts` on a database that its instances share. Does not: anything of another service beyond
//! calling it, and nothing of the mesh beyond `weft`.
//!
//! Read `service` first (what a call may do), then `authors` (what users are asked), `post` (what a value must be), and `store` (how it
//! is kept).
#![forbid(unsafe_code)]

mod authors;
mod post;
mod service;
mod store;

pub use authors::Authors;
pub use service::{posts, services};
pub use store::Store;
