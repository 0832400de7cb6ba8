//! Products of a few rows with matrices of a few rows, in f32: what a change of low rank is computed with.
//!
//! A change of rank r goes from rows of one length through r numbers to rows of another: [`through`] takes both of its factors as r
//! rows, so that the change and its adjoint are the same code with the factors exchanged, and neither is ever formed. An
//! element of a result adds its terms in an order that depends on nothing but their number: a row's result is the same in
//! every block, alone in one too. Nothing here allocates.

use crate::kernels::vector::fma;
use crate::kernels::{Widest, widest};

/// Partial sums of a product, as many as the widest registers have lanes.
const LANES: usize = 16;
/// Rows of a block, at most; more are taken a block at a time.
const BLOCK: usize = 16;
/// Ranks taken at a time: what lies between the factors is on the stack.
const RANKS: usize = 64;
/// Rows and ranks whose products are summed side by side, 16 lanes each: few enough for the registers of AVX2 and of NEON.
const ROWS: usize = 2;
const SHARED: usize = 2;
/// Ranks for a single row.
const ALONE: usize = 4;
/// Rows that share each load of a factor on the way out.
const SPREAD: usize = 4;

/// What lies between the factors: a row's numbers, one a rank.
type Inner = [[f32; RANKS]; BLOCK];

/// `y[i] += Σ_k scale·⟨x[i], from[k]⟩ · to[k]` for rows x of `cols` values and rows y of `len`; `from` and `to` are as many rows of the
/// same lengths.
pub(super) fn through(scale: f32, (x, cols): (&[f32], usize), from: &[f32], to: &[f32], (y, len): (&mut [f32], usize)) {
    widest(Through { scale, x, cols, from, to, y, len });
}

/// `sums[j] += Σ_i scale·⟨by[i], factor[j]⟩ · rows[i]` for `sums` of as many rows as the factor: the gradient of one factor where `rows` is
/// what it is multiplied with and `by` what comes back through the other.
pub(super) fn outer(
    scale: f32,
    (rows, cols): (&[f32], usize),
    (by, len): (&[f32], usize),
    factor: &[f32],
    sums: &mut [f32],
) {
    widest(Outer { scale, rows, cols, by, len, factor, sums });
}

/// As [`outer`] with the sums transposed: `sums[j][k] += Σ_i scale·rows[i][j] · ⟨by[i], factor[k]⟩`.
pub(super) fn outer_transposed(
    scale: f32,
    (rows, cols): (&[f32], usize),
    (by, len): (&[f32], usize),
    factor: &[f32],
    sums: &mut [f32],
) {
    widest(OuterTransposed { scale, rows, cols, by, len, factor, sums });
}

/// `y[i] += Σ_k coefficients[k·step + i] · to[k]` for rows of `len` values.
pub(super) fn combine(coefficients: &[f32], step: usize, to: &[f32], y: &mut [f32], len: usize) {
    widest(Combine { coefficients, step, to, y, len });
}

struct Through<'a> {
    scale: f32,
    x: &'a [f32],
    cols: usize,
    from: &'a [f32],
    to: &'a [f32],
    y: &'a mut [f32],
    len: usize,
}

impl Widest for Through<'_> {
    type Out = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let Self { scale, x, cols, from, to, y, len } = self;
        let mut inner: Inner = [[0.0; RANKS]; BLOCK];
        for (x, y) in x.chunks(BLOCK * cols).zip(y.chunks_mut(BLOCK * len)) {
            for (from, to) in from.chunks(RANKS * cols).zip(to.chunks(RANKS * len)) {
                project::<FUSED>(x, from, cols, scale, &mut inner);
                let by = Coefficients { data: inner.as_flattened(), row: RANKS, term: 1 };
                spread::<FUSED>(by, (to, len), (y, len), len);
            }
        }
    }
}

struct Outer<'a> {
    scale: f32,
    rows: &'a [f32],
    cols: usize,
    by: &'a [f32],
    len: usize,
    factor: &'a [f32],
    sums: &'a mut [f32],
}

