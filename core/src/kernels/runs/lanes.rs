//! As many rows as a bin has lanes.
//!
//! Most of an entry's time would go into finding out where its bins are and that they exist, so that is known before the loop, and where
//! a target's number of entries is known there is no loop over them.

use super::{Below, Held, Index, RunOf, Runs, Slot};
use crate::kernels::{LANES, LaneBin, Vector, Vectorised, vectorised};

/// Vectors of the narrowest kind in a bin's real parts.
const MOST: usize = LANES / 4;

/// Bins and where they are.
pub struct Placed<'a, X> {
    /// The bins.
    pub bins: X,
    /// Their places.
    pub slots: &'a Below<Slot>,
}

impl<B: Index> Runs<'_, B> {
    /// `z[target] = scale · Σ factor · x[source]` in every lane, or that added to the sum that `z` holds; conjugates where the source's slot
    /// says so.
    ///
    /// # Panics
    /// If a slot lies outside `x` or `z`, there is none for a source or a target, or there are not as many factors in `stored` as entries.
    #[inline]
    pub fn lane_sums(
        self,
        stored: &[f32],
        scale: f32,
        x: Placed<'_, &[LaneBin]>,
        z: Placed<'_, &mut [LaneBin]>,
        held: Held,
    ) {
        let [target, source] = self.bounds;
        assert!(target <= z.slots.len() && source <= x.slots.len(), "slots of spectra");
        assert!(z.slots.bound <= z.bins.len() && x.slots.bound <= x.bins.len(), "bins of spectra");
        match held {
            Held::Nothing => vectorised(Sums::<B, false> { runs: self, stored, scale, x, z }),
            Held::Sum => vectorised(Sums::<B, true> { runs: self, stored, scale, x, z }),
        }
    }
}

/// The slots that targets and sources name are inside the spectra. `ADD`: to what `z` holds.
struct Sums<'a, B, const ADD: bool> {
    runs: Runs<'a, B>,
    stored: &'a [f32],
    scale: f32,
    x: Placed<'a, &'a [LaneBin]>,
    z: Placed<'a, &'a mut [LaneBin]>,
}

impl<B: Index, const ADD: bool> Vectorised for Sums<'_, B, ADD> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { runs, stored, scale, x, mut z } = self;
        let all = runs.targets.len() == z.bins.len();
        for run in runs {
            let stored = &stored[run.stored.clone()];
            match run.entries {
                0 if ADD => {}
                // They come first, and most of all bins are written faster one after the other.
                0 if all && 2 * run.targets.len() > z.bins.len() => z.bins.fill(LaneBin::ZERO),
                0 => run.targets.iter().for_each(|target| z.bins[z.slots[target.at()].at()] = LaneBin::ZERO),
                1 => run.lanes::<V, 1, ADD>(stored, scale, &x, &mut z),
                2 => run.lanes::<V, 2, ADD>(stored, scale, &x, &mut z),
                3 => run.lanes::<V, 3, ADD>(stored, scale, &x, &mut z),
                4 => run.lanes::<V, 4, ADD>(stored, scale, &x, &mut z),
                _ => run.lanes::<V, 0, ADD>(stored, scale, &x, &mut z),
            }
        }
    }
}

