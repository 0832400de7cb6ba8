//! Grouped-query attention over the KV cache, in tiles with a running softmax.

use std::sync::{Mutex, PoisonError};

use crate::kernels::{Pool, for_each_chunk, tile_mix, tile_scores, vector};

use super::super::Linear;
use super::super::kv::KvLayer;
use super::RmsNorm;

/// Cached positions handled at once: a tile of keys and values stays in the first-level cache.
const TILE: usize = 32;
/// Query rows handled at once in a batch, so that a tile is decoded once for several rows.
const ROWS: usize = 8;

/// How far back a layer sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Everything so far.
    Full,
    /// The last so many positions, the current one included.
    Last(usize),
}

impl Window {
    /// The first position that `position` sees.
    fn first(self, position: usize) -> usize {
        match self {
            Self::Full => 0,
            Self::Last(n) => (position + 1).saturating_sub(n),
        }
    }
}

/// Where the matrices lie, and the layer's numbers.
#[derive(Debug, Clone)]
pub struct Attention {
    /// heads · head_dim × hidden
    pub q: Linear,
    /// kv_heads · head_dim × hidden
    pub k: Linear,
    /// kv_heads · head_dim × hidden
    pub v: Linear,
    /// hidden × heads · head_dim
    pub o: Linear,
    /// Norm over each head of q, before the rotation.
    pub q_norm: Option<RmsNorm>,
    /// Norm over each head of k, before the rotation.
    pub k_norm: Option<RmsNorm>,
    /// How the heads see the cache.
    pub heads: Heads,
    /// Which of the decoder's rotary embeddings turns q and k.
    pub rope: usize,
}

/// How many heads there are and how they see the cache.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Query heads.
    pub count: usize,
    /// Key and value heads; each serves `count / kv` query heads.
    pub kv: usize,
    /// Elements of a head.
    pub dim: usize,
    /// Factor on q·k.
    pub scale: f32,
    /// cap · tanh(score / cap), where the file asks for it.
    pub soft_cap: Option<f32>,
    /// How far back the layer sees.
    pub window: Window,
}

/// One worker's buffers.
#[derive(Debug)]
pub(in super::super) struct AttentionScratch {
    /// A tile of keys, then of values: TILE × head_dim.
    tile: Vec<f32>,
    /// Scores: queries × TILE.
    scores: Vec<f32>,
    /// Queries of one KV head, gathered: queries × head_dim.
    queries: Vec<f32>,
    /// Weighted values: queries × head_dim.
    mixed: Vec<f32>,
    /// Running maximum and sum of each query.
    running: Vec<(f32, f32)>,
}

impl AttentionScratch {
    /// For heads of `head_dim` elements in groups of `group` query heads.
    pub(in super::super) fn new(head_dim: usize, group: usize) -> Self {
        let queries = ROWS * group;
        Self {
            tile: vec![0.0; TILE * head_dim],
            scores: vec![0.0; queries * TILE],
            queries: vec![0.0; queries * head_dim],
            mixed: vec![0.0; queries * head_dim],
            running: vec![(0.0, 0.0); queries],
        }
    }
}

impl Heads {
    /// Elements of a row of q.
    pub fn q_len(&self) -> usize {
        self.count * self.dim
    }

    /// Elements of a row of k or v.
    pub fn kv_len(&self) -> usize {
        self.kv * self.dim
    }

    /// Query heads served by one KV head.
    pub fn group(&self) -> usize {
        self.count / self.kv
    }

    /// out\[r\] = softmax(scale · q\[r\]·K) V for rows at positions `start..`, whose keys and values are in `kv` already.
    /// `q` and `out` are rows × (count · dim).
    pub(in super::super) fn attend(
        &self,
        pool: &Pool,
        kv: &KvLayer,
        start: usize,
        q: &[f32],
        out: &mut [f32],
        scratch: &[Mutex<AttentionScratch>],
    ) {
        let width = self.q_len();
        let rows = q.len() / width;
        // One row: the KV heads are spread over the pool. Several: the rows are.
        let (chunk, row_heads) = if rows == 1 { (self.group() * self.dim, 1) } else { (ROWS * width, self.kv) };
        for_each_chunk(pool, [(out, chunk)], |worker, index, [out]| {
            let mut scratch = scratch[worker].lock().unwrap_or_else(PoisonError::into_inner);
            let offset = index * chunk;
            let (first_row, first_head) = (offset / width, offset % width / (self.group() * self.dim));
            let out_width = if rows == 1 { chunk } else { width };
            let rows_here = out.len() / out_width;
            for h in 0..row_heads {
                let work = HeadWork { head: first_head + h, first_row, rows: rows_here, start, out_width, out_head: h };
                self.attend_head(kv, &work, q, out, &mut scratch);
            }
        });
    }

