//! How each format's bytes become vectors of lanes, scales and offsets.

use std::arch::x86_64::*;

use super::STEP;
use super::bits::Bits;
use crate::kernels::activations::Row;
use crate::kernels::formats::{
    Format, GROUP, Iq4Nl, LEVELS, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, q3k_scales, q45k_scales,
};

/// How a format's bytes become vectors.
pub trait Unpack: Format {
    /// Columns that share a scale: 16 or 32.
    const SPAN: usize;
    /// The lane of weight zero, half of the number of lanes there are, where offsets follow from it; 0 where they are the file's.
    const ZERO: u8;
    /// Bytes of a step.
    const STEP_BYTES: usize = STEP / Self::LEN * Self::BYTES;

    /// Scales and offsets of the 16 groups of the step at `p`.
    ///
    /// # Safety
    /// The CPU runs the tier and `p` is followed by a whole step.
    unsafe fn scales(p: *const u8) -> (__m512, __m512);

    /// The scales of the step at `p` times those of elements `at..at + 256` of the activations, of the groups in `keep`: one lane a
    /// group of 16, or the even lanes where 32 elements share a scale. The offsets times the activations' sums are added to `sum`.
    ///
    /// # Safety
    /// As [`scales`](Self::scales), and the activations have that many elements.
    unsafe fn weigh(p: *const u8, x: &Row<'_>, at: usize, keep: __mmask16, sum: &mut __m512) -> __m512;

    /// Vector `i` of the step at `p`, as unsigned lanes: elements `64i..64i + 64` where 16 elements share a scale, else the first (even `i`)
    /// or second halves of four groups of 32.
    ///
    /// # Safety
    /// As [`scales`](Self::scales), and `i` is below 4.
    unsafe fn lanes<B: Bits>(p: *const u8, i: usize) -> __m512i;
}

/// Where the last 64 bytes begin that end with the 16 at offset `at` of the last of four blocks.
const fn last_load(bytes: usize, at: usize) -> usize {
    3 * bytes + at + 16 - 64
}

/// Where the first 64 bytes begin that hold the 16 at offset `at` of two blocks: at the first block if that will do, so that loads
/// serve several purposes.
const fn first_load(bytes: usize, at: usize) -> usize {
    (bytes + at + 16).saturating_sub(64)
}

/// Where the word at `offset` of four blocks lies in the 64 bytes from `first` on or, from index 32 on, in those from `last` on.
const fn word(offset: usize, first: usize, last: usize) -> i16 {
    (if offset >= first && offset + 2 <= first + 64 { (offset - first) / 2 } else { 32 + (offset - last) / 2 }) as i16
}

/// Indices of the words of 16 bytes at offset `at` of each of four blocks of `bytes` bytes.
const fn chunk_words(bytes: usize, at: usize, first: usize, last: usize) -> [i16; 32] {
    let mut index = [0; 32];
    let mut i = 0;
    while i < 32 {
        index[i] = word(i / 8 * bytes + at + i % 8 * 2, first, last);
        i += 1;
    }
    index
}

/// The words that `index` names in the 64 bytes at `p` from `first` on and from `last` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn words(p: *const u8, index: &[i16; 32], first: usize, last: usize) -> __m512i {
    // SAFETY: the caller promises 64 bytes at both places; the index is 64 bytes.
    unsafe {
        let load = |at: usize| _mm512_loadu_si512(p.add(at).cast());
        _mm512_permutex2var_epi16(load(first), _mm512_loadu_si512(index.as_ptr().cast()), load(last))
    }
}

