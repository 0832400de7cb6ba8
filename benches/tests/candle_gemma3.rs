//! Gemma 3 against candle-transformers, on the same file.
//!
//! The oracle is candle's full-precision `gemma3` over the file's weights dequantised by candle: its quantised Gemma 3
//! gates the feed-forward block with SiLU, where the model has GELU.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::{DType, Device, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::gemma3::{Config, Model as CandleModel};
use timbre::kernels::{KernelChoice, Tier};
use timbre::model::{KvType, Model, ModelOptions};
use timbre::session::{CancelHandle, Session, SessionOptions};
use timbre::tokenizer::EncodeOptions;

/// Largest difference of a logit on the reference kernels: f32 sums in another order through 18 layers.
const LOGIT_BUDGET: f32 = 5e-4;
/// The same on the fast kernels, whose activations are rounded to 15 bits, with keys and values in f16.
const FAST_LOGIT_BUDGET: f32 = 0.05;

const PROMPTS: [&str; 4] = [
    "The capital of France is",
    "Once upon a time there was a small fox who",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "<start_of_turn>user\nWhat is the sea?<end_of_turn>\n<start_of_turn>model\n",
];

fn model_path() -> PathBuf {
    let folder = std::env::var_os("TIMBRE_TEST_MODELS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/models")), PathBuf::from);
    let path = folder.join("gemma-3-270m-Q4_K_M.gguf");
    assert!(path.is_file(), "{} is missing: `just models` fetches the test models", path.display());
    path
}

/// A GGUF tensor's name in the Hugging Face model, and whether the converter added 1 to it (norm weights).
fn hugging_face_name(name: &str) -> (String, bool) {
    let plain = |name: &str| (name.to_owned(), false);
    match name {
        "token_embd.weight" => return plain("model.embed_tokens.weight"),
        "output_norm.weight" => return ("model.norm.weight".into(), true),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("blk.").unwrap().split_once('.').unwrap();
    let (part, norm) = match part.strip_suffix(".weight").unwrap() {
        "attn_norm" => ("input_layernorm", true),
        "post_attention_norm" => ("post_attention_layernorm", true),
        "ffn_norm" => ("pre_feedforward_layernorm", true),
        "post_ffw_norm" => ("post_feedforward_layernorm", true),
        "attn_q_norm" => ("self_attn.q_norm", true),
        "attn_k_norm" => ("self_attn.k_norm", true),
        "attn_q" => ("self_attn.q_proj", false),
        "attn_k" => ("self_attn.k_proj", false),
        "attn_v" => ("self_attn.v_proj", false),
        "attn_output" => ("self_attn.o_proj", false),
        "ffn_gate" => ("mlp.gate_proj", false),
        "ffn_up" => ("mlp.up_proj", false),
        "ffn_down" => ("mlp.down_proj", false),
        other => panic!("no Hugging Face name for {other}"),
    };
    (format!("model.layers.{layer}.{part}.weight"), norm)
}

fn candle_model(device: &Device) -> CandleModel {
    let mut file = std::fs::File::open(model_path()).unwrap();
    let content = gguf_file::Content::read(&mut file).unwrap();
    let mut tensors = HashMap::new();
    for name in content.tensor_infos.keys() {
        let tensor = content.tensor(&mut file, name, device).unwrap().dequantize(device).unwrap();
        let (name, norm) = hugging_face_name(name);
        tensors.insert(name, if norm { (tensor - 1.0).unwrap() } else { tensor });
    }
    let metadata = |key: &str| &content.metadata[&format!("gemma3.{key}")];
    let number = |key: &str| metadata(key).to_u32().unwrap() as usize;
    let float = |value: &Value| f64::from(value.to_f32().unwrap());
    let config = Config {
        attention_bias: false,
        head_dim: number("attention.key_length"),
        hidden_activation: Activation::GeluPytorchTanh,
        hidden_size: number("embedding_length"),
        intermediate_size: number("feed_forward_length"),
        num_attention_heads: number("attention.head_count"),
        num_hidden_layers: number("block_count"),
        num_key_value_heads: number("attention.head_count_kv"),
        rms_norm_eps: float(metadata("attention.layer_norm_rms_epsilon")),
        rope_theta: float(metadata("rope.freq_base")),
        rope_local_base_freq: 10_000.0,
        vocab_size: tensors["model.embed_tokens.weight"].dim(0).unwrap(),
        final_logit_softcapping: None,
        attn_logit_softcapping: None,
        query_pre_attn_scalar: number("attention.key_length"),
        sliding_window: number("attention.sliding_window"),
        sliding_window_pattern: 6,
        max_position_embeddings: 128,
    };
    CandleModel::new(false, &config, VarBuilder::from_tensors(tensors, DType::F32, device)).unwrap()
}

fn argmax(logits: &[f32]) -> usize {
    (0..logits.len()).reduce(|a, b| if logits[b] > logits[a] { b } else { a }).unwrap()
}

#[test]
fn logits_agree_with_candle() {
    let device = Device::Cpu;
    let mut candle = candle_model(&device);
    let session = |kernels, kv| {
        let model =
            Model::open(model_path(), &ModelOptions { kernels, threads: Some(2), ..ModelOptions::default() }).unwrap();
        let options = SessionOptions { context: Some(128), kv: Some(kv), ..SessionOptions::default() };
        Session::new(model, &options).unwrap()
    };
    let mut exact = session(KernelChoice::Only(Tier::Reference), KvType::F32);
    let mut fast = session(KernelChoice::Auto, KvType::F16);
    let tokenizer = exact.model().tokenizer().unwrap().clone();
    for prompt in PROMPTS {
        let ids = tokenizer.encode(prompt, EncodeOptions { parse_special: true, add_bos: true }).unwrap();
        let input = Tensor::new(&ids[..], &device).unwrap().unsqueeze(0).unwrap();
        candle.clear_kv_cache();
        let theirs: Vec<f32> = candle.forward(&input, 0).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        for (session, budget) in [(&mut exact, LOGIT_BUDGET), (&mut fast, FAST_LOGIT_BUDGET)] {
            session.set_tokens(&ids);
            let ours = session.logits(&CancelHandle::default()).unwrap();
            assert_eq!(ours.len(), theirs.len());
            let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            println!("{prompt:?}: largest difference {worst:.2e} (budget {budget})");
            assert_eq!(argmax(ours), argmax(&theirs), "{prompt:?}");
            assert!(worst <= budget, "{prompt:?}: {worst}");
        }
    }
}
