//! How each format's bytes become vectors of lanes, scales and offsets.

use std::arch::x86_64::*;

use super::STEP;
use crate::kernels::formats::{
    Format, Iq4Nl, LEVELS, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, q3k_scales, q45k_scales,
};

/// How a format's bytes become vectors.
pub trait Unpack: Format {
    /// Columns that share a scale: 16 or 32.
    const SPAN: usize;
    /// Whether the lanes come in [split](crate::kernels::activations::split) order: those of all small blocks do.
    const SPLIT: bool = Self::LEN < STEP;
    /// Bytes of a step.
    const STEP_BYTES: usize = STEP / Self::LEN * Self::BYTES;

    /// Scales and offsets of the 16 groups of the step at `p`.
    ///
    /// # Safety
    /// The CPU runs the tier and `p` is followed by a whole step.
    unsafe fn scales(p: *const u8) -> (__m512, __m512);

    /// Vector `i` of the step at `p`, as unsigned lanes: elements `64i..64i + 64` where 16 elements share a scale or a block has
    /// 256, else the first (even `i`) or second halves of four blocks of 32.
    ///
    /// # Safety
    /// As [`scales`](Self::scales), and `i` is below 4.
    unsafe fn lanes(p: *const u8, i: usize) -> __m512i;
}

/// Where the leading words of four blocks of `bytes` bytes lie, each twice and once more for the next four: in the 64 bytes
/// from the first block on, or, from index 32 on, in 64 bytes from [`second_load`] on.
const fn head_words(bytes: usize) -> [i16; 16] {
    let mut index = [0; 16];
    let mut i = 0;
    while i < 16 {
        let offset = i % 8 / 2 * bytes;
        index[i] = if offset < 64 { offset / 2 } else { 32 + (offset - second_load(bytes)) / 2 } as i16;
        i += 1;
    }
    index
}

/// The last place in four blocks of `bytes` bytes from which 64 bytes can be read, or block 2 if that comes before.
const fn second_load(bytes: usize) -> usize {
    let last = 4 * bytes - 64;
    if last < 2 * bytes { last } else { 2 * bytes }
}

/// Scale and offset of the groups of eight small blocks: the f16 scale at the start of each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn small_scales<const BYTES: usize>(p: *const u8) -> __m512 {
    // SAFETY: the caller promises eight blocks of `BYTES` bytes; the index table is 32 bytes.
    unsafe {
        let load = |at: usize| _mm512_loadu_si512(p.add(at).cast());
        let index = const { head_words(BYTES) };
        let index = _mm512_castsi256_si512(_mm256_loadu_si256(index.as_ptr().cast()));
        let second = const { second_load(BYTES) };
        let low = _mm512_permutex2var_epi16(load(0), index, load(second));
        let high = _mm512_permutex2var_epi16(load(4 * BYTES), index, load(4 * BYTES + second));
        let both = _mm256_blend_epi32::<0xf0>(_mm512_castsi512_si256(low), _mm512_castsi512_si256(high));
        _mm512_cvtph_ps(both)
    }
}

/// As [`small_scales`] for blocks of 18 bytes: words 0, 9, 18 and 27 of each half of the step.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn small_scales_18(p: *const u8) -> __m512 {
    // SAFETY: the caller promises eight blocks, 144 bytes, of which bytes 0..64 and 72..136 are read.
    let (low, high) = unsafe { (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(72).cast())) };
    let index = _mm512_castsi256_si512(_mm256_setr_epi16(0, 0, 9, 9, 18, 18, 27, 27, 32, 32, 41, 41, 50, 50, 59, 59));
    _mm512_cvtph_ps(_mm512_castsi512_si256(_mm512_permutex2var_epi16(low, index, high)))
}

/// Scales and offsets of the groups of eight small blocks from their leading f16 pairs.
#[inline]
#[target_feature(enable = "avx512f")]
fn split_pairs(pairs: __m256i) -> (__m512, __m512) {
    let pairs = _mm512_cvtph_ps(pairs);
    (_mm512_moveldup_ps(pairs), _mm512_movehdup_ps(pairs))
}

