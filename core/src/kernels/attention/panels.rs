//! How cached keys and values lie in memory, as the products read them.

/// Positions stored together, and the lanes of the products.
pub const BLOCK: usize = 16;
/// Elements of a head under one scale in the 8-bit format.
pub const Q8_GROUP: usize = 32;

/// The numbers a cache is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheFormat {
    /// f32.
    F32,
    /// f16.
    F16,
    /// Signed bytes with an f16 scale for [`Q8_GROUP`] of them.
    Q8,
}

impl CacheFormat {
    /// 32-bit words that `BLOCK` positions of a head of `dim` elements take, scales included.
    pub const fn record_words(self, dim: usize) -> usize {
        match self {
            Self::F32 => dim * BLOCK,
            Self::F16 => dim * BLOCK / 2,
            Self::Q8 => dim * BLOCK / 4 + dim / Q8_GROUP * BLOCK / 2,
        }
    }
}

/// Keys of one head: records of [`BLOCK`] positions, `stride` words apart, each \[element\]\[position\]; in the 8-bit format the
/// scales follow, \[group\]\[position\].
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    pub(super) words: &'a [f32],
    pub(super) format: CacheFormat,
    pub(super) dim: usize,
    pub(super) stride: usize,
}

/// Values of one head: records of [`BLOCK`] positions, `stride` words apart, each \[position\]\[element\]; in the 8-bit format
/// the scales follow, \[position\]\[group\]. `dim` is a multiple of [`BLOCK`].
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    pub(super) words: &'a [f32],
    pub(super) format: CacheFormat,
    pub(super) dim: usize,
    pub(super) stride: usize,
}

impl<'a> Keys<'a> {
    /// The first record starts at `words[0]`.
    pub fn new(words: &'a [f32], format: CacheFormat, dim: usize, stride: usize) -> Self {
        Self { words, format, dim, stride }
    }

    /// Records that lie wholly in the words.
    pub(super) fn records(&self) -> usize {
        whole_records(self.words.len(), self.format.record_words(self.dim), self.stride)
    }
}

impl<'a> Values<'a> {
    /// The first record starts at `words[0]`.
    ///
    /// # Panics
    /// If `dim` is not a multiple of [`BLOCK`].
    pub fn new(words: &'a [f32], format: CacheFormat, dim: usize, stride: usize) -> Self {
        assert!(dim.is_multiple_of(BLOCK), "values are stored in whole registers");
        Self { words, format, dim, stride }
    }

    /// Records that lie wholly in the words.
    pub(super) fn records(&self) -> usize {
        whole_records(self.words.len(), self.format.record_words(self.dim), self.stride)
    }
}

fn whole_records(words: usize, record: usize, stride: usize) -> usize {
    if words < record { 0 } else { (words - record) / stride.max(1) + 1 }
}
