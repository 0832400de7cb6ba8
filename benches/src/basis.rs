//! Other bases in Fourier's place, for the ablation of the paper's Table 6: `ΔW = α/(d1·d2) · √½ · B₁·F·B₂`, with fixed
//! matrices B₁ (d1 × d1) and B₂ (d2 × d2), and F zero but for n coefficients.
//!
//! The paper's S = B₁·F·B₂ has B of N(0, 1), or orthogonal. Here elements have a mean square of 1 in both, and the factor is
//! such that one coefficient makes the same RMS of ΔW's elements in every basis: α/(d1·d2) · √½, that of a cosine. Only then is one
//! learning rate the same step for all of them.
//!
//! Only vectors that entries use are drawn and kept. With J of B₁'s columns and K of B₂'s rows in use, a row costs
//! K·d2 + n + J·d1 multiply-adds: many times what the transforms cost, with most vectors in use at n = 1000 more than ΔW itself.
//! Good enough to measure what is learnt, not for use.

use std::sync::Arc;

use timbre::adapter::{Delta, DeltaBlock, DeltaScratch};
use timbre::kernels::gemm::{Left, PANEL, Right, multiply};
use timbre::kernels::vector::{axpy, scale};
use timbre::spectral::{Entries, Shape, Transforms};
use timbre::tune::data::Rng;

/// What a basis is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vectors {
    /// Elements of N(0, 1).
    Random,
    /// The same, orthogonalised: columns of a random orthogonal matrix, √d long.
    Orthogonal,
}

/// B₁ and B₂ as far as `entries` use them; shared by the modules of one shape.
#[derive(Debug)]
pub struct Basis {
    shape: Shape,
    /// Columns of B₁.
    left: Side,
    /// Rows of B₂.
    right: Side,
}

/// The vectors in use of one matrix.
#[derive(Debug)]
struct Side {
    /// Elements of a vector.
    len: usize,
    /// Vectors, one a row of `len` elements and zeros up to whole panels.
    vectors: Box<[f32]>,
    /// The same transposed.
    elements: Box<[f32]>,
    /// How many.
    count: usize,
    /// Each entry's vector.
    at: Box<[u32]>,
}

impl Basis {
    /// Draws the vectors that `entries` use: the same for a seed whatever else is used, but for being orthogonal to it.
    pub fn new(kind: Vectors, entries: &Entries, seed: u64) -> Self {
        let shape = entries.shape();
        let left = Side::new(kind, shape.rows(), entries.rows(), seed, 1 << 32);
        let right = Side::new(kind, shape.cols(), entries.cols(), seed, 2 << 32);
        Self { shape, left, right }
    }

    /// Coefficients.
    pub fn entries(&self) -> usize {
        self.left.at.len()
    }

    /// Entry `l`'s column of B₁ and row of B₂.
    ///
    /// # Panics
    /// If there is no such entry.
    pub fn vectors(&self, l: usize) -> (&[f32], &[f32]) {
        (self.left.vector(self.left.at[l]), self.right.vector(self.right.at[l]))
    }
}

impl Side {
    fn new(kind: Vectors, len: usize, used: &[u32], seed: u64, stream: u64) -> Self {
        let mut distinct = used.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let draw = |index: &u32| {
            let mut rng = Rng::new(seed, stream | u64::from(*index));
            (0..len).map(|_| rng.normal()).collect()
        };
        let mut drawn: Vec<Vec<f64>> = distinct.iter().map(draw).collect();
        if kind == Vectors::Orthogonal {
            orthogonalise(&mut drawn);
        }
        let (wide, count) = (len.next_multiple_of(PANEL), drawn.len());
        let tall = count.next_multiple_of(PANEL);
        let (mut vectors, mut elements) = (vec![0.0; count * wide], vec![0.0; len * tall]);
        for (v, vector) in drawn.iter().enumerate() {
            for (i, &element) in vector.iter().enumerate() {
                vectors[v * wide + i] = element as f32;
                elements[i * tall + v] = element as f32;
            }
        }
        let place = |index: &u32| distinct.partition_point(|known| known < index) as u32;
        let at = used.iter().map(place).collect();
        Self { len, vectors: vectors.into(), elements: elements.into(), count, at }
    }

    fn vector(&self, at: u32) -> &[f32] {
        &self.vectors[at as usize * self.wide()..][..self.len]
    }

    /// Elements of a vector in memory.
    fn wide(&self) -> usize {
        self.len.next_multiple_of(PANEL)
    }

    /// Vectors in memory.
    fn tall(&self) -> usize {
        self.count.next_multiple_of(PANEL)
    }

    /// Every row's products with the vectors, `[rows, tall]`.
    fn products(&self, rows: &[f32]) -> Vec<f32> {
        let (count, tall) = (rows.len() / self.len, self.tall());
        let mut out = vec![0.0; count * tall];
        let a = Left { data: rows, row: self.len, step: 1 };
        let b = Right { data: &self.elements, row: tall, panel: PANEL };
        multiply((count, self.len, self.count), a, b, (&mut out, tall), false);
        out
    }

    /// Adds the vectors times `by`, `[rows, tall]`, to `rows`.
    fn add(&self, by: &[f32], rows: &mut [f32]) {
        let count = rows.len() / self.len;
        let a = Left { data: by, row: self.tall(), step: 1 };
        let b = Right { data: &self.vectors, row: self.wide(), panel: PANEL };
        multiply((count, self.count, self.len), a, b, (rows, self.len), true);
    }
}

