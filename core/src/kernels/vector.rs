//! Elementwise and row operations in f32: norms, activations, rotary embedding, dot products.
//!
//! Each body is written once over fixed-width lanes and compiled three times (baseline, AVX2 + FMA, AVX-512); the call
//! picks by what the CPU has. Lane widths are the same in all of them, so results differ only by fused rounding.

/// Partial sums of every product: independent chains for the vector unit, and a smaller rounding error. 16 f32 fill one
/// AVX-512 register.
pub(super) const LANES: usize = 16;

/// `a·b + c`.
#[inline(always)]
pub(crate) fn fma<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Adds lanes pairwise, so that the order does not depend on the instruction set.
#[inline(always)]
pub(super) fn reduce(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
pub(super) fn dot_body<const FUSED: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut acc = [[0f32; LANES]; 2];
    let (a_pairs, a_rest) = a.as_chunks::<{ 2 * LANES }>();
    let (b_pairs, b_rest) = b.as_chunks::<{ 2 * LANES }>();
    for (x, y) in a_pairs.iter().zip(b_pairs) {
        for h in 0..2 {
            for i in 0..LANES {
                acc[h][i] = fma::<FUSED>(x[h * LANES + i], y[h * LANES + i], acc[h][i]);
            }
        }
    }
    let mut lanes = [0f32; LANES];
    for i in 0..LANES {
        lanes[i] = acc[0][i] + acc[1][i];
    }
    let mut sum = reduce(lanes);
    for (x, y) in a_rest.iter().zip(b_rest) {
        sum = fma::<FUSED>(*x, *y, sum);
    }
    sum
}

multiversion! {
    /// Σ a·b over the shorter length.
    dot, dot_body(a: &[f32], b: &[f32]) -> f32
}

#[inline(always)]
fn axpy_body<const FUSED: bool>(alpha: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = fma::<FUSED>(alpha, *x, *y);
    }
}

multiversion! {
    /// y += alpha · x.
    axpy, axpy_body(alpha: f32, x: &[f32], y: &mut [f32])
}

#[inline(always)]
fn scale_body<const FUSED: bool>(alpha: f32, x: &mut [f32]) {
    for x in x {
        *x *= alpha;
    }
}

multiversion! {
    /// x *= alpha.
    scale, scale_body(alpha: f32, x: &mut [f32])
}

#[inline(always)]
fn add_body<const FUSED: bool>(x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += *x;
    }
}

multiversion! {
    /// y += x.
    add, add_body(x: &[f32], y: &mut [f32])
}

#[inline(always)]
fn rms_norm_body<const FUSED: bool>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean_square = dot_body::<FUSED>(x, x) / x.len() as f32;
    let inverse = 1.0 / (mean_square + eps).sqrt();
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = x * inverse * w;
    }
}

multiversion! {
    /// Root-mean-square norm of one row: out = x / √(mean(x²) + eps) · weight.
    rms_norm, rms_norm_body(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32])
}

/// The two parts of ln 2.
pub(super) const LN2_HIGH: f32 = 0.693_359_4;
pub(super) const LN2_LOW: f32 = -2.121_944_4e-4;
/// Adding and subtracting 1.5·2²³ rounds to the nearest integer, ties to even; the sum has it in its low bits.
pub(super) const ROUND: f32 = 12_582_912.0;
/// Exponents beyond these are taken for them.
pub(super) const EXP_RANGE: [f32; 2] = [-87.3, 88.3];
/// Of r⁷ down to r², over r².
pub(super) const EXP_COEFFICIENTS: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// eˣ to about two units in the last place, without branches so that it vectorises: x = n·ln 2 + r, a degree-6
/// polynomial for eʳ, the exponent field for 2ⁿ. Saturates to 0 and to the largest finite powers instead of overflowing.
#[inline(always)]
pub(super) fn exp_lane<const FUSED: bool>(x: f32) -> f32 {
    let x = x.clamp(EXP_RANGE[0], EXP_RANGE[1]);
    let rounded = fma::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = fma::<FUSED>(n, -LN2_LOW, fma::<FUSED>(n, -LN2_HIGH, x));
    let [mut p, rest @ ..] = EXP_COEFFICIENTS;
    for c in rest {
        p = fma::<FUSED>(p, r, c);
    }
    let e = fma::<FUSED>(p, r * r, r) + 1.0;
    // The low bits of `rounded` are n in -126..=127, so the exponent field neither underflows nor overflows. Read from there
    // because a conversion, which saturates, takes three more instructions.
    e * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

#[inline(always)]
fn max_body<const FUSED: bool>(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

multiversion! {
    /// The largest element, −∞ for an empty row; NaN is passed over.
    max, max_body(x: &[f32]) -> f32
}

#[inline(always)]
fn exp_shifted_body<const FUSED: bool>(x: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            chunk[i] = exp_lane::<FUSED>(chunk[i] - shift);
            lanes[i] += chunk[i];
        }
    }
    let mut sum = reduce(lanes);
    for x in rest {
        *x = exp_lane::<FUSED>(*x - shift);
        sum += *x;
    }
    sum
}

