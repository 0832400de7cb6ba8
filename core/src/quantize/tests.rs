//! Rows rounded and read back by a plain f64 decoder, written from the formats' layouts and used nowhere else.

use half::{bf16, f16};
use proptest::prelude::*;

use super::{QuantizeError, quantize_row};
use crate::gguf::GgmlType;

fn half_at(block: &[u8], at: usize) -> f64 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f64()
}

/// The 6-bit scale and minimum of group `g` of Q4_K and Q5_K.
fn scale_and_minimum(packed: &[u8], g: usize) -> (f64, f64) {
    let (scale, minimum) = match g < 4 {
        true => (packed[g] & 63, packed[g + 4] & 63),
        false => (packed[g + 4] & 15 | packed[g - 4] >> 6 << 4, packed[g + 4] >> 4 | packed[g] >> 6 << 4),
    };
    (scale.into(), minimum.into())
}

/// Element `i` of a block.
fn element(ty: GgmlType, b: &[u8], i: usize) -> f64 {
    let nibble = |at: usize| f64::from(b[at + i % 16] >> (4 * (i / 16)) & 15);
    let fifth = |at: usize| f64::from(b[at + i / 8] >> (i % 8) & 1) * 16.0;
    // K-quants: halves of 128, in which a byte is shared by elements 32 (or 64) apart.
    let (half, quarter, byte) = (i / 128, i % 128 / 32, i % 32);
    match ty {
        GgmlType::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]).into(),
        GgmlType::F16 => half_at(b, 0),
        GgmlType::Bf16 => bf16::from_le_bytes([b[0], b[1]]).to_f64(),
        GgmlType::Q4_0 => half_at(b, 0) * (nibble(2) - 8.0),
        GgmlType::Q4_1 => half_at(b, 0) * nibble(4) + half_at(b, 2),
        GgmlType::Q5_0 => half_at(b, 0) * (nibble(6) + fifth(2) - 16.0),
        GgmlType::Q5_1 => half_at(b, 0) * (nibble(8) + fifth(4)) + half_at(b, 2),
        GgmlType::Q8_0 => half_at(b, 0) * f64::from(b[2 + i] as i8),
        GgmlType::Iq4Nl => {
            let levels = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
            half_at(b, 0) * f64::from(levels[nibble(2) as usize])
        }
        GgmlType::Q2K => {
            let q = b[16 + 32 * half + byte] >> (2 * quarter) & 3;
            let group = b[i / 16];
            half_at(b, 80) * f64::from(group & 15) * f64::from(q) - half_at(b, 82) * f64::from(group >> 4)
        }
        GgmlType::Q3K => {
            let q = b[32 + 32 * half + byte] >> (2 * quarter) & 3 | (b[byte] >> (i / 32) & 1) << 2;
            let g = i / 16;
            let scale = b[96 + g % 8] >> (4 * (g / 8)) & 15 | (b[104 + g % 4] >> (2 * (g / 4)) & 3) << 4;
            half_at(b, 108) * (f64::from(scale) - 32.0) * (f64::from(q) - 4.0)
        }
        GgmlType::Q4K | GgmlType::Q5K => {
            let five = ty == GgmlType::Q5K;
            let at = if five { 48 } else { 16 };
            let q = b[at + i / 64 * 32 + byte] >> (4 * (i / 32 % 2)) & 15;
            let high = if five { b[16 + byte] >> (i / 32) & 1 } else { 0 };
            let (scale, minimum) = scale_and_minimum(&b[4..16], i / 32);
            half_at(b, 0) * scale * f64::from(q | high << 4) - half_at(b, 2) * minimum
        }
        GgmlType::Q6K => {
            let low = b[64 * half + i % 64] >> (4 * (i % 128 / 64)) & 15;
            let high = b[128 + 32 * half + byte] >> (2 * quarter) & 3;
            let scale = f64::from(b[192 + i / 16] as i8);
            half_at(b, 208) * scale * (f64::from(low | high << 4) - 32.0)
        }
    }
}

fn read_back(ty: GgmlType, x: &[f32]) -> Result<Vec<f64>, QuantizeError> {
    let mut bytes = vec![0xaa; ty.row_bytes(x.len()).unwrap()];
    quantize_row(ty, x, &mut bytes)?;
    let blocks = bytes.chunks_exact(ty.block_bytes());
    Ok(blocks.flat_map(|block| (0..ty.block_len()).map(move |i| element(ty, block, i))).collect())
}

/// ‖x − x̂‖/‖x‖.
fn relative_rms(x: &[f32], y: &[f64]) -> f64 {
    let (error, norm) = x.iter().zip(y).fold((0.0, 0.0), |(error, norm), (&x, y)| {
        let x = f64::from(x);
        (error + (x - y) * (x - y), norm + x * x)
    });
    (error / norm).sqrt()
}

