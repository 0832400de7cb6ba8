//! Merged files against W + ΔW computed here, and the report against what the file holds.

#[path = "common/gguf_builder.rs"]
mod gguf_builder;

use std::error::Error;
use std::path::PathBuf;

use gguf_builder::{GgufBuilder, Value};
use timbre::gguf::{GgmlType, Gguf, GgufError, TensorInfo};
use timbre::kernels::dequantize;
use timbre::merge::{DenseDelta, MergeError, MergeOptions, MergeReport, Storage, merge};
use timbre::quantize::{QuantizeError, quantize_row};

const ROWS: usize = 37;
const COLS: usize = 512;

/// Reproducible numbers of about ±`size`.
fn noise(len: usize, size: f32, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * size
    };
    (0..len).map(|_| next()).collect()
}

fn weights(ty: GgmlType) -> Vec<u8> {
    let mut bytes = vec![0; ty.row_bytes(ROWS * COLS).unwrap()];
    quantize_row(ty, &noise(ROWS * COLS, 0.1, 5), &mut bytes).unwrap();
    bytes
}

/// A model whose `blk.0.attn_q.weight` is stored as `ty`.
fn save(ty: GgmlType) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let shape = [COLS as u64, ROWS as u64];
    let path = GgufBuilder::new()
        .entry("general.architecture", Value::str("llama"))
        .entry("general.file_type", Value::U32(3))
        .f32("output_norm.weight", &[COLS as u64], &noise(COLS, 1.0, 1))
        .tensor("blk.0.attn_q.weight", &shape, ty as u32, weights(ty))
        .tensor("blk.0.attn_v.weight", &shape, GgmlType::Q8_0 as u32, weights(GgmlType::Q8_0))
        .tensor("blk.0.attn_k.weight", &shape, GgmlType::Q4_0 as u32, weights(GgmlType::Q4_0))
        .save(dir.path(), "base.gguf");
    let out = dir.path().join("merged.gguf");
    (dir, path, out)
}

fn delta_of(tensor: &TensorInfo, size: f32) -> DenseDelta {
    let seed = tensor.name.bytes().map(u64::from).sum();
    DenseDelta { rows: ROWS, cols: COLS, data: noise(ROWS * COLS, size, seed) }
}

fn decoded(gguf: &Gguf, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap();
    let mut out = vec![0.0; tensor.rows() * tensor.cols()];
    dequantize(tensor.ty, gguf.data(tensor), &mut out).unwrap();
    out
}

const Q: &str = "blk.0.attn_q.weight";
const V: &str = "blk.0.attn_v.weight";

fn merge_q_and_v(gguf: &Gguf, out: &PathBuf, storage: Storage, size: f32, threads: usize) -> MergeReport {
    let options = MergeOptions { storage, threads };
    merge(gguf, out, [V, Q], |t| Ok(delta_of(t, size)), &options, |_, _| true).unwrap()
}

#[test]
fn every_type_to_f16_and_back_to_itself() {
    for ty in GgmlType::ALL {
        let (_dir, path, out) = save(ty);
        let base = Gguf::open(&path).unwrap();
        for storage in [Storage::F16, Storage::Keep] {
            let report = merge_q_and_v(&base, &out, storage, 0.02, 2);
            let merged = Gguf::open(&out).unwrap();
            assert_eq!(merged.metadata_bytes(), base.metadata_bytes());
            for name in ["output_norm.weight", "blk.0.attn_k.weight"] {
                let (old, new) = (base.tensor(name).unwrap(), merged.tensor(name).unwrap());
                assert_eq!((old.ty, base.data(old)), (new.ty, merged.data(new)));
            }
            let names: Vec<&str> = report.tensors.iter().map(|t| t.name.as_str()).collect();
            assert_eq!(names, [Q, V], "the file's order, not the caller's");
            for entry in &report.tensors {
                let tensor = base.tensor(&entry.name).unwrap();
                let to = if storage == Storage::F16 { GgmlType::F16 } else { tensor.ty };
                assert_eq!(merged.tensor(&entry.name).unwrap().ty, to);
                assert_eq!((entry.from, entry.to, entry.rows, entry.cols), (tensor.ty, to, ROWS, COLS));
                let delta = delta_of(tensor, 0.02).data;
                let (mut max, mut error, mut exact, mut deltas) = (0.0f64, 0.0, 0.0, 0.0);
                let pairs = decoded(&base, &entry.name).into_iter().zip(decoded(&merged, &entry.name));
                for ((w, stored), d) in pairs.zip(delta) {
                    let sum = f64::from(w + d);
                    let e = f64::from(stored) - sum;
                    max = max.max(e.abs());
                    error += e * e;
                    exact += sum * sum;
                    deltas += f64::from(d) * f64::from(d);
                }
                assert_eq!(entry.max_abs_error, max);
                assert!((entry.relative_error - (error / exact).sqrt()).abs() < 1e-9);
                assert!((entry.error_over_delta - (error / deltas).sqrt()).abs() < 1e-9);
                if storage == Storage::F16 {
                    assert!(entry.relative_error < 3e-4 && entry.error_over_delta < 0.002, "{entry:?}");
                }
                if to == GgmlType::F32 {
                    assert_eq!(entry.max_abs_error, 0.0);
                }
            }
            assert_eq!(report.max_abs_error(), report.tensors.iter().map(|t| t.max_abs_error).fold(0.0, f64::max));
            assert!(report.max_relative_error() < 0.3);
        }
    }
}

