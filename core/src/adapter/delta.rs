//! The one trait of an adapter's kinds.

use std::fmt;
use std::sync::Arc;

use crate::spectral::{Shape, Transforms};

use super::{DeltaBlock, DeltaScratch, FourierDelta, LoraDelta};

/// One module's change `ΔW` (d1 outputs × d2 inputs), whatever it is made of.
///
/// For a linear layer `h = W₀x + Σ weight·ΔWx`, once per row of activations and thread:
///
/// ```text
/// scratch.begin_input();                       // a new x
/// for linear in those_that_read_x {            // q, k, v; gate, up
///     scratch.begin_output();
///     for (delta, weight) in active { delta.apply(weight, x, &mut scratch); }
///     scratch.finish(h, row_order);            // h += the sum
/// }
/// ```
///
/// or, for many rows, the same with a [`DeltaBlock`] and [`apply_rows`](Delta::apply_rows);
/// and backward, with `begin_upstream` for a new `g = ∂L/∂h`, [`gradient`](Delta::gradient) for the parameters and
/// [`adjoint`](Delta::adjoint) for `∂L/∂x`, or their forms for many rows. Nothing is allocated once the scratch knows the lengths and, for many rows,
/// the change is [prepared](Delta::prepare_rows).
pub trait Delta: Send + Sync + fmt::Debug {
    /// The shape of the weight it changes.
    fn shape(&self) -> Shape;

    /// Trainable numbers.
    fn parameters(&self) -> usize;

    /// Writes the parameters to `out`, in the kind's own order, which is the order of [`gradient`](Delta::gradient).
    ///
    /// # Panics
    /// If `out` does not have [`parameters`](Delta::parameters) elements.
    fn read_parameters(&self, out: &mut [f32]);

    /// The same change with other parameters, in the kind's own order.
    ///
    /// # Panics
    /// If there are not [`parameters`](Delta::parameters) of them.
    fn with_parameters(&self, parameters: &[f32]) -> Arc<dyn Delta>;

    /// Bytes of memory this module costs by itself; what is shared with others is not counted.
    fn bytes(&self) -> usize;

    /// What [`apply`](Self::apply) costs besides transforms, roughly, in bytes of weights that a thread multiplies in that time: for dividing work
    /// between threads.
    fn row_bytes(&self) -> usize {
        size_of::<f32>() * self.parameters()
    }

    /// What [`apply`](Self::apply) reads from one end to the other and no other module does, if that is worth asking for in time.
    fn stream(&self) -> &[u8] {
        &[]
    }

    /// Makes what the forms for many rows keep, if they keep anything, with the transforms that they will be given. They make it themselves
    /// when they are first called, if this was not.
    fn prepare_rows(&self, _transforms: &Transforms) {}

    /// Adds `weight · ΔWx` to the scratch's output.
    ///
    /// # Panics
    /// If `x` does not have d2 elements, or another change with another number of outputs was added before.
    fn apply(&self, weight: f32, x: &[f32], scratch: &mut DeltaScratch);

    /// Adds `weight · ΔWx` to the block's output for each of the rows `x` (row-major, 1 to [`DeltaBlock::ROWS`] of them).
    ///
    /// # Panics
    /// If `x` is no whole number of rows of d2 elements, or another change with another number of outputs was added before.
    fn apply_rows(&self, weight: f32, x: &[f32], block: &mut DeltaBlock) {
        let (d1, d2) = (self.shape().rows(), self.shape().cols());
        block.each_row(x, d2, d1, |x, scratch| self.apply(weight, x, scratch));
    }

    /// Adds `weight · ΔWᵀg` to the scratch's output.
    ///
    /// # Panics
    /// If `g` does not have d1 elements, or another change with another number of inputs was added before.
    fn adjoint(&self, weight: f32, g: &[f32], scratch: &mut DeltaScratch);

    /// Adds one row's `∂L/∂parameters` to `gradient`, in the kind's own order of parameters.
    ///
    /// # Panics
    /// If `x` does not have d2 elements, `g` d1 or `gradient` [`parameters`](Delta::parameters).
    fn gradient(&self, weight: f32, x: &[f32], g: &[f32], gradient: &mut [f32], scratch: &mut DeltaScratch);

    /// Adds `weight · ΔWᵀg` to the block's output for each of the rows `g` (row-major, 1 to [`DeltaBlock::ROWS`] of them).
    ///
    /// # Panics
    /// If `g` is no whole number of rows of d1 elements, or another change with another number of inputs was added before.
    fn adjoint_rows(&self, weight: f32, g: &[f32], block: &mut DeltaBlock) {
        let (d1, d2) = (self.shape().rows(), self.shape().cols());
        block.each_row(g, d1, d2, |g, scratch| self.adjoint(weight, g, scratch));
    }

    /// Adds the `∂L/∂parameters` of each row of `x` and `g` (row-major, 1 to [`DeltaBlock::ROWS`] of them) to `gradient`.
    ///
    /// # Panics
    /// If `x` and `g` are not as many whole rows, or `gradient` has not [`parameters`](Delta::parameters) elements.
    fn gradient_rows(&self, weight: f32, x: &[f32], g: &[f32], gradient: &mut [f32], block: &mut DeltaBlock) {
        let (d1, d2) = (self.shape().rows(), self.shape().cols());
        assert_eq!(x.len() * d1, g.len() * d2, "rows of inputs and of upstream gradients");
        let scratch = block.row();
        for (x, g) in x.chunks_exact(d2).zip(g.chunks_exact(d1)) {
            scratch.begin_input();
            scratch.begin_upstream();
            self.gradient(weight, x, g, gradient, scratch);
        }
    }

    /// `ΔW` as a dense matrix, row-major `[d1, d2]`, in the layout of the module's own weight (no row order applied).
    fn dense(&self, transforms: &Transforms, threads: usize) -> Vec<f32>;

    /// The change as FourierFT, where that is its kind.
    fn as_fourier(&self) -> Option<&FourierDelta> {
        None
    }

    /// The change as LoRA, where that is its kind.
    fn as_lora(&self) -> Option<&LoraDelta> {
        None
    }
}
