//! Every buffer of a forward pass, planned once.

use std::sync::Arc;

use crate::kernels::{Activations, Aligned, Compute};
use crate::spectral::Transforms;

use super::Decoder;
use super::blocks::{AttentionScratch, Heads};
use super::changes::ChangeScratch;

/// Buffers for batches of up to `batch` rows. Nothing in a forward pass allocates besides.
pub struct Scratch {
    batch: usize,
    /// Residual, its norm, a block's output: batch × hidden.
    pub(super) x: Aligned,
    pub(super) normed: Aligned,
    pub(super) out: Aligned,
    /// batch × heads · head_dim (q, attention output) and batch × kv_heads · head_dim (k, v).
    pub(super) q: Aligned,
    pub(super) mixed: Aligned,
    pub(super) k: Aligned,
    pub(super) v: Aligned,
    /// batch × inner.
    pub(super) gate: Aligned,
    pub(super) up: Aligned,
    /// Cosines and sines of every rotary embedding, for every row.
    pub(super) angles: Aligned,
    /// One row, more only where a pass wants every row's.
    pub(super) logits: Vec<f32>,
    vocab: usize,
    pub(super) activations: Activations,
    pub(super) changes: ChangeScratch,
    pub(super) attention: AttentionScratch,
}

impl Scratch {
    /// Rows a batch of this decoder holds by default: enough to use a weight block many times, few enough that the
    /// activations stay in the second-level cache.
    pub const DEFAULT_BATCH: usize = 128;

    pub(super) fn new(decoder: &Decoder, compute: &Compute, transforms: &Arc<Transforms>, batch: usize) -> Self {
        let batch = batch.max(1);
        let largest = |f: fn(&Heads) -> usize| decoder.layers.iter().map(|l| f(&l.attention.heads)).max().unwrap_or(1);
        let q_len = largest(|h| h.q_len());
        let kv_len = largest(|h| h.kv_len());
        let widest = decoder.hidden.max(decoder.inner).max(q_len);
        let angles: usize = decoder.ropes.iter().map(|r| 2 * r.angles()).sum();
        let rows = |width: usize| Aligned::new(batch * width);
        let workers = compute.threads();
        Self {
            batch,
            x: rows(decoder.hidden),
            normed: rows(decoder.hidden),
            out: rows(decoder.hidden),
            q: rows(q_len),
            mixed: rows(q_len),
            k: rows(kv_len),
            v: rows(kv_len),
            gate: rows(decoder.inner),
            up: rows(decoder.inner),
            angles: rows(angles),
            logits: vec![0.0; decoder.vocab],
            vocab: decoder.vocab,
            activations: Activations::with_capacity(compute, batch, widest),
            changes: ChangeScratch::new(decoder, transforms, workers),
            attention: AttentionScratch::new(decoder.layers.iter().map(|l| l.attention.heads), workers, compute.tier()),
        }
    }

    /// Bytes that a pass over `batch` rows plans at most, activations in both forms included, workers' own buffers excluded.
    pub(super) fn bytes_of(decoder: &Decoder, batch: usize) -> usize {
        let largest = |f: fn(&Heads) -> usize| decoder.layers.iter().map(|l| f(&l.attention.heads)).max().unwrap_or(1);
        let (q_len, kv_len) = (largest(|h| h.q_len()), largest(|h| h.kv_len()));
        let widest = decoder.hidden.max(decoder.inner).max(q_len);
        let angles: usize = decoder.ropes.iter().map(|r| 2 * r.angles()).sum();
        let floats = 3 * decoder.hidden + 2 * (q_len + kv_len + decoder.inner) + angles;
        // Activations: f32, two planes of bytes and, where there is no product of bytes, words; the logits and a sampler's view.
        batch * (floats * size_of::<f32>() + widest * (4 + 1 + 1 + 2)) + decoder.vocab * (4 + 8)
    }

    /// Rows of a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The logits the last pass left, one a vocabulary entry.
    pub fn logits(&self) -> &[f32] {
        &self.logits[..self.vocab]
    }

    /// The same, for a sampler that works in place.
    pub fn logits_mut(&mut self) -> &mut [f32] {
        &mut self.logits[..self.vocab]
    }
}
