//! As many rows as a bin has lanes.
//!
//! Most of an entry's time would go into finding out where its bins are and that they exist, so that is known before the loop, and where
//! a target's number of entries is known there is no loop over them.

use super::{Held, RunOf, Runs, Slot};
use crate::kernels::vectors::MOST;
use crate::kernels::{LANES, LaneBin, Vector, Vectorised, vectorised};

impl Runs<'_, Slot> {
    /// `z[target] = scale · Σ factor · x[source]` in every lane, or that added to the sum that `z` holds; conjugates where the source
    /// says so.
    ///
    /// # Panics
    /// If a target or a source lies outside `z` or `x`, or there are not as many factors in `stored` as entries.
    #[inline]
    pub fn lane_sums(self, stored: &[f32], scale: f32, x: &[LaneBin], z: &mut [LaneBin], held: Held) {
        let [target, source] = self.bounds;
        assert!(target <= z.len() && source <= x.len(), "bins of spectra");
        match held {
            Held::Nothing => vectorised(Sums::<false> { runs: self, stored, scale, x, z }),
            Held::Sum => vectorised(Sums::<true> { runs: self, stored, scale, x, z }),
        }
    }
}

/// Targets and sources are inside the spectra. `ADD`: to what `z` holds.
struct Sums<'a, const ADD: bool> {
    runs: Runs<'a, Slot>,
    stored: &'a [f32],
    scale: f32,
    x: &'a [LaneBin],
    z: &'a mut [LaneBin],
}

impl<const ADD: bool> Vectorised for Sums<'_, ADD> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { runs, stored, scale, x, z } = self;
        let all = runs.targets.len() == z.len();
        for run in runs {
            let stored = &stored[run.stored.clone()];
            match run.entries {
                0 if ADD => {}
                // They come first, and most of all bins are written faster one after the other.
                0 if all && 2 * run.targets.len() > z.len() => z.fill(LaneBin::ZERO),
                0 => run.targets.iter().for_each(|target| z[target.at()] = LaneBin::ZERO),
                1 => run.lanes::<V, 1, ADD>(stored, scale, x, z),
                2 => run.lanes::<V, 2, ADD>(stored, scale, x, z),
                3 => run.lanes::<V, 3, ADD>(stored, scale, x, z),
                4 => run.lanes::<V, 4, ADD>(stored, scale, x, z),
                _ => run.lanes::<V, 0, ADD>(stored, scale, x, z),
            }
        }
    }
}