impl<B: Index> RunOf<'_, B> {
    /// `ENTRIES` of each target, or any number from 1 on if that is 0. The bins are known to be inside the spectra, and `stored` are the run's.
    #[inline(always)]
    fn lanes<V: Vector, const ENTRIES: usize, const ADD: bool>(
        &self,
        stored: &[f32],
        scale: f32,
        x: &Placed<'_, &[LaneBin]>,
        z: &mut Placed<'_, &mut [LaneBin]>,
    ) {
        let entries = if ENTRIES == 0 { self.entries } else { ENTRIES };
        let parts = LANES / V::WIDTH;
        let scale = V::splat(scale);
        let targets = self.targets.iter().zip(self.sources.chunks_exact(entries).zip(stored.chunks_exact(entries)));
        for (target, (sources, factors)) in targets {
            let (mut re, mut im) = ([V::splat(0.0); MOST], [V::splat(0.0); MOST]);
            for e in 0..entries {
                // SAFETY: sources are below their bound, for which there are slots, and slots below theirs, for which there are bins.
                let (slot, x) = unsafe {
                    let slot = x.slots.get_unchecked(sources[e].at());
                    (slot, x.bins.get_unchecked(slot.at()))
                };
                let factor = V::splat(factors[e]);
                let turned = factor.mul(V::splat(slot.sign));
                for p in 0..parts {
                    let (x_re, x_im) = (V::load(&x.re, p * V::WIDTH), V::load(&x.im, p * V::WIDTH));
                    re[p] = if e == 0 { x_re.mul(factor) } else { x_re.mul_add(factor, re[p]) };
                    im[p] = if e == 0 { x_im.mul(turned) } else { x_im.mul_add(turned, im[p]) };
                }
            }
            // SAFETY: as above.
            let z = unsafe { z.bins.get_unchecked_mut(z.slots.get_unchecked(target.at()).at()) };
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
    use super::super::Run;
    use super::super::samples::{BINS, drawn, noise};
    use super::*;

    fn spectra(seed: usize) -> Vec<LaneBin> {
        (0..BINS).map(|i| LaneBin::from_lanes(|l| (noise(seed + 32 * i + l), noise(seed + 32 * i + 16 + l)))).collect()
    }

    /// Of bins in another order, and of their conjugates.
    fn slots() -> Below<Slot> {
        let bins = || (0..BINS).map(|i| Slot::of((i * 5 % BINS) as u32));
        Below::new(bins().chain(bins().map(Slot::conjugate)).collect())
    }

    /// Runs of these many targets and entries.
    fn compare(shape: &[(usize, usize)]) {
        let (runs, targets, sources) = drawn(shape, 2 * BINS);
        let stored: Vec<f32> = (0..sources.len()).map(|e| noise(e + 5)).collect();
        let (x, before, slots) = (spectra(1000), spectra(9000), slots());
        let (to, from) = (Below::new(targets.as_slice().into()), Below::new(sources.as_slice().into()));
        for held in [Held::Sum, Held::Nothing] {
            let mut z = before.clone();
            let placed = Placed { bins: &mut z[..], slots: &slots };
            Runs::new(&runs, &to, &from).lane_sums(&stored, 0.75, Placed { bins: &x, slots: &slots }, placed, held);
            for lane in 0..LANES {
                let mut want: Vec<[f64; 2]> = before.iter().map(|z| [z.re[lane].into(), z.im[lane].into()]).collect();
                let (mut target, mut entry) = (0, 0);
                for &(count, entries) in shape {
                    for _ in 0..count {
                        let z = &mut want[slots[usize::from(targets[target])].at()];
                        if held == Held::Nothing {
                            *z = [0.0; 2];
                        }
                        for _ in 0..entries {
                            let (slot, c) = (slots[usize::from(sources[entry])], 0.75 * f64::from(stored[entry]));
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
        let (targets, sources) = (Below::new([3u16, 8].into()), Below::new([5u16, 1].into()));
        let (all, x) = (slots(), spectra(0));
        let few = || Below::new(all[..8].into());
        let done = |factors: usize, from: &Below<Slot>, to: &Below<Slot>, bins: usize| {
            let (stored, mut z) = (vec![0.0; factors], spectra(0));
            let (x, z) = (Placed { bins: &x[..], slots: from }, Placed { bins: &mut z[..bins], slots: to });
            let work = || Runs::new(&runs, &targets, &sources).lane_sums(&stored, 1.0, x, z, Held::Sum);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_ok()
        };
        assert!(done(2, &all, &all, BINS) && done(2, &few(), &all, BINS));
        assert!(!done(1, &all, &all, BINS) && !done(2, &all, &few(), BINS) && !done(2, &all, &all, BINS - 1));
    }
}
