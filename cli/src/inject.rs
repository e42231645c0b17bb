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
use weft_identity::TrustDomain;
use weft_runtime::Usage;
use weft_sidecar::inject::{Identity, Injection, inject as add_sidecars};

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
    /// Registries as the pods reach them; http:// is for one that was started with --insecure, and pods then have no identities
    #[arg(long, value_name = "URL[,URL…]", default_value = "https://registry.weft.svc:7100")]
    registry: RegistryUrls,
    /// Audience of the pods' tokens, as the registry's --kubernetes-audience says
    #[arg(long, value_name = "AUDIENCE", default_value = "weft")]
    audience: String,
    /// ConfigMap, in the namespace of the pods, whose key sha256 holds what `weft identity root` prints
    #[arg(long, value_name = "NAME", default_value = "weft-root")]
    root: String,
    /// Trust domain of the registry
    #[arg(long, value_name = "DOMAIN", default_value = "weft.local")]
    trust_domain: TrustDomain,
}

impl InjectArgs {
    fn injection(&self) -> Result<Injection, Usage> {
        let Self { registry, audience, root, trust_domain, .. } = self;
        if registry.any_secure() && !registry.all_secure() {
            let problem = format!("--registry {registry}: pods have identities or not; write https:// for all of them");
            return Err(Usage::new(problem));
        }
        let identity = registry.all_secure().then(|| Identity {
            audience: audience.clone(),
            root: root.clone(),
            trust_domain: trust_domain.clone(),
        });
        Ok(Injection { image: self.image.clone(), registry: registry.clone(), identity })
    }
}

pub(crate) fn inject(args: &InjectArgs) -> anyhow::Result<()> {
    let text = read(&args.file).with_context(|| format!("reading {}", args.file.display()))?;
    let injection = args.injection()?;
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
