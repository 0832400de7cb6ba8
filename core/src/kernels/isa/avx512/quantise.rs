//! The quantiser of activations: four blocks at a time, whose largest magnitudes and sums are found together.

use std::arch::x86_64::*;

use crate::kernels::activations::{BLOCK, COARSE, Q_MAX, TINY};
use crate::kernels::formats::GROUP;
use crate::kernels::isa::avx2;
use crate::kernels::vector::ROUND;

/// Blocks that are quantised together.
const FOUR: usize = 4;
/// Their elements.
const STEP: usize = FOUR * BLOCK;
/// Their groups.
const GROUPS: usize = STEP / GROUP;

/// [`quantise_row`](crate::kernels::activations::quantise_row) with fours of whole blocks done by hand.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub fn quantise(x: &[f32], lanes: &mut [i8], fine: &mut [i8], scales: &mut [f32], totals: &mut [i32]) {
    let (fours, rest) = x.as_chunks::<STEP>();
    let (lanes, lanes_rest) = lanes.split_at_mut(fours.len() * STEP);
    let (fine, fine_rest) = fine.split_at_mut(fours.len() * STEP);
    let (scales, scales_rest) = scales.split_at_mut(fours.len() * GROUPS);
    let (totals, totals_rest) = totals.split_at_mut(fours.len() * GROUPS);
    let planes = lanes.as_chunks_mut::<STEP>().0.iter_mut().zip(fine.as_chunks_mut::<STEP>().0);
    let outputs = planes.zip(scales.as_chunks_mut::<GROUPS>().0).zip(totals.as_chunks_mut::<GROUPS>().0);
    for (x, ((planes, scales), totals)) in fours.iter().zip(outputs) {
        quantise_four(x, planes, scales, totals);
    }
    avx2::quantise(rest, lanes_rest, fine_rest, scales_rest, totals_rest);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn quantise_four(
    x: &[f32; STEP],
    (lanes, fine): (&mut [i8; STEP], &mut [i8; STEP]),
    scales: &mut [f32; GROUPS],
    totals: &mut [i32; GROUPS],
) {
    // SAFETY: the vectors are the groups of the step.
    let v: [__m512; GROUPS] = std::array::from_fn(|i| unsafe { _mm512_loadu_ps(x.as_ptr().add(GROUP * i)) });
    let pairs: [[__m512; 2]; FOUR] = std::array::from_fn(|b| [v[2 * b], v[2 * b + 1]]);
    let amax =
        in_lanes(pairs.map(|[a, b]| _mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b))), |a, b| _mm512_max_ps(a, b));
    let amax = halves(amax, |a, b| _mm_max_ps(a, b));
    // Zero for finite numbers, NaN for the others.
    let zero = _mm512_setzero_ps();
    let poison = pairs.map(|[a, b]| _mm512_add_ps(_mm512_mul_ps(a, zero), _mm512_mul_ps(b, zero)));
    let poison = halves(in_lanes(poison, |a, b| _mm512_add_ps(a, b)), |a, b| _mm_add_ps(a, b));

    // As `steps`.
    let q_max = _mm_set1_ps(Q_MAX);
    let keep = _mm_cmp_ps_mask::<_CMP_GT_OQ>(amax, _mm_set1_ps(TINY));
    let inverse = _mm_maskz_div_ps(keep, q_max, amax);
    let scale = _mm_add_ps(_mm_maskz_div_ps(keep, amax, q_max), poison);

    let inverse = _mm512_castps128_ps512(inverse);
    let rounder = _mm512_set1_ps(ROUND);
    let mut words = [_mm512_setzero_si512(); GROUPS];
    for (i, word) in words.iter_mut().enumerate() {
        let inverse = _mm512_permutexvar_ps(_mm512_set1_epi32(i as i32 / 2), inverse);
        let rounded = _mm512_add_ps(_mm512_mul_ps(v[i], inverse), rounder);
        // The upper bits are the rounder's own.
        *word = _mm512_sub_epi32(_mm512_castps_si512(rounded), _mm512_castps_si512(rounder));
    }
    const SHIFT: u32 = COARSE.trailing_zeros();
    for (i, &word) in words.iter().enumerate() {
        let coarse = _mm512_srai_epi32::<SHIFT>(_mm512_add_epi32(word, _mm512_set1_epi32(COARSE / 2)));
        let rest = _mm512_sub_epi32(word, _mm512_slli_epi32::<SHIFT>(coarse));
        // SAFETY: a group has 16 lanes in each plane.
        unsafe {
            _mm_storeu_si128(lanes.as_mut_ptr().add(GROUP * i).cast(), _mm512_cvtsepi32_epi8(coarse));
            _mm_storeu_si128(fine.as_mut_ptr().add(GROUP * i).cast(), _mm512_cvtsepi32_epi8(rest));
        }
    }
    let of_groups = _mm256_permutexvar_ps(_mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3), _mm256_castps128_ps256(scale));
    // SAFETY: there are eight groups.
    unsafe {
        _mm256_storeu_ps(scales.as_mut_ptr(), of_groups);
        _mm256_storeu_si256(totals.as_mut_ptr().cast(), group_sums(words));
    }
}

/// What `of` makes of the words of each 128-bit part, of four vectors, the first's in the first word.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_lanes([a, b, c, d]: [__m512; FOUR], of: impl Fn(__m512, __m512) -> __m512) -> __m512 {
    let two = |a, b| _mm512_castps_pd(of(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    let (ab, cd) = (two(a, b), two(c, d));
    of(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)))
}

/// What `of` makes of the 128-bit parts.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(v: __m512, of: impl Fn(__m128, __m128) -> __m128) -> __m128 {
    let low = of(_mm512_castps512_ps128(v), _mm512_extractf32x4_ps::<1>(v));
    of(low, of(_mm512_extractf32x4_ps::<2>(v), _mm512_extractf32x4_ps::<3>(v)))
}

/// The sums of eight vectors, each in the lane of its number.
#[inline]
#[target_feature(enable = "avx512f")]
fn group_sums(v: [__m512i; GROUPS]) -> __m256i {
    let two = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let four = |i: usize| {
        let (a, b) = (two(v[i], v[i + 1]), two(v[i + 2], v[i + 3]));
        _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
    };
    let (low, high) = (four(0), four(4));
    let eight = _mm512_add_epi32(
        _mm512_shuffle_i32x4::<0b01_00_01_00>(low, high),
        _mm512_shuffle_i32x4::<0b11_10_11_10>(low, high),
    );
    // Two parts of the first four sums, then two of the others.
    let parts = _mm512_shuffle_i32x4::<0b11_01_10_00>(eight, eight);
    _mm256_add_epi32(_mm512_castsi512_si256(parts), _mm512_extracti64x4_epi64::<1>(parts))
}
