//! What this machine can do at most, measured: how fast its memory is read and how fast the kernels' own instruction
//! multiplies. Rates of the products are only worth something beside these.

use std::time::{Duration, Instant};

use super::lead::Lead;
use super::prefetch::ask;
use super::{Aligned, Compute, Pool, Tier};

/// Bytes read for [`read_bandwidth`]: past the last-level cache that a process gets on the machines this runs on.
const BUFFER: usize = 256 << 20;
/// Bytes of one task: many for each thread, so that one that was held up leaves its share to the others.
const CHUNK: usize = 1 << 20;
/// How long each ceiling is measured. The best round counts, for what disturbs a round only ever slows it.
const BUDGET: Duration = Duration::from_millis(250);
const MIN_ROUNDS: usize = 3;
/// Least length of a round that is nothing but arithmetic, in seconds: long beside the start of a job.
const ROUND: f64 = 0.003;

/// Bytes a second that the threads of `pool` read together, from a buffer of 256 MiB that no cache holds, in huge pages where the
/// system has them: each thread adds up consecutive chunks of 1 MiB, with vectors as wide as the CPU has, asking for lines ahead, at two distances, or
/// leaving that to the CPU. The best of several rounds of each; takes about a second.
///
/// A product with one activation row reads every weight once and does little with it, so this bounds decoding of models that
/// are larger than the caches. Part of a smaller model stays in the last-level cache from one token to the next, and its share
/// can exceed 1.
pub fn read_bandwidth(pool: &Pool) -> f64 {
    let words = BUFFER / size_of::<u64>();
    let mut buffer = Aligned::huge(words).unwrap_or_else(|| Aligned::new(words));
    // Written, not only reserved: pages never written are all the one page of zeros.
    buffer.fill(1u64);
    let chunks: Vec<&[u64]> = buffer.chunks(CHUNK / size_of::<u64>()).collect();
    let lead = Lead::new(pool.threads());
    let seconds = [0, lead.first, lead.furthest()].map(|ahead| {
        best_round(|| {
            pool.run(chunks.len(), &|i| {
                std::hint::black_box(add_up(chunks[i], ahead));
            });
        })
    });
    BUFFER as f64 / seconds.into_iter().fold(f64::INFINITY, f64::min)
}

/// Operations a second of int8 multiply-adds on the threads of `compute`, a multiplication and an addition counted as one
/// each: the instructions its tier is built on, on registers alone. The best of several rounds; takes about a quarter of a second.
///
/// | tier | instructions |
/// |---|---|
/// | AVX-512 | `vpdpbusd`, 64 products each |
/// | AVX2 | `vpmaddubsw`, `vpmaddwd`, `vpaddd`: 32 products |
/// | NEON | `sdot`, 16 products; without it `smull`, `smull2` and two `sadalp` |
/// | scalar, reference | what the compiler makes of the plain loop; the reference tier itself computes in f32 |
///
/// Activations have two planes of int8 (see [`Activations`](super::Activations)), so a product of `m` rows with r × c weights,
/// 2·m·r·c operations by the usual count, takes twice as many here: no more than half of this rate can be reached on int8 tiers.
pub fn int8_rate(compute: &Compute) -> f64 {
    let tier = compute.tier();
    // Several tasks a thread, as above.
    let tasks = 8 * compute.threads();
    let round = |passes| compute.pool().run(tasks, &|_| multiply_add(tier, passes));
    let mut passes = 1 << 6;
    while passes < 1 << 20 && timed(|| round(passes)) < ROUND {
        passes *= 2;
    }
    let seconds = best_round(|| round(passes));
    2.0 * PRODUCTS as f64 * (passes * tasks) as f64 / seconds
}

/// The shortest of at least [`MIN_ROUNDS`] rounds that take [`BUDGET`] together, in seconds; a first one is not counted.
fn best_round(round: impl Fn()) -> f64 {
    round();
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    let mut rounds = 0;
    while rounds < MIN_ROUNDS || begin.elapsed() < BUDGET {
        best = best.min(timed(&round));
        rounds += 1;
    }
    best
}

