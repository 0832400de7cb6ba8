//! The products of units with four activation rows, instruction by instruction.
//!
//! From intrinsics a compiler makes either a loop, whose counting and zeroing cost more than a tenth of the product, or unrolls it
//! and moves loads so far ahead that sums are spilled. Here eight sums, two vectors of weights, a broadcast and a product stay in
//! registers, and the first unit's products begin the sums.

use std::arch::asm;
use std::arch::x86_64::*;

use super::gemm::HALVES;

/// Activation rows.
pub const ROWS: usize = 4;

/// The units of one activation row in all lanes, times both vectors of weights; `first` begins the sums.
macro_rules! row {
    (first, $mul:literal, $add:literal, $x:literal, $unit:literal, $a:literal, $b:literal) => {
        concat!(
            "vpbroadcastd {x}, dword ptr [",
            $x,
            " + 4*",
            $unit,
            "]\n",
            $mul,
            " {",
            $a,
            "}, {w0}, {x}\n",
            $mul,
            " {",
            $b,
            "}, {w1}, {x}\n",
        )
    };
    (next, $mul:literal, $add:literal, $x:literal, $unit:literal, $a:literal, $b:literal) => {
        concat!(
            "vpbroadcastd {x}, dword ptr [",
            $x,
            " + 4*",
            $unit,
            "]\n",
            $mul,
            " {t}, {w0}, {x}\n",
            $mul,
            " {x}, {w1}, {x}\n",
            $add,
            " {",
            $a,
            "}, {",
            $a,
            "}, {t}\n",
            $add,
            " {",
            $b,
            "}, {",
            $b,
            "}, {x}\n",
        )
    };
}

/// One unit of weights, 128 bytes a panel's row of units, with all activation rows.
macro_rules! unit {
    ($which:ident, $mul:literal, $add:literal, $unit:literal) => {
        concat!(
            "vmovdqa {w0}, ymmword ptr [{lanes} + 128*",
            $unit,
            "]\n",
            "vmovdqa {w1}, ymmword ptr [{lanes} + 128*",
            $unit,
            " + 32]\n",
            row!($which, $mul, $add, "{first}", $unit, "a0", "b0"),
            row!($which, $mul, $add, "{first} + {row}", $unit, "a1", "b1"),
            row!($which, $mul, $add, "{first} + 2*{row}", $unit, "a2", "b2"),
            row!($which, $mul, $add, "{last}", $unit, "a3", "b3"),
        )
    };
}

macro_rules! unrolled {
    ($name:ident, $mul:literal, $add:literal, [$first:literal $(, $next:literal)*]) => {
        /// Sums of the units at `lanes` times those at `x`, of rows that are `row` units apart.
        ///
        /// # Safety
        /// The CPU runs the tier; panel and activations have the units, the panel's on addresses that are multiples of 32.
        #[inline]
        #[target_feature(enable = "avx2")]
        pub unsafe fn $name(lanes: *const u8, x: *const i32, row: usize) -> [[__m256i; HALVES]; ROWS] {
            let (a0, b0, a1, b1, a2, b2, a3, b3);
            // SAFETY: reads what the caller promises and writes registers only.
            unsafe {
                asm!(
                    unit!(first, $mul, $add, $first),
                    $(unit!(next, $mul, $add, $next),)*
                    lanes = in(reg) lanes,
                    first = in(reg) x,
                    row = in(reg) size_of::<i32>() * row,
                    last = in(reg) x.add((ROWS - 1) * row),
                    w0 = out(ymm_reg) _,
                    w1 = out(ymm_reg) _,
                    x = out(ymm_reg) _,
                    t = out(ymm_reg) _,
                    a0 = out(ymm_reg) a0,
                    b0 = out(ymm_reg) b0,
                    a1 = out(ymm_reg) a1,
                    b1 = out(ymm_reg) b1,
                    a2 = out(ymm_reg) a2,
                    b2 = out(ymm_reg) b2,
                    a3 = out(ymm_reg) a3,
                    b3 = out(ymm_reg) b3,
                    options(pure, readonly, nostack, preserves_flags),
                );
            }
            [[a0, b0], [a1, b1], [a2, b2], [a3, b3]]
        }
    };
}

unrolled!(four_of_bytes, "vpmaddubsw", "vpaddw", ["0", "1", "2", "3"]);
unrolled!(eight_of_bytes, "vpmaddubsw", "vpaddw", ["0", "1", "2", "3", "4", "5", "6", "7"]);
unrolled!(eight_of_words, "vpmaddwd", "vpaddd", ["0", "1", "2", "3", "4", "5", "6", "7"]);
unrolled!(
    sixteen_of_words,
    "vpmaddwd",
    "vpaddd",
    ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"]
);