impl RunOf<'_, Slot> {
    /// `ENTRIES` of each target, or any number from 1 on if that is 0. The bins are known to be inside the spectra, and `stored` are the run's.
    #[inline(always)]
    fn lanes<V: Vector, const ENTRIES: usize, const ADD: bool>(
        &self,
        stored: &[f32],
        scale: f32,
        x: &[LaneBin],
        z: &mut [LaneBin],
    ) {
        let entries = if ENTRIES == 0 { self.entries } else { ENTRIES };
        let parts = LANES / V::WIDTH;
        let scale = V::splat(scale);
        let targets = self.targets.iter().zip(self.sources.chunks_exact(entries).zip(stored.chunks_exact(entries)));
        for (target, (sources, factors)) in targets {
            let (mut re, mut im) = ([V::splat(0.0); MOST], [V::splat(0.0); MOST]);
            for e in 0..entries {
                let source = sources[e];
                // SAFETY: sources are below their bound, for which there are bins.
                let x = unsafe { x.get_unchecked(source.at()) };
                let factor = V::splat(factors[e]);
                let turned = factor.mul(V::splat(source.sign));
                for p in 0..parts {
                    let (x_re, x_im) = (V::load(&x.re, p * V::WIDTH), V::load(&x.im, p * V::WIDTH));
                    re[p] = if e == 0 { x_re.mul(factor) } else { x_re.mul_add(factor, re[p]) };
                    im[p] = if e == 0 { x_im.mul(turned) } else { x_im.mul_add(turned, im[p]) };
                }
            }
            // SAFETY: as above, of targets.
            let z = unsafe { z.get_unchecked_mut(target.at()) };
            for p in 0..parts {
                let at = p * V::WIDTH;
                for (sum, z) in [(re[p], &mut z.re), (im[p], &mut z.im)] {
                    let new = if ADD { sum.mul_add(scale, V::load(z, at)) } else { sum.mul(scale) };
                    new.store(z, at);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{BINS, drawn, noise};
    use super::super::{Below, Run};
    use super::*;

    fn spectra(seed: usize) -> Vec<LaneBin> {
        (0..BINS).map(|i| LaneBin::from_lanes(|l| (noise(seed + 32 * i + l), noise(seed + 32 * i + 16 + l)))).collect()
    }

    /// Bins, and from [`BINS`] on their conjugates.
    fn slots(numbers: &[u16]) -> Below<Slot> {
        let slot = |number: &u16| match usize::from(*number) {
            bin if bin < BINS => Slot::of(bin as u32),
            number => Slot::of((number - BINS) as u32).conjugate(),
        };
        Below::new(numbers.iter().map(slot).collect())
    }

    /// Runs of these many targets and entries.
    fn compare(shape: &[(usize, usize)]) {
        let (runs, targets, sources) = drawn(shape, 2 * BINS);
        let stored: Vec<f32> = (0..sources.len()).map(|e| noise(e + 5)).collect();
        let (x, before) = (spectra(1000), spectra(9000));
        let (to, from) = (slots(&targets), slots(&sources));
        for held in [Held::Sum, Held::Nothing] {
            let mut z = before.clone();
            Runs::new(&runs, &to, &from).lane_sums(&stored, 0.75, &x, &mut z, held);
            for lane in 0..LANES {
                let mut want: Vec<[f64; 2]> = before.iter().map(|z| [z.re[lane].into(), z.im[lane].into()]).collect();
                let (mut target, mut entry) = (0, 0);
                for &(count, entries) in shape {
                    for _ in 0..count {
                        let z = &mut want[to[target].at()];
                        if held == Held::Nothing {
                            *z = [0.0; 2];
                        }
                        for _ in 0..entries {
                            let (slot, c) = (from[entry], 0.75 * f64::from(stored[entry]));
                            z[0] += c * f64::from(x[slot.at()].re[lane]);
                            z[1] += c * f64::from(x[slot.at()].im[lane] * slot.sign());
                            entry += 1;
                        }
                        target += 1;
                    }
                }
                for (bin, (got, want)) in z.iter().zip(&want).enumerate() {
                    let error =
                        (f64::from(got.re[lane]) - want[0]).abs().max((f64::from(got.im[lane]) - want[1]).abs());
                    assert!(error < 1e-5, "{shape:?} {held:?}, bin {bin}, lane {lane}: {want:?}");
                }
            }
        }
    }

    #[test]
    fn sums_agree_with_plain_ones_in_f64() {
        for entries in 0..=7 {
            for targets in [1, 2, 48, 49, 97] {
                compare(&[(targets, entries)]);
            }
        }
        compare(&[(60, 0), (20, 1), (9, 2), (5, 3), (3, 9)]);
    }

    #[test]
    fn what_lies_outside_is_refused() {
        let runs = [Run { targets: 2, entries: 1 }];
        let (targets, sources, x) = (slots(&[3, 8]), slots(&[5, 1]), spectra(0));
        let done = |factors: usize, sources_of: usize, targets_of: usize| {
            let (stored, mut z) = (vec![0.0; factors], spectra(0));
            let runs = Runs::new(&runs, &targets, &sources);
            let work = || runs.lane_sums(&stored, 1.0, &x[..sources_of], &mut z[..targets_of], Held::Sum);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_ok()
        };
        assert!(done(2, BINS, BINS) && done(2, 6, 9));
        assert!(!done(1, BINS, BINS) && !done(2, 5, BINS) && !done(2, BINS, 8));
    }
}
