//! The read-only file mapping, the only place where the file's bytes enter the process.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::{Mmap, MmapOptions};

use super::GgufError;

/// How the runtime is about to use a range of the file (`madvise`; a hint, ignored where the platform has none).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Will be needed soon: start reading it in.
    WillNeed,
    /// Read in no particular order: do not read ahead (an embedding table, one row per token).
    Random,
    /// Read from front to back: read ahead boldly.
    Sequential,
}

/// A mapped file together with what identified it when it was opened.
#[derive(Debug)]
pub(super) struct Map {
    bytes: Mmap,
    file: File,
    path: PathBuf,
    modified: Option<SystemTime>,
}

impl Map {
    pub(super) fn open(path: &Path) -> Result<Self, GgufError> {
        let io = |source| GgufError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        if !meta.is_file() {
            return Err(io(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file")));
        }
        // SAFETY: the map is read-only and never handed out mutably. Another process may change or truncate the file;
        // the bytes are only ever interpreted as plain numbers behind checked lengths, so a change can alter results but
        // not memory safety, and a read past a truncation raises SIGBUS instead of returning (see the room's docs).
        let bytes = unsafe { MmapOptions::new().map(&file) }.map_err(io)?;
        Ok(Self { bytes, file, path: path.to_owned(), modified: meta.modified().ok() })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn advise(&self, advice: Advice, offset: usize, len: usize) {
        #[cfg(unix)]
        {
            let advice = match advice {
                Advice::WillNeed => memmap2::Advice::WillNeed,
                Advice::Random => memmap2::Advice::Random,
                Advice::Sequential => memmap2::Advice::Sequential,
            };
            // A refused hint changes nothing but speed.
            let _ = self.bytes.advise_range(advice, offset, len);
        }
        #[cfg(not(unix))]
        let _ = (advice, offset, len);
    }

    pub(super) fn check_unchanged(&self) -> Result<(), GgufError> {
        let io = |source| GgufError::Io { path: self.path.clone(), source };
        let meta = self.file.metadata().map_err(io)?;
        let expected = self.bytes.len() as u64;
        if meta.len() != expected || meta.modified().ok() != self.modified {
            return Err(GgufError::Changed { path: self.path.clone(), expected, found: meta.len() });
        }
        Ok(())
    }
}
