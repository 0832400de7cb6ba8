//! The sums over the 16 numbers of each line, eight lines at a time.
//!
//! With `c = 4a + b` and `j = i + 4h`, `k + P·j` is of frequency
//!
//! ```text
//! Σ_b e^{−2πi·b·h/4} · e^{−2πi·b·(k + P·i)/M} · Σ_a e^{−2πi·a·i/4} · e^{−2πi·4a·k/M} · (c-th number of line k)
//! ```
//!
//! two transforms of four numbers and a factor before each but the first. Numbers of the same a of four lines are brought together for
//! the inner one, then those of the same b and two i of all eight for the outer, which leaves eight bins in a row beside each other.
//! With four lines there would be twice as many stores, and a cache takes one of a place at a time.

use std::arch::x86_64::*;

use num_complex::Complex32;

use super::numbers::{Numbers, four};
use super::of_lanes;
use crate::kernels::circle::circle;
use crate::kernels::{LANES, LaneBin};

/// Lines that are transformed together.
pub(super) const LINES: usize = 8;

/// The lane of a line's number.
pub(super) fn lane(number: usize) -> usize {
    number % 4 * 4 + number / 4
}

/// The factors of eight lines.
#[derive(Debug)]
pub struct Factors {
    /// `e^{−2πi·b·(k + P·i)/M}` for i of 0 and 1, then of 2 and 3, and b from 1 to 3, in lane 8·(i % 2) + q of line k, the q-th.
    outer: [[LaneBin; 3]; 2],
    /// `e^{−2πi·4a·k/M}` for a from 1 to 3 of four lines, then of the other four, in lane 4(a − 1) + q.
    inner: [LaneBin; 2],
}

impl Factors {
    /// Of all lines, eight by eight.
    pub fn of(lines: usize) -> Box<[Self]> {
        let m = LANES * lines;
        let outer = |start: usize, i: usize, b: usize| {
            of_lanes(|lane| circle(b * (start + lane % LINES + lines * (i + lane / LINES)), m))
        };
        let inner = |start: usize| {
            of_lanes(|lane| match lane / 4 {
                3 => Complex32::default(),
                a => circle(4 * (a + 1) * (start + lane % 4), m),
            })
        };
        starts(lines)
            .map(|start| Self {
                outer: [0, 2].map(|i| [1, 2, 3].map(|b| outer(start, i, b))),
                inner: [start, start + 4].map(inner),
            })
            .collect()
    }
}

/// The inner factors of the `A`-th numbers, from 1 on.
#[inline]
#[target_feature(enable = "avx512f")]
fn inner<const A: usize>(of: &LaneBin) -> Numbers {
    const { assert!(1 <= A && A <= 3) };
    // SAFETY: four numbers from 4(A − 1) on are in both parts.
    unsafe {
        let part = |part: &[f32; LANES]| _mm512_broadcast_f32x4(_mm_loadu_ps(part.as_ptr().add(4 * (A - 1))));
        Numbers { re: part(&of.re), im: part(&of.im) }
    }
}

/// Where eights of lines begin; the last may have some of the one before.
fn starts(lines: usize) -> impl Iterator<Item = usize> {
    (0..lines).step_by(LINES).map(move |start| start.min(lines - LINES))
}

/// Turns the real parts and the imaginary ones of four.
macro_rules! both {
    ($turn:ident, $numbers:expr) => {{
        let [a, b, c, d] = $numbers;
        let (re, im) = ($turn([a.re, b.re, c.re, d.re]), $turn([a.im, b.im, c.im, d.im]));
        [
            Numbers { re: re[0], im: im[0] },
            Numbers { re: re[1], im: im[1] },
            Numbers { re: re[2], im: im[2] },
            Numbers { re: re[3], im: im[3] },
        ]
    }};
}

/// Lines to parts of sums in order.
///
/// # Safety
/// The CPU has AVX-512F; there are eight lines at least, their factors, and 16 numbers of each part for each line.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn down(lines: &[LaneBin], factors: &[Factors], [re, im]: [&mut [f32]; 2]) {
    let p = lines.len();
    for (start, w) in starts(p).zip(factors) {
        let [a0, a1, a2, a3] = inner_down(&lines[start..], &w.inner[0]);
        let [b0, b1, b2, b3] = inner_down(&lines[start + 4..], &w.inner[1]);
        for (i, numbers, w) in [(0, [a0, b0, a1, b1], &w.outer[0]), (2, [a2, b2, a3, b3], &w.outer[1])] {
            let [b0, b1, b2, b3] = both!(across, numbers);
            let even = b0.plus_times(Numbers::of(&w[1]), b2);
            let (b1, b3) = (b1.times(Numbers::of(&w[0])), b3.times(Numbers::of(&w[2])));
            let sums = four([even, b0.rest(even)], [b1.plus(b3), b1.minus(b3)]);
            for (h, sum) in sums.into_iter().enumerate() {
                let at = (4 * h + i) * p + start;
                // SAFETY: eight numbers from there on, and P further, are inside the parts for h up to 3 and i up to 2, because
                // start + 8 is at most P.
                unsafe {
                    put(sum.re, re.as_mut_ptr().add(at), p);
                    put(sum.im, im.as_mut_ptr().add(at), p);
                }
            }
        }
    }
}

