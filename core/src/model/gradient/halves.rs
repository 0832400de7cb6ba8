//! Gate and up, kept in f16 between the way there and the way back.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

/// The largest f16.
const LARGEST_HALF: f32 = 65504.0;
/// Elements of a row that are turned to f32 at a time.
const PART: usize = 256;

/// Keeps a row in f16; what is too large for it is kept as the largest there is.
pub(super) fn to_halves(row: &[f32], words: &mut [f32]) {
    let halves: &mut [f16] = bytemuck::cast_slice_mut(words);
    let mut part = [0.0; PART];
    for (row, halves) in row.chunks(PART).zip(halves.chunks_mut(PART)) {
        let part = &mut part[..row.len()];
        part.iter_mut().zip(row).for_each(|(part, x)| *part = x.clamp(-LARGEST_HALF, LARGEST_HALF));
        halves[..row.len()].convert_from_f32_slice(part);
    }
}

/// A row of `inner` numbers that [`to_halves`] kept.
fn halves(words: &[f32], row: usize, inner: usize) -> &[f16] {
    let width = inner.div_ceil(2);
    &bytemuck::cast_slice(&words[row * width..][..width])[..inner]
}

/// Calls `f` with parts of a row of gate and up, and where in the row they are.
pub(super) fn each_part(
    row: usize,
    inner: usize,
    (gate, up): (&[f32], &[f32]),
    mut f: impl FnMut(Range<usize>, &[f32], &[f32]),
) {
    let (gate, up) = (halves(gate, row, inner), halves(up, row, inner));
    let (mut gate_part, mut up_part) = ([0.0; PART], [0.0; PART]);
    for (start, (gate, up)) in (0..inner).step_by(PART).zip(gate.chunks(PART).zip(up.chunks(PART))) {
        let (gate_part, up_part) = (&mut gate_part[..gate.len()], &mut up_part[..up.len()]);
        gate.convert_to_f32_slice(gate_part);
        up.convert_to_f32_slice(up_part);
        f(start..start + gate.len(), gate_part, up_part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_in_parts() {
        for inner in [1, 7, 256, 257, 600] {
            let row = |salt: usize| (0..inner).map(|i| ((i + salt) % 97) as f32 * 0.25 - 11.0).collect::<Vec<f32>>();
            let width = inner.div_ceil(2);
            let (mut gate, mut up) = (vec![f32::NAN; 3 * width], vec![f32::NAN; 3 * width]);
            for (i, (gate, up)) in gate.chunks_exact_mut(width).zip(up.chunks_exact_mut(width)).enumerate() {
                to_halves(&row(i), gate);
                to_halves(&row(i + 50), up);
            }
            for i in 0..3 {
                let (mut gates, mut ups) = (Vec::new(), Vec::new());
                each_part(i, inner, (&gate, &up), |at, gate, up| {
                    assert_eq!((at.start, at.len()), (gates.len(), gate.len()));
                    gates.extend_from_slice(gate);
                    ups.extend_from_slice(up);
                });
                assert_eq!((gates, ups), (row(i), row(i + 50)), "multiples of a quarter are exact");
            }
        }
        let mut words = [0.0];
        to_halves(&[1e9, -1e9], &mut words);
        each_part(0, 2, (&words, &words), |_, gate, _| assert_eq!(gate, [LARGEST_HALF, -LARGEST_HALF]));
    }
}
