//! The forward pass on a GPU: the weights' blocks as the file has them, keys and values, and every step of a layer, in device
//! memory; tokens go there and logits come back, one submission a batch.
//!
//! [`GpuModel`] holds the weights and is shared; [`GpuState`] is one session's part. [`GpuMatrix`] and [`HeadLayout`] are what they
//! are made of, each checked by itself against the CPU. Imports from the [`gpu`](crate::gpu) room, the decoder and `kernels`.

mod adapters;
mod attention;
mod changes;
mod forward;
mod kernels;
mod matrix;
mod slot;
mod state;
mod steps;
mod sums;
mod trials;
mod weights;

pub use attention::{GpuAttention, HeadBuffers, HeadLayout};
pub use forward::GpuPass;
pub use matrix::{GpuMatrix, Lookup, Product};
pub use slot::{GpuSlot, Suspension, worthwhile};
pub use state::GpuState;
pub use steps::{GpuGate, GpuNorm, NormAt, NormBuffers};
pub use trials::trials;
pub use weights::GpuModel;
