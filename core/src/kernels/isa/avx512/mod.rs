//! x86-64 with AVX-512 F, BW, VL, DQ and VNNI.
//!
//! A step covers 256 elements of a weight row, one large block or eight small ones: four vectors of 64 unsigned lanes, each
//! multiplied with both planes of the activations by `vpdpbusd`, and 16 scales and offsets, one per group of 16 elements.
//! Formats centred on a zero point keep their lanes unsigned and put the zero point into the offset, or, in
//! panels, into where the integer sums start.

mod bits;
mod eighths;
mod gemm;
mod gemv;
mod plain;
mod quantise;
mod unpack;

use super::{Batched, Form, Kernel, Kernels};
use crate::kernels::activations::Split;
use crate::kernels::formats::by_type;
use crate::kernels::panel::CHUNK;
use bits::{Bits, Fields, Shifts};
use plain::{Load, plain_panel};
use unpack::Unpack;

pub(in crate::kernels) use eighths::split_eighths;

pub(super) const KERNELS: Kernels = Kernels {
    kernel: |ty| by_type!(ty, both_planes, plain)(),
    coarse: |ty| by_type!(ty, coarse_plane, plain)(),
    quantise: quantise::quantise,
    decoder: super::avx2::decoder,
    words: false,
    split: Split::Eighths,
};

/// Elements of a step.
const STEP: usize = 256;

fn both_planes<F: Unpack>() -> Kernel {
    best::<F, true>()
}

fn coarse_plane<F: Unpack>() -> Kernel {
    best::<F, false>()
}

fn best<F: Unpack, const FINE: bool>() -> Kernel {
    if Fields::detected() { quantised::<F, Fields, FINE>() } else { quantised::<F, Shifts, FINE>() }
}

fn quantised<F: Unpack, B: Bits, const FINE: bool>() -> Kernel {
    let batch = Batched::Panel { unpack: gemm::unpack::<F>, multiply: gemm::multiply_for::<F, FINE>(), columns: CHUNK };
    Kernel { form: Form::Int8, one: gemv::panel::<F, B, FINE>, pair: Some(gemv::pair::<F, B, FINE>), batch }
}

fn plain<P: Load>() -> Kernel {
    Kernel { form: Form::F32, one: plain_panel::<P, 1>, pair: None, batch: Batched::Four(plain_panel::<P, 4>) }
}
