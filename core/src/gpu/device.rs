//! Finding an adapter and opening it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::GpuError;
use super::buffers::Pool;
use super::pipeline::Pipelines;
use super::recorder::ParamPages;
use super::spectral::Paths;
use super::verdict::Verdicts;

/// How long one submission may take. A software device under load can need minutes for a long prompt.
const PATIENCE: Duration = Duration::from_secs(300);

/// Optional features, used where the device has them and never required. f16 arithmetic is none of them: keys and values are
/// unpacked exactly without it, and weights rounded to f16 move logits about twice as far from the CPU's as all else together.
const OPTIONAL: wgpu::Features =
    wgpu::Features::SUBGROUP.union(wgpu::Features::TIMESTAMP_QUERY).union(wgpu::Features::PIPELINE_CACHE);

/// Which adapter to open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum GpuChoice {
    /// The fastest kind there is: discrete, then integrated, then virtual, then software.
    #[default]
    Auto,
    /// The first whose name contains this, in any case.
    Named(String),
}

/// What there is to know about an adapter without opening it.
#[derive(Debug, Clone)]
pub struct GpuInfo {
    /// The device's name.
    pub name: String,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// Name and version of the driver.
    pub driver: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// f16 arithmetic in shaders, which no kernel uses.
    pub f16: bool,
    /// Subgroup operations in shaders, and the sizes a subgroup can have.
    pub subgroup: Option<(u32, u32)>,
    /// Times of passes, measured on the device.
    pub timestamps: bool,
    /// Largest buffer, in bytes.
    pub max_buffer: u64,
    /// Largest part of a buffer that a shader sees at once, in bytes.
    pub max_binding: u64,
    /// Memory that the threads of one workgroup share, in bytes.
    pub max_shared: u32,
    /// Most threads in a workgroup.
    pub max_threads: u32,
    /// Most workgroups in one dimension of a dispatch.
    pub max_groups: u32,
}

impl GpuInfo {
    fn of(adapter: &wgpu::Adapter) -> Self {
        let (info, features, limits) = (adapter.get_info(), adapter.features(), adapter.limits());
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete",
            wgpu::DeviceType::IntegratedGpu => "integrated",
            wgpu::DeviceType::VirtualGpu => "virtual",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        };
        let sizes = (info.subgroup_min_size, info.subgroup_max_size);
        Self {
            kind,
            backend: info.backend.to_string(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroup: features.contains(wgpu::Features::SUBGROUP).then_some(sizes),
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            max_buffer: limits.max_buffer_size,
            max_binding: limits.max_storage_buffer_binding_size,
            max_shared: limits.max_compute_workgroup_storage_size,
            max_threads: limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x),
            max_groups: limits.max_compute_workgroups_per_dimension,
            name: info.name,
        }
    }

    /// Leaves out the features that a device was opened without.
    fn keep(&mut self, features: wgpu::Features) {
        self.subgroup = self.subgroup.filter(|_| features.contains(wgpu::Features::SUBGROUP));
        self.timestamps &= features.contains(wgpu::Features::TIMESTAMP_QUERY);
    }

    /// Whether it is a program on the CPU: right, but slower than the CPU's own kernels.
    pub fn is_software(&self) -> bool {
        self.kind == "software"
    }

    /// Order of preference, best first.
    fn rank(&self) -> usize {
        ["discrete", "integrated", "virtual", "other"].iter().position(|kind| *kind == self.kind).unwrap_or(4)
    }
}

impl fmt::Display for GpuInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {}, {})", self.name, self.backend, self.kind, self.driver)
    }
}

/// What outlives any one call: shared with the driver's callbacks and with every buffer.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Why the device is gone, once it is.
    lost: OnceLock<String>,
    /// An error that no scope caught.
    stray: Mutex<Option<String>>,
    /// Bytes in buffers.
    pub(super) allocated: AtomicU64,
    pub(super) peak: AtomicU64,
    /// Most bytes in buffers, 0 for no limit.
    budget: AtomicU64,
}

