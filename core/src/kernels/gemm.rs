//! Products of f32 matrices in register tiles, for what is not multiplied straight from a file's blocks: attention in training,
//! and gradients through weights decoded a cache's share at a time.
//!
//! C = A · B or C += A · B, with B in panels of 16 columns. Every element of C is one chain of multiply-adds in the order of
//! B's rows, so that its value does not depend on what is computed beside it.

// Register arrays of constant length: indices keep the unrolled loops over several of them in step.
#![allow(clippy::needless_range_loop)]

use super::Tier;
use super::attention::Set;
#[cfg(target_arch = "aarch64")]
use super::attention::lanes::Neon;
#[cfg(not(target_arch = "aarch64"))]
use super::attention::lanes::Portable;
use super::attention::lanes::Sums;
#[cfg(target_arch = "x86_64")]
use super::attention::lanes::{Avx2, Avx512, Bf16Pairs};

/// Columns of a panel of B, the lanes of a vector.
pub const PANEL: usize = 16;

/// A: element (m, k) is `data[m · row + k · step]`.
#[derive(Debug, Clone, Copy)]
pub struct Left<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// From one row to the next.
    pub row: usize,
    /// From one element of a row to the next.
    pub step: usize,
}

/// B: row k of panel p is `data[p · panel + k · row..][..PANEL]`; a row-major matrix has `panel` = [`PANEL`].
#[derive(Debug, Clone, Copy)]
pub struct Right<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// From one row to the next.
    pub row: usize,
    /// From one panel to the next.
    pub panel: usize,
}

/// `out[m · row + n] = Σ_k a[m, k] · b[k, n]` for m < `rows`, n < `cols`, k < `depth`; with `accumulate`, added to what is there.
/// B has whole panels, whatever `cols` is.
///
/// # Panics
/// If a matrix is too short.
pub fn multiply(
    (rows, depth, cols): (usize, usize, usize),
    a: Left<'_>,
    b: Right<'_>,
    (out, row): (&mut [f32], usize),
    accumulate: bool,
) {
    if rows == 0 || cols == 0 {
        return;
    }
    let last = (rows - 1) * row + cols;
    assert!(row >= cols && out.len() >= last, "{} elements for {rows} rows of {cols}", out.len());
    if depth > 0 {
        let last = (rows - 1) * a.row + (depth - 1) * a.step;
        assert!(a.data.len() > last, "{} elements of A for {rows} rows of {depth}", a.data.len());
        let last = (cols.div_ceil(PANEL) - 1) * b.panel + (depth - 1) * b.row + PANEL;
        assert!(b.data.len() >= last, "{} elements of B for {depth} rows of {cols}", b.data.len());
    }
    let product = Product {
        a: (a.data.as_ptr(), a.row, a.step),
        b: (b.data.as_ptr(), b.row, b.panel),
        out: (out.as_mut_ptr(), row),
        rows,
        depth,
        cols,
        accumulate,
    };
    // SAFETY: the lengths were checked, and the output is borrowed exclusively.
    unsafe { product.run(Set::detect()) };
}

/// The operands of [`multiply`], as pointers that cover what it indexes; the output's is the caller's alone for the rows and
/// columns written.
pub(super) struct Product {
    /// Elements, from row to row, from element to element.
    pub a: (*const f32, usize, usize),
    /// Elements, from row to row, from panel to panel.
    pub b: (*const f32, usize, usize),
    /// Elements, from row to row.
    pub out: (*mut f32, usize),
    pub rows: usize,
    pub depth: usize,
    pub cols: usize,
    pub accumulate: bool,
}

