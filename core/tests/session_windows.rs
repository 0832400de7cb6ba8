//! Conversations longer than a sliding window: what layers with one forget, and what taking tokens back costs then.

mod model_support;

use std::sync::Arc;

use model_support::{HEAD_DIM, KV_HEADS, LAYERS, Tiny, VOCAB, Value};
use timbre::kernels::Tier;
use timbre::model::{KvType, Model};
use timbre::session::{CancelHandle, Session, SessionOptions};

const CONTEXT: usize = 3000;
const WINDOW: usize = 40;

fn model() -> Arc<Model> {
    let mut tiny = Tiny::gemma3();
    tiny.set("context_length", Value::U32(CONTEXT as u32));
    tiny.set("attention.sliding_window", Value::U32(WINDOW as u32));
    tiny.open_on(Tier::Scalar).unwrap()
}

fn session(model: &Arc<Model>, batch: Option<usize>) -> Session {
    Session::new(model.clone(), &SessionOptions { batch, ..SessionOptions::default() }).unwrap()
}

fn tokens(n: usize) -> Vec<u32> {
    (0..n).map(|i| (i * i / 3 % (VOCAB - 3)) as u32 + 3).collect()
}

fn logits(session: &mut Session, tokens: &[u32]) -> Vec<f32> {
    session.set_tokens(tokens);
    session.logits(&CancelHandle::default()).unwrap().to_vec()
}

#[test]
fn only_the_layers_that_see_everything_keep_everything() {
    let model = model();
    let session = session(&model, None);
    let position = KV_HEADS * HEAD_DIM * 2 * size_of::<u16>();
    let (all, both) = (CONTEXT * position, session.kv_bytes());
    assert!(both > all && both < all + (WINDOW + 600) * position, "{both}, {LAYERS} layers of which one sees all");
    assert_eq!(model.estimate(None, KvType::F16).unwrap().kv_bytes, both);
}

#[test]
fn batches_of_any_size_and_single_tokens_agree_far_beyond_the_window() {
    let model = model();
    let tokens = tokens(2000);
    let expected = logits(&mut session(&model, None), &tokens);
    for batch in [1, 7, 500, CONTEXT] {
        assert_eq!(logits(&mut session(&model, Some(batch)), &tokens), expected, "batches of {batch}");
    }
    // No rows of one pass are further apart than the window keeps, whatever is asked for.
    let mut all = session(&model, Some(CONTEXT));
    all.set_tokens(&tokens);
    let mut last = Vec::new();
    all.logits_all(&mut |_, logits| last = logits.to_vec()).unwrap();
    assert_eq!(last, expected);
}

#[test]
fn tokens_are_taken_back_as_if_they_had_never_been() {
    let model = model();
    let tokens = tokens(2000);
    let mut long = session(&model, None);
    for back in [1, 100, 300, 500, 1990, 2000] {
        logits(&mut long, &tokens);
        let shared = tokens.len() - back;
        let kept = long.set_tokens(&tokens[..shared]);
        if back <= 300 {
            assert_eq!(kept, shared, "{back} tokens are taken back for nothing");
        } else {
            assert_eq!(kept, 0, "what the window would see is gone {back} tokens back");
        }
        // Another way on, past where the ring was.
        let other = [&tokens[..shared], &tokens[300..350]].concat();
        assert_eq!(logits(&mut long, &other), logits(&mut session(&model, None), &other), "{back} tokens back");
    }
}
