//! Four by eight at a time, as two squares of four.

use std::arch::aarch64::*;
use std::ops::Range;

use super::LANES;

/// Elements `j` of 8 lines to `to[j · LANES..][..8]`, for `j` below `columns`, a multiple of four.
///
/// # Safety
/// Every line has `columns` elements, and `to` the places named.
#[inline]
pub(super) unsafe fn turn(lines: [*const f32; 8], columns: usize, to: *mut f32) {
    for j in (0..columns).step_by(4) {
        for half in [0, 4] {
            // SAFETY: j + 4 is at most `columns`, see above.
            unsafe {
                for (k, column) in square(|line| lines[half + line].add(j)).into_iter().enumerate() {
                    vst1q_f32(to.add((j + k) * LANES + half), column);
                }
            }
        }
    }
}

/// Puts element k of `line(i)` into element i of row k, or adds it to what is there, for the lines of `span`, a multiple of four of them, and k below 4.
///
/// # Safety
/// Every line has four elements, and `rows` four rows, `width` elements apart, with an element for each line.
#[inline]
pub(super) unsafe fn put<const ADD: bool>(
    line: impl Fn(usize) -> *const f32,
    span: Range<usize>,
    rows: *mut f32,
    width: usize,
) {
    for i in span.step_by(4) {
        // SAFETY: lines i to i + 4 are in the span, see above.
        unsafe {
            for (k, column) in square(|row| line(i + row)).into_iter().enumerate() {
                let to = rows.add(k * width + i);
                vst1q_f32(to, if ADD { vaddq_f32(vld1q_f32(to), column) } else { column });
            }
        }
    }
}

/// The columns of four elements of four lines.
///
/// # Safety
/// Every line has four elements.
#[inline]
unsafe fn square(line: impl Fn(usize) -> *const f32) -> [float32x4_t; 4] {
    // SAFETY: see above.
    unsafe {
        let load = |k: usize| vld1q_f32(line(k));
        let (a, b, c, d) = (load(0), load(1), load(2), load(3));
        // Elements 0 and 2, and 1 and 3, of two lines beside each other.
        let pairs = |x, y| (vreinterpretq_f64_f32(vtrn1q_f32(x, y)), vreinterpretq_f64_f32(vtrn2q_f32(x, y)));
        let ((ab_even, ab_odd), (cd_even, cd_odd)) = (pairs(a, b), pairs(c, d));
        [
            vreinterpretq_f32_f64(vtrn1q_f64(ab_even, cd_even)),
            vreinterpretq_f32_f64(vtrn1q_f64(ab_odd, cd_odd)),
            vreinterpretq_f32_f64(vtrn2q_f64(ab_even, cd_even)),
            vreinterpretq_f32_f64(vtrn2q_f64(ab_odd, cd_odd)),
        ]
    }
}
