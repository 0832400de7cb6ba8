//! The protocol a model drives changes with: shared inputs, shared outputs, row orders, and no allocation.

mod adapter_support;
mod spectral_support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use adapter_support::{coefficients, planned, shape};
use spectral_support::relative_error;
use timbre::adapter::{Delta, DeltaBlock, DeltaScratch, FourierDelta, RowOrder};
use timbre::spectral::{Entries, Plan, PlanCache, Shape, SpectralError, Transforms};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn delta(plan: Arc<Plan>, salt: u32, alpha: f64) -> FourierDelta {
    FourierDelta::new(Arc::clone(&plan), &coefficients(plan.len(), salt), alpha).unwrap()
}

fn row(len: usize, salt: usize) -> Vec<f32> {
    (0..len).map(|i| (((i + 1) * (salt + 3) * 7919) % 2003) as f32 / 1000.0 - 1.0).collect()
}

/// `y + Σ weight·ΔWx`, dense.
fn dense(y: &[f32], x: &[f32], deltas: &[(&dyn Delta, f32)]) -> Vec<f64> {
    let transforms = Transforms::new();
    let mut out: Vec<f64> = y.iter().map(|&v| f64::from(v)).collect();
    for (delta, weight) in deltas {
        let matrix = delta.dense(&transforms, 1);
        for (out, row) in out.iter_mut().zip(matrix.chunks(x.len())) {
            let product: f64 = row.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
            *out += f64::from(*weight) * product;
        }
    }
    out
}

#[test]
fn several_adapters_share_one_input_and_one_output() {
    let cache = PlanCache::new();
    let q1 = delta(cache.seeded(shape(36, 30), 20, 1).unwrap(), 1, 300.0);
    let q2 = delta(cache.biased(shape(36, 30), 35, 2, 9.0, 5.0).unwrap(), 2, -120.0);
    let v1 = delta(cache.seeded(shape(15, 30), 20, 1).unwrap(), 3, 300.0);
    let mut scratch = DeltaScratch::new(Arc::new(Transforms::new()), [30, 36, 15]);
    for token in 0..3 {
        let x = row(30, token);
        scratch.begin_input();
        let mut q = row(36, 10 + token);
        let expected = dense(&q, &x, &[(&q1, 0.75), (&q2, -1.5)]);
        scratch.begin_output();
        q1.apply(0.75, &x, &mut scratch);
        q2.apply(-1.5, &x, &mut scratch);
        scratch.finish(&mut q, None);
        assert!(relative_error(&q, &expected) < 1e-5);

        let mut v = row(15, 20 + token);
        let expected = dense(&v, &x, &[(&v1, 1.0)]);
        scratch.begin_output();
        v1.apply(1.0, &x, &mut scratch);
        scratch.finish(&mut v, None);
        assert!(relative_error(&v, &expected) < 1e-5);
    }
}

#[test]
fn nothing_applied_changes_nothing() {
    let mut scratch = DeltaScratch::new(Arc::new(Transforms::new()), [8]);
    let mut y = row(8, 1);
    scratch.begin_output();
    scratch.finish(&mut y, None);
    assert_eq!(y, row(8, 1));
}

/// A kind from outside, without forms of its own for blocks: a change of rank one.
#[derive(Debug)]
struct Outer(Vec<f32>, Vec<f32>);

impl Delta for Outer {
    fn shape(&self) -> Shape {
        shape(self.0.len(), self.1.len())
    }

    fn parameters(&self) -> usize {
        self.0.len() + self.1.len()
    }

    fn read_parameters(&self, out: &mut [f32]) {
        let (b, a) = out.split_at_mut(self.0.len());
        b.copy_from_slice(&self.0);
        a.copy_from_slice(&self.1);
    }

    fn with_parameters(&self, parameters: &[f32]) -> Arc<dyn Delta> {
        let (b, a) = parameters.split_at(self.0.len());
        Arc::new(Self(b.to_vec(), a.to_vec()))
    }

    fn bytes(&self) -> usize {
        4 * self.parameters()
    }

