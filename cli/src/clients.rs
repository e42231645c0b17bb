//! `clients`: who is told by the registry, what of it they act on, and what they rejected.
//!
//! Lives here: flags, what is asked of the registry, what a row says. Does not: who is waited for (the registry).

use serde::Serialize;
use weft_model::Version;
use weft_proto::weft::discovery::v1::{
    self as pb, ClientsRequest, client::Protocol, discovery_client::DiscoveryClient, subscription::resource::State,
};
use weft_runtime::Context;

use crate::{
    access::Registry,
    output::{self, Format},
};

/// Flags of `weft clients`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ClientsArgs {
    /// One client: the name of a watcher, or the id of an xDS node; with its resources
    name: Option<String>,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    registry: Registry,
}

pub(crate) async fn clients(args: ClientsArgs, context: Context) -> anyhow::Result<()> {
    let channel = args.registry.channel(&context).await?;
    let resources = args.name.is_some();
    let request = ClientsRequest { name: args.name.clone().unwrap_or_default(), resources };
    let mut answers = DiscoveryClient::new(channel).clients(request).await?.into_inner();
    let mut clients = Vec::new();
    while let Some(client) = answers.message().await? {
        clients.push(Client::from(client));
    }
    if let (Some(name), []) = (&args.name, clients.as_slice()) {
        anyhow::bail!("no client named {name:?} is connected to this registry");
    }
    let everything = Everything { clients };
    output::print(args.output, &everything, |format| {
        let mut heading = vec!["CLIENT", "SPEAKS", "STATE", "HAS", "WHY"];
        if format == Format::Wide {
            heading.extend(["VERSION", "AGENT", "TRANSPORT", "IDENTITY", "SILENT"]);
        }
        (heading, everything.clients.iter().map(Client::row).collect())
    })
}

/// All clients, as programs read them. The names are those of `weft.discovery.v1`.
#[derive(Serialize)]
struct Everything {
    clients: Vec<Client>,
}

#[derive(Serialize)]
struct Client {
    name: String,
    protocol: &'static str,
    agent: String,
    cluster: String,
    transport: String,
    identity: String,
    silent_ms: u64,
    version: u64,
    subscriptions: Vec<Subscription>,
}

#[derive(Serialize)]
struct Subscription {
    kind: String,
    wildcard: bool,
    count: u32,
    sent: u64,
    acknowledged: u64,
    settled: bool,
    missing: Vec<String>,
    rejection: Option<Rejection>,
    left_out: Vec<LeftOut>,
    resources: Vec<Resource>,
}

#[derive(Serialize)]
struct Rejection {
    version: u64,
    error: String,
    resources: Vec<String>,
}

#[derive(Serialize)]
struct LeftOut {
    resource: String,
    endpoints: u32,
    why: String,
}

#[derive(Serialize)]
struct Resource {
    name: String,
    version: String,
    state: &'static str,
}

impl Client {
    fn row(&self) -> [String; 10] {
        let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        let all = &self.subscriptions;
        let state = if all.iter().any(|it| it.rejection.is_some()) {
            "rejects"
        } else if all.iter().any(|it| !it.missing.is_empty()) {
            "asks in vain"
        } else if all.iter().all(|it| it.settled) {
            "up to date"
        } else {
            "behind"
        };
        let has = all.iter().map(|it| format!("{} {}{}", it.count, it.kind, if it.wildcard { " (all)" } else { "" }));
        let why: Vec<String> = all.iter().flat_map(Subscription::why).collect();
        [
            dash(self.name.clone()),
            self.protocol.to_owned(),
            state.to_owned(),
            dash(has.collect::<Vec<_>>().join(", ")),
            dash(why.join("; ")),
            dash(self.acts_on()),
            dash(self.agent.clone()),
            dash(self.transport.clone()),
            dash(self.identity.clone()),
            crate::look::age(i64::try_from(self.silent_ms / 1_000).unwrap_or(i64::MAX)),
        ]
    }

    /// Returns the version of the catalog that it acknowledged last; by kind where they differ, less what it has acknowledged nothing of.
    fn acts_on(&self) -> String {
        let each = || self.subscriptions.iter().map(|it| it.acknowledged);
        match each().next() {
            Some(first) if first > 0 && each().all(|it| it == first) => Version(first).to_string(),
            _ => {
                let acknowledged = self.subscriptions.iter().filter(|it| it.acknowledged > 0);
                let texts = acknowledged.map(|it| format!("{} {}", Version(it.acknowledged), it.kind));
                texts.collect::<Vec<_>>().join(", ")
            }
        }
    }
}

