//! The formats of 32-element blocks, eight of which are a step.

use std::arch::x86_64::*;

use super::{Bits, Numbers, Turned, Unpack, interleave, nibble, unpack};
use crate::kernels::formats::{Iq4Nl, LEVELS, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};

/// Where the last 64 bytes begin that end with the 16 at offset `at` of the last of four blocks.
const fn last_load(bytes: usize, at: usize) -> usize {
    3 * bytes + at + 16 - 64
}

/// Where the first 64 bytes begin that hold the 16 at offset `at` of two blocks: at the first block if that will do, so that loads
/// serve several purposes.
const fn first_load(bytes: usize, at: usize) -> usize {
    (bytes + at + 16).saturating_sub(64)
}

/// Where the word at `offset` of four blocks lies in the 64 bytes from `first` on or, from index 32 on, in those from `last` on.
const fn word(offset: usize, first: usize, last: usize) -> i16 {
    (if offset >= first && offset + 2 <= first + 64 { (offset - first) / 2 } else { 32 + (offset - last) / 2 }) as i16
}

/// Indices of the words of 16 bytes at offset `at` of each of four blocks of `bytes` bytes.
const fn chunk_words(bytes: usize, at: usize, first: usize, last: usize) -> [i16; 32] {
    let mut index = [0; 32];
    let mut i = 0;
    while i < 32 {
        index[i] = word(i / 8 * bytes + at + i % 8 * 2, first, last);
        i += 1;
    }
    index
}

/// The words that `index` names in the 64 bytes at `p` from `first` on and from `last` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn words(p: *const u8, index: &[i16; 32], first: usize, last: usize) -> __m512i {
    // SAFETY: the caller promises 64 bytes at both places; the index is 64 bytes.
    unsafe {
        let load = |at: usize| _mm512_loadu_si512(p.add(at).cast());
        _mm512_permutex2var_epi16(load(first), _mm512_loadu_si512(index.as_ptr().cast()), load(last))
    }
}

/// The numbers of eight blocks, two half-precision ones each in the lower half of `heads`.
#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(heads: __m512i) -> Numbers {
    Numbers::Pairs(_mm512_cvtph_ps(_mm512_castsi512_si256(heads)))
}

/// The leading f16s of eight blocks of 34 bytes, each twice: of each half of the step words 0 and 17, and 6 and 23 from byte 56 on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn heads_34(p: *const u8) -> Numbers {
    let half = |p: *const u8| {
        // SAFETY: the caller promises eight blocks, of whose halves, 136 bytes, 120 are read; the loads are those of the lanes.
        let (low, high) = unsafe { (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(56).cast())) };
        _mm512_mask_blend_epi16(1 << 6 | 1 << 23, low, high)
    };
    let index = _mm512_castsi256_si512(_mm256_setr_epi16(0, 0, 32, 32, 17, 17, 49, 49, 6, 6, 38, 38, 23, 23, 55, 55));
    pairs(_mm512_permutex2var_epi16(half(p), index, half(p.wrapping_add(136))))
}

/// As [`heads_34`] for blocks of 18 bytes: words 0, 9, 18 and 27 of each half of the step.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn heads_18(p: *const u8) -> Numbers {
    // SAFETY: the caller promises eight blocks, 144 bytes, of which bytes 0..64 and 72..136 are read.
    let (low, high) = unsafe { (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(72).cast())) };
    let index = _mm512_castsi256_si512(_mm256_setr_epi16(0, 0, 32, 32, 9, 9, 41, 41, 18, 18, 50, 50, 27, 27, 59, 59));
    pairs(_mm512_permutex2var_epi16(low, index, high))
}

/// Scales and offsets of eight blocks of 20 bytes: words of 32 bits 0, 5, 10 and 15 of each half of the step.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn heads_20(p: *const u8) -> Numbers {
    // SAFETY: the caller promises eight blocks, 160 bytes, of which bytes 0..64 and 80..144 are read.
    let (low, high) = unsafe { (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(80).cast())) };
    let index = _mm512_castsi256_si512(_mm256_setr_epi32(0, 16, 5, 21, 10, 26, 15, 31));
    pairs(_mm512_permutex2var_epi32(low, index, high))
}

