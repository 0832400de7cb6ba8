//! The KV cache: keys and values of every position so far, per layer and KV head; of a layer with a sliding window, of the last
//! positions alone.

use std::ops::Range;

use crate::kernels::Aligned;
use crate::kernels::attention::pairs::PairTile;
use crate::kernels::attention::{BLOCK, CacheFormat, Keys, Q8_GROUP, Values, store_key, store_value};
use crate::kernels::prefetch;

use super::ModelError;
use super::blocks::Heads;
use super::held::{Held, Ring};

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvType {
    /// 4 bytes an element: for comparing with a reference.
    F32,
    /// 2 bytes an element.
    F16,
    /// 34 bytes for 32 elements: an f16 scale and 32 signed bytes.
    Q8_0,
}

impl KvType {
    /// The name the command line uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        }
    }

    const fn format(self) -> CacheFormat {
        match self {
            Self::F32 => CacheFormat::F32,
            Self::F16 => CacheFormat::F16,
            Self::Q8_0 => CacheFormat::Q8,
        }
    }
}

impl std::fmt::Display for KvType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for KvType {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        [Self::F32, Self::F16, Self::Q8_0]
            .into_iter()
            .find(|k| k.name() == s)
            .ok_or_else(|| format!("{s:?} is not a KV type, expected f32, f16 or q8_0"))
    }
}

/// Whether a plane holds keys or values, which lie in different orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Keys,
    Values,
}

/// How a plane is laid out: blocks of [`BLOCK`] positions, each a record for every head, so that what a batch of positions
/// writes lies together.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlaneLayout {
    role: Role,
    format: CacheFormat,
    heads: usize,
    /// Elements of a head, those of values padded to whole registers.
    dim: usize,
}

impl PlaneLayout {
    fn new(role: Role, kv: KvType, heads: usize, head_dim: usize) -> Self {
        let dim = match role {
            Role::Keys => head_dim,
            Role::Values => padded(head_dim),
        };
        Self { role, format: kv.format(), heads, dim }
    }

    fn record_words(&self) -> usize {
        self.format.record_words(self.dim)
    }

    /// 32-bit words of a block.
    pub(super) fn block_words(&self) -> usize {
        self.heads * self.record_words()
    }

    /// Stores one head's vector at `position` of a block.
    pub(super) fn store(&self, block: &mut [f32], head: usize, position: usize, x: &[f32]) {
        let words = self.record_words();
        let record = &mut block[head * words..][..words];
        match self.role {
            Role::Keys => store_key(record, self.format, self.dim, position, x),
            Role::Values => store_value(record, self.format, self.dim, position, x),
        }
    }
}

/// Elements of a head's value as stored and as attention computes it: whole registers.
pub(super) const fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(BLOCK)
}

/// The keys, or the values, of one layer.
#[derive(Debug)]
pub(super) struct KvPlane {
    layout: PlaneLayout,
    ring: Ring,
    words: Aligned,
}

impl KvPlane {
    /// 32-bit words that `slots` positions take, which are whole blocks; `None` if no memory has as many.
    fn len(layout: PlaneLayout, slots: usize) -> Option<usize> {
        let record = BLOCK.checked_mul(layout.dim)?;
        let elements = record.checked_mul(layout.heads)?.checked_mul(slots / BLOCK)?;
        // No format takes more than a word for an element, so that nothing below overflows either.
        elements.checked_mul(size_of::<f32>())?;
        Some(layout.block_words() * (slots / BLOCK))
    }

    /// `None` if the system does not give that much memory.
    fn new(layout: PlaneLayout, ring: Ring) -> Option<Self> {
        Some(Self { layout, ring, words: Aligned::zeroed(Self::len(layout, ring.slots())?)? })
    }

    pub(super) fn layout(&self) -> PlaneLayout {
        self.layout
    }

    /// The blocks, [`PlaneLayout::block_words`] each, that hold these positions.
    ///
    /// # Panics
    /// If the ring begins anew between them.
    pub(super) fn blocks_mut(&mut self, positions: Range<usize>) -> &mut [f32] {
        let words = self.layout.block_words();
        let first = self.ring.slot(positions.start);
        let end = first + positions.len();
        assert!(end <= self.ring.slots(), "positions {positions:?} of a ring of {}", self.ring.slots());
        &mut self.words[first / BLOCK * words..end.div_ceil(BLOCK) * words]
    }

