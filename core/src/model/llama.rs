//! Llama wiring: SmolLM2, Llama 2 and 3, Mistral and their kin.
//!
//! Source: `modeling_llama.py` (transformers) for the computation, the GGUF converter for names and for the row order
//! of q and k, which are permuted so that the rotary embedding turns neighbours.

use std::sync::Arc;

use crate::adapter::RowOrder;
use crate::gguf::GgufError;

use super::ModelError;
use super::blocks::{Activation, Attention, Heads, Rope, RopeStyle, Window};
use super::decoder::{Decoder, Layer};
use super::loader::Loader;
use super::weights::{LinearKind, Vector};

pub(super) fn wire(file: &Loader<'_>) -> Result<Decoder, ModelError> {
    file.refuse_if(file.gguf.metadata().opt_u32("llama.expert_count")?.unwrap_or(0) > 0, "a mixture of experts")?;
    let hidden = file.width("embedding_length")?;
    let inner = file.width("feed_forward_length")?;
    let heads = file.dim("attention.head_count")?;
    let kv_heads = file.opt_dim("attention.head_count_kv")?.unwrap_or(heads);
    let head_dim = match file.opt_dim("attention.key_length")? {
        Some(dim) => dim,
        None => hidden / heads,
    };
    file.check_heads(heads, kv_heads, head_dim)?;
    let value_dim = file.opt_dim("attention.value_length")?.unwrap_or(head_dim);
    file.refuse_if(value_dim != head_dim, "values of another length than keys")?;
    let eps = file.positive("attention.layer_norm_rms_epsilon", None)?;
    let window = file.opt_dim("attention.sliding_window")?.map_or(Window::Full, Window::Last);

    let order = |heads| RowOrder::llama_rope(heads, head_dim).map(Arc::new);
    let (Some(q_order), Some(k_order)) = (order(heads), order(kv_heads)) else {
        return Err(ModelError::Unsupported { architecture: "llama", feature: format!("heads of length {head_dim}") });
    };

    let layers = (0..file.layers()?)
        .map(|i| {
            let name = |tensor: &str| format!("blk.{i}.{tensor}.weight");
            let linear = |kind, rows, cols, order| file.layer_linear(i, kind, rows, cols, order);
            let (q_rows, kv_rows) = (heads * head_dim, kv_heads * head_dim);
            Ok(Layer {
                attention_norm: file.norm(&name("attn_norm"), hidden, eps)?,
                attention: Attention {
                    q: linear(LinearKind::Q, q_rows, hidden, Some(q_order.clone()))?,
                    k: linear(LinearKind::K, kv_rows, hidden, Some(k_order.clone()))?,
                    v: linear(LinearKind::V, kv_rows, hidden, None)?,
                    o: linear(LinearKind::O, hidden, q_rows, None)?,
                    q_norm: None,
                    k_norm: None,
                    heads: Heads {
                        count: heads,
                        kv: kv_heads,
                        dim: head_dim,
                        scale: 1.0 / (head_dim as f32).sqrt(),
                        soft_cap: None,
                        window,
                    },
                    rope: 0,
                },
                attention_post_norm: None,
                mlp_norm: file.norm(&name("ffn_norm"), hidden, eps)?,
                mlp: file.mlp(i, hidden, inner, Activation::Silu)?,
                mlp_post_norm: None,
            })
        })
        .collect::<Result<Vec<_>, ModelError>>()?;

    let (embedding, head) = file.embedding_and_head(hidden)?;
    Ok(Decoder {
        hidden,
        inner,
        vocab: embedding.shape().0,
        context: file.context()?,
        embedding,
        embedding_scale: 1.0,
        ropes: vec![rope(file, head_dim)?],
        layers,
        norm: file.norm("output_norm.weight", hidden, eps)?,
        head,
        logit_soft_cap: None,
    })
}

/// Plain or linearly scaled angles, with Llama 3's per-frequency factors where the file has them.
fn rope(file: &Loader<'_>, head_dim: usize) -> Result<Rope, ModelError> {
    let dim = file.opt_dim("rope.dimension_count")?.unwrap_or(head_dim);
    if dim > head_dim || dim % 2 != 0 {
        let expected = format!("an even number up to the head size {head_dim}");
        let key = "llama.rope.dimension_count".into();
        return Err(GgufError::BadValue { key, expected, found: dim.to_string() }.into());
    }
    let scale = file.rope_scale()?;
    let base = file.positive("rope.freq_base", Some(10_000.0))?;
    let factors: Option<Vector> = file.opt_vector("rope_freqs.weight", dim / 2)?;
    let factors = factors.as_ref().map(|v| v.get(file.gguf));
    if let Some(found) = factors.and_then(|f| f.iter().find(|f| !(f.is_finite() && **f > 0.0))) {
        let (key, expected) = ("rope_freqs.weight".into(), "finite factors above 0".into());
        return Err(GgufError::BadValue { key, expected, found: found.to_string() }.into());
    }
    Ok(Rope::new(RopeStyle::Pairs, dim, base, scale, factors))
}
