//! The message types that the transcoder and its peers are measured with.
//!
//! Lives here: what the build script makes of `proto/bench.proto`: prost's types, pbjson's implementations of serde for
//! them, the descriptor set. Does not: measuring (`benches/`).
#![forbid(unsafe_code)]
