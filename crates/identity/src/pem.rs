//! PEM files for those who read certificates from disk: Envoy, stock gRPC clients, openssl.
//!
//! Lives here: the encoding and the three files. Does not: when they are written.
//! Each file is replaced by a rename, so that a reader sees the old or the new one whole. The key goes first: a reader that loads between two
//! renames finds a pair that does not match and tries again, as both Envoy and gRPC's watchers do.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use weft_model::SpiffeId;

use crate::{Bundle, Leaf, Svid};

/// File of the chain, leaf first.
pub const CHAIN: &str = "svid.pem";
/// File of the private key, PKCS #8, readable by its owner only.
pub const KEY: &str = "key.pem";
/// File of the roots.
pub const BUNDLE: &str = "bundle.pem";

/// Writes chain, key and roots into `dir`, which is made if it is not there. Blocks.
pub fn export(dir: &Path, svid: &Svid, bundle: &Bundle) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    replace(&dir.join(KEY), &block("PRIVATE KEY", svid.pkcs8()), 0o600)?;
    replace(&dir.join(CHAIN), &certificates(svid.chain()), 0o644)?;
    replace(&dir.join(BUNDLE), &certificates(bundle.roots()), 0o644)
}

/// Returns whom the chain in `dir` was issued to. Blocks.
pub fn exported_identity(dir: &Path) -> io::Result<SpiffeId> {
    let file = dir.join(CHAIN);
    let wrong = |problem: &dyn fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {problem}", file.display()))
    };
    let leaf = CertificateDer::from_pem_slice(&fs::read(&file)?).map_err(|error| wrong(&error))?;
    Ok(Leaf::read(&leaf).map_err(|refusal| wrong(&refusal))?.id)
}

/// Returns certificates as PEM, in order.
pub fn certificates<'c>(all: impl IntoIterator<Item = &'c CertificateDer<'static>>) -> String {
    all.into_iter().map(|der| block("CERTIFICATE", der)).collect()
}

/// RFC 7468: lines of 64.
fn block(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: String = text.as_bytes().chunks(64).map(|line| format!("{}\n", String::from_utf8_lossy(line))).collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let fresh = path.with_extension("pem.new");
    drop(fs::remove_file(&fresh)); // left by a writer that died; its mode is not to be trusted
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_lines_of_64() {
        let text = block("X", &[7; 100]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[0], lines[lines.len() - 1]), ("-----BEGIN X-----", "-----END X-----"));
        assert_eq!(lines[1..lines.len() - 1].iter().map(|l| l.len()).collect::<Vec<_>>(), [64, 64, 8]);
    }
}
