//! Products with quantised weights, per storage type and tier: decode (one row) in GB/s, from the caches on one thread and from
//! memory on all of them, and prefill (128 rows) in GOP/s; the machine's ceilings are printed before each tier.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use timbre::gguf::GgmlType;
use timbre::kernels::{ActivationType, Activations, Compute, KernelChoice, Matrix, Tier, ceiling, detected_tiers};
use timbre::quantize::quantize_row;
use timbre_benches::noise;

/// The feed-forward matrices of SmolLM2, rounded up to whole 256-element blocks.
const ROWS: usize = 1536;
const COLS: usize = 768;
const BATCH: usize = 128;
/// Bytes of a matrix that is larger than the last-level cache.
const LARGE: usize = 100_000_000;

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

/// What the bench is about to be measured against, with as many threads as `compute` has.
fn print_ceilings(compute: &Compute) {
    println!(
        "\n{} on {} threads: memory is read at {:.1} GB/s, int8 multiplied at {:.0} GOP/s, of which two planes of activations leave half",
        compute.tier(),
        compute.threads(),
        ceiling::read_bandwidth(compute.pool()) / 1e9,
        ceiling::int8_rate(compute) / 1e9,
    );
}

/// Benches the product of `batch` activation rows with `rows` rows of weights.
fn product(
    c: &mut Criterion,
    group: &str,
    compute: &Compute,
    (ty, rows, data): (GgmlType, usize, &[u8]),
    batch: usize,
) {
    let matrix = Matrix::new(ty, rows, COLS, data).unwrap();
    let x = noise(batch * COLS, 7);
    let mut activations = Activations::with_capacity(compute, batch, COLS);
    activations.load(compute, batch, COLS, &x);
    let mut out = vec![0.0; batch * rows];
    let mut group = c.benchmark_group(group);
    group.throughput(match batch {
        1 => Throughput::Bytes(data.len() as u64),
        _ => Throughput::Elements((2 * batch * rows * COLS) as u64),
    });
    group.bench_function(BenchmarkId::new(format!("{ty} {}", compute.activations()), compute.tier()), |b| {
        b.iter(|| compute.matmul(black_box(matrix), &activations, &mut out));
    });
    group.finish();
}

fn products(c: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for tier in detected_tiers().into_iter().filter(|&t| t != Tier::Reference) {
        let computes = |threads| {
            let with = |activations| Compute::with_activations(KernelChoice::Only(tier), threads, activations).unwrap();
            ActivationType::ALL.map(with)
        };
        let (one, all) = (computes(1), computes(threads));
        print_ceilings(&one[0]);
        for ty in TYPES {
            let data = weights(ty);
            for compute in &one {
                product(c, "decode", compute, (ty, ROWS, &data), 1);
                product(c, "prefill", compute, (ty, ROWS, &data), BATCH);
            }
        }
        print_ceilings(&all[0]);
        for ty in TYPES {
            let data = weights(ty);
            let large = data.repeat(LARGE.div_ceil(data.len()));
            let rows = large.len() / data.len() * ROWS;
            for compute in &all {
                product(c, "decode from memory, all threads", compute, (ty, rows, &large), 1);
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
