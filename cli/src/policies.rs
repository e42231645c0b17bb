//! `apply`, `get`, `delete`: the policies of a mesh.
//!
//! Lives here: flags, what is asked of the registry, what a row says. Does not: documents (`weft-policy`), what a policy does.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use weft_model::{Edge, Policy, PolicyKind, Version};
use weft_policy::{Document, Written};
use weft_proto::weft::{
    discovery::v1::{ClaimsRequest, ListRequest, discovery_client::DiscoveryClient},
    policy::v1::{self as pb, policies_client::PoliciesClient},
};

use weft_runtime::Context;

use crate::{
    access::{Asked, Registry},
    claims,
    keys::is_key,
    output::{self, Format},
    tool,
};

async fn connect(registry: &Registry, context: &Context) -> anyhow::Result<PoliciesClient<Asked>> {
    Ok(PoliciesClient::new(registry.channel(context).await?))
}

/// Flags of `weft apply`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ApplyArgs {
    /// Files of policies, directories of such files, or - for stdin
    #[arg(short, long = "filename", value_name = "FILE|DIR|-", required = true)]
    files: Vec<PathBuf>,
    /// What they are written in: toml, yaml or json [default: by the name's end]
    #[arg(long, value_name = "FORMAT")]
    format: Option<weft_policy::Format>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    registry: Registry,
}

pub(crate) async fn apply(args: ApplyArgs, context: Context) -> anyhow::Result<()> {
    let mut written: Vec<Written> = Vec::new();
    for file in &args.files {
        written.extend(read(file, args.format)?);
    }
    anyhow::ensure!(!written.is_empty(), "no policy in {}", names(&args.files));
    let policies: Vec<pb::Policy> = written.iter().map(|it| (&it.policy).into()).collect();
    let channel = args.registry.channel(&context).await?;
    let request = pb::ApplyRequest { policies: policies.clone(), dry_run: args.dry_run, ..Default::default() };
    let done = PoliciesClient::new(channel.clone()).apply(request).await?.into_inner();
    let would = if args.dry_run { " (dry run)" } else { "" };
    for it in done.applied {
        let outcome = match it.outcome() {
            pb::apply_response::applied::Outcome::Created => "created",
            pb::apply_response::applied::Outcome::Changed => "changed",
            pb::apply_response::applied::Outcome::Unchanged => "unchanged",
            pb::apply_response::applied::Outcome::Unspecified => "applied",
        };
        let at = if it.version == 0 { String::new() } else { format!(" at {}", Version(it.version)) };
        output::line(&format!("policy {} {outcome}{at}{would}", it.name))?;
    }
    match doubts(channel, &policies).await {
        Ok(doubts) => doubts.iter().for_each(|(name, doubt)| tool::warn(&format!("policy {name}: {doubt}"))),
        Err(status) => tool::warn(&format!("whom the policies name could not be looked up: {}", status.message())),
    }
    Ok(())
}

/// What the policies name that nobody has, as far as the registry knows.
async fn doubts(channel: Asked, policies: &[pb::Policy]) -> Result<Vec<(String, String)>, tonic::Status> {
    let mut registry = DiscoveryClient::new(channel).max_decoding_message_size(claims::LARGEST_LIST);
    let claims = registry.claims(ClaimsRequest {}).await?.into_inner();
    let list = registry.list(ListRequest::default()).await?.into_inner();
    Ok(weft_check::doubts(policies, &list, &claims))
}

fn names(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn read(file: &Path, format: Option<weft_policy::Format>) -> anyhow::Result<Vec<Written>> {
    if file != Path::new("-") {
        return Ok(weft_policy::load(file, format)?);
    }
    let format = format.ok_or_else(|| weft_policy::FileError::NoFormat { file: file.to_owned() })?;
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    Ok(weft_policy::read(&text, format, Path::new("stdin"))?)
}

/// Something that `get` and `delete` know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Who may call whom, and how
    #[value(alias = "policy")]
    Policies,
}

