//! AArch64 with NEON. The int8 products use `smmla` where the CPU has it (ARMv8.6 int8 matrix product), else `sdot` (ARMv8.2
//! dot product), else multiply to 16 bits and add.
//!
//! Tested under emulation, with and without each of the extensions; instructions were counted, but speed was not measured.

mod dot;
mod gemm;
mod gemv;
mod half;
mod mmla;
mod plain;
mod sdot;
mod spans;
mod unpack;

use std::arch::is_aarch64_feature_detected;

use super::{Batched, Form, Kernel, Kernels, PairFn, PanelFn};
use crate::kernels::activations::{Split, quantise_row};
use crate::kernels::formats::by_type;
use crate::kernels::panel::CHUNK;
use plain::{Load, plain_panel};
use unpack::Unpack;

/// The kernels for this CPU.
pub(super) fn kernels() -> Kernels {
    Kernels {
        kernel: if !is_aarch64_feature_detected!("dotprod") {
            |ty| by_type!(ty, with_widening, plain)(true)
        } else if !is_aarch64_feature_detected!("i8mm") {
            |ty| by_type!(ty, with_sdot, plain)(true)
        } else {
            |ty| by_type!(ty, with_smmla, plain)(true)
        },
        coarse: if !is_aarch64_feature_detected!("dotprod") {
            |ty| by_type!(ty, with_widening, plain)(false)
        } else if !is_aarch64_feature_detected!("i8mm") {
            |ty| by_type!(ty, with_sdot, plain)(false)
        } else {
            |ty| by_type!(ty, with_smmla, plain)(false)
        },
        quantise: quantise_row,
        words: false,
        split: Split::None,
        decoder: crate::kernels::transposed::decoder,
    }
}

// Without `fine` the fine plane is zero and not looked at.

fn with_smmla<F: Unpack>(fine: bool) -> Kernel {
    let multiply = if fine { mmla::multiply_for::<F, true>() } else { mmla::multiply_for::<F, false>() };
    let batch = Batched::Panel { unpack: gemm::unpack::<F, mmla::Eights>, multiply, columns: CHUNK };
    Kernel { batch, ..with_sdot::<F>(fine) }
}

fn with_sdot<F: Unpack>(fine: bool) -> Kernel {
    let multiply = if fine { sdot::multiply_for::<F, true>() } else { sdot::multiply_for::<F, false>() };
    let batch = Batched::Panel { unpack: gemm::unpack::<F, sdot::Fours>, multiply, columns: CHUNK };
    let (one, pair): (PanelFn<1>, PairFn) = if fine {
        (gemv::with_sdot::<F, true, 1>, gemv::pair_with_sdot::<F, true>)
    } else {
        (gemv::with_sdot::<F, false, 1>, gemv::pair_with_sdot::<F, false>)
    };
    Kernel { form: Form::Int8, one, pair: Some(pair), batch }
}

fn with_widening<F: Unpack>(fine: bool) -> Kernel {
    let (one, pair, four): (PanelFn<1>, PairFn, PanelFn<4>) = if fine {
        (gemv::with_widening::<F, true, 1>, gemv::pair_with_widening::<F, true>, gemv::with_widening::<F, true, 4>)
    } else {
        (gemv::with_widening::<F, false, 1>, gemv::pair_with_widening::<F, false>, gemv::with_widening::<F, false, 4>)
    };
    Kernel { form: Form::Int8, one, pair: Some(pair), batch: Batched::Four(four) }
}

