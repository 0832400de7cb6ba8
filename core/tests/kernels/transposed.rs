//! Products with the transposed weights: every storage format on every tier, against sums in f64.

use timbre::gguf::GgmlType;
use timbre::kernels::{ActivationType, Activations, Compute, Matrix, Tier, TransposedScratch, detected_tiers};

use super::blocks::Rng;
use super::{Case, compute};

/// Rounding of one chain of f32 sums, relative to the sum of the magnitudes of its products.
const ROUNDING: f64 = 3e-6;
/// As much where both factors of each product may be rounded to bf16, each by half a unit in the last of eight bits.
const COARSE_ROUNDING: f64 = 2.0 / 256.0 + 3e-5;

fn rounding(compute: &Compute) -> f64 {
    if compute.rounds_gradients() { COARSE_ROUNDING } else { ROUNDING }
}

fn gradients(rows: usize, outputs: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng(seed);
    // Rows of very different sizes, as gradients have.
    (0..rows * outputs).map(|i| rng.unit() * 10f32.powi((i / outputs % 4) as i32 - 2)).collect()
}

/// Σ g · w and Σ |g · w| of every output.
fn exact(case: &Case, g: &[f32], sums: &mut [(f64, f64)]) {
    for (t, sums) in sums.chunks_exact_mut(case.cols).enumerate() {
        for (r, w) in case.weights.chunks_exact(case.cols).enumerate() {
            let g = f64::from(g[t * case.rows + r]);
            for (sum, w) in sums.iter_mut().zip(w) {
                sum.0 += g * w;
                sum.1 += (g * w).abs();
            }
        }
    }
}

fn shapes(ty: GgmlType) -> &'static [(usize, usize)] {
    match ty.block_len() {
        1 => &[(1, 1), (5, 7), (17, 63), (600, 33), (3, 576)],
        32 => &[(1, 32), (7, 64), (3, 96), (33, 224), (520, 288), (1100, 64)],
        _ => &[(1, 256), (7, 512), (150, 768)],
    }
}

#[test]
fn every_format_and_tier_matches_f64() {
    for ty in GgmlType::ALL {
        for &(rows, cols) in shapes(ty) {
            for batch in [1, 2, 5, 7, 13, 18] {
                let case = Case::new(ty, rows, cols, batch, (rows * cols) as u64);
                let g = gradients(batch, rows, 7);
                let mut sums = vec![(0.0, 0.0); batch * cols];
                exact(&case, &g, &mut sums);
                for tier in detected_tiers() {
                    let compute = compute((tier, ActivationType::Int15), 2);
                    let mut out = vec![f32::NAN; batch * cols];
                    let scratch = TransposedScratch::new(compute.threads());
                    compute.matmul_transposed(&[(case.matrix(), &g)], &mut out, &scratch);
                    for (at, (&got, (want, size))) in out.iter().zip(&sums).enumerate() {
                        let close = (f64::from(got) - want).abs() <= size * rounding(&compute) + 1e-30;
                        assert!(close, "{tier} {ty} {rows}x{cols}, {batch} rows, at {at}: {got} for {want}");
                    }
                }
            }
        }
    }
}

#[test]
fn linears_that_read_the_same_rows_add_up_whatever_their_formats_and_threads() {
    let shapes = [(GgmlType::Q4K, 70), (GgmlType::Q5_0, 33), (GgmlType::F16, 9), (GgmlType::Q6K, 200)];
    for cols in [256, 768] {
        let cases = shapes.map(|(ty, rows)| Case::new(ty, rows, cols, 11, rows as u64));
        let gs = shapes.map(|(_, rows)| gradients(11, rows, rows as u64));
        let mut sums = vec![(0.0, 0.0); 11 * cols];
        cases.iter().zip(&gs).for_each(|(case, g)| exact(case, g, &mut sums));
        let pairs: Vec<(Matrix<'_>, &[f32])> = cases.iter().zip(&gs).map(|(case, g)| (case.matrix(), &**g)).collect();
        for tier in detected_tiers() {
            let run = |threads| {
                let compute = compute((tier, ActivationType::Int15), threads);
                let mut out = vec![f32::NAN; 11 * cols];
                compute.matmul_transposed(&pairs, &mut out, &TransposedScratch::new(threads));
                (out, rounding(&compute))
            };
            let (out, rounding) = run(1);
            for (&got, (want, size)) in out.iter().zip(&sums) {
                assert!((f64::from(got) - want).abs() <= size * rounding, "{tier}: {got} for {want}");
            }
            assert_eq!(out, run(3).0, "{tier}: threads change nothing");
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    for tier in detected_tiers() {
        let compute = compute((tier, ActivationType::Int15), 2);
        let scratch = TransposedScratch::new(2);
        let case = Case::new(GgmlType::Q4_1, 600, 96, 1, 5);
        let g = gradients(17, 600, 3);
        let mut all = vec![f32::NAN; 17 * 96];
        compute.matmul_transposed(&[(case.matrix(), &g)], &mut all, &scratch);
        for (g, all) in g.chunks_exact(600).zip(all.chunks_exact(96)) {
            let mut alone = vec![f32::NAN; 96];
            compute.matmul_transposed(&[(case.matrix(), g)], &mut alone, &scratch);
            assert_eq!(alone, all, "{tier}");
        }
    }
}

#[test]
fn it_is_the_adjoint_of_the_product() {
    for ty in GgmlType::ALL {
        let (rows, cols) = (75, 768);
        let case = Case::new(ty, rows, cols, 1, 11);
        let g = gradients(1, rows, 12);
        // The reference product rounds nothing but its sums.
        let compute = compute((Tier::Reference, ActivationType::Int15), 2);
        let mut x = Activations::with_capacity(&compute, 1, cols);
        x.load(&compute, 1, cols, &case.x);
        let (mut forward, mut backward) = (vec![0.0; rows], vec![0.0; cols]);
        compute.matmul(case.matrix(), &x, &mut forward);
        compute.matmul_transposed(&[(case.matrix(), &g)], &mut backward, &TransposedScratch::new(2));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let size: f64 = case.weights.iter().map(|w| w.abs()).fold(0.0, f64::max)
            * g.iter().map(|g| f64::from(g.abs())).sum::<f64>()
            * case.x.iter().map(|x| f64::from(x.abs())).sum::<f64>();
        let (left, right) = (dot(&forward, &g), dot(&case.x, &backward));
        assert!((left - right).abs() <= size * 1e-7, "{ty}: {left} and {right}");
    }
}

#[test]
fn nothing_in_is_nothing_out() {
    let compute = compute((Tier::Reference, ActivationType::Int15), 1);
    let scratch = TransposedScratch::new(1);
    let mut out = [1.0; 4];
    compute.matmul_transposed(&[], &mut out, &scratch);
    assert_eq!(out, [0.0; 4]);
    let w = Matrix::new(GgmlType::F32, 0, 2, &[]).unwrap();
    let mut out = [1.0; 4];
    compute.matmul_transposed(&[(w, &[])], &mut out, &scratch);
    assert_eq!(out, [0.0; 4], "weights without rows give nothing");
}
