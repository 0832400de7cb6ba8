//! How each format's bytes become vectors of signed lanes, scales and offsets: the same numbers as the portable code gives.

use std::arch::aarch64::*;

use super::half::f16;
use crate::kernels::formats::{
    Format, Iq4Nl, LEVELS, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, q3k_scales, q45k_scales,
};

/// Columns unpacked at a time.
pub const RUN: usize = 32;
/// The most spans in a block.
const SPANS: usize = 16;

/// The scale and offset of each span of a block; only those that the block has are set.
pub struct Scales {
    pub scale: [f32; SPANS],
    pub offset: [f32; SPANS],
}

impl Scales {
    pub const fn new() -> Self {
        Self { scale: [0.0; SPANS], offset: [0.0; SPANS] }
    }
}

/// How a format's bytes become vectors.
pub trait Unpack: Format {
    /// Columns that share a scale: 16 or 32.
    const SPAN: usize;
    /// Whether spans have an offset; lanes are centred if not.
    const OFFSET: bool;

    /// Scales, and offsets if there are any, of the block at `p`.
    ///
    /// # Safety
    /// The CPU runs the tier and a whole block may be read.
    unsafe fn scales(p: *const u8, out: &mut Scales);

    /// Elements `32i..32i + 32` of the block at `p`.
    ///
    /// # Safety
    /// As [`scales`](Self::scales), and `i` is below the block's number of runs.
    unsafe fn lanes(p: *const u8, i: usize) -> [int8x16_t; 2];
}

/// The bytes at `p` shifted right by `shift`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn shifted(p: *const u8, shift: usize) -> uint8x16_t {
    // SAFETY: the caller promises 16 bytes at `p`.
    vshlq_u8(unsafe { vld1q_u8(p) }, vdupq_n_s8(-(shift as i8)))
}

/// The low and the high nibbles of the 16 bytes at `p`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn nibbles(p: *const u8) -> [uint8x16_t; 2] {
    // SAFETY: the caller promises 16 bytes at `p`.
    let both = unsafe { vld1q_u8(p) };
    [vandq_u8(both, vdupq_n_u8(0x0f)), vshrq_n_u8::<4>(both)]
}

/// For each of the 32 bits at `p`, whether it is set.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn bits(p: *const u8) -> [uint8x16_t; 2] {
    const BIT: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
    const BYTE: [u8; 32] =
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3];
    // SAFETY: the caller promises four bytes at `p`; the tables are 16 and 32 bytes.
    unsafe {
        let word = vreinterpretq_u8_u32(vdupq_n_u32(p.cast::<u32>().read_unaligned()));
        let bit = vld1q_u8(BIT.as_ptr());
        let spread = |byte: *const u8| vtstq_u8(vqtbl1q_u8(word, vld1q_u8(byte)), bit);
        [spread(BYTE.as_ptr()), spread(BYTE.as_ptr().add(16))]
    }
}

/// For each of the 16 bytes at `p`, whether bit `i` is set.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn run_bits(p: *const u8, i: usize) -> uint8x16_t {
    // SAFETY: the caller promises 16 bytes at `p`.
    vtstq_u8(unsafe { vld1q_u8(p) }, vdupq_n_u8(1 << i))
}

/// Adds `value`, whose bits lanes do not use, where `set`.
#[inline]
#[target_feature(enable = "neon")]
fn add_where(lanes: uint8x16_t, set: uint8x16_t, value: u8) -> int8x16_t {
    vreinterpretq_s8_u8(vorrq_u8(lanes, vandq_u8(set, vdupq_n_u8(value))))
}

/// Takes off the power of two `value`, above all lanes, where not `set`.
#[inline]
#[target_feature(enable = "neon")]
fn subtract_unless(lanes: uint8x16_t, set: uint8x16_t, value: u8) -> int8x16_t {
    // Lanes below the power need no carry: its complement's bits go on top.
    vreinterpretq_s8_u8(vorrq_u8(lanes, vbicq_u8(vdupq_n_u8(value.wrapping_neg()), set)))
}

