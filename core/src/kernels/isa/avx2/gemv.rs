//! Products of weight rows, where they lie, with one activation row.

use std::arch::x86_64::*;

use super::unpack::{Large, Small, head};
use super::{RUN, total};
use crate::kernels::activations::{COARSE, Row};
use crate::kernels::formats::{Format, GROUP};

/// See [`PanelFn`](crate::kernels::isa::PanelFn).
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn panel<F: Dot>(data: &[u8], row_bytes: usize, x: &[Row<'_>; 1], out: &mut [[f32; 1]]) {
    for (row, out) in data.chunks_exact(row_bytes).zip(out) {
        // SAFETY: by the caller's promise `row` is whole blocks and the activations have as many columns.
        *out = [unsafe { F::dot(row, &x[0]) }];
    }
}

/// The product of a weight row with an activation row.
pub trait Dot: Format {
    /// # Safety
    /// The CPU runs the tier, `row` is whole blocks, and the activations have at least as many elements.
    unsafe fn dot(row: &[u8], x: &Row<'_>) -> f32;
}

/// The product with a row of 32-element blocks.
///
/// # Safety
/// As [`Dot::dot`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dot_small<F: Small>(row: &[u8], x: &Row<'_>) -> f32 {
    let mut sum = _mm256_setzero_ps();
    let mut offsets = _mm_setzero_ps();
    for (b, block) in row.chunks_exact(F::BYTES).enumerate() {
        let p = block.as_ptr();
        // SAFETY: `p` is a whole block, and the activations have its elements by the caller's promise.
        unsafe {
            let lanes = F::lanes(p);
            let head = head(p);
            let (scale, offset) = (_mm_cvtss_f32(head), _mm_shuffle_ps(head, head, 0b01_01_01_01));
            let magnitudes = if F::CENTRED { _mm256_abs_epi8(lanes) } else { lanes };
            let plane = |plane: &[i8]| {
                let x_lanes = _mm256_loadu_si256(plane.as_ptr().add(b * RUN).cast());
                if F::CENTRED { _mm256_sign_epi8(x_lanes, lanes) } else { x_lanes }
            };
            let dots = dots(magnitudes, plane(x.lanes), plane(x.fine));
            let scale = scale * x.scales.as_ptr().add(b * (RUN / GROUP)).read();
            sum = _mm256_fmadd_ps(dots, _mm256_set1_ps(scale), sum);
            if !F::CENTRED {
                let pair = x.sums.as_ptr().add(b * (RUN / GROUP));
                let pair = _mm_castsi128_ps(_mm_loadl_epi64(pair.cast()));
                offsets = _mm_fmadd_ps(offset, pair, offsets);
            }
        }
    }
    total(_mm256_add_ps(sum, _mm256_zextps128_ps256(offsets)))
}

/// The product with a row of 256-element blocks.
///
/// # Safety
/// As [`Dot::dot`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dot_large<F: Large>(row: &[u8], x: &Row<'_>) -> f32 {
    let mut sum = _mm256_setzero_ps();
    for (b, block) in row.chunks_exact(F::BYTES).enumerate() {
        let p = block.as_ptr();
        // SAFETY: `p` is a whole block, and the activations have its elements by the caller's promise.
        unsafe {
            for (half, (scale, offset)) in F::scales(p).into_iter().enumerate() {
                let at = b * F::LEN + half * (F::LEN / 2);
                let scales = _mm256_mul_ps(scale, _mm256_loadu_ps(x.scales.as_ptr().add(at / GROUP)));
                sum = _mm256_fmadd_ps(offset, _mm256_loadu_ps(x.sums.as_ptr().add(at / GROUP)), sum);
                for r in 0..4 {
                    let two = 2 * r as i32;
                    let spread = _mm256_setr_epi32(two, two, two, two, two + 1, two + 1, two + 1, two + 1);
                    let plane = |plane: &[i8]| _mm256_loadu_si256(plane.as_ptr().add(at + r * RUN).cast());
                    let dots = dots(F::lanes(p, 4 * half + r), plane(x.lanes), plane(x.fine));
                    sum = _mm256_fmadd_ps(dots, _mm256_permutevar8x32_ps(scales, spread), sum);
                }
            }
        }
    }
    total(sum)
}

/// Products of unsigned lanes with both planes of signed ones, summed by fours.
#[inline]
#[target_feature(enable = "avx2")]
fn dots(unsigned: __m256i, coarse: __m256i, fine: __m256i) -> __m256 {
    let coarse = _mm256_madd_epi16(_mm256_maddubs_epi16(unsigned, coarse), _mm256_set1_epi16(COARSE as i16));
    let fine = _mm256_madd_epi16(_mm256_maddubs_epi16(unsigned, fine), _mm256_set1_epi16(1));
    _mm256_cvtepi32_ps(_mm256_add_epi32(coarse, fine))
}
