//! What a transform of one row takes besides loops over lanes, for AVX-512.
//!
//! `M = 16·P` complex numbers z are P lines of 16, number `16·p + c` in line p, and their transform is
//!
//! ```text
//! Z[k + P·j] = Σ_c e^{−2πi·c·j/16} · e^{−2πi·c·k/M} · Σ_p e^{−2πi·p·k/P} · z[16·p + c]       k < P;  c, j < 16
//! ```
//!
//! The inner sums go through each lane by itself, as the transforms of 16 rows do. Here is the rest: `rows` is the way between a
//! row and lines, `sixteens` are the outer sums and their way back, and `halves` the step between Z and the half spectrum of
//! a real row, whose even elements are real and whose odd ones are imaginary parts of z.
//!
//! Number `4a + b` of a line is in lane `4b + a`, so that the first four-point transforms of a line need nothing from another 128-bit
//! part.

mod halves;
mod numbers;
mod rows;
mod sixteens;

use num_complex::Complex32;

use super::circle::circle;
use super::{LANES, LaneBin};
pub use sixteens::Factors;

/// Shows that the CPU has AVX-512F and DQ.
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

/// The fewest lines that there are steps for.
pub const FEWEST: usize = sixteens::LINES;

impl Avx512 {
    /// Nothing if it has not.
    pub fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq")).then_some(Self(()))
    }

    /// The numbers of `row`, by twos, to lines: the p-th 16 to line `places[p]`.
    ///
    /// # Panics
    /// If a place is none of a line.
    #[inline]
    pub fn take(self, row: &[f32], places: &[u32], lines: &mut [LaneBin]) {
        // SAFETY: the CPU has AVX-512F, or there were no `self`; so in all of them.
        unsafe { rows::take(row, places, lines) }
    }

    /// The way back, with real and imaginary parts exchanged.
    ///
    /// # Panics
    /// As [`take`](Self::take).
    #[inline]
    pub fn put(self, lines: &[LaneBin], places: &[u32], row: &mut [f32]) {
        // SAFETY: as in `take`.
        unsafe { rows::put(lines, places, row) }
    }

    /// The outer sums over P lines: real and imaginary parts of all Z in order.
    ///
    /// # Panics
    /// Unless there are at least [`FEWEST`] lines, their factors, and as many numbers of each part as lines have.
    #[inline]
    pub fn sixteens(self, lines: &[LaneBin], factors: &[Factors], parts: [&mut [f32]; 2]) {
        check(lines.len(), factors, [parts[0].len(), parts[1].len()]);
        // SAFETY: as in `take`; the lengths are as they should be.
        unsafe { sixteens::down(lines, factors, parts) }
    }

    /// The way back: numbers whose order is that of Z to lines, whose inner sums are then of z.
    ///
    /// # Panics
    /// As [`sixteens`](Self::sixteens).
    #[inline]
    pub fn sixteens_back(self, parts: [&[f32]; 2], factors: &[Factors], lines: &mut [LaneBin]) {
        check(lines.len(), factors, parts.map(<[f32]>::len));
        // SAFETY: as in `take`; the lengths are as they should be.
        unsafe { sixteens::up(parts, factors, lines) }
    }

    /// From Z to the half spectrum of the row, M + 1 bins, and to the conjugate of each where there is room for them. `turns` are
    /// those of P lines.
    ///
    /// # Panics
    /// Unless all have the lengths that belong together.
    #[inline]
    pub fn split(
        self,
        parts: [&[f32]; 2],
        turns: &[LaneBin],
        spectrum: &mut [Complex32],
        conjugate: Option<&mut [Complex32]>,
    ) {
        check_halves(parts.map(<[f32]>::len), turns, spectrum.len());
        assert!(conjugate.as_ref().is_none_or(|conjugate| conjugate.len() == spectrum.len()), "bins and conjugates");
        // SAFETY: as in `take`, AVX-512DQ likewise; the lengths are as they should be.
        unsafe { halves::split(parts, turns, spectrum, conjugate) }
    }

    /// From bins of a row's half spectrum, each of them but the first and the last counted with its mirror, to Z with real and
    /// imaginary parts exchanged. Imaginary parts of these two are ignored.
    ///
    /// # Panics
    /// As [`split`](Self::split).
    #[inline]
    pub fn join(self, spectrum: &[Complex32], turns: &[LaneBin], parts: [&mut [f32]; 2]) {
        check_halves([parts[0].len(), parts[1].len()], turns, spectrum.len());
        // SAFETY: as in `take`, AVX-512DQ likewise; the lengths are as they should be.
        unsafe { halves::join(spectrum, turns, parts) }
    }
}

/// `−i/2·e^{−πi·k/M}` for k from 0 on to M/2 at least, 16 together.
pub fn turns(lines: usize) -> Box<[LaneBin]> {
    let half = Complex32::new(0.0, -0.5);
    (0..lines.div_ceil(2)).map(|i| of_lanes(|lane| half * circle(LANES * i + lane, 2 * LANES * lines))).collect()
}

fn of_lanes(number: impl Fn(usize) -> Complex32) -> LaneBin {
    LaneBin::from_lanes(|lane| {
        let Complex32 { re, im } = number(lane);
        (re, im)
    })
}

fn check(lines: usize, factors: &[Factors], parts: [usize; 2]) {
    assert!(
        lines >= FEWEST && factors.len() == lines.div_ceil(FEWEST) && parts == [LANES * lines; 2],
        "factors of {lines} lines, or parts of {parts:?} numbers"
    );
}

fn check_halves(parts: [usize; 2], turns: &[LaneBin], bins: usize) {
    let m = bins.saturating_sub(1);
    assert!(
        m > 0 && m.is_multiple_of(LANES) && parts == [m; 2] && turns.len() == (m / LANES).div_ceil(2),
        "{bins} bins of parts of {parts:?} numbers"
    );
}
