//! The order in which a GGUF file stores the rows of q and k.

use crate::spectral::MAX_SIDE;

/// A permutation of a weight's rows: Hugging Face row `p` is the file's row `to[p]`.
///
/// An adapter speaks of rows in the Hugging Face layout, so the outputs of its change must be sent to where
/// the file keeps those rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowOrder {
    to: Box<[u32]>,
    from: Box<[u32]>,
    /// Rows of half a head.
    half: usize,
}

impl RowOrder {
    /// The order of q and k in a llama-architecture GGUF, for `heads` heads (key/value heads for k) of `head_dim` rows.
    ///
    /// Within a head the Hugging Face rows are `[2, head_dim/2]`, all first halves of the rotary pairs and then all
    /// second ones; the file's are `[head_dim/2, 2]`, pair by pair (llama.cpp's converter, `permute`).
    ///
    /// `None` if a number is zero, `head_dim` is odd, or the rows do not fit in 32 bits.
    pub fn llama_rope(heads: usize, head_dim: usize) -> Option<Self> {
        let rows = heads.checked_mul(head_dim)?;
        if rows == 0 || !head_dim.is_multiple_of(2) || rows > MAX_SIDE {
            return None;
        }
        let half = head_dim / 2;
        let to = (0..rows).map(|row| {
            let (head, within) = (row / head_dim, row % head_dim);
            (head * head_dim + within % half * 2 + within / half) as u32
        });
        Some(Self::from_map(to.collect(), half))
    }

    /// `to` is known to be a permutation.
    fn from_map(to: Box<[u32]>, half: usize) -> Self {
        let mut from = vec![0u32; to.len()];
        for (row, &target) in (0u32..).zip(&to) {
            from[target as usize] = row;
        }
        Self { to, from: from.into(), half }
    }

    /// The number of rows.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.to.len()
    }

    /// The file's row of each Hugging Face row.
    pub fn to_file(&self) -> &[u32] {
        &self.to
    }

    /// The Hugging Face row of each of the file's rows.
    pub fn to_hf(&self) -> &[u32] {
        &self.from
    }

    /// `file[to[p]] += hf[p]` for every row.
    ///
    /// # Panics
    /// Unless both have [`len`](Self::len) elements.
    pub fn add(&self, hf: &[f32], file: &mut [f32]) {
        self.check(hf.len(), file.len());
        for (target, &row) in file.iter_mut().zip(&self.from) {
            *target += hf[row as usize];
        }
    }

    /// `file[to[p]] = hf[p]` for every row.
    ///
    /// # Panics
    /// Unless both have [`len`](Self::len) elements.
    pub fn place(&self, hf: &[f32], file: &mut [f32]) {
        self.check(hf.len(), file.len());
        for (hf, file) in hf.chunks_exact(2 * self.half).zip(file.chunks_exact_mut(2 * self.half)) {
            let (first, second) = hf.split_at(self.half);
            for (pair, (a, b)) in file.as_chunks_mut::<2>().0.iter_mut().zip(first.iter().zip(second)) {
                *pair = [*a, *b];
            }
        }
    }

    /// `hf[p] = file[to[p]]`: a gradient of the file's rows as the change's own.
    ///
    /// # Panics
    /// Unless both have [`len`](Self::len) elements.
    pub fn gather(&self, file: &[f32], hf: &mut [f32]) {
        self.check(hf.len(), file.len());
        for (target, &row) in hf.iter_mut().zip(&self.to) {
            *target = file[row as usize];
        }
    }

    fn check(&self, hf: usize, file: usize) {
        assert!(hf == self.len() && file == self.len(), "{hf} and {file} rows, expected {}", self.len());
    }
}
