//! Conversations longer than a sliding window: what layers with one forget, and what taking tokens back costs then.

mod model_support;

use std::sync::Arc;

use model_support::windows::{WINDOW, logits, take_back, tokens, windowed};
use model_support::{HEAD_DIM, KV_HEADS, LAYERS};
use timbre::kernels::Tier;
use timbre::model::{KvType, Model};
use timbre::session::{Session, SessionOptions};

const CONTEXT: usize = 3000;

fn model() -> Arc<Model> {
    windowed(CONTEXT).open_on(Tier::Scalar).unwrap()
}

fn session(model: &Arc<Model>, batch: Option<usize>) -> Session {
    Session::new(model.clone(), &SessionOptions { batch, ..SessionOptions::default() }).unwrap()
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
    take_back(&mut session(&model, None), 2000, |got, tokens, label| {
        assert_eq!(got, logits(&mut session(&model, None), tokens), "{label}");
    });
}