multiversion! {
    /// x = e^(x − shift) in place; returns the sum. The core of a softmax.
    exp_shifted, exp_shifted_body(x: &mut [f32], shift: f32) -> f32
}

#[inline(always)]
fn silu_mul_body<const FUSED: bool>(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp_lane::<FUSED>(-*g)) * u;
    }
}

multiversion! {
    /// gate = silu(gate) · up, silu(x) = x / (1 + e⁻ˣ).
    silu_mul, silu_mul_body(gate: &mut [f32], up: &[f32])
}

/// tanh through eˣ; the clamp is where tanh rounds to ±1.
#[inline(always)]
pub(super) fn tanh_lane<const FUSED: bool>(x: f32) -> f32 {
    let e = exp_lane::<FUSED>(2.0 * x.clamp(-10.0, 10.0));
    (e - 1.0) / (e + 1.0)
}

#[inline(always)]
fn gelu_mul_body<const FUSED: bool>(gate: &mut [f32], up: &[f32]) {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    for (g, u) in gate.iter_mut().zip(up) {
        let x = *g;
        let inner = SQRT_2_OVER_PI * fma::<FUSED>(0.044_715 * x * x, x, x);
        *g = 0.5 * x * (1.0 + tanh_lane::<FUSED>(inner)) * u;
    }
}

multiversion! {
    /// gate = gelu(gate) · up with the tanh approximation (`gelu_pytorch_tanh`).
    gelu_mul, gelu_mul_body(gate: &mut [f32], up: &[f32])
}

#[inline(always)]
fn soft_cap_body<const FUSED: bool>(x: &mut [f32], cap: f32) {
    for x in x {
        *x = cap * tanh_lane::<FUSED>(*x / cap);
    }
}

multiversion! {
    /// x = cap · tanh(x / cap).
    soft_cap, soft_cap_body(x: &mut [f32], cap: f32)
}

#[inline(always)]
fn rotate_halves_body<const FUSED: bool>(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len().min(sin.len()).min(x.len() / 2);
    let (low, high) = x.split_at_mut(half);
    for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        let (x0, x1) = (*a, *b);
        *a = x0 * c - x1 * s;
        *b = x0 * s + x1 * c;
    }
}

multiversion! {
    /// Rotary embedding of one head, pairing element i with i + len/2 (Hugging Face, `NEOX`).
    rotate_halves, rotate_halves_body(x: &mut [f32], cos: &[f32], sin: &[f32])
}

#[inline(always)]
fn rotate_pairs_body<const FUSED: bool>(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (pairs, _) = x.as_chunks_mut::<2>();
    for ((pair, c), s) in pairs.iter_mut().zip(cos).zip(sin) {
        let [x0, x1] = *pair;
        *pair = [x0 * c - x1 * s, x0 * s + x1 * c];
    }
}

