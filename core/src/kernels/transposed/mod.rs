//! Products with the transposed weights, straight from the blocks: what gradients through frozen layers are made of.
//!
//! The work is cut into strips of columns. A task decodes its strip, as many rows at a time as fit in the caches, and multiplies
//! the decoded rows with every row of g before it goes on; nothing of the weights is kept. Where that is faster, both sides are
//! turned to [fixed] point first.

mod decode;
mod fixed;

use std::sync::{Mutex, PoisonError};

use super::gemm::{PANEL, Product, set_of};
use super::isa::FixedFn;
use super::{Aligned, Compute, Matrix, for_each_chunk};
use decode::decoder;
pub use fixed::{FixedProduct, SPAN};

/// Decoded elements that a worker holds at most: 64 KB, so that they and the rows of g they are multiplied with stay in the
/// second-level cache.
const HELD: usize = 1 << 14;
/// The same where they are turned to fixed point, which takes half as much again.
const HELD_FIXED: usize = 1 << 13;
/// Columns of a strip, where its blocks are no longer: two panels.
const STRIP: usize = 2 * PANEL;

/// What the products need: per worker, and of all for g in fixed point.
#[derive(Debug)]
pub struct TransposedScratch {
    workers: Vec<Mutex<Worker>>,
    /// Words of two 16-bit numbers.
    numbers: Vec<f32>,
    steps: Vec<f32>,
}

#[derive(Debug)]
struct Worker {
    /// Decoded panels.
    held: Aligned,
    /// The same in fixed point, and the steps.
    words: Vec<i32>,
    steps: Vec<f32>,
}

impl TransposedScratch {
    /// For `threads` threads and gradients of up to `elements` elements; larger ones go in parts.
    pub fn new(threads: usize, elements: usize) -> Self {
        let worker =
            || Worker { held: Aligned::new(HELD), words: vec![0; HELD / 2], steps: vec![0.0; HELD / PANEL / SPAN] };
        Self {
            workers: (0..threads).map(|_| Mutex::new(worker())).collect(),
            numbers: vec![0.0; elements / 2],
            steps: vec![0.0; elements / SPAN],
        }
    }

    /// Bytes that such scratch takes.
    pub fn bytes(threads: usize, elements: usize) -> usize {
        let worker = HELD * size_of::<f32>() + HELD / 2 * size_of::<i32>() + HELD / PANEL / SPAN * size_of::<f32>();
        threads.saturating_mul(worker).saturating_add((elements / 2 + elements / SPAN) * size_of::<f32>())
    }
}

impl Compute {
    /// `out[t, c] = Σ Σ_r g[t, r] · w[r, c]` over the pairs of weights and gradients of their outputs, for every column c of the
    /// weights, which all have as many: the gradient of the rows that the linears read. `out` is T × columns, each g T × its
    /// weights' rows.
    ///
    /// An element does not depend on the other rows nor on the number of threads. Nothing is allocated.
    ///
    /// # Panics
    /// If the sizes do not fit each other, or the scratch is for fewer threads.
    pub fn matmul_transposed(&self, pairs: &[(Matrix<'_>, &[f32])], out: &mut [f32], scratch: &mut TransposedScratch) {
        if pairs.iter().all(|(w, _)| w.rows() == 0) {
            return out.fill(0.0);
        }
        let cols = pairs.first().map_or(0, |(w, _)| w.cols());
        if cols == 0 || out.is_empty() {
            return;
        }
        let rows = out.len() / cols;
        assert_eq!(out.len(), rows * cols, "size of the output");
        for (w, g) in pairs {
            assert_eq!(w.cols(), cols, "columns of weights that read the same rows");
            assert_eq!(Some(g.len()), rows.checked_mul(w.rows()), "size of a gradient");
        }
        assert!(scratch.workers.len() >= self.threads(), "scratch of fewer threads");
        // Block lengths divide one another.
        let strip = pairs.iter().map(|(w, _)| w.ty().block_len()).fold(STRIP, usize::max);
        let job = Job { compute: self, out: out.as_mut_ptr(), rows, cols, strip };
        // Rows of weights whose gradients fit the scratch in fixed point.
        let part = 2 * scratch.numbers.len() / rows / SPAN * SPAN;
        match self.kernels().fixed {
            Some(multiply) if part > 0 => {
                let mut accumulate = false;
                for (w, g) in pairs.iter().filter(|(w, _)| w.rows() > 0) {
                    for from in (0..w.rows()).step_by(part) {
                        job.run_fixed((*w, g), from..w.rows().min(from + part), accumulate, multiply, scratch);
                        accumulate = true;
                    }
                }
            }
            _ => job.run(pairs, scratch),
        }
    }
}

/// A product cut into strips of columns. Each is a task's own, on all rows of `out`.
struct Job<'a> {
    compute: &'a Compute,
    out: *mut f32,
    rows: usize,
    cols: usize,
    strip: usize,
}

// SAFETY: `out` stands for an exclusive borrow of rows × cols f32s; tasks write disjoint columns of it.
unsafe impl Sync for Job<'_> {}

impl Job<'_> {
    fn tasks(&self) -> usize {
        self.cols.div_ceil(self.strip)
    }

