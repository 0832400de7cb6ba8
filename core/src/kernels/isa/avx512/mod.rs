//! x86-64 with AVX-512 F, BW, VL, DQ and VNNI.
//!
//! A step covers 256 elements of a weight row, one large block or eight small ones: four vectors of 64 unsigned lanes in
//! the order of the elements, each multiplied with both planes of the activations by `vpdpbusd`, and 16 scales and
//! offsets, one per group of 16 elements. Formats centred on a zero point keep their lanes unsigned and put the zero
//! point into the offset.

use std::arch::x86_64::*;

mod gemm;

use super::{Batched, Form, Kernel, Kernels};
use crate::kernels::activations::{COARSE, Row};
use crate::kernels::formats::{
    Bf16, F16, F32, Format, GROUP, Iq4Nl, LEVELS, Plain, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0,
    by_type, q3k_scales, q45k_scales,
};

pub(super) const KERNELS: Kernels =
    Kernels { kernel: |ty| by_type!(ty, quantised, plain)(), quantise: super::avx2::quantise };

/// Elements of a step.
const STEP: usize = 256;

fn quantised<F: Unpack>() -> Kernel {
    let batch = Batched::Panel { unpack: gemm::unpack::<F>, multiply: gemm::multiply_for::<F>() };
    Kernel { form: Form::Int8, one: panel::<F, 1>, batch }
}

fn plain<P: Load>() -> Kernel {
    Kernel { form: Form::F32, one: plain_panel::<P, 1>, batch: Batched::Four(plain_panel::<P, 4>) }
}

/// How a format's bytes become vectors.
trait Unpack: Format {
    /// Columns that share a scale: 16 or 32.
    const SPAN: usize;
    /// Bytes of a step.
    const STEP_BYTES: usize = STEP / Self::LEN * Self::BYTES;

    /// Scales and offsets of the 16 groups of the step at `p`.
    ///
    /// # Safety
    /// The CPU runs the tier and `p` is followed by a whole step.
    unsafe fn scales(p: *const u8) -> (__m512, __m512);

