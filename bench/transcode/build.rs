//! Makes prost's types and pbjson's serde of `proto/bench.proto`, without a `protoc`.
//!
//! Lives here: that. Does not: the workspace's own protos (`build.rs` at the root).

use std::{env, fs, path::PathBuf};

use anyhow::Context;

#[expect(clippy::disallowed_methods, reason = "cargo speaks to a build script through its environment")]
fn main() -> anyhow::Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR").context("cargo sets OUT_DIR")?);
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_file("bench.proto")?;
    let set = compiler.encode_file_descriptor_set();
    prost_build::Config::new().compile_fds(compiler.file_descriptor_set())?;
    pbjson_build::Builder::new().register_descriptors(&set)?.build(&[".weft.bench.v1"])?;
    fs::write(out.join("bench.binpb"), set)?;
    Ok(())
}