#[test]
fn a_delta_smaller_than_the_rounding_is_reported_as_lost() {
    let (_dir, path, out) = save(GgmlType::Q4_0);
    let base = Gguf::open(&path).unwrap();
    let kept = merge_q_and_v(&base, &out, Storage::Keep, 1e-4, 1);
    assert!(kept.tensors[0].error_over_delta > 0.5, "{:?}", kept.tensors[0]);
    let f16 = merge_q_and_v(&base, &out, Storage::F16, 1e-4, 1);
    assert!(f16.tensors[0].error_over_delta < 0.5, "{:?}", f16.tensors[0]);
}

#[test]
fn threads_do_not_change_the_file() {
    let (_dir, path, out) = save(GgmlType::Q4K);
    let base = Gguf::open(&path).unwrap();
    let mut files = [1, 2, 3, 64, 0].map(|threads| {
        merge_q_and_v(&base, &out, Storage::Keep, 0.02, threads);
        std::fs::read(&out).unwrap()
    });
    files.sort();
    assert_eq!(files.first(), files.last());
}

#[test]
fn one_delta_is_alive_at_a_time_and_each_is_made_once() {
    let (_dir, path, out) = save(GgmlType::Q6K);
    let base = Gguf::open(&path).unwrap();
    let mut asked = Vec::new();
    let make = |t: &TensorInfo| {
        asked.push(t.name.clone());
        Ok(delta_of(t, 0.02))
    };
    let mut seen = Vec::new();
    let progress = |done, total| {
        seen.push((done, total));
        true
    };
    merge(&base, &out, [Q, V, Q], make, &MergeOptions::default(), progress).unwrap();
    assert_eq!(asked, [Q, V]);
    let (done, total) = *seen.last().unwrap();
    assert!(seen.is_sorted() && done == total);
}

#[test]
fn the_report_as_json() {
    let (_dir, path, out) = save(GgmlType::Q4_1);
    let report = merge_q_and_v(&Gguf::open(&path).unwrap(), &out, Storage::Keep, 0.02, 1);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["storage"], "keep");
    assert_eq!(json["tensors"][0]["name"], Q);
    assert_eq!(json["tensors"][0]["from"], "Q4_1");
    assert_eq!(json["tensors"][1]["to"], "Q8_0");
    assert_eq!(json["tensors"][0]["relative_error"], report.tensors[0].relative_error);
}

/// Merges `delta` into q of a Q8_0 model and gives the error; nothing may be written.
fn refused(
    names: &[&str],
    delta: impl FnMut(&TensorInfo) -> Result<DenseDelta, Box<dyn Error + Send + Sync>>,
) -> MergeError {
    let (dir, path, out) = save(GgmlType::Q8_0);
    let base = Gguf::open(&path).unwrap();
    let error = merge(&base, &out, names, delta, &MergeOptions::default(), |_, _| true).unwrap_err();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "something was left");
    error
}

#[test]
fn sums_that_cannot_be_stored() {
    for (value, past) in [(70_000.0, true), (-65_520.0, true), (f32::NAN, false), (f32::INFINITY, false)] {
        let error = refused(&[Q], |t| {
            let mut delta = delta_of(t, 0.0);
            delta.data[3 * COLS + 400] = value;
            Ok(delta)
        });
        let MergeError::Store { tensor, row, source } = error else { panic!("{error:?}") };
        assert_eq!((tensor.as_str(), row), (Q, 3));
        match source {
            QuantizeError::Overflow { ty: GgmlType::F16, index: 400, .. } => assert!(past),
            QuantizeError::NotFinite { index: 400, .. } => assert!(!past),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn deltas_that_do_not_fit() {
    let error = refused(&[Q], |t| Ok(DenseDelta { rows: COLS, cols: ROWS, data: delta_of(t, 1.0).data }));
    assert!(matches!(error, MergeError::DeltaShape { expected: [ROWS, COLS], found: [COLS, ROWS], .. }), "{error:?}");
    let error = refused(&[Q], |_| Ok(DenseDelta { rows: ROWS, cols: COLS, data: vec![0.0; 5] }));
    assert!(matches!(error, MergeError::DeltaShape { len: 5, .. }), "{error:?}");
    let error = refused(&[Q], |_| Err("no spectrum".into()));
    assert!(matches!(&error, MergeError::Delta { tensor, .. } if tensor == Q), "{error:?}");
    assert!(error.to_string().contains("no spectrum"));
}

#[test]
fn nothing_to_merge_and_names_the_base_lacks() {
    let never = |_: &TensorInfo| panic!("no delta is needed");
    assert!(matches!(refused(&[], never), MergeError::Nothing));
    let error = refused(&[Q, "blk.9.attn_q.weight"], never);
    assert!(
        matches!(&error, MergeError::Gguf(GgufError::MissingTensor { name }) if name == "blk.9.attn_q.weight"),
        "{error:?}"
    );
}

#[test]
fn stopping_leaves_nothing() {
    let (dir, path, out) = save(GgmlType::Q8_0);
    let base = Gguf::open(&path).unwrap();
    let stop = |_, _| false;
    let error = merge(&base, &out, [Q], |t| Ok(delta_of(t, 0.1)), &MergeOptions::default(), stop).unwrap_err();
    assert!(matches!(error, MergeError::Gguf(GgufError::Cancelled)), "{error:?}");
    let onto = merge(&base, &path, [Q], |t| Ok(delta_of(t, 0.1)), &MergeOptions::default(), |_, _| true).unwrap_err();
    assert!(matches!(onto, MergeError::Gguf(GgufError::SameFile { .. })), "{onto:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
