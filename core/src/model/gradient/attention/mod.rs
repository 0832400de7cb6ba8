//! Attention inside packed sequences, and its adjoint, in tiles of query rows.
//!
//! A task is one head of one sequence, or of all where they share rows. It turns that head's queries and keys, and for a few query rows at a time has their
//! scores with every key they see; no more of the scores ever exists. Forward keeps the logarithm of each row's sum of
//! exponentials, from which the way back has the weights again.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::super::Decoder;
use super::super::blocks::{Heads, Turn};
use super::packed::{Packed, Segment};
use crate::kernels::gemm::{Left, PANEL, Right, multiply};
use crate::kernels::{Aligned, LANES, Pool, derivative, for_each_chunk, for_each_span, turn, vector};

/// Query rows of a tile: whole register tiles of the products.
const ROWS: usize = 24;
/// Rows that one task puts together.
const ROWS_OF_A_TASK: usize = 8;

/// One worker's buffers.
#[derive(Debug)]
struct Worker {
    /// A head's turned queries and keys, its values, and the gradient of what it makes: positions × padded head.
    q: Aligned,
    k: Aligned,
    v: Aligned,
    g: Aligned,
    /// Keys and values with positions in the lanes: position panels × padded head × [`PANEL`].
    keys: Aligned,
    values: Aligned,
    /// Gradients: positions × padded head.
    dq: Aligned,
    dk: Aligned,
    dv: Aligned,
    /// ROWS × positions.
    scores: Aligned,
    score_gradients: Aligned,
}

/// The buffers of attention, one a worker.
#[derive(Debug)]
pub(super) struct AttentionScratch {
    workers: Vec<Mutex<Worker>>,
}

impl AttentionScratch {
    pub fn new(decoder: &Decoder, rows: usize, threads: usize) -> Self {
        let dim = decoder.layers.iter().map(|l| l.attention.heads.dim).max().unwrap_or(0);
        Self::for_heads(dim, rows, threads)
    }

    /// For heads of `dim` elements at most.
    fn for_heads(dim: usize, rows: usize, threads: usize) -> Self {
        let rows = rows.next_multiple_of(LANES);
        let head = || Aligned::new(rows * padded(dim));
        let scores = || Aligned::new(ROWS * rows);
        let worker = || Worker {
            q: head(),
            k: head(),
            v: head(),
            g: head(),
            keys: head(),
            values: head(),
            dq: head(),
            dk: head(),
            dv: head(),
            scores: scores(),
            score_gradients: scores(),
        };
        Self { workers: (0..threads).map(|_| Mutex::new(worker())).collect() }
    }

    /// Elements of all buffers of a worker.
    pub fn words(decoder: &Decoder, rows: usize) -> usize {
        9 * Self::padded_rows(decoder, rows) + 2 * ROWS * rows.next_multiple_of(LANES)
    }

    fn padded_rows(decoder: &Decoder, rows: usize) -> usize {
        let dim = decoder.layers.iter().map(|l| padded(l.attention.heads.dim)).max().unwrap_or(0);
        rows.next_multiple_of(LANES) * dim
    }
}

fn padded(dim: usize) -> usize {
    dim.next_multiple_of(PANEL)
}

/// What one layer's attention reads.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub heads: &'a Heads,
    /// What happens to q and k first.
    pub q_turn: Turn<'a>,
    pub k_turn: Turn<'a>,
    /// rows × (heads · dim), rows × (kv · dim).
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
}

/// Copies a head of every position of a segment in `range`, `width` elements a row in `from`, through `each`, to rows of the
/// padded size at the same positions; what heads are padded with is zero.
fn load(
    (segment, range): (&Segment, Range<usize>),
    from: &[f32],
    (width, head, dim): (usize, usize, usize),
    to: &mut [f32],
    each: impl Fn(usize, &[f32], &mut [f32]),
) {
    let stride = padded(dim);
    for position in range {
        let row = segment.row(position);
        let (to, beyond) = to[position * stride..][..stride].split_at_mut(dim);
        each(row, &from[row * width + head * dim..][..dim], to);
        beyond.fill(0.0);
    }
}

/// Rows of `stride` elements with rows in the lanes: panel p, element d at `[(p · stride + d) · PANEL..]`.
fn turn_round(from: &[f32], stride: usize, to: &mut [f32]) {
    for (rows, panel) in from.chunks_exact(LANES * stride).zip(to.chunks_exact_mut(LANES * stride)) {
        turn(|line| Some(&rows[line * stride..][..stride]), panel.as_chunks_mut().0);
    }
}

