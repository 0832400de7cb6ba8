//! The right-hand side of the products: activation rows, as f32 and quantised to 15 bits in two planes of int8.

use std::ops::Range;

use bytemuck::Pod;

mod parts;
mod quantise;
mod split;

use super::formats::{GROUP, MAX_BLOCK};
use super::isa::Form;
use super::lead::Lead;
use super::panel::Batch;
use super::{ActivationType, Aligned, Compute, Tier, Widest, widest};
use crate::gguf::GgmlType;
use parts::Parts;
pub(super) use quantise::quantise_row;
pub(super) use split::Split;
use split::{around, split_eighths, split_fours};
#[cfg(target_arch = "x86_64")]
pub(super) use {
    quantise::{TINY, steps},
    split::Eighth,
};

/// Elements that share an activation scale.
pub(super) const BLOCK: usize = 32;
/// What one step of the coarse plane is worth in steps of the fine one.
pub(super) const COARSE: i32 = 128;
/// The largest quantised magnitude: ±127 coarse steps, so that a product with any 8-bit weight fits the int8 instructions.
pub(super) const Q_MAX: f32 = (127 * COARSE) as f32;
/// Blocks of 32 in the longest one, and in a step of the kernels that read [`Split::Eighths`].
pub(super) const BLOCKS: usize = MAX_BLOCK / BLOCK;
/// The order in which these have the blocks of a step: of two vectors with four blocks each, what eight bytes of both in turn give.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) const INTERLEAVED: [usize; BLOCKS] = [0, 4, 1, 5, 2, 6, 3, 7];
/// Elements below which loading is not worth a trip to the pool.
const PARALLEL_ELEMENTS: usize = 1 << 14;

/// Activation rows in the forms the kernels read: reusable scratch that a caller allocates once.
///
/// The int8 form cuts a row into blocks of 32 with a scale `amax / 16256` each, and every element into `128 · lane + fine`,
/// two signed bytes in planes of their own. A second int8 product on weights that are unpacked anyway costs little, and
/// leaves a rounding error 128 times smaller than one byte an element would. With [`ActivationType::Int8`] the fine plane is
/// zero and scales are of coarse steps, which kernels of that choice count on. Beside the lanes it keeps, per group of 16
/// elements, the scale, the sum of the steps and that sum scaled, which is what a weight format's offset multiplies. Rows are
/// padded with zeros to whole weight blocks of 256.
#[derive(Debug)]
pub struct Activations {
    rows: usize,
    cols: usize,
    stride: usize,
    has_f32: bool,
    has_int8: bool,
    has_words: bool,
    split: Split,
    lead: Lead,
    values: Aligned<f32>,
    lanes: Aligned<i8>,
    fine: Aligned<i8>,
    scales: Aligned<f32>,
    starts: Aligned<i32>,
    block_starts: Aligned<i32>,
    sums: Aligned<f32>,
    block_sums: Aligned<f32>,
    words: Aligned<i16>,
    split_lanes: Aligned<i8>,
    split_fine: Aligned<i8>,
    pairs: Aligned<f32>,
}

/// One activation row; the f32 form is empty or `cols` long, the int8 form empty or padded to whole blocks of 256.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    /// The row in f32.
    pub values: &'a [f32],
    /// The row in int8: the coarse plane, worth 128 fine steps.
    pub lanes: &'a [i8],
    /// The fine plane, −64 to 63.
    pub fine: &'a [i8],
    /// Scale of each group of 16 elements: one fine step, or one coarse step with [`ActivationType::Int8`].
    pub scales: &'a [f32],
    /// Scale times sum of the elements, for each group of 16.
    pub sums: &'a [f32],
    /// Both planes in one, in steps that the scales are of; only where the tier's kernels read it.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub words: &'a [i16],
    /// The coarse plane in the tier's [`Split`] order. Empty unless the row is the only one and there is a kernel that reads it.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub split_lanes: &'a [i8],
    /// The fine plane likewise.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub split_fine: &'a [i8],
    /// How far ahead weights are asked for.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub lead: Lead,
    /// Scale and scaled sum of each block of 32 in turn, in the order of the planes of [`Split::Eighths`]; only with these.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub pairs: &'a [f32],
}

