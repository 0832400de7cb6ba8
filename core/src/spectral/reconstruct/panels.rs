//! Any number of entries: a pruned row–column transform on half of everything.
//!
//! A real signal's frequencies above the half fold onto their mirror, so `ΔW` has at most `d1/2 + 1` different rows of
//! frequencies, of which only those that hold an entry are transformed (pass 1, along a row), and
//! `ΔW[p, q] = ΔW[−p, −q]`, so only columns `q ≤ d2/2` are (pass 2, down a column).
//!
//! Both passes live in the output itself: after pass 1 the row of frequency `b` holds bin `q`'s real part at column `q`
//! and its imaginary part at column `d2 − q`, which are the two columns that pass 2 turns bin `q` into. What is
//! transformed is set aside for a panel of columns at a time, which is all the memory there is beside the output.

use num_complex::Complex32;

use super::for_each_part;
use crate::spectral::plan::fold;
use crate::spectral::{Entries, RealFft, Transforms};

/// Columns gathered together in pass 2, at most: a cache line of f32.
const BLOCK: usize = 16;

/// Panels of pass 2 hold together at most this part of the output.
const PANEL_SHARE: usize = 32;

/// Columns for each thread, so that the blocks they gather stay as small a part of the output.
const THREAD_COLUMNS: usize = 512;

/// Writes `ΔW` to `out`, for one coefficient per entry and `d1·d2` values.
pub(super) fn write(
    entries: &Entries,
    coefficients: &[f32],
    alpha: f64,
    transforms: &Transforms,
    threads: usize,
    out: &mut [f32],
) {
    let (d1, d2) = (entries.shape().rows(), entries.shape().cols());
    let (down, across) = (transforms.real(d1), transforms.real(d2));
    let threads = threads.min(d2 / THREAD_COLUMNS).max(1);
    out.fill(0.0);
    let used = fold_entries(entries, coefficients, alpha, out);
    rows_pass(&across, &used, threads, out);
    columns_pass(&down, d2, threads, out);
}

/// Adds every entry, scaled, to its folded row of frequencies; returns which of the `d1/2 + 1` rows hold any.
fn fold_entries(entries: &Entries, coefficients: &[f32], alpha: f64, out: &mut [f32]) -> Vec<bool> {
    let (d1, d2) = (entries.shape().rows(), entries.shape().cols());
    // The half undoes the two of `twice_real`.
    let scale = (alpha / (2.0 * entries.shape().area() as f64)) as f32;
    let mut used = vec![false; d1 / 2 + 1];
    for ((&j, &k), &c) in entries.rows().iter().zip(entries.cols()).zip(coefficients) {
        // Only the real part is wanted, so `(j, k)` and `(−j, −k)` are the same entry.
        let (row, mirrored) = fold(j, d1 as u32);
        let col = if mirrored && k > 0 { d2 - k as usize } else { k as usize };
        out[row as usize * d2 + col] += c * scale;
        used[row as usize] = true;
    }
    used
}

/// Pass 1: every used row of frequencies from its entries to its half spectrum, in place.
fn rows_pass(fft: &RealFft, used: &[bool], threads: usize, out: &mut [f32]) {
    let d2 = fft.len();
    let share = used.len().div_ceil(threads);
    std::thread::scope(|scope| {
        let parts = out[..used.len() * d2].chunks_mut(share * d2).zip(used.chunks(share));
        for_each_part(scope, threads, parts, |(rows, used)| {
            let mut spectrum = vec![Complex32::default(); fft.bins()];
            let mut scratch = vec![Complex32::default(); fft.scratch_len()];
            for (row, _) in rows.chunks_exact_mut(d2).zip(used).filter(|(_, used)| **used) {
                fft.spectrum(row, &mut spectrum, &mut scratch);
                for (q, bin) in spectrum.iter().enumerate() {
                    // The sign makes it the transform with `+` in the exponent. A bin that is its own
                    // mirror is real, and the column is written once.
                    if q > 0 {
                        row[d2 - q] = -bin.im;
                    }
                    row[q] = bin.re;
                }
            }
        });
    });
}

/// Pass 2: columns `q` and `d2 − q` from the half spectra that pass 1 left in them.
fn columns_pass(fft: &RealFft, d2: usize, threads: usize, out: &mut [f32]) {
    let d1 = fft.len();
    let bins = d2 / 2 + 1;
    let width = (d2 / PANEL_SHARE / threads).clamp(1, bins);
    let mut panels: Vec<Vec<f32>> = (0..threads).map(|_| vec![0.0; width * d1]).collect();
    let rows_each = d1.div_ceil(threads);
    for first in (0..bins).step_by(width * threads) {
        let done = &*out;
        std::thread::scope(|scope| {
            let starts = (first..bins).step_by(width);
            for_each_part(scope, threads, panels.iter_mut().zip(starts), |(panel, start)| {
                transform_columns(fft, d2, start..(start + width).min(bins), done, panel);
            });
        });
        let panels = &panels;
        std::thread::scope(|scope| {
            let parts = out.chunks_mut(rows_each * d2).zip((0..d1).step_by(rows_each));
            for_each_part(scope, threads, parts, |(rows, top)| {
                let starts = (first..bins).step_by(width);
                for (panel, start) in panels.iter().zip(starts) {
                    write_columns(d1, d2, start..(start + width).min(bins), panel, top, rows);
                }
            });
        });
    }
}

/// Columns `range` of the result into `panel`, one after the other.
fn transform_columns(fft: &RealFft, d2: usize, range: std::ops::Range<usize>, from: &[f32], panel: &mut [f32]) {
    let d1 = fft.len();
    let width = BLOCK.min(range.len());
    let mut spectra = vec![Complex32::default(); width * fft.bins()];
    let mut scratch = vec![Complex32::default(); fft.scratch_len()];
    let mut columns = panel.chunks_exact_mut(d1);
    for start in range.clone().step_by(width.max(1)) {
        let block = start..(start + width).min(range.end);
        for (b, row) in from.chunks_exact(d2).take(fft.bins()).enumerate() {
            for (i, q) in block.clone().enumerate() {
                let own_mirror = q == 0 || 2 * q == d2;
                let im = if own_mirror { 0.0 } else { row[d2 - q] };
                spectra[i * fft.bins() + b] = Complex32::new(row[q], im);
            }
        }
        for (column, spectrum) in (&mut columns).zip(spectra.chunks_exact_mut(fft.bins())).take(block.len()) {
            fft.twice_real(spectrum, column, &mut scratch);
        }
    }
}

/// The rows from `top` of columns `range`, and of their mirrors, out of `panel`.
fn write_columns(d1: usize, d2: usize, range: std::ops::Range<usize>, panel: &[f32], top: usize, rows: &mut [f32]) {
    for (p, row) in (top..).zip(rows.chunks_exact_mut(d2)) {
        let mirrored = if p == 0 { 0 } else { d1 - p };
        for (column, q) in panel.chunks_exact(d1).zip(range.clone()) {
            row[q] = column[p];
            if q > 0 {
                // For the column that is its own mirror this writes the same value again, but for rounding.
                row[d2 - q] = column[mirrored];
            }
        }
    }
}
