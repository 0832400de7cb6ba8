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
}
