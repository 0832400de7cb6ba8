//! The trials of this room's kernels: small cases of every path through them, against sums in f64.

use std::f64::consts::TAU;
use std::sync::Arc;

use half::f16;

use super::products::PRODUCTS as PRODUCTS_SHADER;
use super::spectral::{APPLY as APPLY_SHADER, FORWARD, PACK, RECONSTRUCT as RECONSTRUCT_SHADER};
use super::{Forward, Gpu, GpuError, Inverse, Positions, Precision, Product, Reconstruct, Recorder, Trial};

/// Dense changes from sparse spectra.
pub const RECONSTRUCT: Trial =
    Trial { name: "reconstruct", shaders: &[RECONSTRUCT_SHADER, PACK], run: try_reconstruct };

/// Changes applied in the spectral domain.
pub const APPLY: Trial = Trial { name: "apply", shaders: &[FORWARD, APPLY_SHADER], run: try_apply };

/// Products with dense changes and with factors of low rank.
pub const PRODUCTS: Trial = Trial { name: "products", shaders: &[PRODUCTS_SHADER], run: try_products };

/// Every trial there is.
pub fn all() -> impl Iterator<Item = &'static Trial> {
    [&RECONSTRUCT, &APPLY, &PRODUCTS].into_iter()
}

/// Relative to the largest number expected: some roundings of f32, and one of f16.
const F32: f64 = 2e-5;
const F16: f64 = 2e-3;

/// Sides that take each way: halves, an odd side, a factor without a butterfly, more than two parts, and the sum itself.
const SIDES: [(usize, usize); 6] = [(10, 48), (9, 35), (14, 44), (4, 16384), (3, 6561 * 5), (2, 12289)];

/// The same ways, each as an input's and as an output's. Every kernel that a driver has to compile takes its time.
const LONG_AND_SHORT: [(usize, usize); 3] = [(16384, 4), (6561 * 5, 3), (12289, 14)];

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i + seed) * 7919 % 2003) as f32 / 1000.0 - 1.0).collect()
}

/// Entries spread over `d1 × d2`; two may share a place, which adds up.
fn entries(d1: usize, d2: usize) -> (Vec<u32>, Vec<u32>) {
    let spread = |l: usize, side: usize| (l * 7919 % side) as u32;
    (0..12).map(|l| (spread(l + 3, d1), spread(l * l + 5, d2))).unzip()
}

/// `ΔW` by its definition, with α = d1·d2.
fn dense(rows: &[u32], cols: &[u32], coefficients: &[f32], (d1, d2): (usize, usize)) -> Vec<f64> {
    let element = |(p, q): (usize, usize)| {
        let terms = rows.iter().zip(cols).zip(coefficients).map(|((&j, &k), &c)| {
            // Reduced before they are divided: the angles stay small.
            let turns = (p * j as usize % d1) as f64 / d1 as f64 + (q * k as usize % d2) as f64 / d2 as f64;
            f64::from(c) * (TAU * turns).cos()
        });
        terms.sum()
    };
    (0..d1 * d2).map(|i| element((i / d2, i % d2))).collect()
}

/// What is wrong, if anything is.
fn compare(what: &str, found: &[f32], expected: &[f64], budget: f64) -> Option<String> {
    let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let wrong = |(found, expected): (&f32, &f64)| {
        // A number that is none is wrong too.
        let within = (f64::from(*found) - expected).abs() <= budget * largest;
        !within
    };
    let at = found.iter().zip(expected).position(wrong)?;
    Some(format!("{what}: number {at} is {}, expected {}", found[at], expected[at]))
}

fn try_reconstruct(gpu: &Arc<Gpu>) -> Result<Option<String>, GpuError> {
    for (d1, d2) in SIDES {
        let (rows, cols) = entries(d1, d2);
        let plan = Reconstruct::untried(gpu, &[Positions { d1, d2, rows: &rows, cols: &cols }])?;
        let coefficients = numbers(rows.len(), 1);
        let alpha = (d1 * d2) as f64;
        let expected = dense(&rows, &cols, &coefficients, (d1, d2));
        let on_device = plan.coefficients(&[(&coefficients, alpha)])?;
        for (precision, budget) in [(Precision::F32, F32), (Precision::F16, F16)] {
            let out = gpu.scratch(plan.bytes(precision))?;
            let mut recorder = Recorder::new(gpu);
            plan.record(&mut recorder, &on_device, 0, 1, precision, out.all())?;
            recorder.submit()?;
            let found = match precision {
                Precision::F32 => {
                    let mut found = vec![0.0; d1 * d2];
                    gpu.read(&out, 0, &mut found)?;
                    found
                }
                Precision::F16 => {
                    let mut found = vec![f16::ZERO; d1 * d2];
                    gpu.read(&out, 0, &mut found)?;
                    found.into_iter().map(f16::to_f32).collect()
                }
            };
            let wrong = compare(&format!("{d1}x{d2} in {precision:?}"), &found, &expected, budget);
            if wrong.is_some() {
                return Ok(wrong);
            }
        }
    }
    Ok(None)
}

