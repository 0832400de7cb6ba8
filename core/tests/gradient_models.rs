//! Gradients of whole models with every feature their files may carry, against finite differences of the loss in f64; and what
//! must not change them.

#[path = "adapter_support/mod.rs"]
mod adapter_support;
mod model_support;

use std::cell::Cell;
use std::sync::Arc;

use adapter_support::{planned, shape};
use model_support::naive::{Changes, Numbers, changed_logits, frequencies};
use model_support::{HEAD_DIM, HEADS, HIDDEN, INNER, KV_HEADS, LAYERS, Tiny, VOCAB, Value, noise};
use timbre::adapter::{Adapter, FourierDelta, Module, RowOrder};
use timbre::gguf::{GgmlType, Gguf};
use timbre::kernels::{KernelChoice, Tier, detected_tiers};
use timbre::model::{
    ActiveAdapters, BoundAdapter, GradientOptions, GradientPass, LinearKind, Loss, Model, ModelError, ModelOptions,
    Sequence,
};
use timbre::spectral::naive;

const N: usize = 5;
const ALPHA: f64 = 300.0;
const SCALE: f32 = 0.125;
/// Of a gradient, relative to its largest component: gate and up are kept in f16 for the way back, everything else in f32.
const TOLERANCE: f64 = 3e-3;
/// The int8 tiers round the activations of the forward pass to 15 bits.
const FAST_TOLERANCE: f64 = 1e-2;
/// Between gradients that are the same but for the order of their sums, likewise.
const SAME: f32 = 1e-5;
/// The same where what adds up is rounded to bf16 first: a unit of its eight bits.
const ROUNDED: f32 = 4e-3;

fn plain_llama() -> Numbers {
    Numbers {
        eps: 1e-5,
        frequencies: vec![frequencies(HEAD_DIM, 10_000.0, 1.0); LAYERS],
        windows: vec![usize::MAX; LAYERS],
        score_cap: None,
        logit_cap: None,
    }
}

/// Layer 0 is local, layer 1 global.
fn plain_gemma3() -> Numbers {
    Numbers {
        frequencies: vec![frequencies(HEAD_DIM, 10_000.0, 1.0), frequencies(HEAD_DIM, 1_000_000.0, 1.0)],
        windows: vec![3, usize::MAX],
        ..plain_llama()
    }
}

fn with(mut tiny: Tiny, change: impl FnOnce(&mut Tiny)) -> Tiny {
    change(&mut tiny);
    tiny
}

fn all_linears() -> Vec<(usize, LinearKind)> {
    (0..LAYERS).flat_map(|layer| LinearKind::ALL.map(|kind| (layer, kind))).collect()
}

fn open(tiny: &Tiny, tier: Tier, threads: usize) -> Arc<Model> {
    let options = ModelOptions { kernels: KernelChoice::Only(tier), threads: Some(threads), ..ModelOptions::default() };
    Model::from_gguf(Gguf::from_bytes(&tiny.file.build()).unwrap(), &options).unwrap()
}

fn name(layer: usize, kind: LinearKind) -> String {
    format!("model.layers.{layer}.{}", kind.hf_name())
}

/// A FourierFT adapter with coefficients on these linears.
fn adapter(model: &Model, linears: &[(usize, LinearKind)]) -> Arc<BoundAdapter> {
    let modules: Vec<Module> = linears
        .iter()
        .map(|&(layer, kind)| {
            let name = name(layer, kind);
            let (rows, cols) = model.module_shape(&name).unwrap();
            let plan = model.plans().seeded(shape(rows, cols), N, 7).unwrap();
            planned(&name, plan, &noise(&name, N, 0.5), ALPHA)
        })
        .collect();
    model.bind(Arc::new(Adapter::new(modules).unwrap()), "tuned").unwrap()
}

/// Texts of different lengths, one of them with gaps between its targets and rows after the last.
fn texts() -> Vec<Sequence> {
    let of = |len: usize, salt: u32, target: fn(usize) -> bool| Sequence {
        tokens: (0..len as u32).map(|i| (i * i * 7 + salt * (i + 3)) % VOCAB as u32).collect(),
        targets: (0..len).map(target).collect(),
    };
    vec![of(19, 1, |i| i >= 5), of(7, 2, |_| true), of(11, 5, |i| i % 3 == 1 && i < 9), of(2, 3, |i| i == 1)]
}