/// The leading f16s of eight blocks of 34 bytes, each twice: of each half of the step words 0 and 17, and 6 and 23 from byte 56 on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn heads_34(p: *const u8) -> __m512 {
    let half = |p: *const u8| {
        // SAFETY: the caller promises eight blocks, of whose halves, 136 bytes, 120 are read; the loads are those of the lanes.
        let (low, high) = unsafe { (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(56).cast())) };
        _mm512_mask_blend_epi16(1 << 6 | 1 << 23, low, high)
    };
    let index = _mm512_castsi256_si512(_mm256_setr_epi16(0, 0, 17, 17, 6, 6, 23, 23, 32, 32, 49, 49, 38, 38, 55, 55));
    let heads = _mm512_permutex2var_epi16(half(p), index, half(p.wrapping_add(136)));
    _mm512_cvtph_ps(_mm512_castsi512_si256(heads))
}

/// As [`heads_34`] for blocks of 18 bytes: words 0, 9, 18 and 27 of each half of the step.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn heads_18(p: *const u8) -> __m512 {
    // SAFETY: the caller promises eight blocks, 144 bytes, of which bytes 0..64 and 72..136 are read.
    let (low, high) = unsafe { (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(72).cast())) };
    let index = _mm512_castsi256_si512(_mm256_setr_epi16(0, 0, 9, 9, 18, 18, 27, 27, 32, 32, 41, 41, 50, 50, 59, 59));
    _mm512_cvtph_ps(_mm512_castsi512_si256(_mm512_permutex2var_epi16(low, index, high)))
}

/// Scales and offsets of eight blocks of 20 bytes: words of 32 bits 0, 5, 10 and 15 of each half of the step.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn heads_20(p: *const u8) -> __m512 {
    // SAFETY: the caller promises eight blocks, 160 bytes, of which bytes 0..64 and 80..144 are read.
    let (low, high) = unsafe { (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(80).cast())) };
    let index = _mm512_castsi256_si512(_mm256_setr_epi32(0, 5, 10, 15, 16, 21, 26, 31));
    _mm512_cvtph_ps(_mm512_castsi512_si256(_mm512_permutex2var_epi32(low, index, high)))
}

/// Two numbers in turn.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_turn(even: f32, odd: f32) -> __m512 {
    _mm512_mask_blend_ps(0xaaaa, _mm512_set1_ps(even), _mm512_set1_ps(odd))
}

/// Scales and offsets of 16 groups from eight pairs, whose second numbers are offsets once multiplied with `offset`.
#[inline]
#[target_feature(enable = "avx512f")]
fn split_pairs(pairs: __m512, offset: f32) -> (__m512, __m512) {
    (_mm512_moveldup_ps(pairs), _mm512_mul_ps(_mm512_movehdup_ps(pairs), _mm512_set1_ps(offset)))
}

/// [`Unpack::weigh`] for such pairs: both of a pair are multiplied at once, and what belongs to the rows' numbers alone is computed
/// once for all rows.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn weigh_pairs(pairs: __m512, offset: f32, x: &Row<'_>, at: usize, keep: __mmask16, sum: &mut __m512) -> __m512 {
    // SAFETY: the caller promises 256 activations from `at` on, which have eight pairs.
    let x = unsafe { _mm512_loadu_ps(x.pairs.as_ptr().add(at / GROUP)) };
    let x = if offset == 1.0 { x } else { _mm512_mul_ps(x, in_turn(1.0, offset)) };
    let both = _mm512_maskz_mul_ps(keep, pairs, x);
    *sum = _mm512_mask_add_ps(*sum, 0xaaaa, *sum, both);
    both
}

/// [`Unpack::weigh`] for scales and offsets of 16 groups.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn weigh_groups(
    (scales, offsets): (__m512, __m512),
    x: &Row<'_>,
    at: usize,
    keep: __mmask16,
    sum: &mut __m512,
) -> __m512 {
    // SAFETY: the caller promises 256 activations from `at` on.
    let of = |x: &[f32]| unsafe { _mm512_loadu_ps(x.as_ptr().add(at / GROUP)) };
    *sum = _mm512_mask3_fmadd_ps(offsets, of(x.sums), *sum, keep);
    _mm512_maskz_mul_ps(keep, scales, of(x.scales))
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

/// The 16 bytes at offset `AT` of each of four blocks of `BYTES` bytes, from block `4 · half` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn chunks<const BYTES: usize, const AT: usize>(p: *const u8, half: usize) -> __m512i {
    let (first, last) = const { (first_load(BYTES, AT), last_load(BYTES, AT)) };
    let index = const { &chunk_words(BYTES, AT, first_load(BYTES, AT), last_load(BYTES, AT)) };
    // SAFETY: the caller promises eight blocks and half < 2.
    unsafe { words(p.add(4 * half * BYTES), index, first, last) }
}

