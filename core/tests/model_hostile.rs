//! Models that lie: every one is refused with the error that names the lie, and nothing panics.

mod model_support;

use model_support::{HEAD_DIM, HIDDEN, INNER, LAYERS, TOKENS, Tiny, VOCAB, Value, noise, stored};
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

fn refused(tiny: Tiny, change: impl FnOnce(&mut Tiny)) -> ModelError {
    opened(tiny, change).err().expect("a lie was believed")
}

fn bad_value(error: ModelError, wanted: &str, value: &str) {
    let hit =
        matches!(&error, ModelError::Gguf(GgufError::BadValue { key, found, .. }) if key == wanted && found == value);
    assert!(hit, "{error}, expected a bad value {value} of {wanted}");
}

fn wrong_type(error: ModelError, wanted: &str) {
    let hit = matches!(&error, ModelError::Gguf(GgufError::WrongType { key, .. }) if key == wanted);
    assert!(hit, "{error}, expected a wrong type of {wanted}");
}

fn missing_tensor(error: ModelError, wanted: &str) {
    let hit = matches!(&error, ModelError::Gguf(GgufError::MissingTensor { name }) if name == wanted);
    assert!(hit, "{error}, expected {wanted} to be missing");
}

fn tensor_shape(error: ModelError, wanted: &str) {
    let hit = matches!(&error, ModelError::Gguf(GgufError::TensorShape { name, .. }) if name == wanted);
    assert!(hit, "{error}, expected a wrong shape of {wanted}");
}

fn tensor_type(error: ModelError, wanted: &str) {
    let hit = matches!(&error, ModelError::TensorType { name, expected: "F32", .. } if name == wanted);
    assert!(hit, "{error}, expected a wrong type of {wanted}");
}

fn unsupported(error: ModelError, word: &str) {
    assert!(matches!(&error, ModelError::Unsupported { feature, .. } if feature.contains(word)), "{error}, not {word}");
}

const REQUIRED: [&str; 6] = [
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
    "block_count",
    "context_length",
];
const DIMS: [&str; 7] = [
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "block_count",
    "context_length",
];

#[test]
fn what_is_not_hostile_opens() {
    for tiny in Tiny::both() {
        for tier in detected_tiers() {
            let model = tiny.open_on(tier).unwrap();
            let mut session = Session::new(model, &SessionOptions::default()).unwrap();
            session.set_tokens(&[1, 5, 7]);
            let logits = session.logits(&CancelHandle::default()).unwrap();
            assert!(logits.len() == VOCAB && logits.iter().all(|l| l.is_finite()));
        }
    }
}

#[test]
fn architectures() {
    let error = refused(Tiny::llama(), |t| t.unset_global("general.architecture"));
    assert!(matches!(&error, ModelError::Gguf(GgufError::MissingKey { key }) if key == "general.architecture"));
    wrong_type(refused(Tiny::llama(), |t| t.set_global("general.architecture", Value::U32(1))), "general.architecture");
    let error = refused(Tiny::llama(), |t| t.set_global("general.architecture", Value::str("mamba")));
    let ModelError::Architecture { found, supported } = &error else { panic!("{error}") };
    assert_eq!((found.as_str(), supported.as_slice()), ("mamba", &["llama", "gemma3"][..]));
}

#[test]
fn missing_keys() {
    for tiny in Tiny::both() {
        for name in REQUIRED {
            let error = refused(tiny.clone(), |t| t.unset(name));
            let key = format!("{}.{name}", tiny.architecture);
            assert!(
                matches!(&error, ModelError::Gguf(GgufError::MissingKey { key: found }) if *found == key),
                "{error}"
            );
        }
    }
}

#[test]
fn dimensions_that_are_no_dimensions() {
    for tiny in Tiny::both() {
        for name in DIMS {
            let key = format!("{}.{name}", tiny.architecture);
            for value in
                [Value::str("32"), Value::I32(-1), Value::F32(32.0), Value::U64(1 << 32), Value::i32s(&[32, 32])]
            {
                wrong_type(refused(tiny.clone(), |t| t.set(name, value)), &key);
            }
            for value in [0, u32::MAX] {
                bad_value(refused(tiny.clone(), |t| t.set(name, Value::U32(value))), &key, &value.to_string());
            }
        }
    }
}

#[test]
fn block_counts() {
    for tiny in Tiny::both() {
        let key = format!("{}.block_count", tiny.architecture);
        let with = |count: u32| refused(tiny.clone(), |t| t.set("block_count", Value::U32(count)));
        missing_tensor(with(3), "blk.2.attn_norm.weight");
        missing_tensor(with(1024), "blk.2.attn_norm.weight");
        bad_value(with(1025), &key, "1025");
        bad_value(with(1), &key, "1");
    }
}

