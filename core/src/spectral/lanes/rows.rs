//! Between rows and lanes.

use crate::kernels::runs::Held;
use crate::kernels::{put_turned, turn};

use super::LaneBin;

/// Elements `2m` of every row to the real parts of bin m, elements `2m + 1` to its imaginary parts; zero to lanes without a row.
#[inline(always)]
pub(super) fn load(rows: &[f32], len: usize, bins: &mut [LaneBin]) {
    turn(|lane| rows.get(lane * len..(lane + 1) * len), LaneBin::lines_mut(bins));
}

/// The way back, with real and imaginary parts exchanged, to rows that hold nothing or a sum: element i of a row gets element `order[i]`.
#[inline(always)]
pub(super) fn store(bins: &[LaneBin], len: usize, rows: &mut [f32], held: Held, order: Option<&[u32]>) {
    let lines = LaneBin::lines(bins);
    match (held, order) {
        (Held::Nothing, None) => put_turned::<false>(|i| &lines[i ^ 1], rows, len),
        (Held::Nothing, Some(order)) => put_turned::<false>(|i| &lines[order[i] as usize ^ 1], rows, len),
        (Held::Sum, None) => put_turned::<true>(|i| &lines[i ^ 1], rows, len),
        (Held::Sum, Some(order)) => put_turned::<true>(|i| &lines[order[i] as usize ^ 1], rows, len),
    }
}
