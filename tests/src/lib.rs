//! What the project's tests share: checkers that do not care who answered.
//!
//! Lives here: the REST ⇄ gRPC cases and their comparison (`transcoding`). Does not: starting a mesh (`weft-testkit`),
//! or tests themselves.
#![forbid(unsafe_code)]

pub mod transcoding;