/// The nibbles of vector `i` of eight blocks whose 16 bytes of them lie at offset `AT`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn nibbles<B: Bits, const BYTES: usize, const AT: usize>(p: *const u8, i: usize) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe {
        let both = chunks::<BYTES, AT>(p, i / 2);
        if i.is_multiple_of(2) { _mm512_and_si512(both, _mm512_set1_epi8(0x0f)) } else { B::high_nibbles(both) }
    }
}

/// Indices of the words of fifth bits, which end at offset `at` of each of four blocks, and of the words that the block begins with: its first two where
/// `paired`, or the first twice. Both fill each eight bytes of 16.
const fn five_bit_words(bytes: usize, at: usize, paired: bool, last: usize) -> [i16; 32] {
    let mut index = [0; 32];
    let mut i = 0;
    while i < 32 {
        let offset = match i % 4 {
            2 => 0,
            3 => 2 * paired as usize,
            bits => at - 4 + 2 * bits,
        };
        index[i] = word(i / 8 * bytes + offset, 0, last);
        i += 1;
    }
    index
}

/// The fifth bits and the heads of four blocks, from block `4 · half` on, whose nibbles lie at offset `AT`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn fifths_and_heads<const BYTES: usize, const AT: usize>(p: *const u8, half: usize) -> __m512i {
    let last = const { last_load(BYTES, AT) };
    // Of two f16s before the bits the second is an offset.
    let index = const { &five_bit_words(BYTES, AT, AT - 4 == 4, last_load(BYTES, AT)) };
    // SAFETY: the caller promises eight blocks and half < 2; the loads are those of the nibbles.
    unsafe { words(p.add(half * 4 * BYTES), index, 0, last) }
}

/// The leading f16s of eight blocks with fifth bits, each twice, or with the offset after it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn heads_of_five<const BYTES: usize, const AT: usize>(p: *const u8) -> __m512 {
    // SAFETY: the caller promises eight blocks.
    let [low, high] = unsafe { [fifths_and_heads::<BYTES, AT>(p, 0), fifths_and_heads::<BYTES, AT>(p, 1)] };
    let index = _mm512_castsi256_si512(_mm256_setr_epi32(1, 5, 9, 13, 17, 21, 25, 29));
    _mm512_cvtph_ps(_mm512_castsi512_si256(_mm512_permutex2var_epi32(low, index, high)))
}

/// As [`nibbles`], with the fifth bits that lie in the four bytes before them, half of which belong to each block's first 16 elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn five_bits<B: Bits, const BYTES: usize, const AT: usize>(p: *const u8, i: usize) -> __m512i {
    // SAFETY: the caller promises eight blocks and i < 4.
    unsafe {
        let (nibbles, bits) = (nibbles::<B, BYTES, AT>(p, i), fifths_and_heads::<BYTES, AT>(p, i / 2));
        if i.is_multiple_of(2) { B::with_fifth::<false>(nibbles, bits) } else { B::with_fifth::<true>(nibbles, bits) }
    }
}

