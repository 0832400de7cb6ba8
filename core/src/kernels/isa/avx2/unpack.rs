//! How each format's bytes become runs of lanes, scales and offsets.

use std::arch::x86_64::*;

use super::RUN;
use super::gemm::{Bytes, Repack, Unit, Unpacked, Words};
use super::gemv::{Dot, dot_large, dot_split, dot_words};
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

/// A format with unsigned lanes of few bits, for products with the coarse plane alone.
pub trait Unsigned: Format {
    /// [`Bytes`] of as many parts as the lanes' size asks for.
    type Unit: Unit;
    /// Columns that share a scale: 16 or 32.
    const SPAN: usize;
    /// Largest lane.
    const LARGEST: i32;

    /// Unpacks the block at `p`, lanes as bytes; entries past the block's end are not looked at.
    ///
    /// # Safety
    /// The CPU runs the tier and `p` is followed by a whole block.
    unsafe fn bytes(p: *const u8) -> Unpacked;
}

/// An [`Unsigned`] format in panels of bytes.
pub struct Narrow<F>(std::marker::PhantomData<F>);

impl<F: Unsigned> Repack for Narrow<F> {
    type Format = F;
    type Unit = F::Unit;
    const SPAN: usize = F::SPAN;
    const OFFSET: bool = true;
    const LARGEST: i32 = F::LARGEST;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn block(p: *const u8) -> Unpacked {
        // SAFETY: the caller promises a whole block.
        unsafe { F::bytes(p) }
    }
}

/// A format of 32-element blocks of nibbles, by the halves of two blocks.
pub trait Halves: Format {
    /// Whether blocks have a minimum beside their scale.
    const MINIMA: bool;
    /// What an element adds to its unsigned lane times the scale: in minima, or else in scales.
    const OFFSET: f32;

    /// First and second halves of the blocks at `p`, each the halves of a vector, as unsigned lanes.
    ///
    /// # Safety
    /// The CPU runs the tier and both of `p` are followed by a whole block.
    unsafe fn halves(p: [*const u8; 2]) -> [__m256i; 2];

    /// Scales and minima of the four blocks at `p`, each twice; minima are not looked at where there are none.
    ///
    /// # Safety
    /// The CPU runs the tier and `p` is followed by four whole blocks.
    unsafe fn heads(p: *const u8) -> (__m256, __m256);
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
    ($format:ty, coarse: $coarse:ty, centred: $centred:expr, largest: $largest:expr, $dot:ident, |$p:ident| $lanes:expr) => {
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
            type Coarse = $coarse;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn dot<const FINE: bool>(row: &[u8], x: &Row<'_>) -> f32 {
                // SAFETY: as the caller promises.
                unsafe { $dot::<Self, FINE>(row, x) }
            }
        }

        impl Repack for $format {
            type Format = Self;
            type Unit = Words;
            const SPAN: usize = 2 * GROUP;
            const OFFSET: bool = !$centred;
            const LARGEST: i32 = $largest;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn block(p: *const u8) -> Unpacked {
                // SAFETY: the caller promises a whole block.
                let (lanes, head) = unsafe { (<Self as Small>::lanes(p), head(p)) };
                let offset = if $centred { 0.0 } else { _mm_cvtss_f32(_mm_movehdup_ps(head)) };
                let mut words = [_mm256_setzero_si256(); 16];
                [words[0], words[1]] = widen(lanes);
                Unpacked { lanes: words, scales: [_mm_cvtss_f32(head); 16], offsets: [offset; 16] }
            }
        }
    };
}

