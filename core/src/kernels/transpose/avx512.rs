//! Sixteen by sixteen at a time: a line of a cache is read or written whole, and once.

use std::arch::x86_64::*;
use std::ops::Range;

use crate::kernels::prefetch::ask_to_write;

/// Puts element k of `line(i)` into element i of row k, or adds it to what is there, for the lines of `span`, a multiple of 16 of them, and k below 16.
///
/// # Safety
/// The CPU has AVX-512F; every line has 16 elements, and `rows` 16 rows, `width` elements apart, with an element for each line.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn put<const ADD: bool>(
    line: impl Fn(usize) -> *const f32,
    span: Range<usize>,
    rows: *mut f32,
    width: usize,
) {
    for i in span.step_by(16) {
        // SAFETY: lines i to i + 16 are in the span, see above.
        unsafe {
            let mut block = [_mm512_setzero_si512(); 16];
            for (k, place) in block.iter_mut().enumerate() {
                *place = _mm512_loadu_si512(line(i + k).cast());
            }
            for (k, column) in square(block).into_iter().enumerate() {
                let (to, column) = (rows.add(k * width + i), _mm512_castsi512_ps(column));
                // The row's next line: in a column of lines so far apart no unit fetches ahead.
                ask_to_write(to.wrapping_add(16).cast(), 1);
                _mm512_storeu_ps(to, if ADD { _mm512_add_ps(_mm512_loadu_ps(to), column) } else { column });
            }
        }
    }
}

/// Turns round 16 × 16 words of 32 bits.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernels) fn square(rows: [__m512i; 16]) -> [__m512i; 16] {
    // Pairs, then fours within 128-bit parts, then the parts themselves.
    let mut pairs = rows;
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // fours[4q + c] holds word c of every 128-bit part, of rows 4q..4q + 4.
    let mut fours = pairs;
    for q in 0..4 {
        let [a, b, c, d] = [pairs[4 * q], pairs[4 * q + 1], pairs[4 * q + 2], pairs[4 * q + 3]];
        fours[4 * q] = _mm512_unpacklo_epi64(a, c);
        fours[4 * q + 1] = _mm512_unpackhi_epi64(a, c);
        fours[4 * q + 2] = _mm512_unpacklo_epi64(b, d);
        fours[4 * q + 3] = _mm512_unpackhi_epi64(b, d);
    }
    let mut out = fours;
    for c in 0..4 {
        let low = _mm512_shuffle_i32x4::<0b01_00_01_00>(fours[c], fours[4 + c]);
        let low_high = _mm512_shuffle_i32x4::<0b11_10_11_10>(fours[c], fours[4 + c]);
        let high = _mm512_shuffle_i32x4::<0b01_00_01_00>(fours[8 + c], fours[12 + c]);
        let high_high = _mm512_shuffle_i32x4::<0b11_10_11_10>(fours[8 + c], fours[12 + c]);
        out[c] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low, high);
        out[4 + c] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low, high);
        out[8 + c] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low_high, high_high);
        out[12 + c] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low_high, high_high);
    }
    out
}
