//! What the active adapters add to a group of linears that read the same rows.

use std::sync::{Arc, Mutex, PoisonError};

use crate::adapter::{DeltaBlock, FourierDelta};
use crate::kernels::{Aligned, Pool, Span, for_each_chunk, vector};
use crate::spectral::Transforms;
use crate::spectral::transform::Held;

use super::{ActiveAdapters, BoundAdapter, Decoder, Linear, LinearKind};

/// Bytes of weights multiplied in the time that transforming a value takes: measured, and as rough as that.
const BYTES_A_VALUE: usize = 9;
/// Streams that products ask for.
const STREAMS: usize = 2;

/// Buffers for the changes of any group of linears of a decoder.
pub(super) struct ChangeScratch {
    /// One a worker; a worker locks only its own.
    pub blocks: Vec<Mutex<DeltaBlock>>,
    /// A block's rows of all linears of the widest group.
    rows: Aligned,
}

impl ChangeScratch {
    pub fn new(decoder: &Decoder, transforms: &Arc<Transforms>, threads: usize) -> Self {
        let linears = || decoder.layers.iter().flat_map(|l| LinearKind::ALL.map(|kind| l.linear(kind).shape()));
        let lengths = || linears().flat_map(|(rows, cols)| [rows, cols]);
        let block = || Mutex::new(DeltaBlock::new(Arc::clone(transforms), lengths()));
        // No group has more than three linears.
        let widest = linears().map(|(rows, _)| 3 * rows).max().unwrap_or(0);
        Self { blocks: (0..threads).map(|_| block()).collect(), rows: Aligned::new(DeltaBlock::ROWS * widest) }
    }

    /// The workers' blocks, and for each linear `count` rows, at most a block's, of whatever they held last.
    pub fn rows<const N: usize>(
        &mut self,
        group: &[(LinearKind, &Linear); N],
        count: usize,
    ) -> (&[Mutex<DeltaBlock>], [&mut [f32]; N]) {
        let mut rest = &mut *self.rows;
        let rows = group.map(|(_, linear)| {
            let rows;
            (rows, rest) = std::mem::take(&mut rest).split_at_mut(count * linear.shape().0);
            rows
        });
        (&self.blocks, rows)
    }
}

