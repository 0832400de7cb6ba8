//! What a pass holds in memory, decided before anything is allocated.
//!
//! A layer's input is kept for every layer. Between it and the next there are the slots: what a layer computes on the way and
//! its adjoint needs. As many layers as there is room for keep theirs until the way back; the others share one slot, and are
//! computed once more, with the same result to the last bit.

use std::sync::{Arc, Mutex};

use super::super::blocks::Heads;
use super::super::{Decoder, LinearKind, Model, ModelError};
use super::attention::AttentionScratch;
use super::pass::GradientOptions;
use crate::adapter::DeltaBlock;
use crate::kernels::{Activations, TransposedScratch};
use crate::spectral::LaneBin;

/// Bytes a pass takes where no limit is given, unless it needs more.
const DEFAULT_BYTES: usize = 96 << 20;
/// Bytes of logits that exist at a time, where the limit allows it.
const LOGITS_BYTES: usize = 12 << 20;
/// Rows of logits at least, so that a block of the head is used for a few.
const MIN_HEAD_ROWS: usize = 4;
/// Rows of logits at most: more do not make the products faster.
const MAX_HEAD_ROWS: usize = 128;

/// Elements of one row of everything that a layer computes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Widths {
    pub hidden: usize,
    pub inner: usize,
    pub q: usize,
    pub kv: usize,
    pub heads: usize,
    /// Whether what the attention and the feed-forward block end with is needed again: where a norm follows.
    post_norms: bool,
}

impl Widths {
    fn of(decoder: &Decoder) -> Self {
        let largest = |f: fn(&Heads) -> usize| decoder.layers.iter().map(|l| f(&l.attention.heads)).max().unwrap_or(1);
        let post_norms = decoder.layers.iter().any(|l| l.attention_post_norm.is_some() || l.mlp_post_norm.is_some());
        Self {
            hidden: decoder.hidden,
            inner: decoder.inner,
            q: largest(|h| h.q_len()),
            kv: largest(|h| h.kv_len()),
            heads: largest(|h| h.count),
            post_norms,
        }
    }

    /// Elements of a row of a slot.
    pub fn slot(&self) -> usize {
        let ends = if self.post_norms { 2 * self.hidden } else { 0 };
        2 * self.q + 2 * self.kv + self.heads + self.hidden + 2 * self.inner + ends
    }

    /// Elements of a row of all the buffers that layers share.
    fn shared(&self) -> usize {
        4 * self.hidden + 2 * self.inner + 4 * self.q + 2 * self.kv
    }

    fn widest(&self) -> usize {
        self.hidden.max(self.inner).max(self.q)
    }
}

/// What a layer computes on the way from its input to the next one's.
pub(super) struct Slot<'a> {
    /// Products, before norm and rotation.
    pub q: &'a mut [f32],
    pub k: &'a mut [f32],
    pub v: &'a mut [f32],
    /// What attention makes of them.
    pub mixed: &'a mut [f32],
    /// Logarithm of the sum of the exponentials of a row's scores: all rows of a head, then those of the next.
    pub score_sums: &'a mut [f32],
    /// The residual between attention and feed-forward block.
    pub middle: &'a mut [f32],
    /// What the blocks end with; empty where no norm follows.
    pub attention_out: &'a mut [f32],
    pub mlp_out: &'a mut [f32],
    pub gate: &'a mut [f32],
    pub up: &'a mut [f32],
}

impl<'a> Slot<'a> {
    /// A slot of `rows` rows in the first words of `words`.
    pub fn new(words: &'a mut [f32], widths: &Widths, rows: usize) -> Self {
        let mut rest = words;
        let mut take = |width: usize| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(rows * width);
            rest = after;
            part
        };
        let end = if widths.post_norms { widths.hidden } else { 0 };
        Self {
            q: take(widths.q),
            k: take(widths.kv),
            v: take(widths.kv),
            mixed: take(widths.q),
            score_sums: take(widths.heads),
            middle: take(widths.hidden),
            attention_out: take(end),
            mlp_out: take(end),
            gate: take(widths.inner),
            up: take(widths.inner),
        }
    }
}

/// How much of everything there is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub widths: Widths,
    /// Rows of a batch, at most.
    pub rows: usize,
    /// Slots for batches of so many rows; there are more for smaller ones.
    pub slots: usize,
    /// Rows whose logits exist together.
    pub head_rows: usize,
    /// Bytes of everything.
    pub bytes: usize,
}

impl Plan {
    /// As many slots as the limit allows, at least one and at most one a layer.
    ///
    /// # Errors
    /// [`ModelError::TuneMemory`] if one does not fit.
    pub fn new(model: &Model, options: &GradientOptions) -> Result<Self, ModelError> {
        let decoder = model.decoder();
        let widths = Widths::of(decoder);
        let rows = options.max_rows.clamp(1, decoder.context);
        let most = (LOGITS_BYTES / (4 * decoder.vocab)).clamp(MIN_HEAD_ROWS, MAX_HEAD_ROWS).min(rows);
        let least = MIN_HEAD_ROWS.min(rows);
        let slot = (widths.slot() * rows).saturating_mul(size_of::<f32>());
        let fixed = |head_rows: usize| fixed_bytes(model, &widths, rows, head_rows);
        let needed = fixed(least).saturating_add(slot);
        let limit = options.memory_limit.unwrap_or_else(|| needed.max(DEFAULT_BYTES));
        if needed > limit {
            return Err(ModelError::TuneMemory { needed, limit });
        }
        let head_rows = if fixed(most).saturating_add(slot) <= limit { most } else { least };
        let fixed = fixed(head_rows);
        let slots = ((limit - fixed) / slot.max(1)).clamp(1, decoder.layers.len().max(1));
        Ok(Self { widths, rows, slots, head_rows, bytes: fixed + slots * slot })
    }
}

