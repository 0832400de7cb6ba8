//! Writing a position into a record of the cache.

use half::f16;

use super::f16_from_f32;
use super::panels::{BLOCK, CacheFormat, Q8_GROUP};
use crate::kernels::vector::{LANES, ROUND, reduce};

/// Writes one head's key at `position` of its record (see [`Keys`](super::Keys)).
///
/// # Panics
/// If the record is shorter than the format's, the key longer than a head, or `position` past the record.
pub fn store_key(record: &mut [f32], format: CacheFormat, dim: usize, position: usize, x: &[f32]) {
    assert!(position < BLOCK && x.len() == dim, "position {position}, {} elements", x.len());
    match format {
        CacheFormat::F32 => {
            for (lanes, x) in record[..dim * BLOCK].chunks_exact_mut(BLOCK).zip(x) {
                lanes[position] = *x;
            }
        }
        CacheFormat::F16 => {
            let record: &mut [f16] = bytemuck::cast_slice_mut(record);
            let mut halves = [f16::ZERO; 4 * BLOCK];
            for (x, lanes) in x.chunks(4 * BLOCK).zip(record[..dim * BLOCK].chunks_mut(4 * BLOCK * BLOCK)) {
                f16_from_f32(x, &mut halves[..x.len()]);
                for (lanes, x) in lanes.chunks_exact_mut(BLOCK).zip(halves) {
                    lanes[position] = x;
                }
            }
        }
        CacheFormat::Q8 => {
            let (quants, scales) = q8_parts(record, dim);
            let (groups, _) = x.as_chunks::<Q8_GROUP>();
            for (g, x) in groups.iter().enumerate() {
                let mut bytes = [0; Q8_GROUP];
                scales[g * BLOCK + position] = quantise(x, &mut bytes);
                let lanes = quants[g * Q8_GROUP * BLOCK..][..Q8_GROUP * BLOCK].chunks_exact_mut(BLOCK);
                for (lanes, x) in lanes.zip(bytes) {
                    lanes[position] = x;
                }
            }
        }
    }
}

/// Writes one head's value at `position` of its record (see [`Values`](super::Values)); elements past those given stay.
///
/// # Panics
/// If the record is shorter than the format's, the value longer than `dim`, or `position` past the record.
pub fn store_value(record: &mut [f32], format: CacheFormat, dim: usize, position: usize, x: &[f32]) {
    assert!(position < BLOCK && x.len() <= dim, "position {position}, {} elements", x.len());
    match format {
        CacheFormat::F32 => record[position * dim..][..x.len()].copy_from_slice(x),
        CacheFormat::F16 => {
            let record: &mut [f16] = bytemuck::cast_slice_mut(record);
            f16_from_f32(x, &mut record[position * dim..][..x.len()]);
        }
        CacheFormat::Q8 => {
            let (quants, scales) = q8_parts(record, dim);
            let (groups, _) = x.as_chunks::<Q8_GROUP>();
            let bytes = quants[position * dim..][..dim].as_chunks_mut::<Q8_GROUP>().0;
            let scales = &mut scales[position * (dim / Q8_GROUP)..];
            for ((x, bytes), scale) in groups.iter().zip(bytes).zip(scales) {
                *scale = quantise(x, bytes);
            }
        }
    }
}

/// The bytes of a record and the scales after them.
fn q8_parts(record: &mut [f32], dim: usize) -> (&mut [i8], &mut [f16]) {
    let (quants, scales) = record.split_at_mut(dim * BLOCK / 4);
    (bytemuck::cast_slice_mut(quants), bytemuck::cast_slice_mut(scales))
}

#[inline(always)]
fn largest_body<const FUSED: bool>(x: &[f32; Q8_GROUP]) -> f32 {
    let (mut largest, mut poison) = ([0f32; LANES], [0f32; LANES]);
    for chunk in x.as_chunks::<LANES>().0 {
        for i in 0..LANES {
            let magnitude = chunk[i].abs();
            largest[i] = if magnitude > largest[i] { magnitude } else { largest[i] };
            // Zero for finite numbers, NaN for the others, which bytes could not show.
            poison[i] += chunk[i] * 0.0;
        }
    }
    let mut all = 0f32;
    for i in 0..LANES {
        all = if largest[i] > all { largest[i] } else { all };
    }
    all + reduce(poison)
}

multiversion! {
    /// The largest magnitude; NaN if any element is not finite.
    largest, largest_body(x: &[f32; Q8_GROUP]) -> f32
}

#[inline(always)]
fn round_body<const FUSED: bool>(x: &[f32; Q8_GROUP], factor: f32, out: &mut [i8; Q8_GROUP]) {
    for i in 0..Q8_GROUP {
        out[i] = ((x[i] * factor).clamp(-127.0, 127.0) + ROUND).to_bits() as i8;
    }
}

multiversion! {
    /// out = x · factor, rounded to nearest.
    round, round_body(x: &[f32; Q8_GROUP], factor: f32, out: &mut [i8; Q8_GROUP])
}

/// Quantises a group; returns its scale.
fn quantise(x: &[f32; Q8_GROUP], out: &mut [i8; Q8_GROUP]) -> f16 {
    let scale = f16::from_f32(largest(x) / 127.0);
    let step = scale.to_f32();
    round(x, if step > 0.0 { 1.0 / step } else { 0.0 }, out);
    scale
}
