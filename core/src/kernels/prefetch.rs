//! Asking for bytes before they are needed.

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for the lines of `bytes` to be brought into the second-level cache; where the CPU or the compiler has no such request,
/// nothing.
#[inline]
pub fn prefetch(bytes: &[u8]) {
    // The last line may begin inside them.
    for at in (0..bytes.len()).step_by(LINE).chain(bytes.len().checked_sub(1)) {
        let line = bytes.as_ptr().wrapping_add(at);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing, wherever the address is, and every CPU of the architecture has it.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(line.cast());
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        unsafe {
            std::arch::asm!("prfm pldl2keep, [{line}]", line = in(reg) line, options(nostack, preserves_flags, readonly));
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = line;
    }
}