    /// One KV head for up to `ROWS` rows.
    fn attend_head(&self, kv: &KvLayer, work: &HeadWork, q: &[f32], out: &mut [f32], scratch: &mut AttentionScratch) {
        let (dim, group) = (self.dim, self.group());
        let block = group * dim;
        let width = self.q_len();
        let queries = work.rows * group;
        for r in 0..work.rows {
            let from = (work.first_row + r) * width + work.head * block;
            scratch.queries[r * block..][..block].copy_from_slice(&q[from..][..block]);
        }
        scratch.mixed[..queries * dim].fill(0.0);
        scratch.running[..queries].fill((f32::NEG_INFINITY, 0.0));

        let last_position = work.start + work.first_row + work.rows - 1;
        let mut from = self.window.first(work.start + work.first_row);
        while from <= last_position {
            let len = TILE.min(last_position + 1 - from);
            let tile = &mut scratch.tile[..len * dim];
            kv.k.load(work.head, from, tile);
            let scores = &mut scratch.scores[..queries * len];
            tile_scores(&scratch.queries[..queries * dim], tile, dim, self.scale, scores);
            if let Some(cap) = self.soft_cap {
                vector::soft_cap(scores, cap);
            }
            for (m, scores) in scores.chunks_exact_mut(len).enumerate() {
                let position = work.start + work.first_row + m / group;
                let seen = self.window.first(position)..position + 1;
                let visible = seen.start.clamp(from, from + len) - from..seen.end.clamp(from, from + len) - from;
                let mixed = &mut scratch.mixed[m * dim..][..dim];
                softmax_step(scores, visible, &mut scratch.running[m], mixed);
            }
            kv.v.load(work.head, from, tile);
            tile_mix(scores, tile, dim, &mut scratch.mixed[..queries * dim]);
            from += len;
        }
        for m in 0..queries {
            let (row, g) = (m / group, m % group);
            let to = row * work.out_width + work.out_head * block + g * dim;
            let mixed = &mut scratch.mixed[m * dim..][..dim];
            vector::scale(1.0 / scratch.running[m].1, mixed);
            out[to..][..dim].copy_from_slice(mixed);
        }
    }
}

/// Which part of the batch a call to `attend_head` does.
struct HeadWork {
    /// KV head.
    head: usize,
    /// First row of the batch, and how many.
    first_row: usize,
    rows: usize,
    /// Position of the batch's first row.
    start: usize,
    /// Elements of a row of the output chunk, and which KV head's block of it is written.
    out_width: usize,
    out_head: usize,
}

/// Folds a tile's scores of one query into its running softmax: scores become weights relative to the new maximum,
/// what was mixed so far is rescaled to it. Scores outside `visible` become 0.
fn softmax_step(scores: &mut [f32], visible: std::ops::Range<usize>, running: &mut (f32, f32), mixed: &mut [f32]) {
    if visible.is_empty() {
        scores.fill(0.0);
        return;
    }
    scores[..visible.start].fill(0.0);
    scores[visible.end..].fill(0.0);
    let scores = &mut scores[visible];
    let (old_max, old_sum) = *running;
    let new_max = vector::max(scores).max(old_max);
    let sum = vector::exp_shifted(scores, new_max);
    let shrink = (old_max - new_max).exp();
    if shrink != 1.0 {
        vector::scale(shrink, mixed);
    }
    *running = (new_max, old_sum * shrink + sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::KvType;
    use crate::model::kv::KvCache;

    /// Deterministic values in −1..1.
    fn value(i: usize) -> f32 {
        ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0
    }

    /// The definition, in f64: every query over every position it sees.
    fn naive(heads: &Heads, start: usize, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f64> {
        let (dim, kv_len) = (heads.dim, heads.kv_len());
        let mut out = Vec::new();
        for (row, q) in q.chunks_exact(heads.q_len()).enumerate() {
            let position = start + row;
            let first = match heads.window {
                Window::Full => 0,
                Window::Last(n) => (position + 1).saturating_sub(n),
            };
            for (h, q) in q.chunks_exact(dim).enumerate() {
                let at = |x: &[f32], p: usize, d: usize| f64::from(x[p * kv_len + h / heads.group() * dim + d]);
                let score = |p| {
                    let dot: f64 = (0..dim).map(|d| f64::from(q[d]) * at(k, p, d)).sum();
                    let score = dot * f64::from(heads.scale);
                    heads.soft_cap.map_or(score, |c| f64::from(c) * (score / f64::from(c)).tanh()).exp()
                };
                let weights: Vec<f64> = (first..=position).map(score).collect();
                let sum: f64 = weights.iter().sum();
                for d in 0..dim {
                    let mixed: f64 = weights.iter().zip(first..).map(|(w, p)| w * at(v, p, d)).sum();
                    out.push(mixed / sum);
                }
            }
        }
        out
    }

    #[test]
    fn tiles_windows_and_groups_match_the_definition() {
        let pool = Pool::new(2).unwrap();
        for (count, kv, dim) in [(3, 3, 4), (6, 2, 8), (4, 1, 6)] {
            for window in [Window::Full, Window::Last(1), Window::Last(7), Window::Last(33)] {
                for soft_cap in [None, Some(1.5)] {
                    for (start, rows) in [(0, 1), (0, 40), (5, 1), (70, 1), (63, 9), (31, 20)] {
                        let heads = Heads { count, kv, dim, scale: 0.7, soft_cap, window };
                        let positions = start + rows;
                        let k: Vec<f32> = (0..positions * heads.kv_len()).map(value).collect();
                        let v: Vec<f32> = (0..positions * heads.kv_len()).map(|i| value(i + 99_991)).collect();
                        let q: Vec<f32> = (0..rows * heads.q_len()).map(|i| value(i + 7_777)).collect();
                        let mut cache = KvCache::new(KvType::F32, 128, [(kv, dim)].into_iter()).unwrap();
                        for p in 0..positions {
                            for h in 0..kv {
                                let at = p * heads.kv_len() + h * dim;
                                cache.layers[0].k.store(h, p, &k[at..][..dim]);
                                cache.layers[0].v.store(h, p, &v[at..][..dim]);
                            }
                        }
                        let scratch: Vec<_> =
                            (0..2).map(|_| Mutex::new(AttentionScratch::new(dim, heads.group()))).collect();
                        let mut out = vec![f32::NAN; q.len()];
                        heads.attend(&pool, &cache.layers[0], start, &q, &mut out, &scratch);
                        for (got, want) in out.iter().zip(naive(&heads, start, &q, &k, &v)) {
                            assert!((f64::from(*got) - want).abs() < 2e-6, "{heads:?} {start} {rows}: {got} {want}");
                        }
                    }
                }
            }
        }
    }
}
