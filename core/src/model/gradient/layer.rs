//! One layer forward, keeping what its adjoint needs, and back.

use super::super::blocks::{RmsNorm, Turn};
use super::super::decoder::{GATE_AND_UP, Layer, Projection, Q_K_V, ROWS_OF_A_TASK, Residual};
use super::super::{ActiveAdapters, BoundAdapter, Decoder, LinearKind, ModelError};
use super::adapters::{self, Pair, Scratch};
use super::attention::{Inputs, into_rows};
use super::halves::{each_part, to_halves};
use super::packed::Packed;
use super::plan::{Buffers, Slot};
use crate::gguf::Gguf;
use crate::kernels::{Compute, TransposedScratch, for_each_chunk, vector};

/// What every step of a batch is computed with.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub gguf: &'a Gguf,
    pub compute: &'a Compute,
    pub decoder: &'a Decoder,
    pub adapters: &'a ActiveAdapters,
    pub batch: &'a Packed,
}

/// How far back in a layer the gradient has to go: to the last group of linears that the adapter changes, or through all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Depth {
    /// To the layer's input.
    Input,
    /// To the outputs of q, k and v.
    Heads,
    /// To the output of attention's last product.
    Mixed,
    /// To the outputs of gate and up.
    Gate,
    /// To the output of the feed-forward block's last product.
    Down,
}

impl Depth {
    /// How far back in a layer that has nothing below it to reach; `None` if the adapter does not change it.
    pub fn of(bound: &BoundAdapter, layer: usize) -> Option<Self> {
        let stage = |kind| match kind {
            LinearKind::Q | LinearKind::K | LinearKind::V => Self::Heads,
            LinearKind::O => Self::Mixed,
            LinearKind::Gate | LinearKind::Up => Self::Gate,
            LinearKind::Down => Self::Down,
        };
        LinearKind::ALL.into_iter().filter(|kind| bound.delta(layer, *kind).is_some()).map(stage).min()
    }
}

impl<'a> Context<'a> {
    pub fn rows(&self) -> usize {
        self.batch.rows()
    }

