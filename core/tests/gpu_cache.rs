//! Compiled kernels are kept beside the verdicts, and a file that is not as it was written is not used.

#![cfg(feature = "gpu")]

mod gpu_support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gpu_support::gpu;
use timbre::gpu::{Access, Gpu, GpuError, KernelSpec, Recorder, Shader};

const ADD: Shader = Shader {
    name: "add",
    wgsl: "
        override more: f32 = 1.0;
        @group(0) @binding(0) var<storage, read_write> x: array<f32>;
        @compute @workgroup_size(1) fn add() { x[0] = x[0] + more; }
    ",
    reduces: false,
};

/// A device that keeps things in `folder`.
fn with_folder(folder: &Path) -> Option<Arc<Gpu>> {
    let gpu = gpu()?;
    gpu.remember_verdicts(folder.join("verdicts.json"));
    Some(gpu)
}

/// Compiles a kernel and runs it.
fn compute(gpu: &Arc<Gpu>, more: f64) -> f32 {
    let constants = &[("more", more)];
    let spec = KernelSpec { shader: ADD, entry: "add", access: &[Access::Write], params: false, constants };
    let run = || -> Result<f32, GpuError> {
        let kernel = gpu.kernel(&spec)?;
        let x = gpu.upload("x", &[1.0f32])?;
        let mut recorder = Recorder::new(gpu);
        recorder.dispatch(&kernel, &[x.all()], &(), [1, 1, 1]);
        recorder.submit()?;
        let mut found = [0.0f32];
        gpu.read(&x, 0, &mut found)?;
        Ok(found[0])
    };
    run().unwrap()
}

/// The file of compiled kernels, the only one in a folder.
fn file(folder: &Path) -> Option<PathBuf> {
    let mut files = std::fs::read_dir(folder).ok()?.map(|entry| entry.unwrap().path());
    let first = files.next()?;
    assert_eq!(files.next(), None, "beside {}", first.display());
    Some(first)
}

/// What a process leaves that compiled a kernel; `None` where the device keeps nothing.
fn left_behind(folder: &Path) -> Option<Vec<u8>> {
    let gpu = with_folder(folder)?;
    let found = gpu.kernel_bytes_found();
    assert_eq!(compute(&gpu, 2.0), 3.0);
    drop(gpu);
    if found.is_none() {
        assert_eq!(file(folder), None);
        eprintln!("*** SKIPPED: this device has no cache of kernels ***");
        return None;
    }
    assert_eq!(found, Some(0));
    Some(std::fs::read(file(folder).unwrap()).unwrap())
}

#[test]
fn what_one_process_compiled_the_next_finds() {
    let folder = tempfile::tempdir().unwrap();
    let deeper = folder.path().join("deeper");
    let Some(bytes) = left_behind(&deeper) else { return };
    let file = file(&deeper).unwrap();
    for _ in 0..2 {
        let gpu = with_folder(&deeper).unwrap();
        assert_eq!(compute(&gpu, 2.0), 3.0);
        let found = gpu.kernel_bytes_found().unwrap();
        assert!(found > 0 && found < bytes.len(), "{found} of {}", bytes.len());
        // It is back where it was although the device is open.
        assert!(file.exists());
    }
    let again = std::fs::read(&file).unwrap();
    assert!(again.starts_with(&bytes[..48]), "the same device, another header");
}

#[test]
fn a_file_that_is_not_as_it_was_written_is_ignored_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let Some(bytes) = left_behind(folder.path()) else { return };
    let file = file(folder.path()).unwrap();
    let flipped = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        bytes
    };
    let damaged = [
        ("empty", Vec::new()),
        ("no header", bytes[..40].to_vec()),
        ("truncated", bytes[..bytes.len() - 1].to_vec()),
        ("longer", [&bytes[..], &[0]].concat()),
        ("another magic number", flipped(0)),
        ("another device or driver", flipped(16)),
        ("another checksum", flipped(48)),
        ("other data", flipped(bytes.len() - 1)),
        ("something else", b"{\"verdicts\":[]}".repeat(100)),
    ];
    for (what, damaged) in damaged {
        std::fs::write(&file, damaged).unwrap();
        let gpu = with_folder(folder.path()).unwrap();
        assert_eq!(compute(&gpu, 2.0), 3.0, "{what}");
        assert_eq!(gpu.kernel_bytes_found(), Some(0), "{what}");
        drop(gpu);
        std::fs::remove_file(file.with_extension("reading")).unwrap();
        let gpu = with_folder(folder.path()).unwrap();
        assert!(gpu.kernel_bytes_found() > Some(0), "{what}: not replaced");
    }
}

/// A driver that died of what it was given leaves it out of the way.
#[test]
fn what_a_process_died_of_is_not_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_) = left_behind(folder.path()) else { return };
    let file = file(folder.path()).unwrap();
    std::fs::rename(&file, file.with_extension("reading")).unwrap();
    let gpu = with_folder(folder.path()).unwrap();
    assert_eq!(compute(&gpu, 2.0), 3.0);
    assert_eq!(gpu.kernel_bytes_found(), Some(0));
}

#[test]
fn without_a_place_to_write_it_is_compiled_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let no_folder = folder.path().join("file");
    std::fs::write(&no_folder, "a file where a folder should be").unwrap();
    for _ in 0..2 {
        let Some(gpu) = with_folder(&no_folder) else { return };
        assert_eq!(compute(&gpu, 2.0), 3.0);
        assert!(gpu.kernel_bytes_found().is_none_or(|found| found == 0));
        gpu.check().unwrap();
    }
    assert_eq!(std::fs::read(&no_folder).unwrap(), b"a file where a folder should be");
}

#[test]
fn a_lost_device_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some(gpu) = with_folder(folder.path()) else { return };
    assert_eq!(compute(&gpu, 2.0), 3.0);
    gpu.destroy();
    drop(gpu);
    assert_eq!(file(folder.path()), None);
}

/// Without the optional features there is nothing to keep, and nothing else is different.
#[test]
fn a_device_that_keeps_none_computes_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for gpu in gpu_support::both().skip(1) {
        gpu.remember_verdicts(folder.path().join("verdicts.json"));
        assert_eq!(compute(&gpu, 2.0), 3.0);
        assert_eq!(gpu.kernel_bytes_found(), None);
        drop(gpu);
        assert_eq!(file(folder.path()), None);
    }
}
