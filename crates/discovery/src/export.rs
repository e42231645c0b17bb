//! An identity as PEM files that stay fresh, for those who read certificates from disk: Envoy, stock gRPC clients.
//!
//! Lives here: when the files are written. Does not: what is in them (`weft_identity::pem`), where the identity comes from (`identity`).

use std::{io, path::Path};

use weft_identity::{Identity, pem};

/// Writes chain, key and roots into `dir`, and again whenever the certificate or the roots change. Ends only with an error. Cancel-safe: a file
/// is whole at any moment.
pub async fn keep_exported(
    identity: &Identity,
    dir: &Path,
    written: impl Fn(),
) -> io::Result<std::convert::Infallible> {
    loop {
        let (rotations, revision) = (identity.rotations(), identity.trust().revision());
        export(identity, dir).await?;
        written();
        tokio::select! {
            () = identity.rotated_since(rotations) => {}
            () = identity.trust().changed_since(revision) => {}
        }
    }
}

/// Writes the three files once.
pub async fn export(identity: &Identity, dir: &Path) -> io::Result<()> {
    let (svid, bundle, dir) = (identity.svid(), identity.trust().bundle(), dir.to_owned());
    let done = tokio::task::spawn_blocking(move || pem::export(&dir, &svid, &bundle)).await;
    done.map_err(io::Error::other)?
}
