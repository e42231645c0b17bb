//! End to end: the real binaries as processes, real clients, and what a user of the mesh is promised.
//!
//! Lives here: the list of topics, and the lock that lets a measured run have the machine for itself. Does not: means (weft-testkit).
//! One binary, because linking costs more than running.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test may unwrap; clippy sees only the functions marked as tests")]

mod access;
mod check;
mod clients;
mod deadlines;
mod dns;
mod docs;
mod edge;
mod identity;
mod joining;
mod kubernetes;
mod languages;
mod metrics;
mod postgres;
mod prometheus;
mod reliability;
mod rest;
mod routes;
mod shop;
mod standin;
mod streaming;
mod traces;
mod up;
mod vanishing;
mod versions;
mod xds;

/// Held by a test that counts failures under load: on two cores a neighbour would be part of what it measures.
static ALONE: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());
