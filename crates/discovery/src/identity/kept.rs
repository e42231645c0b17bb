//! The identity of a process on its disk: key, certificate and trust in one file, so that it can start while no registry answers.
//!
//! Lives here: the file, readable by its owner only and replaced whole. Does not: when it is read or written, whether it is still good (`identity`).
//! Whoever reads the file may be the process until the certificate runs out: it is a secret, as the token is.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use prost::Message;
use rustls::pki_types::PrivatePkcs8KeyDer;
use weft_identity::{Identity, Svid, Trust};

use super::{IdentityError, Trusted, certificate, pb, trusted};
use crate::credential::write_private;

/// Why nothing is taken from the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    #[error("others may read it (mode {0:03o})")]
    Open(u32),
    #[error("it is no identity")]
    Garbled(#[from] prost::DecodeError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct Disk {
    /// PKCS #8, DER.
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    /// Leaf first, DER.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    chain: Vec<bytes::Bytes>,
    #[prost(message, optional, tag = "3")]
    bundle: Option<pb::BundleResponse>,
}

/// Never shows the key.
impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

/// Returns what the file holds; none if there is no file. Blocks for a few kilobytes.
pub(super) fn read(file: &Path) -> Result<Option<(Svid, Trusted)>, Unusable> {
    let mode = match fs::metadata(file) {
        Ok(metadata) => metadata.mode() & 0o777,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if mode & 0o077 != 0 {
        return Err(Unusable::Open(mode));
    }
    let disk = Disk::decode(fs::read(file)?.as_slice())?;
    let chain = disk.chain.into_iter().map(certificate).collect();
    let svid = Svid::new(chain, PrivatePkcs8KeyDer::from(disk.key)).map_err(IdentityError::from)?;
    Ok(Some((svid, trusted(disk.bundle.unwrap_or_default())?)))
}

/// Writes who the process is now. Blocks.
pub(super) fn write(file: &Path, identity: &Identity) -> io::Result<()> {
    let svid = identity.svid();
    let chain = svid.chain().iter().map(|der| der.to_vec().into()).collect();
    let disk = Disk { key: svid.pkcs8().to_vec(), chain, bundle: Some(bundle(identity.trust())) };
    write_private(file, &disk.encode_to_vec())
}

fn bundle(trust: &Trust) -> pb::BundleResponse {
    let (bundle, revocations) = (trust.bundle(), trust.revocations());
    let millis = |at: &SystemTime| {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    };
    pb::BundleResponse {
        trust_domain: bundle.domain().to_string(),
        roots: bundle.roots().iter().map(|der| der.to_vec().into()).collect(),
        revoked_serials: revocations.serials.iter().map(|it| it.as_bytes().to_vec().into()).collect(),
        revoked_identities: revocations
            .identities
            .iter()
            .map(|(id, before)| pb::RevokedIdentity { id: id.to_string(), before_ms: millis(before) })
            .collect(),
    }
}