#[test]
fn heads() {
    for tiny in Tiny::both() {
        let key = |name: &str| format!("{}.attention.{name}", tiny.architecture);
        let with =
            |name: &str, value: u32| refused(tiny.clone(), |t| t.set(&format!("attention.{name}"), Value::U32(value)));
        bad_value(with("head_count_kv", 3), &key("head_count_kv"), "3");
        bad_value(with("head_count_kv", 8), &key("head_count_kv"), "8");
        bad_value(with("head_count", 5), &key("head_count_kv"), "2");
        tensor_shape(with("head_count", 2), "blk.0.attn_q.weight");
        tensor_shape(with("head_count_kv", 4), "blk.0.attn_k.weight");
        bad_value(with("key_length", 1 << 19), &key("key_length"), &(1 << 19).to_string());
        bad_value(with("head_count", 1 << 20), &key("key_length"), "16");
    }
}

#[test]
fn head_sizes() {
    let sized = |tiny: Tiny, dim: u32| {
        refused(tiny, |t| {
            t.set("attention.key_length", Value::U32(dim));
            t.unset("attention.value_length");
        })
    };
    for dim in [1, 7, 17] {
        unsupported(sized(Tiny::llama(), dim), "heads");
        unsupported(sized(Tiny::gemma3(), dim), "odd");
    }
    for tiny in Tiny::both() {
        tensor_shape(sized(tiny.clone(), 18), "blk.0.attn_q.weight");
        unsupported(refused(tiny, |t| t.set("attention.value_length", Value::U32(8))), "another length");
    }
    // Without the key the head size is hidden / heads: 8 here, and 0 with more heads than elements.
    let unset = |heads: u32| {
        refused(Tiny::llama(), |t| {
            t.unset("attention.key_length");
            t.set("attention.head_count", Value::U32(heads));
        })
    };
    tensor_shape(unset(4), "blk.0.attn_q.weight");
    bad_value(unset(64), "llama.attention.key_length", "0");
}

#[test]
fn widths_that_do_not_match_the_tensors() {
    for tiny in Tiny::both() {
        let with = |name: &str, value: u32| refused(tiny.clone(), |t| t.set(name, Value::U32(value)));
        tensor_shape(with("embedding_length", 64), "blk.0.attn_norm.weight");
        tensor_shape(with("feed_forward_length", 32), "blk.0.ffn_gate.weight");
        for name in ["embedding_length", "feed_forward_length"] {
            let key = format!("{}.{name}", tiny.architecture);
            bad_value(with(name, (1 << 20) + 1), &key, "1048577");
        }
    }
}

#[test]
fn every_tensor_missing_or_misshapen() {
    for tiny in Tiny::both() {
        for name in tiny.tensor_names() {
            // Norms of q and k are optional, and the head follows the embedding.
            if !name.contains("q_norm") && !name.contains("k_norm") {
                missing_tensor(refused(tiny.clone(), |t| t.remove(&name)), &name);
            }
            for change in [
                // A row too many, of any type.
                |t: &mut Tiny, name: &str| {
                    let tensor = t.tensor(name);
                    let rows = tensor.dims.get(1).copied().unwrap_or(1);
                    let row = tensor.data[..tensor.data.len() / rows as usize].to_vec();
                    tensor.dims = vec![tensor.dims[0], rows + 1];
                    tensor.data.extend(row);
                },
                // Everything in one row.
                |t: &mut Tiny, name: &str| {
                    let tensor = t.tensor(name);
                    tensor.dims = vec![tensor.dims.iter().product::<u64>(), 1, 1, 1];
                    if tensor.dims[0] <= INNER as u64 {
                        tensor.dims[0] *= 2;
                        tensor.data.extend(tensor.data.clone());
                    }
                },
            ] {
                let result = opened(tiny.clone(), |t| change(t, &name));
                // The embedding's rows are the vocabulary, whose size nothing else in the file tells.
                match result {
                    Ok(model) => assert!(name == "token_embd.weight" && model.decoder().vocab == VOCAB + 1),
                    Err(error) => tensor_shape(error, &name),
                }
            }
        }
    }
}