    fn apply(&self, weight: f32, x: &[f32], scratch: &mut DeltaScratch) {
        let dot: f32 = self.1.iter().zip(x).map(|(a, b)| a * b).sum();
        scratch.dense(self.0.len()).iter_mut().zip(&self.0).for_each(|(y, b)| *y += weight * dot * b);
    }

    fn adjoint(&self, weight: f32, g: &[f32], scratch: &mut DeltaScratch) {
        let dot: f32 = self.0.iter().zip(g).map(|(a, b)| a * b).sum();
        scratch.dense(self.1.len()).iter_mut().zip(&self.1).for_each(|(y, a)| *y += weight * dot * a);
    }

    fn gradient(&self, _: f32, _: &[f32], _: &[f32], _: &mut [f32], _: &mut DeltaScratch) {}

    fn dense(&self, _: &Transforms, _: usize) -> Vec<f32> {
        self.0.iter().flat_map(|b| self.1.iter().map(move |a| a * b)).collect()
    }
}

#[test]
fn dense_and_spectral_kinds_add_up() {
    let fourier = delta(Arc::new(Plan::new(Arc::new(Entries::seeded(shape(9, 14), 30, 3).unwrap()))), 5, 40.0);
    let outer = Outer(row(9, 1), row(14, 2));
    let mut scratch = DeltaScratch::new(Arc::new(Transforms::new()), [9, 14]);
    let (x, mut y) = (row(14, 3), row(9, 4));
    let expected = dense(&y, &x, &[(&fourier, 1.0), (&outer, 0.5)]);
    scratch.begin_input();
    scratch.begin_output();
    fourier.apply(1.0, &x, &mut scratch);
    outer.apply(0.5, &x, &mut scratch);
    scratch.finish(&mut y, None);
    assert!(relative_error(&y, &expected) < 1e-5);
    // Both start again from nothing.
    scratch.begin_output();
    scratch.finish(&mut y, None);
    assert!(relative_error(&y, &expected) < 1e-5);
}

#[test]
fn backward_is_the_transpose() {
    let delta = delta(Arc::new(Plan::new(Arc::new(Entries::seeded(shape(11, 8), 25, 3).unwrap()))), 5, 60.0);
    let mut scratch = DeltaScratch::new(Arc::new(Transforms::new()), [8, 11]);
    let matrix = delta.dense(&Transforms::new(), 1);
    let mut gradient = vec![0.0; 25];
    let mut expected = vec![0.0f64; 25];
    for token in 0..2 {
        let (x, g) = (row(8, token), row(11, 5 + token));
        let mut dx = row(8, 9);
        let transpose: Vec<f64> = (0..8)
            .map(|q| f64::from(dx[q]) + 2.0 * (0..11).map(|p| f64::from(matrix[p * 8 + q] * g[p])).sum::<f64>())
            .collect();
        scratch.begin_input();
        scratch.begin_upstream();
        delta.gradient(2.0, &x, &g, &mut gradient, &mut scratch);
        scratch.begin_output();
        delta.adjoint(2.0, &g, &mut scratch);
        scratch.finish(&mut dx, None);
        assert!(relative_error(&dx, &transpose) < 1e-5);
        // L = ⟨g, 2·ΔWx⟩ is linear in each parameter.
        for (l, expected) in expected.iter_mut().enumerate() {
            let mut one = vec![0.0; 25].into_boxed_slice();
            one[l] = 1.0;
            let column = delta.with_stored(one).unwrap().dense(&Transforms::new(), 1);
            *expected +=
                2.0 * (0..88).map(|i| f64::from(column[i]) * f64::from(g[i / 8]) * f64::from(x[i % 8])).sum::<f64>();
        }
    }
    assert!(relative_error(&gradient, &expected) < 1e-5);
}

