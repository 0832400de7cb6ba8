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
//! Of adapters this room knows positions and numbers: [`Reconstruct`] makes dense changes, [`Forward`] and [`Inverse`] apply
//! changes without forming them, [`Product`] multiplies with dense ones and with factors of low rank. Before a kernel is used on
//! a device for the first time, its [`Trial`] compares it with the CPU ([`Gpu::trust`]); the [`Verdict`] is kept.
//!
//! This room imports from [`durable`](crate::durable) (self-tests' verdicts and compiled kernels are kept).

mod buffers;
mod cache;
mod device;
mod error;
mod pipeline;
mod products;
mod recorder;
mod spectral;
pub mod trials;
mod verdict;

pub use buffers::{Binding, GpuBuffer, Readback, Scratch};
pub use device::{Gpu, GpuChoice, GpuInfo};
pub use error::GpuError;
pub use pipeline::{Access, Bound, Kernel, KernelSpec, MAX_PARAMS, Shader};
pub use products::{BoundProduct, Product};
pub use recorder::{PendingTimings, Recorder, Timings};
pub use spectral::{ApplyPath, Forward, Inverse, PathTiming, Positions, Precision, Reconstruct};
pub use verdict::{Trial, Verdict, keep_verdicts_in};
