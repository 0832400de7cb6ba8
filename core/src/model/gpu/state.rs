//! [`GpuState`]: a session's keys, values and buffers on the device.

use std::sync::Arc;

use crate::gpu::{Gpu, GpuBuffer, GpuError};

use super::super::blocks::RopeStyle;
use super::super::held::{Held, Ring};
use super::super::weights::LinearKind;
use super::super::{ActiveAdapters, Decoder, KvCache, KvType, ModelError};
use super::adapters::GpuAdapters;
use super::attention::{GpuAttention, GpuKv, HeadBuffers, HeadLayout};
use super::matrix::{GRAIN, Lookup, Product};
use super::steps::{GpuGate, GpuNorm, NormAt, NormBuffers};
use super::weights::GpuModel;

/// Rows whose logits are computed together when all are wanted: one tile of the product.
pub(super) const HEAD_ROWS: usize = 16;

/// Most rows of a batch: a row is a workgroup of some kernels, and more would fill no device better.
const MAX_BATCH: usize = 2048;

/// Buffers of activations for batches of so many rows.
#[derive(Debug)]
pub(super) struct Rows {
    /// Tokens, then the rotations' tables.
    pub step: GpuBuffer,
    pub x: GpuBuffer,
    pub normed: GpuBuffer,
    pub out: GpuBuffer,
    pub q: GpuBuffer,
    pub k: GpuBuffer,
    pub v: GpuBuffer,
    pub mixed: GpuBuffer,
    pub gate: GpuBuffer,
    pub up: GpuBuffer,
    pub parts: GpuBuffer,
    pub logits: GpuBuffer,
}

/// One layer's kernels with their arguments.
#[derive(Debug)]
pub(super) struct LayerBounds {
    pub attention_norm: GpuNorm,
    pub products: [Product; LinearKind::ALL.len()],
    pub attention: GpuAttention,
    pub mlp_norm: GpuNorm,
    pub gate: GpuGate,
}

/// A session's part of the device: keys and values of every position so far, of layers with a sliding window of the last of them, and
/// the buffers of a batch. Planned once; nothing is allocated on the device afterwards.
#[derive(Debug)]
pub struct GpuState {
    pub(super) model: Arc<GpuModel>,
    pub(super) rows: Rows,
    pub(super) layers: Vec<LayerBounds>,
    pub(super) lookup: Lookup,
    /// Of every row, or the rows from some on.
    pub(super) norm: GpuNorm,
    pub(super) head: Product,
    kv: Vec<GpuKv>,
    pub(super) adapters: GpuAdapters,
    pub(super) active: ActiveAdapters,
    /// The step on the CPU's side.
    pub(super) staged: Vec<u32>,
    batch: usize,
    pub(super) held: Held,
    scratch_bytes: u64,
}

impl GpuState {
    /// Rows of a batch by default: enough tiles to keep a large device busy.
    pub const DEFAULT_BATCH: usize = 512;

