//! What a pass holds in memory, decided before anything is allocated.
//!
//! A layer's input is kept for every layer. What else its adjoint needs of the way from it to the next is its slot. As many
//! layers as there is room for keep theirs until the way back; the others share one, and are computed once more, with the
//! same result to the last bit. Inputs and slots are cut from one piece of memory by the rows of each batch, so that a
//! batch of fewer rows keeps more. Gate and up, the widest, are kept in f16: only their derivatives are taken from them.

use std::sync::Mutex;

use super::super::blocks::Heads;
use super::super::changes::ChangeScratch;
use super::super::{Decoder, Model, ModelError};
use super::attention::AttentionScratch;
use super::pass::GradientOptions;
use crate::adapter::DeltaBlock;
use crate::kernels::{Activations, TransposedScratch};
use crate::spectral::LaneBin;

/// Bytes a pass takes where no limit is given, unless it needs more.
const DEFAULT_BYTES: usize = 104 << 20;
/// Bytes of logits that exist at a time, where the limit allows it.
const LOGITS_BYTES: usize = 12 << 20;
/// Rows of logits at least, so that a block of the head is used for a few.
const MIN_HEAD_ROWS: usize = 4;
/// Rows of logits at most: more do not make the products faster.
const MAX_HEAD_ROWS: usize = 128;

/// Rows of a batch below which it is not made smaller to keep more: products with so few cost more than what is saved.
const FEW_ROWS: usize = 64;

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

    /// Words of a row of a layer's input and slot; `mixed`: what attention makes is kept too.
    pub fn slot(&self, mixed: bool) -> usize {
        let ends = if self.post_norms { 2 * self.hidden } else { 0 };
        let mixed = if mixed { self.q } else { 0 };
        self.q + mixed + 2 * self.kv + self.heads + self.hidden + 2 * self.halves() + ends
    }

    /// Words of a row of gate or up in f16.
    pub fn halves(&self) -> usize {
        self.inner.div_ceil(2)
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
    /// What attention makes of them; empty where nothing asks for it again.
    pub mixed: &'a mut [f32],
    /// Logarithm of the sum of the exponentials of a row's scores: all rows of a head, then those of the next.
    pub score_sums: &'a mut [f32],
    /// The residual between attention and feed-forward block.
    pub middle: &'a mut [f32],
    /// What the blocks end with; empty where no norm follows.
    pub attention_out: &'a mut [f32],
    pub mlp_out: &'a mut [f32],
    /// Rows of f16, in whole words.
    pub gate: &'a mut [f32],
    pub up: &'a mut [f32],
}

impl<'a> Slot<'a> {
    /// A slot of `rows` rows in the first words of `words`.
    pub fn new(words: &'a mut [f32], widths: &Widths, mixed: bool, rows: usize) -> Self {
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
            mixed: take(if mixed { widths.q } else { 0 }),
            score_sums: take(widths.heads),
            middle: take(widths.hidden),
            attention_out: take(end),
            mlp_out: take(end),
            gate: take(widths.halves()),
            up: take(widths.halves()),
        }
    }
}

/// How much of everything there is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub widths: Widths,
    /// Rows of a batch, at most.
    pub rows: usize,
    /// Words of inputs and slots.
    pub words: usize,
    /// Rows whose logits exist together.
    pub head_rows: usize,
    /// Bytes of everything.
    pub bytes: usize,
}

impl Plan {
    /// As much for inputs and slots as the limit allows: at least one slot of all rows, at most one a layer.
    ///
    /// # Errors
    /// [`ModelError::TuneMemory`] if one does not fit.
    pub fn new(model: &Model, options: &GradientOptions) -> Result<Self, ModelError> {
        let decoder = model.decoder();
        let widths = Widths::of(decoder);
        let rows = options.max_rows.clamp(1, decoder.context);
        let most = (LOGITS_BYTES / (4 * decoder.vocab)).clamp(MIN_HEAD_ROWS, MAX_HEAD_ROWS).min(rows);
        let least = MIN_HEAD_ROWS.min(rows);
        let layers = decoder.layers.len();
        let words = |slots: usize| {
            let row = widths.hidden * (layers + 1) + widths.slot(true).saturating_mul(slots);
            row.saturating_mul(rows)
        };
        let bytes = |head_rows: usize, words: usize| {
            let fixed = fixed_bytes(model, &widths, rows, head_rows).saturating_add(options.reserved);
            fixed.saturating_add(words.saturating_mul(size_of::<f32>()))
        };
        let needed = bytes(least, words(1));
        let limit = options.memory_limit.unwrap_or_else(|| needed.max(DEFAULT_BYTES));
        if needed > limit {
            return Err(ModelError::TuneMemory { needed, limit });
        }
        let head_rows = if bytes(most, words(1)) <= limit { most } else { least };
        let room = (limit - bytes(head_rows, 0)) / size_of::<f32>();
        let words = room.min(words(layers.max(1)));
        Ok(Self { widths, rows, words, head_rows, bytes: bytes(head_rows, words) })
    }

    /// Rows of a batch all of whose layers keep their slots, but enough that decoding a weight is worth it.
    pub fn batch_rows(&self, layers: usize, mixed: bool) -> usize {
        let row = self.widths.hidden * (layers + 1) + self.widths.slot(mixed) * layers;
        (self.words / row.max(1)).max(FEW_ROWS).min(self.rows)
    }
}

/// Bytes of everything but inputs and slots.
fn fixed_bytes(model: &Model, widths: &Widths, rows: usize, head_rows: usize) -> usize {
    let decoder = model.decoder();
    let angles: usize = decoder.ropes.iter().map(|r| 2 * r.angles()).sum();
    let a_row = widths.shared() + angles;
    let f32s = a_row.saturating_mul(rows).saturating_add(decoder.vocab.saturating_mul(head_rows));
    let threads = model.compute().threads();
    let largest = AttentionScratch::words(decoder, rows);
    // Three spectra of half as many bins, of real and imaginary lanes, and rows for what has no transform for blocks.
    let of_worker = largest.saturating_mul(4) + widths.widest() / 2 * 3 * size_of::<LaneBin>() + gathered(widths) * 4;
    let activations = rows.saturating_mul(widths.widest().saturating_mul(4 + 2 + 2) + widths.widest());
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
    /// rows × inner: gate and up on the way there, their gradients on the way back.
    pub gate_gradient: Vec<f32>,
    pub up_gradient: Vec<f32>,
    /// rows × q: what attention makes, its gradient, then that of q.
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
    pub changes: ChangeScratch,
    /// A block of rows in the order of the adapter, one a worker.
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
        let threads = model.compute().threads();
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
            activations: Activations::with_capacity(model.compute(), rows, widths.widest()),
            changes: ChangeScratch::new(decoder, model.transforms(), threads),
            gathered: (0..threads).map(|_| Mutex::new(vec![0.0; gathered(widths)])).collect(),
            partial: Vec::new(),
            attention: AttentionScratch::new(decoder, rows, threads),
            transposed: TransposedScratch::new(threads),
        }
    }
}
