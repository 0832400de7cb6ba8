//! Products of a repacked panel with many activation rows.
//!
//! A tile is 32 weight rows, the lanes of two vectors, times up to [`TILE`] activation rows, whose bytes are broadcast four
//! at a time. Within a group of columns that share a scale everything is integer: the coarse plane's sums are shifted up by
//! the plane's worth and the fine plane's added on top; then one conversion, and one product with both scales into the
//! f32 sums. A tile has 24 sums in registers, which leaves the weights two and the activations one.
//!
//! Offsets are f32 products of their own, unless they follow from a lane that stands for zero. Such lanes are raised until that one
//! is [`COARSE`], so that what it contributes is a number of the activations alone, from which their coarse sums start.

use std::arch::asm;
use std::arch::x86_64::*;

use super::Unpack;
use super::unpack::{MAX_VECTORS, Numbers, Turned};
use crate::kernels::activations::{COARSE, INTERLEAVED};
use crate::kernels::formats::GROUP;
use crate::kernels::panel::{Batch, MultiplyFn, PANEL_ROWS, Panel, Target};
use crate::kernels::prefetch::ask_to_write;
use crate::kernels::transpose::avx512::square;

/// Activation rows of a tile.
const TILE: usize = 6;
/// Vectors of weight rows in a tile.
const HALVES: usize = PANEL_ROWS / 16;
/// Columns of a step, which is what the formats unpack at a time.
const STEP: usize = super::STEP;

/// By how many bits a format's lanes are raised.
const fn raise<F: Unpack>() -> u32 {
    if F::ZERO == 0 { 0 } else { COARSE.trailing_zeros() - F::ZERO.trailing_zeros() }
}

/// Unpacks and turns round the columns of a panel; see [`UnpackFn`](crate::kernels::panel::UnpackFn).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn unpack<F: Unpack>(data: &[u8], row_bytes: usize, start: usize, cols: usize, panel: &mut Panel) {
    let rows = data.len() / row_bytes;
    let first_byte = start / F::LEN * F::BYTES;
    let bytes = cols / F::LEN * F::BYTES;
    let (lanes, scales, offsets) = (panel.lanes(), panel.scales(), panel.offsets());
    let mut turned: Turned = [[_mm512_setzero_si512(); 16]; MAX_VECTORS];
    for half in 0..HALVES {
        // Loops, because closures over as many as 16 stay calls.
        let mut row: [&[u8]; 16] = [&[]; 16];
        for (r, row) in row.iter_mut().enumerate() {
            let r = (16 * half + r).min(rows - 1);
            *row = &data[r * row_bytes + first_byte..][..bytes];
        }
        for step in 0..cols.div_ceil(STEP) {
            let at = step * F::STEP_BYTES;
            let groups = step * (STEP / F::SPAN);
            // SAFETY: the panel holds `cols` rounded up to whole steps, as the caller promises; the halves are disjoint.
            unsafe {
                let lanes = lanes.add(step * STEP * PANEL_ROWS + 64 * half);
                let scales = scales.add(groups * PANEL_ROWS + 16 * half);
                let offsets = offsets.add(groups * PANEL_ROWS + 16 * half);
                let mut from = [std::ptr::null(); 16];
                if at + F::STEP_BYTES <= bytes {
                    for (from, row) in from.iter_mut().zip(&row) {
                        *from = row[at..].as_ptr();
                    }
                    unpack_step::<F>(&from, &mut turned, lanes, scales, offsets);
                } else {
                    // Blocks of zeros have scale and offset zero. 272 bytes are the longest step of small blocks.
                    let mut padded = [[0u8; 272]; 16];
                    for ((from, padded), row) in from.iter_mut().zip(&mut padded).zip(row) {
                        padded[..bytes - at].copy_from_slice(&row[at..]);
                        *from = padded.as_ptr();
                    }
                    unpack_step::<F>(&from, &mut turned, lanes, scales, offsets);
                }
            }
        }
    }
}

