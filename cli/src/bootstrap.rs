//! `bootstrap`: the file by which a stock gRPC client or an Envoy finds the mesh over xDS.
//!
//! Lives here: flags, where the server is, what is printed and written. Does not: the files' content (`bootstrap/grpc`, `bootstrap/envoy`), any of xDS
//! itself (the registry).

mod envoy;
mod grpc;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use weft_identity::pem;
use weft_model::{Locality, ServiceName, SpiffeId};
use weft_runtime::{Context, Usage};

use crate::output;

/// Name of the one certificate provider of a bootstrap.
const PROVIDER: &str = "weft";

/// Flags of `weft bootstrap`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BootstrapArgs {
    /// Who reads it
    #[arg(long, value_name = "LANG", value_enum)]
    lang: Lang,
    /// Sidecar or registries to ask, in order of preference; https:// needs --identity [default: WEFT_OUTBOUND, the sidecar beside this app]
    #[arg(long, value_name = "URL[,URL…]", value_delimiter = ',')]
    server: Vec<String>,
    /// Directory that `weft identity --out` keeps fresh: calls go by mutual TLS
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
    /// Service that the process is: for servers, whose access policies are theirs
    #[arg(long, value_name = "NAME")]
    service: Option<ServiceName>,
    /// Where the process is: near instances are preferred
    #[arg(long, value_name = "REGION[/ZONE[/SUB_ZONE]]")]
    locality: Option<Locality>,
    /// Name of the process, as `weft clients` shows it [default: made of language, host and number of this process]
    #[arg(long, value_name = "ID")]
    node: Option<String>,
    /// Where an Envoy listens for calls
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:10000")]
    listen: SocketAddr,
    /// An Envoy's admin page
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9901")]
    admin: SocketAddr,
    /// An Envoy asks for changes only, instead of the state of the world
    #[arg(long)]
    delta: bool,
    /// File for it instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What the file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Lang {
    /// grpc-go
    Go,
    /// grpc-java
    Java,
    /// grpcio, and all that stand on gRPC's C core
    Python,
    /// @grpc/grpc-js with @grpc/grpc-js-xds
    Node,
    /// Envoy
    Envoy,
}

impl Lang {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::Java => "java",
            Self::Python => "python",
            Self::Node => "node",
            Self::Envoy => "envoy",
        }
    }
}

/// A server to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Server {
    /// `host:port`.
    at: String,
    tls: bool,
}

impl Server {
    fn of(url: &str) -> Result<Self, Usage> {
        let wrong = || Usage::new(format!("--server {url}: expected http://host:port or https://host:port"));
        let (scheme, at) = url.split_once("://").ok_or_else(wrong)?;
        let at = at.trim_end_matches('/');
        let port = at.rsplit_once(':').and_then(|(host, port)| port.parse::<u16>().ok().filter(|_| !host.is_empty()));
        match (scheme, port) {
            ("http", Some(_)) => Ok(Self { at: at.to_owned(), tls: false }),
            ("https", Some(_)) => Ok(Self { at: at.to_owned(), tls: true }),
            _ => Err(wrong()),
        }
    }
}

/// Files of an identity, and whose it is.
#[derive(Debug, Clone)]
struct Identity {
    dir: String,
    id: SpiffeId,
}

impl Identity {
    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }
}

/// What a file is made of.
#[derive(Debug, Clone)]
struct Wanted {
    servers: Vec<Server>,
    identity: Option<Identity>,
    node: String,
    service: Option<ServiceName>,
    locality: Locality,
}

impl Wanted {
    /// The node as both gRPC and Envoy write it. What weft reads of it is under `weft`.
    fn node(&self, metadata: Value) -> Value {
        let (region, zone, sub_zone) = (self.locality.region(), self.locality.zone(), self.locality.sub_zone());
        let cluster = self.service.as_ref().map_or_else(|| "weft".to_owned(), ToString::to_string);
        json!({
            "id": self.node,
            "cluster": cluster,
            "locality": { "region": region, "zone": zone, "sub_zone": sub_zone },
            "metadata": { "weft": metadata },
        })
    }
}

