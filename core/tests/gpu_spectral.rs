//! Dense changes and changes applied on the GPU, against the sum in f64 and the CPU's transforms.

#![cfg(feature = "gpu")]

mod gpu_support;

use std::sync::Arc;

use gpu_support::{both, gpu};
use half::f16;
use timbre::adapter::{Delta, FourierDelta, LoraDelta, LoraScale, dense_on_gpu};
use timbre::gpu::{Forward, Gpu, GpuError, Inverse, Positions, Precision, Product, Reconstruct, Recorder};
use timbre::spectral::{Entries, Plan, Shape, Transforms, naive, reconstruct};

fn entries(d1: usize, d2: usize, n: usize) -> Entries {
    Entries::seeded(Shape::new(d1, d2).unwrap(), n, 7).unwrap()
}

fn positions(entries: &Entries) -> Positions<'_> {
    let shape = entries.shape();
    Positions { d1: shape.rows(), d2: shape.cols(), rows: entries.rows(), cols: entries.cols() }
}

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i + seed * 331) * 7919 % 2003) as f32 / 1000.0 - 1.0).collect()
}

/// The largest difference, relative to the largest number expected.
fn worst(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-30f64, |m, v| m.max(v.abs()));
    let worse = |m: f64, (a, b): (&f32, &f64)| {
        let error = (f64::from(*a) - b).abs();
        if error.is_nan() { f64::INFINITY } else { m.max(error) }
    };
    found.iter().zip(expected).fold(0.0, worse) / largest
}

/// Sides of every kind: tiny, odd, prime, not square, with factors 2, 3, 5, 7 and larger primes.
const SIDES: [(usize, usize); 14] = [
    (1, 1),
    (1, 6),
    (2, 5),
    (3, 4),
    (4, 1),
    (7, 9),
    (12, 30),
    (31, 16),
    (64, 48),
    (45, 77),
    (96, 140),
    (128, 62),
    (61, 127),
    (33, 242),
];

#[test]
fn dense_changes_are_the_naive_sum_for_sides_of_every_kind() {
    let Some(gpu) = gpu() else { return };
    for (d1, d2) in SIDES {
        for n in [1, d1 * d2 / 3, d1 * d2] {
            let entries = entries(d1, d2, n.max(1));
            let coefficients = numbers(entries.len(), 1);
            let expected = naive::delta(&entries, &coefficients, 300.0).unwrap();
            let plan = Reconstruct::new(&gpu, &positions(&entries)).unwrap();
            let mut out = vec![f32::NAN; d1 * d2];
            plan.read(&coefficients, 300.0, &mut out).unwrap();
            let error = worst(&out, &expected);
            assert!(error < 3e-6, "{d1}x{d2}, {n} entries: {error:e}");
        }
    }
}

/// Lengths of real models, and ones beyond workgroup memory: with divisors that fit, and with none.
#[test]
fn dense_changes_of_large_and_awkward_sides_are_the_cpus() {
    let Some(gpu) = gpu() else { return };
    let transforms = Transforms::new();
    for (d1, d2, n) in [
        (576, 576, 1000),
        (192, 1536, 1000),
        (640, 2048, 500),
        (130, 2560, 300),
        (64, 11008, 400),
        (33, 6561, 200),
        (20, 12289, 100),
        (12289, 20, 100),
        (70001, 3, 50),
    ] {
        let entries = entries(d1, d2, n);
        let coefficients = numbers(n, 2);
        let plan = Reconstruct::new(&gpu, &positions(&entries)).unwrap();
        let mut out = vec![f32::NAN; d1 * d2];
        plan.read(&coefficients, 150.0, &mut out).unwrap();
        let expected = reconstruct(&entries, &coefficients, 150.0, &transforms, 1).unwrap();
        let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
        let error = worst(&out, &expected);
        assert!(error < 1e-5, "{d1}x{d2}: {error:e}");
    }
}