impl Subscription {
    fn why(&self) -> impl Iterator<Item = String> {
        let rejection = self.rejection.iter().map(|it| {
            let (resources, at) = (it.resources.join(", "), Version(it.version));
            format!("{} of {resources} rejected at {at}: {}", self.kind, it.error)
        });
        let missing = self.missing.iter().map(|name| format!("there is no {name} ({})", self.kind));
        let left_out = self.left_out.iter().map(|it| match it.endpoints {
            0 => format!("{} left out, {}", it.resource, it.why),
            count => format!("{}: {count} endpoints left out, {}", it.resource, it.why),
        });
        rejection.chain(missing).chain(left_out)
    }
}

impl From<pb::Client> for Client {
    fn from(it: pb::Client) -> Self {
        let protocol = match it.protocol() {
            Protocol::Watch => "weft",
            Protocol::Xds => "xds",
            Protocol::XdsDelta => "xds delta",
            Protocol::Unspecified => "unknown",
        };
        Self {
            name: it.name,
            protocol,
            agent: it.agent,
            cluster: it.cluster,
            transport: it.transport,
            identity: it.identity,
            silent_ms: it.silent_ms,
            version: it.version,
            subscriptions: it.subscriptions.into_iter().map(Subscription::from).collect(),
        }
    }
}

impl From<pb::Subscription> for Subscription {
    fn from(it: pb::Subscription) -> Self {
        let rejection = |it: pb::subscription::Rejection| Rejection {
            version: it.version,
            error: it.error,
            resources: it.resources,
        };
        let left_out =
            |it: pb::subscription::LeftOut| LeftOut { resource: it.resource, endpoints: it.endpoints, why: it.why };
        let resource = |it: pb::subscription::Resource| {
            let state = match it.state() {
                State::Acknowledged => "acknowledged",
                State::Waiting | State::Unspecified => "waiting",
                State::Rejected => "rejected",
                State::Missing => "missing",
            };
            Resource { state, name: it.name, version: it.version }
        };
        Self {
            kind: it.kind,
            wildcard: it.wildcard,
            count: it.count,
            sent: it.sent,
            acknowledged: it.acknowledged,
            settled: it.settled,
            missing: it.missing,
            rejection: it.rejection.map(rejection),
            left_out: it.left_out.into_iter().map(left_out).collect(),
            resources: it.resources.into_iter().map(resource).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(subscriptions: Vec<pb::Subscription>) -> Client {
        let protocol = Protocol::Xds.into();
        Client::from(pb::Client { name: "web-1".into(), protocol, subscriptions, ..pb::Client::default() })
    }

    fn subscription(kind: &str) -> pb::Subscription {
        pb::Subscription { kind: kind.into(), count: 1, settled: true, ..pb::Subscription::default() }
    }

    #[test]
    fn a_row_says_what_a_client_has_and_why_it_lacks_something() {
        let row = client(vec![subscription("lds"), pb::Subscription { wildcard: true, ..subscription("cds") }]).row();
        assert_eq!(row[..5], ["web-1", "xds", "up to date", "1 lds, 1 cds (all)", "-"]);
        let behind = pb::Subscription { settled: false, ..subscription("eds") };
        assert_eq!(client(vec![behind]).row()[2], "behind");
        let missing = pb::Subscription { missing: vec!["userz".into()], ..subscription("lds") };
        assert_eq!(client(vec![missing]).row()[2..5], ["asks in vain", "1 lds", "there is no userz (lds)"]);
        let error = "no lb_policy".to_owned();
        let rejection = pb::subscription::Rejection { version: 7 << 32 | 42, error, resources: vec!["users".into()] };
        let rejects = pb::Subscription { rejection: Some(rejection), ..subscription("cds") };
        let row = client(vec![rejects]).row();
        assert_eq!(row[2..5], ["rejects", "1 cds", "cds of users rejected at 7.42: no lb_policy"]);
    }
    #[test]
    fn a_wide_row_says_which_version_a_client_acts_on() {
        let at = |kind: &str, low: u64| pb::Subscription { acknowledged: 7 << 32 | low, ..subscription(kind) };
        let version = |subscriptions| client(subscriptions).row()[5].clone();
        assert_eq!(version(vec![at("services", 42)]), "7.42");
        assert_eq!(version(vec![at("lds", 42), at("eds", 42)]), "7.42", "one for all");
        assert_eq!(version(vec![at("lds", 42), at("eds", 43)]), "7.42 lds, 7.43 eds");
        assert_eq!(version(vec![subscription("lds"), at("eds", 43)]), "7.43 eds", "and none of its listeners");
        assert_eq!((version(vec![subscription("lds")]), version(Vec::new())), ("-".to_owned(), "-".to_owned()));
    }
}
