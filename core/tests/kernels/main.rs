//! The matrix products of every tier this CPU runs, for every storage format, against sums in f64.

mod blocks;
mod transposed;

use std::sync::atomic::{AtomicUsize, Ordering};

use blocks::Rng;
use timbre::gguf::GgmlType;
use timbre::kernels::runs::Held;
use timbre::kernels::{
    ActivationType, Activations, Beside, Compute, KernelChoice, Matrix, Next, Tier, cpu_features, dequantize,
    detected_tiers,
};

/// Rounding to ±127 · 128 steps of a block's largest magnitude is off by at most half a step.
const HALF_STEP: f64 = 0.5 / (127.0 * 128.0);
/// Leaving the lower 7 bits of those out, by half of what they hold more.
const HALF_COARSE_STEP: f64 = 0.5 / 127.0 + HALF_STEP;
/// Activations that share a step.
const BLOCK: usize = 32;
/// Rounding of f32 sums, relative to the sum of the largest weight's magnitude times each activation's.
const F32_ROUNDING: f64 = 2e-6;

const BATCHES: [usize; 5] = [1, 2, 3, 5, 17];

/// An emulated CPU is only a test of the run-time choice if that sees what is emulated: `TIMBRE_TEST_CPU` names features that must be
/// found (`dotprod`) or must not (`-dotprod`), separated by commas.
#[test]
fn the_cpu_is_the_one_asked_for() {
    let features = cpu_features();
    println!("features {features:?}, tiers {:?}", detected_tiers());
    for asked in std::env::var("TIMBRE_TEST_CPU").unwrap_or_default().split(',').filter(|asked| !asked.is_empty()) {
        let (name, wanted) = asked.strip_prefix('-').map_or((asked, true), |name| (name, false));
        assert_eq!(features.contains(&name), wanted, "{asked} was asked for, {features:?} was found");
    }
}

struct Case {
    ty: GgmlType,
    rows: usize,
    cols: usize,
    data: Vec<u8>,
    weights: Vec<f64>,
    x: Vec<f32>,
    batch: usize,
}

impl Case {
    fn new(ty: GgmlType, rows: usize, cols: usize, batch: usize, seed: u64) -> Self {
        let mut rng = Rng(seed);
        let data = blocks::random(ty, rows * cols, &mut rng);
        let mut weights = vec![0.0; rows * cols];
        dequantize(ty, &data, &mut weights).unwrap();
        // Rows of very different sizes, so that one row's scale cannot stand in for another's.
        let x = (0..batch * cols).map(|i| rng.unit() * 10f32.powi((i / cols % 4) as i32 - 2)).collect();
        Self { ty, rows, cols, data, weights: weights.into_iter().map(f64::from).collect(), x, batch }
    }

    fn matrix(&self) -> Matrix<'_> {
        Matrix::new(self.ty, self.rows, self.cols, &self.data).unwrap()
    }

    fn run(&self, compute: &Compute) -> Vec<f32> {
        let mut x = Activations::with_capacity(compute, self.batch, self.cols);
        x.load(compute, self.batch, self.cols, &self.x);
        let mut out = vec![f32::NAN; self.batch * self.rows];
        compute.matmul(self.matrix(), &x, &mut out);
        out
    }

    /// For each output: the exact value, the bound of rounding activations so, and the bound of f32 rounding.
    fn expected(&self, activations: ActivationType) -> impl Iterator<Item = (f64, f64, f64)> + '_ {
        let half_step = match activations {
            ActivationType::Int15 => HALF_STEP,
            ActivationType::Int8 => HALF_COARSE_STEP,
        };
        (0..self.batch * self.rows).map(move |at| {
            let (t, r) = (at / self.rows, at % self.rows);
            let w = &self.weights[r * self.cols..][..self.cols];
            let x = &self.x[t * self.cols..][..self.cols];
            let exact = w.iter().zip(x).map(|(w, &x)| w * f64::from(x)).sum();
            let rounding = w.chunks(BLOCK).zip(x.chunks(BLOCK)).map(|(w, x)| {
                let step = x.iter().fold(0.0, |m, x| f64::from(x.abs()).max(m));
                w.iter().map(|w| w.abs()).sum::<f64>() * step * half_step
            });
            let largest = w.iter().fold(0.0, |m, w| w.abs().max(m));
            let size = x.iter().map(|x| f64::from(x.abs())).sum::<f64>();
            (exact, rounding.sum(), largest * size * F32_ROUNDING)
        })
    }
}

