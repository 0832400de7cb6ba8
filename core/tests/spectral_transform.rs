//! The spectral path and the dense reconstruction against the naive sum in f64, and against PEFT's numbers.

mod spectral_support;

use proptest::prelude::*;
use spectral_support::{Spectral, fixture, read_npz, relative_error};
use timbre::spectral::{Entries, Shape, SpectralError, Transforms, naive, reconstruct};

const BUDGET: f64 = 1e-5;

fn entries(rows: usize, cols: usize, at: &[(u32, u32)]) -> Entries {
    let (j, k) = at.iter().copied().unzip();
    Entries::explicit(Shape::new(rows, cols).unwrap(), j, k).unwrap()
}

#[test]
fn the_oracle_by_hand() {
    let close = |found: Vec<f64>, expected: &[f64]| {
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{found:?} {expected:?}");
    };
    // The zero frequency is a constant: α·c/(d1·d2).
    close(naive::delta(&entries(2, 3, &[(0, 0)]), &[3.0], 4.0).unwrap(), &[2.0; 6]);
    // Row frequency 1 of 2 alternates down, column frequency 1 of 4 is a cosine across.
    close(naive::delta(&entries(2, 1, &[(1, 0)]), &[1.0], 2.0).unwrap(), &[1.0, -1.0]);
    close(naive::delta(&entries(1, 4, &[(0, 1)]), &[1.0], 4.0).unwrap(), &[1.0, 0.0, -1.0, 0.0]);
    // Both at once: cos(2π(p/4 + q/4)).
    let turn = naive::delta(&entries(4, 4, &[(1, 1)]), &[1.0], 16.0).unwrap();
    close(turn, &[1., 0., -1., 0., 0., -1., 0., 1., -1., 0., 1., 0., 0., 1., 0., -1.]);
    assert!(matches!(
        naive::delta(&entries(2, 3, &[(0, 0)]), &[], 1.0),
        Err(SpectralError::Length { expected: 1, found: 0, .. })
    ));
}

#[test]
fn everything_agrees_with_peft() {
    let list: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(fixture("delta.json")).unwrap()).unwrap();
    let transforms = Transforms::new();
    assert!(!list.is_empty());
    for case in list {
        let number = |key: &str| case[key].as_u64().unwrap() as usize;
        let file = case["file"].as_str().unwrap();
        let arrays = read_npz(fixture("delta").join(file));
        let (d1, d2, alpha) = (number("out"), number("in"), case["scaling"].as_f64().unwrap());
        let positions = Entries::seeded(Shape::new(d1, d2).unwrap(), number("n"), number("seed") as u64).unwrap();
        let c = arrays["spectrum"].f32();

        let dense = reconstruct(&positions, &c, alpha, &transforms, 2).unwrap();
        let step = arrays["delta_row_step"].values[0] as usize;
        let rows: Vec<f32> = dense.chunks(d2).step_by(step).flatten().copied().collect();
        let error = relative_error(&rows, &arrays["delta"].f32());
        assert!(error < BUDGET, "{file}: dense {error:e}");
        let norm = dense.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let expected = case["frobenius"].as_f64().unwrap();
        assert!((norm / expected - 1.0).abs() < BUDGET, "{file}: norm {norm} {expected}");
        if d1 * d2 < 200_000 {
            let error = relative_error(&dense, &naive::delta(&positions, &c, alpha).unwrap());
            assert!(error < BUDGET, "{file}: naive {error:e}");
        }

        let module = Spectral::new(positions, &c, alpha);
        let (xs, gs) = (arrays["x"].rows(), arrays["g"].rows());
        let h: Vec<f32> = xs.iter().flat_map(|x| module.apply(x)).collect();
        let error = relative_error(&h, &arrays["h"].f32());
        assert!(error < BUDGET, "{file}: h {error:e}");
        let grad_x: Vec<f32> = gs.iter().flat_map(|g| module.adjoint(g)).collect();
        let error = relative_error(&grad_x, &arrays["grad_x"].f32());
        assert!(error < BUDGET, "{file}: gradient of x {error:e}");
        let error = relative_error(&module.gradient(&xs, &gs), &arrays["grad_spectrum"].f32());
        assert!(error < BUDGET, "{file}: gradient of the spectrum {error:e}");
    }
}

#[test]
fn wide_bins_work_too() {
    // Past 65 535 features a bin's index takes four bytes.
    let d1 = 131_074;
    let at = entries(d1, 3, &[(65_537, 1), (65_536, 2), (131_073, 0), (1, 1), (0, 0)]);
    let c = [0.5, -1.0, 2.0, 0.25, 1.5];
    let dense = naive::delta(&at, &c, 1e5).unwrap();
    let x = [0.3, -0.7, 1.1];
    let expected: Vec<f64> =
        dense.chunks(3).map(|row| row.iter().zip(x).map(|(w, x)| w * f64::from(x)).sum()).collect();
    let module = Spectral::new(at, &c, 1e5);
    assert!(relative_error(&module.apply(&x), &expected) < BUDGET);
    let g: Vec<f32> = (0..d1).map(|i| ((i * 7919) % 1000) as f32 / 1000.0 - 0.5).collect();
    let back: Vec<f64> = (0..3).map(|q| dense.chunks(3).zip(&g).map(|(row, &g)| row[q] * f64::from(g)).sum()).collect();
    assert!(relative_error(&module.adjoint(&g), &back) < 1e-4);
}

