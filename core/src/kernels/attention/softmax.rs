//! The running softmax between the two products.

use std::ops::Range;

use super::pairs::Rounded;
use super::{MAX_ROWS, TILE};
use crate::kernels::vector::{LANES, exp_lane};
use crate::kernels::vectors::{MOST, Vector, Vectorised, exp, vectorised};

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

/// What a position before an edge holds, and one from there on.
const fn edge(before: f32, after: f32) -> [f32; 2 * TILE] {
    let mut edge = [before; 2 * TILE];
    let mut i = TILE;
    while i < edge.len() {
        edge[i] = after;
        i += 1;
    }
    edge
}

/// Folds a tile's scores into running softmaxes, a row of [`TILE`] each and at most [`MAX_ROWS`]: scores become weights relative to the new
/// maximum, those outside `visible` 0. What was mixed so far is to be multiplied by `keep`. The weights are also `rounded`, if
/// that is wanted.
///
/// # Panics
/// If there are fewer tiles or softmaxes than ranges in `visible`, one of these ends beyond a tile, or they are too many.
pub fn fold_tile(
    scores: &mut [f32],
    visible: &[Range<usize>],
    running: &mut [Running],
    keep: &mut [f32],
    rounded: Option<Rounded<'_>>,
) {
    assert!(visible.len() <= MAX_ROWS, "{} rows", visible.len());
    vectorised(Fold { tiles: scores.as_chunks_mut().0, visible, running, keep, rounded });
}

/// By hand over vectors, because compilers make single additions and comparisons of the sums and maxima across a row,
/// three times what the exponentials take.
struct Fold<'a> {
    tiles: &'a mut [[f32; TILE]],
    visible: &'a [Range<usize>],
    running: &'a mut [Running],
    keep: &'a mut [f32],
    rounded: Option<Rounded<'a>>,
}

impl Vectorised for Fold<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { tiles, visible, running, keep, mut rounded } = self;
        let rows = || visible.iter().enumerate().filter(|(_, visible)| !visible.is_empty());
        let mut factors = [0.0; LANES];
        for (row, visible) in rows() {
            if *visible != (0..TILE) {
                confine::<V>(&mut tiles[row], visible, f32::NEG_INFINITY);
            }
            let largest = across::<V, true>(&tiles[row]).largest();
            let max = if largest > running[row].max { largest } else { running[row].max };
            (factors[row], running[row].max) = (running[row].max - max, max);
        }
        for l in (0..LANES).step_by(V::WIDTH) {
            exp(V::load(&factors, l)).store(&mut factors, l);
        }
        for (row, visible) in rows() {
            let (tile, running) = (&mut tiles[row], &mut running[row]);
            let max = V::splat(running.max);
            for chunk in tile.as_chunks_mut().0 {
                for l in (0..LANES).step_by(V::WIDTH) {
                    exp(V::load(chunk, l).sub(max)).store(chunk, l);
                }
            }
            if *visible != (0..TILE) {
                confine::<V>(tile, visible, 0.0);
            }
            let sum = across::<V, false>(tile).total();
            running.sum = running.sum * factors[row] + sum;
            if let Some(rounded) = &mut rounded {
                rounded.round::<V>(row, tile, sum, visible.end - 1);
            }
        }
        for (row, (tile, keep)) in tiles.iter_mut().zip(keep).enumerate() {
            if visible[row].is_empty() {
                *tile = [0.0; TILE];
                if let Some(rounded) = &mut rounded {
                    rounded.clear(row);
                }
            }
            // e⁰ where nothing was seen.
            *keep = factors[row];
        }
    }
}

/// Sets what lies outside `visible` to `outside`, which is not above anything inside.
#[inline(always)]
fn confine<V: Vector>(tile: &mut [f32; TILE], visible: &Range<usize>, outside: f32) {
    const FROM: [[f32; 2 * TILE]; 2] = [edge(f32::NEG_INFINITY, f32::INFINITY), edge(0.0, f32::INFINITY)];
    const UP_TO: [[f32; 2 * TILE]; 2] = [edge(f32::INFINITY, f32::NEG_INFINITY), edge(f32::INFINITY, 0.0)];
    let which = usize::from(outside == 0.0);
    let bounds = [&FROM[which][TILE - visible.start..], &UP_TO[which][TILE - visible.end..]];
    let [from, up_to] = bounds.map(|bound| bound.as_chunks().0);
    for ((chunk, from), up_to) in tile.as_chunks_mut().0.iter_mut().zip(from).zip(up_to) {
        for l in (0..LANES).step_by(V::WIDTH) {
            V::load(chunk, l).min(V::load(from, l)).min(V::load(up_to, l)).store(chunk, l);
        }
    }
}

