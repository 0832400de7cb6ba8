//! Products of a repacked panel with many activation rows.
//!
//! A panel's lanes are units of 32 bits, `[units][PANEL_ROWS]`, each some neighbouring columns of a weight row; [`Words`] and
//! [`Bytes`] are the two ways to fill and to multiply them. A tile is 16 weight rows, the lanes of two vectors, times up to
//! [`TILE`] activation rows, whose units are broadcast.

use std::arch::x86_64::*;

use super::unrolled;
use crate::kernels::activations::COARSE;
use crate::kernels::formats::{Format, GROUP, MAX_BLOCK};
use crate::kernels::panel::{Batch, MultiplyFn, PANEL_ROWS, Panel, Target};

/// Units of a panel: those of a tile stay in the first-level cache.
const UNITS: usize = 256;
/// Activation rows of a tile: with 8 integer sums in registers there is room for the weights and a broadcast.
const TILE: usize = unrolled::ROWS;
/// Vectors of weight rows in a tile.
pub const HALVES: usize = 2;
/// Weight rows of a vector.
const LANES: usize = 8;
/// A block in units.
pub struct Unpacked {
    /// Vectors of eight units, in the order of the columns.
    pub lanes: [__m256i; MAX_BLOCK / 16],
    /// Scale of each group of 16.
    pub scales: [f32; MAX_BLOCK / GROUP],
    /// Offset of each group of 16.
    pub offsets: [f32; MAX_BLOCK / GROUP],
}

/// How a format fills a panel.
pub trait Repack {
    /// The format.
    type Format: Format;
    /// What a unit is.
    type Unit: Unit;
    /// Columns that share a scale: 16 or 32.
    const SPAN: usize;
    /// Whether elements are `scale · lane + offset` with an offset that is not zero.
    const OFFSET: bool;
    /// Largest magnitude of a lane.
    const LARGEST: i32;

    /// Unpacks the block at `p`; entries past the block's end are not looked at.
    ///
    /// # Safety
    /// The CPU runs the tier and `p` is followed by a whole block.
    unsafe fn block(p: *const u8) -> Unpacked;
}

/// Columns of a panel of a format.
pub const fn columns<R: Repack>() -> usize {
    UNITS * R::Unit::COLUMNS
}

/// Units whose products are added up at a time.
const fn units<R: Repack>() -> usize {
    let units = R::SPAN / R::Unit::COLUMNS / R::Unit::PARTS;
    assert!(units as i32 * R::LARGEST <= R::Unit::CAPACITY && (R::SPAN == GROUP || R::SPAN == 2 * GROUP));
    assert!(matches!((units, R::Unit::COLUMNS), (8 | 16, 2) | (4 | 8, 4)));
    units
}

/// Sums of a tile.
type Tile<V, const T: usize> = [[V; HALVES]; T];

/// What a unit of 32 bits holds, and how it is multiplied.
pub trait Unit {
    /// Columns of a unit.
    const COLUMNS: usize;

    /// Parts of a span of columns whose products are added up by themselves.
    const PARTS: usize;
    /// How many units a part may have, times the largest magnitude of a lane of weights.
    const CAPACITY: i32;

    /// The activations' form that is multiplied with it.
    fn plane(x: &Batch<'_>) -> *const i32;

    /// Products of a span of columns, [`PARTS`](Self::PARTS) times `units` units, of two vectors of weight rows at `lanes` with those
    /// of `T` activation rows, `row` units apart, at `x`, in steps that the scales are of.
    ///
    /// # Safety
    /// The CPU runs the tier, and panel and activations have the units.
    unsafe fn dots<const T: usize>(lanes: *const u8, x: *const i32, row: usize, units: usize) -> Tile<__m256i, T>;
}

/// Two columns of 16 bits: `vpmaddwd` multiplies them with two 15-bit activations and adds both products in 32 bits, where the sums
/// of the 32 columns of a block cannot overflow.
pub struct Words;

impl Unit for Words {
    const COLUMNS: usize = 2;
    const PARTS: usize = 1;
    const CAPACITY: i32 = i32::MAX / (2 * 127 * COARSE);

