//! x86-64 with AVX2, FMA and F16C.
//!
//! A run is a vector of 32 lanes. Small blocks are one run: centred formats multiply magnitudes with activations that take the
//! weight's sign, the others multiply unsigned lanes and add their offset. Large blocks are eight runs of unsigned lanes, a
//! zero point going into the offset. Products of a weight and an activation never overflow the 16-bit pairs of `vpmaddubsw`:
//! lanes are at most 63 where unsigned and at most 128 in magnitude where signed.

use std::arch::x86_64::*;

use super::{Batched, Form, Kernel, Kernels};
use crate::kernels::activations::{COARSE, ROUNDER, Row, quantise_row, steps};
use crate::kernels::formats::{
    Bf16, F16, F32, Format, GROUP, Iq4Nl, LEVELS, Plain, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0,
    by_type, q3k_scales, q45k_scales,
};

pub(super) const KERNELS: Kernels = Kernels { kernel: |ty| by_type!(ty, quantised, plain)(), quantise };

/// Lanes of a run.
const RUN: usize = 32;

/// [`quantise_row`] with whole blocks done by hand.
#[target_feature(enable = "avx2")]
pub(super) fn quantise(x: &[f32], lanes: &mut [i8], fine: &mut [i8], scales: &mut [f32], sums: &mut [f32]) {
    let (blocks, rest) = x.as_chunks::<RUN>();
    let whole = blocks.len();
    let (lanes, lanes_rest) = lanes.split_at_mut(whole * RUN);
    let (fine, fine_rest) = fine.split_at_mut(whole * RUN);
    let (scales, scales_rest) = scales.split_at_mut(whole * (RUN / GROUP));
    let (sums, sums_rest) = sums.split_at_mut(whole * (RUN / GROUP));
    let planes = lanes.as_chunks_mut::<RUN>().0.iter_mut().zip(fine.as_chunks_mut::<RUN>().0);
    let outputs = planes.zip(scales.as_chunks_mut().0).zip(sums.as_chunks_mut().0);
    for (x, ((planes, scales), sums)) in blocks.iter().zip(outputs) {
        quantise_block(x, planes, scales, sums);
    }
    quantise_row(rest, lanes_rest, fine_rest, scales_rest, sums_rest);
}

#[inline]
#[target_feature(enable = "avx2")]
fn quantise_block(
    x: &[f32; RUN],
    (lanes, fine): (&mut [i8; RUN], &mut [i8; RUN]),
    scales: &mut [f32; 2],
    sums: &mut [f32; 2],
) {
    // SAFETY: the four vectors are the block's 32 elements.
    let v: [__m256; 4] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(x.as_ptr().add(8 * i)) });
    let zero = _mm256_setzero_ps();
    let magnitude = v.map(|v| _mm256_andnot_ps(_mm256_set1_ps(-0.0), v));
    let amax = _mm256_max_ps(_mm256_max_ps(magnitude[0], magnitude[1]), _mm256_max_ps(magnitude[2], magnitude[3]));
    let amax = _mm_max_ps(_mm256_castps256_ps128(amax), _mm256_extractf128_ps(amax, 1));
    let amax = _mm_max_ps(amax, _mm_movehl_ps(amax, amax));
    let amax = _mm_cvtss_f32(_mm_max_ss(amax, _mm_movehdup_ps(amax)));
    let poison = v.map(|v| _mm256_mul_ps(v, zero));
    let poison = _mm256_add_ps(_mm256_add_ps(poison[0], poison[1]), _mm256_add_ps(poison[2], poison[3]));
    let (inverse, scale) = steps(amax);
    let scale = scale + total(poison);

    let rounder = _mm256_set1_ps(ROUNDER);
    let words = v.map(|v| {
        let rounded = _mm256_add_ps(_mm256_mul_ps(v, _mm256_set1_ps(inverse)), rounder);
        // The upper bits are the rounder's own.
        _mm256_sub_epi32(_mm256_castps_si256(rounded), _mm256_castps_si256(rounder))
    });
    const SHIFT: i32 = COARSE.trailing_zeros() as i32;
    let coarse = words.map(|w| _mm256_srai_epi32::<SHIFT>(_mm256_add_epi32(w, _mm256_set1_epi32(COARSE / 2))));
    let rest: [__m256i; 4] = std::array::from_fn(|i| _mm256_sub_epi32(words[i], _mm256_slli_epi32::<SHIFT>(coarse[i])));
    // SAFETY: the block has 32 lanes in each plane.
    unsafe {
        _mm256_storeu_si256(lanes.as_mut_ptr().cast(), to_bytes(coarse));
        _mm256_storeu_si256(fine.as_mut_ptr().cast(), to_bytes(rest));
    }
    let sum = |a, b| {
        let eight = _mm256_add_epi32(a, b);
        let four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
        let two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0b01_00_11_10));
        _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0b10_11_00_01)))
    };
    *scales = [scale; 2];
    *sums = [scale * sum(words[0], words[1]) as f32, scale * sum(words[2], words[3]) as f32];
}