impl Widest for Outer<'_> {
    type Out = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let Self { scale, rows, cols, by, len, factor, sums } = self;
        let mut inner: Inner = [[0.0; RANKS]; BLOCK];
        for (rows, by) in rows.chunks(BLOCK * cols).zip(by.chunks(BLOCK * len)) {
            for (factor, sums) in factor.chunks(RANKS * len).zip(sums.chunks_mut(RANKS * cols)) {
                project::<FUSED>(by, factor, len, scale, &mut inner);
                let by = Coefficients { data: inner.as_flattened(), row: 1, term: RANKS };
                spread::<FUSED>(by, (rows, cols), (sums, cols), cols);
            }
        }
    }
}

struct OuterTransposed<'a> {
    scale: f32,
    rows: &'a [f32],
    cols: usize,
    by: &'a [f32],
    len: usize,
    factor: &'a [f32],
    sums: &'a mut [f32],
}

impl Widest for OuterTransposed<'_> {
    type Out = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let Self { scale, rows, cols, by, len, factor, sums } = self;
        let rank = factor.len() / len;
        let mut inner: Inner = [[0.0; RANKS]; BLOCK];
        for (rows, by) in rows.chunks(BLOCK * cols).zip(by.chunks(BLOCK * len)) {
            for (factor, first) in factor.chunks(RANKS * len).zip((0..rank).step_by(RANKS)) {
                project::<FUSED>(by, factor, len, scale, &mut inner);
                let inner = &inner.as_flattened()[..by.len() / len * RANKS];
                let by = Coefficients { data: rows, row: 1, term: cols };
                spread::<FUSED>(by, (inner, RANKS), (&mut sums[first..], rank), factor.len() / len);
            }
        }
    }
}

struct Combine<'a> {
    coefficients: &'a [f32],
    step: usize,
    to: &'a [f32],
    y: &'a mut [f32],
    len: usize,
}

impl Widest for Combine<'_> {
    type Out = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let by = Coefficients { data: self.coefficients, row: 1, term: self.step };
        spread::<FUSED>(by, (self.to, self.len), (self.y, self.len), self.len);
    }
}

/// `inner[i][k] = scale·⟨x[i], from[k]⟩` for rows of `cols` values, at most [`BLOCK`] and [`RANKS`] of them.
#[inline(always)]
fn project<const FUSED: bool>(x: &[f32], from: &[f32], cols: usize, scale: f32, inner: &mut Inner) {
    let rows = x.len() / cols;
    let mut i = 0;
    while i + ROWS <= rows {
        project_rows::<FUSED, ROWS, SHARED>(&x[i * cols..], from, cols, scale, &mut inner[i..]);
        i += ROWS;
    }
    for i in i..rows {
        project_rows::<FUSED, 1, ALONE>(&x[i * cols..], from, cols, scale, &mut inner[i..]);
    }
}

/// [`project`] of I rows, K ranks at a time and the rest one by one.
#[inline(always)]
fn project_rows<const FUSED: bool, const I: usize, const K: usize>(
    x: &[f32],
    from: &[f32],
    cols: usize,
    scale: f32,
    inner: &mut [[f32; RANKS]],
) {
    let ranks = from.len() / cols;
    let mut k = 0;
    while k + K <= ranks {
        let sums = dots::<FUSED, I, K>(x, &from[k * cols..], cols);
        for i in 0..I {
            for j in 0..K {
                inner[i][k + j] = scale * sums[i][j];
            }
        }
        k += K;
    }
    for k in k..ranks {
        let sums = dots::<FUSED, I, 1>(x, &from[k * cols..], cols);
        for i in 0..I {
            inner[i][k] = scale * sums[i][0];
        }
    }
}