    /// Asks for the lines that the numbers of `position` will be written to.
    fn expect(&self, position: usize) {
        let PlaneLayout { role, heads, .. } = self.layout;
        for head in 0..heads {
            let record = self.records(head, position / BLOCK * BLOCK);
            let record = &record[..self.layout.record_words().min(record.len())];
            let words = record.len() / BLOCK;
            match role {
                // One lane of every row.
                Role::Keys => prefetch(bytemuck::cast_slice(record)),
                Role::Values => prefetch(bytemuck::cast_slice(&record[position % BLOCK * words..][..words])),
            }
        }
    }

    /// The records of one head from `position`, a multiple of [`BLOCK`], on, to the end of its tile at least.
    fn records(&self, head: usize, position: usize) -> &[f32] {
        let from = self.ring.slot(position) / BLOCK * self.layout.block_words() + head * self.layout.record_words();
        self.words.get(from..).unwrap_or_default()
    }
}

/// Keys and values of one layer.
#[derive(Debug)]
pub struct KvLayer {
    pub(super) k: KvPlane,
    pub(super) v: KvPlane,
}

impl KvLayer {
    /// Room for `capacity` positions, or the last of them that the heads' window needs; `None` if the system does not give that much
    /// memory.
    ///
    /// # Panics
    /// If a head is not a whole number of blocks of the type.
    pub fn new(kv: KvType, heads: &Heads, capacity: usize) -> Option<Self> {
        assert!(kv != KvType::Q8_0 || heads.dim.is_multiple_of(Q8_GROUP), "{kv} heads of {} elements", heads.dim);
        let ring = Ring::new(heads.window, capacity);
        let plane = |role| KvPlane::new(PlaneLayout::new(role, kv, heads.kv, heads.dim), ring);
        Some(Self { k: plane(Role::Keys)?, v: plane(Role::Values)? })
    }

    /// Says that keys and values of `position` are stored soon.
    pub(super) fn expect(&self, position: usize) {
        self.k.expect(position);
        self.v.expect(position);
    }

    /// Positions after the one at `start` that lie together with it, up to `end`.
    pub(super) fn together(&self, start: usize, end: usize) -> Range<usize> {
        self.k.ring.together(start, end)
    }

    /// Bytes reserved, in whole blocks.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.k.words) + size_of_val(&*self.v.words)
    }

    /// Whether a tile can be taken as pairs of integers.
    pub(super) fn takes_pairs(&self) -> bool {
        let PlaneLayout { format, dim, .. } = self.k.layout;
        PairTile::takes(format, dim)
    }

    /// One head's keys from `position`, a multiple of [`BLOCK`], on.
    pub(super) fn keys(&self, head: usize, position: usize) -> Keys<'_> {
        let PlaneLayout { format, dim, .. } = self.k.layout;
        Keys::new(self.k.records(head, position), format, dim, self.k.layout.block_words())
    }

    /// One head's values from `position`, a multiple of [`BLOCK`], on.
    pub(super) fn values(&self, head: usize, position: usize) -> Values<'_> {
        let PlaneLayout { format, dim, .. } = self.v.layout;
        Values::new(self.v.records(head, position), format, dim, self.v.layout.block_words())
    }
}

/// The whole cache, with room for `capacity` positions.
#[derive(Debug)]
pub struct KvCache {
    pub(super) layers: Vec<KvLayer>,
    kv: KvType,
    held: Held,
    bytes: usize,
}

impl KvCache {
    /// Positions of a session that names no number, unless the model was trained for fewer.
    pub const DEFAULT_CAPACITY: usize = 4096;
    /// Capacities past this are refused.
    pub const MAX_CAPACITY: usize = 1 << 20;

    /// Bytes that a cache would reserve, without making it.
    ///
    /// # Errors
    /// As [`Model::kv_cache`](super::Model::kv_cache).
    pub(super) fn bytes_of(
        kv: KvType,
        capacity: usize,
        layers: impl Iterator<Item = Heads>,
    ) -> Result<usize, ModelError> {
        Self::check_capacity(capacity)?;
        let mut bytes = 0usize;
        for heads in layers {
            Self::check_head(kv, heads.dim)?;
            let slots = Ring::new(heads.window, capacity).slots();
            for role in [Role::Keys, Role::Values] {
                let words = KvPlane::len(PlaneLayout::new(role, kv, heads.kv, heads.dim), slots);
                let total = words.and_then(|words| bytes.checked_add(words * size_of::<f32>()));
                bytes = total.ok_or(ModelError::KvMemory { capacity })?;
            }
        }
        Ok(bytes)
    }

