//! The GPU's kernels one by one against the CPU's and against sums in f64.

#![cfg(feature = "gpu")]

#[path = "../kernels/blocks.rs"]
mod blocks;
#[path = "../gpu_support/mod.rs"]
mod gpu_support;

use std::sync::Arc;

use blocks::Rng;
use gpu_support::both;
use timbre::gguf::GgmlType;
use timbre::gpu::{Gpu, Recorder};
use timbre::kernels::{Matrix, dequantize, vector};
use timbre::model::blocks::{Activation, Heads, Rope, RopeStyle, Window};
use timbre::model::gpu::{GpuGate, GpuMatrix, GpuNorm, HeadBuffers, HeadLayout, NormBuffers};

/// Rounding of a product's f32 sum, relative to the sum of magnitudes: a unit in the last place for each of the some ten steps that
/// a number goes through.
const ROUNDING: f64 = 2e-6;

/// Smallest and largest columns a type is tried with: one block, an odd number of them, several tiles.
fn widths(ty: GgmlType) -> [usize; 3] {
    match ty.block_len() {
        1 => [4, 100, 1028],
        32 => [32, 96, 1056],
        _ => [256, 768, 1280],
    }
}

struct Case {
    rows: usize,
    cols: usize,
    data: Vec<u8>,
    weights: Vec<f32>,
    x: Vec<f32>,
}

impl Case {
    fn new(ty: GgmlType, rows: usize, cols: usize, count: usize, rng: &mut Rng) -> Self {
        let data = blocks::random(ty, rows * cols, rng);
        let mut weights = vec![0.0; rows * cols];
        dequantize(ty, &data, &mut weights).unwrap();
        let x = (0..count * cols).map(|_| rng.unit()).collect();
        Self { rows, cols, data, weights, x }
    }

    fn check(&self, y: &[f32], bias: &[f32], label: &str) {
        for (at, &got) in y.iter().enumerate() {
            let (m, r) = (at / self.rows, at % self.rows);
            let (w, x) = (&self.weights[r * self.cols..][..self.cols], &self.x[m * self.cols..][..self.cols]);
            let products = || w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            let want = products().sum::<f64>() + f64::from(bias[r]);
            let size = products().map(f64::abs).sum::<f64>() + f64::from(bias[r].abs());
            // Formats with an offset multiply it and the rest of a weight one by one.
            let largest = w.iter().fold(0f32, |m, w| m.max(w.abs()));
            let loose = f64::from(largest) * x.iter().map(|x| f64::from(x.abs())).sum::<f64>();
            let bound = ROUNDING * size.max(loose);
            assert!(
                (f64::from(got) - want).abs() <= bound,
                "{label}, row {m}, output {r}: {got} for {want} ± {bound:e}"
            );
        }
    }
}

fn read(gpu: &Arc<Gpu>, buffer: &timbre::gpu::GpuBuffer, len: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; len];
    gpu.read(buffer, 0, &mut out).unwrap();
    out
}

#[test]
fn products_of_every_type_are_those_of_the_decoded_weights() {
    for gpu in both() {
        let mut rng = Rng(1);
        for ty in GgmlType::ALL {
            for (cols, rows) in widths(ty).into_iter().zip([1, 67, 130]) {
                let case = Case::new(ty, rows, cols, 70, &mut rng);
                let bias: Vec<f32> = (0..rows).map(|_| rng.unit()).collect();
                let matrix = Matrix::new(ty, rows, cols, &case.data).unwrap();
                let weights = GpuMatrix::upload(&gpu, "weights", matrix).unwrap();
                let vectors = gpu.upload("vectors", &[&[9.0; 4], &bias[..]].concat()).unwrap();
                let x = gpu.upload("x", &case.x).unwrap();
                // One row by itself, a few, a tile that is not full, several tiles.
                for count in [1, 3, 5, 33, 70] {
                    let y = gpu.storage("y", (count * rows * 4) as u64).unwrap();
                    let product = weights.product(&gpu, (vectors.all(), Some(4)), x.all(), y.all()).unwrap();
                    let mut recorder = Recorder::new(&gpu);
                    product.record(&mut recorder, count);
                    recorder.submit().unwrap();
                    case.check(&read(&gpu, &y, count * rows), &bias, &format!("{ty} {rows}x{cols}, {count} rows"));
                }
            }
        }
    }
}