/// Seconds that a round takes. A clock that did not tick counts as a nanosecond, so that rates stay finite.
fn timed(round: impl Fn()) -> f64 {
    let begin = Instant::now();
    round();
    begin.elapsed().as_secs_f64().max(1e-9)
}

#[inline(always)]
fn add_up_body<const FUSED: bool>(words: &[u64], ahead: usize) -> u64 {
    let mut sums = [0u64; 64];
    let (groups, rest) = words.as_chunks::<64>();
    for group in groups {
        if ahead > 0 {
            for line in group.as_chunks::<8>().0 {
                ask(line.as_ptr().cast::<u8>().wrapping_add(ahead));
            }
        }
        for (sum, word) in sums.iter_mut().zip(group) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().chain(rest).fold(0, |a, &b| a.wrapping_add(b))
}

multiversion! {
    /// The sum of the words, modulo 2⁶⁴; eight or more independent vectors keep many reads in flight. What lies `ahead` bytes further is asked
    /// for, unless that is 0.
    add_up, add_up_body(words: &[u64], ahead: usize) -> u64
}

/// Products of int8 pairs in one pass of [`multiply_add`].
const PRODUCTS: usize = 1024;

/// `passes` times [`PRODUCTS`] products, added to independent sums, with the instructions of `tier`, which the CPU runs.
fn multiply_add(tier: Tier, passes: usize) {
    match tier {
        // SAFETY: a `Compute` of this tier exists, so the CPU runs it.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => unsafe { x86::avx512(passes) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => unsafe { x86::avx2(passes) },
        #[cfg(target_arch = "aarch64")]
        Tier::Neon if std::arch::is_aarch64_feature_detected!("dotprod") => {
            // SAFETY: as above, and the CPU has the dot product.
            unsafe { arm::sdot(passes) }
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Tier::Neon => unsafe { arm::widening(passes) },
        _ => portable(passes),
    }
}

fn portable(passes: usize) {
    const LANES: usize = 256;
    let (a, b) = ([3i8; LANES], [5i8; LANES]);
    for _ in 0..passes * (PRODUCTS / LANES) {
        // The operands could have changed, so that no pass is the same as the last.
        let (a, b) = (std::hint::black_box(&a), std::hint::black_box(&b));
        std::hint::black_box(a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum::<i32>());
    }
}

/// Assembly, for a compiler that sees through the instructions would take products that never change out of the loop.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;

    use super::PRODUCTS;

    /// Sixteen sums: the instruction's latency is 4 to 5 cycles and up to two start in each.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn avx512(passes: usize) {
        let (a, b) = (_mm512_set1_epi8(3), _mm512_set1_epi8(5));
        let mut sums = [_mm512_setzero_si512(); PRODUCTS / 64];
        for _ in 0..passes {
            for sum in &mut sums {
                // SAFETY: reads and writes the named registers only; the instruction is part of the enabled features.
                unsafe {
                    asm!(
                        "vpdpbusd {sum}, {a}, {b}",
                        sum = inout(zmm_reg) *sum,
                        a = in(zmm_reg) a,
                        b = in(zmm_reg) b,
                        options(nomem, nostack, preserves_flags),
                    );
                }
            }
        }
        std::hint::black_box(&sums);
    }

    /// Eight sums, and registers left for the products.
    #[target_feature(enable = "avx2")]
    pub fn avx2(passes: usize) {
        let (a, b, ones) = (_mm256_set1_epi8(3), _mm256_set1_epi8(5), _mm256_set1_epi16(1));
        let mut sums = [_mm256_setzero_si256(); 8];
        for _ in 0..passes * (PRODUCTS / (8 * 32)) {
            for sum in &mut sums {
                // SAFETY: reads and writes the named registers only; the instructions are part of the enabled features.
                unsafe {
                    asm!(
                        "vpmaddubsw {products}, {a}, {b}",
                        "vpmaddwd {products}, {products}, {ones}",
                        "vpaddd {sum}, {sum}, {products}",
                        sum = inout(ymm_reg) *sum,
                        products = out(ymm_reg) _,
                        a = in(ymm_reg) a,
                        b = in(ymm_reg) b,
                        ones = in(ymm_reg) ones,
                        options(nomem, nostack, preserves_flags),
                    );
                }
            }
        }
        std::hint::black_box(&sums);
    }
}

