//! One row: two targets side by side where the CPU has AVX and FMA.
//!
//! A register of four targets would be filled by as many loads as two of two, and gathers take longer than loads.

use num_complex::Complex32;

use super::{Held, Index, RunOf, Runs};
use crate::kernels::prefetch::Ahead;

/// Targets between two requests for what comes next.
pub(super) const TARGETS: usize = 32;
/// Lines asked for then, for each entry of a target: as many as memory brings meanwhile.
const LINES: usize = 4;
/// Lines asked for at most: a CPU has room for few more.
const MOST_LINES: usize = 16;
/// Bins for each without entries up to which all are written.
const SPARSE: usize = 6;

impl<B: Index> Runs<'_, B> {
    /// `z[target] = scale · Σ factor · x[source]`, or that added to the sum that `z` holds; what is `ahead` is asked for meanwhile.
    ///
    /// # Panics
    /// If a bin lies outside `x` or `z`, or there are not as many factors in `stored` as entries.
    #[inline]
    pub fn sums(self, stored: &[f32], scale: f32, x: &[Complex32], z: &mut [Complex32], held: Held, ahead: &mut Ahead) {
        let [target, source] = self.bounds;
        assert!(target <= z.len() && source <= x.len(), "bins of a spectrum");
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has both, and all bins are inside the spectra.
            return unsafe {
                match held {
                    Held::Nothing => wide::sums::<B, false>(self, stored, scale, x, z, ahead),
                    Held::Sum => wide::sums::<B, true>(self, stored, scale, x, z, ahead),
                }
            };
        }
        let all = self.targets.len() == z.len();
        for run in self {
            ahead.ask(run.targets.len() / TARGETS * run.lines());
            match held {
                Held::Nothing => run.sums_of::<false>(stored, scale, x, z, all),
                Held::Sum => run.sums_of::<true>(stored, scale, x, z, all),
            }
        }
    }
}

