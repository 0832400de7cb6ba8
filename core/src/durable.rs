//! Files and folders that appear whole or not at all, and outlast a power cut once they have appeared.
//!
//! Everything this crate writes goes through here: a hidden sibling is written and flushed to the disk, renamed over the
//! target, and the folder is flushed. Imports no other room.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes gathered before they are handed to the system.
const BUFFER: usize = 1 << 20;

/// Writes to a hidden sibling of `target` and renames it over `target` in [`Self::commit`]. Until then, and if it is
/// dropped instead, whatever was at `target` stays as it was.
pub struct AtomicFile {
    writer: Option<BufWriter<File>>,
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
                    let writer = Some(BufWriter::with_capacity(BUFFER, file));
                    return Ok(Self { writer, temp, target: target.to_owned() });
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
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let file = writer.into_inner().map_err(io::IntoInnerError::into_error);
        let placed = file.and_then(|file| {
            file.sync_all()?;
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
        match &mut self.writer {
            Some(writer) => writer.write(bytes),
            None => Ok(0),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            // What is still buffered is not wanted any more.
            drop(writer.into_parts().0);
            let _ = fs::remove_file(&self.temp);
        }
    }
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