/// An open device. Everything made with it keeps working as long as it is held; dropping the last `Arc` closes it.
pub struct Gpu {
    info: GpuInfo,
    device: wgpu::Device,
    queue: wgpu::Queue,
    pub(super) state: Arc<State>,
    pub(super) pool: Pool,
    pub(super) pipelines: Pipelines,
    pub(super) pages: ParamPages,
    pub(super) verdicts: Verdicts,
    pub(super) paths: Paths,
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu").field("info", &self.info).finish_non_exhaustive()
    }
}

/// The adapters that the enabled backends find, best first.
fn enumerate() -> Vec<(wgpu::Adapter, GpuInfo)> {
    let backends = wgpu::Instance::enabled_backend_features();
    if backends.is_empty() {
        return Vec::new();
    }
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends;
    descriptor.flags = wgpu::InstanceFlags::empty();
    let instance = wgpu::Instance::new(descriptor);
    let adapters = pollster::block_on(instance.enumerate_adapters(backends));
    let mut found: Vec<_> = adapters.into_iter().map(|a| (GpuInfo::of(&a), a)).map(|(info, a)| (a, info)).collect();
    // Stable: among equals the order of the system's own list.
    found.sort_by_key(|(_, info)| info.rank());
    found
}

impl Gpu {
    /// The adapters of this system, best first. Opens none.
    pub fn adapters() -> Vec<GpuInfo> {
        enumerate().into_iter().map(|(_, info)| info).collect()
    }

    /// Opens an adapter with its real limits and those optional features it has.
    ///
    /// # Errors
    /// [`GpuError::NoAdapter`], [`GpuError::Unavailable`].
    pub fn open(choice: &GpuChoice) -> Result<Arc<Self>, GpuError> {
        Self::open_with(choice, OPTIONAL)
    }

