//! GPUs, as the verbs use them.

use std::sync::Arc;

use timbre::gpu::{Gpu, GpuChoice, GpuError};

use crate::fetch;

/// Opens the GPU whose name contains `name`, or the best there is, and believes what earlier runs found out about it.
///
/// # Errors
/// As [`Gpu::open`].
pub fn open(name: Option<&str>) -> Result<Arc<Gpu>, GpuError> {
    let choice = name.map_or(GpuChoice::Auto, |name| GpuChoice::Named(name.to_owned()));
    let gpu = Gpu::open(&choice)?;
    remember(&gpu);
    Ok(gpu)
}

/// Verdicts on kernels are kept beside the models. Without a home they are found out anew each time.
fn remember(gpu: &Gpu) {
    if let Ok(folder) = fetch::cache_folder() {
        gpu.remember_verdicts(folder.join("gpu-verdicts.json"));
    }
}