/// One step of 16 rows; what `turned` was before does not matter.
///
/// # Safety
/// Every pointer of `rows` must be followed by a whole step; the outputs must hold it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn unpack_step<F: Unpack>(
    rows: &[*const u8; 16],
    turned: &mut Turned,
    lanes: *mut u8,
    scales: *mut f32,
    offsets: *mut f32,
) {
    const { assert!(F::VECTORS <= MAX_VECTORS) };
    let count = _mm_cvtsi32_si128(raise::<F>() as i32);
    // SAFETY: as the caller promises.
    unsafe {
        for (i, turned) in turned.iter_mut().enumerate().take(F::VECTORS) {
            let mut block = [_mm512_setzero_si512(); 16];
            for (block, &row) in block.iter_mut().zip(rows) {
                *block = F::bytes(row, i);
            }
            *turned = square(block);
        }
        for run in 0..STEP / 32 {
            for four in 0..8 {
                // The bits stay in their bytes: twice the lane of zero is more than any.
                let columns = _mm512_sll_epi16(F::columns(turned, run, four), count);
                _mm512_store_si512(lanes.add((32 * run + 4 * four) * PANEL_ROWS).cast(), columns);
            }
        }
        let mut first = [_mm512_setzero_si512(); 16];
        let mut second = first;
        for ((first, second), &row) in first.iter_mut().zip(&mut second).zip(rows) {
            match F::numbers(row) {
                Numbers::Pairs(pairs) => *first = _mm512_castps_si512(pairs),
                Numbers::Groups(scales, seconds) => {
                    (*first, *second) = (_mm512_castps_si512(scales), _mm512_castps_si512(seconds));
                }
            }
        }
        let first = square(first);
        if F::SPAN == GROUP && F::ZERO == 0 {
            second = square(second);
        }
        let lower = _mm512_set1_ps(1.0 / (1 << raise::<F>()) as f32);
        let offset = _mm512_set1_ps(F::OFFSET);
        for i in 0..STEP / F::SPAN {
            let (group, scale, second) = if F::SPAN > GROUP {
                (INTERLEAVED[i], first[2 * i], first[2 * i + 1])
            } else {
                (i, first[i], second[i])
            };
            let scale = _mm512_mul_ps(_mm512_castsi512_ps(scale), lower);
            _mm512_store_ps(scales.add(group * PANEL_ROWS), scale);
            if F::ZERO == 0 {
                let second = _mm512_mul_ps(_mm512_castsi512_ps(second), offset);
                _mm512_store_ps(offsets.add(group * PANEL_ROWS), second);
            }
        }
    }
}

/// The product for panels of a format.
pub fn multiply_for<F: Unpack, const FINE: bool>() -> MultiplyFn {
    const { assert!(F::SPAN == GROUP || F::SPAN == 2 * GROUP) };
    const { assert!(F::ZERO == 0 || F::ZERO.is_power_of_two() && F::ZERO as i32 <= COARSE) };
    match (F::SPAN == GROUP, F::ZERO > 0) {
        (true, false) => multiply::<GROUP, FINE, false>,
        (true, true) => multiply::<GROUP, FINE, true>,
        (false, false) => multiply::<{ 2 * GROUP }, FINE, false>,
        (false, true) => multiply::<{ 2 * GROUP }, FINE, true>,
    }
}

/// See [`MultiplyFn`]. `SPAN` columns share a scale; without `FINE` the fine plane is zero and not looked at; if they are `CENTRED`,
/// lane [`COARSE`] is weight zero, and there are no offsets.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn multiply<const SPAN: usize, const FINE: bool, const CENTRED: bool>(
    panel: &mut Panel,
    start: usize,
    cols: usize,
    x: &Batch<'_>,
    target: Target,
) {
    let mut t = 0;
    // SAFETY: as the caller promises; the tiles' rows are below `x.rows`.
    unsafe {
        while t + TILE <= x.rows {
            tile::<SPAN, FINE, CENTRED, TILE>(panel, start, cols, x, t, target);
            t += TILE;
        }
        if t + 4 <= x.rows {
            tile::<SPAN, FINE, CENTRED, 4>(panel, start, cols, x, t, target);
            t += 4;
        }
        if t + 2 <= x.rows {
            tile::<SPAN, FINE, CENTRED, 2>(panel, start, cols, x, t, target);
            t += 2;
        }
        if t < x.rows {
            tile::<SPAN, FINE, CENTRED, 1>(panel, start, cols, x, t, target);
        }
    }
}

