//! Heads and attention of a layer on the device.

use crate::gpu::{Binding, Bound, Gpu, GpuBuffer, GpuError, Recorder};
use crate::kernels::attention::TILE;

use super::super::blocks::{Heads, Window};
use super::kernels::{self, ATTENTION_ELEMENTS, ATTENTION_TILE, FEWEST_SLOTS, HeadKind};

/// Most spans that one row's positions are cut into.
pub(super) const SPANS: usize = 16;
/// A ring of whole tiles of the CPU's is one of whole tiles here.
const _: () = assert!(TILE.is_multiple_of(ATTENTION_TILE));
/// Fewest tiles of a span.
const TILES_OF_A_SPAN: usize = 4;

/// The numbers of a layer's heads that its kernels take as parameters.
#[derive(Debug, Clone, Copy)]
pub struct HeadLayout {
    /// How many heads there are and how they see the cache.
    pub heads: Heads,
    /// Whether neighbours are rotated together.
    pub pairs: bool,
    /// Angles of the rotation.
    pub angles: usize,
    /// Where the norm of q's heads begins among the vectors, and its epsilon.
    pub q_norm: Option<(usize, f32)>,
    /// The same of k's.
    pub k_norm: Option<(usize, f32)>,
    /// Whether the cache is f32, else f16.
    pub wide: bool,
    /// Positions that the cache has room for, of which position p is at p % `ring`: all there will be, or else whole tiles of 32, as
    /// many as the window and a batch need.
    pub ring: usize,
}

/// The buffers that attention works on.
#[derive(Debug, Clone, Copy)]
pub struct HeadBuffers<'a> {
    /// Norms and biases.
    pub vectors: Binding<'a>,
    /// The step, in which the rotation's tables are.
    pub step: Binding<'a>,
    /// rows × (heads · dim); turned in place.
    pub q: Binding<'a>,
    /// rows × (kv · dim).
    pub k: Binding<'a>,
    /// rows × (kv · dim).
    pub v: Binding<'a>,
    /// [`HeadLayout::ring`] × (kv · dim).
    pub keys: Binding<'a>,
    /// [`HeadLayout::ring`] × (kv · dim).
    pub values: Binding<'a>,
    /// rows × (heads · dim).
    pub mixed: Binding<'a>,
    /// Of [`HeadLayout::parts_len`] numbers.
    pub parts: Binding<'a>,
}

/// Attention that can be recorded any number of times.
#[derive(Debug)]
pub struct GpuAttention {
    layout: HeadLayout,
    turn: Bound,
    few: Bound,
    many: Bound,
    slots: usize,
    merge: Bound,
}

impl HeadLayout {
    fn kind(&self) -> HeadKind {
        HeadKind {
            dim: self.heads.dim,
            pairs: self.pairs,
            q_norm: self.q_norm.is_some(),
            k_norm: self.k_norm.is_some(),
            wide: self.wide,
            soft_cap: self.heads.soft_cap,
        }
    }

    /// Bytes of the keys, or the values, of a position.
    pub fn position_bytes(&self) -> usize {
        self.heads.kv_len() * if self.wide { 4 } else { 2 }
    }

    /// Numbers that the spans of one row leave.
    pub fn parts_len(&self) -> usize {
        self.heads.count * SPANS * (self.heads.dim + 4)
    }

    /// Prepares attention over these buffers.
    ///
    /// # Errors
    /// [`GpuError::Limit`] for heads of more than 512 elements or not a multiple of 4; [`GpuError::Shader`],
    /// [`GpuError::Command`], [`GpuError::DeviceLost`].
    pub fn bind(self, gpu: &Gpu, on: HeadBuffers<'_>) -> Result<GpuAttention, GpuError> {
        let dim = self.heads.dim;
        let most = ATTENTION_ELEMENTS / FEWEST_SLOTS;
        if dim > most || !dim.is_multiple_of(4) {
            let what = "a head of a multiple of 4 elements".to_owned();
            return Err(GpuError::Limit { what, needed: dim as u64, max: most as u64 });
        }
        let slots = [16, 8, FEWEST_SLOTS].into_iter().find(|slots| slots * dim <= ATTENTION_ELEMENTS);
        let slots = slots.unwrap_or(FEWEST_SLOTS);
        let kind = self.kind();
        let arguments = [on.q, on.keys, on.values, on.mixed, on.parts];
        let attend = |slots| kernels::attend(gpu, kind, slots)?.bind(gpu, &arguments);
        let turned = [on.vectors, on.step, on.k, on.v, on.q, on.keys, on.values];
        Ok(GpuAttention {
            layout: self,
            turn: kernels::turn(gpu, kind)?.bind(gpu, &turned)?,
            few: attend(FEWEST_SLOTS)?,
            many: attend(slots)?,
            slots,
            merge: kernels::merge(gpu, kind)?.bind(gpu, &arguments)?,
        })
    }
}

impl GpuAttention {
    /// Records the turning of q, the storing of k and v of rows at positions `start..`, and attention of q over the cache.
    /// `table` is where the rows' rotation tables begin in the step.
    pub fn record(&self, recorder: &mut Recorder, start: usize, rows: usize, table: usize) {
        let HeadLayout { heads, angles, q_norm, k_norm, ring, .. } = self.layout;
        let norm = |norm: Option<(usize, f32)>| norm.map_or((0, 0), |(at, eps)| (at as u32, eps.to_bits()));
        let ((q_at, q_eps), (k_at, k_eps)) = (norm(q_norm), norm(k_norm));
        let (count, kv) = (heads.count as u32, heads.kv as u32);
        let scale = heads.scale.to_bits();
        let (start, ring) = (start as u32, ring as u32);
        let params = [count, kv, angles as u32, table as u32, q_at, k_at, q_eps, k_eps, scale, start, ring, 0];
        recorder.run(&self.turn, &params, [count + 2 * kv, rows as u32, 1]);

        let (slots, bound) = match rows * heads.group() > FEWEST_SLOTS {
            true if rows > 1 => (self.slots, &self.many),
            _ => (FEWEST_SLOTS, &self.few),
        };
        let window = match heads.window {
            Window::Full => 0,
            Window::Last(n) => n,
        };
        let spans = if rows == 1 { spans(&heads, start as usize) } else { 1 };
        let group = heads.group();
        let params = [kv, group as u32, window as u32, rows as u32, start, spans as u32, ring, 0];
        let groups = (rows * group).div_ceil(slots) as u32;
        recorder.run(bound, &params, [groups, kv, spans as u32]);
        if spans > 1 {
            recorder.run(&self.merge, &params, [count, 1, 1]);
        }
    }
}

/// Into how many spans the positions that `position` sees are cut, so that one row keeps the device busy.
fn spans(heads: &Heads, position: usize) -> usize {
    let tiles = (position + 1 - heads.window.first(position)).div_ceil(ATTENTION_TILE);
    (tiles / TILES_OF_A_SPAN).clamp(1, SPANS)
}

/// The keys and values of one layer.
#[derive(Debug)]
pub(super) struct GpuKv {
    pub keys: GpuBuffer,
    pub values: GpuBuffer,
}

impl GpuKv {
    pub fn new(gpu: &Gpu, layout: &HeadLayout) -> Result<Self, GpuError> {
        let bytes = layout.position_bytes() as u64 * layout.ring as u64;
        let max = gpu.info().max_binding.min(u64::from(u32::MAX));
        if bytes > max {
            return Err(GpuError::Limit { what: "the keys of a layer".to_owned(), needed: bytes, max });
        }
        Ok(Self { keys: gpu.storage("keys", bytes)?, values: gpu.storage("values", bytes)? })
    }
}
