//! A plane of activations in the order of [`Split::Eighths`](crate::kernels::activations::Split::Eighths), which products of one row read.

use std::arch::x86_64::*;

use crate::kernels::activations::Eighth;

/// Blocks of which an eighth each, and those beside them, fill a cache line.
const FOUR: usize = 4;

/// The blocks' eighths: a line of each of the four streams at a time.
///
/// # Panics
/// If there are no blocks, or the streams are not whole lines.
#[target_feature(enable = "avx512f,avx512dq")]
pub fn split_eighths(plane: &[[Eighth; 4]], out: &mut [[Eighth; 2]]) {
    let (lines, rest) = out.as_chunks_mut::<FOUR>();
    let each = lines.len() / 4;
    assert!(!plane.is_empty() && rest.is_empty() && lines.len() == 4 * each, "streams of whole lines");
    let mut next = 0;
    let mut blocks = [two(plane, &mut next), two(plane, &mut next)];
    for line in 0..each {
        let after = [two(plane, &mut next), two(plane, &mut next)];
        let [a, b] = [0, 1].map(|i| {
            // Of blocks 0, 1 and 4, 5: the first eighths and the third ones of both; the second and the fourth ones.
            [_mm512_unpacklo_epi64(blocks[i], after[i]), _mm512_unpackhi_epi64(blocks[i], after[i])]
        });
        let eighths = [
            _mm512_shuffle_i32x4::<0b10_00_10_00>(a[0], b[0]),
            _mm512_shuffle_i32x4::<0b10_00_10_00>(a[1], b[1]),
            _mm512_shuffle_i32x4::<0b11_01_11_01>(a[0], b[0]),
            _mm512_shuffle_i32x4::<0b11_01_11_01>(a[1], b[1]),
        ];
        for (i, eighths) in eighths.into_iter().enumerate() {
            // SAFETY: a line has 64 bytes.
            unsafe { _mm512_storeu_si512(lines[i * each + line].as_mut_ptr().cast(), eighths) };
        }
        blocks = after;
    }
}

/// Two blocks that follow one another, the first one after the last.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn two(plane: &[[Eighth; 4]], next: &mut usize) -> __m512i {
    let mut halves = [_mm256_setzero_si256(); 2];
    for half in &mut halves {
        // SAFETY: a block has 32 bytes.
        *half = unsafe { _mm256_loadu_si256(plane[*next].as_ptr().cast()) };
        *next = if *next + 1 < plane.len() { *next + 1 } else { 0 };
    }
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(halves[0]), halves[1])
}
