//! Root-mean-square norm.

use crate::gguf::Gguf;
use crate::kernels::{Pool, for_each_chunk, vector};

use super::super::Vector;

/// `x / √(mean(x²) + eps) · weight` (Gemma's `1 +` is already in the file's weight).
#[derive(Debug, Clone)]
pub struct RmsNorm {
    /// One weight an element.
    pub weight: Vector,
    /// Added under the root.
    pub eps: f32,
}

impl RmsNorm {
    /// Normalises every row of `x` into `out`.
    pub fn forward(&self, gguf: &Gguf, pool: &Pool, x: &[f32], out: &mut [f32]) {
        let weight = self.weight.get(gguf);
        let dim = weight.len();
        for_each_chunk(pool, [(out, dim)], |_, row, [out]| {
            vector::rms_norm(&x[row * dim..][..dim], weight, self.eps, out);
        });
    }

    /// Normalises one row, or one head, in place with the help of `scratch`.
    pub fn in_place(&self, gguf: &Gguf, x: &mut [f32], scratch: &mut [f32]) {
        let weight = self.weight.get(gguf);
        for head in x.chunks_exact_mut(weight.len()) {
            let scratch = &mut scratch[..head.len()];
            vector::rms_norm(head, weight, self.eps, scratch);
            head.copy_from_slice(scratch);
        }
    }
}