/// Unquantised weights do not meet quantised activations.
fn plain<P: Load>(_fine: bool) -> Kernel {
    Kernel { form: Form::F32, one: plain_panel::<P, 1>, pair: None, batch: Batched::Four(plain_panel::<P, 4>) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::GgmlType;
    use crate::kernels::panel::{Panel, Target};
    use crate::kernels::{ActivationType, Activations, Compute, KernelChoice, Tier, dequantize};

    /// The products of the panel, which starts at column `start` of its rows, with every activation row.
    fn repacked(kernel: &Kernel, data: &[u8], ty: GgmlType, (rows, cols): (usize, usize), x: &Activations) -> Vec<f32> {
        let Batched::Panel { unpack, multiply, .. } = kernel.batch else { panic!("no panels") };
        let mut panel = Panel::new();
        // What an earlier product may have left, in the bits of lanes and of numbers.
        // SAFETY: the panel has as many bytes.
        unsafe { panel.lanes().write_bytes(0x7f, 1 << 16) };
        let row_bytes = ty.row_bytes(cols).unwrap();
        let mut out = vec![f32::NAN; rows * x.rows()];
        // Two chunks of columns, the first a whole number of the largest blocks.
        for (start, cols) in [(0, 256), (256, cols - 256)] {
            let target = Target { out: out.as_mut_ptr(), stride: rows, rows, accumulate: start > 0 };
            // SAFETY: the caller passes kernels that this CPU runs and whole rows of the type; the activations have as many
            // columns, the output an element for each product.
            unsafe {
                unpack(data, row_bytes, start, cols, &mut panel);
                multiply(&mut panel, start, cols, &x.batch(0..x.rows()), target);
            }
        }
        out
    }

    #[test]
    fn every_extension_multiplies_every_format() {
        const COLS: usize = 768;
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as u8
        };
        for activations in ActivationType::ALL {
            let compute = Compute::with_activations(KernelChoice::Only(Tier::Neon), 1, activations).unwrap();
            for ty in GgmlType::ALL.into_iter().filter(|ty| ty.block_len() > 1) {
                for (rows, batch) in [(1, 1), (3, 2), (16, 3), (17, 5), (32, 7), (31, 8)] {
                    let row_bytes = ty.row_bytes(COLS).unwrap();
                    let data: Vec<u8> = (0..rows * row_bytes).map(|_| random() & 0x3f).collect();
                    let values: Vec<f32> = (0..batch * COLS).map(|_| f32::from(random()) - 100.0).collect();
                    let mut weights = vec![0.0; rows * COLS];
                    dequantize(ty, &data, &mut weights).unwrap();
                    let mut x = Activations::with_capacity(&compute, 0, 0);
                    x.load(&compute, batch, COLS, &values);
                    let fine = activations == ActivationType::Int15;
                    let mut kernels = vec![("widening", by_type!(ty, with_widening, plain)(fine))];
                    if is_aarch64_feature_detected!("dotprod") {
                        kernels.push(("sdot", by_type!(ty, with_sdot, plain)(fine)));
                    }
                    if is_aarch64_feature_detected!("i8mm") {
                        kernels.push(("smmla", by_type!(ty, with_smmla, plain)(fine)));
                    }
                    for (name, kernel) in kernels {
                        let many = matches!(kernel.batch, Batched::Panel { .. })
                            .then(|| repacked(&kernel, &data, ty, (rows, COLS), &x));
                        for t in 0..batch {
                            let row = x.row(t);
                            let mut one = vec![[f32::NAN]; rows];
                            // SAFETY: a kernel that this CPU runs, whole rows of its type, and a row of as many columns.
                            unsafe { (kernel.one)(&data, row_bytes, &[row], &mut one) };
                            for r in 0..rows {
                                let products = weights[r * COLS..][..COLS].iter().zip(row.lanes.iter().zip(row.fine));
                                let products = products.enumerate().map(|(i, (&w, (&coarse, &fine)))| {
                                    let worth = if activations == ActivationType::Int15 { 128.0 } else { 1.0 };
                                    let steps = worth * f64::from(coarse) + f64::from(fine);
                                    f64::from(w) * steps * f64::from(row.scales[i / 16])
                                });
                                let (exact, size) = products.fold((0.0, 0.0), |(s, a), p| (s + p, a + f64::abs(p)));
                                let close = |out: f32| (f64::from(out) - exact).abs() <= size * 4e-6;
                                let (one, many) = (one[r][0], many.as_ref().map(|many| many[t * rows + r]));
                                let case =
                                    format!("{name} {activations} {ty} weight row {r} of {rows}, row {t} of {batch}");
                                assert!(close(one), "{case}: {one} instead of {exact}");
                                assert!(many.is_none_or(close), "{case}: {many:?} instead of {exact}");
                            }
                        }
                    }
                }
            }
        }
    }
}