/// `M` rows of A times `P` panels of B, of whose last `width` columns are stored.
///
/// # Safety
/// The CPU has the lanes' instruction set; rows and panels lie in the product's.
#[inline(always)]
unsafe fn block_body<L: Sums, const M: usize, const P: usize>(
    product: &Product,
    row: usize,
    panel: usize,
    width: usize,
) {
    // SAFETY: the caller's promise, and the product's about its pointers.
    unsafe {
        let (out, out_row) = (product.out.0.add(row * product.out.1 + panel * PANEL), product.out.1);
        let (a_row, a_step) = (product.a.1, product.a.2);
        let (b_row, b_panel) = (product.b.1, product.b.2);
        let mut sums = [[L::splat(0.0); P]; M];
        if product.accumulate {
            for m in 0..M {
                for p in 0..P {
                    let at = out.add(m * out_row + p * PANEL);
                    sums[m][p] = if p + 1 < P || width == PANEL {
                        L::load(at)
                    } else {
                        let mut part = [0.0; PANEL];
                        std::ptr::copy_nonoverlapping(at, part.as_mut_ptr(), width);
                        L::load(part.as_ptr())
                    };
                }
            }
        }
        let mut a = product.a.0.add(row * a_row);
        let mut b = product.b.0.add(panel * b_panel);
        for _ in 0..product.depth {
            let mut lanes = [L::splat(0.0); P];
            for p in 0..P {
                lanes[p] = L::load(b.add(p * b_panel));
            }
            for m in 0..M {
                let x = L::splat(*a.add(m * a_row));
                for p in 0..P {
                    sums[m][p] = x.mul_add(lanes[p], sums[m][p]);
                }
            }
            a = a.wrapping_add(a_step);
            b = b.wrapping_add(b_row);
        }
        for m in 0..M {
            for p in 0..P {
                let at = out.add(m * out_row + p * PANEL);
                if p + 1 < P || width == PANEL {
                    sums[m][p].store(at);
                } else {
                    let mut part = [0.0; PANEL];
                    sums[m][p].store(part.as_mut_ptr());
                    std::ptr::copy_nonoverlapping(part.as_ptr(), at, width);
                }
            }
        }
    }
}

