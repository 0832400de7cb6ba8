//! The transforms of one row against the defining sums in f64.

use std::f64::consts::TAU;

use timbre::spectral::{Complex32, RealFft, Transforms};

/// Every algorithm: odd lengths, even ones, and those of vectors of 16, with every radix first and last, and lengths of models.
const LENGTHS: [usize; 41] = [
    1, 2, 3, 4, 5, 7, 16, 31, 97, 98, 192, 224, 225, 226, 256, 288, 320, 352, 384, 416, 448, 480, 512, 544, 576, 640,
    672, 768, 800, 864, 896, 960, 1024, 1120, 1152, 1536, 1568, 2048, 2592, 3584, 4096,
];

fn value(i: usize) -> f32 {
    ((i + 3) * 7919 % 2003) as f32 / 1000.0 - 1.0
}

/// `e^{−2πi·turn/len}`.
fn circle(turn: usize, len: usize) -> (f64, f64) {
    let (sin, cos) = (TAU * (turn % len) as f64 / len as f64).sin_cos();
    (cos, -sin)
}

/// Buffers hold something else before, so that what is not written shows.
fn scratch(fft: &RealFft) -> Vec<Complex32> {
    vec![Complex32::new(f32::NAN, f32::NAN); fft.scratch_len()]
}

#[test]
fn spectra_and_their_conjugates_are_the_defining_sum() {
    let transforms = Transforms::new();
    for len in LENGTHS {
        let fft = transforms.real(len);
        assert_eq!((fft.len(), fft.bins()), (len, len / 2 + 1));
        let row: Vec<f32> = (0..len).map(value).collect();
        let mut spectra = vec![Complex32::new(f32::NAN, f32::NAN); fft.bins_and_conjugates()];
        fft.with_conjugate(&row, &mut spectra, &mut scratch(&fft));
        let (spectrum, conjugate) = spectra.split_at(RealFft::conjugates(len));
        for (bin, (found, conjugate)) in spectrum.iter().zip(conjugate).enumerate() {
            let (mut re, mut im) = (0.0, 0.0);
            for (q, &x) in row.iter().enumerate() {
                let w = circle(q * bin, len);
                re += f64::from(x) * w.0;
                im += f64::from(x) * w.1;
            }
            let error = (f64::from(found.re) - re).hypot(f64::from(found.im) - im);
            assert!(error < 1e-6 * (len + 4) as f64, "length {len}, bin {bin}: {error:e}");
            assert_eq!(*conjugate, found.conj(), "length {len}, bin {bin}");
        }
        let mut alone = vec![Complex32::new(f32::NAN, f32::NAN); fft.bins()];
        fft.spectrum(&row, &mut alone, &mut scratch(&fft));
        assert_eq!(alone, spectrum[..fft.bins()], "length {len}");
    }
}

#[test]
fn the_way_back_is_the_defining_sum() {
    let transforms = Transforms::new();
    for len in LENGTHS {
        let fft = transforms.real(len);
        let folded: Vec<Complex32> =
            (0..fft.bins()).map(|bin| Complex32::new(value(2 * bin), value(2 * bin + 1))).collect();
        let mut row = vec![f32::NAN; len];
        fft.twice_real(&mut folded.clone(), &mut row, &mut scratch(&fft));
        for (p, found) in row.iter().enumerate() {
            let term = |(bin, z): (usize, &Complex32)| {
                let w = circle(p * bin, len);
                2.0 * (f64::from(z.re) * w.0 + f64::from(z.im) * w.1)
            };
            let expected: f64 = folded.iter().enumerate().map(term).sum();
            let error = (f64::from(*found) - expected).abs();
            assert!(error < 1e-6 * (len + 4) as f64, "length {len}, element {p}: {error:e}");
        }
    }
}

#[test]
#[should_panic(expected = "buffers of a real transform of length 576")]
fn a_row_of_another_length_is_refused() {
    let fft = Transforms::new().real(576);
    let mut spectrum = vec![Complex32::default(); fft.bins()];
    fft.spectrum(&[0.0; 575], &mut spectrum, &mut scratch(&fft));
}