#[test]
fn a_matrix_larger_than_a_binding_is_multiplied_in_parts() {
    for gpu in both() {
        let mut rng = Rng(2);
        for ty in [GgmlType::Q4_0, GgmlType::Q6K] {
            let (rows, cols) = (70, 768);
            let case = Case::new(ty, rows, cols, 20, &mut rng);
            let matrix = Matrix::new(ty, rows, cols, &case.data).unwrap();
            // 27 rows a part, the last part 16.
            let max = (matrix.row_bytes() * 27 + 1) as u64;
            let weights = GpuMatrix::upload_in(&gpu, "weights", matrix, max).unwrap();
            assert_eq!(weights.parts(), 3);
            let vectors = gpu.upload("vectors", &[0.0f32; 4]).unwrap();
            let x = gpu.upload("x", &case.x).unwrap();
            for count in [1, 20] {
                let y = gpu.storage("y", (count * rows * 4) as u64).unwrap();
                let product = weights.product(&gpu, (vectors.all(), None), x.all(), y.all()).unwrap();
                let mut recorder = Recorder::new(&gpu);
                product.record(&mut recorder, count);
                recorder.submit().unwrap();
                case.check(&read(&gpu, &y, count * rows), &vec![0.0; rows], &format!("{ty}, {count} rows"));
            }
            let tokens = [69u32, 0, 26, 27, 53, 54];
            let step = gpu.upload("tokens", &tokens).unwrap();
            let found = gpu.storage("found", (tokens.len() * cols * 4) as u64).unwrap();
            let lookup = weights.lookup(&gpu, 1.0, step.all(), found.all()).unwrap();
            let mut recorder = Recorder::new(&gpu);
            lookup.record(&mut recorder, tokens.len());
            recorder.submit().unwrap();
            let found = read(&gpu, &found, tokens.len() * cols);
            for (got, token) in found.chunks_exact(cols).zip(tokens) {
                close(got, &case.weights[token as usize * cols..][..cols], 1e-6, &format!("{ty} token {token}"));
            }
        }
        let data = vec![0; 36];
        let narrow = Matrix::new(GgmlType::F32, 1, 9, &data).unwrap();
        assert!(GpuMatrix::upload(&gpu, "narrow", narrow).is_err());
        let row = Matrix::new(GgmlType::Q4_0, 1, 64, &data).unwrap();
        assert!(GpuMatrix::upload_in(&gpu, "row", row, 35).is_err());
    }
}

/// Differences relative to the largest magnitude.
fn close(got: &[f32], want: &[f32], tolerance: f32, label: &str) {
    let size = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance * size, "{label}, {i}: {got} for {want}");
    }
}

/// Weights decoded one by one are the CPU's to a rounding: subnormal scales, which devices may flush, included.
#[test]
fn rows_of_every_type_are_decoded() {
    for gpu in both() {
        let mut rng = Rng(3);
        for ty in GgmlType::ALL {
            let cols = widths(ty)[2];
            for small in [false, true] {
                let mut case = Case::new(ty, 9, cols, 1, &mut rng);
                if small && ty.block_len() > 1 {
                    // f16 scales become 2⁻²⁴ · 300, far below the smallest normal one.
                    blocks::scales(ty, &mut case.data, half::f16::from_bits(300));
                    dequantize(ty, &case.data, &mut case.weights).unwrap();
                }
                let matrix = Matrix::new(ty, 9, cols, &case.data).unwrap();
                let weights = GpuMatrix::upload(&gpu, "weights", matrix).unwrap();
                let tokens = [8u32, 1, 3];
                let step = gpu.upload("tokens", &tokens).unwrap();
                let found = gpu.storage("found", (3 * cols * 4) as u64).unwrap();
                let lookup = weights.lookup(&gpu, 0.5, step.all(), found.all()).unwrap();
                let mut recorder = Recorder::new(&gpu);
                lookup.record(&mut recorder, tokens.len());
                recorder.submit().unwrap();
                for (got, token) in read(&gpu, &found, 3 * cols).chunks_exact(cols).zip(tokens) {
                    let want: Vec<f32> =
                        case.weights[token as usize * cols..][..cols].iter().map(|w| w * 0.5).collect();
                    close(got, &want, 1e-6, &format!("{ty} token {token}, small scales: {small}"));
                }
            }
        }
    }
}