impl Activations {
    /// Scratch for up to `max_rows` rows of up to `max_cols` elements on `compute`'s tier; [`load`](Self::load) grows it when given
    /// more.
    pub fn with_capacity(compute: &Compute, max_rows: usize, max_cols: usize) -> Self {
        let split = compute.kernels().split.len(max_cols);
        let padded = max_rows.saturating_mul(padded(max_cols));
        Self {
            rows: 0,
            cols: 0,
            stride: 0,
            has_f32: false,
            has_int8: false,
            has_words: false,
            split: Split::None,
            lead: Lead::default(),
            values: Aligned::new(max_rows.saturating_mul(max_cols)),
            lanes: Aligned::new(padded),
            fine: Aligned::new(padded),
            scales: Aligned::new(padded / GROUP),
            starts: Aligned::new(padded / GROUP),
            block_starts: Aligned::new(padded / BLOCK),
            sums: Aligned::new(padded / GROUP),
            block_sums: Aligned::new(padded / BLOCK),
            words: Aligned::new(if compute.kernels().words { padded } else { 0 }),
            split_lanes: Aligned::new(split),
            split_fine: Aligned::new(split),
            pairs: Aligned::new(compute.kernels().split.pairs(max_cols)),
        }
    }

    /// Rows loaded.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of each row loaded.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Takes in `x`, `rows` × `cols` row-major, in every form that weights of any type need on `compute`'s tier.
    /// NaN and infinities are carried through to the products they take part in.
    ///
    /// # Panics
    /// If `x` is not `rows · cols` long.
    pub fn load(&mut self, compute: &Compute, rows: usize, cols: usize, x: &[f32]) {
        self.load_forms(compute, rows, cols, x, (true, compute.tier() != Tier::Reference));
    }

    /// As [`load`](Self::load), in the forms that weights of the given `types` need only.
    ///
    /// # Panics
    /// If `x` is not `rows · cols` long.
    pub fn load_for(&mut self, compute: &Compute, types: &[GgmlType], rows: usize, cols: usize, x: &[f32]) {
        self.load_forms(compute, rows, cols, x, forms(compute, types));
    }

    /// Lets `fill` compute every row of the first of `buffers`, and takes each in while it is still in the cache. The buffers are
    /// `rows` rows each, of which `fill` gets those of one number; it is called once for each. Otherwise as
    /// [`load_for`](Self::load_for).
    ///
    /// # Panics
    /// If a buffer is not `rows` equal rows.
    pub fn load_filled<const N: usize>(
        &mut self,
        compute: &Compute,
        types: &[GgmlType],
        rows: usize,
        buffers: [&mut [f32]; N],
        fill: impl Fn(usize, [&mut [f32]; N]) + Sync,
    ) {
        self.load_blocks(compute, types, (rows, 1), buffers, fill, [], |_, _, []| {});
    }

