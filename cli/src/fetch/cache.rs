//! Where models are kept, and one process at a time writing there.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use super::FetchError;
use crate::progress::Progress;

/// The folder models are cached in: `TIMBRE_CACHE`, else `timbre` in the system's cache folder
/// (`XDG_CACHE_HOME` or `~/.cache`; `~/Library/Caches` on macOS; `LOCALAPPDATA` on Windows).
///
/// # Errors
/// [`FetchError::NoHome`].
pub fn folder() -> Result<PathBuf, FetchError> {
    choose(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)).ok_or(FetchError::NoHome)
}

fn choose(env: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    if let Some(folder) = env("TIMBRE_CACHE") {
        return Some(folder);
    }
    let caches = if cfg!(windows) {
        env("LOCALAPPDATA")
    } else if cfg!(any(target_os = "macos", target_os = "ios")) {
        env("HOME").map(|home| home.join("Library/Caches"))
    } else {
        // The XDG specification says to ignore a relative path.
        env("XDG_CACHE_HOME").filter(|path| path.is_absolute()).or_else(|| env("HOME").map(|home| home.join(".cache")))
    };
    caches.map(|caches| caches.join("timbre"))
}

/// The right to write `file` in a folder; given back when dropped, or by the system when the process ends.
pub struct Lock(#[expect(dead_code, reason = "holds the lock")] File);

impl Lock {
    /// Waits until no other process is fetching `file` into `folder`.
    ///
    /// # Errors
    /// [`FetchError::Io`].
    pub fn acquire(folder: &Path, file: &str) -> Result<Self, FetchError> {
        let path = folder.join(format!("{file}.lock"));
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(FetchError::io("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let _waiting = Progress::spinner("waiting for another fetch");
                lock.lock().map_err(FetchError::io("lock", &path))?;
            }
            Err(TryLockError::Error(source)) => return Err(FetchError::io("lock", &path)(source)),
        }
        Ok(Self(lock))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &'static [(&'static str, &'static str)]) -> Option<PathBuf> {
        choose(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value)))
    }

    #[test]
    fn explicit_folder_wins() {
        assert_eq!(with(&[("TIMBRE_CACHE", "/c"), ("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Some("/c".into()));
        assert_eq!(with(&[]), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn xdg_then_home() {
        assert_eq!(with(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Some("/x/timbre".into()));
        assert_eq!(with(&[("HOME", "/h"), ("XDG_CACHE_HOME", "relative")]), Some("/h/.cache/timbre".into()));
        assert_eq!(with(&[("HOME", "/h")]), Some("/h/.cache/timbre".into()));
    }
}
