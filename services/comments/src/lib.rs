//! Comments on posts of the example shop: create, list, delete; their authors are users.
//!
//! Lives here: the service `shop.comments.v1.Comments` on a database that its instances share. Does not: anything of another service
//! beyond calling it, and nothing of the mesh beyond `weft`.
//!
//! Read `service` first (what a call may do), then `others` (what posts and users are asked), `comment` (what a value must be), and
//! `store` (how it is kept).
#![forbid(unsafe_code)]

mod comment;
mod others;
mod service;
mod store;

pub use others::Others;
pub use service::services;
pub use store::Store;
