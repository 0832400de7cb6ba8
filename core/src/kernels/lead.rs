//! How far ahead of themselves products of one row ask for weights.

use super::prefetch::Span;

/// Bytes ahead of what is multiplied, the same in every row that is multiplied meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) struct Lead {
    /// Of requests into the first-level cache.
    pub first: usize,
    /// Of earlier ones into the second-level cache, which can wait for more lines at a time; 0 for none.
    pub second: usize,
}

/// First-level data caches from this size on take requests from further ahead: Zen 5's, and Intel's since Ice Lake.
const LARGE: usize = 48 << 10;

impl Lead {
    /// For so many threads on this CPU. Measured on Zen 4 and on Zen 5, which the size of their first-level caches tells apart.
    pub fn new(threads: usize) -> Self {
        Self::with_cache(first_level_bytes(), threads)
    }

    /// The furthest that is asked for.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub fn furthest(self) -> usize {
        self.first.max(self.second)
    }

    /// For the last `bytes` bytes before `end`, no more than the [furthest](Self::furthest), so that they have been asked for: what is asked for
    /// during them begins with `then`, if there is anything, instead of what follows `end`.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub fn across(self, bytes: usize, end: *const u8, then: Span) -> Self {
        let ahead = bytes.wrapping_add(then.distance_from(end));
        match self.second {
            _ if then.len() == 0 => self,
            0 => Self { first: ahead, ..self },
            _ => Self { second: ahead, ..self },
        }
    }

    fn with_cache(first_level: usize, threads: usize) -> Self {
        if first_level >= LARGE {
            // Both caches wait for as many lines, and a second request only takes the place of another.
            return Self { first: 5120, second: 0 };
        }
        // What comes between the two is what memory needs to answer. Shares of several threads end more often.
        if threads == 1 { Self { first: 4352, second: 9472 } } else { Self { first: 2560, second: 7168 } }
    }
}

/// Bytes of this CPU's first-level data cache; 0 if it does not tell.
#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe)]
pub fn first_level_bytes() -> usize {
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    /// Descriptions of caches, one a subleaf: Intel's leaf, and AMD's.
    const LEAVES: [u32; 2] = [4, 0x8000_001d];
    const DATA: u32 = 1;

    let of_leaf = |leaf: u32| {
        // SAFETY: every x86-64 CPU has the instruction, and this leaf, which says how many there are.
        let last = unsafe { __cpuid(leaf & 0x8000_0000) }.eax;
        if last < leaf {
            return None;
        }
        // SAFETY: the CPU has the leaf.
        let caches = (0..8).map(|i| unsafe { __cpuid_count(leaf, i) });
        let first_level = caches.take_while(|c| c.eax & 31 != 0).find(|c| c.eax & 31 == DATA && c.eax >> 5 & 7 == 1)?;
        let field = |shift: u32, bits: u32| (first_level.ebx >> shift & ((1 << bits) - 1)) as usize + 1;
        let (line, partitions, ways) = (field(0, 12), field(12, 10), field(22, 10));
        Some(line * partitions * ways * (first_level.ecx as usize + 1))
    };
    LEAVES.into_iter().find_map(of_leaf).unwrap_or(0)
}

/// Elsewhere distances do not depend on it.
#[cfg(not(target_arch = "x86_64"))]
pub fn first_level_bytes() -> usize {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_first_level_caches_take_requests_from_further_ahead() {
        for threads in [1, 2] {
            let [large, small, unknown] = [48 << 10, 32 << 10, 0].map(|bytes| Lead::with_cache(bytes, threads));
            assert!(large.first > small.first);
            assert!(small.second > small.first);
            assert_eq!(unknown, small);
        }
        assert_ne!(Lead::with_cache(32 << 10, 1), Lead::with_cache(32 << 10, 2));
    }

    #[test]
    fn requests_go_across_to_what_comes_then() {
        let (weights, then) = ([0u8; 8000], [0u8; 100]);
        for lead in [Lead { first: 1000, second: 0 }, Lead { first: 100, second: 1000 }] {
            let (end, bytes) = (weights.as_ptr_range().end, 900);
            assert_eq!(lead.across(bytes, end, Span::default()), lead);
            let across = lead.across(bytes, end, Span::of(&then));
            let far = if lead.second > 0 { across.second } else { across.first };
            assert_eq!(end.addr().wrapping_sub(bytes).wrapping_add(far), then.as_ptr().addr());
            assert!(lead.second == 0 || across.first == lead.first);
        }
    }

    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    #[test]
    fn the_first_level_cache_is_as_large_as_the_system_says() {
        let Ok(said) = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index0/size") else { return };
        let said: usize = said.trim().trim_end_matches('K').parse().unwrap();
        assert_eq!(first_level_bytes(), said << 10);
    }
}
