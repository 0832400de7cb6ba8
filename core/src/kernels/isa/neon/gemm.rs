//! Products of a repacked panel with many activation rows: what `sdot` and `smmla` have in common.
//!
//! A panel is halves of 16 weight rows one after the other, each the lanes of four vectors and small enough to stay in
//! the first-level cache while the activations pass: `[columns / 16][256]` bytes, of which the [`Layout`] says the order, and
//! `[spans][16]` scales and offsets. A tile is a half times a few activation rows. Within a span of columns that share a
//! scale everything is integer: the coarse plane's sums are shifted up by the plane's worth and the fine plane's added on
//! top; then one conversion, and one product with both scales into the f32 sums. The integer sums fill half of the
//! registers; the f32 sums, needed once a span, lie in memory.

use std::arch::aarch64::*;

use super::unpack::{RUN, Scales, Unpack};
use crate::kernels::formats::GROUP;
use crate::kernels::panel::{Batch, CHUNK, PANEL_ROWS, Panel, Target};

/// Weight rows of a half.
pub const HALF: usize = 16;
const _: () = assert!(PANEL_ROWS.is_multiple_of(HALF));

/// The order of 16 weight rows × 16 columns.
pub trait Layout {
    /// Puts 16 columns of weight rows `4q..4q + 4` of the 16 where they belong in the 256 bytes at `out`.
    ///
    /// # Safety
    /// The CPU must run the tier; `out` must hold the bytes, and `q` be below 4.
    unsafe fn store(rows: [int8x16_t; 4], q: usize, out: *mut i8);
}

/// Half of a panel, and the columns of the activations that it is multiplied with.
pub struct Half {
    /// `[columns / 16][256]`.
    pub lanes: *const i8,
    /// `[spans][16]`.
    pub scales: *const f32,
    /// As the scales; unset for formats without offsets.
    pub offsets: *const f32,
    /// First column of the activations.
    pub start: usize,
    /// Columns, a whole number of spans.
    pub cols: usize,
}

impl Half {
    /// The halves that hold rows of the target, each with its part of it.
    pub fn of(panel: &mut Panel, start: usize, cols: usize, target: Target) -> impl Iterator<Item = (Self, Target)> {
        let (lanes, scales, offsets) = (panel.lanes(), panel.scales(), panel.offsets());
        (0..target.rows.div_ceil(HALF)).map(move |half| {
            let groups = half * HALF * (CHUNK / GROUP);
            let rows = (target.rows - half * HALF).min(HALF);
            (
                Self {
                    lanes: lanes.wrapping_add(half * HALF * CHUNK).cast(),
                    scales: scales.wrapping_add(groups),
                    offsets: offsets.wrapping_add(groups),
                    start,
                    cols,
                },
                Target { out: target.out.wrapping_add(half * HALF), rows, ..target },
            )
        })
    }
}

/// Unpacks the columns of a panel; see [`UnpackFn`](crate::kernels::panel::UnpackFn). Columns beyond the last are not set:
/// the products end there.
#[target_feature(enable = "neon")]
pub unsafe fn unpack<F: Unpack, L: Layout>(
    data: &[u8],
    row_bytes: usize,
    start: usize,
    cols: usize,
    panel: &mut Panel,
) {
    /// Weight rows taken together.
    const FOUR: usize = 4;
    let rows = data.len() / row_bytes;
    let data = data.as_ptr().wrapping_add(start / F::LEN * F::BYTES);
    let (lanes, scales, offsets) = (panel.lanes().cast::<i8>(), panel.scales(), panel.offsets());
    let mut block_scales = Scales::new();
    for half in 0..rows.div_ceil(HALF) {
        let groups = half * HALF * (CHUNK / GROUP);
        for block in 0..cols / F::LEN {
            for q in 0..HALF / FOUR {
                let first = half * HALF + q * FOUR;
                // SAFETY: the caller promises that the blocks lie inside their rows, of which numbers are kept below
                // `rows`; the panel holds CHUNK columns of each half, and the columns are at most as many.
                unsafe {
                    let block_of = |r: usize| data.add((first + r).min(rows - 1) * row_bytes + block * F::BYTES);
                    for r in 0..FOUR {
                        F::scales(block_of(r), &mut block_scales);
                        for span in 0..F::LEN / F::SPAN {
                            let at = groups + (block * (F::LEN / F::SPAN) + span) * HALF + q * FOUR + r;
                            *scales.add(at) = block_scales.scale[span];
                            if F::OFFSET {
                                *offsets.add(at) = block_scales.offset[span];
                            }
                        }
                    }
                    for run in 0..F::LEN / RUN {
                        let [a, b] = F::lanes(block_of(0), run);
                        let [c, d] = F::lanes(block_of(1), run);
                        let [e, f] = F::lanes(block_of(2), run);
                        let [g, h] = F::lanes(block_of(3), run);
                        let out = lanes.add(half * HALF * CHUNK + (block * F::LEN + run * RUN) * HALF);
                        L::store([a, c, e, g], q, out);
                        L::store([b, d, f, h], q, out.add(GROUP * HALF));
                    }
                }
            }
        }
    }
}

/// Groups of a span; more than one are hidden from the compiler. If it unrolled the loop over them, it would move loads ahead and
/// spill sums to make room.
#[inline]
pub fn groups<const SPAN: usize>() -> usize {
    if SPAN == GROUP { 1 } else { std::hint::black_box(SPAN / GROUP) }
}

/// Scales and scaled sums of the activations: `scales[k][2g]` and `sums[k][g]` for span `g` of 32 columns,
/// `scales[k][g]` and `sums[k][g]` for one of 16.
pub struct RowScales<const T: usize> {
    pub scales: [*const f32; T],
    pub sums: [*const f32; T],
}

/// The activation rows of a tile: where they are in both planes, and their scales.
///
/// # Safety
/// `rows` must be rows of the activations, which must have columns from `start` on.
#[inline]
#[target_feature(enable = "neon")]
pub unsafe fn operands<const SPAN: usize, const T: usize>(
    x: &Batch<'_>,
    rows: [usize; T],
    start: usize,
) -> ([*const i8; T], [*const i8; T], RowScales<T>) {
    let all_sums = if SPAN == GROUP { x.sums } else { x.block_sums };
    let (mut coarse, mut fine) = ([std::ptr::null(); T], [std::ptr::null(); T]);
    let mut row_scales = RowScales { scales: [std::ptr::null(); T], sums: [std::ptr::null(); T] };
    for k in 0..T {
        let at = rows[k] * x.stride + start;
        // SAFETY: as the caller promises.
        unsafe {
            coarse[k] = x.lanes.as_ptr().add(at);
            fine[k] = x.fine.as_ptr().add(at);
            row_scales.scales[k] = x.scales.as_ptr().add(at / GROUP);
            row_scales.sums[k] = all_sums.as_ptr().add(at / SPAN);
        }
    }
    (coarse, fine, row_scales)
}

/// The product for panels of a format, from `$multiply<SPAN, OFFSET, FINE>`.
macro_rules! by_span {
    ($format:ty, $fine:ident, $multiply:ident) => {
        match (<$format>::SPAN, <$format>::OFFSET) {
            (16, false) => $multiply::<16, false, $fine>,
            (16, true) => $multiply::<16, true, $fine>,
            (_, false) => $multiply::<32, false, $fine>,
            (_, true) => $multiply::<32, true, $fine>,
        }
    };
}
pub(super) use by_span;
