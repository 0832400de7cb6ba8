//! Between a row and lines.

use std::arch::x86_64::*;

use super::sixteens::lane;
use crate::kernels::{LANES, LaneBin};

/// The numbers of `row`, by twos, to lines.
///
/// # Safety
/// The CPU has AVX-512F.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn take(row: &[f32], places: &[u32], lines: &mut [LaneBin]) {
    let [re, im] = [0, 1].map(|part| {
        let mut from = [0; LANES];
        for number in 0..LANES {
            from[lane(number)] = 2 * number as i32 + part;
        }
        from
    });
    // SAFETY: as many numbers as are loaded.
    let (re, im) = unsafe { (_mm512_loadu_si512(re.as_ptr().cast()), _mm512_loadu_si512(im.as_ptr().cast())) };
    for (&place, pairs) in places.iter().zip(row.as_chunks::<{ 2 * LANES }>().0) {
        let line = &mut lines[place as usize];
        // SAFETY: there are 32 numbers in the pairs, and 16 in each part of a line.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(pairs.as_ptr()), _mm512_loadu_ps(pairs.as_ptr().add(LANES)));
            _mm512_storeu_ps(line.re.as_mut_ptr(), _mm512_permutex2var_ps(low, re, high));
            _mm512_storeu_ps(line.im.as_mut_ptr(), _mm512_permutex2var_ps(low, im, high));
        }
    }
}

/// The way back, with real and imaginary parts exchanged.
///
/// # Safety
/// The CPU has AVX-512F.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn put(lines: &[LaneBin], places: &[u32], row: &mut [f32]) {
    let [low, high] = [0, LANES / 2].map(|first| {
        // Lanes of the second register are counted from 16 on.
        let from = |i: usize| lane(first + i / 2) + i % 2 * LANES;
        std::array::from_fn::<i32, LANES, _>(|i| from(i) as i32)
    });
    // SAFETY: as many numbers as are loaded.
    let (low, high) = unsafe { (_mm512_loadu_si512(low.as_ptr().cast()), _mm512_loadu_si512(high.as_ptr().cast())) };
    for (&place, pairs) in places.iter().zip(row.as_chunks_mut::<{ 2 * LANES }>().0) {
        let line = &lines[place as usize];
        // SAFETY: there are 16 numbers in each part of a line, and 32 in the pairs.
        unsafe {
            let (re, im) = (_mm512_loadu_ps(line.im.as_ptr()), _mm512_loadu_ps(line.re.as_ptr()));
            _mm512_storeu_ps(pairs.as_mut_ptr(), _mm512_permutex2var_ps(re, low, im));
            _mm512_storeu_ps(pairs.as_mut_ptr().add(LANES), _mm512_permutex2var_ps(re, high, im));
        }
    }
}
