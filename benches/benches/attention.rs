//! Attention of one layer over the KV cache: a prompt in batches, in f32 and as beside this CPU's fastest kernels, and one row at
//! a long context.
//!
//! Throughput is multiply-adds a second for prompts, bytes of the cache a second for one row.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use timbre::kernels::{Pool, Tier, detected_tiers};
use timbre::model::blocks::{AttentionScratch, Heads, Turn, Window};
use timbre::model::{KvLayer, KvType, Scratch};
use timbre_benches::noise;

const PROMPT: usize = 512;
const CONTEXT: usize = 2048;
const THREADS: [usize; 2] = [1, 2];

/// The shapes of SmolLM2 135M, and of Gemma 3 270M's layers that see everything and that see a window.
const SHAPES: [(&str, Heads); 3] = [
    ("9x3x64", heads(9, 3, 64, Window::Full)),
    ("4x1x256", heads(4, 1, 256, Window::Full)),
    ("4x1x256-last-512", heads(4, 1, 256, Window::Last(512))),
];

const fn heads(count: usize, kv: usize, dim: usize, window: Window) -> Heads {
    Heads { count, kv, dim, scale: 0.125, soft_cap: None, window }
}

fn attention(c: &mut Criterion) {
    for (shape, heads) in SHAPES {
        let q = noise(PROMPT * heads.q_len(), 1);
        let (k, v) = (noise(CONTEXT * heads.kv_len(), 2), noise(CONTEXT * heads.kv_len(), 3));
        for kv in [KvType::F16, KvType::Q8_0] {
            for threads in THREADS {
                let pool = Pool::new(threads).unwrap();
                let scratch = |tier| AttentionScratch::new([heads].into_iter(), threads, tier);
                // All of it, so that any prompt of it can be read.
                let mut layer = KvLayer::new(kv, &Heads { window: Window::Full, ..heads }, CONTEXT).unwrap();
                heads.store(&pool, &mut layer, 0, &k, &v, Turn::default(), &scratch(Tier::Scalar));
                let mut out = vec![0.0; q.len()];

                for tier in [Some(Tier::Scalar), detected_tiers().pop()].into_iter().flatten() {
                    let mut scratch = scratch(tier);
                    let mut group = c.benchmark_group(format!("attention/prompt-{PROMPT}/{threads}/{tier}"));
                    group.throughput(Throughput::Elements((PROMPT * (PROMPT + 1) * heads.q_len()) as u64));
                    group.bench_function(BenchmarkId::new(shape, kv), |b| {
                        b.iter(|| {
                            let batch = Scratch::DEFAULT_BATCH * heads.q_len();
                            for (i, (q, out)) in q.chunks(batch).zip(out.chunks_mut(batch)).enumerate() {
                                let start = i * Scratch::DEFAULT_BATCH;
                                heads.attend(&pool, &layer, start, black_box(q), Turn::default(), out, &mut scratch);
                            }
                        });
                    });
                    group.finish();
                }

                let mut scratch = scratch(Tier::Scalar);
                let mut group = c.benchmark_group(format!("attention/row-at-{CONTEXT}/{threads}"));
                let seen = match heads.window {
                    Window::Full => CONTEXT,
                    Window::Last(n) => n,
                };
                group.throughput(Throughput::Bytes((layer.bytes() / CONTEXT * seen) as u64));
                let (q, out) = (&q[..heads.q_len()], &mut out[..heads.q_len()]);
                group.bench_function(BenchmarkId::new(shape, kv), |b| {
                    b.iter(|| {
                        heads.attend(&pool, &layer, CONTEXT - 1, black_box(q), Turn::default(), out, &mut scratch);
                    });
                });
                group.finish();
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = attention
}
criterion_main!(benches);