#[test]
fn many_rows_go_back_as_one_by_one() {
    // A length without a transform for blocks on either side, and none; more and fewer entries a bin.
    for (d1, d2, n) in [(36, 30, 20), (36, 30, 900), (22, 30, 40), (30, 22, 40), (64, 96, 300)] {
        let transforms = Arc::new(Transforms::new());
        let of = |seed| Arc::new(Plan::new(Arc::new(Entries::seeded(shape(d1, d2), n, seed).unwrap())));
        let deltas = [delta(of(3), 5, 60.0), delta(of(8), 6, -90.0)];
        let mut scratch = DeltaScratch::new(Arc::clone(&transforms), [d1, d2]);
        let mut block = DeltaBlock::new(transforms, [d1, d2]);
        for rows in [16, 1, 7] {
            let x: Vec<f32> = (0..rows).flat_map(|t| row(d2, t)).collect();
            let g: Vec<f32> = (0..rows).flat_map(|t| row(d1, 100 + t)).collect();
            let before: Vec<f32> = (0..rows).flat_map(|t| row(d2, 200 + t)).collect();
            let (mut dx, mut gradients) = (before.clone(), [vec![1.0; n], vec![2.0; n]]);
            for ((x, g), dx) in x.chunks_exact(d2).zip(g.chunks_exact(d1)).zip(dx.chunks_exact_mut(d2)) {
                scratch.begin_input();
                scratch.begin_output();
                for (delta, gradient) in deltas.iter().zip(&mut gradients) {
                    scratch.begin_upstream();
                    delta.gradient(0.5, x, g, gradient, &mut scratch);
                    delta.adjoint(0.5, g, &mut scratch);
                }
                scratch.finish(dx, None);
            }
            let (mut block_dx, mut block_gradients) = (before, [vec![1.0; n], vec![2.0; n]]);
            block.begin_input();
            block.begin_output();
            for (delta, gradient) in deltas.iter().zip(&mut block_gradients) {
                block.begin_upstream();
                delta.gradient_rows(0.5, &x, &g, gradient, &mut block);
                delta.adjoint_rows(0.5, &g, &mut block);
            }
            block.finish(&mut block_dx, d2, None);
            let f64s = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
            assert!(relative_error(&block_dx, &f64s(&dx)) < 2e-6, "{d1}x{d2}, {n} entries, {rows} rows");
            for (got, want) in block_gradients.iter().zip(&gradients) {
                assert!(relative_error(got, &f64s(want)) < 2e-6, "{d1}x{d2}, {n} entries, {rows} rows");
            }
        }
    }
}

#[test]
fn llama_rows_go_pair_by_pair() {
    // llama.cpp's converter: w.reshape(heads, 2, d/2, …).swapaxes(1, 2).reshape(w.shape).
    let (heads, d) = (3usize, 8usize);
    let order = RowOrder::llama_rope(heads, d).unwrap();
    let mut file = Vec::new();
    for head in 0..heads {
        for pair in 0..d / 2 {
            for half in 0..2 {
                file.push((head * d + half * (d / 2) + pair) as u32);
            }
        }
    }
    assert_eq!(order.to_hf(), file);
    for (hf, &target) in order.to_file().iter().enumerate() {
        assert_eq!(order.to_hf()[target as usize] as usize, hf);
    }
    assert_eq!(&order.to_file()[..8], [0, 2, 4, 6, 1, 3, 5, 7]);
    let values = row(24, 1);
    let (mut stored, mut back) = (vec![0.0; 24], vec![0.0; 24]);
    order.add(&values, &mut stored);
    order.gather(&stored, &mut back);
    assert_eq!(back, values);
    assert_eq!(stored[1], values[4], "the second row of the file is the first pair's second half");
    for (heads, d) in [(0, 8), (3, 0), (3, 7), (usize::MAX, 2), (1 << 30, 1 << 10)] {
        assert!(RowOrder::llama_rope(heads, d).is_none(), "{heads} heads of {d}");
    }
}