    /// [`load_filled`](Self::load_filled), and `then(worker, x, outs)` for every block of `block` rows (the last may be short) as soon as
    /// they are taken in: with those rows, and the same rows of each output.
    ///
    /// # Panics
    /// If a buffer or an output is not `rows` equal rows, or `block` is zero.
    #[allow(clippy::too_many_arguments)]
    pub fn load_blocks<const N: usize, const M: usize>(
        &mut self,
        compute: &Compute,
        types: &[GgmlType],
        (rows, block): (usize, usize),
        buffers: [&mut [f32]; N],
        fill: impl Fn(usize, [&mut [f32]; N]) + Sync,
        outs: [&mut [f32]; M],
        then: impl Fn(usize, &[f32], [&mut [f32]; M]) + Sync,
    ) {
        const { assert!(N > 0) };
        let parts = |buffer| {
            let buffer: &mut [f32] = buffer;
            let cols = buffer.len().checked_div(rows).unwrap_or(0);
            assert_eq!(buffer.len(), rows * cols, "activation size");
            (Parts::new(buffer), cols)
        };
        let (buffers, outs) = (buffers.map(parts), outs.map(parts));
        let (x, cols) = &buffers[0];
        let row_of = |t: usize| {
            // SAFETY: each row is loaded by one task, and rows do not overlap.
            fill(t, buffers.each_ref().map(|(part, cols)| unsafe { part.part(t, *cols) }));
            // SAFETY: as above; `fill` has given its borrow back.
            &*unsafe { x.part(t, *cols) }
        };
        let then = |worker, range: Range<usize>| {
            // SAFETY: the rows of a block are one task's, and loaded.
            let x = unsafe { x.rows(range.clone(), *cols) };
            // SAFETY: as above.
            then(worker, x, outs.each_ref().map(|(part, len)| unsafe { part.rows(range.clone(), *len) }));
        };
        self.load_rows(compute, (rows, *cols), block, forms(compute, types), &row_of, &then);
    }

    fn load_forms(&mut self, compute: &Compute, rows: usize, cols: usize, x: &[f32], forms: (bool, bool)) {
        assert_eq!(Some(x.len()), rows.checked_mul(cols), "activation size");
        self.load_rows(compute, (rows, cols), 1, forms, &|t| &x[t * cols..][..cols], &|_, _| {});
    }

    /// Takes in the rows that `row_of` returns, each asked for once, block by block, and calls `then` after each block.
    fn load_rows<'x>(
        &mut self,
        compute: &Compute,
        (rows, cols): (usize, usize),
        block: usize,
        (f32_form, int8_form): (bool, bool),
        row_of: &(impl Fn(usize) -> &'x [f32] + Sync),
        then: &(impl Fn(usize, Range<usize>) + Sync),
    ) {
        self.rows = rows;
        self.cols = cols;
        self.stride = padded(cols);
        self.has_f32 = f32_form;
        self.has_int8 = int8_form;
        self.has_words = int8_form && compute.kernels().words;
        self.split = compute.kernels().split;
        self.lead = compute.lead();
        if rows == 0 || cols == 0 {
            return;
        }
        let stride = self.stride;
        if f32_form {
            grow(&mut self.values, rows * cols);
        }
        if int8_form {
            grow(&mut self.lanes, rows * stride);
            grow(&mut self.fine, rows * stride);
            grow(&mut self.scales, rows * stride / GROUP);
            grow(&mut self.starts, rows * stride / GROUP);
            grow(&mut self.block_starts, rows * stride / BLOCK);
            grow(&mut self.sums, rows * stride / GROUP);
            grow(&mut self.block_sums, rows * stride / BLOCK);
        }
        let quantise = compute.kernels().quantise;
        let with_words = self.has_words;
        if with_words {
            grow(&mut self.words, rows * stride);
        }
        let values = Parts::new(&mut self.values);
        let lanes = Parts::new(&mut self.lanes);
        let fine = Parts::new(&mut self.fine);
        let scales = Parts::new(&mut self.scales);
        let starts = Parts::new(&mut self.starts);
        let block_starts = Parts::new(&mut self.block_starts);
        let sums = Parts::new(&mut self.sums);
        let block_sums = Parts::new(&mut self.block_sums);
        let words = Parts::new(&mut self.words);
        let load_row = |t: usize| {
            if int8_form && t + 1 < rows {
                // Every thread has read the lines: a store would wait for the others' copies to go.
                lanes.expect(t + 1, stride);
                fine.expect(t + 1, stride);
                scales.expect(t + 1, stride / GROUP);
                starts.expect(t + 1, stride / GROUP);
                block_starts.expect(t + 1, stride / BLOCK);
                sums.expect(t + 1, stride / GROUP);
                block_sums.expect(t + 1, stride / BLOCK);
            }
            let row = row_of(t);
            if f32_form {
                // SAFETY: each row is loaded by one task, and rows do not overlap.
                unsafe { values.part(t, cols) }.copy_from_slice(row);
            }
            if int8_form {
                let groups = stride / GROUP;
                // SAFETY: as above.
                let (lanes, fine) = unsafe { (lanes.part(t, stride), fine.part(t, stride)) };
                // SAFETY: as above.
                let (scales, totals) = unsafe { (scales.part(t, groups), starts.part(t, groups)) };
                // SAFETY: `compute` exists, so the CPU runs its tier.
                unsafe { quantise(row, lanes, fine, scales, totals) };
                let coarse = compute.activations() == ActivationType::Int8;
                if coarse {
                    widest(DropFine { lanes, fine, totals });
                }
                // SAFETY: as above.
                let (sums, block_sums) = unsafe { (sums.part(t, groups), block_sums.part(t, stride / BLOCK)) };
                // SAFETY: as above.
                let block_starts = unsafe { block_starts.part(t, stride / BLOCK) };
                widest(AddUp { scales, sums, block_sums, starts: totals, block_starts });
                if coarse {
                    widest(Enlarge(scales));
                }
                if with_words {
                    let steps = if coarse { 1 } else { COARSE as i16 };
                    // SAFETY: as above.
                    widest(Combine { lanes, fine, steps, words: unsafe { words.part(t, stride) } });
                }
            }
        };
        let load_block = |worker: usize, i: usize| {
            let range = i * block..rows.min((i + 1) * block);
            range.clone().for_each(load_row);
            then(worker, range);
        };
        let blocks = rows.div_ceil(block);
        if blocks > 1 && (block > 1 || rows * cols >= PARALLEL_ELEMENTS) {
            compute.pool().run_indexed(blocks, &load_block);
        } else {
            (0..blocks).for_each(|i| load_block(0, i));
        }
        if rows == 1 && int8_form {
            self.split_row();
        }
    }

