//! Random numbers that are the same on every platform.

/// SplitMix64 (Steele, Lea & Flood 2014): small, and every state a good one, so that a seed and a stream number are
/// all there is to remember of it.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The numbers of a seed's `stream`th stream.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut mixer = Self(seed);
        let key = mixer.next_u64();
        Self(key ^ Self(stream).next_u64().rotate_left(32))
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, all alike (Lemire 2019).
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below 0");
        let reject = bound.wrapping_neg() % bound;
        loop {
            let wide = u128::from(self.next_u64()) * u128::from(bound);
            // The low half decides whether the high half is fair.
            if wide as u64 >= reject {
                return (wide >> 64) as u64;
            }
        }
    }

    /// A number in [-bound, bound), all alike.
    pub fn symmetric(&mut self, bound: f64) -> f64 {
        ((self.next_u64() >> 11) as f64 / (1u64 << 52) as f64 - 1.0) * bound
    }

    /// A draw from N(0, 1) (Box & Muller 1958).
    pub fn normal(&mut self) -> f64 {
        // In (0, 1], whose logarithm is finite.
        let unit = ((self.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        let angle = (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        (-2.0 * unit.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    /// Puts `items` in random order (Fisher & Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_as_they_should_be() {
        let mut rng = Rng::new(3, 1);
        let mut counts = [0u32; 6];
        (0..60_000).for_each(|_| counts[rng.below(6) as usize] += 1);
        assert!(counts.iter().all(|c| c.abs_diff(10_000) < 400), "{counts:?}");
        let draws: Vec<f64> = (0..50_000).map(|_| rng.normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let square = draws.iter().map(|d| d * d).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.02 && (square - 1.0).abs() < 0.03, "{mean} {square}");
    }

    #[test]
    fn streams_and_seeds_differ() {
        let first = |seed, stream| Rng::new(seed, stream).next_u64();
        let all = [first(0, 0), first(0, 1), first(1, 0), first(1, 1), first(2, 0)];
        for (i, a) in all.iter().enumerate() {
            assert!(!all[..i].contains(a), "{all:?}");
        }
        assert_eq!(first(9, 9), first(9, 9));
    }
}
