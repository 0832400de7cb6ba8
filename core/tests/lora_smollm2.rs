//! A LoRA adapter that PEFT trained, run unmerged on the model it was trained on: the held-out loss that PEFT measured, and the
//! logits of the same model with the dense change.

mod common;

use std::sync::Arc;

use timbre::adapter::{Adapter, Delta, DeltaScratch, LoraDelta, Module};
use timbre::kernels::{KernelChoice, Tier};
use timbre::model::{ActiveAdapters, BoundAdapter, Model, ModelOptions};
use timbre::session::{CancelHandle, Message, Session, SessionOptions, SwapPolicy};
use timbre::spectral::{Shape, Transforms};
use timbre::tokenizer::EncodeOptions;

/// What PEFT's log of the training says of the 24 held-out entries, before and after.
const BASE_LOSS: f64 = 4.059_335_838_622_452;
const TUNED_LOSS: f64 = 3.098_333_671_471_392_5;
/// Tokens of a sequence in that training: what is longer was cut.
const LONGEST: usize = 128;

fn open(kernels: KernelChoice) -> Arc<Model> {
    Model::open(
        common::model_path(common::SMOLLM2),
        &ModelOptions { kernels, threads: Some(2), ..ModelOptions::default() },
    )
    .unwrap()
}

fn session(model: &Arc<Model>) -> Session {
    Session::new(model.clone(), &SessionOptions { context: Some(512), ..SessionOptions::default() }).unwrap()
}

fn devil(model: &Model) -> Arc<BoundAdapter> {
    model.load_adapter(common::fixture_path("adapters/devil-lora")).unwrap()
}

fn speak(session: &mut Session, list: Vec<(Arc<BoundAdapter>, f32)>) {
    session.set_adapters(ActiveAdapters::new(list).unwrap(), SwapPolicy::Recompute).unwrap();
}

/// The held-out entries through the chat template: tokens, and where the completion begins.
fn heldout(model: &Model) -> Vec<(Vec<u32>, usize)> {
    let template = timbre::session::ChatTemplate::from_gguf(model.gguf()).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let encode = |text: &str| tokenizer.encode(text, EncodeOptions { parse_special: true, add_bos: false }).unwrap();
    let text = std::fs::read_to_string(common::fixture_path("train/devil.heldout.jsonl")).unwrap();
    let entry = |line: &str| {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| entry[name].as_str().unwrap().to_owned();
        let prompt = encode(&template.render(&[Message::user(field("prompt"))], true).unwrap());
        let completion = encode(&format!("{}<|im_end|>\n", field("completion")));
        let from = prompt.len();
        let mut ids = [prompt, completion].concat();
        ids.truncate(LONGEST);
        (ids, from)
    };
    text.lines().map(entry).collect()
}

/// Mean of −ln p over all tokens of the completions.
fn loss(session: &mut Session, entries: &[(Vec<u32>, usize)]) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for (ids, from) in entries {
        session.set_tokens(ids);
        session
            .logits_all(&mut |row, logits| {
                let Some(&target) = ids.get(row + 1).filter(|_| row + 1 >= *from) else { return };
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let total: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
                sum += f64::from(max) + total.ln() - f64::from(logits[target as usize]);
                count += 1;
            })
            .unwrap();
    }
    sum / f64::from(count)
}

#[test]
fn the_heldout_loss_is_pefts() {
    let model = open(KernelChoice::Auto);
    let mut session = session(&model);
    let entries = heldout(&model);
    assert_eq!(entries.len(), 24);
    for (name, want) in [("base", BASE_LOSS), ("devil-lora", TUNED_LOSS)] {
        speak(&mut session, if name == "base" { Vec::new() } else { vec![(devil(&model), 1.0)] });
        let got = loss(&mut session, &entries);
        println!("{name}: {got:.5}, PEFT {want:.5}, {:+.3} %", (got - want) / want * 100.0);
        assert!((got - want).abs() <= 1e-3 * want, "{name}: {got} for {want}");
    }
}

/// A change as the matrix that defines it, multiplied in f64.
#[derive(Debug)]
struct Dense(Shape, Vec<f64>);

impl Delta for Dense {
    fn shape(&self) -> Shape {
        self.0
    }

    fn parameters(&self) -> usize {
        0
    }

    fn read_parameters(&self, _: &mut [f32]) {}

    fn with_parameters(&self, _: &[f32]) -> Arc<dyn Delta> {
        Arc::new(Self(self.0, self.1.clone()))
    }

    fn bytes(&self) -> usize {
        8 * self.1.len()
    }

    fn apply(&self, weight: f32, x: &[f32], scratch: &mut DeltaScratch) {
        for (y, row) in scratch.dense(self.0.rows()).iter_mut().zip(self.1.chunks_exact(self.0.cols())) {
            let sum: f64 = row.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum();
            *y += (f64::from(weight) * sum) as f32;
        }
    }

    fn adjoint(&self, _: f32, _: &[f32], _: &mut DeltaScratch) {}

    fn gradient(&self, _: f32, _: &[f32], _: &[f32], _: &mut [f32], _: &mut DeltaScratch) {}

    fn dense(&self, _: &Transforms, _: usize) -> Vec<f32> {
        self.1.iter().map(|v| *v as f32).collect()
    }
}

/// The same adapter with every change formed, by the defining sum.
fn formed(adapter: &Adapter) -> Adapter {
    let module = |(name, delta): (&str, &Arc<dyn Delta>)| {
        let lora: &LoraDelta = delta.as_lora().unwrap();
        let dense: Arc<dyn Delta> = Arc::new(Dense(lora.shape(), lora.naive()));
        Module { name: name.into(), delta: dense }
    };
    Adapter::new(adapter.modules().map(module).collect()).unwrap()
}

fn largest(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn unmerged_is_the_model_with_the_dense_change() {
    let model = open(KernelChoice::Only(Tier::Reference));
    let mut session = session(&model);
    let (bound, kjv) = (devil(&model), model.load_adapter(common::fixture_path("adapters/kjv")).unwrap());
    let dense = model.bind(Arc::new(formed(bound.adapter())), "dense").unwrap();
    let mut logits = |list: Vec<(Arc<BoundAdapter>, f32)>, ids: &[u32]| {
        speak(&mut session, list);
        session.set_tokens(ids);
        session.logits(&CancelHandle::default()).unwrap().to_vec()
    };
    // A prompt in blocks, and a single token.
    for ids in
        [&[504u32, 2086, 314, 260, 1042, 30, 4093, 1012, 536, 28, 198, 57, 5, 9, 1000, 2000, 3000, 42, 7][..], &[504]]
    {
        let base = logits(Vec::new(), ids);
        let (unmerged, formed) = (logits(vec![(bound.clone(), 1.0)], ids), logits(vec![(dense.clone(), 1.0)], ids));
        let (off, moved) = (largest(&unmerged, &formed), largest(&unmerged, &base));
        println!("{} tokens: the adapter moves logits by {moved:.2}, forming it by {off:.2e}", ids.len());
        assert!(moved > 0.1 && off < 2e-4 && off < 1e-3 * moved);
        // Beside an adapter of the other kind, each with its weight.
        let (unmerged, formed) = (
            logits(vec![(kjv.clone(), 0.5), (bound.clone(), 0.75)], ids),
            logits(vec![(kjv.clone(), 0.5), (dense.clone(), 0.75)], ids),
        );
        assert!(largest(&unmerged, &formed) < 2e-4 && largest(&unmerged, &base) > 0.1);
    }
}