#[test]
fn layers_are_made_at_once_in_either_precision() {
    let Some(gpu) = gpu() else { return };
    for (d1, d2) in [(48, 64), (31, 62), (9, 7), (6, 12289), (10, 8192)] {
        let entries = entries(d1, d2, 40.min(d1 * d2));
        let plan = Reconstruct::new(&gpu, &positions(&entries)).unwrap();
        let layers: Vec<Vec<f32>> = (0..3).map(|layer| numbers(entries.len(), layer)).collect();
        let scaled: Vec<(&[f32], f64)> = layers.iter().zip([10.0, 20.0, 30.0]).map(|(c, a)| (&c[..], a)).collect();
        let coefficients = plan.coefficients(&scaled).unwrap();
        let expected: Vec<Vec<f64>> =
            scaled.iter().map(|(c, alpha)| naive::delta(&entries, c, *alpha).unwrap()).collect();
        for precision in [Precision::F32, Precision::F16] {
            let bytes = plan.bytes(precision) as usize;
            assert!(plan.layers_at_once(precision) >= 3);
            let out = gpu.storage("changes", 3 * bytes as u64).unwrap();
            let mut recorder = Recorder::new(&gpu);
            plan.record(&mut recorder, &coefficients, 0, 3, precision, out.all()).unwrap();
            recorder.submit().unwrap();
            let mut raw = vec![0u8; 3 * bytes];
            gpu.read(&out, 0, &mut raw).unwrap();
            for (layer, (raw, expected)) in raw.chunks(bytes).zip(&expected).enumerate() {
                let values: Vec<f32> = match precision {
                    Precision::F32 => bytemuck::pod_collect_to_vec(raw),
                    Precision::F16 => {
                        let halves: Vec<f16> = bytemuck::pod_collect_to_vec(raw);
                        halves[..d1 * d2].iter().map(|h| h.to_f32()).collect()
                    }
                };
                let budget = if precision == Precision::F32 { 3e-6 } else { 6e-4 };
                let error = worst(&values, expected);
                assert!(error < budget, "{d1}x{d2}, layer {layer}, {precision:?}: {error:e}");
            }
        }
    }
}

#[test]
fn adapters_of_both_kinds_are_made_dense() {
    let Some(gpu) = gpu() else { return };
    let (d1, d2) = (70, 90);
    let plan = Arc::new(Plan::new(Arc::new(entries(d1, d2, 80))));
    let fourier = FourierDelta::new(plan, &numbers(80, 1), 300.0).unwrap();
    let (a, b, shape) = (numbers(5 * d2, 2), numbers(d1 * 5, 3), Shape::new(d1, d2).unwrap());
    let lora = LoraDelta::new(&a, &b, 5, shape, LoraScale::over_rank(3.0)).unwrap();
    let deltas: [&dyn Delta; 2] = [&fourier, &lora];
    for delta in deltas {
        let expected: Vec<f64> = delta.dense(&Transforms::new(), 1).into_iter().map(f64::from).collect();
        let error = worst(&dense_on_gpu(delta, &gpu).unwrap().unwrap(), &expected);
        assert!(error < 3e-6, "{delta:?}: {error:e}");
    }
}

/// A change of which one binding takes only some rows.
#[test]
fn a_change_larger_than_a_binding_comes_in_bands() {
    let Some(gpu) = gpu() else { return };
    let rows = (gpu.info().max_binding / (4 * 4096)) as usize + 3;
    if rows > 40_000 {
        eprintln!(
            "{}: a binding takes {} bytes, no change of this test exceeds it",
            gpu.info(),
            gpu.info().max_binding
        );
        return;
    }
    let entries = entries(rows, 4096, 3);
    let coefficients = [1.0, -0.5, 0.25];
    let plan = Reconstruct::new(&gpu, &positions(&entries)).unwrap();
    assert_eq!(plan.layers_at_once(Precision::F32), 0);
    let mut out = vec![f32::NAN; rows * 4096];
    plan.read(&coefficients, 1e6, &mut out).unwrap();
    let expected = reconstruct(&entries, &coefficients, 1e6, &Transforms::new(), 2).unwrap();
    let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let error = out.iter().zip(&expected).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(error < 1e-5 * largest, "{error} of {largest}");
}

/// `y + ΔW x` by the definition.
fn applied(entries: &Entries, coefficients: &[f32], alpha: f64, x: &[f32], order: &[u32], y: &mut [f64]) {
    let (d1, d2) = (entries.shape().rows(), entries.shape().cols());
    let delta = naive::delta(entries, coefficients, alpha).unwrap();
    for (x, y) in x.chunks(d2).zip(y.chunks_mut(d1)) {
        for (p, row) in delta.chunks(d2).enumerate() {
            y[order[p] as usize] += row.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum::<f64>();
        }
    }
}

