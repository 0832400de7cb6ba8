//! FourierFT: a change made of a sparse spectrum.

use std::sync::Arc;

use crate::spectral::{Entries, Plan, Shape, SpectralError, Transforms, reconstruct, transform};

use super::{Delta, DeltaBlock, DeltaScratch, Side};

/// Bytes of weights multiplied in the time of an entry, as measured.
const BYTES_AN_ENTRY: usize = 12;

/// `ΔW = α · Re(IDFT2(F))` with `n` coefficients at the positions of a shared [`Plan`]. Immutable.
///
/// Costs its coefficients; the plan is shared by every module with the same entries.
#[derive(Debug, Clone)]
pub struct FourierDelta {
    plan: Arc<Plan>,
    /// In the plan's stored order.
    stored: Box<[f32]>,
    alpha: f64,
}

impl FourierDelta {
    /// A change from `coefficients` in entry order and PEFT's `scaling`, α.
    ///
    /// # Errors
    /// [`SpectralError::Length`] unless there is one coefficient per entry.
    pub fn new(plan: Arc<Plan>, coefficients: &[f32], alpha: f64) -> Result<Self, SpectralError> {
        let stored = plan.to_stored(coefficients)?;
        Ok(Self { plan, stored, alpha })
    }

    /// The same change with other parameters, in stored order, as [`Delta::gradient`] orders them.
    ///
    /// # Errors
    /// [`SpectralError::Length`] unless there is one per entry.
    pub fn with_stored(&self, stored: Box<[f32]>) -> Result<Self, SpectralError> {
        if stored.len() != self.plan.len() {
            let (expected, found) = (self.plan.len(), stored.len());
            return Err(SpectralError::Length { what: "coefficients", expected, found });
        }
        Ok(Self { plan: Arc::clone(&self.plan), stored, alpha: self.alpha })
    }

    /// The parameters in stored order.
    pub fn stored(&self) -> &[f32] {
        &self.stored
    }

    /// The coefficients in entry order, as files hold them.
    pub fn coefficients(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.stored.len()];
        for (&entry, &value) in self.plan.order().iter().zip(&self.stored) {
            // The order is a permutation of the entries.
            out[entry as usize] = value;
        }
        out
    }

    /// α, PEFT's `scaling`.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// The shared plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The positions.
    pub fn entries(&self) -> &Entries {
        self.plan.entries()
    }

    /// Whether another change has the same entries.
    pub(crate) fn is_twin(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.plan, &other.plan)
    }

    /// Adds what [`apply`](Delta::apply) does of two twins, each to an output of its own, in less time than one after the other.
    ///
    /// # Panics
    /// If they are no twins; as [`apply`](Delta::apply).
    pub(crate) fn apply_twins([a, b]: [&Self; 2], weight: f32, x: &[f32], scratch: &mut DeltaScratch) {
        assert!(a.is_twin(b), "entries of two changes to a {}", a.shape());
        assert_eq!(x.len(), a.shape().cols(), "inputs of a {} module", a.shape());
        let (input, outputs, held, ahead) = scratch.spectra_of_twins(x, a.shape().rows());
        let (stored, alpha) = ([&*a.stored, &*b.stored], [a.scaled(weight), b.scaled(weight)]);
        transform::apply_two_ahead(&a.plan, stored, alpha, input, outputs, held, ahead);
    }

    fn scaled(&self, weight: f32) -> f64 {
        self.alpha * f64::from(weight)
    }
}

impl Delta for FourierDelta {
    fn shape(&self) -> Shape {
        self.plan.shape()
    }

    fn parameters(&self) -> usize {
        self.stored.len()
    }

    fn read_parameters(&self, out: &mut [f32]) {
        out.copy_from_slice(&self.stored);
    }

