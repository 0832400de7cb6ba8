//! Products with quantised weights, per storage type and tier: decode (one row) in GB/s, prefill (128 rows) in GOP/s.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use timbre::gguf::GgmlType;
use timbre::kernels::{Activations, Compute, KernelChoice, Matrix, Tier, detected_tiers};
use timbre::quantize::quantize_row;
use timbre_benches::noise;

/// The feed-forward matrices of SmolLM2, rounded up to whole 256-element blocks.
const ROWS: usize = 1536;
const COLS: usize = 768;
const BATCH: usize = 128;

/// The types that the files people download are made of.
const TYPES: [GgmlType; 6] =
    [GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q5_0, GgmlType::Q8_0, GgmlType::Q4K, GgmlType::Q6K];

fn weights(ty: GgmlType) -> Vec<u8> {
    let row_bytes = ty.row_bytes(COLS).unwrap();
    let mut data = vec![0; ROWS * row_bytes];
    for (i, row) in data.chunks_exact_mut(row_bytes).enumerate() {
        quantize_row(ty, &noise(COLS, i as u32), row).unwrap();
    }
    data
}

fn products(c: &mut Criterion) {
    for tier in detected_tiers().into_iter().filter(|&t| t != Tier::Reference) {
        let compute = Compute::new(KernelChoice::Only(tier), 1).unwrap();
        for ty in TYPES {
            let data = weights(ty);
            let matrix = Matrix::new(ty, ROWS, COLS, &data).unwrap();
            for batch in [1, BATCH] {
                let x = noise(batch * COLS, 7);
                let mut activations = Activations::with_capacity(batch, COLS);
                activations.load(&compute, batch, COLS, &x);
                let mut out = vec![0.0; batch * ROWS];
                let mut group = c.benchmark_group(if batch == 1 { "decode" } else { "prefill" });
                group.throughput(match batch {
                    1 => Throughput::Bytes(data.len() as u64),
                    _ => Throughput::Elements((2 * batch * ROWS * COLS) as u64),
                });
                group.bench_function(BenchmarkId::new(ty.name(), tier), |b| {
                    b.iter(|| compute.matmul(black_box(matrix), &activations, &mut out));
                });
                group.finish();
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = products
}
criterion_main!(benches);