    fn plane(x: &Batch<'_>) -> *const i32 {
        x.words.as_ptr().cast()
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dots<const T: usize>(lanes: *const u8, x: *const i32, row: usize, units: usize) -> Tile<__m256i, T> {
        if T == TILE {
            // SAFETY: as the caller promises.
            let dots = unsafe {
                match units {
                    16 => unrolled::sixteen_of_words(lanes, x, row),
                    _ => unrolled::eight_of_words(lanes, x, row),
                }
            };
            return std::array::from_fn(|k| dots[k]);
        }
        let mut dots = [[_mm256_setzero_si256(); HALVES]; T];
        for unit in 0..hidden(units) {
            // SAFETY: the caller promises the units.
            let (w, x) = unsafe { operands::<T>(lanes, x, row, unit) };
            for k in 0..T {
                for h in 0..HALVES {
                    dots[k][h] = _mm256_add_epi32(dots[k][h], _mm256_madd_epi16(w[h], x[k]));
                }
            }
        }
        dots
    }
}

/// Four columns of unsigned bytes: `vpmaddubsw` multiplies them with the coarse plane alone, and the products of a part are added up
/// in 16 bits before they are widened.
pub struct Bytes<const PARTS: usize>;

impl<const PARTS: usize> Unit for Bytes<PARTS> {
    const COLUMNS: usize = 4;
    const PARTS: usize = PARTS;
    const CAPACITY: i32 = i16::MAX as i32 / (2 * 127);

