//! How bytes are cut into fields of a few bits.
//!
//! Every CPU of the tier can shift and mask. Those since Ice Lake and Zen 4 have GFNI and VBMI too, which take two or three such steps at
//! once: Q5_0 and Q4_K are bound by them. Both ways are chosen from at run time, and give the same bytes.

use std::arch::asm;
use std::arch::x86_64::*;

/// The instructions for it.
pub trait Bits {
    /// Whether this CPU has them.
    fn detected() -> bool;

    /// The upper nibble of each byte.
    ///
    /// # Safety
    /// The CPU runs the tier and has the instructions.
    unsafe fn high_nibbles(bytes: __m512i) -> __m512i;

    /// The lower nibbles of every second 16 bytes, from the first on, and the upper ones of the others.
    ///
    /// # Safety
    /// As [`high_nibbles`](Self::high_nibbles).
    unsafe fn low_and_high_nibbles(bytes: __m512i) -> __m512i;

    /// `nibbles`, and 16 more where a bit is set: in each eight bytes those from bit `FIRST` on, a multiple of 8 below 32, of the same
    /// eight bytes of `bits`, in order.
    ///
    /// # Safety
    /// As [`high_nibbles`](Self::high_nibbles).
    unsafe fn with_fifth<const FIRST: i64>(nibbles: __m512i, bits: __m512i) -> __m512i;
}

/// Shifts and masks.
pub struct Shifts;

/// GFNI's product of each byte with a matrix of bits, and VBMI's eight bits from anywhere in 64.
pub struct Fields;

/// The number 4 in every word.
const FOURS: i64 = 0x0004_0004_0004_0004;

impl Bits for Shifts {
    fn detected() -> bool {
        true
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn high_nibbles(bytes: __m512i) -> __m512i {
        _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), _mm512_set1_epi8(0x0f))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn low_and_high_nibbles(bytes: __m512i) -> __m512i {
        _mm512_and_si512(
            _mm512_srlv_epi16(bytes, _mm512_broadcast_i64x4(_mm256_setr_epi64x(0, 0, FOURS, FOURS))),
            _mm512_set1_epi8(0x0f),
        )
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn with_fifth<const FIRST: i64>(nibbles: __m512i, bits: __m512i) -> __m512i {
        // The byte of bits goes to its eight elements, which look at one bit each.
        let byte = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 8, 8, 8, 8, 8, 8, 8, 8));
        let byte = _mm512_add_epi8(byte, _mm512_set1_epi8(FIRST as i8 / 8));
        let bit = _mm512_set1_epi64(0x8040_2010_0804_0201_u64 as i64);
        let set = _mm512_test_epi8_mask(_mm512_shuffle_epi8(bits, byte), bit);
        _mm512_mask_add_epi8(nibbles, set, nibbles, _mm512_set1_epi8(16))
    }
}

/// Matrices that take a byte to its lower and to its upper nibble: the first byte picks the bit that becomes the highest.
const LOW_NIBBLE: i64 = i64::from_le_bytes([0, 0, 0, 0, 1 << 3, 1 << 2, 1 << 1, 1]);
const HIGH_NIBBLE: i64 = i64::from_le_bytes([0, 0, 0, 0, 1 << 7, 1 << 6, 1 << 5, 1 << 4]);