/// Lanes as they are.
#[inline]
#[target_feature(enable = "neon")]
fn unsigned([low, high]: [uint8x16_t; 2]) -> [int8x16_t; 2] {
    [vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high)]
}

/// Lanes less `zero`.
#[inline]
#[target_feature(enable = "neon")]
fn centred(lanes: [uint8x16_t; 2], zero: i8) -> [int8x16_t; 2] {
    let [low, high] = unsigned(lanes);
    [vsubq_s8(low, vdupq_n_s8(zero)), vsubq_s8(high, vdupq_n_s8(zero))]
}

/// The nibbles from bit `shift` on of the 32 bytes at `p`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn nibbles_at(p: *const u8, shift: usize) -> [uint8x16_t; 2] {
    let mask = vdupq_n_u8(0x0f);
    // SAFETY: the caller promises 32 bytes at `p`.
    unsafe { [vandq_u8(shifted(p, shift), mask), vandq_u8(shifted(p.add(16), shift), mask)] }
}

/// Run `i` of 2-bit lanes: 32 bytes hold four runs, lowest bits first.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn pairs(p: *const u8, i: usize) -> [uint8x16_t; 2] {
    // SAFETY: the caller promises 64 bytes and i < 8.
    unsafe {
        let p = p.add(i / 4 * RUN);
        let three = vdupq_n_u8(3);
        [vandq_u8(shifted(p, i % 4 * 2), three), vandq_u8(shifted(p.add(16), i % 4 * 2), three)]
    }
}

/// Run `i` of nibbles: 32 bytes hold two runs, low nibbles first.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn run_nibbles(p: *const u8, i: usize) -> [uint8x16_t; 2] {
    // SAFETY: the caller promises 128 bytes and i < 8.
    unsafe { nibbles_at(p.add(i / 2 * RUN), i % 2 * 4) }
}

/// Scales of small blocks: one f16.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn one_scale(p: *const u8, out: &mut Scales) {
    // SAFETY: as the caller promises.
    out.scale[0] = unsafe { f16(p) };
}

/// Scale and offset of small blocks: two f16.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn scale_and_offset(p: *const u8, out: &mut Scales) {
    // SAFETY: as the caller promises.
    (out.scale[0], out.offset[0]) = unsafe { (f16(p), f16(p.add(2))) };
}

/// Q4_K and Q5_K: 6-bit scales and minima of eight spans.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn scales_and_minima(p: *const u8, out: &mut Scales) {
    // SAFETY: the caller promises a whole block, which starts with these 16 bytes.
    let (d, dmin, packed) = unsafe { (f16(p), f16(p.add(2)), p.add(4).cast::<[u8; 12]>().read_unaligned()) };
    let (scales, minima) = q45k_scales(&packed);
    multiples(scales, d, &mut out.scale);
    multiples(minima, -dmin, &mut out.offset);
}

/// Eight multiples of `unit`. (Of a loop over the bytes of a word compilers make twice as many instructions.)
#[inline]
#[target_feature(enable = "neon")]
fn multiples(numbers: [u8; 8], unit: f32, out: &mut [f32; SPANS]) {
    let wide = vmovl_u8(vcreate_u8(u64::from_le_bytes(numbers)));
    let (low, high) = (vmovl_u16(vget_low_u16(wide)), vmovl_high_u16(wide));
    // SAFETY: there are sixteen numbers.
    unsafe {
        vst1q_f32(out.as_mut_ptr(), vmulq_n_f32(vcvtq_f32_u32(low), unit));
        vst1q_f32(out.as_mut_ptr().add(4), vmulq_n_f32(vcvtq_f32_u32(high), unit));
    }
}