    /// Buffers for `capacity` positions and batches of `batch` rows, or as many as can run together.
    ///
    /// # Errors
    /// [`ModelError::ContextFull`] if `capacity` is zero or past [`KvCache::MAX_CAPACITY`]; [`ModelError::Gpu`]: a KV type or a
    /// shape that the kernels do not have, out of memory, device lost.
    pub fn new(
        model: Arc<GpuModel>,
        decoder: &Decoder,
        kv: KvType,
        capacity: usize,
        batch: usize,
    ) -> Result<Self, ModelError> {
        if capacity == 0 || capacity > KvCache::MAX_CAPACITY {
            return Err(ModelError::ContextFull { capacity: KvCache::MAX_CAPACITY, used: 0, added: capacity });
        }
        let wide = match kv {
            KvType::F32 => true,
            KvType::F16 => false,
            KvType::Q8_0 => return Err(ModelError::GpuKv { kv: kv.name() }),
        };
        let held = Held::new(decoder.layers.iter().map(|layer| layer.attention.heads.window), capacity);
        let batch = batch.clamp(1, capacity.min(MAX_BATCH).min(held.batch()));
        let gpu = model.gpu().clone();
        let layouts: Vec<_> = (0..decoder.layers.len()).map(|i| layout(&model, decoder, i, wide, capacity)).collect();
        let cache = layouts.iter().map(|layout| GpuKv::new(&gpu, layout)).collect::<Result<Vec<_>, _>>()?;
        let before = gpu.allocated_bytes();
        let rows = Rows::new(&gpu, decoder, &layouts, batch)?;
        let scratch_bytes = gpu.allocated_bytes().saturating_sub(before);
        let mut layers = Vec::with_capacity(layouts.len());
        for (i, layout) in layouts.into_iter().enumerate() {
            layers.push(LayerBounds::new(&model, decoder, i, layout, &rows, &cache[i])?);
        }
        let last = decoder.layers.last();
        let post = last.and_then(|layer| layer.mlp_post_norm.as_ref());
        let post = post.zip(model.layers.last().and_then(|layer| layer.mlp_post_norm));
        let post = post.map(|(norm, at)| (at, norm.eps));
        let norm = rows.norm(&model, last.is_some(), post, (model.norm, decoder.norm.eps))?;
        let vectors = model.vectors.all();
        let head = model.head.product(&gpu, (vectors, None), rows.normed.all(), rows.logits.all())?;
        let lookup = model.embedding.lookup(&gpu, decoder.embedding_scale, rows.step.all(), rows.x.all())?;
        gpu.keep_kernels();
        let staged = Vec::with_capacity((rows.step.bytes() / 4) as usize);
        Ok(Self {
            model,
            rows,
            layers,
            lookup,
            norm,
            head,
            kv: cache,
            adapters: GpuAdapters::new(batch),
            active: ActiveAdapters::none(),
            staged,
            batch,
            held,
            scratch_bytes,
        })
    }

    /// The weights it runs on.
    pub fn model(&self) -> &Arc<GpuModel> {
        &self.model
    }

    /// Rows of a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.held.capacity()
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.held.len() == 0
    }

    /// Forgets every position from `len` on; and every other, if a layer with a window no longer has what the next one would see, as
    /// [`KvCache::truncate`] does.
    pub fn truncate(&mut self, len: usize) {
        self.held.truncate(len);
    }

    /// Makes these the adapters of the next pass: one upload, and where a set of this form was not used before, the preparation of
    /// its kernels. The same set again costs nothing.
    ///
    /// # Errors
    /// [`ModelError::GpuAdapter`] for a kind of change that only the CPU has, [`ModelError::Gpu`], [`ModelError::GpuSuspended`]:
    /// the base then runs alone.
    pub fn set_adapters(&mut self, decoder: &Decoder, adapters: &ActiveAdapters) -> Result<(), ModelError> {
        if self.active.same(adapters) {
            return Ok(());
        }
        let model = self.model.clone();
        let _submitting = model.suspension.submitting()?;
        self.active = ActiveAdapters::none();
        self.adapters.set(model.gpu(), decoder, &self.rows, adapters)?;
        self.active = adapters.clone();
        Ok(())
    }

    /// Bytes of the adapters on the device.
    pub fn adapter_bytes(&self) -> u64 {
        self.adapters.bytes()
    }

    /// Bytes of keys and values on the device.
    pub fn kv_bytes(&self) -> u64 {
        self.kv.iter().map(|kv| kv.keys.bytes() + kv.values.bytes()).sum()
    }

    /// Bytes of the other buffers on the device.
    pub fn scratch_bytes(&self) -> u64 {
        self.scratch_bytes
    }
}

fn layout(model: &GpuModel, decoder: &Decoder, index: usize, wide: bool, capacity: usize) -> HeadLayout {
    let (attention, layer) = (&decoder.layers[index].attention, &model.layers[index]);
    let rope = &decoder.ropes[attention.rope];
    let eps = |norm: &Option<super::super::blocks::RmsNorm>| norm.as_ref().map_or(0.0, |norm| norm.eps);
    HeadLayout {
        heads: attention.heads,
        pairs: rope.style() == RopeStyle::Pairs,
        angles: rope.angles(),
        q_norm: layer.q_norm.map(|at| (at, eps(&attention.q_norm))),
        k_norm: layer.k_norm.map(|at| (at, eps(&attention.k_norm))),
        wide,
        ring: Ring::new(attention.heads.window, capacity).slots(),
    }
}

