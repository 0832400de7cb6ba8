//! Checks of the forward pass's kernels on a device, against sums in f64: drivers have been seen to miscompute, and a model
//! must not be run by kernels that nobody has tried there.

use std::sync::Arc;

use crate::gguf::GgmlType;
use crate::gpu::{Gpu, GpuBuffer, GpuError, Recorder};
use crate::kernels::{Matrix, dequantize};
use crate::quantize::quantize_row;

use super::super::Decoder;
use super::super::blocks::{Activation, Window};
use super::super::weights::LinearKind;
use super::attention::{HeadBuffers, HeadLayout};
use super::matrix::GpuMatrix;
use super::steps::{GpuGate, GpuNorm, NormBuffers};

/// Rounding of f32, of exponentials and of an f16 cache, relative to the largest number expected. What drivers get wrong is wrong
/// by far more.
const TOLERANCE: f64 = 2e-3;

/// Checks every kernel that this model needs, for its storage types and heads, on a few numbers each.
///
/// # Errors
/// [`GpuError::SelfTest`] for the first that is wrong; [`GpuError::Shader`], [`GpuError::OutOfMemory`], [`GpuError::DeviceLost`].
pub fn check(gpu: &Arc<Gpu>, decoder: &Decoder, layouts: &[HeadLayout]) -> Result<(), GpuError> {
    let linears = decoder.layers.iter().flat_map(|layer| LinearKind::ALL.map(|kind| layer.linear(kind).ty()));
    let mut types: Vec<_> = linears.chain([decoder.embedding.ty(), decoder.head.ty()]).collect();
    types.sort_by_key(|ty| *ty as u32);
    types.dedup();
    types.into_iter().try_for_each(|ty| products(gpu, ty))?;
    for (out, post) in [(false, false), (true, false), (true, true)] {
        norms(gpu, out, post)?;
    }
    [Activation::Silu, Activation::GeluTanh].into_iter().try_for_each(|activation| gates(gpu, activation))?;
    let mut seen: Vec<HeadLayout> = Vec::new();
    for layout in layouts {
        // What a parameter changes is no other kernel.
        let kind =
            |l: &HeadLayout| (l.heads.dim, l.heads.soft_cap, l.pairs, l.q_norm.is_some(), l.k_norm.is_some(), l.wide);
        if !seen.iter().any(|known| kind(known) == kind(layout)) {
            attention(gpu, *layout)?;
            seen.push(*layout);
        }
    }
    Ok(())
}

/// Numbers in −1..1, different for every seed.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mix = |i: u32| (i.wrapping_add(seed.wrapping_mul(7_919))).wrapping_mul(2_654_435_761) >> 8;
    (0..len as u32).map(|i| (mix(mix(i)) & 0xffff) as f32 / 32_768.0 - 1.0).collect()
}

fn compare(kernel: String, got: &[f32], want: &[f64]) -> Result<(), GpuError> {
    let size = want.iter().fold(1e-30f64, |m, v| m.max(v.abs()));
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        if error.is_nan() || error > TOLERANCE * size {
            return Err(GpuError::SelfTest { kernel, detail: format!("number {i} is {got}, expected {want}") });
        }
    }
    Ok(())
}

fn read(gpu: &Arc<Gpu>, buffer: &GpuBuffer, len: usize) -> Result<Vec<f32>, GpuError> {
    let mut out = vec![0.0; len];
    gpu.read(buffer, 0, &mut out)?;
    Ok(out)
}

/// A matrix of an odd number of blocks a row, multiplied by one row, by a few and by tiles of them; and its rows.
fn products(gpu: &Arc<Gpu>, ty: GgmlType) -> Result<(), GpuError> {
    let (rows, cols, most) = (70, if ty.block_len() == 1 { 100 } else { ty.block_len() * 3 }, 20);
    let bad = |error: &dyn std::fmt::Display| GpuError::SelfTest {
        kernel: format!("products of {ty}"),
        detail: format!("the check cannot be set up: {error}"),
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
    let y = gpu.storage("check", (most * rows * 4) as u64)?;
    let product = matrix.product(gpu, (vectors.all(), None), on_x.all(), y.all())?;
    for count in [1, 7, most] {
        let mut recorder = Recorder::new(gpu);
        product.record(&mut recorder, count);
        recorder.submit()?;
        let want: Vec<f64> = x[..count * cols]
            .chunks_exact(cols)
            .flat_map(|x| weights.chunks_exact(cols).map(|w| dot(w, x)).collect::<Vec<_>>())
            .collect();
        compare(format!("product of {ty} with {count} rows"), &read(gpu, &y, count * rows)?, &want)?;
    }
    let tokens = [69u32, 0, 33];
    let step = gpu.upload("check", &tokens)?;
    let lookup = matrix.lookup(gpu, 2.0, step.all(), y.all())?;
    let mut recorder = Recorder::new(gpu);
    lookup.record(&mut recorder, tokens.len());
    recorder.submit()?;
    let row = |token: &u32| &weights[*token as usize * cols..][..cols];
    let want: Vec<f64> = tokens.iter().flat_map(row).map(|w| 2.0 * f64::from(*w)).collect();
    compare(format!("rows of {ty}"), &read(gpu, &y, tokens.len() * cols)?, &want)
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

fn norms(gpu: &Arc<Gpu>, has_out: bool, has_post: bool) -> Result<(), GpuError> {
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
    compare(format!("norm (out {has_out}, post {has_post})"), &read(gpu, &on_normed, rows * cols)?, &want)
}

fn gates(gpu: &Arc<Gpu>, activation: Activation) -> Result<(), GpuError> {
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
    compare(format!("gate {activation:?}"), &read(gpu, &on_gate, n)?, &want)
}

/// A prompt and a row after it, long enough for several tiles and, in the row, several spans.
fn attention(gpu: &Arc<Gpu>, mut layout: HeadLayout) -> Result<(), GpuError> {
    let heads = layout.heads;
    let (dim, kv_len, q_len) = (heads.dim, heads.kv_len(), heads.q_len());
    let (prompt, total) = (270, 271);
    layout.q_norm = layout.q_norm.map(|(_, eps)| (0, eps));
    layout.k_norm = layout.k_norm.map(|(_, eps)| (dim, eps));
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
    let rows = |len: usize| gpu.storage("check", (prompt * len * 4) as u64);
    let (step, on_q, on_k, on_v, mixed) =
        (rows(2 * layout.angles)?, rows(q_len)?, rows(kv_len)?, rows(kv_len)?, rows(q_len)?);
    let cache = || gpu.storage("check", (total * layout.position_bytes()) as u64);
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
    for (start, count) in [(0, prompt), (prompt, total - prompt)] {
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
            let kernel = format!("attention (heads of {dim}, {count} rows)");
            compare(kernel, &got[row * q_len..][..q_len], &want)?;
        }
    }
    Ok(())
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
