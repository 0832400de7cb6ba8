//! The first entries of `torch.randperm` on the CPU, without the rest of the permutation.
//!
//! PEFT stores no positions: it redraws them from a seed, so they must come out bit for bit as PyTorch draws them. Its
//! generator is the 32-bit Mersenne Twister (Matsumoto & Nishimura, 1998), its permutation one of two Fisher–Yates
//! shuffles, chosen by the number of elements.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

const STATE: usize = 624;
const SHIFT: usize = 397;

/// From this many elements up PyTorch shuffles inside out with 64-bit draws: `u32::MAX / 20`.
const INSIDE_OUT_FROM: u64 = (u32::MAX / 20) as u64;

/// The 32-bit Mersenne Twister, MT19937, seeded as PyTorch's CPU generator is.
#[derive(Clone)]
pub struct Mt19937 {
    state: [u32; STATE],
    next: usize,
}

impl Mt19937 {
    /// A generator for `torch.Generator().manual_seed(seed)`: only the low 32 bits of the seed count.
    pub fn new(seed: u64) -> Self {
        let mut state = [0u32; STATE];
        // The engine's seed is 32 bits wide; PyTorch truncates as this does.
        state[0] = seed as u32;
        for i in 1..STATE {
            let last = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: STATE }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == STATE {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// The next 64 random bits: the first 32-bit draw is the high word.
    pub fn next_u64(&mut self) -> u64 {
        let high = u64::from(self.next_u32());
        let low = u64::from(self.next_u32());
        (high << 32) | low
    }

    fn refill(&mut self) {
        fn twist(upper: u32, lower: u32, far: u32) -> u32 {
            let y = (upper & 0x8000_0000) | (lower & 0x7fff_ffff);
            far ^ (y >> 1) ^ if y & 1 == 1 { 0x9908_b0df } else { 0 }
        }
        let s = &mut self.state;
        for i in 0..STATE - SHIFT {
            s[i] = twist(s[i], s[i + 1], s[i + SHIFT]);
        }
        for i in STATE - SHIFT..STATE - 1 {
            s[i] = twist(s[i], s[i + 1], s[i + SHIFT - STATE]);
        }
        s[STATE - 1] = twist(s[STATE - 1], s[0], s[SHIFT - 1]);
        self.next = 0;
    }
}

/// The first `n` of `torch.randperm(len, generator=torch.Generator().manual_seed(seed))`, all of them if `n > len`.
///
/// Below 214 748 364 elements this takes `n` draws; from there up PyTorch shuffles inside out, where a late draw can
/// still move an early element, so it takes `len` draws. Memory is O(n) in both. `len` is at most
/// [`MAX_AREA`](super::MAX_AREA); a longer one yields the permutation of that many.
pub fn randperm_prefix(len: u64, n: usize, seed: u64) -> Vec<u32> {
    let len = len.min(super::MAX_AREA);
    let n = n.min(usize::try_from(len).unwrap_or(usize::MAX));
    let rng = Mt19937::new(seed);
    // `MAX_AREA` fits in 32 bits, so the casts below keep every bit.
    if len < INSIDE_OUT_FROM { forward(len as u32, n, rng) } else { inside_out(len as u32, n, rng) }
}

/// Fisher–Yates from the front on 32-bit draws; only displaced elements are remembered.
fn forward(len: u32, n: usize, mut rng: Mt19937) -> Vec<u32> {
    let mut moved: HashMap<u32, u32, BuildHasherDefault<Spread>> = HashMap::default();
    moved.reserve(n);
    (0..len)
        .take(n)
        .map(|i| {
            let here = moved.get(&i).copied().unwrap_or(i);
            // The last element has nothing to swap with, and PyTorch draws nothing for it.
            if i == len - 1 {
                return here;
            }
            let other = i + rng.next_u32() % (len - i);
            if other == i { here } else { moved.insert(other, here).unwrap_or(other) }
        })
        .collect()
}

/// Fisher–Yates from the inside out on 64-bit draws; only the first `n` slots are kept.
fn inside_out(len: u32, n: usize, mut rng: Mt19937) -> Vec<u32> {
    let mut slots: Vec<u32> = Vec::with_capacity(n);
    for i in 0..len {
        let z = (rng.next_u64() % (u64::from(i) + 1)) as usize;
        if slots.len() < n {
            // Slot `i` takes what slot `z` held; for `z == i` that is `i` itself, written below.
            slots.push(slots.get(z).copied().unwrap_or(i));
        }
        if let Some(slot) = slots.get_mut(z) {
            *slot = i;
        }
    }
    slots
}

/// A multiplicative hash: the keys are 32-bit positions that a random generator picked.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.0 = (self.0 ^ u64::from(value)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
