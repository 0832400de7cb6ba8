//! How each format's bytes become runs of lanes, scales and offsets.

use std::arch::x86_64::*;

use super::RUN;
use super::gemm::Repack;
use super::gemv::{Dot, dot_large, dot_small};
use crate::kernels::activations::Row;
use crate::kernels::formats::{
    Format, GROUP, Iq4Nl, LEVELS, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, q3k_scales, q45k_scales,
};

/// A format of 32-element blocks.
pub trait Small: Format {
    /// Whether lanes are centred and there is no offset; otherwise lanes are unsigned.
    const CENTRED: bool;

    /// The lanes of the block at `p`.
    ///
    /// # Safety
    /// The CPU runs the tier and `p` is followed by a whole block.
    unsafe fn lanes(p: *const u8) -> __m256i;
}

/// A format of 256-element blocks.
pub trait Large: Format {
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

/// The leading f16 of a small block, and the one after it where the format has it.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub unsafe fn head(p: *const u8) -> __m128 {
    // SAFETY: the caller promises a block, which is longer than four bytes.
    _mm_cvtph_ps(_mm_cvtsi32_si128(unsafe { p.cast::<i32>().read_unaligned() }))
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
            unsafe fn dot(row: &[u8], x: &Row<'_>) -> f32 {
                // SAFETY: as the caller promises.
                unsafe { dot_small::<Self>(row, x) }
            }
        }

        impl Repack for $format {
            const SPAN: usize = 2 * GROUP;
            const OFFSETS: bool = !$centred;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn block(p: *const u8) -> ([__m256i; 8], [f32; 16], [f32; 16]) {
                // SAFETY: the caller promises a whole block.
                let (lanes, head) = unsafe { (<Self as Small>::lanes(p), head(p)) };
                let scale = _mm_cvtss_f32(head);
                let offset = if $centred { 0.0 } else { _mm_cvtss_f32(_mm_movehdup_ps(head)) };
                let mut runs = [_mm256_setzero_si256(); 8];
                runs[0] = lanes;
                (runs, [scale; 16], [offset; 16])
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
    ($format:ty, span: $span:expr, |$p:ident| $scales:expr, |$q:ident, $r:ident| $lanes:expr) => {
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
            unsafe fn dot(row: &[u8], x: &Row<'_>) -> f32 {
                // SAFETY: as the caller promises.
                unsafe { dot_large::<Self>(row, x) }
            }
        }

        impl Repack for $format {
            const SPAN: usize = $span;
            const OFFSETS: bool = true;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn block(p: *const u8) -> ([__m256i; 8], [f32; 16], [f32; 16]) {
                let (mut scales, mut offsets) = ([0.0; 16], [0.0; 16]);
                let mut runs = [_mm256_setzero_si256(); 8];
                // SAFETY: the caller promises a whole block; each half of the groups is eight numbers.
                unsafe {
                    for (half, (scale, offset)) in <Self as Large>::scales(p).into_iter().enumerate() {
                        _mm256_storeu_ps(scales.as_mut_ptr().add(8 * half), scale);
                        _mm256_storeu_ps(offsets.as_mut_ptr().add(8 * half), offset);
                    }
                    for (r, run) in runs.iter_mut().enumerate() {
                        *run = <Self as Large>::lanes(p, r);
                    }
                }
                (runs, scales, offsets)
            }
        }
    };
}

large!(
    Q2K,
    span: 16,
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
    span: 16,
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
large!(Q4K, span: 32, |p| scales_and_minima(p), |p, r| shifted(p.add(16 + r / 2 * RUN), r % 2 * 4, 15));
large!(Q5K, span: 32, |p| scales_and_minima(p), |p, r| {
    let low = shifted(p.add(48 + r / 2 * RUN), r % 2 * 4, 15);
    _mm256_or_si256(low, _mm256_slli_epi16(shifted(p.add(16), r, 1), 4))
});
large!(Q6K, span: 16, |p| centre(_mm_loadu_si128(p.add(192).cast()), splat_f16(p.add(208)), 32.0), |p, r| {
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
