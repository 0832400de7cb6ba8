//! A complex number in every lane.

use num_complex::Complex32;

use super::transpose::LANES;

/// One bin of as many spectra as there are lanes; or, in time, two consecutive elements of as many rows.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct LaneBin {
    /// Real parts.
    pub re: [f32; LANES],
    /// Imaginary parts.
    pub im: [f32; LANES],
}

impl LaneBin {
    /// Zero in every lane.
    pub const ZERO: Self = Self { re: [0.0; LANES], im: [0.0; LANES] };

    /// Real and imaginary parts, lane by lane.
    pub fn from_lanes(of: impl Fn(usize) -> (f32, f32)) -> Self {
        Self { re: std::array::from_fn(|lane| of(lane).0), im: std::array::from_fn(|lane| of(lane).1) }
    }

    /// The number in a lane.
    #[inline(always)]
    pub fn lane(&self, lane: usize) -> Complex32 {
        Complex32::new(self.re[lane], self.im[lane])
    }

    /// Real and imaginary parts of all, by turns.
    #[inline(always)]
    pub fn lines(bins: &[Self]) -> &[[f32; LANES]] {
        const { assert!(size_of::<Self>() == size_of::<[[f32; LANES]; 2]>()) };
        // SAFETY: in C's layout a bin is its two arrays, in order and without padding, by the assertion above.
        unsafe { std::slice::from_raw_parts(bins.as_ptr().cast(), 2 * bins.len()) }
    }

    /// [`lines`](Self::lines), to be written.
    #[inline(always)]
    pub fn lines_mut(bins: &mut [Self]) -> &mut [[f32; LANES]] {
        // SAFETY: as in `lines`; the bins are borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(bins.as_mut_ptr().cast(), 2 * bins.len()) }
    }
}

impl Default for LaneBin {
    fn default() -> Self {
        Self::ZERO
    }
}
