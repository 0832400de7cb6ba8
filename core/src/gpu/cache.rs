//! Compiled kernels, kept on disk. Many drivers keep none themselves, phones' above all, and would compile every kernel anew in
//! every process.
//!
//! One file a device, beside the verdicts: a magic number, what the data is good for (device, driver, versions, hashed), a checksum
//! of the data, and the data as the driver gave it. A file that is torn, changed or another driver's is ignored and replaced.
//! Drivers find an entry by the shader itself, so one whose text changed is compiled anew; a new version begins a new file.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::device::Refusal;
use super::{Gpu, GpuError};
use crate::durable::AtomicFile;

/// What a file begins with, and the version of the layout.
const MAGIC: [u8; 16] = *b"timbre kernels 1";

/// Bytes of a hash.
const HASH: usize = 32;

/// Bytes before the data.
const HEADER: usize = MAGIC.len() + 2 * HASH;

/// Largest file that is read or written. Drivers never drop what is not asked for any more.
const MAX_FILE: usize = 64 << 20;

type Hash = [u8; HASH];

/// What a device compiles into, and its file.
#[derive(Debug)]
pub(super) struct Cache {
    cache: wgpu::PipelineCache,
    file: PathBuf,
    identity: Hash,
    /// Bytes that were read from the file.
    found: usize,
    /// Whether something was compiled that is not in the file.
    grown: AtomicBool,
    /// The checksum of the data in the file; also one `save` at a time.
    kept: Mutex<Option<Hash>>,
}

impl Cache {
    pub(super) fn raw(&self) -> &wgpu::PipelineCache {
        &self.cache
    }

    /// Something was compiled.
    pub(super) fn grow(&self) {
        self.grown.store(true, Ordering::Relaxed);
    }

    fn save(&self) -> std::io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.grown.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let Some(data) = self.cache.get_data() else { return Ok(()) };
        let sum = *blake3::hash(&data).as_bytes();
        if *kept == Some(sum) || HEADER + data.len() > MAX_FILE {
            return Ok(());
        }
        if let Some(folder) = self.file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut out = AtomicFile::create(&self.file)?;
        for part in [&MAGIC[..], &self.identity, &sum, &data] {
            out.write_all(part)?;
        }
        out.commit()?;
        *kept = Some(sum);
        Ok(())
    }
}

impl Gpu {
    /// What kernels are compiled into; `None` where the device has no such thing or there is no place to keep it.
    pub(super) fn cache(&self) -> Option<&Cache> {
        self.pipelines.cache.get_or_init(|| self.open_cache()).as_ref()
    }

    /// Bytes of compiled kernels that an earlier process left and this one uses; `None` where none are kept.
    pub fn kernel_bytes_found(&self) -> Option<usize> {
        self.cache().map(|cache| cache.found)
    }

    /// Keeps what was compiled since the last time. Called once a set of kernels is complete; a failure costs only time, later.
    pub(crate) fn keep_kernels(&self) {
        // Not what a driver has left after it failed.
        if let Some(Some(cache)) = self.pipelines.cache.get().filter(|_| !self.is_lost()) {
            let _ = cache.save();
        }
    }

    fn open_cache(&self) -> Option<Cache> {
        if !self.device().features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let name = wgpu::util::pipeline_cache_key(&self.device().adapter_info())?;
        let file = self.verdicts_file()?.with_file_name(name);
        let mut hash = blake3::Hasher::new();
        for part in [&self.info().name, &self.info().backend, &self.info().driver, env!("CARGO_PKG_VERSION")] {
            hash.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        let identity = *hash.finalize().as_bytes();
        // Out of the way while the driver reads it, so that one that dies of it is not given it again.
        let aside = file.with_extension("reading");
        let bytes = std::fs::rename(&file, &aside).ok().and_then(|()| read(&aside));
        let found = bytes.as_deref().and_then(|bytes| valid(bytes, &identity));
        let cache = self.driver_cache(found.map(|(_, data)| data)).ok()?;
        if found.is_some() {
            // If it cannot go back, it is compiled anew in the next process.
            let _ = std::fs::rename(&aside, &file);
        }
        let (kept, found) = found.map_or((None, 0), |(sum, data)| (Some(sum), data.len()));
        Some(Cache { cache, file, identity, found, grown: AtomicBool::new(false), kept: Mutex::new(kept) })
    }

    fn driver_cache(&self, data: Option<&[u8]>) -> Result<wgpu::PipelineCache, GpuError> {
        let descriptor = wgpu::PipelineCacheDescriptor { label: None, data, fallback: true };
        self.scoped(
            || {
                // SAFETY: the data, if there is any, is what `get_data` gave `save` in a process of this version with this device
                // and driver: its header names them, and its checksum says that it is unchanged. wgpu compares device and
                // driver once more before the driver sees it. This is the one place outside `kernels` and `gguf` that takes
                // such a promise, because a driver's own words go back to it over its C interface.
                #[allow(unsafe_code)]
                unsafe {
                    self.device().create_pipeline_cache(&descriptor)
                }
            },
            |refusal: Refusal| GpuError::Command { what: "cache of kernels".to_owned(), reason: refusal.text() },
        )
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        self.keep_kernels();
    }
}

/// A file's bytes; nothing if it is not there or too large to be ours.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() <= MAX_FILE).then_some(bytes)
}

/// The data of a file and its checksum, if it is whole and good for this device, driver and version.
fn valid<'a>(bytes: &'a [u8], identity: &Hash) -> Option<(Hash, &'a [u8])> {
    let (header, data) = bytes.split_at_checked(HEADER)?;
    let (of, sum) = header.strip_prefix(&MAGIC)?.split_at_checked(HASH)?;
    let right = of == identity && sum == blake3::hash(data).as_bytes();
    right.then_some((sum.try_into().ok()?, data))
}