    /// Runs the layer from its input `x`. Its output is written to `next` where that is given; without, only what the slot
    /// holds is computed.
    pub fn forward(
        &self,
        index: usize,
        x: &[f32],
        slot: &mut Slot<'_>,
        buffers: &mut Buffers,
        next: Option<&mut [f32]>,
    ) -> Result<(), ModelError> {
        let Self { gguf, compute, adapters, decoder, .. } = *self;
        let (layer, hidden, rows) = (&decoder.layers[index], decoder.hidden, self.rows());
        let (attention, mlp) = (&layer.attention, &layer.mlp);
        let Buffers {
            normed,
            out,
            gate_gradient: gate,
            up_gradient: up,
            q_gradient: shared_mixed,
            by_head,
            angles,
            activations,
            changes,
            attention: scratch,
            ..
        } = buffers;
        let inner = decoder.inner;
        let (gate, up) = (&mut gate[..rows * inner], &mut up[..rows * inner]);
        let normed = &mut normed[..rows * hidden];
        let out = &mut out[..rows * hidden];
        let project = Projection { gguf, compute, adapters, layer: index, next: &[], between: Default::default() };
        let Slot { q, k, v, mixed, score_sums, middle, attention_out, mlp_out, gate: gate_halves, up: up_halves } =
            slot;
        let mixed = if mixed.is_empty() { &mut shared_mixed[..rows * attention.heads.q_len()] } else { &mut **mixed };

        let group = layer.group(Q_K_V);
        let fill = |row: usize, [normed]: [&mut [f32]; 1]| {
            layer.attention_norm.row(gguf, &x[row * hidden..][..hidden], normed)
        };
        project.run(activations, changes, group, [&mut *normed], fill, [&mut **q, &mut **k, &mut **v])?;

        let inputs = self.inputs(layer, angles, (q, k, v));
        let (dim, by_head) = (attention.heads.dim, &mut by_head[0][..rows * attention.heads.q_len()]);
        inputs.forward(compute.pool(), self.batch, scratch, by_head, score_sums);
        let fill = |row: usize, [mixed]: [&mut [f32]; 1]| {
            for (head, mixed) in mixed.chunks_exact_mut(dim).enumerate() {
                mixed.copy_from_slice(&by_head[(head * rows + row) * dim..][..dim]);
            }
        };
        let attention_out = if layer.attention_post_norm.is_some() { &mut **attention_out } else { &mut *out };
        let group = [(LinearKind::O, &attention.o)];
        project.run(activations, changes, group, [mixed], fill, [&mut *attention_out])?;

        let residual = Residual {
            gguf,
            out: Some(attention_out),
            post_norm: layer.attention_post_norm.as_ref(),
            norm: &layer.mlp_norm,
        };
        let fill = |row: usize, [normed, middle]: [&mut [f32]; 2]| {
            middle.copy_from_slice(&x[row * hidden..][..hidden]);
            residual.add(row, normed, middle);
        };
        let group = layer.group(GATE_AND_UP);
        let outs = [&mut *gate, &mut *up];
        project.run(activations, changes, group, [&mut *normed, &mut **middle], fill, outs)?;

        if next.is_none() && layer.mlp_post_norm.is_none() {
            let width = gate_halves.len() / rows;
            let (gate, up) = (&*gate, &*up);
            self.each_row([(&mut **gate_halves, width), (&mut **up_halves, width)], |row, [gate_halves, up_halves]| {
                let at = row * inner..(row + 1) * inner;
                to_halves(&gate[at.clone()], gate_halves);
                to_halves(&up[at], up_halves);
            });
            return Ok(());
        }
        let fill = |_, [gate, up, gate_halves, up_halves]: [&mut [f32]; 4]| {
            to_halves(gate, gate_halves);
            to_halves(up, up_halves);
            mlp.activation.gate(gate, up);
        };
        let mlp_out = if layer.mlp_post_norm.is_some() { &mut **mlp_out } else { out };
        let buffers = [gate, up, &mut **gate_halves, &mut **up_halves];
        project.run(activations, changes, [(LinearKind::Down, &mlp.down)], buffers, fill, [&mut *mlp_out])?;

        let Some(next) = next else { return Ok(()) };
        let (middle, mlp_out) = (&**middle, &*mlp_out);
        self.each_row([(next, hidden), (normed, hidden)], |row, [next, normed]| {
            let at = row * hidden..(row + 1) * hidden;
            next.copy_from_slice(&middle[at.clone()]);
            match &layer.mlp_post_norm {
                Some(norm) => {
                    norm.row(gguf, &mlp_out[at], normed);
                    vector::add(normed, next);
                }
                None => vector::add(&mlp_out[at], next),
            }
        });
        Ok(())
    }