type Tile<V, const T: usize> = [[V; HALVES]; T];

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<const SPAN: usize, const FINE: bool, const CENTRED: bool, const T: usize>(
    panel: &mut Panel,
    start: usize,
    cols: usize,
    x: &Batch<'_>,
    t: usize,
    target: Target,
) {
    let keep: [__mmask16; HALVES] =
        std::array::from_fn(|half| ((1u32 << target.rows.saturating_sub(16 * half).min(16)) - 1) as __mmask16);
    // SAFETY: the activations have rows t..t + T, padded to whole blocks of 256 from `start` on; the panel holds the columns
    // padded likewise; the target's rows that `keep` selects are the caller's.
    unsafe {
        let out = target.out.add(t * target.stride);
        let mut sums: Tile<__m512, T> = [[_mm512_setzero_ps(); HALVES]; T];
        if target.accumulate {
            for (k, sums) in sums.iter_mut().enumerate() {
                for (h, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_maskz_loadu_ps(keep[h], out.add(k * target.stride + 16 * h));
                }
                // What the next tile begins with: nothing else reads these lines, and no unit fetches them by itself.
                ask_to_write(out.wrapping_add((T + k) * target.stride).cast(), PANEL_ROWS * size_of::<f32>());
            }
        }
        let coarse = x.lanes.as_ptr().add(t * x.stride + start);
        let fine = x.fine.as_ptr().add(t * x.stride + start);
        let scale = x.scales.as_ptr().add((t * x.stride + start) / GROUP);
        let (sum, first) = if SPAN == GROUP { (x.sums, x.starts) } else { (x.block_sums, x.block_starts) };
        let sum = sum.as_ptr().add((t * x.stride + start) / SPAN);
        let first = first.as_ptr().add((t * x.stride + start) / SPAN);
        let (lanes, scales, offsets) = (panel.lanes(), panel.scales(), panel.offsets());
        for g in 0..cols.div_ceil(SPAN) {
            let lanes = lanes.add(g * SPAN * PANEL_ROWS);
            let mut dots: Tile<__m512i, T> = [[_mm512_setzero_si512(); HALVES]; T];
            if CENTRED {
                for (k, dots) in dots.iter_mut().enumerate() {
                    *dots = [_mm512_set1_epi32(*first.add(k * (x.stride / SPAN) + g)); HALVES];
                }
            }
            add_plane::<SPAN, T>(lanes, coarse.add(g * SPAN), x.stride, &mut dots);
            if FINE {
                for dot in dots.as_flattened_mut() {
                    *dot = _mm512_slli_epi32::<{ COARSE.trailing_zeros() }>(*dot);
                }
                add_plane::<SPAN, T>(lanes, fine.add(g * SPAN), x.stride, &mut dots);
            }
            for h in 0..HALVES {
                let weight_scale = _mm512_load_ps(scales.add(g * PANEL_ROWS + 16 * h));
                let offset =
                    if CENTRED { _mm512_setzero_ps() } else { _mm512_load_ps(offsets.add(g * PANEL_ROWS + 16 * h)) };
                for k in 0..T {
                    let row_scale = _mm512_set1_ps(*scale.add((k * x.stride + g * SPAN) / GROUP));
                    let both = _mm512_mul_ps(weight_scale, row_scale);
                    sums[k][h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[k][h]), both, sums[k][h]);
                    if !CENTRED {
                        let row_sum = _mm512_set1_ps(*sum.add(k * (x.stride / SPAN) + g));
                        sums[k][h] = _mm512_fmadd_ps(offset, row_sum, sums[k][h]);
                    }
                }
            }
        }
        for (k, sums) in sums.iter().enumerate() {
            for (h, sum) in sums.iter().enumerate() {
                _mm512_mask_storeu_ps(out.add(k * target.stride + 16 * h), keep[h], *sum);
            }
        }
    }
}

