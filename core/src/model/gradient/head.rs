//! The head and the cross-entropy, over the rows that predict something and a few of them at a time.

use super::super::ModelError;
use super::layer::Context;
use super::plan::Buffers;
use crate::kernels::{derivative, for_each_chunk, vector};

impl Context<'_> {
    /// The sum of −ln p over the targets, from the last layer's output `x`. With `scale`, the gradient of `scale` times it
    /// with respect to x is left in the buffers.
    ///
    /// # Errors
    /// [`ModelError::NonFinite`] with the position in its sequence of the row whose logits are not numbers.
    pub(super) fn head(&self, x: &[f32], buffers: &mut Buffers, scale: Option<f32>) -> Result<f64, ModelError> {
        let Self { gguf, compute, decoder, batch, .. } = *self;
        let (hidden, vocab) = (decoder.hidden, decoder.vocab);
        let Buffers { normed, gradient, normed_gradient, logits, logit_sums, activations, transposed, .. } = buffers;
        gradient[..self.rows() * hidden].fill(0.0);
        let head = decoder.head.matrix(gguf)?;
        let inverse_cap = decoder.logit_soft_cap.map_or(0.0, |cap| 1.0 / cap);
        let mut loss = 0.0;
        for targets in batch.targets.chunks(logits.len() / vocab) {
            let count = targets.len();
            let logits = &mut logits[..count * vocab];
            let x_of = |i: usize| &x[targets[i].row * hidden..][..hidden];
            let fill = |i: usize, [normed]: [&mut [f32]; 1]| decoder.norm.row(gguf, x_of(i), normed);
            activations.load_filled(compute, &[decoder.head.ty()], count, [&mut normed[..count * hidden]], fill);
            compute.matmul(head, activations, logits);

            let sums = &mut logit_sums[..count * 3];
            for_each_chunk(compute.pool(), [(&mut *logits, vocab), (&mut *sums, 3)], |_, i, [logits, sums]| {
                if let Some(cap) = decoder.logit_soft_cap {
                    vector::soft_cap(logits, cap);
                }
                let target = targets[i].token as usize;
                let max = vector::max(logits);
                let own = logits[target];
                let sum =
                    if vector::dot(logits, logits).is_finite() { derivative::exp_sum(logits, max) } else { f32::NAN };
                sums.copy_from_slice(&[max, sum, own]);
                if let Some(scale) = scale {
                    derivative::cross_entropy(logits, max + sum.ln(), inverse_cap, scale);
                    let capped = own * inverse_cap;
                    logits[target] -= scale * (1.0 - capped * capped);
                }
            });
            for (target, sums) in targets.iter().zip(sums.chunks_exact(3)) {
                let own = f64::from(sums[1]).ln() + f64::from(sums[0]) - f64::from(sums[2]);
                if !own.is_finite() {
                    return Err(ModelError::NonFinite { position: batch.positions[target.row] });
                }
                loss += own;
            }
            if scale.is_some() {
                let normed_gradient = &mut normed_gradient[..count * hidden];
                compute.matmul_transposed(&[(head, logits)], normed_gradient, transposed);
                for (target, g) in targets.iter().zip(normed_gradient.chunks_exact(hidden)) {
                    let at = target.row * hidden..(target.row + 1) * hidden;
                    decoder.norm.adjoint(gguf, &x[at.clone()], g, &mut gradient[at]);
                }
            }
        }
        Ok(loss)
    }
}
