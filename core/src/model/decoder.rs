//! The forward pass shared by every architecture.

use std::ops::Range;
use std::sync::Mutex;

use crate::adapter::DeltaBlock;
use crate::gguf::Gguf;
use crate::kernels::{Activations, Compute, dequantize, for_each_chunk, vector};

use super::blocks::{Attention, Mlp, RmsNorm, Rope};
use super::kv::KvCache;
use super::weights::{Linear, LinearKind};
use super::{ActiveAdapters, ModelError, Scratch};

/// One decoder layer: attention and feed-forward, each behind a norm and added to the residual.
#[derive(Debug)]
pub struct Layer {
    /// Before attention.
    pub attention_norm: RmsNorm,
    /// Attention.
    pub attention: Attention,
    /// After attention, before the residual (Gemma).
    pub attention_post_norm: Option<RmsNorm>,
    /// Before the feed-forward block.
    pub mlp_norm: RmsNorm,
    /// Feed-forward block.
    pub mlp: Mlp,
    /// After it, before the residual (Gemma).
    pub mlp_post_norm: Option<RmsNorm>,
}

impl Layer {
    /// The linear of this kind.
    pub fn linear(&self, kind: LinearKind) -> &Linear {
        match kind {
            LinearKind::Q => &self.attention.q,
            LinearKind::K => &self.attention.k,
            LinearKind::V => &self.attention.v,
            LinearKind::O => &self.attention.o,
            LinearKind::Gate => &self.mlp.gate,
            LinearKind::Up => &self.mlp.up,
            LinearKind::Down => &self.mlp.down,
        }
    }
}

/// A wired model: places in the map and numbers, no weights.
#[derive(Debug)]
pub struct Decoder {
    /// Residual width.
    pub hidden: usize,
    /// Feed-forward width.
    pub inner: usize,
    /// Vocabulary size.
    pub vocab: usize,
    /// Context the model was trained for.
    pub context: usize,
    /// vocab × hidden; one row is decoded per token.
    pub embedding: Linear,
    /// Factor on the embedding row.
    pub embedding_scale: f32,
    /// Rotary embeddings; each layer names one.
    pub ropes: Vec<Rope>,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// Before the head.
    pub norm: RmsNorm,
    /// vocab × hidden, the embedding itself where tied.
    pub head: Linear,
    /// cap · tanh(logit / cap), where the file asks for it.
    pub logit_soft_cap: Option<f32>,
}

/// Rows whose logits are computed together when all are wanted: enough to use the head's blocks several times, few enough
/// that 262,144 logits a row stay small.
const HEAD_ROWS: usize = 8;

/// Which rows' logits a forward pass computes.
pub enum Wanted<'a> {
    /// None: only the KV cache is filled.
    Nothing,
    /// The last row's, left in [`Scratch::logits`].
    Last,
    /// Every row's, in order, handed to the callback with the row's index in the batch.
    All(&'a mut dyn FnMut(usize, &[f32])),
}

/// What a forward pass works with, besides the decoder.
pub struct Pass<'a> {
    /// The mapped file.
    pub gguf: &'a Gguf,
    /// Kernels and threads.
    pub compute: &'a Compute,
    /// Adapters and their weights.
    pub adapters: &'a ActiveAdapters,
    /// Keys and values so far; the batch's are appended.
    pub kv: &'a mut KvCache,
    /// Buffers.
    pub scratch: &'a mut Scratch,
}

impl Decoder {
    /// The linear of this kind in this layer.
    pub fn linear(&self, layer: usize, kind: LinearKind) -> Option<&Linear> {
        self.layers.get(layer).map(|l| l.linear(kind))
    }

    /// Runs `tokens` at the positions after those in the KV cache, in batches of the scratch's size.
    ///
    /// # Errors
    /// [`ModelError::Token`] and [`ModelError::ContextFull`] before anything is computed;
    /// [`ModelError::Gguf`] if the file changed under the map.
    pub fn forward(&self, pass: &mut Pass<'_>, tokens: &[u32], mut wanted: Wanted<'_>) -> Result<(), ModelError> {
        if let Some(&found) = tokens.iter().find(|&&t| t as usize >= self.vocab) {
            return Err(ModelError::Token { found, vocab: self.vocab });
        }
        pass.kv.reserve(tokens.len())?;
        let batch = pass.scratch.batch();
        for (i, part) in tokens.chunks(batch).enumerate() {
            let last = (i + 1) * batch >= tokens.len();
            pass.gguf.check_unchanged()?;
            self.layers_forward(pass, part)?;
            match &mut wanted {
                Wanted::Nothing => {}
                Wanted::Last if last => self.head_forward(pass, part.len() - 1..part.len())?,
                Wanted::Last => {}
                Wanted::All(each) => {
                    for first in (0..part.len()).step_by(HEAD_ROWS) {
                        let rows = first..part.len().min(first + HEAD_ROWS);
                        self.head_forward(pass, rows.clone())?;
                        for (row, logits) in rows.zip(pass.scratch.logits.chunks_exact(self.vocab)) {
                            each(i * batch + row, logits);
                        }
                    }
                }
            }
            pass.kv.commit(part.len());
        }
        Ok(())
    }

