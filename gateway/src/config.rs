//! Configuration of the gateway: what the code may assume after flags and file were read.
//!
//! Lives here: `Config`, the file's schema, defaults. Does not: the meaning of transcoding settings (`weft_transcode::settings`).
//! Every mistake is a [`Usage`] that names the flag, or the file and the line.

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny},
};
use weft_discovery::{Credential, RegistryUrls, Way};
use weft_identity::Identity;
use weft_model::{DEFAULT_NAMESPACE, GATEWAY, Policy, PolicyKind};
use weft_runtime::{Mistake, Usage, listen::ListenAddr};
use weft_transcode::{Elements, Settings};

use crate::{
    Args, ClientFiles, DescriptorError, DescriptorFiles, Docs, FileRule, ForwardedHeader, Network, RedisUrl, TlsFiles,
    TrustedProxies, protocol::chain,
};

/// Everything a gateway needs to know before it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where REST and gRPC are served. Already checked against `--insecure`.
    pub listen: ListenAddr,
    /// Where services and endpoints come from.
    pub source: Source,
    /// What gives this gateway its identity when it starts; none has one already, or needs none.
    pub credential: Option<Credential>,
    /// Who this gateway is to sidecars and registries; none speaks plaintext to both.
    pub identity: Option<Identity>,
    /// Data threads; `None` means one a core.
    pub workers: Option<NonZeroUsize>,
    /// How REST becomes gRPC.
    pub transcoding: Settings,
    /// Bounds of a call.
    pub limits: Limits,
    /// Edge policies of static mode, ordered by name; with a registry its own count.
    pub policies: Vec<Policy>,
    /// How methods are called by REST, in the place of their annotations and of policies.
    pub rules: Vec<FileRule>,
    /// Where rate limits are counted together with other gateways; none: this gateway counts for itself.
    pub redis: Option<RedisUrl>,
    /// The files of the port's TLS; none: it speaks plaintext.
    pub tls: Option<TlsFiles>,
    /// Most memory in bytes for answers that cache policies keep. Default 64 MiB.
    pub cache_bytes: usize,
    /// Whose word on callers' addresses counts. Default nobody's.
    pub proxies: TrustedProxies,
    /// Whether the API is described at `/docs` and `/openapi.json`.
    pub docs: Docs,
}

/// Name of the one service of static mode.
pub(crate) const UPSTREAM: &str = "upstream";

/// Where services and endpoints come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Registries, by URL; live.
    Registry(RegistryUrls),
    /// Descriptors and one upstream.
    Static {
        /// What it serves.
        descriptor_set: DescriptorFiles,
        /// `host:port` that every call goes to, plaintext HTTP/2.
        upstream: String,
    },
}

/// Bounds of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Longest REST request body in bytes, and longest message of a client stream; longer is 413. Of gRPC-Web and Connect the longest message; longer is
    /// RESOURCE_EXHAUSTED. Compressed or not. Default 4 MiB, at most 256 MiB.
    pub max_request_bytes: u64,
    /// Most members and elements of one JSON document; more is 400. Default 1,000,000.
    pub max_elements: u32,
    /// Deadline of a unary REST call that brings no `grpc-timeout`. Default 60 s. Streams and calls by gRPC, gRPC-Web and Connect get none.
    pub default_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let default_timeout = Duration::from_secs(60);
        Self { max_request_bytes: 4 << 20, max_elements: Elements::DEFAULT, default_timeout }
    }
}

impl Limits {
    /// How much one JSON document may have, for the codec.
    pub(crate) fn elements(&self) -> Elements {
        Elements::new(self.max_elements, || "the gateway's max_elements".to_owned())
    }
}

