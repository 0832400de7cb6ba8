//! Sixteen f32 lanes in the registers of each instruction set.

use half::f16;
#[cfg(not(target_arch = "aarch64"))]
use half::slice::HalfFloatSliceExt;

/// 16 f32 in registers, or what sums of products with 16 f32 are made from.
///
/// # Safety
/// Of every function: the CPU has the instruction set, and pointers cover 16 elements, aligned or not.
pub(in crate::kernels) trait Sums: Copy {
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(at: *const f32) -> Self;
    unsafe fn store(self, at: *mut f32);
    /// self · b + c.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
}

/// 16 f32 in registers.
///
/// # Safety
/// Of every function: the CPU has the instruction set, and pointers cover 16 elements, aligned or not.
pub(in crate::kernels) trait Lanes: Sums {
    unsafe fn mul(self, b: Self) -> Self;
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn load_f16(at: *const f16) -> Self;
    unsafe fn store_f16(self, at: *mut f16);
    unsafe fn load_i8(at: *const i8) -> Self;
    /// One f16 in every lane; the pointer covers one element.
    unsafe fn splat_f16(at: *const f16) -> Self;
}

/// For CPUs without any of the others.
#[cfg(not(target_arch = "aarch64"))]
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Portable([f32; 16]);

#[cfg(not(target_arch = "aarch64"))]
impl Sums for Portable {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 16])
    }
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { at.cast::<[f32; 16]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { at.cast::<[f32; 16]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn mul_add(mut self, b: Self, c: Self) -> Self {
        for i in 0..16 {
            self.0[i] = self.0[i] * b.0[i] + c.0[i];
        }
        self
    }
}

#[cfg(not(target_arch = "aarch64"))]
impl Lanes for Portable {
    #[inline(always)]
    unsafe fn mul(mut self, b: Self) -> Self {
        for i in 0..16 {
            self.0[i] *= b.0[i];
        }
        self
    }
    #[inline(always)]
    unsafe fn add(mut self, b: Self) -> Self {
        for i in 0..16 {
            self.0[i] += b.0[i];
        }
        self
    }
    #[inline(always)]
    unsafe fn load_f16(at: *const f16) -> Self {
        // SAFETY: the caller's promise.
        let halves = unsafe { at.cast::<[f16; 16]>().read_unaligned() };
        let mut lanes = [0.0; 16];
        halves.convert_to_f32_slice(&mut lanes);
        Self(lanes)
    }
    #[inline(always)]
    unsafe fn store_f16(self, at: *mut f16) {
        let mut halves = [f16::ZERO; 16];
        halves.convert_from_f32_slice(&self.0);
        // SAFETY: the caller's promise.
        unsafe { at.cast::<[f16; 16]>().write_unaligned(halves) }
    }
    #[inline(always)]
    unsafe fn load_i8(at: *const i8) -> Self {
        // SAFETY: the caller's promise.
        let bytes = unsafe { at.cast::<[i8; 16]>().read_unaligned() };
        Self(bytes.map(f32::from))
    }
    #[inline(always)]
    unsafe fn splat_f16(at: *const f16) -> Self {
        // SAFETY: the caller's promise.
        Self([unsafe { at.read_unaligned() }.to_f32(); 16])
    }
}

#[cfg(target_arch = "x86_64")]
pub(in crate::kernels) use x86::{Avx2, Avx512, Bf16Pairs};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Lanes, Sums, f16};

    /// Needs AVX-512F.
    #[derive(Clone, Copy)]
    pub(in crate::kernels) struct Avx512(pub(in crate::kernels::attention) __m512);

    // The intrinsics are inlined once these functions are, into callers compiled for the instruction set.
    impl Sums for Avx512 {
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller's promise, here and in the functions below.
            Self(unsafe { _mm512_set1_ps(x) })
        }
        #[inline(always)]
        unsafe fn load(at: *const f32) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_loadu_ps(at) })
        }
        #[inline(always)]
        unsafe fn store(self, at: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(at, self.0) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
        }
    }

    impl Lanes for Avx512 {
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_mul_ps(self.0, b.0) })
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_add_ps(self.0, b.0) })
        }
        #[inline(always)]
        unsafe fn load_f16(at: *const f16) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) })
        }
        #[inline(always)]
        unsafe fn store_f16(self, at: *mut f16) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_si256(at.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) }
        }
        #[inline(always)]
        unsafe fn load_i8(at: *const i8) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()))) })
        }
        #[inline(always)]
        unsafe fn splat_f16(at: *const f16) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(at.cast::<i16>().read_unaligned())) })
        }
    }

    /// Needs AVX-512 BF16. As factors the bits of each f32 stand for two bf16, and a product is the sum of both's; sums are f32.
    /// Numbers below the smallest normal one count as zero.
    #[derive(Clone, Copy)]
    pub(in crate::kernels) struct Bf16Pairs(Avx512);

    impl Sums for Bf16Pairs {
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller's promise, here and in the functions below.
            Self(unsafe { Avx512::splat(x) })
        }
        #[inline(always)]
        unsafe fn load(at: *const f32) -> Self {
            // SAFETY: as above.
            Self(unsafe { Avx512::load(at) })
        }
        #[inline(always)]
        unsafe fn store(self, at: *mut f32) {
            // SAFETY: as above.
            unsafe { self.0.store(at) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: as above; any bits are bf16.
            Self(Avx512(unsafe {
                let [a, b] = [self.0.0, b.0.0].map(|pairs| std::mem::transmute::<__m512, __m512bh>(pairs));
                _mm512_dpbf16_ps(c.0.0, a, b)
            }))
        }
    }

    /// Needs AVX2, FMA and F16C.
    #[derive(Clone, Copy)]
    pub(in crate::kernels) struct Avx2(
        pub(in crate::kernels::attention) __m256,
        pub(in crate::kernels::attention) __m256,
    );

    impl Sums for Avx2 {
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller's promise, here and in the functions below.
            let x = unsafe { _mm256_set1_ps(x) };
            Self(x, x)
        }
        #[inline(always)]
        unsafe fn load(at: *const f32) -> Self {
            // SAFETY: as above.
            unsafe { Self(_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))) }
        }
        #[inline(always)]
        unsafe fn store(self, at: *mut f32) {
            // SAFETY: as above.
            unsafe {
                _mm256_storeu_ps(at, self.0);
                _mm256_storeu_ps(at.add(8), self.1);
            }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: as above.
            unsafe { Self(_mm256_fmadd_ps(self.0, b.0, c.0), _mm256_fmadd_ps(self.1, b.1, c.1)) }
        }
    }

    impl Lanes for Avx2 {
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { Self(_mm256_mul_ps(self.0, b.0), _mm256_mul_ps(self.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { Self(_mm256_add_ps(self.0, b.0), _mm256_add_ps(self.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn load_f16(at: *const f16) -> Self {
            // SAFETY: as above.
            unsafe {
                let low = _mm256_cvtph_ps(_mm_loadu_si128(at.cast()));
                Self(low, _mm256_cvtph_ps(_mm_loadu_si128(at.add(8).cast())))
            }
        }
        #[inline(always)]
        unsafe fn store_f16(self, at: *mut f16) {
            // SAFETY: as above.
            unsafe {
                _mm_storeu_si128(at.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0));
                _mm_storeu_si128(at.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.1));
            }
        }
        #[inline(always)]
        unsafe fn load_i8(at: *const i8) -> Self {
            // SAFETY: as above.
            unsafe {
                let low = _mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast()));
                let high = _mm256_cvtepi8_epi32(_mm_loadl_epi64(at.add(8).cast()));
                Self(_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high))
            }
        }
        #[inline(always)]
        unsafe fn splat_f16(at: *const f16) -> Self {
            // SAFETY: as above.
            let x = unsafe { _mm256_cvtph_ps(_mm_set1_epi16(at.cast::<i16>().read_unaligned())) };
            Self(x, x)
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(in crate::kernels) use arm::Neon;

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;
    use std::arch::asm;

    use super::{Lanes, Sums, f16};

    /// NEON, which every AArch64 CPU has.
    #[derive(Clone, Copy)]
    pub(in crate::kernels) struct Neon([float32x4_t; 4]);

    /// The conversion instructions of the base architecture, whose intrinsics need an unstable type.
    #[inline(always)]
    unsafe fn widen(halves: uint16x4_t) -> float32x4_t {
        let out: float32x4_t;
        // SAFETY: reads and writes registers only.
        unsafe {
            asm!("fcvtl {o:v}.4s, {i:v}.4h", o = out(vreg) out, i = in(vreg) halves, options(pure, nomem, nostack));
        }
        out
    }

    #[inline(always)]
    unsafe fn narrow(x: float32x4_t) -> uint16x4_t {
        let out: uint16x4_t;
        // SAFETY: reads and writes registers only.
        unsafe {
            asm!("fcvtn {o:v}.4h, {i:v}.4s", o = out(vreg) out, i = in(vreg) x, options(pure, nomem, nostack));
        }
        out
    }

    impl Sums for Neon {
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller's promise, here and in the functions below.
            Self([unsafe { vdupq_n_f32(x) }; 4])
        }
        #[inline(always)]
        unsafe fn load(at: *const f32) -> Self {
            // SAFETY: as above.
            unsafe { Self([vld1q_f32(at), vld1q_f32(at.add(4)), vld1q_f32(at.add(8)), vld1q_f32(at.add(12))]) }
        }
        #[inline(always)]
        unsafe fn store(self, at: *mut f32) {
            for (i, x) in self.0.into_iter().enumerate() {
                // SAFETY: as above.
                unsafe { vst1q_f32(at.add(4 * i), x) }
            }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, mut c: Self) -> Self {
            for i in 0..4 {
                // SAFETY: as above.
                c.0[i] = unsafe { vfmaq_f32(c.0[i], self.0[i], b.0[i]) };
            }
            c
        }
    }

    impl Lanes for Neon {
        #[inline(always)]
        unsafe fn mul(mut self, b: Self) -> Self {
            for i in 0..4 {
                // SAFETY: as above.
                self.0[i] = unsafe { vmulq_f32(self.0[i], b.0[i]) };
            }
            self
        }
        #[inline(always)]
        unsafe fn add(mut self, b: Self) -> Self {
            for i in 0..4 {
                // SAFETY: as above.
                self.0[i] = unsafe { vaddq_f32(self.0[i], b.0[i]) };
            }
            self
        }
        #[inline(always)]
        unsafe fn load_f16(at: *const f16) -> Self {
            let at = at.cast::<u16>();
            // SAFETY: as above.
            unsafe {
                let (a, b) = (widen(vld1_u16(at)), widen(vld1_u16(at.add(4))));
                Self([a, b, widen(vld1_u16(at.add(8))), widen(vld1_u16(at.add(12)))])
            }
        }
        #[inline(always)]
        unsafe fn store_f16(self, at: *mut f16) {
            for (i, x) in self.0.into_iter().enumerate() {
                // SAFETY: as above.
                unsafe { vst1_u16(at.cast::<u16>().add(4 * i), narrow(x)) }
            }
        }
        #[inline(always)]
        unsafe fn load_i8(at: *const i8) -> Self {
            // SAFETY: as above.
            unsafe {
                let bytes = vld1q_s8(at);
                let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_s8(vget_high_s8(bytes)));
                Self([
                    vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                    vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
                    vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                    vcvtq_f32_s32(vmovl_s16(vget_high_s16(high))),
                ])
            }
        }
        #[inline(always)]
        unsafe fn splat_f16(at: *const f16) -> Self {
            // SAFETY: as above.
            unsafe { Self([widen(vdup_n_u16(at.cast::<u16>().read_unaligned())); 4]) }
        }
    }
}

/// # Safety
/// As of the lanes.
#[inline(always)]
unsafe fn narrow_body<L: Lanes>(x: &[f32], out: &mut [f16]) {
    let (chunks, rest) = x.as_chunks::<16>();
    let (out_chunks, out_rest) = out.as_chunks_mut::<16>();
    for (x, out) in chunks.iter().zip(out_chunks) {
        // SAFETY: both are 16 long; the rest is the caller's promise.
        unsafe { L::load(x.as_ptr()).store_f16(out.as_mut_ptr()) }
    }
    for (x, out) in rest.iter().zip(out_rest) {
        *out = f16::from_f32(*x);
    }
}

/// out = x, rounded to nearest.
pub fn f16_from_f32(x: &[f32], out: &mut [f16]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2(x: &[f32], out: &mut [f16]) {
            // SAFETY: compiled for what the lanes need.
            unsafe { narrow_body::<Avx2>(x, out) }
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has every feature the function is compiled for.
            return unsafe { avx2(x, out) };
        }
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: NEON belongs to the architecture.
    return unsafe { narrow_body::<arm::Neon>(x, out) };
    #[cfg(not(target_arch = "aarch64"))]
    // SAFETY: portable.
    unsafe {
        narrow_body::<Portable>(x, out);
    }
}
