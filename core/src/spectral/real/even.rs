//! Even lengths, by the library's complex transform of half the length.

use std::sync::Arc;

use num_complex::Complex32;
use rustfft::{Fft, FftPlanner};

use super::Real;
use crate::kernels::half_spectrum::{conjugate_to, join, pack, split, turns};

/// One complex transform and the [`turns`], both for either direction: few tables, because those of a row that is alone come from
/// far away each time.
pub(super) struct Even {
    fft: Arc<dyn Fft<f32>>,
    turns: Box<[Complex32]>,
}

impl Even {
    pub(super) fn new(len: usize) -> Self {
        Self { fft: FftPlanner::new().plan_fft_inverse(len / 2), turns: turns(len / 2) }
    }
}

impl Real for Even {
    fn scratch_len(&self) -> usize {
        self.fft.len() + self.fft.get_outofplace_scratch_len()
    }

    fn spectrum(
        &self,
        values: &[f32],
        spectrum: &mut [Complex32],
        conjugate: Option<&mut [Complex32]>,
        scratch: &mut [Complex32],
    ) {
        // The library's transforms destroy what they read.
        let (copy, scratch) = scratch.split_at_mut(self.fft.len());
        pack(values, copy);
        self.fft.process_outofplace_with_scratch(copy, &mut spectrum[..self.fft.len()], scratch);
        split(&self.turns, spectrum);
        if let Some(conjugate) = conjugate {
            conjugate_to(spectrum, conjugate);
        }
    }

    fn twice_real(&self, folded: &mut [Complex32], values: &mut [f32], scratch: &mut [Complex32]) {
        // Every bin is counted with its mirror but these, which have none.
        for bin in [0, self.fft.len()] {
            folded[bin] = Complex32::new(2.0 * folded[bin].re, 0.0);
        }
        join(&self.turns, folded);
        let half = &mut folded[..self.fft.len()];
        self.fft.process_outofplace_with_scratch(half, bytemuck::cast_slice_mut(values), scratch);
    }
}
