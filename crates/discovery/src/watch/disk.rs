//! The last good snapshot on disk, so that a process can start while the registry is away.
//!
//! Lives here: the file's format and its atomic replacement. Does not: when it is written, what is done with it.
//! Format: the line `weft-last-good 1`, then an encoded `weft.discovery.v1.WatchResponse` with every service in full. A file of another
//! format or with damaged bytes counts as none.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use prost::Message;
use weft_proto::weft::discovery::v1::WatchResponse;

const HEAD: &[u8] = b"weft-last-good 1\n";

/// Returns what `store` wrote; `None` if there is nothing usable. Blocks.
pub(crate) fn load(path: &Path) -> Option<WatchResponse> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot read the last good snapshot");
            return None;
        }
    };
    let message = bytes.strip_prefix(HEAD).and_then(|body| WatchResponse::decode(body).ok());
    if message.is_none() {
        tracing::warn!(path = %path.display(), "the last good snapshot is of another format or damaged; going on without");
    }
    message
}

/// Replaces the file at once: a reader, or a process started after a crash, sees the old content or the new. Blocks.
pub(crate) fn store(path: &Path, message: &WatchResponse) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id())); // two processes that share a path by mistake do not mix their bytes
    let draft = Path::new(&draft);
    let written = write(draft, message).and_then(|()| fs::rename(draft, path));
    if written.is_err() {
        let _ = fs::remove_file(draft);
    }
    written
}

fn write(draft: &Path, message: &WatchResponse) -> io::Result<()> {
    let mut file = File::create(draft)?;
    file.write_all(HEAD)?;
    file.write_all(&message.encode_to_vec())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_loaded_and_no_draft_remains() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/last-good");
        let message = WatchResponse { version: 7, ..Default::default() };
        store(&path, &message).unwrap();
        store(&path, &message).unwrap();
        assert_eq!(load(&path), Some(message));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_damaged_or_newer_file_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last-good");
        assert_eq!(load(&path), None);
        for content in [&b"weft-last-good 2\n"[..], b"weft-last-good 1\n\xff\xff", b""] {
            fs::write(&path, content).unwrap();
            assert_eq!(load(&path), None, "{content:?}");
        }
    }
}
