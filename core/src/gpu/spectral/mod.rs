//! Sparse spectra on the GPU: dense weight changes, and changes applied without being formed.
//!
//! Both are one kernel in two shapes. What they have in common is a transform of any length in workgroup memory
//! (`fft.wgsl`), the way a longer axis is [split](split) into parts that fit, and the entries sorted by the bin of the
//! part that they are added to ([`terms`]), so that a bin has one thread and sums in one order: no atomics, the same bits
//! each time.

mod apply;
mod paths;
mod reconstruct;
mod split;
mod terms;

pub use apply::{Forward, Inverse};
pub(super) use paths::Paths;
pub use paths::{ApplyPath, PathTiming};
pub use reconstruct::{Precision, Reconstruct};

use super::Shader;

/// Positions of a sparse spectrum of `d1 × d2`: entry l is at `(rows[l], cols[l])`. They are in range.
#[derive(Debug, Clone, Copy)]
pub struct Positions<'a> {
    /// Outputs.
    pub d1: usize,
    /// Inputs.
    pub d2: usize,
    /// Output frequency of each entry.
    pub rows: &'a [u32],
    /// Input frequency of each entry.
    pub cols: &'a [u32],
}

/// `reconstruct.wgsl` behind `fft.wgsl`.
pub(super) const RECONSTRUCT: Shader = Shader {
    name: "reconstruct",
    wgsl: concat!(include_str!("../shaders/fft.wgsl"), "\n", include_str!("../shaders/reconstruct.wgsl")),
    reduces: false,
};

/// `apply.wgsl` behind `fft.wgsl`.
pub(super) const APPLY: Shader = Shader {
    name: "apply",
    wgsl: concat!(include_str!("../shaders/fft.wgsl"), "\n", include_str!("../shaders/apply.wgsl")),
    reduces: false,
};

/// `forward.wgsl` behind `fft.wgsl`.
pub(super) const FORWARD: Shader = Shader {
    name: "forward",
    wgsl: concat!(include_str!("../shaders/fft.wgsl"), "\n", include_str!("../shaders/forward.wgsl")),
    reduces: false,
};

/// `pack.wgsl`.
pub(super) const PACK: Shader = Shader { name: "pack", wgsl: include_str!("../shaders/pack.wgsl"), reduces: false };
