//! Grouped-query attention over the KV cache, in tiles with a running softmax.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::kernels::attention::pairs::{DEPTH, PairQueries, PairTile, PairWeights};
use crate::kernels::attention::{BLOCK, MAX_ROWS, Running, TILE, fold_tile, merge, mix, scores};
use crate::kernels::{Aligned, Pool, Tier, derivative, for_each_chunk, vector};

use super::super::kv::{KvLayer, padded};
use super::super::{Linear, Scratch};
use super::{RmsNorm, Rope};

/// Query rows of a batch handled by one task, for which a tile is read, and taken as integers, once: as many as leave every thread
/// two tasks of a batch and make no more than [`QUERIES`], but within these.
const ROWS: Range<usize> = 16..64;
/// Elements of queries that stay in the second-level cache beside what is mixed for them.
const QUERIES: usize = 1 << 15;
/// Consecutive positions of one stripe, a multiple of [`TILE`].
const SPAN: usize = 2 * TILE;
/// The positions are dealt to this many stripes, span by span. Each has its own running softmax, and they are merged in
/// order: one row's stripes are computed side by side, a batch's one after the other, with the same result.
const STRIPES: usize = 8;
/// Elements of keys and values below which one row's attention is not worth waking the pool for.
const SMALL: usize = 1 << 13;

/// Rows of a batch from which keys and values are taken as pairs of integers, where the CPU and the cache's format allow it: below,
/// it takes longer than the products save.
const PAIRED: usize = 16;

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
    pub(in crate::model) fn first(self, position: usize) -> usize {
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

/// What happens to a head of q or k between its product and attention.
#[derive(Debug, Clone, Copy, Default)]
pub struct Turn<'a> {
    /// The norm's weight and epsilon.
    pub norm: Option<(&'a [f32], f32)>,
    /// The rotation, and its tables, row after row.
    pub rope: Option<(&'a Rope, &'a [f32])>,
}

impl Turn<'_> {
    /// out = the gradient of the head `x` of a row, where `g` is that of the head [`apply`](Self::apply) makes of it. Leaves g
    /// turned back.
    pub(in crate::model) fn adjoint(&self, row: usize, x: &[f32], g: &mut [f32], out: &mut [f32]) {
        if let Some((rope, tables)) = self.rope {
            let len = 2 * rope.angles();
            rope.undo(g, x.len(), &tables[row * len..][..len]);
        }
        match self.norm {
            Some((weight, eps)) => {
                out.fill(0.0);
                derivative::rms_norm(x, weight, eps, g, out);
            }
            None => out.copy_from_slice(g),
        }
    }

    /// out = the head `x` of a row, normed and turned.
    pub(in crate::model) fn apply(&self, row: usize, x: &[f32], out: &mut [f32]) {
        match self.norm {
            Some((weight, eps)) => vector::rms_norm(x, weight, eps, out),
            None => out.copy_from_slice(x),
        }
        if let Some((rope, tables)) = self.rope {
            let len = 2 * rope.angles();
            rope.apply(out, x.len(), &tables[row * len..][..len]);
        }
    }
}

/// Rows of queries that attend together.
#[derive(Clone, Copy)]
struct Rows<'a> {
    /// Of the first.
    position: usize,
    /// Heads of one KV head, row after row.
    queries: &'a [f32],
    /// The same as integers, where keys and values are taken as such.
    paired: Option<PairQueries<'a>>,
    /// Whether keys and values are asked for ahead: one row meets each of them once and finds them in memory.
    expecting: bool,
}

/// The buffers of attention.
#[derive(Debug)]
pub struct AttentionScratch {
    /// Query rows of a batch handled by one task.
    rows: usize,
    workers: Vec<Mutex<Worker>>,
    /// One row of queries.
    queries: Aligned,
    /// One row's parts, a stripe and KV head each: group × padded head, then the running softmaxes.
    parts: Aligned,
}