fn pass(model: &Arc<Model>, memory_limit: Option<usize>, max_rows: usize) -> GradientPass {
    GradientPass::new(model.clone(), &GradientOptions { memory_limit, reserved: 0, max_rows }).unwrap()
}

fn gradient(pass: &mut GradientPass, bound: &Arc<BoundAdapter>, texts: &[Sequence]) -> (Loss, Vec<f32>) {
    let mut out = vec![0.0; bound.parameters()];
    let loss = pass.gradient(bound, &texts.iter().collect::<Vec<_>>(), SCALE, &mut out, &|| false).unwrap();
    (loss, out)
}

/// What the adapter adds to the file's matrices.
fn changes(tiny: &Tiny, bound: &BoundAdapter) -> Changes {
    let dense = |(module, delta): (&str, &Arc<dyn timbre::adapter::Delta>)| {
        let fourier: &FourierDelta = delta.as_fourier().unwrap();
        let (layer, kind) = all_linears().into_iter().find(|&(layer, kind)| name(layer, kind) == module).unwrap();
        let own = naive::delta(fourier.entries(), &fourier.coefficients(), ALPHA).unwrap();
        let heads = match kind {
            LinearKind::Q => HEADS,
            LinearKind::K => KV_HEADS,
            _ => 0,
        };
        let cols = delta.shape().cols();
        let mut in_file = own.clone();
        if tiny.architecture == "llama" && heads > 0 {
            let order = RowOrder::llama_rope(heads, HEAD_DIM).unwrap();
            for (row, &to) in own.chunks_exact(cols).zip(order.to_file()) {
                in_file[to as usize * cols..][..cols].copy_from_slice(row);
            }
        }
        (format!("blk.{layer}.{}.weight", kind.gguf_name()), in_file)
    };
    bound.adapter().modules().map(dense).collect()
}

fn exact_loss(tiny: &Tiny, numbers: &Numbers, bound: &BoundAdapter, texts: &[Sequence]) -> f64 {
    let changes = changes(tiny, bound);
    let of_text = |text: &Sequence| {
        let logits = changed_logits(tiny, &text.tokens, numbers, &changes);
        let of_target = |i: usize| {
            let sum: f64 = logits[i - 1].iter().map(|l| l.exp()).sum();
            sum.ln() - logits[i - 1][text.tokens[i] as usize]
        };
        (1..text.tokens.len()).filter(|&i| text.targets[i]).map(of_target).sum::<f64>()
    };
    texts.iter().map(of_text).sum()
}

/// Loss and gradient on every tier against f64, for an adapter on `linears`.
fn check(what: &str, tiny: &Tiny, numbers: &Numbers, linears: &[(usize, LinearKind)]) {
    const STEP: f32 = 1.0 / 4096.0;
    let texts = texts();
    let bound = adapter(&open(tiny, Tier::Reference, 1), linears);
    let mut parameters = vec![0.0; bound.parameters()];
    bound.read_parameters(&mut parameters);
    let loss = exact_loss(tiny, numbers, &bound, &texts);
    let mut expected = Vec::new();
    for i in 0..parameters.len() {
        let at = |step: f32| {
            let mut moved = parameters.clone();
            moved[i] += step;
            // The step as it came out in f32.
            let bound = bound.with_parameters(&moved).unwrap();
            (exact_loss(tiny, numbers, &bound, &texts), f64::from(moved[i]))
        };
        let ((above, high), (below, low)) = (at(STEP), at(-STEP));
        expected.push(f64::from(SCALE) * (above - below) / (high - low));
    }
    let largest = expected.iter().fold(0.0f64, |m, g| m.max(g.abs()));
    for tier in detected_tiers() {
        let model = open(tiny, tier, 2);
        let bound = adapter(&model, linears);
        let (got, gradient) = gradient(&mut pass(&model, None, 64), &bound, &texts);
        let tolerance = if tier == Tier::Reference { TOLERANCE } else { FAST_TOLERANCE };
        assert!((got.sum / loss - 1.0).abs() < tolerance, "{what}, {tier}: loss {} for {loss}", got.sum);
        for (i, (&got, want)) in gradient.iter().zip(&expected).enumerate() {
            let error = (f64::from(got) - want).abs() / largest;
            assert!(error < tolerance, "{what}, {tier}, parameter {i}: {got} for {want}, largest {largest}");
        }
    }
}

