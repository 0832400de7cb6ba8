//! `timbre delta`.

use std::path::Path;

use crate::common::{Ran, adapter, keys, smollm2, text, timbre};

const MODULE: &str = "model.layers.3.self_attn.v_proj";

fn delta(args: &[&str], out: &Path) -> Ran {
    timbre(&[&["delta", "--module", MODULE, "--out", &text(out)], args].concat())
}

/// Reads a `.npy` of version 1.0 as NumPy would: (rows, columns), data.
fn read_npy(path: &Path) -> (usize, usize, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!(end % 64, 0, "the data is aligned");
    let header = std::str::from_utf8(&bytes[10..end]).unwrap();
    assert!(header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': ("), "{header}");
    let shape = header.split_once("'shape': (").unwrap().1.split_once(')').unwrap().0;
    let [rows, cols] = shape.split(", ").map(|n| n.parse().unwrap()).collect::<Vec<usize>>().try_into().unwrap();
    let data: Vec<f32> = bytes[end..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!((data.len(), bytes.len() - end), (rows * cols, rows * cols * 4));
    (rows, cols, data)
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

#[test]
fn the_transform_agrees_with_the_sum() {
    let (devil, model) = (adapter("devil"), smollm2());
    let folder = tempfile::tempdir().unwrap();
    let [fast, naive, alone, single] =
        ["fast.npy", "naive.npy", "alone.npy", "single.safetensors"].map(|name| folder.path().join(name));
    let report = delta(&["--adapter", &devil, "--model", &model, "--backend", "cpu", "--json"], &fast).json();
    assert_eq!(keys(&report), ["module", "rows", "cols", "frobenius", "ms"]);
    assert_eq!(report["module"], MODULE);
    let shown = delta(&["--adapter", &devil, "--model", &model, "--backend", "naive"], &naive).ok().out;
    assert!(shown.contains("192 × 576"), "{shown}");

    let (rows, cols, fast) = read_npy(&fast);
    assert_eq!((rows, cols), (192, 576));
    assert_eq!((report["rows"].as_u64(), report["cols"].as_u64()), (Some(192), Some(576)));
    let (.., naive) = read_npy(&naive);
    let off = norm(fast.iter().zip(&naive).map(|(a, b)| f64::from(a - b))) / norm(naive.iter().map(|v| f64::from(*v)));
    println!("transform against sum: {off:.2e} relative");
    assert!(off < 1e-5, "{off}");
    let frobenius = report["frobenius"].as_f64().unwrap();
    assert!((frobenius / norm(fast.iter().map(|v| f64::from(*v))) - 1.0).abs() < 1e-9);

    // A file that carries shapes needs no model.
    timbre(&["adapter", "convert", &devil, &text(&single), "--model", &model]).ok();
    delta(&["--adapter", &text(&single)], &alone).ok();
    assert_eq!(read_npy(&alone).2, fast);
}

#[test]
fn what_is_missing_is_named() {
    let (devil, model) = (adapter("devil"), smollm2());
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("delta.npy");
    delta(&["--adapter", &devil], &out).fails(1, "--model");
    let nowhere = ["--adapter", &devil, "--model", &model, "--backend", "gpu", "--gpu-adapter", "no such device"];
    delta(&nowhere, &out).fails(1, "no GPU named \"no such device\"");
    delta(&["--adapter", &devil, "--model", &model, "--gpu-adapter", "any"], &out).fails(2, "--backend gpu");
    let unknown = ["delta", "--adapter", &devil, "--model", &model, "--module", "lm_head", "--out", &text(&out)];
    timbre(&unknown).fails(1, "no module \"lm_head\"");
    assert!(!out.exists());
    delta(&["--adapter", &devil, "--model", &model], &folder.path().join("no/where.npy")).fails(1, "where.npy");
}
