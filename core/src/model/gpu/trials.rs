//! The trials of the forward pass's kernels: small cases of every path through them, against sums in f64.

use std::sync::Arc;

use crate::gguf::GgmlType;
use crate::gpu::{Gpu, GpuBuffer, GpuError, Recorder, Trial};
use crate::kernels::{Matrix, dequantize};
use crate::quantize::quantize_row;

use super::super::Decoder;
use super::super::blocks::{Activation, Heads, Window};
use super::super::weights::LinearKind;
use super::attention::{HeadBuffers, HeadLayout};
use super::kernels::{ATTENTION, ATTENTION_TILE, GATE, LINEAR, NORM, TURN};
use super::matrix::GpuMatrix;
use super::steps::{GpuGate, GpuNorm, NormBuffers};

/// Rounding of f32, of exponentials and of an f16 cache, relative to the largest number expected. What drivers get wrong is wrong
/// by far more.
const TOLERANCE: f64 = 2e-3;

/// What is wrong, if anything is.
type Outcome = Result<Option<String>, GpuError>;

/// Products with one storage type and its rows.
macro_rules! product_trials {
    ($($name:literal $ty:ident),*) => {
        [$((GgmlType::$ty, Trial {
            name: concat!("products of ", $name),
            shaders: &[LINEAR],
            run: |gpu| products(gpu, GgmlType::$ty),
        })),*]
    };
}

const PRODUCTS: [(GgmlType, Trial); GgmlType::ALL.len()] = product_trials![
    "F32" F32, "F16" F16, "BF16" Bf16, "Q4_0" Q4_0, "Q4_1" Q4_1, "Q5_0" Q5_0, "Q5_1" Q5_1, "Q8_0" Q8_0, "Q2_K" Q2K,
    "Q3_K" Q3K, "Q4_K" Q4K, "Q5_K" Q5K, "Q6_K" Q6K, "IQ4_NL" Iq4Nl
];

const LAYERS: [Trial; 2] = [
    Trial { name: "norms and gates", shaders: &[NORM, GATE], run: norms_and_gates },
    Trial { name: "attention", shaders: &[TURN, ATTENTION], run: attention },
];

/// Every trial of the forward pass.
pub fn trials() -> impl Iterator<Item = &'static Trial> {
    LAYERS.iter().chain(PRODUCTS.iter().map(|(_, trial)| trial))
}

/// Those of the kernels that this model runs on.
pub(super) fn needed(decoder: &Decoder) -> impl Iterator<Item = &'static Trial> + Clone {
    let linears = decoder.layers.iter().flat_map(|layer| LinearKind::ALL.map(|kind| layer.linear(kind).ty()));
    let types: Vec<_> = linears.chain([decoder.embedding.ty(), decoder.head.ty()]).collect();
    LAYERS.iter().chain(PRODUCTS.iter().filter(move |(ty, _)| types.contains(ty)).map(|(_, trial)| trial))
}

/// The first of these that something is wrong with.
fn first(outcomes: impl IntoIterator<Item = Outcome>) -> Outcome {
    outcomes.into_iter().find(|outcome| !matches!(outcome, Ok(None))).unwrap_or(Ok(None))
}

fn norms_and_gates(gpu: &Arc<Gpu>) -> Outcome {
    let norms = [(false, false), (true, false), (true, true)].into_iter().map(|(out, post)| norms(gpu, out, post));
    first(norms.chain([Activation::Silu, Activation::GeluTanh].into_iter().map(|activation| gates(gpu, activation))))
}

/// Rows of the batches that attention is tried with, and positions in all: one row after whole batches.
const BATCH: usize = 90;
const POSITIONS: usize = 4 * BATCH + 1;

