//! The orders in which the only row is kept for kernels that read several blocks at once.

use super::{BLOCK, BLOCKS, padded};
use crate::kernels::formats::MAX_BLOCK;
#[cfg(target_arch = "x86_64")]
use crate::kernels::{isa, widest::has_avx512};

/// An order of a row's blocks of 32 in which one vector operation on the bytes of several yields lanes of their first halves,
/// another those of their second ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kernels) enum Split {
    /// None: rows are not kept in another order.
    None,
    /// Of four blocks at a time the first halves, then the second ones, both in the order of blocks 0, 2, 1, 3; then of the row's last
    /// 256 elements the same once more, counted from its end, for a step that ends there.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    Fours,
    /// The first eighths of a step of all blocks, then the second ones, and so on: eight elements of each block, beside which lie those of
    /// the fourth block after it. All go round: they begin again after the last block, so that the eighths of eight blocks lie together, in
    /// the order of [`INTERLEAVED`](super::INTERLEAVED), from any block on, as weights do where one row follows another.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    Eighths,
}

impl Split {
    /// Elements of a plane of `cols`.
    pub fn len(self, cols: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Fours => padded(cols).saturating_add(MAX_BLOCK),
            Self::Eighths => Self::entries(cols).saturating_mul(2 * BLOCK),
        }
    }

    /// Blocks of `cols` elements and as many again as a step may go round, in whole cache lines of eighths.
    fn entries(cols: usize) -> usize {
        cols.div_ceil(BLOCK).saturating_add(BLOCKS / 2 - 1).next_multiple_of(4)
    }

    /// Numbers in the pairs of scales and sums that go round with a plane of `cols`.
    pub fn pairs(self, cols: usize) -> usize {
        if self == Self::Eighths { Self::entries(cols).saturating_mul(4) } else { 0 }
    }
}

/// Half a block.
type Half = [i8; BLOCK / 2];

/// [`Split::Fours`].
pub fn split_fours(plane: &[i8], out: &mut [i8]) {
    for (blocks, out) in plane.as_chunks::<{ 4 * BLOCK }>().0.iter().zip(out.as_chunks_mut::<{ 4 * BLOCK }>().0) {
        let halves: &[Half] = blocks.as_chunks().0;
        for (half, out) in [0, 4, 2, 6, 1, 5, 3, 7].into_iter().zip(out.as_chunks_mut().0) {
            *out = halves[half];
        }
    }
}

/// A quarter of a block, an eighth of which a step of eight blocks has in a vector.
pub(in crate::kernels) type Eighth = [i8; BLOCK / 4];

/// [`Split::Eighths`] of a plane.
pub fn split_eighths(plane: &[[Eighth; 4]], out: &mut [[Eighth; 2]]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx512() {
        // SAFETY: the CPU has what it is compiled for.
        return unsafe { isa::split_eighths(plane, out) };
    }
    split_eighths_one_by_one(plane, out);
}

fn split_eighths_one_by_one(plane: &[[Eighth; 4]], out: &mut [[Eighth; 2]]) {
    let each = out.len() / 4;
    for (i, out) in out.chunks_exact_mut(each).enumerate() {
        around(plane.len(), out, |block| plane[block][i]);
    }
}

/// Puts `of` each of `blocks` blocks beside that of the fourth block after it, going round.
pub fn around<T: Copy>(blocks: usize, out: &mut [[T; 2]], of: impl Fn(usize) -> T) {
    let mut next = (BLOCKS / 2) % blocks;
    for (block, entry) in out[..blocks].iter_mut().enumerate() {
        *entry = [of(block), of(next)];
        next = if next + 1 < blocks { next + 1 } else { 0 };
    }
    for i in blocks..out.len() {
        out[i] = out[i - blocks];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eighths_lie_beside_those_of_the_fourth_block_after_and_go_round() {
        for blocks in 1..40 {
            let byte = |block: usize, eighth: usize, i: usize| (block * BLOCK + eighth * (BLOCK / 4) + i) as i8;
            let plane: Vec<[Eighth; 4]> = (0..blocks)
                .map(|b| std::array::from_fn(|eighth| std::array::from_fn(|i| byte(b, eighth, i))))
                .collect();
            let len = Split::Eighths.len(blocks * BLOCK) / size_of::<[Eighth; 2]>();
            let want: Vec<[Eighth; 2]> = (0..len)
                .map(|at| {
                    let (eighth, entry) = (at / (len / 4), at % (len / 4));
                    [plane[entry % blocks][eighth], plane[(entry + BLOCKS / 2) % blocks][eighth]]
                })
                .collect();
            for split in [split_eighths, split_eighths_one_by_one] {
                let mut got = vec![[[0; 8]; 2]; len];
                split(&plane, &mut got);
                assert_eq!(got, want, "{blocks} blocks");
            }
        }
    }
}
