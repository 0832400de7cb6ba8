//! The merged SmolLM2 against the unmerged one with its adapters active.

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use timbre::adapter::FourierDelta;
use timbre::gguf::{GgmlType, Gguf};
use timbre::kernels::{KernelChoice, Tier, dequantize};
use timbre::merge::{MergeOptions, MergeReport, Storage};
use timbre::model::{ActiveAdapters, LinearKind, Model, ModelOptions};
use timbre::session::{CancelHandle, Session, SessionOptions, SwapPolicy};
use timbre::spectral::naive;

/// Rounding 60 weights' matrices to 11 bits moves logits of order 10 by this much at most.
const F16_TOLERANCE: f32 = 1e-2;

fn open(path: &Path) -> Arc<Model> {
    let options =
        ModelOptions { kernels: KernelChoice::Only(Tier::Reference), threads: Some(2), ..ModelOptions::default() };
    Model::open(path, &options).unwrap()
}

fn active(model: &Model, voices: &[(&str, f32)]) -> ActiveAdapters {
    let load = |name: &str| model.load_adapter(common::fixture_path(&format!("adapters/{name}"))).unwrap();
    ActiveAdapters::new(voices.iter().map(|&(name, weight)| (load(name), weight)).collect()).unwrap()
}

/// The logits after each of the fixture's prompts.
fn logits(model: &Arc<Model>, adapters: &ActiveAdapters) -> Vec<Vec<f32>> {
    let options = SessionOptions { context: Some(256), ..SessionOptions::default() };
    let mut session = Session::new(model.clone(), &options).unwrap();
    session.set_adapters(adapters.clone(), SwapPolicy::Recompute).unwrap();
    let fixture = common::fixture_json("smollm2.json");
    let prompts = fixture["prompts"].as_array().unwrap().iter();
    let ids = prompts.map(|p| p["ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect());
    ids.map(|ids: Vec<u32>| {
        session.set_tokens(&ids);
        session.logits(&CancelHandle::default()).unwrap().to_vec()
    })
    .collect()
}

fn argmax(logits: &[f32]) -> usize {
    (0..logits.len()).reduce(|a, b| if logits[b] > logits[a] { b } else { a }).unwrap()
}

fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    a.iter().flatten().zip(b.iter().flatten()).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

fn decoded(gguf: &Gguf, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap();
    let mut out = vec![0.0; tensor.rows() * tensor.cols()];
    dequantize(tensor.ty, gguf.data(tensor), &mut out).unwrap();
    out
}

/// Everything but the adapted tensors is as it was, byte for byte.
fn check_rest(base: &Gguf, merged: &Gguf, report: &MergeReport) {
    assert_eq!(merged.metadata_bytes(), base.metadata_bytes());
    let adapted: BTreeSet<&str> = report.tensors.iter().map(|t| t.name.as_str()).collect();
    let names = |gguf: &Gguf| gguf.tensors().iter().map(|t| (t.name.clone(), t.dims.clone())).collect::<Vec<_>>();
    assert_eq!(names(base), names(merged));
    for tensor in base.tensors().iter().filter(|t| !adapted.contains(t.name.as_str())) {
        let copy = merged.tensor(&tensor.name).unwrap();
        assert!(copy.ty == tensor.ty && merged.data(copy) == base.data(tensor), "{}", tensor.name);
    }
    let expected: BTreeSet<String> =
        (0..30).flat_map(|i| [format!("blk.{i}.attn_q.weight"), format!("blk.{i}.attn_v.weight")]).collect();
    assert!(adapted.iter().copied().eq(expected.iter().map(String::as_str)));
}

/// Recomputes a tensor's line of the report: ΔW as the paper writes it, rows put where the converter puts those of q.
fn check_report(model: &Model, adapters: &ActiveAdapters, merged: &Gguf, report: &MergeReport, kind: LinearKind) {
    const LAYER: usize = 7;
    const HEAD_DIM: usize = 64;
    let name = format!("blk.{LAYER}.{}.weight", kind.gguf_name());
    let line = report.tensors.iter().find(|t| t.name == name).unwrap();
    let (base, stored) = (decoded(model.gguf(), &name), decoded(merged, &name));
    let mut delta = vec![0.0; base.len()];
    for (bound, weight) in adapters.list() {
        let fourier: &FourierDelta = bound.delta(LAYER, kind).unwrap().as_fourier().unwrap();
        let dense = naive::delta(fourier.entries(), &fourier.coefficients(), fourier.alpha()).unwrap();
        for (row, values) in dense.chunks_exact(line.cols).enumerate() {
            let (head, within) = (row / HEAD_DIM, row % HEAD_DIM);
            let paired = head * HEAD_DIM + within % (HEAD_DIM / 2) * 2 + within / (HEAD_DIM / 2);
            let row = if kind == LinearKind::Q { paired } else { row };
            let out = &mut delta[row * line.cols..][..line.cols];
            out.iter_mut().zip(values).for_each(|(out, v)| *out += f64::from(*weight) * v);
        }
    }
    let (mut error, mut sum, mut change, mut max) = (0f64, 0f64, 0f64, 0f64);
    for ((base, delta), stored) in base.iter().zip(&delta).zip(&stored) {
        let exact = f64::from(*base) + delta;
        let off = f64::from(*stored) - exact;
        error += off * off;
        sum += exact * exact;
        change += delta * delta;
        max = max.max(off.abs());
    }
    for (what, got, want) in [
        ("largest", line.max_abs_error, max),
        ("relative", line.relative_error, (error / sum).sqrt()),
        ("over the change", line.error_over_delta, (error / change).sqrt()),
    ] {
        println!("{name} to {}: {what} error {got:.3e}", line.to);
        // f32 sums against f64.
        assert!((got - want).abs() <= 1e-3 * want, "{name}: {what} error {got}, recomputed {want}");
    }
}

#[test]
fn f16_keeps_what_the_adapters_say() {
    let base = open(&common::model_path(common::SMOLLM2));
    let alone = logits(&base, &ActiveAdapters::none());
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged.gguf");
    for voices in [&[("devil", 1.0)][..], &[("devil", 0.75), ("kjv", 0.5)][..]] {
        let adapters = active(&base, voices);
        let (mut calls, mut last) = (0, (0, 0));
        let report = base
            .merge(&adapters, &out, &MergeOptions { threads: 2, ..MergeOptions::default() }, |done, total| {
                assert!(done >= last.0 && done <= total);
                (calls, last) = (calls + 1, (done, total));
                true
            })
            .unwrap();
        assert!(calls > 1 && last.0 == last.1, "progress goes to the end");
        assert!(report.tensors.iter().all(|t| t.from == GgmlType::Q4_1 && t.to == GgmlType::F16));
        let merged = open(&out);
        check_rest(base.gguf(), merged.gguf(), &report);
        for kind in [LinearKind::Q, LinearKind::V] {
            check_report(&base, &adapters, merged.gguf(), &report, kind);
        }
        let (spectral, dense) = (logits(&base, &adapters), logits(&merged, &ActiveAdapters::none()));
        let (moved, off) = (distance(&spectral, &alone), distance(&dense, &spectral));
        println!("{voices:?}: the adapters move logits by {moved:.2}, F16 by {off:.2e}");
        assert!(off < F16_TOLERANCE && moved > 1.0);
        for (spectral, dense) in spectral.iter().zip(&dense) {
            assert_eq!(argmax(spectral), argmax(dense));
        }
    }
}

#[test]
fn keeping_the_type_says_what_it_loses() {
    let base = open(&common::model_path(common::SMOLLM2));
    let adapters = active(&base, &[("devil", 1.0)]);
    let folder = tempfile::tempdir().unwrap();
    let (half, kept) = (folder.path().join("f16.gguf"), folder.path().join("kept.gguf"));
    let merge =
        |storage, out: &Path| base.merge(&adapters, out, &MergeOptions { storage, threads: 2 }, |_, _| true).unwrap();
    let (f16, keep) = (merge(Storage::F16, &half), merge(Storage::Keep, &kept));
    let merged = open(&kept);
    check_rest(base.gguf(), merged.gguf(), &keep);
    assert_eq!(merged.gguf().file_len(), base.gguf().file_len());
    assert!(keep.tensors.iter().all(|t| t.to == GgmlType::Q4_1));
    for (a, b) in f16.tensors.iter().zip(&keep.tensors) {
        assert!(a.name == b.name && b.relative_error > 10.0 * a.relative_error, "{a:?} {b:?}");
    }
    for kind in [LinearKind::Q, LinearKind::V] {
        check_report(&base, &adapters, merged.gguf(), &keep, kind);
    }
    let spectral = logits(&base, &adapters);
    let off = |path: &Path| distance(&logits(&open(path), &ActiveAdapters::none()), &spectral);
    let (f16_off, keep_off) = (off(&half), off(&kept));
    println!(
        "relative error: F16 {:.1e}, Q4_1 {:.1e}; logits: F16 {f16_off:.2e}, Q4_1 {keep_off:.2e}",
        f16.max_relative_error(),
        keep.max_relative_error()
    );
    assert!(keep_off > 10.0 * f16_off);
}
