//! The device room: memory that is counted, records of dispatches, and errors that are values.

#![cfg(feature = "gpu")]

mod gpu_support;

use std::sync::Arc;

use gpu_support::gpu;
use timbre::gpu::{Access, Gpu, GpuChoice, GpuError, Kernel, KernelSpec, Recorder, Shader};

const SCALE: Shader = Shader {
    name: "scale",
    wgsl: "
        override offset: f32 = 0.0;
        struct Params { factor: f32 }
        @group(0) @binding(0) var<storage, read> source: array<f32>;
        @group(0) @binding(1) var<storage, read_write> sink: array<f32>;
        @group(1) @binding(0) var<uniform> params: Params;
        @compute @workgroup_size(64)
        fn scale(@builtin(global_invocation_id) id: vec3u) {
            if (id.x < arrayLength(&source)) { sink[id.x] = source[id.x] * params.factor + offset; }
        }
    ",
    reduces: false,
};

fn scale(gpu: &Gpu, offset: f64) -> Result<Kernel, GpuError> {
    let (access, constants) = (&[Access::Read, Access::Write], &[("offset", offset)]);
    gpu.kernel(&KernelSpec { shader: SCALE, entry: "scale", access, params: true, constants })
}

#[test]
fn dispatches_of_a_record_see_each_others_writes() {
    let Some(gpu) = gpu() else { return };
    let values: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let (a, b) = (gpu.upload("a", &values).unwrap(), gpu.storage("b", 4000).unwrap());
    let kernel = scale(&gpu, 1.0).unwrap();
    let there = kernel.bind(&gpu, &[a.all(), b.all()]).unwrap();
    let back = kernel.bind(&gpu, &[b.all(), a.all()]).unwrap();
    let mut recorder = Recorder::timed(&gpu);
    // More dispatches than a page of parameters holds.
    for _ in 0..300 {
        recorder.section("there");
        recorder.run(&there, &2.0f32, [16, 1, 1]);
        recorder.section("back");
        recorder.run(&back, &0.5f32, [16, 1, 1]);
    }
    let early = recorder.read(&a, 0, 40).unwrap();
    recorder.dispatch(&kernel, &[a.all(), b.all()], &3.0f32, [16, 1, 1]);
    let timings = recorder.submit_timed().unwrap();
    let (mut first, mut all) = (vec![0.0f32; 10], vec![0.0f32; 1000]);
    early.wait(&mut first).unwrap();
    gpu.read(&b, 0, &mut all).unwrap();
    // x -> 2x + 1 -> x + 1.5, 300 times.
    for (i, value) in all.iter().enumerate() {
        assert_eq!(*value, (i as f32 + 450.0) * 3.0 + 1.0, "{i}");
    }
    assert_eq!(first[9], 459.0);
    if gpu.info().timestamps {
        let timings = timings.unwrap().wait().unwrap();
        // The last dispatch, after the copy, is a pass of its own.
        assert_eq!(timings.sections.len(), 601);
        assert!(timings.sections.iter().all(|(name, ns)| ["there", "back"].contains(&name.as_str()) && *ns >= 0.0));
    }
}

#[test]
fn memory_is_counted_and_bounded() {
    let Some(gpu) = gpu() else { return };
    let before = gpu.allocated_bytes();
    let buffer = gpu.storage("held", 1 << 20).unwrap();
    let shared = buffer.clone();
    assert_eq!(gpu.allocated_bytes() - before, 1 << 20);
    drop(buffer);
    assert_eq!(gpu.allocated_bytes() - before, 1 << 20);
    drop(shared);
    assert_eq!(gpu.allocated_bytes(), before);
    let address = |scratch: &timbre::gpu::Scratch| scratch.bytes();
    let first = gpu.scratch(10_000).unwrap();
    let bytes = address(&first);
    drop(first);
    let held = gpu.allocated_bytes();
    let again = gpu.scratch(9_000).unwrap();
    assert_eq!((address(&again), gpu.allocated_bytes()), (bytes, held), "scratch is used again");
    drop(again);
    gpu.trim();
    assert_eq!(gpu.allocated_bytes(), before);

    gpu.set_budget(before + 4096);
    let refused = gpu.storage("too much", 8192).unwrap_err();
    assert!(matches!(refused, GpuError::OutOfMemory { needed: 8192, budget: Some(_), .. }), "{refused}");
    gpu.storage("just enough", 4096).unwrap();
    gpu.set_budget(0);
    let too_large = gpu.storage("larger than any buffer", gpu.info().max_buffer + 4).unwrap_err();
    assert!(matches!(too_large, GpuError::Limit { .. }), "{too_large}");
    assert_eq!(gpu.allocated_bytes(), before);
}

#[test]
fn uploads_of_any_length_arrive() {
    let Some(gpu) = gpu() else { return };
    for len in [1, 3, 4, 17, (8 << 20) + 5] {
        let bytes: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
        let buffer = gpu.upload("bytes", &bytes).unwrap();
        let mut back = vec![0; len];
        gpu.read(&buffer, 0, &mut back).unwrap();
        assert!(back == bytes, "{len} bytes");
    }
    let buffer = gpu.storage("small", 16).unwrap();
    assert!(matches!(gpu.write(&buffer, 8, &[0u32; 3]), Err(GpuError::Limit { needed: 20, max: 16, .. })));
    assert!(matches!(gpu.read(&buffer, 8, &mut [0u32; 3]), Err(GpuError::Limit { needed: 20, max: 16, .. })));
}

