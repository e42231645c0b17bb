//! What tests share: the workspace's binaries as real processes, a mesh made of them, an echo service, an open-loop load generator, an
//! authority that signs anything.
//!
//! Lives here: means of testing that more than one room needs. Does not: assertions about a room, fakes of what a user has for real.
//! Only tests and benches depend on this crate.
#![forbid(unsafe_code)]

pub mod authority;
pub mod collector;
pub mod database;
pub mod echo;
pub mod foreign;
pub mod http;
pub mod issuer;
pub mod kubernetes;
pub mod load;
pub mod memory;
pub mod mesh;
pub mod outside;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod secure;
pub mod up;
pub mod wait;