macro_rules! unpack {
    ($format:ty, $span:expr, $offset:expr, |$p:ident, $out:ident| $scales:expr, |$q:ident, $i:ident| $lanes:expr) => {
        impl Unpack for $format {
            const SPAN: usize = $span;
            const OFFSET: bool = $offset;

            #[inline]
            #[target_feature(enable = "neon")]
            unsafe fn scales($p: *const u8, $out: &mut Scales) {
                // SAFETY: the caller promises a whole block at the pointer.
                unsafe { $scales }
            }

            #[inline]
            #[target_feature(enable = "neon")]
            unsafe fn lanes($q: *const u8, $i: usize) -> [int8x16_t; 2] {
                // SAFETY: the caller promises a whole block at the pointer and one of its runs.
                unsafe { $lanes }
            }
        }
    };
}

unpack!(Q4_0, 32, false, |p, out| one_scale(p, out), |p, _i| centred(nibbles(p.add(2)), 8));
unpack!(Q4_1, 32, true, |p, out| scale_and_offset(p, out), |p, _i| unsigned(nibbles(p.add(4))));
unpack!(Q5_0, 32, false, |p, out| one_scale(p, out), |p, _i| {
    let ([low, high], [low_bits, high_bits]) = (nibbles(p.add(6)), bits(p.add(2)));
    [subtract_unless(low, low_bits, 16), subtract_unless(high, high_bits, 16)]
});
unpack!(Q5_1, 32, true, |p, out| scale_and_offset(p, out), |p, _i| {
    let ([low, high], [low_bits, high_bits]) = (nibbles(p.add(8)), bits(p.add(4)));
    [add_where(low, low_bits, 16), add_where(high, high_bits, 16)]
});
unpack!(Q8_0, 32, false, |p, out| one_scale(p, out), |p, _i| {
    [vld1q_s8(p.add(2).cast()), vld1q_s8(p.add(18).cast())]
});
unpack!(Iq4Nl, 32, false, |p, out| one_scale(p, out), |p, _i| {
    let levels = vld1q_s8(LEVELS.as_ptr());
    let [low, high] = nibbles(p.add(2));
    [vqtbl1q_s8(levels, low), vqtbl1q_s8(levels, high)]
});
unpack!(
    Q2K,
    16,
    true,
    |p, out| {
        let (d, dmin) = (f16(p.add(80)), f16(p.add(82)));
        for (g, &packed) in p.cast::<[u8; 16]>().read_unaligned().iter().enumerate() {
            out.scale[g] = d * f32::from(packed & 0x0f);
            out.offset[g] = -dmin * f32::from(packed >> 4);
        }
    },
    |p, i| unsigned(pairs(p.add(16), i))
);
unpack!(
    Q3K,
    16,
    false,
    |p, out| {
        let d = f16(p.add(108));
        let scales = q3k_scales(&p.add(96).cast::<[u8; 12]>().read_unaligned());
        for (scale, packed) in out.scale.iter_mut().zip(scales) {
            *scale = d * f32::from(packed as i8 - 32);
        }
    },
    |p, i| {
        let [low, high] = pairs(p.add(32), i);
        [subtract_unless(low, run_bits(p, i), 4), subtract_unless(high, run_bits(p.add(16), i), 4)]
    }
);
unpack!(Q4K, 32, true, |p, out| scales_and_minima(p, out), |p, i| unsigned(run_nibbles(p.add(16), i)));
unpack!(Q5K, 32, true, |p, out| scales_and_minima(p, out), |p, i| {
    let [low, high] = run_nibbles(p.add(48), i);
    [add_where(low, run_bits(p.add(16), i), 16), add_where(high, run_bits(p.add(32), i), 16)]
});
unpack!(
    Q6K,
    16,
    false,
    |p, out| {
        let d = f16(p.add(208));
        for (scale, packed) in out.scale.iter_mut().zip(p.add(192).cast::<[i8; 16]>().read_unaligned()) {
            *scale = d * f32::from(packed);
        }
    },
    |p, i| {
        // Four runs share 64 bytes: the low nibbles are the first two, the high nibbles the last two.
        let low = nibbles_at(p.add(i / 4 * 64 + i % 2 * RUN), i % 4 / 2 * 4);
        let high = pairs(p.add(128), i);
        centred([vsliq_n_u8::<4>(low[0], high[0]), vsliq_n_u8::<4>(low[1], high[1])], 32)
    }
);
