//! What the next job will read, for workers that have nothing to do before it begins.

use std::ops::Range;

/// Bytes that a prefetch brings in.
pub const LINE: usize = 64;
/// Bytes of its share that a worker brings in: part of a second-level cache.
const LIMIT: usize = 256 << 10;

/// Stretches of memory that the next job reads from the first to the last, each thread its share of them. Only addresses: what
/// is done with them may be of no use, never wrong.
#[derive(Debug, Clone, Copy)]
pub struct Ahead {
    parts: [(usize, usize); Self::PARTS],
}

impl Ahead {
    /// Stretches taken into account.
    pub const PARTS: usize = 3;
    /// Nothing is known.
    pub const NOTHING: Self = Self { parts: [(0, 0); Self::PARTS] };

    /// The job reads these; what comes after the first [`PARTS`](Self::PARTS) is ignored.
    pub fn of<'a>(stretches: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut ahead = Self::NOTHING;
        for (part, bytes) in ahead.parts.iter_mut().zip(stretches) {
            *part = (bytes.as_ptr().addr(), bytes.len());
        }
        ahead
    }

    /// The first cache lines of a worker's share, by number.
    pub fn share(self, worker: usize, threads: usize) -> Range<usize> {
        let total: usize = self.parts.iter().map(|(_, len)| len).sum();
        let bound = |worker: usize| (worker as u128 * total as u128 / threads as u128) as usize;
        let (mut from, len) = (bound(worker), bound(worker + 1) - bound(worker));
        for (start, part) in self.parts {
            if from < part {
                let first = start + from;
                return first / LINE..(first + len.min(part - from).min(LIMIT)) / LINE;
            }
            from -= part;
        }
        0..0
    }
}

/// Asks for the cache line at `address`, which need not be mapped.
pub fn prefetch(address: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch does not fault and changes nothing but caches; SSE is in x86-64's baseline.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(std::ptr::without_provenance(address));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_the_beginnings_of_equal_parts() {
        let bytes = vec![0u8; 1 << 20];
        let line = |at: usize| (bytes.as_ptr().addr() + at) / LINE;
        let one = Ahead::of([&bytes[..]].into_iter());
        assert_eq!(one.share(0, 2), line(0)..line(LIMIT));
        assert_eq!(one.share(1, 2), line(1 << 19)..line((1 << 19) + LIMIT));
        assert_eq!(one.share(3, 16), line(3 << 16)..line(4 << 16));
        // Shares of several stretches: the second of four begins in the second stretch and does not go past it.
        let (a, b) = bytes.split_at(1 << 10);
        let two = Ahead::of([a, &b[..3 << 10]].into_iter());
        assert_eq!(two.share(0, 4), line(0)..line(1 << 10));
        assert_eq!(two.share(1, 4), line(1 << 10)..line(2 << 10));
        assert_eq!(two.share(0, 2), line(0)..line(1 << 10));
        assert!(Ahead::NOTHING.share(1, 2).is_empty());
        one.share(0, 2).for_each(|line| prefetch(line * LINE));
        prefetch(1);
    }
}
