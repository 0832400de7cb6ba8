//! One row and two changes with the same entries: each bin of the source is read once for both.
//!
//! k and v, or gate and up, read the same row, and their weights have one shape, so their entries are drawn at the same positions. Half the
//! loads are then of the other's; the four numbers of two targets of both fill an AVX register.

use num_complex::Complex32;

use super::{Held, Index, Runs};
use crate::kernels::prefetch::Ahead;

impl<B: Index> Runs<'_, B> {
    /// [`sums`](Self::sums) with two sets of factors, each with a scale and sums of its own.
    ///
    /// # Panics
    /// As [`sums`](Self::sums), of either.
    #[inline]
    pub fn two_sums(
        self,
        stored: [&[f32]; 2],
        scale: [f32; 2],
        x: &[Complex32],
        z: [&mut [Complex32]; 2],
        held: Held,
        ahead: &mut Ahead,
    ) {
        let [target, source] = self.bounds;
        assert!(z.iter().all(|z| target <= z.len()) && source <= x.len(), "bins of a spectrum");
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has both, and all bins are inside the spectra.
            return unsafe {
                match held {
                    Held::Nothing => wide::two_sums::<B, false>(self, stored, scale, x, z, ahead),
                    Held::Sum => wide::two_sums::<B, true>(self, stored, scale, x, z, ahead),
                }
            };
        }
        let ([first, second], [z1, z2]) = (stored, z);
        self.clone().sums(first, scale[0], x, z1, held, ahead);
        self.sums(second, scale[1], x, z2, held, ahead);
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::*;

    use super::super::RunOf;
    use super::super::row::TARGETS;
    use super::*;

    /// # Safety
    /// The CPU has AVX and FMA; targets are inside both `z` and sources inside `x`.
    #[target_feature(enable = "avx,fma")]
    pub(super) unsafe fn two_sums<B: Index, const ADD: bool>(
        runs: Runs<'_, B>,
        stored: [&[f32]; 2],
        scale: [f32; 2],
        x: &[Complex32],
        [z1, z2]: [&mut [Complex32]; 2],
        ahead: &mut Ahead,
    ) {
        let all = [&*z1, &*z2].map(|z| runs.targets.len() == z.len());
        for run in runs {
            assert!(stored.iter().all(|stored| run.stored.end <= stored.len()), "factors of a spectrum");
            if run.entries == 0 {
                run.empty::<ADD>(z1, all[0]);
                run.empty::<ADD>(z2, all[1]);
                continue;
            }
            // SAFETY: the caller's promise, and the factors are there.
            let first = unsafe {
                with_entries!(run.entries, |E| run.fours::<E, ADD>(stored, scale, x, [&mut *z1, &mut *z2], ahead))
            };
            run.ones::<0, ADD>(first, stored[0], scale[0], x, z1);
            run.ones::<0, ADD>(first, stored[1], scale[1], x, z2);
        }
    }

    impl<B: Index> RunOf<'_, B> {
        /// Two targets of both at a time, as [`twos`](Self::twos) of one.
        ///
        /// # Safety
        /// The CPU has AVX and FMA; targets are inside both `z` and sources inside `x`, and both `stored` hold the run's factors.
        #[inline]
        #[target_feature(enable = "avx,fma")]
        unsafe fn fours<const ENTRIES: usize, const ADD: bool>(
            &self,
            stored: [&[f32]; 2],
            scale: [f32; 2],
            x: &[Complex32],
            z: [&mut [Complex32]; 2],
            ahead: &mut Ahead,
        ) -> usize {
            let entries = if ENTRIES == 0 { self.entries } else { ENTRIES };
            let scale = _mm_setr_ps(scale[0], scale[0], scale[1], scale[1]);
            let scale = _mm256_set_m128(scale, scale);
            let x = x.as_ptr().cast::<f64>();
            let [z1, z2] = z.map(|z| z.as_mut_ptr().cast::<f64>());
            // Of the last two, the loads of factors end three after them.
            let loadable = (stored[0].len().min(stored[1].len()) - self.stored.start).saturating_sub(3) / entries;
            let whole = self.targets.len().min(loadable) / 2 * 2;
            let mut first = 0;
            while first < whole {
                ahead.ask(self.lines());
                let end = whole.min(first + TARGETS / 2);
                while first < end {
                    // SAFETY: there are two more targets and sources for each of their entries, inside the spectra as the caller promises.
                    // The last four factors begin at most three before the end.
                    unsafe {
                        let at = self.stored.start + first * entries;
                        let factors = [stored[0].as_ptr().add(at), stored[1].as_ptr().add(at)];
                        let from = self.sources.as_ptr().add(first * entries);
                        let bins = |e: usize| {
                            let (a, b) = (*from.add(e), *from.add(entries + e));
                            let (a, b) = (_mm256_broadcast_sd(&*x.add(a.at())), _mm256_broadcast_sd(&*x.add(b.at())));
                            _mm256_castpd_ps(_mm256_blend_pd::<0b1100>(a, b))
                        };
                        let mut sum = _mm256_setzero_ps();
                        let mut e = 0;
                        while e < entries {
                            let four =
                                |factors: *const f32| _mm256_loadu2_m128(factors.add(entries + e), factors.add(e));
                            let (a, b) = (four(factors[0]), four(factors[1]));
                            sum = _mm256_fmadd_ps(bins(e), _mm256_shuffle_ps::<0b00_00_00_00>(a, b), sum);
                            if e + 1 < entries {
                                sum = _mm256_fmadd_ps(bins(e + 1), _mm256_shuffle_ps::<0b01_01_01_01>(a, b), sum);
                            }
                            if e + 2 < entries {
                                sum = _mm256_fmadd_ps(bins(e + 2), _mm256_shuffle_ps::<0b10_10_10_10>(a, b), sum);
                            }
                            if e + 3 < entries {
                                sum = _mm256_fmadd_ps(bins(e + 3), _mm256_shuffle_ps::<0b11_11_11_11>(a, b), sum);
                            }
                            e += 4;
                        }
                        let [a, b] = [first, first + 1].map(|target| self.targets.get_unchecked(target).at());
                        let new = if ADD {
                            let old = |at| _mm_castpd_ps(_mm_loadh_pd(_mm_load_sd(z1.add(at)), z2.add(at)));
                            _mm256_fmadd_ps(sum, scale, _mm256_set_m128(old(b), old(a)))
                        } else {
                            _mm256_mul_ps(sum, scale)
                        };
                        let new = _mm256_castps_pd(new);
                        let (of_a, of_b) = (_mm256_castpd256_pd128(new), _mm256_extractf128_pd::<1>(new));
                        _mm_storel_pd(z1.add(a), of_a);
                        _mm_storeh_pd(z2.add(a), of_a);
                        _mm_storel_pd(z1.add(b), of_b);
                        _mm_storeh_pd(z2.add(b), of_b);
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

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| noise(seed + i)).collect()
    }

    fn spectrum(seed: usize) -> Vec<Complex32> {
        numbers(2 * BINS, seed).as_chunks().0.iter().map(|&[re, im]| Complex32::new(re, im)).collect()
    }

    /// Runs of these many targets and entries.
    fn compare(shape: &[(usize, usize)]) {
        let (runs, targets, sources) = drawn(shape, BINS);
        let of_all = sources.len();
        let (targets, sources) = (Below::new(targets.into()), Below::new(sources.into()));
        let runs = Runs::new(&runs, &targets, &sources);
        let (stored, x) = ([numbers(of_all, 5), numbers(of_all, 6000)], spectrum(1000));
        let before = [spectrum(2000), spectrum(3000)];
        for held in [Held::Sum, Held::Nothing] {
            let (mut want, mut got) = (before.clone(), before.clone());
            for (i, z) in want.iter_mut().enumerate() {
                runs.clone().sums(&stored[i], [0.75, -1.5][i], &x, z, held, &mut Ahead::default());
            }
            let z = got.each_mut().map(|z| &mut z[..]);
            runs.clone().two_sums(stored.each_ref().map(|s| &s[..]), [0.75, -1.5], &x, z, held, &mut Ahead::default());
            assert_eq!(got, want, "{shape:?} {held:?}");
        }
    }

    #[test]
    fn both_are_what_each_is_alone() {
        for entries in 0..=13 {
            for targets in [1, 2, 3, 4, 15, 16, 17, 18, 33, 97] {
                compare(&[(targets, entries)]);
            }
        }
        compare(&[(9, 0), (40, 1), (20, 2), (7, 3), (3, 9)]);
    }

    #[test]
    fn what_lies_outside_is_refused() {
        let runs = [Run { targets: 2, entries: 1 }];
        let (targets, sources) = (Below::new([3u16, 8].into()), Below::new([5u16, 1].into()));
        let done = |factors: [usize; 2], from: usize, to: [usize; 2]| {
            let (stored, x) = (factors.map(|count| vec![0.0; count]), vec![Complex32::default(); from]);
            let mut z = to.map(|count| vec![Complex32::default(); count]);
            let runs = Runs::new(&runs, &targets, &sources);
            let work = || {
                let (stored, z) = (stored.each_ref().map(|s| &s[..]), z.each_mut().map(|z| &mut z[..]));
                runs.two_sums(stored, [1.0; 2], &x, z, Held::Sum, &mut Ahead::default());
            };
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_ok()
        };
        assert!(done([2, 2], 6, [9, 9]));
        for (factors, from, to) in
            [([2, 2], 5, [9, 9]), ([2, 2], 6, [8, 9]), ([2, 2], 6, [9, 8]), ([1, 2], 6, [9, 9]), ([2, 1], 6, [9, 9])]
        {
            assert!(!done(factors, from, to), "{factors:?} {from} {to:?}");
        }
    }
}
