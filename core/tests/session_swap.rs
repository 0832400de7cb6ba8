//! Swapping adapters inside a conversation: what is recomputed, what is kept, and what a running reply holds on to.

mod common;

use std::sync::Arc;

use timbre::kernels::{KernelChoice, Tier};
use timbre::model::{ActiveAdapters, BoundAdapter, KvType, MemoryEstimate, Model, ModelError, ModelOptions};
use timbre::session::{CancelHandle, Finish, GenerateOptions, Session, SessionError, SessionOptions, SwapPolicy};

fn model() -> Arc<Model> {
    Model::open(common::model_path(common::SMOLLM2), &ModelOptions::default()).unwrap()
}

fn adapter(model: &Model, name: &str) -> Arc<BoundAdapter> {
    model.load_adapter(common::fixture_path(&format!("adapters/{name}"))).unwrap()
}

fn session(model: &Arc<Model>) -> Session {
    Session::new(model.clone(), &SessionOptions { context: Some(256), ..SessionOptions::default() }).unwrap()
}

fn one(bound: &Arc<BoundAdapter>) -> ActiveAdapters {
    ActiveAdapters::new(vec![(bound.clone(), 1.0)]).unwrap()
}

fn logits(session: &mut Session) -> Vec<f32> {
    session.logits(&CancelHandle::default()).unwrap().to_vec()
}

const PROMPT: [u32; 12] = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 35, 28];

#[test]
fn a_swap_recomputes_the_history_unless_told_to_keep_it() {
    let model = model();
    let devil = adapter(&model, "devil");
    let mut fresh = session(&model);
    fresh.set_adapters(one(&devil), SwapPolicy::Recompute).unwrap();
    fresh.set_tokens(&PROMPT);
    let expected = logits(&mut fresh);

    let mut swapped = session(&model);
    swapped.set_tokens(&PROMPT);
    let base = logits(&mut swapped);
    assert_ne!(base, expected, "the adapter changes the logits");
    swapped.set_adapters(one(&devil), SwapPolicy::Recompute).unwrap();
    assert_eq!(swapped.cached(), 0, "nothing the base wrote is used");
    assert_eq!(logits(&mut swapped), expected);

    let mut kept = session(&model);
    kept.set_tokens(&PROMPT);
    logits(&mut kept);
    kept.set_adapters(one(&devil), SwapPolicy::Keep).unwrap();
    assert_eq!(kept.cached(), PROMPT.len());
    let mixed = logits(&mut kept);
    assert!(mixed != expected && mixed != base, "only the last token is seen through the new adapter");

    swapped.set_adapters(ActiveAdapters::none(), SwapPolicy::Recompute).unwrap();
    assert_eq!(logits(&mut swapped), base, "and back");
}

#[test]
fn the_same_adapters_again_are_no_swap() {
    let model = model();
    let devil = adapter(&model, "devil");
    let mut session = session(&model);
    session.set_adapters(one(&devil), SwapPolicy::Recompute).unwrap();
    session.set_tokens(&PROMPT);
    logits(&mut session);
    session.set_adapters(one(&devil), SwapPolicy::Recompute).unwrap();
    assert_eq!(session.cached(), PROMPT.len());
    let reloaded = adapter(&model, "devil");
    session.set_adapters(one(&reloaded), SwapPolicy::Recompute).unwrap();
    assert_eq!(session.cached(), 0, "another generation of the same file is another adapter");
}

#[test]
fn weights_scale_and_adapters_add() {
    let options =
        ModelOptions { kernels: KernelChoice::Only(Tier::Reference), threads: Some(2), ..ModelOptions::default() };
    let model = Model::open(common::model_path(common::SMOLLM2), &options).unwrap();
    let (devil, kjv) = (adapter(&model, "devil"), adapter(&model, "kjv"));
    let mut session = session(&model);
    let mut run = |list: Vec<(Arc<BoundAdapter>, f32)>| {
        session.set_adapters(ActiveAdapters::new(list).unwrap(), SwapPolicy::Recompute).unwrap();
        session.set_tokens(&PROMPT);
        logits(&mut session)
    };
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(x, y)| (x - y).abs() < 2e-3);
    let base = run(vec![]);
    assert!(close(&run(vec![(devil.clone(), 0.0)]), &base), "weight 0 is the base");
    let both = run(vec![(devil.clone(), 1.0), (kjv.clone(), 1.0)]);
    assert!(close(&run(vec![(kjv.clone(), 1.0), (devil.clone(), 1.0)]), &both), "order does not matter");
    let half_twice = run(vec![(devil.clone(), 0.5), (devil.clone(), 0.5)]);
    assert!(close(&half_twice, &run(vec![(devil, 1.0)])), "halves add up");
    assert!(!close(&both, &base));
}

#[test]
fn a_reply_can_be_cancelled_and_the_session_goes_on() {
    let model = model();
    let mut session = session(&model);
    session.set_tokens(&PROMPT);
    let options = GenerateOptions { max_tokens: 50, stop_at_end_token: false, ..GenerateOptions::default() };
    let mut generation = session.generate(options.clone()).unwrap();
    generation.next_piece().unwrap();
    let handle = generation.cancel_handle();
    std::thread::spawn(move || handle.cancel()).join().unwrap();
    generation.text().unwrap();
    assert_eq!(generation.finish(), Some(Finish::Cancelled));
    let ran = generation.ids().len();
    assert!(ran < 50);
    assert_eq!(session.tokens().len(), PROMPT.len() + ran);
    assert!(session.generate(options).unwrap().text().is_ok());
}

