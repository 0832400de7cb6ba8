//! Products with the transposed weights, straight from the blocks: what gradients through frozen layers are made of.
//!
//! The work is cut into strips of columns. A task decodes its strip, as many rows at a time as fit in the second-level cache,
//! and multiplies the decoded rows with every row of g before it goes on; nothing of the weights is kept. With AVX-512
//! BF16 both are rounded to bf16, eight bits as noise of a gradient, and multiplied at twice the rate.

mod decode;
#[cfg(target_arch = "x86_64")]
mod pairs;

use std::sync::{Mutex, PoisonError};

#[cfg(target_arch = "x86_64")]
use super::Tier;
use super::gemm::{PANEL, Product, set_of};
use super::prefetch::prefetch;
use super::{Aligned, Compute, Matrix};
#[cfg(target_arch = "x86_64")]
pub use decode::plain;
pub use decode::{DecodeFn, decoder};

/// Decoded elements that a worker holds: 64 KB, so that they and the rows of g they are multiplied with stay in the second-level
/// cache.
const HELD: usize = 1 << 14;
/// Columns of a strip at least: two panels, and a block of most formats.
const STRIP: usize = 2 * PANEL;
/// Columns of a strip at most, unless a block is longer: what lies between the strip's blocks of one row and of the next is
/// brought in for nothing.
const WIDE: usize = 4 * STRIP;

/// Rows decoded at a time are a multiple of this: whole vectors of pairs of rounded numbers.
const DEPTH_STEP: usize = 32;
/// Elements of g that a worker holds rounded, two in one, where a CPU may have products of those: 48 KB, 48 rows or more.
const ROUNDED: usize = if cfg!(target_arch = "x86_64") { 48 * (HELD / STRIP / 2) } else { 0 };

/// What the products need per worker.
#[derive(Debug)]
pub struct TransposedScratch {
    workers: Vec<Mutex<Worker>>,
}

#[derive(Debug)]
struct Worker {
    /// Decoded rows.
    held: Aligned,
    /// Rounded rows of g.
    rounded: Aligned,
}

impl TransposedScratch {
    /// For `threads` threads.
    pub fn new(threads: usize) -> Self {
        let worker = || Worker { held: Aligned::new(HELD), rounded: Aligned::new(ROUNDED) };
        Self { workers: (0..threads).map(|_| Mutex::new(worker())).collect() }
    }

    /// Bytes that the scratch for `threads` threads takes.
    pub fn bytes(threads: usize) -> usize {
        threads * (HELD + ROUNDED) * size_of::<f32>()
    }
}

impl Compute {
    /// Whether [`matmul_transposed`](Self::matmul_transposed) rounds both factors of each product to bf16: on the AVX-512 tier, where
    /// the CPU has the instruction.
    pub fn rounds_gradients(&self) -> bool {
        #[cfg(target_arch = "x86_64")]
        if self.tier() == Tier::Avx512 {
            return pairs::available();
        }
        false
    }

    /// `out[t, c] = Σ Σ_r g[t, r] · w[r, c]` over the pairs of weights and gradients of their outputs, for every column c of the
    /// weights, which all have as many: the gradient of the rows that the linears read. `out` is T × columns, each g T × its
    /// weights' rows.
    ///
    /// An element does not depend on the other rows nor on the number of threads. Nothing is allocated.
    ///
    /// # Panics
    /// If the sizes do not fit each other, or the scratch is for fewer threads.
    pub fn matmul_transposed(&self, pairs: &[(Matrix<'_>, &[f32])], out: &mut [f32], scratch: &TransposedScratch) {
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
        let least = pairs.iter().map(|(w, _)| w.ty().block_len()).fold(STRIP, usize::max);
        let strip = strip(cols, least, self.threads());
        let set = set_of(self.tier());
        #[cfg(target_arch = "x86_64")]
        let rounds = self.rounds_gradients();
        let target = Target(out.as_mut_ptr());
        self.pool().run_indexed(cols.div_ceil(strip), &|worker, task| {
            let mut worker = scratch.workers[worker].lock().unwrap_or_else(PoisonError::into_inner);
            let Worker { held, rounded } = &mut *worker;
            let start = task * strip;
            let width = strip.min(cols - start);
            // Whole pairs, whatever the strip is: the same sums.
            let depth = HELD / width.next_multiple_of(PANEL) / DEPTH_STEP * DEPTH_STEP;
            let mut accumulate = false;
            for (i, (w, g)) in pairs.iter().enumerate() {
                let decode = (self.kernels().decoder)(w.ty());
                for from in (0..w.rows()).step_by(depth) {
                    let to = w.rows().min(from + depth);
                    // SAFETY: a `Compute` of this tier exists, so the CPU runs it.
                    unsafe { decode(w.row_range(from, to), w.row_bytes(), (start, width), depth, held) };
                    // What is decoded next, which would be waited for: its rows are short and far apart.
                    let (next, first, column) = match pairs.get(i + 1) {
                        _ if to < w.rows() => (w, to, start),
                        Some((next, _)) => (next, 0, start),
                        None => (&pairs[0].0, 0, start + width),
                    };
                    for row in first..next.rows().min(first + depth) {
                        prefetch(next.columns(row, column..cols.min(column + width)));
                    }
                    let product = Product {
                        a: (g[from..].as_ptr(), w.rows(), 1),
                        b: (held.as_ptr(), PANEL, depth * PANEL),
                        out: (target.at(start), cols),
                        rows,
                        depth: to - from,
                        cols: width,
                        accumulate,
                    };
                    // SAFETY: a `Compute` of this tier exists, so the CPU has the vectors; g has `rows` rows of as many elements
                    // as the weights have rows, the scratch the panels of the strip, the output `rows` rows of `cols` elements
                    // of which no other task has these columns.
                    unsafe {
                        #[cfg(target_arch = "x86_64")]
                        match rounds {
                            true => pairs::run(&product, held, rounded),
                            false => product.run(set),
                        }
                        #[cfg(not(target_arch = "x86_64"))]
                        {
                            let _ = &rounded;
                            product.run(set);
                        }
                    }
                    accumulate = true;
                }
            }
        });
    }
}

/// Columns of a strip, a multiple of `least`: with which the thread that has most to do has least, and of those the widest.
fn strip(cols: usize, least: usize, threads: usize) -> usize {
    let longest = |strip: usize| cols.div_ceil(strip).div_ceil(threads) * strip;
    let strips = (1..=(WIDE / least).max(1)).rev().map(|count| count * least);
    strips.min_by_key(|&strip| longest(strip)).unwrap_or(least)
}

/// An output that tasks write disjoint columns of.
struct Target(*mut f32);

// SAFETY: it stands for an exclusive borrow of f32s; tasks write disjoint columns (see `matmul_transposed`).
unsafe impl Sync for Target {}

impl Target {
    /// The first row's element in this column.
    fn at(&self, column: usize) -> *mut f32 {
        self.0.wrapping_add(column)
    }
}

#[cfg(test)]
mod tests {
    use super::strip;

    #[test]
    fn strips_are_wide_where_threads_stay_even() {
        assert_eq!(strip(576, 32, 1), 96);
        assert_eq!(strip(576, 32, 2), 96);
        assert_eq!(strip(1536, 32, 2), 128);
        assert_eq!(strip(576, 32, 18), 32);
        assert_eq!(strip(2048, 256, 4), 256);
        assert_eq!(strip(5, 32, 4), 32);
    }
}
