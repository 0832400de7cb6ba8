//! The register-tiled product of both halves of attention.

use std::ops::Range;

use super::TILE;
use super::lanes::Lanes;
#[cfg(not(target_arch = "aarch64"))]
use super::lanes::Portable;
use super::panels::{BLOCK, Keys, Values};
use super::source::{Source, Visitor};
use crate::kernels::prefetch::ask;

#[cfg(target_arch = "aarch64")]
use super::lanes::Neon;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};

/// Rows of A whose sums are held in registers together: with four registers of 16 lanes each they and B's row fill the 32 of
/// AVX-512; with one, the 16 of AVX2 and the 32 of NEON.
pub const MAX_ROWS: usize = 6;

/// out\[m, t\] = q\[m\]·k\[t\] for the positions t of the records `blocks`, both counted from the tile's first. `q` is M × dim, `out`
/// M × [`TILE`], M at most [`MAX_ROWS`]. As much from the beginning of `next` is asked for meanwhile.
///
/// # Panics
/// If a length does not fit the others.
pub fn scores(q: &[f32], keys: &Keys<'_>, blocks: Range<usize>, out: &mut [f32], next: Option<&Values<'_>>) {
    scores_with(Set::detect(), q, keys, blocks, out, next.map_or(0, |next| distance(keys.words, next.words)));
}

/// Bytes from one cache to another, for requests alone.
fn distance(from: &[f32], to: &[f32]) -> isize {
    to.as_ptr().addr().wrapping_sub(from.as_ptr().addr()).cast_signed()
}

fn scores_with(set: Set, q: &[f32], keys: &Keys<'_>, blocks: Range<usize>, out: &mut [f32], ahead: isize) {
    let (dim, rows) = (keys.dim, out.len() / TILE);
    assert!(rows <= MAX_ROWS && q.len() == rows * dim, "{} queries for {rows} rows of {dim}", q.len());
    assert!(blocks.end <= keys.records() && blocks.end * BLOCK <= TILE, "{blocks:?} of {} blocks", keys.records());
    let product = Product {
        a: q.as_ptr(),
        a_stride: dim,
        rows,
        depth: 0..dim,
        panels: blocks,
        out: out.as_mut_ptr(),
        out_stride: TILE,
        keep: None,
        ahead,
    };
    keys.visit(Run { set, product });
}

/// out\[m\] = keep\[m\] · out\[m\] + Σ p\[m, t\] · v\[t\] over `positions` t, counted from the tile's first. `p` is M × [`TILE`], `out` M × dim,
/// `keep` M long and at most [`MAX_ROWS`]. As many keys from `next` on, if any, are asked for meanwhile.
///
/// # Panics
/// If a length does not fit the others.
pub fn mix(
    p: &[f32],
    values: &Values<'_>,
    positions: Range<usize>,
    keep: &[f32],
    out: &mut [f32],
    next: Option<&Keys<'_>>,
) {
    let ahead = next.map_or(0, |next| distance(values.words, next.words));
    mix_with(Set::detect(), p, values, positions, keep, out, ahead);
}

fn mix_with(
    set: Set,
    p: &[f32],
    values: &Values<'_>,
    positions: Range<usize>,
    keep: &[f32],
    out: &mut [f32],
    ahead: isize,
) {
    let (dim, rows) = (values.dim, keep.len());
    assert!(rows <= MAX_ROWS && p.len() == rows * TILE && out.len() == rows * dim, "{rows} rows of {dim}");
    let held = (values.records() * BLOCK).min(TILE);
    assert!(positions.end <= held, "{positions:?} of {held} positions");
    let product = Product {
        a: p.as_ptr(),
        a_stride: TILE,
        rows,
        depth: positions,
        panels: 0..dim / BLOCK,
        out: out.as_mut_ptr(),
        out_stride: dim,
        keep: Some(keep.as_ptr()),
        ahead,
    };
    values.visit(Run { set, product });
}