#[test]
fn lengths_are_checked() {
    let at = entries(4, 6, &[(1, 2), (3, 4)]);
    let transforms = Transforms::new();
    let short = reconstruct(&at, &[1.0], 1.0, &transforms, 1);
    assert!(matches!(short, Err(SpectralError::Length { expected: 2, found: 1, .. })));
    let small = timbre::spectral::reconstruct_into(&at, &[1.0, 2.0], 1.0, &transforms, 1, &mut [0.0; 23]);
    assert!(matches!(small, Err(SpectralError::Length { expected: 24, found: 23, .. })));
    let plan = timbre::spectral::Plan::new(std::sync::Arc::new(at));
    assert!(plan.to_stored(&[1.0]).is_err());
    assert!(plan.to_entry_order(&[1.0; 3]).is_err());
}

/// Sides that break transforms: one, two, odd, prime, power of two, and mixtures.
fn side() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1usize), Just(2), Just(3), Just(4), Just(7), Just(16), Just(31), Just(97), 1usize..80]
}

prop_compose! {
    /// A module with explicit entries, an input and an upstream gradient.
    fn module()(d1 in side(), d2 in side())(
        d1 in Just(d1),
        d2 in Just(d2),
        flat in proptest::sample::subsequence((0..(d1 * d2) as u32).collect::<Vec<_>>(), 1..=(d1 * d2).min(60))
            .prop_shuffle(),
        c in proptest::collection::vec(-2.0f32..2.0, 60),
        x in proptest::collection::vec(-1.0f32..1.0, d2),
        g in proptest::collection::vec(-1.0f32..1.0, d1),
        alpha in 1.0f64..300.0,
    ) -> (Entries, Vec<f32>, Vec<f32>, Vec<f32>, f64) {
        let at: Vec<(u32, u32)> = flat.iter().map(|f| (f / d2 as u32, f % d2 as u32)).collect();
        (entries(d1, d2, &at), c[..at.len()].to_vec(), x, g, alpha)
    }
}

/// `‖a − b‖` within the budget of `scale`, the size the terms had before they cancelled.
fn close(a: &[f32], b: &[f64], scale: f64) -> Result<(), TestCaseError> {
    let difference: f64 = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - b).powi(2)).sum::<f64>().sqrt();
    prop_assert!(difference <= BUDGET * scale, "{difference:e} of {scale:e}");
    Ok(())
}

fn norm<T: Copy + Into<f64>>(values: &[T]) -> f64 {
    values.iter().map(|&v| v.into().powi(2)).sum::<f64>().sqrt()
}

proptest! {
    #[test]
    fn spectral_apply_is_the_dense_product((at, c, x, g, alpha) in module()) {
        let d2 = at.shape().cols();
        let dense = naive::delta(&at, &c, alpha).unwrap();
        let size = norm(&dense);
        let dot = |row: &[f64], x: &[f32]| row.iter().zip(x).map(|(w, &x)| w * f64::from(x)).sum::<f64>();
        let forward: Vec<f64> = dense.chunks(d2).map(|row| dot(row, &x)).collect();
        let backward: Vec<f64> =
            (0..d2).map(|q| dense.chunks(d2).zip(&g).map(|(row, &g)| row[q] * f64::from(g)).sum()).collect();

        let module = Spectral::new(at, &c, alpha);
        let (h, dx) = (module.apply(&x), module.adjoint(&g));
        close(&h, &forward, size * norm(&x))?;
        close(&dx, &backward, size * norm(&g))?;
        // ⟨ΔWx, g⟩ = ⟨x, ΔWᵀg⟩
        let left: f64 = h.iter().zip(&g).map(|(&h, &g)| f64::from(h) * f64::from(g)).sum();
        let right: f64 = x.iter().zip(&dx).map(|(&x, &d)| f64::from(x) * f64::from(d)).sum();
        prop_assert!((left - right).abs() <= 2.0 * BUDGET * size * norm(&x) * norm(&g), "{left} {right}");
    }

    #[test]
    fn the_gradient_is_that_of_the_naive_form((at, c, x, g, alpha) in module()) {
        // L = ⟨g, ΔW(c)·x⟩ is linear in c, so a difference of one whole coefficient is exact.
        let d2 = at.shape().cols();
        let loss = |c: &[f32]| -> f64 {
            let dense = naive::delta(&at, c, alpha).unwrap();
            dense.chunks(d2).zip(&g)
                .map(|(row, &g)| f64::from(g) * row.iter().zip(&x).map(|(w, &x)| w * f64::from(x)).sum::<f64>())
                .sum()
        };
        let expected: Vec<f64> = (0..c.len().min(12)).map(|l| {
            let mut bumped = vec![0.0; c.len()];
            bumped[l] = 1.0;
            loss(&bumped)
        }).collect();
        let found = Spectral::new(at.clone(), &c, alpha).gradient(std::slice::from_ref(&x), std::slice::from_ref(&g));
        let scale = alpha / at.shape().area() as f64;
        let terms: f64 = norm(&x) * norm(&g) * (at.shape().area() as f64).sqrt();
        close(&found[..expected.len()], &expected, scale * terms * (expected.len() as f64).sqrt())?;
    }

    #[test]
    fn reconstruction_is_the_naive_sum((at, c, _x, _g, alpha) in module(), threads in 0usize..4) {
        let dense = reconstruct(&at, &c, alpha, &Transforms::new(), threads).unwrap();
        let expected = naive::delta(&at, &c, alpha).unwrap();
        let scale = alpha / at.shape().area() as f64 * norm(&c) * (at.shape().area() as f64).sqrt();
        close(&dense, &expected, scale)?;
    }
}
