//! Four by eight at a time: the halves of a register come from lines four apart, so that no step crosses them.

use std::arch::x86_64::*;
use std::ops::Range;

use super::LANES;

/// Elements `j` of 8 lines to `to[j · LANES..][..8]`, for `j` below `columns`, a multiple of four.
///
/// # Safety
/// The CPU has AVX; every line has `columns` elements, and `to` the places named.
#[inline]
#[target_feature(enable = "avx")]
pub(super) unsafe fn turn(lines: [*const f32; 8], columns: usize, to: *mut f32) {
    for j in (0..columns).step_by(4) {
        // SAFETY: j + 4 is at most `columns`, see above.
        unsafe {
            for (k, column) in block(|line| lines[line].add(j)).into_iter().enumerate() {
                _mm256_storeu_ps(to.add((j + k) * LANES), column);
            }
        }
    }
}

/// Puts element k of `line(i)` into element i of row k, or adds it to what is there, for the lines of `span`, a multiple of eight of them, and k below 4.
///
/// # Safety
/// The CPU has AVX; every line has four elements, and `rows` four rows, `width` elements apart, with an element for each line.
#[inline]
#[target_feature(enable = "avx")]
pub(super) unsafe fn put<const ADD: bool>(
    line: impl Fn(usize) -> *const f32,
    span: Range<usize>,
    rows: *mut f32,
    width: usize,
) {
    for i in span.step_by(8) {
        // SAFETY: lines i to i + 8 are in the span, see above.
        unsafe {
            for (k, column) in block(|row| line(i + row)).into_iter().enumerate() {
                let to = rows.add(k * width + i);
                _mm256_storeu_ps(to, if ADD { _mm256_add_ps(_mm256_loadu_ps(to), column) } else { column });
            }
        }
    }
}

/// The columns of four elements of eight lines.
///
/// # Safety
/// The CPU has AVX; every line has four elements.
#[inline]
#[target_feature(enable = "avx")]
unsafe fn block(line: impl Fn(usize) -> *const f32) -> [__m256; 4] {
    // SAFETY: see above.
    let load = |k: usize| unsafe { _mm256_loadu2_m128(line(k + 4), line(k)) };
    let (a, b, c, d) = (load(0), load(1), load(2), load(3));
    let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    [
        _mm256_shuffle_ps::<0x44>(ab_low, cd_low),
        _mm256_shuffle_ps::<0xee>(ab_low, cd_low),
        _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
        _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
    ]
}
