//! What a person reads when the mesh is ready: where everything is, and what to try.
//!
//! Lives here: the text. Does not: printing it (`screen`).

use std::{fmt::Write, net::SocketAddr, time::Duration};

use weft_identity::TrustDomain;
use weft_proto::weft::up::v1::Url;

use crate::{
    board::{Kind, Row},
    config::{Config, Plaintext, Run},
    probe::Reach,
    screen::seconds,
    unverified::Scheme,
};

/// What the text is made of.
pub(crate) struct Facts<'a> {
    pub(crate) config: &'a Config,
    pub(crate) reach: Reach,
    pub(crate) domain: TrustDomain,
    pub(crate) rows: &'a [Row],
    /// What the person typed to start us.
    pub(crate) program: &'a str,
    pub(crate) took: Duration,
}

/// Every address people may want, in the order of usefulness.
pub(crate) fn urls(reach: Reach, rows: &[Row]) -> Vec<Url> {
    let url = |name: &str, url: String| Url { name: name.to_owned(), url };
    let of = |kind: &Kind, proto: &str| {
        rows.iter().find(|row| row.kind == *kind).and_then(|row| row.addresses.get(proto)).copied()
    };
    let mut urls = vec![url("REST and gRPC", format!("{}://{}", reach.scheme, reach.gateway))];
    urls.extend(of(&Kind::Gateway, "admin").map(|addr| url("gateway metrics", format!("http://{addr}/metrics"))));
    urls.extend(of(&Kind::Registry, "grpc").map(|addr| url("registry", format!("https://{addr}"))));
    urls.extend(of(&Kind::Registry, "admin").map(|addr| url("registry metrics", format!("http://{addr}/metrics"))));
    urls.extend(of(&Kind::Registry, "dns").map(|addr| url("DNS", format!("dns://{addr}"))));
    urls
}

/// The whole text.
pub(crate) fn text(facts: &Facts) -> String {
    let Facts { config, reach, domain, rows, program, took } = facts;
    let Reach { gateway, scheme, certificate_wanted } = reach;
    // Certificates are for names; this is an address.
    let (curl, grpcurl) = match (scheme, certificate_wanted) {
        (Scheme::Http, _) => ("curl -i", "grpcurl -plaintext"),
        (Scheme::Https, false) => ("curl -ik", "grpcurl -insecure"),
        (Scheme::Https, true) => ("curl -ik --cert FILE --key FILE", "grpcurl -insecure -cert FILE -key FILE"),
    };
    let mut text = format!("\nready after {}\n\n", seconds(*took));
    for url in urls(*reach, rows) {
        line(&mut text, &url.name, &url.url);
    }
    line(&mut text, "security", &security(config, *reach, domain));
    text.push('\n');
    if has_users(config) {
        // A new address at each start: the second user with one is refused.
        let email = format!("ada+{}@example.com", std::process::id());
        let curl = format!(
            "{curl} {scheme}://{gateway}/api/users -H 'content-type: application/json' -d '{{\"name\":\"Ada\",\"email\":\"{email}\"}}'"
        );
        line(&mut text, "call it", &curl);
        line(&mut text, "or by gRPC", &format!("{grpcurl} {gateway} shop.users.v1.Users/ListUsers"));
    } else {
        line(&mut text, "by gRPC", &format!("{grpcurl} {gateway} list"));
    }
    if let Some((dns, service)) = dns(config, rows) {
        let dig = format!("dig @{} -p {} {service} SRV", dns.ip(), dns.port());
        line(&mut text, "find it", &dig);
    }
    if let Some((app, name)) = to_break(config, rows) {
        line(
            &mut text,
            "break it",
            &format!("kill -9 {app}   # the app of {name}; calls go on, its sidecar starts it again"),
        );
    }
    line(&mut text, "watch it", &format!("{program} ps;  {program} logs -f"));
    line(&mut text, "end it", &format!("Ctrl-C here, or {program} stop"));
    text
}

/// What protects the mesh, and what anybody on this machine may call.
fn security(config: &Config, reach: Reach, domain: &TrustDomain) -> String {
    let open = |wanted| {
        let names =
            config.services.iter().filter(move |(_, it)| it.plaintext == wanted).map(|(name, _)| name.to_string());
        names.collect::<Vec<_>>().join(", ")
    };
    let mut plain = Vec::new();
    plain.extend((reach.scheme == Scheme::Http).then(|| format!("the gateway on {}", reach.gateway)));
    for (wanted, whence) in [(Plaintext::Loopback, "from this machine"), (Plaintext::Allow, "from anywhere")] {
        let names = open(wanted);
        if !names.is_empty() {
            plain.push(format!("{names} {whence}"));
        }
    }
    let plain = if plain.is_empty() { "none".to_owned() } else { plain.join("; ") };
    format!("mutual TLS between all processes, trust domain {domain}; plaintext: {plain}")
}

fn line(text: &mut String, name: &str, what: &str) {
    writeln!(text, "  {name:<17} {what}").expect("a String takes what is written to it");
}

/// Where names are asked, and that of a service.
fn dns(config: &Config, rows: &[Row]) -> Option<(SocketAddr, String)> {
    let registry = rows.iter().find(|row| row.kind == Kind::Registry)?;
    let service = config.services.keys().next()?;
    let name = match service.namespace() {
        "default" => format!("{}.service.weft", service.name()),
        namespace => format!("{}.service.{namespace}.ns.weft", service.name()),
    };
    Some((*registry.addresses.get("dns")?, name))
}

/// An app that can be missed: its service has another instance.
fn to_break(config: &Config, rows: &[Row]) -> Option<(u32, String)> {
    let spare = |row: &&Row| match &row.kind {
        Kind::Instance(slot) => config.services.get(&slot.service).is_some_and(|service| service.scale > 1),
        Kind::Registry | Kind::Gateway => false,
    };
    rows.iter().filter(spare).find_map(|row| Some((row.app?, row.name())))
}

fn has_users(config: &Config) -> bool {
    config.services.values().any(|service| service.run == Run::Package("weft-users".to_owned()))
}
