//! Odd lengths, by the library's real transforms.

use std::sync::Arc;

use num_complex::Complex32;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};

use super::Real;
use crate::kernels::half_spectrum::conjugate_to;

pub(super) struct Odd {
    forward: Arc<dyn RealToComplex<f32>>,
    inverse: Arc<dyn ComplexToReal<f32>>,
}

impl Odd {
    pub(super) fn new(len: usize) -> Self {
        let mut planner = RealFftPlanner::new();
        Self { forward: planner.plan_fft_forward(len), inverse: planner.plan_fft_inverse(len) }
    }

    /// Complex values that a copy of the row takes.
    fn copy_len(&self) -> usize {
        self.forward.len().div_ceil(2)
    }
}

impl Real for Odd {
    fn scratch_len(&self) -> usize {
        self.copy_len() + self.forward.get_scratch_len().max(self.inverse.get_scratch_len())
    }

    fn spectrum(
        &self,
        values: &[f32],
        spectrum: &mut [Complex32],
        conjugate: Option<&mut [Complex32]>,
        scratch: &mut [Complex32],
    ) {
        // The library's transforms destroy what they read.
        let (copy, scratch) = scratch.split_at_mut(self.copy_len());
        let copy = &mut bytemuck::cast_slice_mut(copy)[..values.len()];
        copy.copy_from_slice(values);
        let done = self.forward.process_with_scratch(copy, spectrum, scratch);
        assert!(done.is_ok(), "buffers of a real transform of length {}: {done:?}", values.len());
        if let Some(conjugate) = conjugate {
            conjugate_to(spectrum, conjugate);
        }
    }

    fn twice_real(&self, folded: &mut [Complex32], values: &mut [f32], scratch: &mut [Complex32]) {
        // Every bin is counted with its mirror but this, which has none.
        folded[0] = Complex32::new(2.0 * folded[0].re, 0.0);
        let done = self.inverse.process_with_scratch(folded, values, scratch);
        assert!(done.is_ok(), "buffers of a real transform of length {}: {done:?}", values.len());
    }
}