    /// Opens an adapter as if it had none of the optional features: what then runs is what devices without them run.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub fn open_plain(choice: &GpuChoice) -> Result<Arc<Self>, GpuError> {
        Self::open_with(choice, wgpu::Features::empty())
    }

    fn open_with(choice: &GpuChoice, optional: wgpu::Features) -> Result<Arc<Self>, GpuError> {
        let adapters = enumerate();
        let names = || adapters.iter().map(|(_, info)| info.name.clone()).collect();
        let matches = |info: &GpuInfo| match choice {
            GpuChoice::Auto => true,
            GpuChoice::Named(name) => info.name.to_lowercase().contains(&name.to_lowercase()),
        };
        let Some((adapter, info)) = adapters.iter().find(|(_, info)| matches(info)) else {
            let wanted = if let GpuChoice::Named(name) = choice { Some(name.clone()) } else { None };
            return Err(GpuError::NoAdapter { wanted, found: names() });
        };
        Self::request(adapter, info.clone(), optional)
    }

    fn request(adapter: &wgpu::Adapter, mut info: GpuInfo, optional: wgpu::Features) -> Result<Arc<Self>, GpuError> {
        let request = adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("timbre"),
            required_features: adapter.features() & optional,
            required_limits: adapter.limits(),
            ..Default::default()
        });
        let (device, queue) = pollster::block_on(request)
            .map_err(|e| GpuError::Unavailable { adapter: info.name.clone(), reason: e.to_string() })?;
        info.keep(device.features());
        let state = Arc::new(State::default());
        let of_loss = Arc::clone(&state);
        device.set_device_lost_callback(move |reason, message| {
            // Dropping the device is no loss that anybody could still notice.
            let _ = of_loss.lost.set(format!("{reason:?}: {message}"));
        });
        let of_errors = Arc::clone(&state);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let mut stray = of_errors.stray.lock().unwrap_or_else(PoisonError::into_inner);
            stray.get_or_insert_with(|| error.to_string());
        }));
        let pipelines = Pipelines::new(&device);
        Ok(Arc::new(Self {
            info,
            device,
            queue,
            state,
            pool: Pool::default(),
            pipelines,
            pages: ParamPages::default(),
            verdicts: Verdicts::default(),
            paths: Paths::default(),
        }))
    }

    /// What is known about the adapter, and which of the optional features it was opened with.
    pub fn info(&self) -> &GpuInfo {
        &self.info
    }

    /// wgpu's device.
    pub(crate) fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// wgpu's queue.
    pub(crate) fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// Bytes in device buffers that are alive.
    pub fn allocated_bytes(&self) -> u64 {
        self.state.allocated.load(Ordering::Relaxed)
    }

    /// The most [`allocated_bytes`](Self::allocated_bytes) there have been.
    pub fn peak_bytes(&self) -> u64 {
        self.state.peak.load(Ordering::Relaxed)
    }

    /// Most bytes that may be in device buffers; 0 for as many as the driver gives.
    pub fn set_budget(&self, bytes: u64) {
        self.state.budget.store(bytes, Ordering::Relaxed);
    }

    /// The budget, if one is set.
    pub fn budget(&self) -> Option<u64> {
        Some(self.state.budget.load(Ordering::Relaxed)).filter(|b| *b > 0)
    }

    /// Whether the device is gone. It never comes back: open another.
    pub fn is_lost(&self) -> bool {
        self.state.lost.get().is_some()
    }

    /// Refuses to go on with a device that is gone, and reports what went wrong behind the back of earlier calls.
    ///
    /// # Errors
    /// [`GpuError::DeviceLost`], [`GpuError::Command`].
    pub fn check(&self) -> Result<(), GpuError> {
        if let Some(reason) = self.state.lost.get() {
            return Err(GpuError::DeviceLost { adapter: self.info.name.clone(), reason: reason.clone() });
        }
        let stray = self.state.stray.lock().unwrap_or_else(PoisonError::into_inner).take();
        match stray {
            Some(reason) => Err(GpuError::Command { what: "outside any scope".to_owned(), reason }),
            None => Ok(()),
        }
    }

    /// Takes the device away, as the system can at any time: everything from now on is [`GpuError::DeviceLost`].
    /// For tests, and for apps that must let go of the GPU in the background.
    pub fn destroy(&self) {
        let _ = self.state.lost.set("destroyed by the program".to_owned());
        self.device.destroy();
    }

    /// Waits for everything submitted so far.
    ///
    /// # Errors
    /// [`GpuError::DeviceLost`], [`GpuError::Timeout`], [`GpuError::Command`].
    pub fn wait(&self) -> Result<(), GpuError> {
        self.check()?;
        let waited = self.device.poll(wgpu::PollType::Wait { submission_index: None, timeout: Some(PATIENCE) });
        self.check()?;
        waited.map(|_| ()).map_err(|error| match error {
            wgpu::PollError::Timeout => {
                GpuError::Timeout { adapter: self.info.name.clone(), seconds: PATIENCE.as_secs() }
            }
            error => GpuError::Command { what: "wait".to_owned(), reason: error.to_string() },
        })
    }

    /// Runs `make`, and turns whatever error the device reports of it into one that `describe` names.
    pub(super) fn scoped<T>(
        &self,
        make: impl FnOnce() -> T,
        describe: impl FnOnce(Refusal) -> GpuError,
    ) -> Result<T, GpuError> {
        self.check()?;
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let made = make();
        // On every native backend these are ready at once.
        let validation = pollster::block_on(validation.pop());
        let internal = pollster::block_on(internal.pop());
        let memory = pollster::block_on(memory.pop());
        self.check()?;
        if memory.is_some() {
            return Err(describe(Refusal::Memory));
        }
        match validation.or(internal) {
            Some(error) => Err(describe(Refusal::Reason(error.to_string()))),
            None => Ok(made),
        }
    }
}

/// Why the device refused.
pub(super) enum Refusal {
    Memory,
    Reason(String),
}
