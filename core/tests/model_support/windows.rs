//! A small model with a sliding window, and conversations longer than that.

use timbre::session::{CancelHandle, Session};

use super::{Tiny, VOCAB, Value};

pub const WINDOW: usize = 40;

/// Every second layer sees the last [`WINDOW`] positions.
pub fn windowed(context: usize) -> Tiny {
    let mut tiny = Tiny::gemma3();
    tiny.set("context_length", Value::U32(context as u32));
    tiny.set("attention.sliding_window", Value::U32(WINDOW as u32));
    tiny
}

pub fn tokens(n: usize) -> Vec<u32> {
    (0..n).map(|i| (i * i / 3 % (VOCAB - 3)) as u32 + 3).collect()
}

/// The logits after `tokens`, which become the history.
pub fn logits(session: &mut Session, tokens: &[u32]) -> Vec<f32> {
    session.set_tokens(tokens);
    session.logits(&CancelHandle::default()).unwrap().to_vec()
}

/// Takes back some and many of `n` tokens and goes another way on; `check` is given what was said then, after which tokens, and what to
/// call it.
pub fn take_back(long: &mut Session, n: usize, check: impl Fn(&[f32], &[u32], &str)) {
    let tokens = tokens(n);
    for back in [1, 100, 300, 500, n - 10, n] {
        logits(long, &tokens);
        let shared = n - back;
        let kept = long.set_tokens(&tokens[..shared]);
        if back <= 300 {
            assert_eq!(kept, shared, "{back} tokens are taken back for nothing");
        } else {
            assert_eq!(kept, 0, "what the window would see is gone {back} tokens back");
        }
        // Another way on, past where the ring was.
        let other = [&tokens[..shared], &tokens[300..350]].concat();
        check(&logits(long, &other), &other, &format!("{back} tokens back"));
    }
}