    /// Elements `64i..64i + 64` of the step at `p`, as unsigned lanes.
    ///
    /// # Safety
    /// As [`scales`](Self::scales), and `i` is below 4.
    unsafe fn lanes(p: *const u8, i: usize) -> __m512i;
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn panel<F: Unpack, const T: usize>(data: &[u8], row_bytes: usize, x: &[Row<'_>; T], out: &mut [[f32; T]]) {
    for (row, out) in data.chunks_exact(row_bytes).zip(out) {
        // SAFETY: by the caller's promise `row` is whole blocks and the activations have as many columns, padded to whole steps.
        *out = unsafe { dot::<F, T>(row, x) };
    }
}

/// Two accumulators per product hide the latency of the additions.
type Sums<const T: usize> = [[__m512; 2]; T];

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn dot<F: Unpack, const T: usize>(row: &[u8], x: &[Row<'_>; T]) -> [f32; T] {
    let mut sums: Sums<T> = [[_mm512_setzero_ps(); 2]; T];
    let steps = row.chunks_exact(F::STEP_BYTES);
    let rest = steps.remainder();
    for (s, p) in steps.enumerate() {
        // SAFETY: `p` is a whole step, and element 256s + 255 is inside the padded activations.
        unsafe { step::<F, T>(p.as_ptr(), x, s * STEP, 0, !0, &mut sums) };
    }
    if !rest.is_empty() {
        let skip = (F::STEP_BYTES - rest.len()) / F::BYTES;
        if let Some(start) = row.len().checked_sub(F::STEP_BYTES) {
            // A last step that ends with the row; the blocks it shares with the step before it get scale and offset zero.
            let at = start / F::BYTES * F::LEN;
            let keep = !0 << (skip * F::LEN / GROUP);
            let first = skip * F::LEN / 64;
            // SAFETY: the step is the end of the row.
            unsafe { step::<F, T>(row.as_ptr().add(start), x, at, first, keep, &mut sums) };
        } else {
            // A row shorter than a step, completed with blocks of scale zero. 272 bytes are the longest step of small blocks.
            let mut bytes = [0u8; 272];
            bytes[..rest.len()].copy_from_slice(rest);
            let keep = !0u16 >> (skip * F::LEN / GROUP);
            // SAFETY: the buffer is a whole step, and the activations are padded to one.
            unsafe { step::<F, T>(bytes.as_ptr(), x, 0, 0, keep, &mut sums) };
        }
    }
    std::array::from_fn(|t| _mm512_reduce_add_ps(_mm512_add_ps(sums[t][0], sums[t][1])))
}

/// Adds the products of the step at `p` with elements `at..at + 256` of each activation row, from quarter
/// `first` on and of the groups in `keep`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn step<F: Unpack, const T: usize>(
    p: *const u8,
    x: &[Row<'_>; T],
    at: usize,
    first: usize,
    keep: __mmask16,
    sums: &mut Sums<T>,
) {
    // SAFETY: the caller promises a whole step at `p` and 256 elements in `x` from `at` on, which is a multiple of 16.
    unsafe {
        let (scale, offset) = F::scales(p);
        let mut scales = [scale; T];
        for t in 0..T {
            let group = at / GROUP;
            scales[t] = _mm512_maskz_mul_ps(keep, scale, loadu_ps(x[t].scales, group));
            let offsets = loadu_ps(x[t].sums, group);
            sums[t][0] = _mm512_mask3_fmadd_ps(offset, offsets, sums[t][0], keep);
        }
        for i in first..4 {
            let lanes = F::lanes(p, i);
            let spread = _mm512_add_epi32(
                _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3),
                _mm512_set1_epi32(4 * i as i32),
            );
            for t in 0..T {
                let coarse = _mm512_loadu_si512(x[t].lanes.as_ptr().add(at + 64 * i).cast());
                let fine = _mm512_loadu_si512(x[t].fine.as_ptr().add(at + 64 * i).cast());
                let dots = _mm512_dpbusd_epi32(_mm512_setzero_si512(), lanes, coarse);
                let dots = _mm512_slli_epi32::<{ COARSE.trailing_zeros() }>(dots);
                let dots = _mm512_dpbusd_epi32(dots, lanes, fine);
                let scale = _mm512_permutexvar_ps(spread, scales[t]);
                sums[t][i % 2] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, sums[t][i % 2]);
            }
        }
    }
}

/// Loads 16 numbers from `at` on.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn loadu_ps(x: &[f32], at: usize) -> __m512 {
    debug_assert!(at + 16 <= x.len());
    // SAFETY: the caller promises 16 numbers from `at` on.
    unsafe { _mm512_loadu_ps(x.as_ptr().add(at)) }
}

/// Scale and offset of the groups of eight small blocks: the f16 scale at the start of each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn small_scales<const BYTES: usize>(p: *const u8) -> __m512 {
    // SAFETY: the caller promises eight blocks of `BYTES` bytes.
    unsafe {
        let word = |i: usize| p.add(i * BYTES).cast::<i16>().read_unaligned();
        let halves = _mm_setr_epi16(word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7));
        _mm512_cvtph_ps(twice(halves))
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

/// Each of eight words, twice.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn twice(words: __m128i) -> __m256i {
    _mm256_set_m128i(_mm_unpackhi_epi16(words, words), _mm_unpacklo_epi16(words, words))
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

