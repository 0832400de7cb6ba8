//! Keys and values as pairs of integers.

use std::ops::Range;

use super::super::lanes::{Lanes, Sums};
use super::super::source::{Source, Visitor};
use super::super::{BLOCK, CacheFormat, Keys, Q8_GROUP, TILE, Values};
use super::lanes::{OverPairs, Pairs};
use super::weights::ValueSteps;
use super::{DEPTH, PairSet};

/// The exponent's place in half precision, and what no finite number reaches.
const HALF_EXPONENT: u32 = 10;
const HALF_INFINITY: u16 = 0x7C00;
/// All but the sign.
const HALF_MAGNITUDE: u16 = 0x7FFF;

/// 1.5·2²³ steps and the step for numbers below 2^`more` times what the bits of a magnitude in half precision stand for: the power of two
/// that makes the largest an integer from 2¹³ up to 2¹⁴.
#[inline(always)]
fn rounding(bits: u16, more: u32) -> (f32, f32) {
    let exponent = u32::from(bits >> HALF_EXPONENT).max(1) + more;
    let magic = f32::from_bits((exponent + 122) << 23 | 1 << 22);
    let step = f32::from_bits((exponent + 99) << 23);
    (magic, if bits < HALF_INFINITY { step } else { f32::NAN })
}

#[inline(always)]
fn across_body<const FUSED: bool>(rows: &[u16], largest: &mut [u16; BLOCK]) {
    for (row, largest) in rows.chunks_exact(rows.len() / BLOCK).zip(largest) {
        *largest = row.iter().fold(0, |largest, bits| largest.max(bits & HALF_MAGNITUDE));
    }
}

multiversion! {
    /// The largest magnitude of each of [`BLOCK`] rows.
    across, across_body(rows: &[u16], largest: &mut [u16; BLOCK])
}

#[inline(always)]
fn down_body<const FUSED: bool>(rows: &[u16], largest: &mut [u16; BLOCK]) {
    *largest = [0; BLOCK];
    for row in rows.as_chunks::<BLOCK>().0 {
        for (largest, bits) in largest.iter_mut().zip(row) {
            *largest = (*largest).max(bits & HALF_MAGNITUDE);
        }
    }
}

multiversion! {
    /// The largest magnitude of each lane of rows of [`BLOCK`].
    down, down_body(rows: &[u16], largest: &mut [u16; BLOCK])
}

/// Where the magnitudes are that bound `elements` of all positions of a record of keys, or the values of a whole one, and the power
/// of two by which numbers exceed them at most: themselves, or the scales of bytes up to 127.
fn bounds(format: CacheFormat, dim: usize, elements: Range<usize>) -> (Range<usize>, u32) {
    match format {
        CacheFormat::F32 => unreachable!("not taken"),
        CacheFormat::F16 => (elements.start * BLOCK..elements.end * BLOCK, 0),
        CacheFormat::Q8 => {
            let scales = |elements: usize| dim * BLOCK / 2 + elements / Q8_GROUP * BLOCK;
            (scales(elements.start)..scales(elements.end), 7)
        }
    }
}

/// Keys of `positions` to \[record\]\[pair of elements\]\[position\], the steps of each [`DEPTH`] elements to `steps`, 0 for all other positions.
pub fn keys(set: PairSet, keys: &Keys<'_>, positions: Range<usize>, out: &mut [i32], steps: &mut [[f32; TILE]]) {
    let panels = positions.start / BLOCK..positions.end.div_ceil(BLOCK);
    assert!(out.len() >= panels.end * keys.dim / 2 * BLOCK);
    for (chunk, steps) in steps.iter_mut().enumerate().take(keys.dim.div_ceil(DEPTH)) {
        let elements = chunk * DEPTH..((chunk + 1) * DEPTH).min(keys.dim);
        let (bounds, more) = bounds(keys.format, keys.dim, elements.clone());
        let mut magic = [0.0; TILE];
        *steps = [0.0; TILE];
        for panel in panels.clone() {
            let record: &[u16] = bytemuck::cast_slice(&keys.words[panel * keys.stride..]);
            let mut largest = [0; BLOCK];
            down(&record[bounds.clone()], &mut largest);
            for (position, bits) in (panel * BLOCK..).zip(largest).filter(|(position, _)| positions.contains(position))
            {
                (magic[position], steps[position]) = rounding(bits, more);
            }
        }
        let (rows, panels, panel) = (elements, panels.clone(), keys.dim / 2 * BLOCK);
        keys.visit(Convert::<true> { set, magic: &magic, rows, panels, panel, out });
    }
}

