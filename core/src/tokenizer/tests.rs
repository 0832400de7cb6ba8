//! Vocabularies of a few tokens: every rule and every refusal by itself.

use proptest::prelude::*;

use super::*;

const PARSE: EncodeOptions = EncodeOptions { parse_special: true, add_bos: false };

fn bytes(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn gpt2(pre: &str) -> Settings {
    Settings { model: "gpt2".into(), pre: Some(pre.into()), ..Settings::default() }
}

fn bpe(tokens: &[&str], merges: &[&str], settings: Settings) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_parts(bytes(tokens), &bytes(merges), settings)
}

/// A `llama` vocabulary: (text, score, type) per token.
fn spm(tokens: &[(&str, f32, i32)], settings: Settings) -> Result<Tokenizer, TokenizerError> {
    let texts = tokens.iter().map(|(text, ..)| text.as_bytes().to_vec()).collect();
    let settings = Settings {
        model: "llama".into(),
        scores: Some(tokens.iter().map(|token| token.1).collect()),
        token_types: Some(tokens.iter().map(|token| token.2).collect()),
        ..settings
    };
    Tokenizer::from_parts(texts, &[], settings)
}

fn error<T: std::fmt::Debug>(result: Result<T, TokenizerError>) -> TokenizerError {
    result.unwrap_err()
}

#[test]
fn bpe_merges_by_rank_inside_words() {
    let tokenizer = bpe(&["a", "b", "c", "Ġ", "ab", "bc", "Ġab"], &["b c", "a b", "Ġ ab"], gpt2("gpt-2")).unwrap();
    let ids = |text| tokenizer.encode(text, PARSE).unwrap();
    assert_eq!(ids("abc"), [0, 5]);
    assert_eq!(ids("ab ab"), [4, 6]);
    assert_eq!(ids("a b"), [0, 3, 1]);
    assert_eq!(tokenizer.decode(&[6, 5], SpecialText::Keep).unwrap(), " abbc");
}

#[test]
fn a_byte_without_a_token_has_no_id_and_stops_merges() {
    let tokenizer = bpe(&["a", "aa"], &["a a"], gpt2("gpt-2")).unwrap();
    assert_eq!(tokenizer.encode("aaba", PARSE).unwrap(), [1, 0]);
}

#[test]
fn whole_words_win_where_merges_are_ignored() {
    let (tokens, merges) = (["a", "b", "c", "ab", "abc"], ["a b"]);
    assert_eq!(bpe(&tokens, &merges, gpt2("llama-bpe")).unwrap().encode("abc", PARSE).unwrap(), [4]);
    assert_eq!(bpe(&tokens, &merges, gpt2("dbrx")).unwrap().encode("abc", PARSE).unwrap(), [3, 2]);
}

#[test]
fn special_tokens_are_found_longest_first_and_user_defined_ones_always() {
    let settings = Settings { token_types: Some(vec![1, 1, 3, 3, 4]), ..gpt2("gpt-2") };
    let tokenizer = bpe(&["a", "b", "<a", "<aa>", "ab"], &[], settings).unwrap();
    assert_eq!(tokenizer.encode("<aa><ab<", PARSE).unwrap(), [3, 2, 1]);
    assert_eq!(tokenizer.encode("<aaab", EncodeOptions::default()).unwrap(), [0, 0, 4]);
    assert_eq!(tokenizer.decode(&[3, 4], SpecialText::Keep).unwrap(), "<aa>ab");
    assert_eq!(tokenizer.decode(&[3, 4], SpecialText::Skip).unwrap(), "ab");
}