    fn plane(x: &Batch<'_>) -> *const i32 {
        x.lanes.as_ptr().cast()
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dots<const T: usize>(lanes: *const u8, x: *const i32, row: usize, units: usize) -> Tile<__m256i, T> {
        let mut dots = [[_mm256_setzero_si256(); HALVES]; T];
        for part in 0..PARTS {
            let short: Tile<__m256i, T> = if T == TILE {
                // SAFETY: as the caller promises.
                let short = unsafe {
                    let (lanes, x) = (lanes.add(4 * part * units * PANEL_ROWS), x.add(part * units));
                    match units {
                        8 => unrolled::eight_of_bytes(lanes, x, row),
                        _ => unrolled::four_of_bytes(lanes, x, row),
                    }
                };
                std::array::from_fn(|k| short[k])
            } else {
                let mut short = [[_mm256_setzero_si256(); HALVES]; T];
                for unit in 0..hidden(units) {
                    // SAFETY: the caller promises the units.
                    let (w, x) = unsafe { operands::<T>(lanes, x, row, part * units + unit) };
                    for k in 0..T {
                        for h in 0..HALVES {
                            short[k][h] = _mm256_add_epi16(short[k][h], _mm256_maddubs_epi16(w[h], x[k]));
                        }
                    }
                }
                short
            };
            for k in 0..T {
                for h in 0..HALVES {
                    let wide = _mm256_madd_epi16(short[k][h], _mm256_set1_epi16(1));
                    dots[k][h] = if part == 0 { wide } else { _mm256_add_epi32(dots[k][h], wide) };
                }
            }
        }
        dots
    }
}

/// A number of steps that the compiler does not know, or it takes the loop apart, row by row, and spills the broadcasts.
#[inline(always)]
fn hidden(units: usize) -> usize {
    std::hint::black_box(units)
}

/// One unit of two vectors of weight rows, and of `T` activation rows, in all lanes.
///
/// # Safety
/// As [`Unit::dots`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn operands<const T: usize>(
    lanes: *const u8,
    x: *const i32,
    row: usize,
    unit: usize,
) -> ([__m256i; HALVES], [__m256i; T]) {
    // SAFETY: the caller promises the unit.
    unsafe {
        let w = |h: usize| _mm256_load_si256(lanes.add(4 * (unit * PANEL_ROWS + LANES * h)).cast());
        let x = |k: usize| _mm256_set1_epi32(x.add(k * row + unit).read_unaligned());
        (std::array::from_fn(w), std::array::from_fn(x))
    }
}

/// Unpacks and turns round the columns of a panel; see [`UnpackFn`](crate::kernels::panel::UnpackFn).
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn unpack<R: Repack>(data: &[u8], row_bytes: usize, start: usize, cols: usize, panel: &mut Panel) {
    let (len, bytes) = (R::Format::LEN, R::Format::BYTES);
    let rows = data.len() / row_bytes;
    let (lanes, scales, offsets) = (panel.lanes(), panel.scales(), panel.offsets());
    let (runs, groups) = (len / (LANES * R::Unit::COLUMNS), len / R::SPAN);
    for eight in 0..PANEL_ROWS / LANES {
        for block in 0..cols / len {
            let mut turned = [[_mm256_setzero_si256(); LANES]; MAX_BLOCK / 16];
            for r in 0..LANES {
                let row = (LANES * eight + r).min(rows - 1);
                let at = row * row_bytes + (start / len + block) * bytes;
                let bytes = &data[at..at + bytes];
                // SAFETY: the slice is a whole block; the panel holds the block's columns of every row, as the caller promises.
                unsafe {
                    let unpacked = R::block(bytes.as_ptr());
                    for (turned, run) in turned.iter_mut().zip(unpacked.lanes).take(runs) {
                        turned[r] = run;
                    }
                    for g in 0..groups {
                        let to = (block * groups + g) * PANEL_ROWS + LANES * eight + r;
                        scales.add(to).write(unpacked.scales[g * R::SPAN / GROUP]);
                        offsets.add(to).write(unpacked.offsets[g * R::SPAN / GROUP]);
                    }
                }
            }
            for (i, turned) in turned.into_iter().enumerate().take(runs) {
                for (unit, columns) in transpose(turned).into_iter().enumerate() {
                    let unit = block * (len / R::Unit::COLUMNS) + i * LANES + unit;
                    // SAFETY: as above.
                    unsafe {
                        let to = lanes.add(4 * (unit * PANEL_ROWS + LANES * eight));
                        _mm256_store_si256(to.cast(), columns);
                    }
                }
            }
        }
    }
}

/// Turns round 8 × 8 units.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    let mut pairs = rows;
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // fours[4q + c] holds unit c of both halves, of rows 4q..4q + 4.
    let mut fours = pairs;
    for q in 0..2 {
        let [a, b, c, d] = [pairs[4 * q], pairs[4 * q + 1], pairs[4 * q + 2], pairs[4 * q + 3]];
        fours[4 * q] = _mm256_unpacklo_epi64(a, c);
        fours[4 * q + 1] = _mm256_unpackhi_epi64(a, c);
        fours[4 * q + 2] = _mm256_unpacklo_epi64(b, d);
        fours[4 * q + 3] = _mm256_unpackhi_epi64(b, d);
    }
    let mut out = fours;
    for c in 0..4 {
        out[c] = _mm256_permute2x128_si256::<0x20>(fours[c], fours[4 + c]);
        out[4 + c] = _mm256_permute2x128_si256::<0x31>(fours[c], fours[4 + c]);
    }
    out
}

/// The product for panels of a format.
pub fn multiply_for<R: Repack>() -> MultiplyFn {
    match (R::SPAN == GROUP, R::OFFSET) {
        (true, _) => multiply::<R, GROUP, true>,
        (false, true) => multiply::<R, { 2 * GROUP }, true>,
        (false, false) => multiply::<R, { 2 * GROUP }, false>,
    }
}

/// See [`MultiplyFn`]. `SPAN` columns share a scale.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply<R: Repack, const SPAN: usize, const OFFSET: bool>(
    panel: &mut Panel,
    start: usize,
    cols: usize,
    x: &Batch<'_>,
    target: Target,
) {
    let units = const { units::<R>() };
    for first in (0..target.rows).step_by(HALVES * LANES) {
        let mut t = 0;
        // SAFETY: as the caller promises; the tiles' rows are below `x.rows`, their weight rows inside the panel.
        unsafe {
            while t + TILE <= x.rows {
                tile::<R::Unit, SPAN, OFFSET, TILE>(panel, (start, cols, units), x, (t, first), target);
                t += TILE;
            }
            match x.rows - t {
                3 => tile::<R::Unit, SPAN, OFFSET, 3>(panel, (start, cols, units), x, (t, first), target),
                2 => tile::<R::Unit, SPAN, OFFSET, 2>(panel, (start, cols, units), x, (t, first), target),
                1 => tile::<R::Unit, SPAN, OFFSET, 1>(panel, (start, cols, units), x, (t, first), target),
                _ => {}
            }
        }
    }
}

