//! What a process shows to get an identity, and where: a join token, or a token of somebody else's beside the registry's address and root.
//!
//! Lives here: the flags that every role shares, the file, the descriptor, the rules between them. Does not: asking the registry (`identity`).
//! A secret never stands among arguments. A token of ours that others may read is refused; one that Kubernetes projects has the mode that the kubelet
//! gives it, behind the pod's own walls.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use weft_identity::{
    RootPin, TrustDomain, name,
    token::{MAX, Token},
};
use weft_model::{Invalid, SpiffeId};

use crate::{BadUrl, RegistryUrls};

/// How a process finds the registries and proves who it is.
#[derive(Debug, Clone, clap::Args)]
pub struct JoinArgs {
    /// Registries [default: those the token names]; http:// is for a registry that was started with --insecure
    #[arg(long, value_name = "URL[,URL…]")]
    pub registry: Option<RegistryUrls>,

    /// File with the token that makes this process somebody, readable by its owner only: `weft token create` prints one
    #[arg(long, value_name = "FILE", conflicts_with = "token_fd")]
    pub token_file: Option<PathBuf>,

    /// The same from an open descriptor
    #[arg(long, value_name = "N")]
    pub token_fd: Option<u32>,

    /// Take the token as it is, as one that Kubernetes projects, and demand that --registry shows the root with this SHA-256. Replace it when
    /// a new root signs, before the old one leaves the bundle: `weft identity rotate-root` prints the new one's
    #[arg(long, value_name = "HEX", requires = "registry", group = "pin")]
    pub registry_pin: Option<RootPin>,

    /// The same with the SHA-256 in a file, which is read as often as the token: `weft identity root` prints it
    #[arg(long, value_name = "FILE", requires = "registry", group = "pin")]
    pub registry_pin_file: Option<PathBuf>,

    /// Trust domain of the registry that is pinned so
    #[arg(long, value_name = "DOMAIN", default_value = "weft.local", requires = "pin")]
    pub trust_domain: TrustDomain,
}

/// How the registries are reached.
#[derive(Debug, Clone)]
pub enum Way {
    /// As nobody, in plaintext.
    Plaintext(RegistryUrls),
    /// With an identity that this gives.
    Secured(Box<Credential>),
}