    /// Keeps the only row in its split order too.
    fn split_row(&mut self) {
        let (cols, stride, len) = (self.cols, self.stride, self.split.len(self.cols));
        grow(&mut self.split_lanes, len);
        grow(&mut self.split_fine, len);
        let planes = [(&self.lanes, &mut self.split_lanes), (&self.fine, &mut self.split_fine)];
        match self.split {
            Split::None => {}
            Split::Fours => {
                for (plane, out) in planes {
                    let (whole, tail) = out[..len].split_at_mut(stride);
                    split_fours(&plane[..stride], whole);
                    split_fours(&plane[cols.saturating_sub(MAX_BLOCK)..][..MAX_BLOCK], tail);
                }
            }
            Split::Eighths => {
                let blocks = cols.div_ceil(BLOCK);
                for (plane, out) in planes {
                    split_eighths(
                        &plane.as_chunks().0.as_chunks().0[..blocks],
                        out[..len].as_chunks_mut().0.as_chunks_mut().0,
                    );
                }
                let numbers = self.split.pairs(cols);
                grow(&mut self.pairs, numbers);
                let scales = self.scales.as_chunks::<{ BLOCK / GROUP }>().0;
                let pair = |block: usize| [scales[block][0], self.block_sums[block]];
                around(blocks, self.pairs[..numbers].as_chunks_mut().0.as_chunks_mut().0, pair);
            }
        }
    }

