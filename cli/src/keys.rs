//! `keys`: the API keys that clients outside the mesh show to gateways.
//!
//! Lives here: making a key, flags, what is printed. Does not: what a key is good for (`authentication` policies), recognising one (the gateway).
//! A key is made here and nowhere else: it goes to stdout or a file of mode 600, and the registry gets its hash. Each is a policy of the kind
//! `api_key`, so it is stored, told to gateways, and gone again the way that policies are.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use serde::Serialize;
use tonic::Code;
use weft_discovery::write_token;
use weft_model::{ApiKey, Edge, GATEWAY, KeyDigest, Policy, PolicyKind, PolicyName, ServiceName, Version};
use weft_proto::weft::policy::v1::{self as pb, policies_client::PoliciesClient};
use weft_runtime::{Context, HumanDuration, Usage, clock};

use crate::{
    access::{Asked, Registry},
    look::left,
    output::{self, Format},
};

/// What every key begins with, so that one that lies about somewhere is recognised.
const PREFIX: &str = "weft_";

/// Flags of `weft keys`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
    #[command(flatten)]
    registry: Registry,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum KeysCommand {
    /// Makes a key, a secret, and prints it; it is shown this once
    Create(CreateArgs),
    /// The keys there are; never themselves
    List(ListArgs),
    /// Makes keys worthless, at once and everywhere
    Revoke(RevokeArgs),
}

#[derive(Debug, Clone, clap::Args)]
struct CreateArgs {
    /// Its name: 1 to 63 of a-z, 0-9 and inner `-`; no other key or policy has it
    #[arg(value_name = "NAME")]
    name: PolicyName,
    /// Service that it is good for; all of them if left out
    #[arg(long, value_name = "NAME")]
    service: Option<ServiceName>,
    /// What its holder is said to be, for rules and metadata of authentication policies
    #[arg(long = "claim", value_name = "CLAIM=VALUE")]
    claims: Vec<Claim>,
    /// How long it counts; until it is revoked if left out
    #[arg(long, value_name = "TIME")]
    life: Option<HumanDuration>,
    /// File for the key, of mode 600, instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, clap::Args)]
struct ListArgs {
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Clone, clap::Args)]
struct RevokeArgs {
    /// Which of them
    #[arg(value_name = "NAME", required = true)]
    names: Vec<PolicyName>,
}

/// One `--claim`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim(Arc<str>, Arc<str>);

impl FromStr for Claim {
    type Err = Usage;

    fn from_str(text: &str) -> Result<Self, Usage> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok(Self(name.into(), value.into())),
            _ => Err(Usage::new(format!("{text:?} is no claim, like plan=gold"))),
        }
    }
}

pub(crate) async fn keys(args: KeysArgs, context: Context) -> anyhow::Result<()> {
    let mut registry = PoliciesClient::new(args.registry.channel(&context).await?);
    match args.command {
        KeysCommand::Create(args) => create(args, &mut registry).await,
        KeysCommand::List(args) => list(&args, &mut registry).await,
        KeysCommand::Revoke(args) => revoke(args, &mut registry).await,
    }
}

async fn create(args: CreateArgs, registry: &mut PoliciesClient<Asked>) -> anyhow::Result<()> {
    let now = registry.list(pb::ListRequest::default()).await?.into_inner();
    if now.policies.iter().any(|it| it.name == args.name.as_str()) {
        anyhow::bail!("there is a key or policy named {} already; revoke it first, or choose another name", args.name);
    }
    let secret = secret();
    let expires = args.life.map(|life| millis(clock::wall() + life.0));
    let claims: BTreeMap<_, _> = args.claims.into_iter().map(|Claim(name, value)| (name, value)).collect();
    let key = ApiKey { digest: hash(&secret), claims, expires }.checked()?;
    let service = args.service.unwrap_or_else(|| GATEWAY.parse().expect("a constant that is a name"));
    let kind = PolicyKind::Edge(Edge::ApiKey(key));
    let policy = Policy { name: args.name, service, version: Version::default(), kind };
    if let Some(file) = &args.out {
        write_token(file, &secret).with_context(|| format!("--out {}", file.display()))?; // before it counts: or nobody would have it
    }
    let request =
        pb::ApplyRequest { policies: vec![(&policy).into()], expected_version: now.version, ..Default::default() };
    registry.apply(request).await?;
    match args.out {
        Some(file) => eprintln!("key {} is in {}", policy.name, file.display()),
        None => {
            if io::stdout().is_terminal() {
                eprintln!(
                    "key {}; it is a secret that is shown this once, and --out FILE keeps it off the screen",
                    policy.name
                );
            }
            output::line(&secret)?;
        }
    }
    Ok(())
}