impl Inputs<'_> {
    /// A head's turned queries and keys and its values, as the products read them.
    fn load(&self, head: usize, segment: &Segment, worker: &mut Worker) {
        let Heads { dim, count, .. } = *self.heads;
        let of_kv = (self.heads.kv_len(), head / self.heads.group(), dim);
        let (own, seen) = ((segment, segment.shared..segment.end()), (segment, 0..segment.end()));
        load(own, self.q, (count * dim, head, dim), &mut worker.q, |row, x, out| self.q_turn.apply(row, x, out));
        load(seen.clone(), self.k, of_kv, &mut worker.k, |row, x, out| self.k_turn.apply(row, x, out));
        load(seen, self.v, of_kv, &mut worker.v, |_, x, out| out.copy_from_slice(x));
        let stride = padded(dim);
        let held = segment.end().next_multiple_of(LANES) * stride;
        worker.k[segment.end() * stride..held].fill(0.0);
        worker.v[segment.end() * stride..held].fill(0.0);
        turn_round(&worker.k[..held], stride, &mut worker.keys);
    }

    /// The scores of queries at positions `from..from + rows` with the keys from the first returned on, row after row of as many
    /// elements as returned second; scaled and capped.
    fn scores(&self, from: usize, rows: usize, worker: &mut Worker) -> (usize, usize) {
        let (dim, stride) = (self.heads.dim, padded(self.heads.dim));
        let first = self.heads.window.first(from) / PANEL * PANEL;
        let cols = from + rows - first;
        multiply(
            (rows, dim, cols),
            Left { data: &worker.q[from * stride..], row: stride, step: 1 },
            Right { data: &worker.keys[first * stride..], row: PANEL, panel: stride * PANEL },
            (&mut worker.scores, cols),
            false,
        );
        let scores = &mut worker.scores[..rows * cols];
        vector::scale(self.heads.scale, scores);
        if let Some(cap) = self.heads.soft_cap {
            vector::soft_cap(scores, cap);
        }
        (first, cols)
    }

    /// The scores of a row that a query at `position` sees, with keys counted from `first`.
    fn seen(&self, position: usize, first: usize) -> std::ops::Range<usize> {
        self.heads.window.first(position) - first..position + 1 - first
    }

    /// out = softmax(scale · q·K) V of every head, all rows of a head and then those of the next; `score_sums` likewise.
    pub fn forward(
        &self,
        pool: &Pool,
        batch: &Packed,
        scratch: &AttentionScratch,
        out: &mut [f32],
        score_sums: &mut [f32],
    ) {
        let dim = self.heads.dim;
        let stride = padded(dim);
        let spans = &batch.spans[..self.heads.count * batch.spans_of_head()];
        for_each_span(pool, spans, [(out, dim), (score_sums, 1)], |worker, index, [out, score_sums]| {
            let mut worker = scratch.workers[worker].lock().unwrap_or_else(PoisonError::into_inner);
            let (head, base, segments) = batch.span(index);
            for segment in segments {
                self.load(head, segment, &mut worker);
                for from in (segment.shared..segment.end()).step_by(ROWS) {
                    let rows = ROWS.min(segment.end() - from);
                    let (first, cols) = self.scores(from, rows, &mut worker);
                    let Worker { scores, v, .. } = &mut *worker;
                    let at = segment.row(from) - base;
                    for (i, row) in scores.chunks_exact_mut(cols).take(rows).enumerate() {
                        let seen = self.seen(from + i, first);
                        row[..seen.start].fill(0.0);
                        row[seen.end..].fill(0.0);
                        let row = &mut row[seen];
                        let max = vector::max(row);
                        let sum = vector::exp_shifted(row, max);
                        vector::scale(1.0 / sum, row);
                        score_sums[at + i] = max + sum.ln();
                    }
                    multiply(
                        (rows, cols, dim),
                        Left { data: scores, row: cols, step: 1 },
                        Right { data: &v[first * stride..], row: stride, panel: PANEL },
                        (&mut out[at * dim..], dim),
                        false,
                    );
                }
            }
        });
    }

    /// The gradients of q, k and v before they were turned, from the gradient `g` of what attention made (rows × (heads · dim))
    /// and the `score_sums` of the way there: of each head by itself, all rows of a head and then those of the next.
    pub fn backward(
        &self,
        pool: &Pool,
        batch: &Packed,
        scratch: &AttentionScratch,
        (g, score_sums): (&[f32], &[f32]),
        [dq, dk, dv]: [&mut [f32]; 3],
    ) {
        let Heads { dim, count, .. } = *self.heads;
        let stride = padded(dim);
        let spans = &batch.spans[..count * batch.spans_of_head()];
        for_each_span(pool, spans, [(dq, dim), (dk, dim), (dv, dim)], |worker, index, [dq, dk, dv]| {
            let mut worker = scratch.workers[worker].lock().unwrap_or_else(PoisonError::into_inner);
            let (head, base, segments) = batch.span(index);
            // What is shared comes last, and has gradients from all before it.
            worker.dk[..batch.shared * stride].fill(0.0);
            worker.dv[..batch.shared * stride].fill(0.0);
            for segment in segments {
                let own = segment.shared..segment.end();
                self.load(head, segment, &mut worker);
                let copy = |_, x: &[f32], out: &mut [f32]| out.copy_from_slice(x);
                load((segment, own.clone()), g, (count * dim, head, dim), &mut worker.g, copy);
                let held = segment.end().next_multiple_of(LANES) * stride;
                {
                    let Worker { v, values, dk, dv, .. } = &mut *worker;
                    turn_round(&v[..held], stride, values);
                    let fresh = (batch.shared * stride).min(held);
                    dk[fresh..held].fill(0.0);
                    dv[fresh..held].fill(0.0);
                }
                for from in own.clone().step_by(ROWS) {
                    let at = segment.row(from);
                    let shifts = &score_sums[head * batch.rows() + at..];
                    self.tile_backward(from, ROWS.min(segment.end() - from), shifts, &mut worker);
                }
                let of_kv = head / self.heads.group();
                for position in own {
                    let row = segment.row(position);
                    let (own, out) =
                        (position * stride..position * stride + dim, (row - base) * dim..(row - base + 1) * dim);
                    let q = &self.q[(row * count + head) * dim..][..dim];
                    let k = &self.k[row * self.heads.kv_len() + of_kv * dim..][..dim];
                    self.q_turn.adjoint(row, q, &mut worker.dq[own.clone()], &mut dq[out.clone()]);
                    self.k_turn.adjoint(row, k, &mut worker.dk[own.clone()], &mut dk[out.clone()]);
                    dv[out].copy_from_slice(&worker.dv[own]);
                }
            }
        });
    }

    /// The part of queries at positions `from..from + rows` in a head's gradients; `shifts` begins with their score sums.
    fn tile_backward(&self, from: usize, rows: usize, shifts: &[f32], worker: &mut Worker) {
        let (dim, stride) = (self.heads.dim, padded(self.heads.dim));
        let (first, cols) = self.scores(from, rows, worker);
        let Worker { q, k, g, values, scores, score_gradients, dq, dk, dv, .. } = worker;
        let of_keys = first * stride;
        let (q, g) = (&q[from * stride..], &g[from * stride..]);
        multiply(
            (rows, dim, cols),
            Left { data: g, row: stride, step: 1 },
            Right { data: &values[of_keys..], row: PANEL, panel: stride * PANEL },
            (score_gradients, cols),
            false,
        );
        let lines = scores.chunks_exact_mut(cols).zip(score_gradients.chunks_exact_mut(cols));
        for (i, ((row, gradients), &shift)) in lines.zip(shifts).take(rows).enumerate() {
            let seen = self.seen(from + i, first);
            for beyond in [0..seen.start, seen.end..cols] {
                row[beyond.clone()].fill(0.0);
                gradients[beyond].fill(0.0);
            }
            let (row, gradients) = (&mut row[seen.clone()], &mut gradients[seen]);
            let inverse_cap = self.heads.soft_cap.map_or(0.0, |cap| 1.0 / cap);
            derivative::capped_softmax(row, shift, inverse_cap, self.heads.scale, gradients);
        }
        let rows_of = |data| Right { data, row: stride, panel: PANEL };
        let turned = |data| Left { data, row: 1, step: cols };
        multiply((cols, rows, dim), turned(scores), rows_of(g), (&mut dv[of_keys..], stride), true);
        multiply((cols, rows, dim), turned(score_gradients), rows_of(q), (&mut dk[of_keys..], stride), true);
        let left = Left { data: score_gradients, row: cols, step: 1 };
        multiply((rows, cols, dim), left, rows_of(&k[of_keys..]), (&mut dq[from * stride..], stride), false);
    }
}

/// Puts what is by head into rows, adding up heads that share one: `to` is rows × (heads of `to` · dim).
pub(super) fn into_rows<const N: usize>(
    pool: &Pool,
    heads: &Heads,
    from: [&[f32]; N],
    to: [(&mut [f32], usize); N],
    rows: usize,
) {
    let dim = heads.dim;
    let counts = to.each_ref().map(|(_, count)| *count);
    let outputs = to.map(|(to, count)| (to, ROWS_OF_A_TASK * count * dim));
    for_each_chunk(pool, outputs, |_, index, outs| {
        for ((out, from), count) in outs.into_iter().zip(from).zip(counts) {
            for (i, out) in out.chunks_exact_mut(count * dim).enumerate() {
                let row = index * ROWS_OF_A_TASK + i;
                let group = heads.count / count;
                for (kv, out) in out.chunks_exact_mut(dim).enumerate() {
                    let of = |head: usize| &from[(head * rows + row) * dim..][..dim];
                    out.copy_from_slice(of(kv * group));
                    (kv * group + 1..(kv + 1) * group).for_each(|head| vector::add(of(head), out));
                }
            }
        }
    });
}

#[cfg(test)]
mod tests;
