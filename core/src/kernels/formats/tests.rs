//! Blocks worked out by hand from the format's definition.

use super::*;

/// 0.5, -2 and 1 as little-endian f16.
const HALF: [u8; 2] = [0x00, 0x38];
const MINUS_TWO: [u8; 2] = [0x00, 0xc0];
const ONE: [u8; 2] = [0x00, 0x3c];

/// Decodes one block put together from `parts`.
fn decode(ty: GgmlType, parts: &[&[u8]]) -> Vec<f32> {
    let block = parts.concat();
    assert_eq!(block.len(), ty.block_bytes());
    let mut out = vec![f32::NAN; ty.block_len()];
    dequantize(ty, &block, &mut out).unwrap();
    out
}

/// `len` bytes, zero but for those given with their position.
fn bytes(len: usize, set: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for &(at, value) in set {
        bytes[at] = value;
    }
    bytes
}

/// Checks the elements given and that all others are `rest`.
fn check(out: &[f32], set: &[(usize, f32)], rest: f32) {
    for (i, &value) in out.iter().enumerate() {
        let expected = set.iter().find(|(at, _)| *at == i).map_or(rest, |(_, v)| *v);
        assert_eq!(value, expected, "element {i}");
    }
}

#[test]
fn plain_numbers() {
    assert_eq!(decode(GgmlType::F32, &[&1.5f32.to_le_bytes()]), [1.5]);
    assert_eq!(decode(GgmlType::F16, &[&MINUS_TWO]), [-2.0]);
    assert_eq!(decode(GgmlType::Bf16, &[&[0x40, 0xc0]]), [-3.0]);
}

#[test]
fn every_half_precision_number() {
    for bits in 0..=u16::MAX {
        let expected = half::f16::from_bits(bits).to_f32();
        let value = plain::f16_to_f32(bits);
        let same = value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan();
        assert!(same, "{bits:#06x}: {value} instead of {expected}");
    }
}

#[test]
fn q4_0() {
    // Byte 0: element 0 is 10 − 8, element 16 is 9 − 8; byte 15: element 15 is 0 − 8, element 31 is 15 − 8.
    let nibbles = bytes(16, &[(0, 0x9a), (15, 0xf0)]);
    let out = decode(GgmlType::Q4_0, &[&HALF, &nibbles]);
    check(&out, &[(0, 1.0), (16, 0.5), (31, 3.5)], -4.0);
}

#[test]
fn q4_1() {
    let nibbles = bytes(16, &[(0, 0x9a), (15, 0xf0)]);
    let out = decode(GgmlType::Q4_1, &[&HALF, &MINUS_TWO, &nibbles]);
    check(&out, &[(0, 3.0), (16, 2.5), (31, 5.5)], -2.0);
}

#[test]
fn q5_0() {
    // High bits of elements 1 and 16: 16 + 0 − 16 and 16 + 9 − 16.
    let high = 1u32 << 1 | 1 << 16;
    let nibbles = bytes(16, &[(0, 0x9a)]);
    let out = decode(GgmlType::Q5_0, &[&HALF, &high.to_le_bytes(), &nibbles]);
    check(&out, &[(0, -3.0), (1, 0.0), (16, 4.5)], -8.0);
}

#[test]
fn q5_1() {
    let high = 1u32 << 1 | 1 << 31;
    let nibbles = bytes(16, &[(0, 0x9a)]);
    let out = decode(GgmlType::Q5_1, &[&HALF, &MINUS_TWO, &high.to_le_bytes(), &nibbles]);
    check(&out, &[(0, 3.0), (1, 6.0), (16, 2.5), (31, 6.0)], -2.0);
}

#[test]
fn q8_0() {
    let lanes = bytes(32, &[(0, 0x80), (1, 0x7f), (31, 0xff)]);
    let out = decode(GgmlType::Q8_0, &[&HALF, &lanes]);
    check(&out, &[(0, -64.0), (1, 63.5), (31, -0.5)], 0.0);
}

#[test]
fn iq4_nl() {
    // Nibbles 15 and 8 of element 0 and 16: levels 113 and 1; nibble 0 is level −127.
    let nibbles = bytes(16, &[(0, 0x8f)]);
    let out = decode(GgmlType::Iq4Nl, &[&HALF, &nibbles]);
    check(&out, &[(0, 56.5), (16, 0.5)], -63.5);
}

#[test]
fn q2_k() {
    // Group 0: scale 2, minimum 0. Group 9, elements 144..160: scale 3, minimum 1.
    let scales = bytes(16, &[(0, 0x02), (9, 0x13)]);
    // Byte 0: elements 0, 32, 64, 96 are 3, 2, 1, 0. Byte 48 is the 17th of the second half: element 144 is 1.
    let pairs = bytes(64, &[(0, 0b00_01_10_11), (48, 0b01)]);
    let out = decode(GgmlType::Q2K, &[&scales, &pairs, &HALF, &ONE]);
    let mut expected = vec![(0, 3.0), (144, 0.5)];
    expected.extend((145..160).map(|i| (i, -1.0)));
    check(&out, &expected, 0.0);
}

