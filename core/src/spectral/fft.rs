//! Real transforms, planned once per length and shared.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use num_complex::Complex32;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};

use super::LaneFft;

/// Plans real transforms and keeps them: one length is planned once, whoever asks.
pub struct Transforms {
    planner: Mutex<RealFftPlanner<f32>>,
    /// `None` for lengths that have none.
    lanes: Mutex<HashMap<usize, Option<Arc<LaneFft>>>>,
}

impl Transforms {
    /// An empty cache of plans.
    pub fn new() -> Self {
        Self { planner: Mutex::new(RealFftPlanner::new()), lanes: Mutex::default() }
    }

    /// The transforms of length `len ≥ 1`. A first use plans them (tens of µs); later ones look them up.
    pub fn real(&self, len: usize) -> RealFft {
        let mut planner = self.planner.lock().unwrap_or_else(PoisonError::into_inner);
        RealFft { forward: planner.plan_fft_forward(len), inverse: planner.plan_fft_inverse(len), len }
    }
}

impl Transforms {
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
    forward: Arc<dyn RealToComplex<f32>>,
    inverse: Arc<dyn ComplexToReal<f32>>,
    len: usize,
}

impl RealFft {
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
        self.forward.get_scratch_len().max(self.inverse.get_scratch_len())
    }

    /// `spectrum[b] = Σ_q values[q] · e^{−2πi·q·b/len}` for `b ≤ len/2`. Overwrites `values`.
    ///
    /// # Panics
    /// Unless `values` has `len`, `spectrum` has `bins` and `scratch` at least `scratch_len` elements.
    pub fn spectrum(&self, values: &mut [f32], spectrum: &mut [Complex32], scratch: &mut [Complex32]) {
        let done = self.forward.process_with_scratch(values, spectrum, scratch);
        assert!(done.is_ok(), "buffers of a real transform of length {}: {done:?}", self.len);
    }

    /// `values[p] = 2 · Re Σ_b folded[b] · e^{+2πi·p·b/len}` over the bins `b ≤ len/2`. Overwrites `folded`.
    ///
    /// This is the real part of a sum over *all* frequencies once those above the half have been folded onto their
    /// mirror, conjugated: each frequency then counts once, also the two that are their own mirror.
    ///
    /// # Panics
    /// Unless `folded` has `bins`, `values` has `len` and `scratch` at least `scratch_len` elements.
    pub fn twice_real(&self, folded: &mut [Complex32], values: &mut [f32], scratch: &mut [Complex32]) {
        // The library counts every bin with its mirror but these, which have none.
        let mut own_mirror = |bin: usize| {
            if let Some(z) = folded.get_mut(bin) {
                *z = Complex32::new(2.0 * z.re, 0.0);
            }
        };
        own_mirror(0);
        if self.len.is_multiple_of(2) {
            own_mirror(self.len / 2);
        }
        let done = self.inverse.process_with_scratch(folded, values, scratch);
        assert!(done.is_ok(), "buffers of a real transform of length {}: {done:?}", self.len);
    }
}

impl fmt::Debug for RealFft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RealFft").field("len", &self.len).finish()
    }
}
