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
fn capped_softmax_body<const FUSED: bool>(
    y: &mut [f32],
    shift: f32,
    inverse_cap: f32,
    offset: f32,
    scale: f32,
    g: &mut [f32],
) {
    for (y, g) in y.iter_mut().zip(g) {
        let capped = *y * inverse_cap;
        let p = exp_lane::<FUSED>(*y - shift);
        *g = p * (*g - offset) * scale * fma::<FUSED>(-capped, capped, 1.0);
        *y = p;
    }
}

multiversion! {
    /// Through p = softmax(y), y = cap·tanh(s / cap), s = scale·z, where `shift` is the logarithm of the sum of e^y and `offset` is
    /// Σ g·p: y becomes p, and g, the gradient of p, becomes the gradient of z. An `inverse_cap` of 0 is no cap.
    capped_softmax, capped_softmax_body(y: &mut [f32], shift: f32, inverse_cap: f32, offset: f32, scale: f32, g: &mut [f32])
}

#[inline(always)]
fn soft_cap_body<const FUSED: bool>(y: &[f32], inverse_cap: f32, g: &mut [f32]) {
    for (y, g) in y.iter().zip(g) {
        let capped = y * inverse_cap;
        *g *= fma::<FUSED>(-capped, capped, 1.0);
    }
}

multiversion! {
    /// g, the gradient of y = cap·tanh(x / cap), becomes the gradient of x.
    soft_cap, soft_cap_body(y: &[f32], inverse_cap: f32, g: &mut [f32])
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
