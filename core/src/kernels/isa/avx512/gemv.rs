//! Products of weight rows, where they lie, with one activation row.
//!
//! A step of 256 elements is four vectors of lanes, each multiplied with both planes of the activations. Where 32 elements
//! share a scale the lanes come in [`split`](crate::kernels::activations::split) order, so that the two vectors of four
//! blocks share their integer sums, their conversion and their scale.

use std::arch::x86_64::*;

use super::{Bits, STEP, Unpack};
use crate::kernels::activations::{COARSE, Row};
use crate::kernels::formats::GROUP;
use crate::kernels::lead::Lead;
use crate::kernels::prefetch::Span;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Weight rows multiplied together, which share the loads of the activations.
const TOGETHER: usize = 2;

/// Pairs of rows whose sums are added up across lanes together: row by row, the additions would wait for each other.
const DEFERRED: usize = 8;

/// See [`PanelFn`](crate::kernels::isa::PanelFn). Without `FINE` the fine plane is zero and not looked at.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn panel<F: Unpack, B: Bits, const FINE: bool>(
    data: &[u8],
    row_bytes: usize,
    [x]: &[Row<'_>; 1],
    out: &mut [[f32; 1]],
) {
    let half = out.len() / TOGETHER;
    let (first, rest) = out.as_flattened_mut().split_at_mut(half);
    let (second, last) = rest.split_at_mut(half);
    let (upper, lower) = data.split_at(half * row_bytes);
    // SAFETY: whole rows, equally many; the rest is the caller's promise.
    unsafe { pair::<F, B, FINE>([upper, lower], row_bytes, x, [first, second], Default::default()) };
    if let [last] = last {
        let mut sums = [_mm512_setzero_ps(); TOGETHER * DEFERRED];
        let row = [lower[half * row_bytes..][..row_bytes].as_ptr()];
        // SAFETY: as above.
        [sums[0]] = unsafe { dots::<F, B, FINE, true, 1>(row, &Cut::new::<F>(row_bytes, x), x, &[x.lead]) };
        *last = _mm512_cvtss_f32(reduce(&sums));
    }
}

/// See [`PairFn`](crate::kernels::isa::PairFn).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn pair<F: Unpack, B: Bits, const FINE: bool>(
    data: [&[u8]; TOGETHER],
    row_bytes: usize,
    x: &Row<'_>,
    [first, second]: [&mut [f32]; TOGETHER],
    then: [Span; TOGETHER],
) {
    // The last rows have been asked for before.
    let last = (x.lead.furthest() / row_bytes).min(first.len());
    let across = std::array::from_fn(|i| x.lead.across(last * row_bytes, data[i].as_ptr_range().end, then[i]));
    let at = first.len() - last;
    let [(upper, last_upper), (lower, last_lower)] = data.map(|data| data.split_at(at * row_bytes));
    let ((first, last_first), (second, last_second)) = (first.split_at_mut(at), second.split_at_mut(at));
    let rows = if x.lead.second > 0 { rows::<F, B, FINE, true> } else { rows::<F, B, FINE, false> };
    // SAFETY: whole rows, equally many in both; the rest is the caller's promise.
    unsafe {
        rows([upper, lower], row_bytes, x, &[x.lead; TOGETHER], [first, second]);
        rows([last_upper, last_lower], row_bytes, x, &across, [last_first, last_second]);
    }
}

/// The products of both runs, asking for what lies their leads ahead: `TWICE` if these have a second one.
///
/// # Safety
/// As of [`pair`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn rows<F: Unpack, B: Bits, const FINE: bool, const TWICE: bool>(
    data: [&[u8]; TOGETHER],
    row_bytes: usize,
    x: &Row<'_>,
    leads: &[Lead; TOGETHER],
    [first, second]: [&mut [f32]; TOGETHER],
) {
    let cut = Cut::new::<F>(row_bytes, x);
    assert!(data.iter().all(|data| data.len() >= first.len() * row_bytes), "whole rows");
    let mut rows = data.map(<[u8]>::as_ptr);
    let mut sums = [_mm512_setzero_ps(); TOGETHER * DEFERRED];
    for (first, second) in first.chunks_mut(DEFERRED).zip(second.chunks_mut(DEFERRED)) {
        for r in 0..first.len() {
            // SAFETY: whole rows; by the caller's promise the activations have as many columns, padded to whole steps.
            [sums[r], sums[DEFERRED + r]] = unsafe { dots::<F, B, FINE, TWICE, TOGETHER>(rows, &cut, x, leads) };
            rows = rows.map(|row| row.wrapping_add(row_bytes));
        }
        let totals = reduce(&sums);
        let halves = [_mm512_castps512_ps256(totals), _mm512_extractf32x8_ps::<1>(totals)];
        for (out, half) in [first, second].into_iter().zip(halves) {
            let rows = ((1u32 << out.len()) - 1) as __mmask8;
            // SAFETY: no more lanes than there is room for are stored.
            unsafe { _mm256_mask_storeu_ps(out.as_mut_ptr(), rows, half) };
        }
    }
}

