//! Models that lie about their wiring: every one is refused at opening with the error that names the lie.

mod model_support;

use model_support::{HEAD_DIM, HIDDEN, INNER, LAYERS, Tiny, VOCAB, Value, noise, stored};
use timbre::gguf::{GgmlType, GgufError};
use timbre::kernels::detected_tiers;
use timbre::model::{Model, ModelError};
use timbre::session::{CancelHandle, Session, SessionOptions};

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
fn layers_have_their_number() {
    // Guards the tests above: they speak of two layers.
    assert_eq!(Tiny::llama().open().unwrap().decoder().layers.len(), LAYERS);
}