/// Uniform in (0, 1), from a 64-bit linear congruential generator.
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    ((*state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

/// Standard normal numbers (Box and Muller).
fn gaussian(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        let (radius, angle) = (uniform(&mut state), uniform(&mut state));
        ((-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()) as f32
    };
    (0..len).map(|_| next()).collect()
}

/// Relative RMS error on Gaussian rows that each type may make: what it makes and 2 %.
const BOUNDS: [(GgmlType, f64); 14] = [
    (GgmlType::F32, 0.0),
    (GgmlType::F16, 0.000_213),
    (GgmlType::Bf16, 0.00171),
    (GgmlType::Q8_0, 0.00546),
    (GgmlType::Q6K, 0.0176),
    (GgmlType::Q5_1, 0.0339),
    (GgmlType::Q5K, 0.0349),
    (GgmlType::Q5_0, 0.0410),
    (GgmlType::Q4_1, 0.0705),
    (GgmlType::Q4K, 0.0708),
    (GgmlType::Iq4Nl, 0.0745),
    (GgmlType::Q4_0, 0.0818),
    (GgmlType::Q3K, 0.1460),
    (GgmlType::Q2K, 0.2653),
];

#[test]
fn error_on_gaussian_rows() {
    for (ty, bound) in BOUNDS {
        for scale in [1.0, 0.02, 300.0] {
            let x: Vec<f32> = gaussian(64 * 256, 7).iter().map(|v| v * scale).collect();
            let error = relative_rms(&x, &read_back(ty, &x).unwrap());
            assert!(error <= bound, "{ty} at scale {scale}: {error}");
        }
    }
}

#[test]
fn error_on_one_sided_and_spiked_rows() {
    for (ty, bound) in BOUNDS {
        let noise = gaussian(16 * 256, 3);
        let positive: Vec<f32> = noise.iter().map(|v| v.abs()).collect();
        let negative: Vec<f32> = noise.iter().map(|v| -v.abs()).collect();
        let spiked: Vec<f32> = noise.iter().enumerate().map(|(i, v)| if i % 77 == 0 { v * 20.0 } else { *v }).collect();
        // K-quants cannot lift a whole group above zero and centred types waste a sign, and a spike widens its whole block.
        for (x, what) in [(positive, "positive"), (negative, "negative"), (spiked, "spiked")] {
            let error = relative_rms(&x, &read_back(ty, &x).unwrap());
            assert!(error <= 2.5 * bound, "{ty} {what}: {error}");
        }
    }
}

#[test]
fn zeros_stay_zeros() {
    for ty in GgmlType::ALL {
        assert!(read_back(ty, &[0.0; 512]).unwrap().iter().all(|&y| y == 0.0), "{ty}");
        assert!(read_back(ty, &[-0.0; 256]).unwrap().iter().all(|&y| y == 0.0), "{ty}");
        // Zero but for one block, group or element.
        let mut x = [0.0f32; 512];
        x[300] = -3.0;
        let y = read_back(ty, &x).unwrap();
        assert!((y[300] + 3.0).abs() < 0.03, "{ty}: {}", y[300]);
        let spill = match ty {
            GgmlType::Iq4Nl => 0.05, // none of its levels is zero
            GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q2K | GgmlType::Q4K | GgmlType::Q5K => 0.005, // scale − offset
            _ => 0.0,
        };
        assert!(y.iter().enumerate().all(|(i, y)| i == 300 || y.abs() <= spill), "{ty}");
    }
}

#[test]
fn constants_come_back() {
    for ty in GgmlType::ALL {
        for value in [1.0f32, -1.0, 0.037, -1234.5] {
            let y = read_back(ty, &[value; 256]).unwrap();
            let worst = y.iter().map(|y| (y / f64::from(value) - 1.0).abs()).fold(0.0, f64::max);
            // An f16 scale; Q6_K's, 4096 times smaller than the values, is one of f16's subnormals.
            let bound = if matches!(ty, GgmlType::Bf16 | GgmlType::Q6K) { 0.004 } else { 0.001 };
            assert!(worst < bound, "{ty} {value}: {worst}");
        }
    }
}

#[test]
fn two_levels_come_back() {
    let x: Vec<f32> = (0..256).map(|i| if i * 7 % 13 < 5 { -0.5 } else { 0.25 }).collect();
    for ty in GgmlType::ALL {
        let error = relative_rms(&x, &read_back(ty, &x).unwrap());
        assert!(error < 0.06, "{ty}: {error}");
    }
}

#[test]
fn small_numbers_do_not_blow_up() {
    for ty in GgmlType::ALL {
        for scale in [f32::from_bits(1), 1e-38, 1e-20, 1e-9, 3e-8, 6e-8, 1e-7, 1e-6, 1e-5, 1e-4] {
            let x: Vec<f32> = gaussian(512, 11).iter().map(|v| v * scale).collect();
            let peak = x.iter().fold(0.0f32, |a, b| a.max(b.abs()));
            let y = read_back(ty, &x).unwrap();
            let worst = x.iter().zip(&y).map(|(&x, y)| (f64::from(x) - y).abs()).fold(0.0, f64::max);
            // Never worse than writing zeros, but for the grain of an f16 scale.
            assert!(worst <= f64::from(peak) * 1.01 + 2.0f64.powi(-24), "{ty} at {scale:e}: {worst:e} of {peak:e}");
        }
    }
}

#[test]
fn scales_below_f16s_normal_range_keep_the_largest_elements() {
    for ty in [GgmlType::Q8_0, GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q5_0, GgmlType::Q5_1] {
        for scale in [3e-6f32, 1e-5, 3e-5] {
            let x: Vec<f32> = gaussian(512, 5).iter().map(|v| v * scale).collect();
            let error = relative_rms(&x, &read_back(ty, &x).unwrap());
            assert!(error < 0.2, "{ty} at {scale:e}: {error}");
        }
    }
}

/// The largest magnitude that fits, and one that does not.
fn range(ty: GgmlType) -> Option<(f32, f32)> {
    let d = 65_504.0;
    match ty {
        GgmlType::F32 => None,
        GgmlType::F16 => Some((d, 65_520.0)),
        GgmlType::Bf16 => Some((3.38e38, f32::MAX)),
        GgmlType::Q4_0 => Some((d * 7.0, d * 9.0)),
        GgmlType::Q4_1 | GgmlType::Q5_1 => Some((d, d * 33.0)),
        GgmlType::Q5_0 => Some((d * 15.0, d * 17.0)),
        GgmlType::Q8_0 => Some((d * 127.0, d * 128.0)),
        GgmlType::Iq4Nl => Some((d * 113.0, d * 160.0)),
        GgmlType::Q2K => Some((d * 15.0, d * 50.0)),
        GgmlType::Q3K => Some((d * 32.0 * 3.0, d * 32.0 * 5.0)),
        GgmlType::Q4K => Some((d * 63.0, d * 63.0 * 17.0)),
        GgmlType::Q5K => Some((d * 63.0, d * 63.0 * 33.0)),
        GgmlType::Q6K => Some((d * 127.0 * 31.0, d * 129.0 * 33.0)),
    }
}

#[test]
fn numbers_past_the_range_are_refused_by_index() {
    for ty in GgmlType::ALL {
        let Some((fits, past)) = range(ty) else { continue };
        for sign in [1.0, -1.0] {
            let mut x = vec![0.0; 512];
            x[290] = sign * fits;
            let y = read_back(ty, &x).unwrap();
            assert!((y[290] / f64::from(x[290]) - 1.0).abs() < 0.03, "{ty}: {:e} became {:e}", x[290], y[290]);
            for value in [sign * past, sign * f32::MAX] {
                x[290] = value;
                assert_eq!(read_back(ty, &x), Err(QuantizeError::Overflow { ty, index: 290, value }), "{ty}");
            }
        }
    }
    assert_eq!(read_back(GgmlType::F32, &[f32::MAX]).unwrap(), [f64::from(f32::MAX)]);
}

#[test]
fn numbers_that_are_none_are_refused_by_index() {
    for ty in GgmlType::ALL {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1.0; 512];
            x[333] = value;
            let error = read_back(ty, &x).unwrap_err();
            assert!(
                matches!(error, QuantizeError::NotFinite { index: 333, value: v } if v.to_bits() == value.to_bits()),
                "{ty}: {error:?}"
            );
        }
    }
}

