//! The gateway in this process: real sockets on both sides, real tonic backends in static mode; a registry that comes late.
//!
//! Lives here: what a client sees. Does not: the REST cases (`tests/conformance`), a whole mesh (`tests/e2e`), change of routes (unit tests of the crate).
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod addresses;
mod attacks;
mod callers;
mod compression;
mod connect;
mod descriptors;
mod docs;
mod errors;
mod files;
mod forms;
mod grpc_web;
mod h2spec;
mod headers;
mod joining;
mod lifecycle;
mod limits;
mod native;
mod own;
mod policies;
mod rest;
mod rules;
mod streams;
mod support;
mod tls;
mod transcoding;
mod websocket;
