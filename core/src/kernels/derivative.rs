//! Derivatives of the row operations of [`vector`](super::vector), compiled the same way.

use super::vector::{dot_body, exp_lane, fma, tanh_lane};

#[inline(always)]
fn rms_norm_body<const FUSED: bool>(x: &[f32], weight: &[f32], eps: f32, g: &[f32], out: &mut [f32]) {
    let n = x.len() as f32;
    let inverse = 1.0 / (dot_body::<FUSED>(x, x) / n + eps).sqrt();
    let mut lanes = [0.0f32; 16];
    let parts = (x.as_chunks::<16>(), weight.as_chunks::<16>(), g.as_chunks::<16>());
    for ((x, w), g) in parts.0.0.iter().zip(parts.1.0).zip(parts.2.0) {
        for i in 0..16 {
            lanes[i] = fma::<FUSED>(g[i] * w[i], x[i], lanes[i]);
        }
    }
    let mut projection = super::vector::reduce(lanes);
    for ((x, w), g) in parts.0.1.iter().zip(parts.1.1).zip(parts.2.1) {
        projection = fma::<FUSED>(g * w, *x, projection);
    }
    let back = projection * inverse * inverse * inverse / n;
    for (((out, x), w), g) in out.iter_mut().zip(x).zip(weight).zip(g) {
        *out += fma::<FUSED>(g * w, inverse, -x * back);
    }
}

multiversion! {
    /// out += the gradient of x, for [`rms_norm`](super::vector::rms_norm) of x and g the gradient of its result:
    /// s·(g∘w) − x·s³/n·Σ(g∘w∘x) with s = 1/√(mean(x²) + eps).
    rms_norm, rms_norm_body(x: &[f32], weight: &[f32], eps: f32, g: &[f32], out: &mut [f32])
}

#[inline(always)]
fn silu_mul_body<const FUSED: bool>(gate: &[f32], up: &[f32], g: &mut [f32], up_gradient: &mut [f32]) {
    for (((gate, up), g), up_gradient) in gate.iter().zip(up).zip(g).zip(up_gradient) {
        let sigmoid = 1.0 / (1.0 + exp_lane::<FUSED>(-*gate));
        *up_gradient = *g * gate * sigmoid;
        *g *= up * sigmoid * fma::<FUSED>(*gate, 1.0 - sigmoid, 1.0);
    }
}

multiversion! {
    /// g, the gradient of silu(gate)·up, becomes the gradient of gate; that of up is written beside it.
    silu_mul, silu_mul_body(gate: &[f32], up: &[f32], g: &mut [f32], up_gradient: &mut [f32])
}

#[inline(always)]
fn gelu_mul_body<const FUSED: bool>(gate: &[f32], up: &[f32], g: &mut [f32], up_gradient: &mut [f32]) {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    const CUBIC: f32 = 0.044_715;
    for (((gate, up), g), up_gradient) in gate.iter().zip(up).zip(g).zip(up_gradient) {
        let x = *gate;
        let t = tanh_lane::<FUSED>(SQRT_2_OVER_PI * fma::<FUSED>(CUBIC * x * x, x, x));
        *up_gradient = *g * 0.5 * x * (1.0 + t);
        let inner = SQRT_2_OVER_PI * fma::<FUSED>(3.0 * CUBIC * x, x, 1.0);
        *g *= up * 0.5 * ((1.0 + t) + x * (1.0 - t * t) * inner);
    }
}

multiversion! {
    /// As [`silu_mul`], for the tanh approximation of GELU.
    gelu_mul, gelu_mul_body(gate: &[f32], up: &[f32], g: &mut [f32], up_gradient: &mut [f32])
}

#[inline(always)]
fn unrotate_halves_body<const FUSED: bool>(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len().min(sin.len()).min(x.len() / 2);
    let (low, high) = x.split_at_mut(half);
    for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        let (x0, x1) = (*a, *b);
        *a = x0 * c + x1 * s;
        *b = x1 * c - x0 * s;
    }
}

multiversion! {
    /// Turns back what [`rotate_halves`](super::vector::rotate_halves) turned, which is also its transpose.
    unrotate_halves, unrotate_halves_body(x: &mut [f32], cos: &[f32], sin: &[f32])
}

#[inline(always)]
fn unrotate_pairs_body<const FUSED: bool>(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (pairs, _) = x.as_chunks_mut::<2>();
    for ((pair, c), s) in pairs.iter_mut().zip(cos).zip(sin) {
        let [x0, x1] = *pair;
        *pair = [x0 * c + x1 * s, x1 * c - x0 * s];
    }
}

