//! The GPU: a device through wgpu (Vulkan, Metal, DX12), its memory, and WGSL kernels.
//!
//! [`Gpu::open`] opens an adapter with its real limits. [`Gpu::storage`], [`Gpu::upload`] and [`Gpu::scratch`] give memory,
//! counted in [`Gpu::allocated_bytes`]; [`Gpu::kernel`] compiles an entry point of a file in `shaders/`, specialised by
//! `override` constants; a [`Recorder`] collects dispatches and copies into one submission:
//!
//! ```text
//! let kernel = gpu.kernel(&KernelSpec { shader: SCALE, entry: "scale", access: &[Access::Write], params: true, constants: &[] })?;
//! let bound = kernel.bind(&gpu, &[buffer.all()])?;      // once, for what is run again and again
//! let mut recorder = Recorder::new(&gpu);
//! recorder.run(&bound, &[2.0f32, 0.0, 0.0, 0.0], [groups, 1, 1]);
//! let logits = recorder.read(&buffer, 0, bytes)?;
//! recorder.submit()?;                                   // hands over, does not wait
//! logits.wait(&mut out)?;
//! ```
//!
//! Dispatches run in order and see each other's writes. One buffer cannot be both a `Read` and a `Write` argument of the same
//! dispatch. Nothing panics when the device is lost: every call is then [`GpuError::DeviceLost`].
//!
//! Adapters on the GPU are `adapter::GpuAdapters` (in `adapter/gpu.rs`, as this room does not know what an adapter is):
//!
//! ```text
//! let mut adapters = GpuAdapters::new(&gpu, max_rows)?;
//! adapters.set(&[GpuSlot { slot: layer * 7 + kind, deltas: vec![(&*delta, weight)], order: linear.row_order }])?;   // a swap
//! adapters.apply(&mut recorder, x, rows, &[(slot_q, q), (slot_k, k), (slot_v, v)])?;   // each y += Σ weight · ΔW x
//! ```
//!
//! x is f32 `[rows × d2]`, each y f32 `[rows × d1]`, row-major and contiguous, `Binding`s of whole buffers or aligned parts.
//! Slots without a change are skipped; the outputs of one call share what can be shared of x.
//!
//! This room imports from [`durable`](crate::durable) (the cache of self-tests' verdicts).

mod buffers;
mod device;
mod error;
mod pipeline;
mod recorder;

pub use buffers::{Binding, GpuBuffer, Readback, Scratch};
pub use device::{Gpu, GpuChoice, GpuInfo};
pub use error::GpuError;
pub use pipeline::{Access, Bound, Kernel, KernelSpec, MAX_PARAMS, Shader};
pub use recorder::{PendingTimings, Recorder, Timings};
