//! Entries of a sparse spectrum, sorted into runs that a loop can go through without deciding anything.
//!
//! An entry takes one bin of a source, a factor of it, to one bin of a target. [`Runs`] go through them target by target, those
//! with equally many entries together. [`Runs::sums`] is the loop over one row, [`Runs::lane_sums`] that over a row in each lane.

/// An expression with a number of entries as a constant: itself up to seven, which makes a loop over them none, or 0 for any number.
macro_rules! with_entries {
    ($number:expr, |$entries:ident| $body:expr) => {
        match $number {
            1 => with_entries!(1, $entries, $body),
            2 => with_entries!(2, $entries, $body),
            3 => with_entries!(3, $entries, $body),
            4 => with_entries!(4, $entries, $body),
            5 => with_entries!(5, $entries, $body),
            6 => with_entries!(6, $entries, $body),
            7 => with_entries!(7, $entries, $body),
            _ => with_entries!(0, $entries, $body),
        }
    };
    ($constant:literal, $entries:ident, $body:expr) => {{
        const $entries: usize = $constant;
        $body
    }};
}

mod lanes;
mod row;
mod two;

use std::ops::{Deref, Range};

/// What is where sums go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Whatever it is, it is overwritten.
    Nothing,
    /// A sum, that others are added to.
    Sum,
}

/// A bin's index, two or four bytes wide.
///
/// # Safety
/// [`at`](Self::at) gives the same for the same value each time: [`Below`] looks once, and loops rely on what it saw.
pub unsafe trait Index: bytemuck::NoUninit {
    /// The index.
    fn at(self) -> usize;
}

// SAFETY: the number itself.
unsafe impl Index for u16 {
    #[inline(always)]
    fn at(self) -> usize {
        usize::from(self)
    }
}

// SAFETY: the number itself.
unsafe impl Index for u32 {
    #[inline(always)]
    fn at(self) -> usize {
        self as usize
    }
}

/// Where a bin is among those of a transform that has an order of its own.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::NoUninit)]
#[repr(C)]
pub struct Slot {
    at: u32,
    sign: f32,
}

impl Slot {
    /// The bin at `at`.
    pub fn of(at: u32) -> Self {
        Self { at, sign: 1.0 }
    }

    /// The conjugate of what is there.
    pub fn conjugate(self) -> Self {
        Self { sign: -self.sign, ..self }
    }

    /// Where it is.
    #[inline(always)]
    pub fn at(self) -> usize {
        self.at as usize
    }

    /// What its imaginary part is multiplied by, 1 or −1.
    #[inline(always)]
    pub fn sign(self) -> f32 {
        self.sign
    }
}

// SAFETY: the number itself.
unsafe impl Index for Slot {
    #[inline(always)]
    fn at(self) -> usize {
        Self::at(self)
    }
}

/// Indices that are all below a bound, known once so that it need not be checked at each use.
#[derive(Debug)]
pub struct Below<B> {
    indices: Box<[B]>,
    bound: usize,
}

impl<B: Index> Below<B> {
    /// The indices, and one more than the largest.
    pub fn new(indices: Box<[B]>) -> Self {
        let bound = indices.iter().map(|index| index.at() + 1).max().unwrap_or(0);
        Self { indices, bound }
    }
}

impl<B> Deref for Below<B> {
    type Target = [B];

    fn deref(&self) -> &[B] {
        &self.indices
    }
}

/// `targets` bins with `entries` entries each.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Bins.
    pub targets: usize,
    /// Entries of each, which may be none.
    pub entries: usize,
}

/// Goes through runs. An iterator, not a callback: the body of the loop over it is compiled with what runs it.
#[derive(Clone)]
pub struct Runs<'a, B> {
    runs: std::slice::Iter<'a, Run>,
    targets: &'a [B],
    sources: &'a [B],
    /// One more than the largest target, and source.
    bounds: [usize; 2],
    at: usize,
}

impl<'a, B> Runs<'a, B> {
    /// The `runs` of entries from `sources` to `targets`, one of these for each target of a run, of those one for each entry.
    pub fn new(runs: &'a [Run], targets: &'a Below<B>, sources: &'a Below<B>) -> Self {
        let bounds = [targets.bound, sources.bound];
        Self { runs: runs.iter(), targets, sources, bounds, at: 0 }
    }
}

impl<'a, B> Iterator for Runs<'a, B> {
    type Item = RunOf<'a, B>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let run = self.runs.next()?;
        let (targets, sources);
        (targets, self.targets) = self.targets.split_at(run.targets);
        (sources, self.sources) = self.sources.split_at(run.targets * run.entries);
        let start = self.at;
        self.at += sources.len();
        Some(RunOf { targets, sources, stored: start..self.at, entries: run.entries })
    }
}

/// Targets with equally many entries each.
pub struct RunOf<'a, B> {
    targets: &'a [B],
    sources: &'a [B],
    stored: Range<usize>,
    entries: usize,
}

impl<'a, B> RunOf<'a, B> {
    /// The bins that are added to.
    #[inline(always)]
    pub fn targets(&self) -> &'a [B] {
        self.targets
    }

    /// The bins of each target's entries; nothing if they have none.
    #[inline(always)]
    pub fn sources(&self) -> std::slice::ChunksExact<'a, B> {
        self.sources.chunks_exact(self.entries.max(1))
    }

    /// The factors of each target's entries, among those of all; nothing if they have none.
    #[inline(always)]
    pub fn factors<'f>(&self, all: &'f [f32]) -> std::slice::ChunksExact<'f, f32> {
        all[self.stored.clone()].chunks_exact(self.entries.max(1))
    }

    /// [`factors`](Self::factors), to be written.
    #[inline(always)]
    pub fn factors_mut<'f>(&self, all: &'f mut [f32]) -> std::slice::ChunksExactMut<'f, f32> {
        all[self.stored.clone()].chunks_exact_mut(self.entries.max(1))
    }

    /// Entries of each target.
    #[inline(always)]
    pub fn entries(&self) -> usize {
        self.entries
    }
}

/// What the tests of the loops share.
#[cfg(test)]
mod samples {
    use super::Run;

    /// Bins of a target.
    pub(super) const BINS: usize = 97;

    /// Numbers from −1 to 1.
    pub(super) fn noise(i: usize) -> f32 {
        ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0
    }

    /// Runs of these many targets and entries, the targets, each once, and sources below `bins`.
    pub(super) fn drawn(shape: &[(usize, usize)], bins: usize) -> (Vec<Run>, Vec<u16>, Vec<u16>) {
        let runs = shape.iter().map(|&(targets, entries)| Run { targets, entries }).collect();
        let targets: usize = shape.iter().map(|run| run.0).sum();
        let entries: usize = shape.iter().map(|(targets, entries)| targets * entries).sum();
        // 31 goes round all 97 bins.
        let targets = (0..targets).map(|t| (t * 31 % BINS) as u16).collect();
        (runs, targets, (0..entries).map(|e| (e * 7919 % bins) as u16).collect())
    }
}
