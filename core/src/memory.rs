//! What the process holds in memory, split by who pays for it.
//!
//! A mapped model is *file-backed*: its pages are clean, shared between processes, and dropped by the kernel whenever
//! it needs room. *Anonymous* memory (heap, stacks) has no file behind it and is what a phone's low-memory
//! killer counts. One number for both, the resident set, hides exactly the difference this runtime is about. This
//! room imports no other.
//!
//! On Linux and Android the figures are the kernel's own, from `/proc/self`. Elsewhere they are
//! [`MemoryError::Unsupported`]: the equivalent of iOS and macOS (`phys_footprint` of `task_info`) is a foreign call
//! that only unsafe code can make, and an application there can ask for it in its own language.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;

/// Why memory could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// No measure exists for this operating system.
    #[error("memory cannot be measured on {os}")]
    Unsupported {
        /// The operating system, as [`std::env::consts::OS`].
        os: &'static str,
    },
    /// A file of `/proc` could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file of `/proc` lacks a field, or it is not a number of kB.
    #[error("{path} has no field {field} in kB")]
    Field {
        /// The file.
        path: &'static str,
        /// The field.
        field: &'static str,
    },
    /// The sampling thread could not be started.
    #[error("cannot start the thread that samples memory")]
    Thread(#[source] io::Error),
}

/// Resident memory of this process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemorySplit {
    /// Everything resident: the sum of the two below.
    pub resident_bytes: u64,
    /// Pages with no file behind them: heap, stacks, private copies of file pages that were written to.
    pub anon_bytes: u64,
    /// Resident pages of mapped files (models, the program itself) and of shared memory.
    pub file_bytes: u64,
    /// The part of `file_bytes` that is shared memory and has no file to go back to.
    pub shmem_bytes: u64,
    /// The part of `file_bytes` that is mapped in huge pages; 0 as well from systems that do not say.
    pub huge_bytes: u64,
    /// Anonymous pages that were moved out to swap; not resident, so in none of the above.
    pub swap_bytes: u64,
}

impl MemorySplit {
    /// Measures the running process. Walks all of its page tables: about a millisecond per gigabyte mapped.
    ///
    /// # Errors
    /// [`MemoryError::Unsupported`] where the system has no such figures, [`MemoryError::Read`] and
    /// [`MemoryError::Field`] where it does but they cannot be had.
    pub fn of_this_process() -> Result<Self, MemoryError> {
        let rollup = ProcFile::read(SMAPS_ROLLUP)?;
        let resident_bytes = rollup.bytes("Rss")?;
        let anon_bytes = rollup.bytes("Anonymous")?;
        let swap_bytes = rollup.bytes("Swap")?;
        let shmem_bytes = ProcFile::read(STATUS)?.bytes("RssShmem")?;
        let file_bytes = resident_bytes.saturating_sub(anon_bytes);
        // A field since Linux 5.4.
        let huge_bytes = rollup.bytes("FilePmdMapped").unwrap_or(0).min(file_bytes);
        let shmem_bytes = shmem_bytes.min(file_bytes);
        Ok(Self { resident_bytes, anon_bytes, file_bytes, shmem_bytes, huge_bytes, swap_bytes })
    }
}

/// Anonymous memory of this process now, in bytes, from the kernel's counters: some twenty microseconds, but up to a
/// few hundred kilobytes behind [`MemorySplit`], because each thread's changes are added in batches.
///
/// # Errors
/// As [`MemorySplit::of_this_process`].
pub fn anon_bytes() -> Result<u64, MemoryError> {
    ProcFile::read(STATUS)?.bytes("RssAnon")
}

/// Memory that could be had without swapping, in bytes, by the kernel's estimate: free pages and those it would drop.
///
/// # Errors
/// As [`MemorySplit::of_this_process`].
pub fn available_bytes() -> Result<u64, MemoryError> {
    ProcFile::read(MEMINFO)?.bytes("MemAvailable")
}

/// The most anonymous memory seen while it lives, sampled from a thread of its own.
///
/// The kernel's own high-water mark (`VmHWM`) will not do: it counts the pages of the mapped model too.
#[derive(Debug)]
pub struct PeakAnon {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    peak: AtomicU64,
    stop: AtomicBool,
}

impl PeakAnon {
    /// Samples now and then every `interval` until [`PeakAnon::stop`] or drop.
    ///
    /// # Errors
    /// As [`MemorySplit::of_this_process`], and [`MemoryError::Thread`].
    pub fn start(interval: Duration) -> Result<Self, MemoryError> {
        let shared = Arc::new(Shared::default());
        shared.peak.store(anon_bytes()?, Ordering::Relaxed);
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("peak-anon".into())
            .spawn(move || {
                while !theirs.stop.load(Ordering::Relaxed) {
                    thread::park_timeout(interval);
                    // The first sample succeeded, so a failing one is a passing matter: the next may do.
                    if let Ok(bytes) = anon_bytes() {
                        theirs.peak.fetch_max(bytes, Ordering::Relaxed);
                    }
                }
            })
            .map_err(MemoryError::Thread)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The highest sample so far, in bytes, one taken now included.
    ///
    /// # Errors
    /// As [`MemorySplit::of_this_process`].
    pub fn bytes(&self) -> Result<u64, MemoryError> {
        let now = anon_bytes()?;
        Ok(self.shared.peak.fetch_max(now, Ordering::Relaxed).max(now))
    }

    /// Ends the sampling and returns the peak in bytes.
    ///
    /// # Errors
    /// As [`MemorySplit::of_this_process`].
    pub fn stop(self) -> Result<u64, MemoryError> {
        self.bytes()
    }
}

impl Drop for PeakAnon {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The thread cannot panic; were it to, the peak so far still stands.
            let _ = thread.join();
        }
    }
}

const SMAPS_ROLLUP: &str = "/proc/self/smaps_rollup";
const STATUS: &str = "/proc/self/status";
const MEMINFO: &str = "/proc/meminfo";

/// A file of `/proc` made of lines `Name:   123 kB`.
struct ProcFile {
    path: &'static str,
    text: String,
}

impl ProcFile {
    fn read(path: &'static str) -> Result<Self, MemoryError> {
        if !cfg!(any(target_os = "linux", target_os = "android")) {
            return Err(MemoryError::Unsupported { os: std::env::consts::OS });
        }
        let text = std::fs::read_to_string(path).map_err(|source| MemoryError::Read { path, source })?;
        Ok(Self { path, text })
    }

    fn bytes(&self, field: &'static str) -> Result<u64, MemoryError> {
        self.text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().strip_suffix("kB"))
            .and_then(|number| number.trim().parse::<u64>().ok()?.checked_mul(1024))
            .ok_or(MemoryError::Field { path: self.path, field })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_files() {
        let file = ProcFile {
            path: STATUS,
            text: "Name:\ttimbre\nVmRSS:\t     100 kB\nRssAnon:\t  60 kB\nBad:\t x kB\nHuge: 99999999999999999 kB\n"
                .into(),
        };
        assert_eq!(file.bytes("RssAnon").unwrap(), 60 * 1024);
        assert_eq!(file.bytes("VmRSS").unwrap(), 100 * 1024);
        for field in ["Rss", "Name", "Bad", "Huge", "RssShmem"] {
            let error = file.bytes(field).unwrap_err();
            assert!(matches!(error, MemoryError::Field { path: STATUS, field: f } if f == field), "{error}");
        }
    }
}
