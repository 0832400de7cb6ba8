//! Sixteen complex numbers in two registers.

use std::arch::x86_64::*;

use crate::kernels::LaneBin;

#[derive(Clone, Copy)]
pub(super) struct Numbers {
    pub(super) re: __m512,
    pub(super) im: __m512,
}

impl Numbers {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn of(bin: &LaneBin) -> Self {
        // SAFETY: both parts have 16 numbers.
        unsafe { Self { re: _mm512_loadu_ps(bin.re.as_ptr()), im: _mm512_loadu_ps(bin.im.as_ptr()) } }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn to(self, bin: &mut LaneBin) {
        // SAFETY: as above.
        unsafe {
            _mm512_storeu_ps(bin.re.as_mut_ptr(), self.re);
            _mm512_storeu_ps(bin.im.as_mut_ptr(), self.im);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn plus(self, b: Self) -> Self {
        Self { re: _mm512_add_ps(self.re, b.re), im: _mm512_add_ps(self.im, b.im) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn minus(self, b: Self) -> Self {
        Self { re: _mm512_sub_ps(self.re, b.re), im: _mm512_sub_ps(self.im, b.im) }
    }

    /// `w·self`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn times(self, w: Self) -> Self {
        Self {
            re: _mm512_fnmadd_ps(self.im, w.im, _mm512_mul_ps(self.re, w.re)),
            im: _mm512_fmadd_ps(self.re, w.im, _mm512_mul_ps(self.im, w.re)),
        }
    }

    /// `self + w·b`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn plus_times(self, w: Self, b: Self) -> Self {
        Self {
            re: _mm512_fnmadd_ps(b.im, w.im, _mm512_fmadd_ps(b.re, w.re, self.re)),
            im: _mm512_fmadd_ps(b.re, w.im, _mm512_fmadd_ps(b.im, w.re, self.im)),
        }
    }

    /// `2·self − sum`: a − b where this is a and `sum` a + b.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn rest(self, sum: Self) -> Self {
        let two = _mm512_set1_ps(2.0);
        Self { re: _mm512_fmsub_ps(self.re, two, sum.re), im: _mm512_fmsub_ps(self.im, two, sum.im) }
    }
}

/// Transforms of four numbers, one in each lane, of `a ± c` and `b ± d`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn four(even: [Numbers; 2], odd: [Numbers; 2]) -> [Numbers; 4] {
    let ([s, t], [u, v]) = (even, odd);
    [
        s.plus(u),
        Numbers { re: _mm512_add_ps(t.re, v.im), im: _mm512_sub_ps(t.im, v.re) },
        s.minus(u),
        Numbers { re: _mm512_sub_ps(t.re, v.im), im: _mm512_add_ps(t.im, v.re) },
    ]
}