impl Rows {
    fn new(gpu: &Gpu, decoder: &Decoder, layouts: &[HeadLayout], batch: usize) -> Result<Self, GpuError> {
        let largest = |f: fn(&HeadLayout) -> usize| layouts.iter().map(f).max().unwrap_or(1);
        let (q, kv) = (largest(|l| l.heads.q_len()), largest(|l| l.heads.kv_len()));
        let angles: usize = decoder.ropes.iter().map(|rope| 2 * rope.angles()).sum();
        let of = |what: &str, elements: usize| gpu.storage(what, elements as u64 * 4);
        Ok(Self {
            step: of("tokens and angles", batch.next_multiple_of(GRAIN) + batch * angles)?,
            x: of("residual", batch * decoder.hidden)?,
            normed: of("norm of the residual", batch * decoder.hidden)?,
            out: of("output of a block", batch * decoder.hidden)?,
            q: of("queries", batch * q)?,
            k: of("keys of a batch", batch * kv)?,
            v: of("values of a batch", batch * kv)?,
            mixed: of("output of attention", batch * q)?,
            gate: of("gate", batch * decoder.inner)?,
            up: of("up", batch * decoder.inner)?,
            parts: of("parts of attention", largest(HeadLayout::parts_len))?,
            logits: of("logits", HEAD_ROWS.min(batch) * decoder.vocab)?,
        })
    }
}

impl LayerBounds {
    fn new(
        model: &GpuModel,
        decoder: &Decoder,
        index: usize,
        layout: HeadLayout,
        rows: &Rows,
        kv: &GpuKv,
    ) -> Result<Self, GpuError> {
        let gpu = model.gpu();
        let (layer, weights) = (&decoder.layers[index], &model.layers[index]);
        let before = index.checked_sub(1).map(|i| (&decoder.layers[i], &model.layers[i]));
        let post = before.and_then(|(layer, at)| Some((at.mlp_post_norm?, layer.mlp_post_norm.as_ref()?.eps)));
        let norm = (weights.attention_norm, layer.attention_norm.eps);
        let attention_norm = rows.norm(model, before.is_some(), post, norm)?;
        let post = layer.attention_post_norm.as_ref().and_then(|norm| Some((weights.attention_post_norm?, norm.eps)));
        let mlp_norm = rows.norm(model, true, post, (weights.mlp_norm, layer.mlp_norm.eps))?;
        let product = |kind: LinearKind| {
            let (x, y) = rows.of(kind);
            let bias = weights.biases[kind as usize];
            weights.linears[kind as usize].product(gpu, (model.vectors.all(), bias), x.all(), y.all())
        };
        let [q, k, v, o, gate, up, down] = LinearKind::ALL.map(product);
        let products = [q?, k?, v?, o?, gate?, up?, down?];
        let buffers = HeadBuffers {
            vectors: model.vectors.all(),
            step: rows.step.all(),
            q: rows.q.all(),
            k: rows.k.all(),
            v: rows.v.all(),
            keys: kv.keys.all(),
            values: kv.values.all(),
            mixed: rows.mixed.all(),
            parts: rows.parts.all(),
        };
        Ok(Self {
            attention_norm,
            products,
            attention: layout.bind(gpu, buffers)?,
            mlp_norm,
            gate: GpuGate::bind(gpu, layer.mlp.activation, rows.gate.all(), rows.up.all())?,
        })
    }
}

impl Rows {
    /// What a block begins with, over these rows.
    fn norm(&self, model: &GpuModel, out: bool, post: Option<NormAt>, norm: NormAt) -> Result<GpuNorm, GpuError> {
        let (x, out_rows, normed) = (self.x.all(), self.out.all(), self.normed.all());
        let on = NormBuffers { vectors: model.vectors.all(), x, out: out_rows, normed };
        GpuNorm::bind(model.gpu(), on, model.embedding.shape().1, out, post, norm)
    }

    /// What a linear reads and writes.
    pub fn of(&self, kind: LinearKind) -> (&GpuBuffer, &GpuBuffer) {
        match kind {
            LinearKind::Q => (&self.normed, &self.q),
            LinearKind::K => (&self.normed, &self.k),
            LinearKind::V => (&self.normed, &self.v),
            LinearKind::O => (&self.mixed, &self.out),
            LinearKind::Gate => (&self.normed, &self.gate),
            LinearKind::Up => (&self.normed, &self.up),
            LinearKind::Down => (&self.gate, &self.out),
        }
    }
}
