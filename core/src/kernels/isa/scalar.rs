//! Portable integer arithmetic: any CPU, and the definition the vector tiers must reproduce.

use super::{Batched, Form, Kernel, Kernels};
use crate::kernels::activations::{COARSE, Row, Split, quantise_row};
use crate::kernels::formats::{Format, GROUP, Lanes, Plain, by_type};

pub(super) const KERNELS: Kernels = Kernels {
    kernel: |ty| by_type!(ty, both_planes, plain)(),
    coarse: |ty| by_type!(ty, coarse_plane, plain)(),
    quantise: quantise_row,
    decoder: crate::kernels::transposed::decoder,
    words: false,
    split: Split::None,
};

fn both_planes<F: Format>() -> Kernel {
    quantised::<F, COARSE>()
}

fn coarse_plane<F: Format>() -> Kernel {
    quantised::<F, 1>()
}

/// Products with activations whose scales are of steps of which a coarse one is `STEPS`.
fn quantised<F: Format, const STEPS: i32>() -> Kernel {
    let batch = Batched::Four(panel::<F, STEPS, 4>);
    Kernel { form: Form::Int8, one: panel::<F, STEPS, 1>, pair: None, batch }
}

/// Unquantised weights gain nothing from int8: they take the reference path.
fn plain<P: Plain>() -> Kernel {
    (super::reference::KERNELS.kernel)(P::TYPE)
}

fn panel<F: Format, const STEPS: i32, const T: usize>(
    data: &[u8],
    row_bytes: usize,
    x: &[Row<'_>; T],
    out: &mut [[f32; T]],
) {
    let mut lanes = Lanes::new();
    for (row, out) in data.chunks_exact(row_bytes).zip(out) {
        *out = [0.0; T];
        for (b, block) in row.chunks_exact(F::BYTES).enumerate() {
            F::unpack(block, &mut lanes);
            let at = b * F::LEN;
            for (sum, x) in out.iter_mut().zip(x) {
                *sum += block_product::<F, STEPS>(&lanes, x, at);
            }
        }
    }
}

/// The product of an unpacked block with elements `at..` of an activation row.
fn block_product<F: Format, const STEPS: i32>(lanes: &Lanes, x: &Row<'_>, at: usize) -> f32 {
    let (w, _) = lanes.q[..F::LEN].as_chunks::<GROUP>();
    let (x_lanes, _) = x.lanes[at..at + F::LEN].as_chunks::<GROUP>();
    let (x_fine, _) = x.fine[at..at + F::LEN].as_chunks::<GROUP>();
    let groups = at / GROUP..(at + F::LEN) / GROUP;
    let (scales, sums) = (&x.scales[groups.clone()], &x.sums[groups]);
    let mut product = 0.0;
    for (g, ((w, x), fine)) in w.iter().zip(x_lanes).zip(x_fine).enumerate() {
        let mut dot = 0;
        for i in 0..GROUP {
            dot += i32::from(w[i]) * (i32::from(x[i]) * STEPS + i32::from(fine[i]));
        }
        product += lanes.scale[g] * scales[g] * dot as f32 + lanes.offset[g] * sums[g];
    }
    product
}