/// Flags of `weft get`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct GetArgs {
    /// What to show
    #[arg(value_enum)]
    kind: Kind,
    /// One of them; all if left out
    name: Option<String>,
    /// Format of the output; yaml and json are what `weft apply` reads
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    registry: Registry,
}

pub(crate) async fn get(args: GetArgs, context: Context) -> anyhow::Result<()> {
    let Kind::Policies = args.kind;
    let mut registry = connect(&args.registry, &context).await?;
    let found = match args.name {
        Some(name) => registry.get(pb::GetRequest { name }).await?.into_inner().policy.into_iter().collect(),
        None => registry.list(pb::ListRequest::default()).await?.into_inner().policies,
    };
    let policies = found.into_iter().map(Policy::try_from).collect::<Result<Vec<_>, _>>()?;
    output::print(args.output, &Document::new(&policies), |format| {
        let mut heading = vec!["NAME", "SERVICE", "KIND", "RULES", "VERSION"];
        if format == Format::Wide {
            heading.push("SAYS");
        }
        (heading, policies.iter().map(row).collect())
    })
}

fn row(it: &Policy) -> [String; 6] {
    let (kind, rules, says) = match &it.kind {
        PolicyKind::Access(access) => {
            let rules = access.rules().iter().map(|rule| rule.name().to_string());
            ("access", access.rules().len().to_string(), rules.collect::<Vec<_>>().join(" "))
        }
        PolicyKind::PlaintextUpstream(mode) => {
            ("plaintext_upstream", "-".to_owned(), format!("{mode:?}").to_ascii_lowercase())
        }
        PolicyKind::Route(route) => {
            let rules = route.rules().iter().map(|rule| rule.name.to_string());
            ("route", route.rules().len().to_string(), rules.collect::<Vec<_>>().join(" "))
        }
        PolicyKind::Upstream(it) => {
            let bound = it.max_requests.map(|most| format!("max_requests {most}"));
            let says = bound.into_iter().chain(it.outliers.as_ref().map(|_| "outliers".to_owned()));
            ("upstream", "-".to_owned(), says.collect::<Vec<_>>().join(" "))
        }
        PolicyKind::Edge(it) => (it.kind(), rules(it), says(it)),
    };
    [it.name.to_string(), it.service.to_string(), kind.to_owned(), rules, it.version.to_string(), says]
}