#[test]
fn norms_and_residuals_are_the_cpus() {
    for gpu in both() {
        let mut rng = Rng(4);
        let mut values = |len: usize| (0..len).map(|_| rng.unit()).collect::<Vec<f32>>();
        for cols in [4, 576, 1028, 4096] {
            let (rows, first) = (7, 2);
            let (post, weight) = (values(cols), values(cols));
            let (x, out) = (values(rows * cols), values(rows * cols));
            let vectors = gpu.upload("vectors", &[&weight[..], &post[..]].concat()).unwrap();
            for (has_out, has_post) in [(false, false), (true, false), (true, true)] {
                let on_x = gpu.upload("x", &x).unwrap();
                let on_out = gpu.upload("out", &out).unwrap();
                let normed = gpu.storage("normed", (rows * cols * 4) as u64).unwrap();
                let on = NormBuffers { vectors: vectors.all(), x: on_x.all(), out: on_out.all(), normed: normed.all() };
                let post_at = has_post.then_some((cols, 1e-5));
                let norm = GpuNorm::bind(&gpu, on, cols, has_out, post_at, (0, 1e-6)).unwrap();
                let mut recorder = Recorder::new(&gpu);
                norm.record(&mut recorder, first, rows - first);
                recorder.submit().unwrap();
                let (got_x, got) = (read(&gpu, &on_x, rows * cols), read(&gpu, &normed, rows * cols));
                assert_eq!(got_x[..first * cols], x[..first * cols], "rows before are untouched");
                for row in first..rows {
                    let at = row * cols..(row + 1) * cols;
                    let (mut want_x, mut added) = (x[at.clone()].to_vec(), out[at.clone()].to_vec());
                    if has_post {
                        vector::rms_norm(&out[at.clone()], &post, 1e-5, &mut added);
                    }
                    if has_out {
                        vector::add(&added, &mut want_x);
                    }
                    let mut want = vec![0.0; cols];
                    vector::rms_norm(&want_x, &weight, 1e-6, &mut want);
                    let label = format!("{cols} columns, out {has_out}, post {has_post}, row {row}");
                    close(&got_x[at], &want_x, 2e-6, &label);
                    close(&got[(row - first) * cols..][..cols], &want, 4e-6, &label);
                }
            }
        }
    }
}

#[test]
fn gates_are_the_cpus() {
    for gpu in both() {
        let mut rng = Rng(5);
        let n = 1028;
        // Among ordinary numbers some whose exponential leaves the range of f32.
        let wide = |i: usize, v: f32| if i.is_multiple_of(9) { v * 1e4 } else { v * 10.0 };
        let gate: Vec<f32> = (0..n).map(|i| wide(i, rng.unit())).collect();
        let up: Vec<f32> = (0..n).map(|_| rng.unit()).collect();
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let (on_gate, on_up) = (gpu.upload("gate", &gate).unwrap(), gpu.upload("up", &up).unwrap());
            let bound = GpuGate::bind(&gpu, activation, on_gate.all(), on_up.all()).unwrap();
            let mut recorder = Recorder::new(&gpu);
            bound.record(&mut recorder, n - 4);
            recorder.submit().unwrap();
            let got = read(&gpu, &on_gate, n);
            let mut want = gate.clone();
            activation.gate(&mut want[..n - 4], &up[..n - 4]);
            for i in 0..n {
                let bound = 4e-6 * (1.0 + want[i].abs());
                assert!((got[i] - want[i]).abs() <= bound, "{activation:?} of {}: {} for {}", gate[i], got[i], want[i]);
            }
        }
    }
}