/// Why there is no way.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// Neither registry nor token.
    #[error(
        "give --token-file: `weft token create` beside the registry prints a token; or --registry http://… of one that was started with --insecure"
    )]
    Nothing,
    /// TLS without a token.
    #[error(
        "--registry {urls} speaks TLS and asks who you are: give --token-file, with what `weft token create` printed"
    )]
    NoToken {
        /// As given.
        urls: RegistryUrls,
    },
    /// A token and a registry that must not see it.
    #[error(
        "--registry {urls}: a token is shown over TLS only; write https://, or leave --registry out for those the token names"
    )]
    Plaintext {
        /// As given.
        urls: RegistryUrls,
    },
    /// The file cannot be read.
    #[error("the token in {}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read it.
    #[error("{} is readable by others (mode {mode:03o}), and a token is a secret: chmod 600 {}", .file.display(), .file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is no token.
    #[error("{}: {problem}; a token of Kubernetes needs --registry and --registry-pin", .file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// There is no pin in its file.
    #[error("--registry-pin-file {}: {problem}; it holds what `weft identity root` prints", .file.display())]
    Pin {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It names no registry that could be reached.
    #[error("the token's registries")]
    Url(#[from] BadUrl),
}

impl JoinArgs {
    /// Reads what the flags name. Blocks for a file of a few kilobytes; a pipe of --token-fd is waited for.
    pub fn load(&self) -> Result<Way, CredentialError> {
        let file = match (&self.token_file, self.token_fd, &self.registry) {
            (Some(file), _, _) => file.clone(),
            (None, Some(fd), _) => Path::new("/dev/fd").join(fd.to_string()),
            (None, None, None) => return Err(CredentialError::Nothing),
            (None, None, Some(urls)) if urls.any_secure() => {
                return Err(CredentialError::NoToken { urls: urls.clone() });
            }
            (None, None, Some(urls)) => return Ok(Way::Plaintext(urls.clone())),
        };
        if let Some(urls) = self.registry.as_ref().filter(|urls| !urls.all_secure()) {
            return Err(CredentialError::Plaintext { urls: urls.clone() });
        }
        let again = self.token_file.is_some().then(|| self.clone());
        let credential = match (self.pin()?, &self.registry) {
            (Some(pin), Some(urls)) => {
                let secret = read(&file, Mode::Any)?;
                let registry = self.trust_domain.service(&name::registry());
                Credential { secret, registries: urls.clone(), pin, registry, again }
            }
            (Some(_), None) => return Err(CredentialError::Nothing), // clap asks for --registry
            (None, urls) => Credential { again, ..Credential::of(&read_token(&file)?, urls.as_ref())? },
        };
        Ok(Way::Secured(Box::new(credential)))
    }
}

impl JoinArgs {
    fn pin(&self) -> Result<Option<RootPin>, CredentialError> {
        let Some(file) = &self.registry_pin_file else { return Ok(self.registry_pin) };
        let wrong = |problem: String| CredentialError::Pin { file: file.clone(), problem };
        let text = fs::read_to_string(file).map_err(|e| wrong(e.to_string()))?;
        text.trim().parse().map(Some).map_err(|e: Invalid| wrong(e.to_string()))
    }
}

/// Reads a token of ours from its file, which nobody else may read. Blocks.
pub fn read_token(file: &Path) -> Result<Token, CredentialError> {
    let text = read(file, Mode::Private)?;
    let malformed = |e: Invalid| CredentialError::Malformed { file: file.to_owned(), problem: e.to_string() };
    text.parse().map_err(malformed)
}

/// Writes a token into a file that nobody else may read; a reader sees the old one or the new one whole. Blocks.
pub fn write_token(file: &Path, text: &str) -> io::Result<()> {
    write_private(file, format!("{text}\n").as_bytes())
}

/// Replaces a file that nobody else may read; a reader sees the old one or the new one whole. Blocks.
pub(crate) fn write_private(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = file.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_owned();
    name.push(".new");
    let fresh = file.with_file_name(name);
    drop(fs::remove_file(&fresh)); // left by a writer that died; its mode is not to be trusted
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(&fresh, file)
}

/// What a process shows, where, and what it demands to see there.
#[derive(Clone)]
pub struct Credential {
    secret: String,
    registries: RegistryUrls,
    pin: RootPin,
    registry: SpiffeId,
    /// Where it was read, to be read again: files of tokens are replaced.
    again: Option<JoinArgs>,
}

impl Credential {
    /// Reads a token of ours from its file. Without `registries`, they are those it names. Blocks.
    pub fn read(file: &Path, registries: Option<&RegistryUrls>) -> Result<Self, CredentialError> {
        let token = read_token(file)?;
        let again = JoinArgs {
            registry: registries.cloned(),
            token_file: Some(file.to_owned()),
            token_fd: None,
            registry_pin: None,
            registry_pin_file: None,
            trust_domain: TrustDomain::of(&token.registry()),
        };
        Ok(Self { again: Some(again), ..Self::of(&token, registries)? })
    }

    fn of(token: &Token, urls: Option<&RegistryUrls>) -> Result<Self, BadUrl> {
        let registries = match urls {
            Some(urls) => urls.clone(),
            None => token.registries().join(",").parse()?,
        };
        let (secret, pin, registry) = (token.text().to_owned(), token.pin(), token.registry());
        Ok(Self { secret, registries, pin, registry, again: None })
    }

    /// The string itself. A secret.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Where the registries are; https only.
    pub fn registries(&self) -> &RegistryUrls {
        &self.registries
    }

    /// The root a registry must present.
    pub fn pin(&self) -> RootPin {
        self.pin
    }

    /// Whether it is an operator's, who may be any service; false for a token of somebody else's.
    pub fn is_operators(&self) -> bool {
        let token: Result<Token, _> = self.secret.parse();
        token.is_ok_and(|token| name::service_of(token.identity()) == Some(name::operator()))
    }

    /// Who a registry must prove to be.
    pub fn registry(&self) -> &SpiffeId {
        &self.registry
    }

    /// As its file says now; as before, if that cannot be read.
    pub(crate) fn fresh(&self) -> Self {
        match self.again.as_ref().map(JoinArgs::load) {
            Some(Ok(Way::Secured(fresh))) => *fresh,
            Some(Err(error)) => {
                tracing::warn!(%error, "the token cannot be read again; the one from before is used");
                self.clone()
            }
            Some(Ok(Way::Plaintext(_))) | None => self.clone(),
        }
    }
}

impl TryFrom<Token> for Credential {
    type Error = BadUrl;

    fn try_from(token: Token) -> Result<Self, BadUrl> {
        Self::of(&token, None)
    }
}

/// Never shows the string.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("registries", &self.registries)
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

/// Who may be able to read a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Private,
    Any,
}

fn read(path: &Path, mode: Mode) -> Result<String, CredentialError> {
    let unreadable = |source| CredentialError::Unreadable { file: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if mode == Mode::Private && metadata.is_file() && metadata.mode() & 0o077 != 0 {
        return Err(CredentialError::Open { file: path.to_owned(), mode: metadata.mode() & 0o777 });
    }
    let mut text = String::new();
    file.take(2 * MAX as u64).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests;
