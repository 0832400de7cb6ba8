//! Random storage blocks, and what each of their elements is, written from the format's definition one element at a time.
#![allow(dead_code)] // each test uses a part of it

use timbre::gguf::GgmlType;

/// A small deterministic generator (splitmix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform in -1..1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Where a block keeps its f16 scales.
fn half_offsets(ty: GgmlType) -> &'static [usize] {
    match ty {
        GgmlType::F32 => &[],
        GgmlType::F16 => &[0],
        GgmlType::Bf16 => &[],
        GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 | GgmlType::Iq4Nl => &[0],
        GgmlType::Q4_1 | GgmlType::Q5_1 => &[0, 2],
        GgmlType::Q2K => &[80, 82],
        GgmlType::Q3K => &[108],
        GgmlType::Q4K | GgmlType::Q5K => &[0, 2],
        GgmlType::Q6K => &[208],
    }
}

/// `elements` elements of random bytes, with finite numbers where a format keeps numbers.
pub fn random(ty: GgmlType, elements: usize, rng: &mut Rng) -> Vec<u8> {
    let mut data = vec![0u8; ty.row_bytes(elements).unwrap()];
    for block in data.chunks_exact_mut(ty.block_bytes()) {
        match ty {
            GgmlType::F32 => block.copy_from_slice(&rng.unit().to_le_bytes()),
            GgmlType::Bf16 => block.copy_from_slice(&rng.unit().to_le_bytes()[2..]),
            _ => block.fill_with(|| rng.next() as u8),
        }
        for &at in half_offsets(ty) {
            let half = half::f16::from_f32(rng.unit() * 0.1);
            block[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
    }
    data
}

/// Sets every byte of a quantised type's blocks to `byte`, but for the f16 scales, which become 1.
pub fn fill(ty: GgmlType, data: &mut [u8], byte: u8) {
    for block in data.chunks_exact_mut(ty.block_bytes()) {
        block.fill(byte);
        for &at in half_offsets(ty) {
            block[at..at + 2].copy_from_slice(&half::f16::ONE.to_le_bytes());
        }
    }
}

fn half(block: &[u8], at: usize) -> f64 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f64()
}

/// The 6-bit scale (`0`) or minimum (`1`) of group `g` of Q4_K and Q5_K: `packed` is 96 bits in which they lie scattered.
fn six_bits(packed: &[u8], which: usize, g: usize) -> f64 {
    let value = if g < 4 {
        packed[4 * which + g] & 63
    } else {
        let low = if which == 0 { packed[4 + g] & 15 } else { packed[4 + g] >> 4 };
        low | packed[4 * which + g - 4] >> 6 << 4
    };
    f64::from(value)
}

/// Element `i` of a block.
pub fn element(ty: GgmlType, block: &[u8], i: usize) -> f64 {
    let small_nibble = |at: usize| {
        let byte = block[at + i % 16];
        if i < 16 { byte & 15 } else { byte >> 4 }
    };
    let fifth = |at: usize| (block[at + i / 8] >> (i % 8) & 1) << 4;
    // Of the large blocks: element i is number l of run r of 32; 128 elements are half a block.
    let (r, l) = (i / 32, i % 32);
    let two = |at: usize| block[at + i / 128 * 32 + l] >> (2 * (r % 4)) & 3;
    let k_nibble = |at: usize| block[at + i / 64 * 32 + l] >> (4 * (r % 2)) & 15;
    let run_bit = |at: usize| block[at + l] >> r & 1;
    match ty {
        GgmlType::F32 => f64::from(f32::from_le_bytes(block.try_into().unwrap())),
        GgmlType::F16 => half(block, 0),
        GgmlType::Bf16 => {
            let bits = u32::from(u16::from_le_bytes([block[0], block[1]])) << 16;
            f64::from(f32::from_bits(bits))
        }
        GgmlType::Q4_0 => half(block, 0) * (f64::from(small_nibble(2)) - 8.0),
        GgmlType::Q4_1 => half(block, 0) * f64::from(small_nibble(4)) + half(block, 2),
        GgmlType::Q5_0 => half(block, 0) * (f64::from(small_nibble(6) | fifth(2)) - 16.0),
        GgmlType::Q5_1 => half(block, 0) * f64::from(small_nibble(8) | fifth(4)) + half(block, 2),
        GgmlType::Q8_0 => half(block, 0) * f64::from(block[2 + i] as i8),
        GgmlType::Iq4Nl => {
            let levels = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
            half(block, 0) * f64::from(levels[usize::from(small_nibble(2))])
        }
        GgmlType::Q2K => {
            let scale = block[i / 16];
            half(block, 80) * f64::from(scale & 15) * f64::from(two(16)) - half(block, 82) * f64::from(scale >> 4)
        }
        GgmlType::Q3K => {
            let g = i / 16;
            let low = if g < 8 { block[96 + g] & 15 } else { block[96 + g - 8] >> 4 };
            let high = block[104 + g % 4] >> (2 * (g / 4)) & 3;
            let q = f64::from(two(32)) - if run_bit(0) == 1 { 0.0 } else { 4.0 };
            half(block, 108) * (f64::from(low | high << 4) - 32.0) * q
        }
        GgmlType::Q4K => {
            half(block, 0) * six_bits(&block[4..16], 0, r) * f64::from(k_nibble(16))
                - half(block, 2) * six_bits(&block[4..16], 1, r)
        }
        GgmlType::Q5K => {
            let q = f64::from(k_nibble(48) | run_bit(16) << 4);
            half(block, 0) * six_bits(&block[4..16], 0, r) * q - half(block, 2) * six_bits(&block[4..16], 1, r)
        }
        GgmlType::Q6K => {
            let byte = block[i / 128 * 64 + i % 64];
            let low = if i % 128 < 64 { byte & 15 } else { byte >> 4 };
            let q = f64::from(low | two(128) << 4) - 32.0;
            half(block, 208) * f64::from(block[192 + i / 16] as i8) * q
        }
    }
}

/// Sets every f16 scale of a quantised type's blocks.
pub fn scales(ty: GgmlType, data: &mut [u8], scale: half::f16) {
    for block in data.chunks_exact_mut(ty.block_bytes()) {
        for &at in half_offsets(ty) {
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
}
