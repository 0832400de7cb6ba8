//! Any vocabulary and any text: the vocabulary is refused, or every id it yields is one of its own and becomes text again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use timbre::tokenizer::{EncodeOptions, Settings, SpecialText, Tokenizer};

/// Tokens, merges, scores, token types; ids of the special tokens; which algorithm and options; the text.
type Input = (Vec<Vec<u8>>, Vec<Vec<u8>>, Option<Vec<f32>>, Option<Vec<i32>>, [Option<u32>; 3], u8, String);

/// Pre-tokenizers to choose from, the last one unknown.
const PRE: [&str; 6] = ["default", "gpt-2", "smollm", "llama-bpe", "qwen2", "none"];

fuzz_target!(|input: Input| {
    let (tokens, merges, scores, token_types, [bos, eos, unknown], bits, text) = input;
    let settings = Settings {
        model: if bits & 1 == 0 { "gpt2" } else { "llama" }.to_owned(),
        pre: PRE.get(usize::from(bits >> 4)).map(|&name| name.to_owned()),
        scores: scores.map(|scores| scores.into_iter().cycle().take(tokens.len()).collect()),
        token_types,
        bos,
        eos,
        unknown,
        add_space_prefix: Some(bits & 2 == 0),
        ..Settings::default()
    };
    let Ok(tokenizer) = Tokenizer::from_parts(tokens, &merges, settings) else { return };
    let options = EncodeOptions { parse_special: bits & 4 != 0, add_bos: bits & 8 != 0 };
    let Ok(ids) = tokenizer.encode(&text, options) else { return };
    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.len()));
    for special in [SpecialText::Keep, SpecialText::Skip] {
        tokenizer.decode(&ids, special).expect("its own ids are decoded");
    }
});
