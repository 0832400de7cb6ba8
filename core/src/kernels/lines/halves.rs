//! Between the transform Z of a row's halves, M numbers, and the row's half spectrum X.
//!
//! ```text
//! S, D = Z[k] ± Z*[M−k]        X[k] = S/2 + turn[k]·D          X[M−k] = (S/2 − turn[k]·D)*        turn[k] = −i/2·e^{−πi·k/M}
//! S, D = X[k] ± X*[M−k]        Z[k] = S + 2·turn*[k]·D         Z[M−k] = (S − 2·turn*[k]·D)*
//! ```
//!
//! Sixteen k at a time, from both ends to the middle. The mirror of numbers `16i` to `16i + 15` begins one number later than sixteens
//! do, so of two registers next to each other one gives its first number and the other the rest: all loads and stores are of whole
//! sixteens.

use std::arch::x86_64::*;

use num_complex::Complex32;

use super::numbers::Numbers;
use crate::kernels::{LANES, LaneBin};

/// Number 0 of `first`, then the last to the second of `rest`.
#[inline]
#[target_feature(enable = "avx512f")]
fn mirrored(first: Numbers, rest: Numbers) -> Numbers {
    let order = _mm512_setr_epi32(16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1);
    Numbers {
        re: _mm512_permutex2var_ps(rest.re, order, first.re),
        im: _mm512_permutex2var_ps(rest.im, order, first.im),
    }
}

/// `a ± b*`.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum_and_difference(a: Numbers, b: Numbers) -> (Numbers, Numbers) {
    (
        Numbers { re: _mm512_add_ps(a.re, b.re), im: _mm512_sub_ps(a.im, b.im) },
        Numbers { re: _mm512_sub_ps(a.re, b.re), im: _mm512_add_ps(a.im, b.im) },
    )
}

/// Z to X, and to the conjugate of X where there is room for it.
///
/// # Safety
/// The CPU has AVX-512F and DQ. M is a multiple of 16 and not 0; there are M numbers of both parts, M + 1 bins and conjugates, and
/// sixteen turns for each 32 of M, rounded up.
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) unsafe fn split(
    [re, im]: [&[f32]; 2],
    turns: &[LaneBin],
    spectrum: &mut [Complex32],
    conjugate: Option<&mut [Complex32]>,
) {
    let m = re.len();
    let bins = spectrum.as_mut_ptr();
    let conjugates = conjugate.map_or(std::ptr::null_mut(), <[Complex32]>::as_mut_ptr);
    let sign = _mm512_set1_ps(-0.0);
    let second = _mm512_castsi512_ps(_mm512_set1_epi64(i64::MIN));
    let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    let high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    // SAFETY: every `at` below is a multiple of 16 less than m; there are as many numbers and one bin more.
    unsafe {
        let get =
            |at: usize| Numbers { re: _mm512_loadu_ps(re.as_ptr().add(at)), im: _mm512_loadu_ps(im.as_ptr().add(at)) };
        let put = |at: usize, x: Numbers| {
            let pairs = [_mm512_permutex2var_ps(x.re, low, x.im), _mm512_permutex2var_ps(x.re, high, x.im)];
            for (at, pairs) in [at, at + LANES / 2].into_iter().zip(pairs) {
                _mm512_storeu_ps(bins.add(at).cast(), pairs);
                if !conjugates.is_null() {
                    _mm512_storeu_ps(conjugates.add(at).cast(), _mm512_xor_ps(pairs, second));
                }
            }
        };
        let half = _mm512_set1_ps(0.5);
        // The mirror of number 0 is itself.
        let mut before = get(0);
        let mut far_before = before;
        for (i, turn) in turns.iter().enumerate() {
            let after = get(m - LANES * (i + 1));
            let (sum, difference) = sum_and_difference(get(LANES * i), mirrored(before, after));
            before = after;
            let turned = difference.times(Numbers::of(turn));
            let near =
                Numbers { re: _mm512_fmadd_ps(sum.re, half, turned.re), im: _mm512_fmadd_ps(sum.im, half, turned.im) };
            let far = Numbers { re: _mm512_sub_ps(sum.re, near.re), im: _mm512_sub_ps(near.im, sum.im) };
            put(LANES * i, near);
            if i > 0 {
                put(m - LANES * i, mirrored(far, far_before));
            }
            far_before = far;
        }
        if (m / LANES).is_multiple_of(2) {
            // Bin M/2 is the conjugate of Z[M/2].
            let middle = Numbers { re: before.re, im: _mm512_xor_ps(before.im, sign) };
            put(m / 2, mirrored(middle, far_before));
        }
        let last = Complex32::new(re[0] - im[0], 0.0);
        *bins.add(m) = last;
        if !conjugates.is_null() {
            *conjugates.add(m) = last;
        }
    }
}

/// X to Z, exchanging real and imaginary parts. The first and the last of X are taken as real and twice as large.
///
/// # Safety
/// As [`split`].
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) unsafe fn join(spectrum: &[Complex32], turns: &[LaneBin], [re, im]: [&mut [f32]; 2]) {
    let m = re.len();
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    let (sign, two) = (_mm512_set1_ps(-0.0), _mm512_set1_ps(2.0));
    let bins = spectrum.as_ptr();
    let parts = [re.as_mut_ptr(), im.as_mut_ptr()];
    // SAFETY: as in `split`.
    unsafe {
        let get = |at: usize| {
            let (low, high) = (_mm512_loadu_ps(bins.add(at).cast()), _mm512_loadu_ps(bins.add(at + LANES / 2).cast()));
            Numbers { re: _mm512_permutex2var_ps(low, even, high), im: _mm512_permutex2var_ps(low, odd, high) }
        };
        let put = |at: usize, z: Numbers| {
            _mm512_storeu_ps(parts[0].add(at), z.im);
            _mm512_storeu_ps(parts[1].add(at), z.re);
        };
        // What it makes of number 0 is replaced below.
        let mut before = get(0);
        let mut far_before = before;
        for (i, turn) in turns.iter().enumerate() {
            let after = get(m - LANES * (i + 1));
            let (sum, difference) = sum_and_difference(get(LANES * i), mirrored(before, after));
            before = after;
            let turn = Numbers::of(turn);
            let turned = difference.times(Numbers { re: turn.re, im: _mm512_xor_ps(turn.im, sign) });
            let near =
                Numbers { re: _mm512_fmadd_ps(turned.re, two, sum.re), im: _mm512_fmadd_ps(turned.im, two, sum.im) };
            let far = Numbers { re: _mm512_fmsub_ps(sum.re, two, near.re), im: _mm512_fnmadd_ps(sum.im, two, near.im) };
            put(LANES * i, near);
            if i > 0 {
                put(m - LANES * i, mirrored(far, far_before));
            }
            far_before = far;
        }
        if (m / LANES).is_multiple_of(2) {
            // Z[M/2] is twice the conjugate of bin M/2.
            let middle =
                Numbers { re: _mm512_mul_ps(before.re, two), im: _mm512_mul_ps(before.im, _mm512_set1_ps(-2.0)) };
            put(m / 2, mirrored(middle, far_before));
        }
    }
    let (first, last) = (2.0 * spectrum[0].re, 2.0 * spectrum[m].re);
    (im[0], re[0]) = (first + last, first - last);
}