#[test]
fn finish_sends_rows_where_the_file_has_them() {
    let delta = delta(Arc::new(Plan::new(Arc::new(Entries::seeded(shape(16, 6), 12, 3).unwrap()))), 5, 60.0);
    let order = RowOrder::llama_rope(2, 8).unwrap();
    let mut scratch = DeltaScratch::new(Arc::new(Transforms::new()), [6, 16]);
    let x = row(6, 1);
    let mut plain = vec![0.0; 16];
    let mut permuted = vec![0.0; 16];
    scratch.begin_input();
    for (y, order) in [(&mut plain, None), (&mut permuted, Some(&order))] {
        scratch.begin_output();
        delta.apply(1.0, &x, &mut scratch);
        scratch.finish(y, order);
    }
    for (hf, &target) in order.to_file().iter().enumerate() {
        assert_eq!(permuted[target as usize], plain[hf]);
    }
    // Written over what was there, with another kind's part beside it or nothing at all.
    let mut written = vec![f32::NAN; 16];
    for (spectral, dense) in [(true, false), (true, true), (false, true), (false, false)] {
        for (order, expected) in [(None, &plain), (Some(&order), &permuted)] {
            scratch.begin_output();
            if spectral {
                delta.apply(1.0, &x, &mut scratch);
            }
            if dense {
                scratch.dense(16).fill(0.25);
            }
            scratch.write(&mut written, order);
            for (got, change) in written.iter().zip(expected) {
                let want = if spectral { *change } else { 0.0 } + if dense { 0.25 } else { 0.0 };
                assert_eq!(*got, want, "{spectral} {dense}");
            }
        }
    }
}

#[test]
fn planned_lengths_never_allocate() {
    let cache = PlanCache::new();
    let first = delta(cache.seeded(shape(576, 577), 500, 1).unwrap(), 1, 300.0);
    let second = delta(cache.seeded(shape(576, 577), 700, 2).unwrap(), 2, 300.0);
    let order = RowOrder::llama_rope(9, 64).unwrap();
    let mut scratch = DeltaScratch::new(Arc::new(Transforms::new()), [576, 577]);
    let (x, g, mut y, mut dx) = (row(577, 1), row(576, 2), row(576, 3), row(577, 4));
    let mut gradient = vec![0.0; 500];
    let before = ALLOCATIONS.with(Cell::get);
    for _ in 0..3 {
        scratch.begin_input();
        scratch.begin_output();
        first.apply(1.0, &x, &mut scratch);
        second.apply(0.5, &x, &mut scratch);
        scratch.finish(&mut y, Some(&order));
        first.apply(1.0, &x, &mut scratch);
        scratch.write(&mut y, Some(&order));
        scratch.begin_upstream();
        first.gradient(1.0, &x, &g, &mut gradient, &mut scratch);
        scratch.begin_output();
        first.adjoint(1.0, &g, &mut scratch);
        scratch.finish(&mut dx, None);
    }
    assert_eq!(ALLOCATIONS.with(Cell::get), before);
}

#[test]
fn an_unplanned_length_is_planned_on_first_use() {
    let delta = delta(Arc::new(Plan::new(Arc::new(Entries::seeded(shape(20, 33), 12, 3).unwrap()))), 5, 60.0);
    let mut scratch = DeltaScratch::new(Arc::new(Transforms::new()), []);
    let (x, mut y) = (row(33, 1), vec![0.0; 20]);
    let expected = dense(&y, &x, &[(&delta, 1.0)]);
    scratch.begin_input();
    scratch.begin_output();
    delta.apply(1.0, &x, &mut scratch);
    scratch.finish(&mut y, None);
    assert!(relative_error(&y, &expected) < 1e-5);
}

#[test]
fn coefficients_survive_the_stored_order() {
    let plan = Arc::new(Plan::new(Arc::new(Entries::seeded(shape(40, 30), 200, 3).unwrap())));
    let c = coefficients(200, 1);
    let delta = FourierDelta::new(Arc::clone(&plan), &c, 1.0).unwrap();
    assert_eq!(delta.coefficients(), c);
    assert_eq!(plan.to_entry_order(delta.stored()).unwrap(), c);
    assert!(matches!(FourierDelta::new(plan, &c[1..], 1.0), Err(SpectralError::Length { found: 199, .. })));
    assert!(delta.with_stored(vec![0.0; 3].into()).is_err());
    // A module costs its coefficients; 10 % is what everything about it may add.
    let module = planned("m", Arc::new(Plan::new(Arc::new(Entries::seeded(shape(40, 30), 200, 3).unwrap()))), &c, 1.0);
    assert!(module.delta.bytes() <= 4 * 200 + 64);
}