#[test]
fn ends_are_named_or_well_known_and_not_words_that_look_like_it() {
    let tokens = ["a", "<|im_end|>", "</s>", "<EOT>", "stop"];
    let settings = Settings { token_types: Some(vec![1, 1, 1, 3, 3]), eos: Some(4), ..gpt2("gpt-2") };
    let tokenizer = bpe(&tokens, &[], settings).unwrap();
    let ends: Vec<bool> = (0..6).map(|id| tokenizer.is_end_of_generation(id)).collect();
    assert_eq!(ends, [false, true, false, true, true, false]);
    assert_eq!(tokenizer.eot(), Some(1));
    assert_eq!(tokenizer.kind(1), Some(TokenKind::Control));
    assert_eq!(tokenizer.kind(2), Some(TokenKind::Normal));
}

#[test]
fn spm_merges_the_best_score_and_the_leftmost_of_equals() {
    let tokens = [("a", 0.0, 1), ("b", 0.0, 1), ("aa", -1.0, 1), ("ab", -0.5, 1), ("<unk>", 0.0, 2)];
    let settings = Settings { unknown: Some(4), add_space_prefix: Some(false), ..Settings::default() };
    let tokenizer = spm(&tokens, settings).unwrap();
    assert_eq!(tokenizer.encode("aaab", PARSE).unwrap(), [2, 3]);
    assert_eq!(tokenizer.encode("aaa", PARSE).unwrap(), [2, 0]);
    assert_eq!(tokenizer.encode("a日b", PARSE).unwrap(), [0, 4, 1]);
}

#[test]
fn spm_falls_back_to_bytes_and_hides_the_space_it_adds() {
    let names: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut tokens: Vec<(&str, f32, i32)> = names.iter().map(|name| (name.as_str(), 0.0, 6)).collect();
    tokens.extend([("\u{2581}", -3.0, 1), ("a", -2.0, 1), ("\u{2581}a", -1.0, 1), ("<s>", 0.0, 3)]);
    let settings = Settings { bos: Some(259), add_bos: None, ..Settings::default() };
    let tokenizer = spm(&tokens, settings).unwrap();
    assert!(tokenizer.adds_bos());
    assert_eq!(tokenizer.encode("a é", PARSE).unwrap(), [258, 256, 0xC3, 0xA9]);
    assert_eq!(
        tokenizer.encode("a<s>a", EncodeOptions { parse_special: true, add_bos: true }).unwrap(),
        [259, 258, 259, 258]
    );
    assert_eq!(tokenizer.decode(&[259, 258, 256, 0xC3, 0xA9, 259, 258], SpecialText::Skip).unwrap(), "a éa");
    for text in ["", " ", "  a", "a<s>  a", "<0x41>", "\u{10FFFF}\0"] {
        let ids = tokenizer.encode(text, PARSE).unwrap();
        assert_eq!(tokenizer.decode(&ids, SpecialText::Keep).unwrap(), text);
    }
    let mut piece = Vec::new();
    tokenizer.token_bytes(0xC3, SpecialText::Skip, &mut piece).unwrap();
    assert_eq!(piece, [0xC3]);
}