fn reversed(d1: usize) -> Vec<u32> {
    (0..d1 as u32).rev().collect()
}

fn on_the_gpu(gpu: &Arc<Gpu>, lists: &[(&Entries, Vec<f32>, f64)], x: &[f32], y: &mut [f32]) {
    let (d1, d2) = (lists[0].0.shape().rows(), lists[0].0.shape().cols());
    let rows = x.len() / d2;
    let all: Vec<_> = lists.iter().map(|(entries, ..)| positions(entries)).collect();
    let (forward, inverse) = (Forward::new(gpu, d2).unwrap(), Inverse::new(gpu, &all).unwrap());
    let mut scaled = vec![0.0f32; 5];
    for (_, coefficients, alpha) in lists {
        scaled.extend(coefficients.iter().map(|c| (f64::from(*c) * inverse.scale(*alpha)) as f32));
    }
    assert_eq!(scaled.len() - 5, inverse.entries());
    let coefficients = gpu.upload("coefficients", &scaled).unwrap();
    let spectra = gpu.storage("spectra", forward.bytes() * rows as u64).unwrap();
    let order = gpu.upload("order", &reversed(d1)).unwrap();
    let (xs, ys) = (gpu.upload("x", x).unwrap(), gpu.upload("y", y).unwrap());
    let there = forward.bind(gpu, xs.all(), spectra.all()).unwrap();
    let back = inverse.bind(gpu, coefficients.all(), spectra.all(), order.all(), ys.all()).unwrap();
    let mut recorder = Recorder::new(gpu);
    forward.run(&mut recorder, &there, rows);
    inverse.run(&mut recorder, &back, 5, rows);
    recorder.submit().unwrap();
    gpu.read(&ys, 0, y).unwrap();
}

#[test]
fn changes_are_applied_without_being_formed() {
    let Some(gpu) = gpu() else { return };
    let large = [
        (576, 1536, 200),
        (1536, 576, 200),
        (30, 4098, 60),
        (4098, 30, 60),
        (2, 4099, 40),
        (4099, 2, 40),
        (10, 8192, 50),
        (8192, 10, 50),
        (9, 6561, 30),
    ];
    let small = SIDES.map(|(d1, d2)| (d1, d2, 50.min(d1 * d2)));
    for (d1, d2, n) in small.into_iter().chain(large) {
        // Two changes with other positions: they add up.
        let first = entries(d1, d2, n);
        let second = Entries::seeded(first.shape(), n.div_ceil(2), 99).unwrap();
        let lists = [(&first, numbers(n, 3), 300.0), (&second, numbers(second.len(), 4), -40.0)];
        let x = numbers(3 * d2, 5);
        let before = numbers(3 * d1, 6);
        // The base's output is not in the way of seeing the change's rounding.
        let before: Vec<f32> = before.iter().map(|v| v * 1e-3).collect();
        let mut y = before.clone();
        on_the_gpu(&gpu, &lists, &x, &mut y);
        let mut expected: Vec<f64> = before.iter().copied().map(f64::from).collect();
        for (entries, coefficients, alpha) in &lists {
            applied(entries, coefficients, *alpha, &x, &reversed(d1), &mut expected);
        }
        let error = worst(&y, &expected);
        assert!(error < 5e-6, "{d1}x{d2}: {error:e}");
    }
}

#[test]
fn a_rows_result_does_not_depend_on_its_neighbours() {
    let Some(gpu) = gpu() else { return };
    let entries = entries(192, 576, 300);
    let list = [(&entries, numbers(300, 3), 300.0)];
    let x = numbers(20 * 576, 5);
    let mut together = vec![0.0; 20 * 192];
    on_the_gpu(&gpu, &list, &x, &mut together);
    for row in [0, 7, 19] {
        let mut alone = vec![0.0; 192];
        on_the_gpu(&gpu, &list, &x[row * 576..][..576], &mut alone);
        assert_eq!(alone, together[row * 192..][..192], "row {row}");
    }
}

