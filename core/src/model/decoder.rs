//! The forward pass shared by every architecture.

use std::ops::Range;
use std::sync::Mutex;

use crate::adapter::DeltaBlock;
use crate::gguf::Gguf;
use crate::kernels::{Activations, Beside, Compute, Next, Span, dequantize, for_each_chunk, vector};

use super::blocks::{Attention, Mlp, RmsNorm, Rope, Turn};
use super::changes::{self, ChangeScratch, Changes};
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

    /// The linears of these kinds, which read the same rows.
    pub(super) fn group<const N: usize>(&self, kinds: [LinearKind; N]) -> [(LinearKind, &Linear); N] {
        kinds.map(|kind| (kind, self.linear(kind)))
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

/// Rows that one task of a norm, a gate or a residual handles: enough that handing it out costs little beside it.
pub(super) const ROWS_OF_A_TASK: usize = 4;

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
        let batch = pass.scratch.batch().min(pass.kv.batch());
        for (i, part) in tokens.chunks(batch).enumerate() {
            let last = (i + 1) * batch >= tokens.len();
            pass.gguf.check_unchanged()?;
            pass.kv.begin(part.len());
            let rows = match &wanted {
                Wanted::All(_) => 0..part.len(),
                Wanted::Last if last => part.len() - 1..part.len(),
                Wanted::Last | Wanted::Nothing => part.len()..part.len(),
            };
            self.layers_forward(pass, part, rows.clone())?;
            match &mut wanted {
                Wanted::All(each) => {
                    for first in (0..part.len()).step_by(HEAD_ROWS) {
                        let rows = first..part.len().min(first + HEAD_ROWS);
                        self.head_forward(pass, rows.clone())?;
                        for (row, logits) in rows.zip(pass.scratch.logits.chunks_exact(self.vocab)) {
                            each(i * batch + row, logits);
                        }
                    }
                }
                _ if rows.is_empty() => {}
                _ => self.head_forward(pass, rows)?,
            }
            pass.kv.commit(part.len());
        }
        Ok(())
    }

    /// Embeds one batch and runs it through every layer; the residual of the rows that are `wanted`, and what the last layer adds to it, are
    /// left in the scratch. Of the others the last layer has only keys and values: nobody reads more.
    fn layers_forward(&self, pass: &mut Pass<'_>, tokens: &[u32], wanted: Range<usize>) -> Result<(), ModelError> {
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
        let pool = pass.compute.pool();
        let mut at = 0;
        for rope in &self.ropes {
            let len = 2 * rope.angles();
            let tables = &mut pass.scratch.angles[at..][..rows * len];
            for_each_chunk(pool, [(tables, ROWS_OF_A_TASK * len)], |_, index, [tables]| {
                for (row, table) in tables.chunks_exact_mut(len).enumerate() {
                    rope.table(start + index * ROWS_OF_A_TASK + row, table);
                }
            });
            at += rows * len;
        }
        for (i, layer) in self.layers.iter().enumerate() {
            let read = if i + 1 == self.layers.len() { wanted.clone() } else { 0..rows };
            self.attention_forward(pass, i, layer, (start, rows), read.clone())?;
            self.mlp_forward(pass, i, layer, read)?;
        }
        Ok(())
    }

    /// Attention of one layer of a batch of so many rows from position `start` on: keys and values of all, and of the rows that are `read` what is to
    /// be added to the residual, left in the scratch.
    fn attention_forward(
        &self,
        pass: &mut Pass<'_>,
        index: usize,
        layer: &Layer,
        (start, rows): (usize, usize),
        read: Range<usize>,
    ) -> Result<(), ModelError> {
        let Pass { gguf, compute, adapters, kv, scratch } = pass;
        let attention = &layer.attention;
        let heads = &attention.heads;
        let (q_len, kv_len) = (heads.q_len(), heads.kv_len());
        let Scratch { x, normed, q, k, v, mixed, out, angles, activations, changes, attention: workers, .. } =
            &mut **scratch;
        let x = &mut x[..rows * self.hidden];
        let normed = &mut normed[..rows * self.hidden];
        let out = &mut out[..rows * self.hidden];
        let q = &mut q[..read.len() * q_len];
        let (k, v) = (&mut k[..rows * kv_len], &mut v[..rows * kv_len]);

        if rows == 1 {
            kv.layers[index].expect(start);
        }
        let o = Following::of(index, layer.group([LinearKind::O]));
        let project = Projection { gguf, compute, adapters, layer: index, next: &o, between: Default::default() };
        let before = index.checked_sub(1).and_then(|before| self.layers.get(before));
        let residual = Residual {
            gguf,
            out: before.is_some().then_some(&*out),
            post_norm: before.and_then(|layer| layer.mlp_post_norm.as_ref()),
            norm: &layer.attention_norm,
        };
        let fill = |row, [normed, x]: [&mut [f32]; 2]| residual.add(row, normed, x);
        if read.len() == rows {
            project.run(activations, changes, layer.group(Q_K_V), [normed, x], fill, [&mut *q, &mut *k, &mut *v])?;
        } else {
            project.run(activations, changes, layer.group(K_V), [&mut *normed, x], fill, [&mut *k, &mut *v])?;
            let normed = &mut normed[read.start * self.hidden..read.end * self.hidden];
            project.run(activations, changes, layer.group([LinearKind::Q]), [normed], |_, _| {}, [&mut *q])?;
        }

        let rope = &self.ropes[attention.rope];
        let first_table = self.ropes[..attention.rope].iter().map(|r| 2 * r.angles() * rows).sum::<usize>();
        let table = |row: usize| first_table + 2 * rope.angles() * row;
        let turn = |norm: &'_ Option<RmsNorm>, rows: Range<usize>| Turn {
            norm: norm.as_ref().map(|n| (n.weight.get(gguf), n.eps)),
            rope: Some((rope, &angles[table(rows.start)..table(rows.end)])),
        };
        let kv_layer = &mut kv.layers[index];
        heads.store(compute.pool(), kv_layer, start, k, v, turn(&attention.k_norm, 0..rows), workers);
        let mixed = &mut mixed[..read.len() * q_len];
        let turn = turn(&attention.q_norm, read.clone());
        heads.attend(compute.pool(), kv_layer, start + read.start, q, turn, mixed, workers);

        let gate_and_up = Following::of(index, layer.group(GATE_AND_UP));
        let [post_norm, norm] =
            [layer.attention_post_norm.as_ref(), Some(&layer.mlp_norm)].map(|norm| norm_span(gguf, norm));
        let project =
            Projection { next: &gate_and_up, between: [post_norm, norm, Span::default(), Span::default()], ..project };
        let out = &mut out[read.start * self.hidden..read.end * self.hidden];
        project.run(activations, changes, layer.group([LinearKind::O]), [mixed], |_, _| {}, [out])
    }

    /// The feed-forward block of one layer, of some rows of the batch, likewise.
    fn mlp_forward(
        &self,
        pass: &mut Pass<'_>,
        index: usize,
        layer: &Layer,
        rows: Range<usize>,
    ) -> Result<(), ModelError> {
        let Pass { gguf, compute, adapters, kv, scratch } = pass;
        let mlp = &layer.mlp;
        let Scratch { x, normed, gate, up, out, activations, changes, .. } = &mut **scratch;
        let span = rows.start * self.hidden..rows.end * self.hidden;
        let (x, out) = (&mut x[span.clone()], &mut out[span]);
        let normed = &mut normed[..rows.len() * self.hidden];
        let (gate, up) = (&mut gate[..rows.len() * self.inner], &mut up[..rows.len() * self.inner]);

        let down = Following::of(index, layer.group([LinearKind::Down]));
        let project = Projection { gguf, compute, adapters, layer: index, next: &down, between: Default::default() };
        let group = layer.group(GATE_AND_UP);
        let residual =
            Residual { gguf, out: Some(&*out), post_norm: layer.attention_post_norm.as_ref(), norm: &layer.mlp_norm };
        let fill = |row, [normed, x]: [&mut [f32]; 2]| residual.add(row, normed, x);
        project.run(activations, changes, group, [normed, x], fill, [&mut *gate, &mut *up])?;

        let fill = |_, [gate, up]: [&mut [f32]; 2]| mlp.activation.gate(gate, up);
        let layer_after = self.layers.get(index + 1);
        let q_k_v = layer_after.map(|layer| Following::of(index + 1, layer.group(Q_K_V)));
        let head = [Following { changed_as: None, linear: &self.head }];
        let norm = layer_after.map_or(&self.norm, |layer| &layer.attention_norm);
        let [post_norm, norm] = [layer.mlp_post_norm.as_ref(), Some(norm)].map(|norm| norm_span(gguf, norm));
        let of_layer = layer_after.map_or_else(Span::default, Span::of_value);
        let of_kv = kv.layers.get(index + 1).map_or_else(Span::default, Span::of_value);
        let between = [post_norm, norm, of_layer, of_kv];
        let project = Projection { next: q_k_v.as_ref().map_or(&head, |group| &group[..]), between, ..project };
        project.run(activations, changes, layer.group([LinearKind::Down]), [gate, up], fill, [out])
    }

    /// Logits of some rows of the batch, one after the other into [`Scratch::logits`], which grows if they are many.
    fn head_forward(&self, pass: &mut Pass<'_>, rows: Range<usize>) -> Result<(), ModelError> {
        let Pass { gguf, compute, scratch, kv, .. } = pass;
        let Scratch { x, normed, out, logits, activations, .. } = &mut **scratch;
        let count = rows.len();
        if logits.len() < count * self.vocab {
            logits.resize(count * self.vocab, 0.0);
        }
        let logits = &mut logits[..count * self.vocab];
        let normed = &mut normed[..count * self.hidden];
        let span = rows.start * self.hidden..rows.end * self.hidden;
        let last = self.layers.last();
        let residual = Residual {
            gguf,
            out: last.map(|_| &out[span.clone()]),
            post_norm: last.and_then(|layer| layer.mlp_post_norm.as_ref()),
            norm: &self.norm,
        };
        let fill = |row, [normed, x]: [&mut [f32]; 2]| residual.add(row, normed, x);
        activations.load_filled(compute, &[self.head.ty()], count, [normed, &mut x[span]], fill);
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

/// What a block begins with: x += norm(out) of the block before, or x += out where the architecture has no norm there, then
/// the norm of x that the block reads.
pub(super) struct Residual<'a> {
    pub(super) gguf: &'a Gguf,
    /// What the block before left, rows × hidden; none before the first.
    pub(super) out: Option<&'a [f32]>,
    pub(super) post_norm: Option<&'a RmsNorm>,
    pub(super) norm: &'a RmsNorm,
}

