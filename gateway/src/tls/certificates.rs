//! Certificates of the gateway's port: read from files, chosen by the name that a client asks for.
//!
//! Lives here: PEM, chain and key belonging together, names with wildcards, which clients' certificates count. Does not: following the files (`tls`).
//! Source: RFC 6125, 6.4.3: a wildcard is the whole first label. A certificate without names is shown to whoever asks for none of the others.

use std::{
    collections::{HashMap, HashSet},
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer,
    revocation_list::CertificateRevocationList, time::ASN1Time,
};

use super::{ClientFiles, TlsFiles};

/// Why files make no TLS; each names the field and its file, and says what to give.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{file} cannot be read; give the path of a file in PEM, seen from the file that names it")]
    Read {
        /// Which.
        file: TlsFile,
        /// Why.
        source: io::Error,
    },
    /// There is nothing of use in it.
    #[error("{file}: {problem}")]
    Unusable {
        /// Which.
        file: TlsFile,
        /// What is wrong, and what to give.
        problem: String,
    },
    /// Certificate and key do not make a pair.
    #[error("{file} and its key do not belong together; the chain begins with the certificate that the key is for")]
    Pair {
        /// The chain's.
        file: TlsFile,
        /// Why.
        source: rustls::Error,
    },
    /// Nobody's certificates can be checked by them.
    #[error("{file}: authorities of clients")]
    Authorities {
        /// Which.
        file: TlsFile,
        /// Why.
        source: VerifierBuilderError,
    },
}

/// A file of `[tls]`, and the field that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFile {
    field: String,
    path: PathBuf,
}

impl TlsFile {
    fn new(field: impl Into<String>, path: &Path) -> Self {
        Self { field: field.into(), path: path.to_owned() }
    }

    fn unusable(&self, problem: impl Into<String>) -> TlsError {
        TlsError::Unusable { file: self.clone(), problem: problem.into() }
    }

    fn read(&self) -> Result<Vec<u8>, TlsError> {
        fs::read(&self.path).map_err(|source| TlsError::Read { file: self.clone(), source })
    }
}

impl fmt::Display for TlsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[tls] {} {:?}", self.field, self.path)
    }
}

impl TlsFiles {
    /// Chain and key of each pair.
    fn pairs(&self) -> impl Iterator<Item = (TlsFile, TlsFile)> {
        self.certificates.iter().enumerate().map(|(at, (chain, key))| {
            let file = |part: &str, path| TlsFile::new(format!("certificates[{at}].{part}"), path);
            (file("chain", chain), file("key", key))
        })
    }
}

impl ClientFiles {
    fn authorities(&self) -> TlsFile {
        TlsFile::new("client_authorities", &self.authorities)
    }

    fn revocations(&self) -> Option<TlsFile> {
        self.revocations.as_ref().map(|it| TlsFile::new("client_revocations", it))
    }
}

/// The bytes of all files, keys among them: nothing to print.
#[derive(PartialEq, Eq)]
pub(super) struct Material {
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
    authorities: Option<Vec<u8>>,
    revocations: Option<Vec<u8>>,
}

