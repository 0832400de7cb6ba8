//! The KV cache: keys and values of every position so far, per layer and KV head.

use half::f16;
use half::slice::HalfFloatSliceExt;

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

    /// Bytes that `elements` of a head take.
    const fn bytes(self, elements: usize) -> usize {
        match self {
            Self::F32 => elements * 4,
            Self::F16 => elements * 2,
            Self::Q8_0 => elements / Q8_BLOCK * (Q8_BLOCK + 2),
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

/// Elements under one scale.
const Q8_BLOCK: usize = 32;

/// One plane's elements, laid out [head][position][element], so that one head's positions lie in a row.
#[derive(Debug)]
enum Store {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Q8 { scales: Vec<f16>, quants: Vec<i8> },
}

/// The keys, or the values, of one layer.
#[derive(Debug)]
pub(super) struct KvPlane {
    store: Store,
    capacity: usize,
    head_dim: usize,
}

impl KvPlane {
    /// `None` if the system does not give that much memory.
    fn new(kv: KvType, heads: usize, head_dim: usize, capacity: usize) -> Option<Self> {
        let n = heads.checked_mul(capacity)?.checked_mul(head_dim)?;
        let store = match kv {
            KvType::F32 => Store::F32(zeroed(n)?),
            KvType::F16 => Store::F16(zeroed(n)?),
            KvType::Q8_0 => Store::Q8 { scales: zeroed(n / Q8_BLOCK)?, quants: zeroed(n)? },
        };
        Some(Self { store, capacity, head_dim })
    }

    /// Stores one head's vector at `position`.
    pub(super) fn store(&mut self, head: usize, position: usize, x: &[f32]) {
        let at = (head * self.capacity + position) * self.head_dim;
        let n = self.head_dim;
        match &mut self.store {
            Store::F32(data) => data[at..at + n].copy_from_slice(x),
            Store::F16(data) => data[at..at + n].convert_from_f32_slice(x),
            Store::Q8 { scales, quants } => {
                let blocks = x.chunks_exact(Q8_BLOCK).zip(quants[at..at + n].chunks_exact_mut(Q8_BLOCK));
                for ((x, q), scale) in blocks.zip(&mut scales[at / Q8_BLOCK..]) {
                    let largest = x.iter().fold(0f32, |a, v| a.max(v.abs()));
                    // Zero for finite numbers, NaN for the others, which bytes could not show.
                    let poison: f32 = x.iter().map(|v| v * 0.0).sum();
                    let d = f16::from_f32(largest / 127.0 + poison);
                    let inverse = if d.to_f32() > 0.0 { 1.0 / d.to_f32() } else { 0.0 };
                    *scale = d;
                    for (q, x) in q.iter_mut().zip(x) {
                        *q = (x * inverse).round() as i8;
                    }
                }
            }
        }
    }

    /// Reads consecutive positions of one head, from `position` on, as many as `out` holds.
    pub(super) fn load(&self, head: usize, position: usize, out: &mut [f32]) {
        let at = (head * self.capacity + position) * self.head_dim;
        let n = out.len();
        match &self.store {
            Store::F32(data) => out.copy_from_slice(&data[at..at + n]),
            Store::F16(data) => data[at..at + n].convert_to_f32_slice(out),
            Store::Q8 { scales, quants } => {
                let blocks = out.chunks_exact_mut(Q8_BLOCK).zip(quants[at..at + n].chunks_exact(Q8_BLOCK));
                for ((out, q), scale) in blocks.zip(&scales[at / Q8_BLOCK..]) {
                    let d = scale.to_f32();
                    for (out, q) in out.iter_mut().zip(q) {
                        *out = d * f32::from(*q);
                    }
                }
            }
        }
    }
}

/// Zeroed allocations of this size come straight from the system: pages cost memory when first written.
fn zeroed<T: bytemuck::Zeroable>(n: usize) -> Option<Vec<T>> {
    // Asked first, because the call below takes a size past the address space for a mistake of its caller.
    std::alloc::Layout::array::<T>(n).ok()?;
    bytemuck::allocation::try_zeroed_vec(n).ok()
}

/// Keys and values of one layer.
#[derive(Debug)]
pub(super) struct KvLayer {
    pub(super) k: KvPlane,
    pub(super) v: KvPlane,
}

/// The whole cache, with room for `capacity` positions.
#[derive(Debug)]
pub struct KvCache {
    pub(super) layers: Vec<KvLayer>,
    kv: KvType,
    capacity: usize,
    len: usize,
    bytes_per_position: usize,
}

impl KvCache {
    /// Capacities past this are refused.
    pub const MAX_CAPACITY: usize = 1 << 20;

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
        if capacity == 0 || capacity > Self::MAX_CAPACITY {
            return Err(ModelError::ContextFull { capacity: Self::MAX_CAPACITY, used: 0, added: capacity });
        }
        let mut layers = Vec::new();
        let mut bytes_per_position = 0;
        for (heads, head_dim) in shapes {
            if kv == KvType::Q8_0 && !head_dim.is_multiple_of(Q8_BLOCK) {
                return Err(ModelError::KvHead { kv: kv.name(), head_dim });
            }
            let plane = || KvPlane::new(kv, heads, head_dim, capacity).ok_or(ModelError::KvMemory { capacity });
            layers.push(KvLayer { k: plane()?, v: plane()? });
            bytes_per_position += 2 * heads * kv.bytes(head_dim);
        }
        Ok(Self { layers, kv, capacity, len: 0, bytes_per_position })
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

    /// Forgets every position from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Bytes reserved for `capacity` positions; pages are taken as positions are written.
    pub fn bytes(&self) -> usize {
        self.bytes_per_position * self.capacity
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
    use super::*;

    #[test]
    fn every_type_reads_back_what_was_stored() {
        for (kv, tolerance) in [(KvType::F32, 0.0), (KvType::F16, 1e-3), (KvType::Q8_0, 8e-3)] {
            let mut cache = KvCache::new(kv, 5, [(2, 64)].into_iter()).unwrap();
            let x: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 32.0) / 32.0).collect();
            let y: Vec<f32> = x.iter().map(|v| -v).collect();
            cache.layers[0].k.store(1, 2, &x);
            cache.layers[0].k.store(1, 3, &y);
            let mut out = vec![0.0; 128];
            cache.layers[0].k.load(1, 2, &mut out);
            for i in 0..64 {
                assert!((out[i] - x[i]).abs() <= tolerance && (out[64 + i] - y[i]).abs() <= tolerance, "{kv}");
            }
            cache.layers[0].k.load(0, 2, &mut out);
            assert!(out.iter().all(|&v| v == 0.0), "other heads untouched");
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for kv in [KvType::F32, KvType::F16, KvType::Q8_0] {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut cache = KvCache::new(kv, 1, [(1, 32)].into_iter()).unwrap();
                let mut x = [0.5; 32];
                x[7] = bad;
                cache.layers[0].v.store(0, 0, &x);
                let mut out = [0.0; 32];
                cache.layers[0].v.load(0, 0, &mut out);
                assert!(!out[7].is_finite(), "{kv} {bad}");
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
