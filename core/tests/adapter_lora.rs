//! LoRA's change: against the naive sum, its own transpose and finite differences, in rows and in blocks, without allocating.

mod adapter_support;
#[path = "common/counting.rs"]
mod counting;
mod spectral_support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use adapter_support::{coefficients, planned, shape};
use counting::{ALLOCATIONS, COUNTED};
use proptest::prelude::*;
use spectral_support::relative_error;
use timbre::adapter::{AdapterError, Delta, DeltaBlock, DeltaScratch, LoraDelta, LoraScale, RowOrder};
use timbre::spectral::{PlanCache, Transforms};

/// Outputs, inputs and rank: one-wide sides, primes, a rank above both sides, below and above what a register holds, and above
/// what is taken at a time.
const SHAPES: [(usize, usize, usize); 12] = [
    (1, 1, 1),
    (1, 7, 1),
    (13, 1, 3),
    (2, 3, 5),
    (5, 4, 9),
    (17, 31, 2),
    (31, 17, 8),
    (64, 48, 8),
    (48, 64, 16),
    (37, 53, 67),
    (192, 576, 8),
    (33, 97, 130),
];

fn lora((d1, d2, rank): (usize, usize, usize), salt: u32, scale: LoraScale) -> LoraDelta {
    let (a, b) = (coefficients(rank * d2, salt), coefficients(d1 * rank, salt + 1));
    LoraDelta::new(&a, &b, rank, shape(d1, d2), scale).unwrap()
}

/// The defining sum from the factors as they were given, independent of how a change keeps them.
fn oracle((d1, d2, rank): (usize, usize, usize), a: &[f32], b: &[f32], scale: f64) -> Vec<f64> {
    let mut out = vec![0.0; d1 * d2];
    for p in 0..d1 {
        for q in 0..d2 {
            for k in 0..rank {
                out[p * d2 + q] += scale * f64::from(b[p * rank + k]) * f64::from(a[k * d2 + q]);
            }
        }
    }
    out
}