impl Residual<'_> {
    /// One row of the batch; `normed` is written, `x` added to.
    pub(super) fn add(&self, row: usize, normed: &mut [f32], x: &mut [f32]) {
        if let Some(out) = self.out {
            let out = &out[row * x.len()..][..x.len()];
            match self.post_norm {
                Some(norm) => {
                    norm.row(self.gguf, out, normed);
                    vector::add(normed, x);
                }
                None => vector::add(out, x),
            }
        }
        self.norm.row(self.gguf, x, normed);
    }
}

/// The linears that read the rows of attention.
pub(super) const Q_K_V: [LinearKind; MOST_TOGETHER] = [LinearKind::Q, LinearKind::K, LinearKind::V];
/// Those of them that all rows need.
const K_V: [LinearKind; 2] = [LinearKind::K, LinearKind::V];
/// Those that read the rows of the feed-forward block.
pub(super) const GATE_AND_UP: [LinearKind; 2] = [LinearKind::Gate, LinearKind::Up];
/// Linears of a group, at most.
const MOST_TOGETHER: usize = 3;

/// What a group of linears that read the same rows is computed with.
pub(super) struct Projection<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) compute: &'a Compute,
    pub(super) adapters: &'a ActiveAdapters,
    pub(super) layer: usize,
    /// The linears that are computed next.
    pub(super) next: &'a [Following<'a>],
    /// What is read before those, besides.
    pub(super) between: [Span; 4],
}

