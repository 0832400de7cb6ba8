//! The formats of 256-element blocks, each of which is a step.

use std::arch::x86_64::*;

use super::{Bits, Numbers, Turned, Unpack, interleave, nibble, unpack};
use crate::kernels::formats::{Q2K, Q3K, Q4K, Q5K, Q6K, q3k_scales, q45k_scales};

/// The f16 at `p`, in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn splat_f16(p: *const u8) -> __m512 {
    // SAFETY: the caller promises two bytes at `p`.
    let half = unsafe { p.cast::<i16>().read_unaligned() };
    _mm512_cvtph_ps(_mm256_set1_epi16(half))
}

/// Words of the lower and of the upper 32 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(low: i16, high: i16) -> __m512i {
    _mm512_inserti64x4(_mm512_set1_epi16(low), _mm256_set1_epi16(high), 1)
}

/// Q2_K: 4-bit scales and minima of 16 groups.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn two_bit_scales(p: *const u8) -> Numbers {
    // SAFETY: the caller promises a whole block.
    let (packed, d, dmin) = unsafe { (_mm_loadu_si128(p.cast()), splat_f16(p.add(80)), splat_f16(p.add(82))) };
    let both = _mm512_cvtepu8_epi32(packed);
    let scales = _mm512_cvtepi32_ps(_mm512_and_si512(both, _mm512_set1_epi32(15)));
    let minima = _mm512_cvtepi32_ps(_mm512_srli_epi32(both, 4));
    Numbers::Groups(_mm512_mul_ps(scales, d), _mm512_mul_ps(minima, dmin))
}

/// The scales of 16 groups, which are their second numbers too.
#[inline]
#[target_feature(enable = "avx512f")]
fn centred_groups(scales: __m512i, d: __m512) -> Numbers {
    let scales = _mm512_mul_ps(_mm512_cvtepi32_ps(scales), d);
    Numbers::Groups(scales, scales)
}

/// Q3_K: 6-bit scales around 32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn three_bit_scales(p: *const u8) -> Numbers {
    // SAFETY: the caller promises a whole block.
    let (packed, d) = unsafe { (q3k_scales(&p.add(96).cast::<[u8; 12]>().read_unaligned()), splat_f16(p.add(108))) };
    // SAFETY: there are 16 scales.
    let scales = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(packed.as_ptr().cast()) });
    centred_groups(_mm512_sub_epi32(scales, _mm512_set1_epi32(32)), d)
}

/// Q4_K and Q5_K: 6-bit scales and minima of eight groups of 32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn scales_and_minima(p: *const u8) -> Numbers {
    // SAFETY: the caller promises a whole block, which begins with both factors.
    let (packed, factors) = unsafe { (p.add(4).cast::<[u8; 12]>().read_unaligned(), p.cast::<i32>().read_unaligned()) };
    let (scales, minima) = q45k_scales(&packed);
    let both = [scales, minima].map(i64::from_le_bytes);
    let pairs = _mm_setr_epi8(0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15);
    let pairs = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_shuffle_epi8(_mm_set_epi64x(both[1], both[0]), pairs)));
    let factors = _mm512_broadcastsd_pd(_mm_castps_pd(_mm_cvtph_ps(_mm_cvtsi32_si128(factors))));
    Numbers::Pairs(_mm512_mul_ps(pairs, _mm512_castpd_ps(factors)))
}

/// Vector `i` of nibbles that hold 64 elements in 32 bytes, the first 32 of them low: elements `8i..8i + 8` of eight groups of 32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn k_nibbles<B: Bits>(p: *const u8, i: usize) -> __m512i {
    // SAFETY: the caller promises 128 bytes.
    let (low, high) = unsafe { (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(64).cast())) };
    // Each 16 bytes have eight of one run of 32 and of the fourth after it.
    let both = interleave([low, high], i % 2 == 1);
    let twice = if i < 2 {
        _mm512_shuffle_i64x2::<0b10_10_00_00>(both, both)
    } else {
        _mm512_shuffle_i64x2::<0b11_11_01_01>(both, both)
    };
    // SAFETY: as the caller promises.
    unsafe { B::low_and_high_nibbles(twice) }
}

/// The nibbles of four columns of these 128 bytes turned round.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn k_nibble_columns(turned: &Turned, group: usize, four: usize) -> __m512i {
    nibble(turned[group / 4][group / 2 % 2 * 8 + four], group % 2 == 1)
}

/// The lanes of vector `i` whose bits are set in 32 bytes, of which bit `j` belongs to group `j` of 32 elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn group_bits(p: *const u8, i: usize) -> __mmask64 {
    let bit = |group: usize| 0x0101_0101_0101_0101 << group;
    let bits = _mm512_setr_epi64(bit(0), bit(4), bit(1), bit(5), bit(2), bit(6), bit(3), bit(7));
    // SAFETY: the caller promises 32 bytes and i < 4.
    _mm512_test_epi8_mask(_mm512_set1_epi64(unsafe { p.add(8 * i).cast::<i64>().read_unaligned() }), bits)
}