    /// Embeds one batch and runs it through every layer; the residual is left in the scratch.
    fn layers_forward(&self, pass: &mut Pass<'_>, tokens: &[u32]) -> Result<(), ModelError> {
        let start = pass.kv.len();
        let rows = tokens.len();
        let table = self.embedding.matrix(pass.gguf)?;
        for (row, &token) in tokens.iter().enumerate() {
            let out = &mut pass.scratch.x[row * self.hidden..][..self.hidden];
            dequantize(table.ty(), table.row(token as usize), out)?;
            if self.embedding_scale != 1.0 {
                vector::scale(self.embedding_scale, out);
            }
        }
        let mut at = 0;
        for rope in &self.ropes {
            for row in 0..rows {
                rope.table(start + row, &mut pass.scratch.angles[at..][..2 * rope.angles()]);
                at += 2 * rope.angles();
            }
        }
        for (i, layer) in self.layers.iter().enumerate() {
            self.attention_forward(pass, i, layer, start, rows)?;
            self.mlp_forward(pass, i, layer, rows)?;
        }
        Ok(())
    }

    fn attention_forward(
        &self,
        pass: &mut Pass<'_>,
        index: usize,
        layer: &Layer,
        start: usize,
        rows: usize,
    ) -> Result<(), ModelError> {
        let Pass { gguf, compute, adapters, kv, scratch } = pass;
        let attention = &layer.attention;
        let heads = &attention.heads;
        let (dim, q_len, kv_len) = (heads.dim, heads.q_len(), heads.kv_len());
        let Scratch { x, normed, q, k, v, mixed, out, head, angles, activations, deltas, attention: workers, .. } =
            &mut **scratch;
        let x = &mut x[..rows * self.hidden];
        let normed = &mut normed[..rows * self.hidden];
        let (q, k, v) = (&mut q[..rows * q_len], &mut k[..rows * kv_len], &mut v[..rows * kv_len]);

        layer.attention_norm.forward(gguf, compute.pool(), x, normed);
        let project = Projection { gguf, compute, adapters, layer: index };
        let group = [(LinearKind::Q, &attention.q), (LinearKind::K, &attention.k), (LinearKind::V, &attention.v)];
        project.run(activations, deltas, group, normed, [&mut *q, &mut *k, &mut *v])?;

        let rope = &self.ropes[attention.rope];
        let first_table = self.ropes[..attention.rope].iter().map(|r| 2 * r.angles() * rows).sum::<usize>();
        let kv_layer = &mut kv.layers[index];
        for row in 0..rows {
            let table = &angles[first_table + row * 2 * rope.angles()..][..2 * rope.angles()];
            let (q, k) = (&mut q[row * q_len..][..q_len], &mut k[row * kv_len..][..kv_len]);
            if let Some(norm) = &attention.q_norm {
                norm.in_place(gguf, q, head);
            }
            if let Some(norm) = &attention.k_norm {
                norm.in_place(gguf, k, head);
            }
            rope.apply(q, dim, table);
            rope.apply(k, dim, table);
            for h in 0..heads.kv {
                kv_layer.k.store(h, start + row, &k[h * dim..][..dim]);
                kv_layer.v.store(h, start + row, &v[row * kv_len + h * dim..][..dim]);
            }
        }
        let mixed = &mut mixed[..rows * q_len];
        heads.attend(compute.pool(), kv_layer, start, q, mixed, workers);

        let out = &mut out[..rows * self.hidden];
        project.run(activations, deltas, [(LinearKind::O, &attention.o)], mixed, [&mut *out])?;
        add_residual(gguf, compute, layer.attention_post_norm.as_ref(), out, normed, x);
        Ok(())
    }

