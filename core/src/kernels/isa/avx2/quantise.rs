//! The quantiser of activations.

use std::arch::x86_64::*;

use super::{RUN, total};
use crate::kernels::activations::{COARSE, quantise_row, steps};
use crate::kernels::formats::GROUP;
use crate::kernels::vector::ROUND;

/// [`quantise_row`] with whole blocks done by hand.
#[target_feature(enable = "avx2")]
pub fn quantise(x: &[f32], lanes: &mut [i8], fine: &mut [i8], scales: &mut [f32], totals: &mut [i32]) {
    let (blocks, rest) = x.as_chunks::<RUN>();
    let whole = blocks.len();
    let (lanes, lanes_rest) = lanes.split_at_mut(whole * RUN);
    let (fine, fine_rest) = fine.split_at_mut(whole * RUN);
    let (scales, scales_rest) = scales.split_at_mut(whole * (RUN / GROUP));
    let (totals, totals_rest) = totals.split_at_mut(whole * (RUN / GROUP));
    let planes = lanes.as_chunks_mut::<RUN>().0.iter_mut().zip(fine.as_chunks_mut::<RUN>().0);
    let outputs = planes.zip(scales.as_chunks_mut().0).zip(totals.as_chunks_mut().0);
    for (x, ((planes, scales), totals)) in blocks.iter().zip(outputs) {
        quantise_block(x, planes, scales, totals);
    }
    quantise_row(rest, lanes_rest, fine_rest, scales_rest, totals_rest);
}

#[inline]
#[target_feature(enable = "avx2")]
fn quantise_block(
    x: &[f32; RUN],
    (lanes, fine): (&mut [i8; RUN], &mut [i8; RUN]),
    scales: &mut [f32; 2],
    totals: &mut [i32; 2],
) {
    // SAFETY: the four vectors are the block's 32 elements.
    let v: [__m256; 4] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(x.as_ptr().add(8 * i)) });
    let zero = _mm256_setzero_ps();
    let magnitude = v.map(|v| _mm256_andnot_ps(_mm256_set1_ps(-0.0), v));
    let amax = _mm256_max_ps(_mm256_max_ps(magnitude[0], magnitude[1]), _mm256_max_ps(magnitude[2], magnitude[3]));
    let amax = _mm_max_ps(_mm256_castps256_ps128(amax), _mm256_extractf128_ps(amax, 1));
    let amax = _mm_max_ps(amax, _mm_movehl_ps(amax, amax));
    let amax = _mm_cvtss_f32(_mm_max_ss(amax, _mm_movehdup_ps(amax)));
    let poison = v.map(|v| _mm256_mul_ps(v, zero));
    let poison = _mm256_add_ps(_mm256_add_ps(poison[0], poison[1]), _mm256_add_ps(poison[2], poison[3]));
    let (inverse, scale) = steps(amax);
    let scale = scale + total(poison);

    let rounder = _mm256_set1_ps(ROUND);
    let words = v.map(|v| {
        let rounded = _mm256_add_ps(_mm256_mul_ps(v, _mm256_set1_ps(inverse)), rounder);
        // The upper bits are the rounder's own.
        _mm256_sub_epi32(_mm256_castps_si256(rounded), _mm256_castps_si256(rounder))
    });
    const SHIFT: i32 = COARSE.trailing_zeros() as i32;
    let coarse = words.map(|w| _mm256_srai_epi32::<SHIFT>(_mm256_add_epi32(w, _mm256_set1_epi32(COARSE / 2))));
    let rest: [__m256i; 4] = std::array::from_fn(|i| _mm256_sub_epi32(words[i], _mm256_slli_epi32::<SHIFT>(coarse[i])));
    // SAFETY: the block has 32 lanes in each plane.
    unsafe {
        _mm256_storeu_si256(lanes.as_mut_ptr().cast(), to_bytes(coarse));
        _mm256_storeu_si256(fine.as_mut_ptr().cast(), to_bytes(rest));
    }
    let sum = |a, b| {
        let eight = _mm256_add_epi32(a, b);
        let four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
        let two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0b01_00_11_10));
        _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0b10_11_00_01)))
    };
    *scales = [scale; 2];
    *totals = [sum(words[0], words[1]), sum(words[2], words[3])];
}

/// 32 numbers that fit a signed byte, as bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn to_bytes(words: [__m256i; 4]) -> __m256i {
    // Packing works on 128-bit halves and leaves groups of four elements in the order 0, 2, 4, 6, 1, 3, 5, 7.
    let bytes = _mm256_packs_epi16(_mm256_packs_epi32(words[0], words[1]), _mm256_packs_epi32(words[2], words[3]));
    _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}