    fn check_capacity(capacity: usize) -> Result<(), ModelError> {
        if capacity == 0 || capacity > Self::MAX_CAPACITY {
            return Err(ModelError::ContextFull { capacity: Self::MAX_CAPACITY, used: 0, added: capacity });
        }
        Ok(())
    }

    fn check_head(kv: KvType, head_dim: usize) -> Result<(), ModelError> {
        if kv == KvType::Q8_0 && !head_dim.is_multiple_of(Q8_GROUP) {
            return Err(ModelError::KvHead { kv: kv.name(), head_dim });
        }
        Ok(())
    }

    /// `heads` are each layer's.
    ///
    /// # Errors
    /// [`ModelError::KvHead`] if a head is not a whole number of `q8_0` blocks; [`ModelError::ContextFull`] if
    /// `capacity` is zero or past [`Self::MAX_CAPACITY`]; [`ModelError::KvMemory`].
    pub(super) fn new(kv: KvType, capacity: usize, heads: impl Iterator<Item = Heads>) -> Result<Self, ModelError> {
        Self::check_capacity(capacity)?;
        let heads: Vec<Heads> = heads.collect();
        let held = Held::new(heads.iter().map(|heads| heads.window), capacity);
        let mut layers = Vec::with_capacity(heads.len());
        let mut bytes = 0;
        for heads in heads {
            Self::check_head(kv, heads.dim)?;
            let layer = KvLayer::new(kv, &heads, capacity).ok_or(ModelError::KvMemory { capacity })?;
            bytes += layer.bytes();
            layers.push(layer);
        }
        Ok(Self { layers, kv, held, bytes })
    }

