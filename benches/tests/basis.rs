//! Changes in other bases than Fourier's, against their definition in f64 and finite differences.

use std::sync::Arc;

use timbre::adapter::{Delta, DeltaBlock, DeltaScratch, FourierDelta};
use timbre::spectral::{Entries, Plan, Shape, Transforms};
use timbre_benches::basis::{Basis, BasisDelta, Vectors};
use timbre_benches::noise;

const ALPHA: f64 = 300.0;
/// Neither side a whole number of panels; and one where all vectors of a side are in use.
const SHAPES: [(usize, usize, usize); 3] = [(40, 27, 60), (16, 48, 200), (5, 7, 1)];

fn entries(rows: usize, cols: usize, n: usize) -> Entries {
    Entries::seeded(Shape::new(rows, cols).unwrap(), n, 3).unwrap()
}

fn each(mut f: impl FnMut(Vectors, (usize, usize, usize))) {
    for kind in [Vectors::Random, Vectors::Orthogonal] {
        SHAPES.into_iter().for_each(|shape| f(kind, shape));
    }
}

fn delta(kind: Vectors, (rows, cols, n): (usize, usize, usize), c: &[f32]) -> (Arc<Basis>, BasisDelta) {
    let basis = Arc::new(Basis::new(kind, &entries(rows, cols, n), 9));
    (basis.clone(), BasisDelta::new(basis, c, ALPHA))
}

/// The defining sum.
fn naive(basis: &Basis, (rows, cols, n): (usize, usize, usize), c: &[f32]) -> Vec<f64> {
    let factor = ALPHA / (rows * cols) as f64 / 2f64.sqrt();
    let mut out = vec![0.0; rows * cols];
    assert_eq!(c.len(), n);
    for (l, c) in c.iter().enumerate() {
        let (left, right) = basis.vectors(l);
        for (i, out) in out.iter_mut().enumerate() {
            *out += factor * f64::from(*c) * f64::from(left[i / cols]) * f64::from(right[i % cols]);
        }
    }
    out
}

fn close(what: &str, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(0f64, |m, v| m.max(v.abs()));
    assert!(largest > 0.0, "{what}");
    for (got, want) in got.iter().zip(want) {
        // f32 sums of at most some hundred terms.
        assert!((f64::from(*got) - want).abs() <= 2e-5 * largest, "{what}: {got} for {want}, largest {largest}");
    }
}

/// `rows` products with `matrix`, or with its transpose.
fn products(matrix: &[f64], cols: usize, x: &[f32], transposed: bool) -> Vec<f64> {
    let rows = matrix.len() / cols;
    let (from, to) = if transposed { (rows, cols) } else { (cols, rows) };
    let element = |p: usize, q: usize| if transposed { matrix[q * cols + p] } else { matrix[p * cols + q] };
    let row =
        |x: &[f32]| -> Vec<f64> { (0..to).map(|p| (0..from).map(|q| element(p, q) * f64::from(x[q])).sum()).collect() };
    x.chunks_exact(from).flat_map(row).collect()
}

#[test]
fn a_change_and_its_adjoint_are_those_of_the_dense_form() {
    each(|kind, shape| {
        let (d1, d2, n) = shape;
        let c = noise(n, 1);
        let (basis, delta) = delta(kind, shape, &c);
        let dense = naive(&basis, shape, &c);
        let transforms = Arc::new(Transforms::new());
        close("dense", &delta.dense(&transforms, 1), &dense);

        let (x, g) = (noise(5 * d2, 2), noise(5 * d1, 3));
        let mut block = DeltaBlock::new(Arc::clone(&transforms), [d1, d2]);
        let mut scratch = DeltaScratch::new(transforms, [d1, d2]);
        let (mut y, mut z) = (vec![0.0; 5 * d1], vec![0.0; 5 * d2]);
        delta.apply_rows(0.5, &x, &mut block);
        block.finish(&mut y, d1, None);
        delta.adjoint_rows(0.5, &g, &mut block);
        block.finish(&mut z, d2, None);
        let half = |v: Vec<f64>| -> Vec<f64> { v.iter().map(|v| 0.5 * v).collect() };
        close("rows", &y, &half(products(&dense, d2, &x, false)));
        close("adjoint of rows", &z, &half(products(&dense, d2, &g, true)));

        let (mut row, mut back) = (vec![0.0; d1], vec![0.0; d2]);
        delta.apply(1.0, &x[..d2], &mut scratch);
        scratch.finish(&mut row, None);
        delta.adjoint(1.0, &g[..d1], &mut scratch);
        scratch.finish(&mut back, None);
        close("row", &row, &products(&dense, d2, &x[..d2], false));
        close("adjoint", &back, &products(&dense, d2, &g[..d1], true));
    });
}