/// Bytes of everything but the slots.
fn fixed_bytes(model: &Model, widths: &Widths, rows: usize, head_rows: usize) -> usize {
    let decoder = model.decoder();
    let angles: usize = decoder.ropes.iter().map(|r| 2 * r.angles()).sum();
    let a_row = widths.hidden * (decoder.layers.len() + 1) + widths.shared() + angles;
    let f32s = a_row.saturating_mul(rows).saturating_add(decoder.vocab.saturating_mul(head_rows));
    let threads = model.compute().threads();
    let largest = AttentionScratch::words(decoder, rows);
    // Three spectra of half as many bins, of real and imaginary lanes, and rows for what has no transform for blocks.
    let of_worker = largest.saturating_mul(4) + widths.widest() / 2 * 3 * size_of::<LaneBin>() + gathered(widths) * 4;
    let activations = rows.saturating_mul(widths.widest().saturating_mul(4 + 2) + widths.widest());
    f32s.saturating_mul(4)
        .saturating_add(activations)
        .saturating_add(threads.saturating_mul(of_worker))
        .saturating_add(TransposedScratch::bytes(threads))
}

/// Elements of a block of rows of any linear's outputs.
fn gathered(widths: &Widths) -> usize {
    DeltaBlock::ROWS * widths.widest()
}

/// Every buffer that layers share.
pub(super) struct Buffers {
    /// rows × hidden: a norm, what a block ends with, the gradient of the residual and of a norm.
    pub normed: Vec<f32>,
    pub out: Vec<f32>,
    pub gradient: Vec<f32>,
    pub normed_gradient: Vec<f32>,
    /// rows × inner: what the feed-forward block's last product reads and its gradient, then the gradients of gate and up.
    pub gate_gradient: Vec<f32>,
    pub up_gradient: Vec<f32>,
    /// rows × q: the gradient of what attention makes, then that of q.
    pub q_gradient: Vec<f32>,
    /// rows × kv.
    pub k_gradient: Vec<f32>,
    pub v_gradient: Vec<f32>,
    /// Attention's results, head by head: heads × rows × head size.
    pub by_head: [Vec<f32>; 3],
    /// Cosines and sines of every rotary embedding, for every row.
    pub angles: Vec<f32>,
    /// head_rows × vocab, and for each row the largest logit, the sum of the exponentials and the target's logit.
    pub logits: Vec<f32>,
    pub logit_sums: Vec<f32>,
    pub activations: Activations,
    /// One a worker; a worker locks only its own.
    pub deltas: Vec<Mutex<DeltaBlock>>,
    /// A block of rows in the order of the adapter, likewise.
    pub gathered: Vec<Mutex<Vec<f32>>>,
    /// Parts of the gradients of a layer's parameters; grows with the first adapter.
    pub partial: Vec<f32>,
    pub attention: AttentionScratch,
    pub transposed: TransposedScratch,
}

impl Buffers {
    pub fn new(model: &Model, plan: &Plan) -> Self {
        let (decoder, widths, rows) = (model.decoder(), &plan.widths, plan.rows);
        let of = |width: usize| vec![0.0; rows * width];
        let angles: usize = decoder.ropes.iter().map(|r| 2 * r.angles()).sum();
        let lengths = || {
            let linears = decoder.layers.iter().flat_map(|l| LinearKind::ALL.map(|kind| l.linear(kind).shape()));
            linears.flat_map(|(rows, cols)| [rows, cols])
        };
        let threads = model.compute().threads();
        let delta = || Mutex::new(DeltaBlock::new(Arc::clone(model.transforms()), lengths()));
        Self {
            normed: of(widths.hidden),
            out: of(widths.hidden),
            gradient: of(widths.hidden),
            normed_gradient: of(widths.hidden),
            gate_gradient: of(widths.inner),
            up_gradient: of(widths.inner),
            q_gradient: of(widths.q),
            k_gradient: of(widths.kv),
            v_gradient: of(widths.kv),
            by_head: [of(widths.q), of(widths.q), of(widths.q)],
            angles: of(angles),
            logits: vec![0.0; plan.head_rows * decoder.vocab],
            logit_sums: vec![0.0; plan.head_rows * 3],
            activations: Activations::with_capacity(rows, widths.widest()),
            deltas: (0..threads).map(|_| delta()).collect(),
            gathered: (0..threads).map(|_| Mutex::new(vec![0.0; gathered(widths)])).collect(),
            partial: Vec::new(),
            attention: AttentionScratch::new(decoder, rows, threads),
            transposed: TransposedScratch::new(threads),
        }
    }
}
