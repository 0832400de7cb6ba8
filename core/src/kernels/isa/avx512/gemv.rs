//! Products of weight rows, where they lie, with one activation row.
//!
//! A step of 256 elements is four vectors of lanes, each multiplied with both planes of the activations. Where 32 elements
//! share a scale a vector has eight elements of each of eight blocks, so that all four share their integer sums, their conversion and
//! their scales. Rows of such blocks that are not whole steps are multiplied as one long row.

use std::arch::x86_64::*;

use super::unpack::weigh;
use super::{Bits, STEP, Unpack};
use crate::kernels::activations::{BLOCK, BLOCKS, COARSE, INTERLEAVED, Row};
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
        [sums[0]] = unsafe { dots::<F, B, FINE, true, 1>(row, &Cut::new::<F>(row_bytes), x, &[x.lead]) };
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
    // Which rows are multiplied together does not depend on where that is.
    let at = (first.len() - last).next_multiple_of(DEFERRED).min(first.len());
    let last = first.len() - at;
    let across = std::array::from_fn(|i| x.lead.across(last * row_bytes, data[i].as_ptr_range().end, then[i]));
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
    let cut = Cut::new::<F>(row_bytes);
    assert!(data.iter().all(|data| data.len() >= first.len() * row_bytes), "whole rows");
    let mut rows = data.map(<[u8]>::as_ptr);
    let mut sums = [_mm512_setzero_ps(); TOGETHER * DEFERRED];
    for (first, second) in first.chunks_mut(DEFERRED).zip(second.chunks_mut(DEFERRED)) {
        let joined = first.len() / cut.period * cut.period;
        // Only small blocks are ever joined.
        if F::LEN == BLOCK && joined > 0 {
            // SAFETY: whole rows; by the caller's promise the activations have as many columns.
            rows = unsafe { join::<F, B, FINE, TWICE>(rows, joined, row_bytes / F::BYTES, x, leads, &mut sums) };
        }
        for r in joined..first.len() {
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
    /// Numbers of the blocks in it that no step before it has.
    keep: __mmask16,
    /// Rows after which a step ends where a row does, if these are multiplied as if they were one, or more than there ever are.
    period: usize,
}

impl Cut {
    fn new<F: Unpack>(row_bytes: usize) -> Self {
        let (steps, rest) = (row_bytes / F::STEP_BYTES, row_bytes % F::STEP_BYTES);
        let skip = (F::STEP_BYTES - rest) / F::BYTES;
        let period = if steps > 0 && rest > 0 { BLOCKS >> (row_bytes / F::BYTES).trailing_zeros() } else { usize::MAX };
        if steps > 0 {
            // A last step that ends with the row; the blocks it shares with the step before it get scale and offset zero.
            let start = row_bytes - F::STEP_BYTES;
            let at = start / F::BYTES * F::LEN;
            Self { steps, rest, start, at, keep: !first_blocks(skip * F::LEN / BLOCK), period }
        } else {
            // A row shorter than a step is completed with blocks of scale zero.
            Self { steps, rest, start: 0, at: 0, keep: first_blocks(BLOCKS - skip * F::LEN / BLOCK), period }
        }
    }
}

/// Where the numbers of the first `blocks` blocks of a step are among its pairs.
fn first_blocks(blocks: usize) -> __mmask16 {
    const FIRST: [__mmask16; BLOCKS + 1] = {
        let mut first = [0; BLOCKS + 1];
        let mut i = 0;
        while i < BLOCKS * BLOCKS {
            let (blocks, place) = (i / BLOCKS + 1, i % BLOCKS);
            if INTERLEAVED[place] < blocks {
                first[blocks] |= 3 << (2 * place);
            }
            i += 1;
        }
        first
    };
    FIRST[blocks]
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
            step::<F, B, FINE, R>(p, x, s * STEP, !0, &mut sums);
        }
        if cut.rest > 0 {
            ask::<TWICE, R>(start.map(|p| p.add(cut.steps * F::STEP_BYTES)), cut.rest, leads);
            if cut.steps > 0 {
                let p = start.map(|p| p.add(cut.start));
                step::<F, B, FINE, R>(p, x, cut.at, cut.keep, &mut sums);
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
                step::<F, B, FINE, R>(p, x, 0, cut.keep, &mut sums);
            }
        }
    }
    sums.map(|[a, b]| _mm512_add_ps(a, b))
}