impl<B: Index> RunOf<'_, B> {
    /// Lines to ask for with every [`TARGETS`].
    pub(super) fn lines(&self) -> usize {
        (LINES * self.entries).min(MOST_LINES)
    }

    /// One target at a time. `ADD`: to what `z` holds; `all` as for [`empty`](Self::empty).
    #[inline(always)]
    fn sums_of<const ADD: bool>(&self, stored: &[f32], scale: f32, x: &[Complex32], z: &mut [Complex32], all: bool) {
        // Where their number is known, there is no loop over a target's entries.
        match self.entries {
            0 => self.empty::<ADD>(z, all),
            entries => with_entries!(entries, |E| self.ones::<E, ADD>(0, stored, scale, x, z)),
        }
    }

    /// Targets without entries, of which there is one run at most and before all others. `all`: each bin of `z` is a target.
    #[inline(always)]
    pub(super) fn empty<const ADD: bool>(&self, z: &mut [Complex32], all: bool) {
        if ADD {
            return;
        }
        if all && SPARSE * self.targets.len() > z.len() {
            // Many bins are written faster one after the other than few of them here and there.
            z.fill(Complex32::default());
        } else {
            self.targets.iter().for_each(|target| z[target.at()] = Complex32::default());
        }
    }

    /// `ENTRIES` of each target, or any number from 1 on if that is 0.
    #[inline(always)]
    pub(super) fn ones<const ENTRIES: usize, const ADD: bool>(
        &self,
        first: usize,
        stored: &[f32],
        scale: f32,
        x: &[Complex32],
        z: &mut [Complex32],
    ) {
        let entries = if ENTRIES == 0 { self.entries } else { ENTRIES };
        let factors = stored[self.stored.clone()].chunks_exact(entries).skip(first);
        let sources = self.sources.chunks_exact(entries).skip(first);
        for (target, (sources, factors)) in self.targets[first..].iter().zip(sources.zip(factors)) {
            let mut sum = Complex32::default();
            for e in 0..entries {
                sum += x[sources[e].at()] * factors[e];
            }
            let z = &mut z[target.at()];
            *z = if ADD { *z + sum * scale } else { sum * scale };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::*;

    use super::*;

    /// # Safety
    /// Targets are inside `z` and sources inside `x`.
    #[target_feature(enable = "avx,fma")]
    pub(super) unsafe fn sums<B: Index, const ADD: bool>(
        runs: Runs<'_, B>,
        stored: &[f32],
        scale: f32,
        x: &[Complex32],
        z: &mut [Complex32],
        ahead: &mut Ahead,
    ) {
        let all = runs.targets.len() == z.len();
        for run in runs {
            assert!(run.stored.end <= stored.len(), "factors of a spectrum");
            if run.entries == 0 {
                run.empty::<ADD>(z, all);
                continue;
            }
            // SAFETY: the caller's promise, and the factors are there.
            let first = unsafe { with_entries!(run.entries, |E| run.twos::<E, ADD>(stored, scale, x, z, ahead)) };
            run.ones::<0, ADD>(first, stored, scale, x, z);
        }
    }

    impl<B: Index> RunOf<'_, B> {
        /// Two targets at a time, as long as four factors can be read from each of the last ones' on; returns the first target that is
        /// left. `ENTRIES` of each, or any number from 1 on if that is 0.
        ///
        /// # Safety
        /// Targets are inside `z` and sources inside `x`, and `stored` holds the run's factors.
        #[inline]
        #[target_feature(enable = "avx,fma")]
        unsafe fn twos<const ENTRIES: usize, const ADD: bool>(
            &self,
            stored: &[f32],
            scale: f32,
            x: &[Complex32],
            z: &mut [Complex32],
            ahead: &mut Ahead,
        ) -> usize {
            let entries = if ENTRIES == 0 { self.entries } else { ENTRIES };
            let scale = _mm_set1_ps(scale);
            let (x, z) = (x.as_ptr().cast::<f64>(), z.as_mut_ptr().cast::<f64>());
            // Of the last two, the loads of factors end three after them.
            let loadable = (stored.len() - self.stored.start).saturating_sub(3) / entries;
            let whole = self.targets.len().min(loadable) / 2 * 2;
            let mut first = 0;
            while first < whole {
                ahead.ask(self.lines());
                let end = whole.min(first + TARGETS);
                while first < end {
                    // SAFETY: there are two more targets and sources for each of their entries, inside the spectra as the caller promises.
                    // The last four factors begin at most three before the end.
                    unsafe {
                        let factors = stored.as_ptr().add(self.stored.start + first * entries);
                        let from = self.sources.as_ptr().add(first * entries);
                        let two = |e: usize| {
                            let (a, b) = (*from.add(e), *from.add(entries + e));
                            _mm_castpd_ps(_mm_loadh_pd(_mm_load_sd(x.add(a.at())), x.add(b.at())))
                        };
                        let mut sum = _mm_setzero_ps();
                        let mut e = 0;
                        while e < entries {
                            let (a, b) = (_mm_loadu_ps(factors.add(e)), _mm_loadu_ps(factors.add(entries + e)));
                            sum = _mm_fmadd_ps(two(e), _mm_shuffle_ps::<0b00_00_00_00>(a, b), sum);
                            if e + 1 < entries {
                                sum = _mm_fmadd_ps(two(e + 1), _mm_shuffle_ps::<0b01_01_01_01>(a, b), sum);
                            }
                            if e + 2 < entries {
                                sum = _mm_fmadd_ps(two(e + 2), _mm_shuffle_ps::<0b10_10_10_10>(a, b), sum);
                            }
                            if e + 3 < entries {
                                sum = _mm_fmadd_ps(two(e + 3), _mm_shuffle_ps::<0b11_11_11_11>(a, b), sum);
                            }
                            e += 4;
                        }
                        let [a, b] = [first, first + 1].map(|target| self.targets.get_unchecked(target).at());
                        let new = if ADD {
                            let old = _mm_castpd_ps(_mm_loadh_pd(_mm_load_sd(z.add(a)), z.add(b)));
                            _mm_fmadd_ps(sum, scale, old)
                        } else {
                            _mm_mul_ps(sum, scale)
                        };
                        let new = _mm_castps_pd(new);
                        _mm_storel_pd(z.add(a), new);
                        _mm_storeh_pd(z.add(b), new);
                    }
                    first += 2;
                }
            }
            first
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{BINS, drawn, noise};
    use super::super::{Below, Run};
    use super::*;

    fn spectrum(bins: usize, seed: usize) -> Vec<Complex32> {
        (0..bins).map(|i| Complex32::new(noise(seed + 2 * i), noise(seed + 2 * i + 1))).collect()
    }

    /// Runs of these many targets and entries.
    fn compare(shape: &[(usize, usize)]) {
        let (runs, targets, sources) = drawn(shape, BINS);
        let stored: Vec<f32> = (0..sources.len()).map(|e| noise(e + 5)).collect();
        let (x, before) = (spectrum(BINS, 1000), spectrum(BINS, 2000));

        for held in [Held::Sum, Held::Nothing] {
            let mut want: Vec<[f64; 2]> = before.iter().map(|z| [f64::from(z.re), f64::from(z.im)]).collect();
            let (mut target, mut entry) = (0, 0);
            for &(count, entries) in shape {
                for _ in 0..count {
                    let z = &mut want[usize::from(targets[target])];
                    if held == Held::Nothing {
                        *z = [0.0; 2];
                    }
                    for _ in 0..entries {
                        let (x, c) = (x[usize::from(sources[entry])], f64::from(stored[entry]));
                        z[0] += 0.75 * c * f64::from(x.re);
                        z[1] += 0.75 * c * f64::from(x.im);
                        entry += 1;
                    }
                    target += 1;
                }
            }

            let (targets, sources) = (Below::new(targets.as_slice().into()), Below::new(sources.as_slice().into()));
            let runs = || Runs::new(&runs, &targets, &sources);
            let close = |got: &[Complex32], what: &str| {
                for (bin, (got, want)) in got.iter().zip(&want).enumerate() {
                    let error = (f64::from(got.re) - want[0]).abs().max((f64::from(got.im) - want[1]).abs());
                    assert!(error < 1e-5, "{what} {shape:?} {held:?}, bin {bin}: {got} for {want:?}");
                }
            };
            let mut z = before.clone();
            runs().sums(&stored, 0.75, &x, &mut z, held, &mut Ahead::default());
            close(&z, "chosen");
            let mut z = before.clone();
            for run in runs() {
                match held {
                    Held::Nothing => run.sums_of::<false>(&stored, 0.75, &x, &mut z, false),
                    Held::Sum => run.sums_of::<true>(&stored, 0.75, &x, &mut z, false),
                }
            }
            close(&z, "one by one");
        }
    }

    #[test]
    fn sums_agree_with_plain_ones_in_f64() {
        for entries in 0..=13 {
            for targets in [1, 2, 3, 4, 31, 32, 33, 34, 97] {
                compare(&[(targets, entries)]);
            }
        }
        compare(&[(9, 0), (40, 1), (20, 2), (7, 3), (3, 9)]);
        // All bins are targets, of which few and many have no entries.
        compare(&[(9, 0), (50, 1), (38, 2)]);
        compare(&[(40, 0), (50, 1), (7, 3)]);
    }

    #[test]
    fn what_lies_outside_is_refused() {
        let runs = [Run { targets: 2, entries: 1 }];
        let (targets, sources) = (Below::new([3u16, 8].into()), Below::new([5u16, 1].into()));
        let done = |factors: usize, from: usize, to: usize| {
            let (stored, x, mut z) = (vec![0.0; factors], spectrum(from, 0), spectrum(to, 0));
            let runs = Runs::new(&runs, &targets, &sources);
            let work = || runs.sums(&stored, 1.0, &x, &mut z, Held::Sum, &mut Ahead::default());
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_ok()
        };
        assert!(done(2, 6, 9));
        assert!(!done(2, 5, 9) && !done(2, 6, 8) && !done(1, 6, 9));
    }
}