/// The 16 bytes at offset `AT` of each of four blocks of `BYTES` bytes, from block `4 · half` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn chunks<const BYTES: usize, const AT: usize>(p: *const u8, half: usize) -> __m512i {
    let (first, last) = const { (first_load(BYTES, AT), last_load(BYTES, AT)) };
    let index = const { &chunk_words(BYTES, AT, first_load(BYTES, AT), last_load(BYTES, AT)) };
    // SAFETY: the caller promises eight blocks and half < 2.
    unsafe { words(p.add(4 * half * BYTES), index, first, last) }
}

/// The nibbles of vector `i` of eight blocks whose 16 bytes of them lie at offset `AT`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn nibbles<B: Bits, const BYTES: usize, const AT: usize>(p: *const u8, i: usize) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe {
        let both = interleave([chunks::<BYTES, AT>(p, 0), chunks::<BYTES, AT>(p, 1)], i % 2 == 1);
        if i < 2 { _mm512_and_si512(both, _mm512_set1_epi8(0x0f)) } else { B::high_nibbles(both) }
    }
}

/// The nibbles of four columns of the blocks' 16 bytes turned round.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn nibble_columns(turned: &Turned, block: usize, four: usize) -> __m512i {
    nibble(turned[block / 4][block % 4 * 4 + four % 4], four >= 4)
}

/// Indices of the words of fifth bits, which end at offset `at` of each of four blocks, and of the words that the block begins with: its first two where
/// `paired`, or the first twice. Both are in each eight bytes of 16.
const fn five_bit_words(bytes: usize, at: usize, paired: bool, last: usize) -> [i16; 32] {
    let mut index = [0; 32];
    let mut i = 0;
    while i < 32 {
        let offset = match i % 4 {
            2 => 0,
            3 => 2 * paired as usize,
            bits => at - 4 + 2 * bits,
        };
        index[i] = word(i / 8 * bytes + offset, 0, last);
        i += 1;
    }
    index
}

/// The fifth bits and the heads of eight blocks whose nibbles lie at offset `AT`, four bytes each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn fifths_and_heads<const BYTES: usize, const AT: usize>(p: *const u8) -> __m512i {
    let last = const { last_load(BYTES, AT) };
    // Of two f16s before the bits the second is an offset.
    let index = const { &five_bit_words(BYTES, AT, AT - 4 == 4, last_load(BYTES, AT)) };
    // SAFETY: the caller promises eight blocks; the loads are those of the nibbles.
    unsafe { interleave([words(p, index, 0, last), words(p.add(4 * BYTES), index, 0, last)], false) }
}

/// The numbers of eight blocks with fifth bits: the leading f16 twice, or with the offset after it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn heads_of_five<const BYTES: usize, const AT: usize>(p: *const u8) -> Numbers {
    let index = _mm512_castsi256_si512(_mm256_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15));
    // SAFETY: the caller promises eight blocks.
    pairs(_mm512_permutexvar_epi32(index, unsafe { fifths_and_heads::<BYTES, AT>(p) }))
}

/// As [`nibbles`], with the fifth bits that lie in the four bytes before them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn five_bits<B: Bits, const BYTES: usize, const AT: usize>(p: *const u8, i: usize) -> __m512i {
    // SAFETY: the caller promises eight blocks and i < 4.
    unsafe {
        let (nibbles, bits) = (nibbles::<B, BYTES, AT>(p, i), fifths_and_heads::<BYTES, AT>(p));
        match i {
            0 => B::with_fifth::<0>(nibbles, bits),
            1 => B::with_fifth::<8>(nibbles, bits),
            2 => B::with_fifth::<16>(nibbles, bits),
            _ => B::with_fifth::<24>(nibbles, bits),
        }
    }
}

