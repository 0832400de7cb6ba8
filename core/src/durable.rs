//! Files and folders that appear whole or not at all, and outlast a power cut once they have appeared.
//!
//! Everything this crate writes goes through here: a hidden sibling is written and flushed to the disk, renamed over the
//! target, and the folder is flushed. Imports no other room.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes handed to the system at a time: a huge page, because Linux keeps a file in pages as large as the pieces it was written in, and a
/// model is read faster from large ones.
pub const PIECE: usize = 2 << 20;

/// Writes to a hidden sibling of `target` and renames it over `target` in [`Self::commit`]. Until then, and if it is
/// dropped instead, whatever was at `target` stays as it was.
pub struct AtomicFile {
    file: Option<File>,
    /// What does not make a piece yet.
    piece: Vec<u8>,
    temp: PathBuf,
    target: PathBuf,
}

impl AtomicFile {
    /// Creates the sibling.
    ///
    /// # Errors
    /// If `target` names no file, or its folder cannot be written to.
    pub fn create(target: &Path) -> io::Result<Self> {
        loop {
            let temp = sibling(target)?;
            match OpenOptions::new().write(true).create_new(true).open(&temp) {
                Ok(file) => {
                    return Ok(Self { file: Some(file), piece: Vec::new(), temp, target: target.to_owned() });
                }
                // Left behind by a process that had this number and was killed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Flushes everything to the disk and puts the file in place.
    ///
    /// # Errors
    /// If the disk is full or gone; whatever was at the target then stands.
    pub fn commit(mut self) -> io::Result<()> {
        self.flush()?;
        let Some(file) = self.file.take() else { return Err(broken()) };
        let placed = file.sync_all().and_then(|()| {
            drop(file); // Windows does not rename an open file
            fs::rename(&self.temp, &self.target)
        });
        if let Err(error) = placed {
            let _ = fs::remove_file(&self.temp);
            return Err(error);
        }
        sync_folder(folder(&self.target))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(PIECE - self.piece.len())];
        self.piece.extend_from_slice(bytes);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Err(broken()) };
        let written = file.write_all(&self.piece);
        self.piece.clear();
        if written.is_err() {
            // Some of the piece may be in the file: there is no going on from here.
            self.discard();
        }
        written
    }
}

impl AtomicFile {
    fn discard(&mut self) {
        if self.file.take().is_some() {
            // Best effort: a sibling that stays is in nobody's way.
            let _ = fs::remove_file(&self.temp);
        }
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        self.discard();
    }
}

fn broken() -> io::Error {
    io::Error::other("an earlier write failed")
}

/// Makes `dir` a folder of these files. One that is not there yet appears whole; in one that is, files are replaced in order.
///
/// # Errors
/// If the disk is full or gone, or `dir` names no folder; nothing half-written is left.
pub fn replace_folder(dir: &Path, files: &[(&str, &[u8])]) -> io::Result<()> {
    let write = |path: &Path, bytes: &[u8]| {
        let mut file = AtomicFile::create(path)?;
        file.write_all(bytes)?;
        file.commit()
    };
    if fs::metadata(dir).is_ok() {
        return files.iter().try_for_each(|(name, bytes)| write(&dir.join(name), bytes));
    }
    let temp = sibling(dir)?;
    let build = || {
        fs::create_dir_all(folder(dir))?;
        fs::create_dir(&temp)?;
        files.iter().try_for_each(|(name, bytes)| write(&temp.join(name), bytes))?;
        fs::rename(&temp, dir)?;
        sync_folder(folder(dir))
    };
    build().inspect_err(|_| {
        // Best effort: the failure to report is the first one.
        let _ = fs::remove_dir_all(&temp);
    })
}

/// A hidden name beside `path`, on the same file system, that no other call of this process gives.
fn sibling(path: &Path) -> io::Result<PathBuf> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let name =
        path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path does not name a file"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}-{}.tmp", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed)));
    Ok(path.with_file_name(hidden))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a rename in `folder` last. Only Unix can open a folder for this; elsewhere the file system's journal does.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_was_written_in_whatever_amounts() {
        let dir = tempfile::tempdir().unwrap();
        let whole: Vec<u8> = (0..2 * PIECE + 12_345).map(|i| (i % 251) as u8).collect();
        for amounts in [&[usize::MAX][..], &[1, PIECE - 1, 3, PIECE], &[PIECE + 7], &[1000]] {
            let target = dir.path().join("file");
            let mut out = AtomicFile::create(&target).unwrap();
            let mut rest = &whole[..];
            for &amount in amounts.iter().cycle() {
                let (now, later) = rest.split_at(amount.min(rest.len()));
                out.write_all(now).unwrap();
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            assert!(!target.exists());
            out.commit().unwrap();
            assert!(fs::read(&target).unwrap() == whole, "{amounts:?}");
            fs::remove_file(&target).unwrap();
        }
    }

    /// `/dev/full` takes nothing, like a disk without room.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_write_that_failed_is_not_gone_on_from() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("file");
        fs::write(&target, b"before").unwrap();
        for pieces in [0, 1] {
            let mut out = AtomicFile::create(&target).unwrap();
            out.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
            let written = out.write_all(&vec![1; pieces * PIECE + 5]);
            assert_eq!(written.is_err(), pieces > 0);
            if pieces > 0 {
                assert!(out.write_all(&vec![1; PIECE]).is_err());
            }
            assert!(out.commit().is_err());
            let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!((left, fs::read(&target).unwrap()), (vec!["file".into()], b"before".to_vec()));
        }
    }
}