#[test]
fn llama() {
    check("plain", &Tiny::llama(), &plain_llama(), &all_linears());
    let tiny = with(Tiny::llama(), |t| {
        t.matrix("output.weight", GgmlType::F32, VOCAB, HIDDEN);
        t.set("attention.sliding_window", Value::U32(5));
        t.set("rope.dimension_count", Value::U32(6));
        biases(t);
    });
    let numbers =
        Numbers { windows: vec![5; LAYERS], frequencies: vec![frequencies(6, 10_000.0, 1.0); LAYERS], ..plain_llama() };
    check("window, part of a head turned, biases, a head of its own", &tiny, &numbers, &all_linears());
}

fn biases(tiny: &mut Tiny) {
    for layer in 0..LAYERS {
        for (name, len) in [("attn_q", 64), ("attn_k", 32), ("attn_v", 32), ("attn_output", HIDDEN)] {
            let name = format!("blk.{layer}.{name}.bias");
            tiny.vector(&name, &noise(&name, len, 0.5));
        }
        for (name, len) in [("ffn_gate", INNER), ("ffn_up", INNER), ("ffn_down", HIDDEN)] {
            let name = format!("blk.{layer}.{name}.bias");
            tiny.vector(&name, &noise(&name, len, 0.5));
        }
    }
}

#[test]
fn gemma3() {
    check("plain", &Tiny::gemma3(), &plain_gemma3(), &all_linears());
    let tiny = with(Tiny::gemma3(), |t| {
        t.set("attn_logit_softcapping", Value::F32(0.5));
        t.set("final_logit_softcapping", Value::F32(0.75));
        t.remove("blk.1.attn_q_norm.weight");
        t.remove("blk.0.attn_k_norm.weight");
    });
    let numbers = Numbers { score_cap: Some(0.5), logit_cap: Some(0.75), ..plain_gemma3() };
    check("soft caps, and norms on q and k here and there", &tiny, &numbers, &all_linears());
}

#[test]
fn the_way_back_ends_at_the_lowest_change() {
    use LinearKind::{Down, Gate, K, O, Q, Up, V};
    for linears in [
        vec![(0, Q), (0, V), (1, Q), (1, V)],
        vec![(1, K), (1, V)],
        vec![(1, O)],
        vec![(0, Gate), (1, V)],
        vec![(1, Up), (1, Down)],
        vec![(0, Down)],
        vec![(1, Down)],
    ] {
        check(&format!("llama {linears:?}"), &Tiny::llama(), &plain_llama(), &linears);
        check(&format!("gemma3 {linears:?}"), &Tiny::gemma3(), &plain_gemma3(), &linears);
    }
}

#[test]
fn computing_a_layer_twice_changes_no_bit() {
    for tiny in Tiny::both() {
        for tier in detected_tiers() {
            let model = open(&tiny, tier, 2);
            let bound = adapter(&model, &all_linears());
            let all = gradient(&mut pass(&model, None, 64), &bound, &texts());
            let ModelError::TuneMemory { needed, limit: 0 } =
                GradientPass::new(model.clone(), &GradientOptions { memory_limit: Some(0), reserved: 0, max_rows: 64 })
                    .unwrap_err()
            else {
                panic!("no memory is not enough")
            };
            let one_short = GradientOptions { memory_limit: Some(needed - 1), reserved: 0, max_rows: 64 };
            assert!(matches!(GradientPass::new(model.clone(), &one_short), Err(ModelError::TuneMemory { .. })));
            let mut least = pass(&model, Some(needed), 64);
            assert!(least.planned_bytes() <= needed && least.planned_bytes() < pass(&model, None, 64).planned_bytes());
            assert_eq!(gradient(&mut least, &bound, &texts()), all, "{} on {tier}", tiny.architecture);
        }
    }
}