/// Shapes of whole blocks that exercise partial panels, partial steps, rows shorter than a step, and rows that end after every number of
/// blocks of a step.
fn shapes(ty: GgmlType) -> Vec<(usize, usize)> {
    match ty.block_len() {
        1 => vec![(1, 1), (5, 7), (17, 63), (3, 576)],
        32 => {
            vec![(1, 32), (7, 64), (3, 96), (33, 224), (5, 256), (19, 288), (17, 576), (41, 352), (35, 640), (3, 1536)]
        }
        _ => vec![(1, 256), (7, 512), (33, 768)],
    }
}

/// Every tier with every way it rounds activations.
fn choices() -> impl Iterator<Item = (Tier, ActivationType)> {
    let both = |tier| ActivationType::ALL.map(|activations| (tier, activations));
    detected_tiers().into_iter().flat_map(both).filter(|&choice| choice != (Tier::Reference, ActivationType::Int8))
}

fn compute((tier, activations): (Tier, ActivationType), threads: usize) -> Compute {
    Compute::with_activations(KernelChoice::Only(tier), threads, activations).unwrap()
}

fn cases(batches: &[usize]) -> impl Iterator<Item = Case> {
    GgmlType::ALL.into_iter().flat_map(move |ty| {
        shapes(ty).into_iter().flat_map(move |(rows, cols)| {
            let seed = (ty as u64) << 32 | (rows * cols) as u64;
            batches.iter().map(move |&batch| Case::new(ty, rows, cols, batch, seed)).collect::<Vec<_>>()
        })
    })
}

#[test]
fn products_with_one_row_do_not_depend_on_the_number_of_threads() {
    for ty in [GgmlType::Q4_1, GgmlType::Q8_0, GgmlType::Q6K] {
        for (rows, cols) in [(1001, 576), (402, 640), (77, 352), (1001, 512)] {
            if cols % ty.block_len() > 0 {
                continue;
            }
            let case = Case::new(ty, rows, cols, 1, 9);
            for choice in choices() {
                let expected = case.run(&compute(choice, 1));
                for threads in [2, 3, 5] {
                    assert_eq!(
                        case.run(&compute(choice, threads)),
                        expected,
                        "{ty} {rows}x{cols}, {choice:?}, {threads} threads"
                    );
                }
            }
        }
    }
}

#[test]
fn dequantize_is_the_formats_definition() {
    let mut rng = Rng(1);
    for ty in GgmlType::ALL {
        let data = blocks::random(ty, 4 * 256, &mut rng);
        let mut out = vec![f32::NAN; 4 * 256];
        dequantize(ty, &data, &mut out).unwrap();
        for (i, &value) in out.iter().enumerate() {
            let block = &data[i / ty.block_len() * ty.block_bytes()..][..ty.block_bytes()];
            let expected = blocks::element(ty, block, i % ty.block_len());
            // A few f32 roundings of a difference of numbers below 0.1 · 63 · 63.
            let close = (f64::from(value) - expected).abs() <= 1e-6 * expected.abs().max(4.0);
            assert!(close, "{ty} element {i}: {value} instead of {expected}");
        }
    }
}

