//! Rotary position embedding.

use crate::kernels::{derivative, vector};

/// Which elements of a head are turned together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// Element `i` with `i + dim/2`: the Hugging Face layout.
    Halves,
    /// Neighbours: llama files, whose q and k rows the converter permuted for it.
    Pairs,
}

/// The angles of one rotary embedding: position · `inverse_frequencies[i]`.
#[derive(Debug, Clone)]
pub struct Rope {
    style: RopeStyle,
    inverse_frequencies: Vec<f32>,
}

impl Rope {
    /// `dim` elements of each head are turned; element pair `i` by position · base^(−2i/dim) / (scale · factors\[i\]).
    pub fn new(style: RopeStyle, dim: usize, base: f32, scale: f32, factors: Option<&[f32]>) -> Self {
        let inverse_frequencies = (0..dim / 2)
            .map(|i| {
                let factor = factors.and_then(|f| f.get(i)).copied().unwrap_or(1.0);
                let power = -2.0 * i as f64 / dim as f64;
                (f64::from(base).powf(power) / f64::from(scale * factor)) as f32
            })
            .collect();
        Self { style, inverse_frequencies }
    }

    /// Which elements are turned together.
    pub fn style(&self) -> RopeStyle {
        self.style
    }

    /// Number of angles, half the elements turned.
    pub fn angles(&self) -> usize {
        self.inverse_frequencies.len()
    }

    /// Writes cosines then sines of every angle at `position`; `out` holds twice [`Self::angles`].
    pub fn table(&self, position: usize, out: &mut [f32]) {
        let (cos, sin) = out.split_at_mut(self.angles());
        for ((c, s), f) in cos.iter_mut().zip(sin).zip(&self.inverse_frequencies) {
            (*s, *c) = (position as f32 * f).sin_cos();
        }
    }

    /// Turns every head of `x`, `head_dim` elements each, by a table of [`Self::table`].
    pub fn apply(&self, x: &mut [f32], head_dim: usize, table: &[f32]) {
        let (cos, sin) = table.split_at(self.angles());
        for head in x.chunks_exact_mut(head_dim) {
            let turned = &mut head[..2 * cos.len()];
            match self.style {
                RopeStyle::Halves => vector::rotate_halves(turned, cos, sin),
                RopeStyle::Pairs => vector::rotate_pairs(turned, cos, sin),
            }
        }
    }

    /// Turns every head of `x` back, which takes a gradient of turned heads to one of the heads before.
    pub fn undo(&self, x: &mut [f32], head_dim: usize, table: &[f32]) {
        let (cos, sin) = table.split_at(self.angles());
        for head in x.chunks_exact_mut(head_dim) {
            let turned = &mut head[..2 * cos.len()];
            match self.style {
                RopeStyle::Halves => derivative::unrotate_halves(turned, cos, sin),
                RopeStyle::Pairs => derivative::unrotate_pairs(turned, cos, sin),
            }
        }
    }
}