    /// The first column of a task, and how many there are.
    fn columns(&self, task: usize) -> (usize, usize) {
        let start = task * self.strip;
        (start, self.strip.min(self.cols - start))
    }

    /// All pairs, in f32.
    fn run(&self, pairs: &[(Matrix<'_>, &[f32])], scratch: &TransposedScratch) {
        let set = set_of(self.compute.tier());
        self.compute.pool().run_indexed(self.tasks(), &|worker, task| {
            let mut worker = scratch.workers[worker].lock().unwrap_or_else(PoisonError::into_inner);
            let held = &mut worker.held;
            let (start, width) = self.columns(task);
            let depth = HELD / width.next_multiple_of(PANEL);
            let mut accumulate = false;
            for (w, g) in pairs {
                let decode = decoder(w.ty());
                for from in (0..w.rows()).step_by(depth) {
                    let to = w.rows().min(from + depth);
                    decode(w.row_range(from, to), w.row_bytes(), (start, width), depth, held);
                    let product = Product {
                        a: (g[from..].as_ptr(), w.rows(), 1),
                        b: (held.as_ptr(), PANEL, depth * PANEL),
                        out: (self.out.wrapping_add(start), self.cols),
                        rows: self.rows,
                        depth: to - from,
                        cols: width,
                        accumulate,
                    };
                    // SAFETY: a `Compute` of this tier exists, so the CPU has the vectors; g has `rows` rows of as many elements
                    // as the weights have rows, the scratch the panels of the strip, the output `rows` rows of `cols` elements
                    // of which no other task has these columns.
                    unsafe { product.run(set) };
                    accumulate = true;
                }
            }
        });
    }

    /// Some rows of one pair's weights, in fixed point.
    fn run_fixed(
        &self,
        (w, g): (Matrix<'_>, &[f32]),
        range: std::ops::Range<usize>,
        accumulate: bool,
        multiply: FixedFn,
        scratch: &mut TransposedScratch,
    ) {
        let spans = range.len().div_ceil(SPAN);
        let TransposedScratch { workers, numbers, steps } = scratch;
        let (numbers, steps) = (&mut numbers[..self.rows * spans * SPAN / 2], &mut steps[..self.rows * spans]);
        let outputs = [(&mut *numbers, spans * SPAN / 2), (&mut *steps, spans)];
        for_each_chunk(self.compute.pool(), outputs, |_, t, [numbers, steps]| {
            fixed::row(&g[t * w.rows()..][range.clone()], bytemuck::cast_slice_mut(numbers), steps);
        });
        let (numbers, g_steps): (&[i16], _) = (bytemuck::cast_slice(numbers), &*steps);
        let decode = decoder(w.ty());
        self.compute.pool().run_indexed(self.tasks(), &|worker, task| {
            let mut worker = workers[worker].lock().unwrap_or_else(PoisonError::into_inner);
            let Worker { held, words, steps } = &mut *worker;
            let (start, width) = self.columns(task);
            let panels = width.div_ceil(PANEL);
            let depth = (HELD_FIXED / (panels * PANEL) / SPAN).max(1) * SPAN;
            for first in (0..range.len()).step_by(depth) {
                let rows = depth.min(range.len() - first);
                let from = range.start + first;
                decode(w.row_range(from, from + rows), w.row_bytes(), (start, width), depth, held);
                let of_chunk = rows.div_ceil(SPAN);
                let words = &mut words[..panels * of_chunk * (SPAN / 2) * PANEL];
                let steps = &mut steps[..panels * of_chunk];
                fixed::panels(&mut held[..panels * depth * PANEL], (depth, rows, of_chunk), words, steps);
                let product = FixedProduct {
                    g: (numbers[first..].as_ptr(), spans * SPAN),
                    g_steps: (g_steps[first / SPAN..].as_ptr(), spans),
                    w: words.as_ptr(),
                    w_steps: steps.as_ptr(),
                    out: (self.out.wrapping_add(start), self.cols),
                    rows: self.rows,
                    cols: width,
                    spans: of_chunk,
                    accumulate: accumulate || first > 0,
                };
                // SAFETY: a `Compute` of this tier exists, so the CPU runs it; g has `rows` rows of `spans` spans, of which
                // these begin inside and are no more than there are, the scratch the panels of the strip, the output `rows`
                // rows of `cols` elements of which no other task has these columns.
                unsafe { multiply(&product) };
            }
        });
    }
}
