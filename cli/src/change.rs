//! `scale`, `restart`, `stop`: orders to `weft up`, with its progress as it comes.
//!
//! Lives here: flags and what is asked. Does not: carrying it out (`weft-up`).

use std::str::FromStr;

use tonic::Streaming;
use weft_proto::weft::up::v1 as pb;

use crate::look::Mesh;

/// Flags of `weft scale`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ScaleArgs {
    /// Services and how many instances each shall have
    #[arg(value_name = "SERVICE=N", required = true)]
    scales: Vec<Scale>,
    #[command(flatten)]
    mesh: Mesh,
}

/// `users=4`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scale {
    service: String,
    instances: u32,
}

impl FromStr for Scale {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('=').filter(|(service, _)| !service.is_empty());
        let (service, instances) = parsed.ok_or("expected SERVICE=N, like users=4")?;
        let instances = instances.parse().map_err(|_| format!("{instances:?} is no number of instances"))?;
        Ok(Self { service: service.to_owned(), instances })
    }
}

pub(crate) async fn scale(args: ScaleArgs) -> anyhow::Result<()> {
    let mut up = args.mesh.connect().await?;
    for Scale { service, instances } in args.scales {
        follow(up.scale(pb::ScaleRequest { service, instances }).await?.into_inner()).await?;
    }
    Ok(())
}

/// Flags of `weft restart`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RestartArgs {
    /// Services, slots like users-1, registry or gateway
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    #[command(flatten)]
    mesh: Mesh,
}

pub(crate) async fn restart(args: RestartArgs) -> anyhow::Result<()> {
    let mut up = args.mesh.connect().await?;
    for name in args.names {
        follow(up.restart(pb::RestartRequest { name }).await?.into_inner()).await?;
    }
    Ok(())
}

/// Flags of `weft stop`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct StopArgs {
    /// Services; the whole mesh if left out
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    #[command(flatten)]
    mesh: Mesh,
}

pub(crate) async fn stop(args: StopArgs) -> anyhow::Result<()> {
    let mut up = args.mesh.connect().await?;
    let services = if args.services.is_empty() { vec![String::new()] } else { args.services };
    for service in services {
        follow(up.stop(pb::StopRequest { service }).await?.into_inner()).await?;
    }
    Ok(())
}

/// Shows progress until it is done. Talk, and so on stderr.
async fn follow(mut progress: Streaming<pb::Progress>) -> anyhow::Result<()> {
    while let Some(step) = progress.message().await? {
        if !step.message.is_empty() {
            eprintln!("{}", step.message);
        }
        if step.done {
            return Ok(());
        }
    }
    anyhow::bail!("weft up ended before it was done")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_a_service_and_a_number() {
        assert_eq!("users=4".parse(), Ok(Scale { service: "users".to_owned(), instances: 4 }));
        for wrong in ["users", "=4", "users=", "users=-1", "users=many"] {
            assert!(wrong.parse::<Scale>().is_err(), "{wrong:?}");
        }
    }
}
