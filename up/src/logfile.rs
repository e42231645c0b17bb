//! What a process writes, on disk: `.weft/log/<name>.log`, never more than twice [`LIMIT`].
//!
//! Lives here: writing lines, starting a new file. Does not: where the lines come from (`weft-supervise` keeps the last ones in memory).
//! The file before the present one is kept as `<name>.log.1`. A disk that is full costs lines in the file, nothing else.

use std::{io, path::PathBuf};

use tokio::{
    fs::{self, File, OpenOptions},
    io::{AsyncWriteExt, BufWriter},
};

/// Bytes after which a new file is started.
const LIMIT: u64 = 4 * 1024 * 1024;

/// A log file, opened at its first line.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    limit: u64,
    open: Option<(BufWriter<File>, u64)>,
}

impl LogFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, limit: LIMIT, open: None }
    }

    /// Appends one line; it is on its way to the disk after [`LogFile::flush`].
    pub(crate) async fn write(&mut self, line: &str) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|(_, size)| *size >= self.limit) {
            self.flush().await?;
            self.open = None;
            fs::rename(&self.path, self.path.with_extension("log.1")).await?;
        }
        let (file, size) = match &mut self.open {
            Some(open) => open,
            None => {
                let file = OpenOptions::new().create(true).append(true).open(&self.path).await?;
                let size = file.metadata().await?.len();
                self.open.insert((BufWriter::new(file), size))
            }
        };
        *size += line.len() as u64 + 1;
        file.write_all(line.as_bytes()).await?;
        file.write_all(b"\n").await
    }

    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        match &mut self.open {
            Some((file, _)) => file.flush().await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_appended_and_the_files_stay_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users-1.log");
        for line in ["first", "second"] {
            let mut file = LogFile { limit: 13, ..LogFile::new(path.clone()) };
            file.write(line).await.unwrap();
            file.flush().await.unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first\nsecond\n");
        let mut file = LogFile { limit: 13, ..LogFile::new(path.clone()) };
        for line in ["third", "fourth", "fifth", "sixth"] {
            file.write(line).await.unwrap();
        }
        file.flush().await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "sixth\n");
        assert_eq!(std::fs::read_to_string(path.with_extension("log.1")).unwrap(), "fourth\nfifth\n");
    }
}
