//! x86-64 with AVX2, FMA and F16C.
//!
//! A run is a vector of 32 lanes. Small blocks are one run: centred formats multiply magnitudes with activations that take the
//! weight's sign, the others multiply unsigned lanes and add their offset. Large blocks are eight runs of unsigned lanes, a
//! zero point going into the offset. Products of a weight and an activation never overflow the 16-bit pairs of `vpmaddubsw`:
//! lanes are at most 63 where unsigned and at most 128 in magnitude where signed.

use std::arch::x86_64::*;

mod decode;
mod gemm;
mod gemv;
mod plain;
mod quantise;
mod unpack;
mod unrolled;

use super::{Batched, Form, Kernel, Kernels};
use crate::gguf::GgmlType;
use crate::kernels::activations::Split;
use crate::kernels::formats::by_type;
use crate::kernels::transposed::DecodeFn;
use gemm::Repack;
use gemv::Dot;
use plain::{Load, plain_panel};

pub(super) use quantise::quantise;

pub(super) const KERNELS: Kernels = Kernels {
    kernel: |ty| by_type!(ty, quantised, plain)(),
    coarse: |ty| by_type!(ty, coarse, plain)(),
    quantise,
    decoder,
    words: true,
    split: Split::Fours,
};

/// The decoder of a storage type.
pub(super) fn decoder(ty: GgmlType) -> DecodeFn {
    use crate::kernels::transposed::plain;
    use decode::decode as quantised;
    by_type!(ty, quantised, plain)
}

/// Lanes of a run.
const RUN: usize = 32;

fn quantised<F: Dot + Repack>() -> Kernel {
    Kernel { form: Form::Int8, one: gemv::panel::<F, true>, pair: None, batch: repacked::<F>() }
}

fn coarse<F: Dot>() -> Kernel {
    Kernel { form: Form::Int8, one: gemv::panel::<F, false>, pair: None, batch: repacked::<F::Coarse>() }
}

fn repacked<R: Repack>() -> Batched {
    Batched::Panel { unpack: gemm::unpack::<R>, multiply: gemm::multiply_for::<R>(), columns: gemm::columns::<R>() }
}

fn plain<P: Load>() -> Kernel {
    Kernel { form: Form::F32, one: plain_panel::<P, 1>, pair: None, batch: Batched::Four(plain_panel::<P, 4>) }
}

/// The sum of all lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn total(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}