#[test]
fn dimensions_past_the_file() {
    for (dims, overflow) in [
        (vec![HIDDEN as u64, 1 << 40], false),
        (vec![HIDDEN as u64, 1 << 60], true),
        (vec![1 << 32, 1 << 32], true),
        (vec![u64::MAX - 31, 2], true),
    ] {
        let error = refused(Tiny::llama(), |t| t.tensor("token_embd.weight").dims = dims.clone());
        let ModelError::Gguf(GgufError::InFile { source, .. }) = &error else { panic!("{error}") };
        match &**source {
            GgufError::TensorRange { name, .. } => assert!(!overflow && name == "token_embd.weight"),
            GgufError::TensorOverflow { name, .. } => assert!(overflow && name == "token_embd.weight"),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn an_untied_head_of_another_vocabulary() {
    for tiny in Tiny::both() {
        for rows in [1, VOCAB - 1, VOCAB + 1] {
            let error = refused(tiny.clone(), |t| t.matrix("output.weight", GgmlType::F32, rows, HIDDEN));
            tensor_shape(error, "output.weight");
        }
    }
}

#[test]
fn epsilons_bases_and_scales() {
    for tiny in Tiny::both() {
        let mut names = vec!["attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scaling.factor"];
        if tiny.architecture == "gemma3" {
            names.push("rope.freq_base_swa");
        }
        for name in names {
            let key = format!("{}.{name}", tiny.architecture);
            let with = |value: Value| {
                refused(tiny.clone(), |t| {
                    t.set("rope.scaling.type", Value::str("linear"));
                    t.set(name, value);
                })
            };
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                wrong_type(with(Value::F32(value)), &key);
            }
            wrong_type(with(Value::F64(1e300)), &key);
            wrong_type(with(Value::U32(1)), &key);
            for (value, found) in [(0.0, "0"), (-0.0, "-0"), (-1e-5, "-0.00001")] {
                bad_value(with(Value::F32(value)), &key, found);
            }
        }
    }
}

#[test]
fn rotary_embeddings() {
    for tiny in Tiny::both() {
        for scaling in ["yarn", "longrope", "Linear", ""] {
            unsupported(refused(tiny.clone(), |t| t.set("rope.scaling.type", Value::str(scaling))), "rope scaling");
        }
        let key = format!("{}.rope.scaling.type", tiny.architecture);
        wrong_type(refused(tiny.clone(), |t| t.set("rope.scaling.type", Value::U32(1))), &key);
    }
    for dim in [7, HEAD_DIM as u32 + 2] {
        let error = refused(Tiny::llama(), |t| t.set("rope.dimension_count", Value::U32(dim)));
        bad_value(error, "llama.rope.dimension_count", &dim.to_string());
    }
    let factors = |values: &[f32]| refused(Tiny::llama(), |t| t.vector("rope_freqs.weight", values));
    tensor_shape(factors(&[1.0; HEAD_DIM]), "rope_freqs.weight");
    for (value, found) in [(0.0, "0"), (-1.0, "-1"), (f32::INFINITY, "inf"), (f32::NAN, "NaN")] {
        let mut values = [1.0; HEAD_DIM / 2];
        values[3] = value;
        let data = values.iter().flat_map(|v: &f32| v.to_le_bytes()).collect();
        let error = refused(Tiny::llama(), |t| t.put("rope_freqs.weight", &[HEAD_DIM as u64 / 2], GgmlType::F32, data));
        bad_value(error, "rope_freqs.weight", found);
    }
}

#[test]
fn mixtures_of_experts() {
    unsupported(refused(Tiny::llama(), |t| t.set("expert_count", Value::U32(8))), "experts");
    wrong_type(refused(Tiny::llama(), |t| t.set("expert_count", Value::str("8"))), "llama.expert_count");
    assert!(opened(Tiny::llama(), |t| t.set("expert_count", Value::U32(0))).is_ok());
}

#[test]
fn vectors_in_another_type() {
    for tiny in Tiny::both() {
        let norms: Vec<_> = tiny.tensor_names().into_iter().filter(|n| n.contains("norm")).collect();
        for name in norms {
            for ty in [GgmlType::F16, GgmlType::Bf16] {
                let error = refused(tiny.clone(), |t| {
                    let values = t.values(&name).unwrap();
                    t.put(&name, &[values.len() as u64], ty, stored(ty, values.len(), &values));
                });
                tensor_type(error, &name);
            }
        }
        for (ty, len) in [(GgmlType::Q8_0, 64), (GgmlType::F16, 64), (GgmlType::F32, 32)] {
            let name = "blk.1.attn_q.bias";
            let error =
                refused(tiny.clone(), |t| t.put(name, &[len], ty, stored(ty, 32, &noise(name, len as usize, 1.0))));
            if ty == GgmlType::F32 { tensor_shape(error, name) } else { tensor_type(error, name) }
        }
    }
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
            let options = ModelOptions { kernels: KernelChoice::Only(Tier::Reference), threads: Some(2) };
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
    let options = ModelOptions { kernels: KernelChoice::Auto, threads: Some(1) };
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

#[test]
fn layers_have_their_number() {
    // Guards the tests above: they speak of two layers.
    assert_eq!(Tiny::llama().open().unwrap().decoder().layers.len(), LAYERS);
}
