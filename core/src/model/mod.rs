//! Models: a mapped file wired into a decoder.
//!
//! An architecture is one file of wiring (`llama`, `gemma3`): it reads its metadata, names its tensors and puts the
//! shared [`blocks`] together into a [`Decoder`], whose forward pass is the same for all. Weights are views of the map.
//! This room imports `adapter`, `merge`, `tokenizer`,
//! `gpu`, `kernels` and `gguf`.

mod architecture;
mod backend;
mod bind;
pub mod blocks;
mod changes;
mod decoder;
mod error;
mod estimate;
mod gemma3;
#[cfg(feature = "gpu")]
pub mod gpu;
mod gradient;
mod held;
mod kv;
mod llama;
mod loader;
mod merging;
mod opened;
mod scratch;
mod weights;

pub use backend::Backend;
pub use bind::{ActiveAdapters, BoundAdapter};
pub use decoder::{Decoder, Pass, Wanted};
pub use error::ModelError;
pub use estimate::MemoryEstimate;
pub use gradient::{GradientOptions, GradientPass, Loss, Sequence};
pub use kv::{KvCache, KvLayer, KvType};
pub use opened::{Model, ModelInfo, ModelOptions};
pub use scratch::Scratch;
pub use weights::{Linear, LinearKind, Vector};