#[test]
fn every_tier_multiplies_every_format() {
    for choice @ (tier, activations) in choices() {
        let compute = compute(choice, 2);
        for case in cases(&BATCHES) {
            let quantised = tier != Tier::Reference && case.ty.block_len() > 1;
            for (i, (&out, (exact, rounding, noise))) in
                case.run(&compute).iter().zip(case.expected(activations)).enumerate()
            {
                let bound = noise + if quantised { rounding } else { 0.0 };
                assert!(
                    (f64::from(out) - exact).abs() <= bound,
                    "{tier} {activations} {} {}x{} batch {} output {i}: {out} instead of {exact} ± {bound}",
                    case.ty,
                    case.rows,
                    case.cols,
                    case.batch
                );
            }
        }
    }
}

#[test]
fn extreme_lanes_do_not_overflow() {
    // Every lane at either end of its range against activations at ±127: the largest intermediate sums there are.
    for choice @ (tier, activations) in choices() {
        let compute = compute(choice, 1);
        for ty in GgmlType::ALL.into_iter().filter(|ty| ty.block_len() > 1) {
            for (byte, sign) in [(0xff, 1.0), (0xff, -1.0), (0x80, 1.0), (0x80, -1.0), (0x7f, 1.0), (0x00, -1.0)] {
                let mut case = Case::new(ty, 3, 512, 9, 1);
                blocks::fill(ty, &mut case.data, byte);
                case.x.fill(sign);
                let mut weights = vec![0.0; 3 * 512];
                dequantize(ty, &case.data, &mut weights).unwrap();
                case.weights = weights.into_iter().map(f64::from).collect();
                // Constant activations are quantised exactly.
                for (out, (exact, _, noise)) in case.run(&compute).into_iter().zip(case.expected(activations)) {
                    let error = (f64::from(out) - exact).abs();
                    assert!(error <= noise, "{tier} {activations} {ty} {byte:#x} {sign}: {out} instead of {exact}");
                }
            }
        }
    }
}