/// Activation rows from `t` on times weight rows from `first` on; a part has so many `units`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<U: Unit, const SPAN: usize, const OFFSET: bool, const T: usize>(
    panel: &mut Panel,
    (start, cols, units): (usize, usize, usize),
    x: &Batch<'_>,
    (t, first): (usize, usize),
    target: Target,
) {
    // SAFETY: the activations have rows t..t + T, padded to whole blocks of 256 from `start` on; the panel holds the columns;
    // the target's rows below `target.rows` are the caller's.
    unsafe {
        let mut sums: Tile<__m256, T> = [[_mm256_setzero_ps(); HALVES]; T];
        let row = x.stride / U::COLUMNS;
        let plane = U::plane(x).add(t * row + start / U::COLUMNS);
        let scale = x.scales.as_ptr().add((t * x.stride + start) / GROUP);
        let sum = if SPAN == GROUP { x.sums } else { x.block_sums };
        let sum = sum.as_ptr().add((t * x.stride + start) / SPAN);
        let lanes = panel.lanes().add(4 * first);
        let (scales, offsets) = (panel.scales().add(first), panel.offsets().add(first));
        for g in 0..cols / SPAN {
            let at = g * (SPAN / U::COLUMNS);
            let dots = U::dots::<T>(lanes.add(4 * at * PANEL_ROWS), plane.add(at), row, units);
            for h in 0..HALVES {
                let weight_scale = _mm256_load_ps(scales.add(g * PANEL_ROWS + LANES * h));
                for k in 0..T {
                    let row_scale = _mm256_set1_ps(*scale.add((k * x.stride + g * SPAN) / GROUP));
                    let both = _mm256_mul_ps(weight_scale, row_scale);
                    sums[k][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[k][h]), both, sums[k][h]);
                }
                if OFFSET {
                    let offset = _mm256_load_ps(offsets.add(g * PANEL_ROWS + LANES * h));
                    for (k, sums) in sums.iter_mut().enumerate() {
                        let row_sum = _mm256_set1_ps(*sum.add(k * (x.stride / SPAN) + g));
                        sums[h] = _mm256_fmadd_ps(offset, row_sum, sums[h]);
                    }
                }
            }
        }
        for (k, sums) in sums.iter().enumerate() {
            for (h, sum) in sums.iter().enumerate() {
                let rows = target.rows.saturating_sub(first + LANES * h).min(LANES);
                let out = target.out.add((t + k) * target.stride + first + LANES * h);
                if rows == LANES {
                    let before = if target.accumulate { _mm256_loadu_ps(out) } else { _mm256_setzero_ps() };
                    _mm256_storeu_ps(out, _mm256_add_ps(before, *sum));
                    continue;
                }
                let mut values = [0.0; LANES];
                if target.accumulate {
                    std::ptr::copy_nonoverlapping(out, values.as_mut_ptr(), rows);
                }
                let all = _mm256_add_ps(_mm256_loadu_ps(values.as_ptr()), *sum);
                _mm256_storeu_ps(values.as_mut_ptr(), all);
                std::ptr::copy_nonoverlapping(values.as_ptr(), out, rows);
            }
        }
    }
}
