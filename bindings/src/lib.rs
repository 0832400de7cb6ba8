//! Timbre for Kotlin and Swift: the core's API as a C library that uniffi describes.
//!
//! Four words as everywhere: [`NativeModel`], [`NativeAdapter`], [`NativeSession`], [`NativeGeneration`], and [`NativeTuner`]
//! for learning. Nothing is computed here. What this crate adds is what a foreign function interface takes: objects behind `Arc`,
//! a thread of its own for whatever runs long, results that are pulled, one small error type that does not change with the core
//! ([`TimbreError`]), and panics that end as one of its cases.
//!
//! Calls that take longer than a few milliseconds say so; the hand-written layers of Kotlin and Swift make them `suspend` and
//! `async`. uniffi does not propagate cancellation, so what runs is an object with a `cancel` that is also its drop.

mod adapter;
mod convert;
mod device;
mod error;
mod failure;
mod generation;
mod gpu_cache;
mod guard;
mod model;
mod session;
mod tuner;
mod tuning;
mod worker;

pub use adapter::{AdapterInfo, AdapterKind, NativeAdapter, WeightedAdapter, mix_adapters};
pub use device::{DeviceInfo, MemoryUsage, device_info, memory_usage, version};
pub use error::TimbreError;
pub use generation::{Finish, GenerationOptions, GenerationResult, GenerationStats, NativeGeneration};
pub use gpu_cache::keep_gpu_cache;
pub use model::{
    Backend, Kernels, KvPrecision, MemoryEstimate, ModelInfo, ModelOptions, NativeModel, ProgressListener,
    estimate_memory,
};
pub use session::{ChatMessage, NativeSession, SessionOptions, SwapPolicy, TrimLevel};
pub use tuner::NativeTuner;
pub use tuning::{
    Completion, TuningBudget, TuningData, TuningEvent, TuningMethod, TuningOptions, TuningReport, TuningResult,
    TuningStop,
};

uniffi::setup_scaffolding!();
