//! The searches all quantised formats share: a scale, or a scale and an offset, for a handful of numbers.

use half::f16;

/// The smallest positive number an f16 scale can be.
pub(super) const SMALLEST_SCALE: f32 = 1.0 / (1u32 << 24) as f32;

/// Integer steps by which the number of levels that cover the block is varied, in units of [`STEP`].
const REACH: i32 = 9;
/// A tenth of a level finds the best scale to within the f16 it is stored in.
const STEP: f32 = 0.1;

/// The nearest integer, ties to even, for |`x`| < 2²². Two additions: a plain build has no rounding instruction.
#[inline]
pub(super) fn nearest(x: f32) -> f32 {
    const SHIFT: f32 = (3u32 << 22) as f32;
    (x + SHIFT) - SHIFT
}

/// The element of greatest magnitude and where it is; 0 for no elements.
pub(super) fn peak(x: &[f32]) -> (usize, f32) {
    x.iter().copied().enumerate().fold((0, 0.0), |best: (usize, f32), next| match next.1.abs() > best.1.abs() {
        true => next,
        false => best,
    })
}

/// `value` as it will be stored, `None` past f16's range. Rounded to nearest, but away from zero among f16's
/// subnormals: there a scale could lose half of itself, and the largest elements with it.
pub(super) fn as_stored(value: f32) -> Option<f16> {
    let whole = match value.abs() < f16::MIN_POSITIVE.to_f32() {
        true => ((value / SMALLEST_SCALE).abs().ceil() * SMALLEST_SCALE).copysign(value),
        false => value,
    };
    Some(f16::from_f32(whole)).filter(|stored| stored.is_finite())
}

/// 1/`scale`, or 0 for a scale of 0 (all lanes are then 0).
#[inline]
pub(super) fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The integer in `[lo, hi]` that `x` becomes.
#[inline]
pub(super) fn lane(x: f32, inverse: f32, lo: f32, hi: f32) -> f32 {
    nearest((x * inverse).clamp(lo, hi))
}

/// `Σ (x − scale·q)²` with the best `q` in `[lo, hi]`.
#[inline]
pub(super) fn residual(x: &[f32], scale: f32, offset: f32, lo: f32, hi: f32) -> f32 {
    let inverse = inverse(scale);
    x.iter().fold(0.0, |sum, &x| {
        let x = x - offset;
        let error = x - scale * lane(x, inverse, lo, hi);
        sum + error * error
    })
}

/// The scale `d` for which integers `q` in `[lo, hi]` make `Σ (x − d·q)²` small; it may be negative, which decides
/// which side gets the range's longer half.
///
/// For given `q` the best `d` is `Σxq/Σq²`, and the error falls by `(Σxq)²/Σq²`. The `q` tried are those of the scales
/// that map the largest element to about `lo`, on either side.
pub(super) fn scale(x: &[f32], lo: f32, hi: f32) -> f32 {
    let (_, peak) = peak(x);
    if peak.abs() < SMALLEST_SCALE / 2.0 {
        return 0.0;
    }
    let mut best = (0.0, 0.0);
    for step in -REACH..=REACH {
        for level in [lo + step as f32 * STEP, -lo + step as f32 * STEP] {
            let inverse = level / peak;
            let (mut xq, mut qq) = (0.0, 0.0);
            for &x in x {
                let q = lane(x, inverse, lo, hi);
                xq += x * q;
                qq += q * q;
            }
            if qq > 0.0 && xq * xq / qq > best.0 {
                best = (xq * xq / qq, xq / qq);
            }
        }
    }
    best.1
}

/// A scale and an offset: `x ≈ scale·q + offset`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Affine {
    pub(super) scale: f32,
    pub(super) offset: f32,
}

/// The scale and offset for which integers `q` in `[0, levels]` make `Σ (x − scale·q − offset)²` small. `ceiling` is
/// the largest offset the format can store: 0 for K-quants, which subtract a minimum, else infinity.
pub(super) fn affine(x: &[f32], levels: f32, ceiling: f32) -> Affine {
    let (lo, hi) = x.iter().fold((ceiling, f32::NEG_INFINITY), |(lo, hi), &x| (x.min(lo), x.max(hi)));
    let flat = Affine { scale: 0.0, offset: lo };
    if hi - lo < SMALLEST_SCALE / 2.0 {
        return flat;
    }
    let mut best = (f32::INFINITY, flat);
    let mut consider = |guess: Affine| {
        let solved = solve(x, guess, levels, ceiling);
        let error = residual(x, solved.scale, solved.offset, 0.0, levels);
        if error < best.0 {
            best = (error, solved);
        }
        solved
    };
    // Every second step: solving moves the levels by more than one.
    for step in (-REACH..=REACH).step_by(2) {
        let scale = (hi - lo) / (levels + step as f32 * STEP);
        // Solved twice: the second time its own offset, no longer the smallest element, places the levels.
        let solved = consider(Affine { scale, offset: lo });
        consider(solved);
    }
    best.1
}

/// Least squares for the `q` that `guess` gives.
fn solve(x: &[f32], guess: Affine, levels: f32, ceiling: f32) -> Affine {
    let Affine { scale, offset } = guess;
    let inverse = inverse(scale);
    let (mut sum_q, mut sum_qq, mut sum_x, mut sum_qx) = (0.0, 0.0, 0.0, 0.0);
    for &x in x {
        // From the offset up, so that a small spread around a large number survives f32.
        let x = x - offset;
        let q = lane(x, inverse, 0.0, levels);
        sum_q += q;
        sum_qq += q * q;
        sum_x += x;
        sum_qx += q * x;
    }
    let n = x.len() as f32;
    let det = n * sum_qq - sum_q * sum_q;
    if det <= 0.0 {
        return guess;
    }
    let solved = (sum_qq * sum_x - sum_q * sum_qx) / det + offset;
    if solved <= ceiling {
        return Affine { scale: (n * sum_qx - sum_q * sum_x) / det, offset: solved };
    }
    // Past the ceiling the best lies on it.
    Affine { scale: (sum_qx + (offset - ceiling) * sum_q) / sum_qq, offset: ceiling }
}

/// A block after up to two rounds of solving for its scales and rounding them again, as long as its error falls.
/// `round` rounds a block's group scales and gives its error, `solve` refits the scales to the lanes, where that can be done.
pub(super) fn refine<B: Clone>(
    mut block: B,
    mut round: impl FnMut(&mut B) -> f32,
    mut solve: impl FnMut(&mut B) -> Option<()>,
) -> B {
    let mut error = round(&mut block);
    for _ in 0..2 {
        let mut next = block.clone();
        if solve(&mut next).is_none() {
            break;
        }
        let next_error = round(&mut next);
        if next_error >= error {
            break;
        }
        (block, error) = (next, next_error);
    }
    block
}