#[test]
fn dense_products_are_exact_to_rounding_in_every_shape() {
    for gpu in both() {
        for (d1, d2) in [(1, 1), (5, 3), (64, 64), (65, 130), (192, 576), (70, 8), (8, 70), (33, 77)] {
            for (rows, adds) in [(1, true), (3, false), (8, true), (9, true), (65, false), (130, true)] {
                for precision in [Precision::F32, Precision::F16] {
                    let w: Vec<f32> = numbers(d1 * d2, 1).iter().map(|v| f16::from_f32(*v).to_f32()).collect();
                    let (x, before) = (numbers(rows * d2, 2), numbers(rows * d1, 3));
                    let raw: Vec<u8> = match precision {
                        Precision::F32 => bytemuck::cast_slice(&w).to_vec(),
                        Precision::F16 => w.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
                    };
                    let order = reversed(d1);
                    let [w_, x_, order_, y_] = [
                        gpu.upload("w", &raw).unwrap(),
                        gpu.upload("x", &x).unwrap(),
                        gpu.upload("order", &order).unwrap(),
                        gpu.upload("y", &before).unwrap(),
                    ];
                    let product = Product::new(&gpu, d1, d2, precision, adds).unwrap();
                    let bound = product.bind(&gpu, w_.all(), x_.all(), order_.all(), y_.all()).unwrap();
                    let mut recorder = Recorder::new(&gpu);
                    product.run(&mut recorder, &bound, rows);
                    recorder.submit().unwrap();
                    let mut y = vec![0.0f32; rows * d1];
                    gpu.read(&y_, 0, &mut y).unwrap();
                    let mut expected: Vec<f64> =
                        before.iter().map(|v| if adds { f64::from(*v) } else { 0.0 }).collect();
                    for (x, y) in x.chunks(d2).zip(expected.chunks_mut(d1)) {
                        for (p, w) in w.chunks(d2).enumerate() {
                            let sum: f64 = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                            y[order[p] as usize] += sum;
                        }
                    }
                    let error = worst(&y, &expected);
                    assert!(error < 3e-6, "{d1}x{d2}, {rows} rows, {precision:?}, adds {adds}: {error:e}");
                }
            }
        }
    }
}

#[test]
fn a_lost_device_is_an_error_of_everything_that_uses_it() {
    let Some(gpu) = gpu() else { return };
    let entries = entries(12, 30, 20);
    let positions = positions(&entries);
    let coefficients = numbers(20, 1);
    let plan = Reconstruct::new(&gpu, &positions).unwrap();
    let (forward, inverse) = (Forward::new(&gpu, 30).unwrap(), Inverse::new(&gpu, &[positions]).unwrap());
    let product = Product::new(&gpu, 12, 30, Precision::F16, true).unwrap();
    let buffer = gpu.storage("all", 4096).unwrap();
    let spectra = gpu.storage("spectra", 4096).unwrap();
    let bound = forward.bind(&gpu, buffer.all(), spectra.all()).unwrap();
    let mut recorder = Recorder::new(&gpu);
    forward.run(&mut recorder, &bound, 1);
    gpu.destroy();
    let lost = |result: Result<(), GpuError>| assert!(matches!(result, Err(GpuError::DeviceLost { .. })), "{result:?}");
    lost(recorder.submit());
    lost(plan.read(&coefficients, 1.0, &mut vec![0.0; 360]));
    lost(plan.coefficients(&[(&coefficients, 1.0)]).map(|_| ()));
    lost(plan.record(&mut Recorder::new(&gpu), &buffer, 0, 1, Precision::F32, buffer.all()));
    lost(Reconstruct::new(&gpu, &positions).map(|_| ()));
    lost(Forward::new(&gpu, 31).map(|_| ()));
    lost(Inverse::new(&gpu, &[positions]).map(|_| ()));
    lost(inverse.bind(&gpu, buffer.all(), spectra.all(), buffer.all(), buffer.all()).map(|_| ()));
    lost(product.bind(&gpu, buffer.all(), buffer.all(), buffer.all(), spectra.all()).map(|_| ()));
    lost(Product::new(&gpu, 13, 30, Precision::F16, true).map(|_| ()));
    lost(gpu.measure_paths(&[positions], 1).map(|_| ()));
}