/// A format whose 32 elements share a scale, from its pairs, or one of 16 from its scales and offsets; and its lanes. Where lanes are
/// `centred` on one of them, offsets follow from it; of other pairs the second numbers are offsets once multiplied with `offset`.
macro_rules! unpack {
    ($format:ty, 32, centred: $zero:literal, |$p:ident| $pairs:expr, |$q:ident, $i:ident| $lanes:expr) => {
        unpack!(@pairs $format, $zero, -f32::from(Self::ZERO), |$p| $pairs, |$q, $i| $lanes);
    };
    ($format:ty, 32, offset: $offset:literal, |$p:ident| $pairs:expr, |$q:ident, $i:ident| $lanes:expr) => {
        unpack!(@pairs $format, 0, $offset, |$p| $pairs, |$q, $i| $lanes);
    };
    ($format:ty, 16, centred: $zero:literal, |$p:ident| $scales:expr, |$q:ident, $i:ident| $lanes:expr) => {
        unpack!(@groups $format, $zero, |$p| centre($scales, f32::from(Self::ZERO)), |$q, $i| $lanes);
    };
    ($format:ty, 16, |$p:ident| $scales_and_offsets:expr, |$q:ident, $i:ident| $lanes:expr) => {
        unpack!(@groups $format, 0, |$p| $scales_and_offsets, |$q, $i| $lanes);
    };
    (@pairs $format:ty, $zero:literal, $offset:expr, |$p:ident| $pairs:expr, |$q:ident, $i:ident| $lanes:expr) => {
        unpack!(
            @all $format,
            32,
            $zero,
            |$p| split_pairs($pairs, $offset),
            |x, at, keep, sum| weigh_pairs($pairs, $offset, x, at, keep, sum),
            |$q, $i| $lanes
        );
    };
    (@groups $format:ty, $zero:literal, |$p:ident| $scales:expr, |$q:ident, $i:ident| $lanes:expr) => {
        unpack!(
            @all $format,
            16,
            $zero,
            |$p| $scales,
            |x, at, keep, sum| weigh_groups($scales, x, at, keep, sum),
            |$q, $i| $lanes
        );
    };
    (
        @all $format:ty,
        $span:literal,
        $zero:literal,
        |$p:ident| $scales:expr,
        |$x:ident, $at:ident, $keep:ident, $sum:ident| $weigh:expr,
        |$q:ident, $i:ident| $lanes:expr
    ) => {
        impl Unpack for $format {
            const SPAN: usize = $span;
            const ZERO: u8 = $zero;

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn scales($p: *const u8) -> (__m512, __m512) {
                // SAFETY: the caller promises a whole step at the pointer.
                unsafe { $scales }
            }

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn weigh($p: *const u8, $x: &Row<'_>, $at: usize, $keep: __mmask16, $sum: &mut __m512) -> __m512 {
                // SAFETY: the caller promises a whole step at the pointer and as many activations.
                unsafe { $weigh }
            }

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn lanes<B: Bits>($q: *const u8, $i: usize) -> __m512i {
                // SAFETY: the caller promises a whole step at the pointer and a quarter below 4.
                unsafe { $lanes }
            }
        }
    };
}