/// Heads as the supported architectures have them, and what they may have: windows over rings that begin anew, caps, a cache in f32.
fn attention(gpu: &Arc<Gpu>) -> Outcome {
    let cases = [
        (3, 3, 64, true, false, false, Window::Full),
        (4, 1, 128, true, false, false, Window::Full),
        // Its last row sees several spans, across the ring's end.
        (4, 1, 256, false, true, false, Window::Last(225)),
        (2, 2, 80, false, true, true, Window::Last(100)),
    ];
    first(cases.into_iter().map(|(group, kv, dim, pairs, normed, wide, window)| {
        let soft_cap = wide.then_some(2.0);
        let ring = match window {
            Window::Full => POSITIONS,
            Window::Last(n) => (n + BATCH).next_multiple_of(ATTENTION_TILE),
        };
        let heads = Heads { count: group * kv, kv, dim, scale: 1.0 / (dim as f32).sqrt(), soft_cap, window };
        let (q_norm, k_norm) = (normed.then_some((0, 1e-5)), normed.then_some((dim, 1e-5)));
        attend(gpu, HeadLayout { heads, pairs, angles: dim / 2, q_norm, k_norm, wide, ring })
    }))
}

/// Numbers in −1..1, different for every seed.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mix = |i: u32| (i.wrapping_add(seed.wrapping_mul(7_919))).wrapping_mul(2_654_435_761) >> 8;
    (0..len as u32).map(|i| (mix(mix(i)) & 0xffff) as f32 / 32_768.0 - 1.0).collect()
}

fn compare(what: &str, got: &[f32], want: &[f64]) -> Option<String> {
    let size = want.iter().fold(1e-30f64, |m, v| m.max(v.abs()));
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        if error.is_nan() || error > TOLERANCE * size {
            return Some(format!("{what}: number {i} is {got}, expected {want}"));
        }
    }
    None
}

fn read(gpu: &Arc<Gpu>, buffer: &GpuBuffer, len: usize) -> Result<Vec<f32>, GpuError> {
    let mut out = vec![0.0; len];
    gpu.read(buffer, 0, &mut out)?;
    Ok(out)
}

/// A matrix of an odd number of blocks a row, multiplied by one row, by a few and by tiles of them; and its rows.
fn products(gpu: &Arc<Gpu>, ty: GgmlType) -> Outcome {
    let (rows, cols, most) = (70, if ty.block_len() == 1 { 100 } else { ty.block_len() * 3 }, 20);
    let bad = |error: &dyn std::fmt::Display| GpuError::Command {
        what: format!("setting up the trial of {ty}"),
        reason: error.to_string(),
    };
    let row_bytes = ty.row_bytes(cols).ok_or_else(|| bad(&"no whole blocks"))?;
    let mut data = vec![0; rows * row_bytes];
    for (row, out) in numbers(rows * cols, 1).chunks_exact(cols).zip(data.chunks_exact_mut(row_bytes)) {
        quantize_row(ty, row, out).map_err(|e| bad(&e))?;
    }
    let mut weights = vec![0.0; rows * cols];
    dequantize(ty, &data, &mut weights).map_err(|e| bad(&e))?;
    let matrix = GpuMatrix::upload(gpu, "check", Matrix::new(ty, rows, cols, &data).map_err(|e| bad(&e))?)?;
    let x = numbers(most * cols, 2);
    let vectors = gpu.upload("check", &[0.0f32; 4])?;
    let on_x = gpu.upload("check", &x)?;
    let tokens = [69u32, 0, 33];
    let y = gpu.storage("check", ((most * rows).max(tokens.len() * cols) * 4) as u64)?;
    let product = matrix.product(gpu, (vectors.all(), None), on_x.all(), y.all())?;
    for count in [1, 7, most] {
        let mut recorder = Recorder::new(gpu);
        product.record(&mut recorder, count);
        recorder.submit()?;
        let want: Vec<f64> = x[..count * cols]
            .chunks_exact(cols)
            .flat_map(|x| weights.chunks_exact(cols).map(|w| dot(w, x)).collect::<Vec<_>>())
            .collect();
        let wrong = compare(&format!("{count} rows"), &read(gpu, &y, count * rows)?, &want);
        if wrong.is_some() {
            return Ok(wrong);
        }
    }
    let step = gpu.upload("check", &tokens)?;
    let lookup = matrix.lookup(gpu, 2.0, step.all(), y.all())?;
    let mut recorder = Recorder::new(gpu);
    lookup.record(&mut recorder, tokens.len());
    recorder.submit()?;
    let row = |token: &u32| &weights[*token as usize * cols..][..cols];
    let want: Vec<f64> = tokens.iter().flat_map(row).map(|w| 2.0 * f64::from(*w)).collect();
    Ok(compare("rows of the matrix", &read(gpu, &y, tokens.len() * cols)?, &want))
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn normed(x: &[f64], weight: &[f32], eps: f32) -> Vec<f64> {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    let inverse = 1.0 / (mean + f64::from(eps)).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * inverse * f64::from(*w)).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

fn norms(gpu: &Arc<Gpu>, has_out: bool, has_post: bool) -> Outcome {
    let (rows, cols, eps) = (3, 1028, 1e-5);
    let (x, out, weights) = (numbers(rows * cols, 3), numbers(rows * cols, 4), numbers(2 * cols, 5));
    let (weight, post) = weights.split_at(cols);
    let vectors = gpu.upload("check", &weights)?;
    let (on_x, on_out) = (gpu.upload("check", &x)?, gpu.upload("check", &out)?);
    let on_normed = gpu.storage("check", (rows * cols * 4) as u64)?;
    let on = NormBuffers { vectors: vectors.all(), x: on_x.all(), out: on_out.all(), normed: on_normed.all() };
    let norm = GpuNorm::bind(gpu, on, cols, has_out, has_post.then_some((cols, eps)), (0, eps))?;
    let mut recorder = Recorder::new(gpu);
    norm.record(&mut recorder, 0, rows);
    recorder.submit()?;
    let mut want = Vec::new();
    for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact(cols)) {
        let added = match (has_out, has_post) {
            (false, _) => vec![0.0; cols],
            (true, false) => wide(out),
            (true, true) => normed(&wide(out), post, eps),
        };
        let sum: Vec<f64> = wide(x).iter().zip(added).map(|(x, added)| x + added).collect();
        want.extend(normed(&sum, weight, eps));
    }
    Ok(compare(&format!("norm, out {has_out}, post {has_post}"), &read(gpu, &on_normed, rows * cols)?, &want))
}