/// 32 numbers that fit a signed byte, as bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn to_bytes(words: [__m256i; 4]) -> __m256i {
    // Packing works on 128-bit halves and leaves groups of four elements in the order 0, 2, 4, 6, 1, 3, 5, 7.
    let bytes = _mm256_packs_epi16(_mm256_packs_epi32(words[0], words[1]), _mm256_packs_epi32(words[2], words[3]));
    _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

fn quantised<F: Dot>() -> Kernel {
    Kernel { form: Form::Int8, one: panel::<F, 1>, batch: Batched::Four(panel::<F, 4>) }
}

fn plain<P: Load>() -> Kernel {
    Kernel { form: Form::F32, one: plain_panel::<P, 1>, batch: Batched::Four(plain_panel::<P, 4>) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn panel<F: Dot, const T: usize>(data: &[u8], row_bytes: usize, x: &[Row<'_>; T], out: &mut [[f32; T]]) {
    for (row, out) in data.chunks_exact(row_bytes).zip(out) {
        // SAFETY: by the caller's promise `row` is whole blocks and the activations have as many columns.
        *out = unsafe { F::dot(row, x) };
    }
}

/// The product of a weight row with activation rows.
trait Dot: Format {
    /// # Safety
    /// The CPU runs the tier, `row` is whole blocks, and the activations have at least as many elements.
    unsafe fn dot<const T: usize>(row: &[u8], x: &[Row<'_>; T]) -> [f32; T];
}

/// A format of 32-element blocks.
trait Small: Format {
    /// Whether lanes are centred and there is no offset; otherwise lanes are unsigned.
    const CENTRED: bool;

    /// The lanes of the block at `p`.
    ///
    /// # Safety
    /// The CPU runs the tier and `p` is followed by a whole block.
    unsafe fn lanes(p: *const u8) -> __m256i;
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot_small<F: Small, const T: usize>(row: &[u8], x: &[Row<'_>; T]) -> [f32; T] {
    let mut sums = [_mm256_setzero_ps(); T];
    let mut offsets = [_mm_setzero_ps(); T];
    for (b, block) in row.chunks_exact(F::BYTES).enumerate() {
        let p = block.as_ptr();
        // SAFETY: `p` is a whole block, and the activations have its elements by the caller's promise.
        unsafe {
            let lanes = F::lanes(p);
            let head = _mm_cvtph_ps(_mm_cvtsi32_si128(p.cast::<i32>().read_unaligned()));
            let (scale, offset) = (_mm_cvtss_f32(head), _mm_shuffle_ps(head, head, 0b01_01_01_01));
            let magnitudes = if F::CENTRED { _mm256_abs_epi8(lanes) } else { lanes };
            for t in 0..T {
                let plane = |plane: &[i8]| {
                    let x_lanes = _mm256_loadu_si256(plane.as_ptr().add(b * RUN).cast());
                    if F::CENTRED { _mm256_sign_epi8(x_lanes, lanes) } else { x_lanes }
                };
                let dots = dots(magnitudes, plane(x[t].lanes), plane(x[t].fine));
                let scale = scale * x[t].scales.as_ptr().add(b * (RUN / GROUP)).read();
                sums[t] = _mm256_fmadd_ps(dots, _mm256_set1_ps(scale), sums[t]);
                if !F::CENTRED {
                    let pair = x[t].sums.as_ptr().add(b * (RUN / GROUP));
                    let pair = _mm_castsi128_ps(_mm_loadl_epi64(pair.cast()));
                    offsets[t] = _mm_fmadd_ps(offset, pair, offsets[t]);
                }
            }
        }
    }
    std::array::from_fn(|t| total(_mm256_add_ps(sums[t], _mm256_zextps128_ps256(offsets[t]))))
}

/// A format of 256-element blocks.
trait Large: Format {
    /// Scales and offsets of the 16 groups of the block at `p`.
    ///
    /// # Safety
    /// The CPU runs the tier and `p` is followed by a whole block.
    unsafe fn scales(p: *const u8) -> [(__m256, __m256); 2];

    /// Elements `32r..32r + 32` of the block at `p`, as unsigned lanes.
    ///
    /// # Safety
    /// As [`scales`](Self::scales), and `r` is below 8.
    unsafe fn lanes(p: *const u8, r: usize) -> __m256i;
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot_large<F: Large, const T: usize>(row: &[u8], x: &[Row<'_>; T]) -> [f32; T] {
    let mut sums = [_mm256_setzero_ps(); T];
    for (b, block) in row.chunks_exact(F::BYTES).enumerate() {
        let p = block.as_ptr();
        // SAFETY: `p` is a whole block, and the activations have its elements by the caller's promise.
        unsafe {
            for (half, (scale, offset)) in F::scales(p).into_iter().enumerate() {
                let at = b * F::LEN + half * (F::LEN / 2);
                let mut scales = [scale; T];
                for t in 0..T {
                    let group = at / GROUP;
                    let x_scales = _mm256_loadu_ps(x[t].scales.as_ptr().add(group));
                    scales[t] = _mm256_mul_ps(scale, x_scales);
                    let x_sums = _mm256_loadu_ps(x[t].sums.as_ptr().add(group));
                    sums[t] = _mm256_fmadd_ps(offset, x_sums, sums[t]);
                }
                for r in 0..4 {
                    let lanes = F::lanes(p, 4 * half + r);
                    let two = 2 * r as i32;
                    let spread = _mm256_setr_epi32(two, two, two, two, two + 1, two + 1, two + 1, two + 1);
                    for t in 0..T {
                        let plane = |plane: &[i8]| _mm256_loadu_si256(plane.as_ptr().add(at + r * RUN).cast());
                        let dots = dots(lanes, plane(x[t].lanes), plane(x[t].fine));
                        let scale = _mm256_permutevar8x32_ps(scales[t], spread);
                        sums[t] = _mm256_fmadd_ps(dots, scale, sums[t]);
                    }
                }
            }
        }
    }
    std::array::from_fn(|t| total(sums[t]))
}

/// Products of unsigned lanes with both planes of signed ones, summed by fours.
#[inline]
#[target_feature(enable = "avx2")]
fn dots(unsigned: __m256i, coarse: __m256i, fine: __m256i) -> __m256 {
    let coarse = _mm256_madd_epi16(_mm256_maddubs_epi16(unsigned, coarse), _mm256_set1_epi16(COARSE as i16));
    let fine = _mm256_madd_epi16(_mm256_maddubs_epi16(unsigned, fine), _mm256_set1_epi16(1));
    _mm256_cvtepi32_ps(_mm256_add_epi32(coarse, fine))
}

/// The sum of all lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn total(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}

/// The nibbles of the 16 bytes at `p`, low ones first.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn nibbles(p: *const u8) -> __m256i {
    // SAFETY: the caller promises 16 bytes at `p`.
    let bytes = unsafe { _mm_loadu_si128(p.cast()) };
    let both = _mm256_set_m128i(_mm_srli_epi16(bytes, 4), bytes);
    _mm256_and_si256(both, _mm256_set1_epi8(0x0f))
}

/// 16 in every lane whose bit is set in the four bytes at `p`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn fifth_bits(p: *const u8) -> __m256i {
    // SAFETY: the caller promises four bytes at `p`.
    let bits = _mm256_set1_epi32(unsafe { p.cast::<i32>().read_unaligned() });
    let own_byte = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let own_bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let bits = _mm256_and_si256(_mm256_shuffle_epi8(bits, own_byte), own_bit);
    _mm256_and_si256(_mm256_cmpeq_epi8(bits, own_bit), _mm256_set1_epi8(16))
}

macro_rules! small {
    ($format:ty, centred: $centred:expr, |$p:ident| $lanes:expr) => {
        impl Small for $format {
            const CENTRED: bool = $centred;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn lanes($p: *const u8) -> __m256i {
                // SAFETY: the caller promises a whole block at the pointer.
                unsafe { $lanes }
            }
        }

        impl Dot for $format {
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn dot<const T: usize>(row: &[u8], x: &[Row<'_>; T]) -> [f32; T] {
                // SAFETY: as the caller promises.
                unsafe { dot_small::<Self, T>(row, x) }
            }
        }
    };
}

small!(Q4_0, centred: true, |p| _mm256_sub_epi8(nibbles(p.add(2)), _mm256_set1_epi8(8)));
small!(Q4_1, centred: false, |p| nibbles(p.add(4)));
small!(Q5_0, centred: true, |p| {
    let five = _mm256_or_si256(nibbles(p.add(6)), fifth_bits(p.add(2)));
    _mm256_sub_epi8(five, _mm256_set1_epi8(16))
});
small!(Q5_1, centred: false, |p| _mm256_or_si256(nibbles(p.add(8)), fifth_bits(p.add(4))));
small!(Q8_0, centred: true, |p| _mm256_loadu_si256(p.add(2).cast()));
small!(Iq4Nl, centred: true, |p| {
    let levels = _mm256_broadcastsi128_si256(_mm_loadu_si128(LEVELS.as_ptr().cast()));
    _mm256_shuffle_epi8(levels, nibbles(p.add(2)))
});

macro_rules! large {
    ($format:ty, |$p:ident| $scales:expr, |$q:ident, $r:ident| $lanes:expr) => {
        impl Large for $format {
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn scales($p: *const u8) -> [(__m256, __m256); 2] {
                // SAFETY: the caller promises a whole block at the pointer.
                unsafe { $scales }
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn lanes($q: *const u8, $r: usize) -> __m256i {
                // SAFETY: the caller promises a whole block at the pointer and a run below 8.
                unsafe { $lanes }
            }
        }

        impl Dot for $format {
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn dot<const T: usize>(row: &[u8], x: &[Row<'_>; T]) -> [f32; T] {
                // SAFETY: as the caller promises.
                unsafe { dot_large::<Self, T>(row, x) }
            }
        }
    };
}

large!(
    Q2K,
    |p| {
        let (d, negative) = (splat_f16(p.add(80)), negative(splat_f16(p.add(82))));
        let both = _mm_loadu_si128(p.cast());
        let scales = floats(_mm_and_si128(both, _mm_set1_epi8(15)));
        let minima = floats(_mm_and_si128(_mm_srli_epi16(both, 4), _mm_set1_epi8(15)));
        std::array::from_fn(|i| (_mm256_mul_ps(scales[i], d), _mm256_mul_ps(minima[i], negative)))
    },
    |p, r| shifted(p.add(16 + r / 4 * RUN), r % 4 * 2, 3)
);
large!(
    Q3K,
    |p| {
        let packed = q3k_scales(&p.add(96).cast::<[u8; 12]>().read_unaligned());
        let signed = _mm_sub_epi8(_mm_loadu_si128(packed.as_ptr().cast()), _mm_set1_epi8(32));
        centre(signed, splat_f16(p.add(108)), 4.0)
    },
    |p, r| {
        let low = shifted(p.add(32 + r / 4 * RUN), r % 4 * 2, 3);
        _mm256_or_si256(low, _mm256_slli_epi16(shifted(p, r, 1), 2))
    }
);
large!(Q4K, |p| scales_and_minima(p), |p, r| shifted(p.add(16 + r / 2 * RUN), r % 2 * 4, 15));
large!(Q5K, |p| scales_and_minima(p), |p, r| {
    let low = shifted(p.add(48 + r / 2 * RUN), r % 2 * 4, 15);
    _mm256_or_si256(low, _mm256_slli_epi16(shifted(p.add(16), r, 1), 4))
});
large!(Q6K, |p| centre(_mm_loadu_si128(p.add(192).cast()), splat_f16(p.add(208)), 32.0), |p, r| {
    let low = shifted(p.add(r / 4 * 64 + r % 2 * RUN), r % 4 / 2 * 4, 15);
    let high = shifted(p.add(128 + r / 4 * RUN), r % 4 * 2, 3);
    _mm256_or_si256(low, _mm256_slli_epi16(high, 4))
});

/// The 32 bytes at `p`, each shifted right by `shift` below 8 and cut to `mask`, which has no bit that a neighbour could fill.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn shifted(p: *const u8, shift: usize, mask: i8) -> __m256i {
    // SAFETY: the caller promises 32 bytes at `p`.
    let bytes = unsafe { _mm256_loadu_si256(p.cast()) };
    let shifted = _mm256_srl_epi16(bytes, _mm_cvtsi32_si128(shift as i32));
    _mm256_and_si256(shifted, _mm256_set1_epi8(mask))
}

/// The f16 at `p`, in every lane.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn splat_f16(p: *const u8) -> __m256 {
    // SAFETY: the caller promises two bytes at `p`.
    let half = unsafe { p.cast::<i16>().read_unaligned() };
    _mm256_cvtph_ps(_mm_set1_epi16(half))
}

#[inline]
#[target_feature(enable = "avx2")]
fn negative(v: __m256) -> __m256 {
    _mm256_sub_ps(_mm256_setzero_ps(), v)
}

/// 16 signed bytes as f32.
#[inline]
#[target_feature(enable = "avx2")]
fn floats(bytes: __m128i) -> [__m256; 2] {
    [
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))),
    ]
}

/// Scales of 16 groups, `d` times signed bytes, and the offsets of lanes centred on `zero`.
#[inline]
#[target_feature(enable = "avx2")]
fn centre(signed: __m128i, d: __m256, zero: f32) -> [(__m256, __m256); 2] {
    floats(signed).map(|scale| {
        let scale = _mm256_mul_ps(scale, d);
        (scale, _mm256_mul_ps(scale, _mm256_set1_ps(-zero)))
    })
}

/// Q4_K and Q5_K: 6-bit scales and minima of eight groups of 32.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn scales_and_minima(p: *const u8) -> [(__m256, __m256); 2] {
    // SAFETY: the caller promises a whole block.
    let (packed, d, dmin) =
        unsafe { (p.add(4).cast::<[u8; 12]>().read_unaligned(), splat_f16(p), splat_f16(p.add(2))) };
    let (scales, minima) = q45k_scales(&packed);
    let spread = |bytes: [u8; 8]| {
        let bytes = _mm_cvtsi64_si128(i64::from_le_bytes(bytes));
        floats(_mm_unpacklo_epi8(bytes, bytes))
    };
    let (scales, minima, dmin) = (spread(scales), spread(minima), negative(dmin));
    std::array::from_fn(|i| (_mm256_mul_ps(scales[i], d), _mm256_mul_ps(minima[i], dmin)))
}

/// How an unquantised format's elements become f32 vectors.
trait Load: Plain {
    /// Eight elements at `p`.
    ///
    /// # Safety
    /// The CPU runs the tier and eight elements may be read.
    unsafe fn load(p: *const u8) -> __m256;
}

impl Load for F32 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(p: *const u8) -> __m256 {
        // SAFETY: as the caller promises.
        unsafe { _mm256_loadu_ps(p.cast()) }
    }
}

impl Load for F16 {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(p: *const u8) -> __m256 {
        // SAFETY: as the caller promises.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(p.cast()) })
    }
}

impl Load for Bf16 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(p: *const u8) -> __m256 {
        // SAFETY: as the caller promises.
        let upper = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(p.cast()) });
        _mm256_castsi256_ps(_mm256_slli_epi32(upper, 16))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn plain_panel<P: Load, const T: usize>(data: &[u8], row_bytes: usize, x: &[Row<'_>; T], out: &mut [[f32; T]]) {
    let whole = row_bytes / P::BYTES / 8 * 8;
    for (row, out) in data.chunks_exact(row_bytes).zip(out) {
        let mut sums = [[_mm256_setzero_ps(); 2]; T];
        for at in (0..whole).step_by(8) {
            // SAFETY: both operands have elements `at..at + 8` by the caller's promise.
            unsafe {
                let w = P::load(row.as_ptr().add(at * P::BYTES));
                for t in 0..T {
                    let x = _mm256_loadu_ps(x[t].values.as_ptr().add(at));
                    let sum = &mut sums[t][at / 8 % 2];
                    *sum = _mm256_fmadd_ps(w, x, *sum);
                }
            }
        }
        let rest = row[whole * P::BYTES..].chunks_exact(P::BYTES);
        for t in 0..T {
            let products = rest.clone().zip(&x[t].values[whole..]);
            out[t] =
                total(_mm256_add_ps(sums[t][0], sums[t][1])) + products.map(|(w, x)| P::decode(w) * x).sum::<f32>();
        }
    }
}