pub(crate) async fn bootstrap(args: BootstrapArgs, context: Context) -> anyhow::Result<()> {
    let wanted = wanted(&args, &context)?;
    let file = match args.lang {
        Lang::Envoy => {
            if let Some(identity) = &wanted.identity {
                for (file, secret) in envoy::secrets(identity) {
                    write(Path::new(&file), &secret)?;
                    eprintln!("{file}: tells Envoy where its certificates are");
                }
            }
            envoy::file(&wanted, args.listen, args.admin, args.delta)
        }
        Lang::Go | Lang::Java | Lang::Python | Lang::Node => grpc::file(&wanted),
    };
    match &args.out {
        Some(out) => write(out, &file),
        None => Ok(output::line(&serde_json::to_string_pretty(&file)?)?),
    }
}

/// Whole at any moment: clients watch it.
fn write(path: &Path, content: &Value) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    let text = serde_json::to_string_pretty(content)? + "\n";
    let written = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn wanted(args: &BootstrapArgs, context: &Context) -> anyhow::Result<Wanted> {
    let urls = match (args.server.as_slice(), context.env().outbound()) {
        ([], Some(sidecar)) => vec![sidecar.to_owned()],
        ([], None) => return Err(Usage::new("give --server: the outbound address of a sidecar, or a registry").into()),
        (urls, _) => urls.to_vec(),
    };
    let servers = urls.iter().map(|url| Server::of(url)).collect::<Result<Vec<_>, _>>()?;
    let identity = args.identity.as_deref().map(identity).transpose()?;
    if let Some(tls) = servers.iter().find(|it| it.tls) {
        if identity.is_none() {
            let says = format!("--server https://{} needs --identity, the directory of `weft identity --out`", tls.at);
            return Err(Usage::new(says).into());
        }
        // grpc-js-xds knows no credentials of type `tls`, grpc-java (1.85) does and ignores which roots and certificate it is given.
        if let Lang::Node | Lang::Java = args.lang {
            let says = "this library cannot be told whom to believe: give the http:// address of a sidecar's outbound";
            return Err(Usage::new(format!("--server https://{}: {says}", tls.at)).into());
        }
    }
    if args.lang == Lang::Envoy && servers.len() > 1 {
        return Err(Usage::new("--lang envoy takes one --server: Envoy has no list to fall back on").into());
    }
    let node = args.node.clone().unwrap_or_else(|| node(args.lang, args.service.as_ref()));
    Ok(Wanted {
        servers,
        identity,
        node,
        service: args.service.clone(),
        locality: args.locality.clone().unwrap_or_default(),
    })
}

fn identity(dir: &Path) -> anyhow::Result<Identity> {
    let failed = || format!("--identity {}: `weft identity --out {0}` writes it", dir.display());
    let id = pem::exported_identity(dir).with_context(failed)?;
    let dir = fs::canonicalize(dir).with_context(failed)?; // a client reads them from wherever it is started
    Ok(Identity { dir: dir.to_string_lossy().into_owned(), id })
}