impl Bits for Fields {
    fn detected() -> bool {
        is_x86_feature_detected!("gfni") && is_x86_feature_detected!("avx512vbmi")
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn high_nibbles(bytes: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { affine(bytes, _mm512_set1_epi64(HIGH_NIBBLE)) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn low_and_high_nibbles(bytes: __m512i) -> __m512i {
        let matrices = _mm256_setr_epi64x(LOW_NIBBLE, LOW_NIBBLE, HIGH_NIBBLE, HIGH_NIBBLE);
        let matrices = _mm512_broadcast_i64x4(matrices);
        // SAFETY: the caller's promise.
        unsafe { affine(bytes, matrices) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn with_fifth<const FIRST: i64>(nibbles: __m512i, bits: __m512i) -> __m512i {
        let from = _mm512_set1_epi64(const { fields_from(FIRST) });
        // SAFETY: the caller's promise.
        let fifth = unsafe { multishift(from, bits) };
        // nibbles | fifth & 16
        _mm512_ternarylogic_epi32::<0b1111_1000>(nibbles, fifth, _mm512_set1_epi8(16))
    }
}

/// Where the eight bits begin, in 64, of which the fifth is bit `first` and those after it, byte by byte.
const fn fields_from(first: i64) -> i64 {
    let (mut all, mut byte) = (0, 0);
    while byte < 8 {
        all |= ((first + byte - 4) & 63) << (8 * byte);
        byte += 1;
    }
    all
}

/// `vgf2p8affineqb`: each byte times the matrix of its 64 bits. Not the intrinsic, whose feature the kernels around it would have to be
/// compiled with.
///
/// # Safety
/// The CPU has GFNI.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn affine(bytes: __m512i, matrix: __m512i) -> __m512i {
    let out;
    // SAFETY: it computes on registers alone; the CPU has it by the caller's promise.
    unsafe {
        asm!("vgf2p8affineqb {out}, {bytes}, {matrix}, 0", out = lateout(zmm_reg) out, bytes = in(zmm_reg) bytes,
            matrix = in(zmm_reg) matrix, options(pure, nomem, nostack, preserves_flags));
    }
    out
}

/// `vpmultishiftqb`: for each byte the eight bits that begin where `from` says, in its 64 and around their end. Not the intrinsic, as above.
///
/// # Safety
/// The CPU has VBMI.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn multishift(from: __m512i, bits: __m512i) -> __m512i {
    let out;
    // SAFETY: as above.
    unsafe {
        asm!("vpmultishiftqb {out}, {from}, {bits}", out = lateout(zmm_reg) out, from = in(zmm_reg) from,
            bits = in(zmm_reg) bits, options(pure, nomem, nostack, preserves_flags));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(of: __m512i) -> [u8; 64] {
        bytemuck::cast(of_i64(of))
    }

    fn of_i64(of: __m512i) -> [i64; 8] {
        let mut out = [0; 8];
        // SAFETY: whoever has such a vector runs on a CPU that has them; the array is as large.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), of) };
        out
    }

    /// A vector of whatever bytes, different ones for every `seed`.
    #[target_feature(enable = "avx512f")]
    fn noise(seed: u64) -> __m512i {
        let word = |i: u64| (seed * 8 + i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) as i64;
        _mm512_setr_epi64(word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7))
    }

    /// # Safety
    /// The CPU runs the tier and has the instructions.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn check<B: Bits>() {
        for seed in 0..200 {
            let (x, y) = (noise(seed), noise(seed + 1000));
            let nibbles = _mm512_and_si512(x, _mm512_set1_epi8(15));
            // SAFETY: the caller's promise.
            let (high, both, fifths) = unsafe {
                (
                    B::high_nibbles(x),
                    B::low_and_high_nibbles(x),
                    [
                        B::with_fifth::<0>(nibbles, y),
                        B::with_fifth::<8>(nibbles, y),
                        B::with_fifth::<16>(nibbles, y),
                        B::with_fifth::<24>(nibbles, y),
                    ],
                )
            };
            let (x, bits) = (bytes(x), bytes(y));
            assert_eq!(bytes(high), x.map(|x| x >> 4));
            assert_eq!(bytes(both), std::array::from_fn(|i| if i / 16 % 2 == 0 { x[i] & 15 } else { x[i] >> 4 }));
            for (byte, got) in fifths.into_iter().enumerate() {
                let bit = |i: usize| bits[i / 8 * 8 + byte] >> (i % 8) & 1;
                assert_eq!(bytes(got), std::array::from_fn(|i| x[i] & 15 | bit(i) << 4));
            }
        }
    }

    #[test]
    fn all_ways_give_the_bits_asked_for() {
        if !crate::kernels::detected_tiers().contains(&crate::kernels::Tier::Avx512) {
            return;
        }
        // SAFETY: the CPU runs the tier, and has what is detected.
        unsafe {
            check::<Shifts>();
            if Fields::detected() {
                check::<Fields>();
            }
        }
    }
}