/// Adds the products of `SPAN` columns with one plane of the activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn add_plane<const SPAN: usize, const T: usize>(
    lanes: *mut u8,
    plane: *const i8,
    stride: usize,
    dots: &mut Tile<__m512i, T>,
) {
    if let Ok(whole) = dots.as_flattened_mut().try_into() {
        // SAFETY: the caller's promise; no other tile has so many sums.
        return unsafe { add_plane_whole::<SPAN>(lanes, plane, stride, whole) };
    }
    // SAFETY: the caller promises `SPAN` columns of the panel and of T rows of the plane.
    unsafe {
        for four in 0..SPAN / 4 {
            let w: [__m512i; HALVES] =
                std::array::from_fn(|h| _mm512_load_si512(lanes.add(four * 4 * PANEL_ROWS + 64 * h).cast()));
            for (k, dots) in dots.iter_mut().enumerate() {
                let x = _mm512_set1_epi32(plane.add(k * stride + 4 * four).cast::<i32>().read_unaligned());
                for (dot, w) in dots.iter_mut().zip(w) {
                    *dot = _mm512_dpbusd_epi32(*dot, w, x);
                }
            }
        }
    }
}

/// [`add_plane`] for a whole tile, in assembly: compilers keep more weights at hand than there are registers for.
///
/// # Safety
/// As [`add_plane`], of `TILE` rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[rustfmt::skip]
unsafe fn add_plane_whole<const SPAN: usize>(
    lanes: *mut u8,
    plane: *const i8,
    stride: usize,
    [a, b, c, d, e, f, g, h, i, j, k, l]: &mut [__m512i; TILE * HALVES],
) {
    let (_upper, _lower, _x): (__m512i, __m512i, __m512i);
    // SAFETY: reads what the caller promises, four columns of every row at a time.
    unsafe {
        asm!(
            "2:",
            "vmovdqa64 {upper}, [{lanes}]",
            "vmovdqa64 {lower}, [{lanes} + 64]",
            "vpbroadcastd {x}, dword ptr [{plane}]",
            "vpdpbusd {a}, {upper}, {x}", "vpdpbusd {b}, {lower}, {x}",
            "vpbroadcastd {x}, dword ptr [{plane} + {stride}]",
            "vpdpbusd {c}, {upper}, {x}", "vpdpbusd {d}, {lower}, {x}",
            "vpbroadcastd {x}, dword ptr [{plane} + 2 * {stride}]",
            "vpdpbusd {e}, {upper}, {x}", "vpdpbusd {f}, {lower}, {x}",
            "vpbroadcastd {x}, dword ptr [{plane} + {three}]",
            "vpdpbusd {g}, {upper}, {x}", "vpdpbusd {h}, {lower}, {x}",
            "vpbroadcastd {x}, dword ptr [{plane} + 4 * {stride}]",
            "vpdpbusd {i}, {upper}, {x}", "vpdpbusd {j}, {lower}, {x}",
            "vpbroadcastd {x}, dword ptr [{plane} + {five}]",
            "vpdpbusd {k}, {upper}, {x}", "vpdpbusd {l}, {lower}, {x}",
            "add {lanes}, {next}",
            "add {plane}, 4",
            "dec {fours:e}",
            "jnz 2b",
            lanes = inout(reg) lanes => _, plane = inout(reg) plane => _, fours = inout(reg) SPAN / 4 => _,
            stride = in(reg) stride, three = in(reg) 3 * stride, five = in(reg) 5 * stride, next = const 4 * PANEL_ROWS,
            upper = out(zmm_reg) _upper, lower = out(zmm_reg) _lower, x = out(zmm_reg) _x,
            a = inout(zmm_reg) *a, b = inout(zmm_reg) *b, c = inout(zmm_reg) *c, d = inout(zmm_reg) *d,
            e = inout(zmm_reg) *e, f = inout(zmm_reg) *f, g = inout(zmm_reg) *g, h = inout(zmm_reg) *h,
            i = inout(zmm_reg) *i, j = inout(zmm_reg) *j, k = inout(zmm_reg) *k, l = inout(zmm_reg) *l,
            options(readonly, nostack),
        );
    }
}
