//! What an adapter costs: applying one layer's change to one row and to many, drawing its positions, and reconstructing it densely.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use timbre::adapter::{Delta, DeltaBlock, DeltaScratch, FourierDelta};
use timbre::spectral::{Entries, Plan, Shape, Transforms, reconstruct};
use timbre_benches::noise;

const N: usize = 1000;
const SIDES: [usize; 4] = [576, 1024, 2048, 4096];

fn delta(side: usize) -> FourierDelta {
    let entries = Entries::seeded(Shape::new(side, side).unwrap(), N, 2024).unwrap();
    FourierDelta::new(Arc::new(Plan::new(Arc::new(entries))), &noise(N, 1), 300.0).unwrap()
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply one row");
    for side in SIDES {
        let delta = delta(side);
        let mut scratch = DeltaScratch::new(Arc::new(Transforms::new()), [side]);
        let (x, mut y) = (noise(side, 2), vec![0.0; side]);
        group.bench_function(BenchmarkId::from_parameter(side), |b| {
            b.iter(|| {
                scratch.begin_input();
                scratch.begin_output();
                delta.apply(1.0, black_box(&x), &mut scratch);
                scratch.finish(&mut y, None);
            });
        });
    }
    group.finish();
}

fn apply_block(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply a block of rows");
    for side in SIDES {
        let delta = delta(side);
        let mut block = DeltaBlock::new(Arc::new(Transforms::new()), [side]);
        let (x, mut y) = (noise(DeltaBlock::ROWS * side, 2), vec![0.0; DeltaBlock::ROWS * side]);
        group.throughput(Throughput::Elements(DeltaBlock::ROWS as u64));
        group.bench_function(BenchmarkId::from_parameter(side), |b| {
            b.iter(|| {
                block.begin_input();
                block.begin_output();
                delta.apply_rows(1.0, black_box(&x), &mut block);
                block.finish(&mut y, side, None);
            });
        });
    }
    group.finish();
}

fn draw(c: &mut Criterion) {
    let mut group = c.benchmark_group("draw positions");
    for side in SIDES {
        let shape = Shape::new(side, side).unwrap();
        group.bench_function(BenchmarkId::from_parameter(side), |b| {
            b.iter(|| Entries::seeded(black_box(shape), N, 2024).unwrap());
        });
    }
    group.finish();
}

fn dense(c: &mut Criterion) {
    let mut group = c.benchmark_group("reconstruct");
    group.sample_size(10);
    let transforms = Transforms::new();
    for side in SIDES {
        let delta = delta(side);
        let coefficients = delta.coefficients();
        group.bench_function(BenchmarkId::from_parameter(side), |b| {
            b.iter(|| reconstruct(delta.entries(), &coefficients, 300.0, &transforms, 1).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, apply, apply_block, draw, dense);
criterion_main!(benches);