multiversion! {
    /// Rotary embedding of one head, pairing neighbours (the layout of q and k in llama GGUF files, `NORM`).
    rotate_pairs, rotate_pairs_body(x: &mut [f32], cos: &[f32], sin: &[f32])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic values in −1..1.
    fn values(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 8_388_608.0 - 1.0
            })
            .collect()
    }

    const LENGTHS: [usize; 8] = [0, 1, 7, 16, 31, 64, 257, 1536];

    #[test]
    fn dot_matches_f64() {
        for n in LENGTHS {
            let (a, b) = (values(n, 1), values(n, 2));
            let expected: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            assert!((f64::from(dot(&a, &b)) - expected).abs() <= 1e-6 * (n as f64 + 1.0), "n = {n}");
        }
    }

    #[test]
    fn exp_is_within_three_ulp_and_saturates() {
        let mut x: Vec<f32> = (-8700..8800).map(|i| i as f32 / 100.0).collect();
        let expected: Vec<f64> = x.iter().map(|&v| f64::from(v).exp()).collect();
        exp_shifted(&mut x, 0.0);
        for (got, want) in x.iter().zip(expected) {
            assert!((f64::from(*got) - want).abs() <= 3.0 * f64::from(f32::EPSILON) * want, "{got} {want}");
        }
        let mut edge = [f32::NEG_INFINITY, -1e30, 1e30];
        exp_shifted(&mut edge, 0.0);
        assert!(edge[0] < 2e-38 && edge[1] < 2e-38 && edge[2].is_finite());
    }

    #[test]
    fn activations_match_f64() {
        for n in LENGTHS {
            let gate: Vec<f32> = values(n, 3).iter().map(|v| v * 12.0).collect();
            let up = values(n, 4);
            let (mut silu, mut gelu, mut cap) = (gate.clone(), gate.clone(), gate.clone());
            silu_mul(&mut silu, &up);
            gelu_mul(&mut gelu, &up);
            soft_cap(&mut cap, 5.0);
            for i in 0..n {
                let (x, u) = (f64::from(gate[i]), f64::from(up[i]));
                let want_silu = x / (1.0 + (-x).exp()) * u;
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
                let want_gelu = 0.5 * x * (1.0 + inner.tanh()) * u;
                assert!((f64::from(silu[i]) - want_silu).abs() < 5e-6, "silu({x})");
                assert!((f64::from(gelu[i]) - want_gelu).abs() < 5e-6, "gelu({x})");
                assert!((f64::from(cap[i]) - 5.0 * (x / 5.0).tanh()).abs() < 5e-6, "cap({x})");
            }
        }
    }

    #[test]
    fn rms_norm_matches_f64() {
        for n in LENGTHS.into_iter().filter(|&n| n > 0) {
            let (x, w) = (values(n, 5), values(n, 6));
            let mut out = vec![0.0; n];
            rms_norm(&x, &w, 1e-5, &mut out);
            let mean: f64 = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n as f64;
            for i in 0..n {
                let want = f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(w[i]);
                assert!((f64::from(out[i]) - want).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn both_rotations_turn_by_the_angle() {
        let angles: Vec<f32> = values(32, 7);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
        let x = values(64, 8);
        let (mut halves, mut pairs) = (x.clone(), x.clone());
        rotate_halves(&mut halves, &cos, &sin);
        rotate_pairs(&mut pairs, &cos, &sin);
        for i in 0..32 {
            let turned = |a: f32, b: f32| (a * cos[i] - b * sin[i], a * sin[i] + b * cos[i]);
            assert_eq!((halves[i], halves[i + 32]), turned(x[i], x[i + 32]));
            assert_eq!((pairs[2 * i], pairs[2 * i + 1]), turned(x[2 * i], x[2 * i + 1]));
        }
    }

    #[test]
    fn axpy_add_scale_and_max() {
        for n in LENGTHS {
            let (x, base) = (values(n, 9), values(n, 10));
            let mut y = base.clone();
            axpy(0.5, &x, &mut y);
            add(&x, &mut y);
            scale(2.0, &mut y);
            for i in 0..n {
                assert!((y[i] - 2.0 * (base[i] + 1.5 * x[i])).abs() < 1e-5);
            }
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
