//! What can go wrong on a GPU.

/// A failure of the GPU room. None of them leaves anything half done on the CPU's side: a caller falls back to the CPU at
/// the position it was at.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GpuError {
    /// No adapter at all, or none by that name.
    #[error("no GPU{}: {}", wanted.as_ref().map(|w| format!(" named {w:?}")).unwrap_or_default(), found_list(found))]
    NoAdapter {
        /// The name asked for, if one was.
        wanted: Option<String>,
        /// The adapters there are.
        found: Vec<String>,
    },
    /// The driver refused to open the device.
    #[error("GPU {adapter}: cannot be opened: {reason}")]
    Unavailable {
        /// Name of the adapter.
        adapter: String,
        /// What the driver said.
        reason: String,
    },
    /// The device is gone: unplugged, reset, destroyed, or taken away while the app was in the background.
    #[error("GPU {adapter} was lost: {reason}")]
    DeviceLost {
        /// Name of the adapter.
        adapter: String,
        /// What the driver said.
        reason: String,
    },
    /// Neither an answer nor an error came in time.
    #[error("GPU {adapter} did not answer within {seconds} s")]
    Timeout {
        /// Name of the adapter.
        adapter: String,
        /// How long was waited.
        seconds: u64,
    },
    /// Not enough device memory.
    #[error(
        "out of GPU memory: {what} needs {needed} bytes beside {allocated} in use{}",
        budget.map(|b| format!(", {b} are allowed")).unwrap_or_default()
    )]
    OutOfMemory {
        /// What the memory is for.
        what: String,
        /// Bytes asked for.
        needed: u64,
        /// Bytes this process holds on the device.
        allocated: u64,
        /// The budget set for this device, if one is.
        budget: Option<u64>,
    },
    /// Something exceeds what the device can do.
    #[error("GPU: {what} needs {needed}, this device's limit is {max}")]
    Limit {
        /// What is limited.
        what: String,
        /// What would be needed.
        needed: u64,
        /// What the device can do.
        max: u64,
    },
    /// The driver refused a shader or a pipeline.
    #[error("GPU kernel {kernel}: {reason}")]
    Shader {
        /// File and entry point.
        kernel: String,
        /// What the compiler said.
        reason: String,
    },
    /// The device rejected a command.
    #[error("GPU command {what}: {reason}")]
    Command {
        /// What was recorded.
        what: String,
        /// What the device said.
        reason: String,
    },
    /// A kernel computes wrong numbers on this device and driver.
    #[error("GPU kernel {kernel} fails its self-test on this device: {detail}")]
    SelfTest {
        /// Name of the kernel.
        kernel: String,
        /// What was found and what was expected.
        detail: String,
    },
}

fn found_list(found: &[String]) -> String {
    if found.is_empty() { "there is none on this system".to_owned() } else { format!("there are {}", found.join(", ")) }
}
