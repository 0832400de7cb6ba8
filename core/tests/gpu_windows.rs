//! Conversations longer than a sliding window on a GPU: what layers with one forget, and what taking tokens back costs then.

#![cfg(feature = "gpu")]

mod gpu_support;
mod model_support;

use std::sync::Arc;

use gpu_support::gpu;
use model_support::windows::{WINDOW, logits, take_back, tokens, windowed};
use model_support::{HEAD_DIM, KV_HEADS, LAYERS, VOCAB};
use timbre::model::{Backend, KvType, Model};
use timbre::session::{CancelHandle, Session, SessionOptions};

const CONTEXT: usize = 2000;
/// More than a layer with this window keeps.
const TOKENS: usize = 1100;

/// f32 sums in another order through two layers; logits are of order 1.
const TOLERANCE: f32 = 3e-5;
/// With keys and values rounded to f16 on one side.
const F16_TOLERANCE: f32 = 3e-3;

fn model() -> Arc<Model> {
    windowed(CONTEXT).open().unwrap()
}

fn session(model: &Arc<Model>, backend: Backend, kv: KvType) -> Session {
    let options = SessionOptions { backend, kv: Some(kv), ..SessionOptions::default() };
    Session::new(model.clone(), &options).unwrap()
}

fn all_logits(session: &mut Session, tokens: &[u32]) -> Vec<Vec<f32>> {
    session.set_tokens(tokens);
    let mut rows = Vec::new();
    session.logits_all(&mut |_, logits| rows.push(logits.to_vec())).unwrap();
    rows
}

fn close(got: &[f32], want: &[f32], tolerance: f32, label: &str) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= tolerance, "{label}: {got} for {want}");
    }
}

#[test]
fn only_the_layers_that_see_everything_keep_everything() {
    let Some(_) = gpu() else { return };
    let model = model();
    for (kv, bytes) in [(KvType::F32, 4), (KvType::F16, 2)] {
        let session = session(&model, Backend::Gpu, kv);
        let position = KV_HEADS * HEAD_DIM * 2 * bytes;
        let (all, both) = (CONTEXT * position, session.device_memory().unwrap().kv_bytes as usize);
        assert!(both > all && both < all + (WINDOW + 600) * position, "{both}, {LAYERS} layers of which one sees all");
        assert_eq!(both, session.kv_bytes(), "as much as on the CPU");
    }
}

#[test]
fn logits_are_the_cpus_far_beyond_the_window() {
    let Some(_) = gpu() else { return };
    let (model, tokens) = (model(), tokens(TOKENS));
    let want = all_logits(&mut session(&model, Backend::Cpu, KvType::F32), &tokens);
    for (kv, tolerance) in [(KvType::F32, TOLERANCE), (KvType::F16, F16_TOLERANCE)] {
        let mut on_gpu = session(&model, Backend::Gpu, kv);
        for (row, (got, want)) in all_logits(&mut on_gpu, &tokens).iter().zip(&want).enumerate() {
            close(got, want, tolerance, &format!("{kv}, position {row}"));
        }
        // Row by row, over the place where the ring begins anew.
        logits(&mut on_gpu, &tokens[..420]);
        for row in 420..500 {
            on_gpu.push(&tokens[row..=row]);
            let got = on_gpu.logits(&CancelHandle::default()).unwrap().to_vec();
            assert_eq!(on_gpu.cached(), row + 1);
            close(&got, &want[row], tolerance, &format!("{kv}, position {row}, one by one"));
        }
        assert_eq!(on_gpu.backend(), Backend::Gpu);
        assert!(on_gpu.fallback().is_none());
    }
}

#[test]
fn a_long_reply_is_the_cpus() {
    let Some(_) = gpu() else { return };
    let model = model();
    let reply = |backend| {
        let mut session = session(&model, backend, KvType::F32);
        session.push(&tokens(400));
        for _ in 0..200 {
            // But for the last three, which these models would repeat forever.
            let recent = session.tokens()[session.tokens().len() - 3..].to_vec();
            let logits = session.logits(&CancelHandle::default()).unwrap();
            let others = (0..VOCAB).filter(|token| !recent.contains(&(*token as u32)));
            let best = others.reduce(|a, b| if logits[b] > logits[a] { b } else { a }).unwrap();
            session.push(&[best as u32]);
        }
        assert_eq!(session.backend(), backend);
        session.tokens().to_vec()
    };
    assert_eq!(reply(Backend::Gpu), reply(Backend::Cpu));
}

#[test]
fn tokens_are_taken_back_as_if_they_had_never_been() {
    let Some(_) = gpu() else { return };
    let model = model();
    take_back(&mut session(&model, Backend::Gpu, KvType::F32), TOKENS, |got, tokens, label| {
        let want = logits(&mut session(&model, Backend::Cpu, KvType::F32), tokens);
        close(got, &want, TOLERANCE, label);
    });
}

#[test]
fn what_was_timed_and_not_kept_has_overwritten_no_window() {
    let Some(_) = gpu() else { return };
    let (model, tokens) = (model(), tokens(TOKENS));
    let want = all_logits(&mut session(&model, Backend::Cpu, KvType::F32), &tokens);
    let mut on_gpu = session(&model, Backend::Gpu, KvType::F32);
    logits(&mut on_gpu, &tokens[..600]);
    on_gpu.push(&tokens[600..]);
    on_gpu.device_times().unwrap();
    assert_eq!(on_gpu.set_tokens(&tokens[..600]), 600);
    on_gpu.push(&[tokens[600]]);
    let got = on_gpu.logits(&CancelHandle::default()).unwrap().to_vec();
    close(&got, &want[600], TOLERANCE, "after the timing");
    // The 384 rows that were timed count when tokens are taken back.
    assert_eq!(on_gpu.set_tokens(&tokens[..599]), 599);
    assert_eq!(on_gpu.set_tokens(&tokens[..570]), 0);
    close(&logits(&mut on_gpu, &tokens[..580]), &want[579], TOLERANCE, "from the beginning");
}
