//! What the example services share to keep rows: a database file of several processes, ids, times, pages of a list.
//!
//! Lives here: what is the same for every service that owns tables. Does not: any statement or table (each service's `store`), and
//! nothing of the mesh. It is no part of the SDK, because a service without a database must not build one.
#![forbid(unsafe_code)]

mod database;
mod error;
mod id;
mod page;
mod time;

pub use database::{Migration, OpenError, open};
pub use error::Error;
pub use id::Id;
pub use page::Page;
pub use time::Micros;
