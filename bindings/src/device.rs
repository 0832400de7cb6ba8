//! What the device is and what the process holds.

use timbre::kernels::{Cores, KernelChoice, cpu_features};
use timbre::memory::{self, MemorySplit};

use crate::error::Outcome;
use crate::guard::guarded;

/// The processor, as this library uses it.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct DeviceInfo {
    /// Name of the kernels chosen for it.
    pub kernels: String,
    /// Instruction-set extensions that matter here.
    pub features: Vec<String>,
    /// Cores the process may use.
    pub cores: u32,
    /// Those of them that are about as fast as the fastest.
    pub fast_cores: u32,
    /// Threads a model takes where none are asked for.
    pub threads: u32,
}

/// Memory of the process now, in bytes.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct MemoryUsage {
    /// Heap and stacks: what the system's killer counts.
    pub anon_bytes: u64,
    /// Mapped files in memory, the model above all, which the system can drop.
    pub file_bytes: u64,
    /// Anonymous pages moved to swap.
    pub swap_bytes: u64,
    /// What could be had without swapping, in the whole system.
    pub available_bytes: u64,
}

/// The version of this library.
#[uniffi::export]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

/// What the processor is.
///
/// # Errors
/// [`TimbreError::Internal`](crate::TimbreError::Internal).
#[uniffi::export]
pub fn device_info() -> Outcome<DeviceInfo> {
    guarded(|| {
        let cores = Cores::of_this_thread();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(DeviceInfo {
            kernels: KernelChoice::Auto.resolve()?.name().to_owned(),
            features: cpu_features().into_iter().map(str::to_owned).collect(),
            cores: count(cores.allowed().len()),
            fast_cores: count(cores.fast().len()),
            threads: count(cores.threads()),
        })
    })
}

/// What the process holds, `None` where the system does not say (anything but Linux and Android). About a millisecond.
#[uniffi::export]
pub fn memory_usage() -> Option<MemoryUsage> {
    let split = MemorySplit::of_this_process().ok()?;
    Some(MemoryUsage {
        anon_bytes: split.anon_bytes,
        file_bytes: split.file_bytes,
        swap_bytes: split.swap_bytes,
        available_bytes: memory::available_bytes().unwrap_or(0),
    })
}