small!(Q4_0, coarse: Narrow<Self>, centred: true, largest: 8, dot_split, |p| _mm256_sub_epi8(nibbles(p.add(2)), _mm256_set1_epi8(8)));
small!(Q4_1, coarse: Narrow<Self>, centred: false, largest: 15, dot_split, |p| nibbles(p.add(4)));
small!(Q5_0, coarse: Narrow<Self>, centred: true, largest: 16, dot_split, |p| {
    let five = _mm256_or_si256(nibbles(p.add(6)), fifth_bits(p.add(2)));
    _mm256_sub_epi8(five, _mm256_set1_epi8(16))
});
small!(Q5_1, coarse: Narrow<Self>, centred: false, largest: 31, dot_split, |p| _mm256_or_si256(nibbles(p.add(8)), fifth_bits(p.add(4))));
small!(Q8_0, coarse: Self, centred: true, largest: 128, dot_words, |p| _mm256_loadu_si256(p.add(2).cast()));
small!(Iq4Nl, coarse: Self, centred: true, largest: 127, dot_words, |p| {
    let levels = _mm256_broadcastsi128_si256(_mm_loadu_si128(LEVELS.as_ptr().cast()));
    _mm256_shuffle_epi8(levels, nibbles(p.add(2)))
});

macro_rules! halves {
    ($format:ty, largest: $largest:expr, parts: $parts:literal, offset: $offset:expr, $heads:ident, nibbles: $nibbles:expr $(, fifth: $fifth:expr)?) => {
        impl Halves for $format {
            const MINIMA: bool = $offset == 1.0;
            const OFFSET: f32 = $offset;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn halves(p: [*const u8; 2]) -> [__m256i; 2] {
                // SAFETY: the caller promises whole blocks.
                unsafe {
                    let [a, b] = p.map(|p| _mm_loadu_si128(p.add($nibbles).cast()));
                    let both = _mm256_set_m128i(b, a);
                    let mask = _mm256_set1_epi8(0x0f);
                    let halves = [_mm256_and_si256(both, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask)];
                    $(
                        let fifth = fifth_bits_of_halves(p.map(|p| p.add($fifth).cast::<i32>().read_unaligned()));
                        let halves = [_mm256_or_si256(halves[0], fifth[0]), _mm256_or_si256(halves[1], fifth[1])];
                    )?
                    halves
                }
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn heads(p: *const u8) -> (__m256, __m256) {
                // SAFETY: the caller promises four blocks.
                unsafe { $heads(p, Self::BYTES) }
            }
        }

        impl Unsigned for $format {
            type Unit = Bytes<$parts>;
            const SPAN: usize = 2 * GROUP;
            const LARGEST: i32 = $largest;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn bytes(p: *const u8) -> Unpacked {
                // SAFETY: the caller promises a whole block.
                let (mut lanes, head) = unsafe { (<Self as Small>::lanes(p), head(p)) };
                let scale = _mm_cvtss_f32(head);
                let mut offset = _mm_cvtss_f32(_mm_movehdup_ps(head));
                if Self::CENTRED {
                    lanes = _mm256_sub_epi8(lanes, _mm256_set1_epi8($offset as i8));
                    offset = scale * $offset;
                }
                let mut bytes = [_mm256_setzero_si256(); 16];
                bytes[0] = lanes;
                Unpacked { lanes: bytes, scales: [scale; 16], offsets: [offset; 16] }
            }
        }
    };
}

halves!(Q4_0, largest: 15, parts: 1, offset: -8.0, scales_alone, nibbles: 2);
halves!(Q4_1, largest: 15, parts: 1, offset: 1.0, scales_and_minima_of_four, nibbles: 4);
halves!(Q5_0, largest: 31, parts: 2, offset: -16.0, scales_alone, nibbles: 6, fifth: 2);
halves!(Q5_1, largest: 31, parts: 2, offset: 1.0, scales_and_minima_of_four, nibbles: 8, fifth: 4);

/// 16 in every lane whose bit is set: those of the first halves of two blocks, and of the second.
#[inline]
#[target_feature(enable = "avx2")]
fn fifth_bits_of_halves(bits: [i32; 2]) -> [__m256i; 2] {
    let bits = _mm256_set_m128i(_mm_set1_epi32(bits[1]), _mm_set1_epi32(bits[0]));
    let own_bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    [0, 0x0202_0202_0202_0202].map(|half| {
        let own_byte = _mm256_setr_epi64x(half, half + 0x0101_0101_0101_0101, half, half + 0x0101_0101_0101_0101);
        let bits = _mm256_and_si256(_mm256_shuffle_epi8(bits, own_byte), own_bit);
        _mm256_and_si256(_mm256_cmpeq_epi8(bits, own_bit), _mm256_set1_epi8(16))
    })
}

/// The leading f16 of four blocks of `bytes` each.
#[inline]
#[target_feature(enable = "avx2")]
pub unsafe fn four_halves(p: *const u8, bytes: usize) -> __m128i {
    // SAFETY: the caller promises four blocks.
    let half = |b: usize| unsafe { u64::from(p.add(b * bytes).cast::<u16>().read_unaligned()) };
    _mm_cvtsi64_si128((half(0) | half(1) << 16 | half(2) << 32 | half(3) << 48) as i64)
}

/// [`Halves::heads`] of blocks that begin with their scale.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn scales_alone(p: *const u8, bytes: usize) -> (__m256, __m256) {
    // SAFETY: the caller promises four blocks.
    let halves = unsafe { four_halves(p, bytes) };
    let scales = _mm256_cvtph_ps(_mm_unpacklo_epi16(halves, halves));
    (scales, scales)
}

