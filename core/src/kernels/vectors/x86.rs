//! AVX-512, and AVX2 with FMA.

use std::arch::x86_64::*;

use super::Vector;

/// Needs AVX-512F.
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

/// Needs AVX2 and FMA.
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256);

// The intrinsics are inlined once these functions are, into callers compiled for the instruction set.
macro_rules! vector {
    ($name:ident, $width:literal, $splat:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident, $mul_add:ident, $mul_sub:ident, $neg_mul_add:ident) => {
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
    _mm512_fnmadd_ps
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
    _mm256_fnmadd_ps
);