multiversion! {
    /// As [`unrotate_halves`], for [`rotate_pairs`](super::vector::rotate_pairs).
    unrotate_pairs, unrotate_pairs_body(x: &mut [f32], cos: &[f32], sin: &[f32])
}

#[inline(always)]
fn capped_softmax_body<const FUSED: bool>(y: &mut [f32], shift: f32, inverse_cap: f32, scale: f32, g: &mut [f32]) {
    let mut lanes = [0.0f32; 16];
    let ((chunks, rest), (g_chunks, g_rest)) = (y.as_chunks::<16>(), g.as_chunks::<16>());
    for (y, g) in chunks.iter().zip(g_chunks) {
        for i in 0..16 {
            lanes[i] = fma::<FUSED>(exp_lane::<FUSED>(y[i] - shift), g[i], lanes[i]);
        }
    }
    let mut offset = super::vector::reduce(lanes);
    for (y, g) in rest.iter().zip(g_rest) {
        offset = fma::<FUSED>(exp_lane::<FUSED>(*y - shift), *g, offset);
    }
    for (y, g) in y.iter_mut().zip(g) {
        let capped = *y * inverse_cap;
        let p = exp_lane::<FUSED>(*y - shift);
        *g = p * (*g - offset) * scale * fma::<FUSED>(-capped, capped, 1.0);
        *y = p;
    }
}

multiversion! {
    /// Through p = softmax(y), y = cap·tanh(s / cap), s = scale·z, where `shift` is the logarithm of the sum of e^y: y becomes p,
    /// and g, the gradient of p, becomes the gradient of z: p·(g − Σ g·p)·scale·(1 − (y / cap)²). An `inverse_cap` of 0 is no cap.
    capped_softmax, capped_softmax_body(y: &mut [f32], shift: f32, inverse_cap: f32, scale: f32, g: &mut [f32])
}

#[inline(always)]
fn cross_entropy_body<const FUSED: bool>(y: &mut [f32], shift: f32, inverse_cap: f32, scale: f32) {
    for y in y {
        let capped = *y * inverse_cap;
        *y = exp_lane::<FUSED>(*y - shift) * scale * fma::<FUSED>(-capped, capped, 1.0);
    }
}

multiversion! {
    /// The part of the gradient of scale·(ln Σ e^y − y\[target\]) that does not depend on the target, with respect to x in
    /// y = cap·tanh(x / cap), in place of y; `shift` is ln Σ e^y. An `inverse_cap` of 0 is no cap.
    cross_entropy, cross_entropy_body(y: &mut [f32], shift: f32, inverse_cap: f32, scale: f32)
}

#[inline(always)]
fn exp_sum_body<const FUSED: bool>(x: &[f32], shift: f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<16>();
    let mut lanes = [0f32; 16];
    for chunk in chunks {
        for i in 0..16 {
            lanes[i] += exp_lane::<FUSED>(chunk[i] - shift);
        }
    }
    rest.iter().fold(super::vector::reduce(lanes), |sum, x| sum + exp_lane::<FUSED>(*x - shift))
}

multiversion! {
    /// Σ e^(x − shift).
    exp_sum, exp_sum_body(x: &[f32], shift: f32) -> f32
}

#[cfg(test)]
mod tests {
    use super::super::vector;
    use super::*;

    const LENGTHS: [usize; 6] = [1, 7, 16, 31, 64, 257];

    fn values(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn f64s(x: &[f32]) -> Vec<f64> {
        x.iter().map(|&x| f64::from(x)).collect()
    }

    /// The derivative of `loss` with respect to every element of `x`.
    fn differences(x: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        let of = |i: usize| {
            let moved = |step: f64| {
                let mut x = x.to_vec();
                x[i] += step;
                loss(&x)
            };
            (moved(1e-5) - moved(-1e-5)) / 2e-5
        };
        (0..x.len()).map(of).collect()
    }

    #[track_caller]
    fn close(got: &[f32], want: &[f64], tolerance: f64) {
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            assert!((f64::from(*got) - want).abs() < tolerance, "{i}: {got} for {want}");
        }
    }

    fn weighted(y: impl Iterator<Item = f64>, g: &[f32]) -> f64 {
        y.zip(g).map(|(y, g)| y * f64::from(*g)).sum()
    }