/// A key as programs read it.
#[derive(Serialize)]
struct Key {
    name: String,
    service: String,
    claims: BTreeMap<String, String>,
    expires_ms: Option<u64>,
    sha256: String,
}

async fn list(args: &ListArgs, registry: &mut PoliciesClient<Asked>) -> anyhow::Result<()> {
    let found = registry.list(pb::ListRequest::default()).await?.into_inner().policies;
    let mut keys = Vec::new();
    for policy in found {
        let policy = Policy::try_from(policy)?;
        if let PolicyKind::Edge(Edge::ApiKey(key)) = &policy.kind {
            let claims = key.claims.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            let (name, service) = (policy.name.to_string(), policy.service.to_string());
            keys.push(Key { name, service, claims, expires_ms: key.expires, sha256: key.digest.to_string() });
        }
    }
    let now = clock::wall();
    output::print(args.output, &keys, |format| {
        let mut heading = vec!["NAME", "SERVICE", "STATE", "CLAIMS"];
        if format == Format::Wide {
            heading.push("SHA256");
        }
        (heading, keys.iter().map(|key| row(key, now)).collect())
    })
}

fn row(key: &Key, now: SystemTime) -> [String; 5] {
    let end = key.expires_ms.map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
    let state = match end.map(|end| end.duration_since(now)) {
        None => "counts".to_owned(),
        Some(Ok(rest)) => format!("counts for {}", left(rest.as_secs())),
        Some(Err(_)) => "expired".to_owned(),
    };
    let claims = key.claims.iter().map(|(name, value)| format!("{name}={value}"));
    [key.name.clone(), key.service.clone(), state, claims.collect::<Vec<_>>().join(" "), key.sha256.clone()]
}

async fn revoke(args: RevokeArgs, registry: &mut PoliciesClient<Asked>) -> anyhow::Result<()> {
    for name in args.names {
        let found = match registry.get(pb::GetRequest { name: name.to_string() }).await {
            Err(status) if status.code() == Code::NotFound => {
                anyhow::bail!("there is no key {name}; `weft keys list` shows those there are");
            }
            found => found?.into_inner().policy,
        };
        if found.is_none_or(|it| !is_key(&it)) {
            anyhow::bail!("{name} is a policy and no key; `weft delete policies {name}` removes it");
        }
        registry.delete(pb::DeleteRequest { name: name.to_string(), expected_version: 0 }).await?;
        output::line(&format!("key {name} revoked"))?;
    }
    Ok(())
}

/// Whether a policy is a key.
pub(crate) fn is_key(policy: &pb::Policy) -> bool {
    matches!(policy.kind, Some(pb::policy::Kind::ApiKey(_)))
}

fn secret() -> String {
    let mut random = [0; 32];
    SystemRandom::new().fill(&mut random).expect("the system has randomness");
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random))
}

fn hash(secret: &str) -> KeyDigest {
    KeyDigest(digest(&SHA256, secret.as_bytes()).as_ref().try_into().expect("a SHA-256 has 32 bytes"))
}

fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_another_and_known_by_its_beginning() {
        let (one, two) = (secret(), secret());
        assert!(one.starts_with("weft_") && one.len() == 48 && one != two);
        assert_eq!(hash("abc").to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_row_says_whether_a_key_counts() {
        let key = |expires_ms| Key {
            name: "billing".into(),
            service: "gateway".into(),
            claims: BTreeMap::from([("plan".into(), "gold".into())]),
            expires_ms,
            sha256: "00".into(),
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!(row(&key(None), now), ["billing", "gateway", "counts", "plan=gold", "00"]);
        assert_eq!(row(&key(Some(99_000)), now)[2], "expired");
        assert!(row(&key(Some(160_000)), now)[2].starts_with("counts for "));
        assert!("plan".parse::<Claim>().is_err() && "=x".parse::<Claim>().is_err());
        assert_eq!("plan=a=b".parse::<Claim>().unwrap(), Claim("plan".into(), "a=b".into()));
    }
}