#[test]
fn threads_change_no_bit() {
    for tiny in Tiny::both() {
        for tier in detected_tiers() {
            let run = |threads| {
                let model = open(&tiny, tier, threads);
                gradient(&mut pass(&model, None, 64), &adapter(&model, &all_linears()), &texts())
            };
            let one = run(1);
            assert!(run(2) == one && run(5) == one, "{} on {tier}", tiny.architecture);
        }
    }
}

#[test]
fn sequences_run_together_are_as_each_alone() {
    for tiny in Tiny::both() {
        let model = open(&tiny, Tier::Reference, 2);
        let bound = adapter(&model, &all_linears());
        let (loss, together) = gradient(&mut pass(&model, None, 64), &bound, &texts());
        // Room for the longest alone, and for pairs.
        for max_rows in [19, 24] {
            let (parts_loss, parts) = gradient(&mut pass(&model, None, max_rows), &bound, &texts());
            close((loss, &together), (parts_loss, &parts), SAME);
        }
        let mut pass = pass(&model, None, 64);
        let mut sum = vec![0.0; bound.parameters()];
        let mut alone = Loss::default();
        for text in texts() {
            let own = pass.gradient(&bound, &[&text], SCALE, &mut sum, &|| false).unwrap();
            (alone.sum, alone.targets) = (alone.sum + own.sum, alone.targets + own.targets);
        }
        close((loss, &together), (alone, &sum), SAME);
        let active = ActiveAdapters::new(vec![(bound, 1.0)]).unwrap();
        let forward = pass.loss(&active, &texts().iter().collect::<Vec<_>>(), &|| false).unwrap();
        assert_eq!(forward, loss, "forward only");
    }
}

#[test]
fn what_sequences_share_is_computed_once_for_the_same_gradient() {
    let of = |begin: usize, len: usize, salt: u32, from: usize| {
        let token = |i: usize| (if i < begin { i * 5 } else { i * i * 7 + salt as usize * (i + 3) } % VOCAB) as u32;
        Sequence { tokens: (0..len).map(token).collect(), targets: (0..len).map(|i| i >= from).collect() }
    };
    for begin in [9, 20] {
        // One predicts tokens that are shared, one is the shared tokens and hardly more.
        let texts =
            [of(begin, 31, 1, begin), of(begin, 27, 2, 4), of(begin, begin + 2, 3, begin), of(begin, 50, 5, begin + 3)];
        for tiny in Tiny::both() {
            for tier in detected_tiers() {
                let model = open(&tiny, tier, 2);
                let bound = adapter(&model, &all_linears());
                let mut together = pass(&model, None, 64);
                // More rows than would fit were they not shared.
                let (loss, gradients) = gradient(&mut together, &bound, &texts);
                let mut sum = vec![0.0; bound.parameters()];
                let mut alone = Loss::default();
                for text in &texts {
                    let own = together.gradient(&bound, &[text], SCALE, &mut sum, &|| false).unwrap();
                    (alone.sum, alone.targets) = (alone.sum + own.sum, alone.targets + own.targets);
                }
                // Gradients that add up before they are rounded, and after.
                let tolerance = if model.compute().rounds_gradients() { ROUNDED } else { SAME };
                close((loss, &gradients), (alone, &sum), tolerance);
            }
            let run = |threads| {
                let model = open(&tiny, Tier::Reference, threads);
                gradient(&mut pass(&model, None, 64), &adapter(&model, &all_linears()), &texts)
            };
            assert!(run(1) == run(3), "threads change nothing");
        }
    }
}

