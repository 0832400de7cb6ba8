//! How each format's bytes become vectors of lanes, scales and offsets: a step of one row in registers, for products where the row lies, and
//! one of 16 rows turned round, for panels. May use `bits`.

mod k_quants;
mod small;

use std::arch::x86_64::*;

use super::STEP;
use super::bits::Bits;
use crate::kernels::activations::Row;
use crate::kernels::formats::{Format, GROUP};

/// The most vectors that a step's lanes lie in.
pub const MAX_VECTORS: usize = 4;

/// The bytes of 16 rows turned round: word `w` of vector `i` of each of them is vector `w` of `i`.
pub type Turned = [[__m512i; 16]; MAX_VECTORS];

/// Scales of a step, and second numbers, which multiplied with [`Unpack::OFFSET`] are offsets.
pub enum Numbers {
    /// A scale and a second number in turn of eight blocks or groups of 32 elements, in the order of
    /// [`INTERLEAVED`](crate::kernels::activations::INTERLEAVED).
    Pairs(__m512),
    /// The scales of 16 groups of 16 elements, and their second numbers.
    Groups(__m512, __m512),
}

/// How a format's bytes become vectors.
pub trait Unpack: Format {
    /// Columns that share a scale: 16 or 32.
    const SPAN: usize;
    /// The lane of weight zero, half of the number of lanes there are, where offsets follow from it; 0 where they are the file's.
    const ZERO: u8;
    /// What second numbers are multiplied with to be offsets.
    const OFFSET: f32;
    /// Vectors that the lanes of a step lie in.
    const VECTORS: usize;
    /// Bytes of a step.
    const STEP_BYTES: usize = STEP / Self::LEN * Self::BYTES;

    /// The numbers of the step at `p`, of pairs or of groups as [`SPAN`](Self::SPAN) says.
    ///
    /// # Safety
    /// The CPU runs the tier and `p` is followed by a whole step.
    unsafe fn numbers(p: *const u8) -> Numbers;

    /// Vector `i` of the step at `p`, as unsigned lanes: elements `64i..64i + 64` where 16 elements share a scale, else elements
    /// `8i..8i + 8` of eight groups of 32, in the order of their numbers.
    ///
    /// # Safety
    /// As [`numbers`](Self::numbers), the CPU has the instructions of `B`, and `i` is below 4.
    unsafe fn lanes<B: Bits>(p: *const u8, i: usize) -> __m512i;

    /// Vector `i` of what the lanes of the step at `p` lie in.
    ///
    /// # Safety
    /// As [`numbers`](Self::numbers), and `i` is below [`VECTORS`](Self::VECTORS).
    unsafe fn bytes(p: *const u8, i: usize) -> __m512i;

    /// Columns `32 · run + 4 · four` and three more of 16 rows, whose bytes are turned round: as unsigned lanes, a word a row.
    ///
    /// # Safety
    /// The CPU runs the tier.
    unsafe fn columns(turned: &Turned, run: usize, four: usize) -> __m512i;
}

/// The scales of the step at `p` times those of elements `at..at + 256` of the activations, of the lanes in `keep` of its numbers: one
/// lane a group of 16, or the even lanes where 32 elements share a scale. The offsets times the activations' sums are added to `sum`.
///
/// # Safety
/// The CPU runs the tier, `p` is followed by a whole step, and the activations have that many elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub unsafe fn weigh<F: Unpack>(p: *const u8, x: &Row<'_>, at: usize, keep: __mmask16, sum: &mut __m512) -> __m512 {
    // SAFETY: the caller promises 256 activations from `at` on, which have eight pairs.
    let load = |x: &[f32], at: usize| unsafe { _mm512_loadu_ps(x.as_ptr().add(at)) };
    // SAFETY: the caller promises a whole step.
    match unsafe { F::numbers(p) } {
        // Both of a pair are multiplied at once, and what belongs to the rows' numbers alone is computed once for all rows.
        Numbers::Pairs(pairs) => {
            let x = load(x.pairs, at / 8);
            let x = if F::OFFSET == 1.0 { x } else { _mm512_mul_ps(x, in_turn(1.0, F::OFFSET)) };
            let both = _mm512_maskz_mul_ps(keep, pairs, x);
            *sum = _mm512_mask_add_ps(*sum, 0xaaaa, *sum, both);
            both
        }
        Numbers::Groups(scales, seconds) => {
            let sums = _mm512_mul_ps(load(x.sums, at / GROUP), _mm512_set1_ps(F::OFFSET));
            *sum = _mm512_mask3_fmadd_ps(seconds, sums, *sum, keep);
            _mm512_maskz_mul_ps(keep, scales, load(x.scales, at / GROUP))
        }
    }
}

/// Two numbers in turn.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_turn(even: f32, odd: f32) -> __m512 {
    _mm512_mask_blend_ps(0xaaaa, _mm512_set1_ps(even), _mm512_set1_ps(odd))
}

/// Eight bytes in turn of both halves of a step, the first eight of every 16, or the others where `upper`.
#[inline]
#[target_feature(enable = "avx512f")]
fn interleave([low, high]: [__m512i; 2], upper: bool) -> __m512i {
    if upper { _mm512_unpackhi_epi64(low, high) } else { _mm512_unpacklo_epi64(low, high) }
}

/// The lower nibbles of bytes, or the upper ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn nibble(bytes: __m512i, upper: bool) -> __m512i {
    _mm512_and_si512(if upper { _mm512_srli_epi16::<4>(bytes) } else { bytes }, _mm512_set1_epi8(0x0f))
}

/// A format whose lanes are `centred` on one of them, from which offsets follow, or whose second numbers are offsets once multiplied with
/// `offset`.
macro_rules! unpack {
    (
        $format:ty, $span:literal columns in $vectors:literal vectors, centred: $zero:literal,
        $($functions:tt)*
    ) => {
        unpack!(@ $format, $span, $vectors, $zero, -($zero as f32), $($functions)*);
    };
    (
        $format:ty, $span:literal columns in $vectors:literal vectors, offset: $offset:literal,
        $($functions:tt)*
    ) => {
        unpack!(@ $format, $span, $vectors, 0, $offset, $($functions)*);
    };
    (
        @ $format:ty, $span:literal, $vectors:literal, $zero:literal, $offset:expr,
        numbers: |$n:ident| $numbers:expr,
        lanes: |$l:ident, $i:ident| $lanes:expr,
        bytes: |$b:ident, $j:ident| $bytes:expr,
        columns: |$turned:ident, $run:ident, $four:ident| $columns:expr,
    ) => {
        impl Unpack for $format {
            const SPAN: usize = $span;
            const ZERO: u8 = $zero;
            const OFFSET: f32 = $offset;
            const VECTORS: usize = $vectors;

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn numbers($n: *const u8) -> Numbers {
                // SAFETY: the caller promises a whole step at the pointer.
                unsafe { $numbers }
            }

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn lanes<B: Bits>($l: *const u8, $i: usize) -> __m512i {
                // SAFETY: the caller promises a whole step at the pointer and a vector below 4.
                unsafe { $lanes }
            }

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn bytes($b: *const u8, $j: usize) -> __m512i {
                // SAFETY: the caller promises a whole step at the pointer and a vector that lanes lie in.
                unsafe { $bytes }
            }

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn columns($turned: &Turned, $run: usize, $four: usize) -> __m512i {
                $columns
            }
        }
    };
}
use unpack;
