//! Models that open and turn out bad when they run: contexts, vocabularies, weights, a file that changes, damaged bytes.

mod model_support;

use model_support::{HEAD_DIM, HIDDEN, TOKENS, Tiny, VOCAB, Value, noise, stored};
use timbre::gguf::{GgmlType, Gguf, GgufError};
use timbre::kernels::{KernelChoice, Tier, detected_tiers};
use timbre::model::{KvCache, KvType, Model, ModelError, ModelOptions};
use timbre::session::{CancelHandle, GenerateOptions, SamplerOptions, Session, SessionError, SessionOptions};
use timbre::tokenizer::TokenizerError;

/// Opens the model after `change`.
fn opened(mut tiny: Tiny, change: impl FnOnce(&mut Tiny)) -> Result<std::sync::Arc<Model>, ModelError> {
    change(&mut tiny);
    tiny.open()
}

#[test]
fn contexts() {
    for tiny in Tiny::both() {
        let with = |n: u32| opened(tiny.clone(), |t| t.set("context_length", Value::U32(n)));
        let model = with(1 << 24).unwrap();
        assert_eq!(model.decoder().context, KvCache::MAX_CAPACITY);
        assert_eq!(Session::new(model.clone(), &SessionOptions::default()).unwrap().capacity(), 4096);
        for context in [0, KvCache::MAX_CAPACITY + 1, usize::MAX] {
            let options = SessionOptions { context: Some(context), ..SessionOptions::default() };
            let error = Session::new(model.clone(), &options).err().unwrap();
            let SessionError::Model(ModelError::ContextFull { capacity, added, .. }) = error else { panic!("{error}") };
            assert_eq!((capacity, added), (KvCache::MAX_CAPACITY, context));
        }
        let mut shortest = Session::new(with(1).unwrap(), &SessionOptions::default()).unwrap();
        shortest.set_tokens(&[1]);
        assert!(shortest.logits(&CancelHandle::default()).is_ok());
        let error = shortest.perplexity(&[1, 2, 3]).unwrap_err();
        assert!(matches!(error, SessionError::Model(ModelError::ContextFull { capacity: 1, .. })), "{error}");
        let options = SessionOptions { kv: Some(KvType::Q8_0), ..SessionOptions::default() };
        let error = Session::new(model, &options).err().unwrap();
        assert!(matches!(error, SessionError::Model(ModelError::KvHead { kv: "q8_0", head_dim: HEAD_DIM })), "{error}");
    }
}

#[test]
fn tokens_out_of_range() {
    for tiny in Tiny::both() {
        let mut session = Session::new(tiny.open().unwrap(), &SessionOptions::default()).unwrap();
        session.set_tokens(&[1, 4]);
        let before = session.logits(&CancelHandle::default()).unwrap().to_vec();
        for id in [VOCAB as u32, u32::MAX] {
            session.set_tokens(&[1, 4, id]);
            for error in [
                session.logits(&CancelHandle::default()).unwrap_err(),
                session.logits_all(&mut |_, _| panic!("nothing may run")).unwrap_err(),
                session.perplexity(&[1, 4, id]).unwrap_err(),
            ] {
                let SessionError::Model(ModelError::Token { found, vocab: VOCAB }) = error else { panic!("{error}") };
                assert_eq!(found, id);
            }
        }
        session.set_tokens(&[1, 4]);
        assert_eq!(session.logits(&CancelHandle::default()).unwrap(), before);
    }
}

#[test]
fn a_vocabulary_larger_than_the_embedding() {
    for mut tiny in Tiny::both() {
        tiny.matrix("token_embd.weight", GgmlType::Q8_0, VOCAB - 4, HIDDEN);
        let model = tiny.open().unwrap();
        let ids = model.tokenizer().unwrap().encode("ab cd b", Default::default()).unwrap();
        assert!(ids.iter().any(|&id| id as usize >= VOCAB - 4));
        let mut session = Session::new(model, &SessionOptions::default()).unwrap();
        session.set_tokens(&ids);
        let error = session.generate(GenerateOptions::default()).unwrap().text().unwrap_err();
        assert!(matches!(error, SessionError::Model(ModelError::Token { vocab, .. }) if vocab == VOCAB - 4), "{error}");
    }
}