/// Two bits of every byte, from bit `shift` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn two_bits(bytes: __m512i, shift: usize) -> __m512i {
    _mm512_and_si512(_mm512_srl_epi16(bytes, _mm_cvtsi32_si128(shift as i32)), _mm512_set1_epi8(3))
}

/// The 32 bytes at `p`, twice.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn twice(p: *const u8) -> __m512i {
    // SAFETY: the caller promises 32 bytes.
    _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(p.cast()) })
}

/// Quarter `i` of 2-bit lanes that hold 128 elements in 32 bytes, lowest bits first.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn quarters(p: *const u8, i: usize) -> __m512i {
    let shift = 4 * (i % 2) as i16;
    // SAFETY: the caller promises 64 bytes and i < 4.
    let both = _mm512_srlv_epi16(unsafe { twice(p.add(i / 2 * 32)) }, halves(shift, shift + 2));
    _mm512_and_si512(both, _mm512_set1_epi8(3))
}

/// The 2-bit lanes of four columns of 64 such bytes turned round.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn two_bit_columns(turned: &Turned, run: usize, four: usize) -> __m512i {
    two_bits(turned[0][run / 4 * 8 + four], 2 * (run % 4))
}

/// `low`, and `more` where bit `run` of the byte is set.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add_where(low: __m512i, bits: __m512i, run: usize, more: i8) -> __m512i {
    let set = _mm512_test_epi8_mask(bits, _mm512_set1_epi8((1u8 << run) as i8));
    _mm512_mask_add_epi8(low, set, low, _mm512_set1_epi8(more))
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

unpack! {
    Q2K, 16 columns in 1 vectors, offset: -1.0,
    numbers: |p| two_bit_scales(p),
    lanes: |p, i| quarters(p.add(16), i),
    bytes: |p, _i| _mm512_loadu_si512(p.add(16).cast()),
    columns: |turned, run, four| two_bit_columns(turned, run, four),
}
unpack! {
    Q3K, 16 columns in 2 vectors, centred: 4,
    numbers: |p| three_bit_scales(p),
    lanes: |p, i| {
        let low = quarters(p.add(32), i);
        _mm512_mask_add_epi8(low, run_bits(p, i), low, _mm512_set1_epi8(4))
    },
    bytes: |p, i| if i == 0 { _mm512_loadu_si512(p.add(32).cast()) } else { twice(p) },
    columns: |turned, run, four| add_where(two_bit_columns(turned, run, four), turned[1][four], run, 4),
}
unpack! {
    Q4K, 32 columns in 2 vectors, offset: -1.0,
    numbers: |p| scales_and_minima(p),
    lanes: |p, i| k_nibbles::<B>(p.add(16), i),
    bytes: |p, i| _mm512_loadu_si512(p.add(16 + 64 * i).cast()),
    columns: |turned, group, four| k_nibble_columns(turned, group, four),
}
unpack! {
    Q5K, 32 columns in 3 vectors, offset: -1.0,
    numbers: |p| scales_and_minima(p),
    lanes: |p, i| {
        let low = k_nibbles::<B>(p.add(48), i);
        _mm512_mask_add_epi8(low, group_bits(p.add(16), i), low, _mm512_set1_epi8(16))
    },
    bytes: |p, i| if i < 2 { _mm512_loadu_si512(p.add(48 + 64 * i).cast()) } else { twice(p.add(16)) },
    columns: |turned, group, four| add_where(k_nibble_columns(turned, group, four), turned[2][four], group, 16),
}
unpack! {
    Q6K, 16 columns in 3 vectors, centred: 32,
    numbers: |p| centred_groups(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.add(192).cast())), splat_f16(p.add(208))),
    lanes: |p, i| {
        let half = (i % 2) as i16;
        let low = _mm512_loadu_si512(p.add(i / 2 * 64).cast());
        let low = _mm512_srlv_epi16(low, _mm512_set1_epi16(4 * half));
        let high = _mm512_srlv_epi16(twice(p.add(128 + i / 2 * 32)), halves(4 * half, 4 * half + 2));
        let high = _mm512_slli_epi16(_mm512_and_si512(high, _mm512_set1_epi8(3)), 4);
        _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi8(0x0f)), high)
    },
    bytes: |p, i| _mm512_loadu_si512(p.add(64 * i).cast()),
    columns: |turned, run, four| {
        let low = nibble(turned[run / 4][run % 2 * 8 + four], run % 4 >= 2);
        let high = two_bits(turned[2][run / 4 * 8 + four], 2 * (run % 4));
        _mm512_or_si512(low, _mm512_slli_epi16(high, 4))
    },
}
