//! Adapters on a GPU: the dense change beside writing as many bytes, 64 layers of it, a change applied in both ways, a swap.
//! Times are the device's own where it has timestamps. Prints the adapter first; there are no rows without one.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use timbre::gpu::{
    Access, Forward, Gpu, GpuChoice, GpuError, Inverse, KernelSpec, Positions, Precision, Product, Reconstruct,
    Recorder, Shader,
};
use timbre::spectral::{Entries, Shape};
use timbre_benches::noise;

const N: usize = 1000;
const SIDES: [usize; 5] = [576, 1024, 2048, 2560, 4096];

/// Writes as many numbers as fit, a number a thread: what nothing that makes a matrix can beat.
const FILL: Shader = Shader {
    name: "fill",
    wgsl: "
        @group(0) @binding(0) var<storage, read_write> out: array<vec4f>;
        @compute @workgroup_size(256)
        fn fill(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
            for (var i = id.x; i < arrayLength(&out); i += groups.x * 256u) { out[i] = vec4f(f32(i)); }
        }
    ",
    reduces: false,
};

fn device() -> Option<Arc<Gpu>> {
    match Gpu::open(&GpuChoice::Auto) {
        Ok(gpu) => {
            eprintln!(
                "{}; times by {}",
                gpu.info(),
                if gpu.info().timestamps { "timestamps" } else { "the CPU's clock" }
            );
            Some(gpu)
        }
        Err(error) => {
            eprintln!("nothing measured: {error}");
            None
        }
    }
}

fn entries(side: usize) -> Entries {
    Entries::seeded(Shape::new(side, side).unwrap(), N, 2024).unwrap()
}

fn positions(entries: &Entries) -> Positions<'_> {
    let shape = entries.shape();
    Positions { d1: shape.rows(), d2: shape.cols(), rows: entries.rows(), cols: entries.cols() }
}

/// How long `iterations` runs take, 16 to a submission.
fn time(gpu: &Arc<Gpu>, iterations: u64, record: impl Fn(&mut Recorder)) -> Duration {
    let mut total = Duration::ZERO;
    let mut left = iterations;
    while left > 0 {
        let now = left.min(16);
        let mut recorder = Recorder::timed(gpu);
        (0..now).for_each(|_| record(&mut recorder));
        let begin = Instant::now();
        let timings = recorder.submit_timed().unwrap();
        gpu.wait().unwrap();
        let wall = begin.elapsed();
        total += timings.map_or(wall, |timings| {
            Duration::from_secs_f64(timings.wait().unwrap().sections.iter().map(|(_, ns)| ns / 1e9).sum())
        });
        left -= now;
    }
    total
}

fn dense(c: &mut Criterion) {
    let Some(gpu) = device() else { return };
    let mut group = c.benchmark_group("gpu reconstruct");
    group.sample_size(10);
    for side in SIDES {
        let entries = entries(side);
        let plan = Reconstruct::new(&gpu, &positions(&entries)).unwrap();
        let numbers = noise(N, 1);
        let coefficients = plan.coefficients(&[(&numbers, 300.0)]).unwrap();
        for precision in [Precision::F32, Precision::F16] {
            let out = gpu.scratch(plan.bytes(precision)).unwrap();
            group.throughput(Throughput::Bytes(plan.bytes(precision)));
            group.bench_function(BenchmarkId::new(format!("{precision:?}"), side), |b| {
                b.iter_custom(|iterations| {
                    time(&gpu, iterations, |recorder| {
                        plan.record(recorder, &coefficients, 0, 1, precision, out.all()).unwrap();
                    })
                });
            });
        }
        let out = gpu.scratch(plan.bytes(Precision::F32)).unwrap();
        let spec = KernelSpec { shader: FILL, entry: "fill", access: &[Access::Write], params: false, constants: &[] };
        let fill = gpu.kernel(&spec).unwrap().bind(&gpu, &[out.all()]).unwrap();
        let groups = (side * side / 4).div_ceil(256).min(4096) as u32;
        group.throughput(Throughput::Bytes(plan.bytes(Precision::F32)));
        group.bench_function(BenchmarkId::new("writing as many bytes", side), |b| {
            b.iter_custom(|iterations| time(&gpu, iterations, |recorder| recorder.run(&fill, &(), [groups, 1, 1])));
        });
    }
    group.finish();
}

