//! Adapters: what a file holds, as an immutable value a model can be run with.
//!
//! [`AdapterFile`] reads a PEFT directory or a single `.safetensors` file and checks everything that can be
//! checked without a model, writes either and mixes; [`AdapterFile::resolve`] brings in the shapes of the modules and
//! yields an [`Adapter`], whole or not at all, and [`Adapter::to_file`] is the way back. [`Delta`] is what a module's change can do, whatever its kind, and [`DeltaScratch`] and
//! [`DeltaBlock`] what that takes per thread. [`mix`](mix()) adds adapters in memory up, [`Registry`] holds loaded ones by alias.
//!
//! This room imports from [`spectral`](crate::spectral), [`kernels`](crate::kernels) (code on wide vectors), `gpu` (dense changes made there)
//! and [`durable`](crate::durable).

mod block;
mod config;
mod delta;
mod disk;
mod error;
mod factors;
mod file;
mod fourier;
#[cfg(feature = "gpu")]
mod gpu;
mod lora;
mod low_rank;
mod mix;
mod patterns;
mod peft;
mod plans;
mod registry;
mod rows;
mod scratch;
mod select;
mod single;
mod summary;
mod tensors;
mod value;

pub use block::DeltaBlock;
pub use config::{FourierMethod, LoraInit, LoraMethod, Method, Names, PeftConfig};
pub use delta::Delta;
pub use error::AdapterError;
pub use file::AdapterFile;
pub use fourier::FourierDelta;
#[cfg(feature = "gpu")]
pub use gpu::dense_on_gpu;
pub use lora::{LoraDelta, LoraScale};
pub use mix::mix;
pub use patterns::Patterns;
pub use registry::{Inserted, Loaded, Registry, RegistryEntry};
pub use rows::RowOrder;
pub use scratch::{DeltaScratch, Side};
pub use select::Selection;
pub use summary::{AdapterSummary, ChangeSummary, ModuleSummary};
pub use value::{Adapter, Module, Origin};
