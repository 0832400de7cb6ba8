//! Entries in the order in which bins add them up.

use super::split::Split;

/// Set in a term's entry number if it is the mirror image's half, and in an input bin if it is to be conjugated.
const MARK: u32 = 1 << 31;

/// Every entry twice, at its frequency along the split axis and at the frequency's mirror, sorted by bin of a part.
///
/// With the entry's frequency `f` along the axis, its bins are `f mod N` and `−f mod N`: together they are the spectrum
/// of the real part.
#[derive(Debug)]
pub(super) struct Terms {
    /// `N + 1` offsets.
    pub bins: Vec<u32>,
    /// Entry, frequency along, the other number, nothing.
    pub terms: Vec<[u32; 4]>,
}

impl Terms {
    /// Entries with frequency `along[l]` on the split axis; `other[l]` is handed to the shader as it is.
    ///
    /// A direct sum has each entry once, in its own order.
    pub fn new(split: &Split, along: &[u32], other: &[u32]) -> Self {
        let entries = || (0u32..).zip(along).zip(other).map(|((l, &f), &o)| [l, f, o, 0]);
        if split.direct {
            return Self { bins: vec![0], terms: entries().collect() };
        }
        let n = split.n as u32;
        let images = entries().map(|[l, f, o, z]| [l | MARK, f, o, z]);
        let bin = |term: &[u32; 4]| if term[0] & MARK == 0 { term[1] % n } else { (n - term[1] % n) % n };
        let mut terms: Vec<_> = entries().chain(images).collect();
        // By number within a bin, whatever the sort does with equals.
        terms.sort_by_key(|term| (bin(term), term[0]));
        let mut bins = vec![0; split.n + 1];
        terms.iter().for_each(|term| bins[bin(term) as usize + 1] += 1);
        for i in 1..bins.len() {
            bins[i] += bins[i - 1];
        }
        Self { bins, terms }
    }
}

/// The bin of a frequency in the half spectrum of `len` values, marked if it is the mirror's.
pub(super) fn half_bin(frequency: u32, len: usize) -> u32 {
    if frequency as usize > len / 2 { (len as u32 - frequency) | MARK } else { frequency }
}