impl Config {
    /// Reads flags and the files they name.
    ///
    /// # Errors
    /// `Usage` for flags that contradict each other, a file that cannot be read, an unknown key, a value out of range.
    pub fn load(args: Args) -> Result<Self, Usage> {
        let Read { file, policies, rules } = args.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
        let tls = file.tls.map(|raw| raw.files(args.config.as_deref())).transpose()?;
        let mut credential = None;
        let source = match (args.descriptor_set, args.upstream) {
            (Some(path), Some(upstream)) => {
                let wrong = |error: DescriptorError| Usage::new(format!("--descriptor-set: {}", chain(&error)));
                let descriptor_set = DescriptorFiles::Path(path).taken().map_err(wrong)?;
                descriptor_set.check().map_err(wrong)?;
                Source::Static { descriptor_set, upstream: plaintext(&upstream)? }
            }
            (None, None) => match args.join.load().map_err(|error| Usage::of(&error))? {
                Way::Plaintext(urls) => Source::Registry(urls),
                Way::Secured(found) => Source::Registry(credential.insert(*found).registries().clone()),
            },
            _ => return Err(Usage::new("--descriptor-set and --upstream need each other")),
        };
        if let Source::Registry(_) = &source {
            without_policies(&policies)?;
        }
        Ok(Self {
            listen: match &tls {
                Some(tls) if !tls.plaintext => args.listen, // nobody is heard in the clear
                _ => args.listen.require_loopback("--listen", args.insecure.into())?,
            },
            tls,
            source,
            credential,
            identity: None,
            workers: args.workers,
            transcoding: file.transcoding,
            limits: file.limits.into(),
            policies,
            rules,
            redis: file.rate_limit.redis.map(|it| it.0),
            cache_bytes: file.cache.max_bytes.map_or(CACHE_BYTES, |it| it.0),
            proxies: file.proxies.into(),
            docs: file.docs.into(),
        })
    }
}

impl Config {
    /// Reads the file of a gateway with a registry and the files that it names, for whoever starts one and wants to know first whether it can.
    ///
    /// # Errors
    /// What [`Config::load`] would say of the file, and the gateway itself of those of its TLS.
    pub fn check_file(path: &Path) -> Result<(), Usage> {
        let Read { file, policies, .. } = File::read(path)?;
        without_policies(&policies)?;
        let Some(tls) = file.tls else { return Ok(()) };
        let files = tls.files(Some(path))?;
        crate::tls::check(&files).map_err(|error| Usage::new(format!("{}: {}", path.display(), chain(&error))))
    }
}

fn without_policies(policies: &[Policy]) -> Result<(), Usage> {
    let Some(first) = policies.first() else { return Ok(()) };
    let cure = "with a registry policies are the mesh's: `weft apply`";
    Err(Usage::new(format!("--config: policy {}: {cure}", first.name)))
}

/// Accepts `host:port` and `http://host:port`.
fn plaintext(upstream: &str) -> Result<String, Usage> {
    let address = upstream.strip_prefix("http://").unwrap_or(upstream).trim_end_matches('/');
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok() => {
            Ok(address.to_owned())
        }
        _ => Err(Usage::new(format!("--upstream {upstream:?} is no HOST:PORT, like 127.0.0.1:50051"))),
    }
}

/// The file as people write it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    transcoding: Settings,
    limits: RawLimits,
    rate_limit: RawRateLimit,
    cache: RawCache,
    tls: Option<RawTls>,
    proxies: RawProxies,
    /// Read by `weft-policy`, which knows their schema.
    policies: IgnoredAny,
    /// Likewise.
    http: IgnoredAny,
    docs: RawDocs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawDocs {
    enabled: Option<bool>,
    title: Option<String>,
}