/// What `applied` leaves of rows of zeros, `count` rows of x starting with row `first` of a fixed sequence.
fn in_block(
    block: &mut DeltaBlock,
    deltas: &[(&dyn Delta, f32)],
    order: Option<&RowOrder>,
    first: usize,
    count: usize,
) -> Vec<f32> {
    let (d1, d2) = (deltas[0].0.shape().rows(), deltas[0].0.shape().cols());
    let x: Vec<f32> = (first..first + count).flat_map(|token| row(d2, token)).collect();
    let mut y = vec![0.0; count * d1];
    block.begin_input();
    block.begin_output();
    for (delta, weight) in deltas {
        delta.apply_rows(*weight, &x, block);
    }
    block.finish(&mut y, d1, order);
    y
}

#[test]
fn a_block_is_its_rows_and_a_row_does_not_depend_on_its_block() {
    let order = RowOrder::llama_rope(3, 64).unwrap();
    // Lengths with a transform for blocks, without one on either side, and more entries than a bin's unrolled sums take.
    for (d1, d2, n) in [(192, 576, 1000), (192, 70, 40), (192, 33, 60), (192, 22, 50), (192, 16, 900)] {
        let spectral = delta(Arc::new(Plan::new(Arc::new(Entries::seeded(shape(d1, d2), n, 3).unwrap()))), 5, 300.0);
        let other = delta(Arc::new(Plan::new(Arc::new(Entries::seeded(shape(d1, d2), n, 4).unwrap()))), 6, -90.0);
        let outer = Outer(row(d1, 1), row(d2, 2));
        let transforms = Arc::new(Transforms::new());
        let mut block = DeltaBlock::new(Arc::clone(&transforms), [d1, d2]);
        for deltas in [&[(&spectral as &dyn Delta, 0.75), (&other, -1.5)][..], &[(&spectral, 1.0), (&outer, 0.01)]] {
            let all = in_block(&mut block, deltas, Some(&order), 0, DeltaBlock::ROWS);
            for count in [1, 2, 7, 15] {
                for first in [0, DeltaBlock::ROWS - count] {
                    let some = in_block(&mut block, deltas, Some(&order), first, count);
                    assert_eq!(some, all[first * d1..][..count * d1], "{d1}x{d2}, {count} rows from {first}");
                }
            }
            for (token, y) in all.chunks(d1).enumerate() {
                let mut scratch = DeltaScratch::new(Arc::clone(&transforms), [d1, d2]);
                let (x, mut one) = (row(d2, token), vec![0.0; d1]);
                scratch.begin_output();
                deltas.iter().for_each(|(delta, weight)| delta.apply(*weight, &x, &mut scratch));
                scratch.finish(&mut one, Some(&order));
                // Not the same bits: the planners' transforms add in another order.
                let error = relative_error(y, &one.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
                assert!(error < 2e-6, "{d1}x{d2}, row {token}: {error:e}");
                let mut expected = vec![0.0; d1];
                let plain = dense(&vec![0.0; d1], &x, deltas);
                order.to_file().iter().zip(plain).for_each(|(&to, v)| expected[to as usize] = v);
                assert!(relative_error(y, &expected) < 1e-5, "{d1}x{d2}, row {token}");
            }
        }
    }
}

#[test]
fn planned_lengths_never_allocate_in_blocks_either() {
    let cache = PlanCache::new();
    for d2 in [576, 577] {
        let delta = delta(cache.seeded(shape(192, d2), 500, 1).unwrap(), 1, 300.0);
        let transforms = Arc::new(Transforms::new());
        let mut block = DeltaBlock::new(Arc::clone(&transforms), [192, d2]);
        let (x, mut y) = (row(16 * d2, 1), row(16 * 192, 3));
        delta.prepare_rows(&transforms);
        let before = ALLOCATIONS.with(Cell::get);
        for rows in [16, 5] {
            block.begin_input();
            block.begin_output();
            delta.apply_rows(1.0, &x[..rows * d2], &mut block);
            block.finish(&mut y[..rows * 192], 192, None);
        }
        assert_eq!(ALLOCATIONS.with(Cell::get), before);
    }
}
