//! The whole forward pass on the GPU against the CPU's reference kernels, on tiny models of both architectures and every storage
//! type; and what a session does when the device is taken away.

#![cfg(feature = "gpu")]

mod gpu_support;
mod model_support;

use std::sync::Arc;

use gpu_support::{both, gpu};
use model_support::{HEADS, KV_HEADS, LAYERS, Tiny, VOCAB, Value, noise};
use timbre::gguf::GgmlType;
use timbre::gpu::{GpuChoice, GpuError};
use timbre::model::gpu::{GpuModel, GpuPass, GpuState, Suspension};
use timbre::model::{ActiveAdapters, Backend, KvType, Model, ModelError, Wanted};
use timbre::session::{CancelHandle, Session, SessionError, SessionOptions};

/// f32 sums in another order through two layers; logits are of order 1.
const TOLERANCE: f32 = 3e-5;
/// With keys and values rounded to f16 on one side.
const F16_TOLERANCE: f32 = 3e-3;

/// Wide enough for a block of any type.
const HIDDEN: usize = 256;
const INNER: usize = 512;
const HEAD: usize = 64;

/// `tiny` with every matrix stored as `ty`.
fn uniform(mut tiny: Tiny, ty: GgmlType) -> Tiny {
    tiny.set("embedding_length", Value::U32(HIDDEN as u32));
    tiny.set("feed_forward_length", Value::U32(INNER as u32));
    // The inputs of the output product are whole blocks too.
    let (q, kv) = (HEADS * HEAD, KV_HEADS * HEAD);
    tiny.set("attention.key_length", Value::U32(HEAD as u32));
    if tiny.architecture == "gemma3" {
        tiny.set("attention.value_length", Value::U32(HEAD as u32));
    } else {
        // A quarter of a head is rotated, and the head is not tied.
        tiny.set("rope.dimension_count", Value::U32(HEAD as u32 / 4));
        tiny.matrix("output.weight", ty, VOCAB, HIDDEN);
    }
    tiny.matrix("token_embd.weight", ty, VOCAB, HIDDEN);
    for layer in 0..LAYERS {
        let name = |tensor: &str| format!("blk.{layer}.{tensor}.weight");
        for (tensor, rows, cols) in [
            ("attn_q", q, HIDDEN),
            ("attn_k", kv, HIDDEN),
            ("attn_v", kv, HIDDEN),
            ("attn_output", HIDDEN, q),
            ("ffn_gate", INNER, HIDDEN),
            ("ffn_up", INNER, HIDDEN),
            ("ffn_down", HIDDEN, INNER),
        ] {
            tiny.matrix(&name(tensor), ty, rows, cols);
        }
        for tensor in ["attn_norm", "ffn_norm"] {
            tiny.norm(&name(tensor), HIDDEN);
        }
        if tiny.architecture == "gemma3" {
            for tensor in ["post_attention_norm", "post_ffw_norm"] {
                tiny.norm(&name(tensor), HIDDEN);
            }
            for tensor in ["attn_q_norm", "attn_k_norm"] {
                tiny.norm(&name(tensor), HEAD);
            }
        } else {
            tiny.vector(&format!("blk.{layer}.attn_q.bias"), &noise("q bias", q, 0.2));
            tiny.vector(&format!("blk.{layer}.ffn_down.bias"), &noise("down bias", HIDDEN, 0.2));
        }
    }
    tiny.norm("output_norm.weight", HIDDEN);
    tiny
}

fn text() -> Vec<u32> {
    (0..40u32).map(|i| i * i * 7 % VOCAB as u32).collect()
}

fn session(model: &Arc<Model>, backend: Backend, kv: KvType, batch: usize) -> Session {
    let options = SessionOptions { backend, kv: Some(kv), batch: Some(batch), ..SessionOptions::default() };
    Session::new(model.clone(), &options).unwrap()
}

