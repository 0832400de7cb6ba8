//! The running softmax between the two products.

use std::ops::Range;

use super::TILE;
use crate::kernels::vector::{LANES, exp_lane, reduce};

/// What a softmax has seen so far: weights are e^(score − `max`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Running {
    /// The largest score.
    pub max: f32,
    /// The sum of the weights.
    pub sum: f32,
}

impl Running {
    /// Nothing yet.
    pub const EMPTY: Self = Self { max: f32::NEG_INFINITY, sum: 0.0 };
}

#[inline(always)]
fn fold_tile_body<const FUSED: bool>(
    scores: &mut [f32],
    visible: &[Range<usize>],
    running: &mut [Running],
    keep: &mut [f32],
) {
    let (tiles, _) = scores.as_chunks_mut::<TILE>();
    for (((tile, visible), running), keep) in tiles.iter_mut().zip(visible).zip(running).zip(keep) {
        if visible.is_empty() {
            *tile = [0.0; TILE];
            *keep = 1.0;
            continue;
        }
        // Lanes as i32, for the comparison to be one of vectors as wide as the scores.
        let (first, end) = (visible.start as i32, visible.end as i32);
        let whole = *visible == (0..TILE);
        if !whole {
            for i in 0..TILE {
                let seen = (i as i32 >= first) & ((i as i32) < end);
                tile[i] = if seen { tile[i] } else { f32::NEG_INFINITY };
            }
        }
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for chunk in tile.as_chunks::<LANES>().0 {
            for i in 0..LANES {
                lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
            }
        }
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] = if lanes[i + width] > lanes[i] { lanes[i + width] } else { lanes[i] };
            }
            width /= 2;
        }
        let max = if lanes[0] > running.max { lanes[0] } else { running.max };
        for x in tile.iter_mut() {
            *x = exp_lane::<FUSED>(*x - max);
        }
        if !whole {
            for i in 0..TILE {
                let seen = (i as i32 >= first) & ((i as i32) < end);
                tile[i] = if seen { tile[i] } else { 0.0 };
            }
        }
        let mut lanes = [0f32; LANES];
        for chunk in tile.as_chunks::<LANES>().0 {
            for i in 0..LANES {
                lanes[i] += chunk[i];
            }
        }
        *keep = exp_lane::<FUSED>(running.max - max);
        *running = Running { max, sum: running.sum * *keep + reduce(lanes) };
    }
}

multiversion! {
    /// Folds a tile's scores into running softmaxes, a row of [`TILE`] each: scores become weights relative to the new maximum,
    /// those outside `visible` 0. What was mixed so far is to be multiplied by `keep`.
    fold_tile, fold_tile_body(scores: &mut [f32], visible: &[Range<usize>], running: &mut [Running], keep: &mut [f32])
}

#[inline(always)]
fn merge_body<const FUSED: bool>(part: (Running, &[f32]), total: (&mut Running, &mut [f32])) {
    let ((part, mixed), (running, out)) = (part, total);
    if part == Running::EMPTY {
        return;
    }
    let max = if part.max > running.max { part.max } else { running.max };
    let (keep, take) = (exp_lane::<FUSED>(running.max - max), exp_lane::<FUSED>(part.max - max));
    for (out, x) in out.iter_mut().zip(mixed) {
        *out = keep * *out + take * *x;
    }
    *running = Running { max, sum: keep * running.sum + take * part.sum };
}

multiversion! {
    /// Adds the softmax of some positions, and what was mixed with its weights, to that of others.
    merge, merge_body(part: (Running, &[f32]), total: (&mut Running, &mut [f32]))
}