/// What lanes with fifth bits lie in: the nibbles' bytes of both halves of the step, then the bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn five_bit_bytes<const BYTES: usize, const AT: usize>(p: *const u8, i: usize) -> __m512i {
    // SAFETY: the caller promises eight blocks.
    unsafe { if i < 2 { chunks::<BYTES, AT>(p, i) } else { fifths_and_heads::<BYTES, AT>(p) } }
}

/// As [`nibble_columns`], with fifth bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn five_bit_columns(turned: &Turned, block: usize, four: usize) -> __m512i {
    // Where the block is in the order that interleaving gives; its heads are the word after its bits.
    let bits = turned[2][2 * (2 * (block % 4) + block / 4)];
    let byte = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
    let bits = _mm512_shuffle_epi8(bits, _mm512_add_epi8(byte, _mm512_set1_epi8((four / 2) as i8)));
    let set = _mm512_test_epi8_mask(bits, _mm512_set1_epi32(0x0804_0201 << (4 * (four % 2))));
    let low = nibble_columns(turned, block, four);
    _mm512_mask_add_epi8(low, set, low, _mm512_set1_epi8(16))
}

/// IQ4_NL's levels, as unsigned lanes, of nibbles.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn levels(nibbles: __m512i) -> __m512i {
    // SAFETY: there are 16 levels.
    let levels = unsafe { _mm_loadu_si128(LEVELS.as_ptr().cast()) };
    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_xor_si128(levels, _mm_set1_epi8(-128))), nibbles)
}

/// Q8_0's lanes of four blocks, from block `4 · half` on: the first 16 of each, or the second.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn unsigned_chunks(p: *const u8, half: usize, second: bool) -> __m512i {
    // SAFETY: the caller promises eight blocks and half < 2.
    let signed = unsafe { if second { chunks::<34, 18>(p, half) } else { chunks::<34, 2>(p, half) } };
    _mm512_xor_si512(signed, _mm512_set1_epi8(-128))
}

unpack! {
    Q4_0, 32 columns in 2 vectors, centred: 8,
    numbers: |p| heads_18(p),
    lanes: |p, i| nibbles::<B, 18, 2>(p, i),
    bytes: |p, i| chunks::<18, 2>(p, i),
    columns: |turned, block, four| nibble_columns(turned, block, four),
}
unpack! {
    Q4_1, 32 columns in 2 vectors, offset: 1.0,
    numbers: |p| heads_20(p),
    lanes: |p, i| nibbles::<B, 20, 4>(p, i),
    bytes: |p, i| chunks::<20, 4>(p, i),
    columns: |turned, block, four| nibble_columns(turned, block, four),
}
unpack! {
    Q5_0, 32 columns in 3 vectors, centred: 16,
    numbers: |p| heads_of_five::<22, 6>(p),
    lanes: |p, i| five_bits::<B, 22, 6>(p, i),
    bytes: |p, i| five_bit_bytes::<22, 6>(p, i),
    columns: |turned, block, four| five_bit_columns(turned, block, four),
}
unpack! {
    Q5_1, 32 columns in 3 vectors, offset: 1.0,
    numbers: |p| heads_of_five::<24, 8>(p),
    lanes: |p, i| five_bits::<B, 24, 8>(p, i),
    bytes: |p, i| five_bit_bytes::<24, 8>(p, i),
    columns: |turned, block, four| five_bit_columns(turned, block, four),
}
unpack! {
    Q8_0, 32 columns in 4 vectors, centred: 128,
    numbers: |p| heads_34(p),
    lanes: |p, i| interleave([unsigned_chunks(p, 0, i >= 2), unsigned_chunks(p, 1, i >= 2)], i % 2 == 1),
    bytes: |p, i| unsigned_chunks(p, i / 2, i % 2 == 1),
    columns: |turned, block, four| turned[block / 4 * 2 + four / 4][block % 4 * 4 + four % 4],
}
unpack! {
    Iq4Nl, 32 columns in 2 vectors, centred: 128,
    numbers: |p| heads_18(p),
    lanes: |p, i| levels(nibbles::<B, 18, 2>(p, i)),
    bytes: |p, i| chunks::<18, 2>(p, i),
    columns: |turned, block, four| levels(nibble_columns(turned, block, four)),
}
