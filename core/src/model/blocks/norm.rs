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
        let dim = self.weight.get(gguf).len();
        for_each_chunk(pool, [(out, dim)], |_, row, [out]| self.row(gguf, &x[row * dim..][..dim], out));
    }

    /// Normalises one row.
    pub fn row(&self, gguf: &Gguf, x: &[f32], out: &mut [f32]) {
        vector::rms_norm(x, self.weight.get(gguf), self.eps, out);
    }
}
