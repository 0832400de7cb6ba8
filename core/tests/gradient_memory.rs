//! What a step of fine-tuning holds in memory: one test, alone in its process, because every thread's pages count.
#![cfg(any(target_os = "linux", target_os = "android"))]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use timbre::adapter::{Adapter, FourierDelta, Module};
use timbre::kernels::KernelChoice;
use timbre::memory::{PeakAnon, anon_bytes};
use timbre::model::{GradientOptions, GradientPass, Model, ModelOptions, Sequence};
use timbre::spectral::Shape;

/// The whole process, with four sequences of 256 tokens a step.
const LIMIT: u64 = 120_000_000;
const TOKENS: usize = 256;

#[test]
fn a_step_of_four_sequences_of_256_tokens() {
    let options = ModelOptions { kernels: KernelChoice::Auto, threads: Some(2), ..ModelOptions::default() };
    let model = Model::open(common::model_path(common::SMOLLM2), &options).unwrap();
    let peak = PeakAnon::start(Duration::from_millis(2)).unwrap();
    let modules = (0..model.info().layers).flat_map(|layer| ["q_proj", "v_proj"].map(|name| (layer, name)));
    let modules = modules.map(|(layer, name)| {
        let name = format!("model.layers.{layer}.self_attn.{name}");
        let (rows, cols) = model.module_shape(&name).unwrap();
        let plan = model.plans().seeded(Shape::new(rows, cols).unwrap(), 1000, 2024).unwrap();
        Module { name: name.into(), delta: Arc::new(FourierDelta::new(plan, &[0.0; 1000], 300.0).unwrap()) }
    });
    let bound = model.bind(Arc::new(Adapter::new(modules.collect()).unwrap()), "tuned").unwrap();
    let vocab = model.info().vocab;
    let sequence = |salt: usize| Sequence {
        tokens: (0..TOKENS).map(|i| ((i * i * 31 + salt * 977 + i * 13) % vocab) as u32).collect(),
        targets: vec![true; TOKENS],
    };
    let sequences: Vec<Sequence> = (0..4).map(sequence).collect();
    let all: Vec<&Sequence> = sequences.iter().collect();

    let before = anon_bytes().unwrap();
    let options = GradientOptions { memory_limit: None, reserved: 0, max_rows: TOKENS };
    let mut pass = GradientPass::new(model, &options).unwrap();
    let mut gradient = vec![0.0; bound.parameters()];
    for _ in 0..2 {
        let started = Instant::now();
        let loss = pass.gradient(&bound, &all, 1.0 / 1020.0, &mut gradient, &|| false).unwrap();
        assert_eq!(loss.targets, 4 * (TOKENS - 1));
        println!("{:.0} ms, {} tokens", started.elapsed().as_secs_f64() * 1e3, 4 * TOKENS);
    }
    let (held, planned) = (anon_bytes().unwrap() - before, pass.planned_bytes() as u64);
    let peak = peak.stop().unwrap();
    println!("planned {planned}, held {held}, peak of the process {peak}");
    assert!(held < planned + planned / 20, "{held} bytes are held, {planned} were planned");
    assert!(peak <= LIMIT, "the process held {peak} bytes");
}