#[test]
fn what_cannot_be_loaded_is_named() {
    use TokenizerError as E;
    let unknown = || Settings { unknown: Some(0), ..Settings::default() };
    assert!(matches!(error(bpe(&["a"], &[], gpt2("tekken"))), E::UnknownPreTokenizer { found } if found == "tekken"));
    let wordpiece = Settings { model: "bert".into(), ..Settings::default() };
    assert!(matches!(error(bpe(&["a"], &[], wordpiece)), E::UnsupportedModel { found } if found == "bert"));
    assert!(matches!(error(bpe(&[], &[], gpt2("gpt-2"))), E::VocabularySize { found: 0 }));
    for merge in ["", "a", "a ", " a", "ab"] {
        assert!(matches!(error(bpe(&["a"], &[merge], gpt2("gpt-2"))), E::Merge { index: 0, .. }), "{merge:?}");
    }
    for (merge, missing) in [("a a", "aa"), ("a c", "c"), ("a b c", "b c")] {
        let found = error(bpe(&["a", "b"], &[merge], gpt2("gpt-2")));
        assert!(matches!(&found, E::MergeToken { index: 0, text } if text == missing), "{found}");
    }
    let types = |types: &[i32]| Settings { token_types: Some(types.to_vec()), ..gpt2("gpt-2") };
    assert!(matches!(error(bpe(&["a"], &[], types(&[1, 1]))), E::ArrayLength { expected: 1, found: 2, .. }));
    for wrong in [0, 7, -1] {
        assert!(matches!(error(bpe(&["a"], &[], types(&[wrong]))), E::TokenType { id: 0, found } if found == wrong));
    }
    let eos = Settings { eos: Some(1), ..gpt2("gpt-2") };
    assert!(matches!(error(bpe(&["a"], &[], eos)), E::SpecialId { found: 1, len: 1, .. }));
    let bos = Settings { add_bos: Some(true), ..gpt2("gpt-2") };
    assert!(matches!(error(bpe(&["a"], &[], bos)), E::NoBos));

    for text in ["<0x-1>", "<0x+1>", "<0x1>", "<0x001>", "<0xG0>", "x", ""] {
        let found = error(spm(&[("<unk>", 0.0, 2), (text, 0.0, 6)], unknown()));
        assert!(matches!(&found, E::ByteToken { id: 1, text: named } if named == text), "{found}");
    }
    assert!(matches!(error(spm(&[("a", f32::NAN, 1)], unknown())), E::Score { id: 0 }));
    assert!(matches!(error(spm(&[("<0x00>", 0.0, 6)], Settings::default())), E::NoFallback { byte: 1 }));
    for scores in [None, Some(vec![0.0; 2])] {
        let settings = Settings { model: "llama".into(), scores, unknown: Some(0), ..Settings::default() };
        assert!(matches!(error(bpe(&["a"], &[], settings)), E::ArrayLength { expected: 1, .. }));
    }
}

#[test]
fn what_cannot_be_asked_is_named() {
    let tokenizer = bpe(&["a"], &[], gpt2("gpt-2")).unwrap();
    let add_bos = EncodeOptions { parse_special: false, add_bos: true };
    assert!(matches!(error(tokenizer.encode("a", add_bos)), TokenizerError::NoBos));
    assert!(matches!(error(tokenizer.decode(&[1], SpecialText::Keep)), TokenizerError::UnknownToken { id: 1, len: 1 }));
}

proptest! {
    #[test]
    fn no_vocabulary_and_no_text_panics(
        tokens in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..5),
                "(<0x[0-9A-F]{2}>|[ab\\u{2581}Ġ]{1,3}|<\\|im_end\\|>)".prop_map(String::into_bytes),
            ], 0..12),
        merges in prop::collection::vec("[ab ]{0,4}".prop_map(String::into_bytes), 0..2),
        scores in prop::collection::vec(any::<f32>(), 0..12),
        types in prop::collection::vec(0i32..8, 0..12),
        well_formed: bool,
        model in prop::sample::select(vec!["gpt2", "llama"]),
        unknown in prop::option::of(0u32..12),
        text: String,
        ids in prop::collection::vec(0u32..13, 0..9),
    ) {
        let fit = |types: Vec<i32>| if well_formed { vec![1; tokens.len()] } else { types };
        let settings = Settings {
            model: model.into(),
            scores: Some(if well_formed { (0..tokens.len()).map(|i| i as f32).collect() } else { scores }),
            token_types: Some(fit(types)),
            unknown,
            ..Settings::default()
        };
        if let Ok(tokenizer) = Tokenizer::from_parts(tokens.clone(), &merges, settings) {
            let encoded = tokenizer.encode(&(text + "ab <|im_end|>"), PARSE).unwrap();
            prop_assert!(encoded.iter().all(|&id| (id as usize) < tokenizer.len()));
            tokenizer.decode(&encoded, SpecialText::Keep).unwrap();
            prop_assert_eq!(
                tokenizer.decode(&ids, SpecialText::Skip).is_ok(),
                ids.iter().all(|&id| (id as usize) < tokenizer.len())
            );
        }
    }
}
