//! The read-only file mapping, the only place where the file's bytes enter the process.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::{Mmap, MmapMut, MmapOptions};

use super::GgufError;

/// How the runtime is about to use a range of the file (`madvise`; a hint, ignored where the platform has none).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Will be needed soon: start reading it in.
    WillNeed,
    /// Read in no particular order: do not read ahead, nor in huge pages (an embedding table, one row per token).
    Random,
    /// Read from front to back: read ahead boldly.
    Sequential,
    /// Read whole, again and again: in huge pages where the system maps files in them (Linux).
    Huge,
}

/// A mapped file together with what identified it when it was opened.
#[derive(Debug)]
pub(super) struct Map {
    bytes: Mmap,
    /// `None` for bytes that came from memory and cannot change.
    file: Option<File>,
    path: PathBuf,
    modified: Option<SystemTime>,
}

impl Map {
    pub(super) fn open(path: &Path) -> Result<Self, GgufError> {
        let io = |source| GgufError::Io { path: path.to_owned(), source };
        let regular = |meta: std::fs::Metadata| match meta.is_file() {
            true => Ok(meta),
            false => Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file")),
        };
        // Asked before opening too, because opening a named pipe would wait for a writer that may never come.
        std::fs::metadata(path).and_then(regular).map_err(io)?;
        let file = File::open(path).map_err(io)?;
        let meta = file.metadata().and_then(regular).map_err(io)?;
        // SAFETY: the map is read-only and never handed out mutably. Another process may change or truncate the file;
        // the bytes are only ever interpreted as plain numbers behind checked lengths, so a change can alter results but
        // not memory safety, and a read past a truncation raises SIGBUS instead of returning (see the room's docs).
        let bytes = unsafe { MmapOptions::new().map(&file) }.map_err(io)?;
        Ok(Self { bytes, file: Some(file), path: path.to_owned(), modified: meta.modified().ok() })
    }

    /// An anonymous map holding a copy of `bytes`.
    pub(super) fn in_memory(bytes: &[u8]) -> Result<Self, GgufError> {
        let path = PathBuf::from("<memory>");
        let mapped = MmapMut::map_anon(bytes.len()).and_then(|mut map| {
            map.copy_from_slice(bytes);
            map.make_read_only()
        });
        match mapped {
            Ok(bytes) => Ok(Self { bytes, file: None, path, modified: None }),
            Err(source) => Err(GgufError::Io { path, source }),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The open file, `None` for bytes from memory.
    pub(super) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn advise(&self, advice: Advice, offset: usize, len: usize) {
        #[cfg(unix)]
        {
            // A refused hint changes nothing but speed.
            let hint = |advice| _ = self.bytes.advise_range(advice, offset, len);
            match advice {
                Advice::WillNeed => hint(memmap2::Advice::WillNeed),
                Advice::Random => {
                    hint(memmap2::Advice::Random);
                    #[cfg(target_os = "linux")]
                    hint(memmap2::Advice::NoHugePage);
                }
                Advice::Sequential => hint(memmap2::Advice::Sequential),
                Advice::Huge => {
                    #[cfg(target_os = "linux")]
                    hint(memmap2::Advice::HugePage);
                }
            }
        }
        #[cfg(not(unix))]
        let _ = (advice, offset, len);
    }

    pub(super) fn check_unchanged(&self) -> Result<(), GgufError> {
        let io = |source| GgufError::Io { path: self.path.clone(), source };
        let Some(file) = &self.file else { return Ok(()) };
        let meta = file.metadata().map_err(io)?;
        let expected = self.bytes.len() as u64;
        if meta.len() != expected || meta.modified().ok() != self.modified {
            return Err(GgufError::Changed { path: self.path.clone(), expected, found: meta.len() });
        }
        Ok(())
    }
}