impl Material {
    pub(super) fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let pairs = files.pairs().map(|(chain, key)| Ok((chain.read()?, key.read()?)));
        let authorities = files.clients.as_ref().map(|it| it.authorities().read()).transpose()?;
        let revocations = files.clients.as_ref().and_then(ClientFiles::revocations);
        let revocations = revocations.map(|it| it.read()).transpose()?;
        Ok(Self { pairs: pairs.collect::<Result<_, _>>()?, authorities, revocations })
    }

    /// Whether the same certificates of clients count by both.
    pub(super) fn trusts_as(&self, other: &Self) -> bool {
        self.authorities == other.authorities && self.revocations == other.revocations
    }

    /// What connections that are opened from now on go by.
    pub(super) fn config(&self, files: &TlsFiles) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites of TLS 1.2 and 1.3");
        let builder = match (&self.authorities, &files.clients) {
            (Some(bytes), Some(clients)) => {
                let file = clients.authorities();
                let mut roots = RootCertStore::empty();
                let authorities = certificates(bytes, &file)?;
                for root in &authorities {
                    roots
                        .add(root.clone())
                        .map_err(|error| file.unusable(format!("{error}; give certificates of authorities")))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = if clients.required { verifier } else { verifier.allow_unauthenticated() };
                let verifier = match self.revocations.as_deref().zip(clients.revocations()) {
                    Some((bytes, file)) => verifier.with_crls(revocations(bytes, &file, &authorities)?),
                    None => verifier,
                };
                let verifier = verifier.build().map_err(|source| match (source, clients.revocations()) {
                    (VerifierBuilderError::InvalidCrl(error), Some(lists)) => {
                        let cure = "give whole lists of version 2 (openssl: crl_extensions)";
                        lists.unusable(format!("{}; {cure}", rustls::Error::InvalidCertRevocationList(error)))
                    }
                    (source, _) => TlsError::Authorities { file, source },
                })?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(self.chosen(files)?));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if files.clients.is_some() {
            // A session that is resumed brings its certificate along, unchecked: it could have run out meanwhile.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            return Ok(config);
        }
        match rustls::crypto::ring::Ticketer::new() {
            Ok(ticketer) => config.ticketer = ticketer,
            Err(error) => tracing::warn!(%error, "no randomness for tickets; sessions are not resumed"),
        }
        Ok(config)
    }

    fn chosen(&self, files: &TlsFiles) -> Result<Chosen, TlsError> {
        let mut chosen = Chosen { names: HashMap::new(), otherwise: None };
        for ((chain, key), (chain_file, key_file)) in self.pairs.iter().zip(files.pairs()) {
            let chain = certificates(chain, &chain_file)?;
            let key = PrivateKeyDer::from_pem_slice(key)
                .map_err(|error| key_file.unusable(format!("no private key in PEM: {error}")))?;
            let names = names(&chain[0]);
            let pair = CertifiedKey::from_der(chain, key, &ring::default_provider())
                .map_err(|source| TlsError::Pair { file: chain_file, source })?;
            let pair = Arc::new(pair);
            for name in names {
                chosen.names.entry(name).or_insert_with(|| Arc::clone(&pair));
            }
            chosen.otherwise.get_or_insert(pair);
        }
        Ok(chosen)
    }
}

/// Certificates by the names that are in them.
#[derive(Debug)]
struct Chosen {
    /// In lower case; those for all hosts below another begin with `*.`.
    names: HashMap<String, Arc<CertifiedKey>>,
    otherwise: Option<Arc<CertifiedKey>>,
}

impl Chosen {
    fn of(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let exact = name.and_then(|name| self.names.get(&name.to_ascii_lowercase()));
        let wild = || {
            let (_, below) = name?.split_once('.')?;
            self.names.get(&format!("*.{}", below.to_ascii_lowercase()))
        };
        exact.or_else(wild).or(self.otherwise.as_ref())
    }
}

impl ResolvesServerCert for Chosen {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.of(hello.server_name()).cloned()
    }
}

/// The certificates of a file, at least one.
fn certificates(pem: &[u8], file: &TlsFile) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| file.unusable(format!("no certificates in PEM: {error}")))?;
    if found.is_empty() {
        return Err(file.unusable("no certificates in PEM; one begins with -----BEGIN CERTIFICATE-----"));
    }
    Ok(found)
}

/// The lists of a file, at least one, each of which can be read.
/// Reads the lists, of which each authority has to have one: without, none of its clients could be let in. One that has run out counts, but not in silence.
fn revocations(
    pem: &[u8],
    file: &TlsFile,
    authorities: &[CertificateDer<'_>],
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| file.unusable(format!("no lists of revocations in PEM: {error}")))?;
    if found.is_empty() {
        return Err(file.unusable("no lists of revocations in PEM; one begins with -----BEGIN X509 CRL-----"));
    }
    let mut issuers = HashSet::new();
    for list in &found {
        let (_, list) = CertificateRevocationList::from_der(list)
            .map_err(|error| file.unusable(format!("no list of revocations: {error}")))?;
        let issuer = list.issuer();
        if list.next_update().is_some_and(|until| until < ASN1Time::now()) {
            tracing::warn!(%file, %issuer, "a list of revocations has run out; it counts until there is a newer one");
        }
        issuers.insert(issuer.as_raw().to_vec());
    }
    for authority in authorities.iter().filter_map(|it| X509Certificate::from_der(it).ok()) {
        let subject = authority.1.subject();
        if !issuers.contains(subject.as_raw()) {
            let problem = format!("no list of the authority {subject}; add its list, which may be empty");
            return Err(file.unusable(problem));
        }
    }
    Ok(found)
}

/// The hosts that a certificate is for.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let dns = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    dns.collect()
}
