//! LoRA: a change of low rank.

use std::sync::Arc;

use crate::spectral::{Shape, Transforms};

use super::low_rank::{combine, outer, outer_transposed, through};
use super::{AdapterError, Delta, DeltaBlock, DeltaScratch};

/// `ΔW = scale · B·A`, A of `rank × d2` numbers and B of `d1 × rank`. Immutable; a clone shares the numbers.
///
/// Its parameters are A's and then B's, each row by row. The change is applied through its factors, never formed.
#[derive(Debug, Clone)]
pub struct LoraDelta {
    shape: Shape,
    rank: usize,
    scale: LoraScale,
    /// A, row by row.
    a: Arc<[f32]>,
    /// B, column by column: both factors are then `rank` rows, and the adjoint is the change with them exchanged.
    b: Arc<[f32]>,
}

/// What PEFT multiplies `B·A` with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraScale {
    /// `lora_alpha`.
    pub alpha: f64,
    /// `use_rslora`: divided by the root of the rank (Kalajdzievski 2023) and not by the rank.
    pub rank_stabilized: bool,
}

impl LoraScale {
    /// alpha over the rank, as in LoRA's own paper.
    pub fn over_rank(alpha: f64) -> Self {
        Self { alpha, rank_stabilized: false }
    }

    /// The factor for this rank.
    pub fn factor(self, rank: usize) -> f64 {
        let rank = rank as f64;
        self.alpha / if self.rank_stabilized { rank.sqrt() } else { rank }
    }
}

impl LoraDelta {
    /// A change from `a`, `rank × d2` numbers, and `b`, `d1 × rank` numbers, both row by row.
    ///
    /// # Errors
    /// [`AdapterError::Rank`] for a rank of 0; [`AdapterError::TensorShape`] unless each factor has as many numbers.
    pub fn new(a: &[f32], b: &[f32], rank: usize, shape: Shape, scale: LoraScale) -> Result<Self, AdapterError> {
        if rank == 0 {
            return Err(AdapterError::Rank);
        }
        for (name, values, side) in [("A", a, shape.cols()), ("B", b, shape.rows())] {
            if side.checked_mul(rank) != Some(values.len()) {
                let expected = format!("{rank} × {side} numbers");
                return Err(AdapterError::TensorShape { name: name.to_owned(), found: vec![values.len()], expected });
            }
        }
        Ok(Self { shape, rank, scale, a: a.into(), b: transposed(b, rank) })
    }

    /// A change from factors that are `rank` rows each, of d2 and of d1 numbers.
    pub(super) fn from_rows(a: Arc<[f32]>, b: Arc<[f32]>, shape: Shape, scale: LoraScale) -> Self {
        Self { shape, rank: a.len() / shape.cols(), scale, a, b }
    }

    /// r.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The scale, as PEFT has it.
    pub fn scale(&self) -> LoraScale {
        self.scale
    }

    /// A, row by row.
    pub fn a(&self) -> &[f32] {
        &self.a
    }

    /// B, row by row.
    pub fn b(&self) -> Vec<f32> {
        transposed(&self.b, self.shape.rows()).to_vec()
    }

    /// B, column by column.
    pub(super) fn b_columns(&self) -> &[f32] {
        &self.b
    }

    /// `ΔW` by its definition, in f64, row-major `[d1, d2]`: what the fast ways are tested against.
    pub fn naive(&self) -> Vec<f64> {
        let (d1, d2, factor) = (self.shape.rows(), self.shape.cols(), self.scale.factor(self.rank));
        let element = |p: usize, q: usize| {
            let terms = (0..self.rank).map(|k| f64::from(self.b[k * d1 + p]) * f64::from(self.a[k * d2 + q]));
            factor * terms.sum::<f64>()
        };
        (0..d1).flat_map(|p| (0..d2).map(move |q| element(p, q))).collect()
    }

    fn scaled(&self, weight: f32) -> f32 {
        (self.scale.factor(self.rank) * f64::from(weight)) as f32
    }

    /// How many rows of inputs or upstream gradients there are.
    fn count(&self, values: &[f32], side: usize, what: &str) -> usize {
        assert!(values.len().is_multiple_of(side), "rows of {what} of a {} module", self.shape);
        values.len() / side
    }

