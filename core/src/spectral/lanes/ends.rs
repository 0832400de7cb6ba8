//! The last pass of the way down together with the step between a complex transform and the spectra of real rows, and both again at
//! the beginning of the way up.
//!
//! The complex transform, of length M, takes even elements of a row as real and odd ones as imaginary parts; of its bins Z, a row's
//! spectrum X is
//!
//! ```text
//! E = (Z[k] + Z*[M−k])/2      O = (Z[k] − Z*[M−k])/2i      w = e^{−πi·k/M}      spectra of even and of odd elements
//! X[k] = E + w·O              X[M−k] = (E − w·O)*
//! ```
//!
//! The pass goes through blocks of R neighbours, with the bins `f + j·P`, `P = M/R`. The partners of all of them are in one other block, that of
//! `P − f`, so two blocks are in registers from the pass to the spectra. The blocks of 0 and of `P/2` are their own partners: they go
//! one step after the other.

use num_complex::Complex32;

use super::{LANES, LaneBin};
use crate::kernels::Vector;
use crate::kernels::circle::circle;
use crate::spectral::passes::butterflies::{Lanes, dft2, dft3, dft4, dft5, dft6, dft7, dft8};
use crate::spectral::passes::{Last, Stage};

/// What the last pass costs more, with the step after it: the two blocks of radices up to 7 stay in registers, those of 8 do not.
pub(super) const ENDS: Last = |radix| match radix {
    ..=7 => Some(2.5),
    8 => Some(3.0),
    _ => None,
};
/// Pairs of blocks whose passes come before all their steps, where they do not stay in registers between both.
const TOGETHER: usize = 4;

/// The pass over neighbours, and the step.
#[derive(Debug)]
pub(super) struct Ends {
    /// Nothing for a transform of one element.
    pass: Option<Stage>,
    /// Where the blocks of f and of P − f begin.
    blocks: Box<[[u32; 2]]>,
    /// For each of these, w of the first's bins.
    turns: Box<[Complex32]>,
    /// Where the blocks that are their own partners begin.
    alone: Box<[u32]>,
    /// Their pairs of bins.
    pairs: Box<[Pair]>,
    /// The bin M/2.
    middle: Option<u32>,
}

/// Where bins k and M − k are, and w.
#[derive(Debug)]
struct Pair {
    slots: [u32; 2],
    turn: Complex32,
}

impl Ends {
    /// Of a transform of `half` elements with its bins at `slots`, whose last pass this is.
    pub(super) fn new(half: usize, pass: Option<Stage>, slots: &[u32]) -> Self {
        let radix = pass.as_ref().map_or(1, Stage::radix);
        let count = half / radix;
        let turn = |k: usize| circle(k, 2 * half);
        let paired = || 1..count.div_ceil(2);
        let turns = |f: usize| (0..radix).map(move |j| turn(f + j * count));
        let alone = [Some(0), count.is_multiple_of(2).then_some(count / 2)].into_iter().flatten();
        let pair = |k: usize| Pair { slots: [slots[k], slots[half - k]], turn: turn(k) };
        let inside = |k: &usize| k.is_multiple_of(count) || 2 * (k % count) == count;
        Self {
            blocks: paired().map(|f| [slots[f], slots[count - f]]).collect(),
            turns: paired().flat_map(turns).collect(),
            alone: alone.map(|f| slots[f]).collect(),
            pairs: (1..half.div_ceil(2)).filter(inside).map(pair).collect(),
            middle: half.is_multiple_of(2).then(|| slots[half / 2]),
            pass,
        }
    }

    /// From what the other passes leave to spectra.
    #[inline(always)]
    pub(super) fn down<V: Vector>(&self, bins: &mut [LaneBin]) {
        let Some(pass) = &self.pass else { return self.split::<V>(bins) };
        match pass.radix() {
            2 => radix2::down::<V>(self, pass, bins),
            3 => radix3::down::<V>(self, pass, bins),
            4 => radix4::down::<V>(self, pass, bins),
            5 => radix5::down::<V>(self, pass, bins),
            6 => radix6::down::<V>(self, pass, bins),
            7 => radix7::down::<V>(self, pass, bins),
            _ => radix8::down::<V>(self, pass, bins),
        }
        for &start in &self.alone {
            let start = start as usize;
            pass.down::<V>(&mut bins[start..start + pass.radix()], start);
        }
        self.split::<V>(bins);
    }