/// The 16 bytes at `p` and at `q`, each twice, shifted so that their nibbles lie in the order of two small blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn two_nibble_blocks(p: *const u8, q: *const u8) -> __m512i {
    // SAFETY: the caller promises 16 bytes at each.
    let (a, b) = unsafe { (_mm_loadu_si128(p.cast()), _mm_loadu_si128(q.cast())) };
    let both = _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(a), 0xff00, b);
    let shifts = _mm512_setr_epi64(
        0,
        0,
        0x0004_0004_0004_0004,
        0x0004_0004_0004_0004,
        0,
        0,
        0x0004_0004_0004_0004,
        0x0004_0004_0004_0004,
    );
    _mm512_and_si512(_mm512_srlv_epi16(both, shifts), _mm512_set1_epi8(0x0f))
}

/// The nibbles of blocks `2i` and `2i + 1`, whose 16 bytes lie at offset `at` of blocks of `BYTES` bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn nibbles<const BYTES: usize>(p: *const u8, i: usize, at: usize) -> __m512i {
    // SAFETY: the caller promises eight blocks and i < 4.
    unsafe {
        let a = p.add(2 * i * BYTES + at);
        two_nibble_blocks(a, a.add(BYTES))
    }
}

/// The nibbles of blocks `2i` and `2i + 1` with the fifth bits that lie in the four bytes before them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn five_bits<const BYTES: usize>(p: *const u8, i: usize, at: usize) -> __m512i {
    // SAFETY: the caller promises eight blocks and i < 4.
    unsafe {
        let high = |b: usize| u64::from(p.add(b * BYTES + at).cast::<u32>().read_unaligned());
        let bits = high(2 * i) | high(2 * i + 1) << 32;
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
    let a = p.add(68 * i + 2);
    let low = _mm512_castsi256_si512(_mm256_loadu_si256(a.cast()));
    let both = _mm512_inserti64x4(low, _mm256_loadu_si256(a.add(34).cast()), 1);
    _mm512_xor_si512(both, _mm512_set1_epi8(-128))
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

/// How an unquantised format's elements become f32 vectors.
trait Load: Plain {
    /// The first elements at `p` that `keep` selects, zero elsewhere.
    ///
    /// # Safety
    /// The CPU runs the tier and the selected elements may be read.
    unsafe fn load(p: *const u8, keep: __mmask16) -> __m512;
}

impl Load for F32 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(p: *const u8, keep: __mmask16) -> __m512 {
        // SAFETY: as the caller promises.
        unsafe { _mm512_maskz_loadu_ps(keep, p.cast()) }
    }
}

impl Load for F16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(p: *const u8, keep: __mmask16) -> __m512 {
        // SAFETY: as the caller promises.
        _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(keep, p.cast()) })
    }
}

impl Load for Bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(p: *const u8, keep: __mmask16) -> __m512 {
        // SAFETY: as the caller promises.
        let upper = unsafe { _mm256_maskz_loadu_epi16(keep, p.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(upper), 16))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn plain_panel<P: Load, const T: usize>(data: &[u8], row_bytes: usize, x: &[Row<'_>; T], out: &mut [[f32; T]]) {
    let cols = row_bytes / P::BYTES;
    for (row, out) in data.chunks_exact(row_bytes).zip(out) {
        let mut sums: Sums<T> = [[_mm512_setzero_ps(); 2]; T];
        let mut add = |at: usize, keep: __mmask16| {
            // SAFETY: `keep` selects elements below `cols` only, and both operands have as many by the caller's promise.
            unsafe {
                let w = P::load(row.as_ptr().add(at * P::BYTES), keep);
                for t in 0..T {
                    let x = _mm512_maskz_loadu_ps(keep, x[t].values.as_ptr().add(at));
                    let sum = &mut sums[t][at / 16 % 2];
                    *sum = _mm512_fmadd_ps(w, x, *sum);
                }
            }
        };
        let whole = cols / 16 * 16;
        for at in (0..whole).step_by(16) {
            add(at, !0);
        }
        if whole < cols {
            add(whole, !(!0 << (cols - whole)));
        }
        *out = std::array::from_fn(|t| _mm512_reduce_add_ps(_mm512_add_ps(sums[t][0], sums[t][1])));
    }
}