fn all_logits(session: &mut Session, tokens: &[u32]) -> Vec<Vec<f32>> {
    session.set_tokens(tokens);
    let mut rows = Vec::new();
    session
        .logits_all(&mut |row, logits| {
            assert_eq!(row, rows.len());
            rows.push(logits.to_vec());
        })
        .unwrap();
    rows
}

fn close(got: &[Vec<f32>], want: &[Vec<f32>], tolerance: f32, label: &str) {
    assert_eq!(got.len(), want.len());
    for (row, (got, want)) in got.iter().zip(want).enumerate() {
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= tolerance, "{label}, position {row}: {got} for {want}");
        }
    }
}

#[test]
fn logits_of_every_storage_type_are_the_cpus() {
    let Some(_) = gpu() else { return };
    let tokens = text();
    for (i, ty) in GgmlType::ALL.into_iter().enumerate() {
        // One architecture a type; a mixture of types runs on both elsewhere.
        for tiny in Tiny::both().into_iter().skip(i % 2).take(1) {
            let label = format!("{}, {ty}", tiny.architecture);
            let model = uniform(tiny, ty).open().unwrap();
            let want = all_logits(&mut session(&model, Backend::Cpu, KvType::F32, 64), &tokens);
            let mut on_gpu = session(&model, Backend::Gpu, KvType::F32, 17);
            close(&all_logits(&mut on_gpu, &tokens), &want, TOLERANCE, &label);
            assert_eq!(on_gpu.backend(), Backend::Gpu);
            assert!(on_gpu.fallback().is_none());
        }
    }
}

/// Devices that have none of the optional features run other kernels.
#[test]
fn logits_are_the_cpus_without_the_optional_features() {
    let tokens = text();
    for tiny in Tiny::both() {
        let architecture = tiny.architecture;
        let model = uniform(tiny, GgmlType::Q4K).open().unwrap();
        let want = all_logits(&mut session(&model, Backend::Cpu, KvType::F32, 64), &tokens);
        for gpu in both() {
            let (gguf, decoder) = (model.gguf(), model.decoder());
            let weights = GpuModel::upload(&gpu, gguf, decoder, Arc::new(Suspension::default())).unwrap();
            let mut state = GpuState::new(Arc::new(weights), decoder, KvType::F32, 64, 17).unwrap();
            let (adapters, mut logits) = (ActiveAdapters::none(), vec![0.0; VOCAB]);
            let mut pass = GpuPass { gguf, decoder, adapters: &adapters, logits: &mut logits };
            let (prompt, rest) = tokens.split_at(30);
            let mut rows = Vec::new();
            state.forward(&mut pass, prompt, Wanted::All(&mut |_, logits| rows.push(logits.to_vec()))).unwrap();
            for token in rest {
                state.forward(&mut pass, &[*token], Wanted::Last).unwrap();
                rows.push(pass.logits.to_vec());
            }
            close(&rows, &want, TOLERANCE, &format!("{architecture}, subgroups of {:?}", gpu.info().subgroup));
        }
    }
}

#[test]
fn a_token_at_a_time_and_f16_caches_too() {
    let Some(_) = gpu() else { return };
    let tokens = text();
    for tiny in Tiny::both() {
        let label = tiny.architecture;
        let model = tiny.open().unwrap();
        let want = all_logits(&mut session(&model, Backend::Cpu, KvType::F32, 64), &tokens);
        for (kv, tolerance) in [(KvType::F32, TOLERANCE), (KvType::F16, F16_TOLERANCE)] {
            let mut on_gpu = session(&model, Backend::Gpu, kv, 64);
            let mut got = Vec::new();
            for &token in &tokens {
                on_gpu.push(&[token]);
                got.push(on_gpu.logits(&CancelHandle::default()).unwrap().to_vec());
                assert_eq!(on_gpu.cached(), got.len());
            }
            close(&got, &want, tolerance, &format!("{label}, {kv}, one by one"));
            // A prefix is kept, the rest is run in one batch.
            assert_eq!(on_gpu.set_tokens(&tokens[..10]), 10);
            on_gpu.push(&tokens[10..]);
            let last = on_gpu.logits(&CancelHandle::default()).unwrap().to_vec();
            close(&[last], &want[tokens.len() - 1..], tolerance, &format!("{label}, {kv}, from a prefix"));
        }
    }
}