#[test]
fn integer_tiers_differ_in_summation_order_only() {
    for choice @ (tier, activations) in choices() {
        if matches!(tier, Tier::Reference | Tier::Scalar) {
            continue;
        }
        let (compute, scalar) = (compute(choice, 1), compute((Tier::Scalar, activations), 1));
        for case in cases(&[1, 5]) {
            let ours = case.run(&compute);
            let scalar = case.run(&scalar);
            for ((ours, scalar), (_, _, noise)) in ours.iter().zip(scalar).zip(case.expected(activations)) {
                assert!(
                    f64::from((ours - scalar).abs()) <= noise,
                    "{tier} {activations} {} {}x{}: {ours} and {scalar}, ± {noise}",
                    case.ty,
                    case.rows,
                    case.cols
                );
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch_or_on_threads() {
    for choice @ (tier, activations) in choices() {
        let (one, three) = (compute(choice, 1), compute(choice, 3));
        for case in cases(&[17]) {
            let batch = case.run(&one);
            assert_eq!(batch, case.run(&three), "{tier} {activations} {}", case.ty);
            let rows = |first: usize, count: usize| Case {
                batch: count,
                x: case.x[first * case.cols..(first + count) * case.cols].to_vec(),
                weights: case.weights.clone(),
                data: case.data.clone(),
                ..case
            };
            for (first, count) in [(3, 2), (9, 7), (0, 8), (16, 1)] {
                let part = rows(first, count);
                let expected = &batch[first * case.rows..(first + count) * case.rows];
                if count > 1 {
                    assert_eq!(part.run(&one), expected, "{tier} {activations} {} rows {first}..+{count}", case.ty);
                }
                // One row alone may be summed in another order.
                for ((alone, expected), (_, _, noise)) in
                    part.run(&three).iter().zip(expected).zip(part.expected(activations))
                {
                    assert!(
                        f64::from((alone - expected).abs()) <= noise,
                        "{tier} {activations} {}: {alone} {expected}",
                        case.ty
                    );
                }
            }
        }
    }
}

#[test]
fn a_group_is_its_products() {
    for choice @ (tier, activations) in choices() {
        let compute = compute(choice, 2);
        for (batch, bytes) in [(3, 0), (1, 0), (1, 100_000)] {
            // More products than one dispatch takes, of different formats and heights.
            let cases: Vec<Case> =
                (0..11).map(|i| Case::new(GgmlType::ALL[i], 5 + 40 * i, 256, batch, i as u64)).collect();
            let x = &cases[0].x;
            let mut loaded = Activations::with_capacity(&compute, 0, 0);
            loaded.load(&compute, batch, 256, x);
            let mut outs: Vec<Vec<f32>> = cases.iter().map(|c| vec![f32::NAN; batch * c.rows]).collect();
            let mut jobs: Vec<_> =
                cases.iter().zip(&mut outs).map(|(case, out)| (case.matrix(), out.as_mut_slice())).collect();
            // And other work beside them, each piece once.
            let pieces: [AtomicUsize; 5] = Default::default();
            let beside = Beside { tasks: pieces.len(), bytes };
            // What comes next changes nothing.
            let next = [cases[3].matrix(), cases[7].matrix()];
            let next = Next { products: &next, ..Next::default() };
            compute.matmul_group_beside(&mut jobs, &loaded, beside, next, &|worker, i| {
                assert!(worker < 2);
                pieces[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(pieces.iter().all(|done| done.load(Ordering::Relaxed) == 1));
            for (case, out) in cases.iter().zip(outs) {
                let mut alone = vec![f32::NAN; out.len()];
                compute.matmul(case.matrix(), &loaded, &mut alone);
                assert_eq!(out, alone, "{tier} {activations} {}", case.ty);
            }
        }
    }
}

#[test]
fn products_are_added_to_sums_and_overwrite_the_rest() {
    for choice @ (tier, activations) in choices() {
        let compute = compute(choice, 2);
        // One that is cut into chunks of columns too.
        for case in cases(&[2, 17]).chain([Case::new(GgmlType::Q4_1, 33, 2304, 7, 9)]) {
            let mut x = Activations::with_capacity(&compute, 0, 0);
            x.load(&compute, case.batch, case.cols, &case.x);
            let alone = case.run(&compute);
            let before = |i: usize| (i % 7) as f32 - 3.0;
            let mut sum: Vec<f32> = (0..alone.len()).map(before).collect();
            let mut written = vec![f32::NAN; alone.len()];
            let mut jobs = [(case.matrix(), &mut sum[..]), (case.matrix(), &mut written)];
            compute.matmul_group_onto(&mut jobs, &[Held::Sum, Held::Nothing], &x);
            assert_eq!(written, alone, "{tier} {activations} {}", case.ty);
            let bounds = case.expected(activations).map(|(.., rounding)| rounding);
            for (i, ((sum, alone), bound)) in sum.iter().zip(&alone).zip(bounds).enumerate() {
                let error = (f64::from(*sum) - f64::from(before(i)) - f64::from(*alone)).abs();
                assert!(error <= bound + 1e-5, "{tier} {activations} {} {i}: {error:e}", case.ty);
            }
        }
    }
}

#[test]
fn rows_are_taken_in_block_by_block() {
    const COLS: usize = 288;
    let compute = Compute::new(KernelChoice::Auto, 2).unwrap();
    for (rows, block) in [(1, 16), (16, 16), (17, 16), (40, 16), (5, 2)] {
        let case = Case::new(GgmlType::Q8_0, 20, COLS, rows, 3);
        let (mut x, mut numbers, mut firsts) = (vec![f32::NAN; rows * COLS], vec![0.0; rows], vec![f32::NAN; rows * 2]);
        let calls = AtomicUsize::new(0);
        let fill = |t: usize, [x, number]: [&mut [f32]; 2]| {
            x.copy_from_slice(&case.x[t * COLS..][..COLS]);
            number[0] += t as f32;
        };
        let then = |worker: usize, x: &[f32], [out]: [&mut [f32]; 1]| {
            assert!(worker < 2 && x.len() <= block * COLS);
            calls.fetch_add(1, Ordering::Relaxed);
            x.chunks(COLS).zip(out.chunks_mut(2)).for_each(|(x, out)| out.copy_from_slice(&x[..2]));
        };
        let mut loaded = Activations::with_capacity(&compute, 0, 0);
        let buffers = [&mut x[..], &mut numbers];
        loaded.load_blocks(&compute, &[case.ty], (rows, block), buffers, fill, [&mut firsts], then);
        assert_eq!(calls.into_inner(), rows.div_ceil(block), "{rows} rows by {block}");
        assert!(numbers.iter().enumerate().all(|(t, number)| *number == t as f32), "each row once: {numbers:?}");
        assert_eq!(x, case.x);
        assert!(x.chunks(COLS).zip(firsts.chunks(2)).all(|(x, firsts)| x[..2] == *firsts));
        let mut out = vec![f32::NAN; rows * 20];
        compute.matmul(case.matrix(), &loaded, &mut out);
        assert_eq!(out, case.run(&compute));
    }
}

#[test]
fn scratch_serves_one_shape_after_another() {
    for choice @ (tier, activations) in choices() {
        let compute = compute(choice, 1);
        let wide = Case::new(GgmlType::Q4_1, 4, 576, 5, 1);
        let narrow = Case::new(GgmlType::Q8_0, 4, 96, 2, 2);
        let mut x = Activations::with_capacity(&compute, 1, 32);
        for case in [&wide, &narrow, &wide] {
            x.load_for(&compute, &[case.ty], case.batch, case.cols, &case.x);
            assert_eq!((x.rows(), x.cols()), (case.batch, case.cols));
            let mut out = vec![f32::NAN; case.batch * case.rows];
            compute.matmul(case.matrix(), &x, &mut out);
            assert_eq!(out, case.run(&compute), "{tier} {activations}");
        }
    }
}

#[test]
fn empty_products_are_empty() {
    let compute = compute((Tier::Scalar, ActivationType::Int15), 2);
    let mut x = Activations::with_capacity(&compute, 1, 32);
    x.load(&compute, 0, 32, &[]);
    let data = [0u8; 18];
    compute.matmul(Matrix::new(GgmlType::Q4_0, 1, 32, &data).unwrap(), &x, &mut []);
    x.load(&compute, 2, 0, &[]);
    let mut out = [f32::NAN; 6];
    compute.matmul(Matrix::new(GgmlType::Q4_0, 3, 0, &[]).unwrap(), &x, &mut out);
    assert_eq!(out, [0.0; 6]);
}

#[test]
fn activations_that_are_not_finite_are_not_hidden() {
    for choice @ (tier, activations) in choices() {
        let compute = compute(choice, 1);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut case = Case::new(GgmlType::Q4_0, 9, 288, 2, 3);
            case.x[288 + 70] = bad;
            let out = case.run(&compute);
            assert!(out[..9].iter().all(|v| v.is_finite()), "{tier} {activations}");
            assert!(out[9..].iter().all(|v| !v.is_finite()), "{tier} {activations} {bad}: {out:?}");
        }
        let mut tiny = Case::new(GgmlType::Q4_0, 9, 288, 1, 3);
        tiny.x.fill(1e-44);
        assert!(tiny.run(&compute).iter().all(|v| v.abs() < 1e-30), "{tier} {activations}");
    }
}

#[test]
#[should_panic(expected = "columns of weights and activations")]
fn mismatched_operands_are_refused() {
    let compute = compute((Tier::Scalar, ActivationType::Int15), 1);
    let mut x = Activations::with_capacity(&compute, 1, 64);
    x.load(&compute, 1, 64, &[0.0; 64]);
    let data = [0u8; 18];
    compute.matmul(Matrix::new(GgmlType::Q4_0, 1, 32, &data).unwrap(), &x, &mut [0.0]);
}