    /// From spectra to what the other passes begin with, real and imaginary parts exchanged, which turns a transform into its inverse.
    #[inline(always)]
    pub(super) fn up<V: Vector>(&self, bins: &mut [LaneBin]) {
        self.merge::<V>(bins);
        let Some(pass) = &self.pass else { return };
        for &start in &self.alone {
            pass.up::<V>(&mut bins[start as usize..start as usize + pass.radix()]);
        }
        match pass.radix() {
            2 => radix2::up::<V>(self, bins),
            3 => radix3::up::<V>(self, bins),
            4 => radix4::up::<V>(self, bins),
            5 => radix5::up::<V>(self, bins),
            6 => radix6::up::<V>(self, bins),
            7 => radix7::up::<V>(self, bins),
            _ => radix8::up::<V>(self, bins),
        }
    }

    /// The step on the blocks that are their own partners.
    #[inline(always)]
    fn split<V: Vector>(&self, bins: &mut [LaneBin]) {
        self.each_pair::<V, true>(bins);
        if let Some(middle) = self.middle.and_then(|slot| bins.get_mut(slot as usize)) {
            middle.im.iter_mut().for_each(|im| *im = -*im);
        }
        if let [first, .., last] = bins {
            for l in 0..LANES {
                let (re, im) = (first.re[l], first.im[l]);
                (first.re[l], first.im[l]) = (re + im, 0.0);
                (last.re[l], last.im[l]) = (re - im, 0.0);
            }
        }
    }

    /// The step back, up to the factor 2.
    #[inline(always)]
    fn merge<V: Vector>(&self, bins: &mut [LaneBin]) {
        self.each_pair::<V, false>(bins);
        if let Some(middle) = self.middle.and_then(|slot| bins.get_mut(slot as usize)) {
            for l in 0..LANES {
                (middle.re[l], middle.im[l]) = (-2.0 * middle.im[l], 2.0 * middle.re[l]);
            }
        }
        if let [first, .., last] = bins {
            for l in 0..LANES {
                let (a, b) = (2.0 * first.re[l], 2.0 * last.re[l]);
                (first.re[l], first.im[l]) = (a - b, a + b);
            }
        }
    }

    /// [`split`] where `DOWN`, else [`merge`]. (Functions that are handed over are not compiled for wide vectors.)
    #[inline(always)]
    fn each_pair<V: Vector, const DOWN: bool>(&self, bins: &mut [LaneBin]) {
        for Pair { slots, turn } in &self.pairs {
            let [low, high] = slots.map(|slot| slot as usize);
            for l in (0..LANES).step_by(V::WIDTH) {
                let (a, b) = (Lanes::<V>::load(&bins[low], l), Lanes::load(&bins[high], l));
                let (x, y) = if DOWN { split(a, b, *turn) } else { merge(a, b, *turn) };
                x.store(&mut bins[low], l);
                y.store(&mut bins[high], l);
            }
        }
    }
}

/// `X[k]` and `X[M−k]` of `Z[k]` and `Z[M−k]`.
#[inline(always)]
fn split<V: Vector>(a: Lanes<V>, b: Lanes<V>, w: Complex32) -> (Lanes<V>, Lanes<V>) {
    let sum = Lanes { re: a.re.add(b.re), im: a.im.sub(b.im) };
    let x = sum.scaled(0.5).plus(w * 0.5, Lanes { re: a.im.add(b.im), im: b.re.sub(a.re) });
    (x, Lanes { re: sum.re.sub(x.re), im: x.im.sub(sum.im) })
}

/// Twice what `Z[k]` and `Z[M−k]` are of `X[k]` and `X[M−k]`, real and imaginary parts exchanged: `S + i·w*·D` and `(S − i·w*·D)*` with
/// `S, D = X[k] ± X*[M−k]`.
#[inline(always)]
fn merge<V: Vector>(a: Lanes<V>, b: Lanes<V>, w: Complex32) -> (Lanes<V>, Lanes<V>) {
    let (sum, two) = (Lanes { re: a.re.add(b.re), im: a.im.sub(b.im) }, V::splat(2.0));
    // −w* times −i·D.
    let z = sum.plus(Complex32::new(-w.re, w.im), Lanes { re: a.im.add(b.im), im: b.re.sub(a.re) });
    // The difference is 2·sum − z.
    (Lanes { re: z.im, im: z.re }, Lanes { re: two.neg_mul_add(sum.im, z.im), im: two.mul_sub(sum.re, z.re) })
}

