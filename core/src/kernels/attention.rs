//! The two small products of attention over one tile of the KV cache.

use super::vector::{dot_body, fma};

#[inline(always)]
fn tile_scores_body<const FUSED: bool>(q: &[f32], k: &[f32], dim: usize, scale: f32, out: &mut [f32]) {
    let tile = k.len() / dim;
    for (q, out) in q.chunks_exact(dim).zip(out.chunks_exact_mut(tile)) {
        for (k, out) in k.chunks_exact(dim).zip(out) {
            *out = scale * dot_body::<FUSED>(q, k);
        }
    }
}

multiversion! {
    /// `out[m, t] = scale · q[m]·k[t]`, for rows of `dim` elements; `out` is M × T.
    tile_scores, tile_scores_body(q: &[f32], k: &[f32], dim: usize, scale: f32, out: &mut [f32])
}

#[inline(always)]
fn tile_mix_body<const FUSED: bool>(p: &[f32], v: &[f32], dim: usize, out: &mut [f32]) {
    let tile = v.len() / dim;
    for (p, out) in p.chunks_exact(tile).zip(out.chunks_exact_mut(dim)) {
        for (&p, v) in p.iter().zip(v.chunks_exact(dim)) {
            for (out, v) in out.iter_mut().zip(v) {
                *out = fma::<FUSED>(p, *v, *out);
            }
        }
    }
}

multiversion! {
    /// `out[m] += Σ_t p[m, t] · v[t]`, for rows of `dim` elements; `p` is M × T.
    tile_mix, tile_mix_body(p: &[f32], v: &[f32], dim: usize, out: &mut [f32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_match_plain_loops() {
        let (m, t, dim) = (3, 5, 40);
        let value = |i: usize| ((i * 7919 % 101) as f32 - 50.0) / 25.0;
        let q: Vec<f32> = (0..m * dim).map(value).collect();
        let k: Vec<f32> = (0..t * dim).map(|i| value(i + 17)).collect();
        let mut scores = vec![0.0; m * t];
        tile_scores(&q, &k, dim, 0.5, &mut scores);
        let mut mixed = vec![1.0; m * dim];
        tile_mix(&scores, &k, dim, &mut mixed);
        for i in 0..m {
            for j in 0..t {
                let want: f32 = (0..dim).map(|d| q[i * dim + d] * k[j * dim + d]).sum::<f32>() * 0.5;
                assert!((scores[i * t + j] - want).abs() < 1e-3);
            }
            for d in 0..dim {
                let want: f32 = 1.0 + (0..t).map(|j| scores[i * t + j] * k[j * dim + d]).sum::<f32>();
                assert!((mixed[i * dim + d] - want).abs() < 1e-2);
            }
        }
    }
}
