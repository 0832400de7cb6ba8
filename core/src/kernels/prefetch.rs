//! Asking for bytes before they are needed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for the lines of `bytes` to be brought into the second-level cache; where the CPU or the compiler has no such request,
/// nothing.
#[inline]
pub fn prefetch(bytes: &[u8]) {
    // The last line may begin inside them.
    for at in (0..bytes.len()).step_by(LINE).chain(bytes.len().checked_sub(1)) {
        ask(bytes.as_ptr().wrapping_add(at));
    }
}

/// Asks for the line of an address, which need not be one.
#[inline]
pub fn ask(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing, wherever the address is, and every CPU of the architecture has it.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{address}]", address = in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

/// Asks for the lines of the `bytes` bytes from `start` on, which need not be there, to be brought into the first-level cache for
/// writing: until no other core has a line, a store to it waits, and those behind it.
#[inline]
pub fn ask_to_write(start: *const u8, bytes: usize) {
    for address in (0..bytes).step_by(LINE).map(|at| start.wrapping_add(at)) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads and writes nothing, wherever the address is; a CPU without this one takes it for none.
        unsafe {
            std::arch::asm!("prefetchw [{address}]", address = in(reg) address, options(nostack, preserves_flags, readonly));
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        unsafe {
            std::arch::asm!("prfm pstl1keep, [{address}]", address = in(reg) address, options(nostack, preserves_flags, readonly));
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = address;
    }
}

/// Bytes that will be needed, by their addresses alone: whether they are still there does not matter to a request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    address: usize,
    len: usize,
}

impl Span {
    /// The span of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self { address: bytes.as_ptr().addr(), len: bytes.len() }
    }

    /// The bytes of a value itself.
    pub fn of_value<T>(value: &T) -> Self {
        Self::at(std::ptr::from_ref(value).cast(), size_of::<T>())
    }

    /// `len` bytes from `start` on, which need not be there.
    pub fn at(start: *const u8, len: usize) -> Self {
        Self { address: start.addr(), len }
    }

    /// Asks for all of it.
    pub fn ask_all(self) {
        self.ask(usize::MAX / LINE);
    }

    /// The first `len` bytes of it, or all.
    pub fn first(self, len: usize) -> Self {
        Self { len: self.len.min(len), ..self }
    }

    /// Its length in bytes.
    pub fn len(self) -> usize {
        self.len
    }

    /// Bytes from `address` on to where it begins, modulo the size of the address space.
    pub fn distance_from(self, address: *const u8) -> usize {
        self.address.wrapping_sub(address.addr())
    }

    /// Whether it is part of `bytes`.
    #[cfg(test)]
    pub fn within(self, bytes: &[u8]) -> bool {
        let start = self.address.wrapping_sub(bytes.as_ptr().addr());
        self.len == 0 || (start < bytes.len() && self.len <= bytes.len() - start)
    }

    /// Asks for the first `lines` lines, and is what is left.
    fn ask(self, lines: usize) -> Self {
        let len = self.len.min(lines * LINE);
        for at in (0..len).step_by(LINE) {
            ask(std::ptr::without_provenance(self.address.wrapping_add(at)));
        }
        Self { address: self.address.wrapping_add(len), len: self.len - len }
    }
}

/// What will be read soon, to be asked for some lines at a time among other work: a thread that asks for many at once waits for
/// most of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ahead {
    /// Those from `next` to `end`, each from a line's beginning on, are left.
    spans: [Span; Ahead::SPANS],
    next: usize,
    end: usize,
    /// Two streams that come after them.
    streams: [Span; 2],
}

impl Ahead {
    const SPANS: usize = 6;

    /// Adds `bytes` to it; nothing if there are too many already.
    pub fn add(&mut self, bytes: &[u8]) {
        if self.next == self.end {
            (self.next, self.end) = (0, 0);
        }
        if let Some(free) = self.spans.get_mut(self.end)
            && !bytes.is_empty()
        {
            let Span { address, len } = Span::of(bytes);
            let skipped = address % LINE;
            *free = Span { address: address - skipped, len: len + skipped };
            self.end += 1;
        }
    }

    /// Nothing yet but two streams that come after all that is added.
    pub fn before(streams: [Span; 2]) -> Self {
        Self { streams, ..Self::default() }
    }

