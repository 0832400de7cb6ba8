//! Real transforms, planned once per length and shared.
//!
//! A length has one of three algorithms: `wide` where the CPU and the length fill vectors of 16, else `even` or `odd` around
//! the complex transforms of a library.

mod even;
mod odd;
#[cfg(target_arch = "x86_64")]
mod wide;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use num_complex::Complex32;

use super::LaneFft;
use even::Even;
use odd::Odd;

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
    of: Arc<dyn Real>,
    len: usize,
}

/// An algorithm for one length. Buffers have the lengths that [`RealFft`] asks for.
trait Real: Send + Sync {
    /// Complex values of scratch that both directions need.
    fn scratch_len(&self) -> usize;

    /// [`RealFft::spectrum`], and the conjugate of each bin where there is room for it.
    fn spectrum(
        &self,
        values: &[f32],
        spectrum: &mut [Complex32],
        conjugate: Option<&mut [Complex32]>,
        scratch: &mut [Complex32],
    );

    /// [`RealFft::twice_real`].
    fn twice_real(&self, folded: &mut [Complex32], values: &mut [f32], scratch: &mut [Complex32]);
}

/// Numbers of a cache line.
const LINE: usize = 64 / size_of::<Complex32>();

impl RealFft {
    fn new(len: usize) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = wide::Wide::new(len) {
            return Self { of: Arc::new(wide), len };
        }
        let of: Arc<dyn Real> = if len.is_multiple_of(2) { Arc::new(Even::new(len)) } else { Arc::new(Odd::new(len)) };
        Self { of, len }
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

    /// Where the conjugates begin after bins of a row of `len`, at the next cache line.
    pub fn conjugates(len: usize) -> usize {
        (len / 2 + 1).next_multiple_of(LINE)
    }

    /// Number of bins and conjugates, and of what is between them.
    pub fn bins_and_conjugates(&self) -> usize {
        Self::conjugates(self.len) + self.bins()
    }

    /// Complex values of scratch that both directions need.
    pub fn scratch_len(&self) -> usize {
        self.of.scratch_len()
    }

    /// `spectrum[b] = Σ_q values[q] · e^{−2πi·q·b/len}` for `b ≤ len/2`.
    ///
    /// # Panics
    /// Unless `values` has `len`, `spectrum` has `bins` and `scratch` at least `scratch_len` elements.
    pub fn spectrum(&self, values: &[f32], spectrum: &mut [Complex32], scratch: &mut [Complex32]) {
        self.check(values.len(), spectrum.len());
        self.of.spectrum(values, spectrum, None, scratch);
    }

    /// [`spectrum`](Self::spectrum), and from [`conjugates`](Self::conjugates) on the conjugate of each of its bins: what
    /// [`Plan`](super::Plan)'s entries read. Fastest where `spectra` begin with a cache line.
    ///
    /// # Panics
    /// As [`spectrum`](Self::spectrum), with `bins_and_conjugates` elements of `spectra`.
    pub fn with_conjugate(&self, values: &[f32], spectra: &mut [Complex32], scratch: &mut [Complex32]) {
        let (spectrum, conjugate) = spectra.split_at_mut(Self::conjugates(self.len));
        let spectrum = &mut spectrum[..self.bins()];
        self.check(values.len(), conjugate.len());
        self.of.spectrum(values, spectrum, Some(conjugate), scratch);
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
        self.of.twice_real(folded, values, scratch);
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
