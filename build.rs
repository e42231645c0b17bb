//! The workspace's only build script, named by `proto/Cargo.toml`: compiles `proto/**/*.proto` without a `protoc`.
//!
//! Lives here: which files there are, and where generated code and raw descriptor sets go. Does not: anything about their content.
//! Raw descriptor sets are written by protox's own encoder: the typed `FileDescriptorSet` drops custom options such as `google.api.http`.

use std::{env, fs, path::Path};

use anyhow::Context;

/// Entry files, one a package of ours. Each gets its own raw descriptor set, so that a service reflects what it offers and nothing else.
const ROOTS: [&str; 10] = [
    "weft/model/v1/model.proto",
    "weft/policy/v1/policy.proto",
    "weft/registry/v1/registry.proto",
    "weft/discovery/v1/discovery.proto",
    "weft/up/v1/up.proto",
    "weft/testkit/v1/echo.proto",
    "shop/users/v1/users.proto",
    "shop/posts/v1/posts.proto",
    "shop/comments/v1/comments.proto",
    "shop/ring/v1/rust.proto",
];

/// Further services of a package above, with a set of their own: not every process that offers the one offers the other.
const FURTHER: [&str; 2] = ["weft/registry/v1/identity.proto", "weft/testkit/v1/foreign.proto"];

/// Files that carry no service of ours but whose types others use.
const SHARED: [&str; 3] = ["google/api/httpbody.proto", "google/rpc/status.proto", "etcd/rpc.proto"];

#[expect(clippy::disallowed_methods, reason = "cargo speaks to a build script through its environment")]
fn main() -> anyhow::Result<()> {
    let out = env::var("OUT_DIR").context("cargo sets OUT_DIR")?;
    println!("cargo:rerun-if-changed=../build.rs");
    println!("cargo:rerun-if-changed=.");

    for root in ROOTS {
        let set = compiler(&[root])?.encode_file_descriptor_set();
        let package = Path::new(root).parent().context("every root lies in a folder")?;
        fs::write(Path::new(&out).join(package.to_string_lossy().replace('/', ".") + ".binpb"), set)?;
    }

    for further in FURTHER {
        let name = Path::new(further).with_extension("binpb").to_string_lossy().replace('/', ".");
        fs::write(Path::new(&out).join(name), compiler(&[further])?.encode_file_descriptor_set())?;
    }

    let all: Vec<&str> = ROOTS.iter().chain(&FURTHER).chain(&SHARED).copied().collect();
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::codec::Protobuf")
        .btree_map(".")
        .compile_fds(compiler(&all)?.file_descriptor_set())
        .context("generating Rust from proto/")
}

fn compiler(files: &[&str]) -> anyhow::Result<protox::Compiler> {
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(files).context("compiling proto/")?;
    Ok(compiler)
}
