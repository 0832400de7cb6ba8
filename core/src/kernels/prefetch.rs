//! Asking for bytes before they are needed.

use std::sync::atomic::{AtomicUsize, Ordering};

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
fn ask(address: *const u8) {
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

    /// The first `len` bytes of it, or all.
    pub fn first(self, len: usize) -> Self {
        Self { len: self.len.min(len), ..self }
    }

    /// Its length in bytes.
    pub fn len(self) -> usize {
        self.len
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

/// Spans of one worker: its share of a group of products may end one matrix and begin others.
pub type Spans = [Span; 4];

/// Asks for a few lines of the first span that has any left; `false` if none has.
#[inline]
pub fn ask_some(spans: &mut Spans) -> bool {
    const LINES: usize = 4;
    let Some(span) = spans.iter_mut().find(|span| span.len > 0) else { return false };
    *span = span.ask(LINES);
    true
}

/// Spans that one thread leaves for another to fetch.
#[derive(Debug, Default)]
pub struct Shelf([(AtomicUsize, AtomicUsize); 4]);

impl Shelf {
    /// Leaves `spans` in place of what was there. What a reader makes of two at once is at worst a useless request.
    pub fn put(&self, spans: &Spans) {
        for ((address, len), span) in self.0.iter().zip(spans) {
            address.store(span.address, Ordering::Relaxed);
            len.store(span.len, Ordering::Relaxed);
        }
    }

    /// Takes what is there.
    pub fn take(&self) -> Spans {
        self.0.each_ref().map(|(address, len)| {
            let len = match len.load(Ordering::Relaxed) {
                0 => 0,
                _ => len.swap(0, Ordering::Relaxed),
            };
            Span { address: address.load(Ordering::Relaxed), len }
        })
    }
}