    /// Row `t`, with both forms where they are loaded.
    pub(super) fn row(&self, t: usize) -> Row<'_> {
        // A form that is not loaded has rows of length 0.
        let cols = if self.has_f32 { self.cols } else { 0 };
        let stride = if self.has_int8 { self.stride } else { 0 };
        let groups = stride / GROUP;
        let words = if self.has_words { stride } else { 0 };
        let order = if self.rows == 1 && self.has_int8 { self.split } else { Split::None };
        let (split, pairs) = (order.len(self.cols), order.pairs(self.cols));
        Row {
            split_lanes: &self.split_lanes[..split],
            split_fine: &self.split_fine[..split],
            lead: self.lead,
            pairs: &self.pairs[..pairs],
            values: &self.values[t * cols..][..cols],
            lanes: &self.lanes[t * stride..][..stride],
            fine: &self.fine[t * stride..][..stride],
            scales: &self.scales[t * groups..][..groups],
            sums: &self.sums[t * groups..][..groups],
            words: &self.words[t * words..][..words],
        }
    }

    /// Some rows in int8.
    pub(super) fn batch(&self, rows: Range<usize>) -> Batch<'_> {
        let (start, stride) = (rows.start, self.stride);
        Batch {
            rows: rows.len(),
            stride,
            lanes: &self.lanes[start * stride..],
            fine: &self.fine[start * stride..],
            scales: &self.scales[start * stride / GROUP..],
            sums: &self.sums[start * stride / GROUP..],
            block_sums: &self.block_sums[start * stride / BLOCK..],
            starts: &self.starts[start * stride / GROUP..],
            block_starts: &self.block_starts[start * stride / BLOCK..],
            words: self.words.get(start * stride..).unwrap_or_default(),
        }
    }

    /// Whether the rows were loaded in `form`.
    pub(super) fn has(&self, form: Form) -> bool {
        match form {
            Form::F32 => self.has_f32,
            Form::Int8 => self.has_int8,
        }
    }
}

/// Leaves the coarse plane alone, and the totals of what that stands for.
struct DropFine<'a> {
    lanes: &'a [i8],
    fine: &'a mut [i8],
    totals: &'a mut [i32],
}

impl Widest for DropFine<'_> {
    type Out = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        self.fine.fill(0);
        for (total, lanes) in self.totals.iter_mut().zip(self.lanes.as_chunks::<GROUP>().0) {
            *total = COARSE * lanes.iter().map(|&lane| i32::from(lane)).sum::<i32>();
        }
    }
}

/// What follows from a row's scales and the totals of its groups, which are in the place of where integer sums start.
struct AddUp<'a> {
    scales: &'a [f32],
    sums: &'a mut [f32],
    block_sums: &'a mut [f32],
    starts: &'a mut [i32],
    block_starts: &'a mut [i32],
}

impl Widest for AddUp<'_> {
    type Out = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for ((sum, scale), total) in self.sums.iter_mut().zip(self.scales).zip(&mut *self.starts) {
            *sum = scale * *total as f32;
            *total = -*total;
        }
        for (block, [first, second]) in self.block_sums.iter_mut().zip(self.sums.as_chunks().0) {
            *block = first + second;
        }
        for (block, [first, second]) in self.block_starts.iter_mut().zip(self.starts.as_chunks().0) {
            *block = first + second;
        }
    }
}

/// Makes scales of fine steps scales of coarse ones.
struct Enlarge<'a>(&'a mut [f32]);

impl Widest for Enlarge<'_> {
    type Out = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for scale in self.0 {
            *scale *= COARSE as f32;
        }
    }
}

/// Both planes of a row in one.
struct Combine<'a> {
    lanes: &'a [i8],
    fine: &'a [i8],
    /// What a coarse step is worth.
    steps: i16,
    words: &'a mut [i16],
}

impl Widest for Combine<'_> {
    type Out = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for ((word, &lane), &fine) in self.words.iter_mut().zip(self.lanes).zip(self.fine) {
            *word = self.steps * i16::from(lane) + i16::from(fine);
        }
    }
}

/// Whether weights of these types need rows in f32, and in int8.
fn forms(compute: &Compute, types: &[GgmlType]) -> (bool, bool) {
    let needs = |form| types.iter().any(|&ty| compute.form(ty) == form);
    (needs(Form::F32), needs(Form::Int8))
}

fn padded(cols: usize) -> usize {
    cols.saturating_add(MAX_BLOCK - 1) / MAX_BLOCK * MAX_BLOCK
}

/// Makes room for `len` elements; what the buffer held is lost where there was none.
fn grow<T: Pod>(buffer: &mut Aligned<T>, len: usize) {
    if buffer.len() < len {
        *buffer = Aligned::new(len);
    }
}
