//! `claims`: which gRPC name and REST template belongs to which service, and an operator's word on it.
//!
//! Lives here: flags, what is asked of the registry, what a row says. Does not: any rule of claims (the registry).

use std::collections::BTreeSet;

use serde::Serialize;
use weft_model::ServiceName;
use weft_proto::weft::{
    discovery::v1::{self as discovery, ClaimsRequest, ListRequest, discovery_client::DiscoveryClient},
    registry::v1::{MoveClaimRequest, ReleaseClaimRequest, registry_client::RegistryClient},
};

use weft_runtime::Context;

use crate::{
    access::{Asked, Registry},
    output::{self, Format},
};

/// Largest list of everything that is taken: some ten thousand services.
pub(crate) const LARGEST_LIST: usize = 64 << 20;

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
        to: ServiceName,
        /// Also a name that nobody declares, or a service that the registry does not know: both may be yet to come
        #[arg(long)]
        force: bool,
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
        Some(Command::Move { name, to, force }) => {
            if !force {
                let (claims, services) = known(channel.clone()).await?;
                may_move(&name, &to, &claims, &services)?;
            }
            let request = MoveClaimRequest { name, to: to.full().to_owned() };
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

/// The names that are claimed, and the services that the registry lists or that hold one of these.
async fn known(channel: Asked) -> anyhow::Result<(BTreeSet<String>, BTreeSet<String>)> {
    let mut registry = DiscoveryClient::new(channel).max_decoding_message_size(LARGEST_LIST);
    let claims = registry.claims(ClaimsRequest {}).await?.into_inner().claims;
    let listed = registry.list(ListRequest::default()).await?.into_inner().services;
    let holders = claims.iter().map(|claim| claim.holder.clone());
    let services = listed.into_iter().map(|service| service.name).chain(holders).collect();
    Ok((claims.into_iter().map(|claim| claim.name).collect(), services))
}

/// Refuses a slip: calls would go to nobody from the next moment on. Templates are told apart by the registry alone, which knows how they are written.
fn may_move(
    name: &str,
    to: &ServiceName,
    claims: &BTreeSet<String>,
    services: &BTreeSet<String>,
) -> anyhow::Result<()> {
    if !services.contains(to.full()) {
        let all = services.iter().map(|it| it.strip_suffix(".default").unwrap_or(it)).collect::<Vec<_>>();
        anyhow::bail!(
            "the registry knows no service {to}; services are: {}; --force gives it the name all the same",
            all.join(", ")
        );
    }
    let template = name.contains(' ');
    if !template && !claims.contains(name) {
        let all = claims.iter().filter(|it| !it.contains(' ')).map(String::as_str).collect::<Vec<_>>();
        anyhow::bail!("nobody declares {name}; declared are: {}; --force gives it away all the same", all.join(", "));
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
    fn a_name_moves_only_if_somebody_declares_it_and_only_to_a_service_that_is_known() {
        let all = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|it| (*it).to_owned()).collect() };
        let claims = all(&["shop.users.v1.Users", "GET /api/users/*"]);
        let services = all(&["users.default", "people.eu"]);
        let said = |name: &str, to: &str| {
            may_move(name, &to.parse().unwrap(), &claims, &services).map_err(|error| error.to_string())
        };
        assert_eq!(said("shop.users.v1.Users", "people.eu"), Ok(()));
        assert_eq!(said("GET /api/users/{id}", "users"), Ok(()));
        let nobody = said("shop.users.v1.Users", "people").unwrap_err();
        assert!(nobody.contains("no service people;") && nobody.contains("people.eu, users;"), "{nobody}");
        let unknown = said("shop.nope.v1.X", "users").unwrap_err();
        assert!(unknown.contains("declared are: shop.users.v1.Users;"), "{unknown}");
    }

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
