//! A file that appears whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes gathered before they are handed to the system.
const BUFFER: usize = 1 << 20;

/// Writes to a hidden sibling of `target` and renames it over `target` in [`Self::commit`]. Until then, and if it is
/// dropped instead, whatever was at `target` stays as it was.
pub(crate) struct AtomicFile {
    writer: Option<BufWriter<File>>,
    temp: PathBuf,
    target: PathBuf,
}

impl AtomicFile {
    /// Creates the sibling. Its name is not guessable from `target` alone, so that two writers cannot share it.
    pub(crate) fn create(target: &Path) -> io::Result<Self> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let name = target
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path does not name a file"))?;
        loop {
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}-{}.tmp", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed)));
            let temp = target.with_file_name(hidden);
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
    pub(crate) fn commit(mut self) -> io::Result<()> {
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
        sync_folder(&self.target)
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

/// Makes a rename in the folder of `path` survive a power cut. Only Unix can open a folder to do so.
fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}
