//! Vocabularies in byte-built GGUF files: what loads, and what is refused with which error.

use std::io::Write;

use timbre::gguf::{Gguf, GgufError};
use timbre::session::{ChatTemplate, TemplateError};
use timbre::tokenizer::{EncodeOptions, SpecialText, Tokenizer, TokenizerError};

const STRING: u32 = 8;
const I32: u32 = 5;
const U32: u32 = 4;
const F32: u32 = 6;
const BOOL: u32 = 7;
const ARRAY: u32 = 9;

/// The metadata of a GGUF file, entry by entry.
#[derive(Default)]
struct Entries(Vec<(&'static str, Vec<u8>)>);

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

impl Entries {
    fn put(mut self, key: &'static str, ty: u32, value: &[u8]) -> Self {
        self.0.retain(|(present, _)| *present != key);
        self.0.push((key, [&ty.to_le_bytes()[..], value].concat()));
        self
    }

    fn array(self, key: &'static str, ty: u32, items: &[Vec<u8>]) -> Self {
        let head = [&ty.to_le_bytes()[..], &(items.len() as u64).to_le_bytes()].concat();
        self.put(key, ARRAY, &[head, items.concat()].concat())
    }

    fn without(mut self, key: &str) -> Self {
        self.0.retain(|(present, _)| *present != key);
        self
    }

    fn file(self) -> tempfile::NamedTempFile {
        let mut bytes = [&b"GGUF"[..], &3u32.to_le_bytes(), &0u64.to_le_bytes()].concat();
        bytes.extend((self.0.len() as u64).to_le_bytes());
        for (key, value) in self.0 {
            bytes.extend(string(key.as_bytes()));
            bytes.extend(value);
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    fn load(self) -> Result<Tokenizer, TokenizerError> {
        let file = self.file();
        Tokenizer::from_gguf(Gguf::open(file.path()).unwrap())
    }
}

fn strings(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| string(text.as_bytes())).collect()
}

fn words<const N: usize>(items: &[[u8; N]]) -> Vec<Vec<u8>> {
    items.iter().map(|item| item.to_vec()).collect()
}

/// `<unk>`, `a`, `▁a`, `<0x41>`.
fn spm() -> Entries {
    Entries::default()
        .put("tokenizer.ggml.model", STRING, &string(b"llama"))
        .array("tokenizer.ggml.tokens", STRING, &strings(&["<unk>", "a", "\u{2581}", "\u{2581}a", "<0x41>"]))
        .array("tokenizer.ggml.scores", F32, &words(&[0.0f32, -3.0, -2.0, -1.0, 0.0].map(f32::to_le_bytes)))
        .array("tokenizer.ggml.token_type", I32, &words(&[2i32, 1, 1, 1, 6].map(i32::to_le_bytes)))
        .put("tokenizer.ggml.unknown_token_id", U32, &0u32.to_le_bytes())
}

fn wrong_type(error: TokenizerError, key: &str) {
    assert!(
        matches!(&error, TokenizerError::Gguf(GgufError::WrongType { key: found, .. }) if found == key),
        "{key}: {error}"
    );
}

#[test]
fn a_small_vocabulary_loads() {
    let tokenizer = spm().load().unwrap();
    let ids = tokenizer.encode("a aA", EncodeOptions::default()).unwrap();
    assert_eq!(ids, [3, 3, 4]);
    assert_eq!(tokenizer.decode(&ids, SpecialText::Keep).unwrap(), "a aA");
    assert_eq!(
        spm()
            .put("tokenizer.ggml.add_space_prefix", BOOL, &[0])
            .load()
            .unwrap()
            .encode("a", EncodeOptions::default())
            .unwrap(),
        [1]
    );
}

#[test]
fn a_byte_token_outside_a_byte_is_refused() {
    for text in ["<0x-1>", "<0x1FF>", "<0xZZ>"] {
        let error = spm()
            .array("tokenizer.ggml.tokens", STRING, &strings(&["<unk>", "a", "\u{2581}", "\u{2581}a", text]))
            .load()
            .unwrap_err();
        assert!(matches!(&error, TokenizerError::ByteToken { id: 4, text: found } if found == text), "{error}");
    }
}

#[test]
fn arrays_of_the_wrong_element_type_are_refused() {
    let doubles = words(&[0.0f64; 5].map(f64::to_le_bytes));
    wrong_type(spm().array("tokenizer.ggml.scores", 12, &doubles).load().unwrap_err(), "tokenizer.ggml.scores");
    let words_u32 = words(&[1u32; 5].map(u32::to_le_bytes));
    wrong_type(spm().array("tokenizer.ggml.scores", U32, &words_u32).load().unwrap_err(), "tokenizer.ggml.scores");
    let floats = words(&[1.0f32; 5].map(f32::to_le_bytes));
    wrong_type(spm().array("tokenizer.ggml.token_type", F32, &floats).load().unwrap_err(), "tokenizer.ggml.token_type");
    wrong_type(
        spm().array("tokenizer.ggml.token_type", STRING, &strings(&["1"; 5])).load().unwrap_err(),
        "tokenizer.ggml.token_type",
    );
    wrong_type(
        spm().array("tokenizer.ggml.tokens", I32, &words(&[1i32; 5].map(i32::to_le_bytes))).load().unwrap_err(),
        "tokenizer.ggml.tokens",
    );
    wrong_type(spm().put("tokenizer.ggml.merges", U32, &[0; 4]).load().unwrap_err(), "tokenizer.ggml.merges");
    wrong_type(
        spm().put("tokenizer.ggml.bos_token_id", I32, &(-1i32).to_le_bytes()).load().unwrap_err(),
        "tokenizer.ggml.bos_token_id",
    );
}

#[test]
fn arrays_of_the_wrong_length_are_refused() {
    for len in [0, 1, 4, 6] {
        let scores = vec![0.0f32.to_le_bytes().to_vec(); len];
        let types = vec![1i32.to_le_bytes().to_vec(); len];
        for entries in
            [spm().array("tokenizer.ggml.scores", F32, &scores), spm().array("tokenizer.ggml.token_type", I32, &types)]
        {
            let error = entries.load().unwrap_err();
            assert!(matches!(error, TokenizerError::ArrayLength { expected: 5, found, .. } if found == len), "{error}");
        }
    }
}

#[test]
fn what_is_missing_or_unknown_is_named() {
    for key in ["tokenizer.ggml.model", "tokenizer.ggml.tokens"] {
        let error = spm().without(key).load().unwrap_err();
        assert!(
            matches!(&error, TokenizerError::Gguf(GgufError::MissingKey { key: found }) if found == key),
            "{error}"
        );
    }
    let error = spm().put("tokenizer.ggml.model", STRING, &string(b"rwkv")).load().unwrap_err();
    assert!(matches!(&error, TokenizerError::UnsupportedModel { found } if found == "rwkv"));
    let gpt2 = || spm().put("tokenizer.ggml.model", STRING, &string(b"gpt2"));
    let error = gpt2().put("tokenizer.ggml.pre", STRING, &string(b"viking")).load().unwrap_err();
    assert!(matches!(&error, TokenizerError::UnknownPreTokenizer { found } if found == "viking"));
    let error = gpt2().array("tokenizer.ggml.merges", STRING, &strings(&["a x"])).load().unwrap_err();
    assert!(matches!(&error, TokenizerError::MergeToken { index: 0, text } if text == "x"));
    let error = spm().put("tokenizer.ggml.eos_token_id", U32, &5u32.to_le_bytes()).load().unwrap_err();
    assert!(matches!(error, TokenizerError::SpecialId { found: 5, len: 5, .. }));
}

#[test]
fn templates_that_are_no_text_or_no_template_are_refused() {
    let open = |entries: Entries| {
        let file = entries.file();
        ChatTemplate::from_gguf(&Gguf::open(file.path()).unwrap())
    };
    let key = "tokenizer.chat_template";
    assert!(matches!(open(spm()).unwrap_err(), TemplateError::Missing));
    assert!(matches!(open(spm().put(key, STRING, &string(b"\xFF"))).unwrap_err(), TemplateError::Gguf(_)));
    assert!(matches!(open(spm().put(key, U32, &[0; 4])).unwrap_err(), TemplateError::Gguf(_)));
    assert!(matches!(open(spm().put(key, STRING, &string(b"{% for %}"))).unwrap_err(), TemplateError::Syntax { .. }));
    assert!(open(spm().put(key, STRING, &string(b"{{ bos_token }}"))).unwrap().render(&[], true).unwrap().is_empty());
}