/// The inner transforms of the first four lines: in lane 4b + q, the sum over a of the b-th numbers of line q.
#[inline]
#[target_feature(enable = "avx512f")]
fn inner_down(lines: &[LaneBin], w: &LaneBin) -> [Numbers; 4] {
    let lines = &lines[..4];
    let ([l0, l1], [l2, l3]) =
        ([Numbers::of(&lines[0]), Numbers::of(&lines[1])], [Numbers::of(&lines[2]), Numbers::of(&lines[3])]);
    let [a0, a1, a2, a3] = both!(within, [l0, l1, l2, l3]);
    let even = a0.plus_times(inner::<2>(w), a2);
    let (a1, a3) = (a1.times(inner::<1>(w)), a3.times(inner::<3>(w)));
    four([even, a0.rest(even)], [a1.plus(a3), a1.minus(a3)])
}

/// The way back.
///
/// # Safety
/// As [`down`].
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn up([re, im]: [&[f32]; 2], factors: &[Factors], lines: &mut [LaneBin]) {
    let p = lines.len();
    for (start, w) in starts(p).zip(factors) {
        let zero = Numbers { re: _mm512_setzero_ps(), im: _mm512_setzero_ps() };
        let mut turned = [[zero; 4]; 2];
        for (half, (turned, w)) in turned.iter_mut().zip(&w.outer).enumerate() {
            let mut sums = [zero; 4];
            for (h, sum) in sums.iter_mut().enumerate() {
                let at = (4 * h + 2 * half) * p + start;
                // SAFETY: as in `down`.
                *sum = unsafe { Numbers { re: get(re.as_ptr().add(at), p), im: get(im.as_ptr().add(at), p) } };
            }
            let [h0, h1, h2, h3] = sums;
            let (even, odd) = (h0.plus(h2), h1.plus(h3));
            let [b0, b1, b2, b3] = four([even, h0.rest(even)], [odd, h1.rest(odd)]);
            let b1 = b1.times(Numbers::of(&w[0]));
            let b2 = b2.times(Numbers::of(&w[1]));
            let b3 = b3.times(Numbers::of(&w[2]));
            *turned = both!(across, [b0, b1, b2, b3]);
        }
        let [[a0, b0, a1, b1], [a2, b2, a3, b3]] = turned;
        inner_up([a0, a1, a2, a3], &w.inner[0], &mut lines[start..]);
        inner_up([b0, b1, b2, b3], &w.inner[1], &mut lines[start + 4..]);
    }
}

/// The way back of [`inner_down`].
#[inline]
#[target_feature(enable = "avx512f")]
fn inner_up([i0, i1, i2, i3]: [Numbers; 4], w: &LaneBin, lines: &mut [LaneBin]) {
    let [a0, a1, a2, a3] = four([i0.plus(i2), i0.minus(i2)], [i1.plus(i3), i1.minus(i3)]);
    let (a1, a2, a3) = (a1.times(inner::<1>(w)), a2.times(inner::<2>(w)), a3.times(inner::<3>(w)));
    let fours = both!(within, [a0, a1, a2, a3]);
    for (numbers, line) in fours.into_iter().zip(&mut lines[..4]) {
        numbers.to(line);
    }
}

/// Halves of a register to two places, `apart` numbers from each other.
///
/// # Safety
/// The CPU has AVX-512F; there are eight numbers at each place.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn put(halves: __m512, to: *mut f32, apart: usize) {
    // SAFETY: see above.
    unsafe {
        _mm256_storeu_ps(to, _mm512_castps512_ps256(halves));
        _mm256_storeu_pd(to.add(apart).cast(), _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(halves)));
    }
}

/// The way back.
///
/// # Safety
/// As [`put`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn get(from: *const f32, apart: usize) -> __m512 {
    // SAFETY: see above.
    unsafe {
        let (low, high) = (_mm256_loadu_ps(from), _mm256_loadu_pd(from.add(apart).cast()));
        _mm512_castpd_ps(_mm512_insertf64x4::<1>(_mm512_castps_pd(_mm512_castps256_ps512(low)), high))
    }
}

/// Quarter q of register a to quarter a of register q.
#[inline]
#[target_feature(enable = "avx512f")]
fn across([a, b, c, d]: [__m512; 4]) -> [__m512; 4] {
    let (ab_low, ab_high) = (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
    let (cd_low, cd_high) = (_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xee>(c, d));
    [
        _mm512_shuffle_f32x4::<0x88>(ab_low, cd_low),
        _mm512_shuffle_f32x4::<0xdd>(ab_low, cd_low),
        _mm512_shuffle_f32x4::<0x88>(ab_high, cd_high),
        _mm512_shuffle_f32x4::<0xdd>(ab_high, cd_high),
    ]
}

/// In each quarter, number q of register a to number a of register q.
#[inline]
#[target_feature(enable = "avx512f")]
fn within([a, b, c, d]: [__m512; 4]) -> [__m512; 4] {
    let pairs =
        |low: bool, a, b| _mm512_castps_pd(if low { _mm512_unpacklo_ps(a, b) } else { _mm512_unpackhi_ps(a, b) });
    let (ab_low, ab_high, cd_low, cd_high) =
        (pairs(true, a, b), pairs(false, a, b), pairs(true, c, d), pairs(false, c, d));
    [
        _mm512_castpd_ps(_mm512_unpacklo_pd(ab_low, cd_low)),
        _mm512_castpd_ps(_mm512_unpackhi_pd(ab_low, cd_low)),
        _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high)),
        _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high)),
    ]
}
