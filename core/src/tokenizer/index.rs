//! Flat hash tables of `u32` slots: one from token texts to ids, one from id pairs to merges.
//!
//! Nothing but numbers is stored; keys are compared where they lie (in the file mapping, in the merges). Slots are
//! probed linearly and at most half are used. Each table is seeded from the operating system, so that a file cannot be
//! made to collide; results do not depend on the seed, because equal keys are found in the order they were entered.

use std::hash::{BuildHasher, Hasher, RandomState};

use super::vocab::Strings;

const EMPTY: u32 = 0;

/// Slots that hold `entry + 1` in their low bits and, in the bits left, part of the hash: a probe that meets another
/// key nearly always sees so without reading that key.
#[derive(Debug)]
struct Slots {
    slots: Box<[u32]>,
    entry_bits: u32,
    seed: u64,
}

impl Slots {
    /// Room for `entries` < 2³¹ entries.
    fn new(entries: usize) -> Self {
        let slots = (entries * 2).next_power_of_two().max(2);
        Self {
            slots: vec![EMPTY; slots].into_boxed_slice(),
            entry_bits: usize::BITS - entries.leading_zeros(),
            seed: RandomState::new().build_hasher().finish(),
        }
    }

    fn tag(&self, hash: u64) -> u32 {
        // The shift is of 64 bits: `entry_bits` can be 31.
        ((hash >> 32) << self.entry_bits) as u32
    }

    /// Enters `entry`; an equal key entered before stays the one that is found.
    fn insert(&mut self, hash: u64, entry: u32) {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != EMPTY {
            at = (at + 1) & mask;
        }
        self.slots[at] = self.tag(hash) | (entry + 1);
    }

    /// The first entry with this hash for which `equal` holds.
    #[inline]
    fn find(&self, hash: u64, mut equal: impl FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let entry_mask = ((1u64 << self.entry_bits) - 1) as u32;
        let tag = self.tag(hash);
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == EMPTY {
                return None;
            }
            if slot & !entry_mask == tag {
                let entry = (slot & entry_mask) - 1;
                if equal(entry) {
                    return Some(entry);
                }
            }
            at = (at + 1) & mask;
        }
    }

    fn heap_bytes(&self) -> usize {
        size_of_val::<[u32]>(&self.slots)
    }
}

/// From a token's text to its id; of equal texts the lowest id. Empty texts are not found.
#[derive(Debug)]
pub(super) struct TokenIndex(Slots);

impl TokenIndex {
    /// Indexes at most 2³¹ − 1 texts.
    pub(super) fn new(texts: Strings<'_>) -> Self {
        let mut slots = Slots::new(texts.len());
        for id in 0..texts.len() {
            let text = texts.get(id);
            if !text.is_empty() {
                slots.insert(hash_bytes(slots.seed, text), id as u32);
            }
        }
        Self(slots)
    }

    /// The id of `text` among the `texts` this was built of.
    #[inline]
    pub(super) fn get(&self, texts: Strings<'_>, text: &[u8]) -> Option<u32> {
        self.0.find(hash_bytes(self.0.seed, text), |id| texts.get(id as usize) == text)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }
}

/// From two neighbouring tokens to the token they merge into, ranked by order of entry.
#[derive(Debug)]
pub(super) struct MergeTable {
    slots: Slots,
    merges: Box<[Merge]>,
}

/// One merge: two ids and what becomes of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Merge {
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) merged: u32,
}

impl MergeTable {
    /// Indexes at most 2³¹ − 1 merges; the place of a merge is its rank.
    pub(super) fn new(merges: Box<[Merge]>) -> Self {
        let mut slots = Slots::new(merges.len());
        for (rank, merge) in merges.iter().enumerate() {
            slots.insert(hash_pair(slots.seed, merge.left, merge.right), rank as u32);
        }
        Self { slots, merges }
    }

    /// Rank and result of merging `left` with `right`.
    #[inline]
    pub(super) fn get(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let merge = |rank: u32| &self.merges[rank as usize];
        let rank = self.slots.find(hash_pair(self.slots.seed, left, right), |rank| {
            merge(rank).left == left && merge(rank).right == right
        })?;
        Some((rank, merge(rank).merged))
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.slots.heap_bytes() + size_of_val::<[Merge]>(&self.merges)
    }
}

/// 2⁶⁴ / golden ratio, odd: spreads every input bit over the 128-bit product.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// Folds the 128-bit product, so that high and low input bits reach all output bits.
#[inline]
fn mix(x: u64) -> u64 {
    let product = u128::from(x) * u128::from(SPREAD);
    (product as u64) ^ (product >> 64) as u64
}

#[inline]
fn hash_bytes(seed: u64, bytes: &[u8]) -> u64 {
    let mut hash = seed ^ bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        hash = mix(hash ^ u64::from_le_bytes(word)).rotate_left(23);
    }
    let tail = chunks.remainder().iter().rev().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
    mix(mix(hash ^ tail) ^ seed.rotate_left(32))
}

#[inline]
fn hash_pair(seed: u64, left: u32, right: u32) -> u64 {
    mix(mix(u64::from(left) << 32 | u64::from(right)) ^ seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_text_the_lowest_id_of_equal_ones_and_nothing_else() {
        let mut texts: Vec<Vec<u8>> = (0..5000u32).map(|i| format!("token{i}").into_bytes()).collect();
        texts.push(b"token7".to_vec());
        texts.push(Vec::new());
        let strings = Strings::Owned(&texts);
        let index = TokenIndex::new(strings);
        for (id, text) in texts.iter().enumerate().take(5000) {
            assert_eq!(index.get(strings, text), Some(id as u32));
        }
        assert_eq!(index.get(strings, b""), None);
        assert_eq!(index.get(strings, b"token5000"), None);
    }

    #[test]
    fn the_first_of_equal_merges_ranks() {
        let merge = |left, right, merged| Merge { left, right, merged };
        let table = MergeTable::new(Box::new([merge(1, 2, 3), merge(1, 2, 9), merge(2, 1, 4)]));
        assert_eq!(table.get(1, 2), Some((0, 3)));
        assert_eq!(table.get(2, 1), Some((2, 4)));
        assert_eq!(table.get(2, 2), None);
    }

    #[test]
    fn empty_tables_find_nothing() {
        assert_eq!(TokenIndex::new(Strings::Owned(&[])).get(Strings::Owned(&[]), b"a"), None);
        assert_eq!(MergeTable::new(Box::new([])).get(0, 0), None);
    }
}
