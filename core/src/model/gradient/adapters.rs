//! The changes' part of the way back: the gradients of their parameters, and of what they read.

use std::sync::PoisonError;

use super::super::{BoundAdapter, Linear, LinearKind};
use crate::adapter::DeltaBlock;
use crate::kernels::{Pool, for_each_chunk};

/// Parts that a batch's rows are cut into, each summing its own gradient: so many threads can take part, and the sums do not
/// depend on how many do.
const PARTS: usize = 16;

/// A linear, and the gradient of its output.
pub(super) type Pair<'a> = (LinearKind, &'a Linear, &'a [f32]);

/// Adds to `gradient` those of the parameters of all changes to linears that read `x`, and to `dx`, where it is wanted, that
/// of x.
#[allow(clippy::too_many_arguments)]
pub(super) fn backward<const N: usize>(
    pool: &Pool,
    bound: &BoundAdapter,
    layer: usize,
    group: [Pair<'_>; N],
    x: &[f32],
    dx: Option<&mut [f32]>,
    gradient: &mut [f32],
    buffers: &mut Scratch<'_>,
) {
    let places = group.map(|(kind, ..)| bound.place(layer, kind));
    let parameters: usize = places.iter().flatten().map(|place| place.len()).sum();
    let cols = group[0].1.shape().1;
    if parameters == 0 || x.is_empty() {
        return;
    }
    let rows = x.len() / cols;
    let of_part = rows.div_ceil(DeltaBlock::ROWS).div_ceil(PARTS) * DeltaBlock::ROWS;
    let parts = rows.div_ceil(of_part);
    if buffers.partial.len() < PARTS * parameters {
        buffers.partial.resize(PARTS * parameters, 0.0);
    }
    let partial = &mut buffers.partial[..parts * parameters];
    let (deltas, gathered) = (buffers.deltas, buffers.gathered);

    let run = |worker: usize, part: usize, mut dx: Option<&mut [f32]>, partial: &mut [f32]| {
        partial.fill(0.0);
        let mut block = deltas[worker].lock().unwrap_or_else(PoisonError::into_inner);
        let mut gathered = gathered[worker].lock().unwrap_or_else(PoisonError::into_inner);
        let end = rows.min((part + 1) * of_part);
        for (i, first) in (part * of_part..end).step_by(DeltaBlock::ROWS).enumerate() {
            let count = DeltaBlock::ROWS.min(end - first);
            let x = &x[first * cols..][..count * cols];
            block.begin_input();
            block.begin_output();
            let mut rest = &mut *partial;
            for (kind, linear, g) in &group {
                let Some(delta) = bound.delta(layer, *kind) else { continue };
                let own;
                (own, rest) = rest.split_at_mut(delta.parameters());
                let outputs = linear.shape().0;
                let g = &g[first * outputs..][..count * outputs];
                let g = match &linear.row_order {
                    None => g,
                    Some(order) => {
                        let gathered = &mut gathered[..g.len()];
                        for (g, own) in g.chunks_exact(outputs).zip(gathered.chunks_exact_mut(outputs)) {
                            order.gather(g, own);
                        }
                        gathered
                    }
                };
                block.begin_upstream();
                delta.gradient_rows(1.0, x, g, own, &mut block);
                if dx.is_some() {
                    delta.adjoint_rows(1.0, g, &mut block);
                }
            }
            if let Some(dx) = &mut dx {
                block.finish(&mut dx[i * DeltaBlock::ROWS * cols..][..count * cols], cols, None);
            }
        }
    };
    match dx {
        Some(dx) => {
            let outputs = [(dx, of_part * cols), (&mut *partial, parameters)];
            for_each_chunk(pool, outputs, |worker, part, [dx, partial]| run(worker, part, Some(dx), partial));
        }
        None => {
            for_each_chunk(pool, [(&mut *partial, parameters)], |worker, part, [partial]| {
                run(worker, part, None, partial);
            });
        }
    }
    for part in partial.chunks_exact(parameters) {
        let mut rest = part;
        for place in places.iter().flatten() {
            let own;
            (own, rest) = rest.split_at(place.len());
            gradient[place.clone()].iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
        }
    }
}

/// The buffers of [`backward`].
pub(super) struct Scratch<'a> {
    pub deltas: &'a [std::sync::Mutex<DeltaBlock>],
    pub gathered: &'a [std::sync::Mutex<Vec<f32>>],
    pub partial: &'a mut Vec<f32>,
}
