//! Reading and replacing files.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use crate::durable::{self, AtomicFile};

use super::AdapterError;

/// The bytes of a regular file of at most `limit` bytes.
///
/// Links are followed, since Hugging Face's caches are made of them, but what they end at must be a regular file: a
/// device or a pipe could block or never end.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, AdapterError> {
    let io = |source| AdapterError::Io { path: path.to_owned(), source };
    // Looked at before it is opened: opening a pipe waits for a writer.
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(AdapterError::NotRegular.in_file(path));
    }
    let file = File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    if bytes > limit {
        return Err(AdapterError::TooLarge { bytes, limit }.in_file(path));
    }
    let mut data = Vec::new();
    // One more than the limit, so that a file that grows meanwhile is noticed.
    file.take(limit + 1).read_to_end(&mut data).map_err(io)?;
    if data.len() as u64 > limit {
        return Err(AdapterError::TooLarge { bytes: data.len() as u64, limit }.in_file(path));
    }
    Ok(data)
}

/// Makes `path` a file with these bytes: after a crash it is either what it was or the new file, whole.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), AdapterError> {
    let write = || {
        let mut file = AtomicFile::create(path)?;
        file.write_all(bytes)?;
        file.commit()
    };
    write().map_err(|source| AdapterError::Io { path: path.to_owned(), source })
}

/// Makes `dir` hold these files, see [`durable::replace_folder`].
pub(super) fn replace_folder(dir: &Path, files: &[(&str, &[u8])]) -> Result<(), AdapterError> {
    durable::replace_folder(dir, files).map_err(|source| AdapterError::Io { path: dir.to_owned(), source })
}