/// One worker's buffers.
#[derive(Debug)]
struct Worker {
    /// One head.
    head: Aligned,
    /// Queries of one KV head, row after row: rows · group × head_dim.
    queries: Aligned,
    /// Weighted values of a stripe and of all before it: rows · group × padded head.
    part: Aligned,
    total: Aligned,
    /// rows · group each.
    part_running: Vec<Running>,
    total_running: Vec<Running>,
    /// The queries as integers.
    integers: Aligned<i32>,
    steps: Vec<f32>,
    tile: TileScratch,
}

/// Buffers for one tile.
#[derive(Debug)]
struct TileScratch {
    /// MAX_ROWS × TILE.
    scores: Aligned,
    /// Where the CPU multiplies integers faster.
    pairs: Option<PairTile>,
    weights: PairWeights,
}

impl AttentionScratch {
    /// For any of `layers` on `workers` threads, beside the kernels of a tier: what rounds activations may round here as well.
    pub fn new(layers: impl Iterator<Item = Heads> + Clone, workers: usize, tier: Tier) -> Self {
        let largest = |f: fn(&Heads) -> usize| layers.clone().map(|heads| f(&heads)).max().unwrap_or(0);
        let (dim, group) = (largest(|h| h.dim), largest(|h| h.group()));
        let rows = (Scratch::DEFAULT_BATCH / (2 * workers.max(1))).min(QUERIES / (group * dim).max(1));
        let rows = rows.clamp(ROWS.start, ROWS.end);
        let worker = || {
            let pairs = PairTile::new(tier, dim);
            Mutex::new(Worker {
                head: Aligned::new(dim),
                queries: Aligned::new(rows * group * dim),
                part: Aligned::new(rows * group * padded(dim)),
                total: Aligned::new(rows * group * padded(dim)),
                part_running: vec![Running::EMPTY; rows * group],
                total_running: vec![Running::EMPTY; rows * group],
                integers: Aligned::new(if pairs.is_some() { rows * group * dim / 2 } else { 0 }),
                steps: vec![0.0; rows * group * dim.div_ceil(DEPTH)],
                tile: TileScratch { scores: Aligned::new(MAX_ROWS * TILE), pairs, weights: PairWeights::default() },
            })
        };
        Self {
            rows,
            workers: (0..workers).map(|_| worker()).collect(),
            queries: Aligned::new(largest(|h| h.q_len())),
            parts: Aligned::new(largest(|h| STRIPES * h.kv * h.part_words())),
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

    /// Words of one stripe's part of one KV head, whole cache lines.
    fn part_words(&self) -> usize {
        self.group() * padded(self.dim) + (2 * self.group()).next_multiple_of(BLOCK)
    }

    /// Appends k, turned, and v of the rows at positions `start..` to the cache; both are rows × (kv · dim).
    #[allow(clippy::too_many_arguments)]
    pub fn store(
        &self,
        pool: &Pool,
        kv: &mut KvLayer,
        start: usize,
        k: &[f32],
        v: &[f32],
        turn: Turn<'_>,
        scratch: &AttentionScratch,
    ) {
        let (dim, kv_len) = (self.dim, self.kv_len());
        let end = start + k.len() / kv_len;
        let (keys, values) = (kv.k.layout(), kv.v.layout());
        let mut next = start;
        while next < end {
            let positions = kv.together(next, end);
            next = positions.end;
            let blocks = [
                (kv.k.blocks_mut(positions.clone()), keys.block_words()),
                (kv.v.blocks_mut(positions.clone()), values.block_words()),
            ];
            for_each_chunk(pool, blocks, |worker, index, [key_block, value_block]| {
                let head = &mut lock(&scratch.workers[worker]).head[..dim];
                let first = (positions.start / BLOCK + index) * BLOCK;
                for position in first.max(positions.start)..(first + BLOCK).min(positions.end) {
                    let row = position - start;
                    for h in 0..self.kv {
                        let at = row * kv_len + h * dim..row * kv_len + (h + 1) * dim;
                        turn.apply(row, &k[at.clone()], head);
                        keys.store(key_block, h, position % BLOCK, head);
                        values.store(value_block, h, position % BLOCK, &v[at]);
                    }
                }
            });
        }
    }

    /// out\[r\] = softmax(scale · q\[r\]·K) V for rows at positions `start..`, whose keys and values are in `kv` already and whose
    /// queries are turned first. `q` and `out` are rows × (count · dim).
    #[allow(clippy::too_many_arguments)]
    pub fn attend(
        &self,
        pool: &Pool,
        kv: &KvLayer,
        start: usize,
        q: &[f32],
        turn: Turn<'_>,
        out: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        if q.len() == self.q_len() {
            self.attend_one(pool, kv, start, q, turn, out, scratch);
            return;
        }
        let (dim, width, block) = (self.dim, self.q_len(), self.group() * self.dim);
        let paired = q.len() >= PAIRED * width && kv.takes_pairs();
        let AttentionScratch { rows: most, workers, .. } = &*scratch;
        for_each_chunk(pool, [(out, most * width)], |worker, index, [out]| {
            let mut worker = lock(&workers[worker]);
            let Worker { queries, part, total, part_running, total_running, integers, steps, tile, .. } = &mut *worker;
            let count = out.len() / width;
            let heads = count * self.group();
            let queries = &mut queries[..heads * dim];
            let (part, total) = (&mut part[..heads * padded(dim)], &mut total[..heads * padded(dim)]);
            let (part_running, total_running) = (&mut part_running[..heads], &mut total_running[..heads]);
            for head in 0..self.kv {
                for (r, queries) in queries.chunks_exact_mut(block).enumerate() {
                    let row = index * most + r;
                    self.turn_queries(turn, row, &q[row * width + head * block..][..block], queries);
                }
                total.fill(0.0);
                total_running.fill(Running::EMPTY);
                let position = start + index * most;
                let paired = (paired && tile.pairs.is_some()).then(|| {
                    let integers = &mut integers[..heads * dim / 2];
                    let steps = &mut steps[..heads * dim.div_ceil(DEPTH)];
                    PairTile::queries(queries, dim, integers, steps);
                    PairQueries { integers, steps }
                });
                let rows = Rows { position, queries, paired, expecting: false };
                for stripe in self.stripes(position, count) {
                    self.fold_stripe(kv, (head, stripe), rows, part, part_running, tile, None);
                    let parts = part_running.iter().zip(part.chunks_exact(padded(dim)));
                    let totals = total_running.iter_mut().zip(total.chunks_exact_mut(padded(dim)));
                    for ((running, part), total) in parts.zip(totals) {
                        merge((*running, part), total);
                    }
                }
                for (r, row) in out.chunks_exact_mut(width).enumerate() {
                    let of_row = r * self.group();
                    self.finish(
                        &total[of_row * padded(dim)..],
                        &total_running[of_row..],
                        &mut row[head * block..][..block],
                    );
                }
            }
        });
    }

    /// One row: its stripes and KV heads are spread over the pool.
    #[allow(clippy::too_many_arguments)]
    fn attend_one(
        &self,
        pool: &Pool,
        kv: &KvLayer,
        position: usize,
        q: &[f32],
        turn: Turn<'_>,
        out: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        let (group, dim, words) = (self.group(), self.dim, self.part_words());
        let block = group * dim;
        let AttentionScratch { workers, queries, parts, .. } = scratch;
        let queries = &mut queries[..q.len()];
        self.turn_queries(turn, 0, q, queries);
        let stripes = self.stripes(position, 1);
        let parts = &mut parts[..stripes.clone().count() * self.kv * words];
        let task = |worker: usize, index: usize, part: &mut [f32]| {
            let mut worker = lock(&workers[worker]);
            let Worker { part_running, tile, .. } = &mut *worker;
            let (Some(stripe), head) = (stripes.clone().nth(index / self.kv), index % self.kv) else { return };
            let (part, ends) = part.split_at_mut(group * padded(dim));
            let queries = &queries[head * block..][..block];
            let running = &mut part_running[..group];
            // Whoever has this task has most likely the next one too.
            let after = stripes.clone().nth((index + 1) / self.kv).map(|stripe| ((index + 1) % self.kv, stripe));
            let rows = Rows { position, queries, paired: None, expecting: true };
            self.fold_stripe(kv, (head, stripe), rows, part, running, tile, after);
            for (end, running) in ends.as_chunks_mut::<2>().0.iter_mut().zip(running) {
                *end = [running.max, running.sum];
            }
        };
        let seen = position + 1 - self.window.first(position);
        if seen * self.kv_len() < SMALL {
            parts.chunks_exact_mut(words).enumerate().for_each(|(index, part)| task(0, index, part));
        } else {
            for_each_chunk(pool, [(&mut *parts, words)], |worker, index, [part]| task(worker, index, part));
        }

        let mut worker = lock(&workers[0]);
        let Worker { total, total_running, .. } = &mut *worker;
        let (total, total_running) = (&mut total[..group * padded(dim)], &mut total_running[..group]);
        for (head, out) in out.chunks_exact_mut(block).enumerate() {
            total.fill(0.0);
            total_running.fill(Running::EMPTY);
            for part in parts.chunks_exact(words).skip(head).step_by(self.kv) {
                let (part, ends) = part.split_at(group * padded(dim));
                let parts = part.chunks_exact(padded(dim)).zip(ends.as_chunks::<2>().0);
                let totals = total_running.iter_mut().zip(total.chunks_exact_mut(padded(dim)));
                for ((part, &[max, sum]), total) in parts.zip(totals) {
                    merge((Running { max, sum }, part), total);
                }
            }
            self.finish(total, total_running, out);
        }
    }

    /// The stripes with positions that any of `rows` from `position` on sees, in order.
    fn stripes(&self, position: usize, rows: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        let first = self.window.first(position) / SPAN;
        let spans = (position + rows - 1) / SPAN - first + 1;
        (0..STRIPES).filter(move |stripe| (stripe + STRIPES - first % STRIPES) % STRIPES < spans)
    }

    /// Turns the heads of one row, and scales them instead of their scores.
    fn turn_queries(&self, turn: Turn<'_>, row: usize, q: &[f32], out: &mut [f32]) {
        for (q, out) in q.chunks_exact(self.dim).zip(out.chunks_exact_mut(self.dim)) {
            turn.apply(row, q, out);
            vector::scale(self.scale, out);
        }
    }

    /// A stripe of a KV head for some rows: the weighted values in `part`, the weights' maximum and sum in `running`. `after` is
    /// the head and stripe that come next.
    #[allow(clippy::too_many_arguments)]
    fn fold_stripe(
        &self,
        kv: &KvLayer,
        (head, stripe): (usize, usize),
        rows: Rows<'_>,
        part: &mut [f32],
        running: &mut [Running],
        scratch: &mut TileScratch,
        after: Option<(usize, usize)>,
    ) {
        part.fill(0.0);
        running.fill(Running::EMPTY);
        let seen = self.window.first(rows.position)..rows.position + running.len().div_ceil(self.group());
        let mut tiles = self.tiles(seen.clone(), stripe).peekable();
        while let Some(tile) = tiles.next() {
            let in_another = || after.and_then(|(head, stripe)| Some((head, self.tiles(seen.clone(), stripe).next()?)));
            let next = tiles.peek().map(|tile| (head, *tile)).or_else(in_another);
            self.fold_tile(kv, (head, tile), rows, part, running, scratch, next);
        }
    }

    /// The first positions of a stripe's tiles that any of the positions `seen` lies in.
    fn tiles(&self, seen: Range<usize>, stripe: usize) -> impl Iterator<Item = usize> {
        let first_span = seen.start / SPAN;
        let first_span = first_span + (stripe + STRIPES - first_span % STRIPES) % STRIPES;
        let spans = (first_span..seen.end.div_ceil(SPAN)).step_by(STRIPES);
        let tiles = spans.flat_map(|span| (span * SPAN..(span + 1) * SPAN).step_by(TILE));
        tiles.filter(move |tile| *tile < seen.end && tile + TILE > seen.start)
    }

    /// A tile of a KV head, of positions from `from` on, of the same; a few queries at a time, so that their scores stay in the
    /// first-level cache. `next` is the tile that comes next.
    #[allow(clippy::too_many_arguments)]
    fn fold_tile(
        &self,
        kv: &KvLayer,
        (head, from): (usize, usize),
        Rows { position, queries, paired, expecting }: Rows<'_>,
        part: &mut [f32],
        running: &mut [Running],
        scratch: &mut TileScratch,
        next: Option<(usize, usize)>,
    ) {
        let (dim, group) = (self.dim, self.group());
        let (keys, values) = (kv.keys(head, from), kv.values(head, from));
        let next = next.filter(|_| expecting).map(|(head, from)| kv.keys(head, from));
        let TileScratch { scores: scratch, pairs, weights } = scratch;
        let within = |p: usize| p.clamp(from, from + TILE) - from;
        let paired = pairs.as_mut().zip(paired);
        let paired = paired.map(|(tile, queries)| {
            let last = position + running.len().div_ceil(group);
            tile.load(&keys, &values, within(self.window.first(position))..within(last));
            (&*tile, queries)
        });
        let queries = queries.chunks(MAX_ROWS * dim).zip(running.chunks_mut(MAX_ROWS));
        for (i, ((queries, running), part)) in queries.zip(part.chunks_mut(MAX_ROWS * padded(dim))).enumerate() {
            let rows = running.len();
            let mut visible = [const { 0..0 }; MAX_ROWS];
            for (m, visible) in visible[..rows].iter_mut().enumerate() {
                let position = position + (i * MAX_ROWS + m) / group;
                *visible = within(self.window.first(position))..within(position + 1);
            }
            // Both ends move forward from row to row.
            let any = visible[0].start..visible[rows - 1].end;
            if any.is_empty() {
                continue;
            }
            let tile = &mut scratch[..rows * TILE];
            let blocks = any.start / BLOCK..any.end.div_ceil(BLOCK);
            match paired {
                Some((pairs, queries)) => {
                    pairs.scores(dim, queries.rows(dim, i * MAX_ROWS..i * MAX_ROWS + rows), blocks, tile);
                }
                None => scores(queries, &keys, blocks, tile, expecting.then_some(&values)),
            }
            if let Some(cap) = self.soft_cap {
                vector::soft_cap(tile, cap);
            }
            let mut keep = [0.0; MAX_ROWS];
            let rounded = paired.map(|(pairs, _)| pairs.rounded(weights));
            fold_tile(tile, &visible[..rows], running, &mut keep, rounded);
            match paired {
                Some((pairs, _)) => pairs.mix(dim, weights, any, &keep[..rows], part),
                None => mix(tile, &values, any, &keep[..rows], part, next.as_ref()),
            }
        }
    }

    /// out = weighted values / sum of the weights, for the heads of one row and KV head.
    fn finish(&self, mixed: &[f32], running: &[Running], out: &mut [f32]) {
        let heads = mixed.chunks_exact(padded(self.dim)).zip(running);
        for ((mixed, running), out) in heads.zip(out.chunks_exact_mut(self.dim)) {
            out.copy_from_slice(&mixed[..self.dim]);
            vector::scale(1.0 / running.sum, out);
        }
    }
}

/// Locks, ignoring poison: every buffer is written before it is read.
fn lock(worker: &Mutex<Worker>) -> MutexGuard<'_, Worker> {
    worker.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
