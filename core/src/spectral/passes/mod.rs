//! The passes of a complex transform, in place, on all lanes at once.
//!
//! Each pass of radix R takes the elements `p, p + m, …, p + (R−1)·m` of every block of `R·m` through a transform of
//! length R, and multiplies them by factors before it.

use std::sync::OnceLock;

use num_complex::Complex32;

pub(super) mod butterflies;

use crate::kernels::circle::circle;
use crate::kernels::{LANES, LaneBin, Vector, first_level_bytes};
use butterflies::{Lanes, dft2, dft3, dft4, dft5, dft6, dft7, dft8, dft12};

/// Radices, and what a pass costs an element: instructions over what a CPU does in a cycle, or its loads and stores if they
/// are more.
const RADICES: [(usize, f32); 8] = [(2, 4.0), (3, 4.3), (4, 4.0), (5, 6.5), (6, 5.0), (7, 9.5), (8, 5.0), (12, 5.8)];

/// What a last pass of a radix costs more because of what it does besides; `None` if there is no such pass.
pub(super) type Last = fn(usize) -> Option<f32>;

/// Elements a multiple of this apart are in one place of a first-level cache.
const APART: usize = PAGE / size_of::<LaneBin>();
/// The bytes after which the places of such a cache begin anew, of as many ways as it has room for these.
const PAGE: usize = 4096;
/// Elements in one place that every cache has room for, and ways that are left to whatever else is touched.
const FEW: usize = 4;

/// Elements that there is room for in one place.
fn together() -> usize {
    static TOGETHER: OnceLock<usize> = OnceLock::new();
    *TOGETHER.get_or_init(|| (first_level_bytes() / PAGE).saturating_sub(FEW).max(FEW))
}

/// One pass of a transform of length `radix · m · blocks`.
#[derive(Debug)]
pub(super) struct Stage {
    radix: usize,
    m: usize,
    /// Of the way down, for each block, and of the way up, for each `p < m`: the factors of elements `1 ≤ k < radix`.
    down: Box<[Complex32]>,
    up: Box<[Complex32]>,
}

/// The passes of a transform, from whole to single elements; nothing if `len` has a prime factor that no radix has.
pub(super) fn stages(len: usize, last: Last) -> Option<Vec<Stage>> {
    let (_, radices) = cheapest(len, last)?;
    let (mut m, mut residues) = (len, vec![0]);
    let stages = radices.into_iter().map(|radix| {
        m /= radix;
        let blocks = residues.len();
        let of = |step: usize| (1..radix).map(move |k| circle(step * k, len));
        let down = residues.iter().flat_map(|residue| of(residue * m)).collect();
        let up = (0..m).flat_map(|p| of(p * blocks)).collect();
        // Each block becomes as many as the radix, of the bins that leave these residues.
        residues = residues.iter().flat_map(|residue| (0..radix).map(move |k| residue + k * blocks)).collect();
        Stage { radix, m, down, up }
    });
    Some(stages.collect())
}

/// Where the passes put bin `bin`, and on the way up expect element `bin`.
pub(super) fn place(stages: &[Stage], bin: usize) -> u32 {
    let (mut rest, mut place) = (bin, 0);
    for stage in stages {
        place += rest % stage.radix * stage.m;
        rest /= stage.radix;
    }
    place as u32
}

/// The radices, in order, whose passes cost least together, and what.
fn cheapest(block: usize, last: Last) -> Option<(f32, Vec<usize>)> {
    if block == 1 {
        return Some((0.0, Vec::new()));
    }
    let with = |&(radix, cost): &(usize, f32)| {
        let m = block / radix;
        let cost = match m {
            1 => cost + last(radix)?,
            _ if m.is_multiple_of(APART) && radix > together() => 2.0 * cost,
            _ if m.is_multiple_of(APART) && radix > FEW => 1.2 * cost,
            _ => cost,
        };
        let (rest, mut radices) = cheapest(m, last)?;
        radices.insert(0, radix);
        Some((rest + cost, radices))
    };
    RADICES.iter().filter(|(radix, _)| block.is_multiple_of(*radix)).filter_map(with).min_by(|a, b| a.0.total_cmp(&b.0))
}

impl Stage {
    /// The number of elements that one transform of this pass takes.
    pub(super) fn radix(&self) -> usize {
        self.radix
    }

    /// Elements that are transformed apart from all others.
    pub(super) fn block(&self) -> usize {
        self.radix * self.m
    }

