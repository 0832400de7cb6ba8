//! One file per instruction set, each the same small table: for every storage format the products of a few weight rows
//! with one activation row and with a tile of several, and the quantiser of activations.
//!
//! A new instruction set is one new file here, a [`Tier`](super::Tier) and a line in [`Kernels::of`].

mod reference;
mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

use super::Span;
use super::activations::{Row, Split};
use super::panel::{MultiplyFn, UnpackFn};
use super::transposed::DecodeFn;
use super::{KernelError, Tier};
use crate::gguf::GgmlType;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::split_eighths;

/// The form of the activations a kernel reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As they came.
    F32,
    /// Quantised to two planes of int8.
    Int8,
}

/// Products of the weight rows in the first argument, each as many bytes long as the second says, with `T` activation rows:
/// `out[r][t] = Σ_k w[r,k] x[t,k]`.
///
/// # Safety
/// The CPU must run the kernel's tier. The bytes must be `out.len()` rows of the kernel's storage format, and every activation
/// row must be loaded in the kernel's form with as many columns as a weight row.
pub type PanelFn<const T: usize> = unsafe fn(&[u8], usize, &[Row<'_>; T], &mut [[f32; T]]);

/// The products of two runs of weight rows, equally many, with one activation row: the first run's and the second's. Two long streams,
/// which a CPU's prefetcher follows on to the rows that come after them, where neighbouring rows would be two that end with every row.
/// Last are two streams that are read after them, if they are not empty, for kernels that ask for weights ahead. A row's sum may be taken
/// in an order that depends on its number modulo 8, but on nothing else of the run: a product is cut into runs of which each but the
/// last has a multiple of 8 rows, and does not depend on where.
///
/// # Safety
/// As for [`PanelFn`]; both runs of bytes are as many rows as there are outputs in each.
pub type PairFn = unsafe fn([&[u8]; 2], usize, &Row<'_>, [&mut [f32]; 2], [Span; 2]);

/// The products with several activation rows at once.
#[derive(Clone, Copy)]
// Which of them there is a use for depends on the architecture.
#[allow(dead_code)]
pub enum Batched {
    /// Four rows at a time, each weight unpacked once for all of them; the same results as one by one.
    Four(PanelFn<4>),
    /// Sixteen rows likewise.
    Sixteen(PanelFn<16>),
    /// All rows, from repacked weights. Sums are taken in another order than for one row.
    Panel {
        /// Fills a panel.
        unpack: UnpackFn,
        /// Multiplies it.
        multiply: MultiplyFn,
        /// Columns it holds, a multiple of 256.
        columns: usize,
    },
}

/// The products with one storage format.
#[derive(Clone, Copy)]
pub struct Kernel {
    /// The form of activations both functions read.
    pub form: Form,
    /// One activation row.
    pub one: PanelFn<1>,
    /// One activation row, where a tier is faster so.
    pub pair: Option<PairFn>,
    /// Several activation rows.
    pub batch: Batched,
}

/// Quantises an activation row: the row, its coarse and fine planes, group scales and the sums of groups in fine steps.
///
/// # Safety
/// The CPU must run the tier the function belongs to.
pub type QuantiseFn = unsafe fn(&[f32], &mut [i8], &mut [i8], &mut [f32], &mut [i32]);

/// What an instruction set supplies.
#[derive(Clone, Copy)]
pub struct Kernels {
    /// The products with each storage format.
    pub kernel: fn(GgmlType) -> Kernel,
    /// The products with each storage format where the fine plane is zero and scales are of coarse steps.
    pub coarse: fn(GgmlType) -> Kernel,
    /// The quantiser of activations.
    pub quantise: QuantiseFn,
    /// Whether products read both planes in one.
    pub words: bool,
    /// In which order products of one row read it.
    pub split: Split,
    /// What turns a storage format into panels of f32.
    pub decoder: fn(GgmlType) -> DecodeFn,
}

impl Kernels {
    /// The kernels of `tier`.
    ///
    /// # Errors
    /// [`KernelError::TierUnavailable`] if this CPU cannot run them.
    pub fn of(tier: Tier) -> Result<Self, KernelError> {
        if !tier.is_available() {
            return Err(KernelError::TierUnavailable { tier });
        }
        match tier {
            Tier::Reference => Ok(reference::KERNELS),
            Tier::Scalar => Ok(scalar::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => Ok(avx2::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => Ok(avx512::KERNELS),
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => Ok(neon::kernels()),
            #[allow(unreachable_patterns)]
            _ => Err(KernelError::TierUnavailable { tier }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::activations::quantise_row;
    use crate::kernels::{Activations, Compute, KernelChoice, detected_tiers};

    #[test]
    fn every_tier_quantises_alike() {
        const PADDED: usize = 512;
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut x: Vec<f32> = (0..300).map(|_| random()).collect();
        // A block of ties between steps, one of zeros, one too small to have a scale, one of extremes.
        for i in 0..32 {
            x[32 + i] = i as f32 - 15.5;
            x[64 + i] = 0.0;
            x[96 + i] = x[i] * 1e-38;
            x[128 + i] = x[i].signum() * f32::MAX;
        }
        x[32] = 127.0;
        for len in [0, 1, 31, 32, 33, 300] {
            let quantised = |quantise: QuantiseFn| {
                let (mut lanes, mut scales) = (vec![99; PADDED], vec![f32::NAN; PADDED / 16]);
                let (mut fine, mut totals) = (lanes.clone(), vec![99; PADDED / 16]);
                // SAFETY: only functions of tiers that this CPU runs are passed.
                unsafe { quantise(&x[..len], &mut lanes, &mut fine, &mut scales, &mut totals) };
                (lanes, fine, scales, totals)
            };
            let expected = quantised(quantise_row);
            assert!(expected.0[len.next_multiple_of(32)..].iter().all(|&lane| lane == 0));
            assert!(expected.1.iter().all(|fine| (-64..64).contains(fine)));
            for ((&lane, &fine), &x) in expected.0.iter().zip(&expected.1).zip(&x[..len.min(32)]) {
                let (steps, scale) = (128.0 * f32::from(lane) + f32::from(fine), expected.2[0]);
                // Half a step, and the rounding of the products with the scale and its inverse.
                assert!((steps * scale - x).abs() <= scale * 0.505, "{steps} · {scale} for {x}");
            }
            for tier in detected_tiers() {
                let kernels = Kernels::of(tier).unwrap();
                assert_eq!(quantised(kernels.quantise), expected, "{tier}, {len} elements");
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_all_that_its_block_tells() {
        const LEN: usize = 192;
        let x: Vec<f32> = (0..LEN).map(|i| i as f32 - 90.5).collect();
        for (at, value) in (0..LEN).step_by(7).zip([f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().cycle()) {
            let mut x = x.clone();
            x[at] = value;
            for tier in detected_tiers() {
                let (mut lanes, mut fine) = (vec![0; LEN], vec![0; LEN]);
                let (mut scales, mut totals) = (vec![0.0; LEN / 16], vec![0; LEN / 16]);
                let quantise = Kernels::of(tier).unwrap().quantise;
                // SAFETY: only functions of tiers that this CPU runs are called.
                unsafe { quantise(&x, &mut lanes, &mut fine, &mut scales, &mut totals) };
                for (group, scale) in scales.iter().enumerate() {
                    let poisoned = group / 2 == at / 32;
                    assert_eq!(scale.is_nan(), poisoned, "{tier}, {value} at {at}, group {group}");
                }
                let compute = Compute::new(KernelChoice::Only(tier), 1).unwrap();
                let mut loaded = Activations::with_capacity(&compute, 1, LEN);
                loaded.load(&compute, 1, LEN, &x);
                let row = loaded.row(0);
                for (group, (scale, sum)) in row.scales.iter().zip(row.sums).enumerate() {
                    let poisoned = group / 2 == at / 32;
                    assert_eq!(
                        (scale.is_nan(), sum.is_nan()),
                        (poisoned, poisoned),
                        "{tier}, {value} at {at}, group {group}"
                    );
                }
            }
        }
    }
}
