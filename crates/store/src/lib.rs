//! What the example services share to keep rows: a database file of several processes or a PostgreSQL server, ids, times, pages of a list.
//!
//! Lives here: what is the same for every service that owns tables. Does not: any statement or table (each service's `store`), and
//! nothing of the mesh. It is no part of the SDK, because a service without a database must not build one.
#![forbid(unsafe_code)]

mod database;
mod error;
mod id;
mod page;
mod place;
mod postgres;
mod sqlite;
mod time;
mod writer;

pub use database::{Database, Migration, Tables};
pub use error::{Error, OpenError};
pub use id::Id;
pub use page::Page;
pub use place::{Place, Server};
pub use time::Micros;