/// The products of every row of `a` with every row of `b`. Each has its own lanes and adds them in the same order whatever
/// else is in the tile.
#[inline(always)]
fn dots<const FUSED: bool, const I: usize, const K: usize>(a: &[f32], b: &[f32], cols: usize) -> [[f32; K]; I] {
    let mut sums = [[[0f32; LANES]; K]; I];
    let whole = cols / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        let mut theirs = [[0f32; LANES]; K];
        for k in 0..K {
            theirs[k].copy_from_slice(&b[k * cols + at..][..LANES]);
        }
        for i in 0..I {
            let own = &a[i * cols + at..][..LANES];
            for k in 0..K {
                for lane in 0..LANES {
                    sums[i][k][lane] = fma::<FUSED>(own[lane], theirs[k][lane], sums[i][k][lane]);
                }
            }
        }
    }
    let mut products = [[0f32; K]; I];
    for i in 0..I {
        for k in 0..K {
            let mut sum = reduce(sums[i][k]);
            for at in whole..cols {
                sum = fma::<FUSED>(a[i * cols + at], b[k * cols + at], sum);
            }
            products[i][k] = sum;
        }
    }
    products
}

/// Adds lanes pairwise.
#[inline(always)]
fn reduce(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// A matrix of coefficients: row i's of term k is at `i·row + k·term`.
#[derive(Clone, Copy)]
struct Coefficients<'a> {
    data: &'a [f32],
    row: usize,
    term: usize,
}

/// `y[i] += Σ_k by[i, k] · to[k]` for rows of `width` values; rows begin `step` apart, and there are as many terms as rows of `to`.
#[inline(always)]
fn spread<const FUSED: bool>(
    by: Coefficients<'_>,
    (to, to_step): (&[f32], usize),
    (y, y_step): (&mut [f32], usize),
    width: usize,
) {
    let (terms, rows) = (to.len().div_ceil(to_step), y.len().div_ceil(y_step));
    let mut i = 0;
    while i + SPREAD <= rows {
        let by = Coefficients { data: &by.data[i * by.row..], ..by };
        spread_rows::<FUSED, SPREAD, LANES>(by, terms, (to, to_step), (&mut y[i * y_step..], y_step), width);
        i += SPREAD;
    }
    for i in i..rows {
        let by = Coefficients { data: &by.data[i * by.row..], ..by };
        spread_rows::<FUSED, 1, { 4 * LANES }>(by, terms, (to, to_step), (&mut y[i * y_step..], y_step), width);
    }
}

/// [`spread`] of I rows, W values at a time and the rest by ever fewer.
#[inline(always)]
fn spread_rows<const FUSED: bool, const I: usize, const W: usize>(
    by: Coefficients<'_>,
    terms: usize,
    to: (&[f32], usize),
    (y, y_step): (&mut [f32], usize),
    width: usize,
) {
    let mut at = 0;
    while at + W <= width {
        spread_tile::<FUSED, I, W>(by, terms, to, (y, y_step), at);
        at += W;
    }
    while at + LANES <= width {
        spread_tile::<FUSED, I, LANES>(by, terms, to, (y, y_step), at);
        at += LANES;
    }
    if at + LANES / 2 <= width {
        spread_tile::<FUSED, I, { LANES / 2 }>(by, terms, to, (y, y_step), at);
        at += LANES / 2;
    }
    for at in at..width {
        spread_tile::<FUSED, I, 1>(by, terms, to, (y, y_step), at);
    }
}

#[inline(always)]
fn spread_tile<const FUSED: bool, const I: usize, const W: usize>(
    by: Coefficients<'_>,
    terms: usize,
    (to, to_step): (&[f32], usize),
    (y, y_step): (&mut [f32], usize),
    at: usize,
) {
    let mut sums = [[0f32; W]; I];
    for i in 0..I {
        sums[i].copy_from_slice(&y[i * y_step + at..][..W]);
    }
    for k in 0..terms {
        let to = &to[k * to_step + at..][..W];
        for (i, sums) in sums.iter_mut().enumerate() {
            let c = by.data[i * by.row + k * by.term];
            for (sum, to) in sums.iter_mut().zip(to) {
                *sum = fma::<FUSED>(c, *to, *sum);
            }
        }
    }
    for i in 0..I {
        y[i * y_step + at..][..W].copy_from_slice(&sums[i]);
    }
}
