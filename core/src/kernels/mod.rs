//! Matrix products straight from the blocks of a mapped GGUF file.
//!
//! A [`Matrix`] borrows weights as they lie in the file, [`Activations`] hold the other operand in the forms the kernels read, and a
//! [`Compute`] multiplies them on its own thread [`Pool`] with the kernels ([`Tier`]) it chose for this CPU at run time.
//! [`dequantize`] defines what every storage format means. Weights are never copied or rearranged in memory.
//!
//! Imports from `gguf` only (its storage types).

mod activations;
mod compute;
mod error;
mod formats;
mod isa;
mod matrix;
mod pool;
mod tier;

pub use activations::Activations;
pub use compute::Compute;
pub use error::KernelError;
pub use formats::dequantize;
pub use matrix::Matrix;
pub use pool::Pool;
pub use tier::{KernelChoice, Tier, cpu_features, detected_tiers};