/// The chunks of a tile added up, or the `MAX` of them, and then the vectors of that, halves taken together.
#[inline(always)]
fn across<V: Vector, const MAX: bool>(tile: &[f32; TILE]) -> V {
    let mut parts = LANES / V::WIDTH;
    let mut sums = [V::splat(if MAX { f32::NEG_INFINITY } else { 0.0 }); MOST];
    for chunk in tile.as_chunks().0 {
        for (part, sum) in sums[..parts].iter_mut().enumerate() {
            let x = V::load(chunk, part * V::WIDTH);
            *sum = if MAX { x.max(*sum) } else { sum.add(x) };
        }
    }
    while parts > 1 {
        parts /= 2;
        for part in 0..parts {
            let (a, b) = (sums[part], sums[part + parts]);
            sums[part] = if MAX { b.max(a) } else { a.add(b) };
        }
    }
    sums[0]
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Scores from −8 to 8.
    fn score(row: usize, i: usize) -> f32 {
        ((row * 131 + i) as u32).wrapping_mul(2_654_435_761) as f32 / 2f32.powi(28) - 8.0
    }

    #[test]
    fn tiles_fold_into_the_softmax_of_all_that_is_visible() {
        // More rows than go together, with every kind of edge; NaN where nobody may look.
        let visible: Vec<Range<usize>> =
            (0..21).map(|row| [0..TILE, row..TILE, 0..row + 1, row..row + 7, 9..9][row % 5].clone()).collect();
        let rows = visible.len();
        let mut running = vec![Running::EMPTY; rows];
        let mut expected = vec![(f64::NEG_INFINITY, 0.0); rows];
        for tile in 0..3 {
            let of = |row: usize, i: usize| score(row, tile * TILE + i);
            let seen = |row: usize, i: usize| visible[row].contains(&i);
            let mut scores: Vec<f32> = (0..rows * TILE)
                .map(|at| if seen(at / TILE, at % TILE) { of(at / TILE, at % TILE) } else { f32::NAN })
                .collect();
            let mut keep = vec![f32::NAN; rows];
            let groups = scores.chunks_mut(MAX_ROWS * TILE).zip(visible.chunks(MAX_ROWS));
            let states = running.chunks_mut(MAX_ROWS).zip(keep.chunks_mut(MAX_ROWS));
            for ((scores, visible), (running, keep)) in groups.zip(states) {
                fold_tile(scores, visible, running, keep, None);
            }
            for row in 0..rows {
                let (before, sum) = expected[row];
                let max = visible[row].clone().map(|i| f64::from(of(row, i))).fold(before, f64::max);
                let kept = if before == max { 1.0 } else { (before - max).exp() };
                let mut total = sum * kept;
                for i in 0..TILE {
                    let weight = if seen(row, i) { (f64::from(of(row, i)) - max).exp() } else { 0.0 };
                    total += weight;
                    let found = f64::from(scores[row * TILE + i]);
                    assert!((found - weight).abs() <= 2e-6 * weight, "row {row}, {i}: {found:e}, not {weight:e}");
                }
                assert!((f64::from(keep[row]) - kept).abs() < 1e-6, "row {row}: {} kept, not {kept}", keep[row]);
                assert!((f64::from(running[row].sum) - total).abs() <= 2e-6 * total, "row {row}: {:?}", running[row]);
                assert_eq!(f64::from(running[row].max), max);
                expected[row] = (max, total);
            }
        }
    }

    #[test]
    fn a_score_that_is_no_number_is_not_hidden() {
        for visible in [0..TILE, 3..40] {
            let (mut scores, mut running, mut keep) = ([0.5; TILE], [Running::EMPTY], [0.0]);
            scores[17] = f32::NAN;
            fold_tile(&mut scores, std::slice::from_ref(&visible), &mut running, &mut keep, None);
            assert!(!running[0].sum.is_finite(), "{visible:?}: {running:?}");
        }
    }
}