/// The changes that adapters make to a group of linears of one layer, of which they touch at least one. The forward transform of a
/// row is shared by all linears and adapters, the inverse transform of a linear by all adapters.
pub(super) struct Changes<'a, const N: usize> {
    adapters: &'a ActiveAdapters,
    layer: usize,
    group: [(LinearKind, &'a Linear); N],
    touched: [bool; N],
}

impl<'a, const N: usize> Changes<'a, N> {
    /// `None` if the adapters leave all linears of the group as they are.
    pub fn of(adapters: &'a ActiveAdapters, layer: usize, group: [(LinearKind, &'a Linear); N]) -> Option<Self> {
        let touched =
            group.map(|(kind, _)| adapters.list().iter().any(|(bound, _)| bound.delta(layer, kind).is_some()));
        touched.contains(&true).then_some(Self { adapters, layer, group, touched })
    }

    /// What the outputs hold after [`write`](Self::write).
    pub fn held(&self) -> [Held; N] {
        self.touched.map(|touched| if touched { Held::Sum } else { Held::Nothing })
    }

    /// outs\[i\] = Σ weight · ΔW x for every row of `x`, 1 to [`DeltaBlock::ROWS`] of them, where there is a change.
    pub fn write(&self, block: &Mutex<DeltaBlock>, x: &[f32], outs: [&mut [f32]; N]) {
        let mut block = block.lock().unwrap_or_else(PoisonError::into_inner);
        block.begin_input();
        for (i, out) in outs.into_iter().enumerate().filter(|(i, _)| self.touched[*i]) {
            self.write_linear(i, &mut block, x, out);
        }
    }

    /// [`write`](Self::write) for one linear, of rows that the block has begun with.
    fn write_linear(&self, i: usize, block: &mut DeltaBlock, x: &[f32], out: &mut [f32]) {
        let linear = self.group[i].1;
        block.begin_output();
        for (bound, weight) in self.adapters.list() {
            if let Some(delta) = bound.delta(self.layer, self.group[i].0) {
                delta.apply_rows(*weight, x, block);
            }
        }
        block.write(out, linear.shape().0, linear.row_order.as_deref());
    }

    /// Tasks that the changes of a single row or block are worth cutting into: one for each linear, as long as a thread is left that begins
    /// with the products. With fewer they share linears, because each task transforms the rows anew.
    pub fn tasks(&self, threads: usize) -> usize {
        let touched = self.touched.iter().filter(|touched| **touched).count();
        touched.min(threads - 1).max(1)
    }

    /// What all changes to one row cost, in bytes of weights that are multiplied meanwhile. About as many are multiplied by a block's rows
    /// while these are changed.
    pub fn row_bytes(&self) -> usize {
        let deltas = self.group.iter().flat_map(|&(kind, _)| {
            self.adapters.list().iter().filter_map(move |(bound, _)| bound.delta(self.layer, kind))
        });
        let touched = self.group.iter().zip(self.touched).filter(|(_, touched)| *touched);
        let values = self.group[0].1.shape().1 + touched.map(|((_, linear), _)| linear.shape().0).sum::<usize>();
        deltas.map(|delta| delta.row_bytes()).sum::<usize>() + BYTES_A_VALUE * values
    }

    /// One of `tasks` tasks that together write Σ weight · ΔW x of a single row to those of `outs` that there is a change to, asking for
    /// the two streams `then` that are read after it.
    pub fn row_task(
        &self,
        (task, tasks): (usize, usize),
        block: &Mutex<DeltaBlock>,
        x: &[f32],
        outs: &[Mutex<&mut [f32]>; N],
        then: [Span; 2],
    ) {
        let mut block = block.lock().unwrap_or_else(PoisonError::into_inner);
        let scratch = block.row();
        scratch.begin_input();
        let own = |i: &usize| self.is_of_task(*i, (task, tasks));
        let rest = streams(self.adapters, self.group.iter().map(|(kind, _)| (self.layer, *kind))).skip(STREAMS);
        scratch.expect(rest.filter(|(i, _)| own(i)).map(|(_, bytes)| bytes), then);
        // Each task has linears of its own.
        let out = |i: usize| outs[i].lock().unwrap_or_else(PoisonError::into_inner);
        let order = |i: usize| self.group[i].1.row_order.as_deref();
        let mut linears = (0..N).filter(own).peekable();
        while let Some(i) = linears.next() {
            scratch.begin_output();
            if let Some(j) = linears.next_if(|j| self.are_twins(i, *j)) {
                for (twins, weight) in self.twins(i, j) {
                    let Some(twins) = twins else { continue };
                    FourierDelta::apply_twins(twins, weight, x, scratch);
                }
                scratch.write_twins([&mut out(i), &mut out(j)], [order(i), order(j)]);
                continue;
            }
            for (bound, weight) in self.adapters.list() {
                if let Some(delta) = bound.delta(self.layer, self.group[i].0) {
                    delta.apply(*weight, x, scratch);
                }
            }
            scratch.write(&mut out(i), order(i));
        }
    }

    /// One of `tasks` tasks that together [`write`](Self::write).
    pub fn block_task(&self, of: (usize, usize), block: &Mutex<DeltaBlock>, x: &[f32], outs: &[Mutex<&mut [f32]>; N]) {
        let mut block = block.lock().unwrap_or_else(PoisonError::into_inner);
        block.begin_input();
        for (i, out) in outs.iter().enumerate().filter(|(i, _)| self.is_of_task(*i, of)) {
            // Each task has linears of its own.
            self.write_linear(i, &mut block, x, &mut out.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Whether a linear is changed by `task` of so many `tasks`.
    fn is_of_task(&self, i: usize, (task, tasks): (usize, usize)) -> bool {
        self.touched[i] && self.touched[..i].iter().filter(|touched| **touched).count() % tasks == task
    }

    /// Whether every adapter's changes to two linears, if it has any to them, have the same entries.
    fn are_twins(&self, i: usize, j: usize) -> bool {
        let untouched = |bound: &BoundAdapter, i: usize| bound.delta(self.layer, self.group[i].0).is_none();
        let mut adapters = self.adapters.list().iter().zip(self.twins(i, j));
        adapters.all(|((bound, _), (twins, _))| twins.is_some() || untouched(bound, i) && untouched(bound, j))
    }

    /// Each adapter's changes to two linears, if they have the same entries, and the adapter's weight.
    fn twins(&self, i: usize, j: usize) -> impl Iterator<Item = (Option<[&FourierDelta; 2]>, f32)> {
        self.adapters.list().iter().map(move |(bound, weight)| {
            let fourier = |i: usize| bound.delta(self.layer, self.group[i].0)?.as_fourier();
            let twins = fourier(i).zip(fourier(j)).filter(|(a, b)| a.is_twin(b));
            (twins.map(|(a, b)| [a, b]), *weight)
        })
    }

    /// outs\[i\] += added\[i\] where there is a change.
    pub fn add_rows(&self, pool: &Pool, added: [&mut [f32]; N], outs: [&mut [f32]; N]) {
        let widths = self.group.map(|(_, linear)| linear.shape().0);
        let mut outs = outs.into_iter();
        let parts = widths.map(|width| (outs.next().unwrap_or_default(), width));
        for_each_chunk(pool, parts, |_, row, outs: [&mut [f32]; N]| {
            for (i, out) in outs.into_iter().enumerate().filter(|(i, _)| self.touched[*i]) {
                vector::add(&added[i][row * widths[i]..][..widths[i]], out);
            }
        });
    }
}

/// What applying the changes to some linears of a layer reads, and of which of them, in order.
fn streams(
    adapters: &ActiveAdapters,
    linears: impl Iterator<Item = (usize, LinearKind)>,
) -> impl Iterator<Item = (usize, &[u8])> {
    let of = |(i, (layer, kind))| {
        let deltas = adapters.list().iter().filter_map(move |(bound, _)| bound.delta(layer, kind));
        deltas.map(move |delta| (i, delta.stream()))
    };
    linears.enumerate().flat_map(of).filter(|(_, bytes)| !bytes.is_empty())
}

/// The first of it, which the products before ask for.
pub(super) fn first_read(
    adapters: &ActiveAdapters,
    linears: impl Iterator<Item = (usize, LinearKind)>,
) -> [Span; STREAMS] {
    let mut first = streams(adapters, linears).map(|(_, bytes)| Span::of(bytes));
    std::array::from_fn(|_| first.next().unwrap_or_default())
}