    fn mlp_forward(&self, pass: &mut Pass<'_>, index: usize, layer: &Layer, rows: usize) -> Result<(), ModelError> {
        let Pass { gguf, compute, adapters, scratch, .. } = pass;
        let mlp = &layer.mlp;
        let Scratch { x, normed, gate, up, out, activations, deltas, .. } = &mut **scratch;
        let x = &mut x[..rows * self.hidden];
        let normed = &mut normed[..rows * self.hidden];
        let (gate, up) = (&mut gate[..rows * self.inner], &mut up[..rows * self.inner]);

        layer.mlp_norm.forward(gguf, compute.pool(), x, normed);
        let project = Projection { gguf, compute, adapters, layer: index };
        let group = [(LinearKind::Gate, &mlp.gate), (LinearKind::Up, &mlp.up)];
        project.run(activations, deltas, group, normed, [&mut *gate, &mut *up])?;

        for_each_chunk(compute.pool(), [(&mut *gate, self.inner), (up, self.inner)], |_, _, [gate, up]| {
            mlp.activation.gate(gate, up);
        });
        let out = &mut out[..rows * self.hidden];
        project.run(activations, deltas, [(LinearKind::Down, &mlp.down)], gate, [&mut *out])?;
        add_residual(gguf, compute, layer.mlp_post_norm.as_ref(), out, normed, x);
        Ok(())
    }

    /// Logits of some rows of the batch, one after the other into [`Scratch::logits`], which grows if they are many.
    fn head_forward(&self, pass: &mut Pass<'_>, rows: Range<usize>) -> Result<(), ModelError> {
        let Pass { gguf, compute, scratch, kv, .. } = pass;
        let Scratch { x, normed, logits, activations, .. } = &mut **scratch;
        let count = rows.len();
        if logits.len() < count * self.vocab {
            logits.resize(count * self.vocab, 0.0);
        }
        let logits = &mut logits[..count * self.vocab];
        let normed = &mut normed[..count * self.hidden];
        self.norm.forward(gguf, compute.pool(), &x[rows.start * self.hidden..rows.end * self.hidden], normed);
        activations.load_for(compute, &[self.head.ty()], count, self.hidden, normed);
        compute.matmul(self.head.matrix(gguf)?, activations, logits);
        for (row, logits) in rows.zip(logits.chunks_exact_mut(self.vocab)) {
            if let Some(cap) = self.logit_soft_cap {
                vector::soft_cap(logits, cap);
            }
            if !vector::dot(logits, logits).is_finite() {
                return Err(ModelError::NonFinite { position: kv.len() + row });
            }
        }
        Ok(())
    }
}

/// What a group of linears that read the same rows is computed with.
struct Projection<'a> {
    gguf: &'a Gguf,
    compute: &'a Compute,
    adapters: &'a ActiveAdapters,
    layer: usize,
}

impl Projection<'_> {
    /// outs\[i\] = W x + b + Σ weight · ΔW x for every linear of the group: `x` is quantised once, the products are one job of
    /// the pool, and the adapters share one forward transform a row.
    fn run<const N: usize>(
        &self,
        activations: &mut Activations,
        deltas: &[Mutex<DeltaBlock>],
        group: [(LinearKind, &Linear); N],
        x: &[f32],
        mut outs: [&mut [f32]; N],
    ) -> Result<(), ModelError> {
        let Self { gguf, compute, adapters, layer } = *self;
        let cols = group[0].1.shape().1;
        activations.load_for(compute, &group.map(|(_, linear)| linear.ty()), x.len() / cols, cols, x);
        let mut matrices = [group[0].1.matrix(gguf)?; N];
        for (matrix, (_, linear)) in matrices.iter_mut().zip(group) {
            *matrix = linear.matrix(gguf)?;
        }
        let mut targets = outs.iter_mut();
        let mut jobs = matrices.map(|matrix| (matrix, targets.next().map_or(&mut [][..], |out| &mut **out)));
        compute.matmul_group(&mut jobs, activations);
        for ((_, linear), out) in group.iter().zip(&mut outs) {
            add_bias(gguf, linear, out);
        }
        adapters.apply(compute.pool(), deltas, layer, group, x, outs);
        Ok(())
    }
}

fn add_bias(gguf: &Gguf, linear: &Linear, out: &mut [f32]) {
    if let Some(bias) = &linear.bias {
        let bias = bias.get(gguf);
        for row in out.chunks_exact_mut(bias.len()) {
            vector::add(bias, row);
        }
    }
}

/// x += norm(out), or x += out where the architecture has no norm there. `normed` is scratch.
fn add_residual(
    gguf: &Gguf,
    compute: &Compute,
    norm: Option<&RmsNorm>,
    out: &[f32],
    normed: &mut [f32],
    x: &mut [f32],
) {
    match norm {
        Some(norm) => {
            norm.forward(gguf, compute.pool(), out, normed);
            vector::add(normed, x);
        }
        None => vector::add(out, x),
    }
}
