//! The device that GPU tests run on.

use std::sync::Arc;

use timbre::gpu::{Gpu, GpuChoice, GpuError};

/// A device, or `None` where there is none, which is said on stderr and, under `CI`, is a failure.
#[allow(dead_code)]
pub fn gpu() -> Option<Arc<Gpu>> {
    opened(Gpu::open)
}

/// The device with the optional features it has, and as if it had none, which other kernels run on.
#[allow(dead_code)]
pub fn both() -> impl Iterator<Item = Arc<Gpu>> {
    [opened(Gpu::open), opened(Gpu::open_plain)].into_iter().flatten()
}

fn opened(open: fn(&GpuChoice) -> Result<Arc<Gpu>, GpuError>) -> Option<Arc<Gpu>> {
    // Kernels are tried out once for all tests, not once for each device that a test opens.
    timbre::gpu::keep_verdicts_in(concat!(env!("CARGO_TARGET_TMPDIR"), "/gpu-verdicts.json"));
    match open(&GpuChoice::Auto) {
        Ok(gpu) => Some(gpu),
        Err(error @ GpuError::NoAdapter { .. }) => {
            assert!(std::env::var_os("CI").is_none(), "GPU tests must run under CI: {error}");
            eprintln!("\n*** SKIPPED: this test needs a GPU or a software Vulkan device: {error} ***\n");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