/// The definition, in f64: every query over every position it sees; q and k are turned already.
fn attend(heads: &Heads, start: usize, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f64> {
    let (dim, kv_len) = (heads.dim, heads.kv_len());
    let mut out = Vec::new();
    for (row, q) in q.chunks_exact(heads.q_len()).enumerate() {
        let position = start + row;
        let first = match heads.window {
            Window::Full => 0,
            Window::Last(n) => (position + 1).saturating_sub(n),
        };
        for (h, q) in q.chunks_exact(dim).enumerate() {
            let at = |x: &[f32], p: usize, d: usize| f64::from(x[p * kv_len + h / heads.group() * dim + d]);
            let score = |p| {
                let dot: f64 = (0..dim).map(|d| f64::from(q[d]) * at(k, p, d)).sum();
                let score = dot * f64::from(heads.scale);
                heads.soft_cap.map_or(score, |c| f64::from(c) * (score / f64::from(c)).tanh()).exp()
            };
            let weights: Vec<f64> = (first..=position).map(score).collect();
            let sum: f64 = weights.iter().sum();
            for d in 0..dim {
                let mixed: f64 = weights.iter().zip(first..).map(|(w, p)| w * at(v, p, d)).sum();
                out.push(mixed / sum);
            }
        }
    }
    out
}

/// A prompt in two batches and then single rows, through windows, rings, groups, norms, both rotations and both cache types.
#[test]
fn attention_is_its_definition() {
    for gpu in both() {
        let mut rng = Rng(6);
        let shapes = [(6, 2, 8), (9, 3, 64), (4, 1, 256), (10, 1, 80), (2, 1, 512)];
        for (i, (count, kv, dim)) in shapes.into_iter().enumerate() {
            for (window, wide) in
                [(Window::Full, true), (Window::Last(33), true), (Window::Last(50), false), (Window::Full, false)]
            {
                let soft_cap = (i % 2 == 1).then_some(1.5);
                let pairs = i % 2 == 0;
                let heads = Heads { count, kv, dim, scale: 2.0 / (dim as f32).sqrt(), soft_cap, window };
                // A rotation of half a head's elements only, in one of the shapes.
                let turned = if i == 0 { dim / 2 } else { dim };
                let style = if pairs { RopeStyle::Pairs } else { RopeStyle::Halves };
                let rope = Rope::new(style, turned, 1000.0, 1.0, None);
                let normed = (i % 3 != 0).then_some(1e-5);
                let weights: [Vec<f32>; 2] = [0, 1].map(|_| (0..dim).map(|_| 1.0 + 0.5 * rng.unit()).collect());
                let batches = [40, 9, 1, 1, 60, 200, 1, 1, 150, 1];
                let (most, total) = (200, batches.iter().sum::<usize>());
                let layout = HeadLayout {
                    heads,
                    pairs,
                    angles: rope.angles(),
                    q_norm: normed.map(|eps| (0, eps)),
                    k_norm: normed.map(|eps| (dim, eps)),
                    wide,
                    // Room for the largest batch and what its first row sees, in whole tiles; less than there are positions.
                    ring: if window == Window::Full { total } else { 256 },
                };
                let buffer = |elements: usize| gpu.storage("rows", elements as u64 * 4).unwrap();
                let vectors = gpu.upload("vectors", &weights.concat()).unwrap();
                let (q, mixed) = (buffer(most * heads.q_len()), buffer(most * heads.q_len()));
                let (k, v) = (buffer(most * heads.kv_len()), buffer(most * heads.kv_len()));
                let cache = || gpu.storage("cache", (layout.ring * layout.position_bytes()) as u64).unwrap();
                let (keys, values) = (cache(), cache());
                let (step, parts) = (buffer(4 + most * 2 * rope.angles()), buffer(layout.parts_len()));
                let buffers = HeadBuffers {
                    vectors: vectors.all(),
                    step: step.all(),
                    q: q.all(),
                    k: k.all(),
                    v: v.all(),
                    keys: keys.all(),
                    values: values.all(),
                    mixed: mixed.all(),
                    parts: parts.all(),
                };
                let attention = layout.bind(&gpu, buffers).unwrap();
                let (mut all_k, mut all_v, mut start) = (Vec::new(), Vec::new(), 0);
                for rows in batches {
                    let mut random = |len: usize| (0..len).map(|_| rng.unit()).collect::<Vec<f32>>();
                    let (new_q, new_k) = (random(rows * heads.q_len()), random(rows * heads.kv_len()));
                    let new_v = random(rows * heads.kv_len());
                    let len = 2 * rope.angles();
                    let mut tables = vec![0.0; 4 + rows * len];
                    for (row, table) in tables[4..].chunks_exact_mut(len).enumerate() {
                        rope.table(start + row, table);
                    }
                    for (buffer, values) in [(&q, &new_q), (&k, &new_k), (&v, &new_v), (&step, &tables)] {
                        gpu.write(buffer, 0, values).unwrap();
                    }
                    let mut recorder = Recorder::new(&gpu);
                    attention.record(&mut recorder, start, rows, 4);
                    recorder.submit().unwrap();
                    let got = read(&gpu, &mixed, rows * heads.q_len());
                    let turn = |x: &[f32], width: usize, weight: &[f32]| {
                        let mut out = x.to_vec();
                        for (at, head) in out.chunks_exact_mut(dim).enumerate() {
                            if let Some(eps) = normed {
                                let own = head.to_vec();
                                vector::rms_norm(&own, weight, eps, head);
                            }
                            rope.apply(head, dim, &tables[4 + at * dim / width * len..][..len]);
                        }
                        out
                    };
                    let turned_q = turn(&new_q, heads.q_len(), &weights[0]);
                    all_k.extend(turn(&new_k, heads.kv_len(), &weights[1]));
                    all_v.extend(new_v);
                    // Rows at the seams of tiles and batches stand for the others.
                    for row in [0, 1, 30, 31, rows - 1].into_iter().filter(|row| *row < rows) {
                        let at = row * heads.q_len()..(row + 1) * heads.q_len();
                        let want = attend(&heads, start + row, &turned_q[at.clone()], &all_k, &all_v);
                        let tolerance = if wide { 1e-5 } else { 2e-3 };
                        for (got, want) in got[at].iter().zip(want) {
                            let label = format!("{heads:?}, f32 {wide}, {rows} rows from {start}, row {row}");
                            assert!((f64::from(*got) - want).abs() <= tolerance, "{label}: {got} for {want}");
                        }
                    }
                    start += rows;
                }
            }
        }
    }
}