/// The product compiled for one instruction set, `$panels` panels at a time.
macro_rules! compiled {
    ($name:ident, $lanes:ty, $panels:literal $(, $features:literal)?) => {
        mod $name {
            use super::*;

            /// # Safety
            /// The CPU has the instruction set, and the product's pointers cover what it indexes.
            pub(super) unsafe fn product(product: &Product) {
                let panels = product.cols.div_ceil(PANEL);
                let mut panel = 0;
                while panel < panels {
                    // The last panel may be narrower.
                    let width = |count: usize| (product.cols - (panel + count - 1) * PANEL).min(PANEL);
                    // SAFETY: the caller's promise; the panels lie in the product.
                    panel += unsafe {
                        if panels - panel >= $panels {
                            all_rows::<$panels>(product, panel, width($panels))
                        } else if $panels > 2 && panels - panel >= 2 {
                            all_rows::<2>(product, panel, width(2))
                        } else {
                            all_rows::<1>(product, panel, width(1))
                        }
                    };
                }
            }

            /// # Safety
            /// As [`product`]; `P` panels from `panel` on lie in it.
            unsafe fn all_rows<const P: usize>(product: &Product, panel: usize, width: usize) -> usize {
                let mut row = 0;
                while row < product.rows {
                    // SAFETY: the caller's promise; the rows lie in the product.
                    row += unsafe {
                        match product.rows - row {
                            1 => block::<1, P>(product, row, panel, width),
                            2 => block::<2, P>(product, row, panel, width),
                            3 => block::<3, P>(product, row, panel, width),
                            // Two halves rather than six and a rest that leaves the units idle.
                            4 | 8 => block::<4, P>(product, row, panel, width),
                            5 => block::<5, P>(product, row, panel, width),
                            _ => block::<6, P>(product, row, panel, width),
                        }
                    };
                }
                P
            }

            /// # Safety
            /// As [`block_body`].
            $(#[target_feature(enable = $features)])?
            unsafe fn block<const M: usize, const P: usize>(
                product: &Product,
                row: usize,
                panel: usize,
                width: usize,
            ) -> usize {
                // SAFETY: the caller's promise.
                unsafe { block_body::<$lanes, M, P>(product, row, panel, width) };
                M
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
compiled!(avx512, Avx512, 4, "avx512f,avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
compiled!(bf16_pairs, Bf16Pairs, 4, "avx512f,avx512bf16");
#[cfg(target_arch = "x86_64")]
compiled!(avx2, Avx2, 1, "avx2,fma,f16c");
#[cfg(target_arch = "aarch64")]
compiled!(neon, Neon, 1);
#[cfg(not(target_arch = "aarch64"))]
compiled!(portable, Portable, 1);

impl Product {
    /// Computes it.
    ///
    /// # Safety
    /// The CPU has the instruction set, and the pointers cover what the product indexes, the output exclusively.
    pub(super) unsafe fn run(&self, set: Set) {
        // SAFETY: the caller's promise.
        unsafe {
            match set {
                #[cfg(not(target_arch = "aarch64"))]
                Set::Portable => portable::product(self),
                #[cfg(target_arch = "x86_64")]
                Set::Avx2 => avx2::product(self),
                #[cfg(target_arch = "x86_64")]
                Set::Avx512 => avx512::product(self),
                #[cfg(target_arch = "aarch64")]
                Set::Neon => neon::product(self),
            }
        }
    }

    /// As [`run`](Self::run), where the elements of A and B are pairs of bf16, as the lanes have them, and `depth` counts those.
    ///
    /// # Safety
    /// The CPU has AVX-512 BF16, and the pointers cover what the product indexes, the output exclusively.
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn run_pairs(&self) {
        // SAFETY: the caller's promise.
        unsafe { bf16_pairs::product(self) }
    }
}

/// The vectors of a tier that a [`Compute`](super::Compute) exists for; the reference has the widest there are.
pub(super) fn set_of(tier: Tier) -> Set {
    match tier {
        #[cfg(not(target_arch = "aarch64"))]
        Tier::Scalar => Set::Portable,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => Set::Avx2,
        _ => Set::detect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(i: usize) -> f32 {
        ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn sets() -> Vec<Set> {
        super::super::detected_tiers().into_iter().map(set_of).collect()
    }

    #[test]
    fn every_instruction_set_and_shape_matches_f64() {
        for set in sets() {
            for rows in [1, 2, 3, 4, 5, 6, 7, 8, 13, 20] {
                for cols in [1usize, 5, 16, 17, 31, 48, 64, 70, 130] {
                    for (depth, turned, accumulate) in [(1, false, true), (7, true, false), (33, false, true)] {
                        let a: Vec<f32> = (0..rows * depth).map(value).collect();
                        let panels = cols.div_ceil(PANEL);
                        let b: Vec<f32> = (0..panels * depth * PANEL).map(|i| value(i + 999)).collect();
                        let before: Vec<f32> = (0..rows * (cols + 3)).map(|i| value(i + 77)).collect();
                        let mut out = before.clone();
                        let (row, step) = if turned { (1, rows) } else { (depth, 1) };
                        let product = Product {
                            a: (a.as_ptr(), row, step),
                            b: (b.as_ptr(), PANEL, depth * PANEL),
                            out: (out.as_mut_ptr(), cols + 3),
                            rows,
                            depth,
                            cols,
                            accumulate,
                        };
                        // SAFETY: the vectors are as long as the strides say.
                        unsafe { product.run(set) };
                        for (at, (&got, &old)) in out.iter().zip(&before).enumerate() {
                            let (m, n) = (at / (cols + 3), at % (cols + 3));
                            if n >= cols {
                                assert_eq!(got, old, "beyond the columns");
                                continue;
                            }
                            let product = |k| {
                                let b = b[n / PANEL * depth * PANEL + k * PANEL + n % PANEL];
                                f64::from(a[m * row + k * step]) * f64::from(b)
                            };
                            let want: f64 = (0..depth).map(product).sum();
                            let want = want + if accumulate { f64::from(old) } else { 0.0 };
                            assert!((f64::from(got) - want).abs() < 5e-6, "{set:?} {rows}x{depth}x{cols} at {at}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn row_major_operands_and_empty_ones() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0], [1.0; 64]);
        let mut out = [0.0; 64];
        multiply(
            (2, 2, 32),
            Left { data: &a, row: 2, step: 1 },
            Right { data: &b, row: 32, panel: 16 },
            (&mut out, 32),
            false,
        );
        assert!(out[..32].iter().all(|&x| x == 3.0) && out[32..].iter().all(|&x| x == 7.0));
        multiply(
            (2, 0, 32),
            Left { data: &[], row: 2, step: 1 },
            Right { data: &[], row: 32, panel: 16 },
            (&mut out, 32),
            true,
        );
        assert_eq!(out[0], 3.0);
    }

    #[test]
    #[should_panic(expected = "elements of B")]
    fn short_operands_are_refused() {
        multiply(
            (1, 2, 16),
            Left { data: &[1.0; 2], row: 2, step: 1 },
            Right { data: &[1.0; 31], row: 16, panel: 16 },
            (&mut [0.0; 16], 16),
            false,
        );
    }
}
