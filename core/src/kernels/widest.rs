//! Whole computations, written once in safe code, compiled for several instruction sets and chosen at run time.

/// A computation that is worth compiling for wide vectors. What `run` calls must be inlined into it, or it stays narrow.
pub trait Widest {
    /// What it yields.
    type Out;

    /// Does it. Implement with `#[inline(always)]`. `FUSED`: a multiply-add is one instruction, rounded once.
    fn run<const FUSED: bool>(self) -> Self::Out;
}

/// Runs `work` compiled for the widest vectors that this CPU has.
#[inline]
pub fn widest<W: Widest>(work: W) -> W::Out {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn avx512<W: Widest>(work: W) -> W::Out {
            work.run::<true>()
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<W: Widest>(work: W) -> W::Out {
            work.run::<true>()
        }
        if has_avx512() {
            // SAFETY: the CPU has every feature the function is compiled for.
            return unsafe { avx512(work) };
        }
        if has_avx2() {
            // SAFETY: the CPU has every feature the function is compiled for.
            return unsafe { avx2(work) };
        }
    }
    // arm64 has fused multiply-add in its baseline; elsewhere `mul_add` would be a library call.
    work.run::<{ cfg!(target_arch = "aarch64") }>()
}

/// AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Those, and AVX-512 F, BW, DQ and VL.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}