#[test]
fn an_embedding_larger_than_the_vocabulary() {
    for mut tiny in Tiny::both() {
        tiny.matrix("token_embd.weight", GgmlType::Q8_0, VOCAB + 2, HIDDEN);
        // Rows w and −w beside rows of zeros: whatever the state, one of the two tokens without a text is the best.
        let mut head = vec![0.0; (VOCAB + 2) * HIDDEN];
        for (i, w) in noise("head", HIDDEN, 1.0).into_iter().enumerate() {
            head[VOCAB * HIDDEN + i] = w;
            head[(VOCAB + 1) * HIDDEN + i] = -w;
        }
        tiny.put(
            "output.weight",
            &[HIDDEN as u64, VOCAB as u64 + 2],
            GgmlType::F32,
            stored(GgmlType::F32, HIDDEN, &head),
        );
        let mut session = Session::new(tiny.open().unwrap(), &SessionOptions::default()).unwrap();
        session.set_tokens(&[1, 4]);
        let mut generation = session.generate(GenerateOptions::default()).unwrap();
        let error = generation.text().unwrap_err();
        let SessionError::Tokenizer(TokenizerError::UnknownToken { id, len: VOCAB }) = error else { panic!("{error}") };
        assert!(id as usize >= VOCAB);
        assert_eq!(generation.next_piece().unwrap(), None, "the reply has ended");
        assert_eq!(generation.ids(), [id]);
    }
}

#[test]
fn vocabularies() {
    let model = opened(Tiny::llama(), |t| t.unset_global("tokenizer.ggml.tokens")).unwrap();
    let error = model.tokenizer().unwrap_err();
    let missing = |e: &TokenizerError| matches!(e, TokenizerError::Gguf(GgufError::MissingKey { key }) if key == "tokenizer.ggml.tokens");
    assert!(matches!(&error, ModelError::Tokenizer(e) if missing(e)), "{error}");
    // Logits need no vocabulary; a reply does.
    let mut session = Session::new(model, &SessionOptions::default()).unwrap();
    session.set_tokens(&[1]);
    assert!(session.logits(&CancelHandle::default()).is_ok());
    let error = session.generate(GenerateOptions::default()).err().unwrap();
    assert!(matches!(error, SessionError::Model(ModelError::Tokenizer(_))), "{error}");

    let error = opened(Tiny::llama(), |t| t.set_global("tokenizer.ggml.scores", Value::f32s(&[0.0; 3])));
    let error = error.unwrap().tokenizer().err().unwrap();
    let short = |e: &TokenizerError| matches!(e, TokenizerError::ArrayLength { expected: VOCAB, found: 3, .. });
    assert!(matches!(&error, ModelError::Tokenizer(e) if short(e)), "{error}");
    let id = TOKENS.len() as u32;
    let error = opened(Tiny::llama(), |t| t.set_global("tokenizer.ggml.bos_token_id", Value::U32(id)));
    let error = error.unwrap().tokenizer().err().unwrap();
    let stray = |e: &TokenizerError| matches!(e, TokenizerError::SpecialId { found: 12, len: VOCAB, .. });
    assert!(matches!(&error, ModelError::Tokenizer(e) if stray(e)), "{error}");
}

/// Makes the first number of a tensor NaN or infinite: the scale of its first block, or its first element.
fn poison(tiny: &mut Tiny, name: &str, bad: f32) {
    let tensor = tiny.tensor(name);
    match GgmlType::from_u32(tensor.ty).unwrap() {
        GgmlType::F32 => tensor.data[..4].copy_from_slice(&bad.to_le_bytes()),
        // NaN and infinity differ from f16's in the mantissa alone.
        _ => tensor.data[..2].copy_from_slice(&(if bad.is_nan() { 0x7e00u16 } else { 0x7c00 }).to_le_bytes()),
    }
}