fn close((loss, gradient): (Loss, &[f32]), (other_loss, other): (Loss, &[f32]), tolerance: f32) {
    assert_eq!(loss.targets, other_loss.targets);
    assert!((loss.sum / other_loss.sum - 1.0).abs() < 1e-6, "{} and {}", loss.sum, other_loss.sum);
    let largest = gradient.iter().fold(0f32, |m, g| m.max(g.abs()));
    for (a, b) in gradient.iter().zip(other) {
        assert!((a - b).abs() < tolerance * largest, "{a} and {b}, largest {largest}");
    }
}

#[test]
fn scales_are_factors_and_gradients_add_up() {
    let model = open(&Tiny::llama(), Tier::Reference, 2);
    let bound = adapter(&model, &all_linears());
    let mut pass = pass(&model, None, 64);
    let (_, once) = gradient(&mut pass, &bound, &texts());
    let mut sum = once.clone();
    let texts = texts();
    pass.gradient(&bound, &texts.iter().collect::<Vec<_>>(), 2.0 * SCALE, &mut sum, &|| false).unwrap();
    let largest = once.iter().fold(0f32, |m, g| m.max(g.abs()));
    for (sum, once) in sum.iter().zip(&once) {
        assert!((sum - 3.0 * once).abs() < 1e-5 * largest, "{sum} for three times {once}");
    }
}

#[test]
fn what_cannot_be_run_is_refused() {
    let model = open(&Tiny::llama(), Tier::Reference, 2);
    let bound = adapter(&model, &[(0, LinearKind::V)]);
    let mut pass = pass(&model, None, 16);
    let mut run = |sequence: &Sequence, parameters: usize, cancel: &dyn Fn() -> bool| {
        pass.gradient(&bound, &[sequence], 1.0, &mut vec![0.0; parameters], cancel)
    };
    let of = |tokens: Vec<u32>, targets: usize| Sequence { tokens, targets: vec![true; targets] };
    let never = || false;
    let error = run(&of(vec![1; 17], 17), N, &never).unwrap_err();
    assert!(matches!(error, ModelError::SequenceLength { found: 17, max: 16 }), "{error}");
    let error = run(&of(vec![1; 4], 3), N, &never).unwrap_err();
    assert!(matches!(error, ModelError::SequenceTargets { tokens: 4, targets: 3 }), "{error}");
    let error = run(&of(vec![1, VOCAB as u32], 2), N, &never).unwrap_err();
    assert!(matches!(error, ModelError::Token { .. }), "{error}");
    let error = run(&of(vec![1; 4], 4), N + 1, &never).unwrap_err();
    assert!(matches!(error, ModelError::Parameters { expected: N, found, .. } if found == N + 1), "{error}");
    // Asked before every layer on the way there and back, and before the head.
    for steps in [0, 1, LAYERS + 1] {
        let asked = Cell::new(0);
        let cancel = || asked.replace(asked.get() + 1) >= steps;
        assert!(matches!(run(&of(vec![1; 4], 4), N, &cancel), Err(ModelError::Cancelled)), "after {steps}");
        assert_eq!(asked.get(), steps + 1);
    }
    let nothing = run(&Sequence::default(), N, &never).unwrap();
    assert_eq!(nothing, Loss { sum: 0.0, targets: 0 });
    let nothing = run(&Sequence { tokens: vec![1, 2], targets: vec![true, false] }, N, &never).unwrap();
    assert_eq!(nothing.targets, 0, "the first token is predicted by nothing");

    let foreign = adapter(&open(&Tiny::gemma3(), Tier::Reference, 1), &[(0, LinearKind::V)]);
    let text = of(vec![1; 4], 4);
    let error = pass.gradient(&foreign, &[&text], 1.0, &mut [0.0; N], &never).unwrap_err();
    assert!(matches!(&error, ModelError::ForeignAdapter { adapter } if adapter == "tuned"), "{error}");
    let error = bound.with_parameters(&[0.0; N + 1]).unwrap_err();
    assert!(matches!(error, ModelError::Parameters { expected: N, .. }), "{error}");
    let huge = bound.with_parameters(&[f32::MAX; N]).unwrap();
    let error = pass.gradient(&huge, &[&text], 1.0, &mut [0.0; N], &never).unwrap_err();
    assert!(matches!(error, ModelError::NonFinite { .. }), "{error}");
}
