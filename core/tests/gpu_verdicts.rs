//! Kernels are tried before they are trusted, and what came out is remembered across processes.

#![cfg(feature = "gpu")]

mod gpu_support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gpu_support::{both, gpu};
use timbre::gpu::{
    Access, Forward, Gpu, GpuError, Inverse, KernelSpec, Positions, Precision, Product, Reconstruct, Recorder, Shader,
    Trial, Verdict, trials,
};

/// A device that keeps verdicts in `file`.
fn with_file(file: &Path) -> Option<Arc<Gpu>> {
    let gpu = gpu()?;
    gpu.remember_verdicts(file);
    Some(gpu)
}

/// Replaces the only occurrence of `old` in a file.
fn edit(file: &Path, old: &str, new: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert_eq!(text.matches(old).count(), 1, "{old:?} in {text}");
    std::fs::write(file, text.replace(old, new)).unwrap();
}

/// Doubles a number, wrongly where `right` is 0.
const DOUBLE: Shader = Shader {
    name: "double",
    wgsl: "
        override right: f32 = 1.0;
        @group(0) @binding(0) var<storage, read_write> x: array<f32>;
        @compute @workgroup_size(1) fn double() { x[0] = x[0] * (1.0 + right); }
    ",
    reduces: false,
};

fn double(gpu: &Arc<Gpu>, right: f64) -> Result<Option<String>, GpuError> {
    let constants = &[("right", right)];
    let spec = KernelSpec { shader: DOUBLE, entry: "double", access: &[Access::Write], params: false, constants };
    let kernel = gpu.kernel(&spec)?;
    let x = gpu.upload("x", &[21.0f32])?;
    let mut recorder = Recorder::new(gpu);
    recorder.dispatch(&kernel, &[x.all()], &(), [1, 1, 1]);
    recorder.submit()?;
    let mut found = [0.0f32];
    gpu.read(&x, 0, &mut found)?;
    Ok((found[0] != 42.0).then(|| format!("found {}, expected 42", found[0])))
}

#[test]
fn every_kernel_passes_its_trial_here() {
    let folder = tempfile::tempdir().unwrap();
    for gpu in both() {
        gpu.remember_verdicts(folder.path().join("verdicts.json"));
        println!("subgroups of {:?}", gpu.info().subgroup);
        for trial in trials::all().chain(timbre::model::gpu::trials()) {
            let using: Vec<bool> = trial.shaders.iter().map(|shader| gpu.uses_subgroups(shader)).collect();
            assert_eq!(gpu.verdict(trial).unwrap(), Verdict::Passed, "{}", trial.name);
            // Not by going without them.
            for (shader, using) in trial.shaders.iter().zip(using) {
                assert_eq!(using, shader.reduces && gpu.info().subgroup.is_some(), "{}", shader.name);
                assert_eq!(gpu.uses_subgroups(shader), using, "{}", shader.name);
            }
        }
    }
}

/// A software device has subgroups as wide as the CPU's registers, or as it is told.
#[test]
fn kernels_are_right_with_smaller_subgroups() {
    let Some(gpu) = gpu() else { return };
    if !gpu.info().is_software() {
        return;
    }
    let test = ["--exact", "every_kernel_passes_its_trial_here", "--nocapture"];
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let ran = command.args(test).env("LP_NATIVE_VECTOR_WIDTH", "128").output().unwrap();
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{told}{}", String::from_utf8_lossy(&ran.stderr));
    if gpu.info().name.contains("llvmpipe") && gpu.info().subgroup == Some((8, 8)) {
        assert!(told.contains("subgroups of Some((4, 4))"), "{told}");
    }
}

/// Adds up 1 ... 64, wrongly where there are subgroups and `right` is 0.
const SUM: Shader = Shader {
    name: "sum",
    wgsl: "
        override right: f32 = 1.0;
        const THREADS: u32 = 64u;
        alias Sum = f32;
        @group(0) @binding(0) var<storage, read_write> x: array<f32>;
        @compute @workgroup_size(THREADS) fn sum(threads: Threads) {
            let sum = sum_for_all(threads, f32(number(threads) + 1u));
            x[number(threads)] = select(sum, sum * right, neighbours(threads) > 1u);
        }
    ",
    reduces: true,
};

fn sum(gpu: &Arc<Gpu>, right: f64) -> Result<Option<String>, GpuError> {
    let constants = &[("right", right)];
    let spec = KernelSpec { shader: SUM, entry: "sum", access: &[Access::Write], params: false, constants };
    let kernel = gpu.kernel(&spec)?;
    let x = gpu.upload("x", &[0.0f32; 64])?;
    let mut recorder = Recorder::new(gpu);
    recorder.dispatch(&kernel, &[x.all()], &(), [1, 1, 1]);
    recorder.submit()?;
    let mut found = [0.0f32; 64];
    gpu.read(&x, 0, &mut found)?;
    Ok((found != [64.0 * 65.0 / 2.0; 64]).then(|| format!("found {found:?}")))
}