fn gates(gpu: &Arc<Gpu>, activation: Activation) -> Outcome {
    let n = 516;
    let (gate, up) = (numbers(n, 6).iter().map(|v| v * 8.0).collect::<Vec<_>>(), numbers(n, 7));
    let (on_gate, on_up) = (gpu.upload("check", &gate)?, gpu.upload("check", &up)?);
    let bound = GpuGate::bind(gpu, activation, on_gate.all(), on_up.all())?;
    let mut recorder = Recorder::new(gpu);
    bound.record(&mut recorder, n);
    recorder.submit()?;
    let act = |x: f64| match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }
    };
    let want: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| act(f64::from(*g)) * f64::from(*u)).collect();
    Ok(compare(&format!("gate {activation:?}"), &read(gpu, &on_gate, n)?, &want))
}

/// A prompt in batches and a row after it, long enough for several tiles and, in the row, several spans.
fn attend(gpu: &Arc<Gpu>, layout: HeadLayout) -> Outcome {
    let heads = layout.heads;
    let (dim, kv_len, q_len) = (heads.dim, heads.kv_len(), heads.q_len());
    let total = POSITIONS;
    let weights = numbers(2 * dim, 8);
    let (q, k, v) = (numbers(total * q_len, 9), numbers(total * kv_len, 10), numbers(total * kv_len, 11));
    // A rotation by whatever angles: cosines, then sines, of every row.
    let angle = |row: usize, i: usize| (row * (i + 1)) as f32 * 0.01;
    let tables = |first: usize, rows: usize| -> Vec<f32> {
        let table = |row| {
            let angles = move |i| angle(row, i);
            (0..layout.angles).map(move |i| angles(i).cos()).chain((0..layout.angles).map(move |i| angles(i).sin()))
        };
        (first..first + rows).flat_map(table).collect()
    };
    let vectors = gpu.upload("check", &weights)?;
    let rows = |len: usize| gpu.storage("check", (BATCH * len * 4) as u64);
    let (step, on_q, on_k, on_v, mixed) =
        (rows(2 * layout.angles)?, rows(q_len)?, rows(kv_len)?, rows(kv_len)?, rows(q_len)?);
    let cache = || gpu.storage("check", (layout.ring * layout.position_bytes()) as u64);
    let (keys, values, parts) = (cache()?, cache()?, gpu.storage("check", layout.parts_len() as u64 * 4)?);
    let buffers = HeadBuffers {
        vectors: vectors.all(),
        step: step.all(),
        q: on_q.all(),
        k: on_k.all(),
        v: on_v.all(),
        keys: keys.all(),
        values: values.all(),
        mixed: mixed.all(),
        parts: parts.all(),
    };
    let bound = layout.bind(gpu, buffers)?;
    let turned = |x: &[f32], width: usize, norm: Option<(usize, f32)>| -> Vec<f64> {
        let heads = x.chunks_exact(dim).enumerate();
        heads
            .flat_map(|(at, head)| {
                turn(&layout, head, norm.map(|(w, eps)| (&weights[w..][..dim], eps)), |i| angle(at * dim / width, i))
            })
            .collect()
    };
    let (all_q, all_k) = (turned(&q, q_len, layout.q_norm), turned(&k, kv_len, layout.k_norm));
    for start in (0..total).step_by(BATCH) {
        let count = BATCH.min(total - start);
        gpu.write(&on_q, 0, &q[start * q_len..][..count * q_len])?;
        gpu.write(&on_k, 0, &k[start * kv_len..][..count * kv_len])?;
        gpu.write(&on_v, 0, &v[start * kv_len..][..count * kv_len])?;
        gpu.write(&step, 0, &tables(start, count))?;
        let mut recorder = Recorder::new(gpu);
        bound.record(&mut recorder, start, count, 0);
        recorder.submit()?;
        let got = read(gpu, &mixed, count * q_len)?;
        for row in [0, 33, count - 1].into_iter().filter(|row| *row < count) {
            let want = attended(&layout, start + row, &all_q[(start + row) * q_len..][..q_len], &all_k, &v);
            let wrong =
                compare(&format!("heads of {dim}, {count} rows from {start}"), &got[row * q_len..][..q_len], &want);
            if wrong.is_some() {
                return Ok(wrong);
            }
        }
    }
    Ok(None)
}