/// [`Halves::heads`] of blocks that begin with their scale and minimum.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn scales_and_minima_of_four(p: *const u8, bytes: usize) -> (__m256, __m256) {
    // SAFETY: the caller promises four blocks.
    let head = |b: usize| unsafe { u64::from(p.add(b * bytes).cast::<u32>().read_unaligned()) };
    let heads = _mm_set_epi64x((head(2) | head(3) << 32) as i64, (head(0) | head(1) << 32) as i64);
    let heads = _mm256_cvtph_ps(heads);
    (_mm256_moveldup_ps(heads), _mm256_movehdup_ps(heads))
}

macro_rules! large {
    ($format:ty, span: $span:expr, largest: $largest:expr, parts: $parts:literal, |$p:ident| $scales:expr, |$q:ident, $r:ident| $lanes:expr) => {
        large!($format, coarse: Narrow<Self>, |$p| $scales, |$q, $r| $lanes);

        impl Unsigned for $format {
            type Unit = Bytes<$parts>;
            const SPAN: usize = $span;
            const LARGEST: i32 = $largest;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn bytes(p: *const u8) -> Unpacked {
                let mut bytes = [_mm256_setzero_si256(); 16];
                // SAFETY: the caller promises a whole block, which has eight runs.
                unsafe {
                    for (r, bytes) in bytes.iter_mut().enumerate().take(Self::LEN / RUN) {
                        *bytes = <Self as Large>::lanes(p, r);
                    }
                    uncentred::<Self>(p, bytes)
                }
            }
        }

        impl Repack for $format {
            type Format = Self;
            type Unit = Words;
            const SPAN: usize = $span;
            const OFFSET: bool = true;
            const LARGEST: i32 = $largest;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn block(p: *const u8) -> Unpacked {
                // SAFETY: the caller promises a whole block.
                unsafe { uncentred::<Self>(p, words::<Self>(p)) }
            }
        }
    };
    ($format:ty, centred: $zero:expr, largest: $largest:expr, |$p:ident| $signed:expr, |$q:ident, $r:ident| $lanes:expr) => {
        large!(
            $format,
            coarse: Self,
            |$p| {
                let (signed, d) = $signed;
                centre(signed, d, $zero as f32)
            },
            |$q, $r| $lanes
        );

        impl Repack for $format {
            type Format = Self;
            type Unit = Words;
            // Lanes take the groups' integer scales into themselves, so that 32 columns share what is left, and lose their offset.
            const SPAN: usize = 2 * GROUP;
            const OFFSET: bool = false;
            const LARGEST: i32 = $largest;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn block($p: *const u8) -> Unpacked {
                // SAFETY: the caller promises a whole block.
                let (mut words, (signed, d)) = unsafe { (words::<Self>($p), $signed) };
                let mut scales = [0i8; 16];
                // SAFETY: as many bytes as a vector.
                unsafe { _mm_storeu_si128(scales.as_mut_ptr().cast(), signed) };
                for (words, scale) in words.iter_mut().zip(scales) {
                    let centred = _mm256_sub_epi16(*words, _mm256_set1_epi16($zero));
                    *words = _mm256_mullo_epi16(centred, _mm256_set1_epi16(i16::from(scale)));
                }
                Unpacked { lanes: words, scales: [_mm256_cvtss_f32(d); 16], offsets: [0.0; 16] }
            }
        }
    };
    ($format:ty, coarse: $coarse:ty, |$p:ident| $scales:expr, |$q:ident, $r:ident| $lanes:expr) => {
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
            type Coarse = $coarse;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn dot<const FINE: bool>(row: &[u8], x: &Row<'_>) -> f32 {
                // SAFETY: as the caller promises.
                unsafe { dot_large::<Self, FINE>(row, x) }
            }
        }
    };
}