#[test]
fn what_a_gpu_cannot_run_is_refused_or_left_to_the_cpu() {
    let Some(_) = gpu() else { return };
    let model = uniform(Tiny::llama(), GgmlType::Q8_0).open().unwrap();
    let open = |backend, kv, gpu: Option<&str>| {
        let options =
            SessionOptions { backend, kv: Some(kv), gpu: gpu.map(str::to_owned), ..SessionOptions::default() };
        Session::new(model.clone(), &options)
    };
    let refused = open(Backend::Gpu, KvType::Q8_0, None).err().unwrap();
    assert!(matches!(refused, SessionError::Model(ModelError::GpuKv { kv: "q8_0" })), "{refused}");
    let refused = open(Backend::Gpu, KvType::F16, Some("no such device")).err().unwrap();
    assert!(matches!(refused, SessionError::Model(ModelError::Gpu(GpuError::NoAdapter { .. }))), "{refused}");
    let mut auto = open(Backend::Auto, KvType::F16, Some("no such device")).unwrap();
    assert!(matches!(auto.fallback(), Some(ModelError::Gpu(GpuError::NoAdapter { .. }))));
    auto.set_tokens(&text());
    auto.logits(&CancelHandle::default()).unwrap();
    assert_eq!(auto.backend(), Backend::Cpu);
    // A width that rows of four do not fill.
    let mut odd = Tiny::llama();
    odd.set("feed_forward_length", Value::U32(62));
    for layer in 0..LAYERS {
        for (tensor, rows, cols) in [("ffn_gate", 62, 32), ("ffn_up", 62, 32), ("ffn_down", 32, 62)] {
            odd.matrix(&format!("blk.{layer}.{tensor}.weight"), GgmlType::F32, rows, cols);
        }
    }
    let options = SessionOptions { backend: Backend::Gpu, ..SessionOptions::default() };
    let refused = Session::new(odd.open().unwrap(), &options).err().unwrap();
    assert!(matches!(refused, SessionError::Model(ModelError::Gpu(GpuError::Limit { .. }))), "{refused}");
}

/// The likeliest tokens after a prompt, but for the last three, which these models would repeat forever; `between` is called before
/// each token.
fn greedy(session: &mut Session, prompt: &[u32], n: usize, mut between: impl FnMut(usize)) -> Vec<u32> {
    session.set_tokens(prompt);
    for i in 0..n {
        between(i);
        let recent = session.tokens()[session.tokens().len() - 3..].to_vec();
        let logits = session.logits(&CancelHandle::default()).unwrap();
        let others = (0..VOCAB).filter(|token| !recent.contains(&(*token as u32)));
        let best = others.reduce(|a, b| if logits[b] > logits[a] { b } else { a }).unwrap();
        session.push(&[best as u32]);
    }
    session.tokens()[prompt.len()..].to_vec()
}