impl From<RawDocs> for Docs {
    fn from(raw: RawDocs) -> Self {
        let default = Self::default();
        Self { enabled: raw.enabled.unwrap_or(default.enabled), title: raw.title.unwrap_or(default.title) }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawProxies {
    trusted: Vec<TrustedNetwork>,
    header: Option<RawHeader>,
}

#[derive(Debug)]
struct TrustedNetwork(Network);

impl<'de> Deserialize<'de> for TrustedNetwork {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawHeader {
    XForwardedFor,
    Forwarded,
}

impl From<RawProxies> for TrustedProxies {
    fn from(raw: RawProxies) -> Self {
        let header = match raw.header {
            Some(RawHeader::XForwardedFor) | None => ForwardedHeader::XForwardedFor,
            Some(RawHeader::Forwarded) => ForwardedHeader::Forwarded,
        };
        Self { networks: raw.trusted.into_iter().map(|it| it.0).collect(), header }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawLimits {
    max_request_bytes: Option<RequestBytes>,
    max_elements: Option<MostElements>,
    default_timeout: Option<HumanDuration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawRateLimit {
    redis: Option<Redis>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawTls {
    certificates: Vec<RawPair>,
    client_authorities: Option<PathBuf>,
    client_revocations: Option<PathBuf>,
    client_certificates: Option<Asked>,
    plaintext: Plaintext,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPair {
    chain: PathBuf,
    key: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Asked {
    Optional,
    Required,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Plaintext {
    #[default]
    Refuse,
    Allow,
}

impl RawTls {
    /// Paths are seen from the file that names them.
    fn files(self, config: Option<&Path>) -> Result<TlsFiles, Usage> {
        if self.certificates.is_empty() {
            return Err(Usage::new(
                "--config: [tls]: certificates names none; write [{ chain = \"a.pem\", key = \"a.key\" }]",
            ));
        }
        let place = config.and_then(Path::parent).unwrap_or(Path::new(""));
        if self.client_certificates.is_some() && self.client_authorities.is_none() {
            return Err(Usage::new(
                "--config: [tls]: client_certificates needs client_authorities, the file of who issues them",
            ));
        }
        if self.client_revocations.is_some() && self.client_authorities.is_none() {
            return Err(Usage::new(
                "--config: [tls]: client_revocations needs client_authorities, the file of who issues certificates",
            ));
        }
        let required = self.client_certificates.unwrap_or(Asked::Required) == Asked::Required;
        if required && self.client_authorities.is_some() && self.plaintext == Plaintext::Allow {
            return Err(Usage::new(
                "--config: [tls]: plaintext = \"allow\" lets in who shows no certificate; leave it out, or say client_certificates = \"optional\"",
            ));
        }
        let clients = self.client_authorities.map(|it| ClientFiles {
            authorities: place.join(it),
            revocations: self.client_revocations.map(|it| place.join(it)),
            required,
        });
        let pairs = self.certificates.iter().map(|it| (place.join(&it.chain), place.join(&it.key)));
        Ok(TlsFiles { certificates: pairs.collect(), clients, plaintext: self.plaintext == Plaintext::Allow })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawCache {
    max_bytes: Option<CacheBytes>,
}

/// Memory for kept answers where the file does not say.
const CACHE_BYTES: usize = 64 << 20;

/// Memory for kept answers: enough to be of use, and no more than a process should have for it.
#[derive(Debug)]
struct CacheBytes(usize);

impl<'de> Deserialize<'de> for CacheBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match usize::deserialize(deserializer)? {
            bytes @ 0x10_0000..=0x10_0000_0000 => Ok(Self(bytes)),
            _ => Err(D::Error::custom("expected 1048576 (1 MiB) to 68719476736 (64 GiB)")),
        }
    }
}

#[derive(Debug)]
struct Redis(RedisUrl);

impl<'de> Deserialize<'de> for Redis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

/// All that a file says.
#[derive(Debug, Default)]
struct Read {
    file: File,
    policies: Vec<Policy>,
    rules: Vec<FileRule>,
}

impl File {
    /// Reads the file, and the policies and HTTP rules in it.
    fn read(path: &Path) -> Result<Read, Usage> {
        let wrong = |e: &dyn std::fmt::Display| Usage::new(format!("{}: {e}", path.display()));
        let text = fs::read_to_string(path).map_err(|e| wrong(&e))?;
        let at = |problem: &str| Usage::new(format!("{}:{}", path.display(), problem.trim_start_matches("line ")));
        let file = text.parse().map_err(|e: toml::de::Error| at(&on_line(&text, &e)))?;
        let rule = |(line, rule)| FileRule { at: format!("{}:{line}", path.display()).into(), rule };
        let rules = weft_policy::parse_http_among(&text).map_err(|e| at(&e.to_string()))?;
        let policies = policies(&text).map_err(|e| at(&e))?;
        Ok(Read { file, policies, rules: rules.into_iter().map(rule).collect() })
    }
}

/// `3: what is wrong there`, without the excerpt that the parser draws.
fn on_line(text: &str, error: &toml::de::Error) -> String {
    let Mistake { line, problem } = Mistake::said(text, error.span(), error.message());
    format!("{line}: {problem}")
}

/// The policies of a file, by name.
fn policies(text: &str) -> Result<Vec<Policy>, String> {
    let mut policies = Vec::new();
    for (line, policy) in weft_policy::parse_among(text).map_err(|e| e.to_string())? {
        if !matches!(policy.kind, PolicyKind::Edge(_)) {
            return Err(format!(
                "line {line}: policy {}: only edge kinds, like cors, are read from a file",
                policy.name
            ));
        }
        if policy.service.namespace() != DEFAULT_NAMESPACE || ![UPSTREAM, GATEWAY].contains(&policy.service.name()) {
            let cure =
                format!("without a registry a policy belongs to {UPSTREAM} or {GATEWAY}, not to {}", policy.service);
            return Err(format!("line {line}: policy {}: {cure}", policy.name));
        }
        if policies.iter().any(|it: &Policy| it.name == policy.name) {
            return Err(format!("line {line}: a second policy named {}", policy.name));
        }
        policies.push(policy);
    }
    policies.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(policies)
}

impl FromStr for File {
    type Err = toml::de::Error;

    fn from_str(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

impl From<RawLimits> for Limits {
    fn from(raw: RawLimits) -> Self {
        let default = Self::default();
        Self {
            max_request_bytes: raw.max_request_bytes.map_or(default.max_request_bytes, |bytes| bytes.0),
            max_elements: raw.max_elements.map_or(default.max_elements, |most| most.0),
            default_timeout: raw.default_timeout.map_or(default.default_timeout, |d| d.0),
        }
    }
}

/// Longest body that may be asked for: it is held in memory, and as a message it can be several times as long, which a gRPC frame must still
/// be able to say (4 GiB).
const MOST_REQUEST_BYTES: u64 = 256 << 20;

/// A length of at most [`MOST_REQUEST_BYTES`].
#[derive(Debug)]
struct RequestBytes(u64);

impl<'de> Deserialize<'de> for RequestBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            bytes if bytes > MOST_REQUEST_BYTES => {
                Err(D::Error::custom(format!("{bytes} is too much, at most {MOST_REQUEST_BYTES}")))
            }
            bytes => Ok(Self(bytes)),
        }
    }
}

/// How many members and elements: at least one, and no more than the longest body has room for.
#[derive(Debug)]
struct MostElements(u32);

impl<'de> Deserialize<'de> for MostElements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            most @ 1..=0x800_0000 => Ok(Self(most)),
            _ => Err(D::Error::custom("expected 1 to 134217728")),
        }
    }
}

/// A duration with its unit: `250ms`, `15s`, `2m`, `1h`.
#[derive(Debug)]
struct HumanDuration(Duration);

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong =
            || D::Error::custom(format!("{text:?} is no duration above zero, like \"250ms\", \"15s\", \"2m\", \"1h\""));
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let millis = match &text[digits..] {
            "ms" => Some(number),
            "s" => number.checked_mul(1_000),
            "m" => number.checked_mul(60_000),
            "h" => number.checked_mul(3_600_000),
            _ => None,
        };
        let millis = millis.filter(|ms| (1..=86_400_000).contains(ms)).ok_or_else(wrong)?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_transcode::settings::{PathUnescape, StreamFormat};

    #[test]
    fn a_file_sets_what_it_names_and_leaves_the_rest() {
        let file: File = r#"
            [transcoding]
            path_unescape = "all"
            stream_format = "sse"
            [transcoding.json_output]
            emit_defaults = true
            [limits]
            max_request_bytes = 2048
            max_elements = 500
            default_timeout = "15s"
            [cache]
            max_bytes = 1048576
            [proxies]
            trusted = ["10.0.0.0/8", "::1"]
            header = "forwarded"
            [docs]
            enabled = false
        "#
        .parse()
        .unwrap();
        let proxies = TrustedProxies::from(file.proxies);
        let networks: Vec<_> = proxies.networks.iter().map(Network::to_string).collect();
        assert_eq!(
            (networks, proxies.header),
            (vec!["10.0.0.0/8".into(), "::1/128".into()], ForwardedHeader::Forwarded)
        );
        assert_eq!(TrustedProxies::from(File::default().proxies), TrustedProxies::default());
        assert_eq!(file.transcoding.path_unescape, PathUnescape::All);
        assert_eq!(file.transcoding.stream_format, StreamFormat::Sse);
        assert!(file.transcoding.json_output.emit_defaults && !file.transcoding.json_output.enums_as_ints);
        let default_timeout = Duration::from_secs(15);
        let expected = Limits { max_request_bytes: 2048, max_elements: 500, default_timeout };
        assert_eq!(Limits::from(file.limits), expected);
        assert_eq!(file.cache.max_bytes.map(|it| it.0), Some(1 << 20));
        assert_eq!(Docs::from(file.docs), Docs { enabled: false, ..Docs::default() });
        assert_eq!(Limits::from(File::default().limits), Limits::default());
    }

    #[test]
    fn unknown_keys_and_bare_numbers_are_errors_that_name_the_line() {
        let error = |text: &str| text.parse::<File>().unwrap_err().to_string();
        assert!(error("[limits]\nmax_bytes = 1").contains("line 2"), "{}", error("[limits]\nmax_bytes = 1"));
        assert!(error("[transcoding]\n\nunknown_querry = \"ignore\"").contains("line 3"));
        assert!(error("[transcoding.json_output]\nemit = true").contains("line 2"));
        assert!(error("[cache]\nmax_bytes = 1000").contains("line 2"));
        for bad in ["0", "134217729", "-1"] {
            assert!(error(&format!("[limits]\nmax_elements = {bad}")).contains("line 2"), "{bad}");
        }
        assert!(error("[limit]").contains("line 1"));
        let network = error("[proxies]\ntrusted = [\"10.0.0.1/8\"]");
        assert!(network.contains("line 2") && network.contains("write \"10.0.0.0/8\""), "{network}");
        for bad in ["15", "\"15\"", "\"15 s\"", "\"s\"", "\"0s\"", "\"1d\"", "\"25h\""] {
            assert!(error(&format!("[limits]\ndefault_timeout = {bad}")).contains("line 2"), "{bad}");
        }
    }

    #[test]
    fn a_mistake_is_told_in_one_line_with_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.toml");
        let said = |text: &str| {
            fs::write(&path, text).unwrap();
            Config::check_file(&path).map_err(|error| error.to_string())
        };
        assert_eq!(said("[limits]\ndefault_timeout = \"5s\"\n"), Ok(()));
        let at = |line: u8| format!("{}:{line}: ", path.display());
        let unknown = said("[limits]\n\nmax_bytes = 1\n").unwrap_err();
        assert!(unknown.starts_with(&at(3)) && !unknown.contains('\n'), "{unknown}");
        let known = "max_request_bytes, max_elements and default_timeout";
        assert!(unknown.ends_with(&format!("[limits]: there is no key max_bytes; there are {known}")), "{unknown}");
        let bare = said("[limits]\ndefault_timeout = 15\n").unwrap_err();
        let told = "[limits] default_timeout: expected a text in quotes, found the number 15";
        assert_eq!(bare, format!("{}{told}", at(2)), "and no advice that would be refused");
        let inner = said("[tls]\ncertificates = [{ chain = \"a\", kee = \"b\" }]\n").unwrap_err();
        assert_eq!(inner, format!("{}[tls] certificates: there is no key kee; there are chain and key", at(2)));
        let kind = said("[transcoding]\nstream_format = \"xml\"\n").unwrap_err();
        assert!(
            kind.starts_with(&format!("{}[transcoding] stream_format: \"xml\" is not known here", at(2))),
            "{kind}"
        );
        let key = dir.path().join("a.key");
        let tls = "[tls]\ncertificates = [{ chain = \"a.pem\", key = \"a.key\" }]\n";
        fs::write(&key, "").unwrap();
        let absent = said(tls).unwrap_err();
        assert!(absent.contains("[tls] certificates[0].chain") && absent.contains("a.pem"), "{absent}");
        assert!(absent.contains("cannot be read; give") && !absent.contains('\n'), "{absent}");
        fs::write(dir.path().join("a.pem"), "no PEM").unwrap();
        let empty = said(tls).unwrap_err();
        assert!(empty.contains("[tls] certificates[0].chain") && empty.contains("BEGIN CERTIFICATE"), "{empty}");
        let none = said("[tls]\n").unwrap_err();
        assert!(none.contains("certificates names none; write"), "{none}");
        let policy =
            said("\n[[policies]]\nname = \"pages\"\nservice = \"users\"\ncors = { origins = [\"*\"] }").unwrap_err();
        assert!(policy.starts_with(&at(2)) && !policy.contains("line "), "{policy}");
    }

    #[test]
    fn the_readme_names_every_key_with_its_default() {
        let readme = include_str!("../../README.md");
        let section = readme.split("### The gateway's file").nth(1).expect("README has the section");
        let block = section.split("```toml\n").nth(1).and_then(|it| it.split("```").next()).expect("it has a file");
        let file: File = block.parse().unwrap();
        assert_eq!(file.transcoding, Settings::default());
        assert_eq!(Limits::from(file.limits), Limits::default());
        assert_eq!(file.cache.max_bytes.map(|it| it.0), Some(CACHE_BYTES));
        let keys = block.lines().filter(|line| line.split('#').next().is_some_and(|it| it.contains(" = "))).count();
        assert_eq!(TrustedProxies::from(file.proxies), TrustedProxies::default());
        assert_eq!(keys, 17, "3 limits, 2 of proxies, 1 of the cache, 8 of transcoding, 3 of its output");
        assert!(block.contains("\n[rate_limit]\n# redis = "), "the one without a default");
    }

    #[test]
    fn policies_of_a_file_are_the_gateways_or_the_upstreams() {
        let read = |service: &str, kind: &str| {
            policies(&format!("[limits]\n\n[[policies]]\nname = \"pages\"\nservice = \"{service}\"\n{kind}\n"))
        };
        let cors = "cors = { origins = [\"https://a.example\"] }";
        assert_eq!(read("gateway", cors).unwrap()[0].name.as_str(), "pages");
        assert_eq!(read("upstream", cors).unwrap().len(), 1);
        let of_others = read("users", cors).unwrap_err();
        assert!(of_others.starts_with("line 3") && of_others.contains("upstream or gateway"), "{of_others}");
        let other_kind = read("gateway", "plaintext_upstream = \"allow\"").unwrap_err();
        assert!(other_kind.contains("edge kinds"), "{other_kind}");
        let wrong = read("gateway", "cors = { origins = [\"a.example\"] }").unwrap_err();
        assert!(wrong.starts_with("line 6: policies[0].cors.origins[0]"), "{wrong}");
        let file: File = "[[policies]]\nname = 7".parse().unwrap();
        assert_eq!(Limits::from(file.limits), Limits::default());
    }

    #[test]
    fn http_rules_of_a_file_say_where_they_stand_and_what_is_wrong_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.toml");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            File::read(&path).map_err(|error| error.to_string().replace(&path.display().to_string(), "gateway.toml"))
        };
        let text = "[limits]\n\n[[http]]\nselector = \"a.B.C\"\nget = \"/c/{id}\"\nadditional_bindings = [{ post = \"/c\", body = \"*\" }]\n
            [[http]]\nselector = \"a.B.D\"\ncustom = { kind = \"head\", path = \"/d\" }\nresponse_body = \"it\"\n";
        let rules = read(text).unwrap().rules;
        assert_eq!(
            (&*rules[0].at, &*rules[1].at),
            (&*format!("{}:3", path.display()), &*format!("{}:8", path.display()))
        );
        let claims = |at: usize| rules[at].rule.bindings().map(weft_model::HttpBinding::claim).collect::<Vec<_>>();
        assert_eq!((claims(0), claims(1)), (vec!["GET /c/*".to_owned(), "POST /c".into()], vec!["HEAD /d".into()]));
        assert_eq!(rules[0].rule.additional[0].body.as_str(), "*");
        assert_eq!(rules[1].rule.binding.response_body.as_str(), "it");
        for (rule, told) in [
            ("get = \"/c\"", "2: http[0].selector: is required"),
            ("selector = \"a.B.C\"", "2: http[0]: names no path: give one of get, put, post, delete, patch, custom"),
            ("selector = \"a.B/C\"\nget = \"/c\"", "3: http[0].selector: \"a.B/C\" has a slash"),
            (
                "selector = \"a.B.C\"\nget = \"c/{id\"",
                "4: http[0].get: \"c/{id\" is no path template: expected '/', found 'c'",
            ),
            ("selector = \"a.B.C\"\nget = 7", "4: http[0].get: expected text, found a number"),
            ("selector = \"a.B.C\"\nget = \"/c\"\nput = \"/d\"", "5: http[0].put: a binding has one path"),
            ("selector = \"a.B.C\"\nget = \"/c\"\nbdy = \"*\"", "5: http[0].bdy: unknown key; did you mean body?"),
            ("selector = \"a.B.C\"\nget = \"/c\"\nbody = \"a.b\"", "5: http[0].body: \"a.b\" is no name of a field"),
            ("selector = \"a.B.C\"\ncustom = { kind = \"HEAD\" }", "4: http[0].custom.path: is required"),
            (
                "selector = \"a.B.C\"\nget = \"/c\"\nadditional_bindings = [{ get = \"/d\", selector = \"a.B.D\" }]",
                "5: http[0].additional_bindings[0].selector: unknown key",
            ),
            (
                "selector = \"a.B.C\"\nget = \"/c\"\n[[http]]\nselector = \"a.B.C\"\nget = \"/d\"",
                "6: http[1].selector: a second rule for a.B.C",
            ),
        ] {
            let error = read(&format!("\n[[http]]\n{rule}\n")).unwrap_err();
            assert!(error.starts_with(&format!("gateway.toml:{told}")), "{error}");
        }
    }

    #[test]
    fn a_redis_is_named_by_url_and_a_wrong_one_is_not_repeated() {
        let file: File = "[rate_limit]\nredis = \"redis://:s3cret@10.0.0.9/1\"".parse().unwrap();
        assert!(!format!("{:?}", file.rate_limit.redis.unwrap()).contains("s3cret"));
        let error = "[rate_limit]\n\nredis = \"rediss://:s3cret@10.0.0.9\"".parse::<File>().unwrap_err();
        assert!(error.message().contains("no URL of a Redis") && !error.message().contains("s3cret"), "{error}");
    }

    #[test]
    fn a_body_that_no_frame_could_hold_is_not_promised() {
        let limit = |bytes: u64| format!("[limits]\nmax_request_bytes = {bytes}").parse::<File>();
        assert!(limit(256 << 20).is_ok());
        assert!(limit((256 << 20) + 1).unwrap_err().to_string().contains("line 2"));
    }

    #[test]
    fn an_upstream_is_host_and_port() {
        assert_eq!(plaintext("127.0.0.1:80").unwrap(), "127.0.0.1:80");
        assert_eq!(plaintext("http://localhost:80/").unwrap(), "localhost:80");
        assert_eq!(plaintext("[::1]:80").unwrap(), "[::1]:80");
        for bad in ["localhost", ":80", "https://a:443", "a:b", "a:1/x"] {
            assert!(plaintext(bad).is_err(), "{bad}");
        }
    }
}
