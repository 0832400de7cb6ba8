//! One body, compiled for several instruction sets, chosen at each call by what the CPU has.

/// Defines a public function and its compiled variants from one generic body (`FUSED`: multiply-add in one rounding).
macro_rules! multiversion {
    ($(#[$doc:meta])* $name:ident, $body:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?) => {
        $(#[$doc])*
        #[inline]
        pub fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { $body::<true>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { $body::<true>($($arg),*) }
                if $crate::kernels::widest::has_avx512() {
                    // SAFETY: the CPU has every feature the function is compiled for.
                    return unsafe { avx512($($arg),*) };
                }
                if $crate::kernels::widest::has_avx2() {
                    // SAFETY: the CPU has every feature the function is compiled for.
                    return unsafe { avx2($($arg),*) };
                }
            }
            // arm64 has fused multiply-add in its baseline; elsewhere `mul_add` would be a library call.
            $body::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    };
}