/// `users/web-1:4711`: unlike others, and a person finds the process.
fn node(lang: Lang, service: Option<&ServiceName>) -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let who = service.map_or_else(|| lang.as_str().to_owned(), ToString::to_string);
    format!("{who}/{}:{}", if host.trim().is_empty() { "localhost" } else { host.trim() }, std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Wanted {
        Wanted {
            servers: vec![Server::of("http://127.0.0.1:7301").unwrap()],
            identity: None,
            node: "n".into(),
            service: None,
            locality: "eu/a".parse().unwrap(),
        }
    }

    fn secured() -> Wanted {
        let id = "spiffe://weft.local/ns/default/svc/web".parse().unwrap();
        let servers = vec![Server::of("https://10.0.0.1:7100").unwrap(), Server::of("https://10.0.0.2:7100/").unwrap()];
        Wanted {
            servers,
            identity: Some(Identity { dir: "/run/id".into(), id }),
            service: Some("web".parse().unwrap()),
            ..plain()
        }
    }

    #[test]
    fn a_grpc_client_without_certificates_asks_in_plaintext() {
        let file = grpc::file(&plain());
        assert_eq!(file["xds_servers"][0]["server_uri"], "127.0.0.1:7301");
        assert_eq!(file["xds_servers"][0]["channel_creds"], json!([{ "type": "insecure" }]));
        // grpc-js-xds refuses a bootstrap without id or locality
        assert_eq!(file["node"]["id"], "n");
        assert_eq!(file["node"]["locality"], json!({ "region": "eu", "zone": "a", "sub_zone": "" }));
        assert_eq!(file["node"]["metadata"]["weft"], json!({}));
        assert_eq!(file.get("certificate_providers"), None);
    }

    #[test]
    fn a_grpc_client_with_certificates_declares_where_they_are() {
        let file = grpc::file(&secured());
        assert_eq!(file["xds_servers"].as_array().unwrap().len(), 2);
        assert_eq!(file["xds_servers"][1]["server_uri"], "10.0.0.2:7100");
        let creds = &file["xds_servers"][0]["channel_creds"][0];
        assert_eq!(
            (&creds["type"], &creds["config"]["ca_certificate_file"]),
            (&json!("tls"), &json!("/run/id/bundle.pem"))
        );
        let provider = &file["certificate_providers"]["weft"];
        assert_eq!(provider["plugin_name"], "file_watcher");
        assert_eq!(provider["config"]["private_key_file"], "/run/id/key.pem");
        let said = json!({ "certificate_providers": ["weft"], "trust_domain": "weft.local" });
        assert_eq!(file["node"]["metadata"]["weft"], said);
        assert_eq!(file["node"]["cluster"], "web");
        assert_eq!(file["server_listener_resource_name_template"], "grpc/server?xds.resource.listening_address=%s");
    }

    #[test]
    fn an_envoy_has_one_stream_for_all_and_its_secrets_in_a_file() {
        let at = "127.0.0.1:10000".parse().unwrap();
        let file = envoy::file(&secured(), at, "127.0.0.1:9901".parse().unwrap(), true);
        assert_eq!(file["dynamic_resources"]["ads_config"]["api_type"], "DELTA_GRPC");
        assert_eq!(file["node"]["metadata"]["weft"]["listen"], "127.0.0.1:10000");
        assert_eq!(file["node"]["metadata"]["weft"]["secrets"], "/run/id");
        let cluster = &file["static_resources"]["clusters"][0];
        let socket = &cluster["transport_socket"]["typed_config"]["common_tls_context"];
        let name =
            &socket["combined_validation_context"]["default_validation_context"]["match_typed_subject_alt_names"][0];
        assert_eq!(name["matcher"]["exact"], "spiffe://weft.local/ns/weft/svc/registry");
        let [(file, own), (_, roots)] = envoy::secrets(secured().identity.as_ref().unwrap());
        assert_eq!(file, "/run/id/weft_identity.json");
        assert_eq!(own["resources"][0]["tls_certificate"]["certificate_chain"]["filename"], "/run/id/svid.pem");
        assert_eq!(roots["resources"][0]["validation_context"]["trusted_ca"]["filename"], "/run/id/bundle.pem");
        assert!(
            [own, roots].iter().all(|it| it["resources"].as_array().unwrap().len() == 1),
            "Envoy takes no file of two"
        );
        let file = envoy::file(&plain(), at, at, false);
        assert_eq!(file["dynamic_resources"]["ads_config"]["api_type"], "GRPC");
        assert_eq!(file["static_resources"]["clusters"][0].get("transport_socket"), None);
    }

    #[test]
    fn servers_are_read_or_say_how_they_look() {
        assert_eq!(Server::of("https://registry:7100/").unwrap(), Server { at: "registry:7100".into(), tls: true });
        for wrong in ["", "127.0.0.1:7100", "http://127.0.0.1", "ftp://a:1", "http://:1", "http://a:x"] {
            assert!(Server::of(wrong).unwrap_err().to_string().contains("expected http://host:port"), "{wrong}");
        }
    }
}