    /// How elements are stored.
    pub fn kv_type(&self) -> KvType {
        self.kv
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

    /// Forgets every position and gives the memory back. The cache cannot be run with any more; one like it is to take its
    /// place ([`Self::is_released`]).
    pub fn release(&mut self) {
        self.layers = Vec::new();
        self.held.truncate(0);
    }

    /// Whether its memory was given back.
    pub fn is_released(&self) -> bool {
        self.layers.is_empty()
    }

    /// Forgets every position from `len` on; and every other, if a layer with a window no longer has what the next one would see.
    /// Some hundreds of positions can be taken back before that.
    pub fn truncate(&mut self, len: usize) {
        self.held.truncate(len);
    }

    /// Bytes reserved for `capacity` positions, of layers with a window for the last of them, in whole blocks; pages are taken as
    /// positions are written.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes room for `added` more positions after those held, or says why not. Called before they are written.
    pub(super) fn reserve(&self, added: usize) -> Result<(), ModelError> {
        self.held.reserve(added)
    }

    /// Rows that can run together: while they are written, what the first of them sees must stay.
    pub(super) fn batch(&self) -> usize {
        self.held.batch()
    }

    /// Says that `added` positions are about to be written after those held, at most [`batch`](Self::batch): they take the place of
    /// others even if the pass then fails.
    pub(super) fn begin(&mut self, added: usize) {
        self.held.begin(added);
    }

    /// Counts `added` positions as held, once every layer has written them.
    pub(super) fn commit(&mut self, added: usize) {
        self.held.commit(added);
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::super::blocks::Window;
    use super::super::held::SPARE;
    use super::*;

    fn heads(kv: usize, dim: usize, window: Window) -> Heads {
        Heads { count: kv, kv, dim, scale: 1.0, soft_cap: None, window }
    }

    fn full(kv: usize, dim: usize) -> Heads {
        heads(kv, dim, Window::Full)
    }

    /// Element `d` of the vector that a plane holds at a position, read from the definition of its layout.
    fn element(plane: &KvPlane, head: usize, position: usize, d: usize) -> f32 {
        let PlaneLayout { role, format, dim, .. } = plane.layout;
        let record = plane.records(head, position / BLOCK * BLOCK);
        let position = position % BLOCK;
        let (at, scale) = match role {
            Role::Keys => (d * BLOCK + position, d / Q8_GROUP * BLOCK + position),
            Role::Values => (position * dim + d, position * (dim / Q8_GROUP) + d / Q8_GROUP),
        };
        match format {
            CacheFormat::F32 => record[at],
            CacheFormat::F16 => bytemuck::cast_slice::<_, f16>(record)[at].to_f32(),
            CacheFormat::Q8 => {
                let scale = bytemuck::cast_slice::<_, f16>(record)[dim * BLOCK / 2 + scale].to_f32();
                f32::from(bytemuck::cast_slice::<_, i8>(record)[at]) * scale
            }
        }
    }

    fn store(plane: &mut KvPlane, head: usize, position: usize, x: &[f32]) {
        let layout = plane.layout();
        layout.store(plane.blocks_mut(position..position + 1), head, position % BLOCK, x);
    }

    #[test]
    fn every_type_reads_back_what_was_stored() {
        for (kv, tolerance) in [(KvType::F32, 0.0), (KvType::F16, 5e-4), (KvType::Q8_0, 4.5e-3)] {
            for dim in [64, 96] {
                let mut cache = KvCache::new(kv, 37, [full(2, dim)].into_iter()).unwrap();
                let value = |p: usize, d: usize| ((p * 31 + d * 37) % 64) as f32 / 32.0 - 1.0;
                let layer = &mut cache.layers[0];
                for plane in [&mut layer.k, &mut layer.v] {
                    for position in [2, 15, 16, 36] {
                        let x: Vec<f32> = (0..dim).map(|d| value(position, d)).collect();
                        store(plane, 1, position, &x);
                    }
                    for position in [2, 15, 16, 36] {
                        for d in 0..dim {
                            let got = element(plane, 1, position, d);
                            assert!((got - value(position, d)).abs() <= tolerance, "{kv} {position} {d}: {got}");
                        }
                    }
                    assert!((0..dim).all(|d| element(plane, 1, 3, d) == 0.0), "other positions untouched");
                    assert!((0..dim).all(|d| element(plane, 0, 2, d) == 0.0), "other heads untouched");
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for kv in [KvType::F32, KvType::F16, KvType::Q8_0] {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut cache = KvCache::new(kv, 1, [full(1, 32)].into_iter()).unwrap();
                let mut x = [0.5; 32];
                x[7] = bad;
                let layer = &mut cache.layers[0];
                store(&mut layer.k, 0, 0, &x);
                store(&mut layer.v, 0, 0, &x);
                assert!(!element(&layer.k, 0, 0, 7).is_finite(), "{kv} {bad}");
                assert!(!element(&layer.v, 0, 0, 7).is_finite(), "{kv} {bad}");
            }
        }
    }

    #[test]
    fn refuses_what_it_cannot_hold() {
        assert!(matches!(
            KvCache::new(KvType::Q8_0, 4, [full(1, 48)].into_iter()),
            Err(ModelError::KvHead { head_dim: 48, .. })
        ));
        assert!(KvCache::new(KvType::F16, 0, [full(1, 64)].into_iter()).is_err());
        for kv in [KvType::F32, KvType::F16, KvType::Q8_0] {
            for heads in [1 << 24, usize::MAX / 64] {
                let shapes = [full(1, 64), full(heads, 1 << 24)].into_iter();
                let error = KvCache::new(kv, KvCache::MAX_CAPACITY, shapes).unwrap_err();
                assert!(matches!(error, ModelError::KvMemory { capacity: KvCache::MAX_CAPACITY }), "{error}");
            }
        }
        let mut cache = KvCache::new(KvType::F16, 4, [full(1, 64)].into_iter()).unwrap();
        cache.commit(3);
        assert!(cache.reserve(1).is_ok());
        assert!(matches!(cache.reserve(2), Err(ModelError::ContextFull { capacity: 4, used: 3, added: 2 })));
        cache.truncate(1);
        assert!(cache.reserve(3).is_ok());
    }

    #[test]
    fn a_window_keeps_the_last_positions() {
        let (window, capacity) = (100, 4096);
        let layers = [heads(2, 32, Window::Last(window)), full(2, 32)];
        let mut cache = KvCache::new(KvType::F32, capacity, layers.into_iter()).unwrap();
        let slots = cache.layers[0].k.ring.slots();
        assert!(slots >= window + SPARE && slots < capacity / 2, "{slots}");
        assert_eq!(cache.batch(), SPARE);
        assert_eq!(cache.bytes(), (slots + capacity) * 2 * 32 * 2 * 4);
        assert_eq!(KvCache::bytes_of(KvType::F32, capacity, layers.into_iter()).unwrap(), cache.bytes());
        let value = |position: usize| [position as f32; 32];
        for position in 0..2000 {
            let layer = &mut cache.layers[0];
            for plane in [&mut layer.k, &mut layer.v] {
                store(plane, 1, position, &value(position));
            }
            let oldest = (position + 1).saturating_sub(slots);
            for p in [position, position.saturating_sub(window), oldest] {
                for plane in [&cache.layers[0].k, &cache.layers[0].v] {
                    assert_eq!(element(plane, 1, p, 5), p as f32, "{p} after {position}");
                }
            }
        }
    }
}
