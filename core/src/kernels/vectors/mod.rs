//! Vectors of f32 of the width that an instruction set has, for loops that compilers do not turn into vectors themselves.
//!
//! Code is written once over a [`Vector`]; [`vectorised`] compiles it for each instruction set and picks at run time. The types that
//! stand for one are private to this room, and `vectorised` alone names them, after it has asked the CPU: that is why
//! their functions are safe.

mod exp;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(not(target_arch = "aarch64"))]
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(super) use exp::exp;

#[cfg(target_arch = "x86_64")]
use super::widest::{has_avx2, has_avx512};

/// A power of two of f32, at most 16.
pub trait Vector: Copy {
    /// How many.
    const WIDTH: usize;

    /// The same number in all.
    fn splat(x: f32) -> Self;

    /// The numbers from `start` on.
    ///
    /// # Panics
    /// If there are not enough.
    fn load(from: &[f32; 16], start: usize) -> Self;

    /// Puts the numbers to `start` and on.
    ///
    /// # Panics
    /// If there is no room for them.
    fn store(self, to: &mut [f32; 16], start: usize);

    /// Puts the low 16 bits of the numbers to `start` and on.
    ///
    /// # Panics
    /// If there is no room for them.
    fn store_low_halves(self, to: &mut [i16; 16], start: usize);

    /// `self + b`.
    fn add(self, b: Self) -> Self;

    /// `self − b`.
    fn sub(self, b: Self) -> Self;

    /// `self · b`.
    fn mul(self, b: Self) -> Self;

    /// `self · b + c`, rounded once where the CPU can.
    fn mul_add(self, b: Self, c: Self) -> Self;

    /// `self · b − c`, rounded likewise.
    fn mul_sub(self, b: Self, c: Self) -> Self;

    /// `c − self · b`, rounded likewise.
    fn neg_mul_add(self, b: Self, c: Self) -> Self;

    /// `self` where it is above b, else b, which is so where either is no number.
    fn max(self, b: Self) -> Self;

    /// `self` where it is below b, else b, which is so where either is no number.
    fn min(self, b: Self) -> Self;

    /// 2ⁿ of numbers whose lowest bits are the integer n, from −126 to 127.
    fn power_of_two(self) -> Self;

    /// The sum, halves added to each other until one is left.
    fn total(self) -> f32;

    /// The largest, found likewise with [`max`](Self::max).
    fn largest(self) -> f32;
}

/// Vectors of the narrowest kind that 16 numbers make: as many as there are at most.
pub(super) const MOST: usize = 4;

/// A computation over vectors. What `run` calls must be inlined into it.
pub trait Vectorised {
    /// Does it. Implement with `#[inline(always)]`.
    fn run<V: Vector>(self);
}

/// Runs `work` with the widest vectors that this CPU has.
#[inline]
pub fn vectorised<W: Vectorised>(work: W) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn avx512<W: Vectorised>(work: W) {
            work.run::<x86::Avx512>();
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<W: Vectorised>(work: W) {
            work.run::<x86::Avx2>();
        }
        if has_avx512() {
            // SAFETY: the CPU has every feature the function is compiled for.
            return unsafe { avx512(work) };
        }
        if has_avx2() {
            // SAFETY: the CPU has every feature the function is compiled for.
            return unsafe { avx2(work) };
        }
    }
    #[cfg(target_arch = "aarch64")]
    work.run::<neon::Neon>();
    #[cfg(not(target_arch = "aarch64"))]
    work.run::<portable::Portable>();
}
