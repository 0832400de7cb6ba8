//! Decoding allocates nothing, on any thread: every buffer is planned when the session is created.

mod common;
#[path = "common/counting.rs"]
mod counting;

use std::sync::Barrier;
use std::sync::atomic::Ordering;

use counting::{ALLOCATIONS, COUNTED};
use timbre::kernels::{KernelChoice, detected_tiers};
use timbre::model::{ActiveAdapters, KvType, Model, ModelOptions};
use timbre::session::{CancelHandle, GenerateOptions, SamplerOptions, Session, SessionOptions, SwapPolicy};

/// Allocations on the counted threads while `work` runs.
fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    work();
    ALLOCATIONS.load(Ordering::SeqCst) - before
}

const PROMPT: [u32; 12] = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 35, 28];
const DECODED: usize = 6;

#[test]
fn decoding_does_not_allocate() {
    for (file, adapters) in [(common::SMOLLM2, &["devil", "kjv", "devil-lora"][..]), (common::GEMMA3, &[][..])] {
        for tier in detected_tiers() {
            let options =
                ModelOptions { kernels: KernelChoice::Only(tier), threads: Some(3), ..ModelOptions::default() };
            let model = Model::open(common::model_path(file), &options).unwrap();
            // Tasks that wait for one another reach every thread.
            let all = Barrier::new(3);
            model.compute().pool().run(3, &|_| {
                all.wait();
                COUNTED.set(true);
            });
            let load = |name: &&str| model.load_adapter(common::fixture_path(&format!("adapters/{name}"))).unwrap();
            let active = ActiveAdapters::new(adapters.iter().map(|name| (load(name), 0.5)).collect()).unwrap();
            for kv in [KvType::F16, KvType::Q8_0] {
                let options = SessionOptions { context: Some(64), kv: Some(kv), ..SessionOptions::default() };
                let mut session = Session::new(model.clone(), &options).unwrap();
                session.set_adapters(active.clone(), SwapPolicy::Recompute).unwrap();
                let cancel = CancelHandle::default();
                let first = allocations(|| {
                    session.push(&PROMPT);
                    session.logits(&cancel).unwrap();
                });
                assert_eq!(first, 0, "{file} {tier} {kv}: the prompt and the first token");
                let decoded = allocations(|| {
                    for id in 0..DECODED as u32 {
                        session.push(&[1000 + id]);
                        session.logits(&cancel).unwrap();
                    }
                });
                assert_eq!(decoded, 0, "{file} {tier} {kv}");
                let swapped = allocations(|| {
                    session.set_adapters(ActiveAdapters::none(), SwapPolicy::Recompute).unwrap();
                    session.logits(&cancel).unwrap();
                });
                assert_eq!(swapped, 0, "{file} {tier} {kv}: a swap and the history again");
            }
        }
    }
    assert!(allocations(|| drop(std::hint::black_box(vec![1u8]))) > 0, "this thread is counted");
    a_reply_does_not_allocate_after_its_first_piece();
}

/// Called by the only test of this file, for the counter is one.
fn a_reply_does_not_allocate_after_its_first_piece() {
    let model = Model::open(common::model_path(common::SMOLLM2), &ModelOptions::default()).unwrap();
    let mut session = Session::new(model, &SessionOptions { context: Some(128), ..SessionOptions::default() }).unwrap();
    session.set_tokens(&PROMPT);
    let sampler = SamplerOptions { repeat_penalty: 1.1, ..SamplerOptions::default() };
    let stop = vec!["no reply says this".to_owned()];
    let options = GenerateOptions { max_tokens: 48, sampler, stop, stop_at_end_token: false };
    let mut generation = session.generate(options).unwrap();
    generation.next_piece().unwrap();
    let rest = allocations(|| while generation.next_piece().unwrap().is_some() {});
    assert_eq!(generation.ids().len(), 48);
    assert_eq!(rest, 0, "sampling, detokenising and streaming");
}