/// How a row is cut into steps, and what a last step reads that ends with the row.
struct Cut {
    /// Whole steps.
    steps: usize,
    /// Bytes after them.
    rest: usize,
    /// Where the last step begins in the row.
    start: usize,
    /// The same among the elements.
    at: usize,
    /// The same in the split planes.
    split_at: usize,
    /// Groups of it that no step before it has.
    keep: __mmask16,
    /// Whether these are all in its second half.
    second_half: bool,
}

impl Cut {
    fn new<F: Unpack>(row_bytes: usize, x: &Row<'_>) -> Self {
        let (steps, rest) = (row_bytes / F::STEP_BYTES, row_bytes % F::STEP_BYTES);
        let skip = (F::STEP_BYTES - rest) / F::BYTES;
        if steps > 0 {
            // A last step that ends with the row; the blocks it shares with the step before it get scale and offset zero.
            let start = row_bytes - F::STEP_BYTES;
            let at = start / F::BYTES * F::LEN;
            let keep = (u32::from(u16::MAX) << (skip * F::LEN / GROUP)) as __mmask16;
            Self {
                steps,
                rest,
                start,
                at,
                split_at: x.split_lanes.len().saturating_sub(STEP),
                keep,
                second_half: skip * F::LEN >= STEP / 2,
            }
        } else {
            // A row shorter than a step is completed with blocks of scale zero.
            let keep = (u32::from(u16::MAX) >> (skip * F::LEN / GROUP)) as __mmask16;
            Self { steps, rest, start: 0, at: 0, split_at: 0, keep, second_half: false }
        }
    }
}

/// Two accumulators per row hide the latency of the additions.
type Sums<const R: usize> = [[__m512; 2]; R];

/// The products of the rows that begin at `start`, as lanes to be added up.
///
/// # Safety
/// The CPU runs the tier; every row is what `cut` was made for, and the activations have as many columns, padded to whole steps.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn dots<F: Unpack, B: Bits, const FINE: bool, const TWICE: bool, const R: usize>(
    start: [*const u8; R],
    cut: &Cut,
    x: &Row<'_>,
    leads: &[Lead; R],
) -> [__m512; R] {
    let mut sums: Sums<R> = [[_mm512_setzero_ps(); 2]; R];
    // SAFETY: the rows are as long as the cut says each, and the activations are padded to whole steps.
    unsafe {
        for s in 0..cut.steps {
            let p = start.map(|p| p.add(s * F::STEP_BYTES));
            ask::<TWICE, R>(p, F::STEP_BYTES, leads);
            step::<F, B, FINE, R, 0>(p, x, s * STEP, s * STEP, !0, &mut sums);
        }
        if cut.rest > 0 {
            ask::<TWICE, R>(start.map(|p| p.add(cut.steps * F::STEP_BYTES)), cut.rest, leads);
            if cut.steps > 0 {
                let p = start.map(|p| p.add(cut.start));
                if cut.second_half {
                    step::<F, B, FINE, R, 1>(p, x, cut.at, cut.split_at, cut.keep, &mut sums);
                } else {
                    step::<F, B, FINE, R, 0>(p, x, cut.at, cut.split_at, cut.keep, &mut sums);
                }
            } else {
                // 272 bytes are the longest step of small blocks.
                let mut bytes = [[0u8; 272]; R];
                for (bytes, start) in bytes.iter_mut().zip(start) {
                    std::ptr::copy_nonoverlapping(start, bytes.as_mut_ptr(), cut.rest);
                }
                let mut p = start;
                for (p, bytes) in p.iter_mut().zip(&bytes) {
                    *p = bytes.as_ptr();
                }
                step::<F, B, FINE, R, 0>(p, x, 0, 0, cut.keep, &mut sums);
            }
        }
    }
    sums.map(|[a, b]| _mm512_add_ps(a, b))
}