    /// Takes the gradient of the layer's output, in the buffers, to that of its input `x`, or as far as `depth` says, and
    /// adds those of the parameters of its changes to `gradient`.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        index: usize,
        x: &[f32],
        slot: &Slot<'_>,
        buffers: &mut Buffers,
        bound: &BoundAdapter,
        depth: Depth,
        gradient: &mut [f32],
    ) -> Result<(), ModelError> {
        let Self { compute, decoder, .. } = *self;
        let (layer, rows) = (&decoder.layers[index], self.rows());
        let (hidden, inner) = (decoder.hidden, decoder.inner);
        let (attention, mlp, heads) = (&layer.attention, &layer.mlp, &layer.attention.heads);
        let adapted = |kinds: &[LinearKind]| kinds.iter().any(|kind| bound.delta(index, *kind).is_some());
        let Buffers {
            normed,
            gradient: residual,
            normed_gradient,
            gate_gradient,
            up_gradient,
            q_gradient,
            k_gradient,
            v_gradient,
            by_head,
            angles,
            changes,
            gathered,
            partial,
            attention: scratch,
            transposed,
            ..
        } = buffers;
        let normed = &mut normed[..rows * hidden];
        let residual = &mut residual[..rows * hidden];
        let normed_gradient = &mut normed_gradient[..rows * hidden];
        let (gate_gradient, up_gradient) = (&mut gate_gradient[..rows * inner], &mut up_gradient[..rows * inner]);
        let q_gradient = &mut q_gradient[..rows * heads.q_len()];
        let (k_gradient, v_gradient) =
            (&mut k_gradient[..rows * heads.kv_len()], &mut v_gradient[..rows * heads.kv_len()]);
        let mut buffers = Scratch { deltas: &changes.blocks, gathered, partial };
        let mut linears = Linears { context: self, index, bound, transposed, gradient };

        if adapted(&[LinearKind::Down]) {
            self.each_row([(&mut *up_gradient, inner)], |row, [product]| {
                each_part(row, inner, (slot.gate, slot.up), |at, gate, up| {
                    let product = &mut product[at];
                    product.copy_from_slice(gate);
                    mlp.activation.gate(product, up);
                });
            });
        }
        let out = self.through_norm(layer.mlp_post_norm.as_ref(), slot.mlp_out, residual, normed_gradient);
        let group = [(LinearKind::Down, &mlp.down, out)];
        let wanted = (depth < Depth::Down).then_some(&mut *gate_gradient);
        linears.backward(group, up_gradient, wanted, &mut buffers)?;
        if depth == Depth::Down {
            return Ok(());
        }
        self.each_row([(&mut *gate_gradient, inner), (&mut *up_gradient, inner)], |row, [g, up_gradient]| {
            each_part(row, inner, (slot.gate, slot.up), |at, gate, up| {
                mlp.activation.adjoint(gate, up, &mut g[at.clone()], &mut up_gradient[at]);
            });
        });
        if adapted(&[LinearKind::Gate, LinearKind::Up]) {
            self.norm(&layer.mlp_norm, slot.middle, normed);
        }
        let group = [(LinearKind::Gate, &mlp.gate, &*gate_gradient), (LinearKind::Up, &mlp.up, &*up_gradient)];
        let wanted = (depth < Depth::Gate).then_some(&mut *normed_gradient);
        linears.backward(group, normed, wanted, &mut buffers)?;
        if depth == Depth::Gate {
            return Ok(());
        }
        self.add_norm_adjoint(&layer.mlp_norm, slot.middle, normed_gradient, residual);

        let out = self.through_norm(layer.attention_post_norm.as_ref(), slot.attention_out, residual, normed_gradient);
        let group = [(LinearKind::O, &attention.o, out)];
        let wanted = (depth < Depth::Mixed).then_some(&mut *q_gradient);
        linears.backward(group, slot.mixed, wanted, &mut buffers)?;
        if depth == Depth::Mixed {
            return Ok(());
        }
        let inputs = self.inputs(layer, angles, (slot.q, slot.k, slot.v));
        let [dq, dk, dv] = by_head.each_mut().map(|part| &mut part[..rows * heads.q_len()]);
        let made = (&*q_gradient, &*slot.score_sums);
        inputs.backward(compute.pool(), self.batch, scratch, made, [&mut *dq, &mut *dk, &mut *dv]);
        let to = [(&mut *q_gradient, heads.count), (&mut *k_gradient, heads.kv), (&mut *v_gradient, heads.kv)];
        into_rows(compute.pool(), heads, [dq, dk, dv], to, rows);
        if adapted(&[LinearKind::Q, LinearKind::K, LinearKind::V]) {
            self.norm(&layer.attention_norm, x, normed);
        }
        let group = [
            (LinearKind::Q, &attention.q, &*q_gradient),
            (LinearKind::K, &attention.k, &*k_gradient),
            (LinearKind::V, &attention.v, &*v_gradient),
        ];
        let wanted = (depth < Depth::Heads).then_some(&mut *normed_gradient);
        linears.backward(group, normed, wanted, &mut buffers)?;
        if depth < Depth::Heads {
            self.add_norm_adjoint(&layer.attention_norm, x, normed_gradient, residual);
        }
        Ok(())
    }

    /// What the layer's attention reads; `angles` are the tables of every rotary embedding.
    fn inputs<'s>(
        &'s self,
        layer: &'s Layer,
        angles: &'s [f32],
        (q, k, v): (&'s [f32], &'s [f32], &'s [f32]),
    ) -> Inputs<'s> {
        let (decoder, attention, rows) = (self.decoder, &layer.attention, self.rows());
        let first: usize = decoder.ropes[..attention.rope].iter().map(|r| 2 * r.angles() * rows).sum();
        let rope = &decoder.ropes[attention.rope];
        let rope = Some((rope, &angles[first..][..2 * rope.angles() * rows]));
        let turn = |norm: &'s Option<RmsNorm>| Turn {
            norm: norm.as_ref().map(|norm| (norm.weight.get(self.gguf), norm.eps)),
            rope,
        };
        Inputs { heads: &attention.heads, q_turn: turn(&attention.q_norm), k_turn: turn(&attention.k_norm), q, k, v }
    }

    /// Calls `f` with every row of the outputs, spread over the pool.
    pub fn each_row<const N: usize>(
        &self,
        outputs: [(&mut [f32], usize); N],
        f: impl Fn(usize, [&mut [f32]; N]) + Sync,
    ) {
        let widths = outputs.each_ref().map(|(_, width)| *width);
        let chunks = outputs.map(|(data, width)| (data, ROWS_OF_A_TASK * width));
        for_each_chunk(self.compute.pool(), chunks, |_, index, chunks| {
            let mut rows = chunks.map(Some);
            for i in 0..ROWS_OF_A_TASK {
                let mut widths = widths.iter();
                let row = rows.each_mut().map(|rest| {
                    let width = *widths.next()?;
                    let (row, after) = rest.take()?.split_at_mut_checked(width)?;
                    *rest = Some(after);
                    Some(row)
                });
                if row.iter().any(Option::is_none) {
                    return;
                }
                f(index * ROWS_OF_A_TASK + i, row.map(Option::unwrap_or_default));
            }
        });
    }

    /// out = norm of every row of x.
    fn norm(&self, norm: &RmsNorm, x: &[f32], out: &mut [f32]) {
        let hidden = self.decoder.hidden;
        self.each_row([(out, hidden)], |row, [out]| norm.row(self.gguf, &x[row * hidden..][..hidden], out));
    }

    /// residual += the gradient of the rows x, from that of their norms.
    fn add_norm_adjoint(&self, norm: &RmsNorm, x: &[f32], normed_gradient: &[f32], residual: &mut [f32]) {
        let hidden = self.decoder.hidden;
        self.each_row([(residual, hidden)], |row, [residual]| {
            let at = row * hidden..(row + 1) * hidden;
            norm.adjoint(self.gguf, &x[at.clone()], &normed_gradient[at], residual);
        });
    }

    /// The gradient of what a block ends with, from that of the residual: through the norm between them, into `buffer`,
    /// where there is one.
    fn through_norm<'s>(
        &self,
        norm: Option<&RmsNorm>,
        out: &[f32],
        residual: &'s [f32],
        buffer: &'s mut [f32],
    ) -> &'s [f32] {
        let Some(norm) = norm else { return residual };
        let hidden = self.decoder.hidden;
        self.each_row([(&mut *buffer, hidden)], |row, [g]| {
            let at = row * hidden..(row + 1) * hidden;
            g.fill(0.0);
            norm.adjoint(self.gguf, &out[at.clone()], &residual[at], g);
        });
        buffer
    }
}

/// The way back through linears that read the same rows.
struct Linears<'a, 'c> {
    context: &'a Context<'c>,
    index: usize,
    bound: &'a BoundAdapter,
    transposed: &'a TransposedScratch,
    gradient: &'a mut [f32],
}

impl Linears<'_, '_> {
    /// The gradient of the rows `x` where `dx` asks for it, and those of the parameters of the changes; x is not looked at
    /// where the adapter changes none of the group.
    fn backward<const N: usize>(
        &mut self,
        group: [Pair<'_>; N],
        x: &[f32],
        dx: Option<&mut [f32]>,
        buffers: &mut Scratch<'_>,
    ) -> Result<(), ModelError> {
        let Context { gguf, compute, .. } = *self.context;
        let mut dx = dx;
        if let Some(dx) = dx.as_deref_mut() {
            let mut pairs = [(group[0].1.matrix(gguf)?, group[0].2); N];
            for (pair, (_, linear, g)) in pairs.iter_mut().zip(&group) {
                *pair = (linear.matrix(gguf)?, g);
            }
            compute.matmul_transposed(&pairs, dx, self.transposed);
        }
        adapters::backward(compute.pool(), self.bound, self.index, group, x, dx, self.gradient, buffers);
        Ok(())
    }
}
