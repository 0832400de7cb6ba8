//! Real transforms, planned once per length and shared.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use num_complex::Complex32;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};
use rustfft::{Fft, FftPlanner};

use super::LaneFft;
use crate::kernels::half_spectrum::{conjugate_to, join, pack, split, turns};

/// Plans real transforms and keeps them: one length is planned once, whoever asks.
pub struct Transforms {
    real: Mutex<HashMap<usize, RealFft>>,
    /// `None` for lengths that have none.
    lanes: Mutex<HashMap<usize, Option<Arc<LaneFft>>>>,
}

impl Transforms {
    /// An empty cache of plans.
    pub fn new() -> Self {
        Self { real: Mutex::default(), lanes: Mutex::default() }
    }

    /// The transforms of length `len ≥ 1`. A first use plans them (tens of µs); later ones look them up.
    pub fn real(&self, len: usize) -> RealFft {
        let mut real = self.real.lock().unwrap_or_else(PoisonError::into_inner);
        real.entry(len).or_insert_with(|| RealFft::new(len)).clone()
    }

    /// The transforms of length `len` of many rows at once, for the lengths [`LaneFft::new`] plans.
    pub fn lanes(&self, len: usize) -> Option<Arc<LaneFft>> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.entry(len).or_insert_with(|| LaneFft::new(len).map(Arc::new)).clone()
    }
}

impl Default for Transforms {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Transforms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transforms").finish_non_exhaustive()
    }
}

/// The two real transforms of one length, on half spectra of `len/2 + 1` bins.
#[derive(Clone)]
pub struct RealFft {
    kind: Kind,
    len: usize,
}

#[derive(Clone)]
enum Kind {
    /// A complex transform of half the length and [`turns`], both for either direction: few tables, because those of a row that
    /// is alone come from far away each time.
    Even(Arc<dyn Fft<f32>>, Arc<[Complex32]>),
    Odd(Arc<dyn RealToComplex<f32>>, Arc<dyn ComplexToReal<f32>>),
}

impl RealFft {
    fn new(len: usize) -> Self {
        let kind = if len.is_multiple_of(2) {
            Kind::Even(FftPlanner::new().plan_fft_inverse(len / 2), turns(len / 2).into())
        } else {
            let mut planner = RealFftPlanner::new();
            Kind::Odd(planner.plan_fft_forward(len), planner.plan_fft_inverse(len))
        };
        Self { kind, len }
    }

    /// Number of real values.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Number of complex bins, `len/2 + 1`.
    pub fn bins(&self) -> usize {
        self.len / 2 + 1
    }

    /// Complex values of scratch that both directions need.
    pub fn scratch_len(&self) -> usize {
        match &self.kind {
            Kind::Even(fft, _) => self.len / 2 + fft.get_outofplace_scratch_len(),
            Kind::Odd(forward, inverse) => {
                self.len.div_ceil(2) + forward.get_scratch_len().max(inverse.get_scratch_len())
            }
        }
    }

    /// `spectrum[b] = Σ_q values[q] · e^{−2πi·q·b/len}` for `b ≤ len/2`.
    ///
    /// # Panics
    /// Unless `values` has `len`, `spectrum` has `bins` and `scratch` at least `scratch_len` elements.
    pub fn spectrum(&self, values: &[f32], spectrum: &mut [Complex32], scratch: &mut [Complex32]) {
        self.check(values.len(), spectrum.len());
        // The libraries' transforms destroy what they read.
        let (copy, scratch) = scratch.split_at_mut(self.len.div_ceil(2));
        match &self.kind {
            Kind::Even(fft, turns) => {
                pack(values, copy);
                fft.process_outofplace_with_scratch(copy, &mut spectrum[..self.len / 2], scratch);
                split(turns, spectrum);
            }
            Kind::Odd(forward, _) => {
                let copy = &mut bytemuck::cast_slice_mut(copy)[..self.len];
                copy.copy_from_slice(values);
                let done = forward.process_with_scratch(copy, spectrum, scratch);
                assert!(done.is_ok(), "buffers of a real transform of length {}: {done:?}", self.len);
            }
        }
    }

    /// [`spectrum`](Self::spectrum), and after it the conjugate of each of its bins: what [`Plan`](super::Plan)'s entries read.
    ///
    /// # Panics
    /// As [`spectrum`](Self::spectrum), with twice as many elements of `spectra`.
    pub fn with_conjugate(&self, values: &[f32], spectra: &mut [Complex32], scratch: &mut [Complex32]) {
        let (spectrum, conjugate) = spectra.split_at_mut(self.bins());
        self.spectrum(values, spectrum, scratch);
        conjugate_to(spectrum, conjugate);
    }

    /// `values[p] = 2 · Re Σ_b folded[b] · e^{+2πi·p·b/len}` over the bins `b ≤ len/2`. Overwrites `folded`.
    ///
    /// This is the real part of a sum over *all* frequencies once those above the half have been folded onto their
    /// mirror, conjugated: each frequency then counts once, also the two that are their own mirror.
    ///
    /// # Panics
    /// Unless `folded` has `bins`, `values` has `len` and `scratch` at least `scratch_len` elements.
    pub fn twice_real(&self, folded: &mut [Complex32], values: &mut [f32], scratch: &mut [Complex32]) {
        self.check(values.len(), folded.len());
        // Every bin is counted with its mirror but these, which have none.
        let last = folded.len() - 1;
        let own_mirrors: &[usize] = if self.len.is_multiple_of(2) { &[0, last] } else { &[0] };
        for &bin in own_mirrors {
            folded[bin] = Complex32::new(2.0 * folded[bin].re, 0.0);
        }
        match &self.kind {
            Kind::Even(fft, turns) => {
                join(turns, folded);
                let half = &mut folded[..self.len / 2];
                fft.process_outofplace_with_scratch(half, bytemuck::cast_slice_mut(values), scratch);
            }
            Kind::Odd(_, inverse) => {
                let done = inverse.process_with_scratch(folded, values, scratch);
                assert!(done.is_ok(), "buffers of a real transform of length {}: {done:?}", self.len);
            }
        }
    }

    fn check(&self, values: usize, bins: usize) {
        let expected = (self.len, self.bins());
        assert_eq!((values, bins), expected, "buffers of a real transform of length {}", self.len);
    }
}

impl fmt::Debug for RealFft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RealFft").field("len", &self.len).finish()
    }
}
