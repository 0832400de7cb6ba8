//! Twenty steps of fine-tuning against PEFT's: losses, gradients, and the coefficients they lead to.

mod common;

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;
use timbre::adapter::{Adapter, FourierDelta, Module};
use timbre::kernels::KernelChoice;
use timbre::model::{BoundAdapter, GradientOptions, GradientPass, Model, ModelOptions, Sequence};
use timbre::spectral::Shape;

/// Largest relative difference of a step's loss, and of its gradient's norm.
const LOSS_TOLERANCE: f64 = 0.01;
const NORM_TOLERANCE: f64 = 0.03;
/// Largest absolute difference of a coefficient after twenty steps of up to 0.03 each.
const FINAL_TOLERANCE: f64 = 0.02;

fn model() -> Arc<Model> {
    let options = ModelOptions { kernels: KernelChoice::Auto, threads: Some(2), ..ModelOptions::default() };
    Model::open(common::model_path(common::SMOLLM2), &options).unwrap()
}

/// A new adapter on q and v of every layer, as the fixture's configuration has it.
fn adapter(model: &Model, config: &Value) -> Arc<BoundAdapter> {
    let n = config["n_frequency"].as_u64().unwrap() as usize;
    let seed = config["random_loc_seed"].as_u64().unwrap();
    let modules = (0..model.info().layers).flat_map(|layer| {
        config["target_modules"].as_array().unwrap().iter().map(move |name| {
            let name = format!("model.layers.{layer}.self_attn.{}", name.as_str().unwrap());
            let (rows, cols) = model.module_shape(&name).unwrap();
            let plan = model.plans().seeded(Shape::new(rows, cols).unwrap(), n, seed).unwrap();
            let delta = FourierDelta::new(plan, &vec![0.0; n], config["scaling"].as_f64().unwrap()).unwrap();
            Module { name: name.into(), delta: Arc::new(delta) }
        })
    });
    model.bind(Arc::new(Adapter::new(modules.collect()).unwrap()), "tuned").unwrap()
}

fn sequence(value: &Value) -> Sequence {
    let tokens: Vec<u32> = value["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let from = value["loss_from"].as_u64().unwrap() as usize;
    Sequence { targets: (0..tokens.len()).map(|i| i >= from).collect(), tokens }
}

/// AdamW without weight decay: β 0.9 and 0.999, ε 1e-8.
#[derive(Default)]
struct Adam {
    step: i32,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Adam {
    fn update(&mut self, rate: f64, gradient: &[f32], parameters: &mut [f32]) {
        self.first.resize(gradient.len(), 0.0);
        self.second.resize(gradient.len(), 0.0);
        self.step += 1;
        let corrections = [0.9f64, 0.999].map(|beta| 1.0 - beta.powi(self.step));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((p, &g), (m, v)) in parameters.iter_mut().zip(gradient).zip(moments) {
            *m = 0.9 * *m + 0.1 * g;
            *v = 0.999 * *v + 0.001 * g * g;
            let (m, v) = (f64::from(*m) / corrections[0], f64::from(*v) / corrections[1]);
            *p -= (rate * m / (v.sqrt() + 1e-8)) as f32;
        }
    }
}

/// The first eight numbers of a module, in entry order, out of all in the adapter's.
fn first_of_layer0_q(bound: &BoundAdapter, flat: &[f32]) -> Vec<f64> {
    let mut at = 0;
    for (name, delta) in bound.adapter().modules() {
        if name == "model.layers.0.self_attn.q_proj" {
            let plan = delta.as_fourier().unwrap().plan();
            let entries = plan.to_entry_order(&flat[at..at + delta.parameters()]).unwrap();
            return entries[..8].iter().map(|&x| f64::from(x)).collect();
        }
        at += delta.parameters();
    }
    panic!("no such module");
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn twenty_steps_are_pefts() {
    let fixture = common::fixture_json("train/first20.json");
    let model = model();
    let mut bound = adapter(&model, &fixture["config"]);
    let options = GradientOptions { memory_limit: None, reserved: 0, max_rows: 256 };
    let mut pass = GradientPass::new(model, &options).unwrap();
    let mut parameters = vec![0.0; bound.parameters()];
    let mut adam = Adam::default();
    let (mut worst_loss, mut worst_norm) = (0f64, 0f64);
    for step in fixture["steps"].as_array().unwrap() {
        let sequences: Vec<Sequence> = step["sequences"].as_array().unwrap().iter().map(sequence).collect();
        let all: Vec<&Sequence> = sequences.iter().collect();
        let targets: usize = sequences.iter().map(|s| s.targets.iter().filter(|t| **t).count()).sum();
        let mut gradient = vec![0.0; parameters.len()];
        let started = Instant::now();
        let loss = pass.gradient(&bound, &all, 1.0 / targets as f32, &mut gradient, &|| false).unwrap();
        let ms = started.elapsed().as_secs_f64() * 1e3;
        assert_eq!(loss.targets, targets);

        let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let relative = |got: f64, want: &Value| (got / want.as_f64().unwrap() - 1.0).abs();
        let (of_loss, of_norm) = (relative(loss.mean(), &step["loss"]), relative(norm, &step["grad_norm"]));
        let rows: usize = sequences.iter().map(|s| s.tokens.len()).sum();
        println!(
            "step {}: loss {:.5} ({of_loss:.1e}), norm {norm:.5} ({of_norm:.1e}), {ms:.0} ms for {rows} tokens",
            step["step"],
            loss.mean()
        );
        assert!(of_loss < LOSS_TOLERANCE && of_norm < NORM_TOLERANCE, "step {}", step["step"]);
        (worst_loss, worst_norm) = (worst_loss.max(of_loss), worst_norm.max(of_norm));

        for (got, want) in first_of_layer0_q(&bound, &gradient).iter().zip(floats(&step["grad_layer0_q_first8"])) {
            assert!((got - want).abs() <= NORM_TOLERANCE * norm / 10.0, "step {}: {got} for {want}", step["step"]);
        }
        adam.update(0.03, &gradient, &mut parameters);
        bound = bound.with_parameters(&parameters).unwrap();
    }
    println!("worst loss {worst_loss:.1e}, worst norm {worst_norm:.1e}, planned {} bytes", pass.planned_bytes());
    for (got, want) in first_of_layer0_q(&bound, &parameters).iter().zip(floats(&fixture["final_layer0_q_first8"])) {
        println!("{got:.5} for {want:.5}");
        assert!((got - want).abs() < FINAL_TOLERANCE, "{got} for {want}");
    }
}