#[test]
fn a_kernel_that_is_wrong_with_subgroups_is_used_without() {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    fn run(gpu: &Arc<Gpu>) -> Result<Option<String>, GpuError> {
        RUNS.fetch_add(1, Ordering::Relaxed);
        sum(gpu, 0.0)
    }
    fn right(gpu: &Arc<Gpu>) -> Result<Option<String>, GpuError> {
        RUNS.fetch_add(1, Ordering::Relaxed);
        sum(gpu, 1.0)
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("verdicts.json");
    let Some(gpu) = with_file(&file) else { return };
    if gpu.info().subgroup.is_none() {
        return eprintln!("*** SKIPPED: this device has no subgroups ***");
    }
    let trials = [Trial { name: "right", shaders: &[SUM], run: right }, Trial { name: "wrong", shaders: &[SUM], run }];
    let [right, wrong] = &trials;
    gpu.trust(right).unwrap();
    assert!(gpu.uses_subgroups(&SUM));
    assert_eq!(RUNS.load(Ordering::Relaxed), 1);
    gpu.trust(wrong).unwrap();
    assert!(!gpu.uses_subgroups(&SUM));
    assert_eq!(RUNS.load(Ordering::Relaxed), 3, "wrong with them, right without");
    // Those beside it are tried without too.
    gpu.trust_all(trials.iter()).unwrap();
    assert_eq!(RUNS.load(Ordering::Relaxed), 4);
    // The next process knows all of it.
    let gpu = with_file(&file).unwrap();
    gpu.trust_all(trials.iter()).unwrap();
    assert!(!gpu.uses_subgroups(&SUM));
    assert_eq!(RUNS.load(Ordering::Relaxed), 4);
    // So it does of a device where all of it was found out in one go.
    std::fs::remove_file(&file).unwrap();
    let gpu = with_file(&file).unwrap();
    gpu.trust_all(trials.iter()).unwrap();
    assert!(!gpu.uses_subgroups(&SUM));
    assert_eq!(RUNS.load(Ordering::Relaxed), 8);
}

#[test]
fn a_verdict_is_found_out_once_and_kept() {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    fn run(gpu: &Arc<Gpu>) -> Result<Option<String>, GpuError> {
        RUNS.fetch_add(1, Ordering::Relaxed);
        double(gpu, 1.0)
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deeper/verdicts.json");
    let trial = Trial { name: "double", shaders: &[DOUBLE], run };
    for _ in 0..2 {
        let Some(gpu) = with_file(&file) else { return };
        for _ in 0..3 {
            gpu.trust(&trial).unwrap();
        }
        assert_eq!(RUNS.load(Ordering::Relaxed), 1);
    }
    // Another text is another kernel.
    let other = Trial { shaders: &[DOUBLE, DOUBLE], ..trial };
    with_file(&file).unwrap().trust(&other).unwrap();
    assert_eq!(RUNS.load(Ordering::Relaxed), 2);
    // A driver that was updated is tried anew, and so is a file that is none.
    let driver = with_file(&file).unwrap().info().driver.clone();
    edit(&file, &serde_json::to_string(&driver).unwrap(), "\"older\"");
    with_file(&file).unwrap().trust(&other).unwrap();
    assert_eq!(RUNS.load(Ordering::Relaxed), 3);
    std::fs::write(&file, "{\"verdicts\":[{\"device\":").unwrap();
    with_file(&file).unwrap().trust(&other).unwrap();
    assert_eq!(RUNS.load(Ordering::Relaxed), 4);
}

#[test]
fn a_kernel_that_computes_wrong_numbers_is_refused_from_then_on() {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    fn run(gpu: &Arc<Gpu>) -> Result<Option<String>, GpuError> {
        RUNS.fetch_add(1, Ordering::Relaxed);
        double(gpu, 0.0)
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("verdicts.json");
    for _ in 0..2 {
        let Some(gpu) = with_file(&file) else { return };
        let error = gpu.trust(&Trial { name: "double", shaders: &[DOUBLE], run }).unwrap_err();
        assert!(matches!(&error, GpuError::SelfTest { kernel, .. } if kernel == "double"), "{error}");
        assert!(error.to_string().contains("found 21, expected 42"), "{error}");
    }
    assert_eq!(RUNS.load(Ordering::Relaxed), 1);
}

#[test]
fn a_shader_that_the_driver_refuses_is_a_verdict() {
    fn run(gpu: &Arc<Gpu>) -> Result<Option<String>, GpuError> {
        let broken = Shader { name: "broken", wgsl: "this is no shader", reduces: false };
        let spec = KernelSpec { shader: broken, entry: "main", access: &[], params: false, constants: &[] };
        gpu.kernel(&spec).map(|_| None)
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(gpu) = with_file(&folder.path().join("verdicts.json")) else { return };
    let verdict = gpu.verdict(&Trial { name: "broken", shaders: &[], run }).unwrap();
    assert!(matches!(verdict, Verdict::Failed(_)), "{verdict:?}");
}

#[test]
fn trials_that_end_the_process_count_as_failed_the_second_time() {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    fn run(_: &Arc<Gpu>) -> Result<Option<String>, GpuError> {
        RUNS.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("verdicts.json");
    let trial = Trial { name: "crash", shaders: &[DOUBLE], run };
    let Some(gpu) = with_file(&file) else { return };
    gpu.trust(&trial).unwrap();
    // What a process leaves that was ended during its trial.
    edit(&file, "\"passed\"", "\"running\"");
    with_file(&file).unwrap().trust(&trial).unwrap();
    assert_eq!(RUNS.load(Ordering::Relaxed), 2);
    edit(&file, "\"passed\"", "\"running\"");
    let error = with_file(&file).unwrap().trust(&trial).unwrap_err();
    assert!(matches!(error, GpuError::SelfTest { .. }), "{error}");
    assert_eq!(RUNS.load(Ordering::Relaxed), 2);
}

/// Many devices of one process, as many processes would.
#[test]
fn devices_that_try_at_the_same_time_wait_for_each_other() {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    fn run(gpu: &Arc<Gpu>) -> Result<Option<String>, GpuError> {
        RUNS.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(std::time::Duration::from_millis(50));
        double(gpu, 1.0)
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("verdicts.json");
    if gpu().is_none() {
        return;
    }
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| {
                with_file(&file).unwrap().trust(&Trial { name: "double", shaders: &[DOUBLE], run }).unwrap();
            });
        }
    });
    assert_eq!(RUNS.load(Ordering::Relaxed), 1);
}

#[test]
fn a_lost_device_is_no_verdict() {
    fn run(gpu: &Arc<Gpu>) -> Result<Option<String>, GpuError> {
        gpu.destroy();
        double(gpu, 1.0)
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("verdicts.json");
    let Some(gpu) = with_file(&file) else { return };
    let lost = gpu.verdict(&Trial { name: "double", shaders: &[DOUBLE], run }).unwrap_err();
    assert!(matches!(lost, GpuError::DeviceLost { .. }), "{lost}");
    fn fine(gpu: &Arc<Gpu>) -> Result<Option<String>, GpuError> {
        double(gpu, 1.0)
    }
    for _ in 0..3 {
        with_file(&file).unwrap().trust(&Trial { name: "double", shaders: &[DOUBLE], run: fine }).unwrap();
    }
}

/// What uses a kernel asks for its verdict.
#[test]
fn nothing_is_made_with_a_kernel_that_failed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("verdicts.json");
    let positions = Positions { d1: 4, d2: 6, rows: &[1], cols: &[2] };
    type Make = fn(&Arc<Gpu>, &Positions<'_>) -> Result<(), GpuError>;
    let uses: [(&Trial, Make); 4] = [
        (&trials::RECONSTRUCT, |gpu, positions| Reconstruct::new(gpu, positions).map(|_| ())),
        (&trials::APPLY, |gpu, _| Forward::new(gpu, 6).map(|_| ())),
        (&trials::APPLY, |gpu, positions| Inverse::new(gpu, &[*positions]).map(|_| ())),
        (&trials::PRODUCTS, |gpu, _| Product::new(gpu, 4, 6, Precision::F32, true).map(|_| ())),
    ];
    for (trial, make) in uses {
        // The verdict of a device that failed, put where a later run looks for it.
        fn fails(_: &Arc<Gpu>) -> Result<Option<String>, GpuError> {
            Ok(Some("injected".to_owned()))
        }
        let Some(gpu) = with_file(&file) else { return };
        gpu.verdict(&Trial { run: fails, ..*trial }).unwrap();
        let error = make(&with_file(&file).unwrap(), &positions).unwrap_err();
        assert!(matches!(&error, GpuError::SelfTest { kernel, .. } if kernel == trial.name), "{error}");
        std::fs::remove_file(&file).unwrap();
    }
}