#[test]
fn q3_k() {
    // All third bits set, so lanes are 0..3, but for elements 0 and 224 (byte 0, bits 0 and 7).
    let mut high = vec![0xff; 32];
    high[0] = 0b0111_1110;
    let pairs = bytes(64, &[(0, 0b01)]);
    // Group 0 (elements 0..16): low bits 1, high 3: 49 − 32 = 17. Group 14 (224..240): low bits 2, high 2: 34 − 32 = 2.
    // All others are 0 − 32, times lanes of 0.
    let scales = bytes(12, &[(0, 0x01), (6, 0x20), (8, 0b0000_0011), (10, 0b1000_0000)]);
    let out = decode(GgmlType::Q3K, &[&high, &pairs, &scales, &HALF]);
    check(&out, &[(0, 17.0 * 0.5 * -3.0), (224, 2.0 * 0.5 * -4.0)], 0.0);
}

/// Group 1: scale 3, minimum 5. Group 6: scale 33, minimum 18.
fn packed_scales_and_minima() -> Vec<u8> {
    // 33 = 2·16 + 1 and 18 = 1·16 + 2: low nibbles 1 and 2 in byte 10, upper bits 2 and 1 at the top of bytes 2 and 6.
    bytes(12, &[(1, 3), (5, 5), (10, 0x21), (2, 0b1000_0000), (6, 0b0100_0000)])
}

/// The minima of [`packed_scales_and_minima`] with `dmin` 1, less the elements listed.
fn with_minima(set: &[(usize, f32)]) -> Vec<(usize, f32)> {
    let minima = (32..64).map(|i| (i, -5.0)).chain((192..224).map(|i| (i, -18.0)));
    set.iter().copied().chain(minima).collect()
}

#[test]
fn q4_k() {
    // Byte 0 holds elements 0 and 32, byte 96 holds 192 and 224.
    let nibbles = bytes(128, &[(0, 0x47), (96, 0xf2)]);
    let packed = packed_scales_and_minima();
    let out = decode(GgmlType::Q4K, &[&HALF, &ONE, &packed, &nibbles]);
    check(&out, &with_minima(&[(32, 0.5 * 3.0 * 4.0 - 5.0), (192, 0.5 * 33.0 * 2.0 - 18.0)]), 0.0);
}

#[test]
fn q5_k() {
    let nibbles = bytes(128, &[(0, 0x47), (96, 0xf2)]);
    // Byte 0, bits 1 and 6: the fifth bits of elements 32 and 192.
    let high = bytes(32, &[(0, 0b0100_0010)]);
    let packed = packed_scales_and_minima();
    let out = decode(GgmlType::Q5K, &[&HALF, &ONE, &packed, &high, &nibbles]);
    check(&out, &with_minima(&[(32, 0.5 * 3.0 * 20.0 - 5.0), (192, 0.5 * 33.0 * 18.0 - 18.0)]), 0.0);
}

#[test]
fn q6_k() {
    // Byte 0: elements 0 and 64. Byte 64 + 33: elements 161 and 225.
    let low = bytes(128, &[(0, 0x47), (97, 0x9a)]);
    // Bit pairs of elements 0 (3) and 64 (1); of 161 (2) and 225 (3).
    let high = bytes(64, &[(0, 0b00_01_00_11), (33, 0b11_00_10_00)]);
    // Scales of the groups of 0, 64, 161 and 225.
    let scales = bytes(16, &[(0, 2), (4, 0xff), (10, 4), (14, 1)]);
    let out = decode(GgmlType::Q6K, &[&low, &high, &scales, &HALF]);
    let mut expected =
        vec![(0, 55.0 - 32.0), (64, -0.5 * (20.0 - 32.0)), (161, 2.0 * (42.0 - 32.0)), (225, 0.5 * (57.0 - 32.0))];
    // The rest of those groups is lane 0, centred on 32.
    expected.extend((1..16).map(|i| (i, -32.0)));
    expected.extend((65..80).map(|i| (i, 16.0)));
    expected.extend((160..176).map(|i| (i, -64.0)));
    expected.extend((224..240).map(|i| (i, -16.0)));
    check(&out, &expected, 0.0);
}

#[test]
fn sizes_are_checked() {
    let mut out = [0.0; 33];
    assert!(matches!(dequantize(GgmlType::Q4_0, &[0; 18], &mut out), Err(KernelError::Shape { cols: 33, .. })));
    assert!(matches!(
        dequantize(GgmlType::Q4_0, &[0; 17], &mut out[..32]),
        Err(KernelError::Length { expected: 18, found: 17, .. })
    ));
}