#[test]
fn weights_that_are_not_numbers_never_become_logits() {
    for tiny in Tiny::both() {
        for name in tiny.tensor_names() {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut bent = tiny.clone();
                poison(&mut bent, &name, bad);
                for tier in detected_tiers() {
                    let model = bent.open_on(tier).unwrap();
                    for kv in [KvType::F32, KvType::F16] {
                        let options = SessionOptions { kv: Some(kv), ..SessionOptions::default() };
                        let mut session = Session::new(model.clone(), &options).unwrap();
                        // Token 0 has the first row of the table, in case that is what is bent.
                        session.set_tokens(&[0, 4, 0]);
                        let result = session.logits(&CancelHandle::default());
                        let error = result.err().unwrap_or_else(|| panic!("{name} {bad} {tier} {kv} was laundered"));
                        let SessionError::Model(ModelError::NonFinite { position: 2 }) = error else {
                            panic!("{error}")
                        };
                        let error = session.perplexity(&[0, 4, 0]).unwrap_err();
                        assert!(matches!(error, SessionError::Model(ModelError::NonFinite { .. })), "{error}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_reply_ends_at_the_first_bad_logit() {
    let mut tiny = Tiny::llama();
    poison(&mut tiny, "output_norm.weight", f32::NAN);
    let mut session = Session::new(tiny.open().unwrap(), &SessionOptions::default()).unwrap();
    session.set_tokens(&[1, 4]);
    let options = GenerateOptions { sampler: SamplerOptions::default(), ..GenerateOptions::default() };
    let mut generation = session.generate(options).unwrap();
    let error = generation.text().unwrap_err();
    assert!(matches!(error, SessionError::Model(ModelError::NonFinite { position: 1 })), "{error}");
    assert!(generation.ids().is_empty() && generation.next_piece().unwrap().is_none());
    assert_eq!(session.tokens(), [1, 4]);
}

#[test]
fn a_file_that_changes_under_the_map() {
    let folder = tempfile::tempdir().unwrap();
    for tiny in Tiny::both() {
        for cut in [0, 100, tiny.file.build().len() as u64 - 1] {
            let path = tiny.file.save(folder.path(), &format!("{}-{cut}.gguf", tiny.architecture));
            let options = ModelOptions {
                kernels: KernelChoice::Only(Tier::Reference),
                threads: Some(2),
                ..ModelOptions::default()
            };
            let model = Model::from_gguf(Gguf::open(&path).unwrap(), &options).unwrap();
            let mut session = Session::new(model.clone(), &SessionOptions::default()).unwrap();
            session.set_tokens(&[1, 4]);
            session.logits(&CancelHandle::default()).unwrap();
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(cut).unwrap();
            let changed =
                |e: &ModelError| matches!(e, ModelError::Gguf(GgufError::Changed { found, .. }) if *found == cut);
            session.push(&[5]);
            for error in [
                session.logits(&CancelHandle::default()).err().unwrap(),
                session.generate(GenerateOptions::default()).err().unwrap(),
                session.perplexity(&[1, 4]).unwrap_err(),
            ] {
                assert!(matches!(&error, SessionError::Model(e) if changed(e)), "{error}");
            }
            assert!(changed(&model.tokenizer().err().unwrap()), "texts are read from the file too");
        }
    }
}

/// Opens whatever the bytes are and runs them as far as they go.
fn run_through(bytes: &[u8]) -> Result<(), SessionError> {
    let options = ModelOptions { kernels: KernelChoice::Auto, threads: Some(1), ..ModelOptions::default() };
    let model = Model::from_gguf(Gguf::from_bytes(bytes)?, &options)?;
    let mut session = Session::new(model.clone(), &SessionOptions { batch: Some(8), ..SessionOptions::default() })?;
    session.set_tokens(&[1, 4, 5]);
    session.logits(&CancelHandle::default())?;
    session.set_tokens(&model.tokenizer()?.encode("ab cd", Default::default())?);
    let mut generation = session.generate(GenerateOptions { max_tokens: 3, ..GenerateOptions::default() })?;
    generation.text().map(drop)
}

#[test]
fn damaged_bytes_are_refused_or_run() {
    for tiny in Tiny::both() {
        let (whole, header) = (tiny.file.build(), tiny.file.header().len());
        run_through(&whole).unwrap();
        let (mut refused, mut ran) = (0, 0);
        for round in 0..6000 {
            let mut bytes = whole.clone();
            let draws = noise(&format!("{} {round}", tiny.architecture), 9, 1.0);
            let draw = |i: usize, n: usize| ((f64::from(draws[i]) + 1.0) / 2.0 * n as f64) as usize % n;
            for edit in 0..1 + draw(0, 4) {
                // Mostly the header; one in four rounds hits the data too.
                let at = draw(1 + 2 * edit, if round % 4 == 0 { whole.len() } else { header });
                let values = [draw(2 + 2 * edit, 256) as u8, bytes[at].wrapping_add(1), bytes[at] ^ 0x80, 0, 0xff];
                bytes[at] = values[round % values.len()];
            }
            match run_through(&bytes) {
                Ok(()) => ran += 1,
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 1000 && ran > 1000, "{refused} refused, {ran} ran");
    }
}