/// Both directions of a radix from its transform, and how many pairs of blocks go down together: with one, they stay in registers.
macro_rules! radix {
    ($name:ident, $radix:literal, $dft:ident, $together:expr) => {
        mod $name {
            use super::*;

            #[inline(always)]
            pub(super) fn down<V: Vector>(ends: &Ends, pass: &Stage, bins: &mut [LaneBin]) {
                let (turns, _) = ends.turns.as_chunks::<$radix>();
                for (blocks, turns) in ends.blocks.chunks($together).zip(turns.chunks($together)) {
                    if $together > 1 {
                        for start in blocks.as_flattened().iter().map(|start| *start as usize) {
                            let (Some(of_block), Some(block)) =
                                (pass.factors(start), bins.get_mut(start..start + $radix))
                            else {
                                continue;
                            };
                            let Some(block) = block.first_chunk_mut() else { continue };
                            for l in (0..LANES).step_by(V::WIDTH) {
                                store($dft::<V, true>(load(block, l), of_block), block, l);
                            }
                        }
                    }
                    for (blocks, turns) in blocks.iter().zip(turns) {
                        let Some([first, second]) = blocks_of(bins, *blocks) else { continue };
                        let [Some(of_first), Some(of_second)] = blocks.map(|start| pass.factors(start as usize)) else {
                            continue;
                        };
                        for l in (0..LANES).step_by(V::WIDTH) {
                            let (mut x, mut y) = (load::<V>(first, l), load::<V>(second, l));
                            if $together == 1 {
                                (x, y) = ($dft::<V, true>(x, of_first), $dft::<V, true>(y, of_second));
                            }
                            for j in 0..$radix {
                                (x[j], y[$radix - 1 - j]) = split(x[j], y[$radix - 1 - j], turns[j]);
                            }
                            store(x, first, l);
                            store(y, second, l);
                        }
                    }
                }
            }

            #[inline(always)]
            pub(super) fn up<V: Vector>(ends: &Ends, bins: &mut [LaneBin]) {
                let ones = &[Complex32::new(1.0, 0.0); $radix - 1];
                for (blocks, turns) in ends.blocks.iter().zip(ends.turns.as_chunks::<$radix>().0) {
                    let Some([first, second]) = blocks_of(bins, *blocks) else { continue };
                    for l in (0..LANES).step_by(V::WIDTH) {
                        let (mut x, mut y) = (load(first, l), load(second, l));
                        for j in 0..$radix {
                            (x[j], y[$radix - 1 - j]) = merge(x[j], y[$radix - 1 - j], turns[j]);
                        }
                        store($dft::<V, false>(x, ones), first, l);
                        store($dft::<V, false>(y, ones), second, l);
                    }
                }
            }

            #[inline(always)]
            fn blocks_of(bins: &mut [LaneBin], [a, b]: [u32; 2]) -> Option<[&mut [LaneBin; $radix]; 2]> {
                let [a, b] = [a as usize, b as usize].map(|start| start..start + $radix);
                let [a, b] = bins.get_disjoint_mut([a, b]).ok()?;
                Some([a.first_chunk_mut()?, b.first_chunk_mut()?])
            }

            #[inline(always)]
            fn load<V: Vector>(block: &[LaneBin; $radix], l: usize) -> [Lanes<V>; $radix] {
                let mut x = [Lanes::load(&block[0], l); $radix];
                for j in 1..$radix {
                    x[j] = Lanes::load(&block[j], l);
                }
                x
            }

            #[inline(always)]
            fn store<V: Vector>(x: [Lanes<V>; $radix], block: &mut [LaneBin; $radix], l: usize) {
                for j in 0..$radix {
                    x[j].store(&mut block[j], l);
                }
            }
        }
    };
}

radix!(radix2, 2, dft2, 1);
radix!(radix3, 3, dft3, 1);
radix!(radix4, 4, dft4, 1);
radix!(radix5, 5, dft5, 1);
radix!(radix6, 6, dft6, 1);
radix!(radix7, 7, dft7, 1);
radix!(radix8, 8, dft8, TOGETHER);