#[test]
fn a_full_context_ends_a_reply_and_refuses_a_prompt() {
    let model = model();
    let options = SessionOptions { context: Some(20), ..SessionOptions::default() };
    let mut session = Session::new(model, &options).unwrap();
    session.set_tokens(&PROMPT);
    let options = GenerateOptions { max_tokens: 50, stop_at_end_token: false, ..GenerateOptions::default() };
    let mut generation = session.generate(options).unwrap();
    generation.text().unwrap();
    assert_eq!(generation.finish(), Some(Finish::ContextFull));
    assert_eq!(generation.ids().len(), 20 - PROMPT.len() + 1);
    session.set_tokens(&[1; 21]);
    let error = session.logits(&CancelHandle::default()).unwrap_err();
    assert!(matches!(error, SessionError::Model(ModelError::ContextFull { capacity: 20, .. })), "{error}");
    session.set_tokens(&[1; 20]);
    assert!(session.logits(&CancelHandle::default()).is_ok());
}

#[test]
fn bad_tokens_and_empty_prompts_are_refused() {
    let model = model();
    let mut session = session(&model);
    assert!(matches!(session.logits(&CancelHandle::default()), Err(SessionError::EmptyPrompt)));
    session.set_tokens(&[49_152]);
    let error = session.logits(&CancelHandle::default()).unwrap_err();
    assert!(matches!(error, SessionError::Model(ModelError::Token { found: 49_152, vocab: 49_152 })), "{error}");
    assert!(matches!(session.perplexity(&[1]), Err(SessionError::TooShort { found: 1 })));
}

#[test]
fn batches_of_any_size_give_the_same_logits() {
    let options =
        ModelOptions { kernels: KernelChoice::Only(Tier::Reference), threads: Some(2), ..ModelOptions::default() };
    let model = Model::open(common::model_path(common::SMOLLM2), &options).unwrap();
    let run = |batch| {
        let options = SessionOptions { context: Some(64), batch: Some(batch), ..SessionOptions::default() };
        let mut session = Session::new(model.clone(), &options).unwrap();
        session.set_tokens(&PROMPT);
        logits(&mut session)
    };
    let whole = run(64);
    for batch in [1, 5, 8] {
        let parts = run(batch);
        let worst = whole.iter().zip(&parts).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst < 1e-3, "batches of {batch}: {worst}");
    }
}

#[test]
fn a_smaller_kv_cache_costs_little() {
    let model = model();
    let run = |kv| {
        let options = SessionOptions { context: Some(64), kv: Some(kv), ..SessionOptions::default() };
        let mut session = Session::new(model.clone(), &options).unwrap();
        session.set_tokens(&PROMPT);
        (logits(&mut session), session.kv_bytes())
    };
    use timbre::model::KvType::{F16, F32, Q8_0};
    let (exact, f32_bytes) = run(F32);
    let (f16, f16_bytes) = run(F16);
    let (q8, q8_bytes) = run(Q8_0);
    let worst = |a: &[f32]| a.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(worst(&f16) < 0.1 && worst(&q8) < 0.6, "{} {}", worst(&f16), worst(&q8));
    assert_eq!(f16_bytes * 2, f32_bytes);
    assert_eq!(q8_bytes * 64, f16_bytes * 34);
}

#[test]
fn memory_that_was_given_back_is_taken_again_and_nothing_is_forgotten() {
    let model = model();
    let mut session = session(&model);
    session.set_tokens(&PROMPT);
    let expected = logits(&mut session);
    // The last token again, as a batch of one row, which rounds otherwise.
    let again = logits(&mut session);
    let reserved = session.kv_bytes();
    session.trim(false);
    assert_eq!(
        (session.cached(), session.tokens()),
        (PROMPT.len(), &PROMPT[..]),
        "buffers hold nothing of the history"
    );
    assert_eq!(logits(&mut session), again);
    session.trim(true);
    session.trim(true);
    assert_eq!((session.cached(), session.tokens(), session.kv_bytes()), (0, &PROMPT[..], reserved));
    assert_eq!(logits(&mut session), expected);
    session.trim(true);
    session.clear();
    assert!(matches!(session.logits(&CancelHandle::default()), Err(SessionError::EmptyPrompt)));
    session.push(&PROMPT);
    assert_eq!(logits(&mut session), expected);
}

#[test]
fn the_estimate_is_what_a_session_reserves() {
    let path = common::model_path(common::SMOLLM2);
    let model = model();
    for (context, kv) in [(Some(100), KvType::F16), (Some(2048), KvType::Q8_0), (None, KvType::F32)] {
        let estimate = MemoryEstimate::of_file(&path, context, kv, Some(model.compute().threads())).unwrap();
        assert_eq!(estimate, model.estimate(context, kv).unwrap());
        let session =
            Session::new(model.clone(), &SessionOptions { context, kv: Some(kv), ..SessionOptions::default() })
                .unwrap();
        assert_eq!(estimate.kv_bytes, session.kv_bytes(), "{context:?} {kv}");
        assert_eq!(estimate.file_bytes, model.info().file_bytes);
        assert!(estimate.anon_bytes() > estimate.kv_bytes);
    }
    for context in [0, usize::MAX] {
        let error = model.estimate(Some(context), KvType::F16).unwrap_err();
        assert!(matches!(error, ModelError::ContextFull { .. }), "{error}");
    }
}
