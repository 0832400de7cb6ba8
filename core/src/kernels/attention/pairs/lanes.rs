//! Sixteen sums of products of pairs in the registers of each instruction set that is faster with them than with f32.

use super::super::lanes::{Lanes, Sums};
use crate::kernels::Tier;

/// 16 i32 in registers, or 16 pairs of i16.
///
/// # Safety
/// Of every function: the CPU has the instruction set, and pointers cover 16 elements, aligned or not.
pub(super) trait Pairs: Copy {
    /// 16 f32 likewise.
    type Floats: Lanes;
    unsafe fn splat(x: i32) -> Self;
    unsafe fn load(at: *const i32) -> Self;
    unsafe fn store(self, at: *mut i32);
    /// self + the products of both of a pair.
    unsafe fn add_products(self, a: Self, b: Self) -> Self;
    /// The sums.
    unsafe fn floats(self) -> Self::Floats;
    /// Pairs of the low 16 bits of the first's numbers and the second's.
    unsafe fn join(first: Self::Floats, second: Self::Floats) -> Self;
}

/// A computation over pairs.
pub(super) trait OverPairs {
    /// Does it. Implement with `#[inline(always)]`.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    unsafe fn run<W: Pairs>(self);
}

/// What the products are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PairSet {
    /// Any CPU, slower than f32 there: what the others are tested against.
    #[allow(dead_code)]
    Portable,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW and VNNI besides.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl PairSet {
    /// What goes with the kernels of a tier, if it is faster than f32 there. `None` also where the CPU lacks the tier.
    pub(super) fn of(tier: Tier) -> Option<Self> {
        match tier {
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => Some(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => Some(Self::Avx512),
            _ => None,
        }
        .filter(|_| tier.is_available())
    }

    /// Does `work`; the set is one that [`of`](Self::of) found, or a narrower one.
    ///
    /// # Safety
    /// As the work's, but for the CPU.
    pub(super) unsafe fn work(self, work: impl OverPairs) {
        // SAFETY: the CPU has the instruction set.
        unsafe {
            match self {
                Self::Portable => work.run::<PortablePairs>(),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => x86::avx2(work),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => x86::avx512(work),
            }
        }
    }
}

/// For any CPU.
#[derive(Clone, Copy)]
pub(super) struct PortablePairs([i32; 16]);

impl Pairs for PortablePairs {
    #[cfg(target_arch = "aarch64")]
    type Floats = super::super::lanes::Neon;
    #[cfg(not(target_arch = "aarch64"))]
    type Floats = super::super::lanes::Portable;
    #[inline(always)]
    unsafe fn splat(x: i32) -> Self {
        Self([x; 16])
    }
    #[inline(always)]
    unsafe fn load(at: *const i32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { at.cast::<[i32; 16]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut i32) {
        // SAFETY: the caller's promise.
        unsafe { at.cast::<[i32; 16]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add_products(mut self, a: Self, b: Self) -> Self {
        let halves = |pair: i32| [pair << 16 >> 16, pair >> 16];
        for i in 0..16 {
            let ([a, c], [b, d]) = (halves(a.0[i]), halves(b.0[i]));
            self.0[i] = self.0[i].wrapping_add((a * b).wrapping_add(c * d));
        }
        self
    }
    #[inline(always)]
    unsafe fn floats(self) -> Self::Floats {
        let floats = self.0.map(|sum| sum as f32);
        // SAFETY: 16 of them.
        unsafe { Sums::load(floats.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn join(first: Self::Floats, second: Self::Floats) -> Self {
        let mut both = [[0f32; 16]; 2];
        // SAFETY: 16 of each.
        unsafe {
            first.store(both[0].as_mut_ptr());
            second.store(both[1].as_mut_ptr());
        }
        Self(std::array::from_fn(|i| (both[0][i].to_bits() & 0xFFFF | both[1][i].to_bits() << 16) as i32))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2Pairs, Avx512Pairs};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;

    use super::super::super::lanes::{Avx2, Avx512};
    use super::{OverPairs, Pairs};

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn avx2(work: impl OverPairs) {
        // SAFETY: compiled for the instruction set.
        unsafe { work.run::<Avx2Pairs>() }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
    pub(super) unsafe fn avx512(work: impl OverPairs) {
        // SAFETY: compiled for the instruction set.
        unsafe { work.run::<Avx512Pairs>() }
    }

    /// The instruction as such: compilers make two of its intrinsic, to shorten chains that are no limit here.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn add_products(mut sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: reads and writes registers only.
        unsafe {
            asm!(
                "vpdpwssd {sums}, {a}, {b}",
                sums = inout(zmm_reg) sums,
                a = in(zmm_reg) a,
                b = in(zmm_reg) b,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    }

    /// Needs AVX-512 F, BW and VNNI.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512Pairs(__m512i);

    // The intrinsics are inlined once these functions are, into callers compiled for the instruction set.
    impl Pairs for Avx512Pairs {
        type Floats = Avx512;
        #[inline(always)]
        unsafe fn splat(x: i32) -> Self {
            // SAFETY: the caller's promise, here and in the functions below.
            Self(unsafe { _mm512_set1_epi32(x) })
        }
        #[inline(always)]
        unsafe fn load(at: *const i32) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_loadu_si512(at.cast()) })
        }
        #[inline(always)]
        unsafe fn store(self, at: *mut i32) {
            // SAFETY: as above.
            unsafe { _mm512_storeu_si512(at.cast(), self.0) }
        }
        #[inline(always)]
        unsafe fn add_products(self, a: Self, b: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { add_products(self.0, a.0, b.0) })
        }
        #[inline(always)]
        unsafe fn floats(self) -> Avx512 {
            // SAFETY: as above.
            Avx512(unsafe { _mm512_cvtepi32_ps(self.0) })
        }
        #[inline(always)]
        unsafe fn join(first: Avx512, second: Avx512) -> Self {
            // SAFETY: as above.
            unsafe {
                let [first, second] = [first, second].map(|x| _mm512_castps_si512(x.0));
                Self(_mm512_mask_blend_epi16(0xAAAA_AAAA, first, _mm512_slli_epi32::<16>(second)))
            }
        }
    }

    /// Needs AVX2, FMA and F16C.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2Pairs(__m256i, __m256i);

    impl Pairs for Avx2Pairs {
        type Floats = Avx2;
        #[inline(always)]
        unsafe fn splat(x: i32) -> Self {
            // SAFETY: the caller's promise, here and in the functions below.
            let x = unsafe { _mm256_set1_epi32(x) };
            Self(x, x)
        }
        #[inline(always)]
        unsafe fn load(at: *const i32) -> Self {
            // SAFETY: as above.
            unsafe { Self(_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(8).cast())) }
        }
        #[inline(always)]
        unsafe fn store(self, at: *mut i32) {
            // SAFETY: as above.
            unsafe {
                _mm256_storeu_si256(at.cast(), self.0);
                _mm256_storeu_si256(at.add(8).cast(), self.1);
            }
        }
        #[inline(always)]
        unsafe fn add_products(self, a: Self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe {
                Self(
                    _mm256_add_epi32(self.0, _mm256_madd_epi16(a.0, b.0)),
                    _mm256_add_epi32(self.1, _mm256_madd_epi16(a.1, b.1)),
                )
            }
        }
        #[inline(always)]
        unsafe fn floats(self) -> Avx2 {
            // SAFETY: as above.
            unsafe { Avx2(_mm256_cvtepi32_ps(self.0), _mm256_cvtepi32_ps(self.1)) }
        }
        #[inline(always)]
        unsafe fn join(first: Avx2, second: Avx2) -> Self {
            #[inline(always)]
            unsafe fn of(first: __m256, second: __m256) -> __m256i {
                // SAFETY: the caller's promise.
                unsafe {
                    let second = _mm256_slli_epi32::<16>(_mm256_castps_si256(second));
                    _mm256_blend_epi16::<0xAA>(_mm256_castps_si256(first), second)
                }
            }
            // SAFETY: as above.
            unsafe { Self(of(first.0, second.0), of(first.1, second.1)) }
        }
    }
}