    fn with_parameters(&self, parameters: &[f32]) -> Arc<dyn Delta> {
        assert_eq!(parameters.len(), self.stored.len(), "parameters of a module");
        Arc::new(Self { plan: Arc::clone(&self.plan), stored: parameters.into(), alpha: self.alpha })
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.stored)
    }

    fn row_bytes(&self) -> usize {
        BYTES_AN_ENTRY * self.stored.len()
    }

    fn stream(&self) -> &[u8] {
        bytemuck::cast_slice(&self.stored)
    }

    fn prepare_rows(&self, transforms: &Transforms) {
        self.plan.prepare_lanes(transforms);
    }

    fn apply(&self, weight: f32, x: &[f32], scratch: &mut DeltaScratch) {
        assert_eq!(x.len(), self.shape().cols(), "inputs of a {} module", self.shape());
        let (input, output, held, ahead) = scratch.spectra(Side::Input, x, self.shape().rows());
        transform::apply_ahead(&self.plan, &self.stored, self.scaled(weight), input, output, held, ahead);
    }

    fn apply_rows(&self, weight: f32, x: &[f32], block: &mut DeltaBlock) {
        let (d1, d2) = (self.shape().rows(), self.shape().cols());
        match block.spectra(Side::Input, x, d2, d1) {
            Some((input, output, held)) => {
                transform::apply_lanes(&self.plan, &self.stored, self.scaled(weight), input, output, held);
            }
            None => block.each_row(x, d2, d1, |x, scratch| self.apply(weight, x, scratch)),
        }
    }

    fn adjoint(&self, weight: f32, g: &[f32], scratch: &mut DeltaScratch) {
        assert_eq!(g.len(), self.shape().rows(), "outputs of a {} module", self.shape());
        let (upstream, output, held, _) = scratch.spectra(Side::Upstream, g, self.shape().cols());
        transform::adjoint(&self.plan, &self.stored, self.scaled(weight), upstream, output, held);
    }

    fn gradient(&self, weight: f32, x: &[f32], g: &[f32], gradient: &mut [f32], scratch: &mut DeltaScratch) {
        assert_eq!(x.len(), self.shape().cols(), "inputs of a {} module", self.shape());
        assert_eq!(g.len(), self.shape().rows(), "outputs of a {} module", self.shape());
        assert_eq!(gradient.len(), self.stored.len(), "parameters of a module");
        let (input, upstream) = scratch.input_and_upstream(x, g);
        transform::gradient(&self.plan, self.scaled(weight), input, upstream, gradient);
    }

    fn adjoint_rows(&self, weight: f32, g: &[f32], block: &mut DeltaBlock) {
        let (d1, d2) = (self.shape().rows(), self.shape().cols());
        match block.spectra(Side::Upstream, g, d1, d2) {
            Some((upstream, output, held)) => {
                transform::adjoint_lanes(&self.plan, &self.stored, self.scaled(weight), upstream, output, held);
            }
            None => block.each_row(g, d1, d2, |g, scratch| self.adjoint(weight, g, scratch)),
        }
    }

    fn gradient_rows(&self, weight: f32, x: &[f32], g: &[f32], gradient: &mut [f32], block: &mut DeltaBlock) {
        let (d1, d2) = (self.shape().rows(), self.shape().cols());
        assert_eq!(x.len() * d1, g.len() * d2, "rows of inputs and of upstream gradients");
        assert_eq!(gradient.len(), self.stored.len(), "parameters of a module");
        match block.input_and_upstream((x, d2), (g, d1)) {
            Some((input, upstream)) => {
                transform::gradient_lanes(&self.plan, self.scaled(weight), input, upstream, gradient);
            }
            None => {
                let scratch = block.row();
                for (x, g) in x.chunks_exact(d2).zip(g.chunks_exact(d1)) {
                    scratch.begin_input();
                    scratch.begin_upstream();
                    self.gradient(weight, x, g, gradient, scratch);
                }
            }
        }
    }

    fn dense(&self, transforms: &Transforms, threads: usize) -> Vec<f32> {
        // One coefficient per entry is what `new` and `with_stored` check.
        reconstruct(self.entries(), &self.coefficients(), self.alpha, transforms, threads)
            .expect("one coefficient per entry")
    }

    fn as_fourier(&self) -> Option<&FourierDelta> {
        Some(self)
    }
}
