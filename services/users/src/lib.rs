//! Users of the example shop: create, get, list, update, delete.
//!
//! Lives here: the service `shop.users.v1.Users` on a database that its instances share. Does not: anything of another service, and
//! nothing of the mesh beyond `weft`.
//!
//! Read `service` first (what a call may do), then `user` (what a value must be), then `store` (how it is kept).
#![forbid(unsafe_code)]

mod service;
mod store;
mod user;

pub use service::services;
pub use store::Store;
