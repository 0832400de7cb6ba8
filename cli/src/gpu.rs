//! GPUs, as the verbs use them.

use std::sync::Arc;

use timbre::gpu::{self, Gpu, GpuChoice, GpuError};

use crate::fetch;

/// Keeps what is found out about GPUs beside the models. Without a home it is found out anew each time.
pub fn remember() {
    if let Ok(folder) = fetch::cache_folder() {
        gpu::keep_verdicts_in(folder.join("gpu-verdicts.json"));
    }
}

/// Opens the GPU whose name contains `name`, or the best there is.
///
/// # Errors
/// As [`Gpu::open`].
pub fn open(name: Option<&str>) -> Result<Arc<Gpu>, GpuError> {
    Gpu::open(&name.map_or(GpuChoice::Auto, |name| GpuChoice::Named(name.to_owned())))
}