#[test]
fn lengths_are_checked() {
    for ty in GgmlType::ALL {
        let bytes = ty.row_bytes(256).unwrap();
        for found in [0, bytes - 1, bytes + 1] {
            let error = quantize_row(ty, &[0.0; 256], &mut vec![0; found]).unwrap_err();
            assert_eq!(error, QuantizeError::Output { ty, len: 256, expected: bytes, found });
        }
        if ty.block_len() > 1 {
            let error = quantize_row(ty, &[0.0; 255], &mut vec![0; bytes]).unwrap_err();
            assert_eq!(error, QuantizeError::Row { ty, found: 255 });
        }
        quantize_row(ty, &[], &mut []).unwrap();
    }
}

proptest! {
    #[test]
    fn no_row_panics_or_comes_back_wild(
        x in prop::collection::vec(prop_oneof![
            4 => -10f32..10.0,
            1 => any::<f32>(),
            1 => Just(0.0f32),
            1 => -1e6f32..1e6,
        ], 256),
    ) {
        for ty in GgmlType::ALL {
            match read_back(ty, &x) {
                Err(QuantizeError::NotFinite { index, .. }) => prop_assert!(!x[index].is_finite()),
                Err(QuantizeError::Overflow { index, value, .. }) => prop_assert_eq!(x[index], value),
                Err(other) => prop_assert!(false, "{other:?}"),
                // Nothing is further off than the largest element of its block is from zero.
                Ok(y) => {
                    for (x, y) in x.chunks(ty.block_len()).zip(y.chunks(ty.block_len())) {
                        let peak = x.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                        for (&x, y) in x.iter().zip(y) {
                            prop_assert!((f64::from(x) - y).abs() <= f64::from(peak) + 1e-7, "{ty}: {x:e} became {y:e}");
                        }
                    }
                }
            }
        }
    }
}