/// A product that waits for its B.
struct Run {
    set: Set,
    product: Product,
}

impl Visitor for Run {
    fn visit<S: Source>(self, source: S) {
        self.set.run(&Sourced { product: self.product, source });
    }
}

/// out\[m, panels\] = keep\[m\] · out\[m, panels\] + Σ over `depth` of a\[m, k\] · b\[k, panels\]; without `keep`, nothing is kept. The pointers
/// cover what these index, `out` exclusively.
struct Product {
    a: *const f32,
    a_stride: usize,
    rows: usize,
    depth: Range<usize>,
    panels: Range<usize>,
    out: *mut f32,
    out_stride: usize,
    keep: Option<*const f32>,
    /// Bytes from what is read of B to what will be read next and is asked for meanwhile; 0 for nothing.
    ahead: isize,
}

/// A product that is computed a few rows of A by a few panels of B at a time, with lanes of kind L.
pub(super) trait Tiled<L> {
    /// Rows of A.
    fn rows(&self) -> usize;
    /// Panels of B.
    fn panels(&self) -> Range<usize>;
    /// `M` rows of A times `P` panels of B.
    ///
    /// # Safety
    /// The CPU has the lanes' instruction set, rows and panels lie in the product's.
    unsafe fn block<const M: usize, const P: usize>(&self, row: usize, panel: usize);
}

/// A product and its B.
struct Sourced<S> {
    product: Product,
    source: S,
}

impl<L: Lanes, S: Source> Tiled<L> for Sourced<S> {
    fn rows(&self) -> usize {
        self.product.rows
    }

    fn panels(&self) -> Range<usize> {
        self.product.panels.clone()
    }

    #[inline(always)]
    unsafe fn block<const M: usize, const P: usize>(&self, row: usize, panel: usize) {
        let Self { product, source } = self;
        // SAFETY: the caller's promise, and the product's about its pointers.
        unsafe {
            let out = product.out.add(row * product.out_stride + panel * BLOCK);
            let mut sums = [[L::splat(0.0); P]; M];
            if let Some(keep) = product.keep {
                for m in 0..M {
                    let keep = L::splat(*keep.add(row + m));
                    for p in 0..P {
                        sums[m][p] = L::load(out.add(m * product.out_stride + p * BLOCK)).mul(keep);
                    }
                }
            }
            let a = product.a.add(row * product.a_stride);
            let mut k = product.depth.start;
            while k < product.depth.end {
                let run_end = (k - k % source.run_length() + source.run_length()).min(product.depth.end);
                let mut scales = [L::splat(0.0); P];
                for p in 0..P {
                    scales[p] = source.scale(k, panel + p);
                }
                for k in k..run_end {
                    let mut b = [L::splat(0.0); P];
                    for p in 0..P {
                        b[p] = source.load(k, panel + p, scales[p]);
                    }
                    if product.ahead != 0 {
                        for p in 0..P {
                            ask(source.address(k, panel + p).wrapping_offset(product.ahead));
                        }
                    }
                    for m in 0..M {
                        let x = L::splat(*a.add(m * product.a_stride + k));
                        for p in 0..P {
                            sums[m][p] = x.mul_add(b[p], sums[m][p]);
                        }
                    }
                }
                k = run_end;
            }
            for m in 0..M {
                for p in 0..P {
                    sums[m][p].store(out.add(m * product.out_stride + p * BLOCK));
                }
            }
        }
    }
}

