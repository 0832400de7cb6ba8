//! Grouped-query attention over the KV cache, in tiles with a running softmax.

use std::sync::{Mutex, PoisonError};

use crate::kernels::{Pool, for_each_chunk, tile_mix, tile_scores, vector};

use super::super::kv::KvLayer;
use super::super::Linear;
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
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Factor on q·k.
    pub scale: f32,
    /// cap · tanh(score / cap), where the file asks for it.
    pub soft_cap: Option<f32>,
    /// How far back the layer sees.
    pub window: Window,
    /// Which of the decoder's rotary embeddings turns q and k.
    pub rope: usize,
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

    /// Bytes of one worker's buffers.
    pub(in super::super) fn bytes(&self) -> usize {
        size_of::<f32>() * (self.tile.len() + self.scores.len() + self.queries.len() * 2 + self.running.len() * 2)
    }
}

impl Attention {
    /// Query heads served by one KV head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// out\[r\] = softmax(scale · q\[r\]·K) V for rows at positions `start..`, whose keys and values are in `kv` already.
    /// `q` and `out` are rows × (heads · head_dim).
    pub(in super::super) fn attend(
        &self,
        pool: &Pool,
        kv: &KvLayer,
        start: usize,
        q: &[f32],
        out: &mut [f32],
        scratch: &[Mutex<AttentionScratch>],
    ) {
        let width = self.heads * self.head_dim;
        let rows = q.len() / width;
        // One row: the KV heads are spread over the pool. Several: the rows are.
        let (chunk, row_heads) = if rows == 1 {
            (self.group() * self.head_dim, 1)
        } else {
            (ROWS * width, self.kv_heads)
        };
        for_each_chunk(pool, [(out, chunk)], |worker, index, [out]| {
            let mut scratch = scratch[worker].lock().unwrap_or_else(PoisonError::into_inner);
            let offset = index * chunk;
            let (first_row, first_head) = (offset / width, offset % width / (self.group() * self.head_dim));
            let out_width = if rows == 1 { chunk } else { width };
            let rows_here = out.len() / out_width;
            for h in 0..row_heads {
                let work = HeadWork {
                    head: first_head + h,
                    first_row,
                    rows: rows_here,
                    start,
                    out_width,
                    out_head: h,
                };
                self.attend_head(kv, &work, q, out, &mut scratch);
            }
        });
    }

    /// One KV head for up to `ROWS` rows.
    fn attend_head(
        &self,
        kv: &KvLayer,
        work: &HeadWork,
        q: &[f32],
        out: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        let (dim, group) = (self.head_dim, self.group());
        let block = group * dim;
        let width = self.heads * dim;
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
fn softmax_step(
    scores: &mut [f32],
    visible: std::ops::Range<usize>,
    running: &mut (f32, f32),
    mixed: &mut [f32],
) {
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