#[test]
fn a_device_lost_in_the_middle_of_a_reply_changes_nothing_of_it() {
    let Some(_) = gpu() else { return };
    for tiny in Tiny::both() {
        let model = tiny.open().unwrap();
        let prompt = text()[..9].to_vec();
        let whole = greedy(&mut session(&model, Backend::Gpu, KvType::F32, 64), &prompt, 20, |_| {});
        assert_eq!(whole.len(), 20);
        let mut interrupted = session(&model, Backend::Gpu, KvType::F32, 64);
        let device = model.on_gpu(&GpuChoice::Auto).unwrap().gpu().clone();
        let got = greedy(&mut interrupted, &prompt, 20, |i| {
            if i == 7 {
                device.destroy();
            }
        });
        assert_eq!(got, whole);
        assert_eq!(interrupted.backend(), Backend::Cpu);
        assert!(matches!(interrupted.fallback(), Some(ModelError::Gpu(GpuError::DeviceLost { .. }))));
        assert_eq!(interrupted.device_memory(), None);
        // Before the first token, and in the middle of scoring.
        let mut late = session(&model, Backend::Gpu, KvType::F32, 8);
        late.set_tokens(&text());
        let device = model.on_gpu(&GpuChoice::Auto).unwrap().gpu().clone();
        let want = all_logits(&mut session(&model, Backend::Cpu, KvType::F32, 64), &text());
        let mut rows = Vec::new();
        late.logits_all(&mut |row, logits| {
            assert_eq!(row, rows.len(), "no row comes twice");
            rows.push(logits.to_vec());
            if row == 11 {
                device.destroy();
            }
        })
        .unwrap();
        close(&rows, &want, TOLERANCE, "scored on two backends");
        assert_eq!(late.backend(), Backend::Cpu);
        // A new session gets a new device.
        let mut fresh = session(&model, Backend::Gpu, KvType::F32, 64);
        assert_eq!(greedy(&mut fresh, &prompt, 20, |_| {}), whole);
        assert_eq!(fresh.backend(), Backend::Gpu);
    }
}

#[test]
fn a_device_without_memory_is_an_error_before_anything_runs() {
    let Some(_) = gpu() else { return };
    let model = uniform(Tiny::llama(), GgmlType::F16).open().unwrap();
    let weights = model.on_gpu(&GpuChoice::Auto).unwrap();
    let held = weights.gpu().allocated_bytes();
    weights.gpu().set_budget(held + 4096);
    let options = SessionOptions { backend: Backend::Gpu, ..SessionOptions::default() };
    let refused = Session::new(model.clone(), &options).err().unwrap();
    assert!(matches!(refused, SessionError::Model(ModelError::Gpu(GpuError::OutOfMemory { .. }))), "{refused}");
    assert_eq!(weights.gpu().allocated_bytes(), held, "nothing is left behind");
    weights.gpu().set_budget(0);
    let session = Session::new(model, &options).unwrap();
    let memory = session.device_memory().unwrap();
    assert_eq!(memory.weights_bytes, weights.bytes());
    assert_eq!(memory.kv_bytes + memory.scratch_bytes, weights.gpu().allocated_bytes() - held);
}

#[test]
fn in_the_background_nothing_is_submitted_and_the_reply_goes_on() {
    let Some(_) = gpu() else { return };
    let model = Tiny::gemma3().open().unwrap();
    let prompt = text()[..9].to_vec();
    let whole = greedy(&mut session(&model, Backend::Gpu, KvType::F32, 64), &prompt, 24, |_| {});
    let mut moved = session(&model, Backend::Gpu, KvType::F32, 64);
    let other = model.clone();
    let got = greedy(&mut moved, &prompt, 24, |i| match i {
        6 => std::thread::scope(|scope| scope.spawn(|| other.suspend_gpu()).join().unwrap()),
        14 => other.resume_gpu(),
        _ => {}
    });
    assert_eq!(got, whole);
    assert_eq!(moved.backend(), Backend::Gpu, "it went back");
    model.suspend_gpu();
    moved.push(&[3]);
    moved.logits(&CancelHandle::default()).unwrap();
    assert_eq!(moved.backend(), Backend::Cpu);
    let options = SessionOptions { backend: Backend::Gpu, ..SessionOptions::default() };
    let refused = Session::new(model.clone(), &options).err().unwrap();
    assert!(matches!(refused, SessionError::Model(ModelError::GpuSuspended)), "{refused}");
    model.resume_gpu();
    moved.push(&[4]);
    moved.logits(&CancelHandle::default()).unwrap();
    assert_eq!(moved.backend(), Backend::Gpu);
}