fn rows(count: usize, len: usize, salt: usize) -> Vec<f32> {
    coefficients(count * len, 1000 + salt as u32)
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

fn product(matrix: &[f64], d2: usize, x: &[f32]) -> Vec<f64> {
    matrix.chunks_exact(d2).map(|row| row.iter().zip(x).map(|(m, x)| m * f64::from(*x)).sum()).collect()
}

fn transposed_product(matrix: &[f64], d2: usize, g: &[f32]) -> Vec<f64> {
    let mut out = vec![0.0; d2];
    for (row, g) in matrix.chunks_exact(d2).zip(g) {
        out.iter_mut().zip(row).for_each(|(out, m)| *out += m * f64::from(*g));
    }
    out
}

fn inner(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

struct Bench {
    scratch: DeltaScratch,
    block: DeltaBlock,
}

impl Bench {
    fn new(d1: usize, d2: usize) -> Self {
        let transforms = Arc::new(Transforms::new());
        let scratch = DeltaScratch::new(Arc::clone(&transforms), [d1, d2]);
        Self { scratch, block: DeltaBlock::new(transforms, [d1, d2]) }
    }

    fn apply(&mut self, delta: &LoraDelta, weight: f32, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; delta.shape().rows()];
        self.scratch.begin_input();
        self.scratch.begin_output();
        delta.apply(weight, x, &mut self.scratch);
        self.scratch.finish(&mut y, None);
        y
    }

    fn apply_rows(&mut self, delta: &LoraDelta, weight: f32, x: &[f32], order: Option<&RowOrder>) -> Vec<f32> {
        let (d1, d2) = (delta.shape().rows(), delta.shape().cols());
        let mut y = vec![0.0; x.len() / d2 * d1];
        self.block.begin_input();
        self.block.begin_output();
        delta.apply_rows(weight, x, &mut self.block);
        self.block.finish(&mut y, d1, order);
        y
    }

    fn adjoint_rows(&mut self, delta: &LoraDelta, weight: f32, g: &[f32]) -> Vec<f32> {
        let (d1, d2) = (delta.shape().rows(), delta.shape().cols());
        let mut dx = vec![0.0; g.len() / d1 * d2];
        self.block.begin_output();
        delta.adjoint_rows(weight, g, &mut self.block);
        self.block.finish(&mut dx, d2, None);
        dx
    }
}

#[test]
fn every_way_is_the_naive_sum() {
    for sizes in SHAPES {
        let (d1, d2, rank) = sizes;
        for scale in [LoraScale::over_rank(16.0), LoraScale { alpha: -5.0, rank_stabilized: true }] {
            let (a, b) = (coefficients(rank * d2, 3), coefficients(d1 * rank, 4));
            let delta = LoraDelta::new(&a, &b, rank, shape(d1, d2), scale).unwrap();
            let factor =
                if scale.rank_stabilized { scale.alpha / (rank as f64).sqrt() } else { scale.alpha / rank as f64 };
            let expected = oracle(sizes, &a, &b, factor);
            assert_eq!((delta.rank(), delta.parameters(), delta.b()), (rank, rank * (d1 + d2), b));
            assert!(relative_error(&delta.naive().iter().map(|&v| v as f32).collect::<Vec<_>>(), &expected) < 1e-6);
            for threads in [0, 1, 3] {
                let error = relative_error(&delta.dense(&Transforms::new(), threads), &expected);
                assert!(error < 1e-6, "{sizes:?}: {error:e}");
            }
            let mut bench = Bench::new(d1, d2);
            for weight in [1.0, -0.75] {
                let weighted: Vec<f64> = expected.iter().map(|v| v * f64::from(weight)).collect();
                let (x, g) = (rows(16, d2, 1), rows(16, d1, 2));
                let y = bench.apply_rows(&delta, weight, &x, None);
                let dx = bench.adjoint_rows(&delta, weight, &g);
                for (i, (x, g)) in x.chunks(d2).zip(g.chunks(d1)).enumerate() {
                    let (want, back) = (product(&weighted, d2, x), transposed_product(&weighted, d2, g));
                    // A change of one output can come out near zero: measured against what is added up.
                    let near = |found: &[f32], want: &[f64], of: &[f32]| {
                        let size: f64 = (weighted.iter().map(|v| v * v).sum::<f64>() * inner(of, of)).sqrt();
                        let off = found.iter().zip(want).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt();
                        assert!(off <= 2e-6 * size, "{sizes:?}, row {i}: {off:e} of {size:e}");
                    };
                    near(&y[i * d1..][..d1], &want, x);
                    near(&dx[i * d2..][..d2], &back, g);
                    near(&bench.apply(&delta, weight, x), &want, x);
                }
            }
        }
    }
}

#[test]
fn a_row_is_the_same_in_every_block() {
    for sizes in SHAPES {
        let (d1, d2, _) = sizes;
        let delta = lora(sizes, 5, LoraScale::over_rank(7.0));
        let mut bench = Bench::new(d1, d2);
        let (x, g) = (rows(16, d2, 1), rows(16, d1, 2));
        let (all, back) = (bench.apply_rows(&delta, 0.5, &x, None), bench.adjoint_rows(&delta, 0.5, &g));
        for count in [1, 2, 3, 7, 15] {
            for first in [0, 16 - count] {
                let some = bench.apply_rows(&delta, 0.5, &x[first * d2..][..count * d2], None);
                assert_eq!(some, all[first * d1..][..count * d1], "{sizes:?}, {count} rows from {first}");
                let some = bench.adjoint_rows(&delta, 0.5, &g[first * d1..][..count * d1]);
                assert_eq!(some, back[first * d2..][..count * d2], "{sizes:?}, {count} rows from {first}");
            }
        }
        for (x, y) in x.chunks(d2).zip(all.chunks(d1)) {
            assert_eq!(bench.apply(&delta, 0.5, x), y, "{sizes:?}");
        }
    }
}

#[test]
fn the_adjoint_is_the_transpose() {
    for sizes in SHAPES {
        let (d1, d2, _) = sizes;
        let delta = lora(sizes, 8, LoraScale::over_rank(3.0));
        let mut bench = Bench::new(d1, d2);
        let (x, g) = (rows(1, d2, 3), rows(1, d1, 4));
        let y = bench.apply(&delta, 1.5, &x);
        let mut dx = vec![0.0; d2];
        bench.scratch.begin_upstream();
        bench.scratch.begin_output();
        delta.adjoint(1.5, &g, &mut bench.scratch);
        bench.scratch.finish(&mut dx, None);
        assert_eq!(dx, bench.adjoint_rows(&delta, 1.5, &g));
        let size = (inner(&y, &y) * inner(&g, &g)).sqrt();
        assert!((inner(&y, &g) - inner(&x, &dx)).abs() <= 1e-5 * size, "{sizes:?}");
    }
}

#[test]
fn gradients_are_finite_differences() {
    for sizes in SHAPES.into_iter().filter(|(d1, d2, rank)| rank * (d1 + d2) < 8000) {
        let (d1, d2, _) = sizes;
        let delta = lora(sizes, 11, LoraScale::over_rank(9.0));
        let n = delta.parameters();
        let mut bench = Bench::new(d1, d2);
        let count = 5;
        let (x, g) = (rows(count, d2, 5), rows(count, d1, 6));
        let mut parameters = vec![0.0; n];
        delta.read_parameters(&mut parameters);
        // L = Σ ⟨g, weight·ΔWx⟩ is linear in each number, so that a difference over a step of any size is exact.
        let loss = |parameters: &[f32]| -> f64 {
            let (a, b) = parameters.split_at(sizes.2 * d2);
            let matrix = oracle(sizes, a, b, 2.0 * 9.0 / sizes.2 as f64);
            let each = x.chunks(d2).zip(g.chunks(d1));
            each.map(|(x, g)| product(&matrix, d2, x).iter().zip(g).map(|(y, g)| y * f64::from(*g)).sum::<f64>()).sum()
        };
        let mut gradient = vec![0.0; n];
        delta.gradient_rows(2.0, &x, &g, &mut gradient, &mut bench.block);
        let base = loss(&parameters);
        let every = n.div_ceil(120);
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        for at in (0..n).step_by(every) {
            let kept = parameters[at];
            parameters[at] += 0.5;
            let step = f64::from(parameters[at] - kept);
            found.push(gradient[at]);
            expected.push((loss(&parameters) - base) / step);
            parameters[at] = kept;
        }
        let error = relative_error(&found, &expected);
        assert!(error < 1e-5, "{sizes:?}: {error:e}");
        // Row by row it is the same sum, and it is added to what was there.
        let mut one_by_one = vec![1.0; n];
        for (x, g) in x.chunks(d2).zip(g.chunks(d1)) {
            delta.gradient(2.0, x, g, &mut one_by_one, &mut bench.scratch);
        }
        let expected: Vec<f64> = gradient.iter().map(|v| f64::from(*v) + 1.0).collect();
        assert!(relative_error(&one_by_one, &expected) < 1e-5, "{sizes:?}");
    }
}

#[test]
fn parameters_are_a_and_then_b_row_by_row() {
    let (a, b) = (coefficients(3 * 5, 1), coefficients(4 * 3, 2));
    let delta = LoraDelta::new(&a, &b, 3, shape(4, 5), LoraScale::over_rank(2.0)).unwrap();
    let mut parameters = vec![0.0; delta.parameters()];
    delta.read_parameters(&mut parameters);
    assert_eq!(parameters, [a.clone(), b.clone()].concat());
    assert_eq!((delta.a(), delta.b()), (&a[..], b));
    let other = coefficients(27, 9);
    let changed = delta.with_parameters(&other);
    let mut read = vec![0.0; 27];
    changed.read_parameters(&mut read);
    assert_eq!(read, other);
    let lora = changed.as_lora().unwrap();
    assert_eq!((lora.rank(), lora.scale(), lora.shape()), (3, delta.scale(), delta.shape()));
    assert!(changed.as_fourier().is_none());
    // A module costs its numbers, and little more.
    assert!(delta.bytes() >= 4 * 27 && delta.bytes() <= 4 * 27 + 128);
}

#[test]
fn factors_must_have_their_sizes() {
    let new = |a: usize, b: usize, rank| {
        LoraDelta::new(&vec![1.0; a], &vec![1.0; b], rank, shape(4, 5), LoraScale::over_rank(1.0))
    };
    assert!(new(15, 12, 3).is_ok());
    assert!(matches!(new(0, 0, 0), Err(AdapterError::Rank)));
    assert!(matches!(new(14, 12, 3), Err(AdapterError::TensorShape { name, .. }) if name == "A"));
    assert!(matches!(new(15, 13, 3), Err(AdapterError::TensorShape { name, .. }) if name == "B"));
    assert!(matches!(new(15, 12, usize::MAX), Err(AdapterError::TensorShape { .. })));
}

#[test]
fn outputs_go_where_the_file_has_them() {
    let order = RowOrder::llama_rope(3, 16).unwrap();
    let delta = lora((48, 20, 4), 2, LoraScale::over_rank(4.0));
    let mut bench = Bench::new(48, 20);
    let x = rows(3, 20, 1);
    let (plain, ordered) = (bench.apply_rows(&delta, 1.0, &x, None), bench.apply_rows(&delta, 1.0, &x, Some(&order)));
    for (plain, ordered) in plain.chunks(48).zip(ordered.chunks(48)) {
        for (hf, &file) in order.to_file().iter().enumerate() {
            assert_eq!(ordered[file as usize], plain[hf]);
        }
    }
}

#[test]
fn it_adds_up_with_fourierft() {
    let sizes = (192, 576, 8);
    let low_rank = lora(sizes, 1, LoraScale::over_rank(0.5));
    let plan = PlanCache::new().seeded(shape(192, 576), 100, 1).unwrap();
    let spectral = planned("m", plan, &coefficients(100, 2), 300.0).delta;
    let mut bench = Bench::new(192, 576);
    let x = rows(16, 576, 9);
    let mut y = vec![0.0; 16 * 192];
    bench.block.begin_input();
    bench.block.begin_output();
    spectral.apply_rows(0.5, &x, &mut bench.block);
    low_rank.apply_rows(2.0, &x, &mut bench.block);
    bench.block.finish(&mut y, 192, None);
    let (a, b) = (spectral.dense(&Transforms::new(), 1), low_rank.naive());
    let sum: Vec<f64> = a.iter().zip(b).map(|(a, b)| 0.5 * f64::from(*a) + 2.0 * b).collect();
    for (x, y) in x.chunks(576).zip(y.chunks(192)) {
        let error = relative_error(y, &product(&sum, 576, x));
        assert!(error < 1e-5, "{error:e}");
    }
}

#[test]
fn planned_lengths_never_allocate() {
    let delta = lora((192, 576, 70), 1, LoraScale::over_rank(8.0));
    let mut bench = Bench::new(192, 576);
    let (x, g) = (rows(16, 576, 1), rows(16, 192, 2));
    let (mut y, mut dx, mut gradient) = (vec![0.0; 16 * 192], vec![0.0; 16 * 576], vec![0.0; delta.parameters()]);
    COUNTED.set(true);
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    for rows in [16, 5] {
        bench.block.begin_input();
        bench.block.begin_output();
        delta.apply_rows(1.0, &x[..rows * 576], &mut bench.block);
        bench.block.finish(&mut y[..rows * 192], 192, None);
        delta.adjoint_rows(1.0, &g[..rows * 192], &mut bench.block);
        bench.block.finish(&mut dx[..rows * 576], 576, None);
        delta.gradient_rows(1.0, &x[..rows * 576], &g[..rows * 192], &mut gradient, &mut bench.block);
    }
    bench.scratch.begin_output();
    delta.apply(1.0, &x[..576], &mut bench.scratch);
    bench.scratch.finish(&mut y[..192], None);
    delta.adjoint(1.0, &g[..192], &mut bench.scratch);
    bench.scratch.finish(&mut dx[..576], None);
    let after = ALLOCATIONS.load(Ordering::SeqCst);
    COUNTED.set(false);
    assert_eq!(after, before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_shape_and_rank(d1 in 1usize..70, d2 in 1usize..70, rank in 1usize..80, count in 1usize..17, alpha in -50.0f64..50.0) {
        let sizes = (d1, d2, rank);
        let delta = lora(sizes, 1, LoraScale::over_rank(alpha));
        let expected = oracle(sizes, delta.a(), &delta.b(), alpha / rank as f64);
        let size: f64 = expected.iter().map(|v| v * v).sum::<f64>().sqrt();
        let x = rows(count, d2, 3);
        let y = Bench::new(d1, d2).apply_rows(&delta, 1.0, &x, None);
        for (x, y) in x.chunks(d2).zip(y.chunks(d1)) {
            let want = product(&expected, d2, x);
            let off: f64 = wide(y).iter().zip(&want).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
            prop_assert!(off <= 1e-5 * size * inner(x, x).sqrt() + 1e-12, "{sizes:?}: {off:e}");
        }
    }
}
