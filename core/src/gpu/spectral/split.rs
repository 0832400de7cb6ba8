//! How an axis of any length becomes transforms that fit into workgroup memory.

use crate::gpu::{GpuError, GpuInfo};

/// Threads of a workgroup.
const THREADS: u32 = 256;

/// Below this many numbers a transform leaves most threads idle, and the sum itself is taken.
const LEAST: usize = 64;

/// Longest transform, whatever the memory: its factors must fit into [`STAGES`].
const LONGEST: usize = 1 << 14;

/// Most factors of a transform.
const STAGES: usize = 16;

/// Longest axis: products of its indices are taken modulo its length in 32 bits.
pub(super) const LONGEST_AXIS: usize = 1 << 22;

/// An axis of `len` as `parts` interleaved sequences of `n`.
#[derive(Debug, Clone)]
pub(super) struct Split {
    pub len: usize,
    pub n: usize,
    pub parts: usize,
    /// Whether the sum itself is taken: no part is both small enough to fit and large enough to be worth it.
    pub direct: bool,
    pub threads: u32,
    radices: Vec<u32>,
}

impl Split {
    /// The split of an output axis. Parts are taken in pairs, so that an even length has an even number of them; what is then
    /// odd stays odd.
    ///
    /// # Errors
    /// [`GpuError::Limit`] for an axis longer than [`LONGEST_AXIS`].
    pub fn of_output(len: usize, info: &GpuInfo) -> Result<Self, GpuError> {
        let least = if len.is_multiple_of(2) { 2 } else { 1 };
        Self::search(len, info, least)
    }

    /// The split of an input axis: two interleaved halves where that fits, and parts of any number where not.
    ///
    /// # Errors
    /// As [`of_output`](Self::of_output).
    pub fn of_input(len: usize, info: &GpuInfo) -> Result<Self, GpuError> {
        let halves = Self::of_output(len, info)?;
        if halves.parts == 2 { Ok(halves) } else { Self::search(len, info, 1) }
    }

    /// The fewest parts, a multiple of `least`, that fit.
    fn search(len: usize, info: &GpuInfo, least: usize) -> Result<Self, GpuError> {
        if len > LONGEST_AXIS {
            let what = "an axis of a weight change".to_owned();
            return Err(GpuError::Limit { what, needed: len as u64, max: LONGEST_AXIS as u64 });
        }
        // Two copies of eight bytes a number.
        let fits = (info.max_shared as usize / 16).min(LONGEST);
        let divides = |parts: &usize| len.is_multiple_of(*parts) && len / parts <= fits;
        let parts = (least..=len).step_by(least).find(divides).unwrap_or(len);
        let n = len / parts;
        let direct = parts > 2 && n < LEAST;
        Ok(Self { len, n, parts, direct, threads: THREADS.min(info.max_threads), radices: factors(n) })
    }

    /// Constants that `fft.wgsl` takes.
    pub fn constants(&self) -> Vec<(&'static str, f64)> {
        vec![
            ("N", self.n as f64),
            ("DOUBLE", 2.0 * self.n as f64),
            ("THREADS", f64::from(self.threads)),
            ("LEN", self.len as f64),
            ("PARTS", self.parts as f64),
        ]
    }

    /// `N` roots of unity and then `LEN` of them: the first tables of `fft.wgsl`.
    pub fn tables(&self) -> Vec<[f32; 2]> {
        let mut tables = roots(self.n);
        tables.extend(roots(self.len));
        tables
    }

    /// Parameters with the factors filled in.
    pub fn params(&self) -> Params {
        let mut radices = [0; STAGES];
        radices[..self.radices.len()].copy_from_slice(&self.radices);
        Params { radices, stages: self.radices.len() as u32, ..Params::default() }
    }
}

/// `Params` of `fft.wgsl`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Params {
    radices: [u32; STAGES],
    stages: u32,
    pub first: u32,
    pub coefficients: u32,
    pub entries: u32,
    pub origin: u32,
    pub rows: u32,
}

impl Params {
    /// As the shader sees it.
    pub fn words(&self) -> [u32; STAGES + 8] {
        let mut words = [0; STAGES + 8];
        words[..STAGES].copy_from_slice(&self.radices);
        let rest = [self.stages, self.first, self.coefficients, self.entries, self.origin, self.rows];
        words[STAGES..STAGES + rest.len()].copy_from_slice(&rest);
        words
    }
}

/// `e^{2πi t/n}` for t below n, rounded from f64.
pub(super) fn roots(n: usize) -> Vec<[f32; 2]> {
    let root = |t: usize| {
        let angle = std::f64::consts::TAU * t as f64 / n as f64;
        [angle.cos() as f32, angle.sin() as f32]
    };
    (0..n).map(root).collect()
}

/// `n` as factors that `fft.wgsl` has butterflies for, and primes.
fn factors(mut n: usize) -> Vec<u32> {
    let mut factors = Vec::new();
    for radix in [8, 4, 2, 5, 3] {
        while n.is_multiple_of(radix) && n > 1 {
            factors.push(radix as u32);
            n /= radix;
        }
    }
    let mut prime = 7;
    while n > 1 {
        if prime * prime > n {
            prime = n;
        }
        while n.is_multiple_of(prime) {
            factors.push(prime as u32);
            n /= prime;
        }
        prime += 2;
    }
    factors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_multiply_to_the_length() {
        for n in (1..3000).chain([4099, 8191, 16384]) {
            let factors = factors(n);
            assert_eq!(factors.iter().map(|f| *f as usize).product::<usize>(), n);
            assert!(factors.len() <= STAGES, "{n}: {factors:?}");
        }
        assert_eq!(factors(2048), [8, 8, 8, 4]);
        assert_eq!(factors(2 * 3 * 7 * 11), [2, 3, 7, 11]);
    }
}