/// A head, normed and rotated.
fn turn(layout: &HeadLayout, head: &[f32], norm: Option<(&[f32], f32)>, angle: impl Fn(usize) -> f32) -> Vec<f64> {
    let mut out = match norm {
        Some((weight, eps)) => normed(&wide(head), weight, eps),
        None => wide(head),
    };
    for i in 0..layout.angles {
        let (a, b) = if layout.pairs { (2 * i, 2 * i + 1) } else { (i, i + layout.angles) };
        let (sin, cos) = (f64::from(angle(i).sin()), f64::from(angle(i).cos()));
        (out[a], out[b]) = (out[a] * cos - out[b] * sin, out[a] * sin + out[b] * cos);
    }
    out
}

/// The definition: softmax(scale · q·K) V over the positions that one row sees.
fn attended(layout: &HeadLayout, position: usize, q: &[f64], k: &[f64], v: &[f32]) -> Vec<f64> {
    let heads = &layout.heads;
    let (dim, kv_len) = (heads.dim, heads.kv_len());
    let first = match heads.window {
        Window::Full => 0,
        Window::Last(n) => (position + 1).saturating_sub(n),
    };
    let mut out = Vec::with_capacity(q.len());
    for (h, q) in q.chunks_exact(dim).enumerate() {
        let at = |p: usize| p * kv_len + h / heads.group() * dim;
        let score = |p: usize| {
            let dot: f64 = q.iter().zip(&k[at(p)..]).map(|(q, k)| q * k).sum();
            let score = dot * f64::from(heads.scale);
            heads.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
        };
        let scores: Vec<f64> = (first..=position).map(score).collect();
        let largest = scores.iter().fold(f64::NEG_INFINITY, |m, v| m.max(*v));
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for d in 0..dim {
            let mixed: f64 = weights.iter().zip(first..).map(|(w, p)| w * f64::from(v[at(p) + d])).sum();
            out.push(mixed / sum);
        }
    }
    out
}