/// Assembly for the reason above, and because the intrinsics of the dot product are not stable.
#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;
    use std::arch::asm;

    use super::PRODUCTS;

    /// Sixteen sums: the instruction's latency is 3 to 4 cycles and up to four start in each.
    #[target_feature(enable = "neon,dotprod")]
    pub fn sdot(passes: usize) {
        let (a, b) = (vdupq_n_s8(3), vdupq_n_s8(5));
        let mut sums = [vdupq_n_s32(0); 16];
        for _ in 0..passes * (PRODUCTS / (16 * 16)) {
            for sum in &mut sums {
                // SAFETY: reads and writes the named registers only; the instruction is part of the enabled features.
                unsafe {
                    asm!(
                        "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
                        sum = inout(vreg) *sum,
                        a = in(vreg) a,
                        b = in(vreg) b,
                        options(nomem, nostack, preserves_flags),
                    );
                }
            }
        }
        std::hint::black_box(&sums);
    }

    /// Eight sums, and registers left for the products.
    #[target_feature(enable = "neon")]
    pub fn widening(passes: usize) {
        let (a, b) = (vdupq_n_s8(3), vdupq_n_s8(5));
        let mut sums = [vdupq_n_s32(0); 8];
        for _ in 0..passes * (PRODUCTS / (8 * 16)) {
            for sum in &mut sums {
                // SAFETY: reads and writes the named registers only; the instructions are part of the enabled features.
                unsafe {
                    asm!(
                        "smull {low:v}.8h, {a:v}.8b, {b:v}.8b",
                        "smull2 {high:v}.8h, {a:v}.16b, {b:v}.16b",
                        "sadalp {sum:v}.4s, {low:v}.8h",
                        "sadalp {sum:v}.4s, {high:v}.8h",
                        sum = inout(vreg) *sum,
                        low = out(vreg) _,
                        high = out(vreg) _,
                        a = in(vreg) a,
                        b = in(vreg) b,
                        options(nomem, nostack, preserves_flags),
                    );
                }
            }
        }
        std::hint::black_box(&sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{KernelChoice, detected_tiers};

    #[test]
    fn ceilings_are_positive_and_finite() {
        let mut rates = Vec::new();
        for tier in detected_tiers() {
            let rate = int8_rate(&Compute::new(KernelChoice::Only(tier), 1).unwrap());
            assert!(rate.is_finite() && rate > 1e8, "{tier}: {rate}");
            rates.push((tier, rate));
        }
        println!("{rates:?}");
        // A loop that was optimised away would beat any CPU: 64 products in each of four instructions at 10 GHz.
        assert!(rates.iter().all(|&(_, rate)| rate < 2.0 * 64.0 * 4.0 * 1e10), "{rates:?}");
        let bandwidth = read_bandwidth(&Pool::new(2).unwrap());
        println!("{bandwidth:.3e}");
        assert!((1e8..1e13).contains(&bandwidth), "{bandwidth}");
    }

    #[test]
    fn sums_are_sums() {
        for n in [0, 1, 63, 64, 65, 1000] {
            let words: Vec<u64> = (0..n).map(|i| i * 0x9E37_79B9_7F4A_7C15).collect();
            let sum = words.iter().fold(0, |a: u64, &b| a.wrapping_add(b));
            assert_eq!([add_up(&words, 0), add_up(&words, 4096)], [sum; 2]);
        }
    }
}
