//! Each architecture, with every feature its files may carry, against the formulas in f64.

mod model_support;

use model_support::naive::{self, Numbers, frequencies};
use model_support::{HEAD_DIM, HIDDEN, INNER, LAYERS, Tiny, VOCAB, Value, noise};
use timbre::gguf::GgmlType;
use timbre::kernels::detected_tiers;
use timbre::model::KvType;
use timbre::session::{CancelHandle, GenerateOptions, Session, SessionOptions};

/// f32 sums through two layers; logits are of order 1.
const TOLERANCE: f64 = 2e-5;
/// The int8 tiers round activations to 15 bits.
const FAST_TOLERANCE: f64 = 2e-3;

/// Long enough to pass a window of 3 and a tile of 32 positions.
fn text() -> Vec<u32> {
    (0..40u32).map(|i| i * i * 7 % VOCAB as u32).collect()
}

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

/// Compares all logits, on every tier, in one batch, in batches of 7 and token by token.
fn check(what: &str, tiny: &Tiny, numbers: &Numbers) {
    let tokens = text();
    let expected = naive::logits(tiny, &tokens, numbers);
    let close = |row: usize, logits: &[f32], tolerance: f64, how: &str| {
        assert_eq!(logits.len(), expected[row].len());
        for (got, want) in logits.iter().zip(&expected[row]) {
            let error = (f64::from(*got) - want).abs();
            assert!(error < tolerance, "{what}, {how}, position {row}: {got} for {want}");
        }
    };
    for tier in detected_tiers() {
        let model = tiny.open_on(tier).unwrap();
        let tolerance = if tier.to_string() == "reference" { TOLERANCE } else { FAST_TOLERANCE };
        for batch in [7, 64] {
            let options = SessionOptions { batch: Some(batch), kv: Some(KvType::F32), ..SessionOptions::default() };
            let mut session = Session::new(model.clone(), &options).unwrap();
            session.set_tokens(&tokens);
            let how = format!("{tier}, batches of {batch}");
            let mut rows = 0;
            session
                .logits_all(&mut |row, logits| {
                    close(row, logits, tolerance, &how);
                    rows += 1;
                })
                .unwrap();
            assert_eq!(rows, tokens.len());
            // Of all rows but the last of a prompt the last layer has keys and values only: the rest of the text reads them.
            let mut session = Session::new(model.clone(), &options).unwrap();
            for end in [tokens.len() / 2, tokens.len()] {
                session.set_tokens(&tokens[..end]);
                let how = format!("{tier}, the last of {end} in batches of {batch}");
                close(end - 1, session.logits(&CancelHandle::default()).unwrap(), tolerance, &how);
            }
        }
        let options = SessionOptions { kv: Some(KvType::F32), ..SessionOptions::default() };
        let mut session = Session::new(model, &options).unwrap();
        for (row, &token) in tokens.iter().enumerate() {
            session.push(&[token]);
            close(row, session.logits(&CancelHandle::default()).unwrap(), tolerance, &format!("{tier}, one by one"));
        }
    }
}