/// Values of `positions` to \[16 elements\]\[pair of positions\]\[element\], their steps to `steps`, 0 for all others.
pub fn values(set: PairSet, values: &Values<'_>, positions: Range<usize>, out: &mut [i32], steps: &mut ValueSteps) {
    let (bounds, more) = bounds(values.format, values.dim, 0..values.dim);
    let mut magic = [0.0; TILE];
    *steps = ValueSteps::default();
    let mut most = 0f32;
    for block in positions.start / BLOCK..positions.end.div_ceil(BLOCK) {
        let record: &[u16] = bytemuck::cast_slice(&values.words[block * values.stride..]);
        let mut largest = [0; BLOCK];
        across(&record[bounds.clone()], &mut largest);
        for (position, bits) in (block * BLOCK..).zip(largest).filter(|(position, _)| positions.contains(position)) {
            (magic[position], steps.each[position]) = rounding(bits, more);
            // What is no number stays.
            most = if most > steps.each[position] { most } else { steps.each[position] + 0.0 * most };
            steps.most[position] = most;
        }
    }
    let panels = 0..values.dim / BLOCK;
    assert!(out.len() >= panels.end * TILE / 2 * BLOCK);
    let rows = positions.start / 2 * 2..positions.end.next_multiple_of(2);
    values.visit(Convert::<false> { set, magic: &magic, rows, panels, panel: TILE / 2 * BLOCK, out });
}

/// Rows of panels to pairs of rows, `panel` from one panel to the next. Positions are lanes of `KEYS`, else rows. The rows begin and
/// end with a pair.
struct Convert<'a, const KEYS: bool> {
    set: PairSet,
    magic: &'a [f32; TILE],
    rows: Range<usize>,
    panels: Range<usize>,
    panel: usize,
    out: &'a mut [i32],
}

impl<const KEYS: bool> Visitor for Convert<'_, KEYS> {
    fn visit<S: Source>(self, source: S) {
        // SAFETY: both callers checked that rows and panels lie in the cache, and pairs in `out`.
        unsafe { self.set.work(Sourced { convert: self, source }) }
    }
}

struct Sourced<'a, S, const KEYS: bool> {
    convert: Convert<'a, KEYS>,
    source: S,
}

impl<S: Source, const KEYS: bool> OverPairs for Sourced<'_, S, KEYS> {
    #[inline(always)]
    unsafe fn run<W: Pairs>(self) {
        let Self { convert: Convert { magic, rows, panels, panel: stride, out, .. }, source } = self;
        for panel in panels {
            for pair in rows.start / 2..rows.end / 2 {
                // SAFETY: the caller's promise.
                unsafe {
                    let mut both = [W::Floats::splat(0.0); 2];
                    for (row, x) in (pair * 2..).zip(&mut both) {
                        let magic = match KEYS {
                            true => W::Floats::load(magic.as_ptr().add(panel * BLOCK)),
                            false => W::Floats::splat(magic[row]),
                        };
                        let scale: W::Floats = source.scale(row, panel);
                        *x = source.load(row, panel, scale).add(magic);
                    }
                    W::join(both[0], both[1]).store(out.as_mut_ptr().add(panel * stride + pair * BLOCK));
                }
            }
        }
    }
}