/// The offset of lanes centred on `zero`.
#[inline]
#[target_feature(enable = "avx512f")]
fn centre(scale: __m512, zero: f32) -> (__m512, __m512) {
    (scale, _mm512_mul_ps(scale, _mm512_set1_ps(-zero)))
}

/// The f16 at `p`, in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn splat_f16(p: *const u8) -> __m512 {
    // SAFETY: the caller promises two bytes at `p`.
    let half = unsafe { p.cast::<i16>().read_unaligned() };
    _mm512_cvtph_ps(_mm256_set1_epi16(half))
}

/// Where the words of chunks of 16 bytes in blocks 0, 2, 1, 3 of `bytes` bytes lie: in the 64 bytes from the first chunk on,
/// or, from index 32 on, in the 64 bytes that end with the last.
const fn chunk_words(bytes: usize) -> [i16; 32] {
    let mut index = [0; 32];
    let mut i = 0;
    while i < 32 {
        let block = [0, 2, 1, 3][i / 8];
        let offset = block * bytes + i % 8 * 2;
        let from_end = 3 * bytes + 16 - 64;
        index[i] = if block < 2 { offset / 2 } else { 32 + (offset - from_end) / 2 } as i16;
        i += 1;
    }
    index
}

/// The 16 bytes at offset `at` of each of four blocks of `BYTES` bytes, from block `4 · half` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn chunks<const BYTES: usize>(p: *const u8, half: usize, at: usize) -> __m512i {
    // SAFETY: the caller promises eight blocks and half < 2; the index table is 64 bytes.
    unsafe {
        let first = p.add(4 * half * BYTES + at);
        let end = _mm512_loadu_si512(first.add(3 * BYTES + 16 - 64).cast());
        let index = const { chunk_words(BYTES) };
        _mm512_permutex2var_epi16(_mm512_loadu_si512(first.cast()), _mm512_loadu_si512(index.as_ptr().cast()), end)
    }
}

/// The nibbles of vector `i` of eight blocks whose 16 bytes of them lie at offset `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn nibbles<const BYTES: usize>(p: *const u8, i: usize, at: usize) -> __m512i {
    // SAFETY: as the caller promises.
    let both = unsafe { chunks::<BYTES>(p, i / 2, at) };
    let nibbles = if i.is_multiple_of(2) { both } else { _mm512_srli_epi16::<4>(both) };
    _mm512_and_si512(nibbles, _mm512_set1_epi8(0x0f))
}

/// As [`nibbles`], with the fifth bits that lie in the four bytes before them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn five_bits<const BYTES: usize>(p: *const u8, i: usize, at: usize) -> __m512i {
    // SAFETY: the caller promises eight blocks and i < 4.
    unsafe {
        let bits = |b: usize| u64::from(p.add((4 * (i / 2) + b) * BYTES + at).cast::<u32>().read_unaligned());
        // The lower half of each block's bits belongs to its first 16 elements.
        let (front, back) = (bits(0) | bits(1) << 32, bits(2) | bits(3) << 32);
        const LOWER: u64 = 0x0000_ffff_0000_ffff;
        let bits = if i.is_multiple_of(2) {
            front & LOWER | (back & LOWER) << 16
        } else {
            front >> 16 & LOWER | back & !LOWER
        };
        let low = nibbles::<BYTES>(p, i, at + 4);
        _mm512_mask_add_epi8(low, bits, low, _mm512_set1_epi8(16))
    }
}

macro_rules! unpack {
    ($format:ty, $span:expr, |$p:ident| $scales:expr, |$q:ident, $i:ident| $lanes:expr) => {
        impl Unpack for $format {
            const SPAN: usize = $span;

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn scales($p: *const u8) -> (__m512, __m512) {
                // SAFETY: the caller promises a whole step at the pointer.
                unsafe { $scales }
            }

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn lanes($q: *const u8, $i: usize) -> __m512i {
                // SAFETY: the caller promises a whole step at the pointer and a quarter below 4.
                unsafe { $lanes }
            }
        }
    };
}