/// Products compiled for one instruction set, `$panels` panels at a time.
macro_rules! compiled {
    ($name:ident, $lanes:ty, $panels:literal $(, $features:literal)?) => {
        mod $name {
            use super::*;

            /// # Safety
            /// The CPU has the instruction set.
            pub(super) unsafe fn product<T: Tiled<$lanes>>(product: &T) {
                let mut row = 0;
                while row < product.rows() {
                    // SAFETY: the caller's promise; the rows lie in the product.
                    row += unsafe {
                        match product.rows() - row {
                            1 => rows::<T, 1>(product, row),
                            2 => rows::<T, 2>(product, row),
                            3 => rows::<T, 3>(product, row),
                            4 | 5 => rows::<T, 4>(product, row),
                            _ => rows::<T, 6>(product, row),
                        }
                    };
                }
            }

            /// # Safety
            /// As [`product`]; `M` rows from `row` on lie in it.
            unsafe fn rows<T: Tiled<$lanes>, const M: usize>(product: &T, row: usize) -> usize {
                let Range { start, end } = product.panels();
                let mut panel = start;
                // SAFETY: the caller's promise; the panels lie in the product.
                unsafe {
                    while end.saturating_sub(panel) >= $panels {
                        block::<T, M, $panels>(product, row, panel);
                        panel += $panels;
                    }
                    while panel < end {
                        block::<T, M, 1>(product, row, panel);
                        panel += 1;
                    }
                }
                M
            }

            /// # Safety
            /// As [`Tiled::block`].
            $(#[target_feature(enable = $features)])?
            unsafe fn block<T: Tiled<$lanes>, const M: usize, const P: usize>(product: &T, row: usize, panel: usize) {
                // SAFETY: the caller's promise.
                unsafe { product.block::<M, P>(row, panel) }
            }
        }
    };
}
pub(super) use compiled;

#[cfg(target_arch = "x86_64")]
compiled!(avx512, Avx512, 4, "avx512f,avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
compiled!(avx2, Avx2, 1, "avx2,fma,f16c");
#[cfg(target_arch = "aarch64")]
compiled!(neon, Neon, 1);
#[cfg(not(target_arch = "aarch64"))]
compiled!(portable, Portable, 1);

/// The instruction sets a product is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kernels) enum Set {
    #[cfg(not(target_arch = "aarch64"))]
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Set {
    /// The widest one this CPU has.
    pub(in crate::kernels) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            if avx2 && is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if avx2 {
                return Self::Avx2;
            }
        }
        #[cfg(target_arch = "aarch64")]
        return Self::Neon;
        #[cfg(not(target_arch = "aarch64"))]
        Self::Portable
    }

    /// Computes the product; the set is one that [`detect`](Self::detect) found, or a narrower one.
    fn run<S: Source>(self, product: &Sourced<S>) {
        // SAFETY: the CPU has the instruction set; both callers checked the ranges.
        unsafe {
            match self {
                #[cfg(not(target_arch = "aarch64"))]
                Self::Portable => portable::product(product),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => avx2::product(product),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => avx512::product(product),
                #[cfg(target_arch = "aarch64")]
                Self::Neon => neon::product(product),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::attention::{CacheFormat, store_key, store_value};

    const DIM: usize = 96;
    const RECORDS: usize = 3;
    const FORMATS: [CacheFormat; 3] = [CacheFormat::F32, CacheFormat::F16, CacheFormat::Q8];

    /// Every set this CPU has.
    fn sets() -> Vec<Set> {
        #[cfg(target_arch = "x86_64")]
        return [Set::Portable, Set::Avx2, Set::Avx512]
            .into_iter()
            .filter(|set| match set {
                Set::Portable => true,
                Set::Avx2 => Set::detect() != Set::Portable,
                Set::Avx512 => Set::detect() == Set::Avx512,
            })
            .collect();
        #[cfg(not(target_arch = "x86_64"))]
        vec![Set::detect()]
    }

    fn value(i: usize) -> f32 {
        ((i * 7919 % 101) as f32 - 50.0) / 25.0
    }

    /// Multiples of 1/64 that every format holds exactly: the largest of 32 is 127/64.
    fn element(t: usize, d: usize) -> f32 {
        if d % 32 == t % 32 { 127.0 / 64.0 } else { ((t * DIM + d) * 7919 % 255) as f32 / 64.0 - 127.0 / 64.0 }
    }

    /// Records of two heads in turn, of which the second head's are written.
    fn records(format: CacheFormat, store: fn(&mut [f32], CacheFormat, usize, usize, &[f32])) -> (Vec<f32>, usize) {
        let record = format.record_words(DIM);
        let mut words = vec![f32::NAN; 2 * record * RECORDS];
        for t in 0..RECORDS * BLOCK {
            let x: Vec<f32> = (0..DIM).map(|d| element(t, d)).collect();
            store(&mut words[(t / BLOCK * 2 + 1) * record..][..record], format, DIM, t % BLOCK, &x);
        }
        words.drain(..record);
        (words, 2 * record)
    }

    #[test]
    fn scores_match_plain_sums() {
        for format in FORMATS {
            let (words, stride) = records(format, store_key);
            let keys = Keys::new(&words, format, DIM, stride);
            for (set, rows) in sets().into_iter().flat_map(|set| (1..=MAX_ROWS).map(move |rows| (set, rows))) {
                let q: Vec<f32> = (0..rows * DIM).map(value).collect();
                let mut out = vec![f32::NAN; rows * TILE];
                scores_with(set, &q, &keys, 1..3, &mut out, 64);
                for (q, out) in q.chunks_exact(DIM).zip(out.chunks_exact(TILE)) {
                    for t in BLOCK..3 * BLOCK {
                        let want: f64 =
                            q.iter().enumerate().map(|(d, q)| f64::from(*q) * f64::from(element(t, d))).sum();
                        assert!((f64::from(out[t]) - want).abs() < 1e-4, "{set:?} {format:?} {rows} {t}");
                    }
                    assert!(
                        out[..BLOCK].iter().chain(&out[3 * BLOCK..]).all(|x| x.is_nan()),
                        "only the blocks asked for"
                    );
                }
            }
        }
    }

    #[test]
    fn mixes_match_plain_sums() {
        for format in FORMATS {
            let (words, stride) = records(format, store_value);
            let values = Values::new(&words, format, DIM, stride);
            for (set, rows) in sets().into_iter().flat_map(|set| (1..=MAX_ROWS).map(move |rows| (set, rows))) {
                for positions in [0..1, 0..48, 7..41, 31..33, 5..5] {
                    let p: Vec<f32> = (0..rows * TILE).map(value).collect();
                    let keep: Vec<f32> = (0..rows).map(|m| m as f32 * 0.5).collect();
                    let mut out = vec![3.0; rows * DIM];
                    mix_with(set, &p, &values, positions.clone(), &keep, &mut out, 64);
                    for m in 0..rows {
                        for d in 0..DIM {
                            let of = |t: usize| f64::from(p[m * TILE + t]) * f64::from(element(t, d));
                            let want = 3.0 * f64::from(keep[m]) + positions.clone().map(of).sum::<f64>();
                            let got = f64::from(out[m * DIM + d]);
                            assert!((got - want).abs() < 1e-4, "{set:?} {format:?} {rows} {positions:?} {m} {d}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_lies_outside_the_cache_is_refused() {
        let words = vec![0.0; 2 * CacheFormat::F32.record_words(32)];
        let (keys, values) =
            (Keys::new(&words, CacheFormat::F32, 32, 512), Values::new(&words, CacheFormat::F32, 32, 512));
        let refused = |work: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err();
        assert!(!refused(&|| scores(&[0.0; 32], &keys, 0..2, &mut [0.0; TILE], None)));
        assert!(refused(&|| scores(&[0.0; 32], &keys, 0..3, &mut [0.0; TILE], None)));
        assert!(refused(&|| scores(&[0.0; 31], &keys, 0..2, &mut [0.0; TILE], None)));
        assert!(!refused(&|| mix(&[0.0; TILE], &values, 0..32, &[1.0], &mut [0.0; 32], None)));
        assert!(refused(&|| mix(&[0.0; TILE], &values, 0..33, &[1.0], &mut [0.0; 32], None)));
        assert!(refused(&|| mix(&[0.0; TILE], &values, 0..32, &[1.0], &mut [0.0; 31], None)));
    }
}