    #[test]
    fn norms() {
        for n in LENGTHS {
            let (x, w, g, mut out) = (values(n, 1), values(n, 2), values(n, 3), values(n, 4));
            let loss = |x: &[f64]| {
                let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / n as f64 + 1e-3).sqrt();
                weighted(x.iter().zip(&w).map(|(x, w)| x * scale * f64::from(*w)), &g)
            };
            let want: Vec<f64> =
                differences(&f64s(&x), loss).iter().zip(&out).map(|(d, out)| d + f64::from(*out)).collect();
            rms_norm(&x, &w, 1e-3, &g, &mut out);
            close(&out, &want, 2e-5);
        }
    }

    #[test]
    fn gates() {
        type Forward = fn(f64) -> f64;
        type Backward = fn(&[f32], &[f32], &mut [f32], &mut [f32]);
        let silu: Forward = |x| x / (1.0 + (-x).exp());
        let gelu: Forward = |x| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        };
        let both: [(Forward, Backward); 2] = [(silu, silu_mul), (gelu, gelu_mul)];
        for (forward, backward) in both {
            for n in LENGTHS {
                let gate: Vec<f32> = values(n, 5).iter().map(|v| v * 6.0).collect();
                let (up, g) = (values(n, 6), values(n, 7));
                let (gate64, up64) = (f64s(&gate), f64s(&up));
                let loss = |gate: &[f64], up: &[f64]| weighted(gate.iter().zip(up).map(|(a, b)| forward(*a) * b), &g);
                let of_gate = differences(&gate64, |gate| loss(gate, &up64));
                let of_up = differences(&up64, |up| loss(&gate64, up));
                let (mut gradient, mut up_gradient) = (g.clone(), vec![f32::NAN; n]);
                backward(&gate, &up, &mut gradient, &mut up_gradient);
                close(&gradient, &of_gate, 5e-6);
                close(&up_gradient, &of_up, 5e-6);
            }
        }
    }

    #[test]
    fn rotations_are_turned_back() {
        let angles = values(32, 8);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
        let x = values(64, 9);
        let (mut halves, mut pairs) = (x.clone(), x.clone());
        vector::rotate_halves(&mut halves, &cos, &sin);
        unrotate_halves(&mut halves, &cos, &sin);
        vector::rotate_pairs(&mut pairs, &cos, &sin);
        unrotate_pairs(&mut pairs, &cos, &sin);
        close(&halves, &f64s(&x), 1e-6);
        close(&pairs, &f64s(&x), 1e-6);
    }

    #[test]
    fn softmax_with_and_without_a_cap() {
        for (n, cap) in LENGTHS.into_iter().flat_map(|n| [(n, None), (n, Some(0.9))]) {
            let (z, g, scale) = (values(n, 10), values(n, 11), 1.7);
            let capped = |z: f64| {
                let s = z * f64::from(scale);
                cap.map_or(s, |cap: f64| cap * (s / cap).tanh())
            };
            let softmax = |z: &[f64]| {
                let sum: f64 = z.iter().map(|&z| capped(z).exp()).sum();
                z.iter().map(|&z| capped(z).exp() / sum).collect::<Vec<_>>()
            };
            let want = differences(&f64s(&z), |z| weighted(softmax(z).into_iter(), &g));
            let p = softmax(&f64s(&z));
            let mut y: Vec<f32> = z.iter().map(|&z| capped(f64::from(z)) as f32).collect();
            let shift = y.iter().map(|&y| f64::from(y).exp()).sum::<f64>().ln() as f32;
            let inverse = cap.map_or(0.0, |cap| 1.0 / cap as f32);
            let mut gradient = g.clone();
            capped_softmax(&mut y, shift, inverse, scale, &mut gradient);
            close(&y, &p, 1e-6);
            close(&gradient, &want, 2e-6);
        }
    }

    #[test]
    fn cross_entropies_with_and_without_a_cap() {
        for (n, cap) in LENGTHS.into_iter().flat_map(|n| [(n, None), (n, Some(0.9))]) {
            let (x, target, scale) = (values(n, 12), n / 2, 0.3f32);
            let capped = |x: f64| cap.map_or(x, |cap: f64| cap * (x / cap).tanh());
            let loss = |x: &[f64]| {
                let sum: f64 = x.iter().map(|&x| capped(x).exp()).sum();
                f64::from(scale) * (sum.ln() - capped(x[target]))
            };
            let want = differences(&f64s(&x), loss);
            let mut y: Vec<f32> = x.iter().map(|&x| capped(f64::from(x)) as f32).collect();
            let own = y[target];
            let max = vector::max(&y);
            let shift = max + exp_sum(&y, max).ln();
            let inverse = cap.map_or(0.0, |cap| 1.0 / cap as f32);
            cross_entropy(&mut y, shift, inverse, scale);
            y[target] -= scale * (1.0 - (own * inverse).powi(2));
            close(&y, &want, 1e-6);
        }
    }
}
