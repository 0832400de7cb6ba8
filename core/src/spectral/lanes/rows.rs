//! Between rows and lanes.

use crate::kernels::{add_turned, turn};

use super::LaneBin;

/// Elements `2m` of every row to the real parts of bin m, elements `2m + 1` to its imaginary parts; zero to lanes without a row.
#[inline(always)]
pub(super) fn load(rows: &[f32], len: usize, bins: &mut [LaneBin]) {
    turn(|lane| rows.get(lane * len..(lane + 1) * len), LaneBin::lines_mut(bins));
}

/// The way back, with real and imaginary parts exchanged, added to the rows: element i of a row gets element `order[i]`.
#[inline(always)]
pub(super) fn add(bins: &[LaneBin], len: usize, rows: &mut [f32], order: Option<&[u32]>) {
    let lines = LaneBin::lines(bins);
    match order {
        None => add_turned(|i| &lines[i ^ 1], rows, len),
        Some(order) => add_turned(|i| &lines[order[i] as usize ^ 1], rows, len),
    }
}