/// All layers of a large model, as many in a buffer as fit. Left out where the device has not the memory.
fn layers(c: &mut Criterion) {
    let Some(gpu) = device() else { return };
    if gpu.info().is_software() {
        return eprintln!("64 layers are not measured on a program on the CPU");
    }
    let entries = entries(4096);
    let plan = Reconstruct::new(&gpu, &positions(&entries)).unwrap();
    let numbers = noise(N, 1);
    let coefficients = plan.coefficients(&vec![(&numbers[..], 300.0); 64]).unwrap();
    let at_once = plan.layers_at_once(Precision::F16).clamp(1, 64);
    let bytes = plan.bytes(Precision::F16);
    let buffers: Result<Vec<_>, GpuError> =
        (0..64usize.div_ceil(at_once)).map(|_| gpu.storage("layers", bytes * at_once as u64)).collect();
    let Ok(buffers) = buffers else { return eprintln!("64 layers do not fit into this device's memory") };
    let mut group = c.benchmark_group("gpu reconstruct 64 layers of 4096x4096 into f16");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(bytes * 64));
    group.bench_function("all", |b| {
        b.iter_custom(|iterations| {
            time(&gpu, iterations, |recorder| {
                for (i, buffer) in buffers.iter().enumerate() {
                    let count = at_once.min(64 - i * at_once);
                    plan.record(recorder, &coefficients, i * at_once * N, count, Precision::F16, buffer.all()).unwrap();
                }
            })
        });
    });
    group.finish();
}

fn apply(c: &mut Criterion) {
    let Some(gpu) = device() else { return };
    for rows in [1, 128] {
        let mut group = c.benchmark_group(format!("gpu apply, {rows} rows"));
        group.sample_size(10);
        group.throughput(Throughput::Elements(rows as u64));
        for side in SIDES {
            let entries = entries(side);
            let (forward, inverse) =
                (Forward::new(&gpu, side).unwrap(), Inverse::new(&gpu, &[positions(&entries)]).unwrap());
            let scaled: Vec<f32> = noise(N, 1).iter().map(|c| c * inverse.scale(300.0) as f32).collect();
            let coefficients = gpu.upload("coefficients", &scaled).unwrap();
            let order = gpu.upload("order", &(0..side as u32).collect::<Vec<_>>()).unwrap();
            let x = gpu.upload("x", &noise(rows * side, 2)).unwrap();
            let y = gpu.storage("y", (rows * side * 4) as u64).unwrap();
            let spectra = gpu.scratch(forward.bytes() * rows as u64).unwrap();
            let there = forward.bind(&gpu, x.all(), spectra.all()).unwrap();
            let back = inverse.bind(&gpu, coefficients.all(), spectra.all(), order.all(), y.all()).unwrap();
            group.bench_function(BenchmarkId::new("spectral", side), |b| {
                b.iter_custom(|iterations| {
                    time(&gpu, iterations, |recorder| {
                        forward.run(recorder, &there, rows);
                        inverse.run(recorder, &back, 0, rows);
                    })
                });
            });
            if gpu.info().is_software() && rows > 1 {
                continue;
            }
            let plan = Reconstruct::new(&gpu, &positions(&entries)).unwrap();
            let w = gpu.storage("w", plan.bytes(Precision::F16)).unwrap();
            let mut recorder = Recorder::new(&gpu);
            plan.record(&mut recorder, &coefficients, 0, 1, Precision::F16, w.all()).unwrap();
            recorder.submit().unwrap();
            let product = Product::new(&gpu, side, side, Precision::F16, true).unwrap();
            let bound = product.bind(&gpu, w.all(), x.all(), order.all(), y.all()).unwrap();
            group.bench_function(BenchmarkId::new("dense", side), |b| {
                b.iter_custom(|iterations| time(&gpu, iterations, |recorder| product.run(recorder, &bound, rows)));
            });
        }
        group.finish();
    }
}

/// What a swap sends: the coefficients of 60 modules, until the device has them.
fn swap(c: &mut Criterion) {
    let Some(gpu) = device() else { return };
    let coefficients = noise(60 * N, 1);
    let buffer = gpu.upload("coefficients", &coefficients).unwrap();
    let mut group = c.benchmark_group("gpu swap");
    group.bench_function("60 modules of 1000", |b| {
        b.iter(|| {
            gpu.write(&buffer, 0, black_box(&coefficients)).unwrap();
            Recorder::new(&gpu).submit().unwrap();
            gpu.wait().unwrap();
        });
    });
    group.finish();
}

criterion_group!(benches, dense, layers, apply, swap);
criterion_main!(benches);
