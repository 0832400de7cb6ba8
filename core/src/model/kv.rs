//! The KV cache: keys and values of every position so far, per layer and KV head.

use std::ops::Range;

use crate::kernels::Aligned;
use crate::kernels::attention::{BLOCK, CacheFormat, Keys, Q8_GROUP, Values, store_key, store_value};

use super::ModelError;

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
    words: Aligned,
}

impl KvPlane {
    /// 32-bit words that `capacity` positions take, in whole blocks; `None` if no memory has as many.
    fn len(layout: PlaneLayout, capacity: usize) -> Option<usize> {
        let record = BLOCK.checked_mul(layout.dim)?;
        let elements = record.checked_mul(layout.heads)?.checked_mul(capacity.div_ceil(BLOCK))?;
        // No format takes more than a word for an element, so that nothing below overflows either.
        elements.checked_mul(size_of::<f32>())?;
        Some(layout.block_words() * capacity.div_ceil(BLOCK))
    }

    /// `None` if the system does not give that much memory.
    fn new(layout: PlaneLayout, capacity: usize) -> Option<Self> {
        Some(Self { layout, words: Aligned::zeroed(Self::len(layout, capacity)?)? })
    }

    pub(super) fn layout(&self) -> PlaneLayout {
        self.layout
    }

    /// The blocks, [`PlaneLayout::block_words`] each, that hold these positions.
    pub(super) fn blocks_mut(&mut self, positions: Range<usize>) -> &mut [f32] {
        let words = self.layout.block_words();
        &mut self.words[positions.start / BLOCK * words..positions.end.div_ceil(BLOCK) * words]
    }

    /// The records of one head from `position`, a multiple of [`BLOCK`], on.
    fn records(&self, head: usize, position: usize) -> &[f32] {
        let from = position / BLOCK * self.layout.block_words() + head * self.layout.record_words();
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
    /// Room for `capacity` positions; `None` if the system does not give that much memory.
    ///
    /// # Panics
    /// If `head_dim` is not a whole number of blocks of the type.
    pub fn new(kv: KvType, heads: usize, head_dim: usize, capacity: usize) -> Option<Self> {
        assert!(kv != KvType::Q8_0 || head_dim.is_multiple_of(Q8_GROUP), "{kv} heads of {head_dim} elements");
        let plane = |role| KvPlane::new(PlaneLayout::new(role, kv, heads, head_dim), capacity);
        Some(Self { k: plane(Role::Keys)?, v: plane(Role::Values)? })
    }

    /// Bytes reserved, in whole blocks.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.k.words) + size_of_val(&*self.v.words)
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
    capacity: usize,
    len: usize,
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
        shapes: impl Iterator<Item = (usize, usize)>,
    ) -> Result<usize, ModelError> {
        Self::check_capacity(capacity)?;
        let mut bytes = 0usize;
        for (heads, head_dim) in shapes {
            Self::check_head(kv, head_dim)?;
            for role in [Role::Keys, Role::Values] {
                let words = KvPlane::len(PlaneLayout::new(role, kv, heads, head_dim), capacity);
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

    /// `shapes` gives each layer's KV heads and head size.
    ///
    /// # Errors
    /// [`ModelError::KvHead`] if a head is not a whole number of `q8_0` blocks; [`ModelError::ContextFull`] if
    /// `capacity` is zero or past [`Self::MAX_CAPACITY`]; [`ModelError::KvMemory`].
    pub(super) fn new(
        kv: KvType,
        capacity: usize,
        shapes: impl Iterator<Item = (usize, usize)>,
    ) -> Result<Self, ModelError> {
        Self::check_capacity(capacity)?;
        let mut layers = Vec::new();
        let mut bytes = 0;
        for (heads, head_dim) in shapes {
            Self::check_head(kv, head_dim)?;
            let layer = KvLayer::new(kv, heads, head_dim, capacity).ok_or(ModelError::KvMemory { capacity })?;
            bytes += layer.bytes();
            layers.push(layer);
        }
        Ok(Self { layers, kv, capacity, len: 0, bytes })
    }

    /// How elements are stored.
    pub fn kv_type(&self) -> KvType {
        self.kv
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets every position and gives the memory back. The cache cannot be run with any more; one like it is to take its
    /// place ([`Self::is_released`]).
    pub fn release(&mut self) {
        self.layers = Vec::new();
        self.len = 0;
    }

    /// Whether its memory was given back.
    pub fn is_released(&self) -> bool {
        self.layers.is_empty()
    }

    /// Forgets every position from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Bytes reserved for `capacity` positions, in whole blocks; pages are taken as positions are written.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes room for `added` more positions after those held, or says why not. Called before they are written.
    pub(super) fn reserve(&self, added: usize) -> Result<(), ModelError> {
        if added > self.capacity - self.len {
            return Err(ModelError::ContextFull { capacity: self.capacity, used: self.len, added });
        }
        Ok(())
    }

    /// Counts `added` positions as held, once every layer has written them.
    pub(super) fn commit(&mut self, added: usize) {
        self.len += added;
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

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
                let mut cache = KvCache::new(kv, 37, [(2, dim)].into_iter()).unwrap();
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
                let mut cache = KvCache::new(kv, 1, [(1, 32)].into_iter()).unwrap();
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
            KvCache::new(KvType::Q8_0, 4, [(1, 48)].into_iter()),
            Err(ModelError::KvHead { head_dim: 48, .. })
        ));
        assert!(KvCache::new(KvType::F16, 0, [(1, 64)].into_iter()).is_err());
        for kv in [KvType::F32, KvType::F16, KvType::Q8_0] {
            for heads in [1 << 24, usize::MAX / 64] {
                let shapes = [(1, 64), (heads, 1 << 24)].into_iter();
                let error = KvCache::new(kv, KvCache::MAX_CAPACITY, shapes).unwrap_err();
                assert!(matches!(error, ModelError::KvMemory { capacity: KvCache::MAX_CAPACITY }), "{error}");
            }
        }
        let mut cache = KvCache::new(KvType::F16, 4, [(1, 64)].into_iter()).unwrap();
        cache.commit(3);
        assert!(cache.reserve(1).is_ok());
        assert!(matches!(cache.reserve(2), Err(ModelError::ContextFull { capacity: 4, used: 3, added: 2 })));
        cache.truncate(1);
        assert!(cache.reserve(3).is_ok());
    }
}