fn try_apply(gpu: &Arc<Gpu>) -> Result<Option<String>, GpuError> {
    for (a, b) in LONG_AND_SHORT {
        for (d1, d2) in [(a, b), (b, a)] {
            let (rows, cols) = entries(d1, d2);
            let (forward, inverse) =
                (Forward::untried(gpu, d2)?, Inverse::untried(gpu, &[Positions { d1, d2, rows: &rows, cols: &cols }])?);
            let coefficients = numbers(rows.len(), 2);
            let scale = inverse.scale((d1 * d2) as f64);
            let scaled: Vec<f32> = coefficients.iter().map(|c| (f64::from(*c) * scale) as f32).collect();
            let (x, before) = (numbers(2 * d2, 3), numbers(2 * d1, 4));
            let order: Vec<u32> = (0..d1 as u32).rev().collect();
            let [x_, y_, order_] = [gpu.upload("x", &x)?, gpu.upload("y", &before)?, gpu.upload("order", &order)?];
            let coefficients_ = gpu.upload("coefficients", &scaled)?;
            let spectra = gpu.scratch(2 * forward.bytes())?;
            let mut recorder = Recorder::new(gpu);
            forward.run(&mut recorder, &forward.bind(gpu, x_.all(), spectra.all())?, 2);
            let back = inverse.bind(gpu, coefficients_.all(), spectra.all(), order_.all(), y_.all())?;
            inverse.run(&mut recorder, &back, 0, 2);
            let readback = recorder.read(&y_, 0, size_of_val(&before[..]))?;
            recorder.submit()?;
            let mut found = vec![0.0; before.len()];
            readback.wait(&mut found)?;
            let mut expected: Vec<f64> = before.iter().copied().map(f64::from).collect();
            for (p, delta) in dense(&rows, &cols, &coefficients, (d1, d2)).chunks(d2).enumerate() {
                for (x, y) in x.chunks(d2).zip(expected.chunks_mut(d1)) {
                    y[d1 - 1 - p] += delta.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum::<f64>();
                }
            }
            let wrong = compare(&format!("{d1}x{d2}"), &found, &expected, F32);
            if wrong.is_some() {
                return Ok(wrong);
            }
        }
    }
    Ok(None)
}

fn try_products(gpu: &Arc<Gpu>) -> Result<Option<String>, GpuError> {
    for (d1, d2, rows) in [(70, 130, 2), (70, 9, 2), (70, 130, 67)] {
        let w: Vec<f16> = numbers(d1 * d2, 1).into_iter().map(f16::from_f32).collect();
        let wide: Vec<f32> = w.iter().map(|v| v.to_f32()).collect();
        let (x, before) = (numbers(rows * d2, 2), numbers(rows * d1, 3));
        let order: Vec<u32> = (0..d1 as u32).rev().collect();
        let product = |p: usize, r: usize| -> f64 {
            (0..d2).map(|q| f64::from(wide[p * d2 + q]) * f64::from(x[r * d2 + q])).sum()
        };
        for (precision, adds) in [(Precision::F32, true), (Precision::F16, false)] {
            let w_ = match precision {
                Precision::F32 => gpu.upload("w", &wide)?,
                Precision::F16 => gpu.upload("w", &w)?,
            };
            let [x_, y_, order_] = [gpu.upload("x", &x)?, gpu.upload("y", &before)?, gpu.upload("order", &order)?];
            let kernel = Product::untried(gpu, d1, d2, precision, adds)?;
            let bound = kernel.bind(gpu, w_.all(), x_.all(), order_.all(), y_.all())?;
            let mut recorder = Recorder::new(gpu);
            kernel.run(&mut recorder, &bound, rows);
            recorder.submit()?;
            let mut found = vec![0.0; before.len()];
            gpu.read(&y_, 0, &mut found)?;
            let expected: Vec<f64> = (0..rows * d1)
                .map(|i| f64::from(if adds { before[i] } else { 0.0 }) + product(d1 - 1 - i % d1, i / d1))
                .collect();
            let wrong = compare(&format!("{d1}x{d2}, {rows} rows, {precision:?}"), &found, &expected, F32);
            if wrong.is_some() {
                return Ok(wrong);
            }
        }
    }
    Ok(None)
}