/// The products of `rows` rows of each run, of `blocks` small blocks, as if they were one long row: where a step goes from one to the
/// next, its products are added to both, each block's to its own. The last step must end with the last row. Returns where that is.
///
/// A row by itself of 18 blocks would be two steps and a third that is nearly as long as they are, for two blocks.
///
/// # Safety
/// The CPU runs the tier; there are as many rows, of more than a step, and the activations have as many columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn join<F: Unpack, B: Bits, const FINE: bool, const TWICE: bool>(
    mut p: [*const u8; TOGETHER],
    rows: usize,
    blocks: usize,
    x: &Row<'_>,
    leads: &[Lead; TOGETHER],
    totals: &mut [__m512; TOGETHER * DEFERRED],
) -> [*const u8; TOGETHER] {
    let mut sums: Sums<TOGETHER> = [[_mm512_setzero_ps(); 2]; TOGETHER];
    let (mut row, mut block) = (0, 0);
    while row < rows {
        ask::<TWICE, TOGETHER>(p, F::STEP_BYTES, leads);
        let (at, left) = (block * BLOCK, blocks - block);
        // SAFETY: the step lies in the rows, and the activations go round from their last block to the first.
        unsafe {
            let next = if left >= BLOCKS {
                step::<F, B, FINE, TOGETHER>(p, x, at, !0, &mut sums);
                [[_mm512_setzero_ps(); 2]; TOGETHER]
            } else {
                across::<F, B, FINE, TOGETHER>(p, x, at, left, &mut sums)
            };
            if left > BLOCKS {
                block += BLOCKS;
            } else {
                [totals[row], totals[DEFERRED + row]] = sums.map(|[a, b]| _mm512_add_ps(a, b));
                sums = next;
                (row, block) = (row + 1, BLOCKS - left);
            }
        }
        p = p.map(|p| p.wrapping_add(F::STEP_BYTES));
    }
    p
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

/// As [`step`] for steps of which the first `left` blocks, fewer than all, end a row and are added to `sums`; returns the sums of the others,
/// which begin the next.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn across<F: Unpack, B: Bits, const FINE: bool, const R: usize>(
    p: [*const u8; R],
    x: &Row<'_>,
    at: usize,
    left: usize,
    sums: &mut Sums<R>,
) -> Sums<R> {
    let mut next: Sums<R> = [[_mm512_setzero_ps(); 2]; R];
    let keep = first_blocks(left);
    // SAFETY: as the caller of `step` promises.
    unsafe {
        let mut scales = [[_mm512_setzero_ps(); 2]; R];
        for r in 0..R {
            scales[r] =
                [weigh::<F>(p[r], x, at, keep, &mut sums[r][0]), weigh::<F>(p[r], x, at, !keep, &mut next[r][0])];
        }
        let dots = eighths::<F, B, FINE, R>(p, x, at);
        for r in 0..R {
            for (sums, scales) in [&mut sums[r], &mut next[r]].into_iter().zip(scales[r]) {
                sums[1] = _mm512_fmadd_ps(dots[r], _mm512_moveldup_ps(scales), sums[1]);
            }
        }
    }
    next
}

/// The integer products of eight small blocks of each step, two lanes a block.
///
/// # Safety
/// As [`step`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn eighths<F: Unpack, B: Bits, const FINE: bool, const R: usize>(
    p: [*const u8; R],
    x: &Row<'_>,
    at: usize,
) -> [__m512; R] {
    let mut out = [_mm512_setzero_ps(); R];
    // SAFETY: the caller promises the steps, and that many activations.
    unsafe {
        let mut coarse = [_mm512_setzero_si512(); 4];
        let mut fine = coarse;
        for i in 0..4 {
            let at = at / 2 + i * (x.split_lanes.len() / 4);
            coarse[i] = _mm512_loadu_si512(x.split_lanes.as_ptr().add(at).cast());
            fine[i] = _mm512_loadu_si512(x.split_fine.as_ptr().add(at).cast());
        }
        for r in 0..R {
            let mut lanes = [_mm512_setzero_si512(); 4];
            let (mut dots, mut rest) = (_mm512_setzero_si512(), _mm512_setzero_si512());
            for i in 0..4 {
                lanes[i] = F::lanes::<B>(p[r], i);
                dots = _mm512_dpbusd_epi32(dots, lanes[i], coarse[i]);
                if FINE {
                    rest = _mm512_dpbusd_epi32(rest, lanes[i], fine[i]);
                }
            }
            if FINE {
                dots = _mm512_add_epi32(_mm512_slli_epi32::<{ COARSE.trailing_zeros() }>(dots), rest);
            }
            out[r] = _mm512_cvtepi32_ps(dots);
        }
    }
    out
}

/// Adds the products of the steps at `p` with elements `at..at + 256` of the activations, of the numbers in `keep`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn step<F: Unpack, B: Bits, const FINE: bool, const R: usize>(
    p: [*const u8; R],
    x: &Row<'_>,
    at: usize,
    keep: __mmask16,
    sums: &mut Sums<R>,
) {
    // SAFETY: the caller promises a whole step at each of `p` and 256 elements in `x` from `at` on, which is a multiple of 32.
    unsafe {
        let mut scales = [_mm512_setzero_ps(); R];
        for r in 0..R {
            scales[r] = weigh::<F>(p[r], x, at, keep, &mut sums[r][0]);
        }
        if F::SPAN > GROUP {
            let dots = eighths::<F, B, FINE, R>(p, x, at);
            for r in 0..R {
                sums[r][1] = _mm512_fmadd_ps(dots[r], _mm512_moveldup_ps(scales[r]), sums[r][1]);
            }
            return;
        }
        for i in 0..4 {
            let plane = |plane: &[i8]| _mm512_loadu_si512(plane.as_ptr().add(at + 64 * i).cast());
            let (coarse, fine) = (plane(x.lanes), plane(x.fine));
            let spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
            let spread = _mm512_add_epi32(spread, _mm512_set1_epi32(4 * i as i32));
            for r in 0..R {
                let lanes = F::lanes::<B>(p[r], i);
                let mut dots = _mm512_dpbusd_epi32(_mm512_setzero_si512(), lanes, coarse);
                if FINE {
                    let coarse = _mm512_slli_epi32::<{ COARSE.trailing_zeros() }>(dots);
                    dots = _mm512_dpbusd_epi32(coarse, lanes, fine);
                }
                let scale = _mm512_permutexvar_ps(spread, scales[r]);
                sums[r][i % 2] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, sums[r][i % 2]);
            }
        }
    }
}
