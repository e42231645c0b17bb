//! `claims`: which gRPC name and REST template belongs to which service, and an operator's word on it.
//!
//! Lives here: flags, what is asked of the registry, what a row says. Does not: any rule of claims (the registry).

use serde::Serialize;
use weft_proto::weft::{
    discovery::v1::{self as discovery, ClaimsRequest, discovery_client::DiscoveryClient},
    registry::v1::{MoveClaimRequest, ReleaseClaimRequest, registry_client::RegistryClient},
};

use weft_runtime::Context;

use crate::{
    access::{Asked, Registry},
    output::{self, Format},
};

/// Flags of `weft claims`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ClaimsArgs {
    #[command(subcommand)]
    command: Option<Command>,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    registry: Registry,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Gives a name to a service; the REST templates of a gRPC service go with it
    Move {
        /// `shop.users.v1.Users`, or "GET /api/users/{id}"
        name: String,
        /// Service that shall have it
        #[arg(long, value_name = "SERVICE")]
        to: String,
    },
    /// Ends the claim of a service that is gone; who declares the name next gets it
    Release {
        /// `shop.users.v1.Users`, or "GET /api/users/{id}"
        name: String,
    },
}

pub(crate) async fn claims(args: ClaimsArgs, context: Context) -> anyhow::Result<()> {
    let channel = args.registry.channel(&context).await?;
    let (verb, names) = match args.command {
        None => return list(channel, args.output).await,
        Some(Command::Move { name, to }) => {
            let request = MoveClaimRequest { name, to: to.clone() };
            (format!("moved to {to}"), RegistryClient::new(channel).move_claim(request).await?.into_inner().moved)
        }
        Some(Command::Release { name }) => {
            let request = ReleaseClaimRequest { name };
            ("released".to_owned(), RegistryClient::new(channel).release_claim(request).await?.into_inner().released)
        }
    };
    for name in names {
        output::line(&format!("{name} {verb}"))?;
    }
    Ok(())
}

async fn list(channel: Asked, format: Format) -> anyhow::Result<()> {
    let all = Everything::from(DiscoveryClient::new(channel).claims(ClaimsRequest {}).await?.into_inner());
    output::print(format, &all, |_| {
        (vec!["CLAIM", "SERVICE", "STATE", "REFUSED"], all.claims.iter().map(Claim::row).collect())
    })?;
    for it in &all.refused_sets {
        eprintln!("descriptor set of {} refused: {}", it.service, it.problem);
    }
    Ok(())
}

/// All claims, as programs read them. The names are those of `weft.discovery.v1`.
#[derive(Serialize)]
struct Everything {
    version: u64,
    claims: Vec<Claim>,
    refused_sets: Vec<RefusedSet>,
}

#[derive(Serialize)]
struct Claim {
    name: String,
    holder: String,
    placed: bool,
    holder_present: bool,
    refused: Vec<Refused>,
}

#[derive(Serialize)]
struct Refused {
    claimant: String,
    method: String,
}

#[derive(Serialize)]
struct RefusedSet {
    service: String,
    instance: String,
    problem: String,
    at_ms: u64,
}

impl Claim {
    fn row(&self) -> [String; 4] {
        let state = match (self.placed, self.holder_present) {
            (false, true) => "first",
            (false, false) => "first, gone",
            (true, true) => "placed",
            (true, false) => "placed, not there",
        };
        let refused = self.refused.iter().map(|it| match it.method.as_str() {
            "" => it.claimant.clone(),
            method => format!("{} ({method})", it.claimant),
        });
        let refused = refused.collect::<Vec<_>>().join(", ");
        let dash = if refused.is_empty() { "-".to_owned() } else { refused };
        [self.name.clone(), self.holder.clone(), state.to_owned(), dash]
    }
}

impl From<discovery::ClaimsResponse> for Everything {
    fn from(it: discovery::ClaimsResponse) -> Self {
        let refused = |it: discovery::claim::Refused| Refused { claimant: it.claimant, method: it.method };
        let claim = |it: discovery::Claim| Claim {
            name: it.name,
            holder: it.holder,
            placed: it.placed,
            holder_present: it.holder_present,
            refused: it.refused.into_iter().map(refused).collect(),
        };
        let set = |it: discovery::RefusedSet| RefusedSet {
            service: it.service,
            instance: it.instance,
            problem: it.problem,
            at_ms: it.at_ms,
        };
        Self {
            version: it.version,
            claims: it.claims.into_iter().map(claim).collect(),
            refused_sets: it.refused_sets.into_iter().map(set).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_whose_a_name_is_and_who_was_refused_it() {
        let refused = vec![
            Refused { claimant: "acme.default".into(), method: "acme.v1.Api/Get".into() },
            Refused { claimant: "people.default".into(), method: String::new() },
        ];
        let mut claim = Claim {
            name: "GET /api/users/*".into(),
            holder: "users.default".into(),
            placed: false,
            holder_present: true,
            refused,
        };
        let row = ["GET /api/users/*", "users.default", "first", "acme.default (acme.v1.Api/Get), people.default"];
        assert_eq!(claim.row(), row);
        (claim.placed, claim.holder_present, claim.refused) = (true, false, vec![]);
        assert_eq!(claim.row()[2..], ["placed, not there", "-"]);
    }
}
