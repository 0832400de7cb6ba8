//! The tokenizers of the two test models: ids against llama.cpp's, round trips, and cost.

mod common;

use std::time::{Duration, Instant};

use common::{GEMMA3, SMOLLM2, fixture_json, model};
use proptest::prelude::*;
use timbre::tokenizer::{EncodeOptions, SpecialText, Tokenizer, TokenizerError};

const PARSE: EncodeOptions = EncodeOptions { parse_special: true, add_bos: false };
const PLAIN: EncodeOptions = EncodeOptions { parse_special: false, add_bos: false };

fn load(file: &str) -> Tokenizer {
    Tokenizer::from_gguf(model(file)).unwrap()
}

#[test]
fn ids_are_those_of_llama_cpp() {
    let fixture = fixture_json("tokens.json");
    for (name, file) in [("smollm2", SMOLLM2), ("gemma3", GEMMA3)] {
        let tokenizer = load(file);
        let cases = fixture[name].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let expected: Vec<u32> =
                case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            let ids = tokenizer.encode(text, PARSE).unwrap();
            assert_eq!(ids, expected, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&ids, SpecialText::Keep).unwrap(), text, "{name}");
        }
    }
}

#[test]
fn special_tokens_are_what_the_files_say() {
    let smol = load(SMOLLM2);
    assert_eq!(
        (smol.bos(), smol.eos(), smol.eot(), smol.unknown(), smol.padding()),
        (Some(1), Some(2), Some(2), Some(0), Some(2))
    );
    assert_eq!((smol.len(), smol.adds_bos()), (49_152, false));
    assert!([0, 2].iter().all(|&id| smol.is_end_of_generation(id)) && !smol.is_end_of_generation(1));

    let gemma = load(GEMMA3);
    assert_eq!((gemma.bos(), gemma.eos(), gemma.eot(), gemma.unknown()), (Some(2), Some(1), Some(106), Some(3)));
    assert_eq!((gemma.len(), gemma.adds_bos()), (262_144, true));
    assert!([1, 106].iter().all(|&id| gemma.is_end_of_generation(id)) && !gemma.is_end_of_generation(105));
    let with_bos = EncodeOptions { parse_special: true, add_bos: true };
    assert_eq!(gemma.encode("", with_bos).unwrap(), [2]);
    assert_eq!(gemma.token_id(b"<start_of_turn>").unwrap(), Some(105));
    assert_eq!(gemma.token_text(105).unwrap(), b"<start_of_turn>");
}

#[test]
fn without_parsing_no_text_becomes_a_control_token() {
    for file in [SMOLLM2, GEMMA3] {
        let tokenizer = load(file);
        for text in ["<|im_end|>", "<end_of_turn>", "<bos><eos>x<|endoftext|>", "<unk>", "<0x41>"] {
            let ids = tokenizer.encode(text, PLAIN).unwrap();
            assert!(ids.iter().all(|&id| !tokenizer.is_end_of_generation(id)), "{text}");
            assert_eq!(tokenizer.decode(&ids, SpecialText::Skip).unwrap(), text);
        }
    }
}

#[test]
fn special_text_can_be_left_out_and_line_breaks_stay() {
    let gemma = load(GEMMA3);
    let ids = gemma.encode("<start_of_turn>user\nhey<end_of_turn>\n", PARSE).unwrap();
    assert_eq!(gemma.decode(&ids, SpecialText::Skip).unwrap(), "user\nhey\n");
}

#[test]
fn loading_is_quick_and_small() {
    // Budgets of an unloaded phone-class core are 10 ms and 30 ms; a test machine may be busy, so these are wider.
    for (file, time, heap) in [(SMOLLM2, 100, 2 << 20), (GEMMA3, 300, 6 << 20)] {
        let gguf = model(file);
        let best = (0..5)
            .map(|_| {
                let start = Instant::now();
                Tokenizer::from_gguf(gguf.clone()).unwrap();
                start.elapsed()
            })
            .min()
            .unwrap();
        let tokenizer = Tokenizer::from_gguf(gguf).unwrap();
        println!("{file}: built in {best:?}, {} bytes of heap", tokenizer.heap_bytes());
        assert!(best < Duration::from_millis(time), "{file}: {best:?}");
        assert!(tokenizer.heap_bytes() <= heap, "{file}: {}", tokenizer.heap_bytes());
    }
}

#[test]
fn long_runs_do_not_explode() {
    for file in [SMOLLM2, GEMMA3] {
        let tokenizer = load(file);
        for unit in ["a", " ", "\n", "<", "ab", "日", "👩\u{200d}", "<|im_start", "1", "\u{0}"] {
            let text = unit.repeat((1 << 20) / unit.len());
            let start = Instant::now();
            let ids = tokenizer.encode(&text, PARSE).unwrap();
            let elapsed = start.elapsed();
            println!("{file}: 1 MiB of {unit:?} gives {} ids in {elapsed:?}", ids.len());
            assert!(elapsed < Duration::from_secs(20), "{file}, {unit:?}: {elapsed:?}");
            assert!(tokenizer.decode(&ids, SpecialText::Keep).unwrap() == text, "{file}, {unit:?}");
        }
    }
}

#[test]
fn ids_past_the_end_are_refused() {
    let tokenizer = load(SMOLLM2);
    for id in [49_152, u32::MAX] {
        let error = tokenizer.decode(&[id], SpecialText::Keep).unwrap_err();
        assert!(matches!(error, TokenizerError::UnknownToken { id: found, len: 49_152 } if found == id));
    }
}

#[test]
fn every_token_spells_something() {
    for file in [SMOLLM2, GEMMA3] {
        let tokenizer = load(file);
        let mut bytes = Vec::new();
        for id in 0..tokenizer.len() as u32 {
            bytes.clear();
            tokenizer.token_bytes(id, SpecialText::Keep, &mut bytes).unwrap();
            assert!(!bytes.is_empty(), "{file}: {id}");
        }
    }
}

/// The bytes SmolLM2 has no token for that occur in UTF-8.
const SMOLLM2_LACKS: [u8; 8] = [0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xF1, 0xF2];

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn decoding_undoes_encoding(
        texts in prop::collection::vec(prop_oneof!["\\PC{0,24}", "[ \\t\\n\\r]{0,9}", "(<\\|im_start\\|>|<end_of_turn>|<bos>|'s|12|é| )", any::<String>()], 0..8),
        parse_special: bool,
    ) {
        thread_local!(static MODELS: [(Tokenizer, bool); 2] = [(load(SMOLLM2), true), (load(GEMMA3), false)]);
        let text = texts.concat();
        MODELS.with(|models| {
            for (tokenizer, is_bytes) in models {
                let ids = tokenizer.encode(&text, EncodeOptions { parse_special, add_bos: false }).unwrap();
                let expected = if *is_bytes {
                    let kept: Vec<u8> = text.bytes().filter(|byte| !SMOLLM2_LACKS.contains(byte)).collect();
                    String::from_utf8_lossy(&kept).into_owned()
                } else {
                    text.replace('\u{2581}', " ")
                };
                prop_assert_eq!(tokenizer.decode(&ids, SpecialText::Keep).unwrap(), expected);
            }
            Ok(())
        })?;
    }
}