/// Gram and Schmidt's way, each vector twice so that rounding leaves nothing; then √len long.
fn orthogonalise(vectors: &mut [Vec<f64>]) {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for i in 0..vectors.len() {
        let (before, rest) = vectors.split_at_mut(i);
        let own = &mut rest[0];
        let square = own.len() as f64;
        for _ in 0..2 {
            for other in &*before {
                let share = dot(own, other) / square;
                own.iter_mut().zip(other).for_each(|(own, other)| *own -= share * other);
            }
        }
        let factor = (square / dot(own, own)).sqrt();
        own.iter_mut().for_each(|v| *v *= factor);
    }
}

/// A module's change in such a basis. Its parameters are the coefficients in the order of the entries.
#[derive(Debug, Clone)]
pub struct BasisDelta {
    basis: Arc<Basis>,
    coefficients: Box<[f32]>,
    alpha: f64,
}

impl BasisDelta {
    /// A change of these coefficients.
    ///
    /// # Panics
    /// Unless there is one for every entry.
    pub fn new(basis: Arc<Basis>, coefficients: &[f32], alpha: f64) -> Self {
        assert_eq!(coefficients.len(), basis.entries(), "a coefficient for every entry");
        Self { basis, coefficients: coefficients.into(), alpha }
    }

    /// α/(d1·d2) · √½.
    fn factor(&self) -> f64 {
        self.alpha / self.basis.shape.area() as f64 * std::f64::consts::FRAC_1_SQRT_2
    }

    fn scaled(&self, weight: f32) -> f32 {
        (self.factor() * f64::from(weight)) as f32
    }

    /// Adds the change of rows `x` to rows `y`, or, with the sides exchanged, its adjoint.
    fn through(&self, weight: f32, (from, x): (&Side, &[f32]), (to, y): (&Side, &mut [f32])) {
        let products = from.products(x);
        let mut by = vec![0.0; products.len() / from.tall() * to.tall()];
        for (products, by) in products.chunks_exact(from.tall()).zip(by.chunks_exact_mut(to.tall())) {
            for ((c, &source), &target) in self.coefficients.iter().zip(&from.at).zip(&to.at) {
                by[target as usize] += c * products[source as usize];
            }
        }
        scale(self.scaled(weight), &mut by);
        to.add(&by, y);
    }

    fn add_gradient(&self, weight: f32, x: &[f32], g: &[f32], gradient: &mut [f32]) {
        let (left, right) = (&self.basis.left, &self.basis.right);
        assert_eq!(gradient.len(), self.coefficients.len(), "parameters of a module");
        assert_eq!(x.len() * left.len, g.len() * right.len, "rows of inputs and of upstream gradients");
        let weight = self.scaled(weight);
        let (of_x, of_g) = (right.products(x), left.products(g));
        for (of_x, of_g) in of_x.chunks_exact(right.tall()).zip(of_g.chunks_exact(left.tall())) {
            for ((gradient, &j), &k) in gradient.iter_mut().zip(&left.at).zip(&right.at) {
                *gradient += weight * of_g[j as usize] * of_x[k as usize];
            }
        }
    }
}

impl Delta for BasisDelta {
    fn shape(&self) -> Shape {
        self.basis.shape
    }

    fn parameters(&self) -> usize {
        self.coefficients.len()
    }

    fn read_parameters(&self, out: &mut [f32]) {
        out.copy_from_slice(&self.coefficients);
    }

    fn with_parameters(&self, parameters: &[f32]) -> Arc<dyn Delta> {
        Arc::new(Self::new(Arc::clone(&self.basis), parameters, self.alpha))
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.coefficients)
    }

    fn apply(&self, weight: f32, x: &[f32], scratch: &mut DeltaScratch) {
        let (left, right) = (&self.basis.left, &self.basis.right);
        assert_eq!(x.len(), right.len, "inputs of a {} module", self.shape());
        self.through(weight, (right, x), (left, scratch.dense(left.len)));
    }

    fn apply_rows(&self, weight: f32, x: &[f32], block: &mut DeltaBlock) {
        let (left, right) = (&self.basis.left, &self.basis.right);
        self.through(weight, (right, x), (left, block.dense(x.len() / right.len, left.len)));
    }

    fn adjoint(&self, weight: f32, g: &[f32], scratch: &mut DeltaScratch) {
        let (left, right) = (&self.basis.left, &self.basis.right);
        assert_eq!(g.len(), left.len, "outputs of a {} module", self.shape());
        self.through(weight, (left, g), (right, scratch.dense(right.len)));
    }

    fn adjoint_rows(&self, weight: f32, g: &[f32], block: &mut DeltaBlock) {
        let (left, right) = (&self.basis.left, &self.basis.right);
        self.through(weight, (left, g), (right, block.dense(g.len() / left.len, right.len)));
    }

    fn gradient(&self, weight: f32, x: &[f32], g: &[f32], gradient: &mut [f32], _: &mut DeltaScratch) {
        self.add_gradient(weight, x, g, gradient);
    }

    fn gradient_rows(&self, weight: f32, x: &[f32], g: &[f32], gradient: &mut [f32], _: &mut DeltaBlock) {
        self.add_gradient(weight, x, g, gradient);
    }

    fn dense(&self, _: &Transforms, _: usize) -> Vec<f32> {
        let (left, right) = (&self.basis.left, &self.basis.right);
        // F·B₂, then B₁ times that.
        let wide = right.wide();
        let mut inner = vec![0.0; left.count * wide];
        for ((c, &j), &k) in self.coefficients.iter().zip(&left.at).zip(&right.at) {
            axpy(*c, right.vector(k), &mut inner[j as usize * wide..][..right.len]);
        }
        scale(self.scaled(1.0), &mut inner);
        let mut out = vec![0.0; left.len * right.len];
        let a = Left { data: &left.elements, row: left.tall(), step: 1 };
        let b = Right { data: &inner, row: wide, panel: PANEL };
        multiply((left.len, left.count, right.len), a, b, (&mut out, right.len), false);
        out
    }
}
