//! `inject`: sidecars into Kubernetes manifests.
//!
//! Lives here: flags, which file is read and which written. Does not: what is added to a manifest (`weft_sidecar::inject`).

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use weft_discovery::RegistryUrls;
use weft_runtime::Usage;
use weft_sidecar::inject::{Injection, inject as add_sidecars};

/// Stands for standard input or output.
const STREAM: &str = "-";

/// Flags of `weft inject`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct InjectArgs {
    /// Manifests, any number of YAML documents; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Where the result goes; may be the same file
    #[arg(short, long, value_name = "FILE", default_value = STREAM)]
    output: PathBuf,
    /// Image of the sidecar
    #[arg(long, value_name = "IMAGE", default_value = concat!("ghcr.io/weft-mesh/weft:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// Registries as the pods reach them
    #[arg(long, value_name = "URL[,URL…]", default_value = "http://weft-registry:7100")]
    registry: RegistryUrls,
}

pub(crate) fn inject(args: &InjectArgs) -> anyhow::Result<()> {
    let text = read(&args.file).with_context(|| format!("reading {}", args.file.display()))?;
    let injection = Injection { image: args.image.clone(), registry: args.registry.clone() };
    let injected =
        add_sidecars(&text, &injection).map_err(|error| Usage::new(format!("{}: {error}", args.file.display())))?;
    for note in &injected.notes {
        eprintln!("{note}");
    }
    write(&args.output, &injected.text).with_context(|| format!("writing {}", args.output.display()))
}

fn read(file: &Path) -> io::Result<String> {
    if file != Path::new(STREAM) {
        return fs::read_to_string(file);
    }
    let mut text = String::new();
    io::stdin().lock().read_to_string(&mut text)?;
    Ok(text)
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    if file != Path::new(STREAM) {
        return fs::write(file, text);
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