/// The gist of an edge policy, for one column.
fn says(it: &Edge) -> String {
    match it {
        Edge::Cors(it) => it.origins.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        Edge::Authentication(it) => {
            let issuers = it.jwt.iter().map(|it| it.issuer().to_string());
            let keys = it.api_key_header.as_ref().map(|header| format!("keys in {header}"));
            let certificates = it.certificates.then(|| "certificates".to_owned());
            let anonymous = it.anonymous.then(|| "anonymous".to_owned());
            issuers.chain(keys).chain(certificates).chain(anonymous).collect::<Vec<_>>().join(" ")
        }
        Edge::RateLimit(it) => {
            let rule = |it: &weft_model::LimitRule| format!("{}:{}/{:?}", it.name, it.calls, it.every);
            it.rules().iter().map(rule).collect::<Vec<_>>().join(" ")
        }
        Edge::Headers(it) => {
            let names = it.request.iter().chain(&it.response).map(|it| it.name().to_owned());
            names.collect::<Vec<_>>().join(" ")
        }
        Edge::Http(it) => {
            let claims = it.rules().iter().flat_map(|rule| rule.bindings().map(weft_model::HttpBinding::claim));
            claims.collect::<Vec<_>>().join(", ")
        }
        Edge::Limits(it) => {
            let counts = [
                ("max_request_bytes", it.max_request_bytes),
                ("max_header_bytes", it.max_header_bytes),
                ("max_uri_bytes", it.max_uri_bytes),
                ("max_depth", it.max_depth),
                ("max_elements", it.max_elements),
            ];
            let times = [("timeout", it.timeout), ("body_timeout", it.body_timeout)];
            let counts = counts.into_iter().filter_map(|(name, it)| it.map(|it| format!("{name} {it}")));
            let times = times.into_iter().filter_map(|(name, it)| it.map(|it| format!("{name} {it:?}")));
            counts.chain(times).collect::<Vec<_>>().join(" ")
        }
        Edge::Transcoding(it) => {
            let flags = [
                ("infer_update_mask", it.infer_update_mask),
                ("emit_defaults", it.json_output.emit_defaults),
                ("preserve_proto_names", it.json_output.preserve_proto_names),
                ("enums_as_ints", it.json_output.enums_as_ints),
            ];
            let flags = flags.into_iter().filter_map(|(name, it)| it.map(|it| format!("{name} {it}")));
            let format = it.stream_format.map(|it| match it {
                weft_model::StreamFormat::JsonArray => "stream_format json_array".to_owned(),
                weft_model::StreamFormat::Ndjson => "stream_format ndjson".to_owned(),
                weft_model::StreamFormat::Sse => "stream_format sse".to_owned(),
            });
            flags.chain(format).collect::<Vec<_>>().join(" ")
        }
        Edge::Cache(it) if it.off => "off".to_owned(),
        Edge::Cache(it) => {
            let per_caller = it.per_caller.then(|| "per_caller".to_owned());
            let ttl = (!it.ttl.is_zero()).then(|| format!("ttl {:?}", it.ttl));
            ttl.into_iter().chain(per_caller).collect::<Vec<_>>().join(" ")
        }
        Edge::ApiKey(it) => {
            let claims = it.claims.iter().map(|(name, value)| format!("{name}={value}"));
            claims.collect::<Vec<_>>().join(" ")
        }
    }
}

/// How many rules an edge policy has, for one column.
fn rules(it: &Edge) -> String {
    match it {
        Edge::Authentication(it) => it.rules.len().to_string(),
        Edge::RateLimit(it) => it.rules().len().to_string(),
        Edge::Http(it) => it.rules().len().to_string(),
        Edge::Headers(it) => (it.request.len() + it.response.len()).to_string(),
        Edge::Cors(_) | Edge::ApiKey(_) | Edge::Cache(_) | Edge::Limits(_) | Edge::Transcoding(_) => "-".to_owned(),
    }
}

/// Flags of `weft delete`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DeleteArgs {
    /// What to remove
    #[arg(value_enum)]
    kind: Kind,
    /// Which of them
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    #[command(flatten)]
    registry: Registry,
}

pub(crate) async fn delete(args: DeleteArgs, context: Context) -> anyhow::Result<()> {
    let Kind::Policies = args.kind;
    let mut registry = connect(&args.registry, &context).await?;
    for name in args.names {
        let found = registry.get(pb::GetRequest { name: name.clone() }).await?.into_inner().policy;
        if found.is_some_and(|it| is_key(&it)) {
            anyhow::bail!("{name} is a key; `weft keys revoke {name}` ends it for whoever holds it");
        }
        registry.delete(pb::DeleteRequest { name: name.clone(), expected_version: 0 }).await?;
        output::line(&format!("policy {name} deleted"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_how_many_rules_or_what_mode() {
        let read = |text| weft_policy::parse(text, weft_policy::Format::Yaml).unwrap().remove(0).1;
        let access = read("{name: a, service: users, access: {rules: [{name: r, from: {anonymous: true}}]}}");
        assert_eq!(row(&access), ["a", "users", "access", "1", "0.0", "r"]);
        let mode = read("{name: b, service: users.eu, plaintext_upstream: refuse}");
        assert_eq!(row(&mode), ["b", "users.eu", "plaintext_upstream", "-", "0.0", "refuse"]);
    }
}