#[test]
fn gradients_are_finite_differences() {
    each(|kind, shape| {
        let (d1, d2, n) = shape;
        let c = noise(n, 1);
        let (basis, delta) = delta(kind, shape, &c);
        let (x, g) = (noise(5 * d2, 2), noise(5 * d1, 3));
        // Σ g·ΔWx is linear in c: a difference over a whole unit is exact but for rounding, which f64 keeps away.
        let value = |c: &[f32]| -> f64 {
            let h = products(&naive(&basis, shape, c), d2, &x, false);
            h.iter().zip(&g).map(|(h, g)| h * f64::from(*g)).sum()
        };
        let expected: Vec<f64> = (0..n)
            .map(|l| {
                let moved = |by: f32| c.iter().enumerate().map(|(i, v)| v + if i == l { by } else { 0.0 }).collect();
                let (above, below): (Vec<f32>, Vec<f32>) = (moved(1.0), moved(-1.0));
                (value(&above) - value(&below)) / f64::from(above[l] - below[l])
            })
            .collect();
        let transforms = Arc::new(Transforms::new());
        let mut block = DeltaBlock::new(Arc::clone(&transforms), [d1, d2]);
        let mut scratch = DeltaScratch::new(transforms, [d1, d2]);
        // Added to what is there.
        let mut got = vec![1.0; n];
        delta.gradient_rows(1.0, &x, &g, &mut got, &mut block);
        got.iter_mut().for_each(|v| *v -= 1.0);
        close("block", &got, &expected);
        let mut got = vec![0.0; n];
        for (x, g) in x.chunks_exact(d2).zip(g.chunks_exact(d1)) {
            delta.gradient(1.0, x, g, &mut got, &mut scratch);
        }
        close("rows", &got, &expected);
    });
}

#[test]
fn parameters_are_the_coefficients() {
    let shape = SHAPES[0];
    let c = noise(shape.2, 4);
    let (basis, delta) = delta(Vectors::Random, shape, &noise(shape.2, 1));
    let moved = delta.with_parameters(&c);
    let mut read = vec![0.0; moved.parameters()];
    moved.read_parameters(&mut read);
    assert_eq!(read, c);
    close("moved", &moved.dense(&Transforms::new(), 1), &naive(&basis, shape, &c));
}

#[test]
fn orthogonal_vectors_are() {
    let (rows, cols, n) = (64, 48, 400);
    let basis = Basis::new(Vectors::Orthogonal, &entries(rows, cols, n), 9);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let mut pairs = 0;
    for l in 0..n {
        for m in 0..n {
            let ((left, right), (left2, right2)) = (basis.vectors(l), basis.vectors(m));
            for (a, b) in [(left, left2), (right, right2)] {
                let expected = if std::ptr::eq(a, b) { a.len() as f64 } else { 0.0 };
                assert!((dot(a, b) - expected).abs() < 1e-4);
                pairs += usize::from(expected == 0.0);
            }
        }
    }
    assert!(pairs > 100_000, "hardly any two vectors differ");
}

/// What makes one learning rate fair: the RMS of ΔW's elements is the same in all bases, of many coefficients and of one.
#[test]
fn a_step_is_as_large_as_fouriers() {
    let (rows, cols, n) = (96, 160, 500);
    let transforms = Transforms::new();
    let rms = |v: &[f32]| (v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / v.len() as f64).sqrt();
    let signs: Vec<f32> = noise(n, 8).iter().map(|v| v.signum()).collect();
    let plan = Arc::new(Plan::new(Arc::new(entries(rows, cols, n))));
    let fourier = |c: &[f32]| rms(&FourierDelta::new(plan.clone(), c, ALPHA).unwrap().dense(&transforms, 1));
    let all = fourier(&signs);
    for kind in [Vectors::Random, Vectors::Orthogonal] {
        let basis = Arc::new(Basis::new(kind, &entries(rows, cols, n), 9));
        let other = |c: &[f32]| rms(&BasisDelta::new(basis.clone(), c, ALPHA).dense(&transforms, 1));
        let ratio = other(&signs) / all;
        assert!((ratio - 1.0).abs() < 0.05, "{kind:?}: {ratio}");
        let one = |l: usize| (0..n).map(|i| f32::from(u8::from(i == l))).collect::<Vec<_>>();
        let mean = (0..20).map(|l| other(&one(l)) / fourier(&one(l))).sum::<f64>() / 20.0;
        assert!((mean - 1.0).abs() < 0.05, "{kind:?}, one coefficient: {mean}");
    }
}