large!(
    Q2K,
    span: 16,
    largest: 3,
    parts: 1,
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
    centred: 4,
    largest: 4 * 32,
    |p| {
        let packed = q3k_scales(&p.add(96).cast::<[u8; 12]>().read_unaligned());
        let signed = _mm_sub_epi8(_mm_loadu_si128(packed.as_ptr().cast()), _mm_set1_epi8(32));
        (signed, splat_f16(p.add(108)))
    },
    |p, r| {
        let low = shifted(p.add(32 + r / 4 * RUN), r % 4 * 2, 3);
        _mm256_or_si256(low, _mm256_slli_epi16(shifted(p, r, 1), 2))
    }
);
large!(Q4K, span: 32, largest: 15, parts: 1, |p| scales_and_minima(p), |p, r| shifted(p.add(16 + r / 2 * RUN), r % 2 * 4, 15));
large!(Q5K, span: 32, largest: 31, parts: 2, |p| scales_and_minima(p), |p, r| {
    let low = shifted(p.add(48 + r / 2 * RUN), r % 2 * 4, 15);
    _mm256_or_si256(low, _mm256_slli_epi16(shifted(p.add(16), r, 1), 4))
});
large!(Q6K, centred: 32, largest: 32 * 128, |p| (_mm_loadu_si128(p.add(192).cast()), splat_f16(p.add(208))), |p, r| {
    let low = shifted(p.add(r / 4 * 64 + r % 2 * RUN), r % 4 / 2 * 4, 15);
    let high = shifted(p.add(128 + r / 4 * RUN), r % 4 * 2, 3);
    _mm256_or_si256(low, _mm256_slli_epi16(high, 4))
});

/// A block of lanes that are not centred, with its scales and offsets.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn uncentred<F: Large>(p: *const u8, lanes: [__m256i; 16]) -> Unpacked {
    let (mut scales, mut offsets) = ([0.0; 16], [0.0; 16]);
    // SAFETY: the caller promises a whole block; each half of the groups is eight numbers.
    unsafe {
        for (half, (scale, offset)) in F::scales(p).into_iter().enumerate() {
            _mm256_storeu_ps(scales.as_mut_ptr().add(8 * half), scale);
            _mm256_storeu_ps(offsets.as_mut_ptr().add(8 * half), offset);
        }
    }
    Unpacked { lanes, scales, offsets }
}

/// A block's lanes as words.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn words<F: Large>(p: *const u8) -> [__m256i; 16] {
    let mut words = [_mm256_setzero_si256(); 16];
    for (r, words) in words.as_chunks_mut().0.iter_mut().enumerate() {
        // SAFETY: the caller promises a whole block, which has eight runs.
        *words = widen(unsafe { F::lanes(p, r) });
    }
    words
}

/// Signed bytes as words.
#[inline]
#[target_feature(enable = "avx2")]
pub fn widen(bytes: __m256i) -> [__m256i; 2] {
    [_mm256_cvtepi8_epi16(_mm256_castsi256_si128(bytes)), _mm256_cvtepi8_epi16(_mm256_extracti128_si256(bytes, 1))]
}

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
