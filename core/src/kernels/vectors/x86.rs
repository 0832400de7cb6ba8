//! AVX-512, and AVX2 with FMA.

use std::arch::x86_64::*;

use super::Vector;

/// Needs AVX-512F and DQ.
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

/// Needs AVX2 and FMA.
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256);

// The intrinsics are inlined once these functions are, into callers compiled for the instruction set.
macro_rules! vector {
    ($name:ident, $width:literal, $splat:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident, $mul_add:ident, $mul_sub:ident, $neg_mul_add:ident, $max:ident, $min:ident,
     $bits:ident, $number:ident, $add_bits:ident, $splat_bits:ident, $shift:ident, $low_halves:ident, $total:ident, $largest:ident) => {
        impl Vector for $name {
            const WIDTH: usize = $width;

            #[inline(always)]
            fn splat(x: f32) -> Self {
                // SAFETY: only `vectorised` names this type, when the CPU has the instruction set; so in all of them.
                Self(unsafe { $splat(x) })
            }
            #[inline(always)]
            fn load(from: &[f32; 16], start: usize) -> Self {
                let from = &from[start..start + $width];
                // SAFETY: as above; the slice has as many elements.
                Self(unsafe { $load(from.as_ptr()) })
            }
            #[inline(always)]
            fn store(self, to: &mut [f32; 16], start: usize) {
                let to = &mut to[start..start + $width];
                // SAFETY: as above; the slice has as many elements.
                unsafe { $store(to.as_mut_ptr(), self.0) }
            }
            #[inline(always)]
            fn store_low_halves(self, to: &mut [i16; 16], start: usize) {
                let to = &mut to[start..start + $width];
                // SAFETY: as above; the slice has as many elements.
                unsafe { $low_halves(to.as_mut_ptr(), $bits(self.0)) }
            }
            #[inline(always)]
            fn add(self, b: Self) -> Self {
                // SAFETY: as in `splat`.
                Self(unsafe { $add(self.0, b.0) })
            }
            #[inline(always)]
            fn sub(self, b: Self) -> Self {
                // SAFETY: as in `splat`.
                Self(unsafe { $sub(self.0, b.0) })
            }
            #[inline(always)]
            fn mul(self, b: Self) -> Self {
                // SAFETY: as in `splat`.
                Self(unsafe { $mul(self.0, b.0) })
            }
            #[inline(always)]
            fn mul_add(self, b: Self, c: Self) -> Self {
                // SAFETY: as in `splat`.
                Self(unsafe { $mul_add(self.0, b.0, c.0) })
            }
            #[inline(always)]
            fn mul_sub(self, b: Self, c: Self) -> Self {
                // SAFETY: as in `splat`.
                Self(unsafe { $mul_sub(self.0, b.0, c.0) })
            }
            #[inline(always)]
            fn neg_mul_add(self, b: Self, c: Self) -> Self {
                // SAFETY: as in `splat`.
                Self(unsafe { $neg_mul_add(self.0, b.0, c.0) })
            }
            #[inline(always)]
            fn max(self, b: Self) -> Self {
                // SAFETY: as in `splat`.
                Self(unsafe { $max(self.0, b.0) })
            }
            #[inline(always)]
            fn min(self, b: Self) -> Self {
                // SAFETY: as in `splat`.
                Self(unsafe { $min(self.0, b.0) })
            }
            #[inline(always)]
            fn power_of_two(self) -> Self {
                // SAFETY: as in `splat`.
                Self(unsafe { $number($shift::<23>($add_bits($bits(self.0), $splat_bits(127)))) })
            }
            #[inline(always)]
            fn total(self) -> f32 {
                // SAFETY: as in `splat`.
                unsafe { $total(self.0) }
            }
            #[inline(always)]
            fn largest(self) -> f32 {
                // SAFETY: as in `splat`.
                unsafe { $largest(self.0) }
            }
        }
    };
}

vector!(
    Avx512,
    16,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_add_ps,
    _mm512_sub_ps,
    _mm512_mul_ps,
    _mm512_fmadd_ps,
    _mm512_fmsub_ps,
    _mm512_fnmadd_ps,
    _mm512_max_ps,
    _mm512_min_ps,
    _mm512_castps_si512,
    _mm512_castsi512_ps,
    _mm512_add_epi32,
    _mm512_set1_epi32,
    _mm512_slli_epi32,
    low_halves_512,
    total_512,
    largest_512
);
vector!(
    Avx2,
    8,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_add_ps,
    _mm256_sub_ps,
    _mm256_mul_ps,
    _mm256_fmadd_ps,
    _mm256_fmsub_ps,
    _mm256_fnmadd_ps,
    _mm256_max_ps,
    _mm256_min_ps,
    _mm256_castps_si256,
    _mm256_castsi256_ps,
    _mm256_add_epi32,
    _mm256_set1_epi32,
    _mm256_slli_epi32,
    low_halves_256,
    total_256,
    largest_256
);

/// # Safety
/// The CPU has AVX-512F, and there is room for 16.
#[inline(always)]
unsafe fn low_halves_512(to: *mut i16, x: __m512i) {
    // SAFETY: the caller's promise.
    unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(x)) }
}

/// # Safety
/// The CPU has AVX2, and there is room for 8.
#[inline(always)]
unsafe fn low_halves_256(to: *mut i16, x: __m256i) {
    // SAFETY: the caller's promise.
    unsafe {
        let low = _mm256_blend_epi16::<0xAA>(x, _mm256_setzero_si256());
        let packed = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low));
        _mm_storeu_si128(to.cast(), packed);
    }
}

/// One number of a register, halves taken together until it is left.
macro_rules! across {
    ($of_16:ident, $of_8:ident, $wide:ident, $narrow:ident) => {
        /// # Safety
        /// The CPU has AVX-512F and DQ.
        #[inline(always)]
        unsafe fn $of_16(x: __m512) -> f32 {
            // SAFETY: the caller's promise.
            unsafe { $of_8($wide(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x))) }
        }

        /// # Safety
        /// The CPU has AVX2.
        #[inline(always)]
        unsafe fn $of_8(x: __m256) -> f32 {
            // SAFETY: the caller's promise.
            unsafe {
                let four = $narrow(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
                let two = $narrow(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32($narrow(two, _mm_movehdup_ps(two)))
            }
        }
    };
}

across!(total_512, total_256, _mm256_add_ps, _mm_add_ps);
across!(largest_512, largest_256, _mm256_max_ps, _mm_max_ps);
