//! The plain path: weights decoded to f32, f32 products. What the other tiers are measured against.

use super::{Batched, Form, Kernel, Kernels};
use crate::gguf::GgmlType;
use crate::kernels::activations::{Row, Split, quantise_row};
use crate::kernels::formats::{Format, MAX_BLOCK, Plain, by_type, decode_blocks, decode_plain};
use crate::kernels::vector::{LANES, reduce};

/// Elements decoded at a time, whole blocks of every format.
const CHUNK: usize = MAX_BLOCK;

pub(super) const KERNELS: Kernels = Kernels {
    kernel: |ty| by_type!(ty, quantised, plain)(),
    coarse: |ty| by_type!(ty, quantised, plain)(),
    quantise: quantise_row,
    decoder: crate::kernels::transposed::decoder,
    words: false,
    split: Split::None,
};

type Decode = fn(&[u8], &mut [f32]);

fn quantised<F: Format>() -> Kernel {
    Kernel {
        form: Form::F32,
        one: panel::<Quantised<F>, 1>,
        pair: None,
        batch: Batched::Sixteen(panel::<Quantised<F>, 16>),
    }
}

fn plain<P: Plain>() -> Kernel {
    Kernel {
        form: Form::F32,
        one: panel::<Unquantised<P>, 1>,
        pair: None,
        batch: Batched::Sixteen(panel::<Unquantised<P>, 16>),
    }
}

/// What decoding needs to know of a format of either kind.
trait Decoder {
    const TYPE: GgmlType;
    const DECODE: Decode;
}

struct Quantised<F>(std::marker::PhantomData<F>);
struct Unquantised<P>(std::marker::PhantomData<P>);

impl<F: Format> Decoder for Quantised<F> {
    const TYPE: GgmlType = F::TYPE;
    const DECODE: Decode = decode_blocks::<F>;
}

impl<P: Plain> Decoder for Unquantised<P> {
    const TYPE: GgmlType = P::TYPE;
    const DECODE: Decode = decode_plain::<P>;
}

fn panel<D: Decoder, const T: usize>(data: &[u8], row_bytes: usize, x: &[Row<'_>; T], out: &mut [[f32; T]]) {
    let cols = row_bytes / D::TYPE.block_bytes() * D::TYPE.block_len();
    let chunk_bytes = CHUNK / D::TYPE.block_len() * D::TYPE.block_bytes();
    let mut weights = [0.0; CHUNK];
    for (row, out) in data.chunks_exact(row_bytes).zip(out) {
        let mut sums = [[0.0; LANES]; T];
        for (c, chunk) in row.chunks(chunk_bytes).enumerate() {
            let at = c * CHUNK;
            let weights = &mut weights[..CHUNK.min(cols - at)];
            (D::DECODE)(chunk, weights);
            for (sums, x) in sums.iter_mut().zip(x) {
                accumulate(weights, &x.values[at..at + weights.len()], sums);
            }
        }
        for (out, sums) in out.iter_mut().zip(sums) {
            *out = reduce(sums);
        }
    }
}

fn accumulate(w: &[f32], x: &[f32], sums: &mut [f32; LANES]) {
    let (w, w_rest) = w.as_chunks::<LANES>();
    let (x, x_rest) = x.as_chunks::<LANES>();
    let mut lanes = *sums;
    for (w, x) in w.iter().zip(x) {
        for i in 0..LANES {
            lanes[i] += w[i] * x[i];
        }
    }
    for (i, (w, x)) in w_rest.iter().zip(x_rest).enumerate() {
        lanes[i] += w * x;
    }
    *sums = lanes;
}
