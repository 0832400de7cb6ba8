//! Gemma 3 wiring (text): norms before and after each block and on each head of q and k, local and global layers with
//! rotary embeddings of their own, an embedding tied to the head and scaled by √hidden.
//!
//! Source: `modeling_gemma3.py` (transformers); the GGUF converter for names (rows are not permuted, norm weights have
//! their `1 +` folded in).

use super::ModelError;
use super::blocks::{Activation, Attention, Heads, Rope, RopeStyle, Window};
use super::decoder::{Decoder, Layer};
use super::loader::Loader;
use super::weights::LinearKind;

/// Every sixth layer is global unless the file says otherwise.
const GLOBAL_EVERY: usize = 6;
/// Base of the local layers' angles; files do not always carry it.
const LOCAL_ROPE_BASE: f32 = 10_000.0;
/// The 27B model alone scales queries by the hidden size per head instead of the head size; its layer count tells.
const LAYERS_27B: usize = 62;

const GLOBAL_ROPE: usize = 0;
const LOCAL_ROPE: usize = 1;

pub(super) fn wire(file: &Loader<'_>) -> Result<Decoder, ModelError> {
    let hidden = file.width("embedding_length")?;
    let inner = file.width("feed_forward_length")?;
    let heads = file.dim("attention.head_count")?;
    let kv_heads = file.opt_dim("attention.head_count_kv")?.unwrap_or(heads);
    let head_dim = file.opt_dim("attention.key_length")?.unwrap_or(256);
    file.check_heads(heads, kv_heads, head_dim)?;
    let value_dim = file.opt_dim("attention.value_length")?.unwrap_or(head_dim);
    file.refuse_if(value_dim != head_dim, "values of another length than keys")?;
    file.refuse_if(head_dim % 2 != 0, "heads of odd length")?;
    let eps = file.positive("attention.layer_norm_rms_epsilon", None)?;
    let window = file.opt_dim("attention.sliding_window")?;
    let pattern = file.opt_dim("attention.sliding_window_pattern")?.unwrap_or(GLOBAL_EVERY);
    let soft_cap = file.opt_f32("attn_logit_softcapping")?.filter(|&c| c > 0.0);
    let logit_soft_cap = file.opt_f32("final_logit_softcapping")?.filter(|&c| c > 0.0);
    let count = file.layers()?;
    let per_head = if count == LAYERS_27B { hidden / heads } else { head_dim };
    let scale = 1.0 / (per_head as f32).sqrt();

    let layers = (0..count)
        .map(|i| {
            let name = |tensor: &str| format!("blk.{i}.{tensor}.weight");
            let linear = |kind, rows, cols| file.layer_linear(i, kind, rows, cols, None);
            let (q_rows, kv_rows) = (heads * head_dim, kv_heads * head_dim);
            let local = window.filter(|_| (i + 1) % pattern != 0);
            Ok(Layer {
                attention_norm: file.norm(&name("attn_norm"), hidden, eps)?,
                attention: Attention {
                    q: linear(LinearKind::Q, q_rows, hidden)?,
                    k: linear(LinearKind::K, kv_rows, hidden)?,
                    v: linear(LinearKind::V, kv_rows, hidden)?,
                    o: linear(LinearKind::O, hidden, q_rows)?,
                    q_norm: file.opt_norm(&name("attn_q_norm"), head_dim, eps)?,
                    k_norm: file.opt_norm(&name("attn_k_norm"), head_dim, eps)?,
                    heads: Heads {
                        count: heads,
                        kv: kv_heads,
                        dim: head_dim,
                        scale,
                        soft_cap,
                        window: local.map_or(Window::Full, Window::Last),
                    },
                    rope: if local.is_some() { LOCAL_ROPE } else { GLOBAL_ROPE },
                },
                attention_post_norm: Some(file.norm(&name("post_attention_norm"), hidden, eps)?),
                mlp_norm: file.norm(&name("ffn_norm"), hidden, eps)?,
                mlp: file.mlp(i, hidden, inner, Activation::GeluTanh)?,
                mlp_post_norm: Some(file.norm(&name("post_ffw_norm"), hidden, eps)?),
            })
        })
        .collect::<Result<Vec<_>, ModelError>>()?;

    let global_scale = file.rope_scale()?;
    let global_base = file.positive("rope.freq_base", Some(1_000_000.0))?;
    let local_base = file.positive("rope.freq_base_swa", Some(LOCAL_ROPE_BASE))?;
    let rope = |base, scale| Rope::new(RopeStyle::Halves, head_dim, base, scale, None);

    let (embedding, head) = file.embedding_and_head(hidden)?;
    Ok(Decoder {
        hidden,
        inner,
        vocab: embedding.shape().0,
        context: file.context()?,
        embedding,
        embedding_scale: (hidden as f32).sqrt(),
        ropes: vec![rope(global_base, global_scale), rope(local_base, 1.0)],
        layers,
        norm: file.norm("output_norm.weight", hidden, eps)?,
        head,
        logit_soft_cap,
    })
}