    /// Asks for the next `lines` lines of it, one more if they are an odd number of both streams'.
    pub fn ask(&mut self, mut lines: usize) {
        while lines > 0 && self.next < self.end {
            let span = &mut self.spans[self.next];
            let now = lines.min(span.len.div_ceil(LINE));
            *span = span.ask(now);
            lines -= now;
            self.next += usize::from(span.len == 0);
        }
        if lines > 0 {
            self.streams = self.streams.map(|span| span.ask(lines.div_ceil(2)));
        }
    }
}

/// Spans of one worker, two streams of each matrix: its share of a group of products may end one matrix and begin others.
pub type Spans = [[Span; 2]; 3];

/// Asks for a few lines of both streams that come first; `false` if there are none left.
#[inline]
pub fn ask_some(spans: &mut Spans) -> bool {
    const LINES: usize = 8;
    let Some(streams) = spans.iter_mut().find(|streams| streams.iter().any(|span| span.len > 0)) else { return false };
    *streams = streams.map(|span| span.ask(LINES));
    true
}

/// Spans that one thread leaves for another to fetch.
#[derive(Debug, Default)]
pub struct Shelf {
    full: AtomicBool,
    spans: [[(AtomicUsize, AtomicUsize); 2]; 3],
}

impl Shelf {
    /// Leaves `spans` in place of what was there. What a reader makes of two at once is at worst a useless request.
    pub fn put(&self, spans: &Spans) {
        for ((address, len), span) in self.spans.as_flattened().iter().zip(spans.as_flattened()) {
            address.store(span.address, Ordering::Relaxed);
            len.store(span.len, Ordering::Relaxed);
        }
        self.full.store(true, Ordering::Release);
    }

    /// Takes what is there, if anything is.
    pub fn take(&self) -> Option<Spans> {
        if !self.full.load(Ordering::Acquire) {
            return None;
        }
        self.full.store(false, Ordering::Relaxed);
        let read = |(address, len): &(AtomicUsize, AtomicUsize)| Span {
            address: address.load(Ordering::Relaxed),
            len: len.load(Ordering::Relaxed),
        };
        Some(self.spans.each_ref().map(|streams| streams.each_ref().map(read)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_taken_once_and_asked_for_to_its_end() {
        let bytes = [0u8; 3000];
        let shelf = Shelf::default();
        assert!(shelf.take().is_none());
        let mut left = Spans::default();
        left[..2].copy_from_slice(&[
            [Span::of(&bytes), Span::of(&bytes[..65])],
            [Span::default(), Span::of(&bytes).first(1)],
        ]);
        shelf.put(&left);
        let mut spans = shelf.take().unwrap();
        assert!(shelf.take().is_none());
        assert_eq!(spans.as_flattened().iter().map(|span| span.len()).sum::<usize>(), 3000 + 65 + 1);
        let mut times = 0;
        while ask_some(&mut spans) {
            assert!(spans.as_flattened().iter().all(|span| span.within(&bytes)));
            times += 1;
        }
        // Eight lines of each stream at a time, matrix after matrix.
        assert_eq!(times, 3000_usize.div_ceil(8 * LINE) + 1);
    }

    #[test]
    fn lines_ahead_are_asked_for_once() {
        let bytes = [0u8; 1000];
        let left = |ahead: &Ahead| {
            ahead.spans[ahead.next..ahead.end].iter().map(|span| span.len.div_ceil(LINE)).sum::<usize>()
        };
        let line = |at: usize| (bytes.as_ptr().addr() + at) / LINE;
        let mut ahead = Ahead::default();
        for _ in 0..3 {
            ahead.ask(3);
            ahead.add(&bytes[..0]);
            ahead.add(&bytes[1..]);
            ahead.add(&bytes[..1]);
            let lines = line(999) - line(1) + 2;
            for asked in 0..lines {
                assert_eq!(left(&ahead), lines - asked);
                ahead.ask(1);
            }
            assert_eq!(left(&ahead), 0);
        }
        // More than there is room for is left out.
        (0..10).for_each(|_| ahead.add(&bytes));
        assert_eq!(left(&ahead), Ahead::SPANS * (line(999) - line(0) + 1));
        let mut ahead = Ahead::before([Span::of(&bytes), Span::of(&bytes).first(100)]);
        ahead.add(&bytes);
        ahead.ask(left(&ahead));
        assert_eq!((left(&ahead), ahead.streams[0].len(), ahead.streams[1].len()), (0, 1000, 100));
        ahead.ask(3);
        assert_eq!((ahead.streams[0].len(), ahead.streams[1].len()), (1000 - 2 * LINE, 0));
        ahead.ask(1000);
        assert!(ahead.streams.iter().all(|span| span.len() == 0 && span.within(&bytes)));
    }
}