    /// Natural order in, the blocks' order out, of the blocks from the one on that begins at element `start`.
    #[inline(always)]
    pub(super) fn down<V: Vector>(&self, x: &mut [LaneBin], start: usize) {
        // The first pass has one block, and factors of one.
        let w = if self.down.len() < self.radix { &[] } else { &self.down[start / self.block() * (self.radix - 1)..] };
        match self.radix {
            2 => radix2::down::<V>(x, self.m, w),
            3 => radix3::down::<V>(x, self.m, w),
            4 => radix4::down::<V>(x, self.m, w),
            5 => radix5::down::<V>(x, self.m, w),
            6 => radix6::down::<V>(x, self.m, w),
            7 => radix7::down::<V>(x, self.m, w),
            8 => radix8::down::<V>(x, self.m, w),
            _ => radix12::down::<V>(x, self.m, w),
        }
    }

    /// Of a pass over neighbours (m = 1), of the way down: the factors of elements `1 ≤ k < R` in the block that begins at element `start`.
    #[inline(always)]
    pub(super) fn factors<const FACTORS: usize>(&self, start: usize) -> Option<&[Complex32; FACTORS]> {
        // R is known where this is inlined, and divides faster than `block`.
        self.down.as_chunks().0.get(start / (FACTORS + 1))
    }

    /// The blocks' order in, natural order out.
    #[inline(always)]
    pub(super) fn up<V: Vector>(&self, x: &mut [LaneBin]) {
        let (m, w) = (self.m, &*self.up);
        match self.radix {
            2 => radix2::up::<V>(x, m, w),
            3 => radix3::up::<V>(x, m, w),
            4 => radix4::up::<V>(x, m, w),
            5 => radix5::up::<V>(x, m, w),
            6 => radix6::up::<V>(x, m, w),
            7 => radix7::up::<V>(x, m, w),
            8 => radix8::up::<V>(x, m, w),
            _ => radix12::up::<V>(x, m, w),
        }
    }
}

/// Both directions of a radix from its transform and a name for each of its elements.
macro_rules! radix {
    ($name:ident, $radix:literal, $dft:ident, $first:ident $(, $x:ident = $k:literal)*) => {
        mod $name {
            use super::*;

            const ONES: [Complex32; $radix - 1] = [Complex32::new(1.0, 0.0); $radix - 1];

            #[inline(always)]
            pub(super) fn down<V: Vector>(x: &mut [LaneBin], m: usize, factors: &[Complex32]) {
                if factors.is_empty() {
                    return block::<V, false>(x, m, std::iter::repeat(&ONES));
                }
                for (x, w) in x.chunks_exact_mut($radix * m).zip(factors.as_chunks().0) {
                    block::<V, true>(x, m, std::iter::repeat(w));
                }
            }

            #[inline(always)]
            pub(super) fn up<V: Vector>(x: &mut [LaneBin], m: usize, factors: &[Complex32]) {
                for x in x.chunks_exact_mut($radix * m) {
                    if m == 1 {
                        block::<V, false>(x, m, std::iter::repeat(&ONES));
                    } else {
                        block::<V, true>(x, m, factors.as_chunks().0);
                    }
                }
            }

            #[inline(always)]
            fn block<'a, V: Vector, const T: bool>(
                x: &mut [LaneBin],
                m: usize,
                factors: impl IntoIterator<Item = &'a [Complex32; $radix - 1]>,
            ) {
                let ($first, rest) = x.split_at_mut(m);
                $(let ($x, rest) = rest.split_at_mut(m);)*
                let _ = rest;
                for (i, w) in (0..m).zip(factors) {
                    butterfly::<V, T>(&mut $first[i], $(&mut $x[i],)* w);
                }
            }

            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn butterfly<V: Vector, const T: bool>(
                $first: &mut LaneBin,
                $($x: &mut LaneBin,)*
                w: &[Complex32; $radix - 1],
            ) {
                for l in (0..LANES).step_by(V::WIDTH) {
                    let y = $dft::<V, T>([Lanes::load($first, l) $(, Lanes::load($x, l))*], w);
                    y[0].store($first, l);
                    $(y[$k].store($x, l);)*
                }
            }
        }
    };
}

radix!(radix2, 2, dft2, a, b = 1);
radix!(radix3, 3, dft3, a, b = 1, c = 2);
radix!(radix4, 4, dft4, a, b = 1, c = 2, d = 3);
radix!(radix5, 5, dft5, a, b = 1, c = 2, d = 3, e = 4);
radix!(radix6, 6, dft6, a, b = 1, c = 2, d = 3, e = 4, f = 5);
radix!(radix7, 7, dft7, a, b = 1, c = 2, d = 3, e = 4, f = 5, g = 6);
radix!(radix8, 8, dft8, a, b = 1, c = 2, d = 3, e = 4, f = 5, g = 6, h = 7);
radix!(radix12, 12, dft12, a, b = 1, c = 2, d = 3, e = 4, f = 5, g = 6, h = 7, i = 8, j = 9, k = 10, l = 11);
