//! Tiny but complete models, byte-built, to be bent into any shape before they are opened.
#![allow(dead_code)] // each test file uses a part of it

#[path = "../common/gguf_builder.rs"]
pub mod gguf_builder;
pub mod naive;
pub mod windows;

use std::sync::Arc;

use gguf_builder::GgufBuilder;
pub use gguf_builder::Value;
use timbre::gguf::{GgmlType, Gguf};
use timbre::kernels::{KernelChoice, Tier, dequantize};
use timbre::model::{Model, ModelError, ModelOptions};
use timbre::quantize::quantize_row;

pub const HIDDEN: usize = 32;
pub const INNER: usize = 64;
pub const HEADS: usize = 4;
pub const KV_HEADS: usize = 2;
pub const HEAD_DIM: usize = 16;
pub const LAYERS: usize = 2;
pub const CONTEXT: usize = 64;
/// `▁` is U+2581, SentencePiece's space.
pub const TOKENS: [&str; 12] =
    ["<unk>", "<s>", "</s>", "\u{2581}", "a", "b", "c", "d", "\u{2581}a", "ab", "cd", "\u{2581}b"];
pub const VOCAB: usize = TOKENS.len();

/// Reproducible numbers of about ±`size`, different for every name.
pub fn noise(name: &str, len: usize, size: f32) -> Vec<f32> {
    let mut state =
        name.bytes().fold(0x243f_6a88_85a3_08d3u64, |a, b| (a ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * size
    };
    (0..len).map(|_| next()).collect()
}

/// `values` in rows of `cols`, stored as `ty`.
pub fn stored(ty: GgmlType, cols: usize, values: &[f32]) -> Vec<u8> {
    let row_bytes = ty.row_bytes(cols).unwrap();
    let mut bytes = vec![0; values.len() / cols * row_bytes];
    for (row, out) in values.chunks_exact(cols).zip(bytes.chunks_exact_mut(row_bytes)) {
        quantize_row(ty, row, out).unwrap();
    }
    bytes
}

/// A model in the making.
#[derive(Clone)]
pub struct Tiny {
    pub architecture: &'static str,
    pub file: GgufBuilder,
}

impl Tiny {
    /// As a Llama file: rotated pairs, a tied head.
    pub fn llama() -> Self {
        let mut tiny = Self::common("llama");
        tiny.set("rope.dimension_count", Value::U32(HEAD_DIM as u32));
        tiny
    }

    /// As a Gemma 3 file: norms around both blocks and on q and k, every second layer local with a window of 3.
    pub fn gemma3() -> Self {
        let mut tiny = Self::common("gemma3");
        tiny.set("attention.value_length", Value::U32(HEAD_DIM as u32));
        tiny.set("attention.sliding_window", Value::U32(3));
        tiny.set("attention.sliding_window_pattern", Value::U32(2));
        for layer in 0..LAYERS {
            tiny.norm(&format!("blk.{layer}.attn_q_norm.weight"), HEAD_DIM);
            tiny.norm(&format!("blk.{layer}.attn_k_norm.weight"), HEAD_DIM);
            tiny.norm(&format!("blk.{layer}.post_attention_norm.weight"), HIDDEN);
            tiny.norm(&format!("blk.{layer}.post_ffw_norm.weight"), HIDDEN);
        }
        tiny
    }

    pub fn both() -> [Self; 2] {
        [Self::llama(), Self::gemma3()]
    }

    fn common(architecture: &'static str) -> Self {
        let file = GgufBuilder::new().entry("general.architecture", Value::str(architecture));
        let mut tiny = Self { architecture, file };
        for (key, value) in [
            ("context_length", CONTEXT),
            ("embedding_length", HIDDEN),
            ("feed_forward_length", INNER),
            ("block_count", LAYERS),
            ("attention.head_count", HEADS),
            ("attention.head_count_kv", KV_HEADS),
            ("attention.key_length", HEAD_DIM),
        ] {
            tiny.set(key, Value::U32(value as u32));
        }
        tiny.set("attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        tiny.set_global("tokenizer.ggml.model", Value::str("llama"));
        tiny.set_global("tokenizer.ggml.tokens", Value::strings(&TOKENS));
        let scores: Vec<f32> = (0..VOCAB).map(|id| id as f32 - VOCAB as f32).collect();
        tiny.set_global("tokenizer.ggml.scores", Value::f32s(&scores));
        let kinds: Vec<i32> = (0..VOCAB).map(|id| [2, 3, 3].get(id).copied().unwrap_or(1)).collect();
        tiny.set_global("tokenizer.ggml.token_type", Value::i32s(&kinds));
        for (key, id) in [("unknown", 0), ("bos", 1), ("eos", 2)] {
            tiny.set_global(&format!("tokenizer.ggml.{key}_token_id"), Value::U32(id));
        }
        tiny.matrix("token_embd.weight", GgmlType::Q8_0, VOCAB, HIDDEN);
        let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
        for layer in 0..LAYERS {
            let name = |tensor: &str| format!("blk.{layer}.{tensor}.weight");
            tiny.norm(&name("attn_norm"), HIDDEN);
            tiny.matrix(&name("attn_q"), GgmlType::Q4_0, q, HIDDEN);
            tiny.matrix(&name("attn_k"), GgmlType::Q8_0, kv, HIDDEN);
            tiny.matrix(&name("attn_v"), GgmlType::F32, kv, HIDDEN);
            tiny.matrix(&name("attn_output"), GgmlType::F16, HIDDEN, q);
            tiny.norm(&name("ffn_norm"), HIDDEN);
            tiny.matrix(&name("ffn_gate"), GgmlType::Q4_1, INNER, HIDDEN);
            tiny.matrix(&name("ffn_up"), GgmlType::Q5_0, INNER, HIDDEN);
            tiny.matrix(&name("ffn_down"), GgmlType::Iq4Nl, HIDDEN, INNER);
        }
        tiny.norm("output_norm.weight", HIDDEN);
        tiny
    }

    /// Sets a key under the architecture's prefix, in place of what it was.
    pub fn set(&mut self, key: &str, value: Value) {
        self.set_global(&format!("{}.{key}", self.architecture), value);
    }

    /// Sets a key, in place of what it was.
    pub fn set_global(&mut self, key: &str, value: Value) {
        match self.file.entries.iter_mut().find(|(known, _)| known == key.as_bytes()) {
            Some((_, old)) => *old = value,
            None => self.file.entries.push((key.as_bytes().to_vec(), value)),
        }
    }

    /// Removes a key under the architecture's prefix.
    pub fn unset(&mut self, key: &str) {
        self.unset_global(&format!("{}.{key}", self.architecture));
    }

    pub fn unset_global(&mut self, key: &str) {
        self.file.entries.retain(|(known, _)| known != key.as_bytes());
    }

    /// Adds a tensor, in place of what it was.
    pub fn put(&mut self, name: &str, dims: &[u64], ty: GgmlType, data: Vec<u8>) {
        let at = self.file.tensors.iter().position(|t| t.name == name.as_bytes());
        self.file = std::mem::take(&mut self.file).tensor(name, dims, ty as u32, data);
        if let Some(at) = at {
            self.file.tensors.swap_remove(at);
        }
    }

    /// A matrix of noise.
    pub fn matrix(&mut self, name: &str, ty: GgmlType, rows: usize, cols: usize) {
        let values = noise(name, rows * cols, 1.5 / (cols as f32).sqrt());
        self.put(name, &[cols as u64, rows as u64], ty, stored(ty, cols, &values));
    }

    /// An F32 vector of noise around 1.
    pub fn norm(&mut self, name: &str, len: usize) {
        self.vector(name, &noise(name, len, 0.5).iter().map(|v| 1.0 + v).collect::<Vec<_>>());
    }

    pub fn vector(&mut self, name: &str, values: &[f32]) {
        self.put(name, &[values.len() as u64], GgmlType::F32, stored(GgmlType::F32, values.len(), values));
    }

    pub fn tensor(&mut self, name: &str) -> &mut gguf_builder::Tensor {
        let found = self.file.tensors.iter_mut().find(|t| t.name == name.as_bytes());
        found.unwrap_or_else(|| panic!("no tensor {name}"))
    }

    pub fn remove(&mut self, name: &str) {
        self.tensor(name);
        self.file.tensors.retain(|t| t.name != name.as_bytes());
    }

    pub fn tensor_names(&self) -> Vec<String> {
        self.file.tensors.iter().map(|t| String::from_utf8(t.name.clone()).unwrap()).collect()
    }

    /// A tensor's numbers, `None` if it is not there.
    pub fn values(&self, name: &str) -> Option<Vec<f32>> {
        let tensor = self.file.tensors.iter().find(|t| t.name == name.as_bytes())?;
        let mut out = vec![0.0; tensor.dims.iter().product::<u64>() as usize];
        dequantize(GgmlType::from_u32(tensor.ty).unwrap(), &tensor.data, &mut out).unwrap();
        Some(out)
    }

    /// Opens it on the reference kernels, two threads.
    pub fn open(&self) -> Result<Arc<Model>, ModelError> {
        self.open_on(Tier::Reference)
    }

    pub fn open_on(&self, tier: Tier) -> Result<Arc<Model>, ModelError> {
        let options = ModelOptions { kernels: KernelChoice::Only(tier), threads: Some(2), ..ModelOptions::default() };
        self.open_with(&options)
    }

    pub fn open_with(&self, options: &ModelOptions) -> Result<Arc<Model>, ModelError> {
        Model::from_gguf(Gguf::from_bytes(&self.file.build())?, options)
    }
}
