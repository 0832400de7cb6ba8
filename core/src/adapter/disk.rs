//! Reading and replacing files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

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
    let temporary = sibling(path)?;
    let done = write_synced(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_folder(folder(path)));
    done.map_err(|source| {
        // Best effort: the failure to report is the first one.
        let _ = fs::remove_file(&temporary);
        AdapterError::Io { path: path.to_owned(), source }
    })
}

/// Makes `dir` hold these files. One that is not there yet appears whole; in one that is, files are replaced in order.
pub(super) fn replace_folder(dir: &Path, files: &[(&str, &[u8])]) -> Result<(), AdapterError> {
    if fs::metadata(dir).is_ok() {
        return files.iter().try_for_each(|(name, bytes)| replace(&dir.join(name), bytes));
    }
    let temporary = sibling(dir)?;
    let build = || -> io::Result<()> {
        fs::create_dir_all(folder(dir))?;
        fs::create_dir(&temporary)?;
        for (name, bytes) in files {
            write_synced(&temporary.join(name), bytes)?;
        }
        sync_folder(&temporary)?;
        fs::rename(&temporary, dir)?;
        sync_folder(folder(dir))
    };
    build().map_err(|source| {
        let _ = fs::remove_dir_all(&temporary);
        AdapterError::Io { path: dir.to_owned(), source }
    })
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// An unused hidden name beside `path`, on the same file system.
fn sibling(path: &Path) -> Result<PathBuf, AdapterError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let Some(name) = path.file_name() else {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "the path names no file");
        return Err(AdapterError::Io { path: path.to_owned(), source });
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    Ok(folder(path).join(hidden))
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes a rename in `folder` last. Only Unix can open a folder for this; elsewhere the file system's journal does.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
