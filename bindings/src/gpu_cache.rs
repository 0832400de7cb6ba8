//! What was found out about GPUs, kept from one process to the next.

use std::path::{self, Path, PathBuf};

use timbre::durable::AtomicFile;

use crate::error::{Outcome, TimbreError};
use crate::failure;
use crate::guard::guarded;

/// The file of verdicts; compiled kernels are beside it.
const VERDICTS: &str = "gpu-verdicts.json";

/// Keeps in `folder`, which is made where there is none, what is found out about GPUs: which kernels compute right on them, and
/// what their drivers compile. Without it every process tries and compiles each kernel anew. What the system removes from the
/// folder is found out again. No other application may be able to write there, for what was compiled goes back to the driver.
/// Milliseconds.
///
/// Holds for models that come to a GPU from then on, so it is to be called before one is opened; a model that is on a GPU goes on
/// as it did. Of several calls the last counts, and one that fails changes nothing. A library without the GPU backend makes and
/// checks the folder alike, and keeps nothing in it.
///
/// # Errors
/// [`TimbreError::Io`] if the folder cannot be made or written to; [`TimbreError::InvalidArgument`] for an empty path.
#[uniffi::export]
pub fn keep_gpu_cache(folder: String) -> Outcome<()> {
    guarded(|| {
        if folder.is_empty() {
            return Err(TimbreError::invalid("folder", "the path of a folder", "empty"));
        }
        let refused = |error| failure::io(Path::new(&folder), &error);
        // What the process makes its current folder later changes nothing.
        let file = path::absolute(&folder).map_err(refused)?.join(VERDICTS);
        probe(&file).map_err(refused)?;
        keep_in(file);
        Ok(())
    })
}

/// Makes the folder of `file`, and a file in it as the core would, which goes when it is let go of. Later, when a verdict is to be
/// kept, nobody would be told of a failure.
fn probe(file: &Path) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    AtomicFile::create(file).map(drop)
}

#[cfg(feature = "gpu")]
fn keep_in(file: PathBuf) {
    timbre::gpu::keep_verdicts_in(file);
}

#[cfg(not(feature = "gpu"))]
fn keep_in(_: PathBuf) {}