unpack!(Q4_0, 32, |p| centre(small_scales_18(p), 8.0), |p, i| nibbles::<18>(p, i, 2));
unpack!(Q4_1, 32, |p| pairs_20(p), |p, i| nibbles::<20>(p, i, 4));
unpack!(Q5_0, 32, |p| centre(small_scales::<22>(p), 16.0), |p, i| five_bits::<22>(p, i, 2));
unpack!(Q5_1, 32, |p| pairs_24(p), |p, i| five_bits::<24>(p, i, 4));
unpack!(Q8_0, 32, |p| centre(small_scales::<34>(p), 128.0), |p, i| {
    _mm512_xor_si512(chunks::<34>(p, i / 2, 2 + i % 2 * 16), _mm512_set1_epi8(-128))
});
unpack!(Iq4Nl, 32, |p| centre(small_scales_18(p), 128.0), |p, i| {
    let levels = _mm512_broadcast_i32x4(_mm_loadu_si128(LEVELS.as_ptr().cast()));
    let signed = _mm512_shuffle_epi8(levels, nibbles::<18>(p, i, 2));
    _mm512_xor_si512(signed, _mm512_set1_epi8(-128))
});
unpack!(Q2K, 16, |p| two_bit_scales(p), |p, i| two_bits(p.add(16), i));
unpack!(
    Q3K,
    16,
    |p| {
        let packed = q3k_scales(&p.add(96).cast::<[u8; 12]>().read_unaligned());
        let scales = _mm512_cvtepu8_epi32(_mm_loadu_si128(packed.as_ptr().cast()));
        let scales = _mm512_cvtepi32_ps(_mm512_sub_epi32(scales, _mm512_set1_epi32(32)));
        centre(_mm512_mul_ps(scales, splat_f16(p.add(108))), 4.0)
    },
    |p, i| {
        let low = two_bits(p.add(32), i);
        _mm512_mask_add_epi8(low, run_bits(p, i), low, _mm512_set1_epi8(4))
    }
);
unpack!(Q4K, 32, |p| scales_and_minima(p), |p, i| k_nibbles(p.add(16), i));
unpack!(Q5K, 32, |p| scales_and_minima(p), |p, i| {
    let low = k_nibbles(p.add(48), i);
    _mm512_mask_add_epi8(low, run_bits(p.add(16), i), low, _mm512_set1_epi8(16))
});
unpack!(
    Q6K,
    16,
    |p| {
        let scales = _mm512_cvtepi8_epi32(_mm_loadu_si128(p.add(192).cast()));
        centre(_mm512_mul_ps(_mm512_cvtepi32_ps(scales), splat_f16(p.add(208))), 32.0)
    },
    |p, i| {
        let half = (i % 2) as i16;
        let low = _mm512_loadu_si512(p.add(i / 2 * 64).cast());
        let low = _mm512_srlv_epi16(low, _mm512_set1_epi16(4 * half));
        let high = _mm512_broadcast_i64x4(_mm256_loadu_si256(p.add(128 + i / 2 * 32).cast()));
        let high = _mm512_srlv_epi16(high, halves(4 * half, 4 * half + 2));
        let high = _mm512_slli_epi16(_mm512_and_si512(high, _mm512_set1_epi8(3)), 4);
        _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi8(0x0f)), high)
    }
);

/// Words of the lower and of the upper 32 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(low: i16, high: i16) -> __m512i {
    _mm512_inserti64x4(_mm512_set1_epi16(low), _mm256_set1_epi16(high), 1)
}

/// Q4_1: the leading four bytes of eight blocks of 20 are dwords 0, 5, 10, 15 of each half of the step.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pairs_20(p: *const u8) -> (__m512, __m512) {
    // SAFETY: the caller promises eight blocks, 160 bytes, of which bytes 0..64 and 80..144 are read.
    let (low, high) = unsafe { (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(80).cast())) };
    let index = _mm512_castsi256_si512(_mm256_setr_epi32(0, 5, 10, 15, 16, 21, 26, 31));
    split_pairs(_mm512_castsi512_si256(_mm512_permutex2var_epi32(low, index, high)))
}