fn with(mut tiny: Tiny, change: impl FnOnce(&mut Tiny)) -> Tiny {
    change(&mut tiny);
    tiny
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
fn llama() {
    check("plain", &Tiny::llama(), &plain_llama());
    let untied = with(Tiny::llama(), |t| t.matrix("output.weight", GgmlType::F32, VOCAB, HIDDEN));
    check("untied head", &untied, &plain_llama());
    check("biases", &with(Tiny::llama(), biases), &plain_llama());
    let windowed = with(Tiny::llama(), |t| t.set("attention.sliding_window", Value::U32(5)));
    check("sliding window", &windowed, &Numbers { windows: vec![5; LAYERS], ..plain_llama() });
}

#[test]
fn llama_rotary_variants() {
    let based = with(Tiny::llama(), |t| t.set("rope.freq_base", Value::F32(500.0)));
    let numbers = |f: Vec<f64>| Numbers { frequencies: vec![f; LAYERS], ..plain_llama() };
    check("base", &based, &numbers(frequencies(HEAD_DIM, 500.0, 1.0)));
    let scaled = with(Tiny::llama(), |t| {
        t.set("rope.scaling.type", Value::str("linear"));
        t.set("rope.scaling.factor", Value::F32(4.0));
    });
    check("linear scaling", &scaled, &numbers(frequencies(HEAD_DIM, 10_000.0, 4.0)));
    let factors: Vec<f32> = (0..HEAD_DIM / 2).map(|i| 1.0 + i as f32).collect();
    let factored = with(Tiny::llama(), |t| t.vector("rope_freqs.weight", &factors));
    let divided = frequencies(HEAD_DIM, 10_000.0, 1.0).iter().zip(&factors).map(|(f, d)| f / f64::from(*d)).collect();
    check("factors", &factored, &numbers(divided));
    let partial = with(Tiny::llama(), |t| t.set("rope.dimension_count", Value::U32(6)));
    check("part of a head", &partial, &numbers(frequencies(6, 10_000.0, 1.0)));
}

#[test]
fn gemma3() {
    check("plain", &Tiny::gemma3(), &plain_gemma3());
    let untied = with(Tiny::gemma3(), |t| t.matrix("output.weight", GgmlType::Q8_0, VOCAB, HIDDEN));
    check("untied head", &untied, &plain_gemma3());
    check("biases", &with(Tiny::gemma3(), biases), &plain_gemma3());
    let bare = with(Tiny::gemma3(), |t| {
        for layer in 0..LAYERS {
            t.remove(&format!("blk.{layer}.attn_q_norm.weight"));
            t.remove(&format!("blk.{layer}.attn_k_norm.weight"));
        }
    });
    check("no norms on q and k", &bare, &plain_gemma3());
    let capped = with(Tiny::gemma3(), |t| {
        t.set("attn_logit_softcapping", Value::F32(0.5));
        t.set("final_logit_softcapping", Value::F32(0.75));
    });
    check("soft caps", &capped, &Numbers { score_cap: Some(0.5), logit_cap: Some(0.75), ..plain_gemma3() });
}

#[test]
fn gemma3_rotary_and_window_variants() {
    let tiny = with(Tiny::gemma3(), |t| {
        t.set("rope.scaling.type", Value::str("linear"));
        t.set("rope.scaling.factor", Value::F32(8.0));
        t.set("rope.freq_base", Value::F32(2_000.0));
        t.set("rope.freq_base_swa", Value::F32(300.0));
    });
    let own = vec![frequencies(HEAD_DIM, 300.0, 1.0), frequencies(HEAD_DIM, 2_000.0, 8.0)];
    check("only global layers are scaled", &tiny, &Numbers { frequencies: own, ..plain_gemma3() });
    let local = frequencies(HEAD_DIM, 10_000.0, 1.0);
    let by_default = with(Tiny::gemma3(), |t| t.unset("attention.sliding_window_pattern"));
    let numbers = Numbers { frequencies: vec![local; LAYERS], windows: vec![3; LAYERS], ..plain_gemma3() };
    check("every sixth layer is global by default", &by_default, &numbers);
    let global = frequencies(HEAD_DIM, 1_000_000.0, 1.0);
    let unwindowed = with(Tiny::gemma3(), |t| t.unset("attention.sliding_window"));
    let numbers = Numbers { frequencies: vec![global; LAYERS], ..plain_llama() };
    check("without a window every layer is global", &unwindowed, &numbers);
}

#[test]
fn text_comes_out_of_each() {
    for tiny in Tiny::both() {
        let model = tiny.open().unwrap();
        let prompt = model.tokenizer().unwrap().encode("ab cd a", Default::default()).unwrap();
        let mut session = Session::new(model, &SessionOptions::default()).unwrap();
        session.set_tokens(&prompt);
        let options = GenerateOptions { max_tokens: 8, stop_at_end_token: false, ..GenerateOptions::default() };
        let mut generation = session.generate(options).unwrap();
        generation.text().unwrap();
        assert_eq!(generation.ids().len(), 8);
    }
}