unpack!(Q4_0, 32, centred: 8, |p| heads_18(p), |p, i| nibbles::<B, 18, 2>(p, i));
unpack!(Q4_1, 32, offset: 1.0, |p| heads_20(p), |p, i| nibbles::<B, 20, 4>(p, i));
unpack!(Q5_0, 32, centred: 16, |p| heads_of_five::<22, 6>(p), |p, i| five_bits::<B, 22, 6>(p, i));
unpack!(Q5_1, 32, offset: 1.0, |p| heads_of_five::<24, 8>(p), |p, i| five_bits::<B, 24, 8>(p, i));
unpack!(Q8_0, 32, centred: 128, |p| heads_34(p), |p, i| {
    let signed = if i.is_multiple_of(2) { chunks::<34, 2>(p, i / 2) } else { chunks::<34, 18>(p, i / 2) };
    _mm512_xor_si512(signed, _mm512_set1_epi8(-128))
});
unpack!(Iq4Nl, 32, centred: 128, |p| heads_18(p), |p, i| {
    let levels = _mm_xor_si128(_mm_loadu_si128(LEVELS.as_ptr().cast()), _mm_set1_epi8(-128));
    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(levels), nibbles::<B, 18, 2>(p, i))
});
unpack!(Q2K, 16, |p| two_bit_scales(p), |p, i| two_bits(p.add(16), i));
unpack!(
    Q3K,
    16,
    centred: 4,
    |p| {
        let packed = q3k_scales(&p.add(96).cast::<[u8; 12]>().read_unaligned());
        let scales = _mm512_cvtepu8_epi32(_mm_loadu_si128(packed.as_ptr().cast()));
        let scales = _mm512_cvtepi32_ps(_mm512_sub_epi32(scales, _mm512_set1_epi32(32)));
        _mm512_mul_ps(scales, splat_f16(p.add(108)))
    },
    |p, i| {
        let low = two_bits(p.add(32), i);
        _mm512_mask_add_epi8(low, run_bits(p, i), low, _mm512_set1_epi8(4))
    }
);
unpack!(Q4K, 32, offset: -1.0, |p| scales_and_minima(p), |p, i| k_nibbles::<B>(p.add(16), i));
unpack!(Q5K, 32, offset: -1.0, |p| scales_and_minima(p), |p, i| {
    let low = k_nibbles::<B>(p.add(48), i);
    _mm512_mask_add_epi8(low, group_bits(p.add(16), i), low, _mm512_set1_epi8(16))
});
unpack!(
    Q6K,
    16,
    centred: 32,
    |p| {
        let scales = _mm512_cvtepi8_epi32(_mm_loadu_si128(p.add(192).cast()));
        _mm512_mul_ps(_mm512_cvtepi32_ps(scales), splat_f16(p.add(208)))
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

/// Q4_K and Q5_K: 6-bit scales and minima of eight groups of 32, in pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn scales_and_minima(p: *const u8) -> __m512 {
    // SAFETY: the caller promises a whole block, which begins with both factors.
    let (packed, factors) = unsafe { (p.add(4).cast::<[u8; 12]>().read_unaligned(), p.cast::<i32>().read_unaligned()) };
    let (scales, minima) = q45k_scales(&packed);
    let bytes = [scales, minima].map(|bytes| _mm_cvtsi64_si128(i64::from_le_bytes(bytes)));
    let pairs = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_unpacklo_epi8(bytes[0], bytes[1])));
    _mm512_mul_ps(pairs, _mm512_cvtph_ps(_mm256_set1_epi32(factors)))
}

/// Vector `i` of nibbles that hold 64 elements in 32 bytes, the first 32 of them low: of four groups of 32 the first or second halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn k_nibbles<B: Bits>(p: *const u8, i: usize) -> __m512i {
    // SAFETY: the caller promises 128 bytes and i < 4.
    let bytes = unsafe { _mm512_loadu_si512(p.add(i / 2 * 64).cast()) };
    let parts = if i.is_multiple_of(2) {
        _mm512_shuffle_i64x2::<0b10_10_00_00>(bytes, bytes)
    } else {
        _mm512_shuffle_i64x2::<0b11_11_01_01>(bytes, bytes)
    };
    // SAFETY: as the caller promises.
    unsafe { B::low_and_high_nibbles(parts) }
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

/// The bits of vector `i` in 32 bytes whose bit `j` belongs to group `j` of 32 elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn group_bits(p: *const u8, i: usize) -> __mmask64 {
    // SAFETY: the caller promises 32 bytes and i < 4.
    let bytes = unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(p.add(i % 2 * 16).cast())) };
    let bit = |group: usize| 0x0101_0101 << (4 * (i / 2) + group);
    let bits = _mm512_inserti64x4::<1>(
        _mm512_castsi256_si512(_mm256_set_epi32(bit(1), bit(1), bit(1), bit(1), bit(0), bit(0), bit(0), bit(0))),
        _mm256_set_epi32(bit(3), bit(3), bit(3), bit(3), bit(2), bit(2), bit(2), bit(2)),
    );
    _mm512_test_epi8_mask(bytes, bits)
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