#[test]
fn what_the_device_refuses_is_an_error_and_not_a_panic() {
    let Some(gpu) = gpu() else { return };
    let broken =
        Shader { name: "broken", wgsl: "@compute @workgroup_size(1) fn main() { let x: u32 = 1.0; }", reduces: false };
    let spec = KernelSpec { shader: broken, entry: "main", access: &[], params: false, constants: &[] };
    assert!(matches!(gpu.kernel(&spec), Err(GpuError::Shader { .. })));
    let spec = KernelSpec { shader: SCALE, entry: "nowhere", access: &[], params: true, constants: &[] };
    assert!(matches!(gpu.kernel(&spec), Err(GpuError::Shader { .. })));
    // Declared as read only, written by the shader.
    let access = &[Access::Read, Access::Read];
    let spec = KernelSpec { shader: SCALE, entry: "scale", access, params: true, constants: &[] };
    assert!(matches!(gpu.kernel(&spec), Err(GpuError::Shader { .. })));

    let kernel = scale(&gpu, 0.0).unwrap();
    let (a, b) = (gpu.storage("a", 1024).unwrap(), gpu.storage("b", 1024).unwrap());
    let misaligned = kernel.bind(&gpu, &[a.part(4..8), b.all()]).unwrap_err();
    assert!(matches!(misaligned, GpuError::Command { .. }), "{misaligned}");
    let outside = kernel.bind(&gpu, &[a.part(512..2048), b.all()]).unwrap_err();
    assert!(matches!(outside, GpuError::Command { .. }), "{outside}");
    let mut recorder = Recorder::new(&gpu);
    recorder.dispatch(&kernel, &[a.all(), b.all()], &1.0f32, [gpu.info().max_groups + 1, 1, 1]);
    assert!(matches!(recorder.submit(), Err(GpuError::Limit { .. })));
    // Read and written by the same dispatch.
    let mut recorder = Recorder::new(&gpu);
    recorder.dispatch(&kernel, &[a.all(), a.all()], &1.0f32, [1, 1, 1]);
    assert!(matches!(recorder.submit(), Err(GpuError::Command { .. })));
    gpu.check().unwrap();
    let named = Gpu::open(&GpuChoice::Named("no such device".into())).unwrap_err();
    assert!(matches!(named, GpuError::NoAdapter { wanted: Some(_), .. }), "{named}");
}

#[test]
fn a_destroyed_device_is_an_error_everywhere() {
    let Some(gpu) = gpu() else { return };
    let kernel = scale(&gpu, 0.0).unwrap();
    let (a, b) = (gpu.storage("a", 1024).unwrap(), gpu.storage("b", 1024).unwrap());
    let bound = kernel.bind(&gpu, &[a.all(), b.all()]).unwrap();
    let mut recorded = Recorder::new(&gpu);
    recorded.run(&bound, &1.0f32, [4, 1, 1]);
    let pending = recorded.read(&b, 0, 16).unwrap();
    gpu.destroy();
    assert!(gpu.is_lost());
    let lost = |error: GpuError| assert!(matches!(error, GpuError::DeviceLost { .. }), "{error}");
    lost(recorded.submit().unwrap_err());
    lost(pending.wait(&mut [0u32; 4]).unwrap_err());
    lost(gpu.storage("more", 16).unwrap_err());
    lost(gpu.upload("more", &[1u32]).unwrap_err());
    lost(gpu.scratch(16).unwrap_err());
    lost(gpu.read(&a, 0, &mut [0u32; 4]).unwrap_err());
    lost(scale(&gpu, 5.0).unwrap_err());
    lost(kernel.bind(&gpu, &[a.all(), b.all()]).unwrap_err());
    lost(gpu.wait().unwrap_err());
    let mut recorder = Recorder::new(&gpu);
    recorder.run(&bound, &1.0f32, [4, 1, 1]);
    lost(recorder.submit().unwrap_err());
    // Another device is not affected.
    let other = Gpu::open(&GpuChoice::Auto).unwrap();
    other.upload("fine", &[1u32]).unwrap();
    let _ = Arc::strong_count(&other);
}

#[test]
fn a_device_lost_while_a_record_is_under_way_is_an_error() {
    let Some(gpu) = gpu() else { return };
    let values = vec![1.0f32; 1 << 16];
    let (a, b) = (gpu.upload("a", &values).unwrap(), gpu.storage("b", 4 << 16).unwrap());
    let kernel = scale(&gpu, 0.0).unwrap();
    let mut recorder = Recorder::new(&gpu);
    for _ in 0..50 {
        recorder.dispatch(&kernel, &[a.all(), b.all()], &2.0f32, [1024, 1, 1]);
    }
    let pending = recorder.read(&b, 0, 4 << 16).unwrap();
    recorder.submit().unwrap();
    gpu.destroy();
    let error = pending.wait(&mut vec![0.0f32; 1 << 16]).unwrap_err();
    assert!(matches!(error, GpuError::DeviceLost { .. }), "{error}");
}

#[test]
fn the_pool_keeps_no_more_than_it_may() {
    let Some(gpu) = gpu() else { return };
    let before = gpu.allocated_bytes();
    let large: Vec<_> = (0..3).map(|_| gpu.scratch(40 << 20).unwrap()).collect();
    drop(large);
    assert_eq!(gpu.allocated_bytes() - before, 40 << 20);
    // Small ones stay beside it.
    drop(gpu.scratch(1 << 20).unwrap());
    assert_eq!(gpu.allocated_bytes() - before, 41 << 20);
}
