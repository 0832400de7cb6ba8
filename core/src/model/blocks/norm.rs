//! Root-mean-square norm.

use crate::gguf::Gguf;
use crate::kernels::{derivative, vector};

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
    /// Normalises one row.
    pub fn row(&self, gguf: &Gguf, x: &[f32], out: &mut [f32]) {
        vector::rms_norm(x, self.weight.get(gguf), self.eps, out);
    }

    /// out += the gradient of the row `x`, where `g` is that of its norm.
    pub fn adjoint(&self, gguf: &Gguf, x: &[f32], g: &[f32], out: &mut [f32]) {
        derivative::rms_norm(x, self.weight.get(gguf), self.eps, g, out);
    }
}