/// A linear that is computed after others.
pub(super) struct Following<'a> {
    /// Whose changes apply to it, if there are any.
    changed_as: Option<(usize, LinearKind)>,
    linear: &'a Linear,
}

impl<'a> Following<'a> {
    /// The linears of a group of this layer.
    fn of<const N: usize>(layer: usize, group: [(LinearKind, &'a Linear); N]) -> [Self; N] {
        group.map(|(kind, linear)| Self { changed_as: Some((layer, kind)), linear })
    }
}

impl Projection<'_> {
    /// outs\[i\] = W x + b + Σ weight · ΔW x for every linear of the group, `x` being the first of `buffers`, whose rows `fill`
    /// computes: each is quantised as soon as it is there, the products are one job of the pool, and the adapters share one
    /// forward transform a row.
    pub(super) fn run<const N: usize, const B: usize>(
        &self,
        activations: &mut Activations,
        scratch: &mut ChangeScratch,
        group: [(LinearKind, &Linear); N],
        mut buffers: [&mut [f32]; B],
        fill: impl Fn(usize, [&mut [f32]; B]) + Sync,
        mut outs: [&mut [f32]; N],
    ) -> Result<(), ModelError> {
        let Self { gguf, compute, adapters, layer, .. } = *self;
        let rows = buffers[0].len() / group[0].1.shape().1;
        if rows == 0 {
            return Ok(());
        }
        let types = group.map(|(_, linear)| linear.ty());
        let changes = Changes::of(adapters, layer, group);
        let x = buffers.each_mut().map(|buffer| &mut **buffer);
        match &changes {
            // Rows that were just computed are changed while they are in the cache, and the products added to that.
            Some(changes) if rows > DeltaBlock::ROWS => {
                let outs = outs.each_mut().map(|out| &mut **out);
                let then = |worker: usize, x: &[f32], outs: [&mut [f32]; N]| {
                    changes.write(&scratch.blocks[worker], x, outs);
                };
                activations.load_blocks(compute, &types, (rows, DeltaBlock::ROWS), x, fill, outs, then);
            }
            _ => activations.load_filled(compute, &types, rows, x, fill),
        }
        let mut matrices = [group[0].1.matrix(gguf)?; N];
        for (matrix, (_, linear)) in matrices.iter_mut().zip(group) {
            *matrix = linear.matrix(gguf)?;
        }
        let mut targets = outs.iter_mut();
        let mut jobs = matrices.map(|matrix| (matrix, targets.next().map_or(&mut [][..], |out| &mut **out)));
        let mut following = [matrices[0]; MOST_TOGETHER];
        let mut next = Next::default();
        if rows == 1 {
            for (matrix, next) in following.iter_mut().zip(self.next) {
                *matrix = next.linear.matrix(gguf)?;
            }
            next.between = self.between;
            next.products = &following[..self.next.len().min(MOST_TOGETHER)];
            next.first = changes::first_read(adapters, self.next.iter().filter_map(|next| next.changed_as));
        }
        match changes {
            // Few rows are too little for a job of its own: their changes are computed beside the products, and added.
            Some(changes) if rows <= DeltaBlock::ROWS => {
                let (blocks, mut added) = scratch.rows(&group, rows);
                let tasks = changes.tasks(compute.threads());
                let slots = added.each_mut().map(|rows| Mutex::new(&mut **rows));
                let products = if rows == 1 { compute.begins_with(&jobs[0].0) } else { Default::default() };
                let beside = Beside { tasks, bytes: changes.row_bytes() / tasks };
                let x = &*buffers[0];
                compute.matmul_group_beside(&mut jobs, activations, beside, next, &|worker, task| match rows {
                    1 => changes.row_task((task, tasks), &blocks[worker], x, &slots, products),
                    _ => changes.block_task((task, tasks), &blocks[worker], x, &slots),
                });
                add_biases(gguf, &group, &mut outs);
                changes.add_rows(compute.pool(), added, outs);
            }
            Some(changes) => {
                compute.matmul_group_onto(&mut jobs, &changes.held(), activations);
                add_biases(gguf, &group, &mut outs);
            }
            None => {
                compute.matmul_group_beside(&mut jobs, activations, Beside::default(), next, &|_, _| {});
                add_biases(gguf, &group, &mut outs);
            }
        }
        Ok(())
    }
}

/// Where a norm's weights lie, if there is one.
fn norm_span(gguf: &Gguf, norm: Option<&RmsNorm>) -> Span {
    norm.map_or_else(Span::default, |norm| Span::of(bytemuck::cast_slice(norm.weight.get(gguf))))
}

fn add_biases<const N: usize>(gguf: &Gguf, group: &[(LinearKind, &Linear); N], outs: &mut [&mut [f32]; N]) {
    for ((_, linear), out) in group.iter().zip(outs) {
        if let Some(bias) = &linear.bias {
            let bias = bias.get(gguf);
            for row in out.chunks_exact_mut(bias.len()) {
                vector::add(bias, row);
            }
        }
    }
}
