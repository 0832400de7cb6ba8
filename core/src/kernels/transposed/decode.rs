//! Columns of weight rows decoded into panels of f32.

use super::super::formats::{Format, GROUP, Lanes, Plain, by_type};
use super::super::gemm::PANEL;
use super::super::{Widest, widest};
use crate::gguf::GgmlType;

/// Decodes columns `start..start + cols` of the rows in the first argument, each as many bytes long as the second says, into
/// panels: row k of panel p at `out[(p · depth + k) · PANEL..]`, `depth` at least the number of rows. `start` and `cols` are
/// multiples of the block length; what a last panel has beyond the columns is zero.
///
/// # Safety
/// The CPU must run the tier that the function belongs to.
pub type DecodeFn = unsafe fn(&[u8], usize, (usize, usize), usize, &mut [f32]);

/// The portable decoder of a storage type.
pub fn decoder(ty: GgmlType) -> DecodeFn {
    by_type!(ty, quantised, plain)
}

fn quantised<F: Format>(data: &[u8], row_bytes: usize, columns: (usize, usize), depth: usize, out: &mut [f32]) {
    const { assert!(GROUP == PANEL) };
    widest(Quantised::<F> { data, row_bytes, columns, depth, out, format: std::marker::PhantomData });
}

/// Decodes numbers as they are; see [`DecodeFn`].
pub fn plain<P: Plain>(data: &[u8], row_bytes: usize, columns: (usize, usize), depth: usize, out: &mut [f32]) {
    widest(Elements::<P> { data, row_bytes, columns, depth, out, format: std::marker::PhantomData });
}

struct Quantised<'a, F> {
    data: &'a [u8],
    row_bytes: usize,
    columns: (usize, usize),
    depth: usize,
    out: &'a mut [f32],
    format: std::marker::PhantomData<F>,
}

impl<F: Format> Widest for Quantised<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let Self { data, row_bytes, columns: (start, cols), depth, out, .. } = self;
        let mut lanes = Lanes::new();
        for (k, row) in data.chunks_exact(row_bytes).enumerate() {
            let blocks = &row[start / F::LEN * F::BYTES..][..cols / F::LEN * F::BYTES];
            for (b, block) in blocks.chunks_exact(F::BYTES).enumerate() {
                F::unpack(block, &mut lanes);
                for (g, q) in lanes.q.as_chunks::<GROUP>().0[..F::LEN / GROUP].iter().enumerate() {
                    let (scale, offset) = (lanes.scale[g], lanes.offset[g]);
                    let at = ((b * (F::LEN / GROUP) + g) * depth + k) * PANEL;
                    for (out, &q) in out[at..at + PANEL].iter_mut().zip(q) {
                        *out = scale * f32::from(q) + offset;
                    }
                }
            }
        }
    }
}

struct Elements<'a, P> {
    data: &'a [u8],
    row_bytes: usize,
    columns: (usize, usize),
    depth: usize,
    out: &'a mut [f32],
    format: std::marker::PhantomData<P>,
}

impl<P: Plain> Widest for Elements<'_, P> {
    type Out = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let Self { data, row_bytes, columns: (start, cols), depth, out, .. } = self;
        for (k, row) in data.chunks_exact(row_bytes).enumerate() {
            let row = &row[start * P::BYTES..][..cols * P::BYTES];
            for (p, bytes) in row.chunks(PANEL * P::BYTES).enumerate() {
                let out = &mut out[(p * depth + k) * PANEL..][..PANEL];
                let (held, beyond) = out.split_at_mut(bytes.len() / P::BYTES);
                for (out, bytes) in held.iter_mut().zip(bytes.chunks_exact(P::BYTES)) {
                    *out = P::decode(bytes);
                }
                beyond.fill(0.0);
            }
        }
    }
}
