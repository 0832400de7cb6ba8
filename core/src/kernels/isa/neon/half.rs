//! Half-precision numbers, to which the intrinsics are not stable, and the loads that bring pairs and single ones to registers.

use std::arch::aarch64::*;
use std::arch::asm;

/// The half-precision number at `p`.
///
/// # Safety
/// Its two bytes may be read.
#[inline]
#[target_feature(enable = "neon")]
pub unsafe fn f16(p: *const u8) -> f32 {
    let wide: f32;
    // SAFETY: the caller's promise; both instructions are part of every AArch64 CPU with NEON.
    unsafe {
        asm!(
            "ldr {wide:h}, [{p}]",
            "fcvt {wide:s}, {wide:h}",
            wide = out(vreg) wide,
            p = in(reg) p,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    wide
}

/// Four half-precision numbers.
#[inline]
#[target_feature(enable = "neon")]
pub fn widen(halves: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    // SAFETY: reads and writes the named registers only; every AArch64 CPU with NEON has the instruction.
    unsafe {
        asm!(
            "fcvtl {wide:v}.4s, {halves:v}.4h",
            wide = out(vreg) wide,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    wide
}

/// The four bytes at `p`, in the lowest lane. Assembly, because compilers go by way of another register, which takes a move.
///
/// # Safety
/// They may be read.
#[inline]
#[target_feature(enable = "neon")]
pub unsafe fn word(p: *const u8) -> uint32x2_t {
    let word: uint32x2_t;
    // SAFETY: the caller's promise; every AArch64 CPU with NEON has the instruction.
    unsafe {
        asm!("ldr {word:s}, [{p}]", word = out(vreg) word, p = in(reg) p, options(pure, readonly, nostack, preserves_flags));
    }
    word
}

/// The two bytes at `p` likewise.
///
/// # Safety
/// They may be read.
#[inline]
#[target_feature(enable = "neon")]
pub unsafe fn half_word(p: *const u8) -> uint16x4_t {
    let half_word: uint16x4_t;
    // SAFETY: as in `word`.
    unsafe {
        asm!("ldr {half:h}, [{p}]", half = out(vreg) half_word, p = in(reg) p, options(pure, readonly, nostack, preserves_flags));
    }
    half_word
}
