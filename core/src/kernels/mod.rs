//! Matrix products straight from the blocks of a mapped GGUF file.
//!
//! A [`Matrix`] borrows weights as they lie in the file, [`Activations`] hold the other operand in the forms the kernels read, and a
//! [`Compute`] multiplies them on its own thread [`Pool`] with the kernels ([`Tier`]) it chose for this CPU at run time.
//! [`dequantize`] defines what every storage format means. Weights are never copied or rearranged in memory.
//!
//! Imports from `gguf` only (its storage types).

#[macro_use]
mod multiversion;

mod activation_type;
mod activations;
mod affinity;
mod aligned;
pub mod attention;
pub mod ceiling;
pub(crate) mod circle;
mod compute;
mod cores;
pub mod derivative;
mod error;
mod formats;
pub mod gemm;
pub mod half_spectrum;
mod isa;
mod lane_bin;
mod lead;
#[cfg(target_arch = "x86_64")]
pub(crate) mod lines;
mod matrix;
mod next;
mod panel;
mod parallel;
mod places;
mod pool;
mod prefetch;
pub mod runs;
mod shares;
mod sleepers;
mod splits;
mod sync;
mod tier;
mod transpose;
mod transposed;
pub mod vector;
mod vectors;
mod widest;

pub use activation_type::ActivationType;
pub use activations::Activations;
pub use aligned::Aligned;
pub use compute::{Beside, Compute};
pub use cores::Cores;
pub use error::KernelError;
pub(crate) use formats::LEVELS as IQ4_NL_LEVELS;
pub use formats::dequantize;
pub use lane_bin::LaneBin;
pub(crate) use lead::first_level_bytes;
pub use matrix::Matrix;
pub use next::Next;
pub use parallel::{for_each_chunk, for_each_span};
pub use pool::Pool;
pub(crate) use prefetch::{Ahead, Span, prefetch};
pub use tier::{KernelChoice, Tier, cpu_features, detected_tiers};
pub use transpose::{LANES, put_turned, turn};
pub use transposed::TransposedScratch;
pub use vectors::{Vector, Vectorised, vectorised};
pub use widest::{Widest, widest};
