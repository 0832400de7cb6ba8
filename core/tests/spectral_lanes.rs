//! The transforms of many rows at once against the defining sums in f64.

use std::f64::consts::TAU;

use timbre::spectral::transform::Held;
use timbre::spectral::{LANES, LaneBin, LaneFft};

/// Every radix, first and last, alone and together, and lengths of models.
const LENGTHS: [usize; 29] = [
    2, 4, 6, 8, 10, 12, 14, 16, 18, 24, 30, 32, 42, 48, 64, 70, 72, 84, 96, 98, 128, 192, 210, 256, 576, 640, 1024,
    1536, 2048,
];

fn value(row: usize, i: usize) -> f32 {
    ((row + 1) * (i + 3) * 7919 % 2003) as f32 / 1000.0 - 1.0
}

#[test]
fn spectra_are_the_defining_sum() {
    for len in LENGTHS {
        let fft = LaneFft::new(len).unwrap();
        assert_eq!((fft.len(), fft.bins(), fft.slots().len()), (len, len / 2 + 1, len / 2 + 1));
        let rows: Vec<f32> = (0..LANES).flat_map(|row| (0..len).map(move |i| value(row, i))).collect();
        let mut spectra = vec![LaneBin::ZERO; fft.bins()];
        fft.spectra(&rows, &mut spectra);
        for (row, x) in rows.chunks(len).enumerate() {
            for (bin, &slot) in fft.slots().iter().enumerate() {
                let (mut re, mut im) = (0.0, 0.0);
                for (q, &x) in x.iter().enumerate() {
                    let (sin, cos) = (TAU * (q * bin % len) as f64 / len as f64).sin_cos();
                    re += f64::from(x) * cos;
                    im -= f64::from(x) * sin;
                }
                let found = spectra[slot.at()].lane(row);
                let error = (f64::from(found.re) - re).hypot(f64::from(found.im) - im);
                assert!(error < 1e-6 * len as f64, "length {len}, row {row}, bin {bin}: {error:e}");
            }
        }
    }
}

#[test]
fn the_way_back_is_the_defining_sum_in_any_order() {
    for len in LENGTHS {
        let fft = LaneFft::new(len).unwrap();
        let folded: Vec<LaneBin> = (0..fft.bins())
            .map(|bin| LaneBin::from_lanes(|lane| (value(lane, 2 * bin), value(lane, 2 * bin + 1))))
            .collect();
        let mut bins = vec![LaneBin::ZERO; fft.bins()];
        fft.slots().iter().zip(&folded).for_each(|(&slot, bin)| bins[slot.at()] = *bin);
        let order: Vec<u32> = (0..len as u32).rev().collect();
        let (mut rows, mut sums) = (vec![f32::NAN; (LANES - 3) * len], vec![0.5; (LANES - 3) * len]);
        fft.twice_real(&mut bins.clone(), &mut rows, Held::Nothing, Some(&order));
        fft.twice_real(&mut bins, &mut sums, Held::Sum, Some(&order));
        for (row, (y, sums)) in rows.chunks(len).zip(sums.chunks(len)).enumerate() {
            for (i, (&found, &sum)) in y.iter().zip(sums).enumerate() {
                let p = len - 1 - i;
                let mut expected = 0.0;
                for (bin, z) in folded.iter().enumerate() {
                    let (sin, cos) = (TAU * (p * bin % len) as f64 / len as f64).sin_cos();
                    let z = z.lane(row);
                    expected += 2.0 * (f64::from(z.re) * cos - f64::from(z.im) * sin);
                }
                let error = (f64::from(found) - expected).abs();
                assert!(error < 1e-6 * (len + 4) as f64, "length {len}, row {row}, element {p}: {error:e}");
                assert_eq!(sum, 0.5 + found, "length {len}, row {row}, element {p}");
            }
        }
    }
}

#[test]
fn other_lengths_have_none() {
    for len in [0, 1, 3, 22, 26, 577, 2 * 121, 4864] {
        assert!(LaneFft::new(len).is_none(), "{len}");
    }
}