/// Asks for what lies the lead ahead of the `bytes` bytes at each of `p`. Requests are one line apart, whatever the alignment: that some
/// lines are asked for twice costs less than finding out which, and a single line of 17 that nobody asks for costs a fifth of the speed.
#[inline(always)]
fn ask<const TWICE: bool, const R: usize>(p: [*const u8; R], bytes: usize, leads: &[Lead; R]) {
    for (p, lead) in p.into_iter().zip(leads) {
        for line in 0..bytes.div_ceil(LINE) {
            let p = p.wrapping_add(line * LINE);
            // SAFETY: prefetching reads nothing, wherever the address is.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(lead.first).cast());
                if TWICE && lead.second > 0 {
                    _mm_prefetch::<_MM_HINT_T1>(p.wrapping_add(lead.second).cast());
                }
            }
        }
    }
}

/// The sum of each vector's lanes, in the lane of its number; one vector's does not depend on the others.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn reduce(v: &[__m512; TOGETHER * DEFERRED]) -> __m512 {
    // Within 128-bit parts first: pairs of vectors, then fours, whose sums are the four words of a part.
    let two = |a, b| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let four = |i: usize| {
        let pairs = [two(v[i], v[i + 1]), two(v[i + 2], v[i + 3])].map(|pair| _mm512_castps_pd(pair));
        let (low, high) = (_mm512_unpacklo_pd(pairs[0], pairs[1]), _mm512_unpackhi_pd(pairs[0], pairs[1]));
        _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high))
    };
    let eight =
        |a, b| _mm512_add_ps(_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b));
    let (low, high) = (eight(four(0), four(4)), eight(four(8), four(12)));
    _mm512_add_ps(_mm512_shuffle_f32x4::<0b10_00_10_00>(low, high), _mm512_shuffle_f32x4::<0b11_01_11_01>(low, high))
}

/// Adds the products of the steps at `p` with elements `at..at + 256` of the activations, which begin at `split_at` in the
/// split planes, from half `FIRST` on and of the groups in `keep`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn step<F: Unpack, B: Bits, const FINE: bool, const R: usize, const FIRST: usize>(
    p: [*const u8; R],
    x: &Row<'_>,
    at: usize,
    split_at: usize,
    keep: __mmask16,
    sums: &mut Sums<R>,
) {
    // SAFETY: the caller promises a whole step at each of `p` and 256 elements in `x` from `at` on, which is a multiple of 16.
    unsafe {
        let mut scales = [_mm512_setzero_ps(); R];
        for r in 0..R {
            scales[r] = F::weigh(p[r], x, at, keep, &mut sums[r][0]);
        }
        let plane = |plane: &[i8], at: usize, i: usize| _mm512_loadu_si512(plane.as_ptr().add(at + 64 * i).cast());
        for half in FIRST..2 {
            let (i, j) = (2 * half, 2 * half + 1);
            if F::SPAN > GROUP {
                let coarse = [plane(x.split_lanes, split_at, i), plane(x.split_lanes, split_at, j)];
                let fine = [plane(x.split_fine, split_at, i), plane(x.split_fine, split_at, j)];
                let spread = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 2, 2, 2, 2, 6, 6, 6, 6);
                let spread = _mm512_add_epi32(spread, _mm512_set1_epi32(8 * half as i32));
                for r in 0..R {
                    let lanes = [F::lanes::<B>(p[r], i), F::lanes::<B>(p[r], j)];
                    let dots = _mm512_dpbusd_epi32(_mm512_setzero_si512(), lanes[0], coarse[0]);
                    let dots = _mm512_dpbusd_epi32(dots, lanes[1], coarse[1]);
                    let mut dots = _mm512_slli_epi32::<{ COARSE.trailing_zeros() }>(dots);
                    if FINE {
                        dots = _mm512_dpbusd_epi32(dots, lanes[0], fine[0]);
                        dots = _mm512_dpbusd_epi32(dots, lanes[1], fine[1]);
                    }
                    let scale = _mm512_permutexvar_ps(spread, scales[r]);
                    sums[r][half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, sums[r][half]);
                }
            } else {
                for i in [i, j] {
                    let (coarse, fine) = (plane(x.lanes, at, i), plane(x.fine, at, i));
                    let spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
                    let spread = _mm512_add_epi32(spread, _mm512_set1_epi32(4 * i as i32));
                    for r in 0..R {
                        let lanes = F::lanes::<B>(p[r], i);
                        let dots = _mm512_dpbusd_epi32(_mm512_setzero_si512(), lanes, coarse);
                        let mut dots = _mm512_slli_epi32::<{ COARSE.trailing_zeros() }>(dots);
                        if FINE {
                            dots = _mm512_dpbusd_epi32(dots, lanes, fine);
                        }
                        let scale = _mm512_permutexvar_ps(spread, scales[r]);
                        sums[r][i % 2] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, sums[r][i % 2]);
                    }
                }
            }
        }
    }
}
