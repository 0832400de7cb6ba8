//! Between rows and lanes.

use crate::kernels::{Tile, transpose};

use super::{LANES, LaneBin};

/// Tiles that are moved together: a row is touched for whole cache lines at a time, since lengths that are powers of two put
/// all rows in the same few places of a cache.
const STRIP: usize = 4;

/// Elements of a row in a strip.
const WIDTH: usize = STRIP * LANES;

/// Elements `2m` of every row to the real parts of bin m, elements `2m + 1` to its imaginary parts.
#[inline(always)]
pub(super) fn load(rows: &[f32], len: usize, bins: &mut [LaneBin]) {
    // Lanes without a row stay zero.
    let mut strip: [Tile; STRIP] = [[[0.0; LANES]; LANES]; STRIP];
    let mut turned: Tile = [[0.0; LANES]; LANES];
    for (start, bins) in (0..len).step_by(WIDTH).zip(bins.chunks_mut(WIDTH / 2)) {
        for (lane, row) in rows.chunks_exact(len).enumerate().take(LANES) {
            for (tile, part) in strip.iter_mut().zip(row[start..].chunks(LANES)) {
                match part.try_into() {
                    Ok(full) => tile[lane] = full,
                    Err(_) => tile[lane][..part.len()].copy_from_slice(part),
                }
            }
        }
        for (tile, bins) in strip.iter().zip(bins.chunks_mut(LANES / 2)) {
            transpose(tile, &mut turned);
            for (bin, pair) in bins.iter_mut().zip(turned.chunks_exact(2)) {
                *bin = LaneBin { re: pair[0], im: pair[1] };
            }
        }
    }
}

/// The way back, with real and imaginary parts exchanged, added to the rows: element i of a row gets element `order[i]`.
#[inline(always)]
pub(super) fn add(bins: &[LaneBin], len: usize, rows: &mut [f32], order: Option<&[u32]>) {
    let element = |i: usize| {
        let i = order.map_or(i, |order| order[i] as usize);
        let bin = &bins[i / 2];
        if i.is_multiple_of(2) { &bin.im } else { &bin.re }
    };
    let mut strip: [Tile; STRIP] = [[[0.0; LANES]; LANES]; STRIP];
    let mut tile: Tile = [[0.0; LANES]; LANES];
    for start in (0..len).step_by(WIDTH) {
        for (turned, first) in strip.iter_mut().zip((start..len).step_by(LANES)) {
            for (line, i) in tile.iter_mut().zip(first..len.min(first + LANES)) {
                *line = *element(i);
            }
            transpose(&tile, turned);
        }
        for (lane, row) in rows.chunks_exact_mut(len).enumerate().take(LANES) {
            for (tile, part) in strip.iter().zip(row[start..].chunks_mut(LANES)) {
                match <&mut [f32; LANES]>::try_from(&mut *part) {
                    // All sums before all stores: that is what vectors are made of.
                    Ok(full) => *full = std::array::from_fn(|i| full[i] + tile[lane][i]),
                    Err(_) => part.iter_mut().zip(&tile[lane]).for_each(|(y, v)| *y += v),
                }
            }
        }
    }
}