/// Q5_1: the leading four bytes of eight blocks of 24.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pairs_24(p: *const u8) -> (__m512, __m512) {
    // SAFETY: the caller promises eight blocks.
    unsafe {
        let pair = |i: usize| p.add(i * 24).cast::<i32>().read_unaligned();
        split_pairs(_mm256_setr_epi32(pair(0), pair(1), pair(2), pair(3), pair(4), pair(5), pair(6), pair(7)))
    }
}

/// Q2_K: 4-bit scales and minima of 16 groups.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn two_bit_scales(p: *const u8) -> (__m512, __m512) {
    // SAFETY: the caller promises a whole block.
    let (packed, d, dmin) = unsafe { (_mm_loadu_si128(p.cast()), splat_f16(p.add(80)), splat_f16(p.add(82))) };
    let both = _mm512_cvtepu8_epi32(packed);
    let scales = _mm512_cvtepi32_ps(_mm512_and_si512(both, _mm512_set1_epi32(15)));
    let minima = _mm512_cvtepi32_ps(_mm512_srli_epi32(both, 4));
    let negative = _mm512_sub_ps(_mm512_setzero_ps(), dmin);
    (_mm512_mul_ps(scales, d), _mm512_mul_ps(minima, negative))
}

/// Q4_K and Q5_K: 6-bit scales and minima of eight groups of 32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn scales_and_minima(p: *const u8) -> (__m512, __m512) {
    // SAFETY: the caller promises a whole block.
    let (packed, d, dmin) =
        unsafe { (p.add(4).cast::<[u8; 12]>().read_unaligned(), splat_f16(p), splat_f16(p.add(2))) };
    let (scales, minima) = q45k_scales(&packed);
    let spread = |bytes: [u8; 8]| {
        let bytes = _mm_cvtsi64_si128(i64::from_le_bytes(bytes));
        _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_unpacklo_epi8(bytes, bytes)))
    };
    let negative = _mm512_sub_ps(_mm512_setzero_ps(), dmin);
    (_mm512_mul_ps(spread(scales), d), _mm512_mul_ps(spread(minima), negative))
}

/// Quarter `i` of nibbles that hold 64 elements in 32 bytes, the first 32 of them low.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn k_nibbles(p: *const u8, i: usize) -> __m512i {
    // SAFETY: the caller promises 128 bytes and i < 4.
    let bytes = unsafe { _mm256_loadu_si256(p.add(32 * i).cast()) };
    let both = _mm512_srlv_epi16(_mm512_broadcast_i64x4(bytes), halves(0, 4));
    _mm512_and_si512(both, _mm512_set1_epi8(0x0f))
}

/// Quarter `i` of 2-bit lanes that hold 128 elements in 32 bytes, lowest bits first.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn two_bits(p: *const u8, i: usize) -> __m512i {
    // SAFETY: the caller promises 64 bytes and i < 4.
    let bytes = unsafe { _mm256_loadu_si256(p.add(i / 2 * 32).cast()) };
    let shift = 4 * (i % 2) as i16;
    let both = _mm512_srlv_epi16(_mm512_broadcast_i64x4(bytes), halves(shift, shift + 2));
    _mm512_and_si512(both, _mm512_set1_epi8(3))
}

/// The bits of quarter `i` in 32 bytes whose bit `j` belongs to elements `32j..32j + 32`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn run_bits(p: *const u8, i: usize) -> __mmask64 {
    // SAFETY: the caller promises 32 bytes and i < 4.
    let bytes = unsafe { _mm256_loadu_si256(p.cast()) };
    let low = _mm256_test_epi8_mask(bytes, _mm256_set1_epi8((1u8 << (2 * i)) as i8));
    let high = _mm256_test_epi8_mask(bytes, _mm256_set1_epi8((2u8 << (2 * i)) as i8));
    u64::from(low) | u64::from(high) << 32
}
