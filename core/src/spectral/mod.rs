//! Sparse spectra: which positions a weight change occupies, and how it acts without ever being formed.
//!
//! A module's change is `ΔW = α · Re(IDFT2(F))` with `F` zero but for `n` real coefficients at shared positions
//! (Gao et al., ICML 2024, Eq. 2–4, with the `1/(d1·d2)` of `torch.fft.ifft2`). [`Entries`] are the positions,
//! [`Plan`] is the bookkeeping shared by every module that has them, [`transform`] applies the change, its adjoint and
//! its gradient on half spectra, [`LaneFft`] transforms many rows at once, [`reconstruct`](mod@reconstruct) forms `ΔW` where it is wanted dense, and
//! [`naive`] is the sum as the paper writes it, in f64, to check all of them.
//!
//! This room imports from [`kernels`](crate::kernels) (code for wide vectors).

mod biased;
mod cache;
mod entries;
mod error;
mod lanes;
pub mod naive;
mod passes;
mod plan;
mod randperm;
mod real;
pub mod reconstruct;
pub mod transform;

pub use cache::PlanCache;
pub use entries::{Entries, EntrySource, MAX_AREA, MAX_SIDE, Shape};
pub use error::SpectralError;
pub use lanes::{LANES, LaneBin, LaneFft, LaneSpectra, LaneSpectraMut};
pub use plan::Plan;
pub use randperm::{Mt19937, randperm_prefix};
pub use real::{RealFft, Transforms};
pub use reconstruct::{reconstruct, reconstruct_into};

pub use num_complex::Complex32;