    fn add_gradient(&self, weight: f32, x: &[f32], g: &[f32], gradient: &mut [f32]) {
        let (d1, d2) = (self.shape.rows(), self.shape.cols());
        let count = self.count(x, d2, "inputs");
        assert_eq!(g.len(), count * d1, "outputs of a {} module", self.shape);
        assert_eq!(gradient.len(), self.parameters(), "parameters of a module");
        let (of_a, of_b) = gradient.split_at_mut(self.a.len());
        let scale = self.scaled(weight);
        outer(scale, (x, d2), (g, d1), &self.b, of_a);
        outer_transposed(scale, (g, d1), (x, d2), &self.a, of_b);
    }
}

/// `matrix`, rows of `cols` values, column by column.
fn transposed(matrix: &[f32], cols: usize) -> Arc<[f32]> {
    (0..cols).flat_map(|col| matrix.iter().skip(col).step_by(cols).copied()).collect()
}

/// Elements of a dense change for each thread beyond the first.
const THREAD_SHARE: usize = 1 << 20;

impl Delta for LoraDelta {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn parameters(&self) -> usize {
        self.a.len() + self.b.len()
    }

    fn read_parameters(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.parameters(), "parameters of a module");
        let (a, b) = out.split_at_mut(self.a.len());
        a.copy_from_slice(&self.a);
        for (p, row) in b.chunks_exact_mut(self.rank).enumerate() {
            row.iter_mut().zip(self.b[p..].iter().step_by(self.shape.rows())).for_each(|(to, from)| *to = *from);
        }
    }

    fn with_parameters(&self, parameters: &[f32]) -> Arc<dyn Delta> {
        assert_eq!(parameters.len(), self.parameters(), "parameters of a module");
        let (a, b) = parameters.split_at(self.a.len());
        Arc::new(Self { a: a.into(), b: transposed(b, self.rank), ..self.clone() })
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.a) + size_of_val(&*self.b)
    }

    fn apply(&self, weight: f32, x: &[f32], scratch: &mut DeltaScratch) {
        let (d1, d2) = (self.shape.rows(), self.shape.cols());
        assert_eq!(x.len(), d2, "inputs of a {} module", self.shape);
        through(self.scaled(weight), (x, d2), &self.a, &self.b, (scratch.dense(d1), d1));
    }

    fn apply_rows(&self, weight: f32, x: &[f32], block: &mut DeltaBlock) {
        let (d1, d2) = (self.shape.rows(), self.shape.cols());
        let y = block.dense(self.count(x, d2, "inputs"), d1);
        through(self.scaled(weight), (x, d2), &self.a, &self.b, (y, d1));
    }

    fn adjoint(&self, weight: f32, g: &[f32], scratch: &mut DeltaScratch) {
        let (d1, d2) = (self.shape.rows(), self.shape.cols());
        assert_eq!(g.len(), d1, "outputs of a {} module", self.shape);
        through(self.scaled(weight), (g, d1), &self.b, &self.a, (scratch.dense(d2), d2));
    }

    fn gradient(&self, weight: f32, x: &[f32], g: &[f32], gradient: &mut [f32], _: &mut DeltaScratch) {
        assert_eq!(x.len(), self.shape.cols(), "inputs of a {} module", self.shape);
        self.add_gradient(weight, x, g, gradient);
    }

    fn adjoint_rows(&self, weight: f32, g: &[f32], block: &mut DeltaBlock) {
        let (d1, d2) = (self.shape.rows(), self.shape.cols());
        let y = block.dense(self.count(g, d1, "outputs"), d2);
        through(self.scaled(weight), (g, d1), &self.b, &self.a, (y, d2));
    }

    fn gradient_rows(&self, weight: f32, x: &[f32], g: &[f32], gradient: &mut [f32], _: &mut DeltaBlock) {
        self.add_gradient(weight, x, g, gradient);
    }

    fn dense(&self, _: &Transforms, threads: usize) -> Vec<f32> {
        let (d1, d2) = (self.shape.rows(), self.shape.cols());
        let mut out = vec![0.0; d1 * d2];
        let threads = threads.min(1 + out.len() / THREAD_SHARE).max(1);
        let rows = d1.div_ceil(threads);
        let scale = self.scaled(1.0);
        let write = |first: usize, part: &mut [f32]| {
            combine(&self.b[first..], d1, &self.a, part, d2);
            crate::kernels::vector::scale(scale, part);
        };
        std::thread::scope(|scope| {
            for (part, first) in out.chunks_mut(rows * d2).zip((0..d1).step_by(rows)) {
                if threads == 1 {
                    write(first, part);
                } else {
                    scope.spawn(move || write(first, part));
                }
            }
        });
        out
    }

    fn as_lora(&self) -> Option<&LoraDelta> {
        Some(self)
    }
}
